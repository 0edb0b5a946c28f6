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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from typing import Any, Literal, get_args

import keras
import numpy as np
import xarray as xr
from dask.distributed import Client, as_completed

import deepstreaks_dask
from deepstreaks_dask.archive import open_archive
from deepstreaks_dask.cascade import Order, cheapest_order
from deepstreaks_dask.decision import Decision, family_of
from deepstreaks_dask.errors import CampaignError
from deepstreaks_dask.families import Families
from deepstreaks_dask.models.forward import check_precision
from deepstreaks_dask.models.zoo import Zoo
from deepstreaks_dask.progress import progress_bar
from deepstreaks_dask.pulse import beating
from deepstreaks_dask.runs import SHIPPED, Run, check_name, list_runs, open_scores
from deepstreaks_dask.worker import Cascade, Unit, measure_precision, sample, score_unit

Mode = Literal["all", "decide"]
"""Every member looks at every cutout, or only while the decision is open."""

_CUTOUTS_A_CASCADE = 4096  # so many at once that what the first family leaves still fills batches
_TASKS_A_WORKER = 2  # at least, where there are shards enough
_SAMPLE = 512  # cutouts that tell the order, at most
_SAMPLED = 128  # one in so many
_BLOCKS = 8  # pieces of the archive that the sample comes from
_EARLIER = 8192  # rows of an earlier run that tell the order
_IN_FLIGHT = 4  # tasks queued a thread: enough to never wait, few enough for millions of shards
_ASKED_EVERY = 2.0  # seconds from one count of the threads to the next


def score(
    archive: str | os.PathLike[str],
    families: Families,
    client: Client,
    *,
    run: str = "default",
    batch: int = 64,
    mode: Mode = "all",
    decision: Decision | None = None,
    order: Sequence[Sequence[str]] | None = None,
    precision: str | None = None,
    stop: threading.Event | None = None,
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
    mode : {"all", "decide"}
        ``all``: every member looks at every cutout. ``decide``: only while the decision is open, which finds
        the same plausible cutouts for a part of the cost; NaN stands where a member did not look.
    decision : Decision, optional
        What ``decide`` decides; by default a threshold of 0.5 everywhere.
    order : sequence of sequence of str, optional
        Members in the order in which they look, family by family: ``attrs["order"]`` of an earlier run, say. By
        default learned from an earlier run of the same members in this archive, or else from a sample.
        Any order finds the same; it is a matter of cost.
    precision : str, optional
        One of :data:`~deepstreaks_dask.models.forward.PRECISIONS`, ``float32`` by default. What another one does to
        the scores is measured on the first shard: the largest and the mean difference to ``float32`` are in the run's
        ``precision_effect``. A run keeps the one it began with.
    stop : threading.Event, optional
        Once it is set, the shards under way are stored and no others begun.
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
        for another decision or in another precision, the order leaves out a member, or a network gives no number.
    ModelError
        If there is no such precision.
    """
    if mode not in get_args(Mode):
        raise CampaignError(f"no mode {mode!r}: choose one of {', '.join(get_args(Mode))}")
    if mode == "all" and (decision is not None or order is not None):
        raise CampaignError("a decision and an order matter where mode='decide' only: name it")
    if mode == "decide":
        decision = decision or Decision()
    dataset = open_archive(archive)
    url, total, shard = dataset.attrs["url"], dataset.sizes["cutout"], dataset.attrs["shard"]
    if not total:
        raise CampaignError(f"{url} holds no cutouts: ingest some first")
    _check_input(dataset["cutouts"], families)
    stored = _open_run(url, run, families, decision, total, shard, batch, precision)
    todo = list(stored.missing(total, shard))
    members = tuple((member.ref, member.sha256) for member in families.members)
    began = stored.provenance
    whole = Unit(url, run, (), families.zoo, members, began["batch"], began["dtype"])
    if todo and began["dtype"] != "float32" and "precision_effect" not in began:
        looked = replace(whole, shards=tuple(todo[:_IN_FLIGHT]))
        stored.tell(precision_effect=client.submit(measure_precision, looked, pure=False).result())
    failures: list[tuple[int, int, str]] = []
    with (
        beating(client, url, run, stop),
        progress_bar(f"score {run}", sum(b - a for a, b in todo), show=progress) as bar,
    ):
        if decision is None or not todo:
            units = iter([replace(whole, shards=(one,)) for one in todo])
        else:
            plan = _plan(client, replace(whole, shards=tuple(todo)), stored, decision, order)
            size = _shards_a_cascade(client, len(todo), shard)
            together = [tuple(todo[k : k + size]) for k in range(0, len(todo), size)]
            units = iter([replace(whole, shards=shards, cascade=plan) for shards in together])
        room = _Room(client)
        running = as_completed([_submit(client, unit) for unit in islice(units, room.tasks)])
        for future in running:
            if future.cancelled():
                continue
            outcome = future.result()
            bar.advance(outcome.cutouts)
            failures += outcome.failures
            if stop is not None and stop.is_set():
                units = iter(())
                _let_go(client, running)
            for unit in islice(units, max(0, room.tasks - running.count())):
                running.add(_submit(client, unit))
    stored.touch(failures)
    return open_scores(archive, run)


def _let_go(client: Client, running: as_completed) -> None:
    """Cancel the tasks that no worker has been given yet."""
    given = {key for keys in client.processing().values() for key in keys}
    client.cancel([future for future in list(running.futures) if future.key not in given])


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


def _shards_a_cascade(client: Client, shards: int, shard: int) -> int:
    workers = len(client.nthreads()) or 1
    return max(1, min(_CUTOUTS_A_CASCADE // shard, shards // (_TASKS_A_WORKER * workers)))


def _plan(
    client: Client,
    unit: Unit,
    stored: Run,
    decision: Decision,
    order: Sequence[Sequence[str]] | None,
) -> Cascade:
    """Give the cascade of a run: with the order that it keeps, that is given, or that is now learned."""
    provenance = stored.provenance
    models = provenance["models"]
    limits, needed = decision.limits(models), decision.needed(models)
    columns: Order
    if "order" in provenance:
        columns = _columns(provenance["order"], models)
    elif order is not None:
        columns = _columns(order, models)
        if sorted(map(sorted, columns)) != sorted(map(sorted, needed.values())):
            raise CampaignError(
                f"the order {order} is not of the members that decide: give each once, family by family"
            )
    elif (earlier := _decided_alike(unit.url, provenance)) is not None:
        columns = _columns(earlier, models)
    else:
        scores = _scored_in_full(unit.url, provenance)
        # with scores at hand one batch tells the costs
        most = _SAMPLE if scores is None else unit.batch
        some = replace(unit, shards=_sample_of(unit, most))
        looked = client.submit(sample, some, pure=False).result()
        if looked is None:  # nothing can be read: any order will do to say so
            return Cascade(tuple(map(float, limits)), tuple(map(tuple, needed.values())))
        scores = looked.scores if scores is None else scores
        columns = cheapest_order(scores, limits, needed, looked.costs)
    if "order" not in provenance:
        stored.tell(order=[[models[member] for member in family] for family in columns])
    return Cascade(tuple(map(float, limits)), columns)


def _columns(order: Sequence[Sequence[str]], models: list[str]) -> Order:
    try:
        return tuple(tuple(models.index(name) for name in family) for family in order)
    except ValueError as error:
        raise CampaignError(
            f"the order {order} names a member that is not there: {error}"
        ) from None


def _sample_of(unit: Unit, most: int) -> tuple[tuple[int, int], ...]:
    """Choose rows from all over what is to be done: whole batches, and of many rows fewer than one in a hundred."""
    rows = sum(last - first for first, last in unit.shards)
    wanted = unit.batch * max(1, round(min(most, rows // _SAMPLED) / unit.batch))
    size = -(-wanted // _BLOCKS)
    starts = np.cumsum([0, *(last - first for first, last in unit.shards)])
    blocks = []
    for place in range(0, rows, max(size, -(-rows // _BLOCKS))):
        number = int(np.searchsorted(starts, place, side="right")) - 1
        first, last = unit.shards[number]
        begin = first + place - int(starts[number])
        blocks.append((begin, min(begin + size, last)))
    return tuple(blocks)


def _runs_alike(url: str, provenance: dict[str, Any]) -> Iterator[Run]:
    """Give the runs of an archive that have the same members in the same precision."""
    for name in list_runs(url):
        run = Run.attach(url, name)
        has = run.provenance
        if all(has[key] == provenance[key] for key in ("members", "dtype")):
            yield run


def _decided_alike(url: str, provenance: dict[str, Any]) -> list[list[str]] | None:
    """Find the order of an earlier run for the same decision."""
    for run in _runs_alike(url, provenance):
        has = run.provenance
        if has["decided"] == provenance["decided"] and "order" in has:
            found: list[list[str]] = has["order"]
            return found
    return None


def _scored_in_full(url: str, provenance: dict[str, Any]) -> np.ndarray | None:
    """Find scores in an earlier run, float32 (cutout, member), of cutouts that all members looked at."""
    for run in _runs_alike(url, provenance):
        if run.provenance["decided"] is not None:
            continue
        rows, size = run.scores.shape[0], run.scores.chunks[0]
        parts: list[np.ndarray] = []
        for first in range(0, rows, max(size, -(-rows // _BLOCKS) // size * size)):
            try:
                values = np.asarray(run.scores[first : first + min(size, _EARLIER // _BLOCKS)])
            except Exception:  # noqa: S112 - a torn chunk fails in its codec's own way
                continue
            parts.append(values[~np.isnan(values).any(axis=1)])
        if sum(map(len, parts)) >= _SAMPLE:
            return np.concatenate(parts)
    return None


def _submit(client: Client, unit: Unit) -> Any:
    return client.submit(score_unit, unit, pure=False, retries=2)


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
    decision: Decision | None,
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
    if decision is not None:
        needed = {names[k] for columns in decision.needed(names).values() for k in columns}
        limits = {
            name: float(limit)
            for name, limit in zip(names, decision.limits(names), strict=True)
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
        zoo=families.zoo or SHIPPED,
        batch=batch,
        backend=keras.backend.backend(),
        backend_version=version(keras.backend.backend()),
        keras=keras.__version__,
        dtype=precision or "float32",
        deepstreaks_dask=deepstreaks_dask.__version__,
    )
