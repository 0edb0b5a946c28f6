"""The tabs that set scores beside others: those of other nights, and those of another run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from deepstreaks_dask import plots
from deepstreaks_dask.apps import bridge as style
from deepstreaks_dask.apps.explore.messages import one_of, plain
from deepstreaks_dask.evaluation.interactive import (
    DECISION_NAME,
    Change,
    Cut,
    Exploration,
    compare_cuts,
    open_exploration,
)

if TYPE_CHECKING:
    from deepstreaks_dask.apps.explore.page import Explorer


class DriftTab:
    """How far the scores of each night lie from those of the others.

    Parameters
    ----------
    explorer : Explorer
        The person's, who looks.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.handlers = {"drift": self._choose}
        self.name = ""

    def follow(self) -> None:
        """Draw the decision's drift the first time; the scores do not follow thresholds."""
        if not self.name:
            self._choose({"name": DECISION_NAME})

    def _choose(self, message: dict[str, Any]) -> None:
        explorer = self.explorer
        name = one_of(message.get("name"), explorer.exploration.names)
        self.name = name

        def draw(table: pd.DataFrame) -> None:
            if name != self.name:
                return
            explorer.figures["drift"] = style.figure(plots.drift(table, name), explorer.dark)
            style.put(explorer.places["drift"], explorer.figures["drift"])
            flagged = table[table["flagged"]].sort_values("psi", ascending=False).head(100)
            rows = [
                {**row, "words": plots.night_name(row["night"])}
                for row in flagged.drop(columns="flagged").to_dict("records")
            ]
            explorer.bridge.send("drift", rows=rows, of=len(table))

        explorer.bridge.later(lambda: explorer.exploration.drift(name), draw)


class CompareTab:
    """What changes sides between this run and another.

    Parameters
    ----------
    explorer : Explorer
        The person's, who looks.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.handlers = {"compare": self._choose, "changed": self._show_changed}
        self.other: Cut | None = None
        self._change: Change | None = None

    def _choose(self, message: dict[str, Any]) -> None:
        run = message.get("run")
        if not run:
            self.other = None
            return
        run = one_of(run, self.explorer.runs)

        def show(other: Exploration) -> None:
            self.other = other.begin()
            self.draw()

        self.explorer.bridge.later(lambda: open_exploration(self.explorer.archive, run), show)

    def draw(self) -> None:
        """Compare at the thresholds in use, if there is a run to compare with."""
        explorer, other = self.explorer, self.other
        if other is None:
            return
        decision = explorer.cut.decision
        known = {*other.exploration.members, *other.exploration.families}
        shared = {name: value for name, value in decision.thresholds.items() if name in known}

        def work() -> Change:
            with explorer.lock:
                other.decide(replace(decision, thresholds=shared))
                return compare_cuts(explorer.cut, other)

        def show(change: Change) -> None:
            self._change = change
            explorer.bridge.send(
                "compare",
                run=explorer.run,
                other=other.exploration.attrs["run"],
                table=change.table.to_dict("records"),
                members=plain(change.members),
            )

        explorer.bridge.later(work, show)

    def _show_changed(self, message: dict[str, Any]) -> None:
        if self._change is None:
            return
        places = getattr(self._change, one_of(message.get("key"), ("gained", "lost")))
        truth = one_of(message.get("truth"), (1, 0, -1))
        exploration = self.explorer.exploration
        of_row = exploration.strata["truth"].to_numpy()[
            exploration.cell[places] % len(exploration.strata)
        ]
        chosen = places[of_row == truth]
        words = str(message.get("words", ""))[:200]
        self.explorer.galleries.open(lambda: chosen, words, follows=False)
