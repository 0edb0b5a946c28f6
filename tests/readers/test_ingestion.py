"""What ``ingest`` does with tables, labels, repetitions and refused inputs."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers import random_batch
from PIL import Image
from typer.testing import CliRunner

from deepstreaks_dask.archive.append import Remark
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.ingests import ingest_reports
from deepstreaks_dask.archive.store import quarantine
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers import ingestion
from deepstreaks_dask.readers.ingestion import ingest
from deepstreaks_dask.simulation.nights import Night, write_images


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A folder of eight cutouts, and its table."""
    folder = tmp_path_factory.mktemp("night")
    table = write_images(folder, Night.draw(20260101, 5), 8)
    return folder / "20260101", table


def test_ingest_reports_what_was_added_by_night_and_what_was_there(night, tmp_path):
    folder, table = night
    report = ingest(folder, tmp_path / "a.zarr", table=table)
    assert (report.inputs, report.appended, report.already_present) == (8, 8, 0)
    assert report.nights == {20260101: 8}
    assert report.to_dict()["total"] == 8
    again = ingest(str(folder), str(tmp_path / "a.zarr"), table=str(table))
    assert (again.appended, again.already_present, again.nights, again.total) == (0, 8, {}, 8)


def test_columns_are_renamed_and_labels_taken_from_columns_and_ids(night, tmp_path):
    folder, table = night
    frame = pd.read_csv(table)
    renamed = frame.drop(columns=["label_rb", "label_kd"]).rename(columns={"ra": "RAJ2000"})
    renamed["real"] = 1
    renamed.to_csv(tmp_path / "theirs.csv", index=False)
    first = frame["id"][0]
    ingest(
        folder,
        tmp_path / "a.zarr",
        table=tmp_path / "theirs.csv",
        columns={"RAJ2000": "ra"},
        labels={"rb": "real", "kd": {first: 0}},
    )
    rows = open_archive(tmp_path / "a.zarr")
    order = pd.Index(rows["id"].values).get_indexer(frame["id"])
    np.testing.assert_allclose(rows["ra"].values[order], frame["ra"])
    assert (rows["label_rb"].values == 1).all()
    assert rows["label_kd"].values[order].tolist() == [0, *[-1] * 7]


def test_a_table_read_afterwards_has_its_own_names(night, tmp_path):
    folder, table = night
    with pytest.raises(ReaderError, match="has no column 'RA'"):
        ingest(folder, tmp_path / "a.zarr", table=table, columns={"RA": "ra"})
    assert ingest(folder, tmp_path / "a.zarr", table=table).appended == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"columns": {"x": "ra"}}, "name the table"),
        ({"labels": {"rb": "real"}}, "name the table"),
        ({"labels": {"rbs": {"x": 1}}}, "did you mean"),
        ({"labels": {"rb": {"x": 2}}}, "give 1, 0, or -1"),
        ({"labels": {"rb": {"nobody": 1}}}, "match no cutout"),
        ({"reader": "jpegs"}, "no reader 'jpegs'"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_appended(night, tmp_path, options, words):
    with pytest.raises(ReaderError, match=words):
        ingest(night[0], tmp_path / "a.zarr", **options)
    assert not (tmp_path / "a.zarr").exists()


@pytest.fixture
def mixed(night, tmp_path):
    """A folder without a night of three pictures and an empty file."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in sorted(night[0].iterdir())[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "empty.jpg").touch()
    return folder


def contents(folder):
    """Return all files of a folder with their bytes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_strict_writes_nothing_where_an_input_is_refused(mixed, night, tmp_path):
    with pytest.raises(
        ReaderError, match=r"refused as empty \(1\): empty\.jpg.*nothing was appended"
    ):
        ingest(mixed, tmp_path / "a.zarr", strict=True)
    assert not (tmp_path / "a.zarr").exists()
    ingest(night[0], tmp_path / "b.zarr")
    before = contents(tmp_path / "b.zarr")
    with pytest.raises(ReaderError, match="refused as empty"):
        ingest(mixed, tmp_path / "b.zarr", strict=True)
    assert contents(tmp_path / "b.zarr") == before
    report = ingest(mixed, tmp_path / "a.zarr", night=20260102)
    assert (report.appended, report.quarantined, sum(report.reasons.values())) == (3, 1, 1)
    assert len(quarantine(tmp_path / "a.zarr")) == 1
    assert "1 refused" in repr(report)


class Doubtful:
    """A reader that remarks on each of its inputs."""

    name = "doubtful"

    def __init__(self, batches=2):
        self.batches = batches

    def count(self, path):
        return 3 * self.batches

    def read(self, path, options):
        for k in range(self.batches):
            batch = random_batch(3, start=3 * k)
            batch.remarks += [Remark("filter not understood", f"{k}.fits", "SDSS  q")] * 3
            batch.remarks.append(Remark("no night known", f"{k}.fits"))
            yield batch


@pytest.fixture
def doubtful(monkeypatch):
    monkeypatch.setattr(ingestion, "find_reader", lambda source, name: Doubtful())


def test_what_was_not_understood_is_counted_and_kept(doubtful, tmp_path):
    archive = tmp_path / "a.zarr"
    report = ingest(tmp_path, archive)
    assert [(one.what, one.count) for one in report.remarks] == [
        ("filter not understood", 6),
        ("no night known", 2),
    ]
    assert report.remarks[0].examples == (("0.fits", "SDSS q"),) * 3
    assert "8 remarks" in repr(report)
    assert report.columns == ("id", "night")
    kept = ingest_reports(archive)
    assert kept == [json.loads(json.dumps(report.to_dict()))]
    ingest(tmp_path, archive)
    assert len(ingest_reports(archive)) == 2, "the remarks are told again"


def test_strict_makes_each_remark_an_error(doubtful, tmp_path):
    words = (
        r"filter not understood \(6\): 0\.fits: SDSS q; no night known \(2\): 0\.fits; nothing was"
    )
    with pytest.raises(ReaderError, match=words):
        ingest(tmp_path, tmp_path / "a.zarr", strict=True)
    assert not (tmp_path / "a.zarr").exists()


def test_the_command_line_shows_the_report(mixed, tmp_path):
    archive = str(tmp_path / "a.zarr")
    refused = CliRunner().invoke(app, ["ingest", str(mixed), archive, "--strict"])
    assert isinstance(refused.exception, ReaderError)
    done = CliRunner().invoke(app, ["ingest", str(mixed), archive])
    assert done.exit_code == 0, done.exception
    assert "refused: empty" in done.stdout
    assert "rows added" in done.stdout
    later = CliRunner().invoke(app, ["archive", "ingests", archive])
    assert str(mixed) in later.stdout
    told = json.loads(CliRunner().invoke(app, ["archive", "ingests", archive, "--json"]).stdout)
    assert told[0]["reasons"] == {"empty": 1}


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, OSError("the disk is full"), ReaderError("no")]
)
def test_an_ingest_that_ends_early_leaves_no_archive(monkeypatch, tmp_path, error):
    class Ending(Doubtful):
        def read(self, path, options):
            yield next(super().read(path, options))
            raise error

    monkeypatch.setattr(ingestion, "find_reader", lambda source, name: Ending())
    with pytest.raises(BaseException, match=None if error is KeyboardInterrupt else str(error)):
        ingest(tmp_path, tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


def test_revised_pixels_replace_those_of_their_id(night, tmp_path):
    archive = tmp_path / "a.zarr"
    ingest(night[0], archive)
    folder = tmp_path / night[0].name
    folder.mkdir()
    changed = sorted(night[0].iterdir())[0]
    Image.fromarray(np.full((157, 157), 99, np.uint8)).save(folder / changed.name)
    assert ingest(folder, archive).reasons == {"duplicate": 1}
    done = CliRunner().invoke(app, ["ingest", str(folder), str(archive), "--replace", "--json"])
    told = json.loads(done.stdout)
    assert (told["appended"], told["replaced"], told["total"]) == (1, 1, 8)
    assert (open_archive(archive)["cutouts"][-1].values == 99).all()
    assert quarantine(archive)["reason"].tolist() == ["duplicate", "replaced"]


def test_the_table_for_notebooks_is_escaped(night, tmp_path):
    report = ingest(night[0], tmp_path / "<b>.zarr")
    html = report._repr_html_()
    assert "&lt;b&gt;.zarr" in html
    assert "<b>" not in html
