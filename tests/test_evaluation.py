"""Figures against hand-worked examples and the libraries that know them."""

import json

import numpy as np
import pytest
import xarray as xr
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from deepstreaks_dask.evaluation import (
    auc,
    confusion,
    evaluate,
    plausibility_labels,
    precision_recall,
    rate,
    rates_by_kind,
    rates_by_night,
    roc,
    venn,
    wilson,
)
from deepstreaks_dask.families import Decision


@pytest.fixture
def scores():
    """Six cutouts of two nights, small enough to count by hand."""
    return xr.Dataset(
        {
            "scores": (
                ("cutout", "model"),
                np.array(
                    [
                        [0.9, 0.9, 0.9],
                        [0.9, 0.2, 0.9],
                        [0.9, 0.8, 0.1],
                        [0.1, 0.9, 0.9],
                        [0.6, 0.6, 0.6],
                        [np.nan, 0.9, 0.9],
                    ],
                    np.float32,
                ),
            )
        },
        {
            "model": ["rb_a", "sl_a", "kd_a"],
            "night": ("cutout", [1, 1, 1, 2, 2, 2]),
            "kind": ("cutout", np.array(["nea", "nea", "x", "x", "x", ""], dtype=object)),
            "label_rb": ("cutout", np.array([1, 1, 1, 0, 1, -1], np.int8)),
            "label_sl": ("cutout", np.array([1, 1, 1, -1, 1, -1], np.int8)),
            "label_kd": ("cutout", np.array([1, 1, 0, 0, 0, -1], np.int8)),
            "label_os": ("cutout", np.array([-1, 1, 0, -1, -1, -1], np.int8)),
        },
    )


@pytest.mark.parametrize(("count", "total"), [(0, 10), (10, 10), (3, 17), (499, 500)])
def test_wilson_is_scipys(count, total):
    expected = binomtest(count, total).proportion_ci(method="wilson")
    got = rate(count, total)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high))


def test_wilson_covers():
    """The 95 % interval holds the true share in about 95 % of 4,000 experiments."""
    rng = np.random.default_rng(4)
    for share in (0.5, 0.9, 0.97):
        low, high = wilson(rng.binomial(60, share, 4000), np.full(4000, 60))
        assert 0.92 < ((low <= share) & (share <= high)).mean() < 0.98


def test_auc_and_its_interval():
    rng = np.random.default_rng(2)
    labels = rng.integers(-1, 2, 500)
    values = labels + rng.normal(0, 1, 500)
    values[:20] = np.nan
    keep = (labels >= 0) & ~np.isnan(values)
    got = auc(labels, values)
    assert got.value == pytest.approx(roc_auc_score(labels[keep], values[keep]))
    assert got.low < got.value < got.high
    covered = []
    for _ in range(300):
        truth = rng.integers(0, 2, 200)
        one = auc(truth, truth + rng.normal(0, 1, 200))
        covered.append(one.low <= 0.7602 <= one.high)  # Phi(1 / sqrt(2))
    assert 0.9 < np.mean(covered) < 0.99
    assert auc(np.ones(3), np.ones(3)).total == 0


def test_labels_of_the_decision(scores):
    assert list(plausibility_labels(scores)) == [1, 1, 0, 0, 0, -1]


def test_counts_by_hand(scores):
    decided = Decision().apply(scores)
    assert list(decided["plausible"].values) == [True, False, False, False, True, False]
    counts = confusion(plausibility_labels(decided), decided["plausible"].values)
    assert (counts.tp, counts.fn, counts.fp, counts.tn) == (1, 1, 1, 2)
    nights = rates_by_night(decided).set_index("night")
    assert nights.loc[1, ["n_pos", "tp", "n_neg", "fp"]].tolist() == [2, 1, 1, 0]
    assert nights.loc[1, "tpr"] == 0.5
    assert np.isnan(nights.loc[2, "tpr"])
    assert nights.loc[2, "fpr"] == 0.5
    assert venn(decided) == {
        "rb&sl&kd": 2,
        "rb&sl": 1,
        "rb&kd": 1,
        "rb": 0,
        "sl&kd": 2,
        "sl": 0,
        "kd": 0,
        "none": 0,
    }
    kinds = rates_by_kind(decided).set_index("kind")
    assert kinds.loc["nea", ["cutouts", "plausible"]].tolist() == [2, 1]
    assert "" not in kinds.index


def test_evaluate_fits_in_json(scores):
    result = evaluate(scores, Decision({"kd": 0.95}))
    assert result.plausible == 0
    assert result.decided == 6  # the sixth fails kd whatever rb says
    assert result.labelled
    text = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert text["joint"]["tpr"]["value"] == 0
    assert text["nights"][1]["tpr"] is None


def test_without_labels_nothing_is_claimed(scores):
    bare = scores.drop_vars([f"label_{f}" for f in ("rb", "sl", "kd", "os")])
    result = evaluate(bare)
    assert not result.labelled
    assert str(result.joint.tpr) == "not measured"
    assert result.to_dict()["members"][0]["auc"] is None


def test_curves_are_thinned_and_keep_their_ends():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 20_000)
    values = labels + rng.normal(0, 1, 20_000)
    curve = roc(labels, values, points=100)
    assert len(curve) <= 100
    assert tuple(curve.iloc[[0, -1]]["fpr"]) == (0, 1)
    assert len(precision_recall(labels, values, points=100)) <= 100
    assert len(roc(np.zeros(5), np.zeros(5))) == 0
