"""The panel of thresholds beside the tabs: sliders, filter, saved sets, and the counts that follow."""

from __future__ import annotations

import re
from typing import Any

from deepstreaks_dask.apps.explore.headline import confusion_cells, headline_rates
from deepstreaks_dask.apps.explore.messages import (
    ChooseFilter,
    ExportThresholds,
    FollowFamily,
    LoadThresholds,
    MoveThreshold,
    ResetThresholds,
    SaveThresholds,
)
from deepstreaks_dask.apps.explore.session import Session, check_choice
from deepstreaks_dask.apps.explore.tables import table_rows
from deepstreaks_dask.apps.explore.updates import File, Saved, State, Words
from deepstreaks_dask.apps.messages import Handlers
from deepstreaks_dask.scoring.decision import Decision, family_of
from deepstreaks_dask.scoring.threshold_sets import (
    read_thresholds,
    save_thresholds,
    saved_thresholds,
    to_toml,
)

ALL_FILTERS = "*"
MAX_FILE_NAME_LENGTH = 64


class ThresholdPanel:
    """Changes the session's thresholds and filter, and sends their state.

    Parameters
    ----------
    session : Session
        The state of the page.

    Attributes
    ----------
    handlers : mapping
        The function for each kind of message that the panel handles.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.handlers: Handlers = {
            MoveThreshold: lambda message: session.move(message.name, message.value, message.n),
            FollowFamily: lambda message: session.release(message.name),
            ResetThresholds: lambda message: session.decide(Decision()),
            ChooseFilter: self._choose_filter,
            LoadThresholds: self._load,
            SaveThresholds: self._save,
            ExportThresholds: self._export,
        }
        session.subscribe(self.send_state)

    def begin(self) -> None:
        """Send the saved sets and the state."""
        self._send_saved()
        self.send_state()

    def send_state(self, number: int = 0) -> None:
        """Send the thresholds and the counts that follow.

        Parameters
        ----------
        number : int
            Number of the move that led to them; 0 for none.
        """
        session = self.session
        counts, decision = session.counts, session.cut.decision
        joint, families = counts.joint, session.exploration.families
        labelled = joint.tp + joint.fn + joint.fp + joint.tn > 0
        venn: dict[str, Any] = {
            "families": families,
            "all": "&".join(families),
            "regions": [{"region": region, "count": n} for region, n in counts.venn.items()],
        }
        members = [
            {
                "name": row["name"],
                "family": family_of(row["name"]),
                "threshold": decision.threshold(row["name"]),
                "passed": row["passed"],
            }
            for row in counts.members.to_dict("records")
        ]
        session.bridge.send(
            State(
                n=number,
                thresholds=dict(decision.thresholds),
                members=members,
                families=table_rows(counts.families[["name", "passed"]]),
                tiles=headline_rates(counts),
                confusion=confusion_cells(counts) if labelled else None,
                venn=venn,
            )
        )

    def _choose_filter(self, message: ChooseFilter) -> None:
        self.session.choose_filter(None if message.value == ALL_FILTERS else message.value)

    def _load(self, message: LoadThresholds) -> None:
        sets = saved_thresholds(self.session.source.archive)
        name = check_choice(message.name, sets)
        self.session.decide(read_thresholds(sets[name]))
        words = f"These are the thresholds of {name}."
        self.session.bridge.send(Words(id="saved-words", words=words))

    def _save(self, message: SaveThresholds) -> None:
        source, name = self.session.source, message.name
        save_thresholds(source.archive, name, self.session.cut.decision, run=source.run)
        self.session.bridge.record("thresholds saved", name)
        self._send_saved(
            f"Saved. deepstreaks decide ARCHIVE --thresholds thresholds/{name}.toml takes it."
        )

    def _send_saved(self, words: str = "") -> None:
        names = list(saved_thresholds(self.session.source.archive))
        self.session.bridge.send(Saved(names=names, words=words))

    def _export(self, message: ExportThresholds) -> None:
        source = self.session.source
        name = re.sub(r"[^A-Za-z0-9 ._-]", "", message.name)[:MAX_FILE_NAME_LENGTH] or "thresholds"
        text = to_toml(self.session.cut.decision, name, run=source.run, archive=source.archive)
        self.session.bridge.send(File(name=f"{name}.toml", text=text))
