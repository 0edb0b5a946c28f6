"""The tab of the scores: their histogram and their cumulative distribution."""

from __future__ import annotations

import numpy as np
from bokeh.events import Tap
from bokeh.models import Span

from deepstreaks_dask import plots
from deepstreaks_dask.apps.explore.gallery import GalleryPanel
from deepstreaks_dask.apps.explore.messages import ChooseScores
from deepstreaks_dask.apps.explore.session import Distribution, Session
from deepstreaks_dask.apps.explore.tab import Tab
from deepstreaks_dask.evaluation.interactive import HISTOGRAM_BINS
from deepstreaks_dask.evaluation.selection import Selection

HIDDEN_LINE_SCORE = 0.5
"""Where the hidden line of a threshold is drawn while members have different ones."""


class ScoresTab(Tab):
    """Distributions of one name's scores, split by label, night or filter.

    Parameters
    ----------
    session, gallery
        As for :class:`~deepstreaks_dask.apps.explore.tab.Tab`.
    """

    def __init__(self, session: Session, gallery: GalleryPanel) -> None:
        super().__init__(session, gallery)
        self.handlers = {ChooseScores: self._choose}
        self._threshold_lines: list[Span] = []
        self._drawn: tuple[Distribution, str | None] | None = None

    def begin(self) -> None:
        """Choose the name that the page's selector shows first: the one after the decision."""
        self.session.distribution = Distribution(self.session.exploration.names[1])

    def follow(self) -> None:
        """Follow the thresholds and the filter."""
        if self._drawn != self._wanted():
            self._draw()
        self._draw_lines()

    def _draw_lines(self) -> None:
        limit = self.session.limit(self.session.distribution.name)
        for line in self._threshold_lines:
            line.visible = limit is not None
            if limit is not None:
                line.location = limit

    def _choose(self, message: ChooseScores) -> None:
        name = self.session.score_name(message.name)
        self.session.distribution = Distribution(name, message.by, message.night, message.log)
        self._draw()

    def _wanted(self) -> tuple[Distribution, str | None]:
        return self.session.distribution, self.session.filter

    def _draw(self) -> None:
        session, wanted = self.session, self._wanted()
        shown, filter = wanted
        self._drawn = wanted

        def count() -> dict[str, np.ndarray]:
            return session.exploration.groups(
                shown.name, shown.by, night=shown.night, filter=filter
            )

        def draw(groups: dict[str, np.ndarray]) -> None:
            if wanted == self._wanted():  # else other scores were chosen meanwhile
                self._draw_groups(groups, shown)

        session.bridge.later(count, draw)

    def _draw_groups(self, groups: dict[str, np.ndarray], shown: Distribution) -> None:
        groups = {_group_title(key): value for key, value in groups.items()}
        # drawn in any case, so that the line is there when all members have one threshold again
        line = self.session.limit(shown.name) or HIDDEN_LINE_SCORE
        histogram = plots.histogram(
            groups, f"Scores of {shown.name}", threshold=line, log=shown.log
        )
        ecdf = plots.ecdf(groups, f"Cumulative scores of {shown.name}", threshold=line)
        self._threshold_lines = []
        for key, element in (("histogram", histogram), ("ecdf", ecdf)):
            figure = self.session.figures.draw(key, element)
            figure.on_event(Tap, self._tap_bin)
            self._threshold_lines += figure.select(Span)
        self._draw_lines()

    def _tap_bin(self, event: Tap) -> None:
        if event.x is None or not 0 <= event.x <= 1:
            return
        name = self.session.distribution.name
        k = min(int(event.x * HISTOGRAM_BINS), HISTOGRAM_BINS - 1)
        low, high = k / HISTOGRAM_BINS, (k + 1) / HISTOGRAM_BINS
        last = high if high == 1 else float(np.nextafter(np.float32(high), np.float32(0)))
        selection = Selection(filter=self.session.filter, ranges=((name, low, last),))
        self.gallery.select(selection, f"{name} from {low:.2f} to {high:.2f}")


def _group_title(group: str) -> str:
    return plots.night_name(int(group)) if group.isdigit() else group
