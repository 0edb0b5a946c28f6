"""Training: equal arguments give equal losses, families learn their own labels, a kill changes nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.models.inference import compile_forward
from deepstreaks_dask.models.registry import build
from deepstreaks_dask.training.checkpoints import CHECKPOINT_FILE
from deepstreaks_dask.training.fit import fit_members, groups_of
from deepstreaks_dask.training.harness import TrainingOptions
from deepstreaks_dask.training.members import train_member
from deepstreaks_dask.training.recipe import Recipe, split_groups

QUICK = Recipe(epochs=3, batch=32, test=0.25, validation=0.2, seed=3)


def scores_of(model, pixels):
    return compile_forward([model], len(pixels))(pixels)[:, 0]


def test_two_trainings_of_one_seed_are_equal(tiny):
    dataset = open_archive(tiny)
    losses = []
    one, two = (
        fit_members(
            dataset, ["rb"], recipe=QUICK, on_epoch=lambda _, logs: losses.append(logs["loss"])
        )
        for _ in range(2)
    )
    assert one.history == two.history
    assert losses == one.history["loss"] * 2
    for a, b in zip(one.models["rb"].get_weights(), two.models["rb"].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    json.dumps(one.record(), allow_nan=False)
    assert one.record()["changes"] == {
        "epochs": 3,
        "test": 0.25,
        "validation": 0.2,
        "seed": 3,
    }
    assert one.data["train"]["cutouts"] == 5 * 40


def test_families_trained_together_learn_their_own_labels(tiny):
    """One family's labels are turned upside down and known of every other cutout only."""
    dataset = open_archive(tiny)
    recipe = Recipe(epochs=12, batch=16, test=0.25, validation=0.2, precision="mixed_bfloat16")
    training = fit_members(dataset, ["rb", "kd"], recipe=recipe)
    assert training.record()["trained_together"] == ["rb", "kd"]
    assert 0 < sum(training.counts["kd"].values()) < sum(training.counts["rb"].values())
    members = [training.models[family] for family in ("rb", "kd")]
    assert {weight.dtype for model in members for weight in model.weights} == {"float32"}
    rows = training.split.rows(dataset["night"].values, "test")
    truth = dataset["label_rb"].values[rows] == 1
    scores = compile_forward(members, int(rows.sum()))(dataset["cutouts"].values[rows])
    assert scores[truth, 0].mean() > scores[~truth, 0].mean() + 0.4
    assert scores[truth, 1].mean() < scores[~truth, 1].mean() - 0.4


def test_streaming_trains_alike(tiny):
    """Only the order of the cutouts differs."""
    dataset = open_archive(tiny)
    recipe = Recipe(epochs=8, batch=16, test=0.25, validation=0.2, window=100)
    training = fit_members(dataset, ["rb"], recipe=recipe)
    rows = training.split.rows(dataset["night"].values, "test")
    truth = dataset["label_rb"].values[rows] == 1
    scores = scores_of(training.models["rb"], dataset["cutouts"].values[rows])
    assert ((scores > 0.5) == truth).mean() > 0.9


def test_training_goes_on_from_a_member(tiny):
    dataset = open_archive(tiny)
    keras.utils.set_random_seed(5)
    start = build("vgg6", (24, 24, 1))
    pixels = dataset["cutouts"].values[:8]
    still = Recipe(epochs=1, batch=32, test=0.25, validation=0.2, learning_rate=1e-12)
    training = fit_members(dataset, ["rb", "sl"], recipe=still, start=start)
    before = scores_of(start, pixels)
    for model in training.models.values():
        np.testing.assert_allclose(scores_of(model, pixels), before, atol=1e-6)
    with pytest.raises(TrainingError, match="do not fit a vgg6"):
        fit_members(dataset, ["rb"], recipe=QUICK, start=build("vgg6", (30, 30, 1)))


_TRAIN = """
import sys
import time
from pathlib import Path
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.training import TrainingOptions, read_recipe, train_member
def on_epoch(epoch, losses):
    print(epoch, flush=True)
    if epoch == 4:
        time.sleep(600)  # until it is killed
options = TrainingOptions(read_recipe(sys.argv[3]))
train_member(Path(sys.argv[2]), open_archive(sys.argv[1]), ["rb"], options=options, on_epoch=on_epoch)
"""


def test_a_killed_training_goes_on_as_if_nothing_had_been(tiny, tmp_path):
    """Killed with SIGKILL; the losses are those of a training in one go, to the last bit."""
    recipe = Recipe(epochs=8, batch=16, test=0.25, validation=0.2, patience=4, window=64)
    (tmp_path / "r.toml").write_text(recipe.to_toml())
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    arguments = [sys.executable, "-c", _TRAIN, tiny, folder, tmp_path / "r.toml"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert "2\n" in process.stdout  # reads on to that line
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    done = len(pd.read_csv(folder / "curves.csv"))
    assert 2 <= done < 8
    assert (folder / CHECKPOINT_FILE).exists()
    assert not (folder / "record.json").exists()
    dataset = open_archive(tiny)
    options = TrainingOptions(recipe)
    resumed, straight = (train_member(f, dataset, ["rb"], options=options) for f in (folder, whole))
    assert resumed["history"] == straight["history"]
    assert resumed["cards"][0]["sha256"] == straight["cards"][0]["sha256"]
    assert (folder / "curves.csv").read_text() == (whole / "curves.csv").read_text()
    assert not (folder / CHECKPOINT_FILE).exists()


def test_a_training_in_half_precision_goes_on_with_its_scale(tiny, tmp_path):
    """What scales the loss is as much of an optimiser's state as its moments are."""
    dataset = open_archive(tiny).isel(cutout=slice(None, None, 4))  # processors are slow at it
    recipe = Recipe(epochs=2, batch=16, test=0.25, validation=0.2, precision="mixed_float16")

    def stop(*_):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        fit_members(dataset, ["rb"], recipe=recipe, folder=tmp_path, on_epoch=stop)
    resumed = fit_members(dataset, ["rb"], recipe=recipe, folder=tmp_path)
    straight = fit_members(dataset, ["rb"], recipe=recipe)
    assert resumed.history == straight.history
    assert straight.history["loss"][-1] < straight.history["loss"][0]
    assert {weight.dtype for weight in straight.models["rb"].weights} == {"float32"}


def test_a_stopped_training_stays_stopped(tiny, tmp_path):
    """Killed between its last checkpoint and its record: early stopping does not begin anew."""
    dataset = open_archive(tiny)
    recipe = Recipe(epochs=60, batch=32, test=0.25, validation=0.2, patience=1)
    first = fit_members(dataset, ["rb"], recipe=recipe, folder=tmp_path)
    again = fit_members(dataset, ["rb"], recipe=recipe, folder=tmp_path)
    assert len(first.history["loss"]) < 60
    assert again.history == first.history
    for a, b in zip(first.models["rb"].weights, again.models["rb"].weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_checkpoint_of_another_training_is_refused(tiny, tmp_path):
    dataset = open_archive(tiny)
    fit_members(
        dataset, ["rb"], recipe=Recipe(epochs=1, test=0.25, validation=0.2), folder=tmp_path
    )
    with pytest.raises(TrainingError, match="recipe differ"):
        fit_members(dataset, ["rb"], recipe=Recipe(epochs=2, test=0.25), folder=tmp_path)
    (tmp_path / CHECKPOINT_FILE).write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(TrainingError, match="no checkpoint"):
        fit_members(
            dataset, ["rb"], recipe=Recipe(epochs=1, test=0.25, validation=0.2), folder=tmp_path
        )


def test_a_loss_that_is_no_number_ends_the_training(tiny):
    wild = Recipe(epochs=5, test=0.25, validation=0.2, learning_rate=1e38)
    with pytest.raises(TrainingError, match="lower learning rate"):
        fit_members(open_archive(tiny), ["rb"], recipe=wild)


def test_a_shard_lost_while_streaming_is_named(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "t.zarr")
    (tmp_path / "t.zarr" / "cutouts" / "c" / "1" / "0" / "0").unlink()
    recipe = Recipe(epochs=1, test=0.25, validation=0.2, window=64)
    with pytest.raises(TrainingError, match=r"cannot be read .*archive verify"):
        fit_members(open_archive(tmp_path / "t.zarr"), ["rb"], recipe=recipe)


def test_mistakes_are_named(tiny):
    dataset = open_archive(tiny)
    with pytest.raises(TrainingError, match="no labels of family 'xx'"):
        fit_members(dataset, ["xx"])
    with pytest.raises(TrainingError, match="at least 3"):
        fit_members(dataset.isel(cutout=slice(0, 60)), ["rb"])
    with pytest.raises(TrainingError, match="each once"):
        fit_members(dataset, ["rb", "rb"])
    with pytest.raises(TrainingError, match="no column 'object'"):
        fit_members(dataset, ["rb"], recipe=Recipe(by="object"))
    with pytest.raises(TrainingError, match="takes bytes"):
        fit_members(dataset.assign(cutouts=dataset["cutouts"].astype("float32")), ["rb"])
    one = dataset.assign_coords(label_rb=("cutout", np.ones(320, np.int8)))
    with pytest.raises(TrainingError, match="one class only"):
        fit_members(one, ["rb"])


def test_objects_may_be_parted_in_place_of_nights(tiny):
    dataset = open_archive(tiny)
    recipe = Recipe(by="kind", seed=4)
    split = split_groups(groups_of(dataset, "kind"), recipe)
    training = fit_members(dataset, ["rb"], recipe=Recipe(by="kind", seed=4, epochs=1))
    assert training.split == split
    assert training.data["by"] == "kind"
