"""The tab of the drift: how far the scores of each night lie from those of the others."""

from __future__ import annotations

import pandas as pd

from deepstreaks_dask import plots
from deepstreaks_dask.apps.explore.gallery import GalleryPanel
from deepstreaks_dask.apps.explore.messages import ChooseDrift
from deepstreaks_dask.apps.explore.session import Session
from deepstreaks_dask.apps.explore.tab import Tab
from deepstreaks_dask.apps.explore.tables import table_rows
from deepstreaks_dask.apps.explore.updates import Drift
from deepstreaks_dask.evaluation.interactive import DECISION_NAME

MAX_LISTED_NIGHTS = 100
"""Flagged nights in the table, those that have drifted most."""


class DriftTab(Tab):
    """The population stability index of each night, and a table of the flagged nights.

    Parameters
    ----------
    session, gallery
        As for :class:`~deepstreaks_dask.apps.explore.tab.Tab`.
    """

    def __init__(self, session: Session, gallery: GalleryPanel) -> None:
        super().__init__(session, gallery)
        self.handlers = {ChooseDrift: lambda message: self._draw(message.name)}

    def follow(self) -> None:
        """Draw the decision's drift the first time; the scores do not follow thresholds."""
        if not self.session.drift_name:
            self._draw(DECISION_NAME)

    def _draw(self, name: str) -> None:
        session = self.session
        name = session.drift_name = session.score_name(name)

        def draw(table: pd.DataFrame) -> None:
            if name != session.drift_name:
                return
            session.figures.draw("drift", plots.drift(table, name))
            flagged = table[table["flagged"]].sort_values("psi", ascending=False)
            listed = flagged.head(MAX_LISTED_NIGHTS).drop(columns="flagged")
            listed["words"] = [plots.night_name(night) for night in listed["night"]]
            session.bridge.send(Drift(name=name, rows=table_rows(listed), of=len(table)))

        session.bridge.later(lambda: session.exploration.drift(name), draw)
