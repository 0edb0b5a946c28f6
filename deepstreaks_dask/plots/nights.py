"""Plots along nights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd

from deepstreaks_dask.plots.style import (
    BLUE,
    FRAME,
    GREEN,
    MAX_TICKS,
    ORANGE,
    PUBLISHED_FPR,
    PUBLISHED_TPR,
    SOFT,
    night_name,
    nothing,
    style_hook,
)


def night_rates(nights: pd.DataFrame, which: str) -> hv.Overlay | hv.Text:
    """Plot the true- or false-positive rate of each night, with 95 % Wilson intervals.

    Parameters
    ----------
    nights : pandas.DataFrame
        As returned by :func:`~deepstreaks_dask.evaluation.decision_metrics.rates_by_night`.
    which : str
        ``"tpr"`` or ``"fpr"``; the figures of Duev et al. (2019) are drawn beside it.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if there is nothing to draw.
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
        hooks=[style_hook],
        **FRAME,
    )


@dataclass(frozen=True)
class NightColumns:
    """Columns of the plot of :func:`night_rates`, to update a plot without drawing it again.

    Attributes
    ----------
    names : list of str
        The nights, as YYYY-MM-DD.
    intervals : dict
        Columns ``x0``, ``y0``, ``x1``, ``y1`` of the intervals, ``(night,)`` each.
    dots : dict
        Columns ``place``, ``rate``, ``night``, ``counts`` of the dots, ``(night,)`` each.
    limits : tuple of float
        Lowest and highest rate on the axis.
    """

    names: list[str]
    intervals: dict[str, np.ndarray]
    dots: dict[str, Any]
    limits: tuple[float, float]


def night_columns(nights: pd.DataFrame, which: str) -> NightColumns:
    """Return the columns of the intervals and the dots of :func:`night_rates`, and the limits of its axis.

    Parameters
    ----------
    nights, which
        As for :func:`night_rates`.

    Returns
    -------
    NightColumns
        Places are numbers from 0, rates are shares from 0 to 1.
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
    """Plot the number of candidates of each night.

    Parameters
    ----------
    nights : pandas.DataFrame
        With columns ``night, plausible, cutouts``, as returned by
        :func:`~deepstreaks_dask.evaluation.decision_metrics.rates_by_night`.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if there is nothing to draw.
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
        hooks=[style_hook],
        **FRAME,
    )


def campaign_history(written: pd.DataFrame, total: int) -> hv.Overlay | hv.Text:
    """Plot the number of cutouts that a campaign has scored over time.

    Parameters
    ----------
    written : pandas.DataFrame
        Columns ``time`` (seconds since 1970) and ``cutouts`` (so far), as returned by
        :func:`~deepstreaks_dask.scoring.status.run_status`.
    total : int
        Cutouts in the archive.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if there is nothing to draw.
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
        hooks=[style_hook],
        **FRAME,
    )


def drift(table: pd.DataFrame, name: str) -> hv.Overlay | hv.Text:
    """Plot the population stability index of each night's scores, with the flagged nights marked.

    Parameters
    ----------
    table : pandas.DataFrame
        As returned by :meth:`~deepstreaks_dask.evaluation.interactive.Exploration.drift`.
    name : str
        The member, family or decision that the scores are of.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if there is nothing to draw.
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
        (~flagged, "not flagged", BLUE, "circle"),
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
        hooks=[style_hook],
        **FRAME,
    )


def _night_ticks(names: Sequence[str]) -> list[tuple[int, str]]:
    every = -(-len(names) // MAX_TICKS)
    return [(k, names[k]) for k in range(0, len(names), every)]
