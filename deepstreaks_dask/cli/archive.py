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
    JsonOption,
    OverwriteOption,
    check_new,
    check_night,
    pairs,
)
from deepstreaks_dask.cli.output import print_json, print_table, say
from deepstreaks_dask.errors import DeepStreaksError

if TYPE_CHECKING:
    from deepstreaks_dask.archive.dataset import ArchiveSummary
    from deepstreaks_dask.readers.options import Polarity


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
        say(as_json, made.to_dict())
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
    source: Annotated[Path, typer.Argument(help="Folder or file of cutouts, or of alert packets.")],
    archive: ArchiveArg,
    table: Annotated[
        Path | None, typer.Option(help="CSV, Parquet or ECSV with metadata and labels.")
    ] = None,
    night: Annotated[int | None, typer.Option(help="Night of all cutouts, YYYYMMDD.")] = None,
    reader: Annotated[
        str | None,
        typer.Option(help="Format; found out by default.", autocompletion=choose("reader")),
    ] = None,
    shard: Annotated[int, typer.Option(help="Cutouts a shard of a new archive.")] = 1024,
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
    columns: Annotated[
        list[str] | None,
        typer.Option(help="Columns of the table under other names: file=Filename,label_rb=class."),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(help="Labels that words stand for: asteroid=1,bogus=0 or kd:ditch=0."),
    ] = None,
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
    as_json: JsonOption = False,
) -> None:
    """Add cutouts to an archive, which is made if it does not exist.

    Alerts go to an archive of their own: it holds triplets of science, template and difference.

    Example: deepstreaks ingest cutouts/20260101 survey.zarr --table labels.csv
    """
    from deepstreaks_dask.readers.ingestion import find_reader, prepare_archive
    from deepstreaks_dask.readers.ingestion import ingest as read_into
    from deepstreaks_dask.readers.labels import as_label
    from deepstreaks_dask.readers.registry import wants_processes

    chosen = find_reader(source, reader)
    prepare_archive(archive, chosen, shard=shard)
    with ExitStack() as stack:
        client = None
        if workers or scheduler or wants_processes(chosen, chosen.count(source)):
            from deepstreaks_dask.scoring.cluster import connect

            client = stack.enter_context(connect(scheduler or "local", workers=workers))
        done = read_into(
            source,
            archive,
            reader=chosen.name,
            table=table,
            night=night,
            columns={name: own for own, name in pairs("--columns", columns)},
            labels={name: as_label(value) for name, value in pairs("--labels", labels)},
            labels_from_folders=labels_from_folders,
            keep_columns=keep_columns,
            polarity=cast("Polarity", polarity),
            plane=plane,
            client=client,
        )
    say(as_json, done.to_dict())


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
