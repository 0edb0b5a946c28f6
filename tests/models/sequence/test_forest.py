"""Features and forests on simulated objects, stamps that lack something, and forests from strangers."""

import json
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from deepstreaks_dask.archive.schema import EPOCHS
from deepstreaks_dask.archive.sequences import Sequences
from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.sequence import forest
from deepstreaks_dask.models.sequence.forest import Forest, Trees
from deepstreaks_dask.photometry.features import METHODS, extract, feature_names, measure_objects
from deepstreaks_dask.simulation.sequences import simulate_sequences
from deepstreaks_dask.simulation.tasks import get_task


@pytest.fixture(autouse=True, scope="module")
def few_trees():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forest, "TREE_COUNT", 40)
        yield


@lru_cache
def simulated(survey, task, objects, seed):
    """Give objects of a simulation with the numbers of their classes."""
    batches = list(simulate_sequences(objects, survey, task, seed=seed))
    epochs = {name: np.concatenate([b.epochs[name] for b in batches]) for name in EPOCHS}
    counts = np.concatenate([b.counts for b in batches]).astype(np.int64)
    sequences = Sequences(np.concatenate([b.cutouts for b in batches]), counts, epochs)
    classes = get_task(task).classes
    kinds = np.concatenate([b.columns["kind"] for b in batches])
    return sequences, np.array([classes.index(kind) for kind in kinds]), classes


@lru_cache
def grown():
    sequences, numbers, classes = simulated("hits", "rcnn", 140, 1)
    return Forest.fit(sequences, numbers, classes, seed=3)


def test_features_are_those_of_the_light_curve():
    sequences, numbers, classes = simulated("hits", "rcnn", 140, 1)
    names = feature_names(["g"])
    table = dict(zip(names, extract(sequences, ["g"]).T, strict=True))
    assert (table["g_epochs"] == sequences.counts).all()
    assert (table["g_detections"] <= table["g_epochs"]).all()
    kind = np.array(classes)[numbers]
    constant, pulsating = kind == "nonvariable", np.isin(kind, ["rrlyrae", "cepheid"])
    assert np.nanmedian(table["g_mag_chi2"][constant]) == pytest.approx(1, abs=0.5)
    assert np.nanmedian(table["g_mag_chi2"][pulsating]) > 5
    assert np.nanmedian(table["g_detections"][kind == "asteroid"]) <= 4
    # a light curve by hand: the standard deviation that the library gives is that of the magnitudes
    measured = measure_objects(sequences).psf
    first = int(np.flatnonzero(pulsating)[0])
    rows = slice(sequences.starts[first], sequences.ends[first])
    seen = measured.magnitude[rows][measured.snr[rows] > 3]
    deviation = table["g_mag_standard_deviation"][first]
    assert deviation == pytest.approx(np.std(seen, ddof=1), rel=1e-4)


def test_a_period_is_found():
    sequences, numbers, classes = simulated("ztf", "rcnn", 24, 5)
    names = feature_names(["r", "g"])
    table = dict(zip(names, extract(sequences, ["r", "g"]).T, strict=True))
    stars = np.isin(np.array(classes)[numbers], ["rrlyrae"])
    periods = table["r_mag_periodogram_period_0"][stars]
    # of a star that is seen every third night a day's alias may be taken for the period
    assert ((periods > 0.15) & (periods < 1.1)).mean() > 0.6
    assert np.isfinite(table["r-g"][stars]).all()


@pytest.mark.parametrize("method", METHODS)
def test_objects_of_few_epochs_or_none_that_can_be_used_have_no_shape(method):
    sequences, *_ = simulated("hits", "rcnn", 140, 1)
    counts = np.array([1, 2, 3, 5], np.int64)
    some = sequences.only(np.arange(11), counts)
    stamps = some.stamps.copy()
    stamps[-5:] = np.nan
    table = extract(replace(some, stamps=stamps), ["g", "u"], method)
    names = feature_names(["g", "u"])
    assert table.shape == (4, len(names))
    column = {name: table[:, k] for k, name in enumerate(names)}
    assert column["g_epochs"].tolist() == [1, 2, 3, 0]
    assert np.isnan(column["g_mag_amplitude"]).all()
    assert (column["u_epochs"] == 0).all()
    assert np.isnan(column["g-u"]).all()
    assert np.isfinite(grown().predict(replace(some, stamps=stamps))).all()


def test_a_forest_predicts_what_scikit_learn_does():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(300, 5)).astype(np.float32)
    table[rng.random(table.shape) < 0.1] = np.nan
    numbers = (np.nan_to_num(table[:, 0]) + rng.normal(0, 0.5, 300) > 0) + 1
    filled = np.where(np.isfinite(table), table, np.float32(-1e6))
    theirs = RandomForestClassifier(30, min_samples_leaf=2, random_state=0).fit(filled, numbers)
    ours = Trees.of(theirs).predict(table)
    assert ours == pytest.approx(theirs.predict_proba(filled), abs=1e-3)  # shares in half precision


def test_it_learns_to_tell_classes_apart_and_keeps_what_it_learned():
    sequences, numbers, classes = simulated("hits", "rcnn", 84, 2)
    made = grown()
    scores = made.predict(sequences)
    assert scores.dtype == np.float32
    assert scores.shape == (84, len(classes))
    assert scores.sum(axis=1) == pytest.approx(1, abs=1e-4)
    assert (scores.argmax(axis=1) == numbers).mean() > 0.5  # chance is one in seven
    kept = Forest.from_arrays(classes, made.to_arrays())
    assert (kept.predict(sequences) == scores).all()
    one = kept.predict(sequences.take(np.array([40])))
    assert one[0] == pytest.approx(scores[40], abs=1e-6)


def test_equal_seeds_grow_equal_forests():
    sequences, numbers, classes = simulated("hits", "rcnn", 84, 2)
    few, some = sequences.take(np.arange(30)), numbers[:30]
    arrays = [Forest.fit(few, some, classes, seed=seed).to_arrays() for seed in (1, 1, 2)]
    assert all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0])
    assert not np.array_equal(arrays[0]["threshold"], arrays[2]["threshold"])


def _damage(name, change):
    arrays = {key: value.copy() for key, value in grown().to_arrays().items()}
    arrays[name] = change(arrays[name])
    return arrays


def _put(value, where=0):
    def change(array):
        array[where] = value
        return array

    return change


def _said(**changes):
    def change(array):
        text = json.dumps({**json.loads(array.tobytes()), **changes})
        return np.frombuffer(text.encode(), np.uint8)

    return change


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("left", _put(0), "lead back"),
        ("right", _put(2**30), "lead back"),
        ("feature", _put(5000), "more than the"),
        ("roots", _put(-1), "roots"),
        ("roots", lambda a: a[:0], "roots"),
        ("share", _put(np.float16(0.5)), "add up"),
        ("share", _put(np.float16(np.nan)), "no shares"),
        ("share", lambda a: a[:, :3], "no shares"),
        ("share", lambda a: a[:2], "no classes"),
        ("threshold", lambda a: a[:5], "not as long"),
        ("threshold", lambda a: a.astype(np.float64), "float64"),
        ("settings", lambda a: a[:7], "settings"),
        ("settings", _said(bands=7), "another kind"),
        ("settings", _said(bands=["g" * 99]), "filters"),
        ("settings", _said(method="eval"), "photometry"),
        ("settings", _said(features=["a"]), "train it again"),
    ],
)
def test_a_forest_from_a_stranger_is_checked(name, change, why):
    classes = grown().classes
    with pytest.raises(ModelError, match=why):
        Forest.from_arrays(classes, _damage(name, change))


def test_a_forest_lacks_nothing():
    arrays = grown().to_arrays()
    del arrays["left"]
    with pytest.raises(ModelError, match="these are others"):
        Forest.from_arrays(grown().classes, arrays)
