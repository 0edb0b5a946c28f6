"""A folder of JPEG or PNG cutouts, with an optional table of what is known of each."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
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
_MOST_BYTES = LARGEST**2 * 4  # no cutout needs more, so nothing larger is ever read
_MAGIC = b"\xff\xd8\xff", b"\x89PNG"
_ZTF_NAME = re.compile(r"(strkid\d+_pid\d+)_scimref")
_LABELS = ("rb", "sl", "kd", "os")
_SET_HERE = "id", "digest", "source", "night"


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
            of the archive's columns; labels also as ``rb``, ``sl``, ``kd``, ``os``. Where it has both
            ``file`` and ``id``, that is the cutout's id.
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
            If the folder or the table cannot be read, or the table speaks of none of the files.
        """
        if not path.is_dir():
            raise ReaderError(f"{path} is not a folder: give the folder that holds the pictures")
        known = _read_table(table) if table else None
        files = _files(path, table)
        if not files:
            raise ReaderError(f"{path} holds no files: check the path")
        names = _identifiers(files, path)
        if known and not any(
            known.row_of(path.name, _text(f.relative_to(path)), names[f]) >= 0 for f in files
        ):
            raise ReaderError(
                f"table {table} speaks of none of the files in {path}: its rows are named like "
                f"{next(iter(known.rows), '(none)')!r}, the files like "
                f"{_text(files[0].relative_to(path))!r} or by id like {names[files[0]]!r}"
            )
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


def _text(path: PurePath) -> str:
    """Spell a path so that it can be stored: file names need not be valid Unicode."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _identifiers(files: list[Path], folder: Path) -> dict[Path, str]:
    """Name each file by its ZTF streak or its stem; by its relative path where stems clash."""
    names, counts = {}, Counter[str]()
    for file in files:
        match = _ZTF_NAME.fullmatch(file.stem)
        names[file] = match[1] if match else _text(PurePath(file.stem))
        counts[names[file]] += 1
    return {
        file: name
        if counts[name] == 1 or _ZTF_NAME.fullmatch(file.stem)
        else _text(file.relative_to(folder))
        for file, name in names.items()
    }


def _decode(file: Path, root: Path) -> _Decoded | Quarantined:
    """Decode one file, or say why not. Never raises: one bad file must not stop a night."""
    data = b""
    try:
        if not file.resolve().is_relative_to(root):
            return Quarantined(str(file), "not an image", "a link that leads out of the folder")
        if (size := file.stat().st_size) > _MOST_BYTES:
            return Quarantined(str(file), "wrong shape", f"{size} bytes, too large for a cutout")
        data = file.read_bytes()
        if not data:
            return Quarantined(str(file), "empty", "no bytes")
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
            width, height = picture.size
            if not (SMALLEST <= width <= LARGEST and SMALLEST <= height <= LARGEST):
                detail = f"{width} x {height} px, not {SMALLEST} to {LARGEST} a side"
                return Quarantined(str(file), "wrong shape", detail)
            if max(width, height) > 2 * min(width, height):
                detail = f"{width} x {height} px is no cutout's aspect"
                return Quarantined(str(file), "wrong shape", detail)
            native = np.asarray(picture.convert("L"))
            return _Decoded(to_cutout(picture), native, hashlib.sha256(data).digest())
    except Image.DecompressionBombError as error:
        return Quarantined(str(file), "wrong shape", str(error))
    except UnidentifiedImageError:
        if data.startswith(_MAGIC):
            return Quarantined(str(file), "damaged", "the header is cut short")
        return Quarantined(str(file), "not an image", "neither JPEG nor PNG")
    except Exception as error:  # Pillow's decoders raise many kinds on damaged data
        return Quarantined(str(file), "damaged", str(error))


def _batch(
    files: list[Path],
    decoded: list[_Decoded | Quarantined],
    folder: Path,
    names: dict[Path, str],
    known: _Table | None,
    night: int | None,
    seen: dict[bytes, str],
) -> CutoutBatch:
    cutouts, native, ids, sources, nights, refused, rows = [], [], [], [], [], [], []
    for file, result in zip(files, decoded, strict=True):
        source = _text(file.relative_to(folder))
        row = known.row_of(folder.name, source, names[file]) if known else -1
        its_night = (
            night
            or (known.night_of(row) if known else None)
            or _night_in(folder.name / file.relative_to(folder))
        )
        if isinstance(result, Quarantined):
            refused.append(Quarantined(source, result.reason, result.detail, its_night))
            continue
        if (twin := seen.setdefault(result.sha256, source)) != source:
            refused.append(Quarantined(source, "duplicate", f"same file as {twin}", its_night))
            continue
        cutouts.append(result.cutout)
        native.append(result.native)
        ids.append((known.id_of(row) if known else None) or names[file])
        sources.append(source)
        nights.append(its_night)
        rows.append(row)
    columns: dict[str, np.ndarray] = {
        "id": np.array(ids, dtype=object),
        "source": np.array(sources, dtype=object),
        "night": np.array(nights, dtype=np.int32),
    }
    if known:
        columns |= known.columns(np.array(rows, dtype=int))
    pixels = np.stack(cutouts) if cutouts else np.empty((0, SIDE, SIDE), np.uint8)
    return CutoutBatch(pixels, columns, refused, native)


def _night_in(relative: Path) -> int:
    """Night that a folder on the way to a file is named by, 0 if none is."""
    nights = (part for part in relative.parts[:-1] if re.fullmatch(r"(19|20)\d{6}", part))
    return int(next(nights, 0))


@dataclass(frozen=True)
class _Table:
    """A table of metadata; ``rows`` finds the row of a file or an id."""

    frame: pd.DataFrame
    rows: dict[str, int]

    def row_of(self, folder: str, source: str, name: str) -> int:
        """Row that speaks of a file, -1 if none."""
        keys = (source, f"{folder}/{source}", name)
        return next((self.rows[key] for key in keys if key in self.rows), -1)

    def night_of(self, row: int) -> int | None:
        value = self._value("night", row)
        return None if value is None else int(value)

    def id_of(self, row: int) -> str | None:
        value = self._value("id", row)
        return None if value is None else str(value)

    def _value(self, name: str, row: int) -> Any:
        value: Any = self.frame[name].iat[row] if row >= 0 and name in self.frame else None
        return None if pd.isna(value) else value

    def columns(self, at: np.ndarray) -> dict[str, np.ndarray]:
        """Take rows ``at``; what the table does not know (or row -1) is missing."""
        columns = {}
        for name in self.frame.columns.difference(["file", *_SET_HERE]):
            schema = SCHEMA[name]
            taken = self.frame[name].reindex(at)
            known = taken.notna().to_numpy()
            dtype = object if schema.dtype == "string" else schema.dtype
            columns[name] = np.full(len(at), schema.missing, dtype=dtype)
            values = taken[known].to_numpy()
            columns[name][known] = values.astype(str) if schema.dtype == "string" else values
        return columns


def _read_table(path: Path) -> _Table:
    """Read a table of metadata and index its rows by file and id."""
    if not path.is_file():
        raise ReaderError(f"table {path} does not exist: check the path")
    try:
        match path.suffix.lower():
            case ".csv":
                table = pd.read_csv(path, dtype={"id": str, "file": str}, keep_default_na=True)
            case ".parquet":
                table = pd.read_parquet(path)
                table = table.reset_index(drop=table.index.name is None)
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
    table = table[table.columns.intersection(["file", *SCHEMA])]
    table = pd.DataFrame({name: _checked(table[name], name, path) for name in table.columns})
    twice = table.drop_duplicates()[keys[0]].dropna()
    if (twice := twice[twice.duplicated()]).size:
        raise ReaderError(f"table {path} has rows that disagree on {twice.iloc[0]!r}: keep one")
    rows: dict[str, int] = {}
    for key in reversed(keys):  # a file's name goes before an id that is spelt like it
        filled = table[key].dropna()
        rows.update(zip(filled, filled.index, strict=True))
    return _Table(table, rows)


def _checked(values: pd.Series, name: str, path: Path) -> pd.Series:
    """Bring a column to text or numbers, and refuse what is neither or makes no sense."""
    if name == "file" or SCHEMA[name].dtype == "string":
        return values.astype("string")
    try:
        if pd.api.types.is_datetime64_any_dtype(values):  # pandas would take them as nanoseconds
            raise TypeError("it holds dates")
        numbers = pd.to_numeric(values)
    except (TypeError, ValueError) as error:
        raise ReaderError(f"table {path}: column {name!r} is not numeric: {error}") from error
    known = numbers.dropna()
    if name.startswith("label_") and not known.isin((-1, 0, 1)).all():
        raise ReaderError(f"table {path}: column {name!r} must hold 1, 0, or -1 for not known")
    if name == "night" and not known[known != 0].between(19000101, 21001231).all():
        raise ReaderError(f"table {path}: column 'night' must hold YYYYMMDD, or 0 for not known")
    return numbers
