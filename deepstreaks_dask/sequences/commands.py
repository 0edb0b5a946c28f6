"""The command line's ``deepstreaks sequences``: one thin function a sub-command."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Classify objects by their sequences of images.")

ArchiveArg = Annotated[str, typer.Argument(help="Archive of sequences: a path or any fsspec URL.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command()
def simulate(
    archive: ArchiveArg,
    objects: Annotated[int, typer.Option(min=1)] = 700,
    survey: Annotated[
        str, typer.Option(help="hits, ztf or crts; with -shifted behind it, one that differs.")
    ] = "hits",
    task: Annotated[
        str, typer.Option(help="Classes: rcnn, taonet, or taonet6 with non-transients.")
    ] = "rcnn",
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal objects.")] = 0,
    first: Annotated[int, typer.Option(min=0, help="Number of the first object.")] = 0,
    log: Annotated[
        Path | None,
        typer.Option(
            help="Observing log of all objects: CSV, Parquet or ECSV with mjd, filter, seeing (arcsec), "
            "sky (mag/arcsec^2), airmass, exposure (s). Else one is generated for each."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate labelled objects, each with a stamp an exposure, into an archive, which is made if need be.

    Example: deepstreaks sequences simulate objects.zarr --objects 700 --survey hits
    """
    from deepstreaks_dask.archive import append, create
    from deepstreaks_dask.progress import progress_bar
    from deepstreaks_dask.simulate.sequences import LAYOUT, simulate_sequences
    from deepstreaks_dask.simulate.surveys import ObservingLog, get_survey
    from deepstreaks_dask.simulate.variables import get_task
    from deepstreaks_dask.storage import locate

    chosen = get_survey(survey)
    get_task(task)  # a mistake must not leave an archive behind
    if log is not None:
        chosen = chosen.with_log(ObservingLog.read(log, chosen.instrument))
    fs, root = locate(archive)
    with (
        progress_bar("simulate", objects, unit="objects") as bar,
        ProcessPoolExecutor(mp_context=get_context("spawn")) as executor,
    ):
        batches = simulate_sequences(
            objects, chosen, task, seed=seed, first=first, executor=executor
        )
        if not fs.exists(root):
            create(archive, **LAYOUT)
        result = append(archive, _counted(batches, bar))
    _say(as_json, result.to_dict())


def _counted(batches: Any, bar: Any) -> Any:
    for batch in batches:
        yield batch
        bar.advance(batch.rows)


def _say(as_json: bool, values: dict[str, Any]) -> None:
    if as_json:
        print(json.dumps(values, indent=2, allow_nan=False))
        return
    for key, value in values.items():
        if isinstance(value, float):
            value = f"{value:.4f}"
        print(f"{key}: {value if value not in ({}, []) else 'none'}")
