"""Candidates come back from every format as they went in, and ADES says what is known and no more."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from astropy.table import Table
from astropy.time import Time
from export.official_ades import errors_of_xml, psv_to_xml
from helpers import random_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.export import ades
from deepstreaks_dask.export.candidates import (
    Submission,
    candidate_table,
    export_candidates,
    observations,
)
from deepstreaks_dask.scoring.decision import Decision

SUBMISSION = Submission(submitter="J. Doe", rmsRA=0.2, rmsDec=0.3)


@pytest.fixture
def decided(tmp_path):
    """Five cutouts, three of them plausible: whole, without a magnitude, without a time."""
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    known = {
        "jd": np.array([2458493.8, 2458493.8, 2458493.9, np.nan, 2458494.0]),
        "ra": np.array([10.0, 150.0, 359.9999999, 20.0, 30.0]),
        "dec": np.array([1.0, -20.5, 0.0, 5.0, 6.0]),
        "ra1": np.array([np.nan, 149.99, np.nan, np.nan, np.nan]),
        "dec1": np.array([np.nan, -20.51, np.nan, np.nan, np.nan]),
        "ra2": np.array([np.nan, 150.01, np.nan, np.nan, np.nan]),
        "dec2": np.array([np.nan, -20.49, np.nan, np.nan, np.nan]),
        "mag": np.array([17.0, 18.25, np.nan, 19.0, 20.0], np.float32),
        "snr": np.array([5, 20, np.nan, 0, 1], np.float32),
        "filter": np.array(["g", "r", "r", "i", ""], object),
    }
    append_batches(url, [random_batch(5, **known)])
    scores = np.array([[0.1, 0.9], [0.9, 0.8], [0.7, 0.6], [0.6, 0.6], [0.9, np.nan]], np.float32)
    dataset = open_archive(url).drop_vars("cutouts")
    dataset = dataset.assign(scores=(("cutout", "model"), scores))
    dataset = dataset.assign_coords(model=["rb_vgg6", "sl_vgg6"])
    dataset.attrs |= {
        "run": "default",
        "members": [
            {"name": "rb_vgg6", "version": "1", "sha256": "aa"},
            {"name": "sl_vgg6", "version": "2", "sha256": "bb"},
        ],
    }
    return Decision().apply(dataset)


def test_candidates_are_the_plausible(decided):
    frame = candidate_table(decided)
    plausible = decided["plausible"].values
    assert frame["id"].tolist() == decided["id"].values[plausible].tolist()
    assert len(frame) == 3
    np.testing.assert_allclose(frame["sl_vgg6"], [0.8, 0.6, 0.6])
    assert frame.attrs["networks"] == {"rb_vgg6@1": "aa", "sl_vgg6@2": "bb"}


READ = {
    ".csv": lambda path: pd.read_csv(path, keep_default_na=True),
    ".parquet": pd.read_parquet,
    ".ecsv": lambda path: Table.read(path, format="ascii.ecsv").to_pandas(),
    ".vot": lambda path: Table.read(path, format="votable").to_pandas(),
}


@pytest.mark.parametrize("suffix", READ)
def test_tables_come_back_as_they_went(decided, tmp_path, suffix):
    frame = candidate_table(decided)
    path = tmp_path / "new" / f"c{suffix}"
    assert export_candidates(frame, path).written == 3
    found = READ[suffix](path)
    assert list(found.columns) == list(frame.columns)
    for name in ("jd", "ra", "mag", "rb_vgg6"):
        np.testing.assert_allclose(found[name].astype(float), frame[name].astype(float))
    assert found["id"].tolist() == frame["id"].tolist()
    assert found["night"].tolist() == frame["night"].tolist()
    assert [f.name for f in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", READ)
def test_an_empty_table_is_one_too(decided, tmp_path, suffix):
    frame = candidate_table(decided).iloc[:0]
    path = tmp_path / f"c{suffix}"
    export_candidates(frame, path)
    found = READ[suffix](path)
    assert len(found) == 0
    assert list(found.columns) == list(frame.columns)


def test_units_and_where_it_came_from_are_told(decided, tmp_path):
    export_candidates(candidate_table(decided), tmp_path / "c.ecsv", decision=Decision({"rb": 0.7}))
    table = Table.read(tmp_path / "c.ecsv", format="ascii.ecsv")
    assert str(table["ra"].unit) == "deg"
    assert str(table["mag"].unit) == "mag"
    assert table.meta["run"] == "default"
    assert table.meta["networks"] == {"rb_vgg6@1": "aa", "sl_vgg6@2": "bb"}
    assert table.meta["thresholds"] == {"rb_vgg6": 0.7, "sl_vgg6": 0.5}
    assert "middle" in table["ra"].description


@pytest.mark.parametrize("suffix", [".psv", ".xml"])
def test_ades_is_valid_and_leaves_out_what_has_no_time(decided, tmp_path, suffix):
    path = tmp_path / f"c{suffix}"
    done = export_candidates(candidate_table(decided), path, submission=SUBMISSION)
    assert (done.written, done.left_out) == (2, {"no time": 1})
    document = path.read_bytes()
    assert errors_of_xml(document if suffix == ".xml" else psv_to_xml(document)) == []


def test_a_streak_is_one_observation_its_middle(decided):
    (first, second), _ = observations(candidate_table(decided), SUBMISSION)
    assert (first["ra"], first["dec"]) == ("150.000000", "-20.500000")
    assert first["obsTime"] == "2019-01-10T07:12:00.000Z"
    assert "ends 149.990000 -20.510000 and 150.010000 -20.490000" in first["remarks"]
    assert (first["mag"], first["band"], first["logSNR"]) == ("18.25", "r", "1.30")
    assert (first["rmsRA"], first["rmsDec"]) == ("0.200", "0.300")
    assert first["obsSubID"] == "c1"
    assert first["astCat"] == "Gaia1"
    assert second["ra"] == "0.000000"  # not 360
    assert not {"mag", "band", "logSNR"} & set(second)
    assert "ends" not in second["remarks"]


def test_tracklets_are_named_alike_each_time_and_apart(decided):
    frame = pd.concat([candidate_table(decided).iloc[:1]] * 5000, ignore_index=True)
    frame["id"] = [f"strkid{k}_pid1" for k in range(5000)]
    first = [record["trkSub"] for record in observations(frame, SUBMISSION)[0]]
    again = [record["trkSub"] for record in observations(frame[::-1], SUBMISSION)[0]]
    assert len(set(first)) == 5000
    assert first == again[::-1]


floats = st.one_of(st.floats(), st.floats(-400, 400), st.floats(2.4e6, 2.5e6))


@settings(max_examples=150, deadline=None)
@given(st.lists(floats, min_size=9, max_size=9), st.text(max_size=50), st.text(max_size=5))
def test_whatever_the_archive_holds_makes_valid_records(numbers, name, band):
    keys = ("jd", "ra", "dec", "ra1", "dec1", "ra2", "dec2", "mag", "snr")
    row = dict(zip(keys, numbers, strict=True)) | {
        "id": name or "x",
        "filter": band,
        "simulated": False,
    }
    records, left_out = observations(pd.DataFrame([row]), SUBMISSION)
    assert len(records) + sum(left_out.values()) == 1
    for record in records:
        assert ades.check_record(record) == []
        assert abs(Time(record["obsTime"][:-1], scale="utc").jd - row["jd"]) < 1e-7
        assert math.isclose(float(record["dec"]), row["dec"], abs_tol=1e-6)


def test_mistakes_are_named(decided, tmp_path):
    frame = candidate_table(decided)
    for output, submission, words in (
        ("c.txt", None, "ends in one of"),
        ("c.psv", None, "submitter"),
        ("c.xml", Submission(), "submitter"),
        ("c.psv", Submission(submitter="a|b"), "submitter.name"),
        ("c.psv", Submission(submitter="J. Doe", stn="Palomar"), "stn"),
        ("gopher://x/c.csv", None, "cannot write"),
    ):
        with pytest.raises(DeepStreaksError, match=words):
            export_candidates(
                frame, tmp_path / output if ":" not in output else output, submission=submission
            )
    with pytest.raises(DeepStreaksError, match="no time"):
        export_candidates(frame[frame["jd"].isna()], tmp_path / "c.psv", submission=SUBMISSION)
    assert not list(tmp_path.glob("c.*"))


def test_a_failed_write_leaves_the_old_file(decided, tmp_path, monkeypatch):
    path = tmp_path / "c.csv"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DeepStreaksError, match="No space left"):
        export_candidates(candidate_table(decided), path)
    assert path.read_text() == "old"
    assert [f.name for f in tmp_path.iterdir() if "c.csv" in f.name] == ["c.csv"]


def test_a_submission_is_read_from_toml(tmp_path):
    path = tmp_path / "ades.toml"
    path.write_text(
        'submitter = "J. Doe"\nmeasurers = ["A. B.", "C. D."]\nstn = "G96"\naperture = 2\nrmsRA = 1\n'
    )
    found = Submission.read(path)
    assert found.measurers == ("A. B.", "C. D.")
    assert dict(found.context)["telescope"][1] == ("aperture", "2")
    assert ades.check_context(found.context) == []
    for text, words in (
        ("submiter = 'J. Doe'", "submitter"),
        ("submitter = 5", "wrong type"),
        ("aperture = true", "wrong type"),
        ("submitter = ", "TOML"),
    ):
        path.write_text(text)
        with pytest.raises(DeepStreaksError, match=words):
            Submission.read(path)
    with pytest.raises(DeepStreaksError, match=r"cannot read .*none\.toml"):
        Submission.read(tmp_path / "none.toml")


def test_the_parquet_file_keeps_its_notes(decided, tmp_path):
    export_candidates(candidate_table(decided), tmp_path / "c.parquet", decision=Decision())
    assert pd.read_parquet(tmp_path / "c.parquet").attrs["thresholds"]["rb_vgg6"] == 0.5
    assert json.dumps(candidate_table(decided).attrs)


def test_scores_of_no_candidates(decided):
    none = decided.assign(plausible=xr.zeros_like(decided["plausible"]))
    assert candidate_table(none).empty


def test_what_is_simulated_is_called_so_and_never_reported(decided, tmp_path):
    source = decided["source"].values.copy()
    source[1] = "simulation, seed 1"
    frame = candidate_table(decided.assign_coords(source=("cutout", source)))
    assert frame["simulated"].tolist() == [True, False, False]
    done = export_candidates(frame, tmp_path / "c.psv", submission=SUBMISSION)
    assert (done.written, done.left_out) == (1, {"simulated": 1, "no time": 1})
    with pytest.raises(DeepStreaksError, match="1 simulated"):
        export_candidates(frame.iloc[:1], tmp_path / "d.psv", submission=SUBMISSION)
