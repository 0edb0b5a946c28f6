"""Options and arguments that several commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from deepstreaks_dask.errors import DeepStreaksError

ArchiveArg = Annotated[str, typer.Argument(help="Archive: a path or any fsspec URL.")]
ZooOption = Annotated[
    str | None,
    typer.Option("--zoo", help="Zoo of networks: a path or URL. Default: the shipped one."),
]
UserArg = Annotated[str, typer.Argument(help="Name of the user.")]
OfArchive = Annotated[str | None, typer.Option("--archive", help="Archive that is reviewed.")]
ThresholdOption = Annotated[
    list[str] | None,
    typer.Option("--threshold", "-t", help="family=0.7 or member=0.7; may be repeated."),
]
AdaptOption = Annotated[
    tuple[int, int] | None,
    typer.Option(help="Fewest and most workers, started and stopped as there is work for them."),
]
DecideOption = Annotated[
    bool,
    typer.Option(
        "--decide", help="Stop at a cutout as soon as the decision is fixed: as sure, and cheaper."
    ),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        help="float32, mixed_bfloat16 or mixed_float16; what that does to scores is measured."
    ),
]

ThresholdsOption = Annotated[
    str | None,
    typer.Option(
        "--thresholds", help="TOML file of thresholds, as the explore dashboard saves it."
    ),
]

RecipeOption = Annotated[
    str, typer.Option(help="duev2019 (published), short, or a .toml file of settings.")
]
WindowOption = Annotated[
    int | None,
    typer.Option(min=0, help="Read cutouts while training, this many shuffled together."),
]

CalibratedOption = Annotated[
    bool, typer.Option("--calibrated", help="Take the run's probabilities for its scores.")
]

console = Console()


def open_run_scores(archive: str, run: str, probabilities: bool) -> Any:
    """Open a run's scores, or its calibrated probabilities."""
    from deepstreaks_dask.evaluation.calibration import calibrated
    from deepstreaks_dask.scoring.runs import open_run

    scores = open_run(archive, run)
    return calibrated(scores) if probabilities else scores


def parse_numbers(option: str, given: str) -> list[float]:
    """Parse an option that holds numbers separated by commas."""
    try:
        return [float(value) for value in given.split(",")]
    except ValueError:
        raise DeepStreaksError(f"{option} {given}: write numbers like 16,17.5,18") from None


def parse_thresholds(given: list[str] | None) -> dict[str, float]:
    """Parse ``name=value`` pairs of the option ``--threshold``."""
    thresholds = {}
    for item in given or []:
        name, _, value = item.partition("=")
        try:
            thresholds[name.strip()] = float(value)
        except ValueError:
            raise DeepStreaksError(f"--threshold {item}: write it like kd=0.9") from None
    return thresholds


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


@contextmanager
def resumable() -> Iterator[None]:
    """End at Ctrl-C with the line that says how to resume what the block does, and exit status 130."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        print(f"\ndeepstreaks: {interrupt}", file=sys.stderr)
        raise typer.Exit(130) from None
