"""Completeness against objects that are known to have been there.

Duev et al. (2019, MNRAS 486, 4158, arXiv:1904.05920) counted 202 of 210 streaks of known near-Earth asteroids. A table says
what was where and when; a cutout within a radius and a time of it is taken for it. Known objects are brighter than those
that are not known, so that this is the completeness for their kind of streaks only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import astropy.units as u
import numpy as np
import pandas as pd
import xarray as xr
from astropy.coordinates import SkyCoord, search_around_sky

from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.evaluation.metrics import Estimate, rate
from deepstreaks_dask.readers.tables import read_frame
from deepstreaks_dask.utils.storage import local_copy

_SECONDS_PER_DAY = 86400.0


@dataclass(frozen=True)
class Completeness:
    """What became of known objects.

    Attributes
    ----------
    table : pandas.DataFrame
        A row an object, in the table's order: ``id, jd, ra, dec``, ``cutout`` (id of the nearest that matches, plausible
        ones first; empty if none), ``separation`` (arcsec), ``seconds``, ``plausible``, ``undecided``.
    cut_out : Estimate
        Share of the objects of which there is a cutout: the streak finder's.
    plausible : Estimate
        Share of those with a decided cutout that are plausible: the networks', the 202 of 210.
    recovered : Estimate
        Share of all objects that are plausible; those not decided are left out.
    """

    table: pd.DataFrame
    cut_out: Estimate
    plausible: Estimate
    recovered: Estimate


def read_known(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table of known objects: ``id``, ``jd`` (UTC), ``ra`` and ``dec`` (degrees, J2000), a row an exposure.

    Parameters
    ----------
    path : str or path
        CSV, Parquet or ECSV, or a URL of one.

    Returns
    -------
    pandas.DataFrame
        ``id``, ``jd``, ``ra``, ``dec``, a row an exposure.

    Raises
    ------
    ReaderError
        If it cannot be read, lacks a column, or a value is missing or impossible.
    """
    with local_copy(path) as file:
        table = read_frame(file)
    needed = ["id", "jd", "ra", "dec"]
    if missing := [name for name in needed if name not in table]:
        raise ReaderError(f"table {path} has no column {missing[0]!r}: known objects need {needed}")
    table = table[needed]
    numbers = table[["jd", "ra", "dec"]].to_numpy(float)
    bad = ~np.isfinite(numbers).all(axis=1) | (np.abs(numbers[:, 2]) > 90) | table["id"].isna()
    if bad.any():
        raise ReaderError(
            f"table {path}, row {int(np.argmax(bad)) + 1}: id, jd, ra and dec must all be known, dec within 90"
        )
    return table.reset_index(drop=True)


def completeness(
    decided: xr.Dataset, known: pd.DataFrame, *, radius: float = 10.0, seconds: float = 60.0
) -> Completeness:
    """Look for known objects among the cutouts of a decided run.

    Parameters
    ----------
    decided : xarray.Dataset
        As :meth:`~deepstreaks_dask.scoring.decision.Decision.apply` gives it, with ``jd``, ``ra`` and ``dec``.
    known : pandas.DataFrame
        As :func:`read_known` gives it.
    radius : float
        Arcseconds between the object and the middle of a streak.
    seconds : float
        Seconds between the two times, either way.

    Returns
    -------
    Completeness
        A row an exposure of a known object, and the rates.
    """
    ra, dec, jd = (decided[name].values for name in ("ra", "dec", "jd"))
    placed = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec) & np.isfinite(jd))
    plausible, undecided = decided["plausible"].values, decided["undecided"].values
    frame = known.assign(
        cutout="", separation=np.nan, seconds=np.nan, plausible=False, undecided=False
    )
    if len(placed) and len(known):
        objects = SkyCoord(known["ra"].to_numpy() * u.deg, known["dec"].to_numpy() * u.deg)
        cutouts = SkyCoord(ra[placed] * u.deg, dec[placed] * u.deg)
        mine, theirs, apart, _ = search_around_sky(objects, cutouts, radius * u.arcsec)
        rows = placed[theirs]
        late = (jd[rows] - known["jd"].to_numpy()[mine]) * _SECONDS_PER_DAY
        near = pd.DataFrame(
            {
                "object": mine,
                "row": rows,
                "separation": apart.to_value(u.arcsec),
                "seconds": late,
                "plausible": plausible[rows],
                "undecided": undecided[rows],
            }
        )
        near = near[near["seconds"].abs() <= seconds]
        order = ["plausible", "undecided", "separation"]
        near = near.sort_values(order, ascending=[False, False, True], kind="stable")
        best = near.drop_duplicates("object").set_index("object")
        frame.loc[best.index, "cutout"] = (
            decided["id"].values[best["row"].to_numpy()].astype(object)
        )
        for name in ("separation", "seconds", "plausible", "undecided"):
            frame.loc[best.index, name] = best[name]
    found, open_ones = frame["cutout"] != "", frame["undecided"]
    n_plausible = int(frame["plausible"].sum())
    return Completeness(
        frame,
        rate(int(found.sum()), len(frame)),
        rate(n_plausible, int((found & ~open_ones).sum())),
        rate(n_plausible, int((~open_ones).sum())),
    )
