"""The tab of the scores: their histogram and their cumulative distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.events import Tap
from bokeh.models import Span

from deepstreaks_dask import plots
from deepstreaks_dask.apps import bridge as style
from deepstreaks_dask.apps.explore.messages import one_of, whole
from deepstreaks_dask.evaluation.interactive import HISTOGRAM_BINS, Selection

if TYPE_CHECKING:
    from deepstreaks_dask.apps.explore.page import Explorer


class ScoresTab:
    """Distributions of one name's scores, split by label, night or filter.

    Parameters
    ----------
    explorer : Explorer
        The person's, who looks.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.handlers = {"scores": self._choose}
        self.name, self.by, self.night, self.log = "", "label", 0, True
        self._limits: list[Span] = []
        self._drawn: tuple[Any, ...] = ()

    def begin(self) -> None:
        """Choose the first member."""
        self.name = self.explorer.exploration.members[0]

    def follow(self) -> None:
        """Follow the thresholds and the filter."""
        if self._drawn != self._wanted():
            self._draw()
        self._draw_lines()

    def _draw_lines(self) -> None:
        limit = self.explorer.limit(self.name)
        for line in self._limits:
            line.visible = limit is not None
            if limit is not None:
                line.location = limit

    def _choose(self, message: dict[str, Any]) -> None:
        self.name = one_of(message.get("name"), self.explorer.exploration.names)
        self.by = one_of(message.get("by"), ("label", "night", "filter"))
        self.night = whole(message.get("night"))
        self.log = message.get("log") is True
        self._draw()

    def _wanted(self) -> tuple[str, str, int, bool, str | None]:
        return self.name, self.by, self.night, self.log, self.explorer.filter

    def _draw(self) -> None:
        explorer, wanted = self.explorer, self._wanted()
        name, by, night, log, filter = wanted
        self._drawn = wanted

        def count() -> dict[str, np.ndarray]:
            return explorer.exploration.groups(name, by, night=night, filter=filter)

        def draw(groups: dict[str, np.ndarray]) -> None:
            if wanted != self._wanted():
                return  # something else was asked for meanwhile
            groups = {_words(key): value for key, value in groups.items()}
            # drawn in any case, so that it is there when all members have one threshold again
            line = explorer.limit(name) or 0.5
            histogram = plots.histogram(groups, f"Scores of {name}", threshold=line, log=log)
            ecdf = plots.ecdf(groups, f"Cumulative scores of {name}", threshold=line)
            self._limits = []
            for key, element in (("histogram", histogram), ("ecdf", ecdf)):
                drawn = style.figure(element, explorer.dark)
                drawn.on_event(Tap, self._tap_bin)
                self._limits += drawn.select(Span)
                explorer.figures[key] = drawn
                style.put(explorer.places[key], drawn)
            self._draw_lines()

        explorer.bridge.later(count, draw)

    def _tap_bin(self, event: Tap) -> None:
        if event.x is None or not 0 <= event.x <= 1:
            return
        k = min(int(event.x * HISTOGRAM_BINS), HISTOGRAM_BINS - 1)
        low, high = k / HISTOGRAM_BINS, (k + 1) / HISTOGRAM_BINS
        last = high if high == 1 else float(np.nextafter(np.float32(high), np.float32(0)))
        chosen = Selection(filter=self.explorer.filter, ranges=((self.name, low, last),))
        self.explorer.galleries.select(chosen, f"{self.name} from {low:.2f} to {high:.2f}")


def _words(group: str) -> str:
    return plots.night_name(int(group)) if group.isdigit() else group
