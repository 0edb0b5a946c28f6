"""Joint views of two scores: every cutout, drawn by Datashader, with a selection on top."""

from __future__ import annotations

from typing import Any

import datashader as ds
import numpy as np
import pandas as pd
from bokeh.events import DoubleTap, RangesUpdate, SelectionGeometry
from bokeh.models import BoxSelectTool, Plot, Range1d, ResetTool, Span, WheelZoomTool
from bokeh.plotting import figure
from datashader import transfer_functions as tf

from deepstreaks_dask import plots
from deepstreaks_dask.apps.explore.gallery import GalleryPanel
from deepstreaks_dask.apps.explore.messages import ChooseAxis, ClearSelection
from deepstreaks_dask.apps.explore.session import Session
from deepstreaks_dask.apps.explore.tab import Tab
from deepstreaks_dask.apps.explore.updates import JointNames, Words
from deepstreaks_dask.evaluation.interactive import Exploration
from deepstreaks_dask.evaluation.selection import Selection

PLOT_SIZE = 320
"""Pixels on a side of the images of cutouts."""

FULL_RANGE = (-0.01, 1.01)
"""Scores that a joint view spans at first."""

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
    """Return an image of cutouts, coloured by their label, or of selected cutouts in one colour.

    Parameters
    ----------
    exploration : Exploration
        The scores.
    x, y : str
        Names of the scores.
    spans : tuple of (float, float)
        Scores that the image spans along x and along y.
    places : ndarray, optional
        Selected cutouts, int ``(cutout,)``; only these are drawn.
    dark : bool
        The page is dark.

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

    Attributes
    ----------
    figure : bokeh.models.Plot
        The figure, in light colours.
    lines : list of bokeh.models.Span
        A vertical and a horizontal line at the thresholds of the two scores.
    """

    def __init__(self, x: str, y: str) -> None:
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
        # else a drag that begins where a box was, even a cleared one, would move that box
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
        self.label(x, y)

    def label(self, x: str, y: str) -> None:
        """Write the names of the scores on the axes.

        Parameters
        ----------
        x, y : str
            Names of the scores, which have no unit.
        """
        self.figure.xaxis.axis_label, self.figure.yaxis.axis_label = x, y
        self.figure.title.text = f"{x} and {y}"

    @property
    def spans(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Scores that the figure spans along x and along y."""
        x, y = (
            (float(axis.start), float(axis.end))
            for axis in (self.figure.x_range, self.figure.y_range)
        )
        return x if x[1] > x[0] else FULL_RANGE, y if y[1] > y[0] else FULL_RANGE

    def show(self, layer: int, image: np.ndarray, spans: Any) -> None:
        """Show an image in one of the layers.

        Parameters
        ----------
        layer : int
            0 for all cutouts, 1 for the selected ones.
        image : ndarray
            uint32 ``(y, x)``, as returned by :func:`shade`.
        spans : tuple of (float, float)
            Scores that the image spans along x and along y.
        """
        (x0, x1), (y0, y1) = spans
        renderer = self._layers[layer]
        renderer.glyph.update(x=x0, y=y0, dw=x1 - x0, dh=y1 - y0)
        renderer.data_source.data = {"image": [image]}
        renderer.visible = True

    def hide(self) -> None:
        """Hide the selection."""
        self._layers[1].visible = False


class JointTab(Tab):
    """Two joint views with one selection.

    Parameters
    ----------
    session, gallery
        As for :class:`~deepstreaks_dask.apps.explore.tab.Tab`.
    """

    def __init__(self, session: Session, gallery: GalleryPanel) -> None:
        super().__init__(session, gallery)
        self.handlers = {ChooseAxis: self._choose_axis, ClearSelection: self._clear}
        self._views: list[Joint] = []
        self._box: tuple[tuple[str, float, float], ...] = ()

    def begin(self) -> None:
        """Choose the first pairs of scores."""
        names = self.session.exploration.names
        self.session.pairs = _first_pairs(self.session.exploration)
        self.session.bridge.send(JointNames(names=names, pairs=self.session.pairs))

    def open(self) -> None:
        """Draw all cutouts, and the selected ones; the figures are made the first time."""
        if not self._views:
            self._views = [Joint(*pair) for pair in self.session.pairs]
            for view, joint in enumerate(self._views):
                self._listen(view, joint)
                self.session.figures.put(f"joint{view}", joint.figure)
        for view in range(len(self._views)):
            self._draw(view)

    def follow(self) -> None:
        """Move the lines that mark thresholds."""
        for pair, joint in zip(self.session.pairs, self._views, strict=False):
            for name, line in zip(pair, joint.lines, strict=True):
                limit = self.session.limit(name)
                line.visible = limit is not None
                if limit is not None:
                    line.location = limit

    def _listen(self, view: int, joint: Joint) -> None:
        def box_drawn(event: SelectionGeometry) -> None:
            if event.final and event.geometry.get("type") == "rect":
                self._select(view, event.geometry)

        def reset(event: DoubleTap) -> None:
            for span in (joint.figure.x_range, joint.figure.y_range):
                span.update(start=FULL_RANGE[0], end=FULL_RANGE[1])
            self._draw(view)

        joint.figure.on_event(SelectionGeometry, box_drawn)
        joint.figure.on_event(RangesUpdate, lambda event: self._draw(view))
        joint.figure.on_event(DoubleTap, reset)

    def _select(self, view: int, geometry: dict[str, Any]) -> None:
        x, y = self.session.pairs[view]
        x0, x1 = sorted(float(geometry[key]) for key in ("x0", "x1"))
        y0, y1 = sorted(float(geometry[key]) for key in ("y0", "y1"))
        self._box = ((x, x0, x1), (y, y0, y1))
        selection = Selection(filter=self.session.filter, ranges=self._box)
        words = f"{x} {x0:.3f} to {x1:.3f}, {y} {y0:.3f} to {y1:.3f}"
        self.gallery.select(selection, words)
        self._mark_all()

    def _choose_axis(self, message: ChooseAxis) -> None:
        session, view = self.session, message.pair
        name = session.score_name(message.name)
        x, y = session.pairs[view]
        session.pairs[view] = (name, y) if message.axis == "x" else (x, name)
        self._views[view].label(*session.pairs[view])
        self.follow()
        self._draw(view)

    def _draw(self, view: int) -> None:
        session, joint = self.session, self._views[view]
        wanted = pair, spans, dark = self._wanted(view)
        session.bridge.later(
            lambda: shade(session.exploration, *pair, spans, dark=dark),
            lambda image: joint.show(0, image, spans) if wanted == self._wanted(view) else None,
        )
        self._mark(view)

    def _wanted(self, view: int) -> tuple[tuple[str, str], Any, bool]:
        """Return the scores, the spans and the colours that a view is drawn for."""
        return self.session.pairs[view], self._views[view].spans, self.session.figures.dark

    def _mark_all(self) -> None:
        for view in range(len(self._views)):
            self._mark(view)

    def _mark(self, view: int) -> None:
        session, joint, box = self.session, self._views[view], self._box
        if not box:
            joint.hide()
            return
        wanted = pair, spans, dark = self._wanted(view)

        def draw() -> tuple[np.ndarray, int]:
            with session.lock:
                places = session.cut.select(Selection(filter=session.filter, ranges=box))
            image = shade(session.exploration, *pair, spans, places=places, dark=dark)
            return image, len(places)

        def show(drawn: tuple[np.ndarray, int]) -> None:
            if box == self._box and wanted == self._wanted(view):
                image, selected = drawn
                joint.show(1, image, spans)
                words = f"{selected:,} cutouts are selected (purple)."
                session.bridge.send(Words(id="joint-words", words=words))

        session.bridge.later(draw, show)

    def _clear(self, message: ClearSelection) -> None:
        self._box = ()
        self._mark_all()
        for joint in self._views:
            joint.figure.tools[0].overlay.visible = False
        self.session.bridge.send(Words(id="joint-words", words="Nothing is selected."))


def _first_pairs(exploration: Exploration) -> list[tuple[str, str]]:
    """Return two pairs of families, or of members where there is one family."""
    names = [
        name if name in exploration.names else exploration.members[exploration.of_family(name)[0]]
        for name in exploration.families
    ]
    if len(names) < 2:
        names = exploration.members
    first, second, third = (*names, *names[-1:] * 2)[:3]
    return [(first, second), (second if third != second else first, third)]
