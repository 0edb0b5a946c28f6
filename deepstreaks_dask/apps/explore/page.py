"""The page of cutouts: thresholds, and what follows from them in the tabs beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from deepstreaks_dask import plots
from deepstreaks_dask.apps.explore.base_page import ExplorePage
from deepstreaks_dask.apps.explore.gallery import GalleryPanel
from deepstreaks_dask.apps.explore.messages import (
    SCHEMA,
    CopyCell,
    OpenTab,
    Settled,
    TabName,
)
from deepstreaks_dask.apps.explore.notebook_cell import notebook_cell
from deepstreaks_dask.apps.explore.session import Session
from deepstreaks_dask.apps.explore.tab import Tab
from deepstreaks_dask.apps.explore.tabs.comparison import CompareTab
from deepstreaks_dask.apps.explore.tabs.decision import DecisionTab
from deepstreaks_dask.apps.explore.tabs.drift import DriftTab
from deepstreaks_dask.apps.explore.tabs.joint import JointTab
from deepstreaks_dask.apps.explore.tabs.scores import ScoresTab
from deepstreaks_dask.apps.explore.tabs.threshold_search import SearchTab
from deepstreaks_dask.apps.explore.threshold_panel import ThresholdPanel
from deepstreaks_dask.apps.explore.updates import Cell, Ready
from deepstreaks_dask.apps.messages import Message
from deepstreaks_dask.apps.visitor import Visitor
from deepstreaks_dask.evaluation.interactive import Exploration, open_exploration
from deepstreaks_dask.report.explanation_maps import CAPTION
from deepstreaks_dask.vocabulary import FAMILY_DESCRIPTIONS

TABS: dict[TabName, tuple[str, type[Tab]]] = {
    "decision": ("Decision", DecisionTab),
    "scores": ("Scores", ScoresTab),
    "joint": ("Joint views", JointTab),
    "drift": ("Drift", DriftTab),
    "compare": ("Compare runs", CompareTab),
    "search": ("Find thresholds", SearchTab),
}
"""Title and class of each tab, from left to right."""

BEGIN_ORDER: tuple[TabName, ...] = ("scores", "joint", "drift", "compare", "search", "decision")
"""Tabs in the order in which they begin: the open one, which begins slow work, last."""


class CutoutPage(ExplorePage):
    """One person's page of a run of cutouts.

    Parameters
    ----------
    archive, run, zoo, visitor
        As for :class:`~deepstreaks_dask.apps.explore.base_page.ExplorePage`.

    Attributes
    ----------
    session : Session
        The state of the page.
    tabs : dict
        The tabs by name.
    """

    template_name = "explore"
    dimension = "cutout"
    schema = SCHEMA
    heights: ClassVar[Mapping[str, int]] = {
        **dict.fromkeys(("roc", "pr", "tpr", "fpr", "candidates", "histogram", "ecdf"), 320),
        **dict.fromkeys(("joint0", "joint1"), 390),
        "drift": 320,
    }

    def __init__(
        self,
        archive: str | os.PathLike[str],
        run: str,
        zoo: str | None = None,
        visitor: Visitor | None = None,
    ) -> None:
        super().__init__(archive, run, zoo, visitor)
        self.session = Session(self.source, self.bridge, self.figures)
        self.panel = ThresholdPanel(self.session)
        self.gallery = GalleryPanel(self.session)
        self.tabs = {name: tab(self.session, self.gallery) for name, (_, tab) in TABS.items()}
        self.session.subscribe(lambda number: self._open_tab.follow())
        self.handlers = {OpenTab: self._choose_tab, Settled: self._settle, CopyCell: self._copy}
        tab_handlers = [tab.handlers for tab in self.tabs.values()]
        for handlers in (self.panel.handlers, self.gallery.handlers, *tab_handlers):
            self.handlers = {**self.handlers, **handlers}

    def variables(self) -> dict[str, Any]:
        """Return the template's variables that the page of sequences does not have."""
        made = self.session.provenance
        return {
            "cutouts": self.source.size,
            "simulated": "simulation" in str(made.get("zoo", "")) or self.source.simulated,
            "decided": bool(made.get("decided")),
            "tabs": [(name, title) for name, (title, _) in TABS.items()],
            "explained": CAPTION,
        }

    def load(self) -> Exploration:
        """Read the scores; called on another thread."""
        return open_exploration(self.source.archive, self.source.run)

    def begin(self, loaded: Exploration) -> None:
        """Show the state, then let the tabs begin."""
        self.session.begin(loaded)
        nights = loaded.nights
        known = nights[nights > 0]
        first_to_last = (
            f", {plots.night_name(known[0])} to {plots.night_name(known[-1])}" if len(known) else ""
        )
        plural = "" if len(nights) == 1 else "s"
        families = [
            {
                "name": family,
                "description": FAMILY_DESCRIPTIONS.get(family, ""),
                "members": [loaded.members[k] for k in loaded.of_family(family)],
            }
            for family in loaded.families
        ]
        self.bridge.send(
            Ready(
                families=families,
                names=loaded.names,
                filters=loaded.filters,
                nights=[(str(night), plots.night_name(night)) for night in nights],
                span=f"{len(loaded):,} cutouts of {len(nights):,} night{plural}{first_to_last}",
            )
        )
        self.panel.begin()
        for name in BEGIN_ORDER:
            self.tabs[name].begin()

    def handle(self, message: Message) -> None:
        """Handle a message of the page while no other thread reads the cut."""
        with self.session.lock:
            super().handle(message)

    def recolour(self, dark: bool) -> None:
        """Change the figures to the colours of a dark or a light page; images of joint views are drawn again."""
        super().recolour(dark)
        if self.session.tab == "joint":
            self._open_tab.open()

    @property
    def _open_tab(self) -> Tab:
        return self.tabs[self.session.tab]

    def _choose_tab(self, message: OpenTab) -> None:
        self.session.tab = message.name
        self._open_tab.open()
        self._open_tab.follow()

    def _settle(self, message: Settled) -> None:
        self.gallery.follow()
        self._open_tab.settle()

    def _copy(self, message: CopyCell) -> None:
        self.bridge.send(Cell(code=notebook_cell(self.session)))
