"""Threshold search: what finds the most true streaks at a price, and how far to trust it.

The price is a false-positive rate, or the candidates that a night leaves to be looked at. All thresholds but two are
held while the best pair is read off a table of counts; pairs take turns until none helps, on grids that grow
finer. What is found is exact in its counts; that nothing better exists is not proven. A third of the nights is kept
out of the search, and says what the thresholds are worth on a night to come. Intervals are percentiles of a
bootstrap over whole nights (Efron 1979, Ann. Stat. 7, 1), since the cutouts of a night share its weather.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numba
import numpy as np
import pandas as pd

from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.interactive import Cut, Exploration, open_exploration
from deepstreaks_dask.scoring.decision import Decision, family_of
from deepstreaks_dask.utils.html import html_table
from deepstreaks_dask.utils.progress import progress_bar

SEARCH_LEVELS = ("family", "member")

_HELD_OUT_FRACTION = 1 / 3
_COARSE, _FINE = (1.0, 1 / 8), (1 / 64, 1 / 512)  # of the ranks of the scores that a grid spans
_RESAMPLED_FRACTION = 1 / 4
_EDGES = 62  # of a grid for each class: with the threshold in use they fit into a byte
_SWEEPS, _TRIFLE = (
    12,
    2e-4,
)  # no more sweeps than these, nor one after a gain of so few of the positives
_QUANTILE_ROWS, _COARSE_ROWS, _RESAMPLED_ROWS = 200_000, 200_000, 60_000
_RATE_ROUNDS = 2000
_INTERVAL_PERCENTILES = (2.5, 97.5)
_SHOWN_RATES = {"tpr": 4, "fpr": 4, "candidates": 1}  # digits after the point


@dataclass(frozen=True, repr=False)
class ThresholdSearch:
    """Thresholds that a search found, and what they are worth on nights that had no part in it.

    Attributes
    ----------
    decision : Decision
        The thresholds.
    thresholds : pandas.DataFrame
        ``name, threshold, low, high``: with 95 % intervals from searching again on resampled nights, NaN where it
        was not asked for.
    rates : pandas.DataFrame
        A row for the nights ``"searched"`` and one for those ``"not used"``: how many ``nights``; ``tpr``, ``fpr`` and
        mean ``candidates`` a night with ``_low`` and ``_high`` each; and on how many nights it is ``over`` the
        target. Only the second row says what to expect.
    nights : list of int
        The nights searched, YYYYMMDD.
    """

    decision: Decision
    thresholds: pd.DataFrame
    rates: pd.DataFrame
    nights: list[int]

    def __repr__(self) -> str:
        values = ", ".join(f"{row.name} {row.threshold:.4g}" for row in self._named())
        worth = self.rates.iloc[-1]
        return (
            f"<ThresholdSearch: {values}; on {worth['nights']} nights not used: "
            f"TPR {worth['tpr']:.4f}, FPR {worth['fpr']:.4f}, {worth['candidates']:.1f} candidates a night>"
        )

    def _repr_html_(self) -> str:
        limits = html_table(
            "Thresholds",
            [
                (
                    row.name,
                    row.threshold,
                    f"{row.low:.4g} to {row.high:.4g}" if row.low == row.low else "",
                )
                for row in self._named()
            ],
            header=("threshold of", "value", "95 %, nights resampled"),
        )
        rates = html_table(
            "Rates",
            [
                (
                    f"{row['part']}, {row['nights']} nights",
                    *(_interval(row, name, digits) for name, digits in _SHOWN_RATES.items()),
                    row["over"],
                )
                for row in self.rates.to_dict("records")
            ],
            header=("nights", "TPR", "FPR", "candidates a night", "nights over the target"),
            note="Brackets: 95 %, nights resampled. The nights searched were used to choose the thresholds: only the "
            "last row says what to expect.",
        )
        return limits + rates

    def _named(self) -> list[Any]:
        return list(self.thresholds.itertuples(index=False, name="Row"))


def _interval(row: dict[Any, Any], name: str, digits: int) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def search_thresholds(
    archive: str | os.PathLike[str] | Exploration,
    *,
    run: str = "default",
    fpr: float | None = None,
    budget: float | None = None,
    by: str = "family",
    rounds: int = 100,
    seed: int = 0,
    advance: Callable[[], None] | None = None,
) -> ThresholdSearch:
    """Find the thresholds with the highest true-positive rate that keep to a target.

    Parameters
    ----------
    archive : str, path or Exploration
        Path or URL of a scored archive, or a run of one that is open already.
    run : str
        Name of the run.
    fpr : float, optional
        The false-positive rate allowed, 0 to 1, over all nights searched.
    budget : float, optional
        Or the candidates a night allowed, in the mean over the nights searched. What has no label counts too.
    by : str
        One threshold for each ``"family"``, or for each ``"member"``.
    rounds : int
        Resamplings of the nights for the thresholds' intervals, 0 for none.
    seed : int
        Of the nights that are kept out, and of the resampling.
    advance : callable
        Called after each resampling; a progress bar by default.

    Returns
    -------
    ThresholdSearch
        Thresholds, and what they are worth on nights that were not used.

    Raises
    ------
    DeepStreaksError
        If the target is none, or the run cannot be searched: no labels, one night, or scores that its decision
        did not need left out.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> best = ds.search_thresholds("week.zarr", fpr=0.05)
    >>> sorted(best.decision.thresholds)
    ['kd', 'rb', 'sl']
    >>> list(best.rates["part"])
    ['searched', 'not used']
    """
    exploration = archive if isinstance(archive, Exploration) else open_exploration(archive, run)
    _check(exploration, fpr, budget, by)
    rng = np.random.default_rng(seed)
    used = _split(exploration, rng)
    sample = _Sample.of(exploration, used, by, fpr=fpr, budget=budget)
    limits = sample.common()
    if by == "member":  # begin where the families get
        families = _Sample.of(exploration, used, "family", fpr=fpr, budget=budget)
        start = dict(zip(families.names, _refine(families, families.common(), rng), strict=True))
        limits = np.array([start[family_of(name)] for name in sample.names], np.float32)
    limits = _refine(sample, limits, rng)
    low = high = np.full(len(limits), np.nan)
    if rounds:
        with ExitStack() as stack:
            if advance is None:
                bar = progress_bar("search thresholds", rounds, unit="resamplings")
                advance = stack.enter_context(bar).advance
            low, high = _resample(sample, limits, rounds, rng, advance)
    # the shortest decimal that is the same float32, which is what scores are compared with
    chosen = {name: float(str(limit)) for name, limit in zip(sample.names, limits, strict=True)}
    decision = Decision(chosen)
    thresholds = pd.DataFrame(
        {"name": sample.names, "threshold": chosen.values(), "low": low, "high": high}
    )
    nights = Cut(exploration, decision).counts().nights
    rates = pd.DataFrame(
        [
            {"part": part, **_rates(nights[mask], fpr, budget, rng)}
            for part, mask in (("searched", used), ("not used", ~used))
        ]
    )
    return ThresholdSearch(
        decision, thresholds, rates, [int(night) for night in exploration.nights[used]]
    )


def _check(exploration: Exploration, fpr: float | None, budget: float | None, by: str) -> None:
    if by not in SEARCH_LEVELS:
        raise DeepStreaksError(f"thresholds by {by!r}: search by {' or '.join(SEARCH_LEVELS)}")
    if (fpr is None) == (budget is None):
        raise DeepStreaksError("give one target: a false-positive rate or a nightly budget")
    if fpr is not None and not 0 < fpr < 1:
        raise DeepStreaksError(f"false-positive rate {fpr}: give a number between 0 and 1")
    if budget is not None and not 0 < budget < np.inf:
        raise DeepStreaksError(f"budget {budget}: give the candidates a night, more than 0")
    if exploration.attrs.get("decided") is not None:
        raise DeepStreaksError(
            f"run {exploration.attrs.get('run')!r} scored only what its decision needed, and says nothing of other "
            "thresholds: score all members into another run, 'deepstreaks score ARCHIVE --run NAME'"
        )


def _split(exploration: Exploration, rng: np.random.Generator) -> np.ndarray:
    """Choose the nights to search on, bool (night,), from those with labels and those without alike."""
    truth = exploration.strata["truth"].to_numpy()
    totals = exploration.totals.reshape(len(exploration.nights), len(truth))
    labelled = totals[:, truth >= 0].sum(1) > 0
    for label, words in ((1, "plausible"), (0, "other")):
        if not totals[:, truth == label].any():
            raise DeepStreaksError(
                f"no cutout is labelled {words}: there is nothing to search with"
            )
    if labelled.sum() < 2:
        raise DeepStreaksError(
            "labels on one night only: a search needs another one to check what it found"
        )
    used = np.ones(len(labelled), bool)
    for part in (labelled, ~labelled):
        nights = rng.permutation(np.flatnonzero(part))
        used[nights[: max(1, round(_HELD_OUT_FRACTION * len(nights)))]] = False
    return used


@dataclass(frozen=True)
class _Sample:
    """The rows to search on.

    ``columns`` are the scores float32 (name, row) of each family or member in ``names``, -1 where none has looked, which
    reaches no threshold; ``family`` (name,) numbers its family. ``positive`` and ``priced`` (row,) say what counts as
    found and what counts against the target: no more may pass than the ``share`` of those that are ``whole``, looked at by
    all members. ``night`` (row,) numbers the night.
    """

    names: list[str]
    family: np.ndarray
    columns: np.ndarray
    positive: np.ndarray
    priced: np.ndarray
    whole: np.ndarray
    night: np.ndarray
    nights: int
    share: float

    @classmethod
    def of(
        cls,
        exploration: Exploration,
        used: np.ndarray,
        by: str,
        *,
        fpr: float | None,
        budget: float | None,
    ) -> _Sample:
        strata, members = exploration.strata, exploration.members
        needed = Decision().needed(members)
        names = [m for m in members if family_of(m) in needed] if by == "member" else list(needed)
        asked = sum(1 << exploration.families.index(family) for family in needed)
        truth = strata["truth"].to_numpy()
        whole = (strata["missing"].to_numpy() & asked) == 0
        counted = truth >= 0 if budget is None else np.ones(len(truth), bool)
        night, stratum = np.divmod(exploration.cell, np.int32(len(strata)))
        rows = np.flatnonzero(used[night] & counted[stratum])
        night, stratum = (np.cumsum(used) - 1).astype(np.int32)[night[rows]], stratum[rows]
        positive, whole = (truth == 1)[stratum], whole[stratum]
        priced = (truth == 0)[stratum] if budget is None else np.ones(len(rows), bool)
        if not (positive.any() and (priced & whole).any()):
            raise DeepStreaksError(
                "the nights to search on have no labels of both kinds on cutouts that all members "
                "have scored: label more nights"
            )
        nights = int(used.sum())
        share = fpr or 0.0 if budget is None else budget * nights / float((priced & whole).sum())
        return cls(
            names=names,
            family=np.array([list(needed).index(family_of(name)) for name in names], np.uint16),
            columns=np.stack(
                [np.nan_to_num(exploration.column(name, rows), nan=-1.0) for name in names]
            ),
            positive=positive,
            priced=priced,
            whole=whole,
            night=night,
            nights=nights,
            share=share,
        )

    def part(self, rows: np.ndarray) -> _Sample:
        """Take some of the rows."""
        return replace(
            self,
            columns=np.ascontiguousarray(self.columns[:, rows]),
            positive=self.positive[rows],
            priced=self.priced[rows],
            whole=self.whole[rows],
            night=self.night[rows],
        )

    def some(self, most: int, rng: np.random.Generator) -> _Sample:
        """Take rows at random, no more than these."""
        if len(self.positive) <= most:
            return self
        return self.part(np.sort(rng.choice(len(self.positive), most, replace=False)))

    def common(self) -> np.ndarray:
        """Give the one threshold for all that keeps to the target and finds the most, (name,)."""
        joint = np.full(len(self.positive), np.inf, np.float32)
        for family in range(int(self.family.max()) + 1):
            joint = np.minimum(joint, self.columns[self.family == family].max(0))
        against = np.sort(joint[self.priced])
        stays = len(against) - int(self.share * (self.priced & self.whole).sum())
        limit = np.nextafter(against[stays - 1], np.float32(1)) if stays > 0 else np.float32(0)
        return np.full(len(self.names), max(limit, np.float32(0)), np.float32)

    def edges(self, limits: np.ndarray, width: float) -> list[np.ndarray]:
        """Give thresholds to try: ``width`` of the ranks of either class around those in use."""
        every = slice(None, None, -(-len(self.positive) // _QUANTILE_ROWS))
        found = []
        for column, limit in zip(self.columns, limits, strict=True):
            tried = [np.array([limit])]
            for mask in (self.positive, self.priced):
                values = np.sort(column[every][mask[every]])
                if not len(values):
                    continue
                middle = np.searchsorted(values, limit) / len(values)
                ranks = np.clip(middle + width * np.linspace(-1, 1, _EDGES), 0, 1)
                tried.append(values[np.round(ranks * (len(values) - 1)).astype(np.int64)])
            found.append(np.unique(np.maximum(np.concatenate(tried), 0).astype(np.float32)))
        return found


def _refine(sample: _Sample, limits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Climb on coarse grids with a part of the rows, then on fine ones with all of them."""
    weights = np.ones(sample.nights, np.int64)
    part = sample.some(_COARSE_ROWS, rng)
    for rows, widths in ((part, _COARSE), (sample, _FINE)):
        for width in widths:
            grid = _Grid(rows, limits, width)
            limits = grid.climb(grid.places(limits), weights)
    return limits


def _resample(
    sample: _Sample,
    limits: np.ndarray,
    rounds: int,
    rng: np.random.Generator,
    advance: Callable[[], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Search again on nights drawn with replacement, in a part of the rows: 95 % of where that leads."""
    grid = _Grid(sample.some(_RESAMPLED_ROWS, rng), limits, _RESAMPLED_FRACTION)
    start, found = grid.places(limits), []
    for _ in range(rounds):
        drawn = rng.multinomial(sample.nights, np.full(sample.nights, 1 / sample.nights))
        found.append(grid.climb(start, drawn.astype(np.int64)))
        advance()
    low, high = np.percentile(found, _INTERVAL_PERCENTILES, axis=0)
    return np.minimum(low, limits), np.maximum(high, limits)


class _Grid:
    """Thresholds to choose from, and the scores as places among them."""

    def __init__(self, sample: _Sample, limits: np.ndarray, width: float) -> None:
        self.edges = sample.edges(limits, width)
        # a score in bin b reaches the thresholds before place b
        bins = np.stack(
            [
                np.searchsorted(edges, column, side="right").astype(np.uint8)
                for edges, column in zip(self.edges, sample.columns, strict=True)
            ]
        )
        able = np.ones(len(sample.positive), bool)
        for family in range(int(sample.family.max()) + 1):
            able &= (bins[sample.family == family] > 0).any(0)
        self.bins = np.ascontiguousarray(bins[:, able])  # nothing on the grid lets the others pass
        self.positive, self.priced = sample.positive[able], sample.priced[able]
        self.night = sample.night[able]
        self.family, self.share = sample.family, sample.share
        against = sample.priced & sample.whole
        self.against = np.bincount(sample.night[against], minlength=sample.nights)
        states = np.arange(1 << len(bins))
        self.met = np.zeros(len(states), np.uint16)  # families passed, by names passed
        for k, family in enumerate(sample.family):
            self.met |= (states >> k & 1).astype(np.uint16) << family

    def places(self, limits: np.ndarray) -> list[int]:
        """Give the places of thresholds that are on the grid."""
        return [
            int(np.searchsorted(edges, limit))
            for edges, limit in zip(self.edges, limits, strict=True)
        ]

    def climb(self, start: list[int], weights: np.ndarray) -> np.ndarray:
        """Change pairs of thresholds for the better until there is none, and give the thresholds.

        Parameters
        ----------
        start : list of int
            Place of each threshold.
        weights : ndarray
            int64 ``(night,)``: how often each night counts.
        """
        at, weight = list(start), weights[self.night]
        allowed = self.share * float(weights @ self.against)
        enough = _TRIFLE * float(weight[self.positive].sum())
        passes = np.zeros(len(self.positive), np.uint16)
        for k, bins in enumerate(self.bins):
            passes |= (bins > at[k]).astype(np.uint16) << k
        pairs = list(combinations(range(len(at)), 2)) or [(0, 0)]
        found = -1
        for _ in range(_SWEEPS):
            before = found
            for i, j in pairs:
                gain, price = self._pair(i, j, passes, weight)
                at[i], at[j] = _choose(gain, price, allowed)
                found = int(gain[at[i], at[j]])
                for k in (i, j):
                    _repass(self.bins[k], at[k], k, passes)
            if found - before <= enough:
                break
        return np.array([edges[k] for edges, k in zip(self.edges, at, strict=True)], np.float32)

    def _pair(
        self, i: int, j: int, passes: np.ndarray, weight: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Count what is found and what it costs at each two thresholds of a pair."""
        one, other = self.family[i], self.family[j]
        counts = np.zeros((2, len(self.edges[i]) + 1, len(self.edges[j]) + 1), np.int64)
        _tally(
            (self.bins[i], self.bins[j]),
            passes,
            np.uint16(~(1 << i | 1 << j) & 0xFFFF),
            self.met,
            (np.uint16(1 << one), np.uint16(1 << other)),
            (self.positive, self.priced),
            weight,
            counts,
        )
        if one == other:  # one of the two is enough: all but those below both
            below = counts.cumsum(1).cumsum(2)
            gain, price = below[:, -1:, -1:] - below[:, :-1, :-1]
        else:
            above = counts[:, ::-1, ::-1].cumsum(1).cumsum(2)[:, ::-1, ::-1]
            gain, price = above[:, 1:, 1:]
        return gain, price


def _choose(gain: np.ndarray, price: np.ndarray, allowed: float) -> tuple[int, int]:
    """Take the most that the price allows, for the least; the cheapest where nothing is allowed."""
    fits = price <= allowed
    if fits.any():
        fits &= gain == gain[fits].max()
        cost = np.where(fits, price, np.iinfo(np.int64).max)
    else:
        cost = price
    first, second = np.unravel_index(int(cost.argmin()), cost.shape)
    return int(first), int(second)


def _rates(
    nights: pd.DataFrame, fpr: float | None, budget: float | None, rng: np.random.Generator
) -> dict[str, Any]:
    """Rates over nights with bootstrap intervals over them; NaN where there is nothing to measure."""
    n = len(nights)
    counts = nights[["tp", "n_pos", "fp", "n_neg", "plausible"]].to_numpy(float)
    drawn = rng.multinomial(n, np.full(n, 1 / n), _RATE_ROUNDS) @ counts
    row: dict[str, Any] = {"nights": n}
    with np.errstate(invalid="ignore", divide="ignore"):
        for name, hits, of in (("tpr", 0, 1), ("fpr", 2, 3), ("candidates", 4, None)):
            total, totals = (n, n) if of is None else (counts[:, of].sum(), drawn[:, of])
            again = drawn[:, hits] / totals
            again = again[~np.isnan(again)]
            row[name] = float(counts[:, hits].sum() / total)
            # one night says nothing of how nights differ
            known = n > 1 and len(again)
            low, high = np.percentile(again, _INTERVAL_PERCENTILES) if known else (np.nan, np.nan)
            row |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    over = nights["fpr"] > fpr if budget is None else nights["plausible"] > budget
    return row | {"over": int(over.sum())}


@numba.njit(nogil=True)
def _tally(bins, passes, others, met, families, classes, weight, counts):  # type: ignore[no-untyped-def]
    """Count positive and priced cutouts by the bins of a pair of names, in place.

    ``others`` masks the other names in ``passes``, ``met`` turns names passed into families passed, ``families`` are the
    bits of the pair's own. A cutout counts in the last bin of a name whose family others pass already.
    """
    first, second = bins
    one, other = families
    positive, priced = classes
    needed = met[-1]
    last_first, last_second = counts.shape[1] - 1, counts.shape[2] - 1
    for i in range(len(passes)):
        done = met[passes[i] & others]
        if (done | one | other) == needed and weight[i]:
            by_one, by_other = (done & one) != 0, (done & other) != 0
            x = last_first if by_one else first[i]
            y = last_second if by_other else second[i]
            if positive[i]:
                counts[0, x, y] += weight[i]
            if priced[i]:
                counts[1, x, y] += weight[i]


@numba.njit(nogil=True)
def _repass(bins, place, name, passes):  # type: ignore[no-untyped-def]
    bit = np.uint16(1 << name)
    for i in range(len(bins)):
        if bins[i] > place:
            passes[i] |= bit
        else:
            passes[i] &= np.uint16(~bit)
