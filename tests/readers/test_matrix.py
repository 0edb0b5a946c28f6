"""Every reader, into new and existing archives, named and sniffed, from a path and from a URL."""

import json
import shutil

import fsspec
import pytest
from small_inputs import WRITERS
from typer.testing import CliRunner

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.verification import verify
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.readers.ingestion import ingest
from deepstreaks_dask.readers.registry import readers

SNIFFED_AS = {"histories": "alerts", "positions": "fits"}
"""Readers of which the inputs look like those of another one, and so have to be named."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Small inputs of every reader, and the table that goes with them, by the reader's name."""
    made = {}
    for reader, write in WRITERS.items():
        folder = tmp_path_factory.mktemp("inputs") / "in"
        folder.mkdir()
        made[reader] = write(folder)
    return made


@pytest.fixture
def at_url():
    """Copy a file or folder to a store in memory, and return its URL."""
    store = fsspec.filesystem("memory")

    def copy(path):
        if path is None:
            return None
        store.put(str(path), f"/inputs/{path.name}", recursive=path.is_dir())
        return f"memory://inputs/{path.name}"

    yield copy
    store.rm("/", recursive=True)


def run(*arguments):
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout)


def test_every_reader_is_in_the_matrix():
    assert set(WRITERS) == set(readers())


@pytest.mark.parametrize("place", ["path", "url"])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("reader", sorted(WRITERS))
def test_every_reader_through_the_command_line_and_python(
    inputs, at_url, tmp_path, reader, named, place
):
    source, table = inputs[reader]
    if place == "url":
        source, table = at_url(source), at_url(table)
    if not named and reader in SNIFFED_AS:
        table = None
    options = [*(["--reader", reader] if named else []), *(["--table", table] if table else [])]
    archive = tmp_path / "a.zarr"
    new = run("ingest", source, archive, *options)
    assert new["appended"] == new["total"] > 0
    assert (new["quarantined"], new["source"]) == (0, str(source))
    expected = reader if named else SNIFFED_AS.get(reader, reader)
    assert new["reader"] == expected
    existing = run("ingest", source, archive, *options)
    assert (existing["appended"], existing["already_present"]) == (0, new["appended"])
    done = ingest(source, tmp_path / "b.zarr", reader=reader if named else None, table=table)
    assert (done.appended, done.reader) == (new["appended"], expected)
    rows = [open_archive(tmp_path / name)["id"].values.tolist() for name in ("a.zarr", "b.zarr")]
    assert rows[0] == rows[1]
    assert verify(archive).ok


def test_an_archive_may_be_at_a_url_too(inputs, at_url):
    source, table = map(at_url, inputs["images"])
    assert run("ingest", source, "memory://archives/a.zarr", "--table", table)["appended"] == 4
    assert run("archive", "ingests", "memory://archives/a.zarr")[0]["appended"] == 4


def test_a_folder_that_lost_a_file_meanwhile_is_read_anew(inputs, at_url, tmp_path):
    folder = tmp_path / "20260101"
    shutil.copytree(inputs["images"][0], folder)
    url = at_url(folder)
    assert ingest(url, tmp_path / "a.zarr").appended == 4
    (tmp_path / "20260101" / "empty.jpg").touch()
    fsspec.filesystem("memory").pipe_file("/inputs/20260101/empty.jpg", b"")
    again = ingest(url, tmp_path / "a.zarr")
    assert (again.already_present, again.reasons) == (4, {"empty": 1})
