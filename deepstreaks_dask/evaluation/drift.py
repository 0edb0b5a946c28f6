"""Change of score distributions from night to night."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import kstwobign

PSI_NOTABLE = 0.1
DRIFT_LEVEL = 1e-3
"""A night is flagged if Kolmogorov and Smirnov's test rejects at this level over the number of nights *and*
its population stability index reaches :data:`PSI_NOTABLE`: neither chance nor a trifle."""
DRIFT_BINS, FINE_BINS_PER_DRIFT_BIN = (
    10,
    6,
)  # nights are compared at tenths for stability, six times as finely for KS


def night_drift(nights: np.ndarray, counts: np.ndarray) -> pd.DataFrame:
    """Stability index and Kolmogorov-Smirnov distance of each night's counts from all the others'."""
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
