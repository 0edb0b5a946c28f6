"""Counts that follow a moving threshold, compiled with Numba."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numba
import numpy as np
import pandas as pd
import xarray as xr

from deepstreaks_dask.evaluation.labels import plausibility_labels
from deepstreaks_dask.evaluation.metrics import rate, wilson

LABEL_FAMILIES = ("rb", "sl", "kd", "os")
_CURVE_POINTS = 400


def count_strata(
    scores: xr.Dataset,
    arranged: Callable[[np.ndarray], np.ndarray],
    missing: np.ndarray,
    families: int,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Number the combinations of labels, filter, missing families and rejection that occur."""
    n = scores.sizes["cutout"]
    key, columns = missing, {}
    if "rejected" in scores:
        key = key + (arranged(scores["rejected"].values).astype(np.int64) << families)
    for name in LABEL_FAMILIES:
        label = f"label_{name}"
        values = scores[label].values if label in scores else np.full(n, -1, np.int8)
        values = np.where((values == 0) | (values == 1), values, -1)
        key = key * 3 + (arranged(values) + 1)
    codes, filters = pd.factorize(scores["filter"].values, sort=True)
    key = key * len(filters) + arranged(codes)
    occurs = np.flatnonzero(np.bincount(key)) if n else np.empty(0, np.int64)
    stratum = np.searchsorted(occurs, key).astype(np.int32)
    rest, which = np.divmod(occurs, max(len(filters), 1))
    columns["filter"] = np.asarray(filters, dtype=object)[which]
    for name in reversed(LABEL_FAMILIES):
        rest, value = np.divmod(rest, 3)
        columns[name] = (value - 1).astype(np.int8)
    columns["rejected"], columns["missing"] = (
        (rest >> families).astype(bool),
        rest % (1 << families),
    )
    labels = {f"label_{name}": ("cutout", columns[name]) for name in LABEL_FAMILIES}
    truth = plausibility_labels(xr.Dataset(labels))
    return pd.DataFrame({**columns, "truth": truth}), stratum


def venn_regions(families: list[str]) -> dict[str, int]:
    """Name the regions of the Venn diagram, in ``evaluation.venn``'s order, and number their states."""
    regions = {}
    for flags in product((True, False), repeat=len(families)):
        inside = [name for name, flag in zip(families, flags, strict=True) if flag]
        regions["&".join(inside) or "none"] = sum(flag << k for k, flag in enumerate(flags))
    return regions


def rates_from_counts(nights: np.ndarray, counts: np.ndarray) -> pd.DataFrame:
    """Compute rates and their intervals for each night from counts."""
    names = ("cutouts", "plausible", "n_pos", "tp", "n_neg", "fp")
    table = {"night": nights, **dict(zip(names, counts.T, strict=True))}
    for name, hits, total in (("tpr", "tp", "n_pos"), ("fpr", "fp", "n_neg")):
        hit, of = table[hits].astype(float), table[total].astype(float)
        table[name] = np.divide(hit, of, out=np.full(len(of), np.nan), where=of > 0)
        table[f"{name}_low"], table[f"{name}_high"] = wilson(hit, of)
    return pd.DataFrame(table)


def classifier_from_counts(
    name: str,
    everything: np.ndarray,
    passed: np.ndarray,
    totals: np.ndarray,
    labels: np.ndarray,
    counted: np.ndarray,
) -> dict[str, Any]:
    """Describe a classifier's labels, passes and curve from counts."""
    row: dict[str, Any] = {"name": name, "passed": int(everything.sum())}
    for which, label in (("pos", 1), ("neg", 0)):
        mask = counted & (labels == label)
        row[f"n_{which}"] = int(totals[mask].sum())
        row["tpr" if label else "fpr"] = rate(int(passed[mask].sum()), row[f"n_{which}"]).value
    return row


def curve_from_counts(positives: np.ndarray, negatives: np.ndarray) -> pd.DataFrame:
    """Count both sorted classes at thresholds that lie dense where either rate is near 0 or 1."""
    if not len(positives) or not len(negatives):
        return pd.DataFrame({k: [] for k in ("threshold", "tp", "fp", "tpr", "fpr", "precision")})
    fine = np.geomspace(1 / max(len(positives), len(negatives)), 1, _CURVE_POINTS // 4)
    shares = np.unique(np.concatenate([fine, 1 - fine, np.linspace(0, 1, _CURVE_POINTS // 4)]))
    at = [
        side[np.minimum((shares * len(side)).astype(np.int64), len(side) - 1)]
        for side in (positives, negatives)
    ]
    threshold = np.unique(np.concatenate(at))[::-1]
    tp, fp = (len(side) - np.searchsorted(side, threshold) for side in (positives, negatives))
    lowest = min(positives[0], negatives[0])
    threshold = np.concatenate([[np.inf], threshold, [lowest]])
    tp = np.concatenate([[0], tp, [len(positives)]])
    fp = np.concatenate([[0], fp, [len(negatives)]])
    with np.errstate(invalid="ignore"):
        precision = tp / (tp + fp)
    curve = {"threshold": threshold, "tp": tp, "fp": fp, "tpr": tp / len(positives)}
    return pd.DataFrame(curve | {"fpr": fp / len(negatives), "precision": precision})


@numba.njit(nogil=True)
def move_threshold(column, limit, member, passes, cell, state, cube, passed):  # type: ignore[no-untyped-def]
    """Move one member's threshold and update states and counts in place."""
    bit = np.uint16(1 << member)
    for i in range(len(column)):
        old = passes[i]
        on = column[i] >= limit
        if on != ((old & bit) != 0):
            new = np.uint16(old ^ bit)
            passes[i] = new
            here = cell[i]
            passed[here] += 1 if on else -1
            before, after = state[old], state[new]
            if before != after:
                cube[here, before] -= 1
                cube[here, after] += 1


@numba.njit(nogil=True)
def tally_scores(column, cell, counts):  # type: ignore[no-untyped-def]
    """Count scores by cell and bin in place; NaN is skipped."""
    bins = counts.shape[1]
    for i in range(len(column)):
        value = column[i]
        if value == value:  # not NaN
            counts[cell[i], min(max(int(value * bins), 0), bins - 1)] += 1


@numba.njit(nogil=True)
def trace_gains(column, bits, passes, cell, allowed, always, gained):  # type: ignore[no-untyped-def]
    """Count, by stratum and bin of one member's score, the cutouts that this member alone decides."""
    strata, bins = gained.shape
    for i in range(len(column)):
        with_it = np.uint16(passes[i] | bits)
        if allowed[with_it]:
            stratum = cell[i] % strata
            if allowed[np.uint16(with_it ^ bits)]:
                always[stratum] += 1
            elif column[i] == column[i]:  # not NaN
                gained[stratum, min(max(int(column[i] * bins), 0), bins - 1)] += 1
