"""The command that examines this machine, or the workers of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deepstreaks_dask.cli.app import app
from deepstreaks_dask.cli.options import JsonOption, WorkerOptions, ZooOption
from deepstreaks_dask.cli.output import print_json

if TYPE_CHECKING:
    from deepstreaks_dask.scoring.examination import Examination, Finding


@app.command()
def doctor(
    workers: WorkerOptions,
    archive: Annotated[
        str | None, typer.Argument(help="Archive to read and write: a path or any fsspec URL.")
    ] = None,
    zoo: ZooOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what this machine computes with, what it reaches, and what is missing; with --scheduler, each worker.

    The exit status is 1 if a campaign would fail, or leave a GPU idle.

    Example: deepstreaks doctor week.zarr --scheduler tls://host:8786
    """
    from deepstreaks_dask.scoring.examination import compare, examine, examine_workers

    silent: list[Finding] = []
    if workers.scheduler is None and workers.workers is None:
        found = [examine(archive, zoo)]
    else:
        with workers.connect() as client:
            found, silent = examine_workers(client, archive, zoo)
    between = [*silent, *compare(found)]
    findings = [*between, *(finding for one in found for finding in one.findings)]
    if as_json:
        values = [one.to_dict() for one in found]
        print_json({"machines": values, "differences": [vars(one) for one in between]})
    else:
        _print_page(found, findings)
    if any(one.level == "error" for one in findings):
        raise typer.Exit(1)


def _print_page(found: list[Examination], findings: list[Finding]) -> None:
    """Print the machines, and each finding once with the machines that have it."""
    from deepstreaks_dask.scoring.examination import page

    for one in found:
        print(page(one))
    if not found:
        print("there are no workers")
    where: dict[Finding, list[str]] = {finding: [] for finding in findings}
    for one in found:
        for finding in one.findings:
            where[finding].append(one.worker or one.host)
    for finding, names in sorted(where.items(), key=lambda item: item[0].level):
        on = f" (workers {', '.join(names)})" if names and len(found) > 1 else ""
        print(f"{finding.level}: {finding.what}{on}\n  -> {finding.remedy}")
    if not findings:
        print("nothing is wrong")
