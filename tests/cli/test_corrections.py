"""Nights are withdrawn, with their scores and verdicts, and labels set, from the command line."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers import random_batch, write_run
from typer.testing import CliRunner

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import ArchiveError, DeepStreaksError, ReaderError
from deepstreaks_dask.readers.labelling import label_archive
from deepstreaks_dask.review.catalogue import Catalogue
from deepstreaks_dask.review.database import Review, archive_key, default_url
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import open_run


@pytest.fixture
def archive(tmp_path):
    """An archive of two nights of ten cutouts with scores."""
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    for k, night in enumerate((20260101, 20260102)):
        batch = random_batch(10, start=100 * k)
        batch.columns["night"][:] = night
        batch.columns["source"] = np.array([f"{night}/{k}.jpg" for k in range(10)], object)
        append_batches(url, [batch])
    write_run(url, "default", ["rb_vgg6"], np.full((20, 1), 0.9, np.float32))
    return str(url)


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def told(*arguments):
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout)


def test_a_night_is_withdrawn_and_brought_back(archive):
    first = told("archive", "retract", archive, 20260101)
    assert (first["rows"], first["total"], first["runs"]) == (10, 10, [])
    assert told("archive", "summary", archive)["retracted"] == 10
    assert told("decide", archive)["plausible"] == 10
    assert told("archive", "verify", archive)["ok"]
    back = told("archive", "retract", archive, 20260101, "--undo")
    assert (back["rows"], back["total"]) == (10, 20)
    removed = told("archive", "retract", archive, 20260101, "--remove-scores")
    assert removed["runs"] == ["default"]
    assert "10" in run("archive", "summary", archive).stdout
    both = run("archive", "retract", archive, 20260101, "--undo", "--remove-scores")
    assert "give it alone" in str(both.exception)
    unknown = run("archive", "retract", archive, 20250101)
    assert isinstance(unknown.exception, ArchiveError)


def test_verdicts_are_kept_as_history_or_undone(archive, cheap_passwords):
    review, key = Review(default_url(archive)), archive_key(archive)
    review.accounts.add_user("ada", "a long password")
    ids = open_archive(archive)["id"].values
    for name in (str(ids[0]), str(ids[15])):
        review.verdicts.judge(key, name, "ada", verdict="keep")
    told("archive", "retract", archive, 20260101)
    assert len(review.verdicts.current(key)) == 2
    assert told("evaluate", archive, "--verdicts")["cutouts"] == 10
    assert told("archive", "retract", archive, 20260101, "--remove-verdicts")["verdicts"] == 1
    assert [one.cutout for one in review.verdicts.current(key)] == [str(ids[15])]


def test_the_review_leaves_withdrawn_rows_out_and_shows_the_right_pixels(archive):
    before = open_archive(archive)["cutouts"].values
    told("archive", "retract", archive, 20260101)
    scores = open_run(archive, cache=True)
    decision = Decision({}, 0.5)
    catalogue = Catalogue(decision.apply(scores), decision)
    assert catalogue.rows == 10
    np.testing.assert_array_equal(catalogue.pixels(3), before[13])
    assert "stored_row" not in catalogue


def test_labels_are_set_from_a_table(archive, tmp_path):
    table = tmp_path / "later.csv"
    table.write_text("file,class\n20260101/0.jpg,1\n.\\20260101\\1.jpg,0\nnone.jpg,0\n")
    options = ("archive", "label", archive, table, "--columns", "label_kd=class")
    done = told(*options)
    assert (done["given"], done["matched"], done["unmatched"]) == (3, 2, ["none.jpg"])
    assert done["changed"] == {"label_kd": 2}
    assert open_archive(archive)["label_kd"].values[:3].tolist() == [1, 0, -1]
    assert "label_kd changed" in run(*options).stdout


def test_labels_go_by_id_before_files(archive, tmp_path):
    ids = open_archive(archive)["id"].values
    table = tmp_path / "later.parquet"
    pd.DataFrame({"id": ids[:2], "rb": [1, 0], "sl": [0, None]}).to_parquet(table)
    done = label_archive(archive, table)
    assert done.changed == {"label_rb": 2, "label_sl": 1}


@pytest.mark.parametrize(
    ("text", "words"), [("id,ra\na,1\n", "has no labels"), ("rb\n1\n", "nor 'file'")]
)
def test_tables_without_labels_or_names_are_refused(archive, tmp_path, text, words):
    table = tmp_path / "wrong.csv"
    table.write_text(text)
    with pytest.raises(ReaderError, match=words):
        label_archive(archive, table)
    assert isinstance(
        run("archive", "label", archive, tmp_path / "none.csv").exception, DeepStreaksError
    )
