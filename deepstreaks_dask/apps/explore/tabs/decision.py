"""The tab of the decision: its curves, and its rates night by night."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from bokeh.models import ColumnDataSource, GlyphRenderer, Scatter, Segment, TapTool

from deepstreaks_dask import plots
from deepstreaks_dask.apps import bridge as style
from deepstreaks_dask.apps.explore.messages import one_of
from deepstreaks_dask.evaluation.interactive import DECISION_NAME, Counts, Selection
from deepstreaks_dask.scoring.decision import family_of

if TYPE_CHECKING:
    from deepstreaks_dask.apps.explore.page import Explorer

_NIGHT_PLACES = ("tpr", "fpr", "candidates")
_TITLES = {"tpr": "Labelled plausible", "fpr": "False positives", "candidates": "Candidates"}


class DecisionTab:
    """Pictures that follow every threshold: they are patched, not drawn anew.

    Parameters
    ----------
    explorer : Explorer
        The person's, who looks.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.handlers = {"curves": self._choose_curves}
        self._nights: dict[str, dict[str, ColumnDataSource]] = {}
        self._curves_of = "families"
        self._moving: tuple[str, ...] = ()
        self._traced: Any = None

    def begin(self) -> None:
        """Draw one picture after the other, each shown as soon as it is there."""
        explorer = self.explorer
        first = explorer.exploration.families[0]
        self._moving = tuple(m for m in explorer.exploration.members if family_of(m) == first)
        for key in _NIGHT_PLACES:
            explorer.bridge.soon(partial(self._draw_nights_first, key))
        explorer.bridge.later(self._curves, self._draw_curves)

    def moved(self, name: str) -> None:
        """Note which members a threshold of this name moves."""
        chosen = self.explorer.cut.decision.thresholds
        self._moving = tuple(
            member
            for member in self.explorer.exploration.members
            if member == name or (family_of(member) == name and member not in chosen)
        )

    def follow(self) -> None:
        """Follow the thresholds."""
        self._draw_nights(self.explorer.counts.nights)
        self._draw_points(self.explorer.counts)

    # Nights

    def _draw_nights(self, nights: pd.DataFrame) -> None:
        for key in _NIGHT_PLACES:
            parts = self._nights.get(key)
            if key == "candidates":
                candidates = nights["plausible"].to_numpy()
                columns, size = None, len(nights)
                limits = (0.0, max(1.0, float(candidates.max(initial=0)) * 1.1))
            else:
                columns = plots.night_columns(nights, key)
                size, limits = len(columns.names), columns.limits
            if parts is None or len(parts["dots"].data["place"]) != size:
                self._draw_nights_anew(key, nights)
                continue
            if columns is None:
                parts["dots"].patch({"plausible": [(slice(size), candidates)]})
            else:
                parts["intervals"].data = columns.intervals
                parts["dots"].data = {**parts["dots"].data, **columns.dots}
            _fit(self.explorer.figures[key].y_range, *limits)

    def _draw_nights_first(self, key: str) -> None:
        if key not in self._nights:
            self._draw_nights_anew(key, self.explorer.counts.nights)

    def _draw_nights_anew(self, key: str, nights: pd.DataFrame) -> None:
        explorer = self.explorer
        element = (
            plots.night_candidates(nights)
            if key == "candidates"
            else plots.night_rates(nights, key)
        )
        drawn = style.figure(element, explorer.dark)
        glyphs = {type(renderer.glyph): renderer for renderer in drawn.select(GlyphRenderer)}
        dots = glyphs.get(Scatter)
        if dots is None:  # words instead of a picture
            style.put(explorer.places[key], drawn)
            explorer.figures.pop(key, None)
            self._nights.pop(key, None)
            return
        self._nights[key] = {"dots": dots.data_source}
        if Segment in glyphs:
            self._nights[key]["intervals"] = glyphs[Segment].data_source
        drawn.add_tools(TapTool(renderers=[dots]))

        def tapped(attr: str, old: list[int], new: list[int]) -> None:
            if new:
                words = dots.data_source.data["night"][new[0]]
                dots.data_source.selected.indices = []
                with explorer.bridge.shown():
                    self._show_night(key, words)

        dots.data_source.selected.on_change("indices", tapped)
        explorer.figures[key] = drawn
        style.put(explorer.places[key], drawn)

    def _show_night(self, key: str, words: str) -> None:
        night = 0 if words == plots.night_name(0) else int(words.replace("-", ""))
        chosen = Selection(
            night=night,
            filter=self.explorer.filter,
            truth={"tpr": 1, "fpr": 0}.get(key),
            plausible=None if key == "tpr" else True,
        )
        self.explorer.galleries.select(chosen, f"{_TITLES[key]}, night {words}")

    # Curves

    def _curves(self) -> dict[str, pd.DataFrame]:
        exploration, of = self.explorer.exploration, self._curves_of
        names = exploration.families
        if of != "families":
            names = [of, *(m for m in exploration.members if family_of(m) == of)]
        curves = {name: exploration.curve(name) for name in dict.fromkeys([DECISION_NAME, *names])}
        return {name: curve for name, curve in curves.items() if len(curve)}

    def _choose_curves(self, message: dict[str, Any]) -> None:
        families = self.explorer.exploration.families
        self._curves_of = one_of(message.get("of"), ("families", *families))
        self.explorer.bridge.later(self._curves, self._draw_curves)

    def _draw_curves(self, curves: dict[str, pd.DataFrame]) -> None:
        explorer = self.explorer
        elements = {"roc": plots.roc(curves), "pr": plots.precision_recall(curves)}
        self._points = ColumnDataSource({"fpr": [], "tpr": [], "precision": []})
        self._path = ColumnDataSource({"fpr": [], "tpr": []})
        self._traced = None
        for key, element in elements.items():
            drawn = style.figure(element, False)
            if curves and key == "roc":
                drawn.line(
                    "fpr",
                    "tpr",
                    source=self._path,
                    line_color=plots.PURPLE,
                    line_width=4,
                    line_alpha=0.6,
                    legend_label="decision, this threshold moved",
                )
            if curves:
                x, y = ("fpr", "tpr") if key == "roc" else ("tpr", "precision")
                drawn.scatter(
                    x,
                    y,
                    source=self._points,
                    marker="diamond",
                    size=14,
                    fill_color=plots.INK,
                    line_color=plots.CARD,
                    legend_label="thresholds in use",
                )
            if explorer.dark:
                style.recolour(drawn, True)
            explorer.figures[key] = drawn
            style.put(explorer.places[key], drawn)
        self._draw_points(explorer.counts)

    def _draw_points(self, counts: Counts) -> None:
        """Mark where the decision is on its curve, and where moving one threshold would take it."""
        explorer = self.explorer
        if "roc" not in explorer.figures:
            return
        joint, floor = counts.joint, float(explorer.figures["roc"].x_range.start or 0)
        here = {"fpr": joint.fpr.value, "tpr": joint.tpr.value, "precision": joint.precision.value}
        self._points.data = {
            key: [max(value, floor) if key == "fpr" else value] for key, value in here.items()
        }
        # where a threshold leads does not depend on where it is, only on all others
        members, decision = explorer.exploration.members, explorer.cut.decision
        others = {m: decision.threshold(m) for m in members if m not in self._moving}
        if (traced := (self._moving, explorer.filter, others)) == self._traced:
            return
        self._traced = traced
        trace = explorer.cut.trace(*self._moving, filter=explorer.filter).dropna()
        self._path.data = {
            "fpr": np.maximum(trace["fpr"].to_numpy(), floor),
            "tpr": trace["tpr"].to_numpy(),
        }
        names = " and ".join(self._moving)
        words = f"Purple: where the decision goes if only the threshold of {names} moves."
        explorer.bridge.send("words", id="path-words", words=words if len(trace) else "")


def _fit(axis: Any, low: float, high: float) -> None:
    """Change an axis only when it must: the browser lays a figure out anew each time."""
    room = axis.end - axis.start
    if low < axis.start or high > axis.end or high - low < 0.6 * room:
        axis.update(start=low, end=high)
