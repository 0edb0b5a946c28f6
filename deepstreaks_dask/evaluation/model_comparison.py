"""Two networks on the same cutouts, and whether the new one is better.

Both look at the same held-out cutouts, so that what is easy or hard for both cancels out, and the differences are measured
pair by pair. Cutouts of one night share its weather: whole nights are drawn with replacement (the cluster bootstrap;
Field and Welsh 2007, J. R. Stat. Soc. B 69, 369), and the interval is that of Student's t with one degree of freedom less
than there are nights, since few nights tell their own spread poorly. McNemar's exact test (1947, Psychometrika 12, 153) of
right and wrong at 0.5 is given beside it; it takes cutouts for independent, and decides nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, t

from deepstreaks_dask.evaluation.metrics import Estimate, auc, rate, usable

MIN_GROUPS = 5
"""Nights without which nothing is said to be better."""

ACCEPTANCE_RULE = (
    f"better if, on {MIN_GROUPS} held-out nights or more, the 95 % interval of the gain in area under the ROC curve "
    "lies above 0, and that of the gain in true-positive rate at the same false-positive rate does not lie below 0"
)
"""When a new network is better than an old one."""


@dataclass(frozen=True)
class Gain:
    """What the new network has more than the old one, with its 95 % interval; NaN where it cannot be measured."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


@dataclass(frozen=True)
class ModelComparison:
    """A new network against an old one.

    Attributes
    ----------
    cutouts, positives, nights : int
        Labelled cutouts that both scored, those with label 1, and nights, or other groups, that they are of.
    auc_old, auc_new : Estimate
        Areas under the ROC curve.
    auc_gain : Gain
        Of the area.
    fpr : float
        False-positive rate, 0 to 1, at which true-positive rates are compared: that of the old network at 0.5.
    tpr_old, tpr_new : Estimate
        The highest true-positive rates at no more than this false-positive rate. Each network's threshold is chosen on these
        cutouts, which flatters both alike.
    tpr_gain : Gain
        Of the true-positive rate.
    righted, wronged : int
        Cutouts on whose side of 0.5 only the new network is right, and only the old one.
    mcnemar : float
        Probability of a difference between the two as large as this, were the networks alike and cutouts independent.
    """

    cutouts: int
    positives: int
    nights: int
    auc_old: Estimate
    auc_new: Estimate
    auc_gain: Gain
    fpr: float
    tpr_old: Estimate
    tpr_new: Estimate
    tpr_gain: Gain
    righted: int
    wronged: int
    mcnemar: float

    @property
    def better(self) -> bool:
        """Say whether the new network is better, by :data:`ACCEPTANCE_RULE`."""
        return not self.why_not

    @property
    def why_not(self) -> str:
        """Say in words why the new network is not said to be better; empty if it is."""
        if not 0 < self.positives < self.cutouts:
            return "the held-out nights hold one class only"
        if self.nights < MIN_GROUPS:
            return f"{self.nights} held-out nights are too few to tell: {MIN_GROUPS} are needed"
        if not self.auc_gain.low > 0:
            return f"the gain in area, {self.auc_gain}, may be none"
        if self.tpr_gain.high < 0:
            return f"the true-positive rate at a false-positive rate of {self.fpr:.4f} is lower: {self.tpr_gain}"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Give everything as JSON can hold it; NaN becomes None."""
        return {
            "rule": ACCEPTANCE_RULE,
            "better": self.better,
            "why_not": self.why_not,
            **_plain(asdict(self)),
        }


def compare_models(
    labels: np.ndarray,
    old: np.ndarray,
    new: np.ndarray,
    groups: np.ndarray,
    *,
    rounds: int = 1000,
    seed: int = 0,
) -> ModelComparison:
    """Compare two networks' scores of the same cutouts.

    Parameters
    ----------
    labels : ndarray
        int ``(cutout,)``: 1, 0, or -1 for unknown.
    old, new : ndarray
        Scores ``(cutout,)``, NaN where a network has not looked.
    groups : ndarray
        Night, or other group, of each cutout ``(cutout,)``, int or str; drawn as a whole.
    rounds : int
        Times that groups are drawn.
    seed : int
        Of the draws.

    Returns
    -------
    Comparison
        Figures of both on the same cutouts.
    """
    both = ~np.isnan(old) & ~np.isnan(new)
    truth, values = usable(labels[both], old[both])
    known = labels[both] >= 0
    scores = values, new[both][known]
    _, of = np.unique(groups[both][known], return_inverse=True)
    nights = int(of.max()) + 1 if len(of) else 0
    positives = int(truth.sum())
    ranked = [_Ranked(truth, mine) for mine in scores]
    rng = np.random.default_rng(seed)
    point = _figures(ranked, truth, scores[0], np.ones(len(truth)))
    draws = [
        _figures(ranked, truth, scores[0], np.bincount(drawn, minlength=nights)[of].astype(float))
        for drawn in rng.integers(0, max(nights, 1), (rounds, nights))
    ]
    gains = np.array(
        [
            [new_area - old_area, new_tpr - old_tpr]
            for old_area, new_area, old_tpr, new_tpr, _ in draws
        ]
    )
    right = [(mine >= np.float32(0.5)) == truth for mine in scores]
    righted, wronged = int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum())
    negatives = len(truth) - positives
    _, _, old_tpr, new_tpr, fpr = point
    return ModelComparison(
        cutouts=len(truth),
        positives=positives,
        nights=nights,
        auc_old=auc(truth.astype(int), scores[0]),
        auc_new=auc(truth.astype(int), scores[1]),
        auc_gain=_gain(point[1] - point[0], gains[:, 0], nights),
        fpr=fpr,
        tpr_old=rate(round(old_tpr * positives) if negatives and positives else 0, positives),
        tpr_new=rate(round(new_tpr * positives) if negatives and positives else 0, positives),
        tpr_gain=_gain(new_tpr - old_tpr, gains[:, 1], nights),
        righted=righted,
        wronged=wronged,
        mcnemar=binomtest(righted, righted + wronged).pvalue if righted + wronged else 1.0,
    )


class _Ranked:
    """Scores sorted once, so that the curve of any weights of the cutouts is two sums."""

    def __init__(self, truth: np.ndarray, scores: np.ndarray) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ranked = scores[self._order]
        self._truth = truth[self._order]
        self._ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)

    def curve(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """False- and true-positive rates from (0, 0) to (1, 1); NaN where a class is missing."""
        mine = weights[self._order]
        with np.errstate(invalid="ignore"):
            rates = []
            for part in (mine * ~self._truth, mine * self._truth):
                counts = np.append(0.0, np.cumsum(part)[self._ends])
                rates.append(counts / counts[-1])
        return rates[0], rates[1]


def _figures(
    ranked: list[_Ranked], truth: np.ndarray, old: np.ndarray, weights: np.ndarray
) -> tuple[float, float, float, float, float]:
    """Areas of both, true-positive rates of both at the old one's false-positive rate at 0.5, and this rate."""
    if not weights[truth].sum() or not weights[~truth].sum():
        return (np.nan,) * 5
    passing = weights * (old >= np.float32(0.5))
    fpr = float(passing[~truth].sum() / weights[~truth].sum())
    areas, heights = [], []
    for one in ranked:
        fprs, tprs = one.curve(weights)
        areas.append(float(np.trapezoid(tprs, fprs)))
        heights.append(float(tprs[fprs <= fpr + 1e-12].max()))
    return areas[0], areas[1], heights[0], heights[1], fpr


def _gain(value: float, draws: np.ndarray, nights: int) -> Gain:
    drawn = draws[~np.isnan(draws)]
    if nights < 2 or len(drawn) < 2 or np.isnan(value):
        return Gain(value, np.nan, np.nan)
    # a drawn set of n nights varies less than n nights do
    spread = float(np.std(drawn, ddof=1)) * np.sqrt(nights / (nights - 1))
    half = float(t.ppf(0.975, nights - 1)) * spread
    return Gain(value, value - half, value + half)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
