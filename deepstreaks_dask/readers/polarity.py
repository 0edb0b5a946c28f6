"""Whether sources in pictures are dark on a light sky, as the networks expect, or bright on a dark one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from deepstreaks_dask.readers.options import Polarity

_CLEAR_SCORE = 0.25
_MAX_SOURCE_SHARE = 0.25  # of the pixels: where more are far from the median, it is no sky
_LEVELS = np.arange(256)


def darkness(picture: Image.Image) -> float:
    """Compute how surely sources are dark on a light sky, from the levels of an 8-bit picture alone.

    Parameters
    ----------
    picture : PIL.Image.Image
        Mode ``L``.

    Returns
    -------
    float
        1 where they surely are, -1 where they are surely bright on a dark sky: half of it how light the sky (the
        median) is, half how much more of the picture is darker than the sky's noise than is lighter. 0 where no sky
        fills most of the picture.
    """
    counts = np.array(picture.histogram(), float)
    total = counts.sum()
    if not total:
        return 0.0
    middle = int(np.searchsorted(np.cumsum(counts), total / 2))
    away = np.abs(_LEVELS - middle)
    order = np.argsort(away, kind="stable")
    spread = away[order][np.searchsorted(np.cumsum(counts[order]), total / 2)]
    sigma = max(1.4826 * spread, 1.0)
    if counts[away > 3 * sigma].sum() > _MAX_SOURCE_SHARE * total:
        return 0.0
    return (middle - 127.5) / 255 + tails(_LEVELS, counts, middle, sigma) / 2


def tails(values: np.ndarray, weights: np.ndarray, middle: float, sigma: float) -> float:
    """Compute how much more lies far below the sky than far above it.

    Parameters
    ----------
    values, weights : ndarray
        ``(n,)`` levels, and how many pixels each has.
    middle, sigma : float
        Sky, and its standard deviation in the units of the levels (no unit).

    Returns
    -------
    float
        1 where all sources are darker than the sky, -1 where all are brighter, 0 where there are none.
    """
    below = float((np.clip(middle - 3 * sigma - values, 0, None) * weights).sum())
    above = float((np.clip(values - middle - 3 * sigma, 0, None) * weights).sum())
    return (below - above) / (below + above) if below + above > 0 else 0.0


def agree(scores: Sequence[float]) -> tuple[Polarity, bool]:
    """Decide for many pictures at once.

    Parameters
    ----------
    scores : sequence of float
        As :func:`darkness` returns them.

    Returns
    -------
    str
        ``dark`` or ``bright``; ``dark``, as ZTF draws them, where that is not clear.
    bool
        Whether it is clear.
    """
    score = float(np.median(scores)) if len(scores) else 1.0
    return ("bright" if score < -_CLEAR_SCORE else "dark"), abs(score) >= _CLEAR_SCORE


def invert(picture: Image.Image) -> Image.Image:
    """Return the negative of an 8-bit grey picture."""
    return ImageOps.invert(picture)
