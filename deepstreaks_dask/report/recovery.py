"""A page with the map of recovered injections."""

from __future__ import annotations

import os

import pandas as pd
import xarray as xr

from deepstreaks_dask.evaluation.metrics import rate


def write_map(decided: xr.Dataset, table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write the maps of what was recovered as one HTML page.

    Parameters
    ----------
    decided : xarray.Dataset
        As for :func:`recovery`.
    table : pandas.DataFrame
        What :func:`recovery` gave.
    path : str or path
        The file to write.
    """
    from deepstreaks_dask import plots  # the drawing libraries take a second to import
    from deepstreaks_dask.report.html import chart_item, write_page

    chance = table[table["mag"].isna() & (table["which"] == "decision")]
    counted = rate(int(chance["recovered"].sum()), int(chance["total"].sum()))
    names = list(dict.fromkeys(table["which"]))
    streaks = table[table["mag"].notna()]
    write_page(
        "recovery.html.j2",
        path,
        name=str(decided.attrs["url"]).rstrip("/").rsplit("/", 1)[-1],
        run=decided.attrs["run"],
        total=int(streaks.loc[streaks["which"] == "decision", "total"].sum()),
        chance=f"{counted}, {counted.count:,} of {counted.total:,}",
        maps=[chart_item(plots.recovery_map(table, name)) for name in names],
        rows=streaks.to_dict("records"),
    )
