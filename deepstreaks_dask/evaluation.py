"""How good scores and decisions are: curves, confusion, rates per night, the Venn diagram of the families.

Every rate comes with a 95 % interval: Wilson's for proportions (Wilson 1927, JASA 22, 209), Hanley and
McNeil's for the area under the ROC curve (1982, Radiology 143, 29). Labels of -1 and scores of NaN are
left out. The intervals hold for independent cutouts; cutouts of one night share its weather, so the
spread between nights says more about a night to come.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import norm
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from deepstreaks_dask.families import DECIDING, Decision, family_of

_Z = float(norm.ppf(0.975))


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
    """What :func:`evaluate` measures of one run and one decision."""

    members: pd.DataFrame
    families: pd.DataFrame
    joint: Confusion
    nights: pd.DataFrame
    kinds: pd.DataFrame
    venn: dict[str, int]
    cutouts: int
    scored: int
    plausible: int

    @property
    def labelled(self) -> bool:
        """Say whether there was anything to measure against."""
        return sum(asdict(self.joint).values()) > 0

    def to_dict(self) -> dict[str, Any]:
        """Give everything as JSON can hold it; NaN becomes None."""
        tables = {name: getattr(self, name) for name in ("members", "families", "nights", "kinds")}
        return {
            "cutouts": self.cutouts,
            "scored": self.scored,
            "plausible": self.plausible,
            "joint": {
                **asdict(self.joint),
                "tpr": _plain(asdict(self.joint.tpr)),
                "fpr": _plain(asdict(self.joint.fpr)),
                "precision": _plain(asdict(self.joint.precision)),
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
    """
    low, high = wilson(np.array([count]), np.array([total]))
    return Estimate(count / total if total else np.nan, float(low[0]), float(high[0]), count, total)


def wilson(count: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give Wilson's 95 % interval of many proportions at once; NaN where ``total`` is 0."""
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
    """Leave out unknown labels (-1) and missing scores (NaN)."""
    keep = (labels >= 0) & ~np.isnan(scores)
    return labels[keep].astype(bool), scores[keep]


def auc(labels: np.ndarray, scores: np.ndarray) -> Estimate:
    """Area under the ROC curve with Hanley and McNeil's 95 % interval.

    Parameters
    ----------
    labels : array of int
        ``(cutout,)``: 1, 0, or -1 for unknown.
    scores : array of float
        ``(cutout,)``, NaN for not scored.
    """
    truth, values = usable(labels, scores)
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return Estimate(np.nan, np.nan, np.nan, positive, 0)
    area = float(roc_auc_score(truth, values))
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (positive - 1) * (q1 - area**2) + (negative - 1) * (q2 - area**2)
    half = _Z * float(np.sqrt(max(variance, 0) / (positive * negative)))
    return Estimate(area, max(area - half, 0), min(area + half, 1), positive, len(truth))


def roc(labels: np.ndarray, scores: np.ndarray, *, points: int = 400) -> pd.DataFrame:
    """ROC curve: ``fpr``, ``tpr``, ``threshold``, thinned to about ``points`` rows for a picture."""
    truth, values = usable(labels, scores)
    if truth.all() or not truth.any():
        return pd.DataFrame({"fpr": [], "tpr": [], "threshold": []})
    fpr, tpr, threshold = roc_curve(truth, values)
    return _thinned(pd.DataFrame({"fpr": fpr, "tpr": tpr, "threshold": threshold}), points)


def precision_recall(labels: np.ndarray, scores: np.ndarray, *, points: int = 400) -> pd.DataFrame:
    """Precision-recall curve: ``recall``, ``precision``, ``threshold``, thinned for a picture."""
    truth, values = usable(labels, scores)
    if truth.all() or not truth.any():
        return pd.DataFrame({"recall": [], "precision": [], "threshold": []})
    precision, recall, threshold = precision_recall_curve(truth, values, drop_intermediate=True)
    table = {"recall": recall[:-1], "precision": precision[:-1], "threshold": threshold}
    return _thinned(pd.DataFrame(table), points)


def confusion(labels: np.ndarray, positive: np.ndarray) -> Confusion:
    """Count decisions (bool) against labels (1, 0, -1 for unknown)."""
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
        As :meth:`~deepstreaks_dask.families.Decision.apply` gives it.

    Returns
    -------
    pandas.DataFrame
        ``night, cutouts, plausible, n_pos, tp, tpr, tpr_low, tpr_high, n_neg, fp, fpr, fpr_low, fpr_high``.
    """
    table = _rates(decided, "night")
    return table.sort_values("night", ignore_index=True)


def rates_by_kind(decided: xr.Dataset) -> pd.DataFrame:
    """Share of each known kind of cutout that the decision lets through, with Wilson intervals."""
    table = _rates(decided, "kind")
    table = table[table["kind"] != ""]
    low, high = wilson(table["plausible"].to_numpy(), table["cutouts"].to_numpy())
    table = table[["kind", "cutouts", "plausible"]].assign(
        share=table["plausible"] / table["cutouts"], low=low, high=high
    )
    return table.sort_values("share", ascending=False, ignore_index=True)


def venn(decided: xr.Dataset) -> dict[str, int]:
    """Count the cutouts in each region of the families' Venn diagram, ``"rb&kd"`` = in these two only."""
    names = [str(name) for name in decided["family"].values]
    passes = decided["family_pass"].values
    code = passes @ (1 << np.arange(len(names)))
    counts = np.bincount(code.astype(int), minlength=1 << len(names))
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
        As :func:`~deepstreaks_dask.campaign.open_scores` gives it: ``scores(cutout, model)``, ``night``, ``kind``,
        ``label_rb`` and so on.
    decision : Decision, optional
        Thresholds; 0.5 everywhere by default.
    """
    decision = decision or Decision()
    decided = decision.apply(scores)
    values = decided["scores"].values
    members = [str(name) for name in decided["model"].values]
    member_rows, family_rows = [], []
    for column, member in enumerate(members):
        family = family_of(member)
        limit = np.float32(decision.threshold(member))
        row = _classifier(_labels(decided, family), values[:, column], values[:, column] >= limit)
        member_rows.append({"member": member, "family": family, "threshold": float(limit)} | row)
    for column, family in enumerate(decided["family"].values):
        mine = [k for k, member in enumerate(members) if family_of(member) == family]
        best = np.fmax.reduce(values[:, mine], axis=1)
        passed = decided["family_pass"].values[:, column]
        family_rows.append(
            {"family": str(family)} | _classifier(_labels(decided, str(family)), best, passed)
        )
    return Evaluation(
        members=pd.DataFrame(member_rows),
        families=pd.DataFrame(family_rows),
        joint=confusion(plausibility_labels(decided), decided["plausible"].values),
        nights=rates_by_night(decided),
        kinds=rates_by_kind(decided),
        venn=venn(decided),
        cutouts=decided.sizes["cutout"],
        scored=int((~np.isnan(values).any(axis=1)).sum()),
        plausible=int(decided["plausible"].values.sum()),
    )


def plausibility_labels(dataset: xr.Dataset) -> np.ndarray:
    """Say which cutouts are truly plausible: 1, 0, or -1 for unknown.

    ``label_os`` where it is known; else what the three families' labels imply: all of them positive, or any
    of them negative.
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


def _classifier(labels: np.ndarray, scores: np.ndarray, positive: np.ndarray) -> dict[str, Any]:
    area, counts = auc(labels, scores), confusion(np.where(np.isnan(scores), -1, labels), positive)
    figures: dict[str, Any] = {"n_pos": counts.tp + counts.fn, "n_neg": counts.fp + counts.tn}
    for name, estimate in (("auc", area), ("tpr", counts.tpr), ("fpr", counts.fpr)):
        figures |= {
            name: estimate.value,
            f"{name}_low": estimate.low,
            f"{name}_high": estimate.high,
        }
    return figures


def _rates(decided: xr.Dataset, key: str) -> pd.DataFrame:
    labels, plausible = plausibility_labels(decided), decided["plausible"].values
    keys = decided[key].values
    table = pd.DataFrame(
        {
            key: keys.astype(object) if key == "kind" else keys,
            "cutouts": 1,
            "plausible": plausible,
            "n_pos": labels == 1,
            "tp": (labels == 1) & plausible,
            "n_neg": labels == 0,
            "fp": (labels == 0) & plausible,
        }
    )
    table = table.groupby(key, as_index=False).sum()
    for name, hits, total in (("tpr", "tp", "n_pos"), ("fpr", "fp", "n_neg")):
        count, of = table[hits].to_numpy(float), table[total].to_numpy(float)
        table[f"{name}_low"], table[f"{name}_high"] = wilson(count, of)
        table[name] = np.divide(count, of, out=np.full(len(of), np.nan), where=of > 0)
    return table


def _thinned(curve: pd.DataFrame, points: int) -> pd.DataFrame:
    if len(curve) <= points:
        return curve
    rows = np.unique(np.linspace(0, len(curve) - 1, points).round().astype(int))
    return curve.iloc[rows].reset_index(drop=True)


def _plain(record: dict[Any, Any]) -> dict[str, Any]:
    def value(item: Any) -> Any:
        item = item.item() if isinstance(item, np.generic) else item
        return None if isinstance(item, float) and not np.isfinite(item) else item

    return {str(key): value(item) for key, item in record.items()}
