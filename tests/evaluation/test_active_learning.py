"""Agreement as columns, and the queue of what to look at."""

import json

import numpy as np
import pytest
from helpers import random_batch, write_run
from typer.testing import CliRunner

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.active_learning import queue, with_agreement
from deepstreaks_dask.review.database import Review, archive_key, default_url
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import open_run

MEMBERS = ["rb_vgg6", "rb_resnet50", "sl_vgg6", "kd_vgg6", "os_vgg6"]
SCORES = np.array(
    [
        [0.5, 0.5, 1, 1, 0],
        [0.9, 0.1, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0.6, 1, 0.5],
        [np.nan, 0.2, 1, 1, 0],
        [np.nan, np.nan, np.nan, np.nan, np.nan],
        [0.5, 0.5, 1, 1, 0],
    ],
    np.float32,
)


@pytest.fixture
def survey(tmp_path):
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    append_batches(url, [random_batch(7, label_os=np.array([-1] * 6 + [1], np.int8))])
    write_run(url, "default", MEMBERS, SCORES)
    return url


def test_columns_are_what_they_are_by_hand(survey):
    decision = Decision({"sl": 0.7})
    decided = with_agreement(decision.apply(open_run(survey)), decision)
    np.testing.assert_allclose(decided["rb_spread"][:5], [0, 0.8, 0, 0, np.nan], atol=1e-6)
    assert np.isnan(decided["sl_spread"]).all()
    np.testing.assert_allclose(decided["rb_entropy"][:3], [1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(decided["spread"][:4], [0, 0.8, 0, 0], atol=1e-6)
    # os does not decide; the mean of one looker is its own score
    expected = [1, 1, 0, 0.97095, 0.72193, np.nan]
    np.testing.assert_allclose(decided["entropy"][:6], expected, atol=1e-4)
    np.testing.assert_allclose(decided["margin"][:4], [0, 0.3, 0.3, 0.1], atol=1e-6)


def test_the_queue_begins_with_what_would_teach_most(survey):
    decision = Decision()
    decided = with_agreement(decision.apply(open_run(survey)), decision)
    assert queue(decided, decision)["id"].tolist() == ["c0", "c1", "c3", "c4", "c2"]
    assert queue(decided, decision, by="spread")["id"].tolist()[0] == "c1"
    assert queue(decided, decision, by="margin", most=2)["id"].tolist() == ["c0", "c3"]
    some = queue(decided, decision, passing=np.arange(7) > 2)
    assert some["id"].tolist() == ["c3", "c4"]
    with pytest.raises(DeepStreaksError, match="no order 'age'"):
        queue(decided, decision, by="age")
    alone = decision.apply(open_run(survey).isel(model=[1, 2, 3]))
    alone = with_agreement(alone, decision)
    with pytest.raises(DeepStreaksError, match="two members"):
        queue(alone, decision, by="spread")


def test_filters_know_the_columns(survey, tmp_path):
    def run(*arguments):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    rows = json.loads(run("decide", survey, "--where", "rb_spread > 0.5", "--json"))
    assert [row["id"] for row in rows["candidates"]] == ["c1"]
    out = tmp_path / "q.csv"
    options = ["--by", "spread", "--where", "entropy > 0.9", "-o", out, "--json"]
    listed = json.loads(run("queue", survey, *options))
    assert [row["id"] for row in listed] == ["c1", "c0", "c3"]
    assert out.read_text().splitlines()[1].startswith("c1,")


def test_what_somebody_judged_is_out_of_the_queue(survey, tmp_path):
    review = Review(default_url(survey))
    review.accounts.add_user("anna", "correct horse battery", "reviewer")
    review.verdicts.judge(archive_key(survey), "c1", "anna", verdict="unsure")
    review.verdicts.judge(archive_key("elsewhere"), "c0", "anna", verdict="keep")
    for options in ([], ["--database", default_url(survey)]):
        done = CliRunner().invoke(app, ["queue", str(survey), "--json", *options])
        assert done.exit_code == 0, done.output
        assert [row["id"] for row in json.loads(done.stdout)] == ["c0", "c3", "c4", "c2"]
