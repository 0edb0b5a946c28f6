"""What the readers of files in a folder share: find them, name them, decode them, make batches of them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, TypeVar

import numpy as np

from deepstreaks_dask.archive import SCHEMA, SIDE, CutoutBatch, Quarantined
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers import tables
from deepstreaks_dask.readers.tables import Metadata

SMALLEST, LARGEST = 16, 2048
"""Sides in pixels outside of which a picture is no cutout."""

_ZTF_NAME = re.compile(r"(strkid\d+_pid\d+)_scimref")
_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Picture:
    """One picture that became a cutout.

    Attributes
    ----------
    cutout, native : ndarray
        uint8 ``(144, 144)``, and before the resize ``(height, width)``.
    hashed : bytes
        Hash of what it came from; of pictures with equal ones the first is taken. Empty: all are.
    part : str
        Which picture of its file it is, where there are several; goes on to the id.
    where : str
        The same for the column ``source``, with all that tells how the picture was made.
    said : mapping
        Columns that the file itself gives; a table's go before them.
    row : int, optional
        Row of the table that asked for it; else that which speaks of its file.
    """

    cutout: np.ndarray
    native: np.ndarray
    hashed: bytes = b""
    part: str = ""
    where: str = ""
    said: Mapping[str, Any] = field(default_factory=dict)
    row: int | None = None


@dataclass(frozen=True)
class Refused:
    """Why a file, or the picture at ``where`` in it that ``row`` of a table asked for, became no cutout."""

    reason: str
    detail: str = ""
    where: str = ""
    row: int | None = None


class Folder:
    """The files of a folder, their names, and what a table says of them.

    Parameters
    ----------
    path : Path
        The folder, or a single file.
    table : Path, optional
        Left out of the files, should it lie among them.
    night : int, optional
        ``YYYYMMDD`` of all. Else the metadata's, else that of a folder so named, else the file's own, else 0.

    Attributes
    ----------
    metadata : Metadata or None
        What is known of the pictures.

    Raises
    ------
    ReaderError
        If there are no files.
    """

    def __init__(self, path: Path, table: Path | None = None, night: int | None = None) -> None:
        self.path = path if path.is_dir() else path.parent
        self.root = self.path.resolve()
        self.files = list_files(path, table)
        self.metadata: Metadata | None = None
        self.night = night
        if not self.files:
            raise ReaderError(f"{path} holds no files: check the path")
        self.names = _identifiers(self.files, self.path)
        self._seen: dict[bytes, str] = {}

    def match(self, metadata: Metadata, table: Path) -> None:
        """Take what ``table`` says of the files.

        Raises
        ------
        ReaderError
            If it speaks of none of them.
        """
        self.metadata = metadata
        if all(self.row_of(file) < 0 for file in self.files):
            raise ReaderError(
                f"table {table} speaks of none of the files in {self.path}: its rows are named like "
                f"{next(iter(metadata.rows), '(none)')!r}, the files like "
                f"{self.source(self.files[0])!r} or by id like {self.names[self.files[0]]!r}"
            )

    def source(self, file: Path) -> str:
        """Spell a file's place in the folder."""
        return _text(file.relative_to(self.path))

    def row_of(self, file: Path) -> int:
        """Row of the metadata that speaks of a file, -1 if none."""
        known = self.metadata
        return known.row_of(self.path.name, self.source(file), self.names[file]) if known else -1

    def batch(self, found: Iterable[tuple[Path, Picture | Refused]]) -> CutoutBatch:
        """Make a batch of decoded pictures and of refusals, each with the file that it came from."""
        pictures, ids, sources, nights, refused, rows = [], [], [], [], [], []
        for file, result in found:
            source = self.source(file) + result.where
            row = self.row_of(file) if result.row is None else result.row
            night = self.night or (self.metadata.night_of(row) if self.metadata else None)
            night = night or _night_in(self.path.name / file.relative_to(self.path))
            if isinstance(result, Refused):
                refused.append(Quarantined(source, result.reason, result.detail, night))
                continue
            if result.hashed and (twin := self._seen.setdefault(result.hashed, source)) != source:
                refused.append(Quarantined(source, "duplicate", f"same file as {twin}", night))
                continue
            known = self.metadata.id_of(row) if self.metadata else None
            pictures.append(result)
            ids.append((known or self.names[file]) + result.part)
            sources.append(source)
            nights.append(night or result.said.get("night", 0))
            rows.append(row)
        columns = _said(pictures)
        if self.metadata:
            for name, values in self.metadata.columns(np.array(rows, dtype=int)).items():
                unknown = (
                    values != values if values.dtype.kind == "f" else values == SCHEMA[name].missing
                )
                columns[name] = (
                    np.where(unknown, columns[name], values) if name in columns else values
                )
        columns |= {
            "id": np.array(ids, dtype=object),
            "source": np.array(sources, dtype=object),
            "night": np.array(nights, dtype=np.int32),
        }
        pixels = [picture.cutout for picture in pictures]
        stacked = np.stack(pixels) if pixels else np.empty((0, SIDE, SIDE), np.uint8)
        return CutoutBatch(stacked, columns, refused, [picture.native for picture in pictures])


def list_files(path: Path, table: Path | None = None) -> list[Path]:
    """Give a file, or all files of a folder but hidden ones and tables, sorted."""
    if path.is_file():
        return [path]
    return sorted(
        f
        for f in path.rglob("*")
        if f.is_file()
        and not f.name.startswith(".")
        and f.suffix.lower() not in tables.SUFFIXES
        and f != table
    )


def decode_all(
    decode: Callable[[_Task], _Result],
    tasks: Iterable[_Task],
    size: int,
    executor: Executor | None = None,
) -> Iterator[list[tuple[_Task, _Result]]]:
    """Decode in blocks of ``size``, the next one while the caller is busy with the last.

    Parameters
    ----------
    decode : callable
        What to do with a task; it can be pickled, for executors of other processes, and never raises.
    tasks : iterable
        Files, or whatever ``decode`` takes.
    size : int
        Tasks in a block; two blocks are in memory.
    executor : concurrent.futures.Executor, optional
        Where to decode; threads by default.

    Yields
    ------
    list of tuple
        Each task of a block with its result.
    """
    stream = iter(tasks)
    with ThreadPoolExecutor() as threads:
        where = executor or threads
        block = list(islice(stream, size))
        results = where.map(decode, block)
        while block:
            following = list(islice(stream, size))
            coming = where.map(decode, following)
            yield list(zip(block, results, strict=True))
            block, results = following, coming


def leads_out(file: Path, root: Path) -> bool:
    """Say whether a file is a link that leads out of the folder ``root``, itself resolved."""
    return not file.resolve().is_relative_to(root)


def _said(pictures: list[Picture]) -> dict[str, np.ndarray]:
    """Columns of what the files say of themselves."""
    columns = {}
    for name in dict.fromkeys(name for picture in pictures for name in picture.said):
        schema = SCHEMA[name]
        values = [picture.said.get(name, schema.missing) for picture in pictures]
        columns[name] = np.array(values, object if schema.dtype == "string" else schema.dtype)
    return columns


def _text(path: PurePath) -> str:
    """Spell a path so that it can be stored: file names need not be valid Unicode."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _identifiers(files: list[Path], folder: Path) -> dict[Path, str]:
    """Name each file by its ZTF streak or its stem; by its relative path where stems clash."""
    names, counts = {}, Counter[str]()
    for file in files:
        stem = file.name.removesuffix(file.suffix).removesuffix(".fits")  # of .fits.fz, .fits.gz
        match = _ZTF_NAME.fullmatch(stem)
        names[file] = match[1] if match else _text(PurePath(stem))
        counts[names[file]] += 1
    return {
        file: name
        if counts[name] == 1 or _ZTF_NAME.fullmatch(file.stem)
        else _text(file.relative_to(folder))
        for file, name in names.items()
    }


def _night_in(relative: Path) -> int:
    """Night that a folder on the way to a file is named by, 0 if none is."""
    nights = (part for part in relative.parts[:-1] if re.fullmatch(r"(19|20)\d{6}", part))
    return int(next(nights, 0))
