"""Score an archive with every member of every family, on Dask.

The unit of work is one shard. A task reads its cutouts once, runs all members in one compiled forward
pass and writes one chunk of ``runs/<run>/scores``: one object, in one step, that no other task touches. What a
killed campaign has not written is NaN; a rerun computes those shards only, in batches cut the same
way, so that the result is the same to the last bit.
"""

from __future__ import annotations

import difflib
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from itertools import islice
from typing import Any

import keras
import numpy as np
import xarray as xr
import zarr
from dask.distributed import Client, as_completed
from zarr.codecs import Crc32cCodec, ZstdCodec

import deepstreaks_dask
from deepstreaks_dask.archive import digests, open_archive, shard_bounds
from deepstreaks_dask.errors import CampaignError
from deepstreaks_dask.families import Families, family_of
from deepstreaks_dask.models.forward import Forward, compile_forward
from deepstreaks_dask.models.zoo import Zoo
from deepstreaks_dask.progress import progress_bar
from deepstreaks_dask.storage import locate

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_IN_FLIGHT = 4  # tasks queued a thread: enough to never wait, few enough for millions of shards

_device = threading.Lock()  # one forward pass at a time in a worker; the other thread reads ahead
_loading = threading.Lock()


@dataclass(frozen=True)
class Unit:
    """What travels to a worker: names and numbers, never pixels or weights."""

    url: str
    run: str
    first: int
    last: int
    zoo: str | None
    members: tuple[tuple[str, str], ...]  # (name@version, sha256)
    batch: int


@dataclass(frozen=True)
class Outcome:
    """What comes back: which rows, and why not if they could not be read."""

    first: int
    last: int
    failure: str = ""


def score(
    archive: str | os.PathLike[str],
    families: Families,
    client: Client,
    *,
    run: str = "default",
    batch: int = 64,
    progress: bool = True,
) -> xr.Dataset:
    """Score every cutout that has no scores yet.

    Parameters
    ----------
    archive : str or path
        Path or URL of the archive; the workers must reach it too.
    families : Families
        Whose members to run.
    client : dask.distributed.Client
        Where to run them, as :func:`~deepstreaks_dask.cluster.connect` gives it.
    run : str
        Name of the run that holds the scores. The same name goes on with it.
    batch : int
        Cutouts in a forward pass. A run keeps the one it began with: it decides the last bits.
    progress : bool
        Show count, rate and time left.

    Returns
    -------
    xarray.Dataset
        As :func:`open_scores` gives it; ``attrs["failures"]`` lists shards that could not be read.

    Raises
    ------
    CampaignError
        If the archive is empty, the run was made with other weights, or a network gives no number.
    """
    dataset = open_archive(archive)
    url, total, shard = dataset.attrs["url"], dataset.sizes["cutout"], dataset.attrs["shard"]
    if not total:
        raise CampaignError(f"{url} holds no cutouts: ingest some first")
    members = tuple((member.ref, member.sha256) for member in families.members)
    group = _open_run(url, run, families, total, shard, batch)
    batch = _provenance(group)["batch"]
    todo = list(_missing(group, total, shard))
    units = iter(Unit(url, run, first, last, families.zoo, members, batch) for first, last in todo)
    failures = []
    with progress_bar(f"score {run}", sum(b - a for a, b in todo), show=progress) as bar:
        threads = sum(client.nthreads().values()) or 1
        first_units = list(islice(units, _IN_FLIGHT * threads))
        running = as_completed([_submit(client, unit) for unit in first_units])
        for future in running:
            outcome = future.result()
            bar.advance(outcome.last - outcome.first)
            if outcome.failure:
                failures.append([outcome.first, outcome.last, outcome.failure])
            if (unit := next(units, None)) is not None:
                running.add(_submit(client, unit))
    group.attrs.update({"updated": _now(), "failures": sorted(failures)})
    return open_scores(archive, run)


def open_scores(
    archive: str | os.PathLike[str], run: str = "default", *, cutouts: bool = False
) -> xr.Dataset:
    """Open the scores of a run beside what is known of each cutout.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    run : str
        Name of the run.
    cutouts : bool
        Keep the pixels too, lazily.

    Returns
    -------
    xarray.Dataset
        ``scores(cutout, model)`` float32, NaN where not scored (cutouts appended since among them),
        the archive's columns, and the run's provenance in the attributes.

    Raises
    ------
    CampaignError
        If there is no such run.
    """
    dataset = open_archive(archive)
    if run not in (known := list_runs(archive)):
        near = difflib.get_close_matches(run, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        has = f"it has {', '.join(known)}" if known else "score it first with 'deepstreaks score'"
        raise CampaignError(f"{archive} has no run {run!r}: {hint}{has}")
    group = _group(dataset.attrs["url"], run)
    total, array = dataset.sizes["cutout"], _scores(group)
    values = np.full((total, array.shape[1]), np.nan, np.float32)
    rows = min(total, array.shape[0])
    for first, last in shard_bounds(rows, array.chunks[0]):
        try:
            values[first:last] = array[first:last]
        except Exception:  # noqa: S112 - a torn chunk is not scored: the next `score` mends it
            continue
    if not cutouts:
        dataset = dataset.drop_vars([name for name in ("cutouts", "native") if name in dataset])
    scores = xr.DataArray(values, dims=("cutout", "model"), attrs={"long_name": "score"})
    dataset = dataset.assign(scores=scores).assign_coords(model=_provenance(group)["models"])
    dataset.attrs |= {"run": run, **_provenance(group)}
    return dataset


def list_runs(archive: str | os.PathLike[str]) -> list[str]:
    """Name the runs that an archive holds, in order."""
    fs, root = locate(open_archive(archive).attrs["url"])
    fs.invalidate_cache()
    return sorted(path.split("/")[-3] for path in fs.glob(f"{root}/runs/*/scores/zarr.json"))


def score_unit(unit: Unit) -> Outcome:
    """Read, score and store one shard; runs on a worker."""
    try:
        source = zarr.open_group(unit.url, mode="r")
        cutouts = np.asarray(_array(source, "cutouts")[unit.first : unit.last])
        # an object that is gone reads as zeros; a damaged one fails its checksum
        if digests(cutouts[:1])[0] != np.asarray(_array(source, "digest")[unit.first]):
            raise OSError("the shard is missing")
    except Exception as error:  # codecs raise whatever their libraries do
        return Outcome(unit.first, unit.last, str(error) or type(error).__name__)
    forward = _load(unit.zoo, unit.members, unit.batch)
    scores = np.empty((len(cutouts), len(unit.members)), np.float32)
    with _device:
        for start in range(0, len(cutouts), unit.batch):
            scores[start : start + unit.batch] = forward(cutouts[start : start + unit.batch])
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=0))
    if len(broken):
        names = [unit.members[k][0] for k in broken]
        raise CampaignError(f"{', '.join(names)} gives no finite score: its weights are broken")
    _scores(_group(unit.url, unit.run))[unit.first : unit.last] = scores
    return Outcome(unit.first, unit.last)


def _submit(client: Client, unit: Unit) -> Any:
    return client.submit(score_unit, unit, pure=False, retries=2)


def _load(zoo: str | None, members: tuple[tuple[str, str], ...], batch: int) -> Forward:
    with _loading:  # two threads must not load the same networks at once
        return _load_once(zoo, members, batch)


@lru_cache(maxsize=1)
def _load_once(zoo: str | None, members: tuple[tuple[str, str], ...], batch: int) -> Forward:
    """Load and compile the members once a worker; the hashes are part of the key."""
    store = Zoo(zoo)
    for ref, sha256 in members:
        if store.card(ref).sha256 != sha256:
            raise CampaignError(f"the weights of {ref} changed since the campaign began")
    return compile_forward([store.load(ref) for ref, _ in members], batch)


def _open_run(
    url: str, run: str, families: Families, total: int, shard: int, batch: int
) -> zarr.Group:
    """Open the run to go on with it, or make it; grow it to the archive's length."""
    if not _RUN_NAME.fullmatch(run):
        raise CampaignError(f"run name {run!r}: use letters, digits, '.', '_' and '-'")
    wanted: list[dict[str, Any]] = [
        {
            "name": member.name,
            "version": member.version,
            "sha256": member.sha256,
            "family": family.name,
            "threshold": member.threshold,
        }
        for family in families
        for member in family.members
    ]
    if run in list_runs(url):
        group = _group(url, run)
        if _provenance(group)["members"] != wanted:
            has = ", ".join(f"{m['name']}@{m['version']}" for m in _provenance(group)["members"])
            raise CampaignError(
                f"run {run!r} of {url} was made with other weights ({has}): give another --run"
            )
        array = _scores(group)
        if array.shape[0] < total:
            array.resize((total, array.shape[1]))
        return group
    if any(family_of(str(member["name"])) != member["family"] for member in wanted):
        raise CampaignError("a member's name must begin with its family and an underscore")
    # A run exists once it has scores; "w" clears away what a kill before that has left.
    group = zarr.open_group(
        url,
        path=f"runs/{run}",
        mode="w",
        zarr_format=3,
        attributes={
            "members": wanted,
            "models": [member["name"] for member in wanted],
            "zoo": families.zoo or "shipped with deepstreaks_dask",
            "batch": batch,
            "backend": keras.backend.backend(),
            "backend_version": version(keras.backend.backend()),
            "keras": keras.__version__,
            "dtype": "float32",
            "deepstreaks_dask": deepstreaks_dask.__version__,
            "started": _now(),
            "updated": _now(),
            "failures": [],
        },
    )
    group.create_array(
        "scores",
        shape=(total, len(wanted)),
        chunks=(shard, len(wanted)),
        dtype="float32",
        fill_value=np.nan,
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        dimension_names=["cutout", "model"],
    )
    return group


def _missing(group: zarr.Group, total: int, shard: int) -> Iterator[tuple[int, int]]:
    """Shards with rows that have no scores, or whose chunk is torn."""
    array = _scores(group)
    for first, last in shard_bounds(total, shard):
        try:
            done = not np.isnan(np.asarray(array[first:last])).any()
        except Exception:  # a torn chunk fails its checksum in its codec's own way
            done = False
            array[first:last] = np.nan
        if not done:
            yield first, last


def _group(url: str, run: str) -> zarr.Group:
    return zarr.open_group(url, path=f"runs/{run}", mode="r+", use_consolidated=False)


def _provenance(group: zarr.Group) -> dict[str, Any]:
    return dict(group.attrs.asdict())


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _scores(group: zarr.Group) -> zarr.Array:
    return _array(group, "scores")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
