"""Values complete in the shell, quickly, and never with a traceback."""

import os
import subprocess
import sys

import pytest
import typer
from helpers import write_run

from deepstreaks_dask.apps.server.serve import APP_NAMES
from deepstreaks_dask.cli.completion import CHOICES
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.evaluation.active_learning import ORDERS
from deepstreaks_dask.evaluation.calibration import METHODS
from deepstreaks_dask.evaluation.threshold_search import SEARCH_LEVELS
from deepstreaks_dask.models.registry import ARCHITECTURES, CLASSIFIERS, PRECISIONS
from deepstreaks_dask.models.zoo.card import SCALINGS
from deepstreaks_dask.readers.registry import readers
from deepstreaks_dask.scoring.cluster import connect
from deepstreaks_dask.simulation.surveys import SURVEYS
from deepstreaks_dask.simulation.tasks import TASKS
from deepstreaks_dask.training.recipe import RECIPES
from deepstreaks_dask.vocabulary import ROLES

VOCABULARIES = {
    "app": APP_NAMES,
    "architecture": ARCHITECTURES,
    "classifier": CLASSIFIERS,
    "method": METHODS,
    "order": ORDERS,
    "precision": PRECISIONS,
    "reader": readers(),
    "recipe": RECIPES,
    "role": ROLES,
    "scaling": SCALINGS,
    "survey": SURVEYS,
    "task": TASKS,
    "search": SEARCH_LEVELS,
}


@pytest.mark.parametrize("kind", CHOICES)
def test_names_are_those_of_the_package(kind):
    if kind == "scheduler":
        assert all(f'"{name}"' in connect.__doc__ for name in CHOICES[kind])
    else:
        assert sorted(CHOICES[kind]) == sorted(VOCABULARIES[kind])


def complete(*words):
    """Give what the last word completes to, as a shell would ask for it."""
    *given, incomplete = [str(word) for word in words]
    command, context = typer.main.get_command(app), None
    while given and given[0] in getattr(command, "commands", {}):
        context = command.make_context("deepstreaks", [], parent=context, resilient_parsing=True)
        command = command.commands[given.pop(0)]
    context = command.make_context("x", list(given), parent=context, resilient_parsing=True)
    option = given[-1] if given and given[-1].startswith("-") else None
    (parameter,) = [
        one
        for one in command.params
        if (option in one.opts if option else one.param_type_name == "argument")
    ]
    return [item.value for item in parameter.shell_complete(context, incomplete)]


@pytest.fixture
def scored(archive):
    for name in ("default", "deep"):
        write_run(archive, name, ["rb_a", "sl_a"], [[0.9] * 2] * 150)
    return archive


def test_what_an_archive_has(scored):
    assert complete("decide", scored, "--run", "d") == ["deep", "default"]
    assert complete("decide", scored, "--run", "dee") == ["deep"]
    assert complete("evaluate", scored, "-t", "r") == ["rb=", "rb_a="]
    folder = scored / "thresholds"
    folder.mkdir()
    (folder / "strict.toml").touch()
    assert complete("decide", scored, "--thresholds", "") == [str(folder / "strict.toml")]


def test_what_a_zoo_has():
    assert complete("train", "--family", "r") == ["rb"]
    assert complete("score", "--families", "rb,s") == ["rb,sl"]
    assert complete("train", "--from", "rb_") == ["rb_vgg6@1"]
    assert complete("triage", "fit", "--first", "kd") == ["kd_vgg6@1"]


def test_names():
    assert complete("ingest", "x", "x.zarr", "--reader", "f") == ["fits"]
    assert complete("dashboard", "--app", "") == ["explore", "campaign", "review"]
    assert complete("users", "add", "--role", "rev") == ["reviewer"]
    assert complete("train-all", "--architectures", "vgg6,res") == ["vgg6,resnet50"]


@pytest.mark.parametrize("archive", ["nowhere.zarr", "s3://bucket/a.zarr", "\0"])
def test_what_is_not_there_completes_to_nothing(archive):
    assert complete("decide", archive, "--run", "") == []
    assert complete("decide", archive, "-t", "") == []
    assert complete("score", "--zoo", archive, "--families", "") == []


def test_a_shell_completes(scored):
    words = f"deepstreaks decide {scored} --run de"
    environment = {
        **os.environ,
        "_DEEPSTREAKS_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": "4",
    }
    code = "import sys; sys.argv[0] = 'deepstreaks'; from deepstreaks_dask.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["deep", "default"]
    assert done.stderr == ""


def test_completion_imports_no_heavy_package():
    code = (
        "import sys; from deepstreaks_dask.cli.main import app; "
        "from deepstreaks_dask.cli import completion; completion._families(None); "
        "assert not {'keras', 'panel', 'dask', 'xarray', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
