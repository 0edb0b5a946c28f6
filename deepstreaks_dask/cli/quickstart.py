"""The main job from end to end on a simulated week: files in, archive, scores, decision, report."""

from __future__ import annotations

import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.readers.registry import get_reader
from deepstreaks_dask.report.run_report import write_report
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.cluster import connect
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.simulation.nights import Night, calendar, write_images
from deepstreaks_dask.utils.progress import progress_bar

QUICKSTART_SEED = 20260901
"""Of the simulated week; its nights are none of those that the shipped weights were trained on."""

FIRST_NIGHT = 20260901


def quickstart(folder: Path, *, nights: int = 7, cutouts: int = 300) -> dict[str, Any]:
    """Simulate a week of nights, ingest it, score it and write a report.

    Parameters
    ----------
    folder : Path
        Gets the pictures, ``week.zarr`` and ``report.html``; replaced if an earlier quickstart made it.
    nights, cutouts : int
        Nights, and cutouts in each.

    Returns
    -------
    dict
        What was ingested and how the decision did, as JSON can hold it.

    Raises
    ------
    DeepStreaksError
        If the folder holds something else.
    """
    images, archive, report = folder / "images", folder / "week.zarr", folder / "report.html"
    mark = folder / ".deepstreaks-quickstart"  # what is removed below was made by a quickstart
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise DeepStreaksError(f"{folder} holds something else: give another folder with --folder")
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()
    shutil.rmtree(images, ignore_errors=True)
    week = [Night.draw(night, QUICKSTART_SEED) for night in calendar(FIRST_NIGHT, nights)]
    with (
        progress_bar("simulate", nights * cutouts) as bar,
        ProcessPoolExecutor(mp_context=get_context("spawn")) as processes,
    ):
        jobs = [processes.submit(write_images, images, night, cutouts) for night in week]
        tables = []
        for job in jobs:
            tables.append(job.result())
            bar.advance(cutouts)
    # what a real depot holds too: a file cut short in transfer, and an empty one
    first = images / str(week[0].night)
    whole = next(first.iterdir()).read_bytes()
    (first / "cut_short_scimref.jpg").write_bytes(whole[: len(whole) // 3])
    (first / "empty_scimref.jpg").touch()

    create_archive(archive, shard=256, overwrite=archive.exists())
    refused = 0
    reader = get_reader("images")
    with progress_bar("ingest", nights * cutouts) as bar:
        for night, table in zip(week, tables, strict=True):
            pictures = images / str(night.night)
            added = append_batches(archive, reader.read(pictures, table=table))
            refused += added.quarantined
            bar.advance(added.appended)
    with connect() as client:
        score(archive, ensemble=Ensemble.from_zoo(), client=client)
    evaluation = write_report(archive, report)
    return {
        "archive": str(archive),
        "report": str(report),
        "quarantined": refused,
        **{k: v for k, v in evaluation.to_dict().items() if k in ("cutouts", "plausible", "joint")},
    }
