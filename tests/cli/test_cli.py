"""The command line as a person and as a machine meet it."""

import json
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
from astropy.io import fits

from deepstreaks_dask.cli.main import main

COMMANDS = [
    *("simulate", "ingest", "train", "train-all", "sweep", "score", "decide", "evaluate"),
    *("calibrate", "inject", "completeness", "queue", "report", "quickstart"),
]


def run(*arguments, code=0):
    """Run a command as a process of its own."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from deepstreaks_dask.cli.main import main; main()",
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def say(monkeypatch, capfd, *arguments, code=0):
    """Run a command that computes little in this process, which has imported everything: give its output and errors."""
    monkeypatch.setenv("DEEPSTREAKS_DEBUG", "1")  # this process keeps its own way to warn
    monkeypatch.setattr(sys, "argv", ["deepstreaks", *map(str, arguments)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capfd.readouterr()
    assert (ended.value.code or 0) == code, err
    return err if code else out


@pytest.mark.parametrize("command", [[c] for c in COMMANDS] + [["models", "list"]])
def test_help_has_an_example(command, monkeypatch, capfd):
    assert "Example: deepstreaks" in say(monkeypatch, capfd, *command, "--help")


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


def test_quickstart_then_the_rest(tmp_path, client, monkeypatch, capfd):
    """The newcomer's path, at a small size, with the shipped weights."""
    here = partial(say, monkeypatch, capfd)
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
    running = ["--scheduler", client.scheduler.address, "--json"]
    again = json.loads(here("score", archive, *running))
    assert again["scored"] == 120
    cheap = json.loads(here("score", archive, "--run", "cheap", "--decide", *running))
    assert cheap["scored"] == 120
    assert 120 <= cheap["looks"] < 120 * 3  # the order is that of the scores that are there
    listed = [
        json.loads(here("decide", archive, "--run", name, "--json"))["plausible"]
        for name in ("default", "cheap")
    ]
    assert listed[0] == listed[1] > 0
    assert "with --decide" in here("score", archive, "-t", "kd=0.9", code=1)
    loose = json.loads(here("decide", archive, "-t", "rb=0", "-t", "sl=0", "-t", "kd=0", "--json"))
    assert loose["plausible"] == 120
    strict = json.loads(here("decide", archive, "-t", "kd=1", "--json"))
    assert strict["plausible"] < loose["plausible"]
    figures = json.loads(here("evaluate", archive, "--json"))
    assert figures["joint"]["tp"] == result["joint"]["tp"]
    assert "kd=0.9" in here("decide", archive, "-t", "kd=high", code=1)
    counted = json.loads(here("archive", "summary", archive, "--json"))
    assert counted["runs"] == ["cheap", "default"]
    some = json.loads(here("decide", archive, "--where", 'kind == "nea"', "--json"))
    assert {row["kind"] for row in some["candidates"]} == {"nea"}
    assert "did you mean 'kind'" in here("decide", archive, "--where", "kid == 1", code=1)
    table = tmp_path / "candidates.csv"
    here("decide", archive, "-o", table)
    assert len(table.read_text().splitlines()) == result["plausible"] + 1
    assert "submitter" in here("decide", archive, "-o", tmp_path / "c.psv", code=1)
    (tmp_path / "ades.toml").write_text('submitter = "J. Doe"')
    options = ["-o", tmp_path / "c.psv", "--ades", tmp_path / "ades.toml"]
    assert f"{result['plausible']} simulated" in here("decide", archive, *options, code=1)
