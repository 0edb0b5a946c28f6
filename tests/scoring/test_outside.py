"""What a campaign shows of itself without a terminal, before it, and after it."""

import json
import re

import pytest
from faulty import make_zoo, small_archive
from typer.testing import CliRunner

from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import CampaignError
from deepstreaks_dask.scoring import execution, worker
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.estimate import Measured, Prices, estimate_campaign
from deepstreaks_dask.scoring.plan import CampaignOptions, plan_campaign
from deepstreaks_dask.scoring.runs import list_runs, open_run
from deepstreaks_dask.scoring.worker import Outcome
from deepstreaks_dask.utils import progress


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return make_zoo(tmp_path_factory.mktemp("zoo") / "zoo", 1)


@pytest.fixture
def url(tmp_path):
    return small_archive(tmp_path / "small.zarr", 6)


def run(client, url, zoo, *options):
    where = ["--scheduler", client.scheduler.address, "--insecure"]
    arguments = ["score", url, "--zoo", zoo, "--families", "rb,kd", *where, *options]
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_lines_without_a_terminal(url, zoo, client, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.0)
    score(url, ensemble=Ensemble.from_zoo(zoo, ["rb", "kd"]), client=client)
    lines = capsys.readouterr().err.splitlines()
    beginning = [line for line in lines if line.endswith("cutouts, 1 worker")]
    assert beginning, lines
    assert beginning[0] == "score default: 0 of 379 cutouts, 1 worker"
    under_way = [line for line in lines if " left" in line]
    assert all(re.search(r"cutouts/s, \d:\d\d:\d\d left", line) for line in under_way)
    assert lines[-1].startswith("score default: 379 of 379 cutouts, ")


def test_quiet_and_verbose(url, zoo, client, tmp_path):
    report = tmp_path / "report.html"
    done = run(client, url, zoo, "--quiet", "--performance-report", report)
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    assert "scored: 379" in done.stdout
    assert "<html" in report.read_text()[:200].lower()
    done = run(client, url, zoo, "--verbose", "--run", "other")
    assert done.exit_code == 0
    assert "Campaign: run 'other' of " in done.stderr
    assert f"Dask's dashboard: {client.dashboard_link}" in done.stderr
    assert "  worker 0: 379 in all, " in done.stderr
    for options, why in (
        (["-q", "-v"], "give --verbose or --quiet"),
        (["--performance-report", "report.txt"], "ends in .html"),
        (["--performance-report", tmp_path / "no" / "report.html"], "there is no folder"),
        (["--gpu-hour", "2"], "prices are for --dry-run"),
    ):
        assert why in str(run(client, url, zoo, *options).exception)


def test_rates_list_the_slowest_first():
    rates = execution.WorkerRates()
    for k in range(25):
        rates.add(
            Outcome(100 * (k + 1), worker=f"w{k}", seconds=10.0, machine={"host": f"h{k % 3}"})
        )
    lines = str(rates).splitlines()
    assert lines[1].startswith("  worker w0: 100 in all, 10")
    assert len(lines) == 22
    assert lines[-1].startswith("  and 5 more, up to 2")
    assert [one["host"] for one in rates.new_machines()] == ["h0", "h1", "h2"]
    assert rates.new_machines() == []


def test_a_precision_that_is_slower_is_refused_before_anything_is_stored(
    url, zoo, client, monkeypatch
):
    families, took = Ensemble.from_zoo(zoo, ["rb", "kd"]), {"float32": 1e-3, "mixed_float16": 33e-3}
    monkeypatch.setattr(execution, "time_precision", _Says(took))
    half = CampaignOptions(precision="mixed_float16")
    with pytest.raises(
        CampaignError, match=r"mixed_float16 is 33 times slower .*--force-precision"
    ):
        score(url, ensemble=families, client=client, options=half, progress=False)
    assert list_runs(url) == []
    done = run(client, url, zoo, "--precision", "mixed_float16")
    assert "33 times slower" in str(done.exception)
    done = run(client, url, zoo, "--precision", "mixed_float16", "--force-precision", "--json")
    assert done.exit_code == 0, done.output
    assert open_run(url).attrs["dtype"] == "mixed_float16"
    # a run that exists was begun by somebody who knew
    assert run(client, url, zoo, "--precision", "mixed_float16").exit_code == 0
    took["mixed_float16"] = 0.9e-3
    score(url, ensemble=families, client=client, run="quick", options=half, progress=False)


class _Says:
    """A function of a worker that returns what was measured elsewhere."""

    __name__ = "says"

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, unit):
        assert unit.shards
        return self.answer


def test_precisions_are_timed_on_a_worker(url, zoo):
    members = Ensemble.from_zoo(zoo, ["rb", "kd"]).members
    unit = worker.Unit(
        str(url),
        "default",
        ((0, 64),),
        zoo,
        tuple((one.ref, one.sha256) for one in members),
        8,
        "mixed_bfloat16",
    )
    took = worker.time_precision(unit)
    assert set(took) == {"float32", "mixed_bfloat16"}
    assert all(0 < seconds < 10 for seconds in took.values())
    assert worker.time_precision(worker.replace(unit, url=str(url), shards=())) is None


@pytest.mark.parametrize("mode", ["all", "decide"])
def test_a_dry_run_stores_nothing_and_says_what_all_would_take(url, zoo, client, mode):
    before = {path: path.stat().st_mtime_ns for path in url.rglob("*")}
    options = ["--decide", "-t", "rb=0.5"] if mode == "decide" else []
    prices = [
        "--processor-hour",
        "3600",
        "--gb-read",
        "1e9",
        "--gb-written",
        "0",
        "--gpu-hour",
        "7",
    ]
    done = run(client, url, zoo, "--dry-run", "--json", *prices, *options)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert {path: path.stat().st_mtime_ns for path in url.rglob("*")} == before
    assert (said["cutouts"], said["workers"], said["gpu_hours"]) == (379, 1, 0)
    assert said["sample"] == 64
    assert said["seconds"] > 0
    assert said["processor_hours"] > 0
    pixels = sum(
        path.stat().st_size for path in (url / "cutouts" / "c").rglob("0") if path.is_file()
    )
    assert said["bytes_read"] == pytest.approx(pixels, rel=0.1)
    assert 0 < said["bytes_written"] < 379 * 2 * 4 * 1.5
    assert said["cost"] == pytest.approx(3600 * said["processor_hours"] + said["bytes_read"])
    done = run(client, url, zoo, "--dry-run", *options)
    assert done.stdout.startswith("379 cutouts are left; a sample of 64 was scored on 1 workers\n")
    assert "cost" not in done.stdout


def test_a_dry_run_of_what_is_done(url, zoo, client):
    families = Ensemble.from_zoo(zoo, ["rb"])
    score(url, ensemble=families, client=client, progress=False)
    estimate = estimate_campaign(plan_campaign(url, ensemble=families), client)
    assert (estimate.cutouts, estimate.seconds, estimate.cost) == (0, 0, None)


def test_hours_are_of_processors_or_cards():
    from deepstreaks_dask.scoring.estimate import _add_up

    card = Measured(128, 0.001, 0.002, 1000.0, 10.0, gpu=True)
    processor = Measured(128, 0.009, 0.018, 1000.0, 10.0, gpu=False)
    found = _add_up([card, processor], 1_000_000, Prices(gpu_hour=2.0, processor_hour=0.1))
    assert found.seconds == pytest.approx(900)
    assert found.gpu_hours == pytest.approx(0.25)
    assert found.processor_hours == pytest.approx(100_000 * 0.018 / 3600)
    assert found.cost == pytest.approx(0.25 * 2 + found.processor_hours * 0.1)
    assert found.bytes_read == 10**9
    assert "GPU-hours" in str(found)
