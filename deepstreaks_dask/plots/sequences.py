"""Plots of light curves and of classes of sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd

from deepstreaks_dask.plots.style import (
    DASHES,
    FRAME,
    GREEN,
    INK,
    ORANGE,
    OTHER_STYLES,
    hide_grid,
    nothing,
    overlay,
    style_hook,
)


def light_curve(
    days: np.ndarray, flux: np.ndarray, error: np.ndarray, band: np.ndarray
) -> hv.Overlay | hv.Text:
    """Plot the flux of an object over time, with error bars of one standard deviation.

    Each filter has its own colour and marker.

    Parameters
    ----------
    days : ndarray
        Days since any epoch, ``(epoch,)``.
    flux, error : ndarray
        ``(epoch,)``, in the unit of :class:`~deepstreaks_dask.photometry.core.Measured`: 1 is a magnitude of 25; NaN where
        nothing was measured.
    band : ndarray
        Names of the filters, ``(epoch,)``.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if no flux was measured.
    """
    measured = np.isfinite(flux) & np.isfinite(error)
    if not measured.any():
        return nothing("No flux was measured")
    names = np.asarray(band).astype(object)
    drawn: list[Any] = []
    markers = ("circle", "diamond", "triangle", "square")
    for place, name in enumerate(sorted(set(names[measured]))):
        here = measured & (names == name)
        colour = OTHER_STYLES[place % len(OTHER_STYLES)][0]
        bars = (days[here], (flux - error)[here], days[here], (flux + error)[here])
        dots = hv.Scatter((days[here], flux[here]), "days", "flux", label=str(name) or "filter")
        drawn += [
            hv.Segments(bars, ["x0", "y0", "x1", "y1"]).opts(color=colour, line_width=1.5),
            dots.opts(color=colour, marker=markers[place % len(markers)], size=7),
        ]
    return overlay(
        drawn, title="Light curve", xlabel="days", ylabel="flux", legend_position="top_right"
    )


def class_confusion(matrix: np.ndarray, classes: Sequence[str], title: str) -> hv.Overlay | hv.Text:
    """Plot a confusion matrix of classes: one row per true class, with the shares of its predicted classes.

    Parameters
    ----------
    matrix : ndarray
        int ``(true, predicted)``: counts of objects.
    classes : sequence of str
        Names.
    title : str

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if there is nothing to draw.
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
        xlabel="predicted class",
        ylabel="true class",
        xticks=[(k + 0.5, name) for k, name in enumerate(classes)],
        yticks=rows,
        xrotation=40,
        xlim=(0, n),
        ylim=(0, n),
        hooks=[style_hook, hide_grid],
        **FRAME | {"height": 400},
    )


def estimates(
    curves: Mapping[str, pd.DataFrame], x: str, *, title: str, xlabel: str, ylabel: str
) -> hv.Overlay | hv.Text:
    """Plot rates against a number, one line each, with their intervals as bands.

    Parameters
    ----------
    curves : mapping of str to pandas.DataFrame
        By name: one row per point, with columns ``x, value`` and, if there is an interval, ``low, high``.
    x : str
        Name of the column on the x axis.
    title, xlabel, ylabel : str

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if there is nothing to draw.
    """
    shown = {name: table for name, table in curves.items() if len(table)}
    if not shown:
        return nothing("Nothing to draw")
    drawn: list[Any] = []
    for place, (name, table) in enumerate(shown.items()):
        colour, dash = OTHER_STYLES[place % len(OTHER_STYLES)]
        if "low" in table:
            band = hv.Area((table[x], table["low"], table["high"]), x, ["low", "high"])
            drawn.append(band.opts(color=colour, alpha=0.15, line_alpha=0))
        line = hv.Curve((table[x], table["value"]), x, "value", label=name)
        dots = hv.Scatter((table[x], table["value"]), x, "value")
        drawn += [
            line.opts(color=colour, line_dash=dash, line_width=2),
            dots.opts(color=colour, size=5),
        ]
    return overlay(
        drawn,
        title=title,
        xlabel=xlabel,
        ylabel=ylabel,
        ylim=(-0.02, 1.02),
        legend_position="bottom_right",
    )


def probabilities(values: np.ndarray, classes: Sequence[str], member: str) -> hv.Overlay | hv.Text:
    """Plot the probability of each class after each epoch of one object.

    Parameters
    ----------
    values : ndarray
        ``(epoch, class)``.
    classes : sequence of str
        Names.
    member : str
        The member that the probabilities are of.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if there is nothing to draw.
    """
    if not len(values):
        return nothing("No epochs")
    places, lines = np.arange(1, len(values) + 1), []
    for k, name in enumerate(classes):
        colour = OTHER_STYLES[k % len(OTHER_STYLES)][0]
        line = hv.Curve((places, values[:, k]), "epoch", "probability", label=name)
        lines.append(
            line.opts(color=colour, line_dash=DASHES[k // len(OTHER_STYLES)], line_width=2)
        )
    return overlay(
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
    """Plot the distributions of samples of a quantity, each of area 1, over the range of their middle 98 %.

    Parameters
    ----------
    groups : mapping of str to ndarray
        Values ``(n,)`` by name; values that are not finite are left out.
    title, xlabel : str

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if there is nothing to draw.
    """
    known = {name: values[np.isfinite(values)] for name, values in groups.items()}
    known = {name: values for name, values in known.items() if len(values)}
    if not known:
        return nothing("Nothing was measured")
    low, high = np.percentile(np.concatenate(list(known.values())), [1, 99])
    edges = np.linspace(low, high if high > low else low + 1, 41)
    drawn = []
    for place, (name, values) in enumerate(known.items()):
        colour, dash = OTHER_STYLES[place % len(OTHER_STYLES)]
        counts = np.histogram(values, edges)[0] / (len(values) * np.diff(edges))
        steps = hv.Curve((edges, np.append(counts, counts[-1])), xlabel, "density", label=name)
        drawn.append(
            steps.opts(color=colour, line_dash=dash, line_width=2, interpolation="steps-post")
        )
    return overlay(drawn, title=title, xlabel=xlabel, ylabel="density", legend_position="top_right")
