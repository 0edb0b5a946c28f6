"""What is begun and what is ended; tests/browser/test_campaign.py begins, pauses and goes on with a real campaign."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from faulty import make_zoo, small_archive
from helpers import write_run

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.errors import CampaignError
from deepstreaks_dask.scoring import launcher as launch
from deepstreaks_dask.scoring.machine import describe_worker
from deepstreaks_dask.scoring.runs import SHIPPED_ZOO, open_run
from deepstreaks_dask.simulation.sequences import LAYOUT, simulate_sequences


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def bystander():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    time.sleep(0.2)  # processes are told apart by when they were born, to a tenth of a second
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def asleep(monkeypatch):
    """Let what is started do nothing, and keep what would have been done."""
    real, commands, processes = subprocess.Popen, [], []

    def popen(command, **options):
        commands.append(list(command))
        assert not options.get("shell")
        processes.append(real([sys.executable, "-c", "import time; time.sleep(600)"], **options))
        return processes[-1]

    monkeypatch.setattr(launch.subprocess, "Popen", popen)
    yield commands
    for process in processes:
        process.kill()


def until(say, seconds=400):
    deadline = time.monotonic() + seconds
    while not say():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_nothing_of_a_page_reaches_a_shell(archive, asleep):
    run = "x"
    for wrong in ("--zoo=/tmp", "a b", "$(id)", "../up", "", "a;b"):
        with pytest.raises(CampaignError, match="run name"):
            launch.start_campaign(archive, wrong)
        with pytest.raises(CampaignError, match="no family"):
            launch.start_campaign(archive, run, families=["rb", wrong])
    for wrong in (0, -1, 10**6):
        with pytest.raises(CampaignError, match="workers"):
            launch.start_campaign(archive, run, workers=wrong)
    assert asleep == []
    launch.start_campaign(archive, run, families=["rb", "kd"], zoo="my zoo", workers=1)
    assert asleep[0][1:] == [
        *("-P", "-m", "deepstreaks_dask", "score", f"--run={run}", "--families=rb,kd"),
        *("--zoo=my zoo", "--workers=1", "--", str(archive)),
    ]


def test_sequences_are_begun_by_the_same_command(tmp_path, asleep):
    url = tmp_path / "objects.zarr"
    create_archive(url, **LAYOUT)
    with pytest.raises(CampaignError, match="ingest some first"):
        launch.start_campaign(url, families=["hits"])
    append_batches(url, simulate_sequences(2, "hits", "rcnn"))
    launch.start_campaign(url, families=["hits"])
    assert asleep[0][4:] == ["score", "--run=default", "--families=hits", "--", str(url)]


def test_a_run_goes_on_as_it_began(archive, asleep):
    scores = np.full((150, 2), np.nan, np.float32)
    made = {"decided": {"rb_a": 0.5, "kd_a": 0.25}, "zoo": SHIPPED_ZOO}
    write_run(archive, "half", ["rb_a", "kd_a"], scores, **made)
    with pytest.raises(CampaignError, match="families rb, kd"):
        launch.start_campaign(archive, "half", families=["sl"])
    with pytest.raises(CampaignError, match="start it with that --zoo"):
        launch.start_campaign(archive, "half", zoo="other")
    launch.start_campaign(archive, "half")
    assert asleep[0][5:-2] == [
        *("--run=half", "--families=rb,kd", "--decide"),
        *("--threshold=rb_a=0.5", "--threshold=kd_a=0.25"),
    ]


def test_processes_of_others_are_left_alone(archive, bystander, asleep, state):
    """Neither what an archive says nor a number that was given anew stops a process."""
    write_run(archive, "default", ["rb_a"], np.full((150, 1), np.nan, np.float32), zoo=SHIPPED_ZOO)
    beat = {"host": "elsewhere", "workers": 1, "threads": 1, "dashboard": "", "pausing": False}
    pulse = {**beat, "beat": time.time(), "pid": bystander.pid}
    (archive / "runs" / "default" / "pulse.json").write_text(json.dumps(pulse))
    with pytest.raises(CampaignError, match=f"not started from here: end process {bystander.pid}"):
        launch.pause_campaign(archive)
    with pytest.raises(CampaignError, match="at work already"):
        launch.start_campaign(archive)
    (archive / "runs" / "default" / "pulse.json").unlink()
    launch.start_campaign(archive)
    (record,) = state.glob("deepstreaks/campaigns/*/default.json")
    told = json.loads(record.read_text())
    record.write_text(json.dumps({**told, "pid": bystander.pid}))
    with pytest.raises(CampaignError, match="not at work"):
        launch.pause_campaign(archive)
    assert bystander.poll() is None
    assert record.parent.stat().st_mode & 0o077 == 0


def test_a_campaign_that_cannot_begin_says_why(archive):
    campaign = launch.start_campaign(archive, families=["xx"])
    until(lambda: not campaign.alive)
    assert "no member of family 'xx'" in launch.launched_campaigns(archive)["default"].last_words()


def test_campaigns_compute_where_the_environment_says(tmp_path, client, monkeypatch):
    """As those of the campaign page in a container, which has no workers of its own."""
    url, zoo = small_archive(tmp_path / "small.zarr", 2), make_zoo(tmp_path / "zoo", 1)
    monkeypatch.setenv(launch.SCHEDULER_VARIABLE, client.scheduler.address)
    with pytest.raises(CampaignError, match="leave their number out"):
        launch.start_campaign(url, families=["rb"], zoo=zoo, workers=1)
    campaign = launch.start_campaign(url, families=["rb"], zoo=zoo)
    until(lambda: not campaign.alive)
    scored = open_run(url)
    assert not np.isnan(scored["scores"].values).any(), campaign.last_words()
    computed = provenance_of(scored)["workers"]
    assert computed == list(client.run(describe_worker).values())
