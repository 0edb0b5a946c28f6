"""The tab that finds thresholds for a false-positive rate or a nightly budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepstreaks_dask.apps.explore.messages import one_of, plain
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.threshold_search import SEARCH_LEVELS, Found, search_thresholds

if TYPE_CHECKING:
    from deepstreaks_dask.apps.explore.page import Explorer

_SEARCH_TARGETS = ("fpr", "budget")


class SearchTab:
    """One search at a time; what it finds can be taken over.

    Parameters
    ----------
    explorer : Explorer
        The person's, who looks.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.handlers = {"search": self._search, "use": self._use}
        self.options: dict[str, Any] = {}
        self.found: Found | None = None

    def _search(self, message: dict[str, Any]) -> None:
        explorer = self.explorer
        target, value = one_of(message.get("target"), _SEARCH_TARGETS), message.get("value")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DeepStreaksError("give the target as a number")
        options = {target: value, "by": one_of(message.get("by"), SEARCH_LEVELS)}
        explorer.bridge.send("searching")

        def work() -> Found | DeepStreaksError:
            try:
                return search_thresholds(explorer.exploration, **options)
            except DeepStreaksError as error:
                return error

        def show(found: Found | DeepStreaksError) -> None:
            if isinstance(found, DeepStreaksError):
                explorer.bridge.send("found", words=str(found), thresholds=[], rates=[])
                return
            self.options, self.found = options, found
            explorer.bridge.send(
                "found",
                words="",
                thresholds=plain(found.thresholds),
                rates=plain(found.rates),
                target=f"{value:g} candidates" if target == "budget" else f"an FPR of {value:g}",
            )

        explorer.bridge.later(work, show, long=True)

    def _use(self, message: dict[str, Any]) -> None:
        if self.found is not None:
            self.explorer.decide(self.found.decision)
