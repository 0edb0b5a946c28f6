"""Rates, curves and areas with their confidence intervals: the one place where they are computed.

Intervals of rates follow Wilson (1927, J. Am. Stat. Assoc. 22, 209), those of areas under ROC curves Newcombe (2006,
Stat. Med. 25, 559), both at 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from astropy.stats import binom_conf_interval
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.metrics import roc_curve

_Z = float(norm.ppf(0.975))
CURVE_POINTS = 400  # rows of a curve that is drawn
_CURVE_COLUMNS = ("threshold", "tp", "fp", "tpr", "fpr", "precision")


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95 % interval, and the counts behind it. NaN where nothing was counted."""

    value: float
    low: float
    high: float
    count: int
    total: int

    def __str__(self) -> str:
        if not self.total:
            return "not measured"
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Confusion:
    """Counts of decisions against labels."""

    tp: int
    fn: int
    fp: int
    tn: int

    @property
    def tpr(self) -> Estimate:
        """True-positive rate, the completeness."""
        return rate(self.tp, self.tp + self.fn)

    @property
    def fpr(self) -> Estimate:
        """False-positive rate."""
        return rate(self.fp, self.fp + self.tn)

    @property
    def precision(self) -> Estimate:
        """Share of the positives that are true; depends on how common each kind is."""
        return rate(self.tp, self.tp + self.fp)


def rate(count: int, total: int) -> Estimate:
    """Estimate a proportion with Wilson's 95 % interval.

    Parameters
    ----------
    count, total : int
        Successes and trials.

    Returns
    -------
    Estimate
        NaN if ``total`` is 0.
    """
    low, high = wilson(np.array([count]), np.array([total]))
    return Estimate(count / total if total else np.nan, float(low[0]), float(high[0]), count, total)


def wilson(count: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute Wilson's 95 % interval of many proportions at once; NaN where ``total`` is 0.

    Parameters
    ----------
    count, total : ndarray
        int ``(rate,)``, or any one shape: how many of how many.

    Returns
    -------
    ndarray, ndarray
        Lower and upper limits, float64 ``(rate,)``, or of that shape, 0 to 1.
    """
    count, total = np.broadcast_arrays(np.asarray(count), np.asarray(total))
    measured = total > 0
    limits = np.full((2, *total.shape), np.nan)
    limits[:, measured] = binom_conf_interval(
        count[measured], total[measured], confidence_level=0.95, interval="wilson"
    )
    # rounding must not keep the limits off 0 and 1 where the formula has them there
    limits[0][measured & (count == 0)] = 0.0
    limits[1][measured & (count == total)] = 1.0
    return limits[0], limits[1]


def usable(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out unknown labels (-1) and missing scores (NaN).

    Parameters
    ----------
    labels : ndarray
        1, 0, or -1 for unknown, ``(cutout,)``.
    scores : ndarray
        ``(cutout,)``, NaN where missing.

    Returns
    -------
    ndarray, ndarray
        Labels as bool, and scores, of those that have both, ``(cutout,)`` each.
    """
    keep = (labels >= 0) & ~np.isnan(scores)
    return labels[keep] == 1, scores[keep]


def auc(labels: np.ndarray, scores: np.ndarray) -> Estimate:
    """Area under the ROC curve with Newcombe's 95 % interval.

    Unlike Hanley and McNeil's (1982) the interval does not shrink to nothing at an area of 1, and it keeps
    its coverage where one class is much rarer than the other, as asteroids are.

    Parameters
    ----------
    labels : array of int
        ``(cutout,)``: 1, 0, or -1 for unknown.
    scores : array of float
        ``(cutout,)``, NaN for not scored.

    Returns
    -------
    Estimate
        ``count`` positives among ``total`` labelled and scored; NaN if one class is missing.
    """
    truth, values = usable(labels, scores)
    return curve_area(operating_points(truth, values), int(truth.sum()), len(truth))


def operating_curve(
    labels: np.ndarray, scores: np.ndarray, *, points: int | None = None
) -> pd.DataFrame:
    """Follow the counts and rates of "score >= threshold" from the highest threshold to the lowest.

    Parameters
    ----------
    labels, scores : array
        ``(cutout,)``, as for :func:`auc`.
    points : int, optional
        Thin the curve to at most this many rows, dense where either rate is near 0 or 1; all by default.

    Returns
    -------
    pandas.DataFrame
        ``threshold, tp, fp, tpr, fpr, precision``, from the threshold that nothing passes (where the
        precision is NaN) to the one that all pass; empty if one class is missing.
    """
    return thin_curve(operating_points(*usable(labels, scores)), points)


def roc(labels: np.ndarray, scores: np.ndarray, *, points: int = 400) -> pd.DataFrame:
    """ROC curve: ``fpr``, ``tpr``, ``threshold``, thinned to at most ``points`` rows for a picture.

    Parameters
    ----------
    labels, scores : ndarray
        ``(cutout,)``, as for :func:`usable`.
    points : int
        Rows at most.

    Returns
    -------
    pandas.DataFrame
        A row a threshold, from the highest to the lowest.
    """
    return operating_curve(labels, scores, points=points)[["fpr", "tpr", "threshold"]]


def precision_recall(labels: np.ndarray, scores: np.ndarray, *, points: int = 400) -> pd.DataFrame:
    """Precision-recall curve: ``recall``, ``precision``, ``threshold``, thinned like :func:`roc`.

    Parameters
    ----------
    labels, scores : ndarray
        ``(cutout,)``, as for :func:`usable`.
    points : int
        Rows at most.

    Returns
    -------
    pandas.DataFrame
        A row a threshold, from the highest to the lowest.
    """
    curve = operating_curve(labels, scores, points=points).rename(columns={"tpr": "recall"})
    return curve[["recall", "precision", "threshold"]].iloc[1:].reset_index(drop=True)


def confusion(labels: np.ndarray, positive: np.ndarray) -> Confusion:
    """Count decisions (bool) against labels (1, 0, -1 for unknown).

    Parameters
    ----------
    labels : ndarray
        1, 0, or -1 for unknown, ``(cutout,)``.
    positive : ndarray
        bool ``(cutout,)``.

    Returns
    -------
    Confusion
        Of the cutouts whose label is known.
    """
    true, false = labels == 1, labels == 0
    return Confusion(
        tp=int((true & positive).sum()),
        fn=int((true & ~positive).sum()),
        fp=int((false & positive).sum()),
        tn=int((false & ~positive).sum()),
    )


def rate_table(key: str, names: np.ndarray, counts: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Compute true- and false-positive rates of groups of cutouts from their counts, with Wilson intervals.

    Parameters
    ----------
    key : str
        Name of the column that names the groups, such as ``night``.
    names : ndarray
        ``(group,)``.
    counts : mapping of str to ndarray
        ``cutouts, plausible, n_pos, tp, n_neg, fp``, int ``(group,)`` each.

    Returns
    -------
    pandas.DataFrame
        A row a group: the counts and ``tpr, tpr_low, tpr_high, fpr, fpr_low, fpr_high``, NaN without labels.
    """
    table = {key: names, **counts}
    for name, hits, total in (("tpr", "tp", "n_pos"), ("fpr", "fp", "n_neg")):
        hit, of = counts[hits].astype(float), counts[total].astype(float)
        table[name] = np.divide(hit, of, out=np.full(len(of), np.nan), where=of > 0)
        table[f"{name}_low"], table[f"{name}_high"] = wilson(hit, of)
    return pd.DataFrame(table)


def curve_table(
    threshold: np.ndarray, tp: np.ndarray, fp: np.ndarray, positives: int, negatives: int
) -> pd.DataFrame:
    """Compute the rates and the precision of an operating curve from its counts.

    Parameters
    ----------
    threshold, tp, fp : ndarray
        ``(threshold,)`` each, from the highest threshold to the lowest: the counts at or above it.
    positives, negatives : int
        Cutouts of each class.

    Returns
    -------
    pandas.DataFrame
        ``threshold, tp, fp, tpr, fpr, precision``, a row a threshold; empty if one class is missing.
    """
    if not positives or not negatives:
        return pd.DataFrame({name: np.empty(0) for name in _CURVE_COLUMNS})
    with np.errstate(invalid="ignore"):
        precision = tp / (tp + fp)
    columns = threshold, tp, fp, tp / positives, fp / negatives, precision
    return pd.DataFrame(dict(zip(_CURVE_COLUMNS, columns, strict=True)))


def venn_regions(families: Sequence[str]) -> dict[str, int]:
    """Number the regions of the families' Venn diagram.

    Parameters
    ----------
    families : sequence of str
        Their names; family number k stands for bit k.

    Returns
    -------
    dict of str to int
        ``"rb&kd"`` = in these two only, ``"none"`` = in none, and the number whose bits say so.
    """
    regions = {}
    for flags in product((True, False), repeat=len(families)):
        inside = [name for name, flag in zip(families, flags, strict=True) if flag]
        regions["&".join(inside) or "none"] = sum(flag << k for k, flag in enumerate(flags))
    return regions


def operating_points(truth: np.ndarray, values: np.ndarray) -> pd.DataFrame:
    """Sort the scores once, so that area, ROC and precision-recall curve all follow.

    Parameters
    ----------
    truth : ndarray
        bool ``(cutout,)``.
    values : ndarray
        Scores ``(cutout,)``, none of them NaN.

    Returns
    -------
    pandas.DataFrame
        As :func:`operating_curve`, a row a distinct score ``(threshold,)``.
    """
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        none = np.empty(0)
        return curve_table(none, none, none, positives, negatives)
    fpr, tpr, threshold = roc_curve(truth, values, drop_intermediate=False)
    tp, fp = np.rint(tpr * positives), np.rint(fpr * negatives)
    return curve_table(threshold, tp, fp, positives, negatives)


def curve_area(points: pd.DataFrame, positives: int, total: int) -> Estimate:
    """Compute the area under a ROC curve with Newcombe's (2006) 95 % interval.

    Parameters
    ----------
    points : pandas.DataFrame
        All rows of :func:`operating_points`, ``(threshold,)``.
    positives, total : int
        Cutouts that are positive, and all.

    Returns
    -------
    Estimate
        NaN if one class is missing.
    """
    if not len(points):
        return Estimate(np.nan, np.nan, np.nan, positives, 0)
    area = float(np.trapezoid(points["tpr"], points["fpr"]))
    low, high = _area_interval(area, positives, total - positives)
    return Estimate(area, low, high, positives, total)


def _area_interval(area: float, positives: int, negatives: int) -> tuple[float, float]:
    """Solve Newcombe's (2006) method 5 for the two areas that lie ``_Z`` standard errors away."""
    mean = (positives + negatives) / 2 - 1

    def excess(true: float) -> float:
        spread = 1 + mean * (1 - true) / (2 - true) + mean * true / (1 + true)
        return (area - true) ** 2 - _Z**2 * true * (1 - true) * spread / (positives * negatives)

    # just off 0 and 1, which solve the equation whatever the area
    low = brentq(excess, 0, min(area, 1 - 1e-12)) if area > 0 else 0.0
    high = brentq(excess, max(area, 1e-12), 1) if area < 1 else 1.0
    return float(low), float(high)


def thin_curve(curve: pd.DataFrame, points: int | None) -> pd.DataFrame:
    """Keep rows evenly spaced in the true-positive rate, its complement and the false-positive rate.

    Parameters
    ----------
    curve : pandas.DataFrame
        With ``tpr`` and ``fpr``, ``(threshold,)``.
    points : int or None
        Rows to keep at most; None keeps all.

    Returns
    -------
    pandas.DataFrame
        The rows kept, the first and the last among them.
    """
    if points is None or len(curve) <= points:
        return curve
    last, third = len(curve) - 1, (points - 2) // 3
    tpr, fpr = curve["tpr"].to_numpy(), curve["fpr"].to_numpy()
    fine = np.geomspace(1 / last, 1, third)
    rows = np.concatenate(
        [
            np.array([0, last]),
            np.searchsorted(fpr, fine),
            np.searchsorted(tpr, np.linspace(0, 1, third)),
            np.searchsorted(tpr, 1 - fine),
        ]
    )
    return curve.iloc[np.unique(rows)].reset_index(drop=True)
