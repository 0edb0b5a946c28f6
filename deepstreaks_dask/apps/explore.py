"""The explore dashboard: thresholds as sliders, and everything that follows from them.

panel serve dashboards/explore.py --args ARCHIVE
"""

from __future__ import annotations

import base64
import io
import math
import os
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import panel as pn
import xarray as xr
import zarr
from bokeh.events import DoubleTap, RangesUpdate, SelectionGeometry, Tap
from bokeh.models import ColumnDataSource, GlyphRenderer, Scatter, Segment, Span, TapTool
from PIL import Image

from deepstreaks_dask import plots, thresholds
from deepstreaks_dask.apps import style
from deepstreaks_dask.apps.joint import Joint, shade
from deepstreaks_dask.archive import open_archive
from deepstreaks_dask.decision import DESCRIPTIONS, Decision, family_of
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation import Estimate
from deepstreaks_dask.exploration import (
    BINS,
    DECISION,
    Change,
    Counts,
    Cut,
    Exploration,
    Selection,
    compare,
    explore,
)
from deepstreaks_dask.runs import Run, list_runs

TABS = {
    "decision": "Decision",
    "scores": "Scores",
    "joint": "Joint views",
    "drift": "Drift",
    "compare": "Compare runs",
}
CARDS = 24
"""Cutouts that are added to the gallery at a time."""

MOST_CARDS = 2400
_ORDERS = ("surest", "doubtful", "time")
_NIGHT_PLACES = ("tpr", "fpr", "candidates")
_FACTS = ("jd", "ra", "dec", "length", "mag", "snr", "source")


def app(archive: str | os.PathLike[str], run: str = "default") -> pn.Template:
    """Make the page for one person; ``?run=NAME`` in its address names another run.

    Parameters
    ----------
    archive : str or path
        Path or URL of a scored archive.
    run : str
        Run that is shown first.

    Raises
    ------
    DeepStreaksError
        If there is no such archive, or it has no scores.
    """
    asked = [value.decode(errors="replace") for value in pn.state.session_args.get("run", [])]
    return Explorer(os.fspath(archive), (asked or [run])[0]).page()


class Explorer:
    """One person's look at a run."""

    def __init__(self, archive: str, run: str) -> None:
        self.archive = archive
        dataset = open_archive(archive)
        self.cutouts = dataset.sizes["cutout"]
        self.runs = list_runs(archive)
        if not self.runs:
            raise DeepStreaksError(
                f"{archive} has no scores to explore: score it first with 'deepstreaks score {archive}'"
            )
        self.run = run if run in self.runs else self.runs[0]
        self.attrs = Run.attach(dataset.attrs["url"], self.run).provenance
        self.bridge = style.Bridge(self._receive)
        keys = ("roc", "pr", "tpr", "fpr", "candidates", "histogram", "ecdf", "joint0", "joint1")
        self.places = {key: style.place(390 if "joint" in key else 320) for key in (*keys, "drift")}
        self.dark = False
        self.tab = "decision"
        self.filter: str | None = None
        self.figures: dict[str, Any] = {}
        self._lock = threading.RLock()  # the cut is read on other threads than it is moved on
        self._number = 0
        self._moving: tuple[str, ...] = ()
        self._traced: Any = None
        self._shown: dict[str, Any] = {"name": "", "by": "label", "night": 0, "log": True}
        self._nights: dict[str, dict[str, ColumnDataSource]] = {}
        self._limits: list[Span] = []
        self._joints: list[Joint] = []
        self._boxed: tuple[tuple[str, float, float], ...] = ()
        self._drifting = ""
        self._curves_of = "families"
        self._other: Cut | None = None
        self._change: Change | None = None
        self._gallery: _Gallery | None = None

    def page(self) -> pn.Template:
        """Lay the page out; what it shows is loaded once it is open."""
        return style.page(
            "explore",
            self.bridge,
            self.places,
            app="explore",
            heading=self.archive.rstrip("/").rsplit("/", 1)[-1],
            runs=self.runs,
            run=self.run,
            cutouts=self.cutouts,
            simulated="simulation" in str(self.attrs.get("zoo", "")) or _simulated(self.archive),
            decided=bool(self.attrs.get("decided")),
            tabs=list(TABS.items()),
        )

    # What the page says

    def _receive(self, message: dict[str, Any]) -> None:
        do = message.get("do")
        if do == "hello":
            self.dark = message.get("dark") is True
            self.bridge.later(lambda: explore(self.archive, self.run), self._begin)
            return
        handler = _HANDLERS.get(str(do))
        if handler is not None and hasattr(self, "cut"):
            with self._lock:
                handler(self, message)

    def _begin(self, exploration: Exploration) -> None:
        self.exploration, self.cut = exploration, exploration.begin()
        self._moving = tuple(
            m for m in exploration.members if family_of(m) == exploration.families[0]
        )
        nights = exploration.nights
        known = nights[nights > 0]
        from_to = (
            f", {plots.night_name(known[0])} to {plots.night_name(known[-1])}" if len(known) else ""
        )
        plural = "" if len(nights) == 1 else "s"
        self.bridge.send(
            "ready",
            families=[
                {
                    "name": family,
                    "description": DESCRIPTIONS.get(family, ""),
                    "members": [exploration.members[k] for k in exploration.of_family(family)],
                }
                for family in exploration.families
            ],
            names=exploration.names,
            filters=exploration.filters,
            nights=[[str(night), plots.night_name(night)] for night in nights],
            span=f"{len(exploration):,} cutouts of {len(nights):,} night{plural}{from_to}",
        )
        self._saved()
        self._show_state()
        self._draw_scores({"name": exploration.members[0]})
        pairs = self._first_pairs()
        self._joints = [Joint(*pair) for pair in pairs]
        for k, joint in enumerate(self._joints):
            self._listen(k, joint)
        self._draw_lines()
        self.bridge.send("joint", names=exploration.names, pairs=[list(pair) for pair in pairs])
        self.bridge.later(self._curves, self._draw_curves)

    def _theme(self, message: dict[str, Any]) -> None:
        self.dark = message.get("dark") is True
        for drawn in [*self.figures.values(), *(joint.figure for joint in self._joints)]:
            style.recolour(drawn, self.dark)
        if self.tab == "joint":
            self._draw_joints()

    def _open_tab(self, message: dict[str, Any]) -> None:
        self.tab = _one_of(message.get("name"), TABS)
        if self.tab == "joint":
            self._draw_joints()
        elif self.tab == "drift" and not self._drifting:
            self._draw_drift({"name": DECISION})
        elif self.tab == "compare" and self._other is not None:
            self._compare_now()

    # Thresholds

    def _move(self, message: dict[str, Any]) -> None:
        name, value = self._threshold_name(message.get("name")), _share(message.get("value"))
        chosen = {**self.cut.decision.thresholds, name: value}
        self._moving = tuple(
            member
            for member in self.exploration.members
            if member == name or (family_of(member) == name and member not in chosen)
        )
        self.cut.decide(replace(self.cut.decision, thresholds=chosen))
        self._show_state(_whole(message.get("n")))

    def _follow(self, message: dict[str, Any]) -> None:
        name = self._threshold_name(message.get("name"))
        kept = {key: value for key, value in self.cut.decision.thresholds.items() if key != name}
        self._decide(Decision(kept, self.cut.decision.default))

    def _reset(self, message: dict[str, Any]) -> None:
        self._decide(Decision())

    def _decide(self, decision: Decision) -> None:
        self.cut.decide(decision)
        self._show_state()

    def _choose_filter(self, message: dict[str, Any]) -> None:
        value = message.get("value")
        self.filter = None if value == "*" else _one_of(value, self.exploration.filters)
        self._show_state()
        self._draw_scores({})

    def _load(self, message: dict[str, Any]) -> None:
        sets = thresholds.saved(self.archive)
        name = _one_of(message.get("name"), sets)
        self._decide(thresholds.read(sets[name]))
        self.bridge.send("words", id="saved-words", words=f"These are the thresholds of {name}.")

    def _save(self, message: dict[str, Any]) -> None:
        name = str(message.get("name", ""))
        thresholds.save(self.archive, name, self.cut.decision, run=self.run)
        self._saved(
            f"Saved. deepstreaks decide ARCHIVE --thresholds thresholds/{name}.toml takes it."
        )

    def _saved(self, words: str = "") -> None:
        self.bridge.send("saved", names=list(thresholds.saved(self.archive)), words=words)

    def _export(self, message: dict[str, Any]) -> None:
        name = re.sub(r"[^A-Za-z0-9 ._-]", "", str(message.get("name", "")))[:64] or "thresholds"
        text = thresholds.to_toml(self.cut.decision, name, run=self.run, archive=self.archive)
        self.bridge.send("file", name=f"{name}.toml", text=text)

    # What follows from the thresholds

    def _show_state(self, number: int = 0) -> None:
        counts, cut = self.cut.counts(filter=self.filter), self.cut
        self._counts = counts
        members = counts.members.to_dict("records")
        labelled = counts.joint.tp + counts.joint.fn + counts.joint.fp + counts.joint.tn > 0
        self.bridge.send(
            "state",
            n=number,
            thresholds=dict(cut.decision.thresholds),
            members=[
                {
                    "name": row["name"],
                    "family": family_of(row["name"]),
                    "threshold": cut.decision.threshold(row["name"]),
                    "passed": row["passed"],
                }
                for row in members
            ],
            families=counts.families[["name", "passed"]].to_dict("records"),
            tiles=_tiles(counts),
            confusion=_confusion(counts) if labelled else None,
            venn={
                "families": self.exploration.families,
                "all": "&".join(self.exploration.families),
                "regions": [{"region": r, "count": n} for r, n in counts.venn.items()],
            },
        )
        self._draw_nights()
        self._draw_points()
        self._draw_lines()

    def _draw_nights(self) -> None:
        nights = self._counts.nights
        for key in _NIGHT_PLACES:
            parts = self._nights.get(key)
            if key == "candidates":
                counts = nights["plausible"].to_numpy()
                columns, size = None, len(nights)
                limits = (0.0, max(1.0, float(counts.max(initial=0)) * 1.1))
            else:
                columns = plots.night_columns(nights, key)
                size, limits = len(columns.names), columns.limits
            if parts is None or len(parts["dots"].data["place"]) != size:
                self._draw_nights_anew(key)
                continue
            if columns is None:
                parts["dots"].patch({"plausible": [(slice(size), counts)]})
            else:
                parts["intervals"].data = columns.intervals
                parts["dots"].data = {**parts["dots"].data, **columns.dots}
            _fit(self.figures[key].y_range, *limits)

    def _draw_nights_anew(self, key: str) -> None:
        nights = self._counts.nights
        element = (
            plots.night_candidates(nights)
            if key == "candidates"
            else plots.night_rates(nights, key)
        )
        drawn = style.figure(element, self.dark)
        glyphs = {type(renderer.glyph): renderer for renderer in drawn.select(GlyphRenderer)}
        dots = glyphs.get(Scatter)
        if dots is None:  # words instead of a picture
            style.put(self.places[key], drawn)
            self.figures.pop(key, None)
            self._nights.pop(key, None)
            return
        self._nights[key] = {"dots": dots.data_source}
        if Segment in glyphs:
            self._nights[key]["intervals"] = glyphs[Segment].data_source
        drawn.add_tools(TapTool(renderers=[dots]))
        plausible = True if key == "candidates" else None
        truth = {"tpr": 1, "fpr": 0}.get(key)

        def tapped(attr: str, old: list[int], new: list[int]) -> None:
            if new:
                words = dots.data_source.data["night"][new[0]]
                night = 0 if words == plots.night_name(0) else int(words.replace("-", ""))
                title = {"tpr": "Labelled plausible", "fpr": "False positives"}.get(
                    key, "Candidates"
                )
                wrong = True if key == "fpr" else plausible
                dots.data_source.selected.indices = []
                chosen = Selection(night=night, truth=truth, plausible=wrong)
                with self.bridge.shown():
                    self._select(chosen, f"{title}, night {words}")

        dots.data_source.selected.on_change("indices", tapped)
        self.figures[key] = drawn
        style.put(self.places[key], drawn)

    def _curves(self) -> dict[str, pd.DataFrame]:
        of = self._curves_of
        names = self.exploration.families
        if of != "families":
            names = [of, *(m for m in self.exploration.members if family_of(m) == of)]
        curves = {name: self.exploration.curve(name) for name in dict.fromkeys([DECISION, *names])}
        return {name: curve for name, curve in curves.items() if len(curve)}

    def _choose_curves(self, message: dict[str, Any]) -> None:
        self._curves_of = _one_of(message.get("of"), ("families", *self.exploration.families))
        self.bridge.later(self._curves, self._draw_curves)

    def _draw_curves(self, curves: dict[str, pd.DataFrame]) -> None:
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
            if self.dark:
                style.recolour(drawn, True)
            self.figures[key] = drawn
            style.put(self.places[key], drawn)
        self._draw_points()

    def _draw_points(self) -> None:
        """Mark where the decision is on its curve, and where moving one threshold would take it."""
        if "roc" not in self.figures:
            return
        joint, floor = self._counts.joint, float(self.figures["roc"].x_range.start or 0)
        here = {"fpr": joint.fpr.value, "tpr": joint.tpr.value, "precision": joint.precision.value}
        self._points.data = {
            key: [max(value, floor) if key == "fpr" else value] for key, value in here.items()
        }
        # where a threshold leads does not depend on where it is, only on all others
        limits = {m: self.cut.decision.threshold(m) for m in self.exploration.members}
        others = {m: limit for m, limit in limits.items() if m not in self._moving}
        if (traced := (self._moving, self.filter, others)) == self._traced:
            return
        self._traced = traced
        trace = self.cut.trace(*self._moving, filter=self.filter).dropna()
        self._path.data = {
            "fpr": np.maximum(trace["fpr"].to_numpy(), floor),
            "tpr": trace["tpr"].to_numpy(),
        }
        names = " and ".join(self._moving)
        words = f"Purple: where the decision goes if only the threshold of {names} moves."
        self.bridge.send("words", id="path-words", words=words if len(trace) else "")

    def _draw_lines(self) -> None:
        """Move the lines that mark thresholds."""
        limit = self._limit(self._shown["name"]) if self._shown["name"] else None
        for line in self._limits:
            line.visible = limit is not None
            if limit is not None:
                line.location = limit
        for joint in self._joints:
            for name, line in zip(joint.names, joint.lines, strict=True):
                value = self._limit(name)
                line.visible = value is not None
                if value is not None:
                    line.location = value

    def _limit(self, name: str) -> float | None:
        """Give the threshold of a member, or the one that all members of a family or all have."""
        decision = self.cut.decision
        limits = {
            decision.threshold(member)
            for member in self.exploration.members
            if name in (DECISION, member, family_of(member))
        }
        return limits.pop() if len(limits) == 1 else None

    # Scores

    def _draw_scores(self, message: dict[str, Any]) -> None:
        shown = self._shown
        if "name" in message:
            shown["name"] = _one_of(message["name"], self.exploration.names)
        if "by" in message:
            shown["by"] = _one_of(message["by"], ("label", "night", "filter"))
            shown["night"] = _whole(message.get("night"))
            shown["log"] = message.get("log") is True
        name = shown["name"]
        wanted = dict(shown), self.filter

        def count() -> dict[str, np.ndarray]:
            return self.exploration.groups(
                name, wanted[0]["by"], night=wanted[0]["night"], filter=wanted[1]
            )

        def draw(groups: dict[str, np.ndarray]) -> None:
            if wanted != (dict(self._shown), self.filter):
                return  # something else was asked for meanwhile
            groups = {_words(key): value for key, value in groups.items()}
            # drawn in any case, so that it is there when all members have one threshold again
            line = self._limit(name) or 0.5
            histogram = plots.histogram(
                groups, f"Scores of {name}", threshold=line, log=wanted[0]["log"]
            )
            ecdf = plots.ecdf(groups, f"Cumulative scores of {name}", threshold=line)
            self._limits = []
            for key, element in (("histogram", histogram), ("ecdf", ecdf)):
                drawn = style.figure(element, self.dark)
                drawn.on_event(Tap, self._tap_bin)
                self._limits += drawn.select(Span)
                self.figures[key] = drawn
                style.put(self.places[key], drawn)
            self._draw_lines()

        self.bridge.later(count, draw)

    def _tap_bin(self, event: Tap) -> None:
        if event.x is None or not 0 <= event.x <= 1:
            return
        k, name = min(int(event.x * BINS), BINS - 1), self._shown["name"]
        low, high = k / BINS, (k + 1) / BINS
        last = high if high == 1 else float(np.nextafter(np.float32(high), np.float32(0)))
        chosen = Selection(filter=self.filter, ranges=((name, low, last),))
        self._select(chosen, f"{name} from {low:.2f} to {high:.2f}")

    # Joint views

    def _first_pairs(self) -> list[tuple[str, str]]:
        """Two pairs of families to begin with, or of members where there is one family."""
        names = self.exploration.families
        if len(names) < 2:
            names = self.exploration.members
        first, second, third = (*names, *names[-1:] * 2)[:3]
        return [(first, second), (second if third != second else first, third)]

    def _listen(self, pair: int, joint: Joint) -> None:
        def boxed(event: SelectionGeometry) -> None:
            geometry = event.geometry
            if event.final and geometry.get("type") == "rect":
                (x0, x1), (y0, y1) = (
                    sorted(float(geometry[key]) for key in keys)
                    for keys in (("x0", "x1"), ("y0", "y1"))
                )
                x, y = joint.names
                self._boxed = ((x, x0, x1), (y, y0, y1))
                chosen = Selection(filter=self.filter, ranges=self._boxed)
                self._select(chosen, f"{x} {x0:.3f} to {x1:.3f}, {y} {y0:.3f} to {y1:.3f}")
                self._mark_joints()

        def reset(event: DoubleTap) -> None:
            for span in (joint.figure.x_range, joint.figure.y_range):
                span.update(start=-0.01, end=1.01)
            self._draw_joint(pair)

        joint.figure.on_event(SelectionGeometry, boxed)
        joint.figure.on_event(RangesUpdate, lambda event: self._draw_joint(pair))
        joint.figure.on_event(DoubleTap, reset)
        if self.dark:
            style.recolour(joint.figure, True)
        style.put(self.places[f"joint{pair}"], joint.figure)

    def _axis(self, message: dict[str, Any]) -> None:
        pair = _one_of(message.get("pair"), (0, 1))
        axis = _one_of(message.get("axis"), ("x", "y"))
        joint = self._joints[pair]
        joint.names["xy".index(axis)] = _one_of(message.get("name"), self.exploration.names)
        joint.label()
        self._draw_lines()
        self._draw_joint(pair)

    def _draw_joints(self) -> None:
        for pair in range(len(self._joints)):
            self._draw_joint(pair)

    def _draw_joint(self, pair: int) -> None:
        joint = self._joints[pair]
        (x, y), spans, dark = tuple(joint.names), joint.spans, self.dark
        self.bridge.later(
            lambda: shade(self.exploration, x, y, spans, dark=dark),
            lambda picture: joint.show(0, picture, spans) if [x, y] == joint.names else None,
        )
        self._mark_joint(pair)

    def _mark_joints(self) -> None:
        for pair in range(len(self._joints)):
            self._mark_joint(pair)

    def _mark_joint(self, pair: int) -> None:
        joint, boxed = self._joints[pair], self._boxed
        if not boxed:
            joint.hide()
            return
        (x, y), spans, dark = tuple(joint.names), joint.spans, self.dark

        def draw() -> tuple[np.ndarray, int]:
            with self._lock:
                places = self.cut.select(Selection(filter=self.filter, ranges=boxed))
            picture = shade(self.exploration, x, y, spans, places=places, dark=dark)
            return picture, len(places)

        def show(drawn: tuple[np.ndarray, int]) -> None:
            if boxed == self._boxed:
                joint.show(1, drawn[0], spans)
                words = f"{drawn[1]:,} cutouts are selected (purple)."
                self.bridge.send("words", id="joint-words", words=words)

        self.bridge.later(draw, show)

    def _clear(self, message: dict[str, Any]) -> None:
        self._boxed = ()
        self._mark_joints()
        for joint in self._joints:
            joint.figure.tools[0].overlay.visible = False
        self.bridge.send("words", id="joint-words", words="Nothing is selected.")

    # Drift and other runs

    def _draw_drift(self, message: dict[str, Any]) -> None:
        name = _one_of(message.get("name"), self.exploration.names)
        self._drifting = name

        def draw(table: pd.DataFrame) -> None:
            if name != self._drifting:
                return
            self.figures["drift"] = style.figure(plots.drift(table, name), self.dark)
            style.put(self.places["drift"], self.figures["drift"])
            flagged = table[table["flagged"]].sort_values("psi", ascending=False).head(100)
            rows = [
                {**row, "words": plots.night_name(row["night"])}
                for row in flagged.drop(columns="flagged").to_dict("records")
            ]
            self.bridge.send("drift", rows=rows, of=len(table))

        self.bridge.later(lambda: self.exploration.drift(name), draw)

    def _compare(self, message: dict[str, Any]) -> None:
        run = message.get("run")
        if not run:
            self._other = None
            return
        run = _one_of(run, self.runs)

        def show(other: Exploration) -> None:
            self._other = other.begin()
            self._compare_now()

        self.bridge.later(lambda: explore(self.archive, run), show)

    def _compare_now(self) -> None:
        other, decision = self._other, self.cut.decision
        assert other is not None
        known = {*other.exploration.members, *other.exploration.families}
        shared = {name: value for name, value in decision.thresholds.items() if name in known}

        def work() -> Change:
            with self._lock:
                other.decide(replace(decision, thresholds=shared))
                return compare(self.cut, other)

        def show(change: Change) -> None:
            self._change = change
            self.bridge.send(
                "compare",
                run=self.run,
                other=other.exploration.attrs["run"],
                table=change.table.to_dict("records"),
                members=_plain(change.members.to_dict("records")),
            )

        self.bridge.later(work, show)

    def _show_changed(self, message: dict[str, Any]) -> None:
        if self._change is None:
            return
        places = getattr(self._change, _one_of(message.get("key"), ("gained", "lost")))
        truth = _one_of(message.get("truth"), (1, 0, -1))
        exploration = self.exploration
        of_row = exploration.strata["truth"].to_numpy()[
            exploration.cell[places] % len(exploration.strata)
        ]
        chosen = places[of_row == truth]
        self._open_gallery(lambda: chosen, str(message.get("words", ""))[:200], follows=False)

    # Cutouts

    def _show(self, message: dict[str, Any]) -> None:
        chosen = message.get("selection")
        if not isinstance(chosen, dict):
            return
        ranges = chosen.get("ranges") or []
        if (
            not isinstance(ranges, list)
            or len(ranges) > 4
            or not all(isinstance(part, list) and len(part) == 3 for part in ranges)
        ):
            raise DeepStreaksError("ranges of scores: give name, lowest and highest score")
        named = [(str(name), float(_share(low)), float(_share(high))) for name, low, high in ranges]
        optional: dict[str, Any] = {
            "night": None if chosen.get("night") is None else _whole(chosen["night"]),
            "truth": None if chosen.get("truth") is None else _one_of(chosen["truth"], (1, 0, -1)),
            "plausible": None if chosen.get("plausible") is None else chosen["plausible"] is True,
            "region": None if chosen.get("region") is None else str(chosen["region"]),
        }
        selection = Selection(filter=self.filter, ranges=tuple(named), **optional)
        self._select(selection, str(message.get("words", ""))[:200])

    def _select(self, selection: Selection, words: str) -> None:
        follows = (selection.plausible, selection.region) != (None, None)

        def find() -> np.ndarray:
            with self._lock:
                return self.cut.select(selection)

        self._open_gallery(find, words, follows=follows, selection=selection)

    def _open_gallery(
        self,
        find: Callable[[], np.ndarray],
        words: str,
        *,
        follows: bool,
        selection: Selection | None = None,
    ) -> None:
        order = self._gallery.order if self._gallery else "surest"
        gallery = _Gallery(self, find, words, order, follows, selection)
        self._gallery = gallery
        self.bridge.send("busy", words=f"{words}: looking for cutouts")
        self.bridge.later(gallery.first, gallery.show)

    def _settled(self, message: dict[str, Any]) -> None:
        """Bring up to date what is too slow to follow every step of a slider."""
        gallery = self._gallery
        if gallery is not None and gallery.follows and gallery.decision != self.cut.decision:
            self._open_gallery(
                gallery.find, gallery.words, follows=True, selection=gallery.selection
            )
        if self.tab == "compare" and self._other is not None:
            self._compare_now()

    def _order(self, message: dict[str, Any]) -> None:
        order = _one_of(message.get("value"), _ORDERS)
        if self._gallery is not None:
            self._gallery.order = order
            self.bridge.later(self._gallery.first, self._gallery.show)

    def _more(self, message: dict[str, Any]) -> None:
        if self._gallery is not None:
            self.bridge.later(self._gallery.next, self._gallery.show)

    def _cell(self, message: dict[str, Any]) -> None:
        self.bridge.send("cell", code=notebook_cell(self))

    def _threshold_name(self, name: Any) -> str:
        return _one_of(name, (*self.exploration.members, *self.exploration.families))


class _Gallery:
    """Cutouts of a selection, a page at a time; its work is done on other threads."""

    def __init__(
        self,
        explorer: Explorer,
        find: Callable[[], np.ndarray],
        words: str,
        order: str,
        follows: bool,
        selection: Selection | None,
    ) -> None:
        self.explorer, self.find, self.words = explorer, find, words
        self.order, self.follows, self.selection = order, follows, selection
        self.decision = explorer.cut.decision

    def first(self) -> dict[str, Any]:
        places = self.find()
        self.total = len(places)
        if self.order != "time":
            joint = self.explorer.exploration.column(DECISION, places)
            key = np.nan_to_num(joint, nan=-1.0)
            key = -key if self.order == "surest" else key
            if len(key) > MOST_CARDS:
                best = np.argpartition(key, MOST_CARDS)[:MOST_CARDS]
                places, key = places[best], key[best]
            places = places[np.argsort(key, kind="stable")]
        self.places, self.given = places[:MOST_CARDS], 0
        return {**self.next(), "append": False}

    def next(self) -> dict[str, Any]:
        places = self.places[self.given : self.given + CARDS]
        self.given += len(places)
        return {"cards": cards(self.explorer, places), "append": True}

    def show(self, page: dict[str, Any]) -> None:
        if self.explorer._gallery is not self:
            return  # another selection was made meanwhile
        words = f"{self.given:,} of {self.total:,} cutouts." if self.total else "No cutouts."
        more = self.given < len(self.places)
        self.explorer.bridge.send("gallery", title=self.words, words=words, more=more, **page)


def cards(explorer: Explorer, places: np.ndarray) -> list[dict[str, Any]]:
    """Read cutouts and what is known of them, as the page shows them."""
    exploration, decision = explorer.exploration, explorer.cut.decision
    rows = exploration.rows[places]
    dataset = open_archive(explorer.archive)
    pixels = zarr.open_group(dataset.attrs["url"], mode="r")["cutouts"]
    columns = {
        name: dataset[name].isel(cutout=xr.DataArray(rows, dims="n")).values
        for name in ("id", "night", "filter", "kind", *_FACTS)
    }
    limits = {member: decision.threshold(member) for member in exploration.members}
    shown = []
    for k, (row, place) in enumerate(zip(rows, places, strict=True)):
        known = {name: values[k] for name, values in columns.items()}
        scores = {
            m: _score(exploration.scores[j, place]) for j, m in enumerate(exploration.members)
        }
        members = [
            [m, value, value is not None and np.float32(value) >= np.float32(limits[m]), limits[m]]
            for m, value in scores.items()
        ]
        families = [
            [
                family,
                _score(exploration.column(family, place)),
                any(bool(m[2]) for m in members if family_of(str(m[0])) == family),
            ]
            for family in exploration.families
        ]
        stratum = exploration.strata.iloc[exploration.cell[place] % len(exploration.strata)]
        labels = [f"{f} {stratum[f]}" for f in ("rb", "sl", "kd", "os") if stratum[f] >= 0]
        where = [plots.night_name(int(known["night"])), known["filter"], known["kind"]]
        facts = [("labels", ", ".join(labels) or "none")]
        facts += [(name, _fact(known[name])) for name in _FACTS]
        shown.append(
            {
                "id": str(known["id"]),
                "where": ", ".join(str(part) for part in where if part),
                "families": families,
                "members": [[m, v, bool(p), limit] for m, v, p, limit in members],
                "facts": [[name, value] for name, value in facts if value],
                "png": _png(pixels, int(row)),
            }
        )
    return shown


def notebook_cell(explorer: Explorer) -> str:
    """Write Python that opens the run at these thresholds and draws what the tab shows."""
    shown, cut = explorer._shown, explorer.cut
    lines = [
        "from deepstreaks_dask import plots",
        "from deepstreaks_dask.runs import open_scores",
        "from deepstreaks_dask.evaluation import evaluate",
        "from deepstreaks_dask.exploration import Cut, Exploration, Selection",
        "from deepstreaks_dask.decision import Decision",
        "",
        f"archive = {explorer.archive!r}",
        f"scores = open_scores(archive, {explorer.run!r})",
    ]
    if explorer.filter is not None:
        lines.append(
            f'scores = scores.isel(cutout=(scores["filter"] == {explorer.filter!r}).values)'
        )
    values = f"{dict(cut.decision.thresholds)!r}, default={cut.decision.default!r}"
    lines += [f"decision = Decision({values})", "exploration = Exploration(scores)"]
    if explorer.tab == "scores":
        name = shown["name"]
        night = f", night={shown['night']}" if shown["by"] == "night" else ""
        lines += [
            f"groups = exploration.groups({name!r}, {shown['by']!r}{night})",
            f"histogram = plots.histogram(groups, {f'Scores of {name}'!r}, "
            f"threshold={explorer._limit(name)!r}, log={shown['log']!r})",
            f"view = histogram + plots.ecdf(groups, {f'Cumulative scores of {name}'!r})",
        ]
    elif explorer.tab == "joint":
        lines += [
            "import holoviews as hv",
            "from holoviews.operation.datashader import datashade",
            "",
        ]
        drawn = []
        for joint in explorer._joints:
            x, y = joint.names
            drawn.append(
                f"datashade(hv.Points((exploration.column({x!r}), exploration.column({y!r})), "
                f"[{x!r}, {y if x != y else y + ' '!r}]), dynamic=False)"
            )
        lines.append(f"view = {' + '.join(drawn)}")
    elif explorer.tab == "drift":
        name = explorer._drifting or DECISION
        lines.append(f"view = plots.drift(exploration.drift({name!r}), {name!r})")
    elif explorer.tab == "compare" and explorer._other is not None:
        other = explorer._other
        lines += [
            "from deepstreaks_dask.exploration import compare",
            "",
            f"other = Exploration(open_scores(archive, {other.exploration.attrs['run']!r}))",
            f"change = compare(Cut(exploration, decision), Cut(other, Decision({dict(other.decision.thresholds)!r})))",
            "view = change.table",
        ]
    else:
        lines += [
            "evaluation = evaluate(scores, decision)",
            "at = (evaluation.joint.fpr.value, evaluation.joint.tpr.value)",
            "view = plots.confusion(evaluation.joint) + plots.venn(evaluation.venn)",
            "view += plots.roc(evaluation.curves, at=at) + plots.precision_recall(evaluation.curves)",
            'view += plots.night_rates(evaluation.nights, "tpr")',
            'view += plots.night_rates(evaluation.nights, "fpr")',
            "view = view.cols(2)",
        ]
    gallery = explorer._gallery
    if gallery is not None and gallery.selection is not None and len(gallery.places):
        lines += [
            "",
            f"places = Cut(exploration, decision).select({replace(gallery.selection, filter=None)!r})",
            "rows = exploration.rows[places[:12]]",
            f"pictures = open_scores(archive, {explorer.run!r}, cutouts=True)",
        ]
        if explorer.filter is not None:
            lines.append(
                f'pictures = pictures.isel(cutout=(pictures["filter"] == {explorer.filter!r}).values)'
            )
        lines += [
            "pictures = pictures.isel(cutout=rows)",
            'gallery = plots.gallery(pictures["cutouts"].values, list(map(str, pictures["id"].values)))',
            "display(gallery)",
        ]
    return "\n".join([*lines, "view"]) + "\n"


def _fit(axis: Any, low: float, high: float) -> None:
    """Change an axis only when it must: the browser lays a figure out anew each time."""
    room = axis.end - axis.start
    if low < axis.start or high > axis.end or high - low < 0.6 * room:
        axis.update(start=low, end=high)


def _tiles(counts: Counts) -> list[dict[str, Any]]:
    """Headline figures, each rate with its interval on a scale."""
    decided = f"of {counts.decided:,} decided cutouts"
    if counts.decided < counts.cutouts:
        decided += f", {counts.cutouts - counts.decided:,} are open"
    tiles: list[dict[str, Any]] = [
        {"title": "Plausible", "value": f"{counts.plausible:,}", "note": decided}
    ]
    joint = counts.joint
    if joint.tp + joint.fn + joint.fp + joint.tn == 0:
        return tiles
    low, high = plots.PUBLISHED_TPR
    return [
        *tiles,
        _rate("True-positive rate", joint.tpr, (low, high), "Duev et al.: 0.96 to 0.98", down=True),
        _rate(
            "False-positive rate", joint.fpr, (0.0, plots.PUBLISHED_FPR), "Duev et al.: below 0.01"
        ),
        _rate("Precision", joint.precision, (0.0, 0.0), "varies with the mix of kinds", whole=True),
    ]


def _rate(
    title: str,
    estimate: Estimate,
    published: tuple[float, float],
    words: str,
    *,
    down: bool = False,
    whole: bool = False,
) -> dict[str, Any]:
    if not estimate.total:
        return {"title": title, "value": "none", "note": "no cutout to measure it on"}
    # rates near 1 are shown on a scale down from 1, those near 0 on one up from 0
    ends = (estimate.low, estimate.high, *published)
    first, last = (min(0.9, min(ends) - 0.01), 1.0) if down else (0.0, max(0.02, 1.1 * max(ends)))
    if whole:
        first, last = 0.0, 1.0

    def at(*values: float) -> list[float]:
        return [100 * (value - first) / (last - first) for value in values]

    return {
        "title": title,
        "value": f"{estimate.value:.4f}",
        "note": f"95 %: {estimate.low:.4f} to {estimate.high:.4f}",
        "counts": f"{estimate.count:,} of {estimate.total:,}",
        "scale": {
            "band": at(*published) if any(published) else [0, 0],
            "interval": at(estimate.low, estimate.high),
            "dot": at(estimate.value)[0],
            "ends": [f"{first:.2f}", f"{last:.2f}"],
            "words": words,
        },
    }


def _confusion(counts: Counts) -> dict[str, list[Any]]:
    joint = counts.joint
    totals = {"tp": joint.tp + joint.fn, "fp": joint.fp + joint.tn}
    of = {"tp": totals["tp"], "fn": totals["tp"], "fp": totals["fp"], "tn": totals["fp"]}
    return {
        key: [
            getattr(joint, key),
            f"{100 * getattr(joint, key) / total:.2f} % of {total:,}"
            if total
            else "none labelled so",
        ]
        for key, total in of.items()
    }


def _simulated(archive: str) -> bool:
    """Say whether the first cutouts say that they are simulated."""
    sources = open_archive(archive)["source"].isel(cutout=slice(0, 64)).values
    return any(str(source).startswith("simulation") for source in sources)


def _words(group: str) -> str:
    return plots.night_name(int(group)) if group.isdigit() else group


def _png(pixels: Any, row: int) -> str:
    try:
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(pixels[row])).save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode()
    except Exception:  # a damaged shard fails in its codec's own way; the rest stands
        return ""


def _score(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


def _fact(value: Any) -> str:
    if not isinstance(value, float | np.floating):
        return str(value)
    number = float(value)
    return "" if math.isnan(number) else f"{number:.6g}" if abs(number) < 1e6 else f"{number:.5f}"


def _plain(rows: list[dict[Any, Any]]) -> list[dict[str, Any]]:
    return [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
        for row in rows
    ]


def _one_of(value: Any, known: Any) -> Any:
    if not isinstance(value, str | int) or value not in known:
        raise DeepStreaksError(f"{str(value)[:80]!r} is none of {', '.join(map(str, known))}")
    return value


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DeepStreaksError(f"{str(value)[:40]!r}: give a number from 0 to 1")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise DeepStreaksError(f"{str(value)[:40]!r}: give a whole number")
    return int(value)


_HANDLERS: dict[str, Callable[[Explorer, dict[str, Any]], None]] = {
    "theme": Explorer._theme,
    "tab": Explorer._open_tab,
    "threshold": Explorer._move,
    "follow": Explorer._follow,
    "curves": Explorer._choose_curves,
    "reset": Explorer._reset,
    "filter": Explorer._choose_filter,
    "load": Explorer._load,
    "save": Explorer._save,
    "toml": Explorer._export,
    "scores": Explorer._draw_scores,
    "axis": Explorer._axis,
    "clear": Explorer._clear,
    "drift": Explorer._draw_drift,
    "compare": Explorer._compare,
    "changed": Explorer._show_changed,
    "show": Explorer._show,
    "settled": Explorer._settled,
    "order": Explorer._order,
    "more": Explorer._more,
    "cell": Explorer._cell,
}
