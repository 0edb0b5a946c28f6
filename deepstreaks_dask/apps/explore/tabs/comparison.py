"""The tab that compares the run with another run: the cutouts that change sides, and the change of scores."""

from __future__ import annotations

from dataclasses import replace

from deepstreaks_dask.apps.explore.gallery import Choice, GalleryPanel
from deepstreaks_dask.apps.explore.messages import CompareRun, ShowChanged
from deepstreaks_dask.apps.explore.session import Session, check_choice
from deepstreaks_dask.apps.explore.tab import Tab
from deepstreaks_dask.apps.explore.tables import table_rows
from deepstreaks_dask.apps.explore.updates import Comparison
from deepstreaks_dask.evaluation.cut_comparison import Change, compare_cuts
from deepstreaks_dask.evaluation.interactive import Cut, Exploration, open_exploration


class CompareTab(Tab):
    """What changes sides between this run and another, both at the thresholds in use.

    Parameters
    ----------
    session, gallery
        As for :class:`~deepstreaks_dask.apps.explore.tab.Tab`.
    """

    def __init__(self, session: Session, gallery: GalleryPanel) -> None:
        super().__init__(session, gallery)
        self.handlers = {CompareRun: self._choose, ShowChanged: self._show_changed}
        self._change: Change | None = None
        self._chosen = ""
        self._asked = 0

    def open(self) -> None:
        """Compare at the thresholds in use, if there is a run to compare with."""
        if self.session.other is not None:
            self._compare(self.session.other)

    def settle(self) -> None:
        """Compare again: the thresholds may have moved."""
        self.open()

    def _choose(self, message: CompareRun) -> None:
        session = self.session
        run = check_choice(message.run, session.source.runs) if message.run else ""
        self._chosen = run
        if session.other is not None and session.other.exploration.attrs["run"] == run:
            self.open()
            return
        session.other = self._change = None
        if not run:
            return

        def show(exploration: Exploration) -> None:
            if run == self._chosen:  # else another run was chosen meanwhile
                session.other = exploration.begin()
                self.open()

        session.bridge.later(lambda: open_exploration(session.source.archive, run), show)

    def _compare(self, other: Cut) -> None:
        session = self.session
        self._asked += 1
        number = self._asked
        known = {*other.exploration.members, *other.exploration.families}

        def work() -> Change:
            with session.lock:  # both at the thresholds of this moment
                decision = session.cut.decision
                shared = {
                    name: value for name, value in decision.thresholds.items() if name in known
                }
                other.decide(replace(decision, thresholds=shared))
                return compare_cuts(session.cut, other)

        def show(change: Change) -> None:
            if other is not session.other or number != self._asked:
                return  # compared again meanwhile, or with another run
            self._change = change
            session.bridge.send(
                Comparison(
                    run=session.source.run,
                    other=other.exploration.attrs["run"],
                    table=table_rows(change.table),
                    members=table_rows(change.members),
                )
            )

        session.bridge.later(work, show)

    def _show_changed(self, message: ShowChanged) -> None:
        change, exploration = self._change, self.session.exploration
        if change is None:
            return
        places = change.gained if message.key == "gained" else change.lost
        strata = exploration.cell[places] % len(exploration.strata)
        truth = exploration.strata["truth"].to_numpy()[strata]
        chosen = places[truth == message.truth]
        self.gallery.open(Choice(lambda: chosen, message.words, follows=False))
