"""Attributes that netCDF has types for, and the structured values that they hold as JSON.

NetCDF and CF know numbers and text. Tables, truth values and "none" are stored together as one JSON text, so that a
dataset can be written with :meth:`xarray.Dataset.to_netcdf` and read again as it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import xarray as xr

PROVENANCE_ATTRIBUTE = "provenance"
"""Name of the attribute that holds all structured values as JSON."""


def encode_attributes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes that netCDF can hold.

    Parameters
    ----------
    values : mapping of str to Any
        Whatever JSON can hold.

    Returns
    -------
    dict
        Numbers and text as they are, all others as one JSON text under :data:`PROVENANCE_ATTRIBUTE`.
    """
    plain = {
        name: value
        for name, value in values.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    }
    structured = {name: value for name, value in values.items() if name not in plain}
    return {**plain, **({PROVENANCE_ATTRIBUTE: json.dumps(structured)} if structured else {})}


def provenance_of(dataset: xr.Dataset) -> dict[str, Any]:
    """Return what an archive or a run says of itself.

    Parameters
    ----------
    dataset : xarray.Dataset
        As :func:`~deepstreaks_dask.archive.dataset.open_archive` or
        :func:`~deepstreaks_dask.scoring.runs.open_run` returns it, or as read from a netCDF file.

    Returns
    -------
    dict
        The attributes, and the structured values among them: of a run ``members``, ``models``, ``failures``,
        ``decided``, ``triage`` and others.
    """
    plain = dict(dataset.attrs)
    return {**json.loads(plain.pop(PROVENANCE_ATTRIBUTE, "{}")), **plain}
