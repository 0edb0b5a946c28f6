"""Campaigns are killed wherever they change something, and two at once share an archive: nothing is lost or harmed."""

import hashlib
import os
import random
import signal
import threading

import fsspec
import numpy as np
import pytest
from dask.distributed import Client
from faulty import (
    campaign,
    campaigns,
    chunk_files,
    chunks,
    make_zoo,
    processes,
    small_archive,
    small_sequences,
    start,
    struck,
    wait,
    warm,
)

from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.verification import verify
from deepstreaks_dask.errors import CampaignError
from deepstreaks_dask.scoring import run_lock
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.runs import list_runs, open_run
from deepstreaks_dask.scoring.status import run_status

SHARDS = 10
KILLS = int(os.environ.get("DEEPSTREAKS_TEST_KILLS", "20"))
"""How often a campaign is killed; `DEEPSTREAKS_TEST_KILLS=200` is what the figures in the documentation stand on."""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return make_zoo(tmp_path_factory.mktemp("zoo") / "zoo", 1)


@pytest.fixture(scope="module")
def other_zoo(tmp_path_factory):
    return make_zoo(tmp_path_factory.mktemp("zoo") / "other", 2)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_archive(tmp_path_factory.mktemp("small") / "small.zarr", SHARDS)


def scored(url, zoo, run, mode="all", **fault):
    """Score in another process, and give how that ended, how often it changed something, and in what time."""
    said = warm.SimpleQueue()
    process = start(
        campaign, str(url), zoo, run, mode, fault.get("point"), fault.get("delay"), said
    )
    process.join()
    return process.exitcode, None if process.exitcode else said.get()


def stored(url, run):
    """Read the chunks of scores as they lie on the disk."""
    return {name: path.read_bytes() for name, path in chunk_files(url, run).items()}


def hashed(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [hashlib.sha256(path.read_bytes()).digest() for path in files]


@pytest.fixture(scope="module")
def whole(small, zoo):
    """What campaigns that nobody disturbed have stored, by mode."""
    for mode in ("all", "decide"):
        assert scored(small, zoo, f"whole-{mode}", mode)[0] == 0
    return {mode: stored(small, f"whole-{mode}") for mode in ("all", "decide")}


def test_wherever_a_campaign_is_killed_nothing_is_lost(small, zoo, whole):
    rng = random.Random(5)
    assert all(len(found) == SHARDS for found in whole.values())
    code, (changes, seconds) = scored(small, zoo, "counted")
    assert code == 0
    _, (least, _) = scored(small, zoo, "counted")  # there is nothing left to do
    assert changes > least + SHARDS
    cutouts = hashed(small / "cutouts")
    kills, finished, at_points, run = 0, 0, 0, ""
    while kills < KILLS:
        if not run:
            mode = rng.choice(("all", "decide"))
            run = f"killed-{finished}"
        before = chunks(small, run)
        left = (SHARDS - len(before)) / SHARDS
        if rng.random() < 0.75:
            fault = {"point": rng.randint(1, max(1, round(least + (changes - least) * left)))}
        else:
            fault = {"delay": rng.uniform(0.1, 1) * seconds}
        code, _ = scored(small, zoo, run, mode, **fault)
        assert code in (0, -signal.SIGKILL)
        now = chunks(small, run)
        assert {k: now[k] for k in before} == before, f"{fault}: what was stored was computed again"
        for name, data in stored(small, run).items():
            assert data == whole[mode][name], f"{fault}: other scores than if nobody had disturbed"
        if code:
            kills += 1
            at_points += "point" in fault
        else:
            assert len(now) == SHARDS
            finished, run = finished + 1, ""
    if run:
        code, _ = scored(small, zoo, run, mode)
        assert code == 0
        assert stored(small, run) == whole[mode]
        finished += 1
    print(f"{kills} kills, {at_points} of them at a change of the store; {finished} runs finished")
    assert finished
    assert hashed(small / "cutouts") == cutouts
    assert verify(small).ok
    for run in list_runs(small):
        found = open_run(small, run)
        mode = "all" if provenance_of(found)["decided"] is None else "decide"
        expected = open_run(small, f"whole-{mode}")["scores"].values
        assert found["scores"].values.tobytes() == expected.tobytes()
        assert run_status(small, run).shards.tolist() == ["done"] * SHARDS


def test_of_sequences_too_nothing_is_lost_when_a_client_or_a_worker_is_killed(tmp_path):
    number = 6
    url, zoo = small_sequences(tmp_path, number)
    families = Ensemble.from_zoo(zoo, ["sky"])
    options = {"families": ["sky"]}
    process = start(campaign, str(url), zoo, "client", stuck=3, **options)
    before = wait(lambda: len(found := chunks(url, "client")) == 3 and found, "nothing is stored")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert chunks(url, "client") == before
    assert run_status(url, "client").shards.tolist().count("done") == 3
    for run in ("client", "whole"):
        process = start(campaign, str(url), zoo, run, **options)
        process.join()
        assert process.exitcode == 0
    after = chunks(url, "client")
    assert len(after) == number
    assert {name: after[name] for name in before} == before  # three shards were computed, no more
    whole = stored(url, "whole")
    assert stored(url, "client") == whole
    scores = open_run(url, "whole")["scores"].values
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores.sum(axis=2), 1, atol=1e-5)

    workers = processes(tmp_path, gates=(None, None), nanny=False, stuck=(0, None))
    with workers as (address, (_, doomed, _)), Client(address) as client:
        client.wait_for_workers(2)
        with struck(url, "worker", lambda: os.kill(doomed.pid, signal.SIGKILL), after=4) as before:
            score(url, ensemble=families, client=client, run="worker", progress=False)
        assert len(client.nthreads()) == 1
    assert 4 <= len(before) < number
    after = chunks(url, "worker")
    assert {name: after[name] for name in before} == before
    assert stored(url, "worker") == whole
    assert verify(url).ok


def test_what_a_killed_writer_left_is_not_taken_for_scores(small, whole):
    folder = small / "runs" / "whole-all" / "scores" / "c" / "3"
    (folder / "0").rename(folder / "0.0123abcd.partial")
    try:
        assert run_status(small, "whole-all").shards[3] == "left"
        assert np.isnan(open_run(small, "whole-all")["scores"].values[192:256]).all()
    finally:
        (folder / "0.0123abcd.partial").rename(folder / "0")


@pytest.mark.parametrize("place", ["disk", "object store"])
def test_one_campaign_at_a_time_makes_a_run(place, tmp_path):
    url = str(tmp_path) if place == "disk" else "memory://locked.zarr"
    inside, order = threading.Event(), []

    def second():
        inside.wait()
        with run_lock.alone(url, "r"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with run_lock.alone(url, "r"):
        inside.set()
        thread.join(0.5)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    with pytest.raises(CampaignError, match="run name"), run_lock.alone(url, "../r"):
        pass


def test_a_lock_that_a_killed_campaign_left_at_an_object_store_is_taken_over(monkeypatch):
    monkeypatch.setattr(run_lock, "_MAX_PROVENANCE_AGE", 0.4)
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/left.zarr/runs/.r.lock", b"")
    with run_lock.alone("memory://left.zarr", "r"):
        assert fs.exists("/left.zarr/runs/.r.lock")
    assert not fs.exists("/left.zarr/runs/.r.lock")


def test_two_campaigns_at_once_do_not_harm_each_other(small, zoo, other_zoo, whole):
    same = [(f"same-{k}", zoo, mode) for k, mode in enumerate(("all", "decide") * 2)]
    mine = [*same, ("mine", zoo, "all"), *((f"contested-{k}", zoo, "all") for k in range(3))]
    other = [*same, ("theirs", other_zoo, "decide")]
    other += [(f"contested-{k}", other_zoo, "all") for k in range(3)]
    barrier, said = warm.Barrier(2), warm.SimpleQueue()
    both = [start(campaigns, str(small), turns, barrier, said) for turns in (mine, other)]
    ends = [said.get() for _ in range(len(mine) + len(other))]
    for process in both:
        process.join()
    stopped = [end for end in ends if end[3]]
    assert all(run.startswith("contested") for run, *_ in stopped), stopped
    for k, (run, _, mode) in enumerate(same):
        if mode == "all":
            assert stored(small, run) == whole["all"], k
        else:  # in the order that one of them learned, which both have taken
            whole_scores = open_run(small, "whole-all")["scores"].values
            values = open_run(small, run)["scores"].values
            looked = ~np.isnan(values)
            assert looked.any(axis=1).all()
            np.testing.assert_array_equal(values[looked], whole_scores[looked])
    assert stored(small, "mine") == whole["all"]
    assert provenance_of(open_run(small, "theirs"))["decided"]
    for k in range(3):
        run = f"contested-{k}"
        ((_, loser, _, why),) = [end for end in stopped if end[0] == run]
        assert "made with other weights" in why
        winner = zoo if loser == other_zoo else other_zoo
        assert open_run(small, run).attrs["zoo"] == winner
        assert (stored(small, run) == whole["all"]) == (winner == zoo)
        assert len(chunks(small, run)) == SHARDS
