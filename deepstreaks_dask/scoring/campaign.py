"""Score an archive with every member of every family, on Dask.

The unit of work is one shard. A task reads its cutouts once, runs all members in one compiled forward
pass and writes one chunk of ``runs/<run>/scores``: one object, in one step, that no other task touches. What a
killed campaign has not written is NaN; a rerun computes those shards only, and a score does not depend on
what was computed beside it, so that the result is the same to the last bit.

Of an archive of sequences a shard is a number of whole objects, the members are classifiers, and a task stores the
probabilities of their classes, ``scores(object, member, class)``. An object that cannot be used stays NaN and is named.

In the mode ``decide`` members look only while a decision is open (:mod:`~deepstreaks_dask.scoring.cascade`).
A task then takes
several shards, so that the few that are left after the first family still fill batches.

In the mode ``triage`` (:mod:`~deepstreaks_dask.scoring.triage`) a first look comes before: once it has seen
all that is new, each
night is tested for drift, what it rejects in the others is marked, and the rest is decided as above.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr
from dask.distributed import Client, as_completed
from distributed.scheduler import KilledWorker

import deepstreaks_dask
from deepstreaks_dask.archive.dataset import open_archive, shard_bounds
from deepstreaks_dask.errors import CampaignError, DeepStreaksError, StoppedError, TriageError
from deepstreaks_dask.models.registry import check_precision
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring.cascade import Cascade, Order, cheapest_order
from deepstreaks_dask.scoring.decision import Decision, family_of
from deepstreaks_dask.scoring.families import Families
from deepstreaks_dask.scoring.heartbeat import beating
from deepstreaks_dask.scoring.runs import SHIPPED_ZOO, Run, alone, list_runs, open_run
from deepstreaks_dask.scoring.triage import Triage
from deepstreaks_dask.scoring.worker import (
    Unit,
    describe_backend,
    measure_precision,
    sample,
    score_unit,
)
from deepstreaks_dask.utils.progress import progress_bar

Mode = Literal["all", "decide", "triage"]
"""Every member looks at every cutout; or only while the decision is open; or at what a first look does not reject."""

_CUTOUTS_PER_CASCADE = 4096  # so many at once that what the first family leaves still fills batches
_STAMPS_PER_TASK = 32_768  # of sequences, about: 60 MB that are read at once
_TASKS_PER_WORKER = 2  # at least, where there are shards enough
_MAX_SAMPLE_SIZE = 512  # cutouts that tell the order, at most
_SAMPLE_STRIDE = 128  # one in so many
_SAMPLE_BLOCKS = 8  # pieces of the archive that the sample comes from
_EARLIER_ROWS = 8192  # rows of an earlier run that tell the order
_TASKS_PER_THREAD = (
    4  # tasks queued a thread: enough to never wait, few enough for millions of shards
)
_THREAD_COUNT_INTERVAL = 2.0  # seconds from one count of the threads to the next


def score(
    archive: str | os.PathLike[str],
    families: Families,
    client: Client,
    *,
    run: str = "default",
    batch: int = 64,
    mode: Mode = "all",
    decision: Decision | None = None,
    triage: Triage | None = None,
    order: Sequence[Sequence[str]] | None = None,
    precision: str | None = None,
    flips: bool = False,
    stop: threading.Event | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Score every cutout, or every object with its sequence, that has no scores yet.

    Parameters
    ----------
    archive : str or path
        Path or URL of the archive; the workers must reach it too.
    families : Families
        Whose members to run.
    client : dask.distributed.Client
        Where to run them, as :func:`~deepstreaks_dask.scoring.cluster.connect` gives it.
    run : str
        Name of the run that holds the scores. The same name goes on with it.
    batch : int
        Cutouts in a forward pass. A run keeps the one it began with. Sequences are batched by their lengths.
    mode : {"all", "decide", "triage"}
        ``all``: every member looks at every cutout. ``decide``: only while the decision is open, which finds
        the same plausible cutouts for a part of the cost; NaN stands where a member did not look. ``triage``: so
        too, and not at all at what a first look rejects, but for nights that drifted.
    decision : Decision, optional
        What ``decide`` decides; by default a threshold of 0.5 everywhere. A triage has its own.
    triage : Triage, optional
        Of the mode ``triage``, as :func:`~deepstreaks_dask.training.distillation.fit_triage` makes it. A run
        keeps the one it began with,
        which need not be given again.
    order : sequence of sequence of str, optional
        Members in the order in which they look, family by family: the ``order`` of an earlier run, say. By
        default a triage's, or learned from an earlier run of the same members in this archive, or else from a
        sample. Any order finds the same; it is a matter of cost.
    precision : str, optional
        One of :data:`~deepstreaks_dask.models.registry.PRECISIONS`, ``float32`` by default. What another one does to
        the scores is measured on the first shard: the largest and the mean difference to ``float32`` are in the run's
        ``precision_effect``. A run keeps the one it began with.
    flips : bool
        A score is the mean of a network's scores of the cutout and of its three flips, for four times the work. A run that
        began so goes on so.
    stop : threading.Event, optional
        Once it is set, the shards under way are stored and no others begun.
    progress : bool
        Show count, rate and time left.

    Returns
    -------
    xarray.Dataset
        As :func:`~deepstreaks_dask.scoring.runs.open_run` gives it; its provenance ``failures`` lists rows that
        could not be read,
        ``[first, last, why]``. Where a batch was too much for the memory of a GPU it was halved, and the smallest that
        was scored at once is in ``attrs["halved"]``: then scores may differ in their last bits from those of whole batches.

    Raises
    ------
    CampaignError
        If the archive is empty or its cutouts, or sequences, are not what a member takes, members tell other classes
        apart than each other, sequences are to be decided, flipped or scored in half precision, the run was made with other
        weights, for another decision, in another precision or without flips, the order leaves out a member, a network
        gives no number, or the workers, the scheduler or the store fail. What is scored by then is stored; the same
        call goes on.
    TriageError
        If the triage was calibrated for other members or another precision.
    ModelError
        If there is no such precision.
    """
    if mode not in get_args(Mode):
        raise CampaignError(f"no mode {mode!r}: choose one of {', '.join(get_args(Mode))}")
    if mode == "all" and order is not None:
        raise CampaignError("an order matters to the modes 'decide' and 'triage' only: name one")
    if mode != "decide" and decision is not None:
        raise CampaignError("a decision is for the mode 'decide': name it (a triage has its own)")
    if mode != "triage" and triage is not None:
        raise CampaignError("a triage is for the mode 'triage': name it")
    if mode == "triage" and flips:
        raise CampaignError("a triage is calibrated on scores without flips: score all without one")
    dataset = open_archive(archive, cache=True)
    url, total, shard = dataset.attrs["url"], dataset["id"].size, dataset.attrs["shard"]
    if not total:
        raise CampaignError(f"{url} holds no cutouts: ingest some first")
    classes = _check_input(dataset, families)
    if classes and (mode != "all" or flips or precision not in (None, "float32")):
        raise CampaignError(
            f"{url} holds sequences: they are scored in the mode 'all', in float32 and as they are, since a classifier "
            "of sequences makes no decision"
        )
    if mode == "decide":
        decision = decision or Decision()
    if mode == "triage":
        triage = _triage_of(url, run, triage)
        _check_triage(triage, families, precision or "float32")
        decision = Decision(triage.limits)
        order = order or triage.order
    members = tuple((member.ref, member.sha256) for member in families.members)
    with _naming_faults(url, run):
        with alone(url, run):
            stored = _open_run(
                url, run, families, classes, decision, triage, total, shard, batch, precision, flips
            )
        began = stored.provenance
        whole = Unit(
            url,
            run,
            (),
            families.zoo,
            members,
            began["batch"],
            began["dtype"],
            sequences=bool(classes),
            flips=began["flips"],
        )
        work = _Work(client, stop, progress)
        with beating(client, url, run, stop):
            if triage is not None:
                if not work.stopped and any(stored.missing(total, shard)):  # reads up to the first
                    _tell_backend(stored, client)
                _look_first(work, whole, stored, triage, dataset["night"].values, shard)
            todo = [] if work.stopped else list(stored.missing(total, shard))
            if todo and triage is None:
                _tell_backend(stored, client)
            if todo and began["dtype"] != "float32" and "precision_effect" not in began:
                looked = replace(whole, shards=tuple(todo[:_TASKS_PER_THREAD]))
                effect = client.submit(measure_precision, looked, pure=False).result()
                stored.tell(precision_effect=effect)
            if classes:
                together = _stretches(client, todo, dataset["epochs"].values)
                units = [replace(whole, shards=shards) for shards in together]
            elif decision is None or not todo:
                units = [replace(whole, shards=(one,)) for one in todo]
            else:
                plan = _plan(client, replace(whole, shards=tuple(todo)), stored, decision, order)
                size = _shards_a_cascade(client, len(todo), shard)
                together = [tuple(todo[k : k + size]) for k in range(0, len(todo), size)]
                units = [replace(whole, shards=shards, cascade=plan) for shards in together]
            failures = work.do(units, f"score {run}")
        if work.halved:
            sizes = [*work.halved, stored.provenance.get("halved", began["batch"])]
            stored.tell(halved=min(sizes))
        stored.touch(failures)
        return open_run(archive, run)


@contextmanager
def _naming_faults(url: str, run: str) -> Iterator[None]:
    """Say of whatever workers, schedulers and stores raise what it stopped, and that the rest is safe."""
    safe = "what is scored is stored, and the same command goes on from there"
    try:
        yield
    except DeepStreaksError:
        raise
    except KilledWorker as error:
        raise StoppedError(
            f"run {run!r} of {url} stopped: {error.allowed_failures + 1} workers died over the same cutouts, as they do "
            f"when their memory is full. Give workers more of it; {safe}"
        ) from error
    except Exception as error:  # each has its own
        why = " ".join(str(error).split()) or type(error).__name__
        raise StoppedError(f"run {run!r} of {url} stopped: {why}. Mend this; {safe}") from error


@dataclass(frozen=True)
class _Work:
    """How units are done: on which workers, until when, and whether that is shown."""

    client: Client
    stop: threading.Event | None
    progress: bool
    halved: set[int] = field(default_factory=set)  # sizes of calls, where batches were too much

    @property
    def stopped(self) -> bool:
        return self.stop is not None and self.stop.is_set()

    def do(self, units: Sequence[Unit], what: str) -> list[tuple[int, int, str]]:
        """Have units done, a few a thread at a time, and give what failed."""
        failures: list[tuple[int, int, str]] = []
        rows = sum(last - first for unit in units for first, last in unit.shards)
        counted = "objects" if any(unit.sequences for unit in units) else "cutouts"
        waiting = iter(units)
        with progress_bar(what, rows, unit=counted, show=self.progress) as bar:
            room = _Room(self.client)
            running = as_completed(
                [_submit(self.client, unit) for unit in islice(waiting, room.tasks)]
            )
            for future in running:
                if future.cancelled():
                    if self.stopped:
                        continue
                    raise ConnectionError("the connection to the scheduler broke")
                outcome = future.result()
                bar.advance(outcome.cutouts)
                failures += outcome.failures
                self.halved.update(filter(None, [outcome.size]))
                if self.stopped:
                    waiting = iter(())
                    _let_go(self.client, running)
                for unit in islice(waiting, max(0, room.tasks - running.count())):
                    running.add(_submit(self.client, unit))
        return failures


def _let_go(client: Client, running: as_completed) -> None:
    """Cancel the tasks that no worker has been given yet."""
    given = {key for keys in client.processing().values() for key in keys}
    client.cancel([future for future in list(running.futures) if future.key not in given])


class _Room:
    """How many tasks may be queued, now that workers come and go: as many as :data:`_TASKS_PER_THREAD` a thread."""

    def __init__(self, client: Client) -> None:
        self._client, self._asked, self._tasks = client, -np.inf, 0

    @property
    def tasks(self) -> int:
        if time.monotonic() - self._asked > _THREAD_COUNT_INTERVAL:
            self._tasks = _TASKS_PER_THREAD * (sum(self._client.nthreads().values()) or 1)
            self._asked = time.monotonic()
        return self._tasks


def _triage_of(url: str, name: str, given: Triage | None) -> Triage:
    """Give the triage that a run began with, or is to begin with."""
    if name in list_runs(url):
        has = Run.attach(url, name).provenance["triage"]
        if has is None or (given is not None and given != Triage.from_dict(has)):
            what = "another triage" if has else "no triage"
            raise CampaignError(f"run {name!r} of {url} was made with {what}: give another --run")
        return Triage.from_dict(has)
    if given is None:
        raise CampaignError("the mode 'triage' needs one: make it with 'deepstreaks triage fit'")
    return given


def _check_triage(triage: Triage, families: Families, precision: str) -> None:
    """Refuse members whose acceptance a triage knows nothing of."""
    have = {member.ref: member.sha256 for member in families.members}
    if have != dict(triage.members):
        raise TriageError(
            f"the triage was calibrated for other members ({', '.join(triage.members)}): "
            "calibrate one for these, or name those"
        )
    if precision != triage.dtype:
        raise TriageError(f"the triage was calibrated in {triage.dtype}, not in {precision}")


def _look_first(
    work: _Work, unit: Unit, stored: Run, triage: Triage, nights: np.ndarray, shard: int
) -> None:
    """Have the first look at all that is new; then reject what is below the threshold, but in nights that drifted."""
    total = len(nights)
    look = replace(
        unit,
        zoo=triage.zoo,
        members=((triage.first, triage.sha256),),
        precision="float32",
        first_look=True,
    )
    units = [replace(look, shards=(one,)) for one in stored.unseen(total, shard)]
    work.do(units, f"first look {unit.run}")  # what cannot be read is named when members look
    if work.stopped:
        return
    scores = stored.read("first_look", total)
    seen = ~np.isnan(scores)
    drift = {
        int(night): triage.drift(scores[mine])
        for night in np.unique(nights)
        if (mine := seen & (nights == night)).any()
    }
    # a night that drifted stays so, whatever is appended: its cutouts are not rejected any more
    drifted = {night for night, share in drift.items() if share <= triage.level}
    drifted |= set(stored.provenance.get("drifted", []))
    stored.tell(
        drift={str(night): share for night, share in drift.items()}, drifted=sorted(drifted)
    )
    rejected = seen & (scores < np.float32(triage.threshold)) & ~np.isin(nights, list(drifted))
    for first, last in shard_bounds(total, shard):
        if (stored.kept(first, last) == rejected[first:last]).any():
            stored.rejected[first:last] = rejected[first:last]


def _stretches(
    client: Client, todo: Sequence[tuple[int, int]], epochs: np.ndarray
) -> list[tuple[tuple[int, int], ...]]:
    """Put shards of sequences together to tasks of about as many stamps, equally many for each thread."""
    threads = sum(client.nthreads().values()) or 1
    stamps = np.array([int(epochs[first:last].sum()) for first, last in todo])
    ends, total = np.cumsum(stamps), max(int(stamps.sum()), 1)
    each = max(-(-total // (_STAMPS_PER_TASK * threads)), _TASKS_PER_WORKER)
    tasks = min(len(todo), each * threads)
    # the task in whose share of all stamps a shard's middle lies
    task = (ends - stamps / 2) * tasks // total
    edges = np.flatnonzero(np.diff(task)) + 1
    return [tuple(todo[a:b]) for a, b in pairwise([0, *edges, len(todo)]) if a < b]


def _shards_a_cascade(client: Client, shards: int, shard: int) -> int:
    workers = len(client.nthreads()) or 1
    return max(1, min(_CUTOUTS_PER_CASCADE // shard, shards // (_TASKS_PER_WORKER * workers)))


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
        columns = learn_order(client, unit, decision, models, _scored_in_full(unit.url, provenance))
    # another campaign may have learned one at the same time
    names = stored.settle("order", [[models[member] for member in family] for family in columns])
    return Cascade(tuple(map(float, limits)), _columns(names, models))


def learn_order(
    client: Client,
    unit: Unit,
    decision: Decision,
    models: list[str],
    scores: np.ndarray | None = None,
) -> Order:
    """Find the cheapest order of the members, whose costs a sample tells.

    Parameters
    ----------
    client : dask.distributed.Client
        Where the sample is looked at.
    unit : Unit
        The members, and the shards that the sample comes from.
    decision : Decision
        What they decide.
    models : list of str
        Their names.
    scores : ndarray, optional
        Complete scores of cutouts such as are to be decided, float32 ``(cutout, member)``; those of the sample by default,
        which is larger then.

    Returns
    -------
    Order
        Columns of ``models``, family by family; as they come if nothing of the sample can be read.
    """
    limits, needed = decision.limits(models), decision.needed(models)
    # with scores at hand one batch tells the costs
    some = replace(
        unit, shards=_sample_of(unit, _MAX_SAMPLE_SIZE if scores is None else unit.batch)
    )
    looked = client.submit(sample, some, pure=False).result()
    if looked is None:
        return tuple(map(tuple, needed.values()))
    return cheapest_order(looked.scores if scores is None else scores, limits, needed, looked.costs)


def _columns(order: Sequence[Sequence[str]], models: list[str]) -> Order:
    try:
        return tuple(tuple(models.index(name) for name in family) for family in order)
    except ValueError as error:
        raise CampaignError(
            f"the order {order} names a member that is not there: {error}"
        ) from None


def _sample_of(unit: Unit, most: int) -> tuple[tuple[int, int], ...]:
    """Choose rows from all over what is to be done: whole batches, and of many rows fewer than one in a hundred."""
    rows = np.concatenate([np.arange(first, last) for first, last in unit.shards])
    wanted = unit.batch * max(1, round(min(most, len(rows) // _SAMPLE_STRIDE) / unit.batch))
    size = -(-wanted // _SAMPLE_BLOCKS)
    blocks = np.array_split(rows, _SAMPLE_BLOCKS)
    starts = [int(block[0]) for block in blocks if len(block)]
    return tuple((start, min(start + size, int(rows[-1]) + 1)) for start in starts)


def _runs_alike(url: str, provenance: dict[str, Any]) -> Iterator[Run]:
    """Give the runs of an archive that have the same members in the same precision."""
    for name in list_runs(url):
        run = Run.attach(url, name)
        has = run.provenance
        # what a triage keeps is another mixture of cutouts, and has its own order
        if all(has[key] == provenance[key] for key in ("members", "dtype", "flips", "triage")):
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
        for first in range(0, rows, max(size, -(-rows // _SAMPLE_BLOCKS) // size * size)):
            try:
                values = np.asarray(
                    run.scores[first : first + min(size, _EARLIER_ROWS // _SAMPLE_BLOCKS)]
                )
            except Exception:  # noqa: S112 - a torn chunk fails in its codec's own way
                continue
            parts.append(values[~np.isnan(values).any(axis=1)])
        if sum(map(len, parts)) >= _MAX_SAMPLE_SIZE:
            return np.concatenate(parts)
    return None


def _tell_backend(stored: Run, client: Client) -> None:
    """Write down what the workers compute with, or refuse to go on with another library: its scores differ in last bits."""
    # every worker is asked and the first answer taken, so that all of them import their networks' library at once
    asked = [
        client.submit(describe_backend, pure=False, workers=worker, allow_other_workers=True)
        for worker in client.nthreads() or [None]
    ]
    has = next(as_completed(asked)).result()
    was = stored.settle("backend", has["backend"])
    if was != has["backend"]:
        raise CampaignError(
            f"run {stored.name!r} was begun with {was}, but the workers have {has['backend']}: set "
            f"KERAS_BACKEND={was} for them, or give another --run"
        )
    if "keras" not in stored.provenance:
        stored.tell(**has)


def _submit(client: Client, unit: Unit) -> Any:
    return client.submit(score_unit, unit, pure=False, retries=2)


def _check_input(dataset: xr.Dataset, families: Families) -> tuple[str, ...]:
    """Refuse, before any work, members that take something else than the archive has; give the classes of sequences."""
    cutouts, store = dataset["cutouts"], Zoo(families.zoo)
    sequences = "object" in dataset.sizes
    shape = (*cutouts.shape[1:], 1)[:3]
    cards = [store.card(member.ref) for member in families.members]
    for card in cards:
        if bool(card.classes) != sequences:
            takes, has = ("sequences", "single cutouts")[:: 1 if card.classes else -1]
            raise CampaignError(
                f"{card.ref} takes {takes}, but the archive has {has}: score it with other families"
            )
        if card.classes != cards[0].classes:
            raise CampaignError(
                f"{card.ref} tells other classes apart ({', '.join(card.classes)}) than {cards[0].ref} "
                f"({', '.join(cards[0].classes)}): score them as two runs"
            )
        only_bytes = card.scaling == "bytes" and not sequences
        if card.takes(shape[:2]) != shape or (only_bytes and cutouts.dtype != np.uint8):
            wants = "uint8" if only_bytes else "numbers"
            raise CampaignError(
                f"{card.ref} takes cutouts of {wants} {card.input_shape}, but the archive has "
                f"{cutouts.dtype} {shape}: score it with other families"
            )
    return cards[0].classes if cards else ()


def _open_run(
    url: str,
    name: str,
    families: Families,
    classes: tuple[str, ...],
    decision: Decision | None,
    triage: Triage | None,
    total: int,
    shard: int,
    batch: int,
    precision: str | None,
    flips: bool,
) -> Run:
    """Open the run to go on with it, or make it; grow it to the archive's length."""
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
        if (has["triage"] is None) != (triage is None):
            what = "no triage" if triage else "a triage"
            raise CampaignError(f"run {name!r} of {url} was made with {what}: give another --run")
        if (decided := has["decided"]) != limits:
            what = f"decides at {decided} only" if decided else "holds all scores"
            raise CampaignError(f"run {name!r} of {url} {what}: give another --run")
        if precision not in (None, has["dtype"]):
            raise CampaignError(
                f"run {name!r} of {url} was made in {has['dtype']}: give another --run"
            )
        if flips and not has["flips"]:
            raise CampaignError(f"run {name!r} of {url} was made without flips: give another --run")
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
        classes=classes,
        decided=limits,
        triage=triage.to_dict() if triage else None,
        zoo=families.zoo or SHIPPED_ZOO,
        batch=batch,
        dtype=precision or "float32",
        flips=flips,
        deepstreaks_dask=deepstreaks_dask.__version__,
    )
