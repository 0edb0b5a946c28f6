"""Whether simulated exposures are like real ones: noise, seeing and signal-to-noise ratio, as told and as measured.

What a log tells of exposures stands in an archive's columns along ``epoch``; what the stamps say is measured on them
without these. Where both agree the simulation does what its log says. Whether the log is that of a real survey is seen
only beside an archive of that survey's own stamps.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from photutils.psf import fit_fwhm
from scipy.stats import ks_2samp

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.provenance import begins_simulated
from deepstreaks_dask.archive.schema import EPOCHS
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.photometry.core import MOFFAT_BETA, measure
from deepstreaks_dask.utils.progress import progress_bar

STATISTIC_LABELS = {
    "noise": ("Noise of an empty pixel", "counts (ADU)"),
    "fwhm": ("Seeing: full width at half maximum of the PSF", "pixels"),
    "snr": ("Signal-to-noise ratio of the object", "log10 of the ratio"),
}
"""What is compared: a title and a unit each."""

_NO_POINTS = "asteroid", "galaxy"  # the one leaves the stamp, the other is wider than the PSF
_MAX_FAINT_SNR = (
    30.0  # signal-to-noise ratio: up to it a single stamp tells its noise, from it its seeing
)
_MAX_FITTED_STAMPS = 400  # stamps whose PSF is fitted: some milliseconds each
_STAMPS_PER_BLOCK = 2048  # stamps that are read at once


@dataclass(frozen=True)
class Exposures:
    """What is known of some exposures: by ``told`` from the columns, by ``measured`` from the stamps.

    Both have values ``(stamp,)`` by quantity.
    """

    name: str
    stamps: int
    simulated: bool
    told: dict[str, np.ndarray]
    measured: dict[str, np.ndarray]


@dataclass(frozen=True)
class ExposureComparison:
    """Exposures of several archives.

    Attributes
    ----------
    sources : tuple of Exposures
    table : pandas.DataFrame
        ``quantity, archive, by, stamps, median, low, high, distance``: the middle 68 % of each distribution, and its
        Kolmogorov-Smirnov distance from the first archive's measured one, NaN where there is none.
    """

    sources: tuple[Exposures, ...]
    table: pd.DataFrame

    def groups(self, quantity: str) -> dict[str, np.ndarray]:
        """Give the values ``(stamp,)`` of a quantity by archive and by who says so, for a picture."""
        return {
            f"{one.name}, {by}": values[quantity]
            for one in self.sources
            for by, values in (("measured", one.measured), ("told", one.told))
            if np.isfinite(values[quantity]).any()
        }


def look_at(
    archive: str | os.PathLike[str], *, most: int = 20_000, seed: int = 0, progress: bool = False
) -> Exposures:
    """Measure exposures of an archive of sequences, and read what its columns tell of them.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    most : int
        Stamps that are looked at, drawn at random where there are more.
    seed : int
        Of that draw.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Exposures
        Counts (ADU), pixels, and the logarithm of the ratio; NaN where not known. The seeing is measured on the
        stamps whose object is bright and whose width a point source could have, the noise on the others: the wings of what
        is bright, and the galaxy beneath a supernova, reach all of a stamp. Objects that are known for asteroids
        or galaxies are left out of seeing and ratio.

    Raises
    ------
    DeepStreaksError
        If it holds no sequences.
    """
    dataset = open_archive(archive, cache=True)
    if "epoch" not in dataset.sizes or not dataset.sizes["epoch"]:
        raise DeepStreaksError(f"{archive} holds no sequences: name an archive of these")
    total = dataset.sizes["epoch"]
    rng = np.random.default_rng(seed)
    blocks = np.arange(0, total, _STAMPS_PER_BLOCK)
    if total > most:  # whole blocks are read, so whole blocks are drawn
        blocks = np.sort(rng.choice(blocks, -(-most // _STAMPS_PER_BLOCK), replace=False))
    columns = {
        name: dataset[name].values if name in dataset else np.full(total, column.missing)
        for name, column in {**EPOCHS, "true_mag": EPOCHS["zero_point"]}.items()
        if column.dtype != "string"
    }
    kinds = dataset["kind"].values.astype(object).astype(str)
    point = np.repeat(~np.isin(kinds, _NO_POINTS), dataset["epochs"].values)
    parts: list[list[np.ndarray]] = []
    with progress_bar(
        "measure", len(blocks) * _STAMPS_PER_BLOCK, unit="stamps", show=progress
    ) as bar:
        for first in blocks:
            rows = slice(int(first), min(int(first) + _STAMPS_PER_BLOCK, total))
            stamps = np.asarray(dataset["cutouts"][rows].values, np.float32)
            some = {name: values[rows] for name, values in columns.items()}
            found = [*_measured(stamps, some, point[rows]), *_told(some)]
            for ratio in (found[2], found[5]):
                ratio[~point[rows]] = np.nan
            parts.append(found)
            bar.advance(len(stamps))
    values = [np.concatenate(column) for column in zip(*parts, strict=True)]
    names = list(STATISTIC_LABELS)
    return Exposures(
        str(archive).rstrip("/").rsplit("/", 1)[-1],
        len(values[0]),
        begins_simulated(dataset),
        told=dict(zip(names, values[3:], strict=True)),
        measured=dict(zip(names, values[:3], strict=True)),
    )


def compare_exposures(sources: Sequence[Exposures]) -> ExposureComparison:
    """Compare exposures, the first archive's with all others'.

    Parameters
    ----------
    sources : sequence of Exposures
        One at least.

    Returns
    -------
    Comparison
        A row a quantity and archive.
    """
    rows = []
    for quantity in STATISTIC_LABELS:
        first = _finite(sources[0].measured[quantity])
        for one in sources:
            for by, found in (("measured", one.measured), ("told", one.told)):
                values = _finite(found[quantity])
                if not len(values):
                    continue
                own = one is sources[0] and by == "measured"
                distance = np.nan
                if len(first) and not own:
                    distance = float(ks_2samp(first, values).statistic)
                low, middle, high = np.percentile(values, [16, 50, 84])
                rows.append((quantity, one.name, by, len(values), middle, low, high, distance))
    columns = ["quantity", "archive", "by", "stamps", "median", "low", "high", "distance"]
    return ExposureComparison(tuple(sources), pd.DataFrame(rows, columns=columns))


def _measured(
    stamps: np.ndarray, columns: dict[str, np.ndarray], point: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise, seeing and signal-to-noise ratio from the stamps; of the columns only the width that a fit takes."""
    found = measure(stamps, {"fwhm": columns["fwhm"], "gain": columns["gain"]})
    # without a read noise the noise is the sky's scatter, not what the columns would make it
    ratio = np.where(found.psf.snr > 0, found.psf.snr, np.nan)
    widths = np.full(len(stamps), np.nan)
    share = max(1, int(_MAX_FITTED_STAMPS * len(stamps) / 20_000))
    whole = np.isfinite(stamps).all(axis=(1, 2)) & (ratio > _MAX_FAINT_SNR) & point
    middle = (stamps.shape[1] - 1) / 2
    for row in np.flatnonzero(whole)[: max(share, 8)]:
        width = float(
            fit_fwhm(
                stamps[row].astype(float) - found.sky[row],
                xypos=[(middle, middle)],
                fwhm=found.fwhm[row],
                fit_shape=13,
            )[0]
        )
        widths[row] = width if 0.3 < width < 12 else np.nan
    noise = np.where(ratio > _MAX_FAINT_SNR, np.nan, found.noise)
    return noise, widths, np.log10(ratio)


def _told(columns: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give the same from the columns alone; the ratio of simulated objects only, whose magnitude is known."""
    sky, gain, read = (np.asarray(columns[name], float) for name in ("sky", "gain", "read_noise"))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        variance = np.clip(sky, 0, None) * gain + read**2  # electrons
        noise = np.sqrt(variance) / gain
        fwhm = np.asarray(columns["fwhm"], float)
        light = gain * 10 ** (
            0.4 * (columns["zero_point"] - np.asarray(columns["true_mag"], float))
        )
        # pixels of sky whose noise is that of PSF photometry (King 1983, PASP 95, 163)
        alpha = fwhm / (2 * np.sqrt(2 ** (1 / MOFFAT_BETA) - 1))
        area = np.pi * alpha**2 * (2 * MOFFAT_BETA - 1) / (MOFFAT_BETA - 1) ** 2
        ratio = light / np.sqrt(light + variance * area)
        return noise, fwhm, np.log10(np.where(ratio > 0, ratio, np.nan))


def _finite(values: np.ndarray) -> np.ndarray:
    known: np.ndarray = values[np.isfinite(values)]
    return known
