"""How well a period fits what has been seen so far: a least-squares periodogram after every epoch, from running sums."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers, ops

from deepstreaks_dask.models.sequence.recurrent import Shape, hours

# a day; close enough for visits of a week
_FREQUENCIES = np.linspace(0.1, 8.0, 48).astype(np.float32)
_RIDGE_EPOCHS = 0.3  # epochs whose worth a wave must fit before it is believed
_LOG_FLUX_FLOOR = 0.02  # natural logarithm of a flux: what is not worth a period
_MAX_CHANGE = 3.0  # change that is looked at


class Periodogram(layers.Layer):
    """Fits of waves of many frequencies so far: fluxes (object, epoch, n) and features to (object, epoch, 48 n).

    The share of the variance of a flux that a wave with a mean of its own takes away (Zechmeister & Kürster 2009,
    A&A 496, 577, equation 5, with equal weights and a small ridge). Later epochs, padding among these, do not matter.
    """

    def call(self, fluxes: Any, features: Any) -> Any:
        """Compute them for all epochs."""
        terms = _terms(fluxes - fluxes[:, :1], features)
        return _powers(ops.cumsum(terms, axis=1), fluxes.shape[-1])

    def compute_output_shape(self, fluxes_shape: Shape) -> Shape:
        """Return the shape."""
        return (*fluxes_shape[:-1], len(_FREQUENCIES) * (fluxes_shape[-1] or 0))


class OnePeriodogram(layers.Layer):
    """:class:`Periodogram` for one new epoch: (object, n), features and a memory to (object, 48 n) and the new memory.

    The memory of an object without epochs is zero, (object, :func:`memory`).
    """

    def call(self, fluxes: Any, features: Any, memory: Any) -> tuple[Any, Any]:
        """Compute them, and what the next epoch needs."""
        n = fluxes.shape[-1]
        first, sums = memory[:, :n], memory[:, n:]
        first = ops.where(sums[:, :1] > 0, first, fluxes)  # the first sum counts the epochs
        sums = sums + _terms(fluxes - first, features)
        return _powers(sums, n), ops.concatenate([first, sums], axis=-1)


def memory(fluxes: int) -> int:
    """Count the numbers that a periodogram of so many fluxes needs of the past.

    Parameters
    ----------
    fluxes : int
        How many.

    Returns
    -------
    int
        For each object.
    """
    return fluxes + 1 + 2 * fluxes + (4 + 2 * fluxes) * len(_FREQUENCIES)


def _terms(changes: Any, features: Any) -> Any:
    """What is summed up: the count, fluxes and their squares, waves and their products with each other and with fluxes."""
    days = hours(features) / 24.0
    turns = days * ops.convert_to_tensor(2 * np.pi * _FREQUENCIES)
    c, s = ops.cos(turns), ops.sin(turns)
    y = ops.clip(changes, -_MAX_CHANGE, _MAX_CHANGE)
    waves = [y[..., k, None] * wave for k in range(changes.shape[-1]) for wave in (c, s)]
    return ops.concatenate([ops.ones_like(days), y, y**2, c, s, c**2, c * s, *waves], axis=-1)


def _powers(sums: Any, fluxes: int) -> Any:
    count = len(_FREQUENCIES)
    n, sums = sums[..., :1], sums[..., 1:] / sums[..., :1]
    y, yy, waves = sums[..., :fluxes], sums[..., fluxes : 2 * fluxes], sums[..., 2 * fluxes :]
    c, s, cc, cs, *with_flux = (
        waves[..., k * count : (k + 1) * count] for k in range(4 + 2 * fluxes)
    )
    ridge = _RIDGE_EPOCHS / n
    ss = 1.0 - cc - s**2 + ridge
    cc, cs = cc - c**2 + ridge, cs - c * s
    powers = []
    for k in range(fluxes):
        mean = y[..., k, None]
        yc, ys = with_flux[2 * k] - mean * c, with_flux[2 * k + 1] - mean * s
        spread = ops.maximum(yy[..., k, None] - mean**2, 0.0) + _LOG_FLUX_FLOOR**2
        fit = ss * yc**2 + cc * ys**2 - 2.0 * cs * yc * ys
        powers.append(fit / (spread * (cc * ss - cs**2)))
    return ops.concatenate(powers, axis=-1)
