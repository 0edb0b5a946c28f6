"""One training a worker: whatever a worker's threads, and whoever dies."""

import os
import signal
import threading
import time

import dask
import pytest
from dask.distributed import Client

from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.scoring.cluster import connect
from deepstreaks_dask.training.workers import on_workers

at_once: list[int] = []
under_way = threading.Semaphore(100)


def train(job):
    under_way.acquire()
    at_once.append(100 - under_way._value)
    time.sleep(0.2)
    under_way.release()
    return 10 * job


def die(job):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_of_many_threads_trains_one_network_at_a_time():
    with Client(processes=False, n_workers=1, threads_per_worker=4, dashboard_address=None) as one:
        assert sorted(on_workers(one, train, iter(range(4)))) == [(k, 10 * k) for k in range(4)]
        # two jobs at once, as if there were two workers
        one.nthreads = lambda: {"a": 1, "b": 1}
        assert sorted(on_workers(one, train, iter(range(3)))) == [(k, 10 * k) for k in range(3)]
    assert at_once == [1] * 7


def test_workers_that_die_over_a_training_again_and_again_are_one_line():
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        connect("local", workers=1) as client,
        pytest.raises(TrainingError, match=r"1 workers died over the same training.*--workers"),
    ):
        list(on_workers(client, die, iter([1])))
