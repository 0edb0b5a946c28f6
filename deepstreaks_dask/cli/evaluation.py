"""Commands that measure a run: rates, completeness, thresholds, reports."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from deepstreaks_dask.cli.app import app, thresholds_app
from deepstreaks_dask.cli.options import (
    ArchiveArg,
    CalibratedOption,
    JsonOption,
    RunOption,
    ThresholdOption,
    ZooOption,
    console,
    open_run_scores,
    parse_numbers,
    parse_thresholds,
    print_json,
    say,
)
from deepstreaks_dask.cli.verdicts import (
    DatabaseOption,
    VerdictsOption,
    reviewed_cutouts,
    reviewed_labels,
)
from deepstreaks_dask.errors import DeepStreaksError


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
    from deepstreaks_dask.evaluation.decision_metrics import evaluate as run_evaluation
    from deepstreaks_dask.evaluation.labels import with_labels
    from deepstreaks_dask.scoring.decision import Decision

    scores = open_run_scores(archive, run, calibrated)
    if verdicts:
        scores = with_labels(scores, reviewed_labels(archive, database))
    result = run_evaluation(scores, Decision.of_run(scores, parse_thresholds(threshold)))
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
    from deepstreaks_dask.simulation.injection import NOISE_LEVEL
    from deepstreaks_dask.simulation.injection import inject as run
    from deepstreaks_dask.simulation.nights import ZERO_POINT

    result = run(
        archive,
        out,
        parse_numbers("--magnitudes", magnitudes),
        parse_numbers("--lengths", lengths),
        each=each,
        where=where,
        noise=NOISE_LEVEL if noise is None else noise,
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
    from deepstreaks_dask.evaluation.completeness import recovery
    from deepstreaks_dask.evaluation.known_objects import completeness as match
    from deepstreaks_dask.evaluation.known_objects import read_known
    from deepstreaks_dask.report.recovery import write_map
    from deepstreaks_dask.scoring.decision import Decision
    from deepstreaks_dask.utils.storage import write_text

    if output is not None and output.suffix not in (".csv", *([] if known else [".html"])):
        raise DeepStreaksError(
            f"{output}: name a file that ends in .csv" + " or .html" * (not known)
        )
    scores = open_run_scores(archive, run, calibrated)
    decided = Decision.of_run(scores, parse_thresholds(threshold)).apply(scores)
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

    from deepstreaks_dask.evaluation.active_learning import queue as order
    from deepstreaks_dask.evaluation.active_learning import with_agreement
    from deepstreaks_dask.review.catalogue import Catalogue
    from deepstreaks_dask.scoring.decision import Decision
    from deepstreaks_dask.utils.storage import write_text

    scores = open_run_scores(archive, run, calibrated)
    decision = Decision.of_run(scores, parse_thresholds(threshold))
    decided = with_agreement(decision.apply(scores), decision)
    passing = ~np.isin(decided["id"].values.astype(object), reviewed_cutouts(archive, database))
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
    import numpy as np
    from PIL import Image

    from deepstreaks_dask.archive.attributes import provenance_of
    from deepstreaks_dask.archive.pictures import grey
    from deepstreaks_dask.report.explanation_maps import explanation_map
    from deepstreaks_dask.review.catalogue import Catalogue
    from deepstreaks_dask.scoring.decision import Decision
    from deepstreaks_dask.scoring.runs import open_run

    if output.suffix != ".png":
        raise DeepStreaksError(f"{output}: name a file that ends in .png")
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
    from deepstreaks_dask.report.run_report import write_report

    write_report(
        archive,
        output,
        run=run,
        thresholds=parse_thresholds(threshold),
        probabilities=calibrated,
        verdicts=reviewed_labels(archive, database) if verdicts else None,
    )
    say(as_json, {"report": str(output.resolve())})


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
    from deepstreaks_dask.evaluation.interactive import open_exploration
    from deepstreaks_dask.evaluation.threshold_search import search_thresholds
    from deepstreaks_dask.scoring.threshold_sets import save_thresholds, to_toml
    from deepstreaks_dask.utils.progress import progress_bar

    rounds = 100
    with progress_bar("search thresholds", rounds, unit="resamplings") as bar:
        exploration = open_exploration(archive, run)
        found = search_thresholds(
            exploration,
            fpr=fpr,
            budget=budget,
            by=by,
            rounds=rounds,
            seed=seed,
            advance=bar.advance,
        )
    written = [save_thresholds(archive, save, found.decision, run=run)] if save else []
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
    from deepstreaks_dask.scoring.threshold_sets import read_thresholds, saved_thresholds

    sets = {name: read_thresholds(path) for name, path in saved_thresholds(archive).items()}
    if as_json:
        print_json({name: {**found.thresholds} for name, found in sets.items()})
        return
    for name, found in sets.items():
        values = ", ".join(f"{key} {value:g}" for key, value in found.thresholds.items())
        print(f"{name}: {values or 'none of its own'}; else {found.default:g}")
    if not sets:
        print("none yet: 'deepstreaks thresholds search' or the explore dashboard saves them")
