"""What TAO-Net compares and counts: each against the plain formula."""

import numpy as np
import pytest

from deepstreaks_dask.models.sequence.layers import (
    _EPOCH_STEPS,
    _LAG_EDGES,
    _QUANTILES,
    Apertures,
    Detections,
    Distribution,
    LightCurve,
    LongPeriods,
    Relative,
    StructureFunction,
    Visits,
)
from deepstreaks_dask.models.sequence.preprocessing import FEATURES
from deepstreaks_dask.models.sequence.taonet import Drift, Reference

COUNTS = 30, 17
DEPTH, ELAPSED = FEATURES.index("depth"), FEATURES.index("elapsed")


@pytest.fixture(scope="module")
def given():
    """Two objects with their times, the second one shorter."""
    rng = np.random.default_rng(1)
    mask = np.arange(30) < np.array(COUNTS)[:, None]
    hours = np.cumsum(rng.choice([0.2, 20.0, 900.0], (2, 30)), axis=1)
    features = np.zeros((2, 30, len(FEATURES)), np.float32)
    features[..., ELAPSED] = np.log1p(hours - hours[:, :1]) / 5
    return rng.normal(size=(2, 30, 3)).astype(np.float32), features, mask


def test_a_structure_function_is_that_of_the_pairs(given):
    values, features, _ = given
    whole = np.asarray(StructureFunction()(*given))
    found = whole[:, :-3].reshape(2, len(_LAG_EDGES) + 1, 4)
    for row, count in enumerate(COUNTS):
        v, hours = values[row], np.expm1(5 * features[row, :, ELAPSED])
        pairs = [(k, k + s) for s in _EPOCH_STEPS for k in range(count - s)]
        groups = np.digitize([hours[b] - hours[a] for a, b in pairs], _LAG_EDGES, right=True)
        for group in range(len(_LAG_EDGES) + 1):
            own = [pair for pair, g in zip(pairs, groups, strict=True) if g == group]
            assert found[row, group, 3] == bool(own)
            if own and not group:
                largest = np.max([(v[b] - v[a]) ** 2 for a, b in own], axis=0)
                np.testing.assert_allclose(
                    whole[row, -3:], 0.5 * np.log(largest / 0.01 + 0.01), atol=1e-4
                )
            if own:
                squares = np.mean([(v[b] - v[a]) ** 2 for a, b in own], axis=0)
                expected = 0.5 * np.log((squares + 1e-4) / 0.01)
                np.testing.assert_allclose(found[row, group, :3], expected, atol=1e-3)
            else:
                assert (found[row, group] == 0).all()


def test_quantiles_are_those_of_the_epochs_that_there_are(given):
    values, _, mask = given
    found = np.asarray(Distribution()(values, mask)).reshape(2, len(_QUANTILES), 3)
    for row, count in enumerate(COUNTS):
        ordered = np.sort(values[row, :count], axis=0)
        places = np.round(np.array(_QUANTILES, np.float32) * (count - 1)).astype(int)
        expected = ordered[places]
        median = expected[_QUANTILES.index(0.5)]
        others = np.delete(expected, _QUANTILES.index(0.5), axis=0) - median
        np.testing.assert_allclose(found[row, 0], median, rtol=1e-6)
        np.testing.assert_allclose(found[row, 1:], others, atol=1e-6)


@pytest.mark.parametrize("star", [60.0, 0.0])
def test_stars_around_an_object_tell_how_transparent_the_air_was(star):
    """And without a star nothing is claimed."""
    rng = np.random.default_rng(2)
    light = np.exp(rng.normal(0, 0.4, 30)).astype(np.float32)
    stamps = np.zeros((2, 30, 21, 21), np.float32)
    stamps[..., 2:5, 15:18] = star * light[:, None, None]
    own = 50 * rng.random(30).astype(np.float32)
    stamps[..., 10, 10] = own * light
    stamps += rng.normal(0, 1, stamps.shape)
    mask = np.arange(30) < np.array(COUNTS)[:, None]
    stamps[~mask] = 1e3  # padding
    mean, pairs, features, told = (
        np.asarray(part)
        for part in Reference()(stamps, np.zeros((2, 30, len(FEATURES)), np.float32), mask)
    )
    for row, count in enumerate(COUNTS):
        true = np.log(light[:count] / light[:count].mean())
        if star:
            np.testing.assert_allclose(told[row, :count, 0], true, atol=0.12)
            assert mean[row, 3, 16, 0] > 3 * star
        else:
            assert np.abs(told[row, :count, 0]).max() < 0.25
        np.testing.assert_allclose(features[row, ..., DEPTH], -told[row, ..., 0], atol=1e-6)
        assert (told[row, 0, 1] > 1.5) if star else (told[row, 0, 1] < 0.3)
        # the star is gone from the difference, and what changes is left
        more = pairs[row, :count, :, :, 1]
        assert np.abs(more[:, 3, 16]).max() < 8
        np.testing.assert_array_equal(pairs[row, :count, :, :, 0], stamps[row, :count])


def test_drift_and_periods_are_found():
    rng = np.random.default_rng(3)
    days = np.sort(rng.uniform(0, 1500, 60))
    features = np.zeros((2, 60, len(FEATURES)), np.float32)
    features[..., ELAPSED] = np.log1p(24 * (days - days[0])) / 5
    mask = np.arange(60) < np.array([60, 45])[:, None]
    places = rng.normal(0, 0.2, (2, 60, 2))
    places[0] += 0.5 * days[:, None] / 365.25 * np.array([0.6, 0.8])
    places[~mask] = 50.0
    pace, sure = np.asarray(Drift()(places.astype(np.float32), features, mask)).T
    assert np.exp(pace[0]) == pytest.approx(0.5, abs=0.06)
    assert sure[0] > 2 > 1.5 > sure[1]
    values = rng.normal(0, 0.1, (2, 60, 1))
    values[0, :, 0] += np.cos(2 * np.pi * days / 220)
    values[~mask] = 50.0
    found = np.asarray(LongPeriods()(values.astype(np.float32), features, mask))
    power, left = found[:, :-1], found[:, -1]
    assert power[0].argmax() == int(8 * (1 / 220 - 1 / 1000) / (1 / 40 - 1 / 1000))
    assert power[0].max() > 0.95 > 0.5 > power[1].max()
    np.testing.assert_allclose(left, np.log([1.0, 1.0]), atol=0.4)  # in units of the noise


def test_a_visit_is_the_mean_of_its_exposures(given):
    values, _, mask = given
    features = np.zeros((2, 30, len(FEATURES)), np.float32)
    hours = np.repeat(48.0 * np.arange(8), 4)[:30] + np.tile([0.0, 0.2, 0.4, 0.6], 8)[:30]
    features[..., ELAPSED] = np.log1p(hours) / 5
    found = np.asarray(Visits()(values, features, mask))
    for row, count in enumerate(COUNTS):
        for first in range(0, count, 4):
            some = values[row, first : min(first + 4, count)]
            here = found[row, first : first + len(some)]
            np.testing.assert_allclose(
                here[:, :3], np.tile(some.mean(axis=0), (len(some), 1)), atol=1e-5
            )
            expected = 0.5 * np.log(some.var(axis=0) / 0.01 + 0.01)
            np.testing.assert_allclose(here[:, 3:], np.tile(expected, (len(some), 1)), atol=1e-3)


def test_a_light_curve_is_described_by_the_epochs_that_there_are(given):
    values, features, mask = given
    days = np.expm1(5 * features[..., ELAPSED, None]) / 24
    values[0, :, 0] = 2.4 * days[0, :, 0]  # nothing but a trend
    errors = np.where(np.arange(30) % 3 == 0, 0.5, 2.0)[:, None] * np.ones_like(values)
    there = mask[..., None].astype(np.float32)
    given = [part.astype(np.float32) for part in (values, errors, days)]
    found = np.asarray(LightCurve()(*given, there)).reshape(2, 17, 3)
    for row, count in enumerate(COUNTS):
        v, e = values[row, :count].astype(float), errors[row, :count]
        z = (v - v.mean(axis=0)) / v.std(axis=0)
        weighed = (v / e**2).sum(axis=0) / (1 / e**2).sum(axis=0)
        pull = (v - weighed) / e
        steps = np.diff(z, axis=0) ** 2
        lags = np.maximum(np.diff(days[row, :count], axis=0), 0.005)
        # EtaE of the library light-curve, but for the square of the time that the epochs that there are take
        timed = (steps / lags**2).sum(axis=0) / count * days[row, count - 1] ** 2
        time = days[row, :count] - days[row, :count].mean()
        trend = (time / time.std() * z).mean(axis=0)
        excess = v.var(axis=0) - (e**2).mean(axis=0)
        expected = {
            0: (z**3).mean(axis=0),
            1: np.log((z**4).mean(axis=0) + 0.1),
            2: np.ptp(np.cumsum(z, axis=0) / count, axis=0),
            3: np.log(steps.sum(axis=0) / count + 1e-3),
            4: np.log(timed + 1e-3) / 5,
            7: trend,
            9: np.log(v.std(axis=0)),
            10: np.abs(z).mean(axis=0),
            11: np.abs(pull).mean(axis=0) / np.sqrt((pull**2).mean(axis=0)),
            13: np.log((pull**2).mean(axis=0) + 0.1),
            14: np.arcsinh(30 * excess),
            15: np.arcsinh(30 * excess / (v.mean(axis=0) ** 2 + 1e-3)),
            16: v.mean(axis=0),
        }
        for number, numbers in expected.items():
            np.testing.assert_allclose(found[row, number], numbers, rtol=0.01, atol=0.02)
        beyond = (np.abs(z) > 1).mean(axis=0)
        np.testing.assert_allclose(found[row, 5], beyond, atol=0.1)  # a soft limit
    assert found[0, 7, 0] == pytest.approx(1.0, abs=0.01)
    assert found[0, 8, 0] == pytest.approx(0.0, abs=0.05)
    # padding does not matter, whatever it holds
    longer = [np.pad(part, [(0, 0), (0, 7), (0, 0)], constant_values=3.0) for part in given]
    again = LightCurve()(*longer, np.pad(there, [(0, 0), (0, 7), (0, 0)]))
    np.testing.assert_allclose(np.asarray(again).reshape(2, 17, 3), found, atol=1e-4)


def test_fixed_apertures_measure_a_star_in_the_units_of_the_first_epoch():
    rng = np.random.default_rng(4)
    y, x = np.indices((21, 21)) - 10.0
    star = np.exp(-0.5 * (x**2 + y**2) / 1.4**2)
    star /= np.sqrt((star**2).sum())  # the signal-to-noise ratio of the aperture of its own width
    ratio = np.tile([30.0, 2.0, 9.0, -1.0], 10)
    stamps = ratio[None, :, None, None] * star + rng.normal(0, 0.01, (2, 40, 21, 21))
    features = np.zeros((2, 40, len(FEATURES)), np.float32)
    features[..., DEPTH] = np.log(np.where(np.arange(40) % 8 < 4, 1.0, 2.0))
    features[..., ELAPSED] = np.log1p(24.0 * np.arange(40)) / 5
    mask = np.arange(40) < np.array([40, 29])[:, None]
    flux, error = Apertures()(stamps.astype(np.float32), features)
    unit = np.exp(features[0, :, DEPTH])
    np.testing.assert_allclose(np.asarray(flux)[0, :, 1], ratio * unit, atol=0.2)
    np.testing.assert_allclose(np.asarray(error)[0], np.tile(unit[:, None], 3), rtol=1e-5)
    for row, count in enumerate((40, 29)):
        light, scatter, height = (np.asarray(part)[row] for part in Relative()(flux, error, mask))
        highest = (ratio * unit - unit)[:count].max()
        assert np.exp(height[1]) == pytest.approx(highest, rel=0.01)
        np.testing.assert_allclose(light[:count, 1], (ratio * unit)[:count] / highest, atol=0.01)
        np.testing.assert_allclose(scatter[:, 1], unit / highest, rtol=0.01)
        logs, errors, days, found, share = (
            np.asarray(part)[row] for part in Detections()(flux, error, features, mask)
        )
        seen = np.flatnonzero(ratio[:count] > 3)
        assert found[:, 1].tolist() == [1] * len(seen) + [0] * (40 - len(seen))
        assert share[1] == pytest.approx(np.log(len(seen) / count + 0.01))
        np.testing.assert_allclose(logs[: len(seen), 1], np.log((ratio * unit)[seen]), atol=0.02)
        np.testing.assert_allclose(errors[: len(seen), 1], 1 / ratio[seen], rtol=0.02)
        np.testing.assert_allclose(days[: len(seen), 1], seen - seen[0], rtol=1e-4, atol=1e-3)
