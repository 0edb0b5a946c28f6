"""Runs: the scores that lie in an archive, beside the cutouts, and where they came from.

A run is ``runs/<run>/scores(cutout, model)``, one chunk a shard of rows, with its provenance in the attributes of
``runs/<run>``. Of an archive of sequences it is ``scores(object, member, class)``: the probability that each member gives
each of the ``classes`` that the provenance names. NaN stands where a member has not looked. Reading runs needs no
network, and so none is loaded here.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from deepstreaks_dask.archive.attributes import encode_attributes, provenance_of
from deepstreaks_dask.archive.dataset import open_archive, row_block, shard_bounds
from deepstreaks_dask.archive.opening import open_array, open_group, zarr_location
from deepstreaks_dask.archive.retraction import retracted_rows, without_retracted
from deepstreaks_dask.archive.store import read_commit_record, record_runs
from deepstreaks_dask.errors import ArchiveError, CampaignError, did_you_mean
from deepstreaks_dask.scoring.provenance import check_provenance
from deepstreaks_dask.scoring.run_lock import alone, check_name, is_name
from deepstreaks_dask.utils.storage import is_local, locate

SHIPPED_ZOO = "shipped with deepstreaks_dask"
"""What a run says of its zoo where its networks came with this package."""

_SHARDS_PER_READ = 64  # shards that are read in one call

_EXTRA_ARRAYS: dict[str, tuple[str, Any]] = {
    "first_look": ("float32", np.nan),
    "rejected": ("bool", False),
}

_ATTRIBUTES = {
    "scores": {"long_name": "score", "units": "1"},
    "first_look": {"long_name": "score of the first look of a triage", "units": "1"},
    "rejected": {"long_name": "rejected by a triage"},
}


@dataclass(frozen=True)
class Run:
    """One run of an archive, as it lies in the store."""

    url: str
    name: str
    group: zarr.Group
    write: bool = False

    @classmethod
    def open(cls, archive: str | os.PathLike[str], name: str, *, write: bool = False) -> Run:
        """Open a run.

        Parameters
        ----------
        archive : str or path
            Path or URL.
        name : str
            Name of the run.
        write : bool
            Scores and provenance are to be changed.

        Returns
        -------
        Run
            Nothing of it is read yet.

        Raises
        ------
        CampaignError
            If there is no such run.
        """
        return cls._find(archive, _located(archive), name, write)

    @classmethod
    def _find(cls, archive: str | os.PathLike[str], url: str, name: str, write: bool) -> Run:
        if name not in (known := _runs_at(url)):
            has = (
                f"it has {', '.join(known)}" if known else "score it first with 'deepstreaks score'"
            )
            raise CampaignError(f"{archive} has no run {name!r}: {did_you_mean(name, known)}{has}")
        return cls.attach(url, name, write=write)

    @classmethod
    def attach(cls, url: str, name: str, *, write: bool = False) -> Run:
        """Open a run that is known to be there, at the store's URL.

        Parameters
        ----------
        url : str
            Of the store.
        name : str
            Of the run.
        write : bool
            Whether it may be changed.

        Returns
        -------
        Run
            Nothing of it is read but its provenance.

        Raises
        ------
        ArchiveError, CampaignError
            If it is not there, or is no run of this package.
        """
        # an absolute path: what is read later may be read by a worker in another working directory
        url = zarr_location(url)
        group = open_group(url, f"runs/{name}", write=write)
        check_provenance(group.attrs.asdict(), f"run {name!r} of {url}")
        return cls(url, name, group, write)

    @classmethod
    def create(
        cls,
        url: str,
        name: str,
        members: Sequence[dict[str, Any]],
        total: int,
        shard: int,
        *,
        classes: Sequence[str] = (),
        **provenance: Any,
    ) -> Run:
        """Make a run without scores; where others may do so too, within :func:`alone`.

        Parameters
        ----------
        url : str
            The archive's store.
        name : str
            Letters, digits, ``.``, ``_`` and ``-``.
        members : sequence of dict
            ``name``, ``version``, ``sha256``, ``family`` and ``threshold`` of each.
        total, shard : int
            Rows of the archive, and of one of its shards.
        classes : sequence of str
            Names of the classes that the members tell apart, where rows are objects with their sequences.
        **provenance
            Whatever else tells where the scores come from.

        Returns
        -------
        Run
            All scores are NaN.

        Raises
        ------
        CampaignError
            If the name cannot be one.
        """
        check_name(name)
        models = [member["name"] for member in members]
        attributes = {
            "members": list(members),
            "models": models,
            "decided": None,
            "triage": None,
            "started": _now(),
            "updated": _now(),
            "failures": [],
            **({"classes": list(classes)} if classes else {}),
            **provenance,
        }
        rows = "object" if classes else "cutout"
        inner = (len(models), len(classes)) if classes else (len(models),)
        # A run exists once it has scores; "w" clears away what a kill before that has left.
        group = zarr.open_group(
            url, path=f"runs/{name}", mode="w", zarr_format=3, attributes=attributes
        )
        for dimension, values in (
            {"member": models, "class": list(classes)} if classes else {"model": models}
        ).items():
            named = group.create_array(
                dimension, shape=(len(values),), dtype="string", dimension_names=[dimension]
            )
            named[:] = np.array(values, object)
        # scores last: with them the run exists
        for array, (dtype, missing) in _EXTRA_ARRAYS.items() if attributes["triage"] else ():
            group.create_array(
                array,
                shape=(total,),
                chunks=(shard,),
                dtype=dtype,
                fill_value=missing,
                compressors=[ZstdCodec(level=1), Crc32cCodec()],
                dimension_names=[rows],
            )
        group.create_array(
            "scores",
            shape=(total, *inner),
            chunks=(shard, *inner),
            dtype="float32",
            fill_value=np.nan,
            compressors=[ZstdCodec(level=1), Crc32cCodec()],
            dimension_names=[rows, *(("member", "class") if classes else ("model",))],
        )
        _list_in_archive(url)
        return cls(zarr_location(url), name, group, write=True)

    @cached_property
    def scores(self) -> zarr.Array:
        """float32 (cutout, model) or (object, member, class), NaN where a member has not looked."""
        return self._array("scores")

    @property
    def provenance(self) -> dict[str, Any]:
        """What the run says of itself."""
        return {"triage": None, "flips": False, **self.group.attrs.asdict()}

    @property
    def first_look(self) -> zarr.Array:
        """Scores of the first look of a triage, float32 (cutout,), NaN where it has not looked."""
        return self._array("first_look")

    @property
    def rejected(self) -> zarr.Array:
        """Whether the triage rejected a cutout, which no member looks at then, bool (cutout,)."""
        return self._array("rejected")

    def kept(self, first: int, last: int) -> np.ndarray:
        """Say which of some rows were not rejected by a triage, bool (cutout,); all if there was none.

        Parameters
        ----------
        first, last : int
            Rows ``[first, last)``.

        Returns
        -------
        ndarray
            bool ``(cutout,)``.
        """
        if self.provenance["triage"] is None:
            return np.ones(last - first, bool)
        try:
            return ~np.asarray(self.rejected[first:last])
        except Exception:  # a torn chunk fails in its codec's own way; the next `score` mends it
            return np.ones(last - first, bool)

    def read(self, name: str, total: int, first: int = 0) -> np.ndarray:
        """Read rows of an array; where there is nothing, or a torn chunk, as if nobody had looked.

        Parameters
        ----------
        name : str
            Of the array.
        total : int
            Where the rows end: all rows of the archive, or some.
        first : int
            Where they begin.

        Returns
        -------
        ndarray
            ``(cutout, …)``, NaN or False where there is nothing.
        """
        array = self._array(name)
        values = np.full((total - first, *array.shape[1:]), array.fill_value, array.dtype)
        for begin, end, found in _read(array, min(total, array.shape[0]), array.chunks[0], first):
            if found is not None:  # the next `score` mends it
                values[begin - first : end - first] = found
        return values

    def rows(self, name: str, total: int) -> da.Array:
        """Return all rows of an array as :meth:`read` reads them, once they are computed.

        Parameters
        ----------
        name : str
            Name of the array.
        total : int
            Rows of the archive.

        Returns
        -------
        dask.array.Array
            ``(cutout, …)``, in chunks of whole shards.
        """
        array = self._array(name)
        # scores change under the same name: each opening has its own
        return da.from_array(
            _Rows(self, name, (total, *array.shape[1:]), array.dtype),
            chunks=(row_block(array.chunks[0]), *array.shape[1:]),
            name=f"{name}-{uuid.uuid4().hex}",
            meta=np.empty((0,) * array.ndim, array.dtype),
        )

    def _array(self, name: str) -> zarr.Array:
        array = open_array(self.url, f"runs/{self.name}/{name}", write=self.write)
        said = self.provenance
        inner = (len(said["models"]), *((len(said["classes"]),) if "classes" in said else ()))
        if array.shape[1:] != (inner if name == "scores" else ()):
            raise CampaignError(
                f"run {self.name!r} of {self.url}: {name} is {array.shape}, which does not fit its members"
            )
        return array

    def tell(self, **attributes: Any) -> None:
        """Add to the provenance, and learn what others have added to it."""
        with alone(self.url, self.name):
            self._learn()
            self.group.update_attributes(attributes)
        _list_in_archive(self.url)

    def settle(self, name: str, value: Any) -> Any:
        """Add to the provenance unless somebody has added this already; give what stands there then.

        Parameters
        ----------
        name : str
            Of the attribute.
        value : Any
            As JSON can hold it.

        Returns
        -------
        Any
            The first value that anybody gave.
        """
        with alone(self.url, self.name):
            self._learn()
            if name not in self.group.attrs:
                self.group.update_attributes({name: value})
        return self.group.attrs[name]

    def add_workers(self, machines: Sequence[Mapping[str, str]]) -> None:
        """Add to the provenance what workers computed with, each machine once.

        Parameters
        ----------
        machines : sequence of mapping
            As :func:`~deepstreaks_dask.scoring.machine.describe_worker` describes them.
        """
        with alone(self.url, self.name):
            self._learn()
            has = list(self.provenance.get("workers", []))
            new = [dict(one) for one in machines if dict(one) not in has]
            if new:
                self.group.update_attributes({"workers": [*has, *new]})

    def _learn(self) -> None:
        """Read the provenance anew: another campaign may have added to it."""
        self.group.metadata.attributes.update(Run.attach(self.url, self.name).group.attrs.asdict())

    def touch(self, failures: Sequence[tuple[int, int, str]]) -> None:
        """Say that the run was gone on with just now, and which shards could not be read."""
        self.tell(
            updated=_now("milliseconds"), failures=[list(failure) for failure in sorted(failures)]
        )

    def grow(self, total: int) -> None:
        """Make room for cutouts that were appended since."""
        beside = _EXTRA_ARRAYS if self.provenance["triage"] is not None else ()
        for array in (self.scores, *map(self._array, beside)):
            if array.shape[0] < total:  # never less: another campaign may know of more
                array.resize((total, *array.shape[1:]))

    def missing(self, total: int, shard: int) -> Remaining:
        """Return the shards with rows that are neither scored nor rejected, nor withdrawn.

        Parameters
        ----------
        total, shard : int
            Rows of the archive, and of a shard.

        Returns
        -------
        Remaining
            Nothing is changed in the store.
        """
        nobody_looked = np.any if self.provenance["decided"] is None else np.all
        withdrawn = retracted_rows(self.url, total)

        def unscored(first: int, values: np.ndarray) -> bool:
            unseen = nobody_looked(np.isnan(values), axis=tuple(range(1, values.ndim)))
            unseen &= ~withdrawn[first : first + len(values)]
            if not unseen.any():
                return False
            kept = self.kept(first, first + len(values))
            return bool(unseen[len(kept) :].any() or (unseen[: len(kept)] & kept).any())

        return _remaining(self.scores, total, shard, unscored, withdrawn)

    def unseen(self, total: int, shard: int) -> Remaining:
        """Return the shards with rows that the first look of a triage has not seen.

        Parameters
        ----------
        total, shard : int
            Rows of the archive, and of a shard.

        Returns
        -------
        Remaining
            Nothing is changed in the store.
        """
        withdrawn = retracted_rows(self.url, total)

        def unseen(first: int, values: np.ndarray) -> bool:
            return bool((np.isnan(values) & ~withdrawn[first : first + len(values)]).any())

        return _remaining(self.first_look, total, shard, unseen, withdrawn)

    def clear(self, name: str, torn: Sequence[tuple[int, int]]) -> None:
        """Clear torn chunks of an array, which then read as NaN; the run must have grown to the archive's length.

        Parameters
        ----------
        name : str
            Of the array, ``scores`` or ``first_look``.
        torn : sequence of (int, int)
            Rows ``[first, last)`` of each.
        """
        array = self._array(name)
        for first, last in torn:
            array[first:last] = np.nan


@dataclass(frozen=True)
class Remaining:
    """Shards that are still to do, and those among them whose chunk is torn; rows ``[first, last)`` of each."""

    shards: tuple[tuple[int, int], ...] = ()
    torn: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class _Rows:
    """Rows of a run's array, which Dask reads piece by piece."""

    run: Run
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, key: Any) -> np.ndarray:
        wanted, *rest = key if isinstance(key, tuple) else (key,)
        rows = range(self.shape[0])[wanted] if isinstance(wanted, slice) else np.asarray(wanted)
        if np.size(rows) == 0:
            return np.empty((0, *self.shape[1:]), self.dtype)[(slice(None), *rest)]
        first, last = int(np.min(rows)), int(np.max(rows)) + 1
        values = self.run.read(self.name, last, first)
        return np.asarray(values[(np.asarray(rows) - first, *rest)])


def list_runs(archive: str | os.PathLike[str]) -> list[str]:
    """Name the runs that an archive holds, in order."""
    return _runs_at(_located(archive))


def _located(archive: str | os.PathLike[str]) -> str:
    """Return the URL of an archive that is there."""
    read_commit_record(archive)
    return os.fspath(archive)


def _list_in_archive(url: str) -> None:
    """List the runs in the archive's commit record, where that is safe and allowed: no score depends on it."""
    fs, _ = locate(url)
    if is_local(fs):  # elsewhere nothing keeps an append from committing at the same time
        with suppress(OSError, ArchiveError):
            record_runs(url)


def _runs_at(url: str) -> list[str]:
    fs, root = locate(url)
    fs.invalidate_cache()
    names = (path.split("/")[-3] for path in fs.glob(f"{root}/runs/*/scores/zarr.json"))
    return sorted(name for name in names if is_name(name))


def open_run(
    url: str | os.PathLike[str],
    run: str = "default",
    *,
    cutouts: bool = False,
    cache: bool = False,
) -> xr.Dataset:
    """Open the scores of a run lazily, beside the columns of the archive.

    Parameters
    ----------
    url : str or path
        The archive: a local path or any fsspec URL.
    run : str
        Name of the run.
    cutouts : bool
        Keep the pixels too.
    cache : bool
        Read the scores now, and keep a column in memory once it is read, instead of Dask arrays that read them
        whenever they are computed. For runs that fit in memory.

    Returns
    -------
    xarray.Dataset
        ``scores(cutout, model)``, or ``scores(object, member, class)`` of sequences, float32, NaN where not scored (rows
        appended since among them), after a triage ``first_look(cutout)`` float32 and ``rejected(cutout)`` bool, the
        archive's columns, and the run's provenance in the attributes, which
        :func:`~deepstreaks_dask.archive.attributes.provenance_of` reads. Withdrawn rows are left out.

    Raises
    ------
    CampaignError
        If there is no such run.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> scores = ds.open_run("week.zarr")
    >>> dict(scores["scores"].sizes)
    {'cutout': 60, 'model': 3}
    >>> picture = scores.streaks.plot.scores("rb")
    """
    dataset = open_archive(url, cache=cache, retracted=True)
    stored = Run._find(url, dataset.attrs["url"], run, write=False)
    total = dataset["id"].size
    read = stored.read if cache else stored.rows
    if not cutouts:
        dataset = dataset.drop_vars([name for name in ("cutouts", "native") if name in dataset])
    (row,) = dataset["id"].dims
    provenance = stored.provenance
    names = {"model": provenance["models"]}
    if "classes" in provenance:
        names = {"member": provenance["models"], "class": provenance["classes"]}
    arrays = {"scores": (row, *names)}
    if provenance["triage"] is not None:
        arrays |= dict.fromkeys(_EXTRA_ARRAYS, (row,))
    said = {name: (dims, read(name, total), _ATTRIBUTES[name]) for name, dims in arrays.items()}
    dataset = dataset.assign(said).assign_coords(names)
    dataset.attrs = encode_attributes({**provenance_of(dataset), "run": run, **provenance})
    return without_retracted(dataset, read_commit_record(url).attributes)


def _read(
    array: zarr.Array, total: int, shard: int, start: int = 0
) -> Iterator[tuple[int, int, np.ndarray | None]]:
    """Read an array shard by shard, many shards in one call; None is what a torn one gives."""
    whole = start // shard * shard
    bounds = [
        (max(whole + first, start), whole + last)
        for first, last in shard_bounds(total - whole, shard)
        if whole + last > start
    ]
    for k in range(0, len(bounds), _SHARDS_PER_READ):
        some = bounds[k : k + _SHARDS_PER_READ]
        start, stop = some[0][0], some[-1][1]
        values = _whole(array, start, stop)
        for first, last in some:
            if values is None:  # one of them is torn: which?
                yield first, last, _whole(array, first, last)
            else:
                yield first, last, values[first - start : last - start]


def _whole(array: zarr.Array, first: int, last: int) -> np.ndarray | None:
    try:
        return np.asarray(array[first:last])
    except Exception:  # a torn chunk fails its checksum in its codec's own way
        return None


def _remaining(
    array: zarr.Array,
    total: int,
    shard: int,
    is_open: Callable[[int, np.ndarray], bool],
    withdrawn: np.ndarray,
) -> Remaining:
    """Return the shards of which something is left to do; rows that an array does not have yet are left, too."""
    size = array.shape[0]
    shards, torn = [], []
    for first, last, values in _read(array, total, shard):
        if values is None:
            torn.append((first, last))
        if withdrawn[first:last].all():
            continue
        lacking = not withdrawn[max(first, size) : last].all()
        if values is None or lacking or is_open(first, values):
            shards.append((first, last))
    return Remaining(tuple(shards), tuple(torn))


def _now(resolution: str = "seconds") -> str:
    return datetime.now(UTC).isoformat(timespec=resolution)
