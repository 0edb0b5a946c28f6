"""The tab of the decision: its curves, and its rates night by night."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import ColumnDataSource, GlyphRenderer, Scatter, Segment, TapTool

from deepstreaks_dask import plots
from deepstreaks_dask.apps.explore.gallery import GalleryPanel
from deepstreaks_dask.apps.explore.messages import ChooseCurves
from deepstreaks_dask.apps.explore.session import Session, check_choice
from deepstreaks_dask.apps.explore.tab import Tab
from deepstreaks_dask.apps.explore.updates import Words
from deepstreaks_dask.apps.figures import render_figure
from deepstreaks_dask.evaluation.interactive import DECISION_NAME
from deepstreaks_dask.evaluation.selection import Selection
from deepstreaks_dask.scoring.decision import family_of

NIGHT_TITLES = {"tpr": "Labelled plausible", "fpr": "False positives", "candidates": "Candidates"}
"""The figures of nights, and the title of the gallery that a click on one of their dots opens."""

ALL_FAMILIES = "families"


class DecisionTab(Tab):
    """Figures that follow every threshold: they are updated, not drawn again.

    Parameters
    ----------
    session, gallery
        As for :class:`~deepstreaks_dask.apps.explore.tab.Tab`.
    """

    def __init__(self, session: Session, gallery: GalleryPanel) -> None:
        super().__init__(session, gallery)
        self.handlers = {ChooseCurves: self._choose_curves}
        self._nights: dict[str, dict[str, ColumnDataSource]] = {}
        self._curves_of = ALL_FAMILIES
        self._traced: Any = None

    def begin(self) -> None:
        """Draw one figure after the other, each shown as soon as it is there."""
        for key in NIGHT_TITLES:
            self.session.bridge.soon(partial(self._draw_nights_first, key))
        self._begin_curves()

    def follow(self) -> None:
        """Follow the thresholds."""
        for key in NIGHT_TITLES:
            self._draw_nights(key)
        self._draw_points()

    # Nights

    def _draw_nights(self, key: str) -> None:
        """Update a figure of nights; draw it again if it has got other nights."""
        nights, sources = self.session.counts.nights, self._nights.get(key)
        columns = None if key == "candidates" else plots.night_columns(nights, key)
        size = len(nights) if columns is None else len(columns.names)
        if sources is None or len(sources["dots"].data["place"]) != size:
            self._draw_nights_again(key)
            return
        if columns is None:
            candidates = nights["plausible"].to_numpy()
            limits = (0.0, max(1.0, float(candidates.max(initial=0)) * 1.1))
            sources["dots"].patch({"plausible": [(slice(size), candidates)]})
        else:
            limits = columns.limits
            sources["intervals"].data = columns.intervals
            sources["dots"].data = {**sources["dots"].data, **columns.dots}
        _fit(self.session.figures.drawn[key].y_range, *limits)

    def _draw_nights_first(self, key: str) -> None:
        if key not in self._nights:
            self._draw_nights_again(key)

    def _draw_nights_again(self, key: str) -> None:
        nights = self.session.counts.nights
        element = (
            plots.night_candidates(nights)
            if key == "candidates"
            else plots.night_rates(nights, key)
        )
        figure = render_figure(element)
        glyphs = {type(renderer.glyph): renderer for renderer in figure.select(GlyphRenderer)}
        dots = glyphs.get(Scatter)
        if dots is None:  # a text in place of the plot
            self.session.figures.put(key, figure)
            self._nights.pop(key, None)
            return
        self._nights[key] = {"dots": dots.data_source}
        if Segment in glyphs:
            self._nights[key]["intervals"] = glyphs[Segment].data_source
        figure.add_tools(TapTool(renderers=[dots]))

        def tapped(attr: str, old: list[int], new: list[int]) -> None:
            if new:
                words = dots.data_source.data["night"][new[0]]
                dots.data_source.selected.indices = []
                with self.session.bridge.shown():
                    self._show_night(key, words)

        dots.data_source.selected.on_change("indices", tapped)
        self.session.figures.put(key, figure)

    def _show_night(self, key: str, words: str) -> None:
        night = 0 if words == plots.night_name(0) else int(words.replace("-", ""))
        selection = Selection(
            night=night,
            filter=self.session.filter,
            truth={"tpr": 1, "fpr": 0}.get(key),
            plausible=None if key == "tpr" else True,
        )
        self.gallery.select(selection, f"{NIGHT_TITLES[key]}, night {words}")

    # Curves

    def _begin_curves(self) -> None:
        of = self._curves_of

        def draw(curves: dict[str, pd.DataFrame]) -> None:
            if of == self._curves_of:  # else other curves were chosen meanwhile
                self._draw_curves(curves)

        self.session.bridge.later(lambda: self._curves(of), draw)

    def _curves(self, of: str) -> dict[str, pd.DataFrame]:
        exploration = self.session.exploration
        names = exploration.families
        if of != ALL_FAMILIES:
            names = [of, *(m for m in exploration.members if family_of(m) == of)]
        curves = {name: exploration.curve(name) for name in dict.fromkeys([DECISION_NAME, *names])}
        return {name: curve for name, curve in curves.items() if len(curve)}

    def _choose_curves(self, message: ChooseCurves) -> None:
        families = self.session.exploration.families
        self._curves_of = check_choice(message.of, (ALL_FAMILIES, *families))
        self._begin_curves()

    def _draw_curves(self, curves: dict[str, pd.DataFrame]) -> None:
        roc = render_figure(plots.roc(curves))
        precision_recall = render_figure(plots.precision_recall(curves))
        self._points = ColumnDataSource({"fpr": [], "tpr": [], "precision": []})
        self._path = ColumnDataSource({"fpr": [], "tpr": []})
        self._traced = None
        if curves:
            roc.line(
                "fpr",
                "tpr",
                source=self._path,
                line_color=plots.PURPLE,
                line_width=4,
                line_alpha=0.6,
                legend_label="decision, this threshold moved",
            )
            self._add_points(roc, "fpr", "tpr")
            self._add_points(precision_recall, "tpr", "precision")
        self.session.figures.put("roc", roc)
        self.session.figures.put("pr", precision_recall)
        self._draw_points()

    def _add_points(self, figure: Any, x: str, y: str) -> None:
        figure.scatter(
            x,
            y,
            source=self._points,
            marker="diamond",
            size=14,
            fill_color=plots.INK,
            line_color=plots.CARD,
            legend_label="thresholds in use",
        )

    def _draw_points(self) -> None:
        """Mark where the decision is on its curve, and where moving one threshold would take it."""
        session = self.session
        if "roc" not in session.figures.drawn:
            return
        joint = session.counts.joint
        lowest_fpr = float(session.figures.drawn["roc"].x_range.start or 0)
        self._points.data = {
            "fpr": [max(joint.fpr.value, lowest_fpr)],
            "tpr": [joint.tpr.value],
            "precision": [joint.precision.value],
        }
        # where a threshold leads does not depend on where it is, only on the thresholds that do not move
        members, moving, decision = (
            session.exploration.members,
            session.moving,
            session.cut.decision,
        )
        fixed = {m: decision.threshold(m) for m in members if m not in moving}
        if (traced := (moving, session.filter, fixed)) == self._traced:
            return
        self._traced = traced
        trace = session.cut.trace(*moving, filter=session.filter).dropna()
        self._path.data = {
            "fpr": np.maximum(trace["fpr"].to_numpy(), lowest_fpr),
            "tpr": trace["tpr"].to_numpy(),
        }
        names = " and ".join(moving)
        words = f"Purple: where the decision goes if only the threshold of {names} moves."
        session.bridge.send(Words(id="path-words", words=words if len(trace) else ""))


def _fit(axis: Any, low: float, high: float) -> None:
    """Change an axis only if needed: the browser lays out the figure again each time."""
    room = axis.end - axis.start
    if low < axis.start or high > axis.end or high - low < 0.6 * room:
        axis.update(start=low, end=high)
