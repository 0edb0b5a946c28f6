"""``deepstreaks sequences train``, ``finetune`` and ``score``, one after the other, as a person uses them."""

import json

import numpy as np
import pytest
from dask.distributed import Client
from small_network import KINDS
from typer.testing import CliRunner

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.sequences import read_objects
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.models.registry import CLASSIFIERS
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring.runs import open_run
from deepstreaks_dask.simulation.sequences import LAYOUT, simulate_sequences


def run(*arguments):
    return CliRunner().invoke(app, ["sequences", *map(str, arguments)])


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    url = tmp_path_factory.mktemp("commands") / "s.zarr"
    create_archive(url, **(LAYOUT | {"shard": 64}))
    append_batches(url, simulate_sequences(70, "hits", "rcnn", seed=9))
    return url


@pytest.fixture
def scheduler(monkeypatch):
    """Address of a worker in this process, where what is called an RCNN compiles quickly."""
    monkeypatch.setitem(CLASSIFIERS, "rcnn", KINDS["headless"])
    here = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with Client(processes=False, protocol="tcp", **here) as client:
        yield client.scheduler.address


def test_train_finetune_and_score(archive, scheduler, tmp_path):
    zoo = tmp_path / "zoo"
    options = ["--recipe", "sequences", "--epochs", 1, "--json"]
    done = run("train", archive, "--family", "own", "--out", tmp_path / "t", "--zoo", zoo, *options)
    assert done.exit_code == 0, done.output
    trained = json.loads(done.stdout)
    assert trained["model"] == "own_rcnn@1"
    assert 0 <= trained["recall"] <= 1
    assert len(trained["f1_by_class"]) == 7

    few = ["--samples", "1", "--repeats", 1, "--epochs", 1, "--from", "own_rcnn", "--from-zoo", zoo]
    where = ["--zoo", zoo, "--scheduler", scheduler]
    done = run("finetune", archive, *few, "--out", tmp_path / "f", *where)
    assert done.exit_code == 0, done.output
    assert "1 a class, 1 draws: average recall" in done.stdout
    assert [card.ref for card in Zoo(zoo).list()] == ["own_rcnn@1", "own_rcnn@2"]

    done = run("score", archive, "--families", "own", *where, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["scored"], said["objects"], said["failures"]) == (70, 70, [])
    scores = open_run(archive)
    assert provenance_of(scores)["members"][0]["version"] == "2"  # the newest
    network = Zoo(zoo).load_classifier("own_rcnn")
    expected = network.predict(read_objects(str(archive), 0, 70).sequences)
    np.testing.assert_allclose(scores["scores"].values[:, 0], expected, atol=1e-5)
    assert open_archive(archive).sizes["object"] == 70


def test_a_shipped_network_scores_on_a_worker(archive):
    options = ["--families", "hits", "--run", "shipped", "--workers", 1, "--json"]
    done = run("score", archive, *options)
    assert done.exit_code == 0, done.output
    scores = open_run(archive, "shipped")
    network = Zoo().load_classifier("hits_rcnn")
    expected = network.predict(read_objects(str(archive), 0, 70).sequences)
    np.testing.assert_allclose(scores["scores"].values[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--folds", 2, "--zoo", "z"], "folds measure"),
        (["train", "--workers", 2], "--workers are for --folds"),
        (["train", "--recipe", "none"], "no recipe 'none'"),
        (["finetune", "--samples", "1,x"], "samples '1,x'"),
        (["finetune", "--samples", "0"], "samples '0'"),
        (["score", "--families", "nobody"], "no member of family 'nobody'"),
    ],
)
def test_mistakes_are_named(archive, arguments, words):
    command, *options = arguments
    done = run(command, archive, *options)
    assert isinstance(done.exception, DeepStreaksError)
    assert words in str(done.exception)


@pytest.mark.parametrize("command", ["train", "finetune", "score"])
def test_help_has_an_example(command):
    assert f"Example: deepstreaks sequences {command}" in run(command, "--help").stdout
