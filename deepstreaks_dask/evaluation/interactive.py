"""What interactive work asks of a run: how counts, rates and pictures follow a threshold that moves.

The scores lie by member and sorted by night. All that a decision leads to, from the confusion matrix to the
rates of every night, follows from one cube of counts over night, stratum (labels, filter, missing scores)
and the families passed. When a threshold moves, only the member's own scores are looked at, and only
cutouts that change sides move within the cube. An :class:`Exploration` is shared by everyone who looks at
a run; a :class:`Cut` is one person's thresholds and costs two bytes a cutout.

A night has drifted if its scores differ from all others' by their population stability index (Siddiqi 2006, Credit Risk
Scorecards) *and* by the two-sample test of Smirnov (1948, Ann. Math. Stat. 19, 279).
"""

from __future__ import annotations

import copy
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.retraction import CORRECTIONS_ATTRIBUTE, stored_rows
from deepstreaks_dask.errors import CampaignError, DeepStreaksError
from deepstreaks_dask.evaluation.counting import (
    count_strata,
    curve_from_sorted,
    move_threshold,
    tally_scores,
    trace_gains,
)
from deepstreaks_dask.evaluation.drift import DRIFT_BINS, FINE_BINS_PER_DRIFT_BIN, night_drift
from deepstreaks_dask.evaluation.metrics import Confusion, rate, rate_table, venn_regions
from deepstreaks_dask.evaluation.selection import Counts, Selection
from deepstreaks_dask.scoring.decision import Decision, family_of
from deepstreaks_dask.scoring.runs import Run, list_runs, open_run
from deepstreaks_dask.vocabulary import FAMILIES

HISTOGRAM_BINS = 100
"""Bins of the score histograms, between 0 and 1."""

DECISION_NAME = "decision"
"""Name of the joint score: that of the weakest family."""

MAX_MEMBERS = 16
_TRACE_BINS = 400

_shared: OrderedDict[tuple[str, str], tuple[tuple[Any, ...], Exploration]] = OrderedDict()
_opening = threading.Lock()


def open_exploration(archive: str | os.PathLike[str], run: str = "default") -> Exploration:
    """Lay out a run for questions, once for all who ask while neither archive nor run changes.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    run : str
        Name of the run.

    Returns
    -------
    Exploration
        The two that were asked for last stay in memory, about 50 bytes a cutout with nine members.

    Raises
    ------
    DeepStreaksError
        If there is no such archive or run, or it holds sequences.
    """
    key = os.fspath(archive), run
    with _opening:
        dataset = open_archive(archive)
        if "cutout" not in dataset.sizes:
            raise DeepStreaksError(
                f"{archive} holds sequences, which have no thresholds: 'deepstreaks sequences evaluate' measures them"
            )
        corrections = dataset.attrs.get(CORRECTIONS_ATTRIBUTE, 0)
        stamp = dataset.sizes["cutout"], corrections, _updated(key[0], run)
        if key not in _shared or _shared[key][0] != stamp:
            _shared.pop(key, None)
            _shared[key] = stamp, Exploration(open_run(archive, run, cache=True))
            while len(_shared) > 2:
                _shared.popitem(last=False)
        _shared.move_to_end(key)
        return _shared[key][1]


class Exploration:
    """The scores of one run, laid out for questions.

    Parameters
    ----------
    scores : xarray.Dataset
        As :func:`~deepstreaks_dask.scoring.runs.open_run` gives it.

    Attributes
    ----------
    attrs : dict
        Provenance of the run.
    members, families : list of str
    scores : ndarray
        float32 ``(member, cutout)``, the cutouts sorted by night; NaN where a member has not looked.
    rows, stored_rows : ndarray
        int ``(cutout,)``: the place of each in `scores`, and the number of its row in the archive, which stays the same
        when other rows are withdrawn.
    nights : ndarray
        int32 ``(night,)``, sorted; cutouts ``bounds[k]:bounds[k + 1]`` are of night ``k``.
    strata : pandas.DataFrame
        A row for each combination that occurs of the labels ``rb, sl, kd, os``, of ``filter`` and of
        ``missing`` (bits of the families of which a member has not looked) and ``rejected`` (by a triage), with
        ``truth``.
    cell : ndarray
        int32 ``(cutout,)``: ``night * len(strata) + stratum``.

    Raises
    ------
    CampaignError
        If the run has more than 16 members.
    """

    def __init__(self, scores: xr.Dataset) -> None:
        self.attrs = provenance_of(scores)
        self.members = [str(name) for name in scores["model"].values]
        if len(self.members) > MAX_MEMBERS:
            raise CampaignError(
                f"run {self.attrs.get('run')!r} has {len(self.members)} members: at most "
                f"{MAX_MEMBERS} can be explored together"
            )
        self.families = list(dict.fromkeys(map(family_of, self.members)))
        night = scores["night"].values.astype(np.int32)
        ordered = bool((night[1:] >= night[:-1]).all())
        self.rows = np.arange(len(night)) if ordered else np.argsort(night, kind="stable")
        self.stored_rows = stored_rows(scores)[self.rows]

        def arranged(values: np.ndarray) -> np.ndarray:
            return values if ordered else values[self.rows]

        night = arranged(night)
        self.nights, first = np.unique(night, return_index=True)
        self.bounds = np.append(first, len(night))
        self.scores = np.empty((len(self.members), len(night)), np.float32)
        for k, column in enumerate(scores["scores"].values.T):
            self.scores[k] = arranged(column)
        missing = np.zeros(len(night), np.int64)
        for k, member in enumerate(self.members):
            missing |= np.isnan(self.scores[k]) * (1 << self.families.index(family_of(member)))
        self.strata, stratum = count_strata(scores, arranged, missing, len(self.families))
        place = np.repeat(np.arange(len(self.nights), dtype=np.int32), np.diff(self.bounds))
        self.cell = place * np.int32(len(self.strata)) + stratum
        self.totals = np.bincount(self.cell, minlength=len(self.nights) * len(self.strata))
        self._answers: dict[tuple[str, str], Any] = {}
        self._working = threading.Lock()  # two people who ask the same get one answer

    def __len__(self) -> int:
        """Count the cutouts."""
        return self.scores.shape[1]

    @property
    def names(self) -> list[str]:
        """What has scores: the decision, the families of several members, the members."""
        several = [name for name in self.families if len(self.of_family(name)) > 1]
        return [DECISION_NAME, *several, *self.members]

    @property
    def filters(self) -> list[str]:
        """Filters that occur."""
        return sorted(set(self.strata["filter"]))

    def of_family(self, family: str) -> list[int]:
        """Give the places of a family's members."""
        return [k for k, member in enumerate(self.members) if family_of(member) == family]

    def column(self, name: str, at: Any = slice(None)) -> np.ndarray:
        """Give the scores of a member, of a family (its best member's) or of the decision.

        Parameters
        ----------
        name : str
            One of :attr:`names`, or any family.
        at : slice or array of int, optional
            Which cutouts.

        Returns
        -------
        ndarray
            float32 ``(cutout,)``; NaN where no member has looked, for the decision no member of some family.

        Raises
        ------
        DeepStreaksError
            If there is no such name.
        """
        if name in self.members:
            return self.scores[self.members.index(name), at]
        if name in self.families:
            members = self.of_family(name)
            best = self.scores[members[0], at]
            for k in members[1:]:
                best = np.fmax(best, self.scores[k, at])
            return best
        if name != DECISION_NAME:
            raise DeepStreaksError(f"no scores {name!r}: there are {', '.join(self.names)}")
        first, *others = Decision().needed(self.members)
        weakest = self.column(first, at)
        for family in others:
            weakest = np.minimum(weakest, self.column(family, at))
        return weakest

    def labels(self, name: str) -> np.ndarray:
        """Give the label that a name's scores are measured against: 1, 0 or -1, int ``(stratum,)``."""
        family = family_of(name)
        if name == DECISION_NAME:
            return self.strata["truth"].to_numpy()
        if family not in FAMILIES:
            return np.full(len(self.strata), -1, np.int8)
        return self.strata[family].to_numpy()

    def begin(self) -> Cut:
        """Begin one person's thresholds: those that the run was scored for, 0.5 everywhere if for any."""
        first: Cut = self._once(
            "cut", "", lambda: Cut(self, Decision(dict(self.attrs.get("decided") or {})))
        )
        return first.copy()

    def histogram(self, name: str) -> np.ndarray:
        """Count scores in :data:`HISTOGRAM_BINS` bins: int32 ``(night, stratum, bin)``."""

        def count() -> np.ndarray:
            counts = np.zeros((len(self.totals), HISTOGRAM_BINS), np.int32)
            tally_scores(self.column(name), self.cell, counts)
            return counts.reshape(len(self.nights), len(self.strata), HISTOGRAM_BINS)

        return self._once("histogram", name, count)

    def groups(
        self, name: str, by: str, *, night: int | None = None, filter: str | None = None
    ) -> dict[str, np.ndarray]:
        """Split a histogram for a picture.

        Parameters
        ----------
        name : str
            One of :attr:`names`.
        by : str
            ``"label"``, ``"night"`` (this one, and all others) or ``"filter"``.
        night : int, optional
            The night to compare with the others.
        filter : str, optional
            Count only these.

        Returns
        -------
        dict of str to ndarray
            int64 ``(bin,)`` by what to call it; empty groups are left out.
        """
        table = self.histogram(name)
        chosen = self._of_filter(filter)
        if by == "night":
            here = self.nights == night
            words = f"{night:08d}" if night else "night not known"
            parts = {
                words: table[here][:, chosen].sum((0, 1)),
                "other nights": table[~here][:, chosen].sum((0, 1)),
            }
        elif by == "filter":
            by_filter = self.strata["filter"].to_numpy()
            parts = {
                value or "filter not known": table[:, chosen & (by_filter == value)].sum((0, 1))
                for value in self.filters
            }
        else:
            labels = self.labels(name)
            parts = {
                words: table[:, chosen & (labels == label)].sum((0, 1))
                for label, words in ((1, "label 1"), (0, "label 0"), (-1, "no label"))
            }
        return {words: counts for words, counts in parts.items() if counts.any()}

    def curve(self, name: str) -> pd.DataFrame:
        """Follow the rates of "score >= threshold", exact at each of some 400 thresholds.

        Parameters
        ----------
        name : str
            One of :attr:`names`.

        Returns
        -------
        pandas.DataFrame
            As :func:`~deepstreaks_dask.evaluation.metrics.operating_curve` gives it.
        """

        def follow() -> pd.DataFrame:
            values = self.column(name)
            label = self.labels(name).astype(np.int8)[self.cell % len(self.strata)]
            parts = [np.sort(values[(label == k) & ~np.isnan(values)]) for k in (1, 0)]
            return curve_from_sorted(*parts)

        return self._once("curve", name, follow)

    def drift(self, name: str) -> pd.DataFrame:
        """Compare the scores of each night with those of all others.

        Parameters
        ----------
        name : str
            One of :attr:`names`.

        Returns
        -------
        pandas.DataFrame
            ``night, cutouts, psi, ks, p, flagged``: population stability index over tenths of all scores;
            the largest distance between the cumulative distributions (Kolmogorov, Smirnov) at sixtieths,
            hence a lower bound, and its asymptotic probability; see :data:`DRIFT_LEVEL`.
        """

        def compare_nights() -> pd.DataFrame:
            values = self.column(name)
            known = values[~np.isnan(values)]
            shares = np.arange(1, DRIFT_BINS * FINE_BINS_PER_DRIFT_BIN) / (
                DRIFT_BINS * FINE_BINS_PER_DRIFT_BIN
            )
            edges = np.quantile(known, shares, method="lower") if len(known) else shares
            counts = np.zeros((len(self.nights), len(edges) + 1), np.int64)
            for k in range(len(self.nights)):
                night = values[self.bounds[k] : self.bounds[k + 1]]
                bins = np.searchsorted(edges, night[~np.isnan(night)], side="right")
                counts[k] = np.bincount(bins, minlength=len(edges) + 1)
            return night_drift(self.nights, counts)

        return self._once("drift", name, compare_nights)

    def _of_filter(self, value: str | None) -> np.ndarray:
        chosen = np.ones(len(self.strata), bool)
        return chosen if value is None else self.strata["filter"].to_numpy() == value

    def _once(self, what: str, name: str, answer: Callable[[], Any]) -> Any:
        with self._working:
            if (what, name) not in self._answers:
                self._answers[what, name] = answer()
            return self._answers[what, name]


class Cut:
    """One person's thresholds on an exploration, and what they lead to.

    Parameters
    ----------
    exploration : Exploration
    decision : Decision, optional
        Thresholds to begin with; 0.5 everywhere by default.

    Attributes
    ----------
    passes : ndarray
        uint16 ``(cutout,)``: bit ``k`` is set where member ``k`` passes.
    """

    def __init__(self, exploration: Exploration, decision: Decision | None = None) -> None:
        self.exploration = exploration
        members, families = exploration.members, exploration.families
        self.passes = np.zeros(len(exploration), np.uint16)
        self._cube = np.zeros((len(exploration.totals), 1 << len(families)), np.int64)
        self._cube[:, 0] = exploration.totals
        self._passed = np.zeros((len(members), len(exploration.totals)), np.int64)
        bits = np.arange(1 << len(members))
        self._state = np.zeros(len(bits), np.uint16)  # families passed, by members passed
        for k, member in enumerate(members):
            self._state |= (bits >> k & 1).astype(np.uint16) << families.index(family_of(member))
        self._limits = [np.float32(np.inf)] * len(members)
        self.decision = Decision()
        self.decide(decision or Decision())

    def copy(self) -> Cut:
        """Begin another person's thresholds where these are, which is quicker than from nothing."""
        other = copy.copy(self)
        other.passes, other._cube = self.passes.copy(), self._cube.copy()
        other._passed, other._limits = self._passed.copy(), list(self._limits)
        return other

    def decide(self, decision: Decision) -> None:
        """Take over all thresholds of a decision; only members whose threshold differs are looked at."""
        exploration = self.exploration
        for k, limit in enumerate(decision.limits(exploration.members)):
            if limit != self._limits[k]:
                self._limits[k] = limit
                move_threshold(
                    exploration.scores[k],
                    limit,
                    k,
                    self.passes,
                    exploration.cell,
                    self._state,
                    self._cube,
                    self._passed[k],
                )
        self.decision = decision
        states = np.arange(1 << len(exploration.families))
        needed = decision.needed(exploration.members)
        mask = sum(1 << exploration.families.index(family) for family in needed)
        missing = exploration.strata["missing"].to_numpy()
        self._plausible = (states & mask) == mask
        self._open = ~self._plausible & (((states | missing[:, None]) & mask) == mask)
        if decision.is_of_run(exploration.attrs):
            self._open &= ~exploration.strata["rejected"].to_numpy()[:, None]

    def counts(self, *, filter: str | None = None) -> Counts:
        """Add up what the thresholds lead to, from the cube alone.

        Parameters
        ----------
        filter : str, optional
            Count only cutouts in this filter.

        Returns
        -------
        Counts
            Rates are NaN where there are no labels.
        """
        exploration = self.exploration
        strata, n_nights = len(exploration.strata), len(exploration.nights)
        chosen = exploration._of_filter(filter)
        truth = exploration.strata["truth"].to_numpy()
        settled = ~self._open & chosen[:, None]
        positive, negative = ((truth == k)[:, None] & settled for k in (1, 0))
        wanted = (
            settled,
            settled & self._plausible,
            positive,
            positive & self._plausible,
            negative,
            negative & self._plausible,
        )
        weights = np.stack([mask.ravel() for mask in wanted], axis=1).astype(float)
        by_night = (self._cube.reshape(n_nights, len(weights)).astype(float) @ weights).astype(
            np.int64
        )
        names = ("cutouts", "plausible", "n_pos", "tp", "n_neg", "fp")
        columns = dict(zip(names, by_night.T, strict=True))
        nights = rate_table("night", exploration.nights, columns)
        decided, plausible, n_pos, tp, n_neg, fp = (int(n) for n in by_night.sum(0))
        table = self._cube.reshape(n_nights, strata, len(self._plausible)).sum(0) * chosen[:, None]
        return Counts(
            cutouts=int(table.sum()),
            decided=decided,
            plausible=plausible,
            joint=Confusion(tp=tp, fn=n_pos - tp, fp=fp, tn=n_neg - fp),
            members=self._members(chosen),
            families=self._families(table),
            nights=nights,
            venn={
                region: int(table[:, state].sum())
                for region, state in venn_regions(exploration.families).items()
            },
        )

    def trace(self, *members: str, filter: str | None = None) -> pd.DataFrame:
        """Say how the decision would do if the threshold of these members alone were another.

        Parameters
        ----------
        *members : str
            Members of one family, which move together.
        filter : str, optional
            Count only cutouts in this filter.

        Returns
        -------
        pandas.DataFrame
            ``threshold, plausible, tpr, fpr`` at 401 thresholds between 0 and 1; rates are NaN without labels.
            Cutouts with missing scores are left out.
        """
        exploration = self.exploration
        places = [exploration.members.index(member) for member in members]
        column = (
            np.fmax.reduce(exploration.scores[places])
            if places[1:]
            else exploration.scores[places[0]]
        )
        bits = sum(1 << k for k in places)
        strata = exploration.strata
        always = np.zeros(len(strata), np.int64)
        gained = np.zeros((len(strata), _TRACE_BINS), np.int64)
        allowed = self._plausible[self._state]
        trace_gains(column, np.uint16(bits), self.passes, exploration.cell, allowed, always, gained)
        chosen = exploration._of_filter(filter) & (strata["missing"] == 0).to_numpy()
        truth = strata["truth"].to_numpy()
        of_stratum = exploration.totals.reshape(len(exploration.nights), len(strata)).sum(0)

        def passing(mask: np.ndarray) -> np.ndarray:
            above = np.cumsum(gained[mask].sum(0)[::-1])[::-1]
            return np.append(above, 0) + always[mask].sum()

        table = {
            "threshold": np.linspace(0, 1, _TRACE_BINS + 1),
            "plausible": passing(chosen),
        }
        for name, label in (("tpr", 1), ("fpr", 0)):
            mask = chosen & (truth == label)
            total = of_stratum[mask].sum()
            table[name] = passing(mask) / total if total else np.full(_TRACE_BINS + 1, np.nan)
        return pd.DataFrame(table)

    def select(self, selection: Selection) -> np.ndarray:
        """Find the cutouts of a selection.

        Parameters
        ----------
        selection : Selection
            What is None in it is left open.

        Returns
        -------
        ndarray
            int ``(n,)``: their places in the exploration.

        Raises
        ------
        DeepStreaksError
            If the selection names a night, region or scores that there are not.
        """
        exploration = self.exploration
        first, last = 0, len(exploration)
        if selection.night is not None:
            (at,) = np.nonzero(exploration.nights == selection.night)
            if not len(at):
                raise DeepStreaksError(f"no cutouts of night {selection.night}")
            first, last = exploration.bounds[at[0] : at[0] + 2]
        inside = slice(int(first), int(last))
        allowed = np.ones((len(exploration.strata), len(self._plausible)), bool)
        allowed &= exploration._of_filter(selection.filter)[:, None]
        if selection.truth is not None:
            allowed &= (exploration.strata["truth"] == selection.truth).to_numpy()[:, None]
        if selection.plausible is not None:
            allowed &= (self._plausible == selection.plausible) & ~self._open
        if selection.region is not None:
            regions = venn_regions(exploration.families)
            if selection.region not in regions:
                raise DeepStreaksError(f"no region {selection.region!r}: {', '.join(regions)}")
            allowed &= np.arange(len(self._plausible)) == regions[selection.region]
        keep = np.ones(inside.stop - inside.start, bool)
        if not allowed.all():
            stratum = exploration.cell[inside] % len(exploration.strata)
            keep = allowed[stratum, self._state[self.passes[inside]]]
        for name, low, high in selection.ranges:
            values = exploration.column(name, inside)
            keep &= (values >= np.float32(low)) & (values <= np.float32(high))
        return np.flatnonzero(keep) + inside.start

    def plausible_at(self, places: Any = slice(None)) -> np.ndarray:
        """Say which cutouts are plausible.

        Parameters
        ----------
        places : slice or ndarray
            Which cutouts; all by default.

        Returns
        -------
        ndarray
            bool ``(place,)``.
        """
        return self._plausible[self._state[self.passes[places]]]

    def _members(self, chosen: np.ndarray) -> pd.DataFrame:
        exploration = self.exploration
        strata = len(exploration.strata)
        totals = exploration.totals.reshape(len(exploration.nights), strata).sum(0)
        rows = []
        for k, name in enumerate(exploration.members):
            passed = self._passed[k].reshape(len(exploration.nights), strata).sum(0)
            # which members of a family are missing is not kept: leave out all of that stratum
            family = 1 << exploration.families.index(family_of(name))
            whole = chosen & (exploration.strata["missing"].to_numpy() & family == 0)
            rows.append(
                _classifier_row(
                    name, passed * chosen, passed, totals, exploration.labels(name), whole
                )
            )
        return pd.DataFrame(rows)

    def _families(self, table: np.ndarray) -> pd.DataFrame:
        exploration = self.exploration
        states, missing = np.arange(table.shape[1]), exploration.strata["missing"].to_numpy()
        rows = []
        for k, name in enumerate(exploration.families):
            passing = (states >> k & 1).astype(bool)
            passed = table[:, passing].sum(1)
            settled = passed + np.where(missing >> k & 1, 0, table[:, ~passing].sum(1))
            everywhere = np.ones(len(missing), bool)
            rows.append(
                _classifier_row(name, passed, passed, settled, exploration.labels(name), everywhere)
            )
        return pd.DataFrame(rows)


def _classifier_row(
    name: str,
    everything: np.ndarray,
    passed: np.ndarray,
    totals: np.ndarray,
    labels: np.ndarray,
    counted: np.ndarray,
) -> dict[str, Any]:
    """Describe a classifier's labels and passes from its counts by stratum."""
    row: dict[str, Any] = {"name": name, "passed": int(everything.sum())}
    for which, label in (("pos", 1), ("neg", 0)):
        mask = counted & (labels == label)
        row[f"n_{which}"] = int(totals[mask].sum())
        row["tpr" if label else "fpr"] = rate(int(passed[mask].sum()), row[f"n_{which}"]).value
    return row


def _updated(url: str, run: str) -> Any:
    """Say when a run was last gone on with; None if there is no such run."""
    if run not in list_runs(url):
        return None
    return Run.attach(url, run).provenance.get("updated")
