"""The main job from end to end on a simulated week: files in, archive, scores, decision, report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepstreaks_dask.cli.app import app
from deepstreaks_dask.cli.options import JsonOption, OverwriteOption
from deepstreaks_dask.cli.output import print_json
from deepstreaks_dask.errors import DeepStreaksError

if TYPE_CHECKING:
    from deepstreaks_dask.simulation.nights import Night

QUICKSTART_SEED = 20260901
"""Of the simulated week; its nights are none of those that the shipped weights were trained on."""

FIRST_NIGHT = 20260901

MARK_FILE = ".deepstreaks-quickstart"
"""File that a quickstart leaves in its folder, with its settings: only such a folder is written to or replaced."""


@app.command("quickstart")
def _quickstart(
    folder: Annotated[Path, typer.Option(help="Where to put everything.")] = Path("quickstart"),
    nights: Annotated[int, typer.Option(min=1, help="How many.")] = 7,
    cutouts: Annotated[int, typer.Option(min=1, help="Cutouts a night.")] = 300,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Do the whole job on a simulated week and write a report.

    Safe to run again: resumes where it was interrupted.

    Example: deepstreaks quickstart --folder first-week
    """
    result = quickstart(folder, nights=nights, cutouts=cutouts, overwrite=overwrite)
    if as_json:
        print_json(result)
        return
    joint = result["joint"]
    print(
        f"\n{result['cutouts']:,} simulated cutouts of {nights} nights scored, "
        f"{result['plausible']:,} plausible, {result['quarantined']} damaged files quarantined."
    )
    for name, words in (("tpr", "true-positive rate"), ("fpr", "false-positive rate")):
        rate = joint[name]
        if rate["total"]:
            interval = f"[{rate['low']:.4f}, {rate['high']:.4f}]"
            print(f"{words}: {rate['value']:.4f} {interval} (95 %, on simulated data)")
    print(f"\nThe report: {Path(result['report']).resolve()}")
    print("Try next:")
    print(f"  deepstreaks decide {result['archive']} --threshold kd=0.9")
    print(f"  deepstreaks evaluate {result['archive']} --threshold rb=0.7")
    print("  deepstreaks ingest YOUR_FOLDER your.zarr && deepstreaks score your.zarr")


def quickstart(
    folder: Path, *, nights: int = 7, cutouts: int = 300, overwrite: bool = False
) -> dict[str, Any]:
    """Simulate a week of nights, ingest it, score it and write a report.

    Parameters
    ----------
    folder : Path
        Gets the pictures, ``week.zarr`` and ``report.html``. An interrupted quickstart of the same size is resumed.
    nights, cutouts : int
        Nights, and cutouts in each.
    overwrite : bool
        Replace what an earlier quickstart made.

    Returns
    -------
    dict
        What was ingested and how the decision did, as JSON can hold it.

    Raises
    ------
    DeepStreaksError
        If the folder cannot be written to, holds something else, or holds a quickstart that is finished or of another size
        and is not to be replaced.
    """
    images, archive, report = folder / "images", folder / "week.zarr", folder / "report.html"
    _prepare(folder, {"nights": nights, "cutouts": cutouts}, overwrite)

    from deepstreaks_dask.archive.create import create_archive
    from deepstreaks_dask.archive.dataset import summary
    from deepstreaks_dask.report.run_report import write_report
    from deepstreaks_dask.scoring.campaign import score
    from deepstreaks_dask.scoring.ensemble import Ensemble
    from deepstreaks_dask.simulation.nights import Night, calendar

    if overwrite:
        shutil.rmtree(images, ignore_errors=True)
        report.unlink(missing_ok=True)
    if overwrite or not archive.exists():
        create_archive(archive, shard=256, overwrite=archive.exists())
    week = [Night.draw(night, QUICKSTART_SEED) for night in calendar(FIRST_NIGHT, nights)]
    tables = _simulate(images, week, cutouts)
    _ingest(images, archive, week, tables, cutouts)
    score(archive, ensemble=Ensemble.from_zoo())
    evaluation = write_report(archive, report)
    return {
        "archive": str(archive),
        "report": str(report),
        "quarantined": sum(summary(archive).quarantined.values()),
        **{k: v for k, v in evaluation.to_dict().items() if k in ("cutouts", "plausible", "joint")},
    }


def _prepare(folder: Path, settings: dict[str, int], overwrite: bool) -> None:
    """Check what is in the folder, make it, and mark it as a quickstart's."""
    mark = folder / MARK_FILE
    try:
        filled = folder.exists() and any(folder.iterdir())
        if filled and not mark.exists():
            raise DeepStreaksError(
                f"{folder} holds something else: give another folder with --folder"
            )
        if filled and not overwrite:
            _check_earlier(folder, mark, settings)
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(json.dumps(settings), encoding="utf-8")
    except OSError as error:
        raise DeepStreaksError(
            f"cannot write to {folder.absolute()} ({error.strerror}): "
            "give a folder that you may write to with --folder"
        ) from error


def _check_earlier(folder: Path, mark: Path, settings: dict[str, int]) -> None:
    """Refuse a quickstart that is finished, or of another size."""
    report = folder / "report.html"
    if report.exists():
        raise DeepStreaksError(
            f"{folder} holds a finished quickstart: open {report}, add --overwrite to replace it, "
            "or give another folder with --folder"
        )
    try:
        earlier = json.loads(mark.read_text(encoding="utf-8"))
    except ValueError:  # an earlier version noted no settings
        earlier = None
    if earlier != settings:
        raise DeepStreaksError(
            f"{folder} holds an unfinished quickstart of another size: add --overwrite to replace it, "
            "or give another folder with --folder"
        )


def _simulate(images: Path, week: list[Night], cutouts: int) -> list[Path]:
    """Write the pictures of a week, and two damaged files; return the table of each night."""
    from deepstreaks_dask.simulation.nights import write_images
    from deepstreaks_dask.utils.processes import process_pool
    from deepstreaks_dask.utils.progress import progress_bar

    with (
        progress_bar("simulate", len(week) * cutouts) as bar,
        process_pool() as processes,
    ):
        jobs = [processes.submit(write_images, images, night, cutouts) for night in week]
        tables = []
        for job in jobs:
            tables.append(job.result())
            bar.advance(cutouts)
    # what a real depot holds too: a file cut short in transfer, and an empty one
    first = images / str(week[0].night)
    whole = next(one for one in sorted(first.iterdir()) if one.stat().st_size).read_bytes()
    (first / "cut_short_scimref.jpg").write_bytes(whole[: len(whole) // 3])
    (first / "empty_scimref.jpg").touch()
    return tables


def _ingest(
    images: Path, archive: Path, week: list[Night], tables: list[Path], cutouts: int
) -> None:
    """Append what the archive does not hold yet."""
    from deepstreaks_dask.archive.append import append_batches
    from deepstreaks_dask.readers.options import ReadOptions
    from deepstreaks_dask.readers.registry import get_reader
    from deepstreaks_dask.utils.progress import progress_bar

    reader = get_reader("images")
    with progress_bar("ingest", len(week) * cutouts) as bar:
        for night, table in zip(week, tables, strict=True):
            added = append_batches(
                archive, reader.read(images / str(night.night), ReadOptions(table))
            )
            bar.advance(added.appended + added.already_present)
