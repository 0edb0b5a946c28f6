"""Stretch floating-point pixels to 8-bit cutouts."""

from __future__ import annotations

from math import isfinite

import numpy as np
from astropy.stats import sigma_clipped_stats
from astropy.visualization import BaseInterval, LinearStretch, ZScaleInterval

from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.fits_checks import UnreadableError


class SigmaInterval(BaseInterval):
    """From ``below`` standard deviations under the background to ``above`` over it.

    Background and deviation are the sigma-clipped median and standard deviation; 2.5 and 10 are what the real
    ZTF cutouts at hand show, and what the simulation gives.

    Parameters
    ----------
    below, above : float
        Standard deviations of the background.
    """

    def __init__(self, below: float = 2.5, above: float = 10.0) -> None:
        self.below, self.above = below, above

    def get_limits(self, values: np.ndarray) -> tuple[float, float]:
        """Give the ends of the interval, in the units of ``values``, an image ``(y, x)``."""
        _, median, sigma = sigma_clipped_stats(values)
        return median - self.below * sigma, median + self.above * sigma


STRETCHES: dict[str, BaseInterval] = {
    "linear(-2.5 sigma, +10 sigma)": SigmaInterval(),
    "zscale": ZScaleInterval(),
}
"""Intervals that are mapped linearly to 255 (their lower end) … 0, by the name that ``source`` records."""

ZTF_STRETCH = next(iter(STRETCHES))


def check_stretch(name: str) -> None:
    """Refuse a stretch that there is none of.

    Parameters
    ----------
    name : str
        Of a stretch.

    Raises
    ------
    ReaderError
        Names those there are.
    """
    if name not in STRETCHES:
        raise ReaderError(f"no stretch {name!r}: choose one of {', '.join(map(repr, STRETCHES))}")


def develop(data: np.ndarray, stretch: str = ZTF_STRETCH, *, top_first: bool = False) -> np.ndarray:
    """Turn measured pixels into a grey picture, sources dark on light grey as the networks know them.

    Parameters
    ----------
    data : ndarray
        ``(height, width)``, any number type, the first row at the bottom of the sky as FITS has it.
        What is not finite is masked.
    stretch : str
        One of :data:`STRETCHES`.
    top_first : bool
        The first row is at the top already.

    Returns
    -------
    ndarray
        uint8 ``(height, width)``, the first row at the top. Masked pixels are as grey as the background.

    Raises
    ------
    UnreadableError
        If there is no pixel with a number, or all have the same.
    """
    values = np.asarray(data, dtype=np.float64)
    known = np.isfinite(values)
    if not known.any():
        raise UnreadableError("blank", "no pixel holds a number")
    with np.errstate(all="ignore"):
        low, high = STRETCHES[stretch].get_limits(values[known])
        if not (isfinite(low) and isfinite(high) and isfinite(high - low) and high > low):
            raise UnreadableError("blank", "the pixels are all alike, or beyond all measure")
        filled = np.where(known, values, np.median(values[known]))
        grey = LinearStretch(slope=-1, intercept=1)((filled - low) / (high - low), clip=True)
    painted = np.rint(255 * grey).astype(np.uint8)
    return painted if top_first else np.flipud(painted)
