"""Known objects are found by place and time, and counted with intervals."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers import random_batch, write_run
from typer.testing import CliRunner

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.evaluation.known_objects import completeness, read_known
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import open_run

JD = 2461041.8


@pytest.fixture
def survey(tmp_path):
    """Six cutouts at known places and times; 0 and 3 are plausible, 4 is not decided."""
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    place = {
        "ra": np.array([10, 10.001, 359.9999, 200, 50, 60.0]),
        "dec": np.array([0, 0, -5, 89.999, 20, 20.0]),
        "jd": np.array([JD, JD, JD, JD, JD, np.nan]),
    }
    append_batches(url, [random_batch(6, **place)])
    scores = np.zeros((6, 1), np.float32)
    scores[[0, 3], 0] = 1
    scores[4, 0] = np.nan
    write_run(url, "default", ["rb_vgg6"], scores)
    return url


def known(rows):
    return pd.DataFrame(rows, columns=["id", "jd", "ra", "dec"])


def test_what_matches_by_place_and_time(survey):
    decided = Decision().apply(open_run(survey))
    rows = [
        ("two near, one plausible", JD, 10.0009, 0.0),
        ("across zero", JD, 0.0001, -5.0),
        ("at the pole", JD, 20.0, 89.999),
        ("not decided", JD, 50.0, 20.0),
        ("too late", JD + 1, 10.0, 0.0),
        ("nowhere", JD, 100.0, 0.0),
        ("no time", JD, 60.0, 20.0),
    ]
    found = completeness(decided, known(rows), radius=10, seconds=60)
    table = found.table.set_index("id")
    assert table["cutout"].tolist() == ["c0", "c2", "c3", "c4", "", "", ""]
    assert table.loc["across zero", "separation"] == pytest.approx(0.72, abs=0.02)
    assert (found.cut_out.count, found.cut_out.total) == (4, 7)
    assert (found.plausible.count, found.plausible.total) == (2, 3)
    assert (found.recovered.count, found.recovered.total) == (2, 6)
    wide = completeness(decided, known(rows), radius=10, seconds=1.1 * 86400)
    assert wide.table.set_index("id").loc["too late", "plausible"]
    assert wide.table.set_index("id").loc["too late", "seconds"] == pytest.approx(-86400, abs=1)


def test_the_published_count_has_its_interval():
    from deepstreaks_dask.evaluation.metrics import rate

    assert str(rate(202, 210)) == "0.9619 [0.9266, 0.9806]"


def test_the_command_reads_a_table(survey, tmp_path):
    path = tmp_path / "known.csv"
    known([("a", JD, 10.0, 0.0), ("b", JD, 100.0, 0.0)]).to_csv(path, index=False)
    arguments = ["completeness", str(survey), "--known", str(path), "-o", str(tmp_path / "o.csv")]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["recovered"]["count"], result["recovered"]["total"]) == (1, 2)
    assert pd.read_csv(tmp_path / "o.csv")["plausible"].tolist() == [True, False]
    refused = CliRunner().invoke(app, [*arguments[:-1], "map.html"])
    assert "ends in .csv" in str(refused.exception)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("id,jd,ra\na,1,2\n", "no column 'dec'"),
        ("id,jd,ra,dec\na,1,2,95\n", "row 1"),
        ("id,jd,ra,dec\na,2460000,2,5\nb,,2,5\n", "row 2"),
    ],
)
def test_what_is_no_table_of_objects_is_named(tmp_path, rows, words):
    (tmp_path / "k.csv").write_text(rows)
    with pytest.raises(ReaderError, match=words):
        read_known(tmp_path / "k.csv")


def test_no_objects_and_no_cutouts_are_no_error(survey):
    decided = Decision().apply(open_run(survey))
    assert completeness(decided, known([])).recovered.total == 0
