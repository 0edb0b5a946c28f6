"""Score an archive with every member of every family, on Dask.

The unit of work is one shard. A task reads its cutouts once, runs all members in one compiled forward
pass and writes one chunk of ``runs/<run>/scores``: one object, in one step, that no other task touches. What a
killed campaign has not written is NaN; a rerun computes those shards only, and a score does not depend on
what was computed beside it, so that the result is the same to the last bit.

Of an archive of sequences a shard is a number of whole objects, the members are classifiers, and a task stores the
probabilities of their classes, ``scores(object, member, class)``. An object that cannot be used stays NaN and is named.

In the mode ``decide`` members score only while a decision is open (:mod:`~deepstreaks_dask.scoring.cascade`).
A task then takes several shards, so that the few that are left after the first family still fill batches.

In the mode ``triage`` (:mod:`~deepstreaks_dask.scoring.triage`) a first look comes before: once it has seen
all that is new, each night is tested for drift, what it rejects in the others is marked, and the rest is decided as
above.

:func:`score` plans a campaign (:mod:`~deepstreaks_dask.scoring.plan`) and executes the plan.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import xarray as xr
from dask.distributed import Client, as_completed, wait
from distributed.scheduler import KilledWorker

import deepstreaks_dask
from deepstreaks_dask.archive.dataset import open_archive, shard_bounds
from deepstreaks_dask.archive.retraction import retracted_rows
from deepstreaks_dask.errors import CampaignError, DeepStreaksError, StoppedError
from deepstreaks_dask.scoring.cluster import connect, last_words
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.heartbeat import beating
from deepstreaks_dask.scoring.order import settle_cascade
from deepstreaks_dask.scoring.plan import CampaignOptions, CampaignPlan, Mode, plan_campaign
from deepstreaks_dask.scoring.runs import SHIPPED_ZOO, Run, alone, list_runs, open_run
from deepstreaks_dask.scoring.triage import Triage
from deepstreaks_dask.scoring.worker import (
    Unit,
    describe_backend,
    measure_precision,
    score_unit,
)
from deepstreaks_dask.utils.progress import progress_bar

_TASKS_PER_THREAD = (
    4  # tasks queued a thread: enough to never wait, few enough for millions of shards
)
_THREAD_COUNT_INTERVAL = 2.0  # seconds from one count of the threads to the next
_STOP_CHECK_INTERVAL = 1.0  # seconds from one look at `stop` to the next while no worker answers


def score(
    archive: str | os.PathLike[str],
    *,
    ensemble: Ensemble | None = None,
    client: Client | None = None,
    run: str = "default",
    mode: Mode = "all",
    decision: Decision | None = None,
    options: CampaignOptions | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Score every cutout, or every object with its sequence, that has no scores yet.

    Safe to re-run: what is scored is stored, and the same call resumes where it stopped.

    Parameters
    ----------
    archive : str or path
        Path or URL of the archive; the workers must reach it too.
    ensemble : Ensemble, optional
        Members to run; the newest of the zoo that ships with this package by default.
    client : dask.distributed.Client, optional
        Where to run them, as :func:`~deepstreaks_dask.scoring.cluster.connect` returns it. By default workers are
        started on this machine for this call.
    run : str
        Name of the run that holds the scores. The same name resumes the run.
    mode : {"all", "decide", "triage"}
        ``all``: every member scores every cutout. ``decide``: only while the decision is open, which finds
        the same plausible cutouts for a part of the cost; NaN stands where a member did not score. ``triage``: as
        ``decide``, without the cutouts that a first look rejects, except in nights that drifted.
    decision : Decision, optional
        Of the mode ``decide``; a threshold of 0.5 everywhere by default. A triage has its own.
    options : CampaignOptions, optional
        Batch, triage, order, precision, flips, and an event that stops the campaign.
    progress : bool
        Show count, rate and time left.

    Returns
    -------
    xarray.Dataset
        ``scores(cutout, model)`` or ``scores(object, member, class)`` as
        :func:`~deepstreaks_dask.scoring.runs.open_run` returns it; its provenance ``failures`` lists rows that could not be
        read, ``[first, last, why]``. Where a batch was too large for the memory of a GPU it was halved, and the smallest
        batch scored is in ``attrs["halved"]``: then scores may differ in their last bits from those of whole batches.

    Raises
    ------
    CampaignError
        If the archive is empty or its cutouts, or sequences, are not what a member takes, members tell other classes
        apart than each other, sequences are to be decided, flipped or scored in half precision, the run was made with other
        weights, for another decision, in another precision or without flips, the order leaves out a member, a network
        returns no number, or the workers, the scheduler or the store fail. What is scored by then is stored.
    KeyboardInterrupt
        At Ctrl-C, with a message that says how to resume.
    TriageError
        If the triage was calibrated for other members or another precision.
    ModelError
        If there is no such precision.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> scores = ds.score("week.zarr", run="again")  # with the shipped networks, on this machine
    >>> int(scores["scores"].notnull().all("model").sum())
    60
    >>> with ds.connect("local", workers=1) as client:  # safe to re-run: nothing is scored twice
    ...     scores = ds.score("week.zarr", ensemble=ds.Ensemble.from_zoo(), client=client, run="again")
    """
    options = options or CampaignOptions()
    with _naming_faults(os.fspath(archive), run):
        plan = plan_campaign(
            archive,
            ensemble=ensemble,
            run=run,
            mode=mode,
            decision=decision,
            options=options,
        )
        if client is not None:
            execute(plan, client, stop=options.stop, progress=progress)
        elif plan.finished:
            _prepare_run(plan).touch(())
        else:
            with connect(jobs=len(plan.tasks)) as own:
                execute(plan, own, stop=options.stop, progress=progress)
        return open_run(archive, run)


def execute(
    plan: CampaignPlan,
    client: Client,
    *,
    stop: threading.Event | None = None,
    progress: bool = True,
) -> None:
    """Carry out a plan; the scores are stored in its run.

    Parameters
    ----------
    plan : CampaignPlan
        As :func:`~deepstreaks_dask.scoring.plan.plan_campaign` returns it.
    client : dask.distributed.Client
        Where to run it. The campaign waits for the first worker.
    stop : threading.Event, optional
        Once it is set, the shards under way are stored and no others begun.
    progress : bool
        Show count, rate and time left.

    Raises
    ------
    CampaignError
        If the run was made otherwise meanwhile, a network returns no number, or the workers, the scheduler or the store
        fail. What is scored by then is stored.
    """
    with _naming_faults(plan.archive, plan.run, client):
        stored = _prepare_run(plan)
        with beating(client, plan.archive, plan.run, stop):
            execution = _Execution(plan, client, stored, stop, progress)
            failures = execution.carry_out()
        if execution.halved:
            sizes = [*execution.halved, stored.provenance.get("halved", execution.whole.batch)]
            stored.tell(halved=min(sizes))
        stored.touch(failures)


def _is_not_sync_cancellation(record: logging.LogRecord) -> bool:
    """Drop what Dask logs when Ctrl-C comes before the call that it should cancel has begun.

    ``distributed.utils.sync`` schedules its ``cancel`` all the same, which then fails with a NameError in the event loop;
    perhaps after the campaign has ended, so that the filter stays.
    """
    return "function sync.<locals>.cancel" not in record.getMessage()


@contextmanager
def _naming_faults(url: str, run: str, client: Client | None = None) -> Iterator[None]:
    """Wrap errors from workers, schedulers and stores in a message that names the run and says the scores are safe."""
    safe = "what is scored is stored, and the same command goes on from there"
    logging.getLogger("tornado.application").addFilter(_is_not_sync_cancellation)
    try:
        yield
    except DeepStreaksError:
        raise
    except KeyboardInterrupt as interrupt:
        if interrupt.args:  # said already
            raise
        raise KeyboardInterrupt(f"run {run!r} of {url} was interrupted: {safe}") from None
    except KilledWorker as error:
        log = f"; {words}" if client is not None and (words := last_words(client)) else ""
        raise StoppedError(
            f"run {run!r} of {url} stopped: {error.allowed_failures + 1} workers died over the same cutouts, as they do "
            f"when their memory is full. Give workers more of it; {safe}{log}"
        ) from error
    except Exception as error:  # each has its own
        why = " ".join(str(error).split()) or type(error).__name__
        raise StoppedError(f"run {run!r} of {url} stopped: {why}. Mend this; {safe}") from error


def _prepare_run(plan: CampaignPlan) -> Run:
    """Open the run of a plan, or make it; grow it to the archive's length and clear what is torn."""
    with alone(plan.archive, plan.run):
        if plan.run not in list_runs(plan.archive):
            return Run.create(
                plan.archive,
                plan.run,
                plan.members,
                plan.rows,
                plan.shard,
                classes=plan.classes,
                decided=plan.thresholds,
                triage=plan.triage.to_dict() if plan.triage else None,
                zoo=plan.ensemble.zoo or SHIPPED_ZOO,
                batch=plan.batch,
                dtype=plan.precision,
                flips=plan.flips,
                deepstreaks_dask=deepstreaks_dask.__version__,
            )
        stored = Run.attach(plan.archive, plan.run, write=True)
        provenance = stored.provenance
        plan.check_run(provenance)  # another campaign may have made it since it was planned
        if (provenance["dtype"], provenance["flips"]) != (plan.precision, plan.flips):
            raise CampaignError(
                f"run {plan.run!r} of {plan.archive} was made otherwise by another campaign just now: "
                "give the same command again, or another --run"
            )
        stored.grow(plan.rows)
    stored.clear("scores", plan.todo.torn)
    if plan.first_look.torn:
        stored.clear("first_look", plan.first_look.torn)
    return stored


@dataclass
class _Execution:
    """A plan on its way: on which workers, until when, and whether that is shown."""

    plan: CampaignPlan
    client: Client
    stored: Run
    stop: threading.Event | None
    progress: bool
    halved: set[int] = field(default_factory=set)  # sizes of calls, where batches were too much

    @property
    def stopped(self) -> bool:
        return self.stop is not None and self.stop.is_set()

    @cached_property
    def whole(self) -> Unit:
        """Return all that is the same for every task."""
        provenance = self.stored.provenance
        return Unit(
            self.plan.archive,
            self.plan.run,
            (),
            self.plan.ensemble.zoo,
            tuple((member.ref, member.sha256) for member in self.plan.ensemble.members),
            provenance["batch"],
            provenance["dtype"],
            sequences=bool(self.plan.classes),
            flips=provenance["flips"],
        )

    def carry_out(self) -> list[tuple[int, int, str]]:
        """Score what is left, and return what could not be read."""
        if not self.plan.finished and not self.stopped:
            self._settle_backend()
        if self.plan.triage is not None:
            self._look_first(self.plan.triage)
        if self.stopped or not self.plan.todo.shards:
            return []
        self._measure_precision()
        self.plan = self.plan.with_workers(self.client.nthreads())
        unit = self.whole
        if self.plan.decision is not None:
            cascade = settle_cascade(
                self.client,
                replace(unit, shards=self.plan.todo.shards),
                self.stored,
                self.plan.decision,
                self.plan.order,
            )
            unit = replace(unit, cascade=cascade)
        units = [replace(unit, shards=shards) for shards in self.plan.tasks]
        return self._run_tasks(units, f"score {self.plan.run}")

    def _settle_backend(self) -> None:
        """Store the backend of the workers, or refuse another one than the run's: its scores differ in last bits."""
        has = self._first_backend()
        if has is None:
            return
        was = self.stored.settle("backend", has["backend"])
        if was != has["backend"]:
            raise CampaignError(
                f"run {self.stored.name!r} was begun with {was}, but the workers have {has['backend']}: set "
                f"KERAS_BACKEND={was} for them, or give another --run"
            )
        if "keras" not in self.stored.provenance:
            self.stored.tell(**has)

    def _first_backend(self) -> dict[str, str] | None:
        """Return what the first worker that answers computes with; None if the campaign is stopped before.

        Every worker is asked, so that all of them import their networks' library at once. If none has joined yet, a task
        without a place of its own waits for one: it is what makes an adaptive cluster start workers.
        """
        workers = list(self.client.nthreads())
        if workers:
            asked = [
                self.client.submit(
                    describe_backend, pure=False, workers=worker, allow_other_workers=True
                )
                for worker in workers
            ]
        else:
            self._announce("waiting for workers")
            asked = [self.client.submit(describe_backend, pure=False)]
        while not self.stopped:
            try:
                done = wait(asked, _STOP_CHECK_INTERVAL, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                continue
            answer: dict[str, str] = done.pop().result()
            return answer
        return None

    def _announce(self, text: str) -> None:
        if self.progress:
            print(f"score {self.plan.run}: {text}", file=sys.stderr)

    def _measure_precision(self) -> None:
        """Store the effect of another precision than float32, unless the run has it."""
        provenance = self.stored.provenance
        if provenance["dtype"] != "float32" and "precision_effect" not in provenance:
            some = replace(self.whole, shards=self.plan.todo.shards[:_TASKS_PER_THREAD])
            effect = self.client.submit(measure_precision, some, pure=False).result()
            self.stored.tell(precision_effect=effect)

    def _look_first(self, triage: Triage) -> None:
        """Run the first look on all that is new; then reject what is below the threshold, but in nights that drifted."""
        if self.stopped:
            return
        plan = self.plan
        look = replace(
            self.whole,
            zoo=triage.zoo,
            members=((triage.first, triage.sha256),),
            precision="float32",
            first_look=True,
        )
        units = [replace(look, shards=(one,)) for one in plan.first_look.shards]
        self._run_tasks(units, f"first look {plan.run}")  # failures are listed when members score
        if not self.stopped:
            rows = open_archive(plan.archive, cache=True, retracted=True)
            nights = rows["night"].values[: plan.rows]
            _reject(self.stored, triage, nights, plan.shard)
            self.plan = replace(plan, todo=self.stored.missing(plan.rows, plan.shard))

    def _run_tasks(self, units: Sequence[Unit], label: str) -> list[tuple[int, int, str]]:
        """Run the tasks of units, a few a thread at a time, and return what could not be read."""
        failures: list[tuple[int, int, str]] = []
        rows = sum(last - first for unit in units for first, last in unit.shards)
        waiting = iter(units)
        with progress_bar(label, rows, unit=self.plan.unit, show=self.progress) as bar:
            queue = _QueueLimit(self.client)
            running = as_completed(
                [submit_unit(self.client, unit) for unit in islice(waiting, queue.tasks)]
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
                    _cancel_waiting(self.client, running)
                for unit in islice(waiting, max(0, queue.tasks - running.count())):
                    running.add(submit_unit(self.client, unit))
        return failures


def submit_unit(client: Client, unit: Unit) -> Any:
    """Submit a task.

    Parameters
    ----------
    client : dask.distributed.Client
    unit : Unit
        Shards and members.

    Returns
    -------
    dask.distributed.Future
        Of an :class:`~deepstreaks_dask.scoring.worker.Outcome`.
    """
    return client.submit(score_unit, unit, pure=False, retries=2)


def _reject(stored: Run, triage: Triage, nights: np.ndarray, shard: int) -> None:
    """Mark what the first look rejects, and store which nights drifted."""
    total = len(nights)
    scores = stored.read("first_look", total)
    seen = ~np.isnan(scores) & ~retracted_rows(stored.url, total)
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


def _cancel_waiting(client: Client, running: as_completed) -> None:
    """Cancel the tasks that no worker has been given yet."""
    given = {key for keys in client.processing().values() for key in keys}
    client.cancel([future for future in list(running.futures) if future.key not in given])


class _QueueLimit:
    """How many tasks may be queued, now that workers come and go: as many as :data:`_TASKS_PER_THREAD` a thread."""

    def __init__(self, client: Client) -> None:
        self._client, self._asked, self._tasks = client, -np.inf, 0

    @property
    def tasks(self) -> int:
        if time.monotonic() - self._asked > _THREAD_COUNT_INTERVAL:
            self._tasks = _TASKS_PER_THREAD * (sum(self._client.nthreads().values()) or 1)
            self._asked = time.monotonic()
        return self._tasks
