"""Whatever breaks, a campaign stops with a reason or goes on, and the next one does what is missing, to the same bits."""

import datetime as dt
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from contextlib import contextmanager

import keras
import numpy as np
import pytest
from dask.distributed import Client
from faulty import (
    SHARD,
    SIDE,
    Gate,
    MoodyStore,
    campaign,
    chunks,
    fill_memory,
    make_zoo,
    processes,
    slow_down,
    small_archive,
    small_cutouts,
    start,
    struck,
    wait,
    warm,
)

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.verification import verify
from deepstreaks_dask.errors import ArchiveError, CampaignError
from deepstreaks_dask.models import inference as forward
from deepstreaks_dask.models.inference import compile_forward
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring import networks, worker
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.runs import Run, open_run
from deepstreaks_dask.scoring.status import run_status
from deepstreaks_dask.utils.storage import locate

SHARDS = 40


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    return Ensemble.from_zoo(make_zoo(tmp_path_factory.mktemp("zoo") / "zoo", 1), ["rb", "kd"])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_archive(tmp_path_factory.mktemp("small") / "small.zarr", SHARDS)


@pytest.fixture(scope="module")
def here():
    """Workers in this process, for what is not about processes."""
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with Client(processes=False, **options) as client:
        yield client


@pytest.fixture(scope="module")
def whole(small, families, here):
    """Scores of a campaign that nobody disturbed."""
    return score(small, ensemble=families, client=here, run="whole", progress=False)[
        "scores"
    ].values


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setattr(worker, "_checked", worker._checked)
    slow_down(0.02)


def assert_only_the_rest_was_done(url, run, before, *, under_way=0):
    after = chunks(url, run)
    assert 0 < len(before) < SHARDS, "it did not happen in the middle"
    assert len(after) == SHARDS
    again = [key for key in before if after[key] != before[key]]
    assert len(again) <= under_way, "a finished shard was computed again"


# --- processes


def test_a_killed_nanny_loses_nothing(small, families, whole, tmp_path):
    with (
        processes(tmp_path, gates=(None, None)) as (address, (_, nanny, _)),
        Client(address) as client,
    ):
        client.wait_for_workers(2)
        with struck(small, "nanny", lambda: os.kill(nanny.pid, signal.SIGKILL)) as before:
            scored = score(small, ensemble=families, client=client, run="nanny", progress=False)
        assert len(client.nthreads()) == 1
    assert scored["scores"].values.tobytes() == whole.tobytes()
    # of the one that it had under way it may have stored the scores, but not said so
    assert_only_the_rest_was_done(small, "nanny", before, under_way=1)


def test_a_killed_scheduler_stops_the_campaign_which_goes_on_later(
    small, families, whole, tmp_path, here
):
    with processes(tmp_path) as (address, (scheduler, _)), Client(address, timeout="5s") as client:
        client.wait_for_workers(1)
        with (
            struck(small, "scheduler", lambda: os.kill(scheduler.pid, signal.SIGKILL)),
            pytest.raises(
                CampaignError, match=r"run 'scheduler' .* stopped: .* goes on from there"
            ),
        ):
            score(small, ensemble=families, client=client, run="scheduler", progress=False)
    before = chunks(small, "scheduler")
    scored = score(small, ensemble=families, client=here, run="scheduler", progress=False)
    assert scored["scores"].values.tobytes() == whole.tobytes()
    assert_only_the_rest_was_done(small, "scheduler", before)


def test_a_worker_without_memory_is_said_to_be_one(small, families, whole, tmp_path):
    settings = {"distributed.scheduler.allowed-failures": 0}
    mark = str(tmp_path / "filled")
    with (
        processes(tmp_path, memory_limit="1500MB", settings=settings) as (address, _),
        Client(address) as client,
    ):
        client.wait_for_workers(1)
        greedy = []
        with (
            struck(
                small, "memory", lambda: greedy.append(client.submit(fill_memory, mark, priority=9))
            ),
            pytest.raises(CampaignError, match=r"workers died .* when their memory is full"),
        ):
            score(small, ensemble=families, client=client, run="memory", progress=False)
        before = chunks(small, "memory")
        client.wait_for_workers(1)  # its nanny has started another
        scored = score(small, ensemble=families, client=client, run="memory", progress=False)
    assert scored["scores"].values.tobytes() == whole.tobytes()
    assert_only_the_rest_was_done(small, "memory", before)


# --- the network


@pytest.mark.parametrize("silently", [False, True], ids=["loud", "silent"])
def test_a_worker_that_is_cut_off_harms_nothing(small, families, whole, tmp_path, silently):
    gate, run = Gate(), f"cut-{silently}"
    # of a worker that says nothing the scheduler asks the nanny first, for half a minute: it has none here
    settings = {"distributed.scheduler.worker-ttl": "5s"}

    def cut():
        gate.shut(silently=silently)

    with (
        processes(
            tmp_path, gates=(gate, None), nanny=not silently, settings=settings, pace=0.1
        ) as (address, _),
        Client(address) as client,
    ):
        client.wait_for_workers(2)
        with struck(small, run, cut, after=4) as before:
            scored = score(small, ensemble=families, client=client, run=run, progress=False)
        gate.open_again()  # what the one that was cut off still says and stores is the same
        wait(lambda: len(client.nthreads()) >= 1, "there is no worker left")
        time.sleep(1)
        again = score(small, ensemble=families, client=client, run=run, progress=False)
    gate.close()
    assert scored["scores"].values.tobytes() == whole.tobytes()
    assert again["scores"].values.tobytes() == whole.tobytes()
    assert_only_the_rest_was_done(small, run, before, under_way=1)


# --- the disk


@pytest.fixture
def tiny_disk(tmp_path):
    """A disk of three megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("to mount a disk that fills takes root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place):
    with suppress_full(), (place / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))


@contextmanager
def suppress_full():
    with pytest.raises(OSError, match="No space left"):
        yield


def test_a_full_disk_stops_the_campaign_with_its_reason(
    tiny_disk, small, families, whole, here, slow
):
    url = tiny_disk / "small.zarr"
    shutil.copytree(small, url, ignore=shutil.ignore_patterns("runs"))
    with (
        struck(url, "full", lambda: fill(tiny_disk)),
        pytest.raises(CampaignError, match=r"run 'full' .* No space left on device.* goes on"),
    ):
        score(url, ensemble=families, client=here, run="full", progress=False)
    before = chunks(url, "full")
    partial = open_run(url, "full")["scores"].values
    done = ~np.isnan(partial).any(axis=1)
    np.testing.assert_array_equal(partial[done], whole[done])
    with pytest.raises(CampaignError, match="No space left on device"):
        score(url, ensemble=families, client=here, run="another", progress=False)
    with pytest.raises(ArchiveError, match=r"No space left on device.*nothing was appended"):
        append_batches(url, [small_cutouts(100, start=100_000)])
    (tiny_disk / "ballast").unlink()
    scored = score(url, ensemble=families, client=here, run="full", progress=False)
    assert scored["scores"].values.tobytes() == whole.tobytes()
    assert_only_the_rest_was_done(url, "full", before)
    assert append_batches(url, [small_cutouts(100, start=100_000)]).appended == 100
    assert verify(url).ok


# --- the object store


@pytest.fixture
def store(monkeypatch):
    """An object store on this machine, through a server that has moods."""
    s3fs = pytest.importorskip("s3fs")
    # what is refused is asked again as often as else, but soon
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda *_, **__: 0.01)
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    moody = MoodyStore(server.get_host_and_port())
    threading.Thread(target=moody.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", moody.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("moody")  # moto has one store for all of a process
    yield moody
    moody.mood = lambda method, path: None
    s3fs.S3FileSystem.clear_instance_cache()
    moody.shutdown()
    moody.server_close()
    server.stop()


def test_a_moody_object_store_is_asked_again_and_an_outage_waited_for(
    store, families, here, monkeypatch
):
    url = "s3://moody/a.zarr"
    create_archive(url, shard=SHARD, shape=(SIDE, SIDE))
    append_batches(url, [small_cutouts(SHARD * 6)])
    scores = score(url, ensemble=families, client=here, run="whole", progress=False)[
        "scores"
    ].values
    rng = random.Random(3)
    refused = Counter()

    def moody(method, path):
        """Refuse one request in seven, but none three times, and take time for others."""
        mood = rng.choices((500, 503, 0.05, None), (1, 1, 1, 11))[0]
        if mood in (500, 503):
            refused[method, path] += 1
            return mood if refused[method, path] < 3 else None
        return mood

    store.mood = moody
    found = score(url, ensemble=families, client=here, run="moody", progress=False)
    assert store.refused > 5
    assert provenance_of(found)["failures"] == []
    assert found["scores"].values.tobytes() == scores.tobytes()

    # who is refused for long need not ask as often as before
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(type(locate(url)[0]), "retries", 2)
    type(locate(url)[0]).clear_instance_cache()
    written = []

    def outage(method, path):
        if method == "PUT" and "/runs/out/scores/c/" in path:
            written.append(path)
        return 503 if len(written) > 2 else None

    store.mood = outage
    with pytest.raises(CampaignError, match=r"run 'out' .* stopped"):
        score(url, ensemble=families, client=here, run="out", progress=False)
    store.mood = lambda method, path: (
        written.append(path) if "/out/scores/c/" in path and method == "PUT" else None
    )
    # what was under way may find the store well again
    wait(lambda: not any(here.processing().values()), "the worker does not come to an end")
    partial = open_run(url, "out")["scores"].values
    done = ~np.isnan(partial).any(axis=1)
    assert 2 * SHARD <= done.sum() < 6 * SHARD
    np.testing.assert_array_equal(partial[done], scores[done])
    written.clear()
    found = score(url, ensemble=families, client=here, run="out", progress=False)
    assert found["scores"].values.tobytes() == scores.tobytes()
    assert len(written) == 6 - done.sum() // SHARD, "what was stored was computed again"


# --- data


def test_poisoned_cutouts_are_named_and_their_neighbours_scored(tmp_path, families, here):
    url = tmp_path / "poisoned.zarr"
    create_archive(url, shard=4 * SHARD, shape=(SIDE, SIDE))
    append_batches(url, [small_cutouts(8 * SHARD)])
    whole = score(url, ensemble=families, client=here, run="whole", progress=False)["scores"].values
    shard = url / "cutouts" / "c" / "1" / "0" / "0"
    sound = shard.read_bytes()
    data = bytearray(sound)
    data[len(data) * 3 // 8] ^= 16  # in the second of four chunks
    shard.write_bytes(data)
    found = score(url, ensemble=families, client=here, run="poisoned", progress=False)
    ((first, last, why),) = provenance_of(found)["failures"]
    assert (first, last) == (5 * SHARD, 6 * SHARD)
    assert "checksum" in why
    values = found["scores"].values
    missing = np.isnan(values).any(axis=1)
    assert list(found["id"].values[missing]) == [f"c{k}" for k in range(first, last)]
    np.testing.assert_array_equal(values[~missing], whole[~missing])
    assert run_status(url, "poisoned").failures == [(first, last, why)]
    assert run_status(url, "poisoned").shards.tolist() == ["done", "failed"]
    shard.write_bytes(sound)
    before = chunks(url, "poisoned")
    mended = score(url, ensemble=families, client=here, run="poisoned", progress=False)
    assert mended["scores"].values.tobytes() == whole.tobytes()
    assert provenance_of(mended)["failures"] == []
    after = chunks(url, "poisoned")
    assert {key for key in after if after[key] != before[key]} == {"1"}


def test_every_flipped_byte_of_scores_is_found_and_only_that_shard_scored_again(
    small, families, whole, here
):
    score(small, ensemble=families, client=here, run="flipped", progress=False)
    chunk = small / "runs" / "flipped" / "scores" / "c" / "7" / "0"
    data = chunk.read_bytes()
    rows = slice(7 * SHARD, 8 * SHARD)
    array = Run.attach(str(small), "flipped").scores
    rng = random.Random(1)
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.randrange(8)
        chunk.write_bytes(flipped)
        with pytest.raises(Exception):  # noqa: B017, PT011 - each codec has its own
            _ = array[rows]
    before = chunks(small, "flipped")
    scored = score(small, ensemble=families, client=here, run="flipped", progress=False)
    assert scored["scores"].values.tobytes() == whole.tobytes()
    after = chunks(small, "flipped")
    assert {key for key in after if after[key] != before[key]} == {"7"}


# --- the memory of a GPU


class OutOfMemoryError(RuntimeError):
    """As PyTorch's is named."""


def exhausted(backend):
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
    if backend == "torch":
        return OutOfMemoryError("CUDA out of memory.")
    return RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes.")


@pytest.fixture(params=["tensorflow", "jax", "torch"])
def small_card(request, monkeypatch):
    """Make a backend say, as each one does, that more than 16 cutouts do not fit on the card."""
    name = keras.backend.backend()
    compile_ = forward._BACKENDS[name]

    def compiled(*arguments):
        begin = compile_(*arguments)

        def begin_(cutouts):
            wait = begin(cutouts)

            def full():
                wait()
                raise exhausted(request.param)

            return full if len(cutouts) > 16 else wait

        return begin_

    monkeypatch.setitem(forward._BACKENDS, name, compiled)
    networks._load_once.cache_clear()
    yield
    networks._load_once.cache_clear()


def test_batches_are_halved_until_they_fit_on_the_card(small, families, whole, here, small_card):
    models = [Zoo(families.zoo).load(member.ref) for member in families.members]
    cutouts = small_cutouts(100).cutouts
    halving, small_batches = compile_forward(models, 100), compile_forward(models, 13)
    found = halving(cutouts)
    assert halving.size == 13  # 100, 50, 25, 13
    expected = [small_batches(cutouts[k : k + 13]) for k in range(0, 100, 13)]
    assert found.tobytes() == np.concatenate(expected).tobytes()
    scored = score(
        small, ensemble=families, client=here, run=f"card-{time.monotonic_ns()}", progress=False
    )
    assert scored.attrs["halved"] == 16
    np.testing.assert_allclose(scored["scores"].values, whole, rtol=0, atol=1e-6)


def test_what_is_no_matter_of_memory_is_not_tried_again(families, monkeypatch):
    models = [Zoo(families.zoo).load(member.ref) for member in families.members]
    run = compile_forward(models, 8)
    tried = []

    def broken(cutouts):
        tried.append(len(cutouts))
        raise RuntimeError("INTERNAL: the card fell off the bus")

    run._begin = broken
    with pytest.raises(RuntimeError, match="fell off"):
        run(small_cutouts(8).cutouts)
    assert tried == [8]
    monkeypatch.setitem(forward._BACKENDS, keras.backend.backend(), lambda *_: never)
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        compile_forward(models, 8)(small_cutouts(8).cutouts)


def test_calls_under_way_are_over_before_less_is_tried(families):
    """Else what they hold of the card's memory would be missing when the batch is halved."""
    run = compile_forward([Zoo(families.zoo).load(families.members[0].ref)], 4)
    over = []

    def begin(cutouts):
        def wait():
            over.append(int(cutouts[0, 0, 0, 0]))
            raise RuntimeError("INTERNAL: the card fell off the bus")

        return wait

    run._begin = begin
    cutouts = np.repeat(np.arange(4, dtype=np.uint8), 4)[:, None, None, None]
    with pytest.raises(RuntimeError, match="fell off"):
        run(np.broadcast_to(cutouts, (16, *run._shape[1:])))
    assert over == [0, 1]


def never(cutouts):
    raise RuntimeError("RESOURCE_EXHAUSTED: not even one")


# --- the clock


def test_a_clock_that_jumps_changes_nothing(small, families, whole):
    orders, there = warm.Pipe()
    process = start(campaign, str(small), families.zoo, "clock", pace=0.2, clock=there)
    there.close()
    try:
        # back by little: for as long Dask sends nothing (distributed/batched.py looks at the wall clock)
        for after, jump in ((2, 10_800), (5, -3), (8, 34_560_000)):
            wait(
                lambda after=after: len(chunks(small, "clock")) >= after or not process.is_alive(),
                "the campaign does not begin",
            )
            assert process.is_alive(), "it ended before the clock jumped"
            orders.send(jump)
            assert orders.poll(60), "the clock was not moved"
            ahead = orders.recv() - time.time()
            found = run_status(small, "clock")
            assert found.count("failed") == 0
            assert found.pulse is not None
        wait(lambda: not process.is_alive(), "the campaign does not end")
    finally:
        process.kill()
        process.join()
    assert process.exitcode == 0
    assert ahead > 34_560_000
    found = open_run(small, "clock")
    assert found["scores"].values.tobytes() == whole.tobytes()
    updated = dt.datetime.fromisoformat(found.attrs["updated"])
    assert updated > dt.datetime.now(dt.UTC) + dt.timedelta(days=300)  # it did jump
    assert run_status(small, "clock").shards.tolist() == ["done"] * SHARDS


def test_chunks_from_before_and_after_a_jump_still_tell_how_far_a_run_is(small, families, whole):
    for days in (-2000, 400):
        moment = time.time() + days * 86400
        chunk = small / "runs" / "whole" / "scores" / "c" / str(abs(days) % 7) / "0"
        os.utime(chunk, (moment, moment))
    found = run_status(small, "whole")
    assert (found.done, found.seconds_left) == (open_archive(small).sizes["cutout"], 0)
    assert found.written["time"].is_monotonic_increasing
