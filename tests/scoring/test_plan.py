"""The plan of a campaign: what it says, what is left after a kill, and that planning changes nothing."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from faulty import (
    SHARD,
    campaign,
    chunks,
    make_zoo,
    small_archive,
    small_cutouts,
    start,
    threads,
    wait,
)

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.errors import CampaignError
from deepstreaks_dask.scoring import campaign as campaigns
from deepstreaks_dask.scoring.campaign import execute, score
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.plan import CampaignOptions, plan_campaign
from deepstreaks_dask.scoring.runs import SHIPPED_ZOO, Run, list_runs, open_run

SHARDS = 6
ROWS = SHARD * SHARDS - 5


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    return Ensemble.from_zoo(make_zoo(tmp_path_factory.mktemp("zoo") / "zoo", 1), ["rb", "kd"])


@pytest.fixture
def url(tmp_path):
    return small_archive(tmp_path / "small.zarr", SHARDS)


@pytest.fixture(scope="module")
def client():
    with threads(2) as client:
        yield client


def files(url):
    return {path: path.stat().st_mtime_ns for path in url.rglob("*")}


def test_a_new_campaign_is_planned_without_a_change_in_the_store(url, ensemble):
    before = files(url)
    plan = plan_campaign(url, ensemble=ensemble)
    assert files(url) == before
    assert (plan.resumes, plan.finished, plan.workers) == (False, False, 0)
    assert plan.rows == plan.rows_left == ROWS
    assert plan.shards == len(plan.tasks) == len(plan.todo.shards) == SHARDS
    assert plan.thresholds is plan.thresholds_sha256 is None
    assert str(plan).splitlines() == [
        f"Campaign: run 'default' of {plan.archive} (new)",
        "  mode        all",
        "  members     rb: rb_tiny@1; kd: kd_tiny@1",
        f"  zoo         {ensemble.zoo}",
        "  precision   float32, batches of 64, without flips",
        f"  done        0 of {SHARDS} shards",
        f"  to do       {SHARDS} shards, {ROWS} of {ROWS} cutouts",
        f"  tasks       {SHARDS} (no workers yet)",
    ]


def test_a_plan_to_decide_names_thresholds_and_shares_shards_out(url, ensemble, client):
    options = CampaignOptions(batch=8, order=[["kd_tiny"], ["rb_tiny"]], flips=True)
    decision = Decision({"kd": 0.75})
    plan = plan_campaign(
        url,
        ensemble=ensemble,
        client=client,
        run="r",
        mode="decide",
        decision=decision,
        options=options,
    )
    assert plan.thresholds == {"rb_tiny": 0.5, "kd_tiny": 0.75}
    text = json.dumps({"kd_tiny": 0.75, "rb_tiny": 0.5})
    assert plan.thresholds_sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert plan.order == (("kd_tiny",), ("rb_tiny",))
    lines = str(plan).splitlines()
    assert f"  thresholds  rb_tiny 0.5, kd_tiny 0.75 (sha256 {plan.thresholds_sha256})" in lines
    assert "  precision   float32, batches of 8, with flips" in lines
    assert lines[-1] == "  tasks       2 (1 workers, 2 threads)"
    assert [shard for task in plan.tasks for shard in task] == list(plan.todo.shards)
    other = plan_campaign(url, ensemble=ensemble, mode="decide", decision=Decision({"kd": 0.7}))
    assert other.thresholds_sha256 != plan.thresholds_sha256
    wide = plan.with_workers({f"w{k}": 2 for k in range(3)})
    assert (wide.workers, wide.threads, len(wide.tasks)) == (3, 6, SHARDS)


def test_after_a_kill_the_plan_is_what_is_left(url, ensemble, client):
    process = start(campaign, str(url), ensemble.zoo, "killed", pace=0.4)
    wait(lambda: len(chunks(url, "killed")) > 1, "nothing is scored")
    process.kill()
    process.join()
    done = {int(name) for name in chunks(url, "killed")}
    assert 0 < len(done) < SHARDS, "killed at a moment that shows nothing"
    before = files(url)
    plan = plan_campaign(url, ensemble=ensemble, run="killed")
    assert files(url) == before
    assert {first // SHARD for first, _ in plan.todo.shards} == set(range(SHARDS)) - done
    assert (plan.resumes, plan.finished) == (True, False)
    assert f"  done        {len(done)} of {SHARDS} shards" in str(plan).splitlines()
    assert "(resumes)" in str(plan)
    execute(plan, client, progress=False)
    assert not np.isnan(open_run(url, "killed")["scores"].values).any()


def test_nothing_is_left_to_do_and_no_worker_starts_for_it(url, ensemble, client, monkeypatch):
    options = CampaignOptions(batch=8)
    score(url, ensemble=ensemble, client=client, options=options, progress=False)
    plan = plan_campaign(url, ensemble=ensemble)
    assert plan.finished
    assert (plan.tasks, plan.rows_left, plan.batch) == ((), 0, 8)
    lines = str(plan).splitlines()
    assert lines[0].endswith("(nothing is left to do)")
    assert f"  to do       0 shards, 0 of {ROWS} cutouts" in lines

    def connect(**_):
        raise AssertionError("workers were started")

    monkeypatch.setattr(campaigns, "connect", connect)
    again = score(url, ensemble=ensemble, progress=False)
    assert not np.isnan(again["scores"].values).any()
    append_batches(url, [small_cutouts(3, start=ROWS)])
    grown = plan_campaign(url, ensemble=ensemble)
    assert (grown.finished, grown.rows, len(grown.todo.shards)) == (False, ROWS + 3, 1)


def test_a_torn_chunk_is_planned_and_cleared_when_the_plan_is_carried_out(url, ensemble, client):
    whole = score(url, ensemble=ensemble, client=client, progress=False)["scores"].values
    torn = url / "runs" / "default" / "scores" / "c" / "2" / "0"
    torn.write_bytes(torn.read_bytes()[:-3])
    plan = plan_campaign(url, ensemble=ensemble)
    assert plan.todo.shards == plan.todo.torn == ((2 * SHARD, 3 * SHARD),)
    execute(plan, client, progress=False)
    assert open_run(url)["scores"].values.tobytes() == whole.tobytes()


def test_workers_are_started_where_no_client_is_given(url, ensemble, client, monkeypatch):
    asked = []

    class Mine:
        def __enter__(self):
            return client

        def __exit__(self, *_):
            asked.append("closed")

    monkeypatch.setattr(campaigns, "connect", lambda **options: asked.append(options) or Mine())
    scored = score(url, ensemble=ensemble, progress=False)
    assert asked == [{"jobs": SHARDS}, "closed"]
    assert not np.isnan(scored["scores"].values).any()


def test_the_shipped_zoo_is_the_default(url, archive):
    with pytest.raises(CampaignError, match="takes cutouts of uint8"):
        plan_campaign(url)
    plan = plan_campaign(archive)
    assert [family.name for family in plan.ensemble] == ["rb", "sl", "kd"]
    assert SHIPPED_ZOO in str(plan)


def test_mistakes_are_named_before_a_run_is_made(url, ensemble):
    wrong = {"mode": "decide", "options": CampaignOptions(order=[["kd_tiny"]])}
    with pytest.raises(CampaignError, match="give each once, family by family"):
        plan_campaign(url, ensemble=ensemble, **wrong)
    with pytest.raises(CampaignError, match="run name"):
        plan_campaign(url, ensemble=ensemble, run="../x")
    assert list_runs(url) == []


def test_a_run_that_another_campaign_made_meanwhile_is_not_taken_over(url, ensemble, client):
    plan = plan_campaign(url, ensemble=ensemble)
    score(url, ensemble=ensemble, client=client, options=CampaignOptions(flips=True))
    with pytest.raises(CampaignError, match="by another campaign just now"):
        execute(plan, client, progress=False)
    other = replace(plan, mode="decide", decision=Decision())
    with pytest.raises(CampaignError, match="holds all scores"):
        execute(other, client, progress=False)
    assert Run.attach(str(url), "default").provenance["flips"]
