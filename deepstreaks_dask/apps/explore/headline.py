"""Headline rates and the confusion matrix of a decision, as the page shows them."""

from __future__ import annotations

from typing import Any

from deepstreaks_dask import plots
from deepstreaks_dask.evaluation.metrics import Estimate
from deepstreaks_dask.evaluation.selection import Counts


def headline_rates(counts: Counts) -> list[dict[str, Any]]:
    """Return the number of candidates and the decision's rates, each rate with its interval on a scale."""
    decided = f"of {counts.decided:,} decided cutouts"
    if counts.decided < counts.cutouts:
        decided += f", {counts.cutouts - counts.decided:,} are open"
    shown: list[dict[str, Any]] = [
        {"title": "Plausible", "value": f"{counts.plausible:,}", "note": decided}
    ]
    joint = counts.joint
    if joint.tp + joint.fn + joint.fp + joint.tn == 0:
        return shown
    published_fpr = (0.0, plots.PUBLISHED_FPR)
    return [
        *shown,
        _rate(
            "True-positive rate",
            joint.tpr,
            plots.PUBLISHED_TPR,
            "Duev et al.: 0.96 to 0.98",
            down=True,
        ),
        _rate("False-positive rate", joint.fpr, published_fpr, "Duev et al.: below 0.01"),
        _rate("Precision", joint.precision, (0.0, 0.0), "varies with the mix of kinds", whole=True),
    ]


def confusion_cells(counts: Counts) -> dict[str, list[Any]]:
    """Return counts of decisions against labels by ``"tp"``, ``"fn"``, ``"fp"``, ``"tn"``, each with its share in words."""
    joint = counts.joint
    positives, negatives = joint.tp + joint.fn, joint.fp + joint.tn
    cells = {
        "tp": (joint.tp, positives),
        "fn": (joint.fn, positives),
        "fp": (joint.fp, negatives),
        "tn": (joint.tn, negatives),
    }
    return {
        key: [
            count,
            f"{100 * count / total:.2f} % of {total:,}" if total else "none labelled so",
        ]
        for key, (count, total) in cells.items()
    }


def _rate(
    title: str,
    estimate: Estimate,
    published: tuple[float, float],
    words: str,
    *,
    down: bool = False,
    whole: bool = False,
) -> dict[str, Any]:
    if not estimate.total:
        return {"title": title, "value": "none", "note": "no cutout to measure it on"}
    # rates near 1 are shown on a scale down from 1, those near 0 on one up from 0
    ends = (estimate.low, estimate.high, *published)
    first, last = (min(0.9, min(ends) - 0.01), 1.0) if down else (0.0, max(0.02, 1.1 * max(ends)))
    if whole:
        first, last = 0.0, 1.0

    def at(*values: float) -> list[float]:
        return [100 * (value - first) / (last - first) for value in values]

    return {
        "title": title,
        "value": f"{estimate.value:.4f}",
        "note": f"95 %: {estimate.low:.4f} to {estimate.high:.4f}",
        "counts": f"{estimate.count:,} of {estimate.total:,}",
        "scale": {
            "band": at(*published) if any(published) else [0, 0],
            "interval": at(estimate.low, estimate.high),
            "dot": at(estimate.value)[0],
            "ends": [f"{first:.2f}", f"{last:.2f}"],
            "words": words,
        },
    }
