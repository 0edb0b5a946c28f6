"""Plots of trainings, calibrations and recovery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd

from deepstreaks_dask.plots.style import (
    FRAME,
    GREEN,
    INK,
    OTHER_STYLES,
    SOFT,
    hide_grid,
    nothing,
    overlay,
    style_hook,
)


def reliability(
    tables: Mapping[str, pd.DataFrame], *, title: str = "Reliability"
) -> hv.Overlay | hv.Text:
    """Plot the share of positives against the score in bins, with 95 % Wilson intervals.

    On the diagonal a score is a probability.

    Parameters
    ----------
    tables : mapping of str to pandas.DataFrame
        By name, as returned by :func:`~deepstreaks_dask.evaluation.calibration.reliability`.
    title : str

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if there is nothing to draw.
    """
    shown = {words: table for words, table in tables.items() if len(table)}
    if not shown:
        return nothing("No labels: no reliability")
    drawn: list[Any] = [
        hv.Curve(([0, 1], [0, 1])).opts(color=SOFT, line_dash="dotted", line_width=1.5)
    ]
    for (words, table), style in zip(shown.items(), OTHER_STYLES, strict=False):
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
    return overlay(
        drawn,
        title=title,
        xlabel="score",
        ylabel="share of positives",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        legend_position="top_left",
    )


def recovery_map(table: pd.DataFrame, which: str = "decision") -> hv.Overlay | hv.Text:
    """Plot the share of injected streaks that are recovered, by magnitude and length, with 95 % Wilson intervals.

    Parameters
    ----------
    table : pandas.DataFrame
        As returned by :func:`~deepstreaks_dask.evaluation.completeness.recovery`.
    which : str
        ``"decision"`` or a family.

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if there is nothing to draw.
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
        hooks=[style_hook, hide_grid],
        **FRAME,
    )


def learning_curves(
    histories: Mapping[str, Mapping[str, Sequence[float]]],
    which: str = "binary_accuracy",
    *,
    title: str = "Learning curves",
) -> hv.Overlay | hv.Text:
    """Plot training (dashed) and validation (solid) curves of members over epochs.

    Parameters
    ----------
    histories : mapping of str to mapping
        By member: one list per metric, such as ``binary_accuracy`` and ``val_binary_accuracy``, with one value per epoch.
        Both are weighted as the loss is; training values are measured with dropout.
    which : str
        ``"binary_accuracy"`` or ``"loss"``.
    title : str

    Returns
    -------
    holoviews.Overlay or holoviews.Text
        A text if there is nothing to draw.
    """
    words = {"binary_accuracy": "accuracy", "loss": "binary cross-entropy"}[which]
    lines: list[Any] = []
    for place, (member, history) in enumerate(histories.items()):
        colour = OTHER_STYLES[place % len(OTHER_STYLES)][0]
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
    return overlay(lines, title=title, xlabel="epoch", ylabel=words, legend_position=corner)
