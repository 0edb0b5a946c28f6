"""Joint views of two scores: every cutout, drawn by Datashader, with a selection on top."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import datashader as ds
import numpy as np
import pandas as pd
from bokeh.events import DoubleTap, RangesUpdate, SelectionGeometry
from bokeh.models import BoxSelectTool, Plot, Range1d, ResetTool, Span, WheelZoomTool
from bokeh.plotting import figure
from datashader import transfer_functions as tf

from deepstreaks_dask import plots
from deepstreaks_dask.apps import bridge as style
from deepstreaks_dask.apps.explore.messages import one_of
from deepstreaks_dask.evaluation.interactive import Exploration, Selection

if TYPE_CHECKING:
    from deepstreaks_dask.apps.explore.page import Explorer

PLOT_SIZE = 320
"""Pixels on a side of what is drawn."""

FULL_RANGE = (-0.01, 1.01)
_LABEL_TEXT = {-1: "no label", 0: "label 0", 1: "label 1"}
_COLOURS = {"no label": plots.SOFT, "label 0": plots.ORANGE, "label 1": plots.BLUE}


def shade(
    exploration: Exploration,
    x: str,
    y: str,
    spans: tuple[tuple[float, float], tuple[float, float]] = (FULL_RANGE, FULL_RANGE),
    *,
    places: np.ndarray | None = None,
    dark: bool = False,
) -> np.ndarray:
    """Draw cutouts as RGBA, coloured by what is truly plausible, or those selected in one colour.

    Parameters
    ----------
    exploration : Exploration
    x, y : str
        Names of the scores.
    spans : tuple of (float, float)
        What the picture spans across and up.
    places : ndarray, optional
        Draw only these, int ``(cutout,)``, as a selection is.
    dark : bool
        Whether the page is dark.

    Returns
    -------
    ndarray
        uint32 ``(y, x)``, as Bokeh's ``image_rgba`` takes it.
    """
    at = slice(None) if places is None else places
    table = pd.DataFrame({"x": exploration.column(x, at), "y": exploration.column(y, at)})
    canvas = ds.Canvas(PLOT_SIZE, PLOT_SIZE, x_range=spans[0], y_range=spans[1])
    tint = plots.DARK if dark else {}
    if places is not None:
        counts = canvas.points(table, "x", "y", ds.count())
        colour = tint.get(plots.PURPLE, plots.PURPLE)
        marked = tf.shade(counts, cmap=[colour], how="eq_hist", min_alpha=200)
        return np.asarray(tf.dynspread(marked, threshold=0.7, max_px=4).data)
    truth = exploration.strata["truth"].to_numpy()[exploration.cell % len(exploration.strata)]
    kinds = pd.CategoricalDtype(list(_LABEL_TEXT.values()))
    table["truth"] = pd.Categorical.from_codes(truth.astype(np.int8) + 1, dtype=kinds)
    counts = canvas.points(table, "x", "y", ds.by("truth", ds.count()))
    key = {words: tint.get(colour, colour) for words, colour in _COLOURS.items()}
    shaded = tf.shade(counts, color_key=key, how="eq_hist", min_alpha=110)
    return np.asarray(tf.dynspread(shaded, threshold=0.6, max_px=3).data)


class Joint:
    """One joint view: a figure, and the scores on its axes.

    Parameters
    ----------
    x, y : str
        Names of the scores, which have no unit: from 0 to 1.
    """

    def __init__(self, x: str, y: str) -> None:
        self.names = [x, y]
        self.figure: Plot = figure(
            height=380,
            x_range=Range1d(*FULL_RANGE),
            y_range=Range1d(*FULL_RANGE),
            tools=[
                BoxSelectTool(persistent=True),
                WheelZoomTool(modifiers={"shift": True}),
                ResetTool(),
            ],
            toolbar_location=None,
            sizing_mode="stretch_width",
        )
        self.figure.toolbar.active_drag = self.figure.tools[0]
        # else a drag that begins where a box was, even one cleared away, would push that one about
        self.figure.tools[0].overlay.editable = False
        empty = np.zeros((PLOT_SIZE, PLOT_SIZE), np.uint32)
        self._layers: list[Any] = [
            self.figure.image_rgba([empty], x=FULL_RANGE[0], y=FULL_RANGE[0], dw=1.02, dh=1.02)
            for _ in range(2)
        ]
        self.lines = [Span(dimension=d, line_color=plots.INK) for d in ("height", "width")]
        for line in self.lines:
            line.line_dash, line.visible = "dotted", False
            self.figure.add_layout(line)
        plots.apply_style(self.figure)
        self.label()

    def label(self) -> None:
        """Name the axes."""
        self.figure.xaxis.axis_label, self.figure.yaxis.axis_label = self.names
        self.figure.title.text = f"{self.names[0]} and {self.names[1]}"

    @property
    def spans(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """What the figure shows across and up."""
        x, y = (
            (float(axis.start), float(axis.end))
            for axis in (self.figure.x_range, self.figure.y_range)
        )
        return x if x[1] > x[0] else FULL_RANGE, y if y[1] > y[0] else FULL_RANGE

    def show(self, layer: int, picture: np.ndarray, spans: Any) -> None:
        """Show a picture in one of the layers.

        Parameters
        ----------
        layer : int
            0 for all cutouts, 1 for the selected ones.
        picture : ndarray
            uint32 ``(y, x)``, as :func:`shade` gives it.
        spans : tuple of (float, float)
            Scores that it spans across and up.
        """
        (x0, x1), (y0, y1) = spans
        renderer = self._layers[layer]
        renderer.glyph.update(x=x0, y=y0, dw=x1 - x0, dh=y1 - y0)
        renderer.data_source.data = {"image": [picture]}
        renderer.visible = True

    def hide(self) -> None:
        """Show no selection."""
        self._layers[1].visible = False


class JointTab:
    """Two joint views with one selection.

    Parameters
    ----------
    explorer : Explorer
        The person's, who looks.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.handlers = {"axis": self._choose_axis, "clear": self._clear}
        self.views: list[Joint] = []
        self._boxed: tuple[tuple[str, float, float], ...] = ()

    def begin(self) -> None:
        """Choose the first pairs."""
        names, pairs = self.explorer.exploration.names, self._first_pairs()
        self.explorer.bridge.send("joint", names=names, pairs=[list(pair) for pair in pairs])

    def open(self) -> None:
        """Draw all cutouts, and those selected; the figures are made when somebody first looks."""
        if not self.views:
            self.views = [Joint(*pair) for pair in self._first_pairs()]
            for k, joint in enumerate(self.views):
                self._listen(k, joint)
        for pair in range(len(self.views)):
            self._draw(pair)

    def follow(self) -> None:
        """Move the lines that mark thresholds."""
        for joint in self.views:
            for name, line in zip(joint.names, joint.lines, strict=True):
                value = self.explorer.limit(name)
                line.visible = value is not None
                if value is not None:
                    line.location = value

    def _first_pairs(self) -> list[tuple[str, str]]:
        """Two pairs of families to begin with, or of members where there is one family."""
        exploration = self.explorer.exploration
        names = [
            name
            if name in exploration.names
            else exploration.members[exploration.of_family(name)[0]]
            for name in exploration.families
        ]
        if len(names) < 2:
            names = exploration.members
        first, second, third = (*names, *names[-1:] * 2)[:3]
        return [(first, second), (second if third != second else first, third)]

    def _listen(self, pair: int, joint: Joint) -> None:
        explorer = self.explorer

        def boxed(event: SelectionGeometry) -> None:
            geometry = event.geometry
            if event.final and geometry.get("type") == "rect":
                (x0, x1), (y0, y1) = (
                    sorted(float(geometry[key]) for key in keys)
                    for keys in (("x0", "x1"), ("y0", "y1"))
                )
                x, y = joint.names
                self._boxed = ((x, x0, x1), (y, y0, y1))
                chosen = Selection(filter=explorer.filter, ranges=self._boxed)
                words = f"{x} {x0:.3f} to {x1:.3f}, {y} {y0:.3f} to {y1:.3f}"
                explorer.galleries.select(chosen, words)
                self._mark_all()

        def reset(event: DoubleTap) -> None:
            for span in (joint.figure.x_range, joint.figure.y_range):
                span.update(start=FULL_RANGE[0], end=FULL_RANGE[1])
            self._draw(pair)

        joint.figure.on_event(SelectionGeometry, boxed)
        joint.figure.on_event(RangesUpdate, lambda event: self._draw(pair))
        joint.figure.on_event(DoubleTap, reset)
        if explorer.dark:
            style.recolour(joint.figure, True)
        style.put(explorer.places[f"joint{pair}"], joint.figure)

    def _choose_axis(self, message: dict[str, Any]) -> None:
        pair = one_of(message.get("pair"), (0, 1))
        axis = one_of(message.get("axis"), ("x", "y"))
        joint = self.views[pair]
        joint.names["xy".index(axis)] = one_of(message.get("name"), self.explorer.exploration.names)
        joint.label()
        self.follow()
        self._draw(pair)

    def _draw(self, pair: int) -> None:
        explorer, joint = self.explorer, self.views[pair]
        (x, y), spans, dark = tuple(joint.names), joint.spans, explorer.dark
        explorer.bridge.later(
            lambda: shade(explorer.exploration, x, y, spans, dark=dark),
            lambda picture: joint.show(0, picture, spans) if [x, y] == joint.names else None,
        )
        self._mark(pair)

    def _mark_all(self) -> None:
        for pair in range(len(self.views)):
            self._mark(pair)

    def _mark(self, pair: int) -> None:
        explorer, joint, boxed = self.explorer, self.views[pair], self._boxed
        if not boxed:
            joint.hide()
            return
        (x, y), spans, dark = tuple(joint.names), joint.spans, explorer.dark

        def draw() -> tuple[np.ndarray, int]:
            with explorer.lock:
                places = explorer.cut.select(Selection(filter=explorer.filter, ranges=boxed))
            picture = shade(explorer.exploration, x, y, spans, places=places, dark=dark)
            return picture, len(places)

        def show(drawn: tuple[np.ndarray, int]) -> None:
            if boxed == self._boxed:
                joint.show(1, drawn[0], spans)
                words = f"{drawn[1]:,} cutouts are selected (purple)."
                explorer.bridge.send("words", id="joint-words", words=words)

        explorer.bridge.later(draw, show)

    def _clear(self, message: dict[str, Any]) -> None:
        self._boxed = ()
        self._mark_all()
        for joint in self.views:
            joint.figure.tools[0].overlay.visible = False
        self.explorer.bridge.send("words", id="joint-words", words="Nothing is selected.")
