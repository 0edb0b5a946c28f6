"""The tab that finds thresholds for a false-positive rate or a number of candidates per night."""

from __future__ import annotations

from typing import Any

from deepstreaks_dask.apps.explore.gallery import GalleryPanel
from deepstreaks_dask.apps.explore.messages import SearchThresholds, UseFound
from deepstreaks_dask.apps.explore.session import Session
from deepstreaks_dask.apps.explore.tab import Tab
from deepstreaks_dask.apps.explore.tables import table_rows
from deepstreaks_dask.apps.explore.updates import Searching, SearchResult
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.threshold_search import ThresholdSearch, search_thresholds


class SearchTab(Tab):
    """Searches for thresholds; what a search has found can be taken over.

    Parameters
    ----------
    session, gallery
        As for :class:`~deepstreaks_dask.apps.explore.tab.Tab`.
    """

    def __init__(self, session: Session, gallery: GalleryPanel) -> None:
        super().__init__(session, gallery)
        self.handlers = {SearchThresholds: self._search, UseFound: self._use}

    def _search(self, message: SearchThresholds) -> None:
        session = self.session
        options: dict[str, Any] = {message.target: message.value, "by": message.by}
        amount = f"{message.value:g}"
        target = f"{amount} candidates" if message.target == "budget" else f"an FPR of {amount}"
        session.bridge.send(Searching())

        def work() -> ThresholdSearch | DeepStreaksError:
            try:
                return search_thresholds(session.exploration, **options)
            except DeepStreaksError as error:  # shown in the tab, where the button waits for it
                return error

        def show(found: ThresholdSearch | DeepStreaksError) -> None:
            if isinstance(found, DeepStreaksError):
                session.bridge.send(SearchResult(words=str(found)))
                return
            session.search_options, session.found = options, found
            session.bridge.send(
                SearchResult(
                    thresholds=table_rows(found.thresholds),
                    rates=table_rows(found.rates),
                    target=target,
                )
            )

        session.bridge.later(work, show, long=True)

    def _use(self, message: UseFound) -> None:
        if self.session.found is not None:
            self.session.decide(self.session.found.decision)
