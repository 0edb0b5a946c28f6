"""The command line's ``deepstreaks sequences``: one thin function a sub-command."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepstreaks_dask.cli.options import (
    EpochsOption,
    JsonOption,
    PatienceOption,
    RateOption,
    RunOption,
    SchedulerOption,
    StartZooOption,
    WorkersOption,
    resumable,
    say,
)

if TYPE_CHECKING:
    from deepstreaks_dask.evaluation.sequence_metrics import SequenceEvaluation

app = typer.Typer(no_args_is_help=True, help="Classify objects by their sequences of images.")

ArchiveArg = Annotated[str, typer.Argument(help="Archive of sequences: a path or any fsspec URL.")]


@app.command()
def simulate(
    archive: ArchiveArg,
    objects: Annotated[int, typer.Option(min=1, help="How many.")] = 700,
    survey: Annotated[
        str,
        typer.Option(
            help="hits, ztf or crts; with -shifted behind it, one that differs; with -varied, another for each object."
        ),
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

    What is there already is not added twice.

    Example: deepstreaks sequences simulate objects.zarr --objects 700 --survey hits
    """
    from deepstreaks_dask.simulation.archives import simulate_into
    from deepstreaks_dask.simulation.surveys import ObservingLog, get_survey

    chosen = get_survey(survey)
    if log is not None:
        chosen = chosen.with_log(ObservingLog.read(log, chosen.instrument))
    result = simulate_into(archive, objects, chosen, task, seed=seed, first=first)
    say(as_json, result.to_dict())


FamilyOption = Annotated[str, typer.Option(help="Family of the network: its name begins with it.")]
RecipeOption = Annotated[str, typer.Option(help="A recipe by name, or a .toml file.")]


@app.command()
def train(
    archive: ArchiveArg,
    architecture: Annotated[
        str, typer.Option(help="rcnn (after every epoch), taonet (the whole sequence) or forest.")
    ] = "rcnn",
    family: FamilyOption = "own",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the record and network; training/… by default.")
    ] = None,
    zoo: Annotated[
        str | None, typer.Option(help="Zoo that gets the network, too: a path or URL.")
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the network in the zoo.")] = "1",
    recipe: RecipeOption = "sequences",
    epochs: EpochsOption = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Objects in a step.")] = None,
    rate: RateOption = None,
    patience: PatienceOption = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Equal seeds part objects alike.")] = None,
    window: Annotated[
        int | None, typer.Option(min=0, help="Objects in memory at once; 0 for all of them.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Train so often, each object tested once.")
    ] = None,
    start: Annotated[
        str, typer.Option("--from", help="Network whose weights to start from, like hits_rcnn@1.")
    ] = "",
    start_zoo: StartZooOption = None,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a classifier on the classes of objects (column 'kind'). Killed? Run it again: it goes on.

    Whole objects are held out for early stopping and for the test. Folds are trained on Dask workers, each on one.

    Example: deepstreaks sequences train objects.zarr --architecture rcnn --family mine --zoo my-zoo
    """
    from deepstreaks_dask.archive.dataset import open_archive
    from deepstreaks_dask.errors import TrainingError
    from deepstreaks_dask.scoring.cluster import connect
    from deepstreaks_dask.training.recipe import read_recipe
    from deepstreaks_dask.training.records import publish
    from deepstreaks_dask.training.sequences.experiments import train_folds
    from deepstreaks_dask.training.sequences.fit import passes, train_classifier
    from deepstreaks_dask.utils.progress import progress_bar

    if folds is not None and (zoo is not None or start):
        raise TrainingError(
            "folds measure: train once, without --folds, for a zoo or --from a network"
        )
    if folds is None and (workers is not None or scheduler is not None):
        raise TrainingError("one training is done in this process: --workers are for --folds")
    chosen = read_recipe(
        recipe,
        epochs=epochs,
        batch=batch,
        learning_rate=rate,
        patience=patience,
        seed=seed,
        window=window,
    )
    folder = out or Path("training") / f"{family}_{architecture}"
    dataset = open_archive(archive)
    total = passes(architecture, chosen, start=start) * (folds or 1)
    with progress_bar(f"train {folder.name}", total, unit="epochs") as bar:
        options: dict[str, Any] = {
            "family": family,
            "recipe": chosen,
            "version": version,
            "on_epoch": lambda *_: bar.advance(),
        }
        if folds is not None:
            with connect(scheduler, workers=workers, jobs=folds) as client:
                result = train_folds(folder, dataset, architecture, folds, client=client, **options)
        else:
            record = train_classifier(
                folder, dataset, architecture, start=start, start_zoo=start_zoo, **options
            )
            (card,) = record["cards"]
            result = {"model": f"{card['name']}@{card['version']}", **card["metrics"]}
    if zoo is not None:
        publish(folder, zoo)
    say(as_json, {**result, "record": str(folder)})


@app.command()
def finetune(
    archive: ArchiveArg,
    model: Annotated[str, typer.Option("--from", help="Classifier to start from.")] = "hits_rcnn",
    model_zoo: StartZooOption = None,
    samples: Annotated[
        str, typer.Option(help="Objects a class to train on, comma-separated.")
    ] = "1,2,5,10,20",
    repeats: Annotated[int, typer.Option(min=1, help="How often they are drawn anew.")] = 3,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the records and networks; training/… by default.")
    ] = None,
    zoo: Annotated[
        str | None, typer.Option(help="Zoo that gets the first one of the most samples, too.")
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the network in the zoo.")] = "2",
    recipe: RecipeOption = "few",
    epochs: EpochsOption = None,
    rate: RateOption = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the objects drawn.")] = None,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a classifier with a few objects of another survey, and test it on others of them.

    Half of the archive's objects are the test, of every training. Killed? Run it again: it goes on.

    Example: deepstreaks sequences finetune shifted.zarr --samples 1,10
    """
    from deepstreaks_dask.archive.dataset import open_archive
    from deepstreaks_dask.errors import TrainingError
    from deepstreaks_dask.scoring.cluster import connect
    from deepstreaks_dask.training.recipe import read_recipe
    from deepstreaks_dask.training.records import publish
    from deepstreaks_dask.training.sequences.experiments import finetune_in
    from deepstreaks_dask.utils.progress import progress_bar

    try:
        numbers = sorted({int(number) for number in samples.split(",")})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 1:
        raise TrainingError(f"samples {samples!r}: give numbers of 1 or more, like 1,10")
    chosen = read_recipe(recipe, epochs=epochs, learning_rate=rate, seed=seed)
    folder = out or Path("training") / f"{model.partition('@')[0]}-finetuned"
    dataset, total = open_archive(archive), len(numbers) * repeats
    with (
        connect(scheduler, workers=workers, jobs=total) as client,
        progress_bar("fine-tune", total, unit="trainings") as bar,
    ):
        found = finetune_in(
            folder,
            dataset,
            model,
            numbers,
            start_zoo=model_zoo,
            repeats=repeats,
            recipe=chosen,
            version=version,
            client=client,
            on_training=bar.advance,
        )
    if zoo is not None:
        publish(folder / f"samples-{numbers[-1]}-1", zoo)
    if as_json:
        say(True, found)
        return
    before, head = (
        found["before"],
        f"{found['start']}, {found['before']['test_objects']} test objects",
    )
    print(
        f"{head}: average recall {before['recall']:.4f} {before['recall_95']}, F1 {before['f1']:.4f}"
    )
    for row in found["after"]:
        print(
            f"{row['samples']} a class, {len(row['repeats'])} draws: average recall {row['recall']:.4f} "
            f"{row['recall_range']}, F1 {row['f1']:.4f}"
        )
    print(f"record: {folder / 'finetuning.json'}")


@app.command()
def score(
    archive: ArchiveArg,
    run: RunOption = "default",
    families: Annotated[str, typer.Option(help="Families, comma-separated.")] = "hits",
    zoo: Annotated[
        str | None, typer.Option(help="Zoo of the members. Default: the shipped one.")
    ] = None,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give objects the probabilities of their classes. Killed? Run it again: it goes on.

    Example: deepstreaks sequences score objects.zarr --families hits
    """
    from deepstreaks_dask.archive.dataset import open_archive
    from deepstreaks_dask.scoring.campaign import score as run_campaign
    from deepstreaks_dask.scoring.cluster import connect
    from deepstreaks_dask.scoring.ensemble import Ensemble

    open_archive(archive)  # before workers start for nothing
    chosen = Ensemble.from_zoo(zoo, [name.strip() for name in families.split(",")])
    with connect(scheduler, workers=workers) as client, resumable():
        scores = run_campaign(archive, ensemble=chosen, client=client, run=run)
    done = scores["scores"].notnull().all(["member", "class"])
    failures = scores.attrs["failures"]
    result = {
        "run": run,
        "scored": int(done.sum()),
        "objects": done.size,
        "members": scores.attrs["models"],
        "classes": scores.attrs["classes"],
        "failures": failures,
    }
    say(as_json, result)
    if failures:
        raise typer.Exit(2)


@app.command()
def evaluate(
    archive: ArchiveArg,
    run: RunOption = "default",
    held_out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a training on this archive: measure on its test objects only."
        ),
    ] = None,
    zoo: Annotated[
        str | None,
        typer.Option(
            help="Zoo of members that are followed epoch by epoch. Default: the one that the run was scored from."
        ),
    ] = None,
    online: Annotated[
        int,
        typer.Option(
            min=0, help="Objects to follow epoch by epoch with members that can; 0 for none."
        ),
    ] = 512,
    folds: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of 'sequences train --folds', to be shown; may be repeated."),
    ] = None,
    finetuned: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of 'sequences finetune', to be shown; may be repeated."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML report with pictures.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure all members of a run on the objects whose class is known, side by side.

    Example: deepstreaks sequences evaluate shifted.zarr --finetuned training/hits_rcnn-finetuned -o report.html
    """
    from deepstreaks_dask.evaluation import sequence_metrics as evaluation
    from deepstreaks_dask.scoring.runs import open_run

    scores = open_run(archive, run)
    only = evaluation.held_out(scores, held_out) if held_out is not None else None
    curves = {}
    if online:
        from deepstreaks_dask.evaluation.epoch_by_epoch import follow

        curves = follow(scores, only=only, objects=online, zoos=None if zoo is None else [zoo])
    found = evaluation.evaluate_sequences(
        scores, only=only, by_epochs=curves, folds=folds or (), finetuned=finetuned or ()
    )
    if output is not None:
        from deepstreaks_dask.report.sequence_report import write_evaluation

        write_evaluation(found, scores, output)
    if as_json:
        say(True, found.to_dict())
        return
    _print_evaluation(found)
    if output is not None:
        print(f"report: {output}")


@app.command()
def compare(
    archives: Annotated[
        list[str], typer.Argument(help="Archives of sequences, such as a simulated and a real one.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML page.")] = Path(
        "exposures.html"
    ),
    most: Annotated[int, typer.Option(min=1, help="Stamps of each that are measured.")] = 20_000,
    as_json: JsonOption = False,
) -> None:
    """Compare exposures: noise, seeing and signal-to-noise ratio, as their columns tell and as their stamps say.

    For the log of a survey: simulate with it, ingest real stamps, and compare the two.

    Example: deepstreaks sequences compare simulated.zarr real.zarr -o exposures.html
    """
    from deepstreaks_dask.evaluation.exposure_check import compare_exposures, look_at
    from deepstreaks_dask.report.sequence_report import write_comparison

    found = compare_exposures([look_at(one, most=most, progress=True) for one in archives])
    write_comparison(found, output)
    rows = found.table.astype(object).where(found.table.notna(), None).to_dict("records")
    if as_json:
        say(True, {"exposures": rows, "page": str(output)})
        return
    for row in rows:
        distance = "" if row["distance"] is None else f", distance {row['distance']:.3f}"
        print(
            f"{row['quantity']:6} {row['archive']:24} {row['by']:9} {row['median']:8.3f} "
            f"[{row['low']:.3f}, {row['high']:.3f}]{distance}"
        )
    print(f"page: {output}")


@app.command()
def reproduce(
    what: Annotated[str, typer.Argument(help="rcnn, taonet, or taonet6 with non-transients.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of all of it; reproduced/WHAT by default.")
    ] = None,
    objects: Annotated[
        int | None, typer.Option(min=1, help="Simulated objects to train on.")
    ] = None,
    epochs: EpochsOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Simulate, train, score and measure, and put it beside what the paper has. Killed? Run it again: it goes on.

    All of it is simulated, and small: the figures say nothing of the sky. report.html in the folder has confusion matrices
    and curves.

    Example: deepstreaks sequences reproduce rcnn --out first-look
    """
    from deepstreaks_dask.training.sequences.reproduce import reproduce as run
    from deepstreaks_dask.training.sequences.reproduce import settings_for

    settings = settings_for(what, objects=objects, epochs=epochs, seed=seed)
    folder = out or Path("reproduced") / what
    found = run(folder, settings)
    report = folder / "report.html"
    if as_json:
        say(True, {**found.to_dict(), "settings": asdict(settings), "report": str(report)})
        return
    _print_evaluation(found)
    print(f"all objects are simulated; report: {report}")


def _print_evaluation(found: SequenceEvaluation) -> None:
    from deepstreaks_dask.evaluation.sequence_metrics import beside_published

    kind = "simulated objects" if found.simulated == found.objects else "objects"
    print(f"{found.objects:,} {kind} of {len(found.classes)} classes; averages over classes, 95 %")
    print(f"{'member':24} {'recall':26} {'F1':26} accuracy")
    for member in found.members:
        print(f"{member.member:24} {member.recall!s:26} {member.f1!s:26} {member.accuracy}")
    for name, one in found.folds.items():
        print(f"{name}, {len(one['each'])} folds: F1 {one['f1']:.4f} ± {one['f1_spread']:.4f}")
        rows = one["f1_by_class"].items()
        print(
            "  " + ", ".join(f"{kind} {mean:.3f} ± {spread:.3f}" for kind, (mean, spread) in rows)
        )
    for name, table in found.samples.items():
        for row in table.to_dict("records"):
            after = (
                f"after {row['samples']:.0f} a class" if row["samples"] else "before fine-tuning"
            )
            print(f"{name} {after}: average recall {row['value']:.4f}")
    for name, table in found.by_epochs.items():
        last = table.iloc[-1]
        print(
            f"{name}: accuracy {table['value'].iloc[0]:.4f} after 1 epoch, "
            f"{last['value']:.4f} after {last['epochs']:.0f}"
        )
    for words in found.notes:
        print(words)
    print(f"{'beside what was published':50} {'here':36} published")
    for row in beside_published(found).to_dict("records"):
        print(f"{row['figure']:50} {row['here']:36} {row['published']} ({row['paper']})")
