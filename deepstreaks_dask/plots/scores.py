"""Plots of scores, decisions and rates, for reports, notebooks and dashboards.

Each function takes tables from :mod:`~deepstreaks_dask.evaluation.decision_metrics` or
:mod:`~deepstreaks_dask.evaluation.interactive` and returns a HoloViews element of the Bokeh backend. Without data, the
element is a text that says what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from deepstreaks_dask.evaluation.metrics import Confusion
from deepstreaks_dask.plots.style import (
    BLUE,
    FRAME,
    GREEN,
    INK,
    LABEL_NAMES,
    ORANGE,
    group_styles,
    hide_grid,
    line_style,
    nothing,
    overlay,
    style_hook,
    threshold_line,
)
from deepstreaks_dask.scoring.decision import family_of


def score_histogram(
    scores: xr.Dataset, member: str, *, threshold: float | None = None, bins: int = 50
) -> hv.Overlay | hv.Text:
    """Plot the distribution of a member's scores on a logarithmic axis, split by the family's label where known.

    Parameters
    ----------
    scores : xarray.Dataset
        With ``scores(cutout, model)`` and, where there are labels, ``label_<family>``.
    member : str
        One of ``model``.
    threshold : float, optional
        Where to draw a vertical line.
    bins : int
        Bins between 0 and 1.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if there is nothing to draw.
    """
    groups = {
        words: np.histogram(chosen, bins=bins, range=(0, 1))[0]
        for words, chosen in _by_label(scores, member).items()
    }
    return histogram(groups, f"Scores of {member}", threshold=threshold)


def histogram(
    groups: Mapping[str, np.ndarray],
    title: str,
    *,
    threshold: float | None = None,
    log: bool = True,
) -> hv.Overlay | hv.Text:
    """Plot histograms of scores between 0 and 1 on the same axes.

    Parameters
    ----------
    groups : mapping of str to ndarray
        Counts ``(bin,)`` by name; the names ``"label 1"``, ``"label 0"`` and ``"no label"`` have fixed colours.
    title : str
    threshold : float, optional
        Where to draw a vertical line.
    log : bool
        Whether the counts have a logarithmic axis.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if there is nothing to draw.
    """
    steps, highest = [], 1
    for (words, counts), style in zip(groups.items(), group_styles(groups), strict=True):
        highest = max(highest, int(counts.max()))
        heights = np.maximum(counts, 0.5) if log else counts  # a logarithmic axis has no zero
        edges = np.linspace(0, 1, len(counts) + 1)
        steps.append(
            hv.Curve(
                (edges, np.append(heights, heights[-1])), "score", "cutouts", label=words
            ).opts(interpolation="steps-post", line_width=2, **style)
        )
    if not steps:
        return nothing("No scores")
    if threshold is not None:
        steps.append(threshold_line(threshold))
    return overlay(
        steps,
        title=title,
        ylabel="cutouts in a bin",
        logy=log,
        xlim=(-0.01, 1.01),
        ylim=(0.5, highest * 2) if log else (0, highest * 1.08),
        legend_opts={"location": "top_center"},
    )


def ecdf(
    groups: Mapping[str, np.ndarray], title: str, *, threshold: float | None = None
) -> hv.Overlay | hv.Text:
    """Plot cumulative distributions of binned scores.

    Parameters
    ----------
    groups, title, threshold
        As for :func:`histogram`.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if there is nothing to draw.
    """
    drawn: list[Any] = []
    for (words, counts), style in zip(groups.items(), group_styles(groups), strict=True):
        edges = np.linspace(0, 1, len(counts) + 1)
        shares = np.concatenate([[0], np.cumsum(counts) / counts.sum()])
        line = hv.Curve((edges, shares), "score", "share at or below", label=words)
        drawn.append(line.opts(line_width=2, interpolation="steps-post", **style))
    if not drawn:
        return nothing("No scores")
    if threshold is not None:
        drawn.append(threshold_line(threshold))
    return overlay(
        drawn,
        title=title,
        xlim=(-0.01, 1.01),
        ylim=(-0.02, 1.02),
        legend_opts={"location": "bottom_right"},
    )


def roc(
    curves: Mapping[str, pd.DataFrame], *, at: tuple[float, float] | None = None
) -> hv.Overlay | hv.Text:
    """Plot ROC curves, with a logarithmic false-positive rate since only its low end matters.

    Parameters
    ----------
    curves : mapping of str to pandas.DataFrame
        By member, family or ``"decision"``: one row per threshold, with columns ``fpr, tpr``.
    at : tuple of float, optional
        False- and true-positive rate of the decision, marked by a diamond.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if there is nothing to draw.
    """
    shown = {name: curve for name, curve in curves.items() if (curve["fpr"] > 0).any()}
    if not shown:
        return nothing("No labels of both classes: no ROC curve")
    floor = min(curve.loc[curve["fpr"] > 0, "fpr"].min() for curve in shown.values()) / 2
    lines, lowest = [], 1.0
    for name, curve in shown.items():
        # what lies at a rate of 0 is drawn at the left edge, as its highest point
        line = curve.iloc[max(int((curve["fpr"] == 0).sum()) - 1, 0) :]
        lowest = min(lowest, float(line["tpr"].iloc[0]))
        lines.append(
            hv.Curve(
                (np.maximum(line["fpr"], floor), line["tpr"]),
                "false-positive rate",
                "true-positive rate",
                label=name,
            ).opts(line_width=2, **line_style(name, list(shown)))
        )
    if at is not None and np.isfinite(at).all():
        point = hv.Scatter(
            ([max(at[0], floor)], [at[1]]),
            "false-positive rate",
            "true-positive rate",
            label="thresholds in use",
        )
        lines.append(point.opts(color=INK, size=10, marker="diamond"))
    return overlay(
        lines,
        title="ROC",
        logx=True,
        xlim=(floor, 1),
        ylim=(max(0.0, lowest - 0.02), 1.004),
        legend_position="bottom_right",
        legend_cols=1 if len(lines) <= 6 else 2,
    )


def precision_recall(curves: Mapping[str, pd.DataFrame]) -> hv.Overlay | hv.Text:
    """Plot precision against recall.

    Parameters
    ----------
    curves : mapping of str to pandas.DataFrame
        Curves with columns ``precision`` and ``recall`` (or ``tpr``), as for :func:`roc`.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if there is nothing to draw.
    """
    lines = []
    for name, curve in curves.items():
        line = curve.rename(columns={"tpr": "recall"}).dropna(subset=["precision"])
        if len(line):
            lines.append(
                hv.Curve((line["recall"], line["precision"]), "recall", "precision", label=name)
            )
    if not lines:
        return nothing("No labels of both classes: no precision-recall curve")
    names = [line.label for line in lines]
    lines = [line.opts(line_width=2, **line_style(line.label, names)) for line in lines]
    return overlay(
        lines,
        title="Precision and recall",
        xlabel="recall (true-positive rate)",
        xlim=(-0.01, 1.01),
        ylim=(-0.02, 1.02),
        legend_position="bottom_left",
        legend_cols=1 if len(lines) <= 6 else 2,
    )


def confusion(
    counts: Confusion,
    *,
    title: str = "Decision against labels",
    decisions: tuple[str, str] = ("plausible", "rejected"),
    labels: tuple[str, str] = ("plausible", "other"),
) -> hv.Overlay | hv.Text:
    """Plot counts of decisions against labels, each with its share of the label's cutouts.

    Parameters
    ----------
    counts : Confusion
    title : str
    decisions, labels : tuple of str
        Names of the positives and of the negatives.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if there is nothing to draw.
    """
    if not counts.tp + counts.fn + counts.fp + counts.tn:
        return nothing("No labels: no confusion matrix")
    cells = [
        (0, 1, counts.tp, counts.tp + counts.fn, GREEN),
        (1, 1, counts.fn, counts.tp + counts.fn, ORANGE),
        (0, 0, counts.fp, counts.fp + counts.tn, ORANGE),
        (1, 0, counts.tn, counts.fp + counts.tn, GREEN),
    ]
    shapes: list[Any] = []
    for x, y, count, total, colour in cells:
        share = count / total if total else 0.0
        box = hv.Rectangles([(x + 0.02, y + 0.02, x + 0.98, y + 0.98)])
        shapes.append(box.opts(color=colour, alpha=0.12 + 0.5 * share, line_alpha=0))
        number = hv.Text(x + 0.5, y + 0.56, f"{count:,}")
        shapes.append(number.opts(text_color=INK, text_font_size="20pt"))
        words = f"{100 * share:.2f} % of {total:,}" if total else "none labelled so"
        below = hv.Text(x + 0.5, y + 0.32, words)
        shapes.append(below.opts(text_color=INK, text_font_size="9pt"))
    return hv.Overlay(shapes).opts(
        title=title,
        xlabel="decision",
        ylabel="label",
        xticks=[(0.5, decisions[0]), (1.5, decisions[1])],
        yticks=[(1.5, labels[0]), (0.5, labels[1])],
        xlim=(0, 2),
        ylim=(0, 2),
        hooks=[style_hook, hide_grid],
        **FRAME,
    )


def venn(regions: Mapping[str, int]) -> hv.Overlay | hv.Text:
    """Plot the regions of the families' Venn diagram as bars: how many cutouts pass exactly these families.

    Parameters
    ----------
    regions : mapping of str to int
        As returned by :func:`~deepstreaks_dask.evaluation.decision_metrics.venn`. The dots before a bar mark
        the families that its cutouts pass.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if there is nothing to draw.
    """
    if not any(regions.values()):
        return nothing("No cutouts")
    names = list(dict.fromkeys(n for region in regions for n in region.split("&") if n != "none"))
    rows = sorted(regions.items(), key=lambda row: row[1])
    ticks, boxes, counts = [], [], []
    widest = max(regions.values())
    for place, (region, count) in enumerate(rows):
        inside = region.split("&")
        ticks.append((place, "  ".join(f"{'●' if n in inside else '○'} {n}" for n in names)))
        boxes.append((0, place - 0.36, count, place + 0.36))
        counts.append((count + widest * 0.015, place, f"{count:,}"))
    bars = hv.Rectangles(boxes).opts(color=BLUE, line_alpha=0)
    numbers = hv.Labels(counts, ["x", "y"], "count").opts(
        text_color=INK, text_font_size="9pt", text_align="left"
    )
    return (bars * numbers).opts(
        title="Families that cutouts pass",
        xlabel="cutouts",
        ylabel="",
        yticks=ticks,
        xlim=(0, widest * 1.2),
        ylim=(-0.6, len(rows) - 0.4),
        xformatter="%d",
        hooks=[style_hook],
        **FRAME,
    )


def gallery(cutouts: np.ndarray, captions: Sequence[str], *, columns: int = 4) -> Any:
    """Plot cutouts side by side, the first row on top, on the grey scale of the archive.

    Parameters
    ----------
    cutouts : ndarray
        uint8 ``(n, y, x)``, 0 to 255.
    captions : sequence of str
        One per cutout.
    columns : int
        Cutouts in a row.

    Returns
    -------
    holoviews.Layout or holoviews.Text
        A text if there is no cutout.
    """
    if not len(cutouts):
        return nothing("No cutouts")
    height, width = cutouts.shape[1:]
    pictures = [
        hv.Image(cutout, bounds=(0, 0, width, height)).opts(
            cmap="gray",
            clim=(0, 255),
            title=caption,
            xaxis=None,
            yaxis=None,
            width=220,
            height=240,
            toolbar=None,
            default_tools=[],
            fontsize={"title": 8},
        )
        for cutout, caption in zip(cutouts, captions, strict=True)
    ]
    return hv.Layout(pictures).cols(columns)


def _by_label(scores: xr.Dataset, member: str) -> dict[str, np.ndarray]:
    """Split a member's scores by its family's label; empty groups are left out."""
    values = scores["scores"].sel(model=member).values
    name = f"label_{family_of(member)}"
    labels = scores[name].values if name in scores else np.full(len(values), -1)
    scored = ~np.isnan(values)
    parts = {words: values[(labels == label) & scored] for label, words in LABEL_NAMES.items()}
    return {words: part for words, part in parts.items() if len(part)}
