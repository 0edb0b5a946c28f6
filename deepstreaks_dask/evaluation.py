"""How good scores and decisions are: curves, confusion, rates per night, the Venn diagram of the families.

Every rate comes with a 95 % interval: Wilson's for proportions (Wilson 1927, JASA 22, 209), Newcombe's
for the area under the ROC curve (2006, Stat. Med. 25, 559, method 5). Labels of -1, scores of NaN and
decisions that a missing score leaves open are left out. The intervals hold for independent cutouts;
cutouts of one night share its weather, so the spread between nights says more about a night to come.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.metrics import roc_curve

from deepstreaks_dask.decision import DECIDING, Decision, family_of

_Z = float(norm.ppf(0.975))
_POINTS = 400  # rows of a curve that is drawn
_CURVE = ("threshold", "tp", "fp", "tpr", "fpr", "precision")


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


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` measures of one run and one decision.

    Attributes
    ----------
    members, families : pandas.DataFrame
        A row each: ``n_pos, n_neg, auc, tpr, fpr``, and ``_low`` and ``_high`` of each of the last three.
    joint : Confusion
        The decision against what is truly plausible (:func:`plausibility_labels`).
    joint_auc : Estimate
        Area under the ROC curve of :func:`joint_scores`.
    nights, kinds : pandas.DataFrame
        As :func:`rates_by_night` and :func:`rates_by_kind` give them.
    venn : dict
        As :func:`venn` gives it.
    cutouts, decided, plausible : int
        All cutouts; those with a decision that no missing score can change; those found plausible.
    curves : dict of str to pandas.DataFrame
        :func:`operating_curve` of every member, of every family of several members and of the decision
        (``"decision"``), thinned for pictures; those without labels of both classes are left out.
    """

    members: pd.DataFrame
    families: pd.DataFrame
    joint: Confusion
    joint_auc: Estimate
    nights: pd.DataFrame
    kinds: pd.DataFrame
    venn: dict[str, int]
    cutouts: int
    decided: int
    plausible: int
    curves: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    @property
    def labelled(self) -> bool:
        """Say whether there was anything to measure the decision against."""
        return sum(asdict(self.joint).values()) > 0

    def to_dict(self) -> dict[str, Any]:
        """Give everything but the curves as JSON can hold it; NaN becomes None."""
        tables = {name: getattr(self, name) for name in ("members", "families", "nights", "kinds")}
        return {
            "cutouts": self.cutouts,
            "decided": self.decided,
            "plausible": self.plausible,
            "joint": {
                **asdict(self.joint),
                "tpr": _plain(asdict(self.joint.tpr)),
                "fpr": _plain(asdict(self.joint.fpr)),
                "precision": _plain(asdict(self.joint.precision)),
                "auc": _plain(asdict(self.joint_auc)),
            },
            "venn": self.venn,
            **{name: [_plain(r) for r in t.to_dict("records")] for name, t in tables.items()},
        }


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
    """Give Wilson's 95 % interval of many proportions at once; NaN where ``total`` is 0.

    Parameters
    ----------
    count, total : ndarray
        int ``(rate,)``, or any one shape: how many of how many.

    Returns
    -------
    ndarray, ndarray
        Lower and upper limits, float64 ``(rate,)``, or of that shape, 0 to 1.
    """
    count, total = np.asarray(count, float), np.asarray(total, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        share, z2 = count / total, _Z**2
        middle = (share + z2 / (2 * total)) / (1 + z2 / total)
        half = _Z / (1 + z2 / total) * np.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
        low = np.where(count == 0, 0.0, middle - half)
        high = np.where(count == total, 1.0, middle + half)
    empty = total == 0
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


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
    return _area(_operating_points(truth, values), int(truth.sum()), len(truth))


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
    return _thinned(_operating_points(*usable(labels, scores)), points)


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


def rates_by_night(decided: xr.Dataset) -> pd.DataFrame:
    """True- and false-positive rates of the decision, night by night, with Wilson intervals.

    Parameters
    ----------
    decided : xarray.Dataset
        As :meth:`~deepstreaks_dask.decision.Decision.apply` gives it.

    Returns
    -------
    pandas.DataFrame
        ``night, cutouts, plausible, n_pos, tp, n_neg, fp, tpr, tpr_low, tpr_high, fpr, fpr_low, fpr_high``,
        in order of night, 0 standing for not known. Rates are NaN on nights without labels.
    """
    return _rates(decided, "night")


def rates_by_kind(decided: xr.Dataset) -> pd.DataFrame:
    """Share of each known kind of cutout that the decision lets through, with Wilson intervals.

    Parameters
    ----------
    decided : xarray.Dataset
        As :meth:`~deepstreaks_dask.decision.Decision.apply` gives it.

    Returns
    -------
    pandas.DataFrame
        ``kind, truth, cutouts, plausible, share, low, high``, the largest share first. ``truth`` says what a
        cutout of this kind is: ``"plausible"`` (the share is a true-positive rate), ``"other"`` (it is a
        false-positive rate), ``"mixed"`` or ``"unknown"``.
    """
    table = _rates(decided, "kind")
    table = table[table["kind"] != ""]
    truth = np.select(
        [
            (table["n_pos"] > 0) & (table["n_neg"] > 0),
            table["n_pos"] > 0,
            table["n_neg"] > 0,
        ],
        ["mixed", "plausible", "other"],
        "unknown",
    )
    low, high = wilson(table["plausible"].to_numpy(), table["cutouts"].to_numpy())
    table = table[["kind", "cutouts", "plausible"]].assign(
        truth=truth, share=table["plausible"] / table["cutouts"], low=low, high=high
    )
    columns = ["kind", "truth", "cutouts", "plausible", "share", "low", "high"]
    return table.sort_values(["share", "kind"], ascending=[False, True], ignore_index=True)[columns]


def venn(decided: xr.Dataset) -> dict[str, int]:
    """Count the cutouts in each region of the families' Venn diagram, ``"rb&kd"`` = in these two only.

    Parameters
    ----------
    decided : xarray.Dataset
        As :meth:`~deepstreaks_dask.decision.Decision.apply` gives it.

    Returns
    -------
    dict of str to int
        Cutouts by region; those that no family lets through are in none.
    """
    names = [str(name) for name in decided["family"].values]
    code = np.zeros(decided.sizes["cutout"], np.int64)
    for k, passed in enumerate(decided["family_pass"].values.T):
        code = code + (passed.astype(np.int64) << k)
    counts = np.bincount(code, minlength=1 << len(names))
    regions = {}
    for flags in product((True, False), repeat=len(names)):
        inside = [name for name, flag in zip(names, flags, strict=True) if flag]
        region = sum(flag << k for k, flag in enumerate(flags))
        regions["&".join(inside) or "none"] = int(counts[region])
    return regions


def evaluate(scores: xr.Dataset, decision: Decision | None = None) -> Evaluation:
    """Measure the members, the families and the joint decision of a run.

    Parameters
    ----------
    scores : xarray.Dataset
        As :func:`~deepstreaks_dask.runs.open_scores` gives it: ``scores(cutout, model)``, ``night``, ``kind``,
        ``label_rb`` and so on.
    decision : Decision, optional
        Thresholds; 0.5 everywhere by default.

    Returns
    -------
    Evaluation
        What cannot be measured for want of labels is NaN, or empty.
    """
    decision = decision or Decision.of_run(scores)
    decided = decision.apply(scores)
    values = decided["scores"].values
    members = [str(name) for name in decided["model"].values]
    best = family_scores(decided)
    curves: dict[str, pd.DataFrame] = {}
    member_rows, family_rows = [], []
    for column, member in enumerate(members):
        family = family_of(member)
        limit = np.float32(decision.threshold(member))
        labels, mine = _labels(decided, family), values[:, column]
        figures, curves[member] = _classifier(
            np.where(np.isnan(mine), -1, labels), mine, mine >= limit
        )
        row = {"member": member, "family": family, "threshold": decision.threshold(member)}
        member_rows.append(row | figures)
    for column, family in enumerate(str(name) for name in decided["family"].values):
        of_family = [k for k, member in enumerate(members) if family_of(member) == family]
        if len(of_family) == 1:
            keys = ("member", "threshold")
            figures = {k: v for k, v in member_rows[of_family[0]].items() if k not in keys}
        else:
            passed = decided["family_pass"].values[:, column]
            unknown = ~passed & np.isnan(values[:, of_family]).any(axis=1)
            labels = np.where(unknown, -1, _labels(decided, family))
            figures, curves[family] = _classifier(labels, best[:, column], passed)
        family_rows.append({"family": family} | figures)
    labels = _settled_labels(decided)
    truth, weakest = usable(labels, joint_scores(decided))
    points = _operating_points(truth, weakest)
    curves["decision"] = _thinned(points, _POINTS)
    return Evaluation(
        members=pd.DataFrame(member_rows),
        families=pd.DataFrame(family_rows),
        joint=confusion(labels, decided["plausible"].values),
        joint_auc=_area(points, int(truth.sum()), len(truth)),
        nights=rates_by_night(decided),
        kinds=rates_by_kind(decided),
        venn=venn(decided),
        cutouts=decided.sizes["cutout"],
        decided=int((~decided["undecided"].values).sum()),
        plausible=int(decided["plausible"].values.sum()),
        curves={name: curve for name, curve in curves.items() if len(curve)},
    )


def family_scores(decided: xr.Dataset) -> np.ndarray:
    """Give each family's score, the highest of its members that have looked.

    Parameters
    ----------
    decided : xarray.Dataset
        As :meth:`~deepstreaks_dask.decision.Decision.apply` gives it.

    Returns
    -------
    ndarray
        float32 ``(cutout, family)``; NaN where no member of the family has looked.
    """
    families = [family_of(str(member)) for member in decided["model"].values]
    values = decided["scores"].values
    return np.stack(
        [
            np.fmax.reduce(values[:, [family == name for family in families]], axis=1)
            for name in decided["family"].values
        ],
        axis=1,
    )


def joint_scores(decided: xr.Dataset) -> np.ndarray:
    """Give each cutout's joint score: the family score of its weakest family.

    With one threshold for all members a cutout is plausible just where its joint score reaches it.

    Parameters
    ----------
    decided : xarray.Dataset
        As :meth:`~deepstreaks_dask.decision.Decision.apply` gives it.

    Returns
    -------
    ndarray
        float32 ``(cutout,)``; NaN where no member of some family has looked.
    """
    return family_scores(decided).min(axis=1)


def plausibility_labels(dataset: xr.Dataset) -> np.ndarray:
    """Say which cutouts are truly plausible: 1, 0, or -1 for unknown.

    ``label_os`` where it is known; else what the three families' labels imply: all of them positive, or any
    of them negative.

    Parameters
    ----------
    dataset : xarray.Dataset
        With ``label_<family>(cutout,)``: 1, 0, or -1.

    Returns
    -------
    ndarray
        int8 ``(cutout,)``.
    """
    parts = np.stack([_labels(dataset, part) for part in DECIDING])
    implied = np.where((parts == 0).any(axis=0), 0, np.where((parts == 1).all(axis=0), 1, -1))
    known = _labels(dataset, "os")
    return np.where(known >= 0, known, implied).astype(np.int8)


def _labels(dataset: xr.Dataset, family: str) -> np.ndarray:
    name = f"label_{family}"
    if name in dataset:
        return dataset[name].values
    return np.full(dataset.sizes["cutout"], -1, np.int8)


def _settled_labels(decided: xr.Dataset) -> np.ndarray:
    """What is truly plausible, unknown where a missing score leaves the decision open."""
    return np.where(decided["undecided"].values, -1, plausibility_labels(decided))


def _classifier(
    labels: np.ndarray, scores: np.ndarray, positive: np.ndarray
) -> tuple[dict[str, Any], pd.DataFrame]:
    truth, values = usable(labels, scores)
    points = _operating_points(truth, values)
    area, counts = _area(points, int(truth.sum()), len(truth)), confusion(labels, positive)
    figures: dict[str, Any] = {"n_pos": counts.tp + counts.fn, "n_neg": counts.fp + counts.tn}
    for name, estimate in (("auc", area), ("tpr", counts.tpr), ("fpr", counts.fpr)):
        figures |= {
            name: estimate.value,
            f"{name}_low": estimate.low,
            f"{name}_high": estimate.high,
        }
    return figures, _thinned(points, _POINTS)


def _operating_points(truth: np.ndarray, values: np.ndarray) -> pd.DataFrame:
    """One sort of the scores, from which area, ROC and precision-recall curve all follow."""
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return pd.DataFrame({name: np.empty(0) for name in _CURVE})
    fpr, tpr, threshold = roc_curve(truth, values, drop_intermediate=False)
    tp, fp = np.rint(tpr * positives), np.rint(fpr * negatives)
    with np.errstate(invalid="ignore"):
        precision = tp / (tp + fp)
    return pd.DataFrame(dict(zip(_CURVE, (threshold, tp, fp, tpr, fpr, precision), strict=True)))


def _area(points: pd.DataFrame, positives: int, total: int) -> Estimate:
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


def _rates(decided: xr.Dataset, key: str) -> pd.DataFrame:
    """Count by night or kind; cutouts whose decision is still open are left out of every count."""
    groups, names = pd.factorize(decided[key].values, sort=True)
    labels, plausible = _settled_labels(decided), decided["plausible"].values
    settled = ~decided["undecided"].values

    def count(mask: np.ndarray) -> np.ndarray:
        return np.bincount(groups[mask], minlength=len(names))

    table = pd.DataFrame(
        {
            key: names,
            "cutouts": count(settled),
            "plausible": count(plausible),
            "n_pos": count(labels == 1),
            "tp": count((labels == 1) & plausible),
            "n_neg": count(labels == 0),
            "fp": count((labels == 0) & plausible),
        }
    )
    for name, hits, total in (("tpr", "tp", "n_pos"), ("fpr", "fp", "n_neg")):
        hit, of = table[hits].to_numpy(float), table[total].to_numpy(float)
        table[name] = np.divide(hit, of, out=np.full(len(of), np.nan), where=of > 0)
        table[f"{name}_low"], table[f"{name}_high"] = wilson(hit, of)
    return table


def _thinned(curve: pd.DataFrame, points: int | None) -> pd.DataFrame:
    """Keep rows evenly spaced in the true-positive rate, its complement and the false-positive rate."""
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


def _plain(record: dict[Any, Any]) -> dict[str, Any]:
    def value(item: Any) -> Any:
        item = item.item() if isinstance(item, np.generic) else item
        return None if isinstance(item, float) and not np.isfinite(item) else item

    return {str(key): value(item) for key, item in record.items()}
