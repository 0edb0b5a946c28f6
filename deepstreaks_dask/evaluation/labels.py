"""Labels of plausibility and of families, from an archive and from reviewers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from deepstreaks_dask.vocabulary import DECIDING_FAMILIES, FAMILIES, ONE_SHOT_FAMILY, label_column


def plausibility_labels(dataset: xr.Dataset) -> np.ndarray:
    """Say which cutouts are truly plausible: 1, 0, or -1 for unknown.

    ``label_os`` where it is known; else what the three families' labels imply: all of them positive, or any
    of them negative.

    Parameters
    ----------
    dataset : xarray.Dataset
        With ``label_<family>(cutout,)``: 1, 0, or -1.

    Returns
    -------
    ndarray
        int8 ``(cutout,)``.
    """
    parts = np.stack([family_labels(dataset, part) for part in DECIDING_FAMILIES])
    implied = np.where((parts == 0).any(axis=0), 0, np.where((parts == 1).all(axis=0), 1, -1))
    known = family_labels(dataset, ONE_SHOT_FAMILY)
    return np.where(known >= 0, known, implied).astype(np.int8)


def family_labels(dataset: xr.Dataset, family: str) -> np.ndarray:
    """Return a family's labels.

    Parameters
    ----------
    dataset : xarray.Dataset
        With ``label_<family>(cutout)`` where the archive has such a column.
    family : str
        Such as ``rb``.

    Returns
    -------
    ndarray
        1, 0, or -1 for unknown, int8 ``(cutout,)``.
    """
    name = label_column(family)
    if name in dataset:
        return dataset[name].values
    return np.full(dataset.sizes["cutout"], -1, np.int8)


def settled_labels(decided: xr.Dataset) -> np.ndarray:
    """Return what is truly plausible, unknown where a missing score leaves the decision open.

    Parameters
    ----------
    decided : xarray.Dataset
        As :meth:`~deepstreaks_dask.scoring.decision.Decision.apply` gives it, with ``undecided(cutout)``.

    Returns
    -------
    ndarray
        1, 0, or -1 for unknown, ``(cutout,)``.
    """
    return np.where(decided["undecided"].values, -1, plausibility_labels(decided))


def with_labels(dataset: xr.Dataset, labels: pd.DataFrame) -> xr.Dataset:
    """Lay people's labels over an archive's, for training and evaluation.

    Parameters
    ----------
    dataset : xarray.Dataset
        As :func:`~deepstreaks_dask.archive.dataset.open_archive` or
        :func:`~deepstreaks_dask.scoring.runs.open_run` gives it.
    labels : DataFrame
        As :meth:`Review.labels` gives it.

    Returns
    -------
    xarray.Dataset
        The same, with ``label_<family>(cutout)`` replaced where people have said something that they agree on. What
        they dispute stays as the archive had it.
    """
    at = pd.Index(dataset["id"].values).get_indexer(labels.index)
    there = at >= 0
    changed = {}
    for family in FAMILIES:
        name = label_column(family)
        values = dataset[name].values.copy()
        said = labels[name].to_numpy()[there]
        values[at[there][said >= 0]] = said[said >= 0]
        changed[name] = (dataset[name].dims, values, dataset[name].attrs)
    return dataset.assign_coords(changed)
