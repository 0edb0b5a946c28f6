"""An old network and a new one on the same cutouts."""

import json

import numpy as np
import pytest

from deepstreaks_dask.evaluation.metrics import auc
from deepstreaks_dask.evaluation.model_comparison import compare_models


def made(n=2000, nights=12, *, old=1.5, new=1.5, seed=0):
    """Labels, scores of two networks that tell so well, and nights with weather of their own."""
    rng = np.random.default_rng(seed)
    night = np.arange(n) * nights // n
    labels = rng.integers(0, 2, n)
    weather = rng.normal(0, 0.3, nights)[night]
    shared = rng.normal(0, 1, n) + weather
    scores = [
        1 / (1 + np.exp(-(power * (2 * labels - 1) + shared + rng.normal(0, 0.5, n))))
        for power in (old, new)
    ]
    return labels, *(values.astype(np.float32) for values in scores), 20260101 + night


def test_what_is_better_is_found_and_what_is_alike_is_not():
    found = compare_models(*made(new=2.5))
    assert found.better
    assert found.auc_gain.low > 0
    assert found.righted > found.wronged
    assert found.mcnemar < 1e-6
    assert not compare_models(*made()).better
    labels, old, new, nights = made(new=2.5)
    worse = compare_models(labels, new, old, nights)
    assert not worse.better
    assert worse.auc_gain.value == pytest.approx(-found.auc_gain.value)
    same = compare_models(labels, old, old, nights)
    assert (same.auc_gain.value, same.tpr_gain.value, same.mcnemar) == (0, 0, 1)
    assert "may be none" in same.why_not


def test_figures_are_those_of_their_definitions():
    labels, old, new, nights = made(400, old=1, new=2)
    labels[::7], new[::11] = -1, np.nan
    used = (labels >= 0) & ~np.isnan(new)
    found = compare_models(labels, old, new, nights, rounds=50)
    assert (found.cutouts, found.positives) == (used.sum(), (labels[used] == 1).sum())
    for values, area in ((old, found.auc_old), (new, found.auc_new)):
        assert area.value == pytest.approx(auc(labels[used], values[used]).value)
    truth = labels[used] == 1
    assert found.fpr == pytest.approx((old[used][~truth] >= 0.5).mean())
    for values, height in ((old[used], found.tpr_old), (new[used], found.tpr_new)):
        allowed = [
            (values[truth] >= limit).mean()
            for limit in np.append(values, 2)
            if (values[~truth] >= limit).mean() <= found.fpr
        ]
        assert height.value == pytest.approx(max(allowed))
    gain = found.auc_new.value - found.auc_old.value
    assert found.auc_gain.value == pytest.approx(gain)


def test_intervals_hold_what_they_should():
    """Networks that are alike: the interval of the gain misses 0 in about one of twenty."""
    missed = sum(
        not found.auc_gain.low <= 0 <= found.auc_gain.high
        for found in (compare_models(*made(300, 8, seed=seed), rounds=100) for seed in range(100))
    )
    assert missed <= 12


def test_too_little_to_tell():
    labels, old, new, nights = made(new=3)
    few = compare_models(labels, old, new, nights % 4)
    assert few.auc_gain.low > 0
    assert "4 held-out nights are too few" in few.why_not
    one = compare_models(labels, old, new, np.ones(len(labels)), rounds=10)
    assert np.isnan(one.auc_gain.low)
    for none in (np.ones_like(labels), np.full_like(labels, -1)):
        found = compare_models(none, old, new, nights, rounds=10)
        assert "one class only" in found.why_not
        json.dumps(found.to_dict(), allow_nan=False)


def test_more_area_does_not_buy_a_lower_rate_of_finding():
    """A network that sorts the doubtful better and mistakes a few false ones for the surest is not offered."""
    rng = np.random.default_rng(1)
    labels = np.tile([1] * 50 + [0] * 450, 10)
    nights = np.repeat(np.arange(10), 500)
    old = np.where(labels == 1, rng.uniform(0.35, 1, 5000), rng.uniform(0, 0.5, 5000))
    old[(labels == 0) & (np.arange(5000) % 100 == 99)] = 0.5
    new = np.where(labels == 1, rng.uniform(0.45, 0.9, 5000), rng.uniform(0, 0.45, 5000))
    new[(labels == 0) & (np.arange(5000) % 50 == 49)] = 0.95
    found = compare_models(labels, old.astype(np.float32), new.astype(np.float32), nights)
    assert found.auc_gain.low > 0
    assert found.tpr_gain.high < 0
    assert "true-positive rate" in found.why_not
