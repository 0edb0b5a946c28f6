"""The last layers of a network of sequences, trained once more: what was trained is stored, or nothing changes."""

import keras
import numpy as np
import pytest
from small_network import KINDS, Small

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.registry import CLASSIFIERS
from deepstreaks_dask.models.sequence.recurrent import Recurrent
from deepstreaks_dask.models.sequence.taonet import TaoNet
from deepstreaks_dask.simulation.sequences import LAYOUT, simulate_sequences
from deepstreaks_dask.training.harness import TrainingOptions
from deepstreaks_dask.training.recipe import Recipe
from deepstreaks_dask.training.sequences import fit
from deepstreaks_dask.training.sequences import head as heads
from deepstreaks_dask.training.sequences.batches import SequenceFeed
from deepstreaks_dask.training.sequences.fit import max_epochs, train_classifier
from deepstreaks_dask.training.sequences.head import fit_head
from deepstreaks_dask.training.sequences.labelled import LabelledObjects

PASSES = 4
"""Through what the head learns from, instead of 25."""

RECIPE = Recipe(
    name="sequences", epochs=1, batch=8, patience=5, test=0.2, validation=0.25, by="id", seed=4
)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    url = tmp_path_factory.mktemp("heads") / "s.zarr"
    create_archive(url, **LAYOUT)
    append_batches(url, simulate_sequences(64, "crts", "taonet", seed=8))
    return LabelledObjects.of(open_archive(url))


def given(kind, labelled):
    """Give a network with random weights, and what it is to learn from and to be held to."""
    keras.utils.set_random_seed(3)
    network = kind(labelled.classes)
    weights = np.linspace(0.5, 1.5, 5).astype(np.float32)
    feeds = [
        SequenceFeed(
            labelled.shards(p), labelled.numbers(p), weights, network, RECIPE, shuffled=shuffled
        )
        for p, shuffled in ((np.arange(48), True), (np.arange(48, 64), False))
    ]
    return network, *feeds


def loss(network, feed):
    """Of the network on a feed, by the formula."""
    total, count = 0.0, 0
    for k in range(len(feed)):
        batch, labels, weights = feed[k]
        scores = network.forward(*(batch[name] for name in network.inputs))
        total -= (weights * np.log(scores[np.arange(len(labels)), labels])).sum()
        count += len(labels)
    return total / count


@pytest.fixture
def few_passes(monkeypatch):
    monkeypatch.setattr(heads, "HEAD_EPOCHS", PASSES)
    monkeypatch.setattr(fit, "HEAD_EPOCHS", PASSES)


def test_the_last_pass_is_what_the_network_has_afterwards(labelled, few_passes):
    network, train, held_out = given(TaoNet, labelled)
    before = loss(network, held_out)
    kept = network.model.get_layer("stamp").get_weights()
    told = []
    losses = fit_head(network, train, held_out, before, on_epoch=lambda *it: told.append(it))
    assert [epoch for epoch, _ in told] == list(range(1, 1 + PASSES))
    assert [one["val_loss"] for _, one in told] == pytest.approx(losses["val_loss"])
    assert losses["val_loss"][-1] < before
    again = TaoNet.from_arrays(network.classes, network.to_arrays())  # rounded, and compiled anew
    assert loss(again, held_out) == pytest.approx(losses["val_loss"][-1], rel=0.01)
    for now, then in zip(network.model.get_layer("stamp").get_weights(), kept, strict=True):
        np.testing.assert_array_equal(now, then)


def test_it_depends_on_the_weights_of_the_others_and_the_seed_alone(labelled, few_passes):
    """What a kill cuts short is done again alike."""
    network, train, held_out = given(Small, labelled)
    losses = fit_head(network, train, held_out, np.inf)
    assert fit_head(network, train, held_out, 0.0) == losses


def test_what_is_worse_changes_nothing(labelled, monkeypatch):
    network, train, held_out = given(Small, labelled)
    monkeypatch.setattr(heads, "HEAD_EPOCHS", 2)
    before = network.to_arrays()
    losses = fit_head(network, train, held_out, 0.0)
    assert len(losses["val_loss"]) == 2
    for name, array in network.to_arrays().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_training_that_was_killed_at_its_head_goes_on_there(
    labelled, tmp_path, few_passes, monkeypatch
):
    monkeypatch.setitem(CLASSIFIERS, "small", KINDS["small"])

    class KilledError(Exception):
        pass

    told = []

    def kill(epoch, losses):
        told.append((epoch, losses["loss"]))
        if epoch == RECIPE.epochs:
            raise KilledError

    options = {"family": "own", "options": TrainingOptions(RECIPE)}
    with pytest.raises(KilledError):
        train_classifier(tmp_path, labelled.archive, "small", on_epoch=kill, **options)
    (card,) = train_classifier(tmp_path, labelled.archive, "small", **options)["cards"]
    history = card["recipe"]["history"]
    assert len(history["loss"]) == RECIPE.epochs == card["recipe"]["epochs_run"]
    assert len(history["head_val_loss"]) == PASSES
    ended = [*history["loss"], history["head_loss"][0]]
    assert [loss for _, loss in told] == pytest.approx(ended, abs=1e-5)


def test_only_a_network_that_begins_anew_gets_a_new_head():
    assert max_epochs("taonet", RECIPE) == 1 + heads.HEAD_EPOCHS
    assert max_epochs("taonet", RECIPE, start="crts_taonet@4") == 1
    assert max_epochs("rcnn", RECIPE) == max_epochs("forest", RECIPE) == 1
    assert Recurrent.head == ""
    with pytest.raises(ModelError, match="taonett"):
        max_epochs("taonett", RECIPE)
