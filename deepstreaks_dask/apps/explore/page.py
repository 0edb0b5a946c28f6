"""The page of one person: thresholds, and what follows from them in the tabs beside them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import panel as pn

from deepstreaks_dask import plots
from deepstreaks_dask.apps import bridge as style
from deepstreaks_dask.apps.explore.messages import one_of, share, whole
from deepstreaks_dask.apps.explore.notebook_cell import notebook_cell
from deepstreaks_dask.apps.explore.tabs.comparison import CompareTab, DriftTab
from deepstreaks_dask.apps.explore.tabs.decision import DecisionTab
from deepstreaks_dask.apps.explore.tabs.gallery import Galleries
from deepstreaks_dask.apps.explore.tabs.joint import JointTab
from deepstreaks_dask.apps.explore.tabs.scores import ScoresTab
from deepstreaks_dask.apps.explore.tabs.threshold_search import SearchTab
from deepstreaks_dask.apps.explore.tiles import confusion, tiles
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.provenance import begins_simulated
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.interactive import DECISION_NAME, Exploration, open_exploration
from deepstreaks_dask.report.explanation_maps import CAPTION
from deepstreaks_dask.scoring import threshold_sets as thresholds
from deepstreaks_dask.scoring.decision import FAMILY_DESCRIPTIONS, Decision, family_of
from deepstreaks_dask.scoring.runs import Run, list_runs

TAB_TITLES = {
    "decision": "Decision",
    "scores": "Scores",
    "joint": "Joint views",
    "drift": "Drift",
    "compare": "Compare runs",
    "search": "Find thresholds",
}


class Explorer:
    """One person's look at a run.

    Parameters
    ----------
    archive, run : str
        Path or URL, and the run's name.
    zoo : str, optional
        Where its networks are, for maps of what scores come from; the shipped one by default.

    Attributes
    ----------
    exploration, cut, counts
        The scores, this person's thresholds on them, and what these lead to; there once the scores are read.
    filter : str, optional
        Count only cutouts in this filter.
    tab : str
        One of :data:`TAB_TITLES`.
    figures, places : dict
        Figures that are shown, and where, by name.
    lock : threading.RLock
        To be held while the cut is moved, or read on another thread.
    """

    def __init__(self, archive: str, run: str, zoo: str | None = None) -> None:
        self.archive, self.zoo = archive, zoo
        dataset = open_archive(archive, cache=True)
        self.cutouts = dataset.sizes["cutout"]
        self.simulated = begins_simulated(dataset)
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
        self.figures: dict[str, Any] = {}
        self.dark = False
        self.tab = "decision"
        self.filter: str | None = None
        self.lock = threading.RLock()
        self.decision = DecisionTab(self)
        self.scores = ScoresTab(self)
        self.joint = JointTab(self)
        self.drift = DriftTab(self)
        self.compare = CompareTab(self)
        self.search = SearchTab(self)
        self.galleries = Galleries(self)
        self._handlers: dict[str, Callable[[dict[str, Any]], None]] = {
            "theme": self._theme,
            "tab": self._open_tab,
            "threshold": self._move,
            "follow": self._follow,
            "reset": self._reset,
            "filter": self._choose_filter,
            "load": self._load,
            "save": self._save,
            "toml": self._export,
            "settled": self._settled,
            "cell": self._cell,
            **self.decision.handlers,
            **self.scores.handlers,
            **self.joint.handlers,
            **self.drift.handlers,
            **self.compare.handlers,
            **self.search.handlers,
            **self.galleries.handlers,
        }

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
            simulated="simulation" in str(self.attrs.get("zoo", "")) or self.simulated,
            decided=bool(self.attrs.get("decided")),
            tabs=list(TAB_TITLES.items()),
            explained=CAPTION,
        )

    def limit(self, name: str) -> float | None:
        """Give the threshold of a member, or the one that all members of a family or all have."""
        decision = self.cut.decision
        limits = {
            decision.threshold(member)
            for member in self.exploration.members
            if name in (DECISION_NAME, member, family_of(member))
        }
        return limits.pop() if len(limits) == 1 else None

    # What the page says

    def _receive(self, message: dict[str, Any]) -> None:
        do = message.get("do")
        if do == "hello":
            self.dark = message.get("dark") is True
            self.bridge.later(lambda: open_exploration(self.archive, self.run), self._begin)
            return
        handler = self._handlers.get(str(do))
        if handler is not None and hasattr(self, "cut"):
            with self.lock:
                handler(message)

    def _begin(self, exploration: Exploration) -> None:
        self.exploration, self.cut = exploration, exploration.begin()
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
                    "description": FAMILY_DESCRIPTIONS.get(family, ""),
                    "members": [exploration.members[k] for k in exploration.of_family(family)],
                }
                for family in exploration.families
            ],
            names=exploration.names,
            filters=exploration.filters,
            nights=[[str(night), plots.night_name(night)] for night in nights],
            span=f"{len(exploration):,} cutouts of {len(nights):,} night{plural}{from_to}",
        )
        self._show_saved()
        self._send_state()
        self.scores.begin()
        self.joint.begin()
        self.decision.begin()

    def _theme(self, message: dict[str, Any]) -> None:
        self.dark = message.get("dark") is True
        for drawn in [*self.figures.values(), *(joint.figure for joint in self.joint.views)]:
            style.recolour(drawn, self.dark)
        if self.tab == "joint":
            self.joint.open()

    def _open_tab(self, message: dict[str, Any]) -> None:
        self.tab = one_of(message.get("name"), TAB_TITLES)
        if self.tab == "joint":
            self.joint.open()
        elif self.tab == "compare":
            self.compare.draw()
        self._follow_state()

    # Thresholds

    def _move(self, message: dict[str, Any]) -> None:
        name, value = self._threshold_name(message.get("name")), share(message.get("value"))
        chosen = {**self.cut.decision.thresholds, name: value}
        self.cut.decide(replace(self.cut.decision, thresholds=chosen))
        self.decision.moved(name)
        self._show_state(whole(message.get("n")))

    def _follow(self, message: dict[str, Any]) -> None:
        name = self._threshold_name(message.get("name"))
        kept = {key: value for key, value in self.cut.decision.thresholds.items() if key != name}
        self.decide(Decision(kept, self.cut.decision.default))

    def _reset(self, message: dict[str, Any]) -> None:
        self.decide(Decision())

    def decide(self, decision: Decision) -> None:
        """Take over thresholds, and show what they lead to."""
        self.cut.decide(decision)
        self._show_state()

    def _choose_filter(self, message: dict[str, Any]) -> None:
        value = message.get("value")
        self.filter = None if value == "*" else one_of(value, self.exploration.filters)
        self._show_state()

    def _load(self, message: dict[str, Any]) -> None:
        sets = thresholds.saved_thresholds(self.archive)
        name = one_of(message.get("name"), sets)
        self.decide(thresholds.read_thresholds(sets[name]))
        self.bridge.send("words", id="saved-words", words=f"These are the thresholds of {name}.")

    def _save(self, message: dict[str, Any]) -> None:
        name = str(message.get("name", ""))
        thresholds.save_thresholds(self.archive, name, self.cut.decision, run=self.run)
        self._show_saved(
            f"Saved. deepstreaks decide ARCHIVE --thresholds thresholds/{name}.toml takes it."
        )

    def _show_saved(self, words: str = "") -> None:
        self.bridge.send(
            "saved", names=list(thresholds.saved_thresholds(self.archive)), words=words
        )

    def _export(self, message: dict[str, Any]) -> None:
        name = re.sub(r"[^A-Za-z0-9 ._-]", "", str(message.get("name", "")))[:64] or "thresholds"
        text = thresholds.to_toml(self.cut.decision, name, run=self.run, archive=self.archive)
        self.bridge.send("file", name=f"{name}.toml", text=text)

    def _threshold_name(self, name: Any) -> str:
        return str(one_of(name, (*self.exploration.members, *self.exploration.families)))

    # What follows from the thresholds

    def _show_state(self, number: int = 0) -> None:
        self._send_state(number)
        self._follow_state()

    def _follow_state(self) -> None:
        """Let the open tab follow; the others do once they are opened."""
        followers = {
            "decision": self.decision.follow,
            "scores": self.scores.follow,
            "joint": self.joint.follow,
            "drift": self.drift.follow,
        }
        if self.tab in followers:
            followers[self.tab]()

    def _send_state(self, number: int = 0) -> None:
        counts, decision = self.cut.counts(filter=self.filter), self.cut.decision
        self.counts = counts
        members = counts.members.to_dict("records")
        labelled = counts.joint.tp + counts.joint.fn + counts.joint.fp + counts.joint.tn > 0
        self.bridge.send(
            "state",
            n=number,
            thresholds=dict(decision.thresholds),
            members=[
                {
                    "name": row["name"],
                    "family": family_of(row["name"]),
                    "threshold": decision.threshold(row["name"]),
                    "passed": row["passed"],
                }
                for row in members
            ],
            families=counts.families[["name", "passed"]].to_dict("records"),
            tiles=tiles(counts),
            confusion=confusion(counts) if labelled else None,
            venn={
                "families": self.exploration.families,
                "all": "&".join(self.exploration.families),
                "regions": [{"region": r, "count": n} for r, n in counts.venn.items()],
            },
        )

    def _settled(self, message: dict[str, Any]) -> None:
        """Bring up to date what is too slow to follow every step of a slider."""
        self.galleries.follow()
        if self.tab == "compare":
            self.compare.draw()

    def _cell(self, message: dict[str, Any]) -> None:
        self.bridge.send("cell", code=notebook_cell(self))
