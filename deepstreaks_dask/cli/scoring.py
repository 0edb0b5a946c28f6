"""Commands that score archives and decide."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from deepstreaks_dask.cli.app import app, triage_app
from deepstreaks_dask.cli.options import (
    AdaptOption,
    ArchiveArg,
    CalibratedOption,
    DecideOption,
    JsonOption,
    PrecisionOption,
    RunOption,
    SchedulerOption,
    ThresholdOption,
    ThresholdsOption,
    WorkersOption,
    ZooOption,
    console,
    open_run_scores,
    parse_thresholds,
    print_json,
    resumable,
    say,
)
from deepstreaks_dask.errors import DeepStreaksError


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

    from deepstreaks_dask.archive.dataset import open_archive
    from deepstreaks_dask.scoring.campaign import score as run_campaign
    from deepstreaks_dask.scoring.cluster import connect
    from deepstreaks_dask.scoring.decision import Decision
    from deepstreaks_dask.scoring.ensemble import Ensemble
    from deepstreaks_dask.scoring.plan import CampaignOptions, Mode
    from deepstreaks_dask.scoring.triage import read_triage

    if threshold and not only_decide:
        raise DeepStreaksError(
            "thresholds matter to 'score' with --decide only: give them to 'deepstreaks decide'"
        )
    if families_file is not None and zoo is not None:
        raise DeepStreaksError("give --families-file or --zoo: the file names the zoo")
    if families_file is not None:
        chosen = Ensemble.from_file(families_file)
    else:
        chosen = Ensemble.from_zoo(zoo, [name.strip() for name in families.split(",")])
    if only_decide and triage is not None:
        raise DeepStreaksError("give --decide or --triage: a triage decides, too")
    mode: Mode = "triage" if triage is not None else "decide" if only_decide else "all"
    guarantee = read_triage(triage) if triage is not None else None
    decision = Decision(parse_thresholds(threshold)) if only_decide else None
    open_archive(archive)  # before workers start for nothing
    stop = threading.Event()

    def asked_to_stop(*_: Any) -> None:
        stop.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # who asks twice does not want to wait

    signal.signal(signal.SIGTERM, asked_to_stop)
    with connect(scheduler, workers=workers, adapt=adapt) as client, resumable():
        scores = run_campaign(
            archive,
            ensemble=chosen,
            client=client,
            run=run,
            mode=mode,
            decision=decision,
            options=CampaignOptions(
                batch=batch, triage=guarantee, precision=precision, flips=flips, stop=stop
            ),
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
    from deepstreaks_dask.export.candidates import Submission, candidate_table, export_candidates
    from deepstreaks_dask.review.catalogue import Catalogue
    from deepstreaks_dask.scoring.decision import Decision
    from deepstreaks_dask.scoring.threshold_sets import read_thresholds

    scores = open_run_scores(archive, run, calibrated)
    named = read_thresholds(thresholds) if thresholds else Decision.of_run(scores)
    decision = replace(named, thresholds={**named.thresholds, **parse_thresholds(threshold)})
    decided = decision.apply(scores)
    if where:
        passing = Catalogue(decided, decision).where(where)
        decided = decided.assign(plausible=decided["plausible"] & passing)
    frame = candidate_table(decided)
    submission = Submission.read(ades) if ades else None
    done = (
        export_candidates(frame, output, submission=submission, decision=decision)
        if output
        else None
    )
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
    from deepstreaks_dask.evaluation.calibration import calibrate as fit_calibration
    from deepstreaks_dask.evaluation.calibration import seen_in_training, store
    from deepstreaks_dask.scoring.runs import open_run

    scores = open_run(archive, run)
    made = fit_calibration(
        scores, method, share=share, seed=seed, leave_out=seen_in_training(scores)
    )
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
    from deepstreaks_dask.scoring.cluster import connect
    from deepstreaks_dask.scoring.runs import open_run
    from deepstreaks_dask.scoring.triage import write_triage
    from deepstreaks_dask.training.distillation import Plan, fit_triage

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
    open_run(archive, run)  # before workers start for nothing
    with connect(scheduler, workers=workers) as client:
        found = fit_triage(archive, client, run=run, zoo=zoo, plan=plan)
    write_triage(found, output)
    said = {
        "first": found.first,
        "threshold": found.threshold,
        "rejected": found.rejected / found.cutouts,
        "guarantee": found.guarantee,
        "seen": found.seen,
        "written": output,
    }
    say(as_json, said)
