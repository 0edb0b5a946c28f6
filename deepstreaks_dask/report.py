"""One self-contained page that says how a run went: figures, pictures, best and worst cutouts."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import holoviews as hv
import jinja2
import numpy as np
import pandas as pd
import xarray as xr
from bokeh.embed import components
from bokeh.resources import INLINE
from PIL import Image

from deepstreaks_dask import archive as archives
from deepstreaks_dask import plots
from deepstreaks_dask.campaign import open_scores
from deepstreaks_dask.evaluation import (
    Estimate,
    Evaluation,
    evaluate,
    plausibility_labels,
    precision_recall,
    roc,
)
from deepstreaks_dask.families import Decision, family_of

_GALLERY = 12
_QUARANTINE = 50


def write_report(
    archive: str | os.PathLike[str],
    path: Path,
    *,
    run: str = "default",
    decision: Decision | None = None,
) -> Evaluation:
    """Write the report of a run as one HTML file that loads nothing from elsewhere.

    Parameters
    ----------
    archive : str or path
        Path or URL of a scored archive.
    path : Path
        The file to write.
    run : str
        Which run.
    decision : Decision, optional
        Thresholds; 0.5 everywhere by default.

    Returns
    -------
    Evaluation
        What the report shows.
    """
    scores = open_scores(archive, run)
    decision = decision or Decision()
    decided = decision.apply(scores)
    evaluation = evaluate(scores, decision)
    members = [str(name) for name in scores["model"].values]
    values = scores["scores"].values
    curves, pr_curves = {}, {}
    for column, member in enumerate(members):
        name = f"label_{family_of(member)}"
        curves[member] = roc(scores[name].values, values[:, column])
        pr_curves[member] = precision_recall(scores[name].values, values[:, column])
    decision_plots = [plots.venn_bars(evaluation.venn)]
    if evaluation.labelled:
        decision_plots = [
            plots.confusion_matrix(evaluation.joint),
            plots.night_rates(evaluation.nights, "tpr"),
            plots.night_rates(evaluation.nights, "fpr"),
            *decision_plots,
        ]
    score_plots = [plots.score_histogram(scores, member) for member in members]
    if evaluation.labelled:
        score_plots += [plots.roc_curves(curves), plots.precision_recall_curves(pr_curves)]
    models = [hv.render(element) for element in (*decision_plots, *score_plots)]
    script, divs = components(models)
    quarantine = archives.quarantine(archive)
    page = _environment().get_template("report.html.j2")
    html = page.render(
        name=Path(str(archive)).name,
        provenance=scores.attrs,
        evaluation=evaluation,
        simulated=int((scores["kind"].values != "").sum()) if _is_simulated(scores) else 0,
        failures=scores.attrs["failures"],
        tiles=_tiles(evaluation),
        decision_plots=divs[: len(decision_plots)],
        score_plots=divs[len(decision_plots) :],
        tables=_tables(evaluation),
        galleries=_galleries(archive, decided, evaluation.labelled),
        quarantine=quarantine.head(_QUARANTINE).to_dict("records"),
        quarantined=len(quarantine),
        facts=_facts(scores, decision),
        resources=INLINE.render(),
        script=script,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    return evaluation


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deepstreaks_dask"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["thousands"] = lambda number: f"{number:,}"
    return environment


def _is_simulated(scores: xr.Dataset) -> bool:
    return any(
        str(source).startswith("simulation") for source in scores["source"].values[:1000]
    ) or (set(scores["kind"].values) > {"nea", "dipole"})


def _text(estimate: Estimate) -> str:
    return (
        f"95 %: {estimate.low:.4f} to {estimate.high:.4f}, {estimate.count:,} of {estimate.total:,}"
    )


def _tiles(evaluation: Evaluation) -> list[dict[str, str]]:
    tiles = [
        {
            "title": "plausible candidates",
            "value": f"{evaluation.plausible:,}",
            "note": f"of {evaluation.decided:,} decided cutouts",
        }
    ]
    if evaluation.labelled:
        tpr, fpr, precision = (getattr(evaluation.joint, k) for k in ("tpr", "fpr", "precision"))
        tiles += [
            {
                "title": "true-positive rate (published: 0.96 to 0.98)",
                "value": f"{tpr.value:.3f}",
                "note": _text(tpr),
            },
            {
                "title": "false-positive rate (published: below 0.01)",
                "value": f"{fpr.value:.4f}",
                "note": _text(fpr),
            },
            {"title": "precision", "value": f"{precision.value:.3f}", "note": _text(precision)},
        ]
    return tiles


def _tables(evaluation: Evaluation) -> list[dict[str, Any]]:
    def interval(row: pd.Series, name: str) -> str:
        if not np.isfinite(row[name]):
            return "not measured"
        return f"{row[name]:.4f} [{row[f'{name}_low']:.4f}, {row[f'{name}_high']:.4f}]"

    tables = [
        {
            "title": "Members",
            "head": ["member", "threshold", "positives", "negatives", "AUC", "TPR", "FPR"],
            "rows": [
                [
                    row["member"],
                    f"{row['threshold']:.2f}",
                    f"{row['n_pos']:,}",
                    f"{row['n_neg']:,}",
                    *(interval(row, name) for name in ("auc", "tpr", "fpr")),
                ]
                for _, row in evaluation.members.iterrows()
            ],
        }
    ]
    if len(evaluation.kinds):
        tables.append(
            {
                "title": "What the decision lets through, by kind",
                "head": ["kind", "cutouts", "plausible", "share"],
                "rows": [
                    [
                        row["kind"],
                        f"{row['cutouts']:,}",
                        f"{row['plausible']:,}",
                        f"{row['share']:.4f} [{row['low']:.4f}, {row['high']:.4f}]",
                    ]
                    for _, row in evaluation.kinds.iterrows()
                ],
            }
        )
    return tables


def _galleries(
    archive: str | os.PathLike[str], decided: xr.Dataset, labelled: bool
) -> list[dict[str, Any]]:
    values = decided["scores"].values
    names = [str(name) for name in decided["family"].values]
    members = [str(name) for name in decided["model"].values]
    best = np.stack(
        [
            np.fmax.reduce(values[:, [family_of(m) == name for m in members]], axis=1)
            for name in names
        ],
        axis=1,
    )
    weakest = np.nan_to_num(
        best.min(axis=1), nan=-1.0
    )  # the AND of families is as good as its weakest
    plausible, labels = decided["plausible"].values, plausibility_labels(decided)
    order = np.argsort(-weakest, kind="stable")
    chosen = {"Best candidates": order[plausible[order]]}
    if labelled:
        wrong = (labels == 1) & ~plausible
        chosen["Missed asteroids, the worst first"] = order[::-1][wrong[order[::-1]]]
        wrong = (labels == 0) & plausible
        chosen["False positives, the worst first"] = order[wrong[order]]
    pixels = archives.open_archive(archive)["cutouts"]
    return [
        {
            "title": title,
            "cutouts": [
                _cutout(pixels, decided, int(row), best[row], names) for row in rows[:_GALLERY]
            ],
        }
        for title, rows in chosen.items()
    ]


def _cutout(
    pixels: xr.DataArray, decided: xr.Dataset, row: int, best: np.ndarray, names: list[str]
) -> dict[str, str]:
    buffer = io.BytesIO()
    Image.fromarray(pixels[row].values).save(buffer, "PNG")
    one = decided.isel(cutout=row)
    text = ", ".join(f"{name} {score:.2f}" for name, score in zip(names, best, strict=True))
    kind = f", {one['kind'].item()}" if one["kind"].item() else ""
    return {
        "id": str(one["id"].item()),
        "text": f"{one['night'].item()}{kind}: {text}",
        "png": base64.b64encode(buffer.getvalue()).decode(),
    }


def _facts(scores: xr.Dataset, decision: Decision) -> list[tuple[str, str]]:
    attrs = scores.attrs
    facts = [("archive", attrs["url"]), ("run", attrs["run"]), ("zoo", attrs["zoo"])]
    for member in attrs["members"]:
        facts.append(
            (
                f"{member['name']}@{member['version']}",
                f"threshold {decision.threshold(member['name']):g}, sha256 {member['sha256'][:16]}…",
            )
        )
    keys = ("deepstreaks_dask", "keras", "backend", "dtype", "batch", "started", "updated")
    return facts + [(key, str(attrs[key])) for key in keys]
