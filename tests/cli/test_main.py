"""How commands end: interrupted, failed, or as they should; and what help shows."""

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from deepstreaks_dask.cli.app import RESUMABLE, expand_options
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.cli.options import RunOptions


def commands(command, *path):
    below = getattr(command, "commands", {})
    yield list(path)
    for name, one in below.items():
        yield from commands(one, *path, name)


COMMANDS = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "deepstreaks")
def test_help_shows_no_types_of_python(path):
    done = CliRunner().invoke(app, [*path, "--help"])
    assert done.exit_code == 0
    for words in ("<bool>", "list[", "[default: None]"):
        assert words not in done.stdout


def test_commands_that_resume_are_commands():
    assert {" ".join(path) for path in COMMANDS} >= RESUMABLE


def test_dataclasses_become_options():
    def command(archive: str, chosen: RunOptions, last: int = 3) -> tuple:
        return archive, chosen, last

    expanded = expand_options(command)
    assert expanded(archive="a", run="r", calibrated=True, last=4) == (
        "a",
        RunOptions("r", True),
        4,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ingest", "x", "a.zarr"], "Run the same command again to resume"),
        (["simulate", "a.zarr"], "with --overwrite"),
        (["sequences", "train", "a.zarr"], "Run the same command again to resume"),
        (["models", "list"], "interrupted\n"),
    ],
)
def test_ctrl_c_says_how_to_go_on(arguments, words, monkeypatch, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deepstreaks_dask.readers.ingestion.find_reader", interrupt)
    monkeypatch.setattr("deepstreaks_dask.simulation.archives.simulate_archive", interrupt)
    monkeypatch.setattr("deepstreaks_dask.models.zoo.store.Zoo.list", interrupt)
    monkeypatch.setattr("deepstreaks_dask.training.recipe.read_recipe", interrupt)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 130
    assert words in done.stderr
    assert "Traceback" not in done.output


def test_an_interruption_that_explains_itself_is_shown(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt("run 'default' was interrupted")

    monkeypatch.setattr("deepstreaks_dask.models.zoo.store.Zoo.list", interrupt)
    done = CliRunner().invoke(app, ["models", "list"])
    assert done.exit_code == 130
    assert done.stderr == "\ndeepstreaks: run 'default' was interrupted\n"


CODE = """
import os
from deepstreaks_dask.cli import main
def app():
    os.write(2, b"E0000 cuda_driver.cc: out of memory")
    {then}
main.app = app
main.main()
"""


def end(then, tmp_path, **environment):
    code = CODE.format(then=then)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"TMPDIR": str(tmp_path), "PATH": "", "PYTHONPATH": ":".join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, list(tmp_path.glob("deepstreaks-*.log"))


def test_native_messages_are_kept_where_a_command_fails(tmp_path):
    done, (log,) = end("raise ValueError('no reason')", tmp_path)
    assert done.returncode == 1
    assert "cuda_driver" not in done.stderr
    assert "ValueError: no reason" in done.stderr
    assert done.stderr.endswith(f"unexpected ValueError. Messages of native code: {log}\n")
    assert "out of memory" in log.read_text()


@pytest.mark.parametrize(
    ("then", "code", "words"),
    [
        ("raise SystemExit(0)", 0, ""),
        ("raise PermissionError(13, 'Permission denied', 'c.csv')", 1, "c.csv: Permission denied"),
        ("raise main.DeepStreaksError('no archive')", 1, "no archive"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
    ],
)
def test_native_messages_do_not_reach_users(tmp_path, then, code, words):
    done, logs = end(then, tmp_path)
    assert done.returncode == code
    assert logs == []
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == bool(words)


def test_debugging_leaves_standard_error_alone(tmp_path):
    done, logs = end("raise PermissionError(13, 'no')", tmp_path, DEEPSTREAKS_DEBUG="1")
    assert "cuda_driver" in done.stderr
    assert "Traceback" in done.stderr
    assert logs == []
