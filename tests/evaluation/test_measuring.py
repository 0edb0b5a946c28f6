"""From an archive to its tables: a forest trained, its run measured, exposures compared; and input that is wrong."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.sequences import read_objects
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.exposure_check import compare_exposures, look_at
from deepstreaks_dask.models.sequence import forest
from deepstreaks_dask.models.sequence.rcnn import Rcnn
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring.runs import Run
from deepstreaks_dask.simulation.sequences import LAYOUT, simulate_sequences


def command(*arguments):
    return CliRunner().invoke(app, ["sequences", *map(str, arguments)])


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """An archive of a simulation, a zoo with a forest that was trained on it, and the run of this forest."""
    folder = tmp_path_factory.mktemp("measured")
    archive, zoo = str(folder / "objects.zarr"), str(folder / "zoo")
    create_archive(archive, **LAYOUT)
    append_batches(archive, simulate_sequences(98, "hits", "rcnn", seed=4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forest, "TREE_COUNT", 30)
        done = command(
            "train", archive, "--architecture", "forest", "--family", "hits", "--zoo", zoo,
            "--out", folder / "training", "--json",
        )  # fmt: skip
    assert done.exit_code == 0, done.output
    card = Zoo(zoo).card("hits_forest")
    dataset = open_archive(archive)
    member = {"name": card.name, "version": card.version, "sha256": card.sha256}
    stored = Run.create(
        archive, "default", [{**member, "family": "hits", "threshold": 0.5}], 98,
        dataset.attrs["shard"], classes=card.classes, zoo=zoo,
    )  # fmt: skip
    objects = read_objects(archive, 0, 98).sequences
    stored.scores[:, 0] = Zoo(zoo).load_classifier(card.ref).predict(objects)
    return archive, folder


def test_a_forest_is_a_member_like_the_others(measured):
    archive, folder = measured
    options = ["--held-out", folder / "training", "--zoo", folder / "zoo", "--json"]
    done = command("evaluate", archive, *options)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    card = Zoo(folder / "zoo").card("hits_forest")
    member = found["members"]["hits_forest"]
    # the campaign's scores say of the test objects what the training said
    assert member["recall"]["value"] == pytest.approx(card.metrics["recall"], abs=1e-3)
    assert member["f1"]["value"] == pytest.approx(card.metrics["f1"], abs=1e-3)
    assert found["simulated"] == found["objects"] < 40
    assert found["accuracy_by_epochs"] == {}  # a forest sees whole light curves
    assert card.architecture == "forest"
    assert not any("--held-out" in words for words in found["notes"])


def test_the_report_has_the_tables_and_says_what_is_simulated(measured, tmp_path):
    archive, _ = measured
    page = tmp_path / "report.html"
    done = command("evaluate", archive, "-o", page)
    assert done.exit_code == 0, done.output
    line = next(line for line in done.stdout.splitlines() if "F1 of taonet " in line)
    words = " ".join(line.replace("│", " ").split())
    assert "not measured 0.546 ± 0.133" in words
    assert "--held-out" in done.stdout
    html = page.read_text()
    for words in (
        "simulated",
        "Confusion of hits_forest",
        "fine-tuned with 10 a class",
        "hits_forest@1",
    ):
        assert words in html
    assert "http://" not in html.split("<main>")[1].split("<script")[0]


def test_exposures_measure_what_their_log_tells(measured, tmp_path):
    archive, _ = measured
    shifted = tmp_path / "shifted.zarr"
    create_archive(shifted, **LAYOUT)
    append_batches(shifted, simulate_sequences(28, "hits-shifted", "rcnn", seed=4))
    table = compare_exposures([look_at(archive), look_at(shifted)]).table.set_index(
        ["quantity", "archive", "by"]
    )
    for name in ("objects.zarr", "shifted.zarr"):
        of = {by: table.loc[("noise", name, by)] for by in ("measured", "told")}
        assert of["measured"]["median"] == pytest.approx(of["told"]["median"], rel=0.05)
        of = {by: table.loc[("snr", name, by)] for by in ("measured", "told")}
        assert of["measured"]["median"] == pytest.approx(of["told"]["median"], abs=0.25)
        assert table.loc[("fwhm", name, "measured")]["stamps"] > 4
    told = [
        table.loc[("fwhm", name, "told")]["median"] for name in ("objects.zarr", "shifted.zarr")
    ]
    assert told[1] / told[0] == pytest.approx(1.3, rel=0.1)  # the shift in seeing
    assert table.loc[("fwhm", "shifted.zarr", "told")]["distance"] > 0.3
    page = tmp_path / "exposures.html"
    done = command("compare", archive, shifted, "-o", page, "--json")
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["exposures"]) == 12
    assert "no real stamps" in page.read_text()


def test_what_cannot_be_measured_is_an_error_of_one_line(measured, tmp_path):
    archive, folder = measured
    cutouts = tmp_path / "cutouts.zarr"
    create_archive(cutouts)
    for arguments, words in (
        (["evaluate", archive, "--run", "other"], "no run 'other'"),
        (["evaluate", archive, "--held-out", tmp_path], "name the folder"),
        (["evaluate", archive, "--folds", folder], "name the folder"),
        (["evaluate", archive, "--zoo", tmp_path / "none"], "name the --zoo that has them"),
        (["compare", cutouts, "-o", tmp_path / "x.html"], "no sequences"),
        (["compare", tmp_path / "gone.zarr"], "no archive"),
    ):
        done = command(*arguments)
        assert isinstance(done.exception, DeepStreaksError), done.output
        assert words in str(done.exception)
    assert not (tmp_path / "x.html").exists()


def _batch():
    return next(iter(simulate_sequences(6, "hits", "rcnn", seed=8)))


def _one(batch, row):
    start = int(batch.counts[:row].sum())
    return slice(start, start + int(batch.counts[row]))


def _unsorted(batch):
    rows = _one(batch, 2)
    batch.epochs["mjd"][rows] = batch.epochs["mjd"][rows][::-1]


def _untimed(batch):
    batch.epochs["mjd"][_one(batch, 2).start] = np.nan


def _blank(batch):
    batch.cutouts[_one(batch, 2)] = np.nan
    batch.cutouts[_one(batch, 2).start] = np.inf


def _endless(batch):
    batch.epochs["mjd"][_one(batch, 2).start] = np.inf


def _empty(batch):
    rows = _one(batch, 2)
    keep = np.ones(len(batch.cutouts), bool)
    keep[rows] = False
    batch.cutouts = batch.cutouts[keep]
    batch.epochs = {name: values[keep] for name, values in batch.epochs.items()}
    batch.counts = np.where(np.arange(6) == 2, 0, batch.counts)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_unsorted, "unsorted times"),
        (_untimed, "no time"),
        (_endless, "no time"),
        (_blank, "blank"),
        (_empty, "no epochs"),
    ],
)
def test_objects_that_cannot_be_used_are_quarantined_and_the_others_scored(
    measured, tmp_path, spoil, reason
):
    batch = _batch()
    spoil(batch)
    archive = str(tmp_path / "spoilt.zarr")
    create_archive(archive, **LAYOUT)
    summary = append_batches(archive, [batch])
    assert (summary.appended, summary.quarantined) == (5, 1)
    assert any(reason.split()[-1] in why for why in summary.reasons), summary.reasons
    member = Zoo(measured[1] / "zoo").load_classifier("hits_forest")
    found = read_objects(archive, 0, 5)
    assert np.isfinite(member.predict(found.sequences)).all()


def test_stamps_without_numbers_are_missing_epochs(measured, tmp_path):
    batch = _batch()
    batch.cutouts[_one(batch, 3).start] = np.nan
    batch.cutouts[_one(batch, 4), :, :2] = np.inf
    archive = str(tmp_path / "blank.zarr")
    create_archive(archive, **LAYOUT)
    assert append_batches(archive, [batch]).appended == 6
    found = read_objects(archive, 0, 6)
    assert found.failures == ()
    assert found.sequences.counts[3] == batch.counts[3] - 1
    member = Zoo(measured[1] / "zoo").load_classifier("hits_forest")
    assert np.isfinite(member.predict(found.sequences)).all()


def test_what_is_odd_but_known_is_classified(measured, tmp_path):
    """Equal times, and exposures of which nothing or nonsense is told."""
    batch = _batch()
    batch.epochs["mjd"][_one(batch, 0)] = batch.epochs["mjd"][0]
    for name, value in (("zero_point", np.inf), ("fwhm", -1), ("sky", 1e300), ("gain", 0)):
        batch.epochs[name] = batch.epochs[name].astype(float)
        batch.epochs[name][_one(batch, 1)] = value
        batch.epochs[name][_one(batch, 2)] = np.nan
    archive = str(tmp_path / "odd.zarr")
    create_archive(archive, **LAYOUT)
    assert append_batches(archive, [batch]).appended == 6
    found = read_objects(archive, 0, 6).sequences
    for member in (Zoo(measured[1] / "zoo").load_classifier("hits_forest"), Rcnn(("a", "b"))):
        scores = member.predict(found)
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-3)


def test_stamps_of_another_size_are_refused(tmp_path):
    batch = _batch()
    batch.cutouts = batch.cutouts[:, :20, :20]
    archive = str(tmp_path / "small.zarr")
    create_archive(archive, **LAYOUT)
    with pytest.raises(DeepStreaksError, match="choose an archive made for them"):
        append_batches(archive, [batch])
