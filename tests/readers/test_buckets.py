"""Inputs, tables and outputs in buckets, and what is wrong with buckets in one line."""

import json

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from helpers import random_batch, write_run
from small_inputs import write_pictures
from typer.testing import CliRunner

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import DeepStreaksError, StorageError
from deepstreaks_dask.readers.ingestion import ingest
from deepstreaks_dask.utils.storage import is_url, local_copy, read_bytes, write_text


@pytest.fixture(scope="module")
def bucket():
    """URL of a bucket on a local S3 server, with nothing but the environment to find it by."""
    s3fs = pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patched.setenv("AWS_ACCESS_KEY_ID", "test")
        patched.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("inputs")
        yield "s3://inputs"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_cutouts_and_tables_of_a_bucket_are_read(bucket, tmp_path, monkeypatch):
    import s3fs

    monkeypatch.chdir(tmp_path)
    folder, table = write_pictures(tmp_path)
    store = s3fs.S3FileSystem()
    store.put(str(folder), "inputs/", recursive=True)
    store.put(str(table), "inputs/labels.csv")
    source, archive = f"{bucket}/20260101", tmp_path / "a.zarr"
    done = run("ingest", source, archive, "--table", f"{bucket}/labels.csv", "--json")
    assert done.exit_code == 0, done.exception
    told = json.loads(done.stdout)
    assert (told["appended"], told["source"], told["nights"]) == (4, source, {"20260101": 4})
    assert (open_archive(archive)["label_rb"].values >= 0).any()
    assert run("archive", "label", archive, f"{bucket}/labels.csv", "--json").exit_code == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("s3")]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("s3://nowhere/night", "cannot read s3://nowhere/night: it does not exist"),
        ("s3://inputs/nothing", "cannot read s3://inputs/nothing: it does not exist"),
        ("nosuch://inputs/x", "cannot read nosuch://inputs/x"),
    ],
)
def test_places_that_cannot_be_read_are_named_in_one_line(bucket, tmp_path, source, words):
    done = run("ingest", source, tmp_path / "a.zarr")
    assert isinstance(done.exception, DeepStreaksError)
    assert words in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not (tmp_path / "a.zarr").exists()


@pytest.fixture
def unreachable(monkeypatch):
    """Let the endpoint of all buckets be one where nobody listens."""
    s3fs = pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    "arguments",
    [
        ("simulate", "s3://survey/a.zarr"),
        ("ingest", "s3://survey/in", "HERE"),
        ("ingest", "HERE", "s3://survey/a.zarr"),
        ("archive", "summary", "s3://survey/a.zarr"),
        ("archive", "retract", "s3://survey/a.zarr", "20260101"),
        ("archive", "label", "HERE", "s3://survey/labels.csv"),
        ("models", "list", "--zoo", "s3://survey/zoo"),
    ],
)
def test_a_wrong_endpoint_is_one_line(unreachable, tmp_path, arguments):
    folder, _ = write_pictures(tmp_path)
    done = run(*(str(folder) if one == "HERE" else one for one in arguments))
    assert isinstance(done.exception, DeepStreaksError), done.exception
    assert "s3://survey" in str(done.exception)
    assert "\n" not in str(done.exception)


class Forbidding(MemoryFileSystem):
    """A store that refuses whatever is asked of it."""

    protocol = ("forbidding",)

    def _refuse(self, *arguments, **options):
        raise PermissionError("Access Denied")

    info = ls = find = cat_file = pipe_file = exists = isfile = isdir = _refuse


@pytest.fixture
def forbidding():
    fsspec.register_implementation("forbidding", Forbidding, clobber=True)
    return "forbidding://bucket/x"


def test_a_forbidden_bucket_is_one_line(forbidding, tmp_path):
    words = "permission denied \\(Access Denied\\): check the credentials"
    with pytest.raises(StorageError, match=words):
        ingest(forbidding, tmp_path / "a.zarr")
    with pytest.raises(StorageError, match=words):
        write_text(forbidding, "text")
    with pytest.raises(DeepStreaksError, match=words):
        ingest(write_pictures(tmp_path)[0], forbidding)
    assert not (tmp_path / "a.zarr").exists()


def test_copies_are_named_like_their_urls_and_removed(tmp_path):
    store = fsspec.filesystem("memory")
    store.pipe_file("/copies/20260101/a/b.txt", b"x")
    with local_copy("memory://copies/20260101") as copy:
        assert copy.name == "20260101"
        assert (copy / "a" / "b.txt").read_bytes() == b"x"
    assert not copy.exists()
    with (
        pytest.raises(DeepStreaksError, match=r"memory://copies/20260101/a/b\.txt is wrong"),
        local_copy("memory://copies/20260101/a/b.txt") as copy,
    ):
        raise DeepStreaksError(f"{copy} is wrong")
    with local_copy(tmp_path) as same:
        assert same == tmp_path
    store.pipe_file("/copies/bad/../../../out.txt", b"x")
    with pytest.raises(StorageError, match="leads out"), local_copy("memory://copies/bad"):
        pass
    store.rm("/copies", recursive=True)


def test_names_that_look_like_urls_may_be_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a::b.txt").write_bytes(b"x")
    assert not is_url("a::b.txt")
    assert is_url("s3://bucket/a")
    assert not is_url(f"file://{tmp_path}")
    assert not is_url("a?b.txt")
    with pytest.raises(StorageError, match="has more than 0 bytes"):
        read_bytes(tmp_path / "a::b.txt", 0)


def test_outputs_go_to_urls_and_leave_no_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archive = tmp_path / "a.zarr"
    create_archive(archive, shard=64)
    append_batches(archive, [random_batch(4)])
    write_run(archive, "default", ["rb_vgg6"], np.full((4, 1), 0.9, np.float32))
    for command, name in (("report", "r.html"), ("decide", "c.csv")):
        done = run(command, archive, "-o", f"memory://outputs/{name}")
        assert done.exit_code == 0, done.exception
        assert fsspec.filesystem("memory").size(f"/outputs/{name}")
    assert {path.name for path in tmp_path.iterdir() if "zarr" not in path.name} == set()
    fsspec.filesystem("memory").rm("/outputs", recursive=True)
