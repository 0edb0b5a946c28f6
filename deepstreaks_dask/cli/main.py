"""The command line, ``deepstreaks``: one thin function a sub-command."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

import deepstreaks_dask
from deepstreaks_dask.cli import (  # noqa: F401 -- they register their commands
    archive,
    evaluation,
    models,
    review,
    scoring,
    service,
    training,
)
from deepstreaks_dask.cli.app import app
from deepstreaks_dask.cli.options import JsonOption, console, print_json
from deepstreaks_dask.errors import DeepStreaksError


def main() -> None:
    """Run the command line; a mistake of the user's becomes one line and exit status 1."""
    if not os.environ.get("DEEPSTREAKS_DEBUG"):
        _silence_native_code()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # who reads a dashboard's address from a pipe, or from a log, wants it before the dashboard ends
        sys.stdout.reconfigure(line_buffering=True)
    try:
        app()
    except DeepStreaksError as error:
        print(f"deepstreaks: {error}", file=sys.stderr)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    if version:
        print(deepstreaks_dask.__version__)
        raise typer.Exit


@app.command()
def quickstart(
    folder: Annotated[Path, typer.Option(help="Where to put everything.")] = Path("quickstart"),
    nights: Annotated[int, typer.Option(min=1, help="How many.")] = 7,
    cutouts: Annotated[int, typer.Option(min=1, help="Cutouts a night.")] = 300,
    as_json: JsonOption = False,
) -> None:
    """Do the whole job on a simulated week and write a report.

    Example: deepstreaks quickstart --folder first-week
    """
    from deepstreaks_dask.cli.quickstart import quickstart as run

    result = run(folder, nights=nights, cutouts=cutouts)
    if as_json:
        print_json(result)
        return
    joint = result["joint"]
    console.print(
        f"\n{result['cutouts']:,} simulated cutouts of {nights} nights scored, "
        f"{result['plausible']:,} plausible, {result['quarantined']} damaged files quarantined."
    )
    for name, words in (("tpr", "true-positive rate"), ("fpr", "false-positive rate")):
        rate = joint[name]
        if rate["total"]:
            console.print(
                f"{words}: {rate['value']:.4f} "
                rf"\[{rate['low']:.4f}, {rate['high']:.4f}] (95 %, on simulated data)"
            )
    print(f"\nThe report: {Path(result['report']).resolve()}")
    print("Try next:")
    print(f"  deepstreaks decide {result['archive']} --threshold kd=0.9")
    print(f"  deepstreaks evaluate {result['archive']} --threshold rb=0.7")
    print("  deepstreaks ingest YOUR_FOLDER your.zarr && deepstreaks score your.zarr")


def _silence_native_code() -> None:
    """Keep standard error for Python: TensorFlow and CUDA write to it what is no message of ours.

    They do so from native code, before their logging can be configured. ``DEEPSTREAKS_DEBUG=1`` lets them.
    """
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
