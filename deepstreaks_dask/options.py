"""What sub-commands of the command line share: options of one meaning, and how an answer is printed."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

RunOption = Annotated[str, typer.Option("--run", help="Name of the run that holds the scores.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Workers to start.")]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        help="local, gpu, slurm, pbs, lsf, kubernetes, or a running scheduler: tcp://host:8786, tls://host:8786 "
        "or its file. Default: gpu where there is one, else local."
    ),
]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="Passes over what is trained on.")]
SeedOption = Annotated[
    int | None, typer.Option(min=0, help="Of the split, the weights, the order and the flips.")
]
RateOption = Annotated[float | None, typer.Option(help="Adam's learning rate.")]
PatienceOption = Annotated[int | None, typer.Option(min=0, help="Of early stopping, epochs.")]
StartZooOption = Annotated[
    str | None, typer.Option("--from-zoo", help="Zoo that has it. Default: the shipped one.")
]


def say(as_json: bool, values: dict[str, Any]) -> None:
    """Print an answer: a line a value, or JSON.

    Parameters
    ----------
    as_json : bool
        For machines.
    values : dict
        By name.
    """
    if as_json:
        print_json(values)
        return
    for key, value in values.items():
        if isinstance(value, float):
            value = f"{value:.4f}"
        print(f"{key}: {value if value not in ({}, []) else 'none'}")


def print_json(values: Any) -> None:
    """Print JSON, of which NaN is no part."""
    print(json.dumps(values, indent=2, allow_nan=False))
