"""What is there is never replaced without being asked for."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.cli import quickstart
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import DeepStreaksError


def invoke(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def refused(*arguments):
    done = invoke(*arguments)
    assert isinstance(done.exception, DeepStreaksError)
    return str(done.exception)


def test_simulate_replaces_an_archive_only_if_asked_to(tmp_path):
    archive = tmp_path / "a.zarr"
    few = ["simulate", archive, "--nights", 1, "--cutouts"]
    assert invoke(*few, 2).exit_code == 0
    assert "--overwrite" in refused(*few, 3)
    assert open_archive(archive).sizes["cutout"] == 2
    assert invoke(*few, 3, "--overwrite").exit_code == 0
    assert open_archive(archive).sizes["cutout"] == 3


def test_simulate_replaces_no_night_of_files(tmp_path):
    few = ["simulate", tmp_path, "--images", "--nights", 1, "--cutouts", 2]
    assert invoke(*few).exit_code == 0
    assert "night 20260101" in refused(*few)
    assert invoke(*few, "--overwrite").exit_code == 0
    assert invoke(*few, "--first", 20260201).exit_code == 0


def test_inject_replaces_an_archive_only_if_asked_to(tmp_path):
    out = tmp_path / "i.zarr"
    create_archive(out)
    one = ["inject", "--out", out, "--magnitudes", 16, "--lengths", 20, "--each", 2]
    assert "--overwrite" in refused(*one)
    assert invoke(*one, "--overwrite").exit_code == 0
    assert open_archive(out).sizes["cutout"] == 4


SIZE = {"nights": 2, "cutouts": 5}


@pytest.fixture
def folder(tmp_path):
    """A folder in which a quickstart was interrupted."""
    folder = tmp_path / "quickstart"
    folder.mkdir()
    (folder / quickstart.MARK_FILE).write_text(json.dumps(SIZE))
    return folder


def again(folder, **options):
    return refused("quickstart", "--folder", folder, *[f"--{k}={v}" for k, v in options.items()])


def test_quickstart_replaces_nothing_that_is_finished(folder):
    (folder / "report.html").touch()
    said = again(folder, **SIZE)
    assert "finished" in said
    assert str(folder / "report.html") in said
    assert "--overwrite" in said


@pytest.mark.parametrize("mark", [json.dumps(SIZE), ""], ids=["other size", "version 0.1.0"])
def test_quickstart_replaces_none_of_another_size(folder, mark):
    (folder / quickstart.MARK_FILE).write_text(mark)
    assert "another size" in again(folder, nights=3, cutouts=5)
    assert (folder / quickstart.MARK_FILE).read_text() == mark


def test_quickstart_says_that_a_folder_cannot_be_written_to(tmp_path, monkeypatch):
    def mkdir(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    said = refused("quickstart", "--folder", tmp_path / "new")
    assert "cannot write to" in said
    assert "--folder" in said


def test_quickstart_below_a_file_is_a_mistake_too(tmp_path):
    (tmp_path / "file").touch()
    assert "cannot write to" in again(tmp_path / "file" / "q")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["simulate", "foo://a.zarr"], "cannot write to foo://a.zarr"),
        (["simulate", "a.zarr", "--first", 20261399], "write a night like 20260101"),
        (["inject", "--out", "foo://a.zarr"], "cannot write to foo://a.zarr"),
        (["models", "verify", "--zoo", "nowhere"], "no networks in nowhere"),
    ],
)
def test_mistakes_are_named(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refused(*arguments)
    assert not list(tmp_path.iterdir())
