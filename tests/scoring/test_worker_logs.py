"""What workers print goes to a file that errors name, and nothing of it to a terminal."""

import os
import signal
import time

import dask
import pytest
from dask.distributed import Client
from faulty import make_zoo, small_archive

from deepstreaks_dask.errors import StoppedError
from deepstreaks_dask.scoring import campaign, execution
from deepstreaks_dask.scoring.cluster import connect, last_words
from deepstreaks_dask.scoring.ensemble import Ensemble

WORDS = "CUDA_ERROR_OUT_OF_MEMORY: out of memory"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Dask's folder for temporary files; there are no cards."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        yield tmp_path


def die(_, words=WORDS):
    """Write to standard error as a native library does, and be killed."""
    print("printed")
    os.write(2, b"I0000 00:00:1.0 1 port.cc:153] oneDNN custom operations are on.\n")
    os.write(2, f"{words}\nKilled soon\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_worker_prints_is_removed_once_it_ends_normally(folder, capfd):
    with connect(workers=2) as client:
        client.run(os.system, "echo from a process of its own >&2")
        client.run(print, "from Python")
        logs = list(folder.glob("deepstreaks-workers-*/worker-*.log"))
        assert len(logs) == 2
        for log in logs:
            assert log.read_text().splitlines() == ["from a process of its own", "from Python"]
        assert last_words(client) == ""
    assert not list(folder.glob("deepstreaks-workers-*"))
    assert capfd.readouterr().err == ""


def test_the_error_names_the_log_of_a_worker_that_died(folder, tmp_path, monkeypatch, capfd):
    zoo, url = make_zoo(tmp_path / "zoo", 1), small_archive(tmp_path / "small.zarr", 3)
    monkeypatch.setattr(execution, "submit_unit", lambda client, unit: client.submit(die, unit))
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        client = connect(workers=1)
    with client, pytest.raises(StoppedError) as error:
        campaign.score(
            url, ensemble=Ensemble.from_zoo(zoo, ["rb", "kd"]), client=client, progress=False
        )
    logs = list(folder.glob("deepstreaks-workers-*/worker-*.log"))
    assert logs, "the log of a worker that died is kept"
    (named,) = [log for log in logs if str(log) in str(error.value)]
    assert WORDS in named.read_text()
    assert str(error.value).endswith(
        f"the log of the last worker that died is {named}, which ends with: printed / {WORDS} / Killed soon"
    )
    assert "\n" not in str(error.value)
    assert WORDS not in capfd.readouterr().err


def test_workers_leave_ctrl_c_to_the_client():
    with connect(workers=1) as client:
        (pid,) = client.run(os.getpid).values()
        os.kill(pid, signal.SIGINT)
        time.sleep(0.5)
        assert client.submit(os.getpid, pure=False).result(60) == pid


def test_a_client_of_workers_that_others_started_has_no_logs(folder):
    with Client(processes=False, n_workers=1, dashboard_address=None) as client:
        assert last_words(client) == ""
    assert not list(folder.glob("deepstreaks-workers-*"))
