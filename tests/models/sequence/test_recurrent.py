"""The networks of sequences: online equals offline, padding changes nothing, and the zoo keeps them."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepstreaks_dask.archive.sequences import Sequences
from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.registry import classifier_class
from deepstreaks_dask.models.sequence.preprocessing import batched, pad, prepare
from deepstreaks_dask.models.sequence.rcnn import Rcnn
from deepstreaks_dask.models.sequence.taonet import TaoNet
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.simulation.sequences import simulate_sequences

CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def objects():
    (batch,) = simulate_sequences(12, "hits", "rcnn", seed=4)
    return Sequences(batch.cutouts, batch.counts, batch.epochs)


@pytest.fixture(scope="module", params=[Rcnn, TaoNet])
def classifier(request):
    keras.utils.set_random_seed(3)
    return request.param(CLASSES)


@pytest.fixture(scope="module")
def rcnn():
    keras.utils.set_random_seed(5)
    return Rcnn(CLASSES)


def test_probabilities_are_some(classifier, objects):
    scores = classifier.predict(objects)
    assert scores.shape == (12, 3)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert np.ptp(scores, axis=0).max() > 1e-3  # it looks


def test_an_object_scores_the_same_alone_and_among_others(classifier, objects):
    together = classifier.predict(objects)
    backwards = classifier.predict(objects.take(np.arange(12)[::-1]))[::-1]
    np.testing.assert_allclose(backwards, together, atol=1e-5)
    for row in (0, 7):
        alone = classifier.predict(objects.take(np.array([row])))
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)


def test_what_lies_in_the_padding_does_not_matter(classifier, objects):
    prepared = prepare(objects)
    batch = pad(prepared, np.arange(12))
    assert not batch.mask.all()
    clean = classifier._last(classifier.forward(*classifier.of(batch)), batch)
    batch.stamps[~batch.mask] = 1e3
    batch.features[~batch.mask] = 7
    soiled = classifier._last(classifier.forward(*classifier.of(batch)), batch)
    np.testing.assert_allclose(soiled, clean, atol=1e-5)


def test_batches_are_computed_as_keras_does(classifier, objects):
    (batch,) = batched(prepare(objects))
    expected = classifier.model.predict(classifier.of(batch), verbose=0)
    np.testing.assert_allclose(classifier.forward(*classifier.of(batch)), expected, atol=1e-5)


def test_weights_come_back_from_a_zoo_in_half_precision(classifier, objects, tmp_path):
    name = {Rcnn: "rcnn", TaoNet: "taonet"}[type(classifier)]
    assert classifier_class(name) is type(classifier)
    store = Zoo(tmp_path)
    card = Card(f"own_{name}", "1", name, input_shape=(21, 21, 1), classes=CLASSES)
    saved = store.save(classifier, card)
    assert saved.dtype == "float16"
    back = store.load_classifier(card.ref)
    np.testing.assert_allclose(back.predict(objects), classifier.predict(objects), atol=0.02)
    # what was rounded once stays as it is
    assert store.save(back, saved, overwrite=True).sha256 == saved.sha256
    size = sum(array.nbytes for array in back.to_arrays().values())
    assert size < 5e6


def test_strange_weights_are_refused(classifier):
    arrays = classifier.to_arrays()
    name = next(iter(arrays))
    for change, words in (
        ({"999.kernel": np.zeros(1)}, "999.kernel"),
        ({name: np.zeros((2, 2), np.float32)}, r"not \("),
        ({name: arrays[name].astype(np.int8)}, "is int8"),
    ):
        with pytest.raises(ModelError, match=words):
            type(classifier).from_arrays(CLASSES, arrays | change)
    with pytest.raises(ModelError, match="not"):
        type(classifier).from_arrays(("a", "b"), arrays)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(0, 2**16))
def test_online_equals_offline(rcnn, objects, lengths, seed):
    """Whatever the objects, their lengths and their gaps: a step an epoch gives what the whole sequence gives."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 12, len(lengths))
    kept = [
        objects.starts[row] + np.sort(rng.permutation(objects.counts[row])[:count])
        for row, count in zip(rows, lengths, strict=True)
    ]
    some = objects.only(np.concatenate(kept), np.array(lengths))
    offline = rcnn.predict_epochs(some)
    last = np.empty((len(some), 3), np.float32)
    going, state = np.arange(len(some)), None
    for k in range(max(lengths)):
        still = some.counts[going] > k
        going, state = going[still], None if state is None else state.take(np.flatnonzero(still))
        epoch = some.only(some.starts[going] + k, np.ones(len(going), int))
        scores, state = rcnn.step(epoch, state)
        np.testing.assert_allclose(scores, offline[some.starts[going] + k], atol=1e-5)
        last[going] = scores
    np.testing.assert_allclose(last, rcnn.predict(some), atol=1e-5)


def test_mistakes_of_a_step_are_named(rcnn, objects):
    first = objects.only(objects.starts, np.ones(12, int))
    second = objects.only(objects.starts + 1, np.ones(12, int))
    _, state = rcnn.step(first)
    with pytest.raises(ModelError, match="state is of 12 objects, but 2"):
        rcnn.step(first.take(np.arange(2)), state)
    with pytest.raises(ModelError, match="one epoch of each object"):
        rcnn.step(objects)
    _, state = rcnn.step(second, state)
    with pytest.raises(ModelError, match="earlier than the last one"):
        rcnn.step(first, state)
