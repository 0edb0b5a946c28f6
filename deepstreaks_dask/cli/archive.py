"""Commands that make, fill, summarise and check archives."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from deepstreaks_dask.cli.app import app, archive_app
from deepstreaks_dask.cli.completion import choose
from deepstreaks_dask.cli.options import (
    ArchiveArg,
    DatabaseOption,
    JsonOption,
    OverwriteOption,
    check_new,
    check_night,
    pairs,
)
from deepstreaks_dask.cli.output import print_json, print_table, say
from deepstreaks_dask.cli.verdicts import withdraw_verdicts
from deepstreaks_dask.errors import DeepStreaksError

if TYPE_CHECKING:
    from deepstreaks_dask.archive.dataset import ArchiveSummary
    from deepstreaks_dask.readers.options import Polarity
    from deepstreaks_dask.readers.reports import IngestReport


ColumnsOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Columns of the table under other names: file=Filename,label_rb=class.",
        metavar="NAME=COLUMN",
    ),
]
LabelsOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Labels that words stand for: asteroid=1,bogus=0 or kd:ditch=0.",
        metavar="WORD=LABEL",
    ),
]


@app.command()
def simulate(
    archive: ArchiveArg,
    nights: Annotated[int, typer.Option(min=1, help="How many.")] = 7,
    cutouts: Annotated[int, typer.Option(min=1, help="Cutouts a night.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal cutouts.")] = 0,
    first: Annotated[int, typer.Option(help="First night, YYYYMMDD.")] = 20260101,
    shard: Annotated[int, typer.Option(help="Cutouts a shard, a multiple of 64.")] = 1024,
    images: Annotated[
        bool, typer.Option("--images", help="Write folders of JPEG files and tables instead.")
    ] = False,
    depot: Annotated[
        bool, typer.Option("--depot", help="Write the nightly products of a depot instead.")
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Simulate labelled nights into a new archive, as folders of JPEG files, or as a depot.

    What is there is kept unless --overwrite is given.

    Example: deepstreaks simulate week.zarr --nights 7 --cutouts 300 --seed 1
    """
    from deepstreaks_dask.simulation.archives import simulate_archive
    from deepstreaks_dask.simulation.nights import Night, calendar, write_images
    from deepstreaks_dask.simulation.products import write_depot
    from deepstreaks_dask.utils.progress import progress_bar

    if images and depot:
        raise DeepStreaksError("give --images or --depot, not both")
    check_night("--first", first)
    if not images and not depot:
        check_new(archive, overwrite)
        made = simulate_archive(
            archive,
            nights=nights,
            per_night=cutouts,
            seed=seed,
            first=first,
            shard=shard,
            overwrite=overwrite,
        )
        _print_report(made, as_json=as_json)
        return
    write = write_images if images else write_depot
    week = [Night.draw(night, seed) for night in calendar(first, nights)]
    there = [str(one.night) for one in week if (Path(archive) / str(one.night)).exists()]
    if there and not overwrite:
        raise DeepStreaksError(
            f"{archive} has night {there[0]}: add --overwrite to replace it, or name another folder"
        )
    with progress_bar("simulate", nights * cutouts) as bar:
        for night in week:
            write(Path(archive), night, cutouts)
            bar.advance(cutouts)
    say(as_json, {"folder": archive, "cutouts": nights * cutouts})


@app.command()
def ingest(
    source: Annotated[
        str, typer.Argument(help="Folder or file of cutouts, or of alert packets: a path or URL.")
    ],
    archive: ArchiveArg,
    table: Annotated[
        str | None,
        typer.Option(help="CSV, Parquet or ECSV with metadata and labels: a path or URL."),
    ] = None,
    night: Annotated[int | None, typer.Option(help="Night of all cutouts, YYYYMMDD.")] = None,
    reader: Annotated[
        str | None,
        typer.Option(help="Format; found out by default.", autocompletion=choose("reader")),
    ] = None,
    shard: Annotated[
        int | None, typer.Option(help="Cutouts a shard of a new archive, a multiple of 64.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Dask workers that read. Default: threads, and one a core for many FITS files or alerts.",
        ),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler whose workers read.")
    ] = None,
    columns: ColumnsOption = None,
    labels: LabelsOption = None,
    labels_from_folders: Annotated[
        bool, typer.Option("--labels-from-folders", help="Take labels from the names of folders.")
    ] = False,
    keep_columns: Annotated[
        bool, typer.Option("--keep-columns", help="Keep the table's other columns, too.")
    ] = False,
    polarity: Annotated[
        str,
        typer.Option(help="Sources of pictures: dark on light, bright on dark, or auto."),
    ] = "auto",
    plane: Annotated[int | None, typer.Option(help="Plane of FITS cubes, counted from 1.")] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Write nothing if an input is refused or not understood; reads it twice.",
        ),
    ] = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Put revised pixels in place of those of the same id, which are kept."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Add cutouts to an archive, which is made if it does not exist.

    Alerts go to an archive of their own: it holds triplets of science, template and difference. The report says what was
    refused and what was not understood; 'deepstreaks archive ingests' shows it again.

    Example: deepstreaks ingest cutouts/20260101 survey.zarr --table labels.csv
    """
    from deepstreaks_dask.readers.ingestion import find_reader
    from deepstreaks_dask.readers.ingestion import ingest as read_into
    from deepstreaks_dask.readers.labels import as_label
    from deepstreaks_dask.readers.registry import wants_processes
    from deepstreaks_dask.utils.storage import is_url

    many = False
    if not is_url(source):  # a mistake is an error before workers start
        chosen = find_reader(Path(source), reader)
        many = wants_processes(chosen, chosen.count(Path(source)))
    with ExitStack() as stack:
        client = None
        if workers or scheduler or many:
            from deepstreaks_dask.scoring.cluster import connect

            client = stack.enter_context(connect(scheduler or "local", workers=workers))
        done = read_into(
            source,
            archive,
            reader=reader,
            table=table,
            night=night,
            columns={name: own for own, name in pairs("--columns", columns)},
            labels={name: as_label(value) for name, value in pairs("--labels", labels)},
            labels_from_folders=labels_from_folders,
            keep_columns=keep_columns,
            polarity=cast("Polarity", polarity),
            plane=plane,
            client=client,
            strict=strict,
            replace=replace,
            shard=shard,
        )
    _print_report(done, as_json=as_json)


def _print_report(done: IngestReport, *, as_json: bool) -> None:
    """Print a report as tables, of what was read and what was not understood, or as JSON."""
    if as_json:
        print_json(done.to_dict())
        return
    rows = [(name, f"{v:,}" if isinstance(v, int) else v) for name, v in done.facts().items()]
    print_table(("report", "count or value"), rows, title=done.archive, kept=2)
    if done.remarks:
        remarks = [(one.what, f"{one.count:,}", one.first_example) for one in done.remarks]
        print_table(("not understood", "inputs", "first"), remarks, kept=2)


@archive_app.command("ingests")
def archive_ingests(archive: ArchiveArg, as_json: JsonOption = False) -> None:
    """List what earlier ingests reported.

    Example: deepstreaks archive ingests survey.zarr
    """
    from deepstreaks_dask.archive.ingests import ingest_reports
    from deepstreaks_dask.readers.reports import REPORT_COLUMNS, describe_reports

    reports = ingest_reports(archive)
    if as_json:
        print_json(reports)
        return
    print_table(REPORT_COLUMNS, describe_reports(reports), importance=("time", "source", "added"))
    remarks = [(report["time"], one) for report in reports for one in report.get("remarks", ())]
    if remarks:
        rows = [
            (time, one["what"], one["count"], " ".join(one["examples"][0].values()))
            for time, one in remarks
        ]
        print_table(("time", "not understood", "inputs", "first"), rows, kept=3)


@archive_app.command("retract")
def archive_retract(
    archive: ArchiveArg,
    night: Annotated[int, typer.Argument(help="Night to withdraw, YYYYMMDD.")],
    undo: Annotated[
        bool, typer.Option("--undo", help="Bring the withdrawn rows of the night back.")
    ] = False,
    remove_scores: Annotated[
        bool, typer.Option("--remove-scores", help="Remove its scores, instead of keeping them.")
    ] = False,
    remove_verdicts: Annotated[
        bool,
        typer.Option("--remove-verdicts", help="Undo its verdicts, instead of keeping them."),
    ] = False,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Withdraw a night from an archive: its cutouts are left out from then on, but kept.

    Scores and verdicts are kept as history, too, unless they are to be removed.

    Example: deepstreaks archive retract survey.zarr 20260101
    """
    from deepstreaks_dask.archive.corrections import restore, retract

    if undo and (remove_scores or remove_verdicts):
        raise DeepStreaksError("--undo removes nothing: give it alone")
    ids = _ids_of(archive, night) if remove_verdicts else []
    done = restore(archive, night) if undo else retract(archive, night, remove_scores=remove_scores)
    values = done.to_dict()
    if remove_verdicts:
        values["verdicts"] = withdraw_verdicts(archive, database, ids)
    say(as_json, values)


def _ids_of(archive: str, night: int) -> list[str]:
    """Return the ids of a night, of withdrawn rows, too."""
    from deepstreaks_dask.archive.dataset import open_archive

    rows = open_archive(archive, cache=True, retracted=True)
    return [str(name) for name in rows["id"].values[rows["night"].values == night]]


@archive_app.command("label")
def archive_label(
    archive: ArchiveArg,
    table: Annotated[
        str, typer.Argument(help="CSV, Parquet or ECSV with ids or files and labels.")
    ],
    columns: ColumnsOption = None,
    labels: LabelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set labels of cutouts that are in an archive.

    Labels that the table does not give are kept.

    Example: deepstreaks archive label survey.zarr labels.csv
    """
    from deepstreaks_dask.readers.labelling import label_archive

    done = label_archive(
        archive,
        table,
        columns={name: own for own, name in pairs("--columns", columns)},
        words=dict(pairs("--labels", labels)),
    )
    if as_json:
        print_json(done.to_dict())
        return
    rows = [("rows of the table", f"{done.given:,}"), ("matched", f"{done.matched:,}")]
    rows += [(f"{name} changed", f"{count:,}") for name, count in done.changed.items()]
    print_table(("labels", "count"), rows, title=archive, kept=2)
    if done.unmatched:
        print(f"no cutout: {', '.join(done.unmatched)}")


@archive_app.command("summary")
def archive_summary(archive: ArchiveArg, as_json: JsonOption = False) -> None:
    """Count what an archive holds.

    Example: deepstreaks archive summary week.zarr
    """
    from deepstreaks_dask.archive.dataset import summary

    found = summary(archive)
    if as_json:
        print_json(found.to_dict())
        return
    _print_summary(found)


def _print_summary(found: ArchiveSummary) -> None:
    """Print an archive's summary as tables: what it holds, its labels, what was refused."""
    rows = [("cutouts", f"{found.cutouts:,}")]
    if found.objects:
        rows.append(("objects", f"{found.objects:,}"))
    rows += [
        ("shard", f"{found.shard:,}"),
        ("size", f"{found.bytes / 1e6:,.1f} MB"),
        ("nights", _describe_nights(found.nights)),
        *((f"filter {name or 'unknown'}", f"{count:,}") for name, count in found.filters.items()),
        *((f"kind {name or 'unknown'}", f"{count:,}") for name, count in found.kinds.items()),
        *(("run", name) for name in found.runs),
        ("withdrawn", f"{found.retracted:,}"),
        ("quarantined", f"{sum(found.quarantined.values()):,}"),
    ]
    print_table(("archive", "count or value"), rows, title=found.url, kept=2)
    values = ("positive", "negative", "unknown")
    labels = [
        (family, *(f"{of.get(value, 0):,}" for value in values))
        for family, of in found.labels.items()
    ]
    print_table(("label", *values), labels)
    if found.quarantined:
        refused = [(reason, f"{count:,}") for reason, count in found.quarantined.items()]
        print_table(("quarantined because", "files"), refused, kept=2)


def _describe_nights(nights: Mapping[int, int]) -> str:
    """Describe how many nights there are, and from which to which."""
    if len(nights) < 2:
        return "".join(map(str, nights)) or "none"
    return f"{len(nights):,}, {min(nights)} to {max(nights)}"


@archive_app.command("verify")
def archive_verify(archive: ArchiveArg, as_json: JsonOption = False) -> None:
    """Read every shard again and name those that are damaged.

    Example: deepstreaks archive verify week.zarr
    """
    from deepstreaks_dask.archive.verification import verify

    result = verify(archive, progress=True)
    if as_json:
        print_json(result.to_dict())
    else:
        for shard in result.damaged:
            print(f"{shard.key}: rows {shard.first} to {shard.last}: {shard.why}")
        print(f"{result.shards} shards, {len(result.damaged)} damaged")
    raise typer.Exit(0 if result.ok else 2)
