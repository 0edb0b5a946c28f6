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
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
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
_SHRINK_FIRST = "native", "cutouts"


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
    """A shard (or a column, then ``shard`` is -1) that cannot be trusted: rows ``[first, last)``."""

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
    fs, root = _locate(url)
    if fs.exists(root) and (not fs.isdir(root) or fs.ls(root)):
        if not overwrite:
            raise ArchiveError(f"{url} exists: choose another place, or overwrite it")
        _read_root(url)  # never remove what is not an archive
        fs.rm(root, recursive=True)
    attributes = {
        "format": FORMAT,
        "version": VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "shard": shard,
        "native": list(native) if native else None,
    }
    with _writing(url):
        group = zarr.open_group(os.fspath(url), mode="w", zarr_format=3, attributes=attributes)
        coordinates = [*SCHEMA, *(("native_height", "native_width") if native else ())]
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
                dimension_names=["cutout", *(f"{p}{a}" for p, a in zip(_prefix(name), "yx"))],
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
    _, attributes, _ = _read_root(url)
    dataset = xr.open_zarr(os.fspath(url), consolidated=True, chunks=None)
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
        Read one by one; a shard at most is held in memory.

    Returns
    -------
    AppendSummary

    Raises
    ------
    ArchiveError
        If there is no archive, another writer is at work, or a batch does not fit the schema.
    """
    with _writing(url):
        return _Append(url).run(batches)


def quarantine(url: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the table of refused inputs: ``source``, ``reason``, ``detail``, ``night``."""
    _read_root(url)
    group = zarr.open_group(os.fspath(url), mode="r")["quarantine"]
    assert isinstance(group, zarr.Group)
    return pd.DataFrame({name: np.asarray(group[name][:]) for name in _QUARANTINE})


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
    fs, root = _locate(url)
    _, attributes, total = _read_root(url)
    group = zarr.open_group(os.fspath(url), mode="r")
    damaged = []
    for name in (n for n in group.array_keys() if n not in _SHRINK_FIRST):
        try:
            np.asarray(group[name][:])
        except Exception as error:  # codecs raise whatever their libraries do
            damaged.append(DamagedShard(-1, 0, total, name, f"column unreadable: {error}"))
    unreadable = {d.key for d in damaged}
    bounds = shard_bounds(total, attributes["shard"])
    with progress_bar("verify", total, show=progress) as bar:
        for index, (first, last) in enumerate(bounds):
            for name in (n for n in _SHRINK_FIRST if n in group):
                key = f"{name}/c/{index}/0/0"
                why = ""
                try:
                    pixels = np.asarray(group[name][first:last])
                    if not fs.exists(f"{root}/{key}"):
                        why = "the object is missing"
                    elif name == "cutouts" and "digest" not in unreadable:
                        wrong = digests(pixels) != np.asarray(group["digest"][first:last])
                        if wrong.any():
                            why = f"{int(wrong.sum())} cutouts differ from their digests"
                except Exception as error:  # as above
                    why = f"unreadable: {error}"
                if why:
                    damaged.append(DamagedShard(index, first, last, key, why))
            bar.advance(last - first)
    return VerifyReport(total, len(bounds), damaged)


def summary(url: str | os.PathLike[str]) -> ArchiveSummary:
    """Count what an archive holds."""
    fs, root = _locate(url)
    _, attributes, total = _read_root(url)
    dataset = open_archive(url)
    runs = (
        sorted(p.rsplit("/", 1)[-1] for p in fs.ls(f"{root}/runs")) if _has_runs(fs, root) else []
    )

    def counts(name: str) -> dict[Any, int]:
        values, n = np.unique(dataset[name].values, return_counts=True)
        return {
            v.item() if hasattr(v, "item") else v: int(k) for v, k in zip(values, n, strict=True)
        }

    return ArchiveSummary(
        url=os.fspath(url),
        cutouts=total,
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
        _, self.attributes, self.committed = _read_root(url)
        committed_refused = len(quarantine(url))
        known = open_archive(url)
        self._known_ids, self._known_digests = _sorted_ids(known)
        self._listed = {
            (s, r) for s, r in quarantine(url)[["source", "reason"]].itertuples(index=False)
        }
        # without the commit record's view, so that arrays can be resized one by one
        self.group = zarr.open_group(os.fspath(url), mode="r+", use_consolidated=False)
        self._resize(self.committed)
        for name in _QUARANTINE:
            _array(self.group, f"quarantine/{name}").resize((committed_refused,))
        self.refused_from = committed_refused
        self.total = self.committed
        self.already_present = 0
        self.refused: list[Quarantined] = []
        self._new: dict[str, int] = {}
        self._new_digests: dict[int, str] = {}
        self._rows: list[dict[str, np.ndarray]] = []
        self._pending: list[tuple[np.ndarray, list[np.ndarray] | None]] = []

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
            if (old := present.get(name, self._new.get(name))) is not None:
                if name in present and old == digest:
                    self.already_present += 1
                    continue
                detail = f"id {name} is in the archive already, with other pixels"
                if name in self._new:
                    detail = f"id {name} occurs twice"
            elif (twin := self._new_digests.get(digest)) is not None:
                detail = f"same pixels as {twin}"
            else:
                self._new[name] = digest
                self._new_digests[digest] = name
                keep.append(row)
                continue
            source = str(columns["source"][row]) or name
            self.refused.append(
                Quarantined(source, "duplicate", detail, int(columns["night"][row]))
            )
        if not keep:
            return
        native = None
        if self.attributes["native"]:
            native = [self._checked_native(batch, row) for row in keep]
            columns["native_height"] = np.zeros(len(batch.cutouts), np.int16)
            columns["native_width"] = np.zeros(len(batch.cutouts), np.int16)
            for row, picture in zip(keep, native, strict=True):
                columns["native_height"][row], columns["native_width"][row] = picture.shape
        self._rows.append({name: values[keep] for name, values in columns.items()})
        self._pending.append((batch.cutouts[keep], native))

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
        return sum(len(pixels) for pixels, _ in self._pending)

    def _room(self) -> int:
        shard = self.attributes["shard"]
        return shard - self.total % shard

    def _store(self, rows: int) -> None:
        """Write the first pending rows, at most to the end of the shard."""
        pixels = np.concatenate([p for p, _ in self._pending])
        native = [n for _, ns in self._pending for n in (ns or [])]
        stop = self.total + rows
        for name in (n for n in _SHRINK_FIRST if n in self.group):
            array = _array(self.group, name)
            array.resize((stop, *array.shape[1:]))
            if name == "cutouts":
                array[self.total : stop] = pixels[:rows]
            else:
                padded = np.zeros((rows, *array.shape[1:]), np.uint8)
                for row, picture in enumerate(native[:rows]):
                    padded[row, : picture.shape[0], : picture.shape[1]] = picture
                array[self.total : stop] = padded
        self.total = stop
        rest = pixels[rows:]
        self._pending = [(rest, native[rows:] or None)] if len(rest) else []

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
        start, stop = self.refused_from, self.refused_from + len(fresh)
        if fresh:
            for name in _QUARANTINE:
                array = _array(self.group, f"quarantine/{name}")
                array.resize((stop,))
                dtype = np.int32 if name == "night" else object
                array[start:stop] = np.array([getattr(item, name) for item in fresh], dtype=dtype)
        return len(fresh)

    def _resize(self, rows: int) -> None:
        for name, array in self.group.arrays():
            if array.shape[0] != rows:
                _array(self.group, name).resize((rows, *array.shape[1:]))


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
        try:
            columns[name] = np.asarray(values).astype(dtype)
        except (TypeError, ValueError) as error:
            raise ArchiveError(f"column {name!r} does not fit {column.dtype}: {error}") from error
    return columns


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


def _prefix(name: str) -> tuple[str, str]:
    return ("native_", "native_") if name == "native" else ("", "")


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


def _read_root(url: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Read the commit record: all of it, its attributes, and the committed number of cutouts."""
    fs, root = _locate(url)
    fs.invalidate_cache()
    try:
        record = json.loads(fs.cat_file(f"{root}/zarr.json"))
        attributes = record["attributes"]
        if attributes["format"] != FORMAT:
            raise KeyError("format")
        total = record["consolidated_metadata"]["metadata"]["cutouts"]["shape"][0]
    except FileNotFoundError:
        raise ArchiveError(
            f"no archive at {url}: check the path, or make one with 'deepstreaks ingest' or "
            "'deepstreaks simulate'"
        ) from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f"{url} is not a cutout archive ({error!r})") from error
    if attributes["version"] > VERSION:
        raise ArchiveError(f"{url} was written by a newer deepstreaks_dask: update this one")
    return record, attributes, int(total)


def _commit(fs: fsspec.AbstractFileSystem, root: str, attributes: dict[str, Any]) -> None:
    """Write the commit record from the metadata of the arrays as they are now."""
    names = [
        "cutouts",
        *(["native", "native_height", "native_width"] if attributes["native"] else []),
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
    fs, root = _locate(url)
    if not is_local(fs):
        yield
        return
    fs.makedirs(root.rsplit("/", 1)[0], exist_ok=True)
    lock = FileLock(f"{root}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ArchiveError(f"{url} is being written to by another process: wait for it") from None
    try:
        yield
    finally:
        lock.release()


def _has_runs(fs: fsspec.AbstractFileSystem, root: str) -> bool:
    return bool(fs.exists(f"{root}/runs"))
