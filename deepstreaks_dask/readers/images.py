"""A folder of JPEG or PNG cutouts, with an optional table of what is known of each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.table import Table
from PIL import Image, UnidentifiedImageError

from deepstreaks_dask.archive import SCHEMA, SIDE, CutoutBatch, Quarantined
from deepstreaks_dask.errors import ReaderError

SUFFIXES = (".jpg", ".jpeg", ".png")
SMALLEST, LARGEST = 16, 2048
"""Sides in pixels outside of which a picture is no cutout."""

_BATCH = 512
_ZTF_NAME = re.compile(r"(strkid\d+_pid\d+)(_scimref)?")
_LABELS = ("rb", "sl", "kd", "os")
_SET_HERE = ("id", "digest", "source")


def to_cutout(picture: Image.Image) -> np.ndarray:
    """Make a picture what the networks take: grey, 144 x 144, 0 to 255.

    Parameters
    ----------
    picture : PIL.Image.Image
        Any mode and size.

    Returns
    -------
    ndarray
        uint8 ``(144, 144)``; byte for byte what Pillow's grey conversion and bilinear resize give,
        as in DeepStreaks (Duev et al. 2019, arXiv:1904.05920).
    """
    grey = picture.convert("L")
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class _Decoded:
    cutout: np.ndarray
    native: np.ndarray
    sha256: bytes


class ImageFolder:
    """Reader ``images``: see :meth:`read`."""

    name = "images"

    def sniff(self, path: Path) -> bool:
        """Say whether ``path`` is a folder that holds pictures somewhere."""
        return path.is_dir() and any(f.suffix.lower() in SUFFIXES for f in path.rglob("*"))

    def count(self, path: Path) -> int:
        """Give the number of files, pictures or not."""
        return len(_files(path, None))

    def read(
        self,
        path: Path,
        *,
        table: Path | None = None,
        night: int | None = None,
        executor: Executor | None = None,
    ) -> Iterator[CutoutBatch]:
        """Read a folder and its sub-folders in the order of their names.

        Parameters
        ----------
        path : Path
            The folder. Links that lead out of it are refused.
        table : Path, optional
            CSV, Parquet or ECSV with a column ``file`` (relative to the folder) or ``id`` and any
            of the archive's columns; labels also as ``rb``, ``sl``, ``kd``, ``os``.
        night : int, optional
            ``YYYYMMDD`` of all cutouts. Else the table's, else that of a folder so named, else 0.
        executor : concurrent.futures.Executor, optional
            Where to decode; threads by default, since Pillow decodes outside Python's lock.

        Yields
        ------
        CutoutBatch
            Up to 512 cutouts. Files that are damaged, empty, no image, of a wrong shape or equal to
            another are in ``quarantined``.

        Raises
        ------
        ReaderError
            If the folder or the table cannot be read.
        """
        if not path.is_dir():
            raise ReaderError(f"{path} is not a folder: give the folder that holds the pictures")
        known = _read_table(table) if table else None
        files = _files(path, table)
        if not files:
            raise ReaderError(f"{path} holds no files: check the path")
        names = _identifiers(files, path)
        root = path.resolve()
        seen: dict[bytes, str] = {}
        with ThreadPoolExecutor() as threads:
            stream = iter(files)
            while block := list(islice(stream, _BATCH)):
                decoded = (executor or threads).map(_decode, block, [root] * len(block))
                yield _batch(block, list(decoded), path, names, known, night, seen)


READER = ImageFolder()


def _files(folder: Path, table: Path | None) -> list[Path]:
    """All files but hidden ones and tables, sorted."""
    tables = {".csv", ".parquet", ".ecsv"}
    return sorted(
        f
        for f in folder.rglob("*")
        if f.is_file()
        and not f.name.startswith(".")
        and f.suffix.lower() not in tables
        and f != table
    )


def _identifiers(files: list[Path], folder: Path) -> dict[Path, str]:
    """Name each file by its ZTF streak or its stem; by its relative path where stems clash."""
    names, counts = {}, dict[str, int]()
    for file in files:
        match = _ZTF_NAME.match(file.stem)
        names[file] = match[1] if match else file.stem
        counts[names[file]] = counts.get(names[file], 0) + 1
    return {
        file: name
        if counts[name] == 1 or _ZTF_NAME.match(file.stem)
        else file.relative_to(folder).with_suffix("").as_posix()
        for file, name in names.items()
    }


def _decode(file: Path, root: Path) -> _Decoded | Quarantined:
    """Decode one file, or say why not. Never raises: one bad file must not stop a night."""
    try:
        if not file.resolve().is_relative_to(root):
            return Quarantined(str(file), "not an image", "a link that leads out of the folder")
        data = file.read_bytes()
        if not data:
            return Quarantined(str(file), "empty", "no bytes")
        with Image.open(file, formats=("JPEG", "PNG")) as picture:
            width, height = picture.size
            if not (SMALLEST <= width <= LARGEST and SMALLEST <= height <= LARGEST):
                detail = f"{width} x {height} px, not {SMALLEST} to {LARGEST} a side"
                return Quarantined(str(file), "wrong shape", detail)
            if max(width, height) > 2 * min(width, height):
                detail = f"{width} x {height} px is no cutout's aspect"
                return Quarantined(str(file), "wrong shape", detail)
            native = np.asarray(picture.convert("L"))
            return _Decoded(to_cutout(picture), native, hashlib.sha256(data).digest())
    except UnidentifiedImageError:
        return Quarantined(str(file), "not an image", "neither JPEG nor PNG")
    except Exception as error:  # Pillow's decoders raise many kinds on damaged data
        return Quarantined(str(file), "damaged", str(error))


def _batch(
    files: list[Path],
    decoded: list[_Decoded | Quarantined],
    folder: Path,
    names: dict[Path, str],
    known: pd.DataFrame | None,
    night: int | None,
    seen: dict[bytes, str],
) -> CutoutBatch:
    cutouts, native, ids, sources, nights, refused, rows = [], [], [], [], [], [], []
    for file, result in zip(files, decoded, strict=True):
        source = file.relative_to(folder).as_posix()
        row = _row_of(known, source, names[file])
        its_night = night or _night_of(known, row, file.relative_to(folder))
        if isinstance(result, Quarantined):
            refused.append(Quarantined(source, result.reason, result.detail, its_night))
            continue
        if (twin := seen.setdefault(result.sha256, source)) != source:
            refused.append(Quarantined(source, "duplicate", f"same file as {twin}", its_night))
            continue
        cutouts.append(result.cutout)
        native.append(result.native)
        ids.append(names[file])
        sources.append(source)
        nights.append(its_night)
        rows.append(row)
    columns: dict[str, np.ndarray] = {
        "id": np.array(ids, dtype=object),
        "source": np.array(sources, dtype=object),
        "night": np.array(nights, dtype=np.int32),
    }
    if known is not None:
        at = np.array(rows, dtype=int)
        for name in known.columns:
            if name in SCHEMA and name not in (*_SET_HERE, "night"):
                columns[name] = _pick(known[name], at, SCHEMA[name].missing)
    pixels = np.stack(cutouts) if cutouts else np.empty((0, SIDE, SIDE), np.uint8)
    return CutoutBatch(pixels, columns, refused, native)


def _pick(values: pd.Series, at: np.ndarray, missing: Any) -> np.ndarray:
    """Take rows ``at`` of a column; ``missing`` where the table has no row (-1) or no value."""
    if not len(values):
        return np.full(len(at), missing)
    picked = values.to_numpy(dtype=object)[at]
    return np.array(
        [missing if a < 0 or pd.isna(v) else v for a, v in zip(at, picked, strict=True)],
        dtype=object if missing == "" else None,
    )


def _row_of(known: pd.DataFrame | None, source: str, name: str) -> int:
    """Row of the table that speaks of a file, -1 if none."""
    if known is None:
        return -1
    for key in (source, name):
        if (row := known.attrs["rows"].get(key)) is not None:
            return int(row)
    return -1


def _night_of(known: pd.DataFrame | None, row: int, relative: Path) -> int:
    if (
        known is not None
        and row >= 0
        and "night" in known
        and not pd.isna(known["night"].iloc[row])
    ):
        return int(known["night"].iloc[row])
    for part in relative.parts[:-1]:
        if re.fullmatch(r"(19|20)\d{6}", part):
            return int(part)
    return 0


def _read_table(path: Path) -> pd.DataFrame:
    """Read a table of metadata and index its rows by file and id."""
    if not path.is_file():
        raise ReaderError(f"table {path} does not exist: check the path")
    try:
        match path.suffix.lower():
            case ".csv":
                table = pd.read_csv(path, dtype={"id": str, "file": str}, keep_default_na=True)
            case ".parquet":
                table = pd.read_parquet(path)
            case ".ecsv":
                table = Table.read(path, format="ascii.ecsv").to_pandas()
            case other:
                raise ReaderError(f"table {path} ends in {other!r}: give CSV, Parquet or ECSV")
    except ReaderError:
        raise
    except Exception as error:  # each format's library has its own
        raise ReaderError(f"table {path} cannot be read: {error}") from error
    table = table.rename(columns={label: f"label_{label}" for label in _LABELS})
    keys = [key for key in ("file", "id") if key in table]
    if not keys:
        raise ReaderError(f"table {path} has neither a column 'file' nor 'id': add one")
    for name in table.columns.intersection(list(SCHEMA)):
        _check_column(table[name], name, path)
    table.attrs["rows"] = {
        str(value): row for key in reversed(keys) for row, value in enumerate(table[key])
    }
    return table


def _check_column(values: pd.Series, name: str, path: Path) -> None:
    if SCHEMA[name].dtype == "string":
        return
    try:
        numbers = pd.to_numeric(values)
    except (TypeError, ValueError) as error:
        raise ReaderError(f"table {path}: column {name!r} is not numeric: {error}") from error
    if name.startswith("label_") and not set(numbers.dropna().unique()) <= {-1, 0, 1}:
        raise ReaderError(f"table {path}: column {name!r} must hold 1, 0, or -1 for not known")
