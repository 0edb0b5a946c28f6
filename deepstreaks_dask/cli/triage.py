"""The command that calibrates a first look."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from deepstreaks_dask.cli.app import triage_app
from deepstreaks_dask.cli.completion import choose, complete_member
from deepstreaks_dask.cli.options import ArchiveArg, JsonOption, RunOption, WorkerOptions
from deepstreaks_dask.cli.output import STANDARD_OUTPUT, open_output, say
from deepstreaks_dask.errors import DeepStreaksError


@dataclass(frozen=True)
class PlanOptions:
    """How a triage is made: the fields of :class:`~deepstreaks_dask.training.distillation.TriagePlan`.

    Attributes
    ----------
    first, architecture, side, epochs, precision
        The network that looks first, or the student; its side in pixels.
    learn, check, loss, confidence
        Shares, 0 to 1.
    seed
        Of the nights, and the student.
    """

    first: Annotated[
        str | None,
        typer.Option(
            help="Network that looks first; a student is trained by default.",
            autocompletion=complete_member,
        ),
    ] = None
    architecture: Annotated[
        str, typer.Option(help="Of the student.", autocompletion=choose("architecture"))
    ] = "vgg6"
    side: Annotated[
        int | None,
        typer.Option(help="Pixels on a side of what the student sees. Default: the cutouts'."),
    ] = None
    epochs: Annotated[int, typer.Option(min=1, help="Of the student.")] = 6
    precision: Annotated[
        str,
        typer.Option(
            help="It is trained in: float32, mixed_bfloat16 or mixed_float16.",
            autocompletion=choose("precision"),
        ),
    ] = "float32"
    learn: Annotated[float, typer.Option(help="Share of the nights it learns from.")] = 0.3
    check: Annotated[float, typer.Option(help="Share of the nights to see the loss on.")] = 0.2
    loss: Annotated[float, typer.Option(help="Share of the plausible that may be lost.")] = 0.001
    confidence: Annotated[float, typer.Option(help="0 to 1, that no more is lost.")] = 0.95
    seed: Annotated[int, typer.Option(min=0, help="Of the nights drawn, and the student.")] = 1


@triage_app.command("fit")
def triage_fit(
    archive: ArchiveArg,
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="File to write, or its URL; - is standard output."),
    ],
    options: PlanOptions,
    workers: WorkerOptions,
    run: RunOption = "default",
    zoo: Annotated[
        str | None,
        typer.Option("--zoo", help="Gets the student, or has the network that looks first."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Calibrate a first look on a run of all scores or of 'score --decide', for 'score --triage'.

    Example: deepstreaks triage fit survey.zarr --run full --zoo my-zoo -o triage.json
    """
    from deepstreaks_dask.scoring.runs import open_run
    from deepstreaks_dask.scoring.triage import write_triage
    from deepstreaks_dask.training.distillation import TriagePlan, fit_triage

    if zoo is None and options.first is None:
        raise DeepStreaksError("give a --zoo that gets the student, or --first of the shipped ones")
    plan = TriagePlan(**asdict(options))
    open_run(archive, run)  # before workers start for nothing
    with open_output(output, ".json", as_json=as_json) as path:
        with workers.connect() as client:
            found = fit_triage(archive, client, run=run, zoo=zoo, plan=plan)
        write_triage(found, path)
    if output == STANDARD_OUTPUT:
        return
    said = {
        "first": found.first,
        "threshold": found.threshold,
        "rejected": found.rejected / found.cutouts,
        "guarantee": found.guarantee,
        "seen": found.seen,
        "written": output,
    }
    say(as_json, said)
