"""Photometry against the truth of the simulation, and against photutils star by star."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table
from photutils.psf import MoffatPSF, PSFPhotometry

from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.photometry.core import measure, measured_fwhm
from deepstreaks_dask.simulation.sequences import simulate_sequences
from deepstreaks_dask.simulation.surveys import get_survey

STARS = ["rrlyrae", "cepheid", "eclipsing", "nonvariable"]


def stars(name, objects, *, seed=3, **changes):
    """Stamps of stars as a survey takes them, their epochs, and the counts that they truly give."""
    survey = get_survey(name)
    instrument = replace(survey.instrument, **changes)
    survey = replace(survey, instrument=instrument, crowding=0.0, told=True)
    batches = list(simulate_sequences(objects, survey, "rcnn", seed=seed))
    kinds = np.concatenate([np.repeat(b.columns["kind"], b.counts) for b in batches])
    chosen = np.isin(kinds, STARS)
    stamps = np.concatenate([b.cutouts for b in batches])[chosen]
    epochs = {k: np.concatenate([b.epochs[k] for b in batches])[chosen] for k in batches[0].epochs}
    true = 10 ** (0.4 * (epochs["zero_point"] - epochs["true_mag"]))
    whole = stamps.max(axis=(1, 2)) < 0.9 * survey.instrument.saturation
    return stamps[whole], {k: v[whole] for k, v in epochs.items()}, true[whole]


@pytest.mark.parametrize("name", ["hits", "ztf", "crts"])
def test_fluxes_are_unbiased_and_their_errors_are_what_they_scatter(name):
    stamps, epochs, true = stars(name, 110 if name == "hits" else 40)
    beta = get_survey(name).instrument.beta
    found = measure(stamps, epochs, beta=beta)
    for method in (found.aperture, found.psf):
        snr = true / method.counts_error
        for low, high, widest in ((0, 20, 1.15), (20, 100, 1.2)):
            some = (snr > low) & (snr < high)
            assert some.sum() > 100
            pulls = (method.counts - true)[some] / method.counts_error[some]
            left, middle, right = np.percentile(pulls, [15.87, 50, 84.13])
            assert abs(middle) < 0.3
            assert 0.85 < (right - left) / 2 < widest
        bright = (snr > 30) & (snr < 200)
        assert np.median(method.counts[bright] / true[bright]) == pytest.approx(1, abs=0.01)
        known = snr > 10
        difference = (method.magnitude - epochs["true_mag"])[known] / method.magnitude_error[known]
        assert abs(np.median(difference)) < 0.3
    # a PSF weighs its pixels: never much worse than an aperture, on faint stars better
    faint = true / found.psf.counts_error < 10
    assert np.median((found.aperture.counts_error / found.psf.counts_error)[faint]) > 1.05
    assert np.median(found.sky / epochs["sky"]) == pytest.approx(1, abs=0.02)


def test_a_misaligned_narrow_psf_loses_light_where_it_is_forced_into_the_middle():
    stamps, epochs, true = stars("crts", 24)
    free, forced = (measure(stamps, epochs, misalignment=width).psf for width in (0.25, 0.0))
    bright = true / free.counts_error > 30
    lost = {k: np.median(m.counts[bright] / true[bright]) for k, m in (("a", free), ("b", forced))}
    assert lost["a"] == pytest.approx(1, abs=0.01)
    assert lost["b"] < 0.97


def test_it_agrees_with_photutils_star_by_star():
    stamps, epochs, true = stars("hits", 8, cosmic_rays=0.0)
    y, x = np.indices(stamps.shape[1:])
    rows = np.argsort(-stamps[:, 10, 10])[: len(stamps) // 2 : 12]
    some = {name: values[rows] for name, values in epochs.items()}
    ours = measure(stamps[rows], some, misalignment=0.0)
    for k, row in enumerate(rows):
        alpha = some["fwhm"][k] / (2 * np.sqrt(2 ** (1 / 3.5) - 1))
        model = MoffatPSF(alpha=alpha, beta=3.5)
        model.x_0.fixed = model.y_0.fixed = True
        data = stamps[row].astype(float) - some["sky"][k]
        # of the light that is expected: with that which was seen, pixels that scattered down would weigh more
        light = model.evaluate(x, y, true[row], 10.0, 10.0, alpha, 3.5)
        variance = ours.noise[k] ** 2 + light / some["gain"][k]
        found = PSFPhotometry(model, 21)(
            data,
            error=np.sqrt(variance),
            init_params=Table({"x": [10.0], "y": [10.0], "flux": [1000.0]}),
        )
        # theirs is told the sky, ours fits it
        error = np.hypot(ours.psf.counts_error[k], found["flux_err"][0])
        assert abs(ours.psf.counts[k] - found["flux_fit"][0]) < 1.5 * error
        assert ours.psf.counts_error[k] == pytest.approx(found["flux_err"][0], rel=0.5)


def test_another_zero_point_gives_the_same_flux():
    stamps, epochs, _ = stars("ztf", 3)
    one = measure(stamps, epochs)
    other = measure(stamps * 2, {**epochs, "zero_point": epochs["zero_point"] + 2.5 * np.log10(2)})
    bright = one.psf.snr > 20
    assert other.psf.flux[bright] == pytest.approx(one.psf.flux[bright], rel=0.02)


def test_missing_pixels_are_done_without_until_too_many_are_missing():
    stamps, epochs, _ = stars("hits", 6)
    whole = measure(stamps, epochs)
    stamps = stamps.copy()
    stamps[:, :3] = np.nan
    stamps[::3, 8:13, 8:13] = np.nan
    stamps[1::3] = np.nan
    found = measure(stamps, epochs)
    left = np.arange(len(stamps)) % 3 == 2
    for method in (found.aperture, found.psf):
        assert np.isnan(method.counts[1::3]).all()
        assert np.isfinite(method.counts[left]).all()
    bright = left & (whole.psf.snr > 20)
    assert found.psf.counts[bright] == pytest.approx(whole.psf.counts[bright], rel=0.2)
    narrow = np.flatnonzero(epochs["fwhm"][::3] < 4.5) * 3
    assert np.isnan(found.psf.counts[narrow]).all()


def test_what_is_not_known_is_measured_or_taken_for_usual():
    stamps, epochs, true = stars("ztf", 6)
    nothing = measure(stamps, {})
    assert (nothing.fwhm == 3.0).all()
    assert nothing.psf.flux == pytest.approx(nothing.psf.counts)
    one = slice(0, int(np.argmax(np.diff(epochs["mjd"]) < 0)) + 1)  # the first star's
    width = measured_fwhm(stamps[one])
    assert width == pytest.approx(np.median(epochs["fwhm"][one]), rel=0.25)
    told = measure(stamps, {"fwhm": np.full(len(stamps), width)})
    assert told.noise == pytest.approx(measure(stamps, epochs).noise, rel=0.5)
    ratio = told.psf.counts / true  # a width for all exposures leaves out the weather
    assert np.percentile(ratio, 5) > 0.5
    assert np.percentile(ratio, 95) < 2
    assert measured_fwhm(np.full((3, 21, 21), np.nan)) == 3.0
    noise = np.random.default_rng(0).normal(100, 5, (5, 21, 21))
    assert measured_fwhm(noise) == 3.0


def test_no_stamps_and_wrong_ones():
    assert measure(np.zeros((0, 21, 21)), {}).psf.flux.shape == (0,)
    with pytest.raises(DeepStreaksError, match="shape"):
        measure(np.zeros((2, 21, 20)), {})
    with pytest.raises(DeepStreaksError, match="gain"):
        measure(np.zeros((2, 21, 21)), {"gain": np.ones(3)})
