"""Counts that follow a moving threshold, compiled with Numba."""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
import pandas as pd
import xarray as xr

from deepstreaks_dask.evaluation.labels import plausibility_labels
from deepstreaks_dask.evaluation.metrics import CURVE_POINTS, curve_table
from deepstreaks_dask.vocabulary import FAMILIES, label_column


def count_strata(
    scores: xr.Dataset,
    arranged: Callable[[np.ndarray], np.ndarray],
    missing: np.ndarray,
    families: int,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Number the combinations of labels, filter, missing families and rejection that occur.

    Each combination is a stratum: a mixed-radix number of its parts, renumbered without gaps.

    Parameters
    ----------
    scores : xarray.Dataset
        With ``filter(cutout)`` and, where known, ``label_<family>(cutout)`` and ``rejected(cutout)``.
    arranged : callable
        Put a column ``(cutout,)`` into the exploration's order.
    missing : ndarray
        int64 ``(cutout,)``, in that order: bit k is set where family k has a missing score.
    families : int
        How many there are.

    Returns
    -------
    pandas.DataFrame, ndarray
        A row a stratum: ``filter``, labels, ``rejected, missing, truth``; and each cutout's stratum, int32
        ``(cutout,)``.
    """
    n = scores.sizes["cutout"]
    key, columns = missing, {}
    if "rejected" in scores:
        key = key + (arranged(scores["rejected"].values).astype(np.int64) << families)
    for name in FAMILIES:
        label = label_column(name)
        values = scores[label].values if label in scores else np.full(n, -1, np.int8)
        values = np.where((values == 0) | (values == 1), values, -1)
        key = key * 3 + (arranged(values) + 1)
    codes, filters = pd.factorize(scores["filter"].values, sort=True)
    key = key * len(filters) + arranged(codes)
    occurs = np.flatnonzero(np.bincount(key)) if n else np.empty(0, np.int64)
    stratum = np.searchsorted(occurs, key).astype(np.int32)
    rest, which = np.divmod(occurs, max(len(filters), 1))
    columns["filter"] = np.asarray(filters, dtype=object)[which]
    for name in reversed(FAMILIES):
        rest, value = np.divmod(rest, 3)
        columns[name] = (value - 1).astype(np.int8)
    columns["rejected"], columns["missing"] = (
        (rest >> families).astype(bool),
        rest % (1 << families),
    )
    labels = {label_column(name): ("cutout", columns[name]) for name in FAMILIES}
    truth = plausibility_labels(xr.Dataset(labels))
    return pd.DataFrame({**columns, "truth": truth}), stratum


def curve_from_sorted(positives: np.ndarray, negatives: np.ndarray) -> pd.DataFrame:
    """Count both sorted classes at thresholds that lie dense where either rate is near 0 or 1.

    Parameters
    ----------
    positives, negatives : ndarray
        Scores of each class in ascending order, ``(cutout,)``.

    Returns
    -------
    pandas.DataFrame
        As :func:`~deepstreaks_dask.evaluation.metrics.operating_curve`, ``(threshold,)``, some hundred rows.
    """
    if not len(positives) or not len(negatives):
        none = np.empty(0)
        return curve_table(none, none, none, len(positives), len(negatives))
    fine = np.geomspace(1 / max(len(positives), len(negatives)), 1, CURVE_POINTS // 4)
    shares = np.unique(np.concatenate([fine, 1 - fine, np.linspace(0, 1, CURVE_POINTS // 4)]))
    at = [
        side[np.minimum((shares * len(side)).astype(np.int64), len(side) - 1)]
        for side in (positives, negatives)
    ]
    threshold = np.unique(np.concatenate(at))[::-1]
    tp, fp = (len(side) - np.searchsorted(side, threshold) for side in (positives, negatives))
    lowest = min(positives[0], negatives[0])
    return curve_table(
        np.concatenate([[np.inf], threshold, [lowest]]),
        np.concatenate([[0], tp, [len(positives)]]),
        np.concatenate([[0], fp, [len(negatives)]]),
        len(positives),
        len(negatives),
    )


@numba.njit(nogil=True)
def move_threshold(column, limit, member, passes, cell, state, cube, passed):  # type: ignore[no-untyped-def]
    """Move one member's threshold; update ``passes``, ``cube`` and ``passed`` in place.

    Parameters
    ----------
    column : ndarray
        The member's scores, float32 ``(cutout,)``.
    limit : float32
        Its new threshold.
    member : int
        Its number: bit ``member`` of ``passes``.
    passes : ndarray
        uint16 ``(cutout,)``: which members let a cutout through.
    cell : ndarray
        int32 ``(cutout,)``: night and stratum.
    state : ndarray
        Families passed, by the value of ``passes``.
    cube : ndarray
        Cutouts ``(cell, state)``.
    passed : ndarray
        Cutouts that this member lets through, ``(cell,)``.
    """
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
    """Count scores by cell and bin in place; NaN is skipped.

    Parameters
    ----------
    column : ndarray
        Scores, float32 ``(cutout,)``.
    cell : ndarray
        int32 ``(cutout,)``.
    counts : ndarray
        ``(cell, bin)``; bins part the scores from 0 to 1 evenly.
    """
    bins = counts.shape[1]
    for i in range(len(column)):
        value = column[i]
        if value == value:  # not NaN
            counts[cell[i], min(max(int(value * bins), 0), bins - 1)] += 1


@numba.njit(nogil=True)
def trace_gains(column, bits, passes, cell, allowed, always, gained):  # type: ignore[no-untyped-def]
    """Count, by stratum and bin of one member's score, the cutouts that this member alone decides.

    Parameters
    ----------
    column : ndarray
        The member's scores, float32 ``(cutout,)``.
    bits : uint16
        The bits of the members whose threshold moves.
    passes : ndarray
        uint16 ``(cutout,)``: which members let a cutout through.
    cell : ndarray
        int32 ``(cutout,)``: night and stratum.
    allowed : ndarray
        bool, by the value of ``passes``: whether such a cutout is plausible.
    always : ndarray
        Cutouts plausible at any threshold, ``(stratum,)``; counted in place.
    gained : ndarray
        Cutouts plausible from a threshold down, ``(stratum, bin)``; counted in place.
    """
    strata, bins = gained.shape
    for i in range(len(column)):
        with_it = np.uint16(passes[i] | bits)
        if allowed[with_it]:
            stratum = cell[i] % strata
            if allowed[np.uint16(with_it ^ bits)]:
                always[stratum] += 1
            elif column[i] == column[i]:  # not NaN
                gained[stratum, min(max(int(column[i] * bins), 0), bins - 1)] += 1
