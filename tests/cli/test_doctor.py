"""`deepstreaks doctor`: one page, and what to do about what is missing."""

import json
import os

import pytest
from helpers import random_batch
from typer.testing import CliRunner

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.scoring import examination
from deepstreaks_dask.scoring.examination import Finding, compare, examine


def doctor(*arguments):
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    url = tmp_path_factory.mktemp("doctor") / "archive.zarr"
    create_archive(url, shard=64)
    append_batches(url, [random_batch(3)])
    return url


def test_a_page_of_this_machine(archive, monkeypatch):
    monkeypatch.setattr(examination, "count_cards", lambda: 0)
    before = sorted(archive.iterdir())
    done = doctor(archive)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    for word in ("system", "versions", "machine", "computes", "reaches", "extras"):
        assert any(line.startswith(f"  {word} ") for line in lines), word
    assert "  reaches     archive, to write: yes" in lines
    assert sorted(archive.iterdir()) == before, "something was left in the archive"


def test_workers_are_examined_each(archive, client):
    done = doctor(archive, "--scheduler", client.scheduler.address, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    (one,) = said["machines"]
    assert one["worker"] == "0"
    assert one["computes"]["kind"] == "cpu"
    assert set(one["reaches"].values()) == {"yes"}
    assert said["differences"] == []


def test_what_is_missing_is_said_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(examination.EXTRAS, "no_such_package", ("alerts",))
    done = doctor(tmp_path / "nowhere.zarr", "--zoo", tmp_path / "no-zoo")
    assert done.exit_code == 1
    text = done.stdout
    assert "note: the extra alerts is not complete: no no_such_package" in text
    assert "-> pip install 'deepstreaks-dask[alerts]'" in text
    assert "error: archive, to read: no archive at" in text
    assert "error: networks: " in text
    assert not (tmp_path / "nowhere.zarr").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_archive_that_one_may_only_read(archive):
    archive.chmod(0o555)
    try:
        found = examine(str(archive))
    finally:
        archive.chmod(0o755)
    assert found.reaches["archive, to read"] == "yes"
    assert "Permission denied" in found.reaches["archive, to write"]


def test_a_card_that_is_not_computed_with(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(examination, "count_cards", lambda: 1)
    (found,) = [one for one in examine().findings if one.level == "error"]
    assert found.what == "a GPU is there, but tensorflow computes with the processor"
    assert "pip install 'deepstreaks-dask[gpu]'" in found.remedy
    card = {"name": "H200", "driver": "570", "memory": "1 MiB", "uuid": "GPU-1"}
    monkeypatch.setattr(examination, "cards_of_driver", lambda: [card])
    monkeypatch.setattr(examination, "count_cards", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    hidden = [one.what for one in examine().findings if "hides" in one.what]
    assert hidden == ["a GPU is there, but CUDA_VISIBLE_DEVICES=-1 hides it"]


def test_a_backend_that_is_not_there(monkeypatch):
    def fail():
        raise ModuleNotFoundError("No module named 'jax'")

    monkeypatch.setattr(examination, "describe_worker", fail)
    found = examine()
    assert found.computes == {}
    assert any(
        one.what.startswith("no network can be computed: No module") for one in found.findings
    )


def test_workers_that_differ():
    one = examine()
    other = examine()
    other.versions["deepstreaks_dask"] = "0.0.1"
    other.computes.update(backend="jax", kind="gpu")
    levels = {(finding.level, finding.what.split(":")[0]) for finding in compare([one, other])}
    assert levels == {
        ("error", "versions of deepstreaks_dask differ"),
        ("error", "backends of Keras differ"),
        ("note", "some workers compute with GPUs, others with processors"),
    }
    assert compare([one, one]) == []


def test_findings_are_hashable():
    """The page shows each once."""
    assert len({Finding("note", "a", "b"), Finding("note", "a", "b")}) == 1
