"""Campaigns that begin before their first worker, or lose all of them, wait and say so."""

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import dask
import numpy as np
import pytest
from batch_systems import stand_in
from dask.distributed import Client, LocalCluster
from faulty import SHARD, chunks, make_zoo, small_archive, wait

from deepstreaks_dask.errors import StoppedError
from deepstreaks_dask.scoring import attendance, worker
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.cluster import connect
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.plan import CampaignOptions
from deepstreaks_dask.scoring.runs import open_run


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return make_zoo(tmp_path_factory.mktemp("zoo") / "zoo", 1)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Count and speak often."""
    for name, seconds in (("COUNT_INTERVAL", 0.05), ("MESSAGE_INTERVAL", 1.0), ("_GRACE", 0.1)):
        monkeypatch.setattr(attendance, name, seconds)


@contextmanager
def scheduler(workers=0, **options):
    """A scheduler on a TCP port of the loopback interface, whose workers are threads here."""
    settings = {"threads_per_worker": 1, "processes": False, "protocol": "tcp://", **options}
    with LocalCluster(
        n_workers=workers, host="127.0.0.1", dashboard_address=None, **settings
    ) as cluster:
        yield cluster


class Reader:
    """Collects what the campaign prints, for a thread that waits for a line."""

    def __init__(self, monkeypatch):
        self.text = ""
        monkeypatch.setattr(attendance.Attendance, "_print", lambda _, text: self._keep(text))

    def _keep(self, text):
        self.text += f"{text}\n"

    def wait(self, pattern):
        wait(lambda: re.search(pattern, self.text), f"nothing like {pattern!r} in {self.text!r}")


@contextmanager
def meanwhile(action, *arguments):
    """Do something in a thread while the block runs."""
    failed = []

    def run():
        try:
            action(*arguments)
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(60)
    assert not failed


def test_a_scheduler_without_workers_is_waited_for(tmp_path, zoo, monkeypatch):
    url, said = small_archive(tmp_path / "small.zarr", 4), Reader(monkeypatch)
    with scheduler() as cluster, connect(cluster.scheduler_address, insecure=True) as client:

        def begin():
            said.wait(r"waiting for workers: 0 so far, \d s in the queue")
            cluster.scale(1)

        with meanwhile(begin):
            scored = score(url, ensemble=Ensemble.from_zoo(zoo, ["rb", "kd"]), client=client)
    assert not np.isnan(scored["scores"].values).any()
    assert said.text.splitlines()[0] == "waiting for workers: 0 so far"


@pytest.mark.parametrize("mode", ["all", "decide"])
def test_all_workers_may_leave_in_the_middle(tmp_path, zoo, monkeypatch, mode):
    """Also before a sample is scored, which is waited for in another way than shards are."""
    url, said = small_archive(tmp_path / "small.zarr", 30), Reader(monkeypatch)
    checked, begun = worker._checked, threading.Event()

    def slowly(*arguments):
        begun.set()
        threading.Event().wait(0.02)
        return checked(*arguments)

    monkeypatch.setattr(worker, "_checked", slowly)
    with scheduler(1) as cluster, Client(cluster) as client:

        def leave():
            begun.wait(120)
            cluster.scale(0)
            said.wait("waiting for workers: 0 so far")
            cluster.scale(1)

        with meanwhile(leave):
            scored = score(
                url, ensemble=Ensemble.from_zoo(zoo, ["rb", "kd"]), client=client, mode=mode
            )
    if mode == "all":
        assert not np.isnan(scored["scores"].values).any()
    else:
        assert (~np.isnan(scored["scores"].values)).any(axis=1).all()


def test_a_campaign_without_workers_can_be_stopped_in_the_middle(tmp_path, zoo, monkeypatch):
    url, said = small_archive(tmp_path / "small.zarr", 200), Reader(monkeypatch)
    stop = threading.Event()
    with scheduler(1) as cluster, Client(cluster) as client:

        def leave():
            wait(lambda: len(chunks(url, "default")) > 2, "nothing is scored")
            cluster.scale(0)
            said.wait("waiting for workers")
            stop.set()

        with meanwhile(leave):
            scored = score(
                url,
                ensemble=Ensemble.from_zoo(zoo, ["rb", "kd"]),
                client=client,
                options=CampaignOptions(stop=stop),
            )
    done = ~np.isnan(scored["scores"].values).any(axis=1)
    assert 2 * SHARD < done.sum() < len(done)


def test_a_limit_ends_the_wait(tmp_path, zoo):
    url = small_archive(tmp_path / "small.zarr", 4)
    options = CampaignOptions(wait_workers=0.02)
    with (
        scheduler() as cluster,
        Client(cluster) as client,
        pytest.raises(StoppedError, match=r"no worker came within 0.02 min") as error,
    ):
        score(url, ensemble=Ensemble.from_zoo(zoo, ["rb"]), client=client, options=options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_wait(tmp_path, zoo, number):
    url = small_archive(tmp_path / "small.zarr", 4)
    with scheduler() as cluster:
        command = [
            *(sys.executable, "-m", "deepstreaks_dask", "score", str(url), "--zoo", zoo),
            *("--families", "rb,kd", "--scheduler", cluster.scheduler_address),
        ]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            lines = [process.stderr.readline() for _ in range(2)]
            assert lines[0].startswith("deepstreaks: tcp://"), lines
            assert "does not encrypt" in lines[0]
            assert lines[1] == "score default: waiting for workers: 0 so far\n"
            process.send_signal(number)
            out, err = process.communicate(timeout=120)
    assert process.returncode == (3 if number == signal.SIGTERM else 130), err
    assert "Traceback" not in err
    if number == signal.SIGTERM:
        assert "stopped: True" in out
    else:
        assert "the same command goes on from there" in err
    assert np.isnan(open_run(url)["scores"].values).all()


def test_jobs_that_wait_in_a_queue_are_waited_for(tmp_path, zoo, monkeypatch):
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    url, said = small_archive(tmp_path / "small.zarr", 4), Reader(monkeypatch)
    job = {
        "cores": 1,
        "processes": 1,
        "memory": "4GB",
        "local-directory": str(tmp_path),
        "scheduler-options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"},
    }
    settings = {"jobqueue.slurm": {**dask.config.get("jobqueue.slurm"), **job}}
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    with stand_in("slurm", tmp_path, monkeypatch) as jobs, dask.config.set(settings):
        (jobs / "hold").touch()
        with connect("slurm", workers=1) as client:

            def release():
                said.wait(r"waiting for workers: 0 of 1, \d+ s in the queue")
                assert not list(jobs.glob("*.began"))
                (jobs / "hold").unlink()

            with meanwhile(release):
                scored = score(url, ensemble=Ensemble.from_zoo(zoo, ["rb", "kd"]), client=client)
    assert not np.isnan(scored["scores"].values).any()


def test_a_worker_that_left_is_started_again(tmp_path, monkeypatch):
    """As a job whose time is over; its nanny starts no other."""
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "100ms"}),
        connect("local", workers=1) as client,
    ):
        (pid,) = client.run(os.getpid).values()
        os.kill(pid, signal.SIGTERM)
        wait(lambda: not client.nthreads(), "the worker stays")
        present = attendance.Attendance(client, "score")
        wait(lambda: present.check() and len(present) == 1, "no worker is started again")
        wait(
            lambda: set(client.run(os.getpid, on_error="ignore").values()) - {pid},
            "the worker does not answer",
        )
