"""Simulated sequences: the physics of the stamps, the shapes of the light curves, and that seeds hold."""

import numpy as np
import pytest

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.verification import verify
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.readers.sequences import STAMP_SIZE
from deepstreaks_dask.simulation import variables
from deepstreaks_dask.simulation.sequences import LAYOUT, simulate_object, simulate_sequences
from deepstreaks_dask.simulation.source import (
    Sersic,
    Source,
    damped_random_walk,
    fourier_light_curve,
)
from deepstreaks_dask.simulation.stamps import expose
from deepstreaks_dask.simulation.surveys import (
    SURVEYS,
    ObservingLog,
    Shift,
    SimulationError,
    get_survey,
)
from deepstreaks_dask.simulation.tasks import TASKS


def log_of(mjd, band="g", **values):
    n = len(mjd)
    given = {"seeing": 1.25, "sky": 22.0, "airmass": 1.2, "exposure": 87.0, "cloud": 0.0}
    given |= values
    columns = {name: np.full(n, value, float) for name, value in given.items()}
    return ObservingLog(mjd=np.asarray(mjd, float), band=np.full(n, band, object), **columns)


def still(log, magnitude, host=None):
    zeros = np.zeros(len(log))
    return Source(np.full(len(log), magnitude), zeros, zeros, host)


def test_an_object_does_not_depend_on_what_is_simulated_beside_it():
    (whole,) = simulate_sequences(6, "hits", "rcnn", seed=3)
    (tail,) = simulate_sequences(2, "hits", "rcnn", seed=3, first=4)
    assert tail.columns["id"].tolist() == whole.columns["id"][4:].tolist()
    np.testing.assert_array_equal(tail.cutouts, whole.cutouts[whole.counts[:4].sum() :])
    assert (tail.columns["ra"] == whole.columns["ra"][4:]).all()
    (other,) = simulate_sequences(2, "hits", "rcnn", seed=4)
    assert not np.array_equal(other.cutouts[:5], whole.cutouts[:5])


@pytest.mark.parametrize("name", [*SURVEYS, "hits-shifted", "hits-varied"])
def test_empty_sky_has_the_noise_that_the_log_promises(name):
    survey = get_survey(name)
    rng = np.random.default_rng(1)
    log = survey.generate(rng).take(np.zeros(400, int))
    counts = expose(rng, survey.instrument, log, still(log, np.inf), 0.0)
    counts = np.sort(counts.reshape(-1))[: -counts.size // 500]  # without the cosmic rays
    expected = log.noise(survey.instrument)[0]
    assert counts.std() == pytest.approx(np.hypot(expected, np.sqrt(1 / 12)), rel=0.03)
    sky = log.sky_electrons(survey.instrument)[0] / survey.instrument.gain
    assert counts.mean() == pytest.approx(sky, abs=0.05 * expected)


@pytest.mark.parametrize("name", [*SURVEYS, "hits-shifted", "hits-varied"])
def test_a_star_gives_its_magnitude_and_its_seeing(name):
    survey = get_survey(name)
    rng = np.random.default_rng(2)
    generated = survey.generate(rng)
    log = generated.take(np.full(60, np.argmin(generated.seeing)))
    magnitude = float(log.depth(survey.instrument)[0]) - 5.5
    stamps = expose(rng, survey.instrument, log, still(log, magnitude), 0.0)
    sky = log.sky_electrons(survey.instrument)[0] / survey.instrument.gain
    star = np.median(stamps, axis=0) - sky
    found = log.zero_point(survey.instrument)[0] - 2.5 * np.log10(star.sum())
    # what the wings take beyond the stamp is more than noise where they are wide
    assert -0.03 < found - magnitude < 0.16
    area = star.clip(star.max() / 2).max()  # peak
    above = (star > area / 2).sum()
    fwhm = log.fwhm(survey.instrument)[0]
    assert above == pytest.approx(np.pi / 4 * fwhm**2, abs=max(4, 0.5 * fwhm**2))


def test_signal_to_noise_is_what_the_log_promises():
    """By optimal weights over stamps of one faint star."""
    survey = get_survey("hits")
    rng = np.random.default_rng(3)
    log = log_of(np.full(500, 57070.0))
    instrument = survey.instrument
    magnitude = float(log.depth(instrument)[0]) - 1.5
    aligned = type(instrument)(**{**vars(instrument), "misalignment": 0.0, "ellipticity": 0.0})
    bright = expose(rng, aligned, log, still(log, magnitude - 3), 0.0)
    shape = np.median(bright, axis=0) - np.median(bright)
    shape /= shape.sum()
    stamps = expose(rng, aligned, log, still(log, magnitude), 0.0)
    flux = ((stamps - np.median(stamps)) * shape).sum(axis=(1, 2)) / (shape**2).sum()
    assert flux.mean() / flux.std() == pytest.approx(log.snr(aligned, magnitude)[0], rel=0.15)


def test_full_pixels_and_cosmic_rays():
    survey = get_survey("ztf")
    rng = np.random.default_rng(4)
    log = log_of(np.full(50, 58500.0), "r", exposure=30.0, sky=21.0, seeing=2.0)
    assert expose(rng, survey.instrument, log, still(log, 9.0), 0.0).max() == pytest.approx(50000)
    struck = type(survey.instrument)(**{**vars(survey.instrument), "cosmic_rays": 1e-4})
    hit = expose(rng, struck, log, still(log, np.inf), 0.0)
    quiet = expose(rng, survey.instrument, log, still(log, np.inf), 0.0)
    assert (hit > quiet.max()).any(axis=(1, 2)).mean() > 0.3


def test_an_asteroid_crosses_and_a_galaxy_stays():
    survey = get_survey("hits")
    rng = np.random.default_rng(5)
    log = log_of(57070 + np.array([0.0, 0.066, 0.132, 1.0]))
    there = 0
    for _ in range(20):
        source = variables.asteroid(rng, log, 18.0)
        stamps = expose(rng, survey.instrument, log, source, 0.0)
        peaks = stamps.max(axis=(1, 2)) > 5 * np.median(stamps)  # more than a cosmic ray
        assert peaks.sum() == 1  # an hour and a half later it is gone
        there += peaks[np.hypot(source.x, source.y) == 0].sum()
    assert there == 20
    host = Sersic(19.0, 1.0, 1.0, 0.5, 0.0)
    stamps = expose(rng, survey.instrument, log, still(log, np.inf, host), 0.0)
    light = np.median(stamps, axis=0) - log.sky_electrons(survey.instrument)[0] / 4.0
    found = log.zero_point(survey.instrument)[0] - 2.5 * np.log10(light.sum())
    assert found == pytest.approx(19.0, abs=0.15)
    middle = STAMP_SIZE // 2
    assert light[middle, :].sum() > 1.3 * light[:, middle].sum()  # along x, as its angle says
    at = np.unravel_index(np.argmax(light), light.shape)
    assert max(abs(at[0] - middle), abs(at[1] - middle)) <= 1


def test_a_star_with_proper_motion_moves_on_as_it_is():
    log = log_of(54000 + np.arange(0, 1500, 50.0))
    for seed in range(5):
        source = variables.proper_motion_star(np.random.default_rng(seed), log, 17.0)
        away = np.hypot(np.diff(source.x), np.diff(source.y)) * 365.25 / 50
        assert 0.2 <= away.mean() <= 2
        np.testing.assert_allclose(away, away.mean())
        assert np.hypot(source.x, source.y).min() == 0
        assert (source.magnitude == 17).all()


def test_clouds_take_light_and_the_disc_is_crowded():
    survey = get_survey("crts")
    rng = np.random.default_rng(8)
    logs = [survey.generate(rng) for _ in range(20)]
    cloud = np.concatenate([log.cloud for log in logs])
    assert 0.02 < np.percentile(cloud, 30) < 0.1 < np.percentile(cloud, 80) < 0.5
    visits = cloud.reshape(-1, 4)
    assert visits.mean(axis=1).std() > 2 * visits.std(axis=1).mean()
    (log, *_) = logs
    clear = type(log)(**{**vars(log), "cloud": np.zeros(len(log))})
    lost = log.electrons(survey.instrument, 18.0) / clear.electrons(survey.instrument, 18.0)
    np.testing.assert_allclose(lost, 10 ** (-0.4 * log.cloud))
    disc, sky = (
        np.array([survey.crowding_at(rng, disc=disc) for _ in range(400)]) for disc in (True, False)
    )
    assert min(disc.min(), sky.min()) >= survey.crowding
    assert max(disc.max(), sky.max()) <= survey.crowding / np.sin(np.radians(15))
    assert disc.mean() > 1.15 * sky.mean()
    assert get_survey("hits").crowding_at(rng, disc=True) == get_survey("hits").crowding


def test_pulsators_rise_faster_than_they_fall():
    log = log_of(np.linspace(57000, 57000.5, 2000))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        curve = fourier_light_curve(
            rng, log, 0.5, 1.0, np.array([0.46, 0.33, 0.2]), np.array([4.0, 2.0, 6.1])
        )
        rising = (np.diff(curve) < 0).mean()  # brighter is smaller
        assert 0.1 < rising < 0.4
        assert np.ptp(curve) == pytest.approx(1.0, rel=0.02)


def test_a_damped_random_walk_has_its_structure_function():
    rng = np.random.default_rng(6)
    times = np.arange(0, 40000, 10.0)
    walk = damped_random_walk(rng, times, 100.0, 0.4)
    for lag in (5, 20, 60):
        found = np.sqrt(np.mean((walk[lag:] - walk[:-lag]) ** 2))
        assert found == pytest.approx(0.4 * np.sqrt(1 - np.exp(-10 * lag / 100)), rel=0.15)


def test_supernovae_happen_once_and_binaries_again():
    log = log_of(58000 + np.arange(0, 300, 1.0))
    for seed in range(8):
        curve = variables.supernova(np.random.default_rng(seed), log, 18.0).magnitude
        assert curve.min() == pytest.approx(18.0, abs=1.2) or curve.argmin() in (0, len(log) - 1)
        bright = np.flatnonzero(curve < curve.min() + 0.2)
        assert np.ptp(bright) < 160
    fine = log_of(58000 + np.arange(0, 60, 0.005))
    curve = variables.eclipsing_binary(np.random.default_rng(3), fine, 18.0).magnitude
    assert (np.diff((curve > curve.min() + 0.5 * np.ptp(curve)).astype(int)) == 1).sum() > 3


@pytest.mark.parametrize(("survey", "task"), [("ztf", "rcnn"), ("crts", "taonet")])
def test_every_class_can_be_stored(tmp_path, survey, task):
    create_archive(tmp_path / "s.zarr", **LAYOUT)
    result = append_batches(tmp_path / "s.zarr", simulate_sequences(60, survey, task, seed=1))
    assert (result.appended, result.quarantined) == (60, 0)
    dataset = open_archive(tmp_path / "s.zarr")
    kinds = set(dataset["kind"].values)
    assert kinds <= set(TASKS[task].classes)
    assert len(kinds) > 3
    assert np.isfinite(dataset["cutouts"].values).all()
    assert np.isfinite(dataset["mjd"].values).all()
    for name in ("zero_point", "fwhm", "sky", "exposure", "gain", "read_noise"):
        assert (np.isfinite(dataset[name].values) == (survey != "crts")).all(), name
    assert (dataset["source"].values == f"simulation {survey}, seed 1").all()
    assert verify(tmp_path / "s.zarr").ok


def test_what_varies_is_an_object_that_the_survey_would_have_noticed_to_vary():
    """By photometry that is told the true magnitudes: noise drawn anew, for each object of a class that varies."""
    survey = get_survey("hits")
    chi2, constant = [], 0
    for number in range(60):
        made = simulate_object(survey, "rcnn", 11, number)
        if made.label not in ("rrlyrae", "cepheid", "eclipsing"):
            constant += made.label == "nonvariable"
            continue
        snr = made.log.snr(survey.instrument, made.magnitude)
        flux = 10 ** (-0.4 * made.magnitude)
        assert 1.0857 * flux.std() / flux.mean() > 0.05
        seen = flux * (1 + np.random.default_rng(number).standard_normal(len(flux)) / snr)
        weights = (snr / flux) ** 2
        mean = np.average(seen, weights=weights)
        chi2.append(((seen - mean) ** 2 * weights).sum() / (len(flux) - 1))
    assert constant > 2  # what does not vary is kept
    assert len(chi2) > 15
    assert (np.array(chi2) > 2.0).mean() > 0.95  # 3 is asked for, give or take the noise


def test_one_exposure_shows_nothing_that_varies():
    alone = get_survey("hits").with_log(log_of([57070.0]))
    task = TASKS["rcnn"]
    for number in range(12):
        label = str(np.random.default_rng((1, number)).choice(task.classes, p=task.shares))
        if label in ("nonvariable", "galaxy", "asteroid"):
            simulate_object(alone, "rcnn", 1, number)
        else:
            with pytest.raises(SimulationError, match="nothing of class"):
                simulate_object(alone, "rcnn", 1, number)


def test_a_shift_is_what_it_says():
    rng = np.random.default_rng(7)
    survey = get_survey("hits")
    moved = survey.shifted(Shift(seeing=1.5, sky=-1.0, kept=0.5))
    ours, theirs = (
        [s.generate(np.random.default_rng(k)) for k in range(30)] for s in (survey, moved)
    )
    mean = [np.mean([np.median(log.seeing) for log in logs]) for logs in (ours, theirs)]
    assert mean[1] / mean[0] == pytest.approx(1.5, rel=0.1)
    assert sum(map(len, theirs)) / sum(map(len, ours)) == pytest.approx(0.55, abs=0.1)
    assert moved.instrument.beta != survey.instrument.beta
    assert simulate_object(moved, "rcnn", 1, int(rng.integers(100))).stamps.shape[1:] == (21, 21)


def test_a_varied_survey_differs_from_object_to_object_and_is_itself_again():
    (batch,) = simulate_sequences(20, "hits-varied", "rcnn", seed=3)
    firsts = np.cumsum(batch.counts) - batch.counts
    for name in ("read_noise", "fwhm"):
        assert len(np.unique(batch.epochs[name][firsts])) == 20
    noises = batch.epochs["read_noise"][firsts] / get_survey("hits").instrument.read_noise
    assert 0.7 <= noises.min() < 1 < noises.max() <= 2
    (again,) = simulate_sequences(3, "hits-varied", "rcnn", seed=3, first=4)
    np.testing.assert_array_equal(
        again.cutouts, batch.cutouts[firsts[4] : firsts[6] + batch.counts[6]]
    )
    moved, drawn = Shift(), [Shift.draw(np.random.default_rng(k)) for k in range(300)]
    for name, value in vars(moved).items():  # what is tested lies within what was trained on
        values = [getattr(one, name) for one in drawn]
        assert min(values) < value < max(values)


def test_a_log_of_ones_own_is_kept_to(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(
        "mjd,filter,seeing,sky,airmass,exposure\n"
        "58003.5,r,2.5,20.5,1.1,30\n58001.5,g,2.0,21.5,1.0,30\n58002.5,g,1.9,21.0,1.3,60\n"
    )
    survey = get_survey("ztf")
    log = ObservingLog.read(path, survey.instrument)
    assert log.mjd.tolist() == [58001.5, 58002.5, 58003.5]
    (batch,) = simulate_sequences(4, survey.with_log(log), "rcnn", seed=2)
    assert batch.counts.tolist() == [3, 3, 3, 3]
    assert batch.epochs["band"].tolist() == ["g", "g", "r"] * 4
    np.testing.assert_allclose(batch.epochs["fwhm"][:3] * 1.01, [2.0, 1.9, 2.5])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mjd,filter,seeing,sky,airmass\n58000,g,2,21,1\n", "no column exposure"),
        ("mjd,filter,seeing,sky,airmass,exposure\n58000,g,-2,21,1,30\n", "seeing goes from"),
        ("mjd,filter,seeing,sky,airmass,exposure\n58000,z,2,21,1,30\n", "'z' is none of g, r, i"),
        ("mjd,filter,seeing,sky,airmass,exposure\n,g,2,21,1,30\n", "mjd goes from"),
        ("mjd,filter,seeing,sky,airmass,exposure\n", "has 0 rows"),
    ],
)
def test_logs_that_cannot_be_are_refused(tmp_path, text, words):
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(DeepStreaksError) as error:
        ObservingLog.read(path, get_survey("ztf").instrument)
    assert words in str(error.value)


def test_mistakes_are_named():
    with pytest.raises(SimulationError, match="no survey 'lsst'"):
        get_survey("lsst")
    with pytest.raises(SimulationError, match="no task 'all'"):
        list(simulate_sequences(1, "hits", "all"))
