"""Ctrl-C, and workers that come later."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from dask.distributed import Client, LocalCluster
from faulty import SHARD, chunks, make_zoo, small_archive, wait

from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.plan import CampaignOptions
from deepstreaks_dask.scoring.runs import open_run


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return make_zoo(tmp_path_factory.mktemp("zoo") / "zoo", 1)


_SLOWLY = """
import time
from deepstreaks_dask.scoring import worker

def slowly(*arguments, checked=worker._checked):
    time.sleep(0.1)
    return checked(*arguments)

worker._checked = slowly
"""


def test_ctrl_c_says_how_to_go_on(tmp_path, zoo, monkeypatch):
    url = small_archive(tmp_path / "large.zarr", 300)  # which takes workers half a minute or more
    (tmp_path / "slowly.py").write_text(_SLOWLY)
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", f"['{tmp_path}/slowly.py']")
    command = [
        *(sys.executable, "-m", "deepstreaks_dask", "score", str(url), "--zoo", zoo),
        *("--families", "rb,kd", "--workers", "1", "--scheduler", "local"),
    ]
    with subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait(lambda: len(chunks(url, "default")) > 3, "nothing is scored")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it, to workers too
        out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert out == ""
    said = [line for line in err.splitlines() if line]
    assert said[-1].startswith("deepstreaks: run 'default' of ")
    assert said[-1].endswith(
        "was interrupted: what is scored is stored, and the same command goes on from there"
    )
    assert len(said) <= 2, "a line of progress, and how to go on"
    done = ~np.isnan(open_run(url)["scores"].values).any(axis=1)
    assert 3 * SHARD <= done.sum() < len(done)


def test_a_campaign_waits_for_its_first_worker_and_says_so_once(tmp_path, zoo, capsys):
    url = small_archive(tmp_path / "small.zarr", 4)
    cluster = LocalCluster(
        n_workers=0, threads_per_worker=1, processes=False, dashboard_address=None
    )
    with cluster, Client(cluster) as client:
        cluster.adapt(minimum=0, maximum=2)
        assert client.nthreads() == {}
        scored = score(url, ensemble=Ensemble.from_zoo(zoo, ["rb", "kd"]), client=client)
    assert not np.isnan(scored["scores"].values).any()
    assert scored.attrs["backend"] == "tensorflow"
    assert capsys.readouterr().err.count("waiting for workers") == 1


def test_a_campaign_that_waits_for_workers_can_be_stopped(tmp_path, zoo):
    url, stop = small_archive(tmp_path / "small.zarr", 4), threading.Event()
    cluster = LocalCluster(n_workers=0, processes=False, dashboard_address=None)
    with cluster, Client(cluster) as client:
        timer = threading.Timer(1, stop.set)
        timer.start()
        scored = score(
            url,
            ensemble=Ensemble.from_zoo(zoo, ["rb", "kd"]),
            client=client,
            options=CampaignOptions(stop=stop),
            progress=False,
        )
    assert np.isnan(scored["scores"].values).all()


_INTERRUPTED_EARLY = """
import os, signal, threading, time
from dask.distributed import Client
from deepstreaks_dask.scoring.campaign import _naming_faults

async def answer():
    pass

with Client(processes=False, n_workers=1, dashboard_address=None) as client:
    client.loop.add_callback(time.sleep, 1)  # so that what is called next has not begun when Ctrl-C comes
    time.sleep(0.1)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        with _naming_faults("survey.zarr", "default"):
            client.sync(answer)
    except KeyboardInterrupt as interrupt:
        print(interrupt)
    time.sleep(1)
"""


def test_ctrl_c_before_a_call_has_begun_is_not_logged():
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_EARLY], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith("run 'default' of survey.zarr was interrupted: what is scored")
    assert "sync" not in done.stderr, done.stderr
