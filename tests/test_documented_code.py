"""Every code block of the README and the documentation is run, or has a reason not to be."""

import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer
import yaml
from dask.distributed import Client
from typer.testing import CliRunner

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.scoring import cluster
from deepstreaks_dask.simulation.nights import Night, simulate_nights, write_images
from deepstreaks_dask.simulation.sequences import LAYOUT, simulate_sequences

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for folder in ("docs", "cluster")
    for path in (ROOT / folder).rglob("*.md")
    if "site" not in path.relative_to(ROOT).parts
)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
CARDS = [ROOT / "deepstreaks_dask" / "models" / "weights" / "README.md"]

PARSED = {
    "train ": "the published recipe takes hours; tests/training runs shorter ones",
    "train-all": "nine trainings; tests/training runs smaller ones",
    "sweep": "twenty trainings; tests/training runs fewer",
    "calibrate": "tests/evaluation/test_calibration.py",
    "inject": "1,250 streaks; tests/simulation/test_injection.py makes fewer",
    "completeness": "needs what 'inject' and a catalogue give; tests/evaluation/test_known_objects.py",
    "explain": "asks for the id of a cutout; tests/models/test_attribution.py",
    "retrain": "asks for verdicts; tests/training/test_retraining.py",
    "dashboard": "serves until it is stopped; tests/browser",
    "sequences": "trainings of minutes; tests/sequences has shorter ones",
    "ingest theirs": "needs files that are spelt otherwise; tests/readers/test_tables.py has some",
    "ingest CRTS_FOLDER": "needs files of that survey; tests/readers/test_crts.py",
    "users": "asks for a password; tests/cli/test_users.py",
    "nights": "needs the state of a service; tests/service/test_calendar.py",
    "watch https": "needs a depot on the network; tests/service/test_service.py has one",
    "watch depot": "takes over the signals of its process; tests/service/test_service.py",
    "simulate train.zarr": "36,000 cutouts",
    "models import": "needs the published files; tests/models/keras2/test_importer.py has stand-ins",
}
"""Sub-commands that are only parsed, so that their names, arguments and options must exist, and why."""

ELSEWHERE = (
    "--scheduler",
    "--adapt",
    "--zoo my-zoo",
    "--families-file",
    "--triage",
    "/scratch/",
    "s3://",
)
"""Options of a cluster, a zoo or a file that is not here: only parsed, too."""

SHELL = {
    "pip install": "CI installs",
    "python3 -m venv": "CI does",
    "jupyter lab": "docs/build.py executes the notebooks, in .ci/run",
    "cluster/": "tests/cluster runs them",
    "sudo": "tests/cluster/test_files.py",
    "docker": "no Docker engine here; tests/cluster/test_files.py",
    "export": "sets a variable",
    "deepstreaks users": "tests/cluster/test_files.py",
    "helm": "no cluster here",
    "kubectl": "no cluster here",
    "dask": "tests/scoring/test_cluster.py",
    "cp": "copies a file",
    "sbatch": "tests/cluster/test_slurm.py",
    "printf": "tests/cluster/test_hosts.py",
}
"""Other programs than ``deepstreaks`` that blocks begin lines with, and why this test does not run them."""

LANGUAGES = {"toml", "yaml", "json"}
WRITTEN = {
    "nginx": "tests/apps/server/test_reverse_proxy.py",
    "caddy": "tests/apps/server/test_reverse_proxy.py",
}
SPHINX = re.compile(r"\{.+\}")


def blocks(path):
    """Give each fenced block as its language and text."""
    fenced = re.findall(r"^( *)```(\S*)\n(.*?)^\1```", path.read_text(), re.S | re.M)
    return [(kind, textwrap.dedent(text)) for _, kind, text in fenced]


def commands(text):
    """Give the commands of a block, a line each, without comments."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in joined.splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield shlex.join(words), words


def reason(command, table):
    return next((why for start, why in table.items() if command.startswith(start)), None)


def every(language, *, pages=(*PAGES, *CARDS)):
    found = []
    for path in pages:
        texts = [text for kind, text in blocks(path) if kind in language]
        found += [
            pytest.param(text, id=f"{path.relative_to(ROOT)}-{k}") for k, text in enumerate(texts)
        ]
    return found


def test_every_block_is_of_a_kind_that_is_looked_at():
    known = {"bash", "console", "python", *LANGUAGES, *WRITTEN}
    for path in PAGES:
        for kind, text in blocks(path):
            assert kind in known or SPHINX.fullmatch(kind), f"{path}: ```{kind}\n{text}"


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """What the pages take for granted: an archive with labels and scores, a folder of cutouts, files that are named."""
    folder = tmp_path_factory.mktemp("survey")
    create_archive(folder / "survey.zarr", shard=64)
    append_batches(folder / "survey.zarr", simulate_nights(3, 30, seed=5, first=20251201))
    create_archive(folder / "objects.zarr", **LAYOUT)
    append_batches(folder / "objects.zarr", simulate_sequences(10, "hits", "rcnn"))
    table = write_images(folder / "cutouts", Night.draw(20260101, 5), 12)
    table.rename(folder / "labels.csv")
    return folder


@pytest.fixture(scope="module")
def workers():
    """Client of a worker in this process, which is where the test is, since the pages' paths are relative."""
    here = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with Client(processes=False, **here) as client:
        yield client


@pytest.fixture
def at_hand(survey, workers, monkeypatch):
    """The folder, and workers that are there already in place of those that a command would start."""

    @contextmanager
    def connect(*_, **__):
        yield workers

    monkeypatch.setattr(cluster, "connect", connect)
    monkeypatch.chdir(survey)


def parses(words):
    """Have the command line's own parser read a command, and stop before it does anything."""
    command = typer.main.get_command(app)
    rest = list(words)
    context = command.make_context("deepstreaks", [], resilient_parsing=True)
    while hasattr(command, "commands"):
        name = rest.pop(0)
        assert name in command.commands, f"there is no command {name}"
        command = command.commands[name]
    required = [one for one in command.params if one.param_type_name == "argument" and one.required]
    given = [word for word in rest if not word.startswith("-")]
    # what names options alone says nothing of the archive
    filled = [*rest, *["x"] * (len(required) if not given or rest[0].startswith("-") else 0)]
    command.make_context(command.name, filled, parent=context)


def does(words):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{shlex.join(words)}\n{done.output}\n{done.exception!r}"


@pytest.mark.parametrize("text", every({"console", "bash"}))
def test_commands_run(text, at_hand):
    """Each line of a block in turn; twice the same is no harm, as the pages say."""
    Path("candidates.csv").unlink(missing_ok=True)
    if "survey.zarr" in text and not Path("survey.zarr/runs/default").exists():
        does(["score", "survey.zarr"])
    for command, words in commands(text):
        if words[0] != "deepstreaks" or "&&" in words:
            assert reason(command, SHELL), f"nothing is known of: {command}"
            continue
        rest = shlex.join(words[1:])
        if reason(rest, PARSED) or any(option in command for option in ELSEWHERE):
            parses(words[1:])
        else:
            does(words[1:])


def test_reasons_are_needed():
    """A reason without a command is forgotten: it would hide the next one."""
    every_command = [
        command
        for path in (*PAGES, *CARDS)
        for kind, text in blocks(path)
        if kind in ("bash", "console")
        for command, _ in commands(text)
    ]
    for start in PARSED:
        assert any(c.startswith(f"deepstreaks {start}") for c in every_command), start
    for start in SHELL:
        assert any(c.startswith(start) for c in every_command), start


@pytest.mark.parametrize("text", every({"python"}))
def test_python_runs(text, at_hand, tmp_path):
    if "default" in text and not Path("survey.zarr/runs/default").exists():
        does(["score", "survey.zarr"])
    script = tmp_path / "block.py"
    script.write_text(text)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", every({"toml"}))
def test_toml_is_toml(text):
    assert tomllib.loads(text)


@pytest.mark.parametrize("text", every({"yaml", "json"}))
def test_yaml_is_yaml(text):
    assert yaml.safe_load(text)
