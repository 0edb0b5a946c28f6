"""What a training leaves in its folder, and what goes into a zoo."""

import json

import numpy as np
import pytest
from filelock import FileLock
from typer.testing import CliRunner

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import ModelError, TrainingError
from deepstreaks_dask.models.inference import compile_forward
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.training.fit import fit_members
from deepstreaks_dask.training.harness import TrainingOptions
from deepstreaks_dask.training.members import save_member, train, train_member
from deepstreaks_dask.training.recipe import Recipe
from deepstreaks_dask.training.records import publish, read_record

QUICK = Recipe(epochs=2, test=0.25, validation=0.2)


def test_a_member_is_kept_as_it_was_measured(tiny, tmp_path):
    dataset = open_archive(tiny)
    training = fit_members(dataset, ["rb"], recipe=QUICK)
    zoo = Zoo(tmp_path / "zoo")
    card = save_member(zoo, training, dataset, "rb", "1")
    assert card.training_data["simulation"] == ["simulation, stripes"]
    assert "simulated" in card.limits
    assert card.input_shape == (24, 24, 1)
    rows = np.isin(dataset["night"].values, training.split.test)
    assert card.metrics["test_cutouts"] == rows.sum()
    pixels = dataset["cutouts"].values[:8]
    models = zoo.load("rb_vgg6"), training.models["rb"]
    saved, kept = (compile_forward([model], 8)(pixels) for model in models)
    np.testing.assert_array_equal(saved, kept)
    with pytest.raises(ModelError, match="already"):
        save_member(zoo, training, dataset, "rb", "1")


def test_a_training_leaves_its_record_and_enters_a_zoo_only_when_asked(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*options, code=0):
        done = CliRunner().invoke(app, ["train", str(tiny), *options, "--json"])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout) if not code else done.exception

    small = ["--epochs", "2", "--by", "kind"]
    (made,) = run("--family", "rb", *small)
    folder = tmp_path / "training" / "rb_vgg6"
    record = json.loads((folder / "record.json").read_text())
    assert record["changes"] == {"epochs": 2, "by": "kind"}
    assert record["asked"]["recipe"]["name"] == "duev2019"
    assert record["data"]["train"]["cutouts"] > record["data"]["validation"]["cutouts"] > 0
    assert len(record["data"]["train"]["sha256"]) == 64
    assert len(record["history"]["val_binary_accuracy"]) == 2
    assert len((folder / "curves.csv").read_text().splitlines()) == 3
    assert list((folder / "tensorboard").rglob("events.out.tfevents*"))
    (card,) = Zoo(folder / "networks").list()
    assert card.sha256 == made["sha256"]
    assert not (tmp_path / "zoo").exists()

    weights = (folder / "networks").rglob("*.safetensors")
    before = [path.stat().st_mtime_ns for path in weights]
    (again,) = run("--family", "rb", *small, "--zoo", "zoo")
    assert again == made
    assert [p.stat().st_mtime_ns for p in (folder / "networks").rglob("*.safetensors")] == before
    assert Zoo("zoo").card("rb_vgg6@1").sha256 == made["sha256"]
    run("--family", "rb", *small, "--zoo", "zoo")  # there already, and the same

    more = ["--from", "rb_vgg6@1", "--from-zoo", "zoo", "--out", "fine", "--version", "2"]
    run("--family", "sl", *small, *more)
    fine = json.loads((tmp_path / "fine" / "record.json").read_text())
    assert fine["asked"]["start"] == f"rb_vgg6@1, {made['sha256']}"
    assert fine["cards"][0]["recipe"]["start"] == fine["asked"]["start"]
    other = run("--family", "rb", "--epochs", "3", code=1)
    assert isinstance(other, TrainingError)
    assert "recipe differ" in str(other)


def test_members_of_families_are_trained_apart_on_the_same_nights(tiny, tmp_path):
    record = train(tiny, "rb", out=tmp_path / "one", recipe=QUICK, progress=False)
    assert [card.ref for card in record.cards] == ["rb_vgg6@1"]
    assert record == read_record(tmp_path / "one")
    assert dict(record) == json.loads((tmp_path / "one" / "record.json").read_text())
    assert record.networks.card("rb_vgg6@1") == record.cards[0]
    assert "rb_vgg6@1, 2 epochs" in repr(record)
    records = train(
        open_archive(tiny), ["rb", "kd"], out=tmp_path / "two", recipe=QUICK, progress=False
    )
    assert list(records) == ["rb", "kd"]
    assert records["rb"]["split"] == records["kd"]["split"] == record["split"]
    assert records["rb"].cards[0].sha256 == record.cards[0].sha256
    assert records["kd"].folder == tmp_path / "two" / "kd_vgg6"
    with pytest.raises(TrainingError, match="no recipe 'duev'"):
        train(tiny, "rb", out=tmp_path / "three", recipe="duev")


def test_mistakes_are_named(tiny, tmp_path):
    dataset = open_archive(tiny)
    unknown = TrainingOptions(start="rb_resnet50@1")
    with pytest.raises(ModelError, match="no model 'rb_resnet50'"):
        train_member(tmp_path / "a", dataset, ["rb"], options=unknown)
    larger = TrainingOptions(QUICK, start="rb_vgg6@1")
    with pytest.raises(TrainingError, match="do not fit a vgg6"):
        train_member(tmp_path / "a", dataset, ["rb"], options=larger)
    with FileLock(tmp_path / "a" / ".lock"), pytest.raises(TrainingError, match="wait for it"):
        train_member(tmp_path / "a", dataset, ["rb"])
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot write"):
        train_member(tmp_path / "file", dataset, ["rb"])
    with pytest.raises(TrainingError, match="no training is done"):
        publish(tmp_path / "a", str(tmp_path / "zoo"))
    (tmp_path / "a" / "record.json").write_text("[]")
    with pytest.raises(TrainingError, match="no record"):
        train_member(tmp_path / "a", dataset, ["rb"])
