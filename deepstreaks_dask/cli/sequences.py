"""Commands on archives of sequences, ``deepstreaks sequences``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepstreaks_dask.cli.app import sequences_app
from deepstreaks_dask.cli.completion import choose, complete_family, complete_start
from deepstreaks_dask.cli.options import (
    EpochsOption,
    JsonOption,
    RecipeOptions,
    RunOption,
    StartOptions,
    StartZooOption,
    WorkerOptions,
    parse_names,
)
from deepstreaks_dask.cli.output import (
    STANDARD_OUTPUT,
    open_output,
    print_frame,
    print_table,
    say,
)

if TYPE_CHECKING:
    from deepstreaks_dask.evaluation.sequence_metrics import SequenceEvaluation

ArchiveArg = Annotated[str, typer.Argument(help="Archive of sequences: a path or any fsspec URL.")]


@sequences_app.command()
def simulate(
    archive: ArchiveArg,
    objects: Annotated[int, typer.Option(min=1, help="How many.")] = 700,
    survey: Annotated[
        str,
        typer.Option(
            help="hits, ztf or crts; with -shifted behind it, one that differs; with -varied, another for each object.",
            autocompletion=choose("survey"),
        ),
    ] = "hits",
    task: Annotated[
        str,
        typer.Option(
            help="Classes: rcnn, taonet, or taonet6 with non-transients.",
            autocompletion=choose("task"),
        ),
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


@dataclass(frozen=True)
class SequenceRecipeOptions(RecipeOptions):
    """A recipe of sequences, and every setting that may be changed."""

    recipe: Annotated[
        str,
        typer.Option(help="A recipe by name, or a .toml file.", autocompletion=choose("recipe")),
    ] = "sequences"
    batch: Annotated[int | None, typer.Option(min=1, help="Objects in a step.")] = None
    rate: Annotated[float | None, typer.Option(help="Adam's learning rate.")] = None
    patience: Annotated[int | None, typer.Option(min=0, help="Of early stopping, epochs.")] = None
    seed: Annotated[int | None, typer.Option(min=0, help="Equal seeds part objects alike.")] = None
    window: Annotated[
        int | None, typer.Option(min=0, help="Objects in memory at once; 0 for all of them.")
    ] = None


@dataclass(frozen=True)
class ClassifierOptions:
    """The classifier that is trained, and where it goes."""

    architecture: Annotated[
        str,
        typer.Option(
            help="rcnn (after every epoch), taonet (the whole sequence) or forest.",
            autocompletion=choose("classifier"),
        ),
    ] = "rcnn"
    family: Annotated[str, typer.Option(help="Family of the network: its name begins with it.")] = (
        "own"
    )
    out: Annotated[
        Path | None, typer.Option(help="Folder of the record and network; training/… by default.")
    ] = None
    zoo: Annotated[
        str | None, typer.Option(help="Zoo that gets the network, too: a path or URL.")
    ] = None
    version: Annotated[str, typer.Option(help="Version of the network in the zoo.")] = "1"


@dataclass(frozen=True)
class ClassifierStartOptions(StartOptions):
    """The classifier whose weights a training starts from."""

    start: Annotated[
        str,
        typer.Option(
            "--from",
            help="Network whose weights to start from, like hits_rcnn@1.",
            autocompletion=complete_start,
        ),
    ] = ""


@sequences_app.command()
def train(
    archive: ArchiveArg,
    classifier: ClassifierOptions,
    training: SequenceRecipeOptions,
    begin: ClassifierStartOptions,
    workers: WorkerOptions,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Train so often, each object tested once.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a classifier on the classes of objects (column 'kind'). Killed? Run it again: it goes on.

    Whole objects are held out for early stopping and for the test. Folds are trained on Dask workers, each on one.

    Example: deepstreaks sequences train objects.zarr --architecture rcnn --family mine --zoo my-zoo
    """
    from deepstreaks_dask.archive.dataset import open_archive
    from deepstreaks_dask.errors import TrainingError
    from deepstreaks_dask.training.harness import TrainingOptions
    from deepstreaks_dask.training.records import publish
    from deepstreaks_dask.training.sequences.experiments import train_folds
    from deepstreaks_dask.training.sequences.fit import max_epochs, train_classifier
    from deepstreaks_dask.utils.progress import progress_bar

    architecture, zoo = classifier.architecture, classifier.zoo
    if folds is not None and (zoo is not None or begin.start):
        raise TrainingError(
            "folds measure: train once, without --folds, for a zoo or --from a network"
        )
    if folds is None and (workers.workers is not None or workers.scheduler is not None):
        raise TrainingError("one training is done in this process: --workers are for --folds")
    chosen = training.read()
    folder = classifier.out or Path("training") / f"{classifier.family}_{architecture}"
    dataset = open_archive(archive, cache=True)
    total = max_epochs(architecture, chosen, start=begin.start) * (folds or 1)
    with progress_bar(f"train {folder.name}", total, unit="epochs") as bar:
        options: dict[str, Any] = {
            "family": classifier.family,
            "options": TrainingOptions(chosen, version=classifier.version, **asdict(begin)),
            "on_epoch": lambda *_: bar.advance(),
        }
        if folds is not None:
            with workers.connect(jobs=folds) as client:
                result = train_folds(folder, dataset, architecture, folds, client=client, **options)
        else:
            record = train_classifier(folder, dataset, architecture, **options)
            (card,) = record["cards"]
            result = {"model": f"{card['name']}@{card['version']}", **card["metrics"]}
    if zoo is not None:
        publish(folder, zoo)
    say(as_json, {**result, "record": str(folder)})


@dataclass(frozen=True)
class FewRecipeOptions(RecipeOptions):
    """A recipe for a few objects."""

    recipe: Annotated[
        str,
        typer.Option(help="A recipe by name, or a .toml file.", autocompletion=choose("recipe")),
    ] = "few"
    rate: Annotated[float | None, typer.Option(help="Adam's learning rate.")] = None
    seed: Annotated[int | None, typer.Option(min=0, help="Of the objects drawn.")] = None


@dataclass(frozen=True)
class SampleOptions:
    """From which classifier to start, and on how many objects to train it."""

    model: Annotated[
        str,
        typer.Option("--from", help="Classifier to start from.", autocompletion=complete_start),
    ] = "hits_rcnn"
    start_zoo: StartZooOption = None
    samples: Annotated[str, typer.Option(help="Objects a class to train on, comma-separated.")] = (
        "1,2,5,10,20"
    )
    repeats: Annotated[int, typer.Option(min=1, help="How often they are drawn anew.")] = 3

    @property
    def numbers(self) -> list[int]:
        """Numbers of objects a class, ascending.

        Raises
        ------
        TrainingError
            If they are no numbers of 1 or more.
        """
        from deepstreaks_dask.errors import TrainingError

        try:
            numbers = sorted({int(number) for number in self.samples.split(",")})
        except ValueError:
            numbers = []
        if not numbers or numbers[0] < 1:
            raise TrainingError(f"samples {self.samples!r}: give numbers of 1 or more, like 1,10")
        return numbers


@dataclass(frozen=True)
class FinetunedOptions:
    """Where the fine-tuned classifiers go."""

    out: Annotated[
        Path | None, typer.Option(help="Folder of the records and networks; training/… by default.")
    ] = None
    zoo: Annotated[
        str | None, typer.Option(help="Zoo that gets the first one of the most samples, too.")
    ] = None
    version: Annotated[str, typer.Option(help="Version of the network in the zoo.")] = "2"


@sequences_app.command()
def finetune(
    archive: ArchiveArg,
    drawn: SampleOptions,
    tuned: FinetunedOptions,
    training: FewRecipeOptions,
    workers: WorkerOptions,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a classifier with a few objects of another survey, and test it on others of them.

    Half of the archive's objects are the test, of every training. Killed? Run it again: it goes on.

    Example: deepstreaks sequences finetune shifted.zarr --samples 1,10
    """
    from deepstreaks_dask.archive.dataset import open_archive
    from deepstreaks_dask.training.harness import TrainingOptions
    from deepstreaks_dask.training.records import publish
    from deepstreaks_dask.training.sequences.experiments import finetune as run
    from deepstreaks_dask.utils.progress import progress_bar

    numbers = drawn.numbers
    chosen = training.read()
    folder = tuned.out or Path("training") / f"{drawn.model.partition('@')[0]}-finetuned"
    dataset, total = open_archive(archive, cache=True), len(numbers) * drawn.repeats
    with (
        workers.connect(jobs=total) as client,
        progress_bar("fine-tune", total, unit="trainings") as bar,
    ):
        found = run(
            folder,
            dataset,
            numbers,
            TrainingOptions(
                chosen, start=drawn.model, start_zoo=drawn.start_zoo, version=tuned.version
            ),
            repeats=drawn.repeats,
            client=client,
            on_training=bar.advance,
        )
    if tuned.zoo is not None:
        publish(folder / f"samples-{numbers[-1]}-1", tuned.zoo)
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


@sequences_app.command()
def score(
    archive: ArchiveArg,
    workers: WorkerOptions,
    run: RunOption = "default",
    families: Annotated[
        str, typer.Option(help="Families, comma-separated.", autocompletion=complete_family)
    ] = "hits",
    zoo: Annotated[
        str | None, typer.Option(help="Zoo of the members. Default: the shipped one.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Give objects the probabilities of their classes. Killed? Run it again: it goes on.

    Example: deepstreaks sequences score objects.zarr --families hits
    """
    from deepstreaks_dask.archive.attributes import provenance_of
    from deepstreaks_dask.archive.dataset import open_archive
    from deepstreaks_dask.scoring.campaign import score as run_campaign
    from deepstreaks_dask.scoring.ensemble import Ensemble

    open_archive(archive)  # before workers start for nothing
    chosen = Ensemble.from_zoo(zoo, parse_names(families))
    with workers.connect() as client:
        scores = run_campaign(archive, ensemble=chosen, client=client, run=run)
    done = scores["scores"].notnull().all(["member", "class"])
    provenance = provenance_of(scores)
    failures = provenance["failures"]
    result = {
        "run": run,
        "scored": int(done.sum()),
        "objects": done.size,
        "members": provenance["models"],
        "classes": provenance["classes"],
        "failures": failures,
    }
    say(as_json, result)
    if failures:
        raise typer.Exit(2)


@dataclass(frozen=True)
class TrainingFolderOptions:
    """Trainings that are shown beside the members."""

    folds: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of 'sequences train --folds', to be shown; may be repeated.",
            metavar="FOLDER",
        ),
    ] = None
    finetuned: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of 'sequences finetune', to be shown; may be repeated.", metavar="FOLDER"
        ),
    ] = None


@sequences_app.command()
def evaluate(
    archive: ArchiveArg,
    shown: TrainingFolderOptions,
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
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="HTML report with pictures; - is standard output."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure all members of a run on the objects whose class is known, side by side.

    Example: deepstreaks sequences evaluate shifted.zarr --finetuned training/hits_rcnn-finetuned -o report.html
    """
    from deepstreaks_dask.evaluation import sequence_metrics as evaluation
    from deepstreaks_dask.report.sequence_report import write_evaluation
    from deepstreaks_dask.scoring.runs import open_run

    with open_output(output, ".html", as_json=as_json) as path:
        scores = open_run(archive, run, cache=True)
        only = evaluation.held_out(scores, held_out) if held_out is not None else None
        curves = {}
        if online:
            from deepstreaks_dask.evaluation.epoch_by_epoch import follow

            curves = follow(scores, only=only, objects=online, zoos=None if zoo is None else [zoo])
        found = evaluation.evaluate_sequences(
            scores,
            only=only,
            by_epochs=curves,
            folds=shown.folds or (),
            finetuned=shown.finetuned or (),
        )
        if path:
            write_evaluation(found, scores, path)
    if as_json:
        say(True, found.to_dict())
        return
    if output != STANDARD_OUTPUT:
        _print_evaluation(found)
        if output is not None:
            print(f"report: {output}")


@sequences_app.command()
def compare(
    archives: Annotated[
        list[str], typer.Argument(help="Archives of sequences, such as a simulated and a real one.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="HTML page; - is standard output.")
    ] = "exposures.html",
    most: Annotated[int, typer.Option(min=1, help="Stamps of each that are measured.")] = 20_000,
    as_json: JsonOption = False,
) -> None:
    """Compare exposures: noise, seeing and signal-to-noise ratio, as their columns tell and as their stamps say.

    For the log of a survey: simulate with it, ingest real stamps, and compare the two.

    Example: deepstreaks sequences compare simulated.zarr real.zarr -o exposures.html
    """
    from deepstreaks_dask.evaluation.exposure_check import compare_exposures, look_at
    from deepstreaks_dask.report.sequence_report import write_comparison

    with open_output(output, ".html", as_json=as_json) as path:
        found = compare_exposures([look_at(one, most=most, progress=True) for one in archives])
        write_comparison(found, path)
    rows = found.table.astype(object).where(found.table.notna(), None).to_dict("records")
    if as_json:
        say(True, {"exposures": rows, "page": output})
        return
    if output != STANDARD_OUTPUT:
        print_frame(found.table, importance=("archive", "quantity", "by", "median"))
        print(f"page: {output}")


@sequences_app.command()
def reproduce(
    what: Annotated[
        str,
        typer.Argument(
            help="rcnn, taonet, or taonet6 with non-transients.", autocompletion=choose("task")
        ),
    ],
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
    rows = [
        (member.member, str(member.recall), str(member.f1), str(member.accuracy))
        for member in found.members
    ]
    print_table(("member", "recall", "F1", "accuracy"), rows)
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
    print_frame(beside_published(found), title="beside what was published")
