"""HoloViews pictures of scores, decisions and rates, for reports, notebooks and dashboards alike.

Each function takes what :mod:`~deepstreaks_dask.evaluation` or :mod:`~deepstreaks_dask.campaign` gives and returns an
element of the Bokeh backend. Nothing to show is said in words.
"""

from __future__ import annotations

from collections.abc import Mapping

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from deepstreaks_dask.evaluation import Confusion

hv.extension("bokeh", logo=False)  # type: ignore[call-arg, unused-ignore]

# Okabe and Ito's colours: told apart with any kind of colour vision
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY)

PUBLISHED_TPR = (0.96, 0.98)
PUBLISHED_FPR = 0.01
"""True- and false-positive rates a night of Duev et al. 2019, arXiv:1904.05920, on their data."""

_SIZE = {"width": 480, "height": 320, "toolbar": None}


def nothing(words: str) -> hv.Text:
    """Say in words that there is nothing to show."""
    return hv.Text(0.5, 0.5, words).opts(xaxis=None, yaxis=None, **_SIZE)


def score_histogram(scores: xr.Dataset, member: str, *, bins: int = 50) -> hv.Overlay | hv.Text:
    """Distribution of a member's scores on a logarithmic axis, by the family's label where known."""
    column = list(scores["model"].values).index(member)
    values = scores["scores"].values[:, column]
    name = f"label_{member.split('_')[0]}"
    labels = scores[name].values if name in scores else np.full(len(values), -1)
    parts = ((1, "positive", BLUE), (0, "negative", ORANGE), (-1, "not labelled", "#888888"))
    steps = []
    for label, words, colour in parts:
        chosen = values[(labels == label) & ~np.isnan(values)]
        if not len(chosen):
            continue
        counts, edges = np.histogram(chosen, bins=bins, range=(0, 1))
        heights = np.maximum(counts, 0.5)
        steps.append(
            hv.Curve(
                (edges, np.append(heights, heights[-1])), "score", "cutouts", label=words
            ).opts(color=colour, interpolation="steps-post", line_width=2)
        )
    if not steps:
        return nothing(f"{member}: no scores yet")
    return hv.Overlay(steps).opts(title=member, logy=True, legend_position="top", **_SIZE)


def roc_curves(curves: Mapping[str, pd.DataFrame]) -> hv.Overlay | hv.Text:
    """ROC curves, the false-positive rate on a logarithmic axis since only its low end matters."""
    drawn = []
    for (name, curve), colour in zip(curves.items(), CYCLE * 3, strict=False):
        shown = curve[curve["fpr"] > 0]
        if len(shown):
            line = hv.Curve(
                (shown["fpr"], shown["tpr"]),
                "false-positive rate",
                "true-positive rate",
                label=name,
            )
            drawn.append(line.opts(color=colour, line_width=2))
    if not drawn:
        return nothing("No labels of both classes: no ROC curve")
    return hv.Overlay(drawn).opts(
        title="ROC", logx=True, ylim=(0.5, 1.005), legend_position="bottom_right", **_SIZE
    )


def precision_recall_curves(curves: Mapping[str, pd.DataFrame]) -> hv.Overlay | hv.Text:
    """Precision against recall."""
    drawn = [
        hv.Curve((curve["recall"], curve["precision"]), "recall", "precision", label=name).opts(
            color=colour, line_width=2
        )
        for (name, curve), colour in zip(curves.items(), CYCLE * 3, strict=False)
        if len(curve)
    ]
    if not drawn:
        return nothing("No labels of both classes: no precision-recall curve")
    return hv.Overlay(drawn).opts(
        title="Precision and recall", ylim=(0, 1.02), legend_position="bottom_left", **_SIZE
    )


def confusion_matrix(counts: Confusion, *, title: str = "Decision") -> hv.Overlay:
    """Counts of decisions against labels."""
    cells = [
        ("plausible", "asteroid", counts.tp),
        ("rejected", "asteroid", counts.fn),
        ("plausible", "other", counts.fp),
        ("rejected", "other", counts.tn),
    ]
    totals = {"asteroid": counts.tp + counts.fn, "other": counts.fp + counts.tn}
    shares = [(x, y, n / totals[y] if totals[y] else 0.0) for x, y, n in cells]
    heat = hv.HeatMap(shares, ["decision", "label"], "share").opts(
        cmap="Blues", clim=(0, 1.4), **_SIZE
    )
    words = hv.Labels([(x, y, f"{n:,}") for x, y, n in cells], ["decision", "label"], "count")
    return (heat * words.opts(text_color="black", text_font_size="15pt")).opts(title=title)


def night_rates(nights: pd.DataFrame, which: str) -> hv.Overlay | hv.Text:
    """True- or false-positive rate (``"tpr"``, ``"fpr"``) night by night, with 95 % Wilson intervals."""
    words = {"tpr": "true-positive rate", "fpr": "false-positive rate"}[which]
    shown = nights.dropna(subset=[which])
    if not len(shown):
        return nothing(f"No labels: no {words} a night")
    names = [str(night) for night in shown["night"]]
    value = shown[which].to_numpy()
    bars = hv.ErrorBars(
        (names, value, value - shown[f"{which}_low"], shown[f"{which}_high"] - value),
        "night",
        ["rate", "below", "above"],
    ).opts(color="#666666")
    dots = hv.Scatter((names, value), "night", "rate").opts(color=BLUE, size=8)
    if which == "tpr":
        published = hv.HSpan(*PUBLISHED_TPR).opts(color=GREEN, alpha=0.2)
        note = "band: 0.96 to 0.98 as published"
    else:
        published = hv.HLine(PUBLISHED_FPR).opts(color=GREEN, line_dash="dashed", line_width=2)
        note = "line: 0.01 as published"
    low = max(0.0, float(shown[f"{which}_low"].min()) - 0.02) if which == "tpr" else 0.0
    high = 1.005 if which == "tpr" else max(0.02, float(shown["fpr_high"].max()) * 1.1)
    return (published * bars * dots).opts(
        title=f"{words.capitalize()} ({note})",
        ylabel=words,
        xrotation=40,
        ylim=(low, high),
        fontsize={"title": 10},
        **_SIZE,
    )


def venn_bars(regions: Mapping[str, int]) -> hv.Bars | hv.Text:
    """Bars of the regions of the families' Venn diagram: how many pass exactly these families."""
    rows = [(name.replace("&", " & "), count) for name, count in regions.items()]
    if not any(count for _, count in rows):
        return nothing("No scores yet")
    rows.sort(key=lambda row: row[1])
    return hv.Bars(rows, "passes exactly", "cutouts").opts(
        invert_axes=True, color=BLUE, title="Venn regions", line_color=None, **_SIZE
    )
