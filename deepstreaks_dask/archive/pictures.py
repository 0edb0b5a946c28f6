"""Cutouts as grey pictures."""

from __future__ import annotations

import numpy as np


def grey(pixels: np.ndarray) -> np.ndarray:
    """Make a picture of a cutout, uint8 ``(y, x)``: its pixels as they are, several planes side by side."""
    planes = [pixels] if pixels.ndim == 2 else list(np.moveaxis(pixels, -1, 0))
    return np.hstack([plane if plane.dtype == np.uint8 else _stretched(plane) for plane in planes])


def _stretched(plane: np.ndarray) -> np.ndarray:
    known = plane[np.isfinite(plane)]
    low, high = np.percentile(known, (1, 99)) if known.size else (0, 1)
    scaled = (np.nan_to_num(plane, nan=low) - low) / max(float(high - low), 1e-9)
    return (np.clip(scaled, 0, 1) * 255).astype(np.uint8)
