"""Options and arguments that several commands share: annotations of one each, and dataclasses of those that go together.

A command takes a dataclass as a parameter; :class:`~deepstreaks_dask.cli.app.Application` shows its fields as options.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepstreaks_dask.cli.completion import (
    choose,
    complete_run,
    complete_start,
    complete_threshold,
)
from deepstreaks_dask.errors import DeepStreaksError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from dask.distributed import Client

    from deepstreaks_dask.scoring.decision import Decision
    from deepstreaks_dask.training.recipe import Recipe

ArchiveArg = Annotated[str, typer.Argument(help="Archive: a path or any fsspec URL.")]
ZooOption = Annotated[
    str | None,
    typer.Option("--zoo", help="Zoo of networks: a path or URL. Default: the shipped one."),
]
RunOption = Annotated[
    str,
    typer.Option(
        "--run", help="Name of the run that holds the scores.", autocompletion=complete_run
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is there; never done without.")
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(help="Review database, SQLAlchemy's URL. Default: a file beside the archive."),
]
ThresholdOption = Annotated[
    list[str] | None,
    typer.Option(
        "--threshold",
        "-t",
        help="family=0.7 or member=0.7; may be repeated.",
        metavar="NAME=VALUE",
        autocompletion=complete_threshold,
    ),
]
DecideOption = Annotated[
    bool,
    typer.Option(
        "--decide", help="Stop at a cutout as soon as the decision is fixed: as sure, and cheaper."
    ),
]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="Passes over what is trained on.")]
SeedOption = Annotated[
    int | None, typer.Option(min=0, help="Of the split, the weights, the order and the flips.")
]
WindowOption = Annotated[
    int | None,
    typer.Option(min=0, help="Read cutouts while training, this many shuffled together."),
]
StartZooOption = Annotated[
    str | None, typer.Option("--from-zoo", help="Zoo that has it. Default: the shipped one.")
]


@dataclass(frozen=True)
class RunOptions:
    """Which scores a command reads: those of a run, or its calibrated probabilities."""

    run: RunOption = "default"
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Take the run's probabilities for its scores.")
    ] = False

    def open(self, archive: str) -> xr.Dataset:
        """Open the scores.

        Parameters
        ----------
        archive : str
            Path or URL.

        Returns
        -------
        xarray.Dataset
            As :func:`~deepstreaks_dask.scoring.runs.open_run` opens them, with probabilities in place of scores if that
            was asked for.
        """
        from deepstreaks_dask.evaluation.calibration import calibrated
        from deepstreaks_dask.scoring.runs import open_run

        scores = open_run(archive, self.run, cache=True)
        return calibrated(scores) if self.calibrated else scores


@dataclass(frozen=True)
class DecisionOptions(RunOptions):
    """Which scores a command reads, and by which thresholds it decides."""

    threshold: ThresholdOption = None

    @property
    def thresholds(self) -> dict[str, float]:
        """The thresholds given, by family or member."""
        return parse_thresholds(self.threshold)

    def decision(self, scores: xr.Dataset) -> Decision:
        """Return the run's decision with the thresholds given.

        Parameters
        ----------
        scores : xarray.Dataset
            As for :meth:`deepstreaks_dask.scoring.decision.Decision.of_run`.

        Returns
        -------
        Decision
            Its own thresholds where none are given.
        """
        from deepstreaks_dask.scoring.decision import Decision

        return Decision.of_run(scores, self.thresholds)


@dataclass(frozen=True)
class VerdictOptions:
    """Whether reviewers' verdicts take the place of labels, and where they are."""

    verdicts: Annotated[
        bool,
        typer.Option("--verdicts", help="Lay what reviewers agree on over the archive's labels."),
    ] = False
    database: DatabaseOption = None

    def labels(self, archive: str) -> pd.DataFrame | None:
        """Return what reviewers say of an archive's cutouts, a row each, if that was asked for.

        Parameters
        ----------
        archive : str
            Path or URL.

        Returns
        -------
        pandas.DataFrame or None
            As for :func:`~deepstreaks_dask.cli.verdicts.reviewed_labels`.
        """
        from deepstreaks_dask.cli.verdicts import reviewed_labels

        return reviewed_labels(archive, self.database) if self.verdicts else None


@dataclass(frozen=True)
class WorkerOptions:
    """The workers that compute."""

    workers: Annotated[int | None, typer.Option(min=1, help="Workers to start.")] = None
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="local, gpu, slurm, pbs, lsf, kubernetes, or a running scheduler: tcp://host:8786, tls://host:8786 "
            "or its file. Default: gpu where there is one, else local.",
            envvar="DEEPSTREAKS_SCHEDULER",
            autocompletion=choose("scheduler"),
        ),
    ] = None
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Without TLS: only where nobody else can reach the workers and their scheduler.",
        ),
    ] = False

    def connect(self, **options: Any) -> Client:
        """Connect to the workers.

        Parameters
        ----------
        **options
            As for :func:`deepstreaks_dask.scoring.cluster.connect`.

        Returns
        -------
        dask.distributed.Client
            To be used in a ``with`` block.
        """
        from deepstreaks_dask.scoring.cluster import connect

        return connect(self.scheduler, workers=self.workers, insecure=self.insecure, **options)


@dataclass(frozen=True)
class AdaptiveWorkerOptions(WorkerOptions):
    """The workers that compute, as many as there is work for."""

    adapt: Annotated[
        tuple[int, int] | None,
        typer.Option(
            help="Fewest and most workers, started and stopped as there is work for them.",
            metavar="FEWEST MOST",
        ),
    ] = None

    def connect(self, **options: Any) -> Client:
        """Connect to the workers; see :meth:`WorkerOptions.connect`."""
        return super().connect(adapt=self.adapt, **options)


@dataclass(frozen=True)
class RecipeOptions:
    """A recipe of training, and settings in place of its own."""

    recipe: Annotated[
        str,
        typer.Option(
            help="duev2019 (published), short, or a .toml file of settings.",
            autocompletion=choose("recipe"),
        ),
    ] = "duev2019"
    epochs: EpochsOption = None

    def read(self) -> Recipe:
        """Read the recipe, with the settings given in place of its own.

        Returns
        -------
        Recipe
            Checked.
        """
        from deepstreaks_dask.training.recipe import read_recipe

        settings = {one.name: getattr(self, one.name) for one in fields(self)}
        if "rate" in settings:
            settings["learning_rate"] = settings.pop("rate")
        return read_recipe(settings.pop("recipe"), **settings)


@dataclass(frozen=True)
class SeededRecipeOptions(RecipeOptions):
    """A recipe, its seed and how much is in memory at once."""

    seed: SeedOption = None
    window: WindowOption = None


@dataclass(frozen=True)
class TrainingOptions(SeededRecipeOptions):
    """A recipe, and every setting that may be changed."""

    batch: Annotated[int | None, typer.Option(min=1, help="Cutouts in a step.")] = None
    rate: Annotated[float | None, typer.Option(help="Adam's learning rate.")] = None
    patience: Annotated[int | None, typer.Option(min=0, help="Of early stopping, epochs.")] = None
    by: Annotated[
        str | None, typer.Option(help="Column that no two parts of the data share: night, id, …")
    ] = None
    precision: Annotated[
        str | None,
        typer.Option(
            help="float32, mixed_bfloat16 or mixed_float16.", autocompletion=choose("precision")
        ),
    ] = None


@dataclass(frozen=True)
class NetworkOptions:
    """Where a trained network goes, and its version."""

    out: Annotated[
        Path | None, typer.Option(help="Folder of the record and networks; training/… by default.")
    ] = None
    zoo: Annotated[
        str | None, typer.Option(help="Zoo that gets the networks, too: a path or URL.")
    ] = None
    version: Annotated[str, typer.Option(help="Version of the network in the zoo.")] = "1"


@dataclass(frozen=True)
class StartOptions:
    """The network whose weights a training starts from."""

    start: Annotated[
        str,
        typer.Option(
            "--from",
            help="Network whose weights to start from, like rb_vgg6@1.",
            autocompletion=complete_start,
        ),
    ] = ""
    start_zoo: StartZooOption = None


def check_new(url: str, overwrite: bool) -> None:
    """Check that a new archive takes the place of none, unless that was asked for.

    Parameters
    ----------
    url : str
        Path or URL of the new archive.
    overwrite : bool
        Whether to replace what is there.

    Raises
    ------
    DeepStreaksError
        If something is there that is not to be replaced, or the URL is of an unknown kind.
    """
    from deepstreaks_dask.utils.storage import describe_storage_error, is_url, locate

    try:
        fs, root = locate(url)
        there = fs.exists(root) and (not fs.isdir(root) or fs.ls(root, detail=False))
    except Exception as error:  # the library of each protocol has its own
        reason = describe_storage_error(error, url=is_url(url))
        raise DeepStreaksError(f"cannot write to {url}: {reason}") from error
    if there and not overwrite:
        raise DeepStreaksError(f"{url} exists: add --overwrite to replace it, or give another name")


def pairs(option: str, given: Sequence[str] | None) -> list[tuple[str, str]]:
    """Split the values of an option like ``a=1,b=2``, which may be given several times.

    Parameters
    ----------
    option : str
        That was given.
    given : sequence of str or None
        Its values. A name with a comma or a quote in it stands in double quotes, as in CSV.

    Returns
    -------
    list of (str, str)
        Names and values.

    Raises
    ------
    DeepStreaksError
        If a part has no name or no value.
    """
    found = []
    for part in itertools.chain.from_iterable(csv.reader(given or (), skipinitialspace=True)):
        name, _, value = (side.strip() for side in part.rpartition("="))
        if not name or not value:
            raise DeepStreaksError(f"{option} {part!r}: write NAME=VALUE, several joined by commas")
        found.append((name, value))
    return found


def check_night(option: str, night: int) -> None:
    """Check that a night is a date.

    Parameters
    ----------
    option : str
        That named it.
    night : int
        YYYYMMDD.

    Raises
    ------
    DeepStreaksError
        If it is none.
    """
    try:
        datetime.strptime(str(night), "%Y%m%d")
    except ValueError:
        raise DeepStreaksError(f"{option} {night}: write a night like 20260101") from None


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


def parse_names(given: str) -> list[str]:
    """Parse names separated by commas."""
    return [name.strip() for name in given.split(",")]
