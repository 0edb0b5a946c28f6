"""Writers at a URL keep out of each other's way: what was acknowledged is there, whoever else writes."""

import logging
import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from deepstreaks_dask.archive import writers
from deepstreaks_dask.archive.append import CutoutBatch, append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.store import read_commit_record, record_runs
from deepstreaks_dask.archive.verification import verify
from deepstreaks_dask.errors import ArchiveError

WRITERS = int(os.environ.get("DEEPSTREAKS_TEST_WRITERS", "2"))
"""Writers at once; `DEEPSTREAKS_TEST_WRITERS=20` is what the figures in the documentation stand on."""


@pytest.fixture(scope="module")
def server():
    """An S3 server whose conditional writes are one step, as those of S3 are; moto's are two."""
    pytest.importorskip("s3fs")
    from moto.s3.responses import S3Response

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    lock, put = threading.Lock(), S3Response.put_object

    def put_alone(self):
        with lock:
            return put(self)

    S3Response.put_object = put_alone
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    yield server
    server.stop()
    S3Response.put_object = put


TEST = {"number": 0, "first": 0}
"""Which test this is, and from which row on the archive is its own."""


@pytest.fixture
def s3(archive_of_all):
    TEST["number"] += 1
    TEST["first"] = open_archive(archive_of_all).sizes["cutout"]
    return archive_of_all


@pytest.fixture(scope="module")
def archive_of_all(server):
    """One archive for all tests: to create one takes seconds."""
    import s3fs

    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("writers")
        create_archive("s3://writers/a.zarr", shard=64, shape=(4, 4))
        yield "s3://writers/a.zarr"
        s3fs.S3FileSystem.clear_instance_cache()


def batch(name, n=2):
    rng = np.random.default_rng([TEST["number"], *name.encode()])
    ids = np.array([f"{TEST['number']}:{name}-{k}" for k in range(n)], object)
    return CutoutBatch(rng.integers(1, 256, (n, 4, 4), dtype=np.uint8), {"id": ids})


def waiting(started, goes_on, name):
    """A batch that comes once it may, while its writer has the archive."""
    started.set()
    assert goes_on.wait(60)
    yield batch(name)


def in_a_thread(call, *args):
    """Run a call, and keep what it returns or raises."""
    found = []

    def run():
        try:
            found.append(call(*args))
        except ArchiveError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def two_writers(url):
    """Let a second writer come while the first one writes."""
    started, goes_on = threading.Event(), threading.Event()
    thread, found = in_a_thread(append_batches, url, waiting(started, goes_on, "first"))
    started.wait(60)
    with pytest.raises(ArchiveError, match="another process"):
        append_batches(url, [batch("second")])
    goes_on.set()
    thread.join()
    assert found[0].appended == 2


def ids(url):
    """Return what this test has appended."""
    found = open_archive(url)["id"].values[TEST["first"] :].tolist()
    return [name.removeprefix(f"{TEST['number']}:") for name in found]


def test_every_acknowledged_append_of_many_writers_is_there(s3):
    acknowledged, refused = [], []

    def write(name):
        for _ in range(1000):
            try:
                append_batches(s3, [batch(name)])
            except ArchiveError as error:
                refused.append(str(error))
                time.sleep(0.05)
            else:
                acknowledged.append(name)
                return

    threads = [threading.Thread(target=write, args=(f"w{k}",)) for k in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(acknowledged) == sorted(f"w{k}" for k in range(WRITERS))
    assert all("is being written to by another process" in said for said in refused)
    assert sorted(ids(s3)) == sorted(f"w{k}-{n}" for k in range(WRITERS) for n in range(2))
    assert verify(s3).ok


def test_a_second_writer_is_refused_and_says_whom_to_wait_for(s3):
    started, goes_on = threading.Event(), threading.Event()
    thread, found = in_a_thread(append_batches, s3, waiting(started, goes_on, "first"))
    started.wait(60)
    for write in (lambda: append_batches(s3, [batch("second")]), lambda: record_runs(s3)):
        with pytest.raises(ArchiveError, match=rf"by another process \(process {os.getpid()} on"):
            write()
    with pytest.raises(ArchiveError, match="another process"):
        create_archive(s3, overwrite=True)
    assert ids(s3) == []  # readers read
    assert writers.WRITER not in open_archive(s3).attrs
    goes_on.set()
    thread.join()
    assert found[0].appended == 2
    assert ids(s3) == ["first-0", "first-1"]
    assert append_batches(s3, [batch("second")]).appended


def test_a_writer_that_was_held_up_cannot_commit_nor_replace_anything(s3, monkeypatch):
    """Its claim ran out; another came, wrote and committed; then it goes on."""
    append_batches(s3, [batch("before", 3)])
    started, goes_on = threading.Event(), threading.Event()
    monkeypatch.setattr(writers, "CLAIM_SECONDS", 0.0)
    thread, found = in_a_thread(append_batches, s3, waiting(started, goes_on, "slow"))
    started.wait(60)
    monkeypatch.setattr(writers, "CLAIM_SECONDS", 900.0)
    assert append_batches(s3, [batch("quick")]).appended
    goes_on.set()
    thread.join()
    assert isinstance(found[0], writers.ConflictError)
    assert "took over: nothing was appended; run it again" in str(found[0])
    expected = ["before-0", "before-1", "before-2", "quick-0", "quick-1"]
    assert ids(s3) == expected
    assert verify(s3).ok
    assert append_batches(s3, [batch("slow")]).appended
    assert ids(s3) == [*expected, "slow-0", "slow-1"]


def test_a_writer_that_has_written_all_but_the_record_cannot_commit_after_another(s3, monkeypatch):
    started, goes_on = threading.Event(), threading.Event()
    commit = writers.Claim.commit

    def late(self, record):
        if threading.current_thread() is not threading.main_thread():
            started.set()
            assert goes_on.wait(60)
        commit(self, record)

    monkeypatch.setattr(writers.Claim, "commit", late)
    monkeypatch.setattr(writers, "CLAIM_SECONDS", 0.0)
    thread, found = in_a_thread(append_batches, s3, [batch("slow")])
    started.wait(60)
    monkeypatch.setattr(writers, "CLAIM_SECONDS", 900.0)
    assert append_batches(s3, [batch("quick", 1)]).appended
    goes_on.set()
    thread.join()
    assert isinstance(found[0], writers.ConflictError)
    assert ids(s3) == ["quick-0"]
    assert verify(s3).ok


def test_the_claim_of_a_killed_writer_is_waited_for_and_then_taken_over(s3, monkeypatch):
    started, goes_on = threading.Event(), threading.Event()
    monkeypatch.setattr(writers.Claim, "release", lambda self: None)  # it was killed
    goes_on.set()

    def dies():
        yield batch("killed")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        append_batches(s3, dies())
    with pytest.raises(ArchiveError, match="s if it was killed"):
        append_batches(s3, [batch("next")])
    now = time.time()
    monkeypatch.setattr(writers.time, "time", lambda: now + writers.CLAIM_SECONDS + 1)
    assert append_batches(s3, [batch("next")]).appended
    assert ids(s3) == ["next-0", "next-1"]
    assert not started.is_set()


def test_a_long_append_renews_its_claim(s3, monkeypatch):
    monkeypatch.setattr(writers, "_RENEWAL", 0.0)
    assert append_batches(s3, [batch("a", 70)]).appended == 70
    assert ids(s3)[-1] == "a-69"
    assert writers.WRITER not in read_commit_record(s3).attributes


def test_a_write_that_was_sent_twice_is_no_conflict(s3, monkeypatch):
    """botocore repeats a request whose answer was lost: the second one finds what the first one has written."""
    import s3fs

    call, twice = s3fs.S3FileSystem._call_s3, []

    async def repeated(self, method, *args, **kwargs):
        if method == "put_object" and "IfMatch" in kwargs and not kwargs["Key"].endswith("write"):
            twice.append(kwargs["Key"])
            await call(self, method, *args, **kwargs)
        return await call(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", repeated)
    assert append_batches(s3, [batch("a")]).appended
    assert ids(s3) == ["a-0", "a-1"]
    assert len(twice) > 2


def test_a_store_without_conditional_writes_says_so_and_keeps_a_second_writer_out(s3, monkeypatch):
    monkeypatch.setattr(writers, "is_conditional", lambda fs, root: False)
    with pytest.warns(UserWarning, match="knows no conditional writes"):
        two_writers(s3)
    with pytest.warns(UserWarning, match="knows no conditional writes"):
        assert append_batches(s3, [batch("second")]).appended


def test_stores_in_memory_have_leases():
    TEST["first"] = 0
    url = "memory://leased/a.zarr"
    create_archive(url, shard=64, shape=(4, 4))
    with pytest.warns(UserWarning, match="knows no conditional writes"):
        two_writers(url)
    assert ids(url) == ["first-0", "first-1"]


@pytest.mark.parametrize("other", [{"until": "x"}, 7, {"until": 1e300}, {"until": -1}, {}, None])
def test_a_claim_that_makes_no_sense_keeps_nobody_out(other, monkeypatch):
    record = {"attributes": {writers.WRITER: other}}
    fs = SimpleNamespace(
        info=lambda *_, **__: {"ETag": "1"},
        split_path=lambda path: (*path.split("/", 1), None),
        call_s3=lambda *_, **__: {"ETag": "2"},
        invalidate_cache=lambda _: None,
    )
    monkeypatch.setattr(writers, "read_metadata", lambda *_: record)
    writers.Claim("s3://b/a.zarr", fs, "b/a.zarr")


def test_a_store_that_ignores_conditions_is_found_out():
    written = set()
    fs = SimpleNamespace(
        protocol=("s3", "s3a"),
        split_path=lambda path: (*path.split("/", 1), None),
        call_s3=lambda _, **sent: written.add(sent["Key"]),
        rm_file=lambda path: written.remove(path.split("/", 1)[1]),
    )
    assert not writers.is_conditional(fs, "b/a.zarr")
    assert not written
