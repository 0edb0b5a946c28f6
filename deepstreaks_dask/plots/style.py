"""Colours, sizes and the look that all plots share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import holoviews as hv

from deepstreaks_dask.scoring.decision import family_of

hv.extension("bokeh", logo=False)  # type: ignore[call-arg, unused-ignore]

# Okabe and Ito's colours: distinct for any kind of colour vision
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
"""Colours of plots on a dark page, by their colours on a light one."""

PUBLISHED_TPR = (0.96, 0.98)
PUBLISHED_FPR = 0.01
"""True- and false-positive rates per night of Duev et al. 2019, arXiv:1904.05920, on their data."""

_FAMILY_COLOURS = {"rb": BLUE, "sl": ORANGE, "kd": GREEN, "os": PURPLE}
DASHES = ("solid", "dashed", "dotted", "dotdash")
# no panning or zooming: a finger on a plot scrolls the page
FRAME: dict[str, Any] = {"width": 520, "height": 320, "toolbar": None, "default_tools": []}
LABEL_NAMES = {1: "label 1", 0: "label 0", -1: "no label"}
_LABEL_STYLES = {
    "label 1": (BLUE, "solid"),
    "label 0": (ORANGE, "solid"),
    "no label": (SOFT, "dashed"),
}
OTHER_STYLES = ((BLUE, "solid"), (ORANGE, "dashed"), (GREEN, "dotdash"), (PURPLE, "dotted"))
MAX_TICKS = 12


def nothing(words: str) -> hv.Text:
    """Return a text in place of a plot that has nothing to show."""
    text = hv.Text(0.5, 0.5, words).opts(text_color=SOFT, text_font_size="11pt")
    return text.opts(
        xaxis=None, yaxis=None, xlim=(0, 1), ylim=(0, 1), hooks=[style_hook, hide_grid], **FRAME
    )


def night_name(night: int) -> str:
    """Return a night YYYYMMDD as YYYY-MM-DD; 0 is ``"not known"``."""
    digits = f"{night:08d}"
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}" if night else "not known"


def group_styles(groups: Iterable[str]) -> list[dict[str, str]]:
    """Return colour and dash of each group of scores, distinct without colour too."""
    free_styles = iter(OTHER_STYLES * 9)
    styles = [_LABEL_STYLES.get(words) or next(free_styles) for words in groups]
    return [{"color": colour, "line_dash": dash} for colour, dash in styles]


def line_style(name: str, names: Sequence[str]) -> dict[str, str]:
    """Return the style of a line: its colour by family, its dash by the member's place in the family.

    Parameters
    ----------
    name : str
        A member, a family, or another name such as ``"decision"``, which is drawn in ink.
    names : sequence of str
        All names in the plot, this one among them.

    Returns
    -------
    dict
        ``color`` and ``line_dash``, for HoloViews' ``opts``.
    """
    colour = _FAMILY_COLOURS.get(family_of(name), INK)
    relatives = [member for member in names if family_of(member) == family_of(name)]
    return {"color": colour, "line_dash": DASHES[relatives.index(name) % len(DASHES)]}


def threshold_line(threshold: float) -> hv.VLine:
    """Return a dotted vertical line at a threshold."""
    return hv.VLine(threshold).opts(color=INK, line_dash="dotted", line_width=1.5)


def overlay(elements: list[Any], **options: Any) -> hv.Overlay:
    """Overlay elements in the style of the package.

    Parameters
    ----------
    elements : list of holoviews elements
        From bottom to top.
    **options
        Further options of ``holoviews.Overlay.opts``, such as ``title`` and ``xlim``.

    Returns
    -------
    holoviews.Overlay
        One plot, :data:`FRAME` in size.
    """
    return hv.Overlay(elements).opts(hooks=[style_hook], **options, **FRAME)


def style_hook(plot: Any, element: Any) -> None:
    """Apply :func:`apply_style` to a plot; a hook that HoloViews calls after rendering.

    Parameters
    ----------
    plot : holoviews.plotting.bokeh.ElementPlot
        The plot, with its Bokeh figure as ``state``.
    element : holoviews element
        The element that is plotted; not used.
    """
    apply_style(plot.state)


def apply_style(figure: Any) -> None:
    """Apply the style of the package to a Bokeh figure: quiet axes, readable text, no box."""
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


def hide_grid(plot: Any, element: Any) -> None:
    """Hide the grid of a plot; a hook that HoloViews calls after rendering.

    Parameters
    ----------
    plot : holoviews.plotting.bokeh.ElementPlot
        The plot, with its Bokeh figure as ``state``.
    element : holoviews element
        The element that is plotted; not used.
    """
    for grid in plot.state.grid:
        grid.visible = False
