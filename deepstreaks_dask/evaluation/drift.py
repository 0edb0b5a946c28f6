"""Change of score distributions from night to night.

A night has drifted if its scores differ from all others' by their population stability index (Siddiqi 2006, Credit Risk
Scorecards) *and* by the two-sample test of Smirnov (1948, Ann. Math. Stat. 19, 279).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import kstwobign

PSI_NOTABLE = 0.1
DRIFT_LEVEL = 1e-3
"""A night is flagged if Kolmogorov and Smirnov's test rejects at this level over the number of nights *and*
its population stability index reaches :data:`PSI_NOTABLE`: neither chance nor a trifle."""
DRIFT_BINS = 10
"""Nights are compared at tenths, where the stability index is stable."""

FINE_BINS_PER_DRIFT_BIN = 6
"""Kolmogorov and Smirnov's test takes finer bins."""


def night_drift(nights: np.ndarray, counts: np.ndarray) -> pd.DataFrame:
    """Compute the stability index and the Kolmogorov-Smirnov distance of each night from all the others.

    Parameters
    ----------
    nights : ndarray
        YYYYMMDD, ``(night,)``.
    counts : ndarray
        Cutouts ``(night, bin)``, in ``DRIFT_BINS * FINE_BINS_PER_DRIFT_BIN`` bins of equal content over all nights.

    Returns
    -------
    pandas.DataFrame
        A row a night: ``night, cutouts, psi, ks, p, flagged``; NaN where a night or all the others are empty.
    """
    others = counts.sum(0) - counts
    mine, rest = counts.sum(1), others.sum(1)
    comparable = (mine > 0) & (rest > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.cumsum(counts, 1) / mine[:, None] - np.cumsum(others, 1) / rest[:, None]
        ks = np.abs(steps).max(1)
        p = kstwobign.sf(ks * np.sqrt(mine * rest / (mine + rest)))
        # half a cutout in each tenth, that an empty one is no infinity
        share, reference = (
            (part.reshape(len(nights), DRIFT_BINS, FINE_BINS_PER_DRIFT_BIN).sum(2) + 0.5)
            / (total + 0.5 * DRIFT_BINS)[:, None]
            for part, total in ((counts, mine), (others, rest))
        )
        psi = ((share - reference) * np.log(share / reference)).sum(1)
    table = {"night": nights, "cutouts": mine}
    table |= {
        name: np.where(comparable, values, np.nan)
        for name, values in (("psi", psi), ("ks", ks), ("p", p))
    }
    unlikely = table["p"] < DRIFT_LEVEL / max(len(nights), 1)
    return pd.DataFrame(table | {"flagged": unlikely & (table["psi"] >= PSI_NOTABLE)})
