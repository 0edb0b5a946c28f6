"""Append cutouts to an archive in one atomic step."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from deepstreaks_dask.archive.create import begin_archive, create_column, holds_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.hashing import digests
from deepstreaks_dask.archive.ingests import keep_report
from deepstreaks_dask.archive.known_ids import KnownIds, hash_ids, hash_versions, known_ids
from deepstreaks_dask.archive.opening import locate_archive, open_to_create
from deepstreaks_dask.archive.retraction import (
    Retraction,
    retracted_mask,
    retractions,
    with_retractions,
)
from deepstreaks_dask.archive.schema import (
    NATIVE_SIZES,
    PIXEL_ARRAYS,
    QUARANTINE_COLUMNS,
    Column,
    is_free_name,
)
from deepstreaks_dask.archive.store import (
    CommitRecord,
    commit,
    name_damage,
    object_key,
    open_to_append,
    read_commit_record,
    write_lock,
)
from deepstreaks_dask.errors import ArchiveError
from deepstreaks_dask.utils.storage import is_local, storage_errors

_QUARANTINE_REASON_LENGTH = 500  # characters of why an input was refused


@dataclass(frozen=True)
class Quarantined:
    """One input that could not become a cutout, and why."""

    source: str
    reason: str
    detail: str = ""
    night: int = 0


@dataclass(frozen=True)
class Remark:
    """Something in an input that was not understood or looks wrong, though the input was read.

    Attributes
    ----------
    what : str
        What it is, in words that are the same for all such inputs, by which they are counted: "exposure time not
        understood".
    source : str
        The input: file, row of a table, alert.
    detail : str
        What stood there.
    """

    what: str
    source: str
    detail: str = ""


@dataclass
class CutoutBatch:
    """What readers and simulators hand over.

    Attributes
    ----------
    cutouts : ndarray
        uint8 ``(n, 144, 144)``, or as the archive was made for.
    columns : dict
        Any of the archive's columns, ``id`` among them, each ``(n,)``.
    quarantined : list of Quarantined
        Inputs that were refused.
    native : sequence of ndarray, optional
        The pictures before they were resized, uint8 ``(height, width)`` each.
    counts : ndarray, optional
        int ``(objects,)``: how many of the cutouts each object has, for an archive of sequences. ``columns`` are then
        of the objects, an object's cutouts follow each other in time, and those of the objects one another.
    epochs : dict
        Columns along the cutouts of sequences, ``mjd`` (days) among them, each ``(n,)``.
    remarks : list of Remark
        What was not understood of the inputs that were read.
    described : dict of str to Column
        Columns of ``columns`` that archives have not by themselves. An archive without such a column gets it; rows that
        were there before have its missing value.
    own_ids : bool
        Whether the ids are those of a survey, by which cutouts are different even where their pixels are the same; else
        the second of two cutouts with the same pixels is quarantined as a duplicate.
    """

    cutouts: np.ndarray
    columns: dict[str, np.ndarray]
    quarantined: list[Quarantined] = field(default_factory=list)
    native: Sequence[np.ndarray] | None = None
    counts: np.ndarray | None = None
    epochs: dict[str, np.ndarray] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)
    described: dict[str, Column] = field(default_factory=dict)
    own_ids: bool = False

    @property
    def rows(self) -> int:
        """Number of rows: cutouts or, of sequences, objects."""
        return len(self.cutouts if self.counts is None else self.counts)


@dataclass(frozen=True)
class AppendSummary:
    """Result of an append.

    Attributes
    ----------
    appended, already_present, replaced : int
        Rows that were added, that the archive had already, and those among the added ones that took the place of
        older ones.
    quarantined : int
        Inputs that were refused.
    reasons : dict of str to int
        Refused inputs by reason.
    total : int
        Rows of the archive, without those that were withdrawn.
    nights : dict of int to int
        Rows added by night, YYYYMMDD; 0 for a night that is not known.
    """

    appended: int
    already_present: int
    quarantined: int
    reasons: dict[str, int]
    total: int
    replaced: int = 0
    nights: dict[int, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Give the summary as JSON can hold it."""
        return asdict(self)


def append_batches(
    url: str | os.PathLike[str],
    batches: Iterable[CutoutBatch],
    *,
    create: Mapping[str, Any] | None = None,
    replace: bool = False,
    describe: Callable[[AppendSummary], Mapping[str, Any]] | None = None,
) -> AppendSummary:
    """Append cutouts, all of them in one commit.

    A cutout whose id and pixels are in the archive already is counted and skipped. One whose id is
    there with other pixels, or that repeats an id or (unless ids are a survey's own) the pixels of another cutout of the
    same append, is quarantined as a duplicate; so is one that was withdrawn. Only one writer at a time: on a local disk a
    lock sees to it, at a URL conditional writes or, where the store has none, a lease.

    Parameters
    ----------
    url : str or path
        The archive.
    batches : iterable of CutoutBatch
        Read one by one. In memory are a batch and a shard of pixels, and the columns of what is
        appended, about half a kilobyte a cutout.
    create : mapping, optional
        Arguments of :func:`~deepstreaks_dask.archive.create.create_archive`: an archive that does not exist is created
        in the same commit. If nothing is committed, none is left.
    replace : bool
        A cutout with other pixels takes the place of the one that has its id. The old row is withdrawn, keeps its
        pixels and scores, and is listed in the quarantine as ``replaced``.
    describe : callable, optional
        Returns the report that is kept with the archive, of what was done, unless nothing was and it has no
        ``remarks``.

    Returns
    -------
    AppendSummary
        Rows added, skipped and refused.

    Raises
    ------
    ArchiveError
        If there is no archive, it is damaged where rows are to be added, another writer is at work, or a
        batch does not fit the archive. Then nothing is appended.

    Notes
    -----
    An object without epochs, or whose epochs have no times, are not in their order or hold no number at all, is
    quarantined. Times may be equal.

    Whoever reads the last, unfilled shard at the moment when it is replaced by a fuller one may get a
    checksum error, never wrong pixels; reading again helps.
    """
    if create is None or holds_archive(url):
        read_commit_record(url)  # before the lock, which would make folders for a mistyped path
        with write_lock(url):
            return _Append(url, read_commit_record(url), replace, describe).run(batches)
    waiting = iter(batches)
    first = next(waiting, None)  # nothing is created for inputs that cannot be read
    if first is None:
        return AppendSummary(0, 0, 0, {}, 0)
    with write_lock(url):
        return _append_to_new(url, create, chain([first], waiting), describe)


def _append_to_new(
    url: str | os.PathLike[str],
    create: Mapping[str, Any],
    batches: Iterable[CutoutBatch],
    describe: Callable[[AppendSummary], Mapping[str, Any]] | None,
) -> AppendSummary:
    """Append to an archive that is created in the same commit; if that does not come, nothing is left."""
    fs, root = locate_archive(url)
    try:
        with storage_errors(url, "write", ArchiveError):
            record = begin_archive(url, **create, overwrite=not holds_archive(url))
        return _Append(url, record, False, describe).run(batches)
    finally:
        fs.invalidate_cache()
        with suppress(Exception):  # what cannot be removed is no archive either
            if not holds_archive(url):
                fs.rm(root, recursive=True)


class _Append:
    """One append under way: filters duplicates, fills shards, commits."""

    def __init__(
        self,
        url: str | os.PathLike[str],
        record: CommitRecord,
        replace: bool,
        describe: Callable[[AppendSummary], Mapping[str, Any]] | None,
    ) -> None:
        self.url, self.record, self.replace, self.describe = url, record, replace, describe
        self.fs, self.root = locate_archive(url)
        self.layout = self.record.layout
        self.committed = self.total = self.record.total
        self.pixels = self.record.pixels  # stored
        with name_damage(url):
            self._withdrawn_rows = retracted_mask(record.attributes, record.total)
            self._known, self._withdrawn = self._read_ids()
            # Not as the commit record has it: a killed append has left longer ones.
            self.arrays = {name: open_to_append(record, name) for name in record.arrays}
            self.table = {name: open_to_append(record, name) for name in record.quarantine}
            self._listed_rows = record.length("quarantine/source")
            listed = [
                np.asarray(self.table[f"quarantine/{name}"][: self._listed_rows])
                for name in ("source", "reason")
            ]
            self._listed = set(zip(*listed, strict=True))
            self._repair()
        described = {
            name: _column(array)
            for name, array in self.arrays.items()
            if name not in (*PIXEL_ARRAYS, *NATIVE_SIZES, *self.layout.spans)
        }
        self.epochs = {k: v for k, v in described.items() if k in self.record.epochs}
        self.columns = {k: v for k, v in described.items() if k not in self.epochs}
        self._described: list[str] = []
        self.already_present = 0
        self.refused: list[Quarantined] = []
        self._replaced: dict[int, Quarantined] = {}  # by the row that gives way
        self._new: set[str] = set()
        self._twins: dict[int, str] = {}  # digest -> the id that came first with it
        self._rows: list[dict[str, np.ndarray]] = []
        self._epochs: list[dict[str, np.ndarray]] = []
        self._taken = self.pixels  # cutouts stored, and those that wait
        self._pending: deque[np.ndarray] = deque()
        self._pending_native: list[np.ndarray] = []

    def _read_ids(self) -> tuple[KnownIds, KnownIds]:
        """Read the ids that the archive holds, and those that were withdrawn."""
        if not self.record.total:
            nothing = KnownIds(
                np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.int64)
            )
            return nothing, nothing
        rows = open_archive(self.url, cache=True, retracted=True)
        return known_ids(rows, self._withdrawn_rows)

    def _repair(self) -> None:
        """Remove what a killed append left beyond the committed rows; refuse to build on a gap."""
        for name, array in {**self.arrays, **self.table}.items():
            rows = self._listed_rows if name in self.table else self.record.length(name)
            full, begun = divmod(rows, (array.shards or array.chunks)[0])
            # A missing object reads as empty, and would be written back so.
            if begun and not self.fs.exists(f"{self.root}/{object_key(array, name, full)}"):
                raise OSError(f"{object_key(array, name, full)} is missing")
            if array.shape[0] != rows:
                array.resize((rows, *array.shape[1:]))
        if is_local(self.fs):
            root = Path(self.root)
            folders = [root / name.split("/")[0] for name in (*self.arrays, "quarantine")]
            unfinished = [p for folder in folders for p in folder.rglob("*.partial")]
            for path in (*unfinished, *root.glob(".zarr.json.*")):
                path.unlink(missing_ok=True)

    def run(self, batches: Iterable[CutoutBatch]) -> AppendSummary:
        for batch in batches:
            self._add(batch)
            with name_damage(self.url):
                while self._pending_rows() >= self._room():
                    self._store(self._room())
        with name_damage(self.url):
            if self._pending:
                self._store(self._pending_rows())
            self._store_columns(self._rows, self.committed)
            self._store_columns(self._epochs, self.record.pixels)
            self.total += sum(len(rows["id"]) for rows in self._rows)
            new = self._store_refused()
            done = self._summary()
            report = None if self.describe is None else self.describe(done)
            changed = self.total > self.committed or new or self._described
            if changed or (report and report.get("remarks")):
                self._commit(report)
        return done

    def _summary(self) -> AppendSummary:
        reasons = Counter(q.reason for q in self.refused)
        nights = Counter[int]()
        for rows in self._rows:
            nights.update(rows["night"].tolist())
        return AppendSummary(
            appended=self.total - self.committed,
            already_present=self.already_present,
            quarantined=len(self.refused),
            reasons=dict(reasons.most_common()),
            total=self.total - int(self._withdrawn_rows.sum()) - len(self._replaced),
            replaced=len(self._replaced),
            nights=dict(sorted(nights.items())),
        )

    def _commit(self, report: Mapping[str, Any] | None) -> None:
        attributes = self.record.attributes
        if self._replaced:
            gone = Retraction.now(self._replaced, "replaced by other pixels of the same id")
            attributes = with_retractions(attributes, [*retractions(attributes), gone])
        if report is not None:
            attributes = keep_report(self.fs, self.root, attributes, report)
        names = [*self.record.metadata, *self._described]
        commit(self.fs, self.root, attributes, names)

    def _add(self, batch: CutoutBatch) -> None:
        self._describe(batch.described)
        columns = self._complete(batch)
        epochs = self._typed(batch.epochs, self.epochs, len(batch.cutouts))
        unfit = self.layout.unfit(batch.cutouts, batch.counts, epochs)
        self.refused.extend(batch.quarantined)
        hashed = digests(self.layout.split(batch.cutouts, batch.counts))
        columns["digest"] = hashed
        hashes = hash_ids(columns["id"])
        present = self._known.find(hashes)
        withdrawn = self._withdrawn.find(hash_versions(hashes, hashed))
        keep = []
        for row, name in enumerate(columns["id"]):
            digest = int(hashed[row])
            if row in unfit:
                source, night = columns["source"][row] or name, int(columns["night"][row])
                self.refused.append(Quarantined(source, *unfit[row], night))
                continue
            stored, old = present.get(row, (-1, -1))
            if stored == digest:
                self.already_present += 1
                self._twins.setdefault(digest, name)
                continue
            source, night = columns["source"][row] or name, int(columns["night"][row])
            if old >= 0 and not self.replace:
                detail = f"id {name} is in the archive already, with other pixels"
            elif old < 0 and row in withdrawn:
                detail = f"id {name} was withdrawn with these pixels"
                self.refused.append(Quarantined(source, "withdrawn", detail, night))
                continue
            elif name in self._new:
                detail = f"id {name} occurs twice"
            elif not batch.own_ids and (twin := self._twins.setdefault(digest, name)) != name:
                detail = f"same pixels as {twin}"
            else:
                self._new.add(name)
                keep.append(row)
                if old >= 0:
                    detail = f"id {name}: the old pixels are row {old}, digest {stored:016x}"
                    self._replaced[old] = Quarantined(source, "replaced", detail, night)
                continue
            self.refused.append(Quarantined(source, "duplicate", detail, night))
        if not keep:
            return
        if self.record.native:
            pictures = [self._checked_native(batch, row) for row in keep]
            self._pending_native += pictures
            for name, axis in zip(NATIVE_SIZES, (0, 1), strict=True):
                columns[name] = np.zeros(len(hashed), np.int16)
                columns[name][keep] = [picture.shape[axis] for picture in pictures]
        mask, spans = self.layout.place(keep, batch.counts, batch.rows, self._taken)
        columns |= spans
        self._epochs.append({name: values[mask] for name, values in epochs.items()})
        self._pending.append(batch.cutouts if mask.all() else batch.cutouts[mask])
        self._taken += len(self._pending[-1])
        self._rows.append({name: values[keep] for name, values in columns.items()})

    def _describe(self, described: Mapping[str, Column]) -> None:
        """Add the columns that the archive has not."""
        new = {name: column for name, column in described.items() if name not in self.arrays}
        if not new:
            return
        group = open_to_create(self.url)
        for name, column in new.items():
            if not is_free_name(name):
                raise ArchiveError(f"a column cannot be named {name!r}: choose another name")
            self.arrays[name] = create_column(group, name, column, self.layout.row)
            self.arrays[name].resize((self.committed,))
        self.columns |= new
        listed = str(self.arrays["cutouts"].attrs.get("coordinates", ""))
        self.arrays["cutouts"].update_attributes({"coordinates": " ".join([listed, *new])})
        self._described += new

    def _complete(self, batch: CutoutBatch) -> dict[str, np.ndarray]:
        """Check a batch and give all of the archive's columns but the digest."""
        array = self.arrays["cutouts"]
        if batch.cutouts.dtype != array.dtype or batch.cutouts.shape[1:] != array.shape[1:]:
            sides = ", ".join(map(str, array.shape[1:]))
            raise ArchiveError(
                f"cutouts are {batch.cutouts.dtype} {batch.cutouts.shape}, but {self.url} holds "
                f"{array.dtype} (n, {sides}): choose an archive made for them"
            )
        self.layout.check_counts(batch.counts, len(batch.cutouts), self.url)
        if "id" not in batch.columns and batch.rows:
            raise ArchiveError("the batch has no column 'id': name each cutout")
        columns = self._typed(batch.columns, self.columns, batch.rows)
        if not all(columns["id"]):
            raise ArchiveError("a cutout has an empty id: give each one of its own")
        return columns

    def _typed(
        self, given: Mapping[str, np.ndarray], wanted: Mapping[str, Column], n: int
    ) -> dict[str, np.ndarray]:
        """Bring columns to their types, and complete those that are not given."""
        unknown = sorted(set(given) - set(wanted))
        if unknown:
            raise ArchiveError(f"the batch has columns that {self.url} has not: {unknown}")
        columns = {}
        for name, column in wanted.items():
            dtype = object if column.dtype == "string" else column.dtype
            values = given.get(name)
            if values is None:
                columns[name] = np.full(n, column.missing, dtype=dtype)
                continue
            if len(values) != n:
                raise ArchiveError(f"column {name!r} has {len(values)} values for {n} cutouts")
            columns[name] = _cast(name, np.asarray(values), column)
        return columns

    def _checked_native(self, batch: CutoutBatch, row: int) -> np.ndarray:
        assert self.record.native
        height, width = self.record.native
        if batch.native is None:
            raise ArchiveError("the archive keeps native pictures, but the reader gives none")
        return batch.native[row][:height, :width]

    def _pending_rows(self) -> int:
        return sum(map(len, self._pending))

    def _room(self) -> int:
        return self.record.pixels_shard - self.pixels % self.record.pixels_shard

    def _store(self, rows: int) -> None:
        """Write the first pending rows, at most to the end of the shard."""
        start, stop = self.pixels, self.pixels + rows
        array = self.arrays["cutouts"]
        array.resize((stop, *array.shape[1:]))
        array[start:stop] = self._take(rows)
        if self.record.native:
            array = self.arrays["native"]
            array.resize((stop, *array.shape[1:]))
            padded = np.zeros((rows, *array.shape[1:]), np.uint8)
            for row, picture in enumerate(self._pending_native[:rows]):
                padded[row, : picture.shape[0], : picture.shape[1]] = picture
            array[start:stop] = padded
            del self._pending_native[:rows]
        self.pixels = stop

    def _take(self, rows: int) -> np.ndarray:
        """Take the pixels of the first pending rows."""
        taken: list[np.ndarray] = []
        while rows:
            block = self._pending.popleft()
            if len(block) > rows:
                self._pending.appendleft(block[rows:])
            taken.append(block[:rows])
            rows -= len(taken[-1])
        return np.concatenate(taken)

    def _store_columns(self, blocks: list[dict[str, np.ndarray]], start: int) -> None:
        for name in blocks[-1] if blocks else ():
            values = np.concatenate([self._column_of(block, name) for block in blocks])
            array = self.arrays[name]
            array.resize((start + len(values),))
            array[start:] = values

    def _column_of(self, block: dict[str, np.ndarray], name: str) -> np.ndarray:
        """Return a column of a block of rows, which may have come before the column did."""
        if name in block:
            return block[name]
        column = self.columns[name]
        dtype = object if column.dtype == "string" else column.dtype
        return np.full(len(block["id"]), column.missing, dtype)

    def _store_refused(self) -> int:
        fresh = []
        for item in self.refused:
            key = _storable(item.source), item.reason
            if key not in self._listed:
                self._listed.add(key)
                fresh.append(item)
        fresh += self._replaced.values()
        start, stop = self._listed_rows, self._listed_rows + len(fresh)
        if fresh:
            for name in QUARANTINE_COLUMNS:
                array = self.table[f"quarantine/{name}"]
                array.resize((stop,))
                values = [getattr(item, name) for item in fresh]
                if name == "night":
                    array[start:stop] = np.array(values, np.int32)
                else:
                    array[start:stop] = np.array([_storable(v) for v in values], object)
        return len(fresh)


def _cast(name: str, values: np.ndarray, column: Column) -> np.ndarray:
    """Bring a column to its type, and refuse what would not be the same there."""
    try:
        if column.dtype == "string":
            "".join(values.tolist()).encode()
            return values.astype(object)
        with np.errstate(over="ignore"):  # what is too large for a column is infinite there
            cast = values.astype(column.dtype)
        if cast.dtype.kind in "iu" and (cast != values).any():
            raise ValueError(f"{values[cast != values][0]} is out of range")
    except (TypeError, ValueError, OverflowError) as error:
        raise ArchiveError(f"column {name!r} does not fit {column.dtype}: {error}") from error
    return cast


def _column(array: zarr.Array) -> Column:
    """Read from an array what column it is."""
    kind = "string" if array.dtype.kind in "TO" else str(array.dtype)
    said = {key: str(array.attrs.get(key, "")) for key in ("units", "long_name")}
    return Column(kind, array.fill_value, **said)


def _storable(text: str) -> str:
    """Make a text what can be stored: file names, and what is said of them, need not be valid Unicode."""
    return text[:_QUARANTINE_REASON_LENGTH].encode("utf-8", "backslashreplace").decode()
