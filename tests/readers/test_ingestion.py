"""What ``ingest`` does with tables, labels, repetitions and refused inputs."""

import numpy as np
import pandas as pd
import pytest

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.store import quarantine
from deepstreaks_dask.errors import ReaderError
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
    if (tmp_path / "a.zarr").exists():
        assert not open_archive(tmp_path / "a.zarr").sizes["cutout"]


def test_strict_appends_nothing_where_an_input_is_refused(night, tmp_path):
    folder = tmp_path / "20260102"
    folder.mkdir()
    for path in sorted(night[0].iterdir())[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "empty.jpg").touch()
    with pytest.raises(ReaderError, match=r"empty\.jpg was refused"):
        ingest(folder, tmp_path / "a.zarr", strict=True)
    assert not open_archive(tmp_path / "a.zarr").sizes["cutout"]
    report = ingest(folder, tmp_path / "a.zarr")
    assert (report.appended, report.quarantined, sum(report.reasons.values())) == (3, 1, 1)
    assert len(quarantine(tmp_path / "a.zarr")) == 1
    assert "1 refused" in repr(report)


def test_the_table_for_notebooks_is_escaped(night, tmp_path):
    report = ingest(night[0], tmp_path / "<b>.zarr")
    html = report._repr_html_()
    assert "&lt;b&gt;.zarr" in html
    assert "<b>" not in html
