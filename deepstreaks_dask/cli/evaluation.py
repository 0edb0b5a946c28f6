"""Commands that measure a run, calibrate it, explain its scores and report them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from deepstreaks_dask.cli.app import app
from deepstreaks_dask.cli.completion import choose
from deepstreaks_dask.cli.options import (
    ArchiveArg,
    DatabaseOption,
    DecisionOptions,
    JsonOption,
    RunOption,
    VerdictOptions,
    ZooOption,
)
from deepstreaks_dask.cli.output import (
    STANDARD_OUTPUT,
    open_output,
    output_of_rows,
    print_frame,
    print_json,
    print_remark,
    print_table,
    say,
)
from deepstreaks_dask.cli.verdicts import reviewed_cutouts
from deepstreaks_dask.errors import DeepStreaksError

LISTED_CUTOUTS = 20
"""Cutouts of a queue that are printed."""


@app.command()
def evaluate(
    archive: ArchiveArg,
    decision: DecisionOptions,
    reviewers: VerdictOptions,
    as_json: JsonOption = False,
) -> None:
    """Measure members, families and the decision against the archive's labels, or reviewers' verdicts.

    Reviewers judge what they are shown, mostly candidates: what networks missed is hardly among it, and a true-positive rate
    from verdicts alone is too high.

    Example: deepstreaks evaluate week.zarr -t kd=0.9 --json
    """
    from deepstreaks_dask.evaluation.decision_metrics import evaluate as run_evaluation
    from deepstreaks_dask.evaluation.labels import with_labels

    scores = decision.open(archive)
    labels = reviewers.labels(archive)
    if labels is not None:
        scores = with_labels(scores, labels)
    result = run_evaluation(scores, decision.decision(scores))
    if as_json:
        print_json(result.to_dict())
        return
    rows = []
    for _, row in result.members.iterrows():
        cells = [
            f"{row[k]:.4f} [{row[k + '_low']:.4f}, {row[k + '_high']:.4f}]"
            for k in ("auc", "tpr", "fpr")
        ]
        rows.append((row["member"], *cells))
    title = f"{decision.run}: 95 % intervals in brackets"
    print_table(("member", "AUC", "TPR", "FPR"), rows, title=title)
    for name in ("tpr", "fpr", "precision"):
        estimate = getattr(result.joint, name)
        print(f"decision {name}: {estimate} ({estimate.count:,} of {estimate.total:,})")


@app.command()
def calibrate(
    archive: ArchiveArg,
    method: Annotated[
        str, typer.Option(help="temperature or isotonic.", autocompletion=choose("method"))
    ] = "temperature",
    share: Annotated[float, typer.Option(help="Fraction of the nights to fit on.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of the nights.")] = 0,
    run: RunOption = "default",
    as_json: JsonOption = False,
) -> None:
    """Make probabilities of a run's scores; kept with the run, for --calibrated.

    Fitted on some labelled nights, measured on the others, and on nothing that a member was trained on.

    Example: deepstreaks calibrate week.zarr --method isotonic
    """
    from deepstreaks_dask.evaluation.calibration import calibrate as fit
    from deepstreaks_dask.evaluation.calibration import seen_in_training, store
    from deepstreaks_dask.scoring.runs import open_run

    scores = open_run(archive, run, cache=True)
    made = fit(scores, method, share=share, seed=seed, leave_out=seen_in_training(scores))
    store(archive, run, made)
    if as_json:
        print_json(made.to_dict())
        return
    rows = []
    for member, before in made.before.items():
        after = made.after[member]
        losses = [f"{figures.log_loss:.4f}" for figures in (before, after)]
        rows.append((member, str(before.ece), str(after.ece), f"{after.chance:.4f}", *losses))
    columns = ("member", "calibration error", "error after", "by chance", "log loss", "loss after")
    print_table(columns, rows)
    print(
        f"fitted on {len(made.fitted)} nights, measured on {len(made.measured)} others; "
        f"{made.left_out:,} cutouts that a member was trained on were left out"
    )


@app.command()
def queue(
    archive: ArchiveArg,
    decision: DecisionOptions,
    by: Annotated[
        str,
        typer.Option(
            help="entropy (least sure), spread (members differ), margin (near thresholds).",
            autocompletion=choose("order"),
        ),
    ] = "entropy",
    most: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    where: Annotated[
        str | None, typer.Option(help="Filter, like 'rb_spread > 0.3 and filter == \"r\"'.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="A .csv file; - is standard output."),
    ] = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the cutouts without a label or a verdict whose verdict would teach the networks most.

    At a terminal a table of the first ones; into a pipe all of them as CSV. The review shows them too:
    'What would teach most' in 'deepstreaks dashboard survey.zarr --app review'.

    Example: deepstreaks queue survey.zarr --by spread --most 200 -o to-label.csv
    """
    import numpy as np

    from deepstreaks_dask.evaluation.active_learning import queue as order
    from deepstreaks_dask.evaluation.active_learning import with_agreement
    from deepstreaks_dask.review.catalogue import Catalogue
    from deepstreaks_dask.utils.storage import write_text

    output = output_of_rows(output, as_json=as_json)
    with open_output(output, ".csv", as_json=as_json) as path:
        scores = decision.open(archive)
        chosen = decision.decision(scores)
        decided = with_agreement(chosen.apply(scores), chosen)
        passing = ~np.isin(decided["id"].values.astype(object), reviewed_cutouts(archive, database))
        if where:
            passing &= Catalogue(decided, chosen).where(where)
        table = order(decided, chosen, by=by, most=most, passing=passing)
        if path:
            from deepstreaks_dask.utils.spreadsheets import to_csv

            write_text(path, to_csv(table))
    if as_json:
        print_json(json.loads(table.to_json(orient="records")))
        return
    if output != STANDARD_OUTPUT and sys.stdout.isatty():
        print_frame(table.head(LISTED_CUTOUTS), importance=["id", *table.columns[::-1]])
    written = f" written to {output}" if output and output != STANDARD_OUTPUT else ""
    print_remark(f"{len(table):,} cutouts{written}", output=output)


@app.command()
def explain(
    archive: ArchiveArg,
    cutout: Annotated[str, typer.Argument(help="Id of the cutout.")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="A .png file; - is standard output.")
    ] = "explanation.png",
    run: RunOption = "default",
    zoo: ZooOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what each member of a run reacted to in a cutout: red speaks for a high score, blue against.

    Integrated gradients of the network's logit, from an empty sky; the cutout itself is on the left.

    Example: deepstreaks explain week.zarr 20260101_17 -o map.png
    """
    import numpy as np
    from PIL import Image

    from deepstreaks_dask.archive.attributes import provenance_of
    from deepstreaks_dask.archive.pictures import grey
    from deepstreaks_dask.report.explanation_maps import explanation_map
    from deepstreaks_dask.review.catalogue import Catalogue
    from deepstreaks_dask.scoring.decision import Decision
    from deepstreaks_dask.scoring.runs import open_run

    with open_output(output, ".png", as_json=as_json, endings=(".png",)) as path:
        scores = open_run(archive, run, cache=True)
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
            found = explanation_map(pixels, member, provenance_of(scores)["members"], zoo)
            pictures.append(np.asarray(Image.open(io.BytesIO(found.png))))
            values = {"logit": found.logit, "sky": found.sky, "missing": found.missing}
            said.append({"member": member, "score": float(catalogue[member][row]), **values})
        Image.fromarray(np.hstack(pictures)).save(path, format="png")
    if as_json:
        print_json(said)
        return
    for one in said:
        figures = (
            f"score {one['score']:.4f}, logit {one['logit']:.2f}, of an empty sky {one['sky']:.2f}"
        )
        print_remark(f"{one['member']}: {figures}", output=output)
    if output != STANDARD_OUTPUT:
        print(f"the cutout, and what each member reacted to: {output}")


@app.command()
def report(
    archive: ArchiveArg,
    decision: DecisionOptions,
    reviewers: VerdictOptions,
    output: Annotated[
        str, typer.Option("--output", "-o", help="File to write; - is standard output.")
    ] = "report.html",
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page with distributions, curves, rates and cutouts.

    Example: deepstreaks report week.zarr -o report.html
    """
    from deepstreaks_dask.report.run_report import write_report
    from deepstreaks_dask.utils.storage import is_url

    with open_output(output, ".html", as_json=as_json) as path:
        write_report(
            archive,
            path,
            run=decision.run,
            thresholds=decision.thresholds,
            probabilities=decision.calibrated,
            verdicts=reviewers.labels(archive),
        )
    if output != STANDARD_OUTPUT:
        place = output if is_url(output) else str(Path(output).resolve())
        say(as_json, {"report": place})
