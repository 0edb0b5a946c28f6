"""Training: nights never leak, seeds hold, the record says what happened."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepstreaks_dask.archive import open_archive
from deepstreaks_dask.errors import ModelError, TrainingError
from deepstreaks_dask.models import build
from deepstreaks_dask.models.forward import compile_forward
from deepstreaks_dask.models.zoo import Zoo
from deepstreaks_dask.training import FlippedBatches, Recipe, save_member, split_nights, train

QUICK = Recipe(epochs=2, batch=16, test=0.25, validation=0.25, seed=3)


@given(st.sets(st.integers(20180101, 20181231), min_size=3, max_size=60), st.integers(0, 9))
def test_every_night_is_in_one_part(nights, seed):
    split = split_nights(np.repeat(list(nights), 3), Recipe(seed=seed))
    parts = (split.train, split.validation, split.test)
    assert all(parts)
    assert sorted(night for part in parts for night in part) == sorted(nights)


def test_two_trainings_with_one_seed_are_alike_and_are_kept(simulated, tmp_path):
    dataset = open_archive(simulated)
    losses = []
    one, two = (
        train(dataset, ["rb"], recipe=QUICK, on_epoch=lambda _, logs: losses.append(logs["loss"]))
        for _ in range(2)
    )
    np.testing.assert_allclose(one.history["loss"], two.history["loss"], rtol=1e-3)
    assert losses[:2] == one.history["loss"]
    json.dumps(one.record(), allow_nan=False)
    assert one.record()["seed"] == 3

    zoo = Zoo(tmp_path / "zoo")
    card = save_member(zoo, one, dataset, "rb", "1")
    assert card.training_data["simulation"] == ["simulation, seed 1"]
    assert "simulated" in card.limits
    rows = np.isin(dataset["night"].values, one.split.test)
    assert card.metrics["test_cutouts"] == rows.sum()
    pixels = dataset["cutouts"].values[:8]
    saved, kept = (compile_forward([m], 8)(pixels) for m in (zoo.load("rb_vgg6"), one.models["rb"]))
    np.testing.assert_array_equal(saved, kept)
    with pytest.raises(ModelError, match="already"):
        save_member(zoo, one, dataset, "rb", "1")


def test_families_trained_together_learn_their_own_labels(simulated):
    """Labels turned upside down for one family, unknown for others: each output follows its own."""
    dataset = open_archive(simulated).load()
    bright = dataset["cutouts"].mean(("y", "x")).values
    truth = (bright > np.median(bright)).astype(np.int8)
    half = np.arange(len(truth)) % 2 == 0
    dataset["label_rb"] = "cutout", truth
    dataset["label_kd"] = "cutout", np.where(half, 1 - truth, -1).astype(np.int8)
    ramp = (np.linspace(0, 255, len(truth))[np.argsort(np.argsort(bright))]).astype(np.uint8)
    dataset["cutouts"] = ("cutout", "y", "x"), np.tile(ramp[:, None, None], (1, 144, 144))
    recipe = Recipe(epochs=6, batch=16, test=0.25, validation=0.25, precision="mixed_bfloat16")
    training = train(dataset, ["rb", "kd"], recipe=recipe)
    assert training.record()["trained_together"] == ["rb", "kd"]
    known = sum(training.counts["kd"].values())
    assert 0 < known < sum(training.counts["rb"].values())
    pixels = dataset["cutouts"].values
    members = [training.models[family] for family in ("rb", "kd")]
    assert {weight.dtype for model in members for weight in model.weights} == {"float32"}
    scores = np.concatenate(
        [compile_forward(members, 60)(pixels[k : k + 60]) for k in range(0, len(pixels), 60)]
    )
    order = np.argsort(ramp)
    assert scores[order[-40:], 0].mean() > scores[order[:40], 0].mean() + 0.5
    assert scores[order[-40:], 1].mean() < scores[order[:40], 1].mean() - 0.5


def test_training_goes_on_from_a_member(simulated):
    dataset = open_archive(simulated)
    keras.utils.set_random_seed(5)
    start = build("vgg6")
    pixels = dataset["cutouts"].values[:8]
    still = Recipe(epochs=1, batch=32, test=0.25, validation=0.25, learning_rate=1e-12)
    training = train(dataset, ["rb", "sl"], recipe=still, start=start)
    before = compile_forward([start], 8)(pixels)
    for model in training.models.values():
        np.testing.assert_allclose(compile_forward([model], 8)(pixels), before, atol=1e-6)


def test_batches_hold_every_cutout_once_flipped_or_not():
    cutouts = np.zeros((10, 144, 144), np.uint8)
    cutouts[:, 3, 5] = np.arange(1, 11)
    ones = np.ones((10, 1), np.float32)
    batches = FlippedBatches(cutouts, ones, ones, Recipe(batch=4))
    places, seen = set(), []
    for epoch in range(6):
        images = np.concatenate([batches[k][0] for k in range(len(batches))])
        seen.append([round(float(v) * 255) for v in images.max(axis=(1, 2, 3))])
        assert sorted(seen[epoch]) == list(range(1, 11))
        places |= {(int(r), int(c)) for r, c in np.argwhere(images.max(axis=(0, 3)) > 0)}
        batches.on_epoch_end()
    assert places == {(3, 5), (140, 5), (3, 138), (140, 138)}
    assert len({tuple(order) for order in seen}) > 1


def test_mistakes_are_named(simulated):
    dataset = open_archive(simulated)
    with pytest.raises(TrainingError, match="no labels of family 'xx'"):
        train(dataset, ["xx"])
    with pytest.raises(TrainingError, match="at least 3"):
        train(dataset.isel(cutout=slice(0, 60)), ["rb"])
    with pytest.raises(TrainingError, match="each once"):
        train(dataset, ["rb", "rb"])
    with pytest.raises(TrainingError, match="do not fit a vgg6"):
        train(dataset, ["rb"], recipe=QUICK, start=build("vgg6", (72, 72, 1)))
    with pytest.raises(TrainingError, match="1 or more"):
        Recipe(epochs=0)
    with pytest.raises(TrainingError, match="no precision 'float8'"):
        Recipe(precision="float8")
