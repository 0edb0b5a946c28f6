"""Layers that measure stamps with apertures of which nothing is learned, and that describe light curves.

What tells kinds of variability apart is known well (Richards et al. 2011, ApJ 733, 10; Kim et al. 2014, A&A 566, A43): here
it is computed within a network, of what fixed and learned apertures measure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers, ops

from deepstreaks_dask.models.sequence.recurrent import STAMP_SIZE, Shape, feature, gaussians, hours

HOURS_PER_YEAR = 24 * 365.25
"""Hours in it."""

_WIDTHS = 1.0, 1.4, 2.0  # pixels: standard deviations of apertures of which nothing is learned
_APERTURES = gaussians(_WIDTHS).astype(np.float32)
_DETECTION_SNR = 3.0  # signal-to-noise ratio of a detection
_EPOCH_STEPS = 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96
_LAG_EDGES = 2.0, 36.0, 240.0, 1080.0, 2400.0, 4800.0, 10800.0  # hours: they part pairs of epochs
_VISIT_HOURS = 2.0  # hours: exposures within these show the same
_VISIT_NEIGHBOURS = -3, -2, -1, 1, 2, 3  # places of exposures that may be of the same visit
_FREQUENCIES = np.linspace(1 / 1000, 1 / 40, 192)  # a day: closer than six years can part
_FREQUENCY_GROUPS = 8  # of these
_QUANTILES = 0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0


def counted(seen: Any, dtype: Any) -> tuple[Any, Any]:
    """Count epochs.

    Parameters
    ----------
    seen : tensor
        bool (object, epoch): where there is one.
    dtype : str
        Of the numbers.

    Returns
    -------
    tensor, tensor
        1 where there is an epoch, (object, epoch, 1), and how many there are, at least 1, (object, 1, 1).
    """
    there = ops.cast(seen, dtype)[..., None]
    return there, ops.maximum(ops.sum(there, axis=1, keepdims=True), 1.0)


def centred(values: Any, there: Any, count: Any) -> Any:
    """Subtract from numbers their mean over the epochs that there are.

    Parameters
    ----------
    values : tensor
        (object, epoch, n).
    there, count : tensor
        As :func:`counted` returns them.

    Returns
    -------
    tensor
        (object, epoch, n); 0 where there is no epoch.
    """
    return (values - ops.sum(values * there, axis=1, keepdims=True) / count) * there


def _times(features: Any, seen: Any) -> tuple[Any, Any, Any]:
    """Return hours and numbers of epochs, from the first on, (object, epoch), and the number of the last, (object, 1)."""
    elapsed = hours(features)[..., 0]
    place = ops.cumsum(ops.ones_like(elapsed), axis=1)
    return elapsed, place, ops.sum(ops.cast(seen, elapsed.dtype), axis=1, keepdims=True)


class Apertures(layers.Layer):
    """Measure stamps with Gaussian apertures of three widths: (object, epoch, y, x) to fluxes and errors (object, epoch, 3).

    Both are in units of the noise of the object's first epoch. Nothing is learned: what is measured so means the same for
    all objects and throughout a training, and no gradient flows through what describes it.
    """

    def call(self, stamps: Any, features: Any) -> Any:
        """Compute both."""
        flat = ops.reshape(stamps, (-1, ops.shape(stamps)[1], STAMP_SIZE * STAMP_SIZE))
        unit = ops.exp(ops.clip(feature(features, "depth"), -5.0, 5.0))
        signal = ops.matmul(flat, ops.convert_to_tensor(_APERTURES))
        return signal * unit, ops.ones_like(signal) * unit

    def compute_output_shape(self, stamps_shape: Shape) -> Any:
        """Return the shapes."""
        shape = (*stamps_shape[:2], len(_WIDTHS))
        return shape, shape


class Relative(layers.Layer):
    """Fluxes and errors over the highest flux that is sure, (object, epoch, n), and the logarithm of that, (object, n)."""

    def call(self, flux: Any, error: Any, seen: Any) -> Any:
        """Compute them."""
        there, count = counted(seen, flux.dtype)
        sure = ops.max(ops.where(there > 0, flux - error, -1e9), axis=1, keepdims=True)
        usual = ops.sum(error * there, axis=1, keepdims=True) / count
        height = ops.maximum(sure, usual)
        return flux * there / height, error / height, ops.log(height[:, 0])

    def compute_output_shape(self, flux_shape: Shape) -> Any:
        """Return the shapes."""
        return flux_shape, flux_shape, (flux_shape[0], flux_shape[-1])


class Detections(layers.Layer):
    """Where an object is seen with a signal-to-noise ratio above three, by fluxes and errors (object, epoch, n).

    Gives the logarithms of fluxes, their errors, days since the first, and 1 where there is one, each (object, epoch, n),
    the detections of each aperture before all else; and the logarithm of their share (object, n).
    """

    def call(self, flux: Any, error: Any, features: Any, seen: Any) -> Any:
        """Compute them."""
        there, count = counted(seen, flux.dtype)
        ratio = flux / error
        found = there * ops.cast(ratio > _DETECTION_SNR, flux.dtype)
        place = ops.cumsum(ops.ones_like(found), axis=1)
        share = ops.log(ops.sum(found, axis=1) / count[:, 0] + 0.01)
        order = ops.argsort(ops.where(found > 0, place, place + 1e6), axis=1)
        days = ops.ones_like(found) * hours(features) / 24
        light = ops.log(ops.maximum(flux, 1e-6))
        light, error, days, found = (
            ops.take_along_axis(values, order, axis=1)
            for values in (light, 1.0 / ops.maximum(ratio, 1.0), days, found)
        )
        return light * found, error, (days - days[:, :1]) * found, found, share

    def compute_output_shape(self, flux_shape: Shape) -> Any:
        """Return the shapes."""
        return (*(flux_shape,) * 4, (flux_shape[0], flux_shape[-1]))


class LightCurve(layers.Layer):
    """How numbers are spread and follow each other: (object, epoch, n) to (object, 17 n).

    Skewness, kurtosis, the range of the cumulated sum, von Neumann's ratio without and with regard to the times, how many
    are beyond one and two standard deviations, the trend, what it leaves, the standard deviation, the mean deviation over
    it, Stetson's K, the steepest step, chi-squared about constant light, the excess variance over the errors' and that over
    the squared mean, and the mean. How many there are is not among them: a training sees other numbers than there will be.
    """

    def call(self, values: Any, errors: Any, days: Any, there: Any) -> Any:
        """Compute them, of numbers with their errors, of their times, and of 1 where there is one, else 0."""
        values, count = values * there, ops.maximum(ops.sum(there, axis=1, keepdims=True), 1.0)

        def mean(numbers: Any) -> Any:
            return ops.sum(numbers * there, axis=1, keepdims=True) / count

        def before(numbers: Any) -> Any:
            return ops.concatenate([ops.zeros_like(numbers[:, :1]), numbers[:, :-1]], axis=1)

        usual = mean(values)
        apart = (values - usual) * there
        variance = mean(ops.square(apart))
        spread = ops.sqrt(variance + 1e-6)
        z = apart / spread
        time = (days - mean(days)) * there
        time = time / ops.sqrt(mean(ops.square(time)) + 1e-6)
        total = ops.cumsum(z, axis=1) / count
        both = there * before(there)
        lag = ops.maximum(days - before(days), 0.005)
        step = ops.abs(apart - before(apart)) * both
        squares = ops.square(step / spread)
        weight = both / ops.square(lag)
        weights = ops.sum(weight, axis=1, keepdims=True) + 1e-9
        timed = ops.sum(weight * squares, axis=1, keepdims=True) / weights
        timed = timed * weights / count * ops.square(ops.max(days * there, axis=1, keepdims=True))
        sure = there / ops.square(errors)
        weighed = ops.sum(sure * values, axis=1, keepdims=True)
        weighed = weighed / (ops.sum(sure, axis=1, keepdims=True) + 1e-9)
        pull = (values - weighed) / errors * there
        chi2 = mean(ops.square(pull))
        trend = mean(time * z)
        excess = variance - mean(ops.square(errors))
        found = [
            mean(z**3),
            ops.log(mean(z**4) + 0.1),
            ops.max(total, axis=1, keepdims=True) - ops.min(total, axis=1, keepdims=True),
            ops.log(ops.sum(squares, axis=1, keepdims=True) / count + 1e-3),
            ops.log(timed + 1e-3) / 5.0,
            *(mean(ops.sigmoid(10.0 * (ops.abs(z) - limit))) for limit in (1.0, 2.0)),
            trend,
            ops.sqrt(mean(ops.square(z - trend * time)) + 1e-6),
            ops.log(spread),
            mean(ops.abs(z)),
            mean(ops.abs(pull)) / ops.sqrt(chi2 + 1e-6),
            ops.log(ops.max(step / ops.maximum(lag, 0.04), axis=1, keepdims=True) + 1e-3),
            ops.log(chi2 + 0.1),
            ops.arcsinh(30.0 * excess),
            ops.arcsinh(30.0 * excess / (ops.square(usual) + 1e-3)),
            usual,
        ]
        return ops.concatenate(found, axis=-1)[:, 0]

    def compute_output_shape(self, values_shape: Shape) -> Shape:
        """Return the shape."""
        return (values_shape[0], 17 * (values_shape[-1] or 0))


class Visits(layers.Layer):
    """What a visit shows: (object, epoch, n) to (object, epoch, 2 n).

    The mean of each number over the exposures that are within two hours, which has less noise than one of them; and the
    logarithm of their standard deviation, which tells the noise, and how the air changes meanwhile.
    """

    def call(self, values: Any, features: Any, seen: Any) -> Any:
        """Compute them."""
        elapsed, place, last = _times(features, seen)
        count = ops.ones_like(elapsed)[..., None]
        total, squares = ops.zeros_like(values), ops.zeros_like(values)
        for step in _VISIT_NEIGHBOURS:
            near = ops.abs(ops.roll(elapsed, -step, axis=1) - elapsed) < _VISIT_HOURS
            there = (place + step >= 1) & (place + step <= last)
            weight = ops.cast(near & there, values.dtype)[..., None]
            more = weight * (ops.roll(values, -step, axis=1) - values)
            count, total, squares = count + weight, total + more, squares + ops.square(more)
        mean = total / count
        variance = ops.maximum(squares / count - ops.square(mean), 0.0)
        return ops.concatenate([values + mean, 0.5 * ops.log(variance / 0.01 + 0.01)], axis=-1)

    def compute_output_shape(self, values_shape: Shape) -> Shape:
        """Return the shape."""
        return (*values_shape[:-1], 2 * (values_shape[-1] or 0))


class Distribution(layers.Layer):
    """Quantiles of a sequence of numbers, the others as differences from the median: (object, epoch, n) to (object, 7 n)."""

    def call(self, values: Any, seen: Any) -> Any:
        """Compute them."""
        there = ops.expand_dims(seen, -1)
        ordered = ops.sort(ops.where(there, values, 1e9), axis=1)
        last = ops.sum(ops.cast(seen, values.dtype), axis=1, keepdims=True) - 1.0
        places = ops.maximum(last, 0.0) * ops.convert_to_tensor(np.array(_QUANTILES, np.float32))
        rows = ops.cast(ops.round(places), "int32")[..., None]
        found = ops.take_along_axis(ordered, ops.repeat(rows, values.shape[-1], axis=2), axis=1)
        middle = _QUANTILES.index(0.5)
        median = found[:, middle : middle + 1]
        apart = ops.concatenate([found[:, :middle], found[:, middle + 1 :]], axis=1) - median
        whole = ops.concatenate([median, apart], axis=1)
        return ops.reshape(whole, (-1, len(_QUANTILES) * values.shape[-1]))

    def compute_output_shape(self, values_shape: Shape) -> Shape:
        """Return the shape."""
        return (values_shape[0], len(_QUANTILES) * (values_shape[-1] or 0))


class StructureFunction(layers.Layer):
    """How much a sequence of numbers differs between epochs so far apart: (object, epoch, n) to (object, lag (n + 1) + n).

    For pairs of epochs in groups by the time between them, the root mean square of their differences (Simonetti, Cordes &
    Heeschen 1985, ApJ 296, 46), and whether there are such; of those within two hours, the largest difference, too. Pairs
    are 1 to 96 epochs apart, so that a long sequence costs no more an epoch than a short one.

    Parameters
    ----------
    axes : int
        Numbers behind each other that are vectors: so many that their squares are added.
    **options
        Of a Keras layer.
    """

    def __init__(self, axes: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.axes = axes

    def call(self, values: Any, features: Any, seen: Any) -> Any:
        """Compute them."""
        elapsed, place, last = _times(features, seen)
        squares, lags, known = [], [], []
        for step in _EPOCH_STEPS:
            square = ops.square(ops.roll(values, -step, axis=1) - values)
            squares.append(sum(ops.split(square, self.axes, axis=-1)))
            lags.append(ops.roll(elapsed, -step, axis=1) - elapsed)
            known.append(ops.cast(place + step <= last, elapsed.dtype))
        lag = ops.concatenate(lags, axis=1)[..., None]
        edges = ops.convert_to_tensor(np.array([-1.0, *_LAG_EDGES, 1e9], np.float32))
        group = ops.cast((lag > edges[:-1]) & (lag <= edges[1:]), elapsed.dtype)
        group = group * ops.concatenate(known, axis=1)[..., None]
        square = ops.concatenate(squares, axis=1)
        largest = ops.max(square * group[..., :1], axis=1)
        total = ops.matmul(ops.transpose(group, (0, 2, 1)), square)
        count = ops.sum(group, axis=1)[..., None]
        mean = ops.sqrt(total / ops.maximum(count, 1.0) + 1e-4)
        some = ops.cast(count > 0, elapsed.dtype)
        found = ops.concatenate([ops.log(mean / 0.1) * some, some], axis=-1)
        n = values.shape[-1] // self.axes
        flat = ops.reshape(found, (-1, (len(_LAG_EDGES) + 1) * (n + 1)))
        return ops.concatenate([flat, 0.5 * ops.log(largest / 0.01 + 0.01)], axis=-1)

    def compute_output_shape(self, values_shape: Shape) -> Shape:
        """Return the shape."""
        n = (values_shape[-1] or 0) // self.axes
        return (values_shape[0], (len(_LAG_EDGES) + 1) * (n + 1) + n)


class LongPeriods(layers.Layer):
    """What share of their variance numbers have in one slow sine: (object, epoch, n) to (object, 9 n).

    The highest in each of eight groups of periods, from 40 to 1,000 days, by least squares with a free mean (Zechmeister &
    Kürster 2009, A&A 496, 577); and the logarithm of the scatter that the best of all leaves.
    """

    def call(self, values: Any, features: Any, seen: Any) -> Any:
        """Compute them."""
        there, count = counted(seen, values.dtype)
        speeds = (2 * np.pi * 365.25 * _FREQUENCIES).astype(np.float32)  # a year
        turns = hours(features) / HOURS_PER_YEAR * ops.convert_to_tensor(speeds)
        values, even, odd = (
            centred(v, there, count) for v in (values, ops.cos(turns), ops.sin(turns))
        )
        along, across = (ops.matmul(ops.transpose(v, (0, 2, 1)), values) for v in (even, odd))
        ee, oo, eo = (ops.sum(v, axis=1)[..., None] for v in (even**2, odd**2, even * odd))
        variance = ops.sum(ops.square(values), axis=1, keepdims=True) + 1e-3
        # what few epochs hardly tell is held back
        fitted = oo * ops.square(along) + ee * ops.square(across) - 2.0 * eo * along * across
        power = fitted / (ee * oo - ops.square(eo) + 1e-3 * ops.square(count)) / variance
        n = values.shape[-1]
        grouped = ops.reshape(
            power, (-1, _FREQUENCY_GROUPS, len(_FREQUENCIES) // _FREQUENCY_GROUPS, n)
        )
        highest = ops.max(grouped, axis=2)
        left = variance[:, 0] / count[:, 0] * ops.maximum(1.0 - ops.max(highest, axis=1), 1e-4)
        return ops.concatenate(
            [ops.reshape(highest, (-1, _FREQUENCY_GROUPS * n)), 0.5 * ops.log(left / 0.01 + 1e-3)],
            axis=-1,
        )

    def compute_output_shape(self, values_shape: Shape) -> Shape:
        """Return the shape."""
        return (values_shape[0], (_FREQUENCY_GROUPS + 1) * (values_shape[-1] or 0))
