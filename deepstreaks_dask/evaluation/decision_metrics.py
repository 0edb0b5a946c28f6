"""How good scores and decisions are: curves, confusion, rates per night, the Venn diagram of the families.

Every rate comes with a 95 % interval: Wilson's for proportions (Wilson 1927, JASA 22, 209), Newcombe's
for the area under the ROC curve (2006, Stat. Med. 25, 559, method 5). Labels of -1, scores of NaN and
decisions that a missing score leaves open are left out. The intervals hold for independent cutouts;
cutouts of one night share its weather, so the spread between nights says more about a night to come.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from deepstreaks_dask.evaluation.labels import family_labels, settled_labels
from deepstreaks_dask.evaluation.metrics import (
    CURVE_POINTS,
    Confusion,
    Estimate,
    confusion,
    curve_area,
    operating_points,
    rate_table,
    thin_curve,
    usable,
    venn_regions,
    wilson,
)
from deepstreaks_dask.scoring.decision import Decision, family_of
from deepstreaks_dask.utils.html import html_facts, html_table


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        counts = (
            f"{self.plausible:,} plausible of {self.decided:,} decided of {self.cutouts:,} cutouts"
        )
        rates = f"TPR {self.joint.tpr}, FPR {self.joint.fpr}" if self.labelled else "no labels"
        return f"<Evaluation: {counts}; {rates}>"

    def _repr_html_(self) -> str:
        facts = html_facts(
            "Decision",
            {
                "cutouts": self.cutouts,
                "decided": self.decided,
                "plausible": self.plausible,
                **{
                    words: f"{estimate} ({estimate.count:,} of {estimate.total:,})"
                    for words, estimate in (
                        ("true-positive rate", self.joint.tpr),
                        ("false-positive rate", self.joint.fpr),
                        ("precision", self.joint.precision),
                    )
                },
                "area under the ROC curve": self.joint_auc,
            },
        )
        members = html_table(
            "Members, each against the labels of its family",
            [
                (
                    row["member"],
                    row["threshold"],
                    *(_interval(row, name) for name in ("auc", "tpr", "fpr")),
                    row["n_pos"],
                    row["n_neg"],
                )
                for row in self.members.to_dict("records")
            ],
            header=("member", "threshold", "AUC", "TPR", "FPR", "positive", "negative"),
            note="Brackets: 95 % intervals of independent cutouts; nights differ by more.",
        )
        return facts + members

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


def _interval(row: dict[Any, Any], name: str) -> str:
    if not np.isfinite(row[name]):
        return "not measured"
    return f"{row[name]:.4f} [{row[f'{name}_low']:.4f}, {row[f'{name}_high']:.4f}]"


def rates_by_night(decided: xr.Dataset) -> pd.DataFrame:
    """True- and false-positive rates of the decision, night by night, with Wilson intervals.

    Parameters
    ----------
    decided : xarray.Dataset
        As :meth:`~deepstreaks_dask.scoring.decision.Decision.apply` gives it.

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
        As :meth:`~deepstreaks_dask.scoring.decision.Decision.apply` gives it.

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
        As :meth:`~deepstreaks_dask.scoring.decision.Decision.apply` gives it.

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
    return {region: int(counts[number]) for region, number in venn_regions(names).items()}


def evaluate(scores: xr.Dataset, decision: Decision | None = None) -> Evaluation:
    """Measure the members, the families and the joint decision of a run.

    Parameters
    ----------
    scores : xarray.Dataset
        As :func:`~deepstreaks_dask.scoring.runs.open_run` gives it: ``scores(cutout, model)``, ``night``, ``kind``,
        ``label_rb`` and so on.
    decision : Decision, optional
        Thresholds; by default those of a decision that was applied to the scores, else those that the run was scored
        for, else 0.5 everywhere.

    Returns
    -------
    Evaluation
        What cannot be measured for want of labels is NaN, or empty.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> found = ds.evaluate(ds.open_run("week.zarr"), ds.Decision({"kd": 0.9}))
    >>> 0 <= found.joint.tpr.low <= found.joint.tpr.value <= found.joint.tpr.high <= 1
    True
    """
    decision = decision or Decision.of_decided(scores)
    decided = decision.apply(scores)
    values = decided["scores"].values
    members = [str(name) for name in decided["model"].values]
    best = family_scores(decided)
    curves: dict[str, pd.DataFrame] = {}
    member_rows, family_rows = [], []
    for column, member in enumerate(members):
        family = family_of(member)
        limit = np.float32(decision.threshold(member))
        labels, mine = family_labels(decided, family), values[:, column]
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
            labels = np.where(unknown, -1, family_labels(decided, family))
            figures, curves[family] = _classifier(labels, best[:, column], passed)
        family_rows.append({"family": family} | figures)
    labels = settled_labels(decided)
    truth, weakest = usable(labels, joint_scores(decided))
    points = operating_points(truth, weakest)
    curves["decision"] = thin_curve(points, CURVE_POINTS)
    return Evaluation(
        members=pd.DataFrame(member_rows),
        families=pd.DataFrame(family_rows),
        joint=confusion(labels, decided["plausible"].values),
        joint_auc=curve_area(points, int(truth.sum()), len(truth)),
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
        As :meth:`~deepstreaks_dask.scoring.decision.Decision.apply` gives it.

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
        As :meth:`~deepstreaks_dask.scoring.decision.Decision.apply` gives it.

    Returns
    -------
    ndarray
        float32 ``(cutout,)``; NaN where no member of some family has looked.
    """
    return family_scores(decided).min(axis=1)


def _classifier(
    labels: np.ndarray, scores: np.ndarray, positive: np.ndarray
) -> tuple[dict[str, Any], pd.DataFrame]:
    truth, values = usable(labels, scores)
    points = operating_points(truth, values)
    area, counts = curve_area(points, int(truth.sum()), len(truth)), confusion(labels, positive)
    figures: dict[str, Any] = {"n_pos": counts.tp + counts.fn, "n_neg": counts.fp + counts.tn}
    for name, estimate in (("auc", area), ("tpr", counts.tpr), ("fpr", counts.fpr)):
        figures |= {
            name: estimate.value,
            f"{name}_low": estimate.low,
            f"{name}_high": estimate.high,
        }
    return figures, thin_curve(points, CURVE_POINTS)


def _rates(decided: xr.Dataset, key: str) -> pd.DataFrame:
    """Count by night or kind; cutouts whose decision is still open are left out of every count."""
    groups, names = pd.factorize(decided[key].values, sort=True)
    labels, plausible = settled_labels(decided), decided["plausible"].values
    settled = ~decided["undecided"].values

    def count(mask: np.ndarray) -> np.ndarray:
        return np.bincount(groups[mask], minlength=len(names))

    counts = {
        "cutouts": count(settled),
        "plausible": count(plausible),
        "n_pos": count(labels == 1),
        "tp": count((labels == 1) & plausible),
        "n_neg": count(labels == 0),
        "fp": count((labels == 0) & plausible),
    }
    return rate_table(key, names, counts)


def _plain(record: dict[Any, Any]) -> dict[str, Any]:
    def value(item: Any) -> Any:
        item = item.item() if isinstance(item, np.generic) else item
        return None if isinstance(item, float) and not np.isfinite(item) else item

    return {str(key): value(item) for key, item in record.items()}
