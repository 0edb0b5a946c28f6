"""What the readers of files in a folder share: find them, name them, decode them, make batches of them."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from dask.system import CPU_COUNT
from PIL import Image

from deepstreaks_dask.archive.append import CutoutBatch, Quarantined, Remark
from deepstreaks_dask.archive.schema import CUTOUT_SIZE, OPTIONAL_COLUMNS, SCHEMA, Column
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers import tables
from deepstreaks_dask.readers.folder_labels import check_folders, labels_of
from deepstreaks_dask.readers.matching import Place, match_files
from deepstreaks_dask.readers.options import DEFAULTS, ReadOptions
from deepstreaks_dask.readers.quantities import is_night
from deepstreaks_dask.readers.tables import Metadata

SMALLEST, LARGEST = 16, 2048
"""Sides in pixels outside of which a picture is no cutout."""

_BLOCKS_AHEAD = 3  # blocks: a caller that stops to store a shard finds the next ones done
_ZTF_NAME = re.compile(r"(strkid\d+_pid\d+)_scimref")
_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Picture:
    """One picture that became a cutout.

    Attributes
    ----------
    cutout : ndarray
        uint8 ``(144, 144)``.
    native : ndarray or PIL.Image.Image
        The same before the resize, uint8 ``(height, width)``; a Pillow picture is made an array only where an
        archive asks for it.
    part : str
        Which picture of its file it is, where there are several; goes on to the id.
    where : str
        The same for the column ``source``, with all that tells how the picture was made.
    said : mapping
        Columns that the file itself gives; a table's go before them.
    row : int, optional
        Row of the table that asked for it; else that which speaks of its file.
    remarks : tuple of (str, str)
        What was not understood or was changed, and the detail.
    """

    cutout: np.ndarray
    native: np.ndarray | Image.Image
    part: str = ""
    where: str = ""
    said: Mapping[str, Any] = field(default_factory=dict)
    row: int | None = None
    remarks: tuple[tuple[str, str], ...] = ()


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
    options : ReadOptions, optional
        ``table``: left out of the files, should it lie among them. ``night``: of all; else the metadata's, else that of
        a folder so named, else the file's own, else 0. ``labels_from_folders`` and ``words``: labels, which go behind
        the metadata's.

    Attributes
    ----------
    metadata : Metadata or None
        What is known of the pictures.

    Raises
    ------
    ReaderError
        If there are no files.
    """

    def __init__(self, path: Path, options: ReadOptions = DEFAULTS) -> None:
        self.path = path if path.is_dir() else path.parent
        self.root = self.path.resolve() if path.is_dir() else path.resolve().parent
        named = self.path.name not in ("", "..")
        self.name = self.path.name if named else self.root.name
        self._prefix = len(str(self.path / "x")) - 1
        self.options = options
        self.files = need_files(path, options.table)
        self.metadata: Metadata | None = None
        self.night = options.night
        self.names = _identifiers(self.files, self.source)
        self._nights: dict[Path, int] = {}
        self._rows: dict[str, int] = {}
        self._remarks: list[Remark] = []
        self._labels: dict[Path, dict[str, int]] = {}
        if options.labels_from_folders:
            around = {file.parent: self._folders(file) for file in self.files}
            check_folders(around.values(), options.words, str(path))
            self._labels = {at: labels_of(names, options.words) for at, names in around.items()}

    def match(self, metadata: Metadata, table: Path, *, several_rows: bool = False) -> None:
        """Take what ``table`` says of the files.

        Parameters
        ----------
        metadata : Metadata
            That was read.
        table : Path
            The file it came from.
        several_rows : bool
            Whether a file may have several rows, of which ``metadata`` finds the first.

        Raises
        ------
        ReaderError
            If it speaks of none of them.
        """
        self.metadata = metadata
        named = {
            row: name
            for name, row in metadata.rows.items()
            if "file" in metadata.frame and metadata.frame["file"].iat[row] is not pd.NA
        }
        places = [
            Place(
                source := self.source(file),
                f"{self.name}/{source}",
                f"{self.root}/{source}",
                self.names[file],
            )
            for file in self.files
        ]
        self._rows, ambiguous = match_files(places, metadata.rows, named)
        why = {metadata.rows[name]: f"{name} fits several files" for name in ambiguous}
        self._remarks += metadata.remarks
        if not several_rows:
            self._remarks += metadata.unmatched({*self._rows.values()}, why)
        if not self._rows:
            raise ReaderError(
                f"table {table} speaks of none of the files in {self.path}: its rows are named like "
                f"{next(iter(metadata.rows), '(none)')!r}, the files like "
                f"{self.source(self.files[0])!r} or by id like {self.names[self.files[0]]!r}"
            )

    def take(self, metadata: Metadata, rows: Mapping[str, int]) -> None:
        """Take what is known of files whose rows are known too.

        Parameters
        ----------
        metadata : Metadata
            Of the files.
        rows : mapping of str to int
            Row by the file's ``source``.
        """
        self.metadata, self._rows = metadata, dict(rows)
        self._remarks += metadata.remarks

    def source(self, file: Path) -> str:
        """Spell a file's place in the folder."""
        return spelt(str(file)[self._prefix :])

    def row_of(self, file: Path) -> int:
        """Row of the metadata that speaks of a file, -1 if none."""
        return self._rows.get(self.source(file), -1)

    def batch(self, found: Iterable[tuple[Path, Picture | Refused]]) -> CutoutBatch:
        """Make a batch of decoded pictures and of refusals, each with the file that it came from."""
        pictures, ids, sources, nights, refused, rows, said = [], [], [], [], [], [], []
        for file, result in found:
            source = self.source(file) + result.where
            row = self.row_of(file) if result.row is None else result.row
            night = self.night or (self.metadata.night_of(row) if self.metadata else None)
            night = night or self._night_of(file.parent)
            if isinstance(result, Refused):
                refused.append(Quarantined(source, result.reason, result.detail, night))
                continue
            self._remarks += [Remark(what, source, detail) for what, detail in result.remarks]
            night = night or result.said.get("night", 0)
            if not night:
                self._remarks.append(Remark("no night known", source))
            known = self.metadata.id_of(row) if self.metadata else None
            if self.options.labels_from_folders and not self._labels[file.parent]:
                detail = "/".join(self._folders(file)[-1:])
                self._remarks.append(Remark("folder stands for no label", source, detail))
            said.append({**result.said, **self._labels.get(file.parent, {})})
            pictures.append(result)
            ids.append((known or self.names[file]) + result.part)
            sources.append(source)
            nights.append(night)
            rows.append(row)
        columns = said_columns(said)
        if self.metadata:
            columns = self.metadata.over(columns, np.array(rows, dtype=int))
        columns |= {
            "id": np.array(ids, dtype=object),
            "source": np.array(sources, dtype=object),
            "night": np.array(nights, dtype=np.int32),
        }
        remarks, self._remarks = self._remarks, []
        extra = {**OPTIONAL_COLUMNS, **(self.metadata.extra if self.metadata else {})}
        return make_batch(pictures, columns, refused, remarks=remarks, described=extra)

    def _folders(self, file: Path) -> tuple[str, ...]:
        """Names of the folders around a file, from the one that was given inwards."""
        return (self.name, *file.parent.relative_to(self.path).parts)

    def _night_of(self, folder: Path) -> int:
        """Night that a folder, or one that it lies in, is named by; 0 if none is."""
        if folder not in self._nights:
            parts = (self.name, *folder.relative_to(self.path).parts)
            days = (re.sub(r"^(\d{4})-(\d\d)-(\d\d)$", r"\1\2\3", part) for part in parts)
            self._nights[folder] = int(next((day for day in days if is_night(day)), 0))
        return self._nights[folder]


def make_batch(
    pictures: list[Picture],
    columns: dict[str, np.ndarray],
    refused: list[Quarantined],
    *,
    remarks: Sequence[Remark] = (),
    described: Mapping[str, Column] | None = None,
) -> CutoutBatch:
    """Put pictures, their columns and what was refused together.

    Parameters
    ----------
    pictures : sequence of Picture
        What was decoded.
    columns : mapping
        Of the archive's schema, each ``(picture,)``.
    refused : sequence of Quarantined
        What was not.
    remarks : sequence of Remark
        What was not understood of the pictures.
    described : mapping of str to Column, optional
        Columns that an archive has not by itself, those that are not in ``columns`` among them.

    Returns
    -------
    CutoutBatch
        ``cutouts(n, y, x)`` uint8.
    """
    pixels = [picture.cutout for picture in pictures]
    stacked = np.stack(pixels) if pixels else np.empty((0, CUTOUT_SIZE, CUTOUT_SIZE), np.uint8)
    return CutoutBatch(
        stacked,
        columns,
        refused,
        _Natives(pictures),
        remarks=list(remarks),
        described={name: c for name, c in (described or {}).items() if name in columns},
    )


class _Natives(Sequence[np.ndarray]):
    """Native pictures, each made an array when it is looked at."""

    def __init__(self, pictures: list[Picture]) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, row: Any) -> Any:
        return np.asarray(self._pictures[row].native)


def list_files(
    path: Path, table: Path | None = None, skip: tuple[str, ...] = tables.SUFFIXES
) -> list[Path]:
    """Give a file, or all files of a folder but hidden ones and tables, sorted.

    Parameters
    ----------
    path : Path
        File or folder.
    table : Path, optional
        A file that is no cutout.
    skip : tuple of str
        Ends of names of files in a folder that are tables, in small letters.

    Returns
    -------
    list of Path
        Sorted; it may be empty.

    Raises
    ------
    ReaderError
        If a sub-folder cannot be read.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        return []
    found, folders = [], [os.fspath(path)]
    try:
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif (
                        entry.is_file()
                        and not entry.name.startswith(".")
                        and not entry.name.lower().endswith(skip)
                    ):
                        found.append(entry.path)
    except OSError as error:
        raise ReaderError(f"{path} cannot be read to its end: {error}") from error
    return [file for file in map(Path, sorted(found)) if file != table]


def need_files(path: Path, table: Path | None = None) -> list[Path]:
    """Give what :func:`list_files` gives.

    Parameters
    ----------
    path : Path
        File or folder.
    table : Path, optional
        A file that is no cutout.

    Returns
    -------
    list of Path
        Not empty.

    Raises
    ------
    ReaderError
        If there are none, or a sub-folder cannot be read.
    """
    if files := list_files(path, table):
        return files
    raise ReaderError(f"{path} holds no files: check the path")


def decode_all(
    decode: Callable[[_Task], _Result],
    tasks: Iterable[_Task],
    size: int,
    executor: Executor | None = None,
    *,
    together: int = 1,
) -> Iterator[list[tuple[_Task, _Result]]]:
    """Decode in blocks of ``size``, the next ones while the caller is busy with the last.

    Parameters
    ----------
    decode : callable
        What to do with a task; it can be pickled, for executors of other processes, and never raises.
    tasks : iterable
        Files, or whatever ``decode`` takes.
    size : int
        How many tasks a block has; four blocks are in memory.
    executor : concurrent.futures.Executor, optional
        Where to decode; threads by default.
    together : int
        Tasks that are handed to the executor as one, where a single one takes hardly longer than handing it over.

    Yields
    ------
    list of tuple
        Each task of a block with its result.
    """
    stream = iter(tasks)
    work = partial(_each, decode, quiet=executor is not None)
    # Decoders hold Python's lock for a part of their time: more of them than cores only wait for it.
    with ThreadPoolExecutor(CPU_COUNT) as threads:
        where = executor or threads
        under_way: deque[tuple[list[_Task], Iterator[list[_Result]]]] = deque()

        def begin() -> None:
            if block := list(islice(stream, size)):
                parts = [block[k : k + together] for k in range(0, len(block), together)]
                under_way.append((block, where.map(work, parts)))

        for _ in range(_BLOCKS_AHEAD):
            begin()
        while under_way:
            block, results = under_way.popleft()
            decoded = list(zip(block, chain.from_iterable(results), strict=True))
            begin()
            yield decoded


def _each(decode: Callable[[_Task], _Result], tasks: list[_Task], *, quiet: bool) -> list[_Result]:
    """Decode a part; ``quiet`` where the caller's filter of warnings does not reach, in another process."""
    with warnings.catch_warnings() if quiet else nullcontext():
        if quiet:
            warnings.simplefilter("ignore")
        return [decode(task) for task in tasks]


def leads_out(file: Path, root: Path) -> bool:
    """Say whether a file is a link that leads out of the folder ``root``, itself resolved.

    Parameters
    ----------
    file : Path
        That was found.
    root : Path
        Folder that was given, resolved.

    Returns
    -------
    bool
        True if so.
    """
    return file.is_symlink() and not file.resolve().is_relative_to(root)


def said_columns(
    said: Sequence[Mapping[str, Any]], extra: Mapping[str, Column] = OPTIONAL_COLUMNS
) -> dict[str, np.ndarray]:
    """Make columns of what files say of themselves.

    Parameters
    ----------
    said : sequence of mapping
        Values by column, of each file.
    extra : mapping of str to Column
        Columns that archives have not by themselves.

    Returns
    -------
    dict of str to ndarray
        Columns, each ``(file,)``.
    """
    columns = {}
    for name in dict.fromkeys(name for one in said for name in one):
        schema = {**OPTIONAL_COLUMNS, **extra, **SCHEMA}[name]
        values = [one.get(name, schema.missing) for one in said]
        columns[name] = np.array(values, object if schema.dtype == "string" else schema.dtype)
    return columns


def spelt(path: str) -> str:
    """Spell a path so that it can be stored: file names need not be valid Unicode."""
    path = path.replace(os.sep, "/")
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "backslashreplace")


def _identifiers(files: list[Path], source: Callable[[Path], str]) -> dict[Path, str]:
    """Name each file by its ZTF streak or its stem; by its relative path where stems clash."""
    names, streaks, counts = {}, set(), Counter[str]()
    for file in files:
        stem = re.sub(r"\.(fits|fit|fts)$", "", file.stem)  # of .fits.fz, .fits.gz
        if match := _ZTF_NAME.fullmatch(stem):
            streaks.add(file)
        names[file] = match[1] if match else spelt(stem)
        counts[names[file]] += 1
    return {
        file: name if counts[name] == 1 or file in streaks else source(file)
        for file, name in names.items()
    }
