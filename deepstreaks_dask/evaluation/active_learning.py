"""How far members agree, how sure they are, and which cutouts a person's verdict would teach most.

Members of a family answer the same question, so that where they differ the networks do not know (query by committee;
Seung, Opper and Sompolinsky 1992, COLT, 287). Where all are near one half they know that they do not know: the entropy of
their mean (uncertainty sampling; Lewis and Gale 1994, SIGIR, 3). Scores are probabilities only once they are calibrated
(:mod:`~deepstreaks_dask.evaluation.calibration`).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import xlogy

from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.decision_metrics import joint_scores
from deepstreaks_dask.evaluation.labels import plausibility_labels
from deepstreaks_dask.scoring.decision import Decision, family_of

ORDERS = ("entropy", "spread", "margin")
"""What a queue can be ordered by."""


def columns_of(members: Iterable[str]) -> list[str]:
    """Name the columns that :func:`with_agreement` adds."""
    families = dict.fromkeys(map(family_of, members))
    return [f"{family}_{what}" for family in families for what in ("spread", "entropy")] + [*ORDERS]


def with_agreement(decided: xr.Dataset, decision: Decision) -> xr.Dataset:
    """Add columns that say how far members agree, for filters and queues.

    Parameters
    ----------
    decided : xarray.Dataset
        As :meth:`~deepstreaks_dask.scoring.decision.Decision.apply` gives it.
    decision : Decision
        Which families decide, and their thresholds.

    Returns
    -------
    xarray.Dataset
        With ``<family>_spread``, the highest score of a member less the lowest (NaN where fewer than two have looked),
        ``<family>_entropy``, that of the members' mean score in bits, ``spread``, the largest of the deciding families',
        ``entropy``, that of the product of their means in bits (the chance that the cutout is plausible, were families
        independent), and ``margin``, how far the joint score is from its threshold; all float32 ``(cutout,)``, NaN where
        nobody has looked.
    """
    members = [str(name) for name in decided["model"].values]
    values = decided["scores"].values.astype(np.float64)
    columns: dict[str, np.ndarray] = {}
    deciding = decision.needed(members)
    together = np.ones(len(values))
    spreads = []
    for family in dict.fromkeys(family_of(member) for member in members):
        own = values[:, [family_of(member) == family for member in members]]
        looked = (~np.isnan(own)).sum(axis=1)
        with np.errstate(invalid="ignore"):
            mean = np.where(looked > 0, np.nansum(own, axis=1) / looked, np.nan)
        high, low = np.fmax.reduce(own, axis=1), np.fmin.reduce(own, axis=1)
        spread = np.where(looked > 1, high - low, np.nan)
        columns[f"{family}_spread"], columns[f"{family}_entropy"] = spread, _entropy(mean)
        if family in deciding:
            together = together * mean
            spreads.append(spread)
    columns["spread"] = np.fmax.reduce(spreads, axis=0)
    columns["entropy"] = _entropy(together)
    limits = decision.limits(members)
    above = xr.DataArray(values - limits, dims=("cutout", "model"))
    columns["margin"] = np.abs(_weakest(decided.assign(scores=above), list(deciding)))
    return decided.assign_coords(
        {name: ("cutout", column.astype(np.float32)) for name, column in columns.items()}
    )


def queue(
    decided: xr.Dataset,
    decision: Decision,
    *,
    by: str = "entropy",
    most: int = 100,
    passing: np.ndarray | None = None,
) -> pd.DataFrame:
    """List the cutouts without a verdict in the order in which one would teach most.

    Parameters
    ----------
    decided : xarray.Dataset
        As :func:`with_agreement` gives it.
    decision : Decision
        That it was decided by.
    by : str
        ``entropy``: the least sure first; ``spread``: where members differ most; ``margin``: nearest to the thresholds.
    most : int
        How many.
    passing : array of bool, optional
        ``(cutout,)``: which may be in it.

    Returns
    -------
    pandas.DataFrame
        ``id, night, entropy, spread, margin, joint`` and ``plausible``; what is labelled, or not scored, is left out.

    Raises
    ------
    DeepStreaksError
        If there is no such order, or no family has two members to differ.
    """
    if by not in ORDERS:
        raise DeepStreaksError(f"no order {by!r}: choose one of {', '.join(ORDERS)}")
    values = decided[by].values
    if by == "spread" and np.isnan(values).all():
        raise DeepStreaksError("no family has two members that could differ: order by entropy")
    open_rows = (plausibility_labels(decided) < 0) & ~np.isnan(values)
    if passing is not None:
        open_rows &= passing
    rows = np.flatnonzero(open_rows)
    sign = 1 if by == "margin" else -1
    rows = rows[np.argsort(sign * values[rows], kind="stable")][:most]
    frame = pd.DataFrame({name: decided[name].values[rows] for name in ("id", "night", *ORDERS)})
    return frame.assign(
        joint=joint_scores(decided)[rows], plausible=decided["plausible"].values[rows]
    )


def _weakest(decided: xr.Dataset, families: list[str]) -> np.ndarray:
    """Give the lowest, over some families, of their best member's value."""
    members = [family_of(str(name)) for name in decided["model"].values]
    values = decided["scores"].values
    best = [
        np.fmax.reduce(values[:, [own == family for own in members]], axis=1) for family in families
    ]
    weakest: np.ndarray = np.min(best, axis=0)
    return weakest


def _entropy(share: np.ndarray) -> np.ndarray:
    """Entropy in bits of a share and its complement."""
    bits: np.ndarray = -(xlogy(share, share) + xlogy(1 - share, 1 - share)) / np.log(2)
    return bits
