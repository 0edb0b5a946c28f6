"""Commands and options keep their names, whatever module they are in."""

import json
from pathlib import Path

import typer

from deepstreaks_dask.cli.main import app

KNOWN_OPTIONS = json.loads((Path(__file__).parent / "options.json").read_text())
"""Options and arguments of every command."""


def commands(command, *path):
    """Give every command that does something, by its words."""
    below = getattr(command, "commands", {})
    for name, one in below.items():
        yield from commands(one, *path, name)
    if not below or not path:
        yield " ".join(path) or "deepstreaks", command


def names(command):
    """Give the names of a command's options and arguments as `KNOWN_OPTIONS` has them."""
    every = ([*one.opts, *one.secondary_opts] for one in command.params)
    found = sorted("/".join(sorted(words, key=len)) for words in every)
    return [name for name in found if not name.endswith("-completion")]


def test_every_command_has_the_options_that_it_had():
    found = {called: names(command) for called, command in commands(typer.main.get_command(app))}
    assert found == KNOWN_OPTIONS
