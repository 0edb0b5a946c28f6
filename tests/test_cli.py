"""The command line as a person and as a machine meet it."""

import json
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from astropy.io import fits

COMMANDS = [
    *("simulate", "ingest", "train", "train-all", "sweep", "score", "decide", "evaluate"),
    *("calibrate", "inject", "completeness", "queue", "report", "quickstart"),
]


def run(*arguments, code=0):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from deepstreaks_dask.cli import main; main()",
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.parametrize("command", [[c] for c in COMMANDS] + [["models", "list"]])
def test_help_has_an_example(command):
    assert "Example: deepstreaks" in run(*command, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "nowhere.zarr"], "no archive at nowhere.zarr"),
        (["ingest", "nowhere", "a.zarr"], "nowhere does not exist"),
        (["models", "list", "--zoo", "gopher://x"], "gopher"),
    ],
)
def test_mistakes_are_one_line(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = run(*arguments, code=1).stderr
    assert words in error
    assert len(error.strip().splitlines()) == 1


class Resources(HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self):
        super().__init__()
        self.fetched = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "srcset") or (name == "href" and tag == "link"):
                self.fetched.append(value)


def test_dask_workers_read_in_silence(tmp_path):
    folder, archive = tmp_path / "20260101", tmp_path / "a.zarr"
    folder.mkdir()
    for k in range(3):
        image = np.random.default_rng(k).normal(100, 5, (157, 157)).astype(np.float32)
        header = fits.Header({"RADECSYS": "FK5", "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"})
        fits.PrimaryHDU(image, header).writeto(folder / f"c{k}.fits")
    done = run("ingest", folder, archive, "--workers", 1, "--json")
    assert json.loads(done.stdout)["appended"] == 3
    assert "Warning" not in done.stderr


def test_quickstart_removes_nothing_that_it_did_not_make(tmp_path):
    holiday = tmp_path / "images" / "holiday.jpg"
    holiday.parent.mkdir()
    holiday.touch()
    done = run("quickstart", "--folder", tmp_path, code=1)
    assert "holds something else" in done.stderr
    assert holiday.exists()


def test_quickstart_then_the_rest(tmp_path):
    """The newcomer's path, at a small size, with the shipped weights."""
    folder = tmp_path / "week"
    result = json.loads(
        run("quickstart", "--folder", folder, "--nights", 2, "--cutouts", 60, "--json").stdout
    )
    assert result["cutouts"] == 120
    assert result["quarantined"] == 2
    assert result["joint"]["tpr"]["value"] > 0.5
    assert result["joint"]["fpr"]["value"] < 0.2

    page = (folder / "report.html").read_text()
    parser = Resources()
    parser.feed(page)
    assert parser.fetched
    assert all(source.startswith("data:") for source in parser.fetched)
    assert "simulated" in page
    assert "cut_short_scimref.jpg" in page

    archive = folder / "week.zarr"
    again = json.loads(run("score", archive, "--json").stdout)
    assert again["scored"] == 120
    cheap = json.loads(run("score", archive, "--run", "cheap", "--decide", "--json").stdout)
    assert cheap["scored"] == 120
    assert 120 <= cheap["looks"] < 120 * 3  # the order is that of the scores that are there
    listed = [
        json.loads(run("decide", archive, "--run", name, "--json").stdout)["plausible"]
        for name in ("default", "cheap")
    ]
    assert listed[0] == listed[1] > 0
    assert "with --decide" in run("score", archive, "-t", "kd=0.9", code=1).stderr
    loose = json.loads(
        run("decide", archive, "-t", "rb=0", "-t", "sl=0", "-t", "kd=0", "--json").stdout
    )
    assert loose["plausible"] == 120
    strict = json.loads(run("decide", archive, "-t", "kd=1", "--json").stdout)
    assert strict["plausible"] < loose["plausible"]
    figures = json.loads(run("evaluate", archive, "--json").stdout)
    assert figures["joint"]["tp"] == result["joint"]["tp"]
    assert "kd=0.9" in run("decide", archive, "-t", "kd=high", code=1).stderr
    counted = json.loads(run("archive", "summary", archive, "--json").stdout)
    assert counted["runs"] == ["cheap", "default"]
    some = json.loads(run("decide", archive, "--where", 'kind == "nea"', "--json").stdout)
    assert {row["kind"] for row in some["candidates"]} == {"nea"}
    assert "did you mean 'kind'" in run("decide", archive, "--where", "kid == 1", code=1).stderr
    table = tmp_path / "candidates.csv"
    run("decide", archive, "-o", table)
    assert len(table.read_text().splitlines()) == result["plausible"] + 1
    assert "submitter" in run("decide", archive, "-o", tmp_path / "c.psv", code=1).stderr
    (tmp_path / "ades.toml").write_text('submitter = "J. Doe"')
    options = ["-o", tmp_path / "c.psv", "--ades", tmp_path / "ades.toml"]
    assert f"{result['plausible']} simulated" in run("decide", archive, *options, code=1).stderr
