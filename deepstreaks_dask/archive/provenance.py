"""Tell simulated rows from observed ones."""

from __future__ import annotations

import numpy as np
import xarray as xr

SIMULATED_KINDS = frozenset(
    ("nea", "satellite", "tumbler", "cosmic_ray", "dipole", "ghost", "bleed", "mask_edge", "noise")
)
"""Kinds that the simulator writes into the column ``kind``."""

_CHECKED_ROWS = 64


def begins_simulated(archive: xr.Dataset) -> bool:
    """Say whether the simulator is the source of any of the first rows: quick, where :func:`simulated` reads them all."""
    return any(
        str(source).startswith("simulation") for source in archive["source"][:_CHECKED_ROWS].values
    )


def simulated(kinds: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Tell the cutouts that bear the simulator's marks: its name as their source, or its kinds.

    Three kinds of the simulator's and none of anyone else's are taken for its marks; a person who sorts real
    cutouts is unlikely to name them so.

    Parameters
    ----------
    kinds, sources : ndarray
        Columns ``kind`` and ``source`` of a whole archive, str ``(cutout,)``.

    Returns
    -------
    ndarray
        bool ``(cutout,)``.
    """
    by_source = np.strings.startswith(sources.astype(np.dtypes.StringDType()), "simulation")
    known = set(kinds.tolist()) - {""}
    by_kind = len(known) >= 3 and known <= SIMULATED_KINDS
    return by_source | ((kinds != "") & by_kind)
