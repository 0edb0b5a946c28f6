"""The command line, ``deepstreaks``: one thin function a sub-command."""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import deepstreaks_dask
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.options import (
    EpochsOption,
    JsonOption,
    PatienceOption,
    RateOption,
    RunOption,
    SchedulerOption,
    SeedOption,
    StartZooOption,
    WorkersOption,
    print_json,
    say,
)
from deepstreaks_dask.sequences.commands import app as sequences_app

if TYPE_CHECKING:
    import pandas as pd

    from deepstreaks_dask.review import Review

app = typer.Typer(
    name="deepstreaks",
    help="Find fast-moving asteroids in archives of survey cutouts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
models_app = typer.Typer(no_args_is_help=True, help="Look into a zoo of trained networks.")
archive_app = typer.Typer(no_args_is_help=True, help="Look into an archive, or check it.")
app.add_typer(models_app, name="models")
triage_app = typer.Typer(no_args_is_help=True, help="Reject by a first look, with a guarantee.")
app.add_typer(triage_app, name="triage")
app.add_typer(archive_app, name="archive")
app.add_typer(sequences_app, name="sequences")
users_app = typer.Typer(no_args_is_help=True, help="Who may log in to an archive's review.")
app.add_typer(users_app, name="users")
thresholds_app = typer.Typer(no_args_is_help=True, help="Find thresholds, or list those kept.")
app.add_typer(thresholds_app, name="thresholds")

ArchiveArg = Annotated[str, typer.Argument(help="Archive: a path or any fsspec URL.")]
ZooOption = Annotated[
    str | None,
    typer.Option("--zoo", help="Zoo of networks: a path or URL. Default: the shipped one."),
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(help="Review database, SQLAlchemy's URL. Default: a file beside the archive."),
]
VerdictsOption = Annotated[
    bool,
    typer.Option("--verdicts", help="Lay what reviewers agree on over the archive's labels."),
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


def main() -> None:
    """Run the command line; a mistake of the user's becomes one line and exit status 1."""
    if not os.environ.get("DEEPSTREAKS_DEBUG"):
        _silence_native_code()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # who reads a dashboard's address from a pipe, or from a log, wants it before the dashboard ends
        sys.stdout.reconfigure(line_buffering=True)
    try:
        app()
    except DeepStreaksError as error:
        print(f"deepstreaks: {error}", file=sys.stderr)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    if version:
        print(deepstreaks_dask.__version__)
        raise typer.Exit


@app.command()
def quickstart(
    folder: Annotated[Path, typer.Option(help="Where to put everything.")] = Path("quickstart"),
    nights: Annotated[int, typer.Option(min=1, help="How many.")] = 7,
    cutouts: Annotated[int, typer.Option(min=1, help="Cutouts a night.")] = 300,
    as_json: JsonOption = False,
) -> None:
    """Do the whole job on a simulated week and write a report.

    Example: deepstreaks quickstart --folder first-week
    """
    from deepstreaks_dask.quickstart import quickstart as run

    result = run(folder, nights=nights, cutouts=cutouts)
    if as_json:
        print_json(result)
        return
    joint = result["joint"]
    console.print(
        f"\n{result['cutouts']:,} simulated cutouts of {nights} nights scored, "
        f"{result['plausible']:,} plausible, {result['quarantined']} damaged files quarantined."
    )
    for name, words in (("tpr", "true-positive rate"), ("fpr", "false-positive rate")):
        rate = joint[name]
        if rate["total"]:
            console.print(
                f"{words}: {rate['value']:.4f} "
                rf"\[{rate['low']:.4f}, {rate['high']:.4f}] (95 %, on simulated data)"
            )
    print(f"\nThe report: {Path(result['report']).resolve()}")
    print("Try next:")
    print(f"  deepstreaks decide {result['archive']} --threshold kd=0.9")
    print(f"  deepstreaks evaluate {result['archive']} --threshold rb=0.7")
    print("  deepstreaks ingest YOUR_FOLDER your.zarr && deepstreaks score your.zarr")


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
    as_json: JsonOption = False,
) -> None:
    """Simulate labelled nights into a new archive, as folders of JPEG files, or as a depot.

    Example: deepstreaks simulate week.zarr --nights 7 --cutouts 300 --seed 1
    """
    from deepstreaks_dask.archive import append, create
    from deepstreaks_dask.progress import progress_bar
    from deepstreaks_dask.simulate.depot import write_depot
    from deepstreaks_dask.simulate.nights import Night, calendar, simulate_nights, write_images

    if images and depot:
        raise DeepStreaksError("give --images or --depot, not both")
    with progress_bar("simulate", nights * cutouts) as bar:
        if images or depot:
            write = write_images if images else write_depot
            for night in calendar(first, nights):
                write(Path(archive), Night.draw(night, seed), cutouts)
                bar.advance(cutouts)
            say(as_json, {"folder": archive, "cutouts": nights * cutouts})
            return
        create(archive, shard=shard)
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as executor:
            batches = simulate_nights(nights, cutouts, seed=seed, first=first, executor=executor)
            result = append(archive, bar.over(batches, lambda batch: batch.rows))
    say(as_json, result.to_dict())


@app.command()
def ingest(
    source: Annotated[Path, typer.Argument(help="Folder or file of cutouts, or of alert packets.")],
    archive: ArchiveArg,
    table: Annotated[
        Path | None, typer.Option(help="CSV, Parquet or ECSV with metadata and labels.")
    ] = None,
    night: Annotated[int | None, typer.Option(help="Night of all cutouts, YYYYMMDD.")] = None,
    reader: Annotated[str | None, typer.Option(help="Format; found out by default.")] = None,
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
    as_json: JsonOption = False,
) -> None:
    """Add cutouts to an archive, which is made if it does not exist.

    Alerts go to an archive of their own: it holds triplets of science, template and difference.

    Example: deepstreaks ingest cutouts/20260101 survey.zarr --table labels.csv
    """
    from deepstreaks_dask.archive import append, create
    from deepstreaks_dask.progress import progress_bar
    from deepstreaks_dask.readers import get_reader, layout_of, sniff, wants_processes
    from deepstreaks_dask.storage import locate

    chosen = get_reader(reader) if reader else sniff(source)
    total = chosen.count(source)
    fs, root = locate(archive)
    if not fs.exists(root):
        create(archive, shard=shard, **layout_of(chosen))
    with ExitStack() as stack:
        executor = None
        if workers or scheduler or wants_processes(chosen, total):
            from deepstreaks_dask.cluster import connect

            client = stack.enter_context(connect(scheduler or "local", workers=workers))
            executor = client.get_executor()
        bar = stack.enter_context(progress_bar("ingest", total))
        batches = chosen.read(source, table=table, night=night, executor=executor)
        # of sequences, too, what is counted is images
        counted = bar.over(batches, lambda batch: len(batch.cutouts) + len(batch.quarantined))
        result = append(archive, counted)
    say(as_json, result.to_dict())


@app.command()
def train(
    archive: ArchiveArg,
    family: Annotated[
        list[str], typer.Option(help="rb, sl, kd or os. Repeated: trained together, saved apart.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the record and networks; training/… by default.")
    ] = None,
    zoo: Annotated[
        str | None, typer.Option(help="Zoo that gets the networks, too: a path or URL.")
    ] = None,
    architecture: Annotated[str, typer.Option(help="vgg6, resnet50 or densenet121.")] = "vgg6",
    version: Annotated[str, typer.Option(help="Version of the network in the zoo.")] = "1",
    recipe: RecipeOption = "duev2019",
    epochs: EpochsOption = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Cutouts in a step.")] = None,
    rate: RateOption = None,
    patience: PatienceOption = None,
    by: Annotated[
        str | None, typer.Option(help="Column that no two parts of the data share: night, id, …")
    ] = None,
    seed: SeedOption = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, mixed_bfloat16 or mixed_float16.")
    ] = None,
    window: WindowOption = None,
    start: Annotated[
        str, typer.Option("--from", help="Network whose weights to start from, like rb_vgg6@1.")
    ] = "",
    start_zoo: StartZooOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a member of a family, or of several at once. Killed? Run it again: it goes on.

    Whole nights are held out for early stopping and for the test.

    Example: deepstreaks train week.zarr --family rb --recipe short --zoo my-zoo
    """
    from deepstreaks_dask.archive import open_archive
    from deepstreaks_dask.progress import progress_bar
    from deepstreaks_dask.training import publish, read_recipe, train_in

    chosen = read_recipe(
        recipe,
        epochs=epochs,
        batch=batch,
        learning_rate=rate,
        patience=patience,
        by=by,
        seed=seed,
        precision=precision,
        window=window,
    )
    folder = out or Path("training") / f"{'-'.join(family)}_{architecture}"
    with progress_bar(f"train {folder.name}", chosen.epochs, unit="epochs") as bar:
        record = train_in(
            folder,
            open_archive(archive),
            family,
            architecture,
            recipe=chosen,
            start=start,
            start_zoo=start_zoo,
            version=version,
            on_epoch=lambda *_: bar.advance(),
        )
    if zoo is not None:
        publish(folder, zoo)
    made = [
        {"model": f"{card['name']}@{card['version']}", "sha256": card["sha256"], **card["metrics"]}
        for card in record["cards"]
    ]
    if as_json:
        print_json(made)
        return
    for values in made:
        say(False, values)
    print(f"record: {folder}")


@app.command()
def retrain(
    archive: ArchiveArg,
    family: Annotated[
        list[str] | None, typer.Option(help="Whose newest members to train again; may be repeated.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Or one network, like rb_vgg6@1.")
    ] = None,
    start_zoo: StartZooOption = None,
    zoo: Annotated[
        str | None, typer.Option("--zoo", help="Zoo that gets what is better: a path or URL.")
    ] = None,
    database: DatabaseOption = None,
    out: Annotated[Path, typer.Option(help="Folder: a training a network.")] = Path("training"),
    version: Annotated[
        str | None, typer.Option(help="Of the new networks. Default: one more than the old one's.")
    ] = None,
    recipe: RecipeOption = "again",
    epochs: EpochsOption = None,
    by: Annotated[
        str | None, typer.Option(help="Column that no two parts of the data share: night, …")
    ] = None,
    seed: SeedOption = None,
    window: WindowOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train networks again with reviewers' verdicts, compare them with the old, and keep what is better.

    What people dispute or are unsure of is left out. Old and new score nights that neither was trained on.
    Killed? Run it again: it goes on.

    Example: deepstreaks retrain week.zarr --family rb --zoo my-zoo
    """
    from deepstreaks_dask.families import Families
    from deepstreaks_dask.models.zoo import Zoo
    from deepstreaks_dask.progress import progress_bar
    from deepstreaks_dask.retraining import next_version
    from deepstreaks_dask.retraining import retrain as run
    from deepstreaks_dask.training import publish, read_recipe

    if bool(family) == bool(start):
        raise DeepStreaksError("give --family, or one network by --from")
    if start:
        cards = [Zoo(start_zoo).card(start)]
    else:
        members = Families.from_zoo(start_zoo, family or ()).members
        cards = [Zoo(start_zoo).card(member.ref) for member in members]
    review = _review(archive, database)
    chosen = read_recipe(recipe, epochs=epochs, by=by, seed=seed, window=window)
    done = []
    for card in cards:
        folder = out / f"{card.name}@{version or next_version(card)}"
        with progress_bar(f"retrain {folder.name}", chosen.epochs, unit="epochs") as bar:
            record = run(
                folder,
                archive,
                review,
                card.ref,
                zoo=start_zoo,
                version=version,
                recipe=chosen,
                on_epoch=lambda *_, bar=bar: bar.advance(),
            )
        found = record["comparison"]
        if found["better"] and zoo is not None:
            publish(folder, zoo)
        done.append(
            {
                "old": card.ref,
                "new": folder.name,
                "verdicts": record["verdicts"],
                **found,
                "zoo": zoo if found["better"] else None,
                "record": str(folder),
            }
        )
    if as_json:
        print_json(done)
        return
    for one in done:
        print(
            f"{one['old']} to {one['new']}, {one['cutouts']:,} cutouts of {one['nights']} held-out nights:"
        )
        for name, words in (("auc", "area"), ("tpr", f"TPR at FPR {one['fpr'] or 0:.4f}")):
            gain = one[f"{name}_gain"]
            if gain["low"] is not None:
                before, after = (one[f"{name}_{which}"]["value"] for which in ("old", "new"))
                span = f"{gain['value']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
                print(f"  {words}: {before:.4f}, now {after:.4f}; gain {span}")
        if one["better"]:
            print(f"  better; {'put into ' + zoo if zoo else 'name a --zoo that gets it'}")
        else:
            print(f"  not offered: {one['why_not']}")
        print(f"  record: {one['record']}")


@app.command("train-all")
def train_all(
    archive: ArchiveArg,
    out: Annotated[Path, typer.Option(help="Folder: a training a member, and the page.")] = Path(
        "training"
    ),
    families: Annotated[str, typer.Option(help="Families, comma-separated.")] = "rb,sl,kd",
    architectures: Annotated[
        str, typer.Option(help="Architectures, comma-separated.")
    ] = "vgg6,resnet50,densenet121",
    zoo: Annotated[
        str | None, typer.Option(help="Zoo that gets the networks, too: a path or URL.")
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the networks in the zoo.")] = "1",
    recipe: RecipeOption = "duev2019",
    epochs: EpochsOption = None,
    seed: SeedOption = None,
    window: WindowOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train every member of every family, one by one, and draw learning curves, ROC and confusion.

    Killed? Run it again: it goes on.

    Example: deepstreaks train-all week.zarr --recipe short --out week-training
    """
    from deepstreaks_dask.progress import progress_bar
    from deepstreaks_dask.training import publish, read_recipe
    from deepstreaks_dask.training.everyone import train_everyone

    chosen = read_recipe(recipe, epochs=epochs, seed=seed, window=window)
    names = [name.strip() for name in families.split(",")]
    kinds = [name.strip() for name in architectures.split(",")]
    total = chosen.epochs * len(names) * len(kinds)
    with progress_bar("train all", total, unit="epochs") as bar:
        evaluation = train_everyone(
            out, archive, names, kinds, recipe=chosen, version=version, on_epoch=bar.advance
        )
    if zoo is not None:
        for member in evaluation.members["member"]:
            publish(out / member, zoo)
    result = {"page": str(out / "training.html"), **evaluation.to_dict()}
    if as_json:
        print_json(result)
        return
    print(f"learning curves, ROC and confusion: {out / 'training.html'}")


@app.command()
def sweep(
    archive: ArchiveArg,
    family: Annotated[list[str], typer.Option(help="rb, sl, kd or os. Repeated: together.")],
    search: Annotated[
        list[str],
        typer.Option(help="setting=1e-4:1e-2 (range) or setting=16,32,64 (choices). Repeated."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the sweep; workers must reach it.")] = Path(
        "sweep"
    ),
    architecture: Annotated[str, typer.Option(help="vgg6, resnet50 or densenet121.")] = "vgg6",
    trials: Annotated[int, typer.Option(min=1, help="Trainings in all.")] = 20,
    recipe: RecipeOption = "short",
    epochs: EpochsOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the settings that are tried.")] = 0,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search for better settings on Dask workers, one network a worker. Killed? Run it again.

    Needs Optuna: pip install 'deepstreaks-dask[sweep]'.

    Example: deepstreaks sweep week.zarr --family rb --search learning_rate=1e-4:1e-2 --trials 20
    """
    from deepstreaks_dask.archive import open_archive
    from deepstreaks_dask.cluster import connect
    from deepstreaks_dask.training import read_recipe
    from deepstreaks_dask.training.sweeps import sweep as run

    space = {}
    for item in search:
        name, _, spec = item.partition("=")
        space[name.strip()] = spec
    chosen = read_recipe(recipe, epochs=epochs)
    open_archive(archive)  # before workers start for nothing
    with connect(scheduler, workers=workers) as client:
        table = run(
            out,
            archive,
            family,
            architecture,
            space,
            client,
            trials=trials,
            recipe=chosen,
            seed=seed,
        )
    if as_json:
        print_json(json.loads(table.to_json(orient="records")))
        return
    print(table.head(10).to_string(index=False))
    print(f"best settings: {out / 'best.toml'}, for 'deepstreaks train --recipe'")


@app.command()
def score(
    archive: ArchiveArg,
    run: RunOption = "default",
    zoo: ZooOption = None,
    families: Annotated[str, typer.Option(help="Families, comma-separated.")] = "rb,sl,kd",
    families_file: Annotated[
        Path | None, typer.Option(help="TOML file that says which families, in place of these two.")
    ] = None,
    workers: WorkersOption = None,
    adapt: AdaptOption = None,
    scheduler: SchedulerOption = None,
    precision: PrecisionOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Cutouts in a forward pass.")] = 64,
    only_decide: DecideOption = False,
    triage: Annotated[
        str | None,
        typer.Option(
            help="File of 'deepstreaks triage fit': reject by its first look, within its guarantee."
        ),
    ] = None,
    flips: Annotated[
        bool,
        typer.Option(
            "--flips", help="Mean score of a cutout and its three flips: four times the work."
        ),
    ] = False,
    threshold: ThresholdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score what has no scores yet. Killed? Run it again: it goes on where it was.

    SIGTERM ('kill PID') stops it once the shards under way are stored; the exit status is 3 then.

    Example: deepstreaks score week.zarr --run new-weights --zoo my-zoo
    """
    import signal
    import threading

    from deepstreaks_dask.archive import open_archive
    from deepstreaks_dask.campaign import Mode
    from deepstreaks_dask.campaign import score as run_campaign
    from deepstreaks_dask.cluster import connect
    from deepstreaks_dask.decision import Decision
    from deepstreaks_dask.families import Families
    from deepstreaks_dask.triage import read

    if threshold and not only_decide:
        raise DeepStreaksError(
            "thresholds matter to 'score' with --decide only: give them to 'deepstreaks decide'"
        )
    if families_file is not None and zoo is not None:
        raise DeepStreaksError("give --families-file or --zoo: the file names the zoo")
    if families_file is not None:
        chosen = Families.from_file(families_file)
    else:
        chosen = Families.from_zoo(zoo, [name.strip() for name in families.split(",")])
    if only_decide and triage is not None:
        raise DeepStreaksError("give --decide or --triage: a triage decides, too")
    mode: Mode = "triage" if triage is not None else "decide" if only_decide else "all"
    guarantee = read(triage) if triage is not None else None
    decision = Decision(_thresholds(threshold)) if only_decide else None
    open_archive(archive)  # before workers start for nothing
    stop = threading.Event()

    def asked_to_stop(*_: Any) -> None:
        stop.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # who asks twice does not want to wait

    signal.signal(signal.SIGTERM, asked_to_stop)
    with connect(scheduler, workers=workers, adapt=adapt) as client:
        scores = run_campaign(
            archive,
            chosen,
            client,
            run=run,
            batch=batch,
            mode=mode,
            decision=decision,
            triage=guarantee,
            precision=precision,
            flips=flips,
            stop=stop,
        )
    failures = scores.attrs["failures"]
    looked = scores["scores"].notnull()
    _, *inner = looked.dims
    done = looked.all(inner) if mode == "all" else looked.any(inner)
    if guarantee is not None:
        done = done | scores["rejected"]
    result = {
        "run": run,
        "scored": int(done.sum()),
        "cutouts": done.size,
        "looks": int(looked.sum()),
        "failures": failures,
    }
    if guarantee is not None:
        result["rejected"] = int(scores["rejected"].sum())
        result["drifted"] = scores.attrs["drifted"]
        result["guarantee"] = guarantee.guarantee
        result["seen"] = guarantee.seen
    if "precision_effect" in scores.attrs:
        result["precision_effect"] = scores.attrs["precision_effect"]
    if stop.is_set():
        result["stopped"] = True
    say(as_json, result)
    if failures or stop.is_set():
        raise typer.Exit(2 if failures else 3)


@app.command()
def decide(
    archive: ArchiveArg,
    threshold: ThresholdOption = None,
    thresholds: ThresholdsOption = None,
    where: Annotated[
        str | None,
        typer.Option(help="Filter, like 'rb > 0.9 and rb_spread < 0.2 and kind == \"nea\"'."),
    ] = None,
    run: RunOption = "default",
    calibrated: CalibratedOption = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Write the candidates: a path or URL that ends in .csv, .parquet, .ecsv, .vot, or for "
            "the Minor Planet Center .psv or .xml (ADES).",
        ),
    ] = None,
    ades: Annotated[
        Path | None,
        typer.Option(help="TOML file with submitter = 'J. Doe' and whatever else ADES is to say."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List plausible candidates under any thresholds; nothing is scored again.

    Example: deepstreaks decide week.zarr -t kd=0.9 -t rb_vgg6=0.6 -o candidates.csv
    """
    from deepstreaks_dask.catalogue import Catalogue
    from deepstreaks_dask.decision import Decision
    from deepstreaks_dask.export import Submission, candidates, export
    from deepstreaks_dask.thresholds import read

    scores = _open_scores(archive, run, calibrated)
    named = read(thresholds) if thresholds else Decision.of_run(scores)
    decision = replace(named, thresholds={**named.thresholds, **_thresholds(threshold)})
    decided = decision.apply(scores)
    if where:
        passing = Catalogue(decided, decision).where(where)
        decided = decided.assign(plausible=decided["plausible"] & passing)
    frame = candidates(decided)
    submission = Submission.read(ades) if ades else None
    done = export(frame, output, submission=submission, decision=decision) if output else None
    if as_json:
        said: dict[str, Any] = {
            "plausible": len(frame),
            "undecided": int(decided["undecided"].sum()),
        }
        if done:
            said |= {"written": done.written, "left_out": done.left_out}
        print_json({**said, "candidates": json.loads(frame.to_json(orient="records"))})
        return
    models = [str(name) for name in decided["model"].values]
    shown = frame[["id", "night", "jd", "filter", "ra", "dec", "length", "mag", *models]]
    table = Table(*shown.columns, title="Plausible candidates")
    for _, row in shown.head(20).iterrows():
        table.add_row(*(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row))
    console.print(table)
    print(f"{len(frame):,} plausible of {decided.sizes['cutout']:,} cutouts")
    if done:
        left_out = ", ".join(f"{count:,} left out: {why}" for why, count in done.left_out.items())
        print(f"{done.written:,} written to {output}" + (f" ({left_out})" if left_out else ""))


@app.command()
def watch(
    depot: Annotated[str, typer.Argument(help="URL of a directory listing, or a folder.")],
    archive: ArchiveArg,
    state: Annotated[
        Path, typer.Option(help="Folder of the service: downloads, record, log.")
    ] = Path("watch"),
    night: Annotated[int | None, typer.Option(help="Only this night, YYYYMMDD.")] = None,
    first: Annotated[int | None, typer.Option("--from", help="First night to back-fill.")] = None,
    last: Annotated[
        int | None, typer.Option("--to", help="Last night; tonight by default.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 60.0,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds that a tarball may wait to become whole.")
    ] = 900.0,
    credentials: Annotated[
        Path | None, typer.Option(help="File like .netrc, mode 600; else from the environment.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the depot.")] = 30.0,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Health and metrics on the loopback.")
    ] = None,
    threshold: ThresholdOption = None,
    only_decide: DecideOption = False,
    run: RunOption = "default",
    zoo: ZooOption = None,
    workers: WorkersOption = None,
    adapt: AdaptOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch, append, score and record what is new in a depot, again and again. Ctrl+C ends it.

    User and password are taken from DEEPSTREAKS_DEPOT_USER and DEEPSTREAKS_DEPOT_PASSWORD.

    Example: deepstreaks watch https://depot.example/ztf survey.zarr --night 20260105 --once
    """
    import signal
    import threading
    from functools import partial

    from deepstreaks_dask.cluster import connect
    from deepstreaks_dask.depots import open_depot
    from deepstreaks_dask.watch import Scorer, Settings, nights_between
    from deepstreaks_dask.watch import watch as run_service

    if night is not None and (first is not None or last is not None):
        raise DeepStreaksError("give --night, or --from and --to, not both")
    nights = nights_between(night or first, night or last)
    source = open_depot(depot, credentials=credentials, timeout=timeout)
    settings = Settings(archive, state, run=run, poll=poll, patience=patience, port=port)
    connect_workers = partial(connect, scheduler, workers=workers, adapt=adapt)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    scorer = Scorer(zoo, run, _thresholds(threshold), connect_workers, only_decide=only_decide)
    with scorer:
        did = run_service(source, settings, scorer, nights, once=once, stop=stop)
    say(as_json, did)


@app.command()
def evaluate(
    archive: ArchiveArg,
    threshold: ThresholdOption = None,
    run: RunOption = "default",
    calibrated: CalibratedOption = False,
    verdicts: VerdictsOption = False,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure members, families and the decision against the archive's labels, or reviewers' verdicts.

    Reviewers judge what they are shown, mostly candidates: what networks missed is hardly among it, and a true-positive rate
    from verdicts alone is too high.

    Example: deepstreaks evaluate week.zarr -t kd=0.9 --json
    """
    from deepstreaks_dask.decision import Decision
    from deepstreaks_dask.evaluation import evaluate as run_evaluation
    from deepstreaks_dask.review import with_labels

    scores = _open_scores(archive, run, calibrated)
    if verdicts:
        scores = with_labels(scores, _said(archive, database))
    result = run_evaluation(scores, Decision.of_run(scores, _thresholds(threshold)))
    if as_json:
        print_json(result.to_dict())
        return
    table = Table("member", "AUC", "TPR", "FPR", title=f"{run}: 95 % intervals in brackets")
    for _, row in result.members.iterrows():
        cells = [
            f"{row[k]:.4f} \\[{row[k + '_low']:.4f}, {row[k + '_high']:.4f}]"
            for k in ("auc", "tpr", "fpr")
        ]
        table.add_row(row["member"], *cells)
    console.print(table)
    for name in ("tpr", "fpr", "precision"):
        estimate = getattr(result.joint, name)
        print(f"decision {name}: {estimate} ({estimate.count:,} of {estimate.total:,})")


@app.command()
def calibrate(
    archive: ArchiveArg,
    method: Annotated[str, typer.Option(help="temperature or isotonic.")] = "temperature",
    share: Annotated[float, typer.Option(help="Fraction of the nights to fit on.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of the nights.")] = 0,
    run: RunOption = "default",
    as_json: JsonOption = False,
) -> None:
    """Make probabilities of a run's scores; kept with the run, for --calibrated.

    Fitted on some labelled nights, measured on the others, and on nothing that a member was trained on.

    Example: deepstreaks calibrate week.zarr --method isotonic
    """
    from deepstreaks_dask.calibration import calibrate as fit
    from deepstreaks_dask.calibration import seen_in_training, store
    from deepstreaks_dask.runs import open_scores

    scores = open_scores(archive, run)
    made = fit(scores, method, share=share, seed=seed, leave_out=seen_in_training(scores))
    store(archive, run, made)
    if as_json:
        print_json(made.to_dict())
        return
    table = Table("member", "calibration error", "after", "by chance", "log loss", "after")
    for member, before in made.before.items():
        after = made.after[member]
        errors = [str(figures.ece).replace("[", r"\[") for figures in (before, after)]
        losses = [f"{figures.log_loss:.4f}" for figures in (before, after)]
        table.add_row(member, *errors, f"{after.chance:.4f}", *losses)
    console.print(table)
    print(
        f"fitted on {len(made.fitted)} nights, measured on {len(made.measured)} others; "
        f"{made.left_out:,} cutouts that a member was trained on were left out"
    )


@app.command()
def inject(
    archive: Annotated[
        str | None, typer.Argument(help="Archive whose cutouts get streaks. None: simulated ones.")
    ] = None,
    out: Annotated[str, typer.Option(help="Archive to make: a path or URL.")] = "injected.zarr",
    magnitudes: Annotated[
        str, typer.Option(help="Of the whole streaks, comma-separated.")
    ] = "15,16,17,18,19",
    lengths: Annotated[str, typer.Option(help="Pixels, comma-separated.")] = "5,10,20,40,80",
    each: Annotated[int, typer.Option(min=1, help="Streaks a magnitude and length.")] = 50,
    where: Annotated[
        str, typer.Option(help="Filter: which cutouts. Default: bogus ones, where labelled.")
    ] = "",
    noise: Annotated[
        float | None, typer.Option(help="Electrons, noise of an empty pixel of a real cutout.")
    ] = None,
    zero_point: Annotated[
        float | None, typer.Option(help="Magnitude of one electron in the exposure.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal streaks.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Put simulated streaks of known magnitude and length into cutouts, to see which are recovered.

    Then: deepstreaks score injected.zarr && deepstreaks completeness injected.zarr

    Example: deepstreaks inject survey.zarr --out injected.zarr --magnitudes 16,17,18 --lengths 5,20
    """
    from deepstreaks_dask.injection import NOISE
    from deepstreaks_dask.injection import inject as run
    from deepstreaks_dask.simulate.nights import ZERO_POINT

    result = run(
        archive,
        out,
        _numbers("--magnitudes", magnitudes),
        _numbers("--lengths", lengths),
        each=each,
        where=where,
        noise=NOISE if noise is None else noise,
        zero_point=ZERO_POINT if zero_point is None else zero_point,
        seed=seed,
    )
    say(as_json, result.to_dict())


@app.command()
def completeness(
    archive: ArchiveArg,
    known: Annotated[
        Path | None,
        typer.Option(help="Table of known objects: id, jd, ra, dec. Default: injected streaks."),
    ] = None,
    radius: Annotated[float, typer.Option(min=0, help="Arcseconds.")] = 10.0,
    seconds: Annotated[float, typer.Option(min=0, help="Seconds between the times.")] = 60.0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .csv, or an .html of injected streaks.")
    ] = None,
    threshold: ThresholdOption = None,
    run: RunOption = "default",
    calibrated: CalibratedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure what share of injected streaks, or of known objects, is found plausible.

    Example: deepstreaks completeness survey.zarr --known asteroids.csv --radius 5
    """
    from deepstreaks_dask.completeness import completeness as match
    from deepstreaks_dask.completeness import read_known
    from deepstreaks_dask.decision import Decision
    from deepstreaks_dask.injection import recovery, write_map
    from deepstreaks_dask.storage import write_text

    if output is not None and output.suffix not in (".csv", *([] if known else [".html"])):
        raise DeepStreaksError(
            f"{output}: name a file that ends in .csv" + " or .html" * (not known)
        )
    scores = _open_scores(archive, run, calibrated)
    decided = Decision.of_run(scores, _thresholds(threshold)).apply(scores)
    if known is not None:
        found = match(decided, read_known(known), radius=radius, seconds=seconds)
        table = found.table
        rates = {name: getattr(found, name) for name in ("cut_out", "plausible", "recovered")}
    else:
        table, rates = recovery(decided), {}
    if output is not None and output.suffix == ".html":
        write_map(decided, table, output)
    elif output is not None:
        write_text(output, table.to_csv(index=False))
    if as_json:
        figures = {name: vars(rate) if rate.total else None for name, rate in rates.items()}
        print_json({**figures, "table": json.loads(table.to_json(orient="records"))})
        return
    for name, rate in rates.items():
        print(f"{name.replace('_', ' ')}: {rate} ({rate.count:,} of {rate.total:,})")
    if not rates:
        shown = table[table["which"] == "decision"].drop(columns="which")
        print(shown.to_string(index=False, float_format=lambda value: f"{value:.4g}"))


@app.command()
def queue(
    archive: ArchiveArg,
    by: Annotated[
        str,
        typer.Option(
            help="entropy (least sure), spread (members differ), margin (near thresholds)."
        ),
    ] = "entropy",
    most: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    where: Annotated[
        str | None, typer.Option(help="Filter, like 'rb_spread > 0.3 and filter == \"r\"'.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A .csv file.")] = None,
    threshold: ThresholdOption = None,
    run: RunOption = "default",
    calibrated: CalibratedOption = False,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the cutouts without a label or a verdict whose verdict would teach the networks most.

    The review shows them too: 'What would teach most' in 'deepstreaks dashboard survey.zarr --app review'.

    Example: deepstreaks queue survey.zarr --by spread --most 200 -o to-label.csv
    """
    import numpy as np

    from deepstreaks_dask.agreement import queue as order
    from deepstreaks_dask.agreement import with_agreement
    from deepstreaks_dask.catalogue import Catalogue
    from deepstreaks_dask.decision import Decision
    from deepstreaks_dask.storage import write_text

    scores = _open_scores(archive, run, calibrated)
    decision = Decision.of_run(scores, _thresholds(threshold))
    decided = with_agreement(decision.apply(scores), decision)
    passing = ~np.isin(decided["id"].values.astype(object), _judged(archive, database))
    if where:
        passing &= Catalogue(decided, decision).where(where)
    table = order(decided, decision, by=by, most=most, passing=passing)
    if output is not None:
        write_text(output, table.to_csv(index=False))
    if as_json:
        print_json(json.loads(table.to_json(orient="records")))
        return
    print(table.head(20).to_string(index=False))
    print(f"{len(table):,} cutouts" + (f" written to {output}" if output else ""))


@app.command()
def explain(
    archive: ArchiveArg,
    cutout: Annotated[str, typer.Argument(help="Id of the cutout.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png file.")] = Path(
        "explanation.png"
    ),
    run: RunOption = "default",
    zoo: ZooOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what each member of a run reacted to in a cutout: red speaks for a high score, blue against.

    Integrated gradients of the network's logit, from an empty sky; the cutout itself is on the left.

    Example: deepstreaks explain week.zarr 20260101_17 -o map.png
    """
    import io

    import numpy as np
    from PIL import Image

    from deepstreaks_dask.catalogue import Catalogue, grey
    from deepstreaks_dask.decision import Decision
    from deepstreaks_dask.explanations import explain as ask
    from deepstreaks_dask.runs import open_scores

    if output.suffix != ".png":
        raise DeepStreaksError(f"{output}: name a file that ends in .png")
    scores = open_scores(archive, run)
    decision = Decision.of_run(scores)
    catalogue = Catalogue(decision.apply(scores), decision)
    if (row := catalogue.find(cutout)) < 0:
        raise DeepStreaksError(f"{archive} has no cutout {cutout!r}")
    try:
        pixels = catalogue.pixels(row)
    except OSError as error:
        raise DeepStreaksError(
            f"{error}: look for damage with 'deepstreaks archive verify {archive}'"
        ) from error
    pictures, said = [grey(pixels)[..., None].repeat(3, axis=-1)], []
    for member in catalogue.members:
        found = ask(pixels, member, scores.attrs["members"], zoo)
        pictures.append(np.asarray(Image.open(io.BytesIO(found.png))))
        values = {"logit": found.logit, "sky": found.sky, "missing": found.missing}
        said.append({"member": member, "score": float(catalogue[member][row]), **values})
    Image.fromarray(np.hstack(pictures)).save(output)
    if as_json:
        print_json(said)
        return
    for one in said:
        print(
            f"{one['member']}: score {one['score']:.4f}, logit {one['logit']:.2f}, of an empty sky {one['sky']:.2f}"
        )
    print(f"the cutout, and what each member reacted to: {output}")


@app.command()
def report(
    archive: ArchiveArg,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path(
        "report.html"
    ),
    threshold: ThresholdOption = None,
    run: RunOption = "default",
    calibrated: CalibratedOption = False,
    verdicts: VerdictsOption = False,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page with distributions, curves, rates and cutouts.

    Example: deepstreaks report week.zarr -o report.html
    """
    from deepstreaks_dask.report import write_report

    write_report(
        archive,
        output,
        run=run,
        thresholds=_thresholds(threshold),
        probabilities=calibrated,
        verdicts=_said(archive, database) if verdicts else None,
    )
    say(as_json, {"report": str(output.resolve())})


@app.command()
def dashboard(
    archive: ArchiveArg,
    app: Annotated[str, typer.Option(help="explore, campaign or review.")] = "explore",
    run: RunOption = "default",
    address: Annotated[str, typer.Option(help="Of this machine, to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 5006,
    origin: Annotated[
        str | None,
        typer.Option(
            help="https://name of a reverse proxy on this machine; see docs/reverse-proxy.md."
        ),
    ] = None,
    database: DatabaseOption = None,
    zoo: ZooOption = None,
    show: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Look at scores, thresholds, candidates and campaigns in a browser. Ctrl+C stops.

    The review, and whatever other machines can reach, asks people to log in: add an administrator first with 'deepstreaks
    users add'.

    Example: deepstreaks dashboard week.zarr --app explore
    """
    from deepstreaks_dask.apps.serve import serve

    serve(
        archive,
        app,
        run=run,
        database=database,
        zoo=zoo,
        address=address,
        port=port,
        origin=origin,
        show=show,
    )


@triage_app.command("fit")
def fit_triage(
    archive: ArchiveArg,
    output: Annotated[str, typer.Option("--output", "-o", help="File to write, or its URL.")],
    run: RunOption = "default",
    zoo: Annotated[
        str | None,
        typer.Option("--zoo", help="Gets the student, or has the network that looks first."),
    ] = None,
    first: Annotated[
        str | None, typer.Option(help="Network that looks first; a student is trained by default.")
    ] = None,
    architecture: Annotated[str, typer.Option(help="Of the student.")] = "vgg6",
    side: Annotated[
        int | None,
        typer.Option(help="Pixels on a side of what the student sees. Default: the cutouts'."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of the student.")] = 6,
    precision: Annotated[
        str, typer.Option(help="It is trained in: float32, mixed_bfloat16 or mixed_float16.")
    ] = "float32",
    learn: Annotated[float, typer.Option(help="Share of the nights it learns from.")] = 0.3,
    check: Annotated[float, typer.Option(help="Share of the nights to see the loss on.")] = 0.2,
    loss: Annotated[float, typer.Option(help="Share of the plausible that may be lost.")] = 0.001,
    confidence: Annotated[float, typer.Option(help="0 to 1, that no more is lost.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Of the nights drawn, and the student.")] = 1,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Calibrate a first look on a run of all scores or of 'score --decide', for 'score --triage'.

    Example: deepstreaks triage fit survey.zarr --run full --zoo my-zoo -o triage.json
    """
    from deepstreaks_dask.cluster import connect
    from deepstreaks_dask.distillation import Plan, fit
    from deepstreaks_dask.runs import open_scores
    from deepstreaks_dask.triage import write

    if zoo is None and first is None:
        raise DeepStreaksError("give a --zoo that gets the student, or --first of the shipped ones")
    plan = Plan(
        first=first,
        architecture=architecture,
        side=side,
        epochs=epochs,
        precision=precision,
        learn=learn,
        check=check,
        loss=loss,
        confidence=confidence,
        seed=seed,
    )
    open_scores(archive, run)  # before workers start for nothing
    with connect(scheduler, workers=workers) as client:
        found = fit(archive, client, run=run, zoo=zoo, plan=plan)
    write(found, output)
    said = {
        "first": found.first,
        "threshold": found.threshold,
        "rejected": found.rejected / found.cutouts,
        "guarantee": found.guarantee,
        "seen": found.seen,
        "written": output,
    }
    say(as_json, said)


@models_app.command("list")
def models_list(zoo: ZooOption = None, as_json: JsonOption = False) -> None:
    """List the networks of a zoo.

    Example: deepstreaks models list
    """
    from deepstreaks_dask.models.zoo import Zoo

    cards = Zoo(zoo).list()
    if as_json:
        print_json([card.to_dict() for card in cards])
        return
    table = Table("model", "architecture", "created", "test AUC", "sha256")
    for card in cards:
        auc = card.metrics.get("auc")
        table.add_row(
            card.ref, card.architecture, card.created, f"{auc:.4f}" if auc else "", card.sha256[:12]
        )
    console.print(table)


@models_app.command("import")
def models_import(
    folder: Annotated[Path, typer.Argument(help="Folder of .architecture.json and .h5 files.")],
    zoo: Annotated[str, typer.Option(help="Zoo that gets the networks: a path or URL.")],
    config: Annotated[
        Path | None,
        typer.Option(help="JSON table of names, like rb_vgg6, and base names of files."),
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the networks in the zoo.")] = "1",
    as_json: JsonOption = False,
) -> None:
    """Take networks that Keras 2 wrote, such as the published ones, into a zoo: all of a folder, or none.

    Example: deepstreaks models import published --config config.json --zoo my-zoo
    """
    from deepstreaks_dask.models.legacy import find_sources, import_legacy
    from deepstreaks_dask.progress import progress_bar

    total = len(find_sources(folder, config))
    with progress_bar("import", total, unit="networks") as bar:
        cards = import_legacy(
            folder, zoo, config=config, version=version, on_model=lambda _: bar.advance()
        )
    if as_json:
        print_json([card.to_dict() for card in cards])
        return
    for card in cards:
        print(f"{card.ref}: {card.architecture}, {card.description}")


@models_app.command("verify")
def models_verify(zoo: ZooOption = None) -> None:
    """Load every network of a zoo and check its hash.

    Example: deepstreaks models verify --zoo my-zoo
    """
    from deepstreaks_dask.models.zoo import Zoo

    problems = Zoo(zoo).verify()
    for problem in problems:
        print(problem, file=sys.stderr)
    print("all networks are whole" if not problems else f"{len(problems)} problem(s)")
    raise typer.Exit(1 if problems else 0)


@archive_app.command("summary")
def archive_summary(archive: ArchiveArg, as_json: JsonOption = False) -> None:
    """Count what an archive holds.

    Example: deepstreaks archive summary week.zarr
    """
    from deepstreaks_dask.archive import summary

    say(as_json, summary(archive).to_dict())


@archive_app.command("verify")
def archive_verify(archive: ArchiveArg, as_json: JsonOption = False) -> None:
    """Read every shard again and name those that are damaged.

    Example: deepstreaks archive verify week.zarr
    """
    from deepstreaks_dask.archive import verify

    result = verify(archive, progress=True)
    if as_json:
        print_json(result.to_dict())
    else:
        for shard in result.damaged:
            print(f"{shard.key}: rows {shard.first} to {shard.last}: {shard.why}")
        print(f"{result.shards} shards, {len(result.damaged)} damaged")
    raise typer.Exit(0 if result.ok else 2)


@thresholds_app.command("search")
def thresholds_search(
    archive: ArchiveArg,
    fpr: Annotated[float | None, typer.Option(help="False-positive rate allowed.")] = None,
    budget: Annotated[
        float | None, typer.Option(help="Or candidates a night allowed, in the mean.")
    ] = None,
    by: Annotated[str, typer.Option(help="A threshold for each family or member.")] = "family",
    run: RunOption = "default",
    save: Annotated[
        str | None, typer.Option(help="Name to keep them by, with the archive.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="TOML file to write them to.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the nights kept out of the search.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Find the thresholds with the highest true-positive rate at a price; labels are needed.

    A third of the nights is kept out of the search, and says what they are worth.

    Example: deepstreaks thresholds search week.zarr --fpr 0.01 --by member --save "one per cent"
    """
    from deepstreaks_dask.exploration import explore
    from deepstreaks_dask.progress import progress_bar
    from deepstreaks_dask.search import search
    from deepstreaks_dask.thresholds import save as keep
    from deepstreaks_dask.thresholds import to_toml

    rounds = 100
    with progress_bar("search thresholds", rounds, unit="resamplings") as bar:
        exploration = explore(archive, run)
        found = search(
            exploration,
            fpr=fpr,
            budget=budget,
            by=by,
            rounds=rounds,
            seed=seed,
            advance=bar.advance,
        )
    written = [keep(archive, save, found.decision, run=run)] if save else []
    if output:
        name = save or output.stem
        output.write_text(to_toml(found.decision, name, run=run, archive=archive))
        written.append(str(output))
    if as_json:
        tables = {
            name: json.loads(table.to_json(orient="records", double_precision=15))
            for name, table in (("thresholds", found.thresholds), ("rates", found.rates))
        }
        print_json({**tables, "nights": found.nights, "written": written})
        return
    table = Table("threshold of", "value", "95 %, nights resampled")
    for _, row in found.thresholds.iterrows():
        table.add_row(
            row["name"], f"{row['threshold']:.6g}", f"{row['low']:.4g} to {row['high']:.4g}"
        )
    console.print(table)
    over = f"nights over {fpr if budget is None else budget:g}"
    table = Table("nights", "TPR", "FPR", "candidates a night", over)
    for _, row in found.rates.iterrows():
        cells = [
            f"{row[k]:.{n}f} \\[{row[k + '_low']:.{n}f}, {row[k + '_high']:.{n}f}]"
            for k, n in (("tpr", 4), ("fpr", 4), ("candidates", 1))
        ]
        table.add_row(f"{row['nights']} {row['part']}", *cells, str(row["over"]))
    console.print(table)
    print("What to expect is the last row: the others were used to choose. Brackets: 95 %.")
    for path in written:
        print(f"deepstreaks decide {shlex.join([archive, '--thresholds', path])}")


@thresholds_app.command("list")
def thresholds_list(archive: ArchiveArg, as_json: JsonOption = False) -> None:
    """List the sets of thresholds that are kept with an archive.

    Example: deepstreaks thresholds list week.zarr
    """
    from deepstreaks_dask.thresholds import read, saved

    sets = {name: read(path) for name, path in saved(archive).items()}
    if as_json:
        print_json({name: {**found.thresholds} for name, found in sets.items()})
        return
    for name, found in sets.items():
        values = ", ".join(f"{key} {value:g}" for key, value in found.thresholds.items())
        print(f"{name}: {values or 'none of its own'}; else {found.default:g}")
    if not sets:
        print("none yet: 'deepstreaks thresholds search' or the explore dashboard saves them")


@users_app.command("add")
def users_add(
    name: UserArg,
    archive: OfArchive = None,
    role: Annotated[str, typer.Option(help="viewer, reviewer or administrator.")] = "reviewer",
    database: DatabaseOption = None,
) -> None:
    """Add a user. The password is asked for, or read from standard input.

    Example: deepstreaks users add vera --role administrator --archive week.zarr
    """
    added = _review(archive, database).add_user(name, _new_password(), role)
    print(f"{added.name} was added: {added.role}")


@users_app.command("list")
def users_list(
    archive: OfArchive = None, database: DatabaseOption = None, as_json: JsonOption = False
) -> None:
    """List the users.

    Example: deepstreaks users list --archive week.zarr
    """
    people = _review(archive, database).users()
    if as_json:
        print_json([vars(person) for person in people])
        return
    table = Table("name", "role", "active", "since")
    for person in people:
        table.add_row(person.name, person.role, "yes" if person.active else "no", person.created)
    console.print(table)


@users_app.command("disable")
def users_disable(
    name: UserArg,
    archive: OfArchive = None,
    undo: Annotated[bool, typer.Option("--undo", help="Enable again.")] = False,
    database: DatabaseOption = None,
) -> None:
    """Disable a user, whose sessions end at once. Verdicts are kept.

    Example: deepstreaks users disable vera --archive week.zarr
    """
    _review(archive, database).change_user(name, active=undo)
    print(f"{name} is {'enabled' if undo else 'disabled'}")


@users_app.command("password")
def users_password(
    name: UserArg, archive: OfArchive = None, database: DatabaseOption = None
) -> None:
    """Give a user a new password, asked for or read from standard input; ends the user's sessions.

    Example: deepstreaks users password vera --archive week.zarr
    """
    _review(archive, database).change_user(name, password=_new_password())
    print(f"{name} has a new password")


def _review(archive: str | None, database: str | None) -> Any:
    from deepstreaks_dask.archive import open_archive
    from deepstreaks_dask.review import Review, default_url

    if archive is None and database is None:
        raise DeepStreaksError("whose users? Give --archive or --database")
    if database is None:
        assert archive is not None
        open_archive(archive)  # a mistyped path must not become a new database
        database = default_url(archive)
    return Review(database)


def _judged(archive: str, database: str | None) -> list[str]:
    """Name the cutouts that somebody has judged, where there is a review."""
    from deepstreaks_dask.review import archive_key

    review = _existing_review(archive, database)
    return [one.cutout for one in review.verdicts(archive_key(archive))] if review else []


def _said(archive: str, database: str | None) -> pd.DataFrame:
    """Give what reviewers say as labels; somebody must have said something."""
    from deepstreaks_dask.review import archive_key

    review = _existing_review(archive, database)
    labels = review.labels(archive_key(archive)) if review else None
    if labels is None or labels.empty:
        raise DeepStreaksError(
            f"nobody has judged cutouts of {archive}: 'deepstreaks dashboard {archive} --app review' is for that; "
            "where verdicts are elsewhere, name their --database"
        )
    return labels


def _existing_review(archive: str, database: str | None) -> Review | None:
    """Open the review of an archive, unless there is none: to ask must not make one."""
    from deepstreaks_dask.review import Review, default_url
    from deepstreaks_dask.storage import is_local, locate

    if database is None:
        fs, root = locate(archive)
        if not is_local(fs) or not fs.exists(f"{root}.review.sqlite"):
            return None
    return Review(database or default_url(archive))


def _new_password() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\n")


def _silence_native_code() -> None:
    """Keep standard error for Python: TensorFlow and CUDA write to it what is no message of ours.

    They do so from native code, before their logging can be configured. ``DEEPSTREAKS_DEBUG=1`` lets them.
    """
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _open_scores(archive: str, run: str, probabilities: bool) -> Any:
    from deepstreaks_dask.calibration import calibrated
    from deepstreaks_dask.runs import open_scores

    scores = open_scores(archive, run)
    return calibrated(scores) if probabilities else scores


def _numbers(option: str, given: str) -> list[float]:
    try:
        return [float(value) for value in given.split(",")]
    except ValueError:
        raise DeepStreaksError(f"{option} {given}: write numbers like 16,17.5,18") from None


def _thresholds(given: list[str] | None) -> dict[str, float]:
    thresholds = {}
    for item in given or []:
        name, _, value = item.partition("=")
        try:
            thresholds[name.strip()] = float(value)
        except ValueError:
            raise DeepStreaksError(f"--threshold {item}: write it like kd=0.9") from None
    return thresholds
