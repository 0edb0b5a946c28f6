"""Rows of a catalogue as candidates to export."""

from __future__ import annotations

import numpy as np
import pandas as pd

from deepstreaks_dask.export.candidates import candidate_table
from deepstreaks_dask.review.catalogue import Catalogue


def candidate_rows(catalogue: Catalogue, rows: np.ndarray) -> pd.DataFrame:
    """Return rows of a catalogue as a table of candidates, whether plausible or not.

    Parameters
    ----------
    catalogue : Catalogue
        The catalogue of a run.
    rows : ndarray
        int ``(n,)``.

    Returns
    -------
    DataFrame
        ``(n,)`` rows with the columns of :func:`~deepstreaks_dask.export.candidates.candidate_table`. The column
        ``simulated`` is that of the catalogue, since rows alone do not tell it.
    """
    chosen = catalogue.decided.isel(cutout=rows)
    frame = candidate_table(chosen.assign(plausible=("cutout", np.ones(len(rows), bool))))
    return frame.assign(simulated=catalogue.simulated[rows])
