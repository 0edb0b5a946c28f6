"""The cutout archive: xarray over one zarr v3 group, sharded, appended to atomically.

``cutouts(cutout, y, x)`` holds the pixels as the networks take them; what is known of each cutout lies
along the same dimension, a column each (:data:`SCHEMA`). Small chunks for random reads sit in large
shards, the unit of a campaign's work.

The *commit record* is the root ``zarr.json``. It carries the metadata of every array inline
(zarr's consolidated metadata), so one object, replaced in one step, says how long the archive is. A writer
stores data beyond the committed length first and the commit record last; a reader sees all of an append
or nothing of it. What a killed append left behind is beyond the committed length, and the next append
removes it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from filelock import FileLock, Timeout
from zarr.codecs import Crc32cCodec, ZstdCodec

from deepstreaks_dask.errors import ArchiveError
from deepstreaks_dask.progress import progress_bar
from deepstreaks_dask.storage import is_local, locate, write_whole

FORMAT = "deepstreaks-cutouts"
VERSION = 1
SIDE = 144
"""Pixels on a side of a cutout as the networks take it."""

CHUNK = 64
"""Cutouts in a chunk, the smallest piece that is read."""

_COLUMN_CHUNK = 65536
_QUARANTINE = ("source", "reason", "detail", "night")
_PIXELS = "cutouts", "native"
_NATIVE_DIMS = "native_y", "native_x"
_NATIVE_SIZES = "native_height", "native_width"


@dataclass(frozen=True)
class Column:
    """One column along ``cutout``: its type, what stands for "not known", its unit and meaning."""

    dtype: str
    missing: Any
    units: str
    long_name: str


_LABEL = "label of family {}: 1 or 0, -1 not known"

SCHEMA: dict[str, Column] = {
    "id": Column("string", "", "", "identifier, unique in the archive"),
    "night": Column("int32", 0, "", "night as YYYYMMDD, 0 not known"),
    "jd": Column("float64", np.nan, "d", "Julian date (UTC) of mid-exposure"),
    "filter": Column("string", "", "", "filter: g, r or i"),
    "ra": Column("float64", np.nan, "deg", "right ascension of the streak's middle, J2000"),
    "dec": Column("float64", np.nan, "deg", "declination of the streak's middle, J2000"),
    "ra1": Column("float64", np.nan, "deg", "right ascension of one end, J2000"),
    "dec1": Column("float64", np.nan, "deg", "declination of one end, J2000"),
    "ra2": Column("float64", np.nan, "deg", "right ascension of the other end, J2000"),
    "dec2": Column("float64", np.nan, "deg", "declination of the other end, J2000"),
    "length": Column("float32", np.nan, "pixel", "length of the streak"),
    "sigma": Column("float32", np.nan, "pixel", "width of the streak, standard deviation"),
    "flux": Column("float32", np.nan, "", "flux of the streak as its source gives it"),
    "mag": Column("float32", np.nan, "mag", "magnitude of the streak"),
    "snr": Column("float32", np.nan, "", "signal-to-noise ratio of the streak"),
    "source": Column("string", "", "", "file or simulation that the cutout came from"),
    "kind": Column("string", "", "", "what it is, where known: nea, satellite, dipole, ..."),
    "label_rb": Column("int8", -1, "", _LABEL.format("rb (1 real, 0 bogus)")),
    "label_sl": Column("int8", -1, "", _LABEL.format("sl (1 short, 0 long)")),
    "label_kd": Column("int8", -1, "", _LABEL.format("kd (1 keep, 0 ditch)")),
    "label_os": Column("int8", -1, "", _LABEL.format("os (1 plausible, 0 not)")),
    "digest": Column("uint64", 0, "", "BLAKE2b-64 of the pixels"),
}


@dataclass(frozen=True)
class Quarantined:
    """One input that could not become a cutout, and why."""

    source: str
    reason: str
    detail: str = ""
    night: int = 0


@dataclass
class CutoutBatch:
    """What readers and simulators hand over.

    Attributes
    ----------
    cutouts : ndarray
        uint8 ``(n, 144, 144)``.
    columns : dict
        Any of :data:`SCHEMA`'s columns, ``id`` among them, each of length ``n``.
    quarantined : list of Quarantined
        Inputs that were refused.
    native : list of ndarray, optional
        The pictures before they were resized, uint8 ``(height, width)`` each.
    """

    cutouts: np.ndarray
    columns: dict[str, np.ndarray]
    quarantined: list[Quarantined] = field(default_factory=list)
    native: list[np.ndarray] | None = None


@dataclass(frozen=True)
class AppendSummary:
    """What an append did; ``reasons`` counts the quarantined by reason."""

    appended: int
    already_present: int
    quarantined: int
    reasons: dict[str, int]
    total: int

    def to_dict(self) -> dict[str, Any]:
        """Give the summary as JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True)
class DamagedShard:
    """A shard of pixels that cannot be trusted: rows ``[first, last)``, in the object ``key``.

    ``shard`` is -1 where it is a piece of a column or of the quarantine table.
    """

    shard: int
    first: int
    last: int
    key: str
    why: str


@dataclass(frozen=True)
class VerifyReport:
    """Result of :func:`verify`."""

    cutouts: int
    shards: int
    damaged: list[DamagedShard]

    @property
    def ok(self) -> bool:
        """Say whether nothing is damaged."""
        return not self.damaged

    def to_dict(self) -> dict[str, Any]:
        """Give the report as JSON can hold it."""
        return {**asdict(self), "ok": self.ok}


@dataclass(frozen=True)
class ArchiveSummary:
    """What an archive holds: counts per night, filter, label and kind, size, runs, quarantine."""

    url: str
    cutouts: int
    shard: int
    bytes: int
    nights: dict[int, int]
    filters: dict[str, int]
    kinds: dict[str, int]
    labels: dict[str, dict[str, int]]
    runs: list[str]
    quarantined: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Give the summary as JSON can hold it."""
        return asdict(self)


def create(
    url: str | os.PathLike[str],
    *,
    shard: int = 1024,
    native: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> None:
    """Create an empty archive.

    Parameters
    ----------
    url : str or path
        Local path or any fsspec URL.
    shard : int
        Cutouts in a shard, a multiple of 64. 1024 make objects of about 20 MB.
    native : (int, int), optional
        Keep the pictures as they came too, up to this height and width in pixels.
    overwrite : bool
        Replace what is there.

    Raises
    ------
    ArchiveError
        If something is there already, or ``shard`` is no multiple of 64.
    """
    if shard < CHUNK or shard % CHUNK:
        raise ArchiveError(f"shard of {shard} cutouts: give a positive multiple of {CHUNK}")
    if native and min(native) < 1:
        raise ArchiveError(f"native pictures of {native} pixels: give two positive numbers")
    fs, root = _locate(url)
    attributes: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "shard": shard,
        "native": list(native) if native else None,
    }
    with _writing(url):
        if fs.exists(root) and (not fs.isdir(root) or fs.ls(root, detail=False)):
            if not overwrite:
                raise ArchiveError(f"{url} exists: choose another place, or overwrite it")
            _read_record(url)  # never remove what is not an archive
            fs.rm(root, recursive=True)
        group = zarr.open_group(_store(url), mode="w", zarr_format=3, attributes=attributes)
        coordinates = [*SCHEMA, *(_NATIVE_SIZES if native else ())]
        pixels: dict[str, tuple[int, ...]] = {"cutouts": (SIDE, SIDE)}
        if native:
            pixels["native"] = tuple(native)
        for name, shape in pixels.items():
            group.create_array(
                name,
                shape=(0, *shape),
                chunks=(CHUNK, *shape),
                shards=(shard, *shape),
                dtype="uint8",
                fill_value=0,
                compressors=[ZstdCodec(level=1), Crc32cCodec()],
                dimension_names=["cutout", *(("y", "x") if name == "cutouts" else _NATIVE_DIMS)],
                attributes={
                    "coordinates": " ".join(coordinates),
                    "long_name": f"{'grey' if name == 'cutouts' else 'unresized grey'} picture",
                },
            )
        for name in coordinates:
            _create_column(group, name, SCHEMA.get(name, Column("int16", 0, "pixel", name)))
        table = group.create_group("quarantine")
        for name in _QUARANTINE:
            column = Column("int32" if name == "night" else "string", None, "", name)
            _create_column(table, name, column, dimension="quarantined")
        _commit(fs, root, attributes)


def open_archive(url: str | os.PathLike[str]) -> xr.Dataset:
    """Open an archive lazily, as it was at its last commit.

    Parameters
    ----------
    url : str or path
        Local path or any fsspec URL.

    Returns
    -------
    xarray.Dataset
        ``cutouts(cutout, y, x)`` uint8 in Dask chunks of one shard, and :data:`SCHEMA`'s columns as
        coordinates. Plain :func:`xarray.open_zarr` opens it too.

    Raises
    ------
    ArchiveError
        If there is no archive.
    """
    attributes, _ = _read_root(url)
    dataset = xr.open_zarr(_store(url), consolidated=True, chunks=None)
    chunked = {name: dataset[name].chunk(cutout=attributes["shard"]) for name in dataset.data_vars}
    dataset = dataset.assign(chunked)
    dataset.attrs["url"] = os.fspath(url)
    return dataset


def shard_bounds(total: int, shard: int) -> list[tuple[int, int]]:
    """Give the rows ``[first, last)`` of every shard of ``total`` cutouts."""
    return [(first, min(first + shard, total)) for first in range(0, total, shard)]


def append(url: str | os.PathLike[str], batches: Iterable[CutoutBatch]) -> AppendSummary:
    """Append cutouts, all of them in one commit.

    A cutout whose id and pixels are in the archive already is counted and skipped. One whose id is
    there with other pixels, or that repeats an id or the pixels of another cutout of the same append, is
    quarantined as a duplicate. Only one writer at a time: on a local disk a lock sees to it, at a URL you do.

    Parameters
    ----------
    url : str or path
        The archive.
    batches : iterable of CutoutBatch
        Read one by one. In memory are a batch and a shard of pixels, and the columns of what is
        appended, about half a kilobyte a cutout.

    Returns
    -------
    AppendSummary

    Raises
    ------
    ArchiveError
        If there is no archive, another writer is at work, or a batch does not fit the schema.

    Notes
    -----
    Whoever reads the last, unfilled shard at the moment when it is replaced by a fuller one may get a
    checksum error, never wrong pixels; reading again helps.
    """
    _read_root(url)  # before the lock, which would make folders for a mistyped path
    with _writing(url):
        return _Append(url).run(batches)


def quarantine(url: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the table of refused inputs: ``source``, ``reason``, ``detail``, ``night``."""
    _read_root(url)
    group = zarr.open_group(_store(url), mode="r")
    return pd.DataFrame(
        {name: np.asarray(_array(group, f"quarantine/{name}")[:]) for name in _QUARANTINE}
    )


def verify(url: str | os.PathLike[str], *, progress: bool = False) -> VerifyReport:
    """Read every shard again and compare checksums and pixel digests.

    Parameters
    ----------
    url : str or path
        The archive.
    progress : bool
        Show a progress bar.

    Returns
    -------
    VerifyReport
        Names each damaged shard, its rows, its object and what is wrong with it.
    """
    attributes, total = _read_root(url)
    group = zarr.open_group(_store(url), mode="r")
    damaged = []
    columns = [name for name in group.array_keys() if name not in _PIXELS]
    for name in sorted([*columns, *(f"quarantine/{name}" for name in _QUARANTINE)]):
        array = _array(group, name)
        for index, (first, last) in enumerate(shard_bounds(array.shape[0], _COLUMN_CHUNK)):
            key = f"{name}/c/{index}"
            _, why = _reread(url, array, key, first, last)
            if why:
                damaged.append(DamagedShard(-1, first, last, key, why))
    bounds = shard_bounds(total, attributes["shard"])
    with progress_bar("verify", total, show=progress) as bar:
        for index, (first, last) in enumerate(bounds):
            for name in (name for name in _PIXELS if name in group):
                key = f"{name}/c/{index}/0/0"
                pixels, why = _reread(url, _array(group, name), key, first, last)
                if name == "cutouts" and not why:
                    stored, unreadable = _reread(url, _array(group, "digest"), None, first, last)
                    if not unreadable and (wrong := digests(pixels) != stored).any():
                        why = f"{int(wrong.sum())} cutouts differ from their digests"
                if why:
                    damaged.append(DamagedShard(index, first, last, key, why))
            bar.advance(last - first)
    return VerifyReport(total, len(bounds), damaged)


def summary(url: str | os.PathLike[str]) -> ArchiveSummary:
    """Count what an archive holds."""
    fs, root = _locate(url)
    attributes, _ = _read_root(url)
    dataset = open_archive(url)
    runs = sorted(path.split("/")[-3] for path in fs.glob(f"{root}/runs/*/scores/zarr.json"))

    def counts(name: str) -> dict[Any, int]:
        values, n = np.unique(dataset[name].values, return_counts=True)
        return dict(zip(values.tolist(), n.tolist(), strict=True))

    return ArchiveSummary(
        url=os.fspath(url),
        cutouts=dataset.sizes["cutout"],
        shard=attributes["shard"],
        bytes=int(fs.du(root)),
        nights=counts("night"),
        filters=counts("filter"),
        kinds=counts("kind"),
        labels={
            name.removeprefix("label_"): {
                {1: "positive", 0: "negative", -1: "unknown"}[k]: v for k, v in counts(name).items()
            }
            for name in SCHEMA
            if name.startswith("label_")
        },
        runs=runs,
        quarantined={str(k): int(v) for k, v in quarantine(url)["reason"].value_counts().items()},
    )


def digests(cutouts: np.ndarray) -> np.ndarray:
    """Hash the pixels of each cutout of ``(n, y, x)`` to uint64 (BLAKE2b)."""
    hashed = b"".join(hashlib.blake2b(c.tobytes(), digest_size=8).digest() for c in cutouts)
    return np.frombuffer(hashed, "<u8").astype(np.uint64)


class _Append:
    """One append under way: filters duplicates, fills shards, commits."""

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.fs, self.root = _locate(url)
        self.attributes, self.committed = _read_root(url)
        self._known_ids, self._known_digests = _sorted_ids(open_archive(url))
        listed = quarantine(url)
        self._listed = set(zip(listed["source"], listed["reason"], strict=True))
        self._listed_rows = len(listed)
        # Not as the commit record has it: its arrays cannot be resized one by one.
        self.group = zarr.open_group(_store(url), mode="r+", use_consolidated=False)
        self._repair()
        self.total = self.committed
        self.already_present = 0
        self.refused: list[Quarantined] = []
        self._new: set[str] = set()
        self._twins: dict[int, str] = {}  # digest -> the id that came first with it
        self._rows: list[dict[str, np.ndarray]] = []
        self._pending: deque[np.ndarray] = deque()
        self._pending_native: list[np.ndarray] = []

    def _repair(self) -> None:
        """Remove what a killed append left beyond the committed rows."""
        for name, array in self.group.arrays():
            if array.shape[0] != self.committed:
                _array(self.group, name).resize((self.committed, *array.shape[1:]))
        for name in _QUARANTINE:
            _array(self.group, f"quarantine/{name}").resize((self._listed_rows,))
        if is_local(self.fs):
            folders = [f for f in Path(self.root).iterdir() if f.is_dir() and f.name != "runs"]
            for unfinished in (p for f in folders for p in f.rglob("*.partial")):
                unfinished.unlink(missing_ok=True)

    def run(self, batches: Iterable[CutoutBatch]) -> AppendSummary:
        for batch in batches:
            self._add(batch)
            while self._pending_rows() >= self._room():
                self._store(self._room())
        if self._pending:
            self._store(self._pending_rows())
        self._store_columns()
        new = self._store_refused()
        if self.total > self.committed or new:
            _commit(self.fs, self.root, self.attributes)
        reasons = Counter(q.reason for q in self.refused)
        return AppendSummary(
            self.total - self.committed,
            self.already_present,
            len(self.refused),
            dict(reasons.most_common()),
            self.total,
        )

    def _add(self, batch: CutoutBatch) -> None:
        self.refused.extend(batch.quarantined)
        columns = _complete(batch)
        hashed = digests(batch.cutouts)
        columns["digest"] = hashed
        present = self._find(columns["id"])
        keep = []
        for row, name in enumerate(columns["id"]):
            digest = int(hashed[row])
            if present.get(name) == digest:
                self.already_present += 1
                self._twins.setdefault(digest, name)
                continue
            if name in present:
                detail = f"id {name} is in the archive already, with other pixels"
            elif name in self._new:
                detail = f"id {name} occurs twice"
            elif (twin := self._twins.setdefault(digest, name)) != name:
                detail = f"same pixels as {twin}"
            else:
                self._new.add(name)
                keep.append(row)
                continue
            source = columns["source"][row] or name
            self.refused.append(
                Quarantined(source, "duplicate", detail, int(columns["night"][row]))
            )
        if not keep:
            return
        if self.attributes["native"]:
            pictures = [self._checked_native(batch, row) for row in keep]
            self._pending_native += pictures
            for name, axis in zip(_NATIVE_SIZES, (0, 1), strict=True):
                columns[name] = np.zeros(len(hashed), np.int16)
                columns[name][keep] = [picture.shape[axis] for picture in pictures]
        self._rows.append({name: values[keep] for name, values in columns.items()})
        self._pending.append(batch.cutouts[keep])

    def _checked_native(self, batch: CutoutBatch, row: int) -> np.ndarray:
        height, width = self.attributes["native"]
        if batch.native is None:
            raise ArchiveError("the archive keeps native pictures, but the reader gives none")
        return batch.native[row][:height, :width]

    def _find(self, ids: np.ndarray) -> dict[str, int]:
        """Give the digests of those ids that the archive holds."""
        if not len(self._known_ids):
            return {}
        hashed = pd.util.hash_array(np.asarray(ids, dtype=object))
        at = np.minimum(np.searchsorted(self._known_ids, hashed), len(self._known_ids) - 1)
        there = self._known_ids[at] == hashed
        return {i: int(d) for i, d in zip(ids[there], self._known_digests[at[there]], strict=True)}

    def _pending_rows(self) -> int:
        return sum(map(len, self._pending))

    def _room(self) -> int:
        shard = self.attributes["shard"]
        return shard - self.total % shard

    def _store(self, rows: int) -> None:
        """Write the first pending rows, at most to the end of the shard."""
        start, stop = self.total, self.total + rows
        array = _array(self.group, "cutouts")
        array.resize((stop, *array.shape[1:]))
        array[start:stop] = self._take(rows)
        if self.attributes["native"]:
            array = _array(self.group, "native")
            array.resize((stop, *array.shape[1:]))
            padded = np.zeros((rows, *array.shape[1:]), np.uint8)
            for row, picture in enumerate(self._pending_native[:rows]):
                padded[row, : picture.shape[0], : picture.shape[1]] = picture
            array[start:stop] = padded
            del self._pending_native[:rows]
        self.total = stop

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

    def _store_columns(self) -> None:
        if not self._rows:
            return
        for name in self._rows[0]:
            array = _array(self.group, name)
            array.resize((self.total,))
            values = np.concatenate([rows[name] for rows in self._rows])
            array[self.committed : self.total] = values

    def _store_refused(self) -> int:
        fresh = []
        for item in self.refused:
            if (item.source, item.reason) not in self._listed:
                self._listed.add((item.source, item.reason))
                fresh.append(item)
        start, stop = self._listed_rows, self._listed_rows + len(fresh)
        if fresh:
            for name in _QUARANTINE:
                array = _array(self.group, f"quarantine/{name}")
                array.resize((stop,))
                dtype = np.int32 if name == "night" else object
                array[start:stop] = np.array([getattr(item, name) for item in fresh], dtype=dtype)
        return len(fresh)


def _complete(batch: CutoutBatch) -> dict[str, np.ndarray]:
    """Check a batch and give all of the schema's columns but the digest."""
    n = len(batch.cutouts)
    if batch.cutouts.dtype != np.uint8 or batch.cutouts.shape[1:] != (SIDE, SIDE):
        raise ArchiveError(
            f"cutouts are {batch.cutouts.dtype} {batch.cutouts.shape}: give uint8 (n, {SIDE}, {SIDE})"
        )
    unknown = sorted(set(batch.columns) - set(SCHEMA))
    if unknown or ("id" not in batch.columns and n):
        raise ArchiveError(
            f"the batch has unknown columns {unknown}"
            if unknown
            else "the batch has no column 'id'"
        )
    columns = {}
    for name, column in SCHEMA.items():
        dtype = object if column.dtype == "string" else column.dtype
        values = batch.columns.get(name)
        if values is None:
            columns[name] = np.full(n, column.missing, dtype=dtype)
            continue
        if len(values) != n:
            raise ArchiveError(f"column {name!r} has {len(values)} values for {n} cutouts")
        columns[name] = _cast(name, np.asarray(values), column)
    if not all(columns["id"]):
        raise ArchiveError("a cutout has an empty id: give each one of its own")
    return columns


def _cast(name: str, values: np.ndarray, column: Column) -> np.ndarray:
    """Bring a column to its type, and refuse what would not be the same there."""
    try:
        if column.dtype == "string":
            "".join(values.tolist()).encode()
            return values.astype(object)
        cast = values.astype(column.dtype)
        if cast.dtype.kind in "iu" and (cast != values).any():
            raise ValueError(f"{values[cast != values][0]} is out of range")
    except (TypeError, ValueError, OverflowError) as error:
        raise ArchiveError(f"column {name!r} does not fit {column.dtype}: {error}") from error
    return cast


def _sorted_ids(dataset: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all ids, sorted, and the digests beside them: 16 bytes a cutout, not a Python string."""
    n = dataset.sizes["cutout"]
    blocks = [slice(k, k + _COLUMN_CHUNK) for k in range(0, n, _COLUMN_CHUNK)]
    if not blocks:
        return np.empty(0, np.uint64), np.empty(0, np.uint64)
    ids = dataset["id"]
    hashed = np.concatenate(
        [pd.util.hash_array(np.asarray(ids.isel(cutout=b).values, dtype=object)) for b in blocks]
    )
    order = np.argsort(hashed, kind="stable")
    return hashed[order], dataset["digest"].values[order]


def _create_column(
    group: zarr.Group, name: str, column: Column, *, dimension: str = "cutout"
) -> None:
    missing = column.missing
    if missing is None:
        missing = "" if column.dtype == "string" else 0
    group.create_array(
        name,
        shape=(0,),
        chunks=(_COLUMN_CHUNK,),
        dtype=column.dtype,
        fill_value=missing,
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        dimension_names=[dimension],
        attributes={
            k: v for k, v in (("long_name", column.long_name), ("units", column.units)) if v
        },
    )


def _array(group: zarr.Group, path: str) -> zarr.Array:
    array = group[path]
    assert isinstance(array, zarr.Array)
    return array


def _locate(url: str | os.PathLike[str]) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        return locate(url)
    except (ImportError, ValueError) as error:
        raise ArchiveError(f"cannot reach {url}: {error}") from error


def _store(url: str | os.PathLike[str]) -> str:
    """Where zarr finds the archive: a plain path for a local one, since only its own store is atomic."""
    fs, root = _locate(url)
    return root if is_local(fs) else os.fspath(url)


def _reread(
    url: str | os.PathLike[str], array: zarr.Array, key: str | None, first: int, last: int
) -> tuple[np.ndarray, str]:
    """Read rows and say what is wrong with them, if anything; ``key`` is the object they are in."""
    fs, root = _locate(url)
    try:
        if key and not fs.exists(f"{root}/{key}"):
            return np.empty(0), "the object is missing"
        if key and not fs.size(f"{root}/{key}"):
            return np.empty(0), "the object is empty"
        return np.asarray(array[first:last]), ""
    except Exception as error:  # codecs and stores raise whatever their libraries do
        return np.empty(0), f"unreadable: {error}"


def _read_record(url: str | os.PathLike[str]) -> dict[str, Any]:
    fs, root = _locate(url)
    fs.invalidate_cache()
    try:
        record = json.loads(fs.cat_file(f"{root}/zarr.json"))
        if record["attributes"]["format"] != FORMAT:
            raise KeyError("format")
    except FileNotFoundError:
        raise ArchiveError(
            f"no archive at {url}: check the path, or make one with 'deepstreaks ingest' or "
            "'deepstreaks simulate'"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f"{url} is not a cutout archive ({error!r})") from error
    except Exception as error:  # each protocol's library has its own
        raise ArchiveError(f"cannot read {url}: {error}") from error
    if record["attributes"]["version"] > VERSION:
        raise ArchiveError(f"{url} was written by a newer deepstreaks_dask: update this one")
    return record


def _read_root(url: str | os.PathLike[str]) -> tuple[dict[str, Any], int]:
    """Read the commit record: its attributes, and the committed number of cutouts."""
    record = _read_record(url)
    try:
        total = record["consolidated_metadata"]["metadata"]["cutouts"]["shape"][0]
    except (KeyError, TypeError):
        raise ArchiveError(f"{url} was never finished: create it again, overwriting") from None
    return record["attributes"], int(total)


def _commit(fs: fsspec.AbstractFileSystem, root: str, attributes: dict[str, Any]) -> None:
    """Write the commit record from the metadata of the arrays as they are now."""
    names = [
        "cutouts",
        *(("native", *_NATIVE_SIZES) if attributes["native"] else ()),
    ]
    names += [*SCHEMA, "quarantine", *(f"quarantine/{name}" for name in _QUARANTINE)]
    metadata = {name: json.loads(fs.cat_file(f"{root}/{name}/zarr.json")) for name in sorted(names)}
    record = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": attributes,
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": metadata,
        },
    }
    write_whole(fs, f"{root}/zarr.json", json.dumps(record, indent=1).encode())


@contextmanager
def _writing(url: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other writers out, and write empty chunks too, so that a missing object is a damaged one."""
    fs, root = _locate(url)
    with ExitStack() as stack:
        if is_local(fs):
            try:
                Path(root).parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(f"{root}.lock", timeout=0))
            except Timeout:
                raise ArchiveError(
                    f"{url} is being written to by another process: wait for it"
                ) from None
            except OSError as error:
                raise ArchiveError(f"cannot write to {url}: {error}") from error
        stack.enter_context(zarr.config.set({"array.write_empty_chunks": True}))
        yield
