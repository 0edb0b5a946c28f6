"""HoloViews pictures of scores, decisions and rates, for reports, notebooks and dashboards alike.

Each function takes what :mod:`~deepstreaks_dask.evaluation` or :mod:`~deepstreaks_dask.campaign` gives and returns an
element of the Bokeh backend. Nothing to show is said in words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from deepstreaks_dask.decision import family_of
from deepstreaks_dask.evaluation import Confusion

hv.extension("bokeh", logo=False)  # type: ignore[call-arg, unused-ignore]

# Okabe and Ito's colours: told apart with any kind of colour vision
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
INK, SOFT, GRID, CARD = "#1b2330", "#5b6677", "#e3e7ed", "#fefefe"

DARK = {
    BLUE: "#56b4e9",
    ORANGE: "#f0904d",
    GREEN: "#2fc79a",
    PURPLE: "#e6a3c8",
    INK: "#e8ebf0",
    SOFT: "#a4adbb",
    GRID: "#303846",
    CARD: "#1b212b",
}
"""What each colour of a picture becomes on a dark page, where it must be lighter to be told apart."""

PUBLISHED_TPR = (0.96, 0.98)
PUBLISHED_FPR = 0.01
"""True- and false-positive rates a night of Duev et al. 2019, arXiv:1904.05920, on their data."""

_FAMILY_COLOURS = {"rb": BLUE, "sl": ORANGE, "kd": GREEN, "os": PURPLE}
_DASHES = ("solid", "dashed", "dotted", "dotdash")
# no panning or zooming: a finger on a picture scrolls the page
_SIZE: dict[str, Any] = {"width": 520, "height": 320, "toolbar": None, "default_tools": []}
_LABELS = {1: "label 1", 0: "label 0", -1: "no label"}
_LABEL_STYLES = {
    "label 1": (BLUE, "solid"),
    "label 0": (ORANGE, "solid"),
    "no label": (SOFT, "dashed"),
}
_OTHER_STYLES = ((BLUE, "solid"), (ORANGE, "dashed"), (GREEN, "dotdash"), (PURPLE, "dotted"))
_MOST_TICKS = 12


def nothing(words: str) -> hv.Text:
    """Say in words that there is nothing to show."""
    text = hv.Text(0.5, 0.5, words).opts(text_color=SOFT, text_font_size="11pt")
    return text.opts(
        xaxis=None, yaxis=None, xlim=(0, 1), ylim=(0, 1), hooks=[_dress, _without_grid], **_SIZE
    )


def score_histogram(
    scores: xr.Dataset, member: str, *, threshold: float | None = None, bins: int = 50
) -> hv.Overlay | hv.Text:
    """Distribution of a member's scores on a logarithmic axis, by the family's label where known.

    Parameters
    ----------
    scores : xarray.Dataset
        With ``scores(cutout, model)`` and, where there are labels, ``label_<family>``.
    member : str
        One of ``model``.
    threshold : float, optional
        Where to draw a line.
    bins : int
        Bins between 0 and 1.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
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
    """Histograms of scores between 0 and 1, drawn over each other.

    Parameters
    ----------
    groups : mapping of str to ndarray
        Counts ``(bin,)`` by what to call them; ``"label 1"``, ``"label 0"`` and ``"no label"`` have colours of
        their own.
    title : str
    threshold : float, optional
        Where to draw a line.
    log : bool
        Whether the counts have a logarithmic axis.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
    """
    steps, highest = [], 1
    for (words, counts), style in zip(groups.items(), _group_styles(groups), strict=True):
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
        steps.append(_threshold_line(threshold))
    return _overlay(
        steps,
        title=title,
        ylabel="cutouts in a bin",
        logy=log,
        xlim=(-0.01, 1.01),
        ylim=(0.5, highest * 2) if log else (0, highest * 1.08),
        legend_opts={"location": "top_center"},
    )


def score_ecdf(
    scores: xr.Dataset, member: str, *, threshold: float | None = None
) -> hv.Overlay | hv.Text:
    """Share of cutouts whose score is at most x, by the family's label where known.

    Parameters
    ----------
    scores, member, threshold
        As for :func:`score_histogram`.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
    """
    share = np.linspace(0, 1, 401)
    groups = _by_label(scores, member)
    lines = {
        words: (
            np.concatenate([[0], np.quantile(chosen, share, method="inverted_cdf"), [1]]),
            np.concatenate([[0], share, [1]]),
        )
        for words, chosen in groups.items()
    }
    return _ecdf(lines, f"Cumulative scores of {member}", threshold)


def ecdf(
    groups: Mapping[str, np.ndarray], title: str, *, threshold: float | None = None
) -> hv.Overlay | hv.Text:
    """Cumulative distributions of binned scores.

    Parameters
    ----------
    groups, title, threshold
        As for :func:`histogram`.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
    """
    lines = {
        words: (
            np.linspace(0, 1, len(counts) + 1),
            np.concatenate([[0], np.cumsum(counts) / counts.sum()]),
        )
        for words, counts in groups.items()
    }
    return _ecdf(lines, title, threshold)


def _ecdf(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str, threshold: float | None
) -> hv.Overlay | hv.Text:
    drawn: list[Any] = [
        hv.Curve(line, "score", "share at or below", label=words).opts(
            line_width=2, interpolation="steps-post", **style
        )
        for (words, line), style in zip(lines.items(), _group_styles(lines), strict=True)
    ]
    if not drawn:
        return nothing("No scores")
    if threshold is not None:
        drawn.append(_threshold_line(threshold))
    return _overlay(
        drawn,
        title=title,
        xlim=(-0.01, 1.01),
        ylim=(-0.02, 1.02),
        legend_opts={"location": "bottom_right"},
    )


def roc(
    curves: Mapping[str, pd.DataFrame], *, at: tuple[float, float] | None = None
) -> hv.Overlay | hv.Text:
    """ROC curves, the false-positive rate on a logarithmic axis since only its low end matters.

    Parameters
    ----------
    curves : mapping of str to pandas.DataFrame
        A row a threshold, with ``fpr`` and ``tpr``; by member, family or ``"decision"``.
    at : tuple of float, optional
        False- and true-positive rate of the decision, to be marked.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
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
            ).opts(line_width=2, **_line_style(name, list(shown)))
        )
    if at is not None and np.isfinite(at).all():
        point = hv.Scatter(
            ([max(at[0], floor)], [at[1]]),
            "false-positive rate",
            "true-positive rate",
            label="thresholds in use",
        )
        lines.append(point.opts(color=INK, size=10, marker="diamond"))
    return _overlay(
        lines,
        title="ROC",
        logx=True,
        xlim=(floor, 1),
        ylim=(max(0.0, lowest - 0.02), 1.004),
        legend_position="bottom_right",
        legend_cols=1 if len(lines) <= 6 else 2,
    )


def precision_recall(curves: Mapping[str, pd.DataFrame]) -> hv.Overlay | hv.Text:
    """Precision against recall.

    Parameters
    ----------
    curves : mapping of str to pandas.DataFrame
        Curves with columns ``precision`` and ``recall`` (or ``tpr``), as for :func:`roc`.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
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
    lines = [line.opts(line_width=2, **_line_style(line.label, names)) for line in lines]
    return _overlay(
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
    """Counts of decisions against labels, each with its share of the label's cutouts.

    Parameters
    ----------
    counts : Confusion
    title : str
    decisions, labels : tuple of str
        What to call the positive and the negative ones.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
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
        hooks=[_dress, _without_grid],
        **_SIZE,
    )


def night_rates(nights: pd.DataFrame, which: str) -> hv.Overlay | hv.Text:
    """True- or false-positive rate (``"tpr"``, ``"fpr"``) night by night, with 95 % Wilson intervals.

    Parameters
    ----------
    nights : pandas.DataFrame
        As :func:`~deepstreaks_dask.evaluation.rates_by_night` gives it.
    which : str
        ``"tpr"`` or ``"fpr"``; drawn beside the figures of Duev et al. (2019).

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
    """
    words = {"tpr": "true-positive rate", "fpr": "false-positive rate"}[which]
    columns = night_columns(nights, which)
    names = columns.names
    if not names:
        return nothing(f"No labels: no {words} a night")
    if which == "tpr":
        published = hv.HSpan(*PUBLISHED_TPR).opts(color=GREEN, alpha=0.22, line_alpha=0)
    else:
        published = hv.HLine(PUBLISHED_FPR).opts(color=GREEN, line_dash="dashed", line_width=2)
    segments = hv.Segments(tuple(columns.intervals.values()), ["x0", "y0", "x1", "y1"])
    segments = segments.opts(color=SOFT, line_width=2)
    dots = hv.Scatter(tuple(columns.dots.values()), "place", ["rate", "night", "counts"])
    dots = dots.opts(color=BLUE, size=9 if len(names) <= 40 else 5)
    dots = dots.opts(
        tools=["hover"],
        hover_tooltips=[("night", "@night"), ("rate", "@rate{0.0000}"), ("counts", "@counts")],
    )
    return (published * segments * dots).opts(
        title=f"{words.capitalize()} by night",
        xlabel="night (green: Duev et al. 2019)",
        ylabel=words,
        xticks=_night_ticks(names),
        xrotation=40,
        xlim=(-0.6, len(names) - 0.4),
        ylim=columns.limits,
        hooks=[_dress],
        **_SIZE,
    )


@dataclass(frozen=True)
class NightColumns:
    """What :func:`night_rates` draws, for a picture that follows a threshold without being drawn anew."""

    names: list[str]
    intervals: dict[str, np.ndarray]
    dots: dict[str, Any]
    limits: tuple[float, float]


def night_columns(nights: pd.DataFrame, which: str) -> NightColumns:
    """Give the columns of the intervals and the dots of :func:`night_rates`, and the limits of its axis.

    Parameters
    ----------
    nights, which
        As for :func:`night_rates`.

    Returns
    -------
    NightColumns
        Places are numbers from 0 on, rates shares.
    """
    shown = nights.dropna(subset=[which])
    low, high = shown[f"{which}_low"].to_numpy(), shown[f"{which}_high"].to_numpy()
    place = np.arange(len(shown))
    names = [night_name(night) for night in shown["night"]]
    if which == "tpr":
        hits, of = "tp", "n_pos"
        lowest = max(0.0, float(min(low.min(initial=1), PUBLISHED_TPR[0])) - 0.02)
        limits = (lowest, 1 + 0.04 * (1 - lowest))  # a dot at 1 is seen whole
    else:
        hits, of = "fp", "n_neg"
        limits = (0.0, max(2 * PUBLISHED_FPR, float(high.max(initial=0)) * 1.05))
    counts = [f"{a:,} of {b:,}" for a, b in zip(shown[hits], shown[of], strict=True)]
    dots = {"place": place, "rate": shown[which].to_numpy(), "night": names, "counts": counts}
    return NightColumns(names, {"x0": place, "y0": low, "x1": place, "y1": high}, dots, limits)


def night_candidates(nights: pd.DataFrame) -> hv.Overlay | hv.Text:
    """How many candidates each night leaves to be looked at.

    Parameters
    ----------
    nights : pandas.DataFrame
        With ``night``, ``plausible`` and ``cutouts``, as :func:`~deepstreaks_dask.evaluation.rates_by_night` gives it.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
    """
    if not len(nights):
        return nothing("No nights")
    place = np.arange(len(nights))
    names = [night_name(night) for night in nights["night"]]
    columns = (place, nights["plausible"], names, nights["cutouts"])
    dots = hv.Scatter(columns, "place", ["plausible", "night", "cutouts"])
    dots = dots.opts(color=BLUE, size=9 if len(names) <= 40 else 5, tools=["hover"])
    dots = dots.opts(
        hover_tooltips=[
            ("night", "@night"),
            ("candidates", "@plausible{0,0}"),
            ("decided", "@cutouts{0,0}"),
        ]
    )
    return hv.Overlay([dots]).opts(
        title="Candidates by night",
        xlabel="night",
        ylabel="plausible cutouts",
        xticks=_night_ticks(names),
        xrotation=40,
        xlim=(-0.6, len(names) - 0.4),
        ylim=(0, max(1.0, float(nights["plausible"].max()) * 1.1)),
        hooks=[_dress],
        **_SIZE,
    )


def campaign_history(written: pd.DataFrame, total: int) -> hv.Overlay | hv.Text:
    """Cutouts that a campaign has scored over time.

    Parameters
    ----------
    written : pandas.DataFrame
        ``time`` (seconds since 1970) and ``cutouts`` (so far), as :func:`~deepstreaks_dask.standing.standing` gives it.
    total : int
        Cutouts in the archive.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
    """
    if not len(written):
        return nothing("No shard is written yet")
    every = max(1, len(written) // 1000)
    shown = pd.concat([written.iloc[::every], written.iloc[-1:]])
    when = pd.to_datetime(shown["time"], unit="s")
    line = hv.Curve((when, shown["cutouts"]), "time", "cutouts").opts(color=BLUE, line_width=2)
    goal = hv.HLine(total).opts(color=GREEN, line_dash="dashed", line_width=2)
    dots = hv.Scatter((when, shown["cutouts"]), "time", "cutouts").opts(color=BLUE, size=5)
    return hv.Overlay([goal, line, dots]).opts(
        title="Cutouts scored (dashed: all)",
        xlabel="time (UTC)",
        ylabel="cutouts",
        ylim=(0, total * 1.08),
        yformatter="%d",
        hooks=[_dress],
        **_SIZE,
    )


def drift(table: pd.DataFrame, name: str) -> hv.Overlay | hv.Text:
    """Population stability index of each night's scores, the flagged nights marked.

    Parameters
    ----------
    table : pandas.DataFrame
        As :meth:`~deepstreaks_dask.exploration.Exploration.drift` gives it.
    name : str
        Whose scores they are.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
    """
    shown = table.dropna(subset=["psi"])
    if len(shown) < 2:
        return nothing("Drift needs two nights with scores")
    place = np.arange(len(shown))
    names = [night_name(night) for night in shown["night"]]
    lines = [
        hv.HLine(level).opts(color=SOFT, line_dash="dashed", line_width=1) for level in (0.1, 0.25)
    ]
    parts = []
    flagged = shown["flagged"].to_numpy()
    for mask, words, colour, marker in (
        (~flagged, "like the others", BLUE, "circle"),
        (flagged, "flagged", ORANGE, "diamond"),
    ):
        part = shown[mask]
        own = [names[k] for k in place[mask]]
        dots = hv.Scatter(
            (place[mask], part["psi"], own, part["ks"], part["cutouts"]),
            "place",
            ["psi", "night", "ks", "cutouts"],
            label=words,
        )
        parts.append(
            dots.opts(
                color=colour,
                marker=marker,
                size=10 if len(names) <= 40 else 6,
                tools=["hover"],
                hover_tooltips=[
                    ("night", "@night"),
                    ("PSI", "@psi{0.000}"),
                    ("KS distance", "@ks{0.000}"),
                    ("cutouts", "@cutouts{0,0}"),
                ],
            )
        )
    return hv.Overlay([*lines, *parts]).opts(
        title=f"Drift of the scores of {name}",
        xlabel="night",
        ylabel="population stability index",
        xticks=_night_ticks(names),
        xrotation=40,
        xlim=(-0.6, len(names) - 0.4),
        ylim=(0, max(0.3, float(shown["psi"].max()) * 1.1)),
        legend_position="top_right",
        hooks=[_dress],
        **_SIZE,
    )


def _night_ticks(names: Sequence[str]) -> list[tuple[int, str]]:
    every = -(-len(names) // _MOST_TICKS)
    return [(k, names[k]) for k in range(0, len(names), every)]


def reliability(
    tables: Mapping[str, pd.DataFrame], *, title: str = "Reliability"
) -> hv.Overlay | hv.Text:
    """Share of positives against score, bin by bin, with 95 % Wilson intervals; on the diagonal a score is a probability.

    Parameters
    ----------
    tables : mapping of str to pandas.DataFrame
        What to call them, and as :func:`~deepstreaks_dask.calibration.reliability` gives them.
    title : str

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
    """
    shown = {words: table for words, table in tables.items() if len(table)}
    if not shown:
        return nothing("No labels: no reliability")
    drawn: list[Any] = [
        hv.Curve(([0, 1], [0, 1])).opts(color=SOFT, line_dash="dotted", line_width=1.5)
    ]
    for (words, table), style in zip(shown.items(), _OTHER_STYLES, strict=False):
        colour, dash = style
        bars = hv.Segments(
            (table["score"], table["low"], table["score"], table["high"]), ["x0", "y0", "x1", "y1"]
        )
        line = hv.Curve(
            (table["score"], table["share"]), "score", "share of positives", label=words
        )
        drawn += [
            bars.opts(color=colour, line_width=1.5),
            line.opts(color=colour, line_dash=dash, line_width=2),
            hv.Scatter((table["score"], table["share"])).opts(color=colour, size=6),
        ]
    return _overlay(
        drawn,
        title=title,
        xlabel="score",
        ylabel="share of positives",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        legend_position="top_left",
    )


def recovery_map(table: pd.DataFrame, which: str = "decision") -> hv.Overlay | hv.Text:
    """Share of injected streaks that are recovered, over magnitude and length, with 95 % Wilson intervals.

    Parameters
    ----------
    table : pandas.DataFrame
        As :func:`~deepstreaks_dask.injection.recovery` gives it.
    which : str
        ``"decision"`` or a family.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
    """
    shown = table[(table["which"] == which) & table["mag"].notna()]
    if not len(shown):
        return nothing("No injected streaks")
    mags, lengths = (sorted(shown[name].unique()) for name in ("mag", "length"))
    shapes: list[Any] = []
    for _, row in shown.iterrows():
        x, y = mags.index(row["mag"]), lengths.index(row["length"])
        box = hv.Rectangles([(x + 0.02, y + 0.02, x + 0.98, y + 0.98)])
        shapes.append(box.opts(color=GREEN, alpha=0.06 + 0.6 * row["share"], line_alpha=0))
        share = hv.Text(x + 0.5, y + 0.6, f"{row['share']:.2f}")
        shapes.append(share.opts(text_color=INK, text_font_size="11pt"))
        span = hv.Text(x + 0.5, y + 0.28, f"{row['low']:.2f} to {row['high']:.2f}")
        shapes.append(span.opts(text_color=INK, text_font_size="7pt"))
    return hv.Overlay(shapes).opts(
        title=f"Recovered by {'the decision' if which == 'decision' else which}",
        xlabel="magnitude",
        ylabel="length (pixels)",
        xticks=[(k + 0.5, f"{mag:g}") for k, mag in enumerate(mags)],
        yticks=[(k + 0.5, f"{length:g}") for k, length in enumerate(lengths)],
        xlim=(0, len(mags)),
        ylim=(0, len(lengths)),
        hooks=[_dress, _without_grid],
        **_SIZE,
    )


def learning_curves(
    histories: Mapping[str, Mapping[str, Sequence[float]]],
    which: str = "binary_accuracy",
    *,
    title: str = "Learning curves",
) -> hv.Overlay | hv.Text:
    """Training (dashed) and validation (solid) curves of members, epoch by epoch.

    Parameters
    ----------
    histories : mapping of str to mapping
        By member: lists a figure, such as ``binary_accuracy`` and ``val_binary_accuracy``, with one value an epoch. Both are
        weighted as the loss is, and those of the training have dropout on.
    which : str
        ``"binary_accuracy"`` or ``"loss"``.
    title : str

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
    """
    words = {"binary_accuracy": "accuracy", "loss": "binary cross-entropy"}[which]
    lines: list[Any] = []
    for place, (member, history) in enumerate(histories.items()):
        colour = _OTHER_STYLES[place % len(_OTHER_STYLES)][0]
        for key, dash, part in (
            (which, "dashed", "training"),
            (f"val_{which}", "solid", "validation"),
        ):
            values = list(history.get(key, ()))
            epochs = np.arange(1, len(values) + 1)
            line = hv.Curve((epochs, values), "epoch", words, label=f"{member}, {part}")
            lines.append(line.opts(color=colour, line_dash=dash, line_width=2))
    if not lines:
        return nothing("No training")
    corner = "bottom_right" if which == "binary_accuracy" else "top_right"
    return _overlay(lines, title=title, xlabel="epoch", ylabel=words, legend_position=corner)


def light_curve(
    days: np.ndarray, flux: np.ndarray, error: np.ndarray, band: np.ndarray
) -> hv.Overlay | hv.Text:
    """Flux of an object over time, a colour and a marker a filter, with bars of one standard deviation.

    Parameters
    ----------
    days : ndarray
        ``(epoch,)``, from any day on.
    flux, error : ndarray
        ``(epoch,)``, as :class:`~deepstreaks_dask.sequences.photometry.Measured` has them: 1 is a magnitude of 25; NaN where
        nothing was measured.
    band : ndarray
        Names of the filters, ``(epoch,)``.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
    """
    seen = np.isfinite(flux) & np.isfinite(error)
    if not seen.any():
        return nothing("No flux was measured")
    names = np.asarray(band).astype(object)
    drawn: list[Any] = []
    markers = ("circle", "diamond", "triangle", "square")
    for place, name in enumerate(sorted(set(names[seen]))):
        here = seen & (names == name)
        colour = _OTHER_STYLES[place % len(_OTHER_STYLES)][0]
        bars = (days[here], (flux - error)[here], days[here], (flux + error)[here])
        dots = hv.Scatter((days[here], flux[here]), "days", "flux", label=str(name) or "filter")
        drawn += [
            hv.Segments(bars, ["x0", "y0", "x1", "y1"]).opts(color=colour, line_width=1.5),
            dots.opts(color=colour, marker=markers[place % len(markers)], size=7),
        ]
    return _overlay(
        drawn, title="Light curve", xlabel="days", ylabel="flux", legend_position="top_right"
    )


def class_confusion(matrix: np.ndarray, classes: Sequence[str], title: str) -> hv.Overlay | hv.Text:
    """Draw what objects of each class were taken for: shares of the true class, a row each, and their number.

    Parameters
    ----------
    matrix : ndarray
        int ``(true, taken)``: how many of each true class were taken for each.
    classes : sequence of str
        Names.
    title : str

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
    """
    if not matrix.sum():
        return nothing("No labels: no confusion matrix")
    n, totals = len(classes), np.maximum(matrix.sum(axis=1), 1)
    boxes, shares = [], []
    for row in range(n):
        for column in range(n):
            share, top = matrix[row, column] / totals[row], n - 1 - row
            colour = GREEN if row == column else ORANGE
            box = hv.Rectangles([(column + 0.02, top + 0.02, column + 0.98, top + 0.98)])
            boxes.append(box.opts(color=colour, alpha=0.05 + 0.6 * share, line_alpha=0))
            if matrix[row, column]:
                shares.append((column + 0.5, top + 0.5, f"{100 * share:.0f} %"))
    words = hv.Labels(shares, ["x", "y"], "share").opts(text_color=INK, text_font_size="9pt")
    rows = [(n - 0.5 - k, f"{name} ({matrix[k].sum():,})") for k, name in enumerate(classes)]
    return hv.Overlay([*boxes, words]).opts(
        title=title,
        xlabel="taken for",
        ylabel="class",
        xticks=[(k + 0.5, name) for k, name in enumerate(classes)],
        yticks=rows,
        xrotation=40,
        xlim=(0, n),
        ylim=(0, n),
        hooks=[_dress, _without_grid],
        **_SIZE | {"height": 400},
    )


def estimates(
    curves: Mapping[str, pd.DataFrame], x: str, *, title: str, xlabel: str, ylabel: str
) -> hv.Overlay | hv.Text:
    """Rates over a number, a line each, with their intervals as a band.

    Parameters
    ----------
    curves : mapping of str to pandas.DataFrame
        By what to call each: a row a point, with ``x``, ``value`` and, where there is an interval, ``low`` and ``high``.
    x : str
        Name of the column along the axis.
    title, xlabel, ylabel : str

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
    """
    shown = {name: table for name, table in curves.items() if len(table)}
    if not shown:
        return nothing("Nothing to draw")
    drawn: list[Any] = []
    for place, (name, table) in enumerate(shown.items()):
        colour, dash = _OTHER_STYLES[place % len(_OTHER_STYLES)]
        if "low" in table:
            band = hv.Area((table[x], table["low"], table["high"]), x, ["low", "high"])
            drawn.append(band.opts(color=colour, alpha=0.15, line_alpha=0))
        line = hv.Curve((table[x], table["value"]), x, "value", label=name)
        dots = hv.Scatter((table[x], table["value"]), x, "value")
        drawn += [
            line.opts(color=colour, line_dash=dash, line_width=2),
            dots.opts(color=colour, size=5),
        ]
    return _overlay(
        drawn,
        title=title,
        xlabel=xlabel,
        ylabel=ylabel,
        ylim=(-0.02, 1.02),
        legend_position="bottom_right",
    )


def probabilities(values: np.ndarray, classes: Sequence[str], member: str) -> hv.Overlay | hv.Text:
    """Draw the probability of each class after each epoch of one object.

    Parameters
    ----------
    values : ndarray
        ``(epoch, class)``.
    classes : sequence of str
        Names.
    member : str
        Whose they are.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
    """
    if not len(values):
        return nothing("No epochs")
    places, lines = np.arange(1, len(values) + 1), []
    for k, name in enumerate(classes):
        colour = _OTHER_STYLES[k % len(_OTHER_STYLES)][0]
        line = hv.Curve((places, values[:, k]), "epoch", "probability", label=name)
        lines.append(
            line.opts(color=colour, line_dash=_DASHES[k // len(_OTHER_STYLES)], line_width=2)
        )
    return _overlay(
        lines,
        title=f"Classes by {member}",
        xlabel="epochs seen",
        ylabel="probability",
        ylim=(-0.02, 1.02),
        legend_position="right",
    )


def distributions(
    groups: Mapping[str, np.ndarray], *, title: str, xlabel: str
) -> hv.Overlay | hv.Text:
    """Distributions of several samples of a quantity, each of area 1, over the range of their middle 98 %.

    Parameters
    ----------
    groups : mapping of str to ndarray
        Values ``(n,)`` by what to call them; what is not finite is left out.
    title, xlabel : str

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
    """
    known = {name: values[np.isfinite(values)] for name, values in groups.items()}
    known = {name: values for name, values in known.items() if len(values)}
    if not known:
        return nothing("Nothing was measured")
    low, high = np.percentile(np.concatenate(list(known.values())), [1, 99])
    edges = np.linspace(low, high if high > low else low + 1, 41)
    drawn = []
    for place, (name, values) in enumerate(known.items()):
        colour, dash = _OTHER_STYLES[place % len(_OTHER_STYLES)]
        counts = np.histogram(values, edges)[0] / (len(values) * np.diff(edges))
        steps = hv.Curve((edges, np.append(counts, counts[-1])), xlabel, "density", label=name)
        drawn.append(
            steps.opts(color=colour, line_dash=dash, line_width=2, interpolation="steps-post")
        )
    return _overlay(
        drawn, title=title, xlabel=xlabel, ylabel="density", legend_position="top_right"
    )


def venn(regions: Mapping[str, int]) -> hv.Overlay | hv.Text:
    """Bars of the regions of the families' Venn diagram: how many pass exactly these families.

    Parameters
    ----------
    regions : mapping of str to int
        As :func:`~deepstreaks_dask.evaluation.venn` gives it. The dots before a bar say which families it is in.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        Words where there is nothing to draw.
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
        hooks=[_dress],
        **_SIZE,
    )


def gallery(cutouts: np.ndarray, captions: Sequence[str], *, columns: int = 4) -> Any:
    """Cutouts side by side, the right way up and as bright as they are in the archive.

    Parameters
    ----------
    cutouts : ndarray
        uint8 ``(n, y, x)``, 0 to 255.
    captions : sequence of str
        One for each.
    columns : int
        Cutouts in a row.

    Returns
    -------
    holoviews.Layout or holoviews.Text
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


def night_name(night: int) -> str:
    """Write a night given as YYYYMMDD the way people read it; 0 is not known."""
    digits = f"{night:08d}"
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}" if night else "not known"


def _by_label(scores: xr.Dataset, member: str) -> dict[str, np.ndarray]:
    """Split a member's scores by its family's label, in words; what is empty is left out."""
    values = scores["scores"].sel(model=member).values
    name = f"label_{family_of(member)}"
    labels = scores[name].values if name in scores else np.full(len(values), -1)
    looked = ~np.isnan(values)
    parts = {words: values[(labels == label) & looked] for label, words in _LABELS.items()}
    return {words: part for words, part in parts.items() if len(part)}


def _group_styles(groups: Iterable[str]) -> list[dict[str, str]]:
    """Colour and dash of each group of scores, told apart without colour too."""
    others = iter(_OTHER_STYLES * 9)
    styles = [_LABEL_STYLES.get(words) or next(others) for words in groups]
    return [{"color": colour, "line_dash": dash} for colour, dash in styles]


def _line_style(name: str, names: Sequence[str]) -> dict[str, str]:
    """Colour by family, dash by the member's place in it; the decision and the like in ink."""
    colour = _FAMILY_COLOURS.get(family_of(name), INK)
    relatives = [other for other in names if family_of(other) == family_of(name)]
    return {"color": colour, "line_dash": _DASHES[relatives.index(name) % len(_DASHES)]}


def _threshold_line(threshold: float) -> hv.VLine:
    return hv.VLine(threshold).opts(color=INK, line_dash="dotted", line_width=1.5)


def _overlay(elements: list[Any], **options: Any) -> hv.Overlay:
    return hv.Overlay(elements).opts(hooks=[_dress], **options, **_SIZE)


def _dress(plot: Any, element: Any) -> None:
    dress(plot.state)


def dress(figure: Any) -> None:
    """Give a Bokeh figure the package's look: quiet axes, readable text, no box."""
    figure.background_fill_color = figure.border_fill_color = CARD
    figure.outline_line_color = None
    figure.title.text_color, figure.title.text_font_size = INK, "11pt"
    figure.title.text_font = "system-ui, sans-serif"
    for axis in figure.axis:
        axis.axis_label_text_color = axis.major_label_text_color = SOFT
        axis.axis_label_text_font = axis.major_label_text_font = "system-ui, sans-serif"
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size, axis.major_label_text_font_size = "10pt", "9pt"
        axis.axis_line_color = axis.major_tick_line_color = GRID
        axis.minor_tick_line_color = None
        axis.major_tick_in = 0
    for grid in figure.grid:
        grid.visible, grid.grid_line_color = True, GRID
    for legend in figure.legend:
        legend.label_text_color, legend.label_text_font = INK, "system-ui, sans-serif"
        legend.label_text_font_size = "9pt"
        legend.background_fill_color, legend.background_fill_alpha = CARD, 1.0
        legend.border_line_color = None
        legend.padding, legend.spacing, legend.margin = 4, 0, 4
        legend.glyph_height = legend.label_height = 14


def _without_grid(plot: Any, element: Any) -> None:
    for grid in plot.state.grid:
        grid.visible = False
