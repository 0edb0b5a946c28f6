"""Score an archive with every member of every family, on Dask.

The unit of work is one shard. A task reads its cutouts once, runs all members in one compiled forward
pass and writes one chunk of ``runs/<run>/scores``: one object, in one step, that no other task touches. What a
killed campaign has not written is NaN; a rerun computes those shards only, and a score does not depend on
what was computed beside it, so that the result is the same to the last bit.

In the mode ``decide`` members look only while a decision is open (:mod:`~deepstreaks_dask.cascade`). A task then takes
several shards, so that the few that are left after the first family still fill batches.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib.metadata import version
from itertools import islice
from typing import Any

import keras
import numpy as np
import xarray as xr
import zarr
from dask.distributed import Client, as_completed

import deepstreaks_dask
from deepstreaks_dask.archive import digests, open_archive
from deepstreaks_dask.cascade import Look, Order, cascade, cheapest_order
from deepstreaks_dask.decision import Decision, family_of
from deepstreaks_dask.errors import CampaignError
from deepstreaks_dask.families import Families
from deepstreaks_dask.models.forward import (
    Forward,
    check_precision,
    compile_forward,
    set_precision,
)
from deepstreaks_dask.models.zoo import Zoo
from deepstreaks_dask.progress import progress_bar
from deepstreaks_dask.runs import Run, check_name, list_runs, open_scores

_SHARDS_A_CASCADE = 4  # so many at once that what the first family leaves still fills batches
_IN_FLIGHT = 4  # tasks queued a thread: enough to never wait, few enough for millions of shards
_ASKED_EVERY = 2.0  # seconds from one count of the threads to the next

_device = threading.Lock()  # one forward pass at a time in a worker; the other thread reads ahead
_loading = threading.Lock()


@dataclass(frozen=True)
class Cascade:
    """How members look one after the other: each one's threshold, and the order."""

    limits: tuple[float, ...]
    order: Order


@dataclass(frozen=True)
class Unit:
    """What travels to a worker: names and numbers, never pixels or weights."""

    url: str
    run: str
    shards: tuple[tuple[int, int], ...]  # rows [first, last) of each
    zoo: str | None
    members: tuple[tuple[str, str], ...]  # (name@version, sha256)
    batch: int
    precision: str = "float32"
    cascade: Cascade | None = None


@dataclass(frozen=True)
class Outcome:
    """What comes back: how many cutouts were dealt with, and which shards could not be read, and why."""

    cutouts: int
    failures: tuple[tuple[int, int, str], ...] = ()


def score(
    archive: str | os.PathLike[str],
    families: Families,
    client: Client,
    *,
    run: str = "default",
    batch: int = 64,
    decide: Decision | None = None,
    precision: str | None = None,
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
        Cutouts in a forward pass. A run keeps the one it began with.
    decide : Decision, optional
        Score only what this decision needs, which finds the same plausible cutouts for a part of the cost;
        NaN stands where a member did not look. All members look at every cutout by default.
    precision : str, optional
        One of :data:`~deepstreaks_dask.models.forward.PRECISIONS`, ``float32`` by default. What another one does to
        the scores is measured on the first shard: the largest and the mean difference to ``float32`` are in the run's
        ``precision_effect``. A run keeps the one it began with.
    progress : bool
        Show count, rate and time left.

    Returns
    -------
    xarray.Dataset
        As :func:`~deepstreaks_dask.runs.open_scores` gives it; ``attrs["failures"]`` lists shards that could not be read.

    Raises
    ------
    CampaignError
        If the archive is empty or its cutouts are not what a member takes, the run was made with other weights,
        for another decision or in another precision, or a network gives no number.
    ModelError
        If there is no such precision.
    """
    dataset = open_archive(archive)
    url, total, shard = dataset.attrs["url"], dataset.sizes["cutout"], dataset.attrs["shard"]
    if not total:
        raise CampaignError(f"{url} holds no cutouts: ingest some first")
    _check_input(dataset["cutouts"], families)
    stored = _open_run(url, run, families, decide, total, shard, batch, precision)
    todo = list(stored.missing(total, shard))
    members = tuple((member.ref, member.sha256) for member in families.members)
    began = stored.provenance
    whole = Unit(url, run, (), families.zoo, members, began["batch"], began["dtype"])
    if todo and began["dtype"] != "float32" and "precision_effect" not in began:
        looked = replace(whole, shards=tuple(todo[:_IN_FLIGHT]))
        stored.tell(precision_effect=client.submit(measure_precision, looked, pure=False).result())
    failures: list[tuple[int, int, str]] = []
    with progress_bar(f"score {run}", sum(b - a for a, b in todo), show=progress) as bar:
        if decide is None:
            units = iter([replace(whole, shards=(one,)) for one in todo])
        else:
            while todo and "order" not in stored.provenance:
                learned = _learn_order(
                    client, replace(whole, shards=(todo.pop(0),)), stored, decide
                )
                bar.advance(learned.cutouts)
                failures += learned.failures
            plan = _planned(stored, decide) if todo else None
            some = range(0, len(todo), _SHARDS_A_CASCADE)
            together = [tuple(todo[k : k + _SHARDS_A_CASCADE]) for k in some]
            units = iter([replace(whole, shards=shards, cascade=plan) for shards in together])
        room = _Room(client)
        running = as_completed([_submit(client, unit) for unit in islice(units, room.tasks)])
        for future in running:
            outcome = future.result()
            bar.advance(outcome.cutouts)
            failures += outcome.failures
            for unit in islice(units, max(0, room.tasks - running.count())):
                running.add(_submit(client, unit))
    stored.touch(failures)
    return open_scores(archive, run)


def score_unit(unit: Unit) -> Outcome:
    """Read, score and store shards; runs on a worker."""
    source, digest = (
        zarr.open_array(unit.url, path=name, mode="r") for name in ("cutouts", "digest")
    )
    read, failures = [], []
    for first, last in unit.shards:
        try:
            cutouts = np.asarray(source[first:last])
            # an object that is gone reads as zeros; a damaged one fails its checksum
            if digests(cutouts[:1])[0] != np.asarray(digest[first]):
                raise OSError("the shard is missing")
            read.append((first, last, cutouts))
        except Exception as error:  # codecs raise whatever their libraries do
            failures.append((first, last, str(error) or type(error).__name__))
    if read:
        networks = _load(unit.zoo, unit.members, unit.batch, unit.precision)
        pixels = np.concatenate([cutouts for _, _, cutouts in read])
        with _device:
            scores = networks.score(pixels, unit.cascade)
        stored, start = Run.attach(unit.url, unit.run, write=True).scores, 0
        for first, last, _ in read:
            stored[first:last] = scores[start : start + last - first]
            start += last - first
    return Outcome(sum(last - first for first, last in unit.shards), tuple(failures))


class _Networks:
    """The members on a worker: all in one pass, or one by one."""

    def __init__(self, models: dict[str, keras.Model], scalings: list[str], batch: int) -> None:
        self.models, self.scalings, self.batch = models, scalings, batch

    @cached_property
    def together(self) -> Forward:
        return compile_forward(list(self.models.values()), self.batch, self.scalings)

    @cached_property
    def looks(self) -> list[Look]:
        small = max(1, self.batch // 8)  # for the last few: padding them to a batch is wasted work

        def look(ref: str, model: keras.Model, scaling: str) -> Look:
            large, little = (
                compile_forward([model], size, [scaling]) for size in (self.batch, small)
            )

            def run(cutouts: np.ndarray) -> np.ndarray:
                full = len(cutouts) - len(cutouts) % self.batch
                if len(cutouts) - full > self.batch // 2:
                    full = len(cutouts)
                columns = [
                    *_passes(large, cutouts[:full], self.batch),
                    *_passes(little, cutouts[full:], small),
                ]
                return _finite(np.concatenate(columns), [ref])[:, 0]

            return run

        return [
            look(ref, model, scaling)
            for (ref, model), scaling in zip(self.models.items(), self.scalings, strict=True)
        ]

    def score(self, cutouts: np.ndarray, plan: Cascade | None) -> np.ndarray:
        if plan is None:
            passes = _passes(self.together, cutouts, self.batch)
            return _finite(np.concatenate(list(passes)), list(self.models))
        return cascade(cutouts, self.looks, np.array(plan.limits, np.float32), plan.order)

    def costs(self, cutouts: np.ndarray) -> list[float]:
        """Seconds a cutout of each member's look."""
        seconds = []
        for look in self.looks:
            look(cutouts)  # the first pass compiles
            start = time.perf_counter()
            look(cutouts)
            seconds.append((time.perf_counter() - start) / len(cutouts))
        return seconds


def _passes(forward: Forward, cutouts: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    return (forward(cutouts[k : k + batch]) for k in range(0, len(cutouts), batch))


def _finite(scores: np.ndarray, refs: list[str]) -> np.ndarray:
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=0))
    if len(broken):
        names = ", ".join(refs[k] for k in broken)
        raise CampaignError(f"{names} gives no finite score: its weights are broken")
    return scores


def measure_costs(unit: Unit) -> list[float]:
    """Seconds a cutout that each member takes; runs on a worker."""
    (first, _), *_ = unit.shards
    source = zarr.open_array(unit.url, path="cutouts", mode="r")
    with _device:
        networks = _load(unit.zoo, unit.members, unit.batch, unit.precision)
        return networks.costs(np.asarray(source[first : first + unit.batch]))


def measure_precision(unit: Unit) -> dict[str, float] | None:
    """Compare scores with those in single precision, on the first shard that can be read; runs on a worker."""
    source = zarr.open_array(unit.url, path="cutouts", mode="r")
    for first, last in unit.shards:
        try:
            cutouts = np.asarray(source[first:last])
        except Exception:  # noqa: S112 - who scores it says what is wrong with it
            continue
        with _device:
            # the unit's own comes last, and stays loaded
            single, own = (
                _load(unit.zoo, unit.members, unit.batch, precision).score(cutouts, None)
                for precision in ("float32", unit.precision)
            )
        difference = np.abs(own - single)
        return {
            "cutouts": len(cutouts),
            "largest": float(difference.max()),
            "mean": float(difference.mean()),
        }
    return None


class _Room:
    """How many tasks may be queued, now that workers come and go: as many as :data:`_IN_FLIGHT` a thread."""

    def __init__(self, client: Client) -> None:
        self._client, self._asked, self._tasks = client, -np.inf, 0

    @property
    def tasks(self) -> int:
        if time.monotonic() - self._asked > _ASKED_EVERY:
            self._tasks = _IN_FLIGHT * (sum(self._client.nthreads().values()) or 1)
            self._asked = time.monotonic()
        return self._tasks


def _learn_order(client: Client, unit: Unit, stored: Run, decision: Decision) -> Outcome:
    """Let all members look at one shard, and keep the order that would have been the cheapest."""
    outcome: Outcome = _submit(client, unit).result()
    if not outcome.failures:
        ((first, last),) = unit.shards
        costs = client.submit(measure_costs, unit, pure=False).result()
        models = stored.provenance["models"]
        order = cheapest_order(
            np.asarray(stored.scores[first:last]),
            decision.limits(models),
            decision.needed(models),
            costs,
        )
        stored.tell(order=[[models[member] for member in family] for family in order])
    return outcome


def _planned(stored: Run, decision: Decision) -> Cascade:
    attributes = stored.provenance
    models = attributes["models"]
    order = tuple(tuple(models.index(name) for name in family) for family in attributes["order"])
    return Cascade(tuple(map(float, decision.limits(models))), order)


def _submit(client: Client, unit: Unit) -> Any:
    return client.submit(score_unit, unit, pure=False, retries=2)


def _load(
    zoo: str | None, members: tuple[tuple[str, str], ...], batch: int, precision: str
) -> _Networks:
    with _loading:  # two threads must not load the same networks at once
        return _load_once(zoo, members, batch, precision)


@lru_cache(maxsize=1)
def _load_once(
    zoo: str | None, members: tuple[tuple[str, str], ...], batch: int, precision: str
) -> _Networks:
    """Load the members once a worker; the hashes are part of the key."""
    store = Zoo(zoo)
    scalings = []
    for ref, sha256 in members:
        card = store.card(ref)
        if card.sha256 != sha256:
            raise CampaignError(f"the weights of {ref} changed since the campaign began")
        scalings.append(card.scaling)
    models = {ref: store.load(ref) for ref, _ in members}
    if precision != "float32":
        for model in models.values():
            set_precision(model, precision)
    return _Networks(models, scalings, batch)


def _check_input(cutouts: xr.DataArray, families: Families) -> None:
    """Refuse, before any work, members that take other cutouts than the archive has."""
    shape = (*cutouts.shape[1:], 1)[:3]
    store = Zoo(families.zoo)
    for member in families.members:
        card = store.card(member.ref)
        if card.input_shape != shape or (card.scaling == "bytes" and cutouts.dtype != np.uint8):
            wants = "uint8" if card.scaling == "bytes" else "numbers"
            raise CampaignError(
                f"{member.ref} takes cutouts of {wants} {card.input_shape}, but the archive has "
                f"{cutouts.dtype} {shape}: score it with other families"
            )


def _open_run(
    url: str,
    name: str,
    families: Families,
    decide: Decision | None,
    total: int,
    shard: int,
    batch: int,
    precision: str | None,
) -> Run:
    """Open the run to go on with it, or make it; grow it to the archive's length."""
    check_name(name)
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
    names = [member.name for member in families.members]
    limits = None
    if decide is not None:
        needed = {names[k] for columns in decide.needed(names).values() for k in columns}
        limits = {
            name: float(limit)
            for name, limit in zip(names, decide.limits(names), strict=True)
            if name in needed
        }
    if name in list_runs(url):
        run = Run.attach(url, name, write=True)
        has = run.provenance
        if has["members"] != wanted:
            refs = ", ".join(f"{m['name']}@{m['version']}" for m in has["members"])
            raise CampaignError(
                f"run {name!r} of {url} was made with other weights ({refs}): give another --run"
            )
        if (decided := has["decided"]) != limits:
            what = f"decides at {decided} only" if decided else "holds all scores"
            raise CampaignError(f"run {name!r} of {url} {what}: give another --run")
        if precision not in (None, has["dtype"]):
            raise CampaignError(
                f"run {name!r} of {url} was made in {has['dtype']}: give another --run"
            )
        run.grow(total)
        return run
    check_precision(precision or "float32")
    if any(family_of(str(member["name"])) != member["family"] for member in wanted):
        raise CampaignError("a member's name must begin with its family and an underscore")
    return Run.create(
        url,
        name,
        wanted,
        total,
        shard,
        decided=limits,
        zoo=families.zoo or "shipped with deepstreaks_dask",
        batch=batch,
        backend=keras.backend.backend(),
        backend_version=version(keras.backend.backend()),
        keras=keras.__version__,
        dtype=precision or "float32",
        deepstreaks_dask=deepstreaks_dask.__version__,
    )
