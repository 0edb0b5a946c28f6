"""Recovery rate of injected streaks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from deepstreaks_dask.errors import InjectionError
from deepstreaks_dask.evaluation.metrics import wilson
from deepstreaks_dask.scoring.decision import family_of
from deepstreaks_dask.simulation.injection import CONTROL_KIND


def recovery(decided: xr.Dataset) -> pd.DataFrame:
    """Count what is found again of injected streaks.

    Parameters
    ----------
    decided : xarray.Dataset
        A scored archive of :func:`inject`, as :meth:`~deepstreaks_dask.scoring.decision.Decision.apply` gives it.

    Returns
    -------
    pandas.DataFrame
        ``which`` (``"decision"`` or a family), ``mag``, ``length``, ``total``, ``recovered``, ``share`` and its 95 % Wilson
        interval ``low``, ``high``. The rows whose ``mag`` is NaN are of cutouts without a streak.

    Raises
    ------
    InjectionError
        If it holds no injected streaks.
    """
    kinds = decided["kind"].values.astype(object)
    sources = pd.Series(decided["source"].values.astype(object))
    injected = sources.str.startswith("simulation: injected").to_numpy(bool)
    if not injected.any():
        raise InjectionError(
            "the archive holds no injected streaks: make one with 'deepstreaks inject'"
        )
    frame = pd.DataFrame(
        {
            name: np.where(kinds == CONTROL_KIND, np.nan, decided[name].values.astype(float)).round(
                4
            )
            for name in ("mag", "length")
        }
    )
    settled = injected & ~decided["undecided"].values
    members = [family_of(str(member)) for member in decided["model"].values]
    missing = np.isnan(decided["scores"].values)
    passes = {"decision": (decided["plausible"].values, settled)}
    for k, name in enumerate(decided["family"].values):
        blind = missing[:, [member == name for member in members]].all(axis=1)
        passes[str(name)] = (decided["family_pass"].values[:, k], injected & ~blind)
    tables = []
    for which, (passed, counted) in passes.items():
        grouped = (
            frame.assign(passed=passed)[counted]
            .groupby(["mag", "length"], dropna=False)["passed"]
            .agg(total="size", recovered="sum")
            .reset_index()
        )
        tables.append(grouped.assign(which=which))
    table = pd.concat(tables, ignore_index=True).astype({"recovered": int})
    low, high = wilson(table["recovered"].to_numpy(), table["total"].to_numpy())
    table = table.assign(share=table["recovered"] / table["total"], low=low, high=high)
    return table[["which", "mag", "length", "total", "recovered", "share", "low", "high"]]
