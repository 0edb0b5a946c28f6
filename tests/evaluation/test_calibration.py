"""Calibration mends what is known to be wrong, is measured on other nights, and never on what was trained on."""

import json

import numpy as np
import pytest
import xarray as xr
from helpers import random_batch, write_run
from mutations import generators, mutate_json, nothing_executed, one_line_errors
from scipy.special import expit, logit
from typer.testing import CliRunner

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.attributes import encode_attributes
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import CalibrationError
from deepstreaks_dask.evaluation.calibration import (
    Calibration,
    Curve,
    Figures,
    calibrate,
    calibrated,
    fit_curve,
    measure,
    reliability,
    seen_in_training,
    store,
    stored,
)
from deepstreaks_dask.evaluation.metrics import Estimate
from deepstreaks_dask.models.registry import build
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import open_run


def overconfident(n, *, temperature=3.0, seed=0):
    """True probabilities, labels drawn from them, and scores that are too sure."""
    rng = np.random.default_rng(seed)
    truth = rng.beta(0.5, 0.5, n).clip(0.01, 0.99)
    labels = (rng.random(n) < truth).astype(np.int8)
    return truth, labels, expit(logit(truth) * temperature).astype(np.float32)


def test_a_temperature_is_found_again():
    truth, labels, scores = overconfident(20_000)
    curve = fit_curve(labels, scores)
    assert curve.temperature == pytest.approx(3, rel=0.05)
    np.testing.assert_allclose(curve(scores), truth, atol=0.02)
    assert curve(np.array([0.5], np.float32))[0] == pytest.approx(0.5)
    assert np.isfinite(curve(np.array([0, 1], np.float32))).all()
    assert np.isnan(curve(np.array([np.nan], np.float32))).all()


def test_an_isotonic_curve_mends_what_no_temperature_does():
    truth, labels, _ = overconfident(20_000)
    scores = (truth**3).astype(np.float32)
    curve = fit_curve(labels, scores, "isotonic")
    assert np.abs(curve(scores) - truth).mean() < 0.03
    assert np.abs(fit_curve(labels, scores)(scores) - truth).mean() > 0.05
    assert (np.diff(curve(np.linspace(0, 1, 50))) >= 0).all()
    assert len(curve.scores) <= 200


def test_reliability_counts_what_lies_in_its_bins():
    labels = np.array([1, 0, 1, 1, -1, 0, 1])
    scores = np.array([0.05, 0.01, 0.99, 1.0, 0.5, 0.0, np.nan], np.float32)
    table = reliability(labels, scores, bins=10)
    assert table["total"].tolist() == [3, 2]
    assert table["positives"].tolist() == [1, 2]
    assert table["score"].tolist() == pytest.approx([0.02, 0.995])
    assert (table["low"] <= table["share"]).all()


def test_the_error_is_what_it_is_by_hand_and_near_chance_for_true_probabilities():
    figures = measure(np.array([1, 0, 0, 0]), np.full(4, 0.75, np.float32), np.arange(4))
    assert figures.ece.value == pytest.approx(0.5)
    assert figures.brier == pytest.approx((3 * 0.75**2 + 0.25**2) / 4)
    truth, labels, scores = overconfident(5000, seed=2)
    nights = np.arange(5000) // 250
    fair, sure = (measure(labels, values, nights) for values in (truth, scores))
    assert fair.ece.value < 2 * fair.chance
    assert sure.ece.low > 3 * sure.chance
    assert fair.ece.low <= fair.ece.value <= fair.ece.high
    assert sure.log_loss > fair.log_loss


@pytest.fixture
def scored(tmp_path):
    """An archive of ten nights with a run of too sure scores."""
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    _, labels, scores = overconfident(600)
    for k in range(10):
        rows = slice(60 * k, 60 * (k + 1))
        own = {f"label_{family}": labels[rows] for family in ("rb", "sl", "kd")}
        append_batches(url, [random_batch(60, start=60 * k, night=20260101 + k, **own)])
    write_run(url, "default", ["rb_vgg6", "sl_vgg6", "kd_vgg6"], np.stack([scores] * 3, axis=1))
    return url


def test_a_run_is_calibrated_and_decided_with_its_probabilities(scored, tmp_path):
    scores = open_run(scored)  # whose zoo is made up
    made = calibrate(scores, seed=3, leave_out=np.zeros(scores.sizes["cutout"], bool))
    assert not set(made.fitted) & set(made.measured)
    assert len(made.fitted) == len(made.measured) == 5
    assert made.after["rb_vgg6"].ece.value < made.before["rb_vgg6"].ece.value
    with pytest.raises(CalibrationError, match="not calibrated"):
        calibrated(open_run(scored))
    store(scored, "default", made)
    scores = open_run(scored)
    assert stored(scores) == made
    changed = calibrated(scores)
    np.testing.assert_array_equal(
        changed["scores"].values[:, 0], made.curves["rb_vgg6"](scores["scores"].values[:, 0])
    )
    same = [Decision().apply(which)["plausible"].values for which in (scores, changed)]
    np.testing.assert_array_equal(*same)  # at 0.5 a temperature changes nothing

    def run(*arguments):
        done = CliRunner().invoke(app, list(map(str, arguments)))
        assert done.exit_code == 0, done.output
        return done.stdout

    high = [
        json.loads(run("decide", scored, "-t", "rb=0.9", *option, "--json"))["plausible"]
        for option in ([], ["--calibrated"])
    ]
    assert high[1] < high[0]
    sure = json.loads(run("evaluate", scored, "--calibrated", "-t", "rb=0.9", "--json"))
    assert sure["plausible"] == high[1]
    run("report", scored, "--calibrated", "-o", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "Reliability of rb_vgg6" in page
    assert "as scored" in page


def test_what_was_trained_on_is_left_out(scored, tmp_path):
    dataset, zoo = open_archive(scored), Zoo(tmp_path / "zoo")
    nights = {"train": list(range(20260101, 20260107)), "validation": [20260107], "test": []}
    data = {"created": dataset.attrs["created"], "by": "night", "nights": nights}
    for name in ("rb_vgg6", "sl_vgg6", "kd_vgg6"):
        zoo.save(build("vgg6"), Card(name, "1", "vgg6", training_data=data))
    write_run(scored, "own", ["rb_vgg6", "sl_vgg6", "kd_vgg6"], np.full((600, 3), 0.4), zoo=zoo.url)
    seen = seen_in_training(open_run(scored, "own"))
    assert seen.sum() == 420
    made = calibrate(open_run(scored), leave_out=seen)
    assert made.left_out == 420
    assert sorted(made.fitted + made.measured) == [20260108, 20260109, 20260110]
    done = CliRunner().invoke(app, ["calibrate", str(scored), "--run", "own", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["left_out"] == 420
    data["nights"]["train"] = {"count": 6, "sha256": ""}
    zoo.save(build("vgg6"), Card("rb_vgg6", "1", "vgg6", training_data=data), overwrite=True)
    with pytest.raises(CalibrationError, match="too many nights"):
        seen_in_training(open_run(scored, "own"))


def test_mistakes_are_named(scored):
    scores = open_run(scored)
    with pytest.raises(CalibrationError, match="no method 'platt'"):
        calibrate(scores, "platt")
    with pytest.raises(CalibrationError, match="0 nights"):
        calibrate(scores, leave_out=np.ones(600, bool))
    with pytest.raises(CalibrationError, match="one class only"):
        fit_curve(np.ones(5), np.full(5, 0.5))
    scores.attrs["decided"] = {"rb_vgg6": 0.5}
    with pytest.raises(CalibrationError, match="decision only"):
        calibrate(scores)
    assert Curve("temperature", 2.0)(np.array([])).shape == (0,)


def damaged(calibration, change):
    """Scores of a run that keeps a calibration, changed."""
    kept = json.loads(json.dumps(calibration.to_dict()))
    change(kept)
    return xr.Dataset(attrs=encode_attributes({"run": "r", "calibration": kept}))


CURVE = Curve("isotonic", 1.0, (0.1, 0.9), (0.0, 1.0))
FIGURES = Figures(Estimate(0.1, 0.0, float("nan"), 1, 2), 0.1, float("nan"), 0.2)
KEPT = Calibration({"rb_a": CURVE}, (1,), (2,), 0, {"rb_a": FIGURES}, {"rb_a": FIGURES})


def test_a_calibration_is_read_as_it_was_kept():
    found = stored(damaged(KEPT, lambda kept: None))
    assert found.curves == KEPT.curves
    assert str(found.before["rb_a"]) == str(FIGURES)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda k: k.pop("curves"), "curves"),
        (lambda k: k.update(more=1), "more"),
        (lambda k: k["before"].clear(), "other members"),
        (lambda k: k["curves"].update(rb_a=7), "rb_a"),
        (lambda k: k["curves"]["rb_a"].update(method="evil"), "unknown method"),
        (lambda k: k["curves"]["rb_a"].update(temperature=0), "temperature"),
        (lambda k: k["curves"]["rb_a"].update(temperature=float("inf")), "temperature"),
        (lambda k: k["curves"]["rb_a"].update(scores=[0.1]), "knots"),
        (lambda k: k["curves"]["rb_a"].update(scores=[0.9, 0.1]), "ascending"),
        (lambda k: k["curves"]["rb_a"].update(probabilities=[0, 7]), "ascending"),
        (lambda k: k["curves"]["rb_a"].update(probabilities=[0, float("nan")]), "ascending"),
        (lambda k: k["curves"]["rb_a"].update(method="temperature"), "knots"),
    ],
)
def test_a_damaged_calibration_is_refused(change, word):
    with pytest.raises(CalibrationError, match=word) as refused:
        stored(damaged(KEPT, change))
    assert "\n" not in str(refused.value)


def test_mutated_calibrations_are_read_or_refused(tmp_path):
    kept = KEPT.to_dict()
    with nothing_executed(tmp_path):
        for rng in generators(41):
            scores = xr.Dataset(
                attrs=encode_attributes({"run": "r", "calibration": mutate_json(rng, kept)})
            )
            with one_line_errors():
                if found := stored(scores):
                    assert set(found.curves) == set(found.before)
