"""Carry out a campaign's plan: submit its tasks to whatever workers there are, and wait for what comes back."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from dask.distributed import Client, Future, as_completed, wait

from deepstreaks_dask.archive.dataset import open_archive, shard_bounds
from deepstreaks_dask.archive.retraction import retracted_rows
from deepstreaks_dask.errors import CampaignError
from deepstreaks_dask.scoring.attendance import Attendance
from deepstreaks_dask.scoring.machine import describe_worker
from deepstreaks_dask.scoring.order import settle_cascade
from deepstreaks_dask.scoring.plan import CampaignPlan
from deepstreaks_dask.scoring.rates import WorkerRates
from deepstreaks_dask.scoring.runs import Run
from deepstreaks_dask.scoring.triage import Triage
from deepstreaks_dask.scoring.worker import (
    Outcome,
    Unit,
    measure_precision,
    score_unit,
    time_precision,
)
from deepstreaks_dask.utils.progress import Bar, progress_bar

_TASKS_PER_THREAD = (
    4  # tasks queued a thread: enough to never wait, few enough for millions of shards
)
_THREAD_COUNT_INTERVAL = 2.0  # seconds from one count of the threads to the next
_WAIT_STEP = 0.5  # seconds from one look at `stop` to the next while a single result is awaited
_IDLE_STEP = 0.02  # the same, while many are
_FETCH_TIMEOUT = 2.0  # seconds for a result to come; those that need longer are asked for again
_RECORD_INTERVAL = 30.0  # seconds from one record of new workers to the next
_SLOWER = 1.2  # times as slow as float32: less may be chance


class _NotThereError(Exception):
    """A result has left with its worker, or is slow to come."""


class _StoppedEarly(Exception):  # noqa: N818 - no error: somebody asked for it
    """The campaign was stopped while it waited for a single result."""


@dataclass
class Execution:
    """A plan on its way.

    Parameters
    ----------
    plan : CampaignPlan
    client : dask.distributed.Client
    attendance : Attendance
        The client's workers.
    stop : threading.Event, optional
        Ends the campaign once the shards under way are stored.
    progress : bool
        Show count, rate, workers and time left.
    verbose : bool
        Print the plan, Dask's dashboard and each worker's rate.
    """

    plan: CampaignPlan
    client: Client
    attendance: Attendance
    stop: threading.Event | None
    progress: bool
    verbose: bool = False
    halved: set[int] = field(default_factory=set)  # sizes of calls, where batches were too much
    rates: WorkerRates = field(default_factory=WorkerRates)

    @property
    def stopped(self) -> bool:
        """Whether the campaign was asked to stop."""
        return self.stop is not None and self.stop.is_set()

    @property
    def whole(self) -> Unit:
        """All that is the same for every task."""
        plan = self.plan
        return Unit(
            plan.archive,
            plan.run,
            (),
            plan.ensemble.zoo,
            tuple((member.ref, member.sha256) for member in plan.ensemble.members),
            plan.batch,
            plan.precision,
            sequences=bool(plan.classes),
            flips=plan.flips,
        )

    def check_precision(self) -> None:
        """Refuse a new run in a precision that is slower on the workers than float32; nothing is changed in the store.

        Raises
        ------
        CampaignError
            How many times slower it is, and how to force it.
        """
        shards, precision = self.plan.todo.shards[:_TASKS_PER_THREAD], self.plan.precision
        if precision == "float32" or self.plan.resumes or not shards or self.stopped:
            return
        try:
            took = self._result(
                self.client.submit(
                    time_precision, replace(self.whole, shards=shards), pure=False, retries=2
                )
            )
        except _StoppedEarly:
            return
        if took is not None and took[precision] > _SLOWER * took["float32"]:
            times = took[precision] / took["float32"]
            raise CampaignError(
                f"{precision} is {times:.2g} times slower than float32 on these workers "
                f"({1e3 * took[precision]:.3g} ms a cutout, not {1e3 * took['float32']:.3g}): leave --precision out, or "
                "add --force-precision"
            )

    def carry_out(self, stored: Run) -> list[tuple[int, int, str]]:
        """Score what is left.

        Parameters
        ----------
        stored : Run
            The plan's run.

        Returns
        -------
        list of (int, int, str)
            Rows that could not be read, ``[first, last)``, and why.
        """
        # another campaign may have made the run meanwhile, with other batches
        self.plan = replace(self.plan, batch=stored.provenance["batch"])
        self._describe()
        try:
            return self._carry_out(stored)
        except _StoppedEarly:
            return []
        finally:
            if self.rates.machines:
                stored.add_workers(self.rates.new_machines())
            if self.verbose:
                self._print(str(self.rates))

    def _carry_out(self, stored: Run) -> list[tuple[int, int, str]]:
        if not self.plan.finished and not self.stopped:
            self._settle_backend(stored)
        if self.plan.triage is not None:
            self._look_first(stored, self.plan.triage)
        if self.stopped or not self.plan.todo.shards:
            return []
        self._measure_precision(stored)
        self.plan = self.plan.with_workers(self.client.nthreads())
        unit = self.whole
        if self.plan.decision is not None:
            cascade = settle_cascade(
                self.client,
                replace(unit, shards=self.plan.todo.shards),
                stored,
                self.plan.decision,
                self.plan.order,
                self._result,
            )
            unit = replace(unit, cascade=cascade)
        units = [replace(unit, shards=shards) for shards in self.plan.tasks]
        return self._run_tasks(stored, units, f"score {self.plan.run}")

    def _describe(self) -> None:
        if self.verbose:
            self._print(str(self.plan))
            self._print(f"Dask's dashboard: {self.client.dashboard_link or 'none'}")

    def _print(self, text: str) -> None:
        if text:
            print(text, file=sys.stderr)

    def _result(self, future: Future) -> Any:
        """Return the result of a task, once there is a worker for it."""
        return self._first_result([future])

    def _first_result(self, futures: list[Future]) -> Any:
        """Return the first result of some tasks, as long as the campaign is not stopped and may wait for workers."""
        while not self.stopped:
            self.attendance.check()
            try:
                done = wait(futures, _WAIT_STEP, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                continue
            with suppress(_NotThereError):
                return _fetch(done.pop())
        self.client.cancel(futures)
        raise _StoppedEarly

    def _settle_backend(self, stored: Run) -> None:
        """Store the backend of the workers, or refuse another one than the run's: its scores differ in last bits."""
        machine = self._first_machine()
        was = stored.settle("backend", machine["backend"])
        if was != machine["backend"]:
            raise CampaignError(
                f"run {stored.name!r} was begun with {was}, but the workers have {machine['backend']}: set "
                f"KERAS_BACKEND={was} for them, or give another --run"
            )
        if "keras" not in stored.provenance:
            stored.tell(**{name: machine[name] for name in ("backend_version", "keras")})

    def _first_machine(self) -> dict[str, str]:
        """Return what the first worker that answers computes with.

        Every worker is asked, so that all of them import their networks' library at once. If none has joined yet, a task
        without a place of its own waits for one: it is what makes an adaptive cluster start workers.
        """
        ask = {"pure": False, "retries": 2}
        workers = list(self.client.nthreads())
        asked = [
            self.client.submit(describe_worker, workers=worker, allow_other_workers=True, **ask)
            for worker in workers
        ] or [self.client.submit(describe_worker, **ask)]
        machine: dict[str, str] = self._first_result(asked)
        return machine

    def _measure_precision(self, stored: Run) -> None:
        """Store the effect of another precision than float32, unless the run has it."""
        provenance = stored.provenance
        if provenance["dtype"] != "float32" and "precision_effect" not in provenance:
            some = replace(self.whole, shards=self.plan.todo.shards[:_TASKS_PER_THREAD])
            effect = self._result(self.client.submit(measure_precision, some, pure=False))
            stored.tell(precision_effect=effect)

    def _look_first(self, stored: Run, triage: Triage) -> None:
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
        # failures are listed when members score
        self._run_tasks(stored, units, f"first look {plan.run}")
        if not self.stopped:
            rows = open_archive(plan.archive, cache=True, retracted=True)
            nights = rows["night"].values[: plan.rows]
            _reject(stored, triage, nights, plan.shard)
            self.plan = replace(plan, todo=stored.missing(plan.rows, plan.shard))

    def _run_tasks(
        self, stored: Run, units: Sequence[Unit], label: str
    ) -> list[tuple[int, int, str]]:
        """Run the tasks of units, a few a thread at a time, and return what could not be read."""
        failures: list[tuple[int, int, str]] = []
        rows = sum(last - first for unit in units for first, last in unit.shards)
        waiting = iter(units)
        with progress_bar(label, rows, unit=self.plan.unit, show=self.progress) as bar:
            queue = _QueueLimit(self.client)
            bar.tick(self._count())
            running = as_completed(
                [submit_unit(self.client, unit) for unit in islice(waiting, queue.tasks)]
            )
            while not running.is_empty():
                done = running.next_batch(block=False)
                for future in done:
                    try:
                        failures += self._take(future, bar)
                    except _NotThereError:  # its worker left with it: it is computed again
                        running.add(future)
                if self.stopped:
                    waiting = iter(())
                for unit in islice(waiting, max(0, queue.tasks - running.count())):
                    running.add(submit_unit(self.client, unit))
                if self.attendance.check():
                    self._look_around(stored, running, bar)
                if not done:
                    time.sleep(_IDLE_STEP)
        return failures

    def _count(self) -> str:
        count = len(self.attendance)
        return f"{count} worker{'s' * (count != 1)}"

    def _take(self, future: Future, bar: Bar) -> tuple[tuple[int, int, str], ...]:
        """Take what a task has returned; return what it could not read."""
        if future.cancelled():
            if self.stopped:
                return ()
            raise ConnectionError("the connection to the scheduler broke")
        outcome: Outcome = _fetch(future)
        bar.advance(outcome.cutouts)
        self.rates.add(outcome)
        self.halved.update(filter(None, [outcome.size]))
        return outcome.failures

    def _look_around(self, stored: Run, running: as_completed, bar: Bar) -> None:
        """Do what is done once a second: stop what waits, show a line, record new workers."""
        if self.stopped:
            _cancel_waiting(self.client, running)
        bar.tick(self._count())
        if machines := self.rates.new_machines(_RECORD_INTERVAL):
            stored.add_workers(machines)


def _fetch(future: Future) -> Any:
    """Return the result of a task that was done a moment ago."""
    if future.status == "error":
        return future.result()  # raises what the task raised, which may be a TimeoutError, too
    try:
        return future.result(timeout=_FETCH_TIMEOUT)
    except TimeoutError:
        if future.status == "error":
            raise
        raise _NotThereError from None


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
