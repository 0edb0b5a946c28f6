"""The archive: whole appends or none, whatever kills the writer; and damage is found and named."""

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import random_batch

from deepstreaks_dask.archive.append import CutoutBatch, Quarantined, append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive, shard_bounds, summary
from deepstreaks_dask.archive.schema import SCHEMA, Column
from deepstreaks_dask.archive.store import quarantine
from deepstreaks_dask.archive.verification import verify
from deepstreaks_dask.errors import ArchiveError

# Appends to the archives that it is told of, each in a process of its own, which stops before it puts the
# n-th file in place: every write of an append is a file replaced in one step.
WRITER = """
import os, pathlib, sys, time
import dask.array  # what the first append of a process would import
import numpy as np
import xarray as xr
from deepstreaks_dask.archive.append import CutoutBatch, Quarantined, append_batches

def batches():
    rng = np.random.default_rng(7)
    for night, start in ((20260102, 150), (20260103, 190)):
        ids = np.array([f"c{k}" for k in range(start, start + 40)], dtype=object)
        pixels = rng.integers(0, 256, (40, 144, 144), np.uint8)
        columns = {"id": ids, "night": np.full(40, night), "filter": np.full(40, "r", dtype=object)}
        yield CutoutBatch(pixels, columns, [Quarantined(f"{night}/bad.jpg", "damaged", "cut", night)])

def run(url, stop):
    replace, written = pathlib.Path.replace, 0

    def counted(self, target):
        nonlocal written
        written += 1
        if written == stop:
            print("stopped", os.getpid(), flush=True)
            time.sleep(600)
        return replace(self, target)

    pathlib.Path.replace = counted
    append_batches(url, batches())
    print("done", written, flush=True)

if __name__ == "__main__":
    xr.backends.list_engines()
    for line in sys.stdin:
        url, stop = line.rsplit(maxsplit=1)
        if not (child := os.fork()):
            run(url, int(stop))
            os._exit(0)
        os.waitpid(child, 0)
        print("ended", child, flush=True)
"""


class Writer:
    """The process above."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _hear(self):
        word, number = self.process.stdout.readline().split()
        return word, int(number)

    def _ask(self, url, stop):
        self.process.stdin.write(f"{url} {stop}\n")
        self.process.stdin.flush()

    def append(self, url):
        """Append undisturbed; how many files were written."""
        self._ask(url, 0)
        word, written = self._hear()
        assert (word, self._hear()[0]) == ("done", "ended")
        return written

    @contextmanager
    def stopped(self, url, stop):
        """Stopped before it writes the file numbered ``stop``; killed at the end of the block."""
        self._ask(url, stop)
        word, pid = self._hear()
        assert word == "stopped"
        try:
            yield
        finally:
            os.kill(pid, signal.SIGKILL)
            assert self._hear() == ("ended", pid)


@pytest.fixture(scope="module")
def writer():
    made = Writer()
    yield made
    made.process.stdin.close()
    assert made.process.wait(60) == 0


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """150 cutouts in shards of 64 and a row of quarantine; not to be changed."""
    url = tmp_path_factory.mktemp("before") / "a.zarr"
    create_archive(url, shard=64)
    first = random_batch(150)
    first.quarantined = [Quarantined("20260101/bad.jpg", "empty", "", 20260101)]
    append_batches(url, [first])
    return url


@pytest.fixture(scope="module")
def after(before, writer, tmp_path_factory):
    """The same with the writer's two nights, and how many files that took; not to be changed."""
    url = tmp_path_factory.mktemp("after") / "a.zarr"
    shutil.copytree(before, url)
    return url, writer.append(url)


def files(url):
    return sorted(p.relative_to(url).as_posix() for p in url.rglob("*") if p.is_file())


def contents(url):
    return open_archive(url).load().drop_attrs(), quarantine(url)


def assert_same(found, wanted):
    xr.testing.assert_identical(found[0], wanted[0])
    pd.testing.assert_frame_equal(found[1], wanted[1])


def test_a_writer_killed_before_any_of_its_writes_leaves_the_archive_as_it_was(
    before, after, writer, tmp_path
):
    old, (whole, written) = contents(before), after
    new = contents(whole)
    assert new[0].sizes["cutout"] == 230
    assert written > 50
    for stop in (*range(1, written, 12), written):  # among pixels, columns, quarantine, the record
        url = tmp_path / f"killed-{stop}.zarr"
        shutil.copytree(before, url)
        with writer.stopped(url, stop):
            pass
        assert_same(contents(url), old)
        assert verify(url).ok
        writer.append(url)  # a new writer goes on
        assert_same(contents(url), new)
        assert verify(url).ok
        assert files(url) == files(whole)
        shutil.rmtree(url)


def test_another_append_after_a_kill_is_not_mixed_with_what_was_left(
    before, after, writer, tmp_path
):
    url, clean = tmp_path / "a.zarr", tmp_path / "clean.zarr"
    for path in (url, clean):
        shutil.copytree(before, path)
    with writer.stopped(url, after[1]):  # all is written but the commit record
        pass
    for path in (url, clean):
        append_batches(path, [random_batch(3, start=900)])
    assert_same(contents(url), contents(clean))
    assert verify(url).ok
    assert files(url) == files(clean)


def test_only_one_writes_at_a_time(before, writer, tmp_path):
    url = tmp_path / "a.zarr"
    shutil.copytree(before, url)
    with writer.stopped(url, 5):
        with pytest.raises(ArchiveError, match="being written to by another process"):
            append_batches(url, [random_batch(1, start=900)])
        with pytest.raises(ArchiveError, match="being written to by another process"):
            create_archive(url, overwrite=True)
    assert append_batches(url, [random_batch(1, start=900)]).total == 151


def test_plain_xarray_opens_it_without_warnings(archive):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = xr.open_zarr(archive)
        assert dataset["cutouts"].dims == ("cutout", "y", "x")
        assert set(dataset.coords) == set(SCHEMA)
        np.testing.assert_array_equal(dataset["cutouts"].values, random_batch(150).cutouts)
        assert list(dataset["id"].values[:2]) == ["c0", "c1"]
        assert np.isnan(dataset["ra"].values).all()
        assert dataset["ra"].attrs["units"] == "deg"


def test_it_opens_lazily_in_chunks_of_a_shard(archive):
    dataset = open_archive(archive)
    assert dataset["cutouts"].chunks[0] == (64, 64, 22)
    assert dataset.attrs["shard"] == 64
    assert shard_bounds(150, 64) == [(0, 64), (64, 128), (128, 150)]


PIECES = [
    ("cutouts/c/1/0/0", 64, 128),
    ("id/c/0", 0, 150),
    ("digest/c/0", 0, 150),
    ("quarantine/reason/c/0", 0, 1),
]


@pytest.mark.parametrize("how", ["flipped", "cut", "emptied", "removed"])
@pytest.mark.parametrize(("key", "first", "last"), PIECES)
def test_damage_is_named_with_its_rows(before, tmp_path, key, first, last, how):
    url = tmp_path / "a.zarr"
    shutil.copytree(before, url)
    piece = url / key
    data = bytearray(piece.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 4
    if how == "removed":
        piece.unlink()
    else:
        piece.write_bytes({"flipped": data, "cut": data[: len(data) // 2], "emptied": b""}[how])
    report = verify(url)
    assert not report.ok
    assert [(d.key, d.first, d.last) for d in report.damaged] == [(key, first, last)]
    assert report.damaged[0].why
    assert report.damaged[0].shard == (1 if key.startswith("cutouts") else -1)
    assert json.loads(json.dumps(report.to_dict()))["ok"] is False


def test_pixels_that_were_exchanged_are_found(before, tmp_path):
    """Whole by its checksums, but not what was stored."""
    url = tmp_path / "a.zarr"
    shutil.copytree(before, url)
    shutil.copy(url / "cutouts/c/0/0/0", url / "cutouts/c/1/0/0")
    (damaged,) = verify(url).damaged
    assert (damaged.first, damaged.last) == (64, 128)
    assert damaged.why == "64 cutouts differ from their digests"


@pytest.mark.parametrize("key", ["cutouts/c/2/0/0", "id/c/0", "ra/c/0", "quarantine/detail/c/0"])
@pytest.mark.parametrize("how", ["flipped", "removed"])
def test_nothing_is_appended_to_a_damaged_end(before, tmp_path, key, how):
    """A missing object reads as empty: the rows it held would be written back so, and verify be content."""
    url = tmp_path / "a.zarr"
    shutil.copytree(before, url)
    piece = url / key
    data = bytearray(piece.read_bytes())
    if how == "removed":
        piece.unlink()
    else:
        data[len(data) // 4] ^= 4
        piece.write_bytes(data)
    batch = random_batch(3, start=900)
    batch.quarantined = [Quarantined("x", "empty")]
    with pytest.raises(ArchiveError, match="archive verify"):
        append_batches(url, [batch])
    assert open_archive(url).sizes["cutout"] == 150
    assert [d.key for d in verify(url).damaged] == [key]


def test_duplicates_are_counted_once(archive):
    known = random_batch(150)
    again = append_batches(archive, [known])
    assert (again.appended, again.already_present, again.quarantined) == (0, 150, 0)
    changed = random_batch(2)
    changed.cutouts = changed.cutouts[::-1].copy()
    new = random_batch(3, start=200)
    twins = CutoutBatch(new.cutouts[:1], {"id": np.array(["twin"], dtype=object)})
    for _ in range(2):
        result = append_batches(archive, [changed, new, new, twins])
        assert result.reasons["duplicate"] >= 3
    assert result.total == 153
    listed = quarantine(archive)
    assert sorted(listed["source"]) == ["c0", "c1", "c200", "c201", "c202", "twin"]
    details = dict(zip(listed["source"], listed["detail"], strict=True))
    assert details["c0"] == "id c0 is in the archive already, with other pixels"
    assert details["c200"] == "id c200 occurs twice"
    assert details["twin"] == "same pixels as c200"
    assert set(listed["night"]) == {20260101, 0}


def test_what_is_refused_is_listed_once_whatever_it_says(archive):
    odd = Quarantined("night/\udcff.jpg", "damaged", "\udcff" * 10_000, 20260101)
    for _ in range(2):
        result = append_batches(
            archive, [CutoutBatch(np.empty((0, 144, 144), np.uint8), {}, [odd, odd])]
        )
        assert (result.quarantined, result.reasons) == (2, {"damaged": 2})
    (row,) = quarantine(archive).itertuples(index=False)
    assert row.source == "night/\\udcff.jpg"
    assert row.night == 20260101
    assert len(row.detail) < 5000


def test_native_pictures_are_kept(tmp_path):
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64, native=(157, 160))
    batch = random_batch(3)
    rng = np.random.default_rng(3)
    batch.native = [rng.integers(0, 256, s, np.uint8) for s in ((157, 157), (20, 30), (300, 100))]
    append_batches(url, [batch])
    dataset = open_archive(url)
    assert dataset["native"].dims == ("cutout", "native_y", "native_x")
    assert list(dataset["native_height"].values) == [157, 20, 157]
    assert list(dataset["native_width"].values) == [157, 30, 100]
    native = dataset["native"].values
    np.testing.assert_array_equal(native[1, :20, :30], batch.native[1])
    assert not native[1, 20:].any()
    assert not native[1, :, 30:].any()
    assert verify(url).ok
    with pytest.raises(ArchiveError, match="reader gives none"):
        append_batches(url, [random_batch(1, start=9)])
    (url / "native/c/0/0/0").unlink()
    assert [d.key for d in verify(url).damaged] == ["native/c/0/0/0"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cutouts": np.zeros((3, 143, 144), np.uint8)}, r"uint8 \(n, 144, 144\)"),
        ({"cutouts": np.zeros((3, 144, 144), np.float32)}, "cutouts are float32"),
        ({"id": None}, "no column 'id'"),
        ({"id": np.array(["x", "", "y"], object)}, "empty id"),
        ({"id": np.array(["x", 5, "y"], object)}, "does not fit string"),
        ({"id": np.array(["x", "\udcff", "y"], object)}, "does not fit string"),
        ({"night": np.array([1, 2])}, "2 values for 3 cutouts"),
        ({"night": np.array([2**40, 1, 1])}, "1099511627776 is out of range"),
        ({"label_rb": np.array([np.nan, 1, 0])}, "does not fit int8"),
        ({"ra": np.array(["east", "1", "2"], object)}, "does not fit float64"),
        ({"magic": np.zeros(3)}, "magic"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_wrong_batch_is_refused_with_all_of_its_append(archive, change, words):
    good, wrong = random_batch(100, start=300), random_batch(3, start=900)
    wrong.cutouts = change.pop("cutouts", wrong.cutouts)
    wrong.columns |= change
    wrong.columns = {name: values for name, values in wrong.columns.items() if values is not None}
    good.quarantined = [Quarantined("x", "empty")]
    with pytest.raises(ArchiveError, match=words):
        append_batches(archive, [good, wrong])
    assert open_archive(archive).sizes["cutout"] == 150
    assert quarantine(archive).empty
    assert append_batches(archive, [good]).total == 250
    assert verify(archive).ok


def test_an_error_of_the_reader_stays_what_it_is(archive):
    def batches():
        yield random_batch(100, start=300)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        append_batches(archive, batches())
    assert open_archive(archive).sizes["cutout"] == 150


def test_nothing_to_append_changes_nothing(archive):
    record = (archive / "zarr.json").read_bytes()
    result = append_batches(archive, [CutoutBatch(np.empty((0, 144, 144), np.uint8), {})])
    assert result.to_dict() == {
        "appended": 0,
        "already_present": 0,
        "quarantined": 0,
        "reasons": {},
        "total": 150,
        "replaced": 0,
        "nights": {},
    }
    assert (archive / "zarr.json").read_bytes() == record


def test_create_removes_only_archives(tmp_path, archive):
    folder = tmp_path / "photos"
    folder.mkdir()
    create_archive(folder)  # an empty one will do
    assert open_archive(folder).sizes["cutout"] == 0
    assert verify(folder).ok
    with pytest.raises(ArchiveError, match="exists"):
        create_archive(archive)
    assert open_archive(archive).sizes["cutout"] == 150
    create_archive(archive, shard=128, overwrite=True)
    assert open_archive(archive).sizes["cutout"] == 0
    assert open_archive(archive).attrs["shard"] == 128
    assert not list((archive / "cutouts").glob("c/*"))

    other = tmp_path / "other"
    other.mkdir()
    for text in (None, "{}", "not json", '{"attributes": {"format": "something else"}}', "[]"):
        (other / "precious.txt").touch()
        if text is not None:
            (other / "zarr.json").write_text(text)
        with pytest.raises(ArchiveError):
            create_archive(other, overwrite=True)
        assert (other / "precious.txt").exists()
    with pytest.raises(ArchiveError, match="exists"):
        create_archive(other / "precious.txt")
    with pytest.raises(ArchiveError):
        create_archive(other / "precious.txt", overwrite=True)
    assert (other / "precious.txt").exists()


def test_an_archive_whose_making_was_killed_can_be_made_again(archive):
    record = json.loads((archive / "zarr.json").read_text())
    del record["consolidated_metadata"]
    (archive / "zarr.json").write_text(json.dumps(record))
    with pytest.raises(ArchiveError, match="never finished"):
        open_archive(archive)
    with pytest.raises(ArchiveError, match="never finished"):
        append_batches(archive, [random_batch(1)])
    create_archive(archive, shard=64, overwrite=True)
    assert append_batches(archive, [random_batch(1)]).total == 1


def test_a_kill_while_an_archive_is_overwritten_leaves_one_that_can_be(archive, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_args, **_options):
        raise Killed

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.rm", killed)
    with pytest.raises(Killed):
        create_archive(archive, overwrite=True)
    monkeypatch.undo()
    with pytest.raises(ArchiveError, match="never finished"):
        open_archive(archive)
    create_archive(archive, overwrite=True)
    assert open_archive(archive).sizes["cutout"] == 0


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ArchiveError, match="no archive at"):
        open_archive(tmp_path / "nowhere.zarr")
    with pytest.raises(ArchiveError, match="no archive at"):
        append_batches(tmp_path / "deep" / "nowhere.zarr", [])
    assert not (tmp_path / "deep").exists()
    with pytest.raises(ArchiveError, match="multiple of 64"):
        create_archive(tmp_path / "a.zarr", shard=100)
    with pytest.raises(ArchiveError, match="two positive"):
        create_archive(tmp_path / "a.zarr", native=(0, 3))
    with pytest.raises(ArchiveError, match="height, width"):
        create_archive(tmp_path / "a.zarr", shape=(63,))
    with pytest.raises(ArchiveError, match="one of uint8"):
        create_archive(tmp_path / "a.zarr", dtype="object")
    for name in ("ra", "cutouts", "../x", "quarantine", "plane"):
        with pytest.raises(ArchiveError, match="cannot be named"):
            create_archive(tmp_path / "a.zarr", columns={name: Column("int8", 0, "", "")})
    with pytest.raises(ArchiveError, match="gopher"):
        create_archive("gopher://x/a.zarr")
    assert not (tmp_path / "a.zarr").exists()
    create_archive(tmp_path / "a.zarr")
    record = json.loads((tmp_path / "a.zarr/zarr.json").read_text())
    record["attributes"]["version"] = 99
    (tmp_path / "a.zarr/zarr.json").write_text(json.dumps(record))
    with pytest.raises(ArchiveError, match="newer deepstreaks_dask"):
        open_archive(tmp_path / "a.zarr")


def test_summary_counts(archive):
    more = random_batch(
        10,
        start=500,
        night=20260105,
        label_rb=np.repeat([1, 0], 5).astype(np.int8),
        filter=np.array(list("ggggrrrrri"), dtype=object),
    )
    more.quarantined = [Quarantined("x", "empty"), Quarantined("y", "empty")]
    append_batches(archive, [more])
    counted = summary(archive)
    assert counted.cutouts == 160
    assert counted.nights == {20260101: 150, 20260105: 10}
    assert counted.filters == {"": 150, "g": 4, "r": 5, "i": 1}
    assert counted.labels["rb"] == {"unknown": 150, "positive": 5, "negative": 5}
    assert counted.quarantined == {"empty": 2}
    assert counted.runs == []
    assert counted.bytes == sum(p.stat().st_size for p in archive.rglob("*") if p.is_file())
    json.dumps(counted.to_dict(), allow_nan=False)


def test_an_archive_of_triplets(tmp_path):
    url = tmp_path / "alerts.zarr"
    extra = {
        "drb": Column("float32", np.nan, "", "deep-learning score"),
        "candid": Column("int64", 0, "", "identifier of the candidate"),
        "object_id": Column("string", "", "", "identifier of the object"),
    }
    create_archive(url, shard=64, shape=(63, 63, 3), dtype="float32", columns=extra)
    rng = np.random.default_rng(1)
    pixels = rng.normal(size=(100, 63, 63, 3)).astype(np.float32)
    pixels[3, :, 60:] = np.nan
    ids = np.array([f"t{k}" for k in range(100)], dtype=object)
    batch = CutoutBatch(pixels[:70], {"id": ids[:70], "drb": rng.random(70, np.float32)})
    batch.columns["candid"] = np.arange(70) + 2**60
    append_batches(url, [batch])
    result = append_batches(url, [batch, CutoutBatch(pixels[70:], {"id": ids[70:]})])
    assert (result.appended, result.already_present) == (30, 70)
    dataset = open_archive(url)
    assert dataset["cutouts"].dims == ("cutout", "y", "x", "plane")
    assert dataset["cutouts"].dtype == np.float32
    assert set(dataset.coords) == {*SCHEMA, *extra, "time"}
    np.testing.assert_array_equal(dataset["cutouts"].values, pixels)
    assert dataset["candid"].values[69] == 2**60 + 69
    assert np.isnan(dataset["drb"].values[70:]).all()
    assert dataset["candid"].values[70] == 0
    assert dataset["object_id"].values[0] == ""
    assert verify(url).ok
    with pytest.raises(ArchiveError, match=r"holds float32 \(n, 63, 63, 3\)"):
        append_batches(url, [random_batch(1)])
    (url / "cutouts/c/1/0/0/0").unlink()
    assert [(d.key, d.first, d.last) for d in verify(url).damaged] == [
        ("cutouts/c/1/0/0/0", 64, 100)
    ]


@pytest.fixture
def s3(monkeypatch):
    """URL of a bucket on a local S3 server, with nothing but the environment to find it by."""
    s3fs = pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("survey")
    yield "s3://survey/a.zarr"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_it_works_at_an_object_store(s3):
    import s3fs

    with pytest.raises(ArchiveError, match="no archive at s3://survey"):
        open_archive(s3)
    create_archive(s3, shard=64)
    with pytest.raises(ArchiveError, match="exists"):
        create_archive(s3)
    batch = random_batch(100)
    batch.quarantined = [Quarantined("x", "empty")]
    append_batches(s3, [batch])

    def dies():
        yield random_batch(100, start=100)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        append_batches(s3, dies())
    assert open_archive(s3).sizes["cutout"] == 100
    assert verify(s3).ok
    assert append_batches(s3, [batch, random_batch(50, start=300)]).total == 150
    dataset = open_archive(s3)
    np.testing.assert_array_equal(dataset["cutouts"].values[:100], batch.cutouts)
    np.testing.assert_array_equal(
        dataset["cutouts"].values[100:], random_batch(50, start=300).cutouts
    )
    assert list(quarantine(s3)["reason"]) == ["empty"]
    assert summary(s3).cutouts == 150
    assert verify(s3).ok
    s3fs.S3FileSystem().rm_file("survey/a.zarr/cutouts/c/0/0/0")
    assert [(d.key, d.first, d.last) for d in verify(s3).damaged] == [("cutouts/c/0/0/0", 0, 64)]
    create_archive(s3, shard=64, overwrite=True)
    assert open_archive(s3).sizes["cutout"] == 0
