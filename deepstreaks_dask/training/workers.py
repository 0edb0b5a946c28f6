"""Trainings on Dask workers: one network at a time on each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from dask.distributed import Client, Reschedule, as_completed
from distributed.scheduler import KilledWorker

from deepstreaks_dask.errors import TrainingError

_Job = TypeVar("_Job")

_at_work = threading.Lock()  # held by what trains on a worker, whatever its threads
_WORKER_TIMEOUT = 0.5  # seconds until a worker is looked for anew


def on_workers(
    client: Client, work: Callable[[_Job], Any], jobs: Iterator[_Job]
) -> Iterator[tuple[_Job, Any]]:
    """Run jobs on workers, one training at a time on each.

    Parameters
    ----------
    client : dask.distributed.Client
        Where to train.
    work : callable
        Trains one job in a folder that the workers share; resumes a job that a killed worker has begun.
    jobs : iterator
        Jobs; each is taken when a worker is free.

    Yields
    ------
    job, object
        Each job with its result, as the jobs are done.

    Raises
    ------
    TrainingError
        If several workers died over one job; errors of ``work`` are raised unchanged.
    """
    running: dict[Any, _Job] = {}

    def submit() -> Any:
        for job in jobs:
            # No worker is named: Dask never runs again what was meant for one that died while there was no other.
            # A job whose worker dies is done by another, which goes on from the checkpoint.
            future = client.submit(_alone, work, job, pure=False, retries=2)
            running[future.key] = job
            return future
        return None

    first = [submit() for _ in client.nthreads()]
    futures = as_completed([future for future in first if future is not None])
    for future in futures:
        try:
            result = future.result()
        except KilledWorker as error:
            raise TrainingError(
                f"{error.allowed_failures + 1} workers died over the same training, as they do when their memory is full: "
                "start fewer of them (--workers); what is trained is stored, and the same command goes on from there"
            ) from error
        yield running.pop(future.key), result
        if (following := submit()) is not None:
            futures.add(following)


def _alone(work: Callable[[_Job], Any], job: _Job) -> Any:
    """Train, or let Dask find a worker that does not train yet."""
    if not _at_work.acquire(blocking=False):
        time.sleep(_WORKER_TIMEOUT)
        raise Reschedule
    try:
        return work(job)
    finally:
        _at_work.release()
