"""Pages about sequences: rates of the members, and simulated exposures compared with real ones."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import xarray as xr

from deepstreaks_dask import plots
from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.evaluation.exposure_check import STATISTIC_LABELS, ExposureComparison
from deepstreaks_dask.evaluation.metrics import Estimate
from deepstreaks_dask.evaluation.sequence_metrics import (
    MemberFigures,
    SequenceEvaluation,
    beside_published,
)
from deepstreaks_dask.report.html import chart_item, write_page
from deepstreaks_dask.utils.storage import locate


def write_evaluation(
    evaluation: SequenceEvaluation, scores: xr.Dataset, path: str | os.PathLike[str]
) -> None:
    """Write the report of a run of sequences as one HTML file that loads nothing.

    Parameters
    ----------
    evaluation : SequenceEvaluation
        As returned by :func:`~deepstreaks_dask.evaluation.sequence_metrics.evaluate_sequences`.
    scores : xarray.Dataset
        The evaluated run ``scores(object, member, class)``, as returned by
        :func:`~deepstreaks_dask.scoring.runs.open_run`, with its provenance as attributes.
    path : str or path
        The file to write, as a path or as any fsspec URL.

    Raises
    ------
    DeepStreaksError
        If the file cannot be written.
    """
    matrices = [
        plots.class_confusion(one.matrix, evaluation.classes, f"Confusion of {one.member}")
        for one in evaluation.members
    ]
    curves = []
    if evaluation.by_epochs:
        curves.append(
            plots.estimates(
                evaluation.by_epochs,
                "epochs",
                title="Accuracy after so many epochs",
                xlabel="epochs seen (objects that have as many)",
                ylabel="accuracy",
            )
        )
    if evaluation.samples:
        curves.append(
            plots.estimates(
                evaluation.samples,
                "samples",
                title="Average recall after fine-tuning",
                xlabel="objects a class (0: before; band: range of the draws)",
                ylabel="average recall",
            )
        )
    write_page(
        "sequences.html.j2",
        path,
        name=locate(scores.attrs["url"])[1].rsplit("/", 1)[-1],
        run=scores.attrs["run"],
        evaluation=evaluation,
        matrices=[chart_item(chart) for chart in matrices],
        curves=[chart_item(chart) for chart in curves],
        members=[_member(one) for one in evaluation.members],
        classes=_classes(evaluation),
        published=beside_published(evaluation).to_dict("records"),
        folds=_folds(evaluation),
        facts=_facts(scores),
    )


def write_comparison(comparison: ExposureComparison, path: str | os.PathLike[str]) -> None:
    """Write the page that compares exposures of archives: noise, seeing and signal-to-noise ratio.

    Parameters
    ----------
    comparison : ExposureComparison
        As returned by :func:`~deepstreaks_dask.evaluation.exposure_check.compare_exposures`.
    path : str or path
        The file to write, as a path or as any fsspec URL.

    Raises
    ------
    DeepStreaksError
        If the file cannot be written.
    """
    charts = [
        plots.distributions(comparison.groups(quantity), title=title, xlabel=unit)
        for quantity, (title, unit) in STATISTIC_LABELS.items()
    ]
    write_page(
        "exposures.html.j2",
        path,
        sources=comparison.sources,
        charts=[chart_item(chart) for chart in charts],
        rows=comparison.table.to_dict("records"),
        labels=STATISTIC_LABELS,
    )


def _member(one: MemberFigures) -> list[str]:
    return [
        one.member,
        f"{one.accuracy.total:,}",
        *map(_estimate_text, (one.recall, one.f1, one.accuracy)),
    ]


def _estimate_text(estimate: Estimate) -> str:
    return str(estimate) if estimate.total else "not measured"


def _classes(evaluation: SequenceEvaluation) -> list[list[str]]:
    """Return a row per class: its name and number of objects, then recall and F1 of each member."""
    rows = []
    for k, name in enumerate(evaluation.classes):
        cells = []
        for one in evaluation.members:
            row = one.table.iloc[k]
            cells += [_interval(row, "recall"), _interval(row, "f1")]
        rows.append([name, f"{int(evaluation.members[0].matrix[k].sum()):,}", *cells])
    return rows


def _interval(row: pd.Series, name: str) -> str:
    if not np.isfinite(row[name]):
        return "not measured"
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


def _folds(evaluation: SequenceEvaluation) -> list[list[str]]:
    return [
        [
            name,
            str(len(one["each"])),
            *(f"{one[key]:.4f} ± {one[f'{key}_spread']:.4f}" for key in ("f1", "recall")),
            f"{one['f1_classes']:.4f}",
            ", ".join(
                f"{kind} {mean:.3f} ± {sd:.3f}" for kind, (mean, sd) in one["f1_by_class"].items()
            ),
        ]
        for name, one in evaluation.folds.items()
    ]


def _facts(scores: xr.Dataset) -> list[tuple[str, str]]:
    attrs = provenance_of(scores)
    facts = [("archive", attrs["url"]), ("run", attrs["run"]), ("zoo", str(attrs.get("zoo", "")))]
    facts += [
        (f"{member['name']}@{member['version']}", f"weights sha256 {member['sha256']}")
        for member in attrs["members"]
    ]
    return facts + [(key, str(attrs[key])) for key in ("started", "updated") if key in attrs]
