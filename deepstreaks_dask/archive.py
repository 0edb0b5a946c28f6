"""The cutout archive: xarray over one zarr v3 group, sharded, appended to atomically.

``cutouts(cutout, y, x)`` holds the pixels as the networks take them; what is known of each cutout lies
along the same dimension, a column each (:data:`SCHEMA`). An archive may hold other cutouts, such as the
triplets of alerts, ``cutouts(cutout, y, x, plane)``, and columns of its own. Small chunks for random reads sit
in large shards, the unit of a campaign's work.

An archive of *sequences* has an object a row. ``cutouts(epoch, y, x)`` then holds the stamps of all objects one after
the other, the columns along ``epoch`` lie beside them, and ``offset(object)`` and ``epochs(object)`` say which are whose:
the contiguous ragged array of the CF conventions (section 9.3.3), without padding. A shard, the unit of a campaign's
work, is a number of whole objects; the pixels' own shards are so many epochs, whosever they are.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from deepstreaks_dask.errors import ArchiveError
from deepstreaks_dask.progress import progress_bar
from deepstreaks_dask.storage import is_local, locate, write_whole

FORMAT = "deepstreaks-cutouts"
VERSION = 1
SIDE = 144
"""Pixels on a side of a cutout as the networks take it."""

CHUNK = 64
"""Cutouts in a chunk, the smallest piece that is read."""

EPOCHS_A_SHARD = 16384
"""Stamps in a shard of pixels of an archive of sequences, about 29 MB where they are 21 x 21 floats."""

EPOCHS_A_CHUNK = 2048
"""Stamps in a chunk of an archive of sequences, 4 MB: small as they are, more of them are read at a time."""

_COLUMN_CHUNK = 65536
_HASHED_AT_ONCE = 2047  # bytes; from 2048 on hashlib lets other threads go first
_QUARANTINE = ("source", "reason", "detail", "night")
_PIXELS = "cutouts", "native"
_GROUPS = "quarantine", "runs"
_ROWS = "cutout", "object"
_DIMS = "y", "x", "plane"
_NATIVE_DIMS = "native_y", "native_x"
_NATIVE_SIZES = "native_height", "native_width"
_PIXEL_TYPES = "uint8", "uint16", "int16", "float32"
_LONGEST = 500  # characters of why an input was refused


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

SPANS: dict[str, Column] = {
    "offset": Column("int64", 0, "", "first epoch of the object"),
    "epochs": Column("int32", 0, "", "number of epochs of the object"),
}
"""What an archive of sequences says of each object beside :data:`SCHEMA`: which epochs are its own."""

EPOCHS: dict[str, Column] = {
    "mjd": Column("float64", np.nan, "d", "modified Julian date (UTC) of mid-exposure"),
    "band": Column("string", "", "", "filter of the exposure"),
    "zero_point": Column("float32", np.nan, "mag", "magnitude of 1 ADU in the exposure"),
    "fwhm": Column("float32", np.nan, "pixel", "full width at half maximum of the PSF"),
    "sky": Column("float32", np.nan, "adu", "sky background a pixel"),
    "exposure": Column("float32", np.nan, "s", "exposure time"),
    "gain": Column("float32", np.nan, "electron/adu", "gain"),
    "read_noise": Column("float32", np.nan, "electron", "read noise a pixel, standard deviation"),
}
"""Columns along ``epoch`` that sequences of images usually have."""


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
    """

    cutouts: np.ndarray
    columns: dict[str, np.ndarray]
    quarantined: list[Quarantined] = field(default_factory=list)
    native: Sequence[np.ndarray] | None = None
    counts: np.ndarray | None = None
    epochs: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of rows: cutouts or, of sequences, objects."""
        return len(self.cutouts if self.counts is None else self.counts)


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

    Of pixels and columns along ``epoch`` these are epochs. ``shard`` is -1 where it is a piece of a column or of
    the quarantine table.
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
    """What an archive holds: counts per night, filter, label and kind, its size in bytes, runs, quarantine.

    ``objects`` is 0 where there are no sequences; where there are, the counts are of objects.
    """

    url: str
    cutouts: int
    objects: int
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
    shape: tuple[int, ...] = (SIDE, SIDE),
    dtype: str = "uint8",
    columns: Mapping[str, Column] | None = None,
    epochs: Mapping[str, Column] | None = None,
    overwrite: bool = False,
) -> None:
    """Create an empty archive.

    Parameters
    ----------
    url : str or path
        Local path or any fsspec URL.
    shard : int
        Cutouts, or objects with sequences, in a shard, a multiple of 64. 1024 cutouts take about 20 MB.
    native : (int, int), optional
        Keep the pictures as they came too, up to this height and width in pixels.
    shape : tuple of int
        Height and width of a cutout in pixels and, where it has several, the number of planes.
    dtype : str
        Type of a pixel. What an archive of floats does not know is NaN.
    columns : mapping of str to Column, optional
        Columns that this archive has beside :data:`SCHEMA`'s.
    epochs : mapping of str to Column, optional
        Columns along ``epoch``, such as :data:`EPOCHS`: the archive is one of sequences.
    overwrite : bool
        Replace the archive that is there.

    Raises
    ------
    ArchiveError
        If something is there already that is not to be replaced or no archive, ``shard`` is no multiple of
        64, or there can be no such cutouts or columns.
    """
    if shard < CHUNK or shard % CHUNK:
        raise ArchiveError(f"shard of {shard} cutouts: give a positive multiple of {CHUNK}")
    if native and min(native) < 1:
        raise ArchiveError(f"native pictures of {native} pixels: give two positive numbers")
    if len(shape) not in (2, 3) or min(shape) < 1 or dtype not in _PIXEL_TYPES:
        raise ArchiveError(
            f"cutouts of shape {shape} and type {dtype}: give height, width and, where there are "
            f"several, planes, and one of {', '.join(_PIXEL_TYPES)}"
        )
    if native and epochs is not None:
        raise ArchiveError("an archive of sequences keeps no native pictures")
    if epochs is not None and "mjd" not in epochs:
        raise ArchiveError("an archive of sequences has a column 'mjd' along its epochs: give it")
    taken = {*SCHEMA, *_PIXELS, *_NATIVE_SIZES, *_NATIVE_DIMS, *_DIMS, *_GROUPS}
    taken |= {*SPANS, *_ROWS, "epoch"}
    for name in (*(columns or {}), *(epochs or {})):
        if not name.isidentifier() or name in taken:
            raise ArchiveError(f"a column cannot be named {name!r}: choose another name")
        taken.add(name)
    schema = {**SCHEMA, **(columns or {}), **(SPANS if epochs is not None else {})}
    row, piece = ("cutout", "cutout") if epochs is None else ("object", "epoch")
    pixels_shard = shard if epochs is None else EPOCHS_A_SHARD
    chunk = CHUNK if epochs is None else min(EPOCHS_A_CHUNK, EPOCHS_A_SHARD)
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
            record = _read_record(url)  # never remove what is not an archive
            # Were this killed half-way, what is left must still be known for one, and for a broken one.
            record.pop("consolidated_metadata", None)
            write_whole(fs, f"{root}/zarr.json", json.dumps(record).encode())
            for path in fs.ls(root, detail=False):
                if not path.endswith("/zarr.json"):
                    fs.rm(path, recursive=True)
        group = zarr.open_group(_store(url), mode="w", zarr_format=3, attributes=attributes)
        if native:
            schema |= {name: Column("int16", 0, "pixel", name) for name in _NATIVE_SIZES}
        pixels = [("cutouts", tuple(shape), dtype, _DIMS[: len(shape)], "cutout")]
        if native:
            pixels.append(("native", tuple(native), "uint8", _NATIVE_DIMS, "unresized cutout"))
        for name, sides, kind, dimensions, long_name in pixels:
            group.create_array(
                name,
                shape=(0, *sides),
                chunks=(chunk, *sides),
                shards=(pixels_shard, *sides),
                dtype=kind,
                fill_value=0,
                compressors=[_codec(kind), Crc32cCodec()],
                dimension_names=[piece, *dimensions],
                attributes={
                    "coordinates": " ".join([*schema, *(epochs or {})]),
                    "long_name": long_name,
                },
            )
        for name, column in schema.items():
            _create_column(group, name, column, dimension=row)
        for name, column in (epochs or {}).items():
            _create_column(group, name, column, dimension="epoch", chunk=EPOCHS_A_SHARD)
        table = group.create_group("quarantine")
        for name in _QUARANTINE:
            column = Column("int32" if name == "night" else "string", None, "", name)
            _create_column(table, name, column, dimension="quarantined")
        names = [name for name, *_ in pixels]
        names += [
            *schema,
            *(epochs or {}),
            "quarantine",
            *(f"quarantine/{name}" for name in _QUARANTINE),
        ]
        _commit(fs, root, attributes, names)


def open_archive(url: str | os.PathLike[str]) -> xr.Dataset:
    """Open an archive lazily, as it was at its last commit.

    Parameters
    ----------
    url : str or path
        Local path or any fsspec URL.

    Returns
    -------
    xarray.Dataset
        ``cutouts(cutout, y, x)`` uint8, or ``(cutout, y, x, plane)``, in Dask chunks of one shard, and
        the columns as coordinates. Of sequences ``cutouts(epoch, y, x)``, with columns along ``epoch`` and along
        ``object``, ``offset`` and ``epochs`` among these. Plain :func:`xarray.open_zarr` opens it too.

    Raises
    ------
    ArchiveError
        If there is no archive.
    """
    record = _read_root(url)
    dataset = xr.open_zarr(_store(url), consolidated=True, chunks=None)
    chunks = {"epoch" if record.sequences else "cutout": record.pixels_shard}
    dataset = dataset.assign({k: dataset[k].variable.chunk(chunks) for k in dataset.data_vars})
    dataset.attrs["url"] = os.fspath(url)
    return dataset


def shard_bounds(total: int, shard: int) -> list[tuple[int, int]]:
    """Give the rows ``[first, last)`` of every shard of ``total`` cutouts.

    Parameters
    ----------
    total, shard : int
        Rows of the archive, and of a shard.

    Returns
    -------
    list of (int, int)
        The last shard may be shorter.
    """
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
        If there is no archive, it is damaged where rows are to be added, another writer is at work, or a
        batch does not fit the archive. Then nothing is appended.

    Notes
    -----
    An object without epochs, or whose epochs have no times, are not in their order or hold no number at all, is
    quarantined. Times may be equal.

    Whoever reads the last, unfilled shard at the moment when it is replaced by a fuller one may get a
    checksum error, never wrong pixels; reading again helps.
    """
    _read_root(url)  # before the lock, which would make folders for a mistyped path
    with _writing(url):
        return _Append(url).run(batches)


def quarantine(url: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the table of refused inputs, a row each: ``source, reason, detail, night``."""
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
    record = _read_root(url)
    group = zarr.open_group(_store(url), mode="r")
    damaged = []
    columns = [name for name in group.array_keys() if name not in _PIXELS]
    for name in sorted([*columns, *(f"quarantine/{name}" for name in _QUARANTINE)]):
        array = _array(group, name)
        for index, (first, last) in enumerate(shard_bounds(array.shape[0], array.chunks[0])):
            key = _key(array, name, index)
            _, why = _reread(url, array, key, first, last)
            if why:
                damaged.append(DamagedShard(-1, first, last, key, why))
    lost = [(d.first, d.last) for d in damaged if d.key.startswith("digest/")]
    known_spans = not any(d.key.startswith(("offset/", "epochs/")) for d in damaged)
    objects = _Objects(group) if record.sequences and known_spans and not lost else None
    bounds = shard_bounds(record.pixels, record.pixels_shard)
    with progress_bar("verify", record.pixels, show=progress) as bar:
        for index, (first, last) in enumerate(bounds):
            for name in (name for name in _PIXELS if name in group):
                array = _array(group, name)
                key = _key(array, name, index)
                pixels, why = _reread(url, array, key, first, last)
                known = all(last <= a or first >= b for a, b in lost)
                if record.sequences:
                    wrong = (
                        objects.differing(first, last, None if why else pixels) if objects else 0
                    )
                elif name == "cutouts" and known and not why:
                    differs = digests(pixels) != np.asarray(_array(group, "digest")[first:last])
                    wrong = int(differs.sum())
                else:
                    wrong = 0
                if wrong:
                    why = why or f"{wrong} {_named(record)} differ from their digests"
                if why:
                    damaged.append(DamagedShard(index, first, last, key, why))
            bar.advance(last - first)
    return VerifyReport(record.total, len(bounds), damaged)


class _Objects:
    """Compares objects with their digests, one shard of pixels after the other: an object may lie in several."""

    def __init__(self, group: zarr.Group) -> None:
        counts = np.asarray(_array(group, "epochs")[:], np.int64)
        self.starts = np.asarray(_array(group, "offset")[:])
        self.ends = self.starts + counts
        self.digests = np.asarray(_array(group, "digest")[:])
        self._hasher: Any = None

    def differing(self, first: int, last: int, pixels: np.ndarray | None) -> int:
        """Give how many of the objects that end in ``[first, last)`` differ; of no pixels none can be told."""
        begin = int(np.searchsorted(self.ends, first, "right"))
        wrong = 0
        for row in range(begin, int(np.searchsorted(self.starts, last))):
            start, end = int(self.starts[row]), int(self.ends[row])
            if start >= first:
                self._hasher = hashlib.blake2b(digest_size=8)
            if pixels is None:
                self._hasher = None
            elif self._hasher is not None:
                self._hasher.update(pixels[max(start - first, 0) : end - first].tobytes())
                if end <= last:
                    found = int.from_bytes(self._hasher.digest(), "little")
                    wrong += found != int(self.digests[row])
        return wrong


def summary(url: str | os.PathLike[str]) -> ArchiveSummary:
    """Count what an archive holds."""
    fs, root = _locate(url)
    record = _read_root(url)
    dataset = open_archive(url)
    runs = sorted(path.split("/")[-3] for path in fs.glob(f"{root}/runs/*/scores/zarr.json"))

    def counts(name: str) -> dict[Any, int]:
        values, n = np.unique(dataset[name].values, return_counts=True)
        return dict(zip(values.tolist(), n.tolist(), strict=True))

    return ArchiveSummary(
        url=os.fspath(url),
        cutouts=record.pixels,
        objects=record.total if record.sequences else 0,
        shard=record.shard,
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


def digests(cutouts: Iterable[np.ndarray]) -> np.ndarray:
    """Hash the pixels of each cutout of ``(n, …)``, or the stamps of each object, to uint64 (BLAKE2b)."""
    return np.array([_digest(cutout) for cutout in cutouts], np.uint64)


def _digest(pixels: np.ndarray) -> int:
    """Hash piece by piece, each too small for `hashlib` to let go of Python's lock.

    To get the lock back from threads that decode takes far longer than to hash a cutout.
    """
    hashed, data = hashlib.blake2b(digest_size=8), memoryview(pixels.tobytes())
    for first in range(0, len(data), _HASHED_AT_ONCE):
        hashed.update(data[first : first + _HASHED_AT_ONCE])
    return int.from_bytes(hashed.digest(), "little")


class _Append:
    """One append under way: filters duplicates, fills shards, commits."""

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.url = url
        self.fs, self.root = _locate(url)
        self.record = _read_root(url)
        self.committed = self.total = self.record.total
        self.pixels = self.record.pixels  # stored
        with _naming_damage(url):
            self._known_ids, self._known_digests = _sorted_ids(open_archive(url))
            listed = quarantine(url)
            # Not as the commit record has it: its arrays cannot be resized one by one.
            self.group = zarr.open_group(_store(url), mode="r+", use_consolidated=False)
            self.arrays = {name: _array(self.group, name) for name in self.record.arrays}
            self._listed = set(zip(listed["source"], listed["reason"], strict=True))
            self._listed_rows = len(listed)
            self._repair()
        described = {
            name: _column(array)
            for name, array in self.arrays.items()
            if name not in (*_PIXELS, *_NATIVE_SIZES, *(SPANS if self.record.sequences else ()))
        }
        self.epochs = {k: v for k, v in described.items() if k in self.record.epochs}
        self.columns = {k: v for k, v in described.items() if k not in self.epochs}
        self.already_present = 0
        self.refused: list[Quarantined] = []
        self._new: set[str] = set()
        self._twins: dict[int, str] = {}  # digest -> the id that came first with it
        self._rows: list[dict[str, np.ndarray]] = []
        self._epochs: list[dict[str, np.ndarray]] = []
        self._taken = self.pixels  # cutouts stored, and those that wait
        self._pending: deque[np.ndarray] = deque()
        self._pending_native: list[np.ndarray] = []

    def _repair(self) -> None:
        """Remove what a killed append left beyond the committed rows; refuse to build on a gap."""
        table = {name: _array(self.group, name) for name in self.record.quarantine}
        for name, array in {**self.arrays, **table}.items():
            rows = self._listed_rows if name in table else self.record.length(name)
            full, begun = divmod(rows, (array.shards or array.chunks)[0])
            # A missing object reads as empty, and would be written back so.
            if begun and not self.fs.exists(f"{self.root}/{_key(array, name, full)}"):
                raise OSError(f"{_key(array, name, full)} is missing")
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
            with _naming_damage(self.url):
                while self._pending_rows() >= self._room():
                    self._store(self._room())
        with _naming_damage(self.url):
            if self._pending:
                self._store(self._pending_rows())
            self._store_columns(self._rows, self.committed)
            self._store_columns(self._epochs, self.record.pixels)
            self.total += sum(len(rows["id"]) for rows in self._rows)
            new = self._store_refused()
            if self.total > self.committed or new:
                _commit(self.fs, self.root, self.record.attributes, self.record.metadata)
        reasons = Counter(q.reason for q in self.refused)
        return AppendSummary(
            self.total - self.committed,
            self.already_present,
            len(self.refused),
            dict(reasons.most_common()),
            self.total,
        )

    def _add(self, batch: CutoutBatch) -> None:
        columns = self._complete(batch)
        epochs, unfit = self._complete_epochs(batch)
        self.refused.extend(batch.quarantined)
        objects: Any = batch.cutouts
        if batch.counts is not None:
            objects = np.split(batch.cutouts, np.cumsum(batch.counts)[:-1]) if batch.rows else ()
        hashed = digests(objects)
        columns["digest"] = hashed
        present = self._find(columns["id"])
        keep = []
        for row, name in enumerate(columns["id"]):
            digest = int(hashed[row])
            if row in unfit:
                source, night = columns["source"][row] or name, int(columns["night"][row])
                self.refused.append(Quarantined(source, *unfit[row], night))
                continue
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
        if self.record.native:
            pictures = [self._checked_native(batch, row) for row in keep]
            self._pending_native += pictures
            for name, axis in zip(_NATIVE_SIZES, (0, 1), strict=True):
                columns[name] = np.zeros(len(hashed), np.int16)
                columns[name][keep] = [picture.shape[axis] for picture in pictures]
        if batch.counts is None:
            every = len(keep) == len(hashed)
            self._pending.append(batch.cutouts if every else batch.cutouts[keep])
        else:
            counts = np.zeros_like(batch.counts)
            counts[keep] = batch.counts[keep]
            columns["epochs"] = counts.astype(np.int32)
            columns["offset"] = self._taken + np.cumsum(counts, dtype=np.int64) - counts
            theirs = np.repeat(counts > 0, batch.counts)
            self._epochs.append({name: values[theirs] for name, values in epochs.items()})
            self._pending.append(batch.cutouts[theirs])
        self._taken += len(self._pending[-1])
        self._rows.append({name: values[keep] for name, values in columns.items()})

    def _complete_epochs(
        self, batch: CutoutBatch
    ) -> tuple[dict[str, np.ndarray], dict[int, tuple[str, str]]]:
        """Check the epochs of sequences: give their columns, and which objects do not fit, and why."""
        if batch.counts is None:
            return {}, {}
        columns = self._typed(batch.epochs, self.epochs, len(batch.cutouts))
        unfit = {}
        ends = np.cumsum(batch.counts)
        for row, (count, end) in enumerate(zip(batch.counts, ends, strict=True)):
            times = columns["mjd"][end - count : end]
            if not count:
                unfit[row] = "no epochs", "a sequence needs one at least"
            elif not np.isfinite(times).all():
                unfit[row] = "no time", f"{int((~np.isfinite(times)).sum())} epochs have no mjd"
            elif (np.diff(times) < 0).any():
                unfit[row] = "unsorted times", "the epochs are not in the order of their times"
            elif not np.isfinite(batch.cutouts[end - count : end]).any():
                unfit[row] = "blank", "no stamp holds a number"
        return columns, unfit

    def _complete(self, batch: CutoutBatch) -> dict[str, np.ndarray]:
        """Check a batch and give all of the archive's columns but the digest."""
        array = self.arrays["cutouts"]
        if batch.cutouts.dtype != array.dtype or batch.cutouts.shape[1:] != array.shape[1:]:
            sides = ", ".join(map(str, array.shape[1:]))
            raise ArchiveError(
                f"cutouts are {batch.cutouts.dtype} {batch.cutouts.shape}, but {self.url} holds "
                f"{array.dtype} (n, {sides}): choose an archive made for them"
            )
        if (batch.counts is not None) != self.record.sequences:
            holds = "sequences of objects" if self.record.sequences else "single cutouts"
            raise ArchiveError(f"{self.url} holds {holds}: choose an archive made for these")
        counts = batch.counts
        if counts is not None and (min(counts, default=0) < 0 or sum(counts) != len(batch.cutouts)):
            raise ArchiveError(
                f"the batch counts {sum(counts)} epochs, but has {len(batch.cutouts)} cutouts"
            )
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
        for name in blocks[0] if blocks else ():
            values = np.concatenate([block[name] for block in blocks])
            array = self.arrays[name]
            array.resize((start + len(values),))
            array[start:] = values

    def _store_refused(self) -> int:
        fresh = []
        for item in self.refused:
            key = _storable(item.source), item.reason
            if key not in self._listed:
                self._listed.add(key)
                fresh.append(item)
        start, stop = self._listed_rows, self._listed_rows + len(fresh)
        if fresh:
            for name in _QUARANTINE:
                array = _array(self.group, f"quarantine/{name}")
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


def _sorted_ids(dataset: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all ids, sorted, and the digests beside them: 16 bytes a cutout, not a Python string."""
    ids = dataset["id"]
    (row,), n = ids.dims, ids.size
    blocks = [slice(k, k + _COLUMN_CHUNK) for k in range(0, n, _COLUMN_CHUNK)]
    if not blocks:
        return np.empty(0, np.uint64), np.empty(0, np.uint64)
    hashed = np.concatenate(
        [pd.util.hash_array(np.asarray(ids.isel({row: b}).values, dtype=object)) for b in blocks]
    )
    order = np.argsort(hashed, kind="stable")
    return hashed[order], dataset["digest"].values[order]


def _codec(dtype: str) -> ZstdCodec | BloscCodec:
    """Give the codec of pixels, as ``benchmarks/reading.py`` chose it."""
    if dtype == "uint8":  # half of a byte of sky is noise, whatever is done
        return ZstdCodec(level=1)
    # counts leave most bits of a float alike: shuffled together they vanish
    width = np.dtype(dtype).itemsize
    return BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=width)


def _create_column(
    group: zarr.Group,
    name: str,
    column: Column,
    *,
    dimension: str = "cutout",
    chunk: int = _COLUMN_CHUNK,
) -> None:
    missing = column.missing
    if missing is None:
        missing = "" if column.dtype == "string" else 0
    group.create_array(
        name,
        shape=(0,),
        chunks=(chunk,),
        dtype=column.dtype,
        fill_value=missing,
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        dimension_names=[dimension],
        attributes={
            k: v for k, v in (("long_name", column.long_name), ("units", column.units)) if v
        },
    )


def _column(array: zarr.Array) -> Column:
    """Read from an array what column it is."""
    kind = "string" if array.dtype.kind in "TO" else str(array.dtype)
    said = {key: str(array.attrs.get(key, "")) for key in ("units", "long_name")}
    return Column(kind, array.fill_value, **said)


def _named(record: _Root) -> str:
    return "objects" if record.sequences else "cutouts"


def _storable(text: str) -> str:
    """Make a text what can be stored: file names, and what is said of them, need not be valid Unicode."""
    return text[:_LONGEST].encode("utf-8", "backslashreplace").decode()


def _key(array: zarr.Array, name: str, index: int) -> str:
    """Name the object that holds a shard, or a column's chunk."""
    return "/".join([name, "c", str(index), *["0"] * (array.ndim - 1)])


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
    url: str | os.PathLike[str], array: zarr.Array, key: str, first: int, last: int
) -> tuple[np.ndarray, str]:
    """Read rows and say what is wrong with them, if anything; ``key`` is the object they are in."""
    fs, root = _locate(url)
    try:
        if not fs.exists(f"{root}/{key}"):
            return np.empty(0), "the object is missing"
        if not fs.size(f"{root}/{key}"):
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
        newer = record["attributes"]["version"] > VERSION
    except FileNotFoundError:
        raise ArchiveError(
            f"no archive at {url}: check the path, or make one with 'deepstreaks ingest' or "
            "'deepstreaks simulate'"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f"{url} is not a cutout archive ({error!r})") from error
    except Exception as error:  # each protocol's library has its own
        raise ArchiveError(f"cannot read {url}: {error}") from error
    if newer:
        raise ArchiveError(f"{url} was written by a newer deepstreaks_dask: update this one")
    return record


@dataclass(frozen=True)
class _Root:
    """The commit record: the archive's attributes, and the metadata of its arrays by their paths."""

    attributes: dict[str, Any]
    metadata: dict[str, dict[str, Any]]

    @property
    def total(self) -> int:
        """Committed rows: cutouts or, of sequences, objects."""
        return self.length("id")

    @property
    def shard(self) -> int:
        """Rows in a shard."""
        return int(self.attributes["shard"])

    @property
    def sequences(self) -> bool:
        """Whether a row is an object with a sequence of cutouts."""
        return bool(self.metadata["cutouts"]["dimension_names"][0] == "epoch")

    @property
    def pixels(self) -> int:
        """Committed cutouts: as many as rows or, of sequences, epochs."""
        return self.length("cutouts")

    @property
    def pixels_shard(self) -> int:
        """Cutouts in a shard of pixels."""
        return int(self.metadata["cutouts"]["chunk_grid"]["configuration"]["chunk_shape"][0])

    def length(self, name: str) -> int:
        """Committed length of an array."""
        return int(self.metadata[name]["shape"][0])

    @property
    def native(self) -> tuple[int, int] | None:
        """Largest native picture, where the archive keeps them."""
        size = self.attributes["native"]
        return (size[0], size[1]) if size else None

    @property
    def arrays(self) -> list[str]:
        """Names of the arrays of pixels and of the columns."""
        return [name for name in self.metadata if name.split("/")[0] not in _GROUPS]

    @property
    def epochs(self) -> list[str]:
        """Names of the columns along ``epoch``."""
        along = [k for k in self.arrays if self.metadata[k]["dimension_names"][0] == "epoch"]
        return [name for name in along if name not in _PIXELS]

    @property
    def quarantine(self) -> list[str]:
        """Paths of the quarantine table's columns."""
        return [name for name in self.metadata if name.startswith("quarantine/")]


def _read_root(url: str | os.PathLike[str]) -> _Root:
    record = _read_record(url)
    try:
        root = _Root(record["attributes"], record["consolidated_metadata"]["metadata"])
        _ = root.total, root.shard, root.native, root.pixels_shard
    except (KeyError, TypeError, ValueError, IndexError):
        raise ArchiveError(f"{url} was never finished: create it again, overwriting") from None
    return root


def _commit(
    fs: fsspec.AbstractFileSystem, root: str, attributes: dict[str, Any], names: Iterable[str]
) -> None:
    """Write the commit record from the metadata of the arrays as they are now."""
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


@contextmanager
def _naming_damage(url: str | os.PathLike[str]) -> Iterator[None]:
    """Say of whatever the codecs and stores raise that it is the archive that cannot be written to."""
    try:
        yield
    except ArchiveError:
        raise
    except Exception as error:
        raise ArchiveError(
            f"cannot append to {url} ({str(error) or type(error).__name__}): look for damage with "
            "'deepstreaks archive verify'; nothing was appended"
        ) from error
