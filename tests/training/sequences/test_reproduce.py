"""One command from nothing to the papers' tables, at a size that shows nothing; and that a killed one goes on."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
from dask.distributed import Client
from helpers import make_known
from typer.testing import CliRunner

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.simulation import archives
from deepstreaks_dask.simulation.sequences import LAYOUT, simulate_sequences
from deepstreaks_dask.training.sequences import reproduce


class Guess:
    """Learns in no time: the true class as often as chance has it, after every epoch."""

    fitted = 0

    def __init__(self, classes, seed):
        self.classes, self.seed = tuple(classes), int(seed)

    @classmethod
    def fit(cls, sequences, numbers, classes, *, seed):
        Guess.fitted += 1
        return cls(classes, seed)

    def predict_epochs(self, sequences):
        rng = np.random.default_rng(self.seed)
        return rng.dirichlet(np.ones(len(self.classes)), sequences.counts.sum()).astype(np.float32)

    def predict(self, sequences):
        return self.predict_epochs(sequences)[sequences.ends - 1]

    def to_arrays(self):
        return {"seed": np.array([self.seed])}

    @classmethod
    def from_arrays(cls, classes, arrays):
        return cls(classes, arrays["seed"][0])


@pytest.fixture(scope="module")
def client():
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as one:
        yield one


@pytest.fixture(autouse=True)
def small(client, monkeypatch):
    """Of everything as little as there can be, in this process."""

    @contextmanager
    def connect(**_):
        yield client

    @contextmanager
    def here(**_):
        yield None

    def write(found, scores, path):  # tests/evaluation/test_measuring.py has the pictures
        path.write_text(f"{scores.attrs['run']}, {found.by_epochs}")

    monkeypatch.setattr(reproduce, "write_evaluation", write)
    monkeypatch.setattr(reproduce, "connect", connect)
    monkeypatch.setattr(archives, "process_pool", here)
    monkeypatch.setattr(reproduce, "SHIFTED_OBJECTS", 50)
    monkeypatch.setattr(reproduce, "SAMPLES_PER_CLASS", (1,))
    monkeypatch.setattr(reproduce, "REPEAT_COUNT", 2)
    monkeypatch.setattr(reproduce, "FOLD_COUNT", 2)
    for name in ("rcnn", "taonet", "forest"):
        make_known(monkeypatch, name, Guess)
    monkeypatch.setattr(Guess, "fitted", 0)


def run(*arguments):
    return CliRunner().invoke(app, ["sequences", "reproduce", *map(str, arguments)])


def test_the_rcnn_and_what_a_killed_call_leaves_is_not_done_again(tmp_path, monkeypatch):
    folder = tmp_path / "r"
    options = ["rcnn", "--out", folder, "--objects", 30, "--epochs", 1, "--seed", 2]
    whole = reproduce.score

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "score", killed)
    assert run(*options).exit_code == 130
    assert Guess.fitted == 2
    # as if it had been killed while it simulated, too
    create_archive(folder / "shifted.zarr", **LAYOUT, overwrite=True)
    append_batches(folder / "shifted.zarr", simulate_sequences(10, "hits-shifted", "rcnn", seed=3))
    monkeypatch.setattr(reproduce, "score", whole)
    done = run(*options)
    assert done.exit_code == 0, done.output
    assert Guess.fitted == 2 + 2  # the fine-tunings alone
    ids = open_archive(folder / "shifted.zarr")["id"].values.tolist()
    assert ids == [f"hits-shifted-rcnn-3-{k:07d}" for k in range(50)]
    for words in (
        "50 simulated objects of 7 classes",
        "hits_rcnn ",
        "hits_forest ",
        "after 1 a class",
        "hits_rcnn: accuracy",
        "all objects are simulated",
    ):
        assert words in done.stdout
    published = [line for line in done.stdout.splitlines() if "Carrasco-Davis" in line]
    assert any(" 0.94 " in line for line in published)
    assert "hits_rcnn" in (folder / "report.html").read_text()
    again = run(*options, "--json")
    assert Guess.fitted == 4
    said = json.loads(again.stdout)
    assert said["settings"] == {"what": "rcnn", "objects": 30, "epochs": 1, "seed": 2}
    assert [row["samples"] for row in said["recall_by_samples"]["hits_rcnn@1"]] == [0, 1]
    other = run("rcnn", "--out", folder, "--objects", 90)
    assert isinstance(other.exception, DeepStreaksError)
    assert "holds another" in str(other.exception)


def test_the_taonet_beside_the_forest_fold_by_fold(tmp_path):
    options = ["taonet", "--out", tmp_path / "t", "--seed", 1, "--objects", 40]
    done = run(*options, "--epochs", 1, "--json")
    assert done.exit_code == 0, done.exception
    said = json.loads(done.stdout)
    assert Guess.fitted == 4
    assert set(said["folds"]) == {"forest", "taonet"}
    assert len(said["classes"]) == 5
    # those of the first fold, which its members were not trained on
    tests = [one["test_objects"] for one in said["folds"]["taonet"]["each"]]
    assert said["objects"] == tests[0] < sum(tests) == options[-1]
    difference = said["published"][-1]
    assert difference["figure"] == "F1 of taonet less that of the forest"
    assert difference["here"].endswith("2 folds")
    assert said["notes"] == []


def test_mistakes_are_named(tmp_path):
    (tmp_path / "mine.txt").touch()
    for arguments, words in (
        (["lstm"], "no figures of 'lstm'"),
        (["rcnn", "--out", tmp_path], "holds something else"),
    ):
        done = run(*arguments)
        assert isinstance(done.exception, DeepStreaksError)
        assert words in str(done.exception)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(DeepStreaksError, match="cannot be read"):
        reproduce.reproduce(tmp_path, reproduce.settings_for("rcnn"))
