"""A page with maps of the injected streaks that are recovered."""

from __future__ import annotations

import os

import pandas as pd
import xarray as xr

from deepstreaks_dask.evaluation.metrics import rate


def write_map(decided: xr.Dataset, table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write maps of the recovered share of injected streaks as one HTML page.

    Parameters
    ----------
    decided : xarray.Dataset
        Decided scores ``(cutout, model)``, as for :func:`~deepstreaks_dask.evaluation.completeness.recovery`.
    table : pandas.DataFrame
        As returned by :func:`~deepstreaks_dask.evaluation.completeness.recovery`.
    path : str or path
        The file to write, as a path or as any fsspec URL.
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
