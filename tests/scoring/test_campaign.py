"""Campaigns survive every kill: nothing lost, nothing computed twice, the same to the last bit."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from faulty import chunks
from helpers import random_batch

from deepstreaks_dask.archive.append import CutoutBatch, append_batches
from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import CampaignError, ModelError
from deepstreaks_dask.models.inference import compile_forward
from deepstreaks_dask.models.registry import build
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.cluster import connect
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.heartbeat import read_pulse
from deepstreaks_dask.scoring.plan import CampaignOptions
from deepstreaks_dask.scoring.runs import Run, list_runs, open_run
from deepstreaks_dask.scoring.worker import Unit

CLIENT = """
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.cluster import connect
from deepstreaks_dask.scoring.ensemble import Ensemble

if __name__ == "__main__":
    with connect(workers=1) as client:
        score({url!r}, ensemble=Ensemble.from_zoo({zoo!r}), client=client, run="killed", progress=False)
"""


SIDE = 48
"""Pixels on a side: a ninth of the work that the real cutouts are."""


def small_batch(n, **columns):
    batch = random_batch(n, **columns)
    return CutoutBatch(batch.cutouts[:, :SIDE, :SIDE], batch.columns)


@pytest.fixture
def archive(tmp_path):
    """An archive of 150 cutouts of noise in shards of 64, the last one not full."""
    url = tmp_path / "archive.zarr"
    create_archive(url, shard=64, shape=(SIDE, SIDE))
    append_batches(url, [small_batch(150)])
    return url


def save_vgg6(zoo, name, version="1"):
    zoo.save(
        build("vgg6", (SIDE, SIDE, 1)), Card(name, version, "vgg6", input_shape=(SIDE, SIDE, 1))
    )


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """URL of a zoo with one untrained VGG6 for each family."""
    made = Zoo(tmp_path_factory.mktemp("models") / "zoo")
    for seed, family in enumerate(("rb", "sl", "kd")):
        keras.utils.set_random_seed(seed)
        save_vgg6(made, f"{family}_vgg6")
    return made.url


@pytest.fixture(scope="module")
def client():
    with connect(workers=1) as client:
        yield client


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """An archive of 24 shards: long enough to be killed in the middle."""
    url = tmp_path_factory.mktemp("large") / "large.zarr"
    create_archive(url, shard=64, shape=(SIDE, SIDE))
    append_batches(url, [small_batch(1530)])
    return url


@pytest.fixture(scope="module")
def reference(large, zoo, client):
    return score(
        large, ensemble=Ensemble.from_zoo(zoo), client=client, run="whole", progress=False
    )["scores"].values


def test_scores_are_those_of_the_bare_networks(large, zoo, reference):
    assert not np.isnan(reference).any()
    pixels = open_archive(large)["cutouts"].values[..., None] / np.float32(255)
    for column, family in enumerate(("rb", "sl", "kd")):
        expected = Zoo(zoo).load(f"{family}_vgg6").predict(pixels[:200], verbose=0)[:, 0]
        np.testing.assert_allclose(reference[:200, column], expected, atol=1e-5)


def test_a_killed_client_loses_nothing(large, zoo, reference, client, tmp_path):
    script = tmp_path / "client.py"
    script.write_text(CLIENT.format(url=str(large), zoo=zoo))
    with subprocess.Popen(
        [sys.executable, script], start_new_session=True, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 300
        while len(chunks(large, "killed")) < 3:
            assert process.poll() is None, "the campaign ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)  # client, scheduler and workers at once
    before = chunks(large, "killed")
    assert 3 <= len(before) < 24, "killed too late to show anything"
    partial = open_run(large, "killed")["scores"].values
    done = ~np.isnan(partial).any(axis=1)
    np.testing.assert_array_equal(partial[done], reference[done])

    finished = score(
        large, ensemble=Ensemble.from_zoo(zoo), client=client, run="killed", progress=False
    )
    assert finished["scores"].values.tobytes() == reference.tobytes()
    after = chunks(large, "killed")
    assert len(after) == 24
    assert {key: after[key] for key in before} == before, "a finished shard was computed again"


def test_a_killed_worker_loses_nothing(large, zoo, reference, client):
    (first,) = client.run(os.getpid).values()

    def kill():
        deadline = time.monotonic() + 300
        while len(chunks(large, "worker")) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(first, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    scored = score(
        large, ensemble=Ensemble.from_zoo(zoo), client=client, run="worker", progress=False
    )
    killer.join()
    (second,) = client.run(os.getpid).values()
    assert second != first, "the worker was not killed in the middle"
    assert scored["scores"].values.tobytes() == reference.tobytes()


def test_a_campaign_that_is_asked_to_stop_keeps_what_it_did(large, zoo, reference, client):
    stop, families = threading.Event(), Ensemble.from_zoo(zoo)

    def ask():
        while len(chunks(large, "stopped")) < 3:
            time.sleep(0.01)
        pulse.append(read_pulse(str(large), "stopped"))
        stop.set()

    pulse: list = []
    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    partial = score(
        large,
        ensemble=families,
        client=client,
        run="stopped",
        progress=False,
        options=CampaignOptions(stop=stop),
    )
    asker.join()
    before = chunks(large, "stopped")
    assert 3 <= len(before) < 24
    done = ~np.isnan(partial["scores"].values).any(axis=1)
    np.testing.assert_array_equal(partial["scores"].values[done], reference[done])
    assert (pulse[0].workers, pulse[0].here, pulse[0].pid) == (1, True, os.getpid())
    assert read_pulse(str(large), "stopped") is None
    finished = score(large, ensemble=families, client=client, run="stopped", progress=False)
    assert finished["scores"].values.tobytes() == reference.tobytes()
    after = chunks(large, "stopped")
    assert {key: after[key] for key in before} == before


def test_a_torn_chunk_is_computed_again(archive, zoo, client):
    families = Ensemble.from_zoo(zoo)
    whole = score(archive, ensemble=families, client=client, progress=False)["scores"].values
    chunk = archive / "runs" / "default" / "scores" / "c" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:40])
    assert np.isnan(open_run(archive)["scores"].values[64:128]).all()
    again = score(archive, ensemble=families, client=client, progress=False)
    assert again["scores"].values.tobytes() == whole.tobytes()


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_damaged_shard_is_named_and_stops_nothing(archive, zoo, client, damage):
    shard = archive / "cutouts" / "c" / "1" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[500] ^= 1
    shard.write_bytes(data) if damage == "flip" else shard.unlink()
    scored = score(archive, ensemble=Ensemble.from_zoo(zoo), client=client, progress=False)
    ((first, last, why),) = provenance_of(scored)["failures"]
    assert (first, last) == (64, 128)
    assert why
    missing = np.isnan(scored["scores"].values).any(axis=1)
    assert list(np.flatnonzero(missing)) == list(range(64, 128))


def test_new_cutouts_are_scored_and_old_ones_left(archive, zoo, client):
    families = Ensemble.from_zoo(zoo)
    old = score(archive, ensemble=families, client=client, progress=False)["scores"].values
    before = chunks(archive, "default")
    append_batches(archive, [small_batch(60, start=150, night=20260102)])
    assert np.isnan(open_run(archive)["scores"].values[150:]).all()
    new = score(archive, ensemble=families, client=client, progress=False)["scores"].values
    assert new.shape == (210, 3)
    assert not np.isnan(new).any()
    np.testing.assert_array_equal(new[:150], old)
    after = chunks(archive, "default")
    assert {key for key in before if after[key] == before[key]} == {"0", "1"}


def test_models_load_once_a_worker_and_do_not_travel(archive, zoo, client):
    from deepstreaks_dask.scoring import networks

    client.run(networks._load_once.cache_clear)
    score(archive, ensemble=Ensemble.from_zoo(zoo), client=client, run="counted", progress=False)
    (info,) = client.run(networks._load_once.cache_info).values()
    assert (info.misses, info.hits) == (1, 2)
    members = tuple((m.ref, m.sha256) for m in Ensemble.from_zoo(zoo).members)
    assert len(pickle.dumps(Unit(str(archive), "x", ((0, 64),), zoo, members, 64))) < 2000


def test_a_run_killed_before_it_had_scores_leaves_no_false_provenance(
    archive, zoo, client, tmp_path, monkeypatch
):
    other = Zoo(tmp_path / "other")
    keras.utils.set_random_seed(7)
    save_vgg6(other, "rb_vgg6", "9")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("zarr.Group.create_array", killed)
        with pytest.raises(KeyboardInterrupt):
            score(
                archive,
                ensemble=Ensemble.from_zoo(other.url, ["rb"]),
                client=client,
                progress=False,
            )
    assert list_runs(archive) == []
    scored = score(archive, ensemble=Ensemble.from_zoo(zoo), client=client, progress=False)
    assert [member["version"] for member in provenance_of(scored)["members"]] == ["1", "1", "1"]
    assert provenance_of(scored)["models"] == ["rb_vgg6", "sl_vgg6", "kd_vgg6"]


@pytest.fixture(scope="module")
def picky(reference):
    """A decision that most cutouts fail, each family of them some."""
    names = ("rb", "sl", "kd")
    return Decision(
        {name: float(np.quantile(reference[:, k], 0.6)) for k, name in enumerate(names)}
    )


def test_deciding_finds_what_all_scores_find(large, zoo, reference, client, picky):
    families = Ensemble.from_zoo(zoo)
    partial = score(
        large,
        ensemble=families,
        client=client,
        run="decide",
        mode="decide",
        decision=picky,
        progress=False,
    )
    values = partial["scores"].values
    looked = ~np.isnan(values)
    assert 0 < looked[64:].mean() < 0.7
    np.testing.assert_array_equal(values[looked], reference[looked])
    whole = picky.apply(open_run(large, "whole"))["plausible"]
    decided = picky.apply(partial)
    assert 0 < whole.sum() < len(whole)
    np.testing.assert_array_equal(decided["plausible"], whole)
    assert not decided["undecided"].any()
    assert {name for family in provenance_of(partial)["order"] for name in family} == set(
        provenance_of(partial)["models"]
    )
    with pytest.raises(CampaignError, match=r"decides at .* only"):
        score(
            large,
            ensemble=families,
            client=client,
            run="decide",
            mode="decide",
            decision=Decision({"kd": 0.1}),
        )
    with pytest.raises(CampaignError, match="holds all scores"):
        score(large, ensemble=families, client=client, run="whole", mode="decide", decision=picky)


def test_an_order_is_taken_from_an_earlier_run_or_the_caller(archive, zoo, client, monkeypatch):
    families = Ensemble.from_zoo(zoo)
    decision = Decision({"kd": 0.55})
    options = {"mode": "decide", "decision": decision, "progress": False}
    learned = score(archive, ensemble=families, client=client, run="first", **options)

    def looks(*_):
        raise AssertionError("members looked at a sample")

    monkeypatch.setattr("deepstreaks_dask.scoring.order.sample", looks)
    again = score(archive, ensemble=families, client=client, run="second", **options)
    assert provenance_of(again)["order"] == provenance_of(learned)["order"]
    given = provenance_of(learned)["order"][::-1]
    other = score(
        archive,
        ensemble=families,
        client=client,
        run="third",
        **options,
        options=CampaignOptions(order=given),
    )
    assert provenance_of(other)["order"] == given
    decided = [decision.apply(run)["plausible"].values for run in (learned, again, other)]
    np.testing.assert_array_equal(decided[0], decided[1])
    np.testing.assert_array_equal(decided[0], decided[2])
    for wrong in (given[1:], [*given, ["os_vgg6"]]):
        with pytest.raises(CampaignError, match="the order"):
            score(
                archive,
                ensemble=families,
                client=client,
                run="fourth",
                **options,
                options=CampaignOptions(order=wrong),
            )
    with pytest.raises(CampaignError, match="an order matters"):
        score(
            archive,
            ensemble=families,
            client=client,
            run="fifth",
            options=CampaignOptions(order=given),
        )


def test_a_cascade_that_was_cut_short_goes_on(large, zoo, client, picky):
    families = Ensemble.from_zoo(zoo)
    whole = score(
        large,
        ensemble=families,
        client=client,
        run="decide",
        mode="decide",
        decision=picky,
        progress=False,
    )["scores"]
    folder = large / "runs" / "decide" / "scores" / "c"
    before = chunks(large, "decide")
    for name in ("3", "17"):
        (folder / name / "0").unlink()
    again = score(
        large,
        ensemble=families,
        client=client,
        run="decide",
        mode="decide",
        decision=picky,
        progress=False,
    )["scores"]
    assert again.values.tobytes() == whole.values.tobytes()
    after = chunks(large, "decide")
    assert {key for key in before if after[key] != before[key]} == {"3", "17"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from Linux")
def test_a_worker_stays_below_two_gigabytes(client, tmp_path):
    """On cutouts and networks of the real size, whatever it has scored before."""

    def peak():
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    create_archive(tmp_path / "real.zarr", shard=64)
    append_batches(tmp_path / "real.zarr", [random_batch(192)])
    scored = score(
        tmp_path / "real.zarr", ensemble=Ensemble.from_zoo(None), client=client, progress=False
    )
    assert scored["scores"].shape == (192, 3)
    assert max(client.run(peak).values()) < 2e9


def test_provenance(archive, zoo, client):
    scored = score(archive, ensemble=Ensemble.from_zoo(zoo), client=client, progress=False)
    member = provenance_of(scored)["members"][0]
    assert (member["name"], member["family"], member["threshold"]) == ("rb_vgg6", "rb", 0.5)
    assert member["sha256"] == Zoo(zoo).card("rb_vgg6").sha256
    assert {"batch", "backend", "backend_version", "keras", "deepstreaks_dask", "started"} <= set(
        scored.attrs
    )
    assert list_runs(archive) == ["default"]


def test_a_run_goes_on_with_the_library_that_it_was_begun_with(archive, zoo, client):
    families = Ensemble.from_zoo(zoo, ["rb"])
    score(archive, ensemble=families, client=client, progress=False)
    Run.attach(str(archive), "default", write=True).tell(backend="jax")
    score(
        archive, ensemble=families, client=client, progress=False
    )  # nothing to do: nobody computes
    append_batches(archive, [small_batch(10, start=150)])
    with pytest.raises(CampaignError, match="begun with jax, but the workers have tensorflow"):
        score(archive, ensemble=families, client=client, progress=False)


def test_mistakes_are_named(archive, zoo, client, tmp_path):
    families = Ensemble.from_zoo(zoo)
    score(archive, ensemble=families, client=client, progress=False)
    other = Zoo(tmp_path / "other")
    keras.utils.set_random_seed(77)
    for family in ("rb", "sl", "kd"):
        save_vgg6(other, f"{family}_vgg6")
    with pytest.raises(CampaignError, match="other weights"):
        score(archive, ensemble=Ensemble.from_zoo(other.url), client=client, progress=False)
    with pytest.raises(CampaignError, match="run name"):
        score(archive, ensemble=families, client=client, run="../../etc", progress=False)
    with pytest.raises(CampaignError, match="did you mean 'default'"):
        open_run(archive, "defualt")
    empty = tmp_path / "empty.zarr"
    create_archive(empty)
    with pytest.raises(CampaignError, match="no cutouts"):
        score(empty, ensemble=families, client=client)


def test_a_broken_network_is_named(archive, client, tmp_path):
    zoo = Zoo(tmp_path / "broken")
    for family in ("rb", "sl", "kd"):
        save_vgg6(zoo, f"{family}_vgg6")
    bias = zoo.load("kd_vgg6").layers[-1].weights[1]
    card = zoo.card("kd_vgg6")
    path = tmp_path / "broken" / "kd_vgg6" / "1" / card.file
    import hashlib
    import json

    import safetensors.numpy

    weights = safetensors.numpy.load(path.read_bytes())
    name = next(key for key, value in reversed(weights.items()) if value.shape == bias.shape)
    weights[name] = np.full(bias.shape, np.nan, np.float32)
    data = safetensors.numpy.save(weights)
    path.write_bytes(data)
    text = json.loads(path.with_name("card.json").read_text())
    text["sha256"] = hashlib.sha256(data).hexdigest()
    path.with_name("card.json").write_text(json.dumps(text))
    with pytest.raises(CampaignError, match=r"kd_vgg6@1 gives no finite score"):
        score(archive, ensemble=Ensemble.from_zoo(zoo.url), client=client, progress=False)


def test_half_precision_is_measured_on_the_first_shard_and_kept(archive, zoo, client):
    families = Ensemble.from_zoo(zoo)
    single = score(archive, ensemble=families, client=client, run="single", progress=False)
    half = score(
        archive,
        ensemble=families,
        client=client,
        run="half",
        progress=False,
        options=CampaignOptions(precision="mixed_bfloat16", force_precision=True),
    )
    difference = np.abs(half["scores"].values - single["scores"].values)
    assert half.attrs["dtype"] == "mixed_bfloat16"
    assert provenance_of(half)["precision_effect"] == {
        "cutouts": 64,
        "largest": pytest.approx(difference[:64].max()),
        "mean": pytest.approx(difference[:64].mean(), rel=1e-3),
    }
    assert 0 < difference.max() < 0.02
    assert "precision_effect" not in provenance_of(single)
    append_batches(
        archive, [small_batch(10, start=150)]
    )  # into the last shard, which is scored again
    again = score(archive, ensemble=families, client=client, run="half", progress=False)
    assert again.attrs["dtype"] == "mixed_bfloat16"
    np.testing.assert_array_equal(again["scores"].values[:150], half["scores"].values)
    with pytest.raises(CampaignError, match="was made in mixed_bfloat16: give another --run"):
        score(
            archive,
            ensemble=families,
            client=client,
            run="half",
            progress=False,
            options=CampaignOptions(precision="float32"),
        )


def test_flips_are_kept_by_the_run_that_began_with_them(archive, zoo, client):
    families = Ensemble.from_zoo(zoo, ["rb"])
    flipped = score(
        archive,
        ensemble=families,
        client=client,
        run="flips",
        progress=False,
        options=CampaignOptions(flips=True),
    )
    plain = score(archive, ensemble=families, client=client, run="plain", progress=False)
    assert (provenance_of(flipped)["flips"], provenance_of(plain)["flips"]) == (True, False)
    pixels = open_archive(archive)["cutouts"].values
    views = [pixels, pixels[:, ::-1], pixels[:, :, ::-1], pixels[:, ::-1, ::-1]]
    forward = compile_forward([Zoo(zoo).load("rb_vgg6")], len(pixels))
    expected = np.mean([forward(view) for view in views], axis=0)
    np.testing.assert_allclose(flipped["scores"].values, expected, atol=2e-6)
    append_batches(archive, [small_batch(40, start=150)])
    more = score(archive, ensemble=families, client=client, run="flips", progress=False)
    np.testing.assert_array_equal(more["scores"].values[:150], flipped["scores"].values)
    whole = score(
        archive,
        ensemble=families,
        client=client,
        run="anew",
        progress=False,
        options=CampaignOptions(flips=True),
    )
    np.testing.assert_array_equal(more["scores"].values, whole["scores"].values)
    with pytest.raises(CampaignError, match="without flips: give another --run"):
        score(
            archive,
            ensemble=families,
            client=client,
            run="plain",
            progress=False,
            options=CampaignOptions(flips=True),
        )
    with pytest.raises(CampaignError, match="calibrated on scores without flips"):
        score(
            archive,
            ensemble=families,
            client=client,
            run="x",
            mode="triage",
            progress=False,
            options=CampaignOptions(flips=True),
        )


def test_unknown_precision_makes_no_run(archive, zoo, client):
    with pytest.raises(ModelError, match="no precision 'int8'"):
        score(
            archive,
            ensemble=Ensemble.from_zoo(zoo),
            client=client,
            run="x",
            progress=False,
            options=CampaignOptions(precision="int8"),
        )
    assert "x" not in list_runs(archive)
