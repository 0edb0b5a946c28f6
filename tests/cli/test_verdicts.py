"""What reviewers say, as the labels that rates are measured against."""

import json

import pytest
from helpers import write_run
from typer.testing import CliRunner

from deepstreaks_dask.cli import main as cli
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.review.database import Review, archive_key, default_url


@pytest.fixture
def scored(archive):
    """150 cutouts without labels: 100 are plausible to the networks."""
    write_run(
        archive, "default", ["rb_a", "sl_a", "kd_a"], [[0.9] * 3] * 100 + [[0.9, 0.9, 0.1]] * 50
    )
    return str(archive)


def invoke(*arguments):
    done = CliRunner().invoke(cli.app, [str(one) for one in arguments])
    if isinstance(done.exception, DeepStreaksError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("place", ["beside", "elsewhere"])
def test_rates_are_measured_against_verdicts(scored, tmp_path, cheap_passwords, place):
    url = default_url(scored) if place == "beside" else f"sqlite:///{tmp_path}/others.sqlite"
    where = [] if place == "beside" else ["--database", url]
    with pytest.raises(DeepStreaksError, match="nobody has judged"):
        invoke("evaluate", scored, "--verdicts", *where)
    review = Review(url)
    review.accounts.add_user("vera", "correct horse battery")
    for cutout, verdict in (("c0", "keep"), ("c1", "bogus"), ("c149", "bogus"), ("c148", "keep")):
        length = "short" if verdict == "keep" else ""
        review.verdicts.judge(archive_key(scored), cutout, "vera", verdict=verdict, length=length)
    assert json.loads(invoke("evaluate", scored, "--json"))["joint"]["tp"] == 0
    joint = json.loads(invoke("evaluate", scored, "--verdicts", *where, "--json"))["joint"]
    assert [joint[key] for key in ("tp", "fp", "tn", "fn")] == [1, 1, 1, 1]
    page = tmp_path / "report.html"
    invoke("report", scored, "-o", page, "--verdicts", *where)
    assert "What reviewers agree on of 4 cutouts" in page.read_text()
