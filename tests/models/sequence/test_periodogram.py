"""Running periodograms: what they are, and that later epochs do not change them."""

import keras
import numpy as np
import pytest
from astropy.timeseries import LombScargle

from deepstreaks_dask.models.sequence.periodogram import (
    _FREQUENCIES,
    OnePeriodogram,
    Periodogram,
    memory,
)
from deepstreaks_dask.models.sequence.preprocessing import FEATURES


def told(days):
    """Features of epochs so many days after the first."""
    features = np.zeros((1, len(days), len(FEATURES)), np.float32)
    features[0, :, FEATURES.index("elapsed")] = np.log1p(24 * days) / 5
    return features


@pytest.fixture(scope="module")
def days():
    rng = np.random.default_rng(2)
    return np.sort(rng.uniform(0, 6, 80))


def test_it_is_the_periodogram_of_all_epochs_so_far(days):
    days = days - days[0]
    rng = np.random.default_rng(3)
    fluxes = 0.4 * np.sin(2 * np.pi * _FREQUENCIES[10] * days + 1) + rng.normal(0, 0.1, len(days))
    given = keras.ops.convert_to_numpy(
        Periodogram()(fluxes[None, :, None].astype(np.float32), told(days))
    )[0]
    often = _FREQUENCIES > 0.5  # the ridge is for what has hardly turned
    for so_far in (30, 80):
        fit = LombScargle(days[:so_far], fluxes[:so_far], fit_mean=True)
        expected = fit.power(_FREQUENCIES[often])
        np.testing.assert_allclose(given[so_far - 1][often], expected, atol=0.04)
    assert given[-1].argmax() == 10
    assert given[-1].max() > 0.8


def test_one_epoch_after_the_other_gives_the_same(days):
    days = days[::4] - days[0]
    rng = np.random.default_rng(4)
    fluxes = rng.normal(8, 0.5, (1, len(days), 2)).astype(np.float32)
    features = told(days)
    whole = keras.ops.convert_to_numpy(Periodogram()(fluxes, features))
    assert whole.shape == (1, len(days), 2 * len(_FREQUENCIES))
    assert (whole > -1e-4).all()
    assert (whole < 1 + 1e-4).all()
    assert np.abs(whole[0, 0]).max() < 1e-6  # one epoch fits nothing
    one, state = OnePeriodogram(), np.zeros((1, memory(2)), np.float32)
    for k in range(len(days)):
        given, state = one(fluxes[:, k], features[:, k], state)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(given), whole[:, k], atol=2e-5)
