"""Injected streaks are as bright and long as said, and what is recovered is counted right."""

import json

import numpy as np
import pytest
from helpers import write_run
from typer.testing import CliRunner

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.provenance import simulated
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import ArchiveError, InjectionError
from deepstreaks_dask.evaluation.completeness import recovery
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import open_run
from deepstreaks_dask.simulation.camera import Conditions, Scene
from deepstreaks_dask.simulation.injection import (
    CONTROL_KIND,
    HostOptions,
    InjectionGrid,
    _smoothing,
    inject,
    paint,
)
from deepstreaks_dask.simulation.nights import simulate_nights
from deepstreaks_dask.simulation.streaks import add_asteroid


def test_an_asteroid_has_the_flux_and_length_that_was_asked_for():
    scene = Scene(Conditions(2.2, 500, 10, 20, 0, 0.1), 157, np.random.default_rng(0))
    truth = add_asteroid(scene, 40, 5000.0)
    assert scene.light.sum() == pytest.approx(5000, rel=1e-5)
    rows, columns = np.nonzero(scene.light > scene.light.max() / 4)
    assert np.hypot(np.ptp(rows), np.ptp(columns)) == pytest.approx(40, abs=6)
    assert truth.snr > 0
    empty = Scene(scene.conditions, 157, np.random.default_rng(0))
    add_asteroid(empty, 40, 0.0)
    assert not empty.light.any()


def test_paint_takes_away_the_grey_that_the_light_is_worth():
    rng = np.random.default_rng(1)
    noise = 24.0
    picture = np.clip(rng.normal(180, 10, (144, 144)), 0, 255).astype(np.uint8)
    flux = 8_000.0
    painted, snr = paint(picture, 30.0, flux, noise, 0.95, np.random.default_rng(2))
    darker = picture.astype(float) - painted
    assert painted.min() > 0
    # resizing has smoothed: 10 levels here are more on the detector
    assert 0.6 < _smoothing() < 0.95
    worth = flux * (144 / 157) ** 2 / noise * 10 / _smoothing()
    assert darker.sum() == pytest.approx(worth, rel=0.08)
    assert snr > 15
    faint, _ = paint(picture, 30.0, 1.0, noise, 0.95, np.random.default_rng(2))
    assert (faint != picture).mean() < 0.02


def test_a_mask_stays_a_mask():
    rng = np.random.default_rng(1)
    picture = np.clip(rng.normal(180, 10, (144, 144)), 0, 255).astype(np.uint8)
    picture[:, 60:] = 180
    painted, _ = paint(picture, 60.0, 50_000.0, 24.0, 0.95, np.random.default_rng(3))
    np.testing.assert_array_equal(painted[:, 66:], picture[:, 66:])


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    url = tmp_path_factory.mktemp("survey") / "survey.zarr"
    create_archive(url, shard=64)
    append_batches(url, simulate_nights(2, 40, seed=3))
    return url


@pytest.mark.parametrize("real", [True, False])
def test_an_archive_of_injected_streaks(survey, tmp_path, real):
    out = tmp_path / "injected.zarr"
    grid = InjectionGrid([15, 18.5], [8, 30], each=6)
    done = inject(survey if real else None, out, grid, seed=4, progress=False)
    assert done.total == 30
    dataset = open_archive(out)
    kinds = dataset["kind"].values.astype(object)
    assert (kinds == CONTROL_KIND).sum() == 6
    streaks = dataset.isel(cutout=kinds == "nea")
    cells = {*zip(streaks["mag"].values.tolist(), streaks["length"].values.tolist(), strict=True)}
    assert cells == {(15.0, 8.0), (15.0, 30.0), (18.5, 8.0), (18.5, 30.0)}
    assert (streaks["label_os"].values == 1).all()
    assert (dataset["label_rb"].values[kinds == CONTROL_KIND] == -1).all()
    assert simulated(dataset["kind"].values, dataset["source"].values).all()
    flux = streaks["flux"].values
    np.testing.assert_allclose(flux, 10 ** (0.4 * (29.5 - streaks["mag"].values)), rtol=1e-4)
    bright = streaks["snr"].values[streaks["mag"].values == 15]
    assert bright.min() > streaks["snr"].values[streaks["mag"].values > 18].max()
    if real:
        assert set(dataset["night"].values) == {20260101, 20260102}
    again = tmp_path / "again.zarr"
    inject(survey if real else None, again, grid, seed=4, progress=False)
    np.testing.assert_array_equal(
        open_archive(again)["digest"].values, open_archive(out)["digest"].values
    )


def test_recovery_is_counted_cell_by_cell(survey, tmp_path):
    out = tmp_path / "injected.zarr"
    inject(survey, out, InjectionGrid([15, 18], [10], each=8), progress=False)
    dataset = open_archive(out)
    mag = np.nan_to_num(dataset["mag"].values)
    scores = np.zeros((dataset.sizes["cutout"], 3), np.float32)
    scores[:, 0] = mag > 0
    scores[:, 1] = mag > 0
    scores[mag == 15, 2] = 1
    scores[np.flatnonzero(mag == 18)[:2], 2] = 1
    scores[np.flatnonzero(mag == 18)[2], 2] = np.nan
    write_run(out, "default", ["rb_vgg6", "sl_vgg6", "kd_vgg6"], scores)
    table = recovery(Decision().apply(open_run(out)))

    def row(which, mag):
        same = table["mag"].isna() if mag is None else table["mag"] == mag
        (found,) = table[(table["which"] == which) & same].to_dict("records")
        return found

    assert (row("decision", 15)["recovered"], row("decision", 15)["total"]) == (8, 8)
    assert (row("decision", 18)["recovered"], row("decision", 18)["total"]) == (2, 7)
    assert (row("kd", 18)["recovered"], row("kd", 18)["total"]) == (2, 7)
    assert row("rb", 18)["share"] == 1
    assert row("decision", 15)["low"] == pytest.approx(0.6756, abs=1e-3)
    assert (row("decision", None)["recovered"], row("decision", None)["total"]) == (0, 8)

    def run(*options):
        done = CliRunner().invoke(app, ["completeness", str(out), *map(str, options)])
        assert done.exit_code == 0, done.output
        return done.stdout

    rows = json.loads(run("--json"))["table"]
    assert len(rows) == len(table)
    run("-o", tmp_path / "map.html")
    page = (tmp_path / "map.html").read_text()
    assert "Recovered by the decision" in page
    assert "0.0000 [0.0000, 0.3244], 0 of 8" in page
    run("-o", tmp_path / "map.csv")
    assert (tmp_path / "map.csv").read_text().startswith("which,mag,length")


def test_mistakes_are_named(survey, tmp_path, archive):
    out = tmp_path / "o.zarr"
    with pytest.raises(InjectionError, match="1 to 144"):
        inject(survey, out, InjectionGrid([15], [500]))
    with pytest.raises(InjectionError, match="magnitudes"):
        inject(survey, out, InjectionGrid([], [5]))
    with pytest.raises(InjectionError, match="passes the filter"):
        inject(survey, out, InjectionGrid([15], [5]), hosts=HostOptions("night == 1"))
    assert not out.exists()
    with pytest.raises(ArchiveError, match="exists"):
        inject(survey, survey, InjectionGrid([15], [5]))
    create_archive(tmp_path / "small.zarr", shape=(24, 24))
    with pytest.raises(InjectionError, match="144 x 144"):
        inject(tmp_path / "small.zarr", out, InjectionGrid([15], [5]))
    write_run(archive, "default", ["rb_vgg6"], np.zeros((150, 1)))
    with pytest.raises(InjectionError, match="no injected"):
        recovery(Decision().apply(open_run(archive)))
    done = CliRunner().invoke(app, ["inject", str(survey), "--magnitudes", "faint"])
    assert "write numbers" in str(done.exception)
