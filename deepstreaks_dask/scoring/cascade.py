"""The exact cascade: the same plausible set for a third of the work.

A cutout is plausible if in each family at least one member reaches its threshold. So a family that has no
passing member ends the matter, and a member that passes spares the rest of its family. Members are run one by
one on those cutouts only whose decision is still open, in the order that made a sample cheapest. That most are rejected
by the first who look is the idea of Viola and Jones (2001, Proc. CVPR 1, 511); the rule is that of Duev et al. (2019).

The decision is that of all scores, for the thresholds given beforehand, by construction: a cutout is left
only when no score that is missing could change it. That holds for scores as members give them one by one, always in
batches of one shape. With TensorFlow on CPUs these are the scores of full scoring to the last bit, which is tested. A
device whose kernels round otherwise where networks run together can put a score that is so near a threshold on its
other side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

Order = tuple[tuple[int, ...], ...]
"""Columns of the members, family by family, in the order in which they look."""

Look = Callable[[np.ndarray], np.ndarray]
"""One member: cutouts (n, y, x) to scores (n,)."""


@dataclass(frozen=True)
class Cascade:
    """How members look one after the other: each one's threshold, and the order."""

    limits: tuple[float, ...]
    order: Order


def cheapest_order(
    scores: np.ndarray,
    limits: np.ndarray,
    families: Mapping[str, Sequence[int]],
    costs: Sequence[float],
) -> Order:
    """Find the order of families, and of members in each, that would have made a sample cheapest.

    Parameters
    ----------
    scores : ndarray
        Complete scores of the sample, float32 (cutout, member).
    limits : ndarray
        Threshold of each member, float32 (member,).
    families : mapping of str to sequence of int
        Columns of each family's members.
    costs : sequence of float
        Cost of a look of each member, in any unit.

    Returns
    -------
    Order

    Notes
    -----
    Members of one family agree far more often than chance, so the rule for independent tests (rank by
    probability over cost) does not hold; the sample itself is asked. Every order of the families is tried. The order
    of members can be chosen for each family by itself, since who leaves a family depends on its members alone.
    """
    passes = scores >= limits
    unit = np.asarray(costs, np.float64)
    columns = [tuple(members) for members in families.values()]
    survives = [passes[:, list(members)].any(axis=1) for members in columns]
    best_cost, best = np.inf, tuple(columns)
    for order in permutations(range(len(columns))):
        reach = np.ones(len(scores), bool)
        total, chosen = 0.0, []
        for family in order:
            cost, members = _cheapest_members(passes[reach], columns[family], unit)
            total += cost
            chosen.append(members)
            reach &= survives[family]
        if total < best_cost:
            best_cost, best = total, tuple(chosen)
    return best


def _cheapest_members(
    passes: np.ndarray, members: tuple[int, ...], unit: np.ndarray
) -> tuple[float, tuple[int, ...]]:
    options = []
    for order in permutations(members):
        waiting = np.ones(len(passes), bool)
        cost = 0.0
        for member in order:
            cost += unit[member] * waiting.sum()
            waiting &= ~passes[:, member]
        options.append((cost, order))
    return min(options)


def run_cascade(
    cutouts: np.ndarray, looks: Sequence[Look], limits: np.ndarray, order: Order
) -> np.ndarray:
    """Score cutouts until their decision is fixed.

    Parameters
    ----------
    cutouts : ndarray
        (cutout, y, x).
    looks : sequence of callable
        Each member as a function of cutouts; called with those only that still need it.
    limits : ndarray
        Threshold of each member, float32 (member,).
    order : Order
        As :func:`cheapest_order` gives it. Members that it leaves out look at nothing.

    Returns
    -------
    ndarray
        float32 (cutout, member), NaN where a member did not look.
    """
    scores = np.full((len(cutouts), len(looks)), np.nan, np.float32)
    open_ = np.arange(len(cutouts))
    for family in order:
        waiting = open_
        for member in family:
            if not len(waiting):
                break
            scores[waiting, member] = looks[member](cutouts[waiting])
            waiting = waiting[~(scores[waiting, member] >= limits[member])]
        open_ = np.setdiff1d(open_, waiting, assume_unique=True)
    return scores
