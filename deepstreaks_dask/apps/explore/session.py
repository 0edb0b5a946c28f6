"""The state of one person's visit to the page of cutouts, and the methods that change it.

Tabs read the session, change it by its methods, and are told of changes through :meth:`Session.subscribe`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from deepstreaks_dask.apps.bridge import Bridge
from deepstreaks_dask.apps.explore.messages import ScoreGroups, TabName
from deepstreaks_dask.apps.figures import Figures
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.provenance import begins_simulated
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.interactive import DECISION_NAME, Cut, Exploration
from deepstreaks_dask.evaluation.selection import Counts, Selection
from deepstreaks_dask.evaluation.threshold_search import ThresholdSearch
from deepstreaks_dask.scoring.decision import Decision, family_of
from deepstreaks_dask.scoring.runs import Run, list_runs

MAX_QUOTED_LENGTH = 80
"""Characters of an unknown value in an error."""


@dataclass(frozen=True)
class ScoredArchive:
    """An archive with at least one run.

    Attributes
    ----------
    archive, url : str
        Path or URL as it was given, and in full.
    run : str
        The run that is explored.
    runs : list of str
        All runs.
    size : int
        How many cutouts, or objects, it has.
    simulated : bool
        Its cutouts or objects are simulated.
    zoo : str, optional
        Zoo of the networks that are loaded for maps, before the shipped one.
    """

    archive: str
    url: str
    run: str
    runs: list[str]
    size: int
    simulated: bool
    zoo: str | None

    @classmethod
    def open(
        cls, archive: str | os.PathLike[str], run: str, zoo: str | None, *, dimension: str
    ) -> ScoredArchive:
        """Open an archive.

        Parameters
        ----------
        archive : str or path
            Path or URL.
        run : str
            The run to explore; the first one if there is no such run.
        zoo : str, optional
            Zoo of the networks.
        dimension : str
            ``"cutout"`` or ``"object"``.

        Returns
        -------
        ScoredArchive
            The archive.

        Raises
        ------
        DeepStreaksError
            If there is no such archive, or it has no scores.
        """
        archive = os.fspath(archive)
        dataset, runs = open_archive(archive, cache=True), list_runs(archive)
        if not runs:
            command = (
                "deepstreaks sequences score" if dimension == "object" else "deepstreaks score"
            )
            raise DeepStreaksError(
                f"{archive} has no scores to explore: score it first with '{command} {archive}'"
            )
        return cls(
            archive,
            dataset.attrs["url"],
            run if run in runs else runs[0],
            runs,
            dataset.sizes[dimension],
            begins_simulated(dataset),
            zoo,
        )


@dataclass(frozen=True)
class Distribution:
    """The scores whose distribution is drawn.

    Attributes
    ----------
    name : str
        Member, family or ``"decision"``.
    by : str
        What the scores are split by: ``"label"``, ``"night"`` or ``"filter"``.
    night : int
        Night that is drawn when split by night, as YYYYMMDD.
    log : bool
        Logarithmic counts.
    """

    name: str = ""
    by: ScoreGroups = "label"
    night: int = 0
    log: bool = True


class Session:
    """One person's thresholds on a run, and what the tabs show of it.

    Parameters
    ----------
    source : ScoredArchive
        The archive, and the run.
    bridge : Bridge
        The connection to the page.
    figures : Figures
        The figures of the page.

    Attributes
    ----------
    exploration, cut, counts
        The scores, this person's thresholds on them, and the counts that follow; set by :meth:`begin`.
    provenance : dict
        Of the run.
    filter : str, optional
        Only cutouts in this filter are counted.
    tab : str
        The open tab.
    moving : tuple of str
        Members whose threshold was moved last.
    distribution : Distribution
        What the tab of scores shows.
    pairs : list of (str, str)
        Scores on the axes of the joint views.
    drift_name : str
        Whose drift is shown; empty before the first time.
    other : Cut, optional
        The run that is compared with, at the same thresholds.
    search_options, found
        The latest search for thresholds that found some, and what it found.
    selection : Selection, optional
        What finds the cutouts in the gallery.
    selected : int
        How many cutouts the gallery has.
    lock : threading.RLock
        To be held while the cut is moved, or read on another thread.
    """

    def __init__(self, source: ScoredArchive, bridge: Bridge, figures: Figures) -> None:
        self.source, self.bridge, self.figures = source, bridge, figures
        self.provenance: dict[str, Any] = Run.attach(source.url, source.run).provenance
        self.exploration: Exploration
        self.cut: Cut
        self.counts: Counts
        self.filter: str | None = None
        self.tab: TabName = "decision"
        self.moving: tuple[str, ...] = ()
        self.distribution = Distribution()
        self.pairs: list[tuple[str, str]] = []
        self.drift_name = ""
        self.other: Cut | None = None
        self.search_options: dict[str, Any] = {}
        self.found: ThresholdSearch | None = None
        self.selection: Selection | None = None
        self.selected = 0
        self.lock = threading.RLock()
        self._listeners: list[Callable[[int], None]] = []

    def begin(self, exploration: Exploration) -> None:
        """Begin with the scores, at the thresholds of the run."""
        self.exploration, self.cut = exploration, exploration.begin()
        self.counts = self.cut.counts()
        first = exploration.families[0]
        self.moving = tuple(m for m in exploration.members if family_of(m) == first)

    def subscribe(self, listener: Callable[[int], None]) -> None:
        """Call a function after each change of the counts, with the number of the move, or 0."""
        self._listeners.append(listener)

    def limit(self, name: str) -> float | None:
        """Return the threshold that all members of a name have in common.

        Parameters
        ----------
        name : str
            A member, a family, or ``"decision"`` for all members.

        Returns
        -------
        float or None
            A score; None if the members' thresholds differ.
        """
        decision = self.cut.decision
        limits = {
            decision.threshold(member)
            for member in self.exploration.members
            if name in (DECISION_NAME, member, family_of(member))
        }
        return limits.pop() if len(limits) == 1 else None

    def move(self, name: str, value: float, number: int) -> None:
        """Move the threshold of a member or of a family.

        Parameters
        ----------
        name : str
            The member or family.
        value : float
            The threshold, a score from 0 to 1.
        number : int
            Number of the move.

        Raises
        ------
        DeepStreaksError
            If the run has no such member or family.
        """
        chosen = {**self.cut.decision.thresholds, self._threshold_name(name): value}
        self.moving = tuple(
            member
            for member in self.exploration.members
            if member == name or (family_of(member) == name and member not in chosen)
        )
        self.decide(replace(self.cut.decision, thresholds=chosen), number)

    def release(self, name: str) -> None:
        """Let a member follow its family's threshold again, or a family the run's.

        Parameters
        ----------
        name : str
            The member or family.

        Raises
        ------
        DeepStreaksError
            If the run has no such member or family.
        """
        decision, name = self.cut.decision, self._threshold_name(name)
        kept = {key: value for key, value in decision.thresholds.items() if key != name}
        self.decide(Decision(kept, decision.default))

    def decide(self, decision: Decision, number: int = 0) -> None:
        """Take over thresholds.

        Parameters
        ----------
        decision : Decision
            The thresholds.
        number : int
            Number of the move; 0 for none.
        """
        self.cut.decide(decision)
        self._count(number)

    def choose_filter(self, filter: str | None) -> None:
        """Count only cutouts in a filter, or all of them.

        Parameters
        ----------
        filter : str, optional
            The filter; None for all cutouts.

        Raises
        ------
        DeepStreaksError
            If the run has no cutout in this filter.
        """
        if filter is not None:
            check_choice(filter, self.exploration.filters)
        self.filter = filter
        self._count()

    def score_name(self, name: str) -> str:
        """Return the name of scores if the run has them.

        Parameters
        ----------
        name : str
            A member, a family, or ``"decision"``.

        Returns
        -------
        str
            The name.

        Raises
        ------
        DeepStreaksError
            If the run has no such scores.
        """
        return check_choice(name, self.exploration.names)

    def _threshold_name(self, name: str) -> str:
        return check_choice(name, (*self.exploration.members, *self.exploration.families))

    def _count(self, number: int = 0) -> None:
        self.counts = self.cut.counts(filter=self.filter)
        for listener in self._listeners:
            listener(number)


def check_choice(value: str, choices: Collection[str]) -> str:
    """Return a value if it is one of the choices.

    Parameters
    ----------
    value : str
        The value.
    choices : collection of str
        What it may be.

    Returns
    -------
    str
        The value.

    Raises
    ------
    DeepStreaksError
        If it is none of the choices.
    """
    if value not in choices:
        raise DeepStreaksError(
            f"{value[:MAX_QUOTED_LENGTH]!r} is not one of {', '.join(map(str, choices))}"
        )
    return value
