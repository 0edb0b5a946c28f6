"""Features of light curves: numbers that tell kinds of variability apart, for a forest of trees.

They are those of the library light-curve (Malanchev et al. 2021, MNRAS 502, 5147), which says what each means; why this
library is in docs/explanation/light-curves.md. Variable stars are described by their magnitudes, transients by fluxes,
which are there where nothing is detected, too: each band has both. What a light curve is too short for is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import light_curve as lc
import numpy as np

from deepstreaks_dask.archive.sequences import Sequences
from deepstreaks_dask.photometry.core import ZERO_POINT, Photometry, measure, measured_fwhm

DETECTION_SNR = 3.0
"""Signal-to-noise ratio from which an exposure has a magnitude."""

METHODS = "psf", "aperture"
"""Whose fluxes a light curve may be made of."""

_MIN_POINTS = 4  # points that a light curve's shape takes
_MAX_FREQUENCY = 5.0  # cycles a day that are looked for: RR Lyrae and contact binaries
_FREQUENCIES = 2**13  # of the periodogram: fine enough for a season
_COUNT_FEATURES = "epochs", "detections", "detected_share", "brightest", "longest_gap", "duration"


def measure_objects(sequences: Sequences) -> Photometry:
    """Measure all stamps of some objects; one whose seeing nobody knows has it measured on its stamps.

    Parameters
    ----------
    sequences : Sequences

    Returns
    -------
    Photometry
        Of all epochs, object after object, as :func:`~deepstreaks_dask.photometry.core.measure` returns it.
    """
    fwhm = np.asarray(sequences.epochs["fwhm"], float).copy()
    for start, end in zip(sequences.starts, sequences.ends, strict=True):
        mine = fwhm[start:end]
        if not np.isfinite(mine).all():
            known = mine[np.isfinite(mine)]
            usual = np.median(known) if len(known) else measured_fwhm(sequences.stamps[start:end])
            mine[~np.isfinite(mine)] = usual
    return measure(sequences.stamps, {**sequences.epochs, "fwhm": fwhm})


def feature_names(bands: Sequence[str]) -> list[str]:
    """Return the names of the columns of :func:`extract`.

    Parameters
    ----------
    bands : sequence of str
        Filters, in the order of their columns.

    Returns
    -------
    list of str
        A name a column.
    """
    names = [*_COUNT_FEATURES]
    names += [f"mag_{name}" for name in _of_magnitudes().names]
    names += [f"flux_{name}" for name in _of_fluxes().names]
    each = [f"{band}_{name}" for band in bands for name in names]
    return each + [f"{a}-{b}" for a, b in pairwise(bands)]


def extract(sequences: Sequences, bands: Sequence[str], method: str = "psf") -> np.ndarray:
    """Compute the features of objects.

    Parameters
    ----------
    sequences : Sequences
        Their stamps, and the columns of their epochs.
    bands : sequence of str
        Filters that are looked at; one that an object has no epochs in gives NaN.
    method : str
        One of :data:`METHODS`.

    Returns
    -------
    ndarray
        float32 ``(object, feature)``, columns named by :func:`feature_names`, NaN where there is too little to tell.
    """
    measured = getattr(measure_objects(sequences), method)
    mjd, band = np.asarray(sequences.epochs["mjd"], float), np.asarray(sequences.epochs["band"])
    known = np.isfinite(measured.flux) & (measured.flux_error > 0)
    whose = np.repeat(np.arange(len(sequences)), sequences.counts)
    blocks, medians = [], []
    for name in bands:
        here = known & (band == name)
        seen = here & (measured.snr > DETECTION_SNR)
        curves = [
            _split(whose[rows], mjd[rows], values[rows], errors[rows], len(sequences))
            for rows, values, errors in (
                (seen, measured.magnitude, measured.magnitude_error),
                (here, measured.flux, measured.flux_error),
            )
        ]
        magnitudes, fluxes = curves[0], [_scaled(*curve) for curve in curves[1]]
        counts = np.array([_counted(m, f) for m, f in zip(*curves, strict=True)])
        blocks.append(np.concatenate([counts, _shape(_of_magnitudes(), magnitudes)], axis=1))
        blocks.append(_shape(_of_fluxes(), fluxes))
        medians.append([np.median(m) if len(m) else np.nan for _, m, _ in magnitudes])
    colours = [np.subtract(a, b)[:, None] for a, b in pairwise(medians)]
    with np.errstate(over="ignore"):
        table = np.concatenate([*blocks, *colours], axis=1).astype(np.float32)
    table[~np.isfinite(table)] = np.nan
    return table


@lru_cache(maxsize=1)
def _of_magnitudes() -> Any:
    grid = np.linspace(0, 2 * np.pi * _MAX_FREQUENCY, _FREQUENCIES + 1)
    return lc.Extractor(
        lc.Amplitude(),
        lc.AndersonDarlingNormal(),
        lc.BeyondNStd(1.0),
        lc.BeyondNStd(2.0),
        lc.Cusum(),
        lc.Eta(),
        lc.EtaE(),
        lc.ExcessVariance(),
        lc.InterPercentileRange(0.05),
        lc.InterPercentileRange(0.25),
        lc.Kurtosis(),
        lc.LinearTrend(),
        lc.MagnitudePercentageRatio(0.4, 0.05),
        lc.MagnitudePercentageRatio(0.2, 0.1),
        lc.MaximumSlope(),
        lc.Median(),
        lc.MedianAbsoluteDeviation(),
        lc.MedianBufferRangePercentage(0.1),
        lc.OtsuSplit(),
        lc.PercentAmplitude(),
        lc.ReducedChi2(),
        lc.Roms(),
        lc.Skew(),
        lc.StandardDeviation(),
        lc.StetsonK(),
        lc.WeightedMean(),
        lc.Periodogram(
            peaks=2,
            freqs=grid,
            fast=True,
            normalization="standard",
            phase_features=[lc.Eta(), lc.LaflerKinmanStringLength()],
        ),
    )


@lru_cache(maxsize=1)
def _of_fluxes() -> Any:
    return lc.Extractor(
        lc.AndersonDarlingNormal(),
        lc.BazinFit("lmsder"),
        lc.BeyondNStd(2.0),
        lc.Cusum(),
        lc.Eta(),
        lc.EtaE(),
        lc.ExcessVariance(),
        lc.Kurtosis(),
        lc.LinearTrend(),
        lc.MaximumSlope(),
        lc.MedianBufferRangePercentage(0.2),
        lc.ReducedChi2(),
        lc.Skew(),
        lc.StetsonK(),
    )


def _split(
    whose: np.ndarray, mjd: np.ndarray, values: np.ndarray, errors: np.ndarray, objects: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return the light curve of each object: days since its first point, values, errors; no two points at a time."""
    ends = np.searchsorted(whose, np.arange(1, objects))
    parts = (np.split(column.astype(float), ends) for column in (mjd, values, errors))
    curves = []
    for t, m, s in zip(*parts, strict=True):
        fresh = np.diff(t, prepend=-np.inf) > 0
        days = t[fresh] - t[0] if len(t) else t
        curves.append((days, m[fresh], s[fresh]))
    return curves


def _scaled(
    days: np.ndarray, flux: np.ndarray, error: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fluxes over the highest that is sure, so that their shape counts, not how near the object is."""
    if not len(flux):
        return days, flux, error
    height = max(float(np.max(flux - error)), float(np.median(error)))
    return days, flux / height, error / height


def _counted(
    magnitudes: tuple[np.ndarray, ...], fluxes: tuple[np.ndarray, ...]
) -> tuple[float, ...]:
    """Compute the features of light curves of any length: :data:`_COUNT_FEATURES`."""
    n, seen = len(fluxes[0]), len(magnitudes[0])
    if not n:
        return (0.0, 0.0, *[np.nan] * (len(_COUNT_FEATURES) - 2))
    flux = float(np.max(fluxes[1]))
    brightest = ZERO_POINT - 2.5 * np.log10(flux) if flux > 0 else np.nan
    gap = float(np.max(np.diff(fluxes[0]), initial=0.0))
    return n, seen, seen / n, brightest, gap, float(fluxes[0][-1])


def _shape(extractor: Any, curves: Sequence[tuple[np.ndarray, ...]]) -> np.ndarray:
    """Compute the library's features of each light curve; NaN with fewer than four points or only one value."""
    table = np.full((len(curves), len(extractor.names)), np.nan)
    rows = [k for k, (_, m, _) in enumerate(curves) if len(m) >= _MIN_POINTS and np.ptp(m) > 0]
    if rows:
        # the checks are done, and threads are the campaign's to make
        table[rows] = extractor.many(
            [tuple(map(np.ascontiguousarray, curves[k])) for k in rows],
            fill_value=np.nan,
            sorted=True,
            check=False,
            n_jobs=1,
        )
    return table
