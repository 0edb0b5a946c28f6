import json
import os
import time

import numpy as np
import pytest
from helpers import random_batch, write_run

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.errors import CampaignError
from deepstreaks_dask.scoring.heartbeat import MAX_HEARTBEAT_AGE
from deepstreaks_dask.scoring.status import run_status


def made(archive, rows=150):
    scores = np.full((150, 2), np.nan, np.float32)
    scores[:rows] = 0.5
    write_run(archive, "default", ["rb_a", "kd_a"], scores)
    return archive / "runs" / "default" / "scores" / "c"


def test_a_run_that_is_done(archive):
    chunks = made(archive)
    for index, moment in ((0, 1000.0), (1, 1010.0), (2, 1020.0)):
        os.utime(chunks / str(index) / "0", (moment, moment))
    found = run_status(archive)
    assert (found.cutouts, found.done, found.seconds_left, found.at_work) == (150, 150, 0, False)
    assert found.shards.tolist() == ["done"] * 3
    assert found.rate == (64 + 22) / 20
    assert found.written["cutouts"].tolist() == [64, 128, 150]
    assert found.provenance["models"] == ["rb_a", "kd_a"]


def test_a_run_at_work_and_its_failures(archive):
    chunks = made(archive, rows=128)
    now = (chunks / "1" / "0").stat().st_mtime
    os.utime(chunks / "0" / "0", (now - 10, now - 10))
    found = run_status(archive)
    assert (found.count("done"), found.count("left"), found.count("failed")) == (2, 1, 0)
    assert found.rate == pytest.approx(6.4, rel=1e-3)
    assert found.seconds_left == pytest.approx(22 / 6.4, rel=1e-3)
    os.utime(chunks / "1" / "0", (now - 1000, now - 1000))
    os.utime(chunks / "0" / "0", (now - 1000, now - 1000))
    assert np.isnan(run_status(archive).rate)


def test_whether_a_campaign_is_at_work_is_told_by_its_pulse(archive):
    made(archive, rows=128)
    assert not run_status(archive).at_work
    path = archive / "runs" / "default" / "pulse.json"
    beat = {"host": "elsewhere", "pid": 7, "workers": 3, "threads": 6, "dashboard": ""}
    path.write_text(json.dumps({**beat, "beat": time.time(), "pausing": False}))
    found = run_status(archive)
    assert found.at_work
    assert (found.pulse.workers, found.pulse.here) == (3, False)
    path.write_text(
        json.dumps({**beat, "beat": time.time() - 2 * MAX_HEARTBEAT_AGE, "pausing": False})
    )
    found = run_status(archive)
    assert not found.at_work
    assert found.pulse is not None  # it was killed


@pytest.mark.parametrize(
    "wrong",
    ["", "[]", "{}", "null", '{"beat": "now"}', "[" * 9000, '"' + "x" * 20_000],
)
def test_what_is_no_pulse_is_none(archive, wrong):
    made(archive)
    (archive / "runs" / "default" / "pulse.json").write_text(wrong)
    assert run_status(archive).pulse is None


def test_a_pulse_leads_nowhere_but_to_a_web_page(archive):
    made(archive)
    beat = {"beat": time.time(), "host": "h", "pid": 1, "workers": 1, "threads": 1}
    path = archive / "runs" / "default" / "pulse.json"
    path.write_text(json.dumps({**beat, "pausing": False, "dashboard": "javascript:alert(1)"}))
    assert run_status(archive).pulse is None


def test_failed_shards_are_named_until_they_are_scored(archive):
    import zarr

    made(archive, rows=128)
    group = zarr.open_group(archive, path="runs/default", mode="r+")
    group.attrs["failures"] = [[0, 64, "checksum"], [128, 150, "the shard is missing"]]
    found = run_status(archive)
    assert found.shards.tolist() == ["done", "done", "failed"]
    assert found.failures == [(128, 150, "the shard is missing")]


def test_a_shard_that_grew_is_left_to_do(archive):
    made(archive)
    append_batches(archive, [random_batch(100, start=150)])
    found = run_status(archive)
    assert found.shards.tolist() == ["done", "done", "left", "left"]
    assert (found.done, found.cutouts) == (128, 250)


def test_there_is_no_such_run(archive):
    with pytest.raises(CampaignError, match="no run 'default'"):
        run_status(archive)
