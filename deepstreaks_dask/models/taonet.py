"""A densely connected network of stamps, and recurrent layers that read the sequence both ways (Gómez et al. 2020)."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from deepstreaks_dask.models.recurrent import (
    SIDE,
    Arcsinh,
    Changes,
    Photometry,
    Recurrent,
    Shape,
    apertures,
    encode,
    feature,
    hours,
)
from deepstreaks_dask.sequences.batches import FEATURES

_UNITS = 64
_APERTURES = 12
_PLACES = 0.8, 1.6, 3.2, 6.4  # pixels: widths of what tells where an object is
_BLUR = 1.5  # pixels by which stars are blurred before they are compared, more than seeing and misalignment move them
_OWN = 5.0  # pixels around the middle that are the object's own
_PRIOR = 0.15  # standard deviation of a transparency that no star tells
_FAINT = 5.0  # units of noise: fluxes below tell no place
_STEPS = 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96
_LAGS = 2.0, 36.0, 240.0, 1080.0, 2400.0, 4800.0, 10800.0  # hours: they part pairs of epochs
_VISIT = 2.0  # hours: exposures within these show the same
_NEAR = -3, -2, -1, 1, 2, 3  # places of exposures that may be of the same visit
_FREQUENCIES = np.linspace(1 / 1000, 1 / 40, 192)  # a day: closer than six years can part
_GROUPS = 8  # of these
_YEAR = 24 * 365.25  # hours
_QUANTILES = 0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0


def taonet(classes: int) -> keras.Model:
    """Build the network with random weights.

    Two dense blocks (Huang et al. 2017, arXiv:1608.06993) look at every stamp, and at what it has more than the mean of all
    stamps; another two look at that mean. Learned apertures measure the object. Gated recurrent units read the
    sequence forwards and backwards. What they say, their mean and largest over all epochs, is classified together with
    how fluxes and places differ by the time between epochs, periods, motions, and what describes light curves, exposure by
    exposure and visit by visit.

    Parameters
    ----------
    classes
        Number of classes.

    Returns
    -------
    keras.Model
        Takes ``stamps`` float32 (object, epoch, 21, 21), ``features`` (object, epoch, feature) and ``mask`` bool (object,
        epoch), as `deepstreaks_dask.sequences.batches` prepares them, and gives probabilities (object, class).
        It is smaller than the published network, so that it can be trained without a GPU.

    References
    ----------
    Gómez et al. 2020, MNRAS 499, 3130, arXiv:2004.13877.
    """
    stamps = keras.Input((None, SIDE, SIDE), name="stamps")
    features = keras.Input((None, len(FEATURES)), name="features")
    mask = keras.Input((None,), dtype="bool", name="mask")
    mean, pairs, calibrated, stars = Reference(name="reference")(stamps, features, mask)
    looked = encode(_encoder((SIDE, SIDE, 2), "stamp", 8), pairs, features)
    epochs = layers.Concatenate()([looked, stars, calibrated])
    x = layers.Dense(_UNITS, activation="relu", name="epoch")(epochs)
    corrections = layers.Dense(_APERTURES, name="corrections")(x)
    measured = layers.Add()([Photometry(_APERTURES)(epochs), corrections])
    place = Place(name="place")(stamps)
    visits = Visits(name="visits")(layers.Concatenate()([measured, stars]), features, mask)
    steady = visits[..., :_APERTURES]
    light = Distribution(name="distribution")(measured, mask)
    slow = Distribution(name="slow")(steady, mask)
    signal = epochs[..., :_APERTURES]
    curve = LightCurve(name="curve")(measured, signal, calibrated, mask)
    lags = StructureFunction(name="structure")(measured, features, mask)
    late = StructureFunction(name="late")(steady, features, mask)
    moves = StructureFunction(2, name="motion")(place, features, mask)
    drift = Drift(name="drift")(place, features, mask)
    period = LongPeriods(name="period")(steady, features, mask)
    x = layers.Concatenate()([x, measured, place, visits, Changes()(measured)])
    x = layers.Dense(_UNITS, activation="relu", name="changed")(x)
    x = layers.Bidirectional(layers.GRU(_UNITS, return_sequences=True), name="both")(x, mask=mask)
    still = _encoder((SIDE, SIDE, 1), "mean", 12)(mean)
    x = layers.Concatenate()(
        [Pool()(x, mask), light, slow, curve, lags, late, moves, drift, period, still]
    )
    x = layers.Dropout(0.2)(layers.BatchNormalization()(x))
    x = layers.Dense(2 * _UNITS, activation="relu", name="object")(x)
    x = layers.Dropout(0.3)(x)
    x = layers.Dense(_UNITS, activation="relu", name="kind")(x)
    x = layers.Dropout(0.2)(x)
    probabilities = layers.Dense(classes, activation="softmax", name="classes")(x)
    return keras.Model([stamps, features, mask], probabilities, name="taonet")


class Reference(layers.Layer):
    """Compare every stamp with the mean of all stamps of its object, and by its stars.

    The stamps are averaged in counts, by the inverse of their variances. How transparent the air was is how bright, against
    the mean, everything is that lies around the object (ridge regression with 1 +- 0.15 where no star does), as
    differential photometry has it. What is not known of the zero points is so known of relative ones.

    Gives the mean in units of its noise (object, y, x, 1); each stamp, and what it has more than the mean, in units of its
    own noise (object, epoch, y, x, 2); the features with a ``depth`` that knows the transparency; and the logarithms
    of the transparency and of what the stars weigh (object, epoch, 2).
    """

    def call(self, stamps: Any, features: Any, seen: Any) -> Any:
        """Compute them."""
        there = ops.cast(seen, stamps.dtype)[..., None, None]
        depth = feature(features, "depth")
        dim = ops.exp(-ops.clip(depth, -5.0, 5.0))[..., None] * there  # a unit of the mean in each
        stamps = stamps * there
        weight = ops.maximum(ops.sum(dim**2, axis=1, keepdims=True), 1e-6)
        mean = ops.sum(stamps * dim, axis=1, keepdims=True) / weight
        blur, around = ops.convert_to_tensor(_BLURRED), ops.convert_to_tensor(_AROUND)
        around_it = around * ops.matmul(ops.matmul(blur, stamps), blur)
        expected = around * ops.matmul(ops.matmul(blur, mean), blur) * dim
        stars = ops.sum(ops.square(expected), axis=(2, 3))
        # blurred pixels share their noise: as if each were one of unit noise
        prior = 1.0 / _PRIOR**2
        light = (ops.sum(around_it * expected, axis=(2, 3)) + prior) / (stars + prior)
        light = ops.log(ops.clip(light, 0.05, 5.0))[..., None]
        more = stamps - mean * dim * ops.exp(light)[..., None]
        place = FEATURES.index("depth")
        calibrated = ops.concatenate(
            [features[..., :place], depth - light, features[..., place + 1 :]], axis=-1
        )
        known = ops.log1p(stars)[..., None] / 5.0
        return (
            ops.transpose(mean * ops.sqrt(weight), (0, 2, 3, 1)),
            ops.stack([stamps, more], axis=-1),
            calibrated,
            ops.concatenate([light, known], axis=-1),
        )

    def compute_output_shape(self, stamps_shape: Shape) -> Any:
        """Tell the shapes."""
        return (
            (stamps_shape[0], SIDE, SIDE, 1),
            (*stamps_shape, 2),
            (*stamps_shape[:2], len(FEATURES)),
            (*stamps_shape[:2], 2),
        )


class Place(layers.Layer):
    """Where the light of a stamp is, by learned weights: (object, epoch, y, x) to (object, epoch, 2 n), first all x, then y.

    They begin as Gaussians of four widths, times x and times y; each is in units of the Gaussian's own flux, and nothing
    where that is faint.
    """

    def build(self, stamps_shape: tuple[int | None, ...]) -> None:
        """Make the weights."""
        y, x = (np.indices((SIDE, SIDE)) - (SIDE - 1) / 2).reshape(2, -1, 1)
        widths = np.array(_PLACES)
        light = np.exp(-0.5 * (x**2 + y**2) / widths**2)
        light /= np.sqrt((light**2).sum(axis=0))  # one unit of noise gives one
        kernels = np.concatenate([light, light * x / widths, light * y / widths], axis=1)
        self.kernel = self.add_weight(
            name="kernel",
            shape=kernels.shape,
            initializer=keras.initializers.Constant(kernels.astype(np.float32)),
        )

    def call(self, stamps: Any) -> Any:
        """Compute them."""
        flat = ops.reshape(stamps, (-1, ops.shape(stamps)[1], SIDE * SIDE))
        sums = ops.matmul(flat, self.kernel)
        light, away = sums[..., : len(_PLACES)], sums[..., len(_PLACES) :]
        whole = ops.sqrt(ops.square(light) + _FAINT**2)
        return ops.clip(away / ops.concatenate([whole, whole], axis=-1), -3.0, 3.0)

    def compute_output_shape(self, stamps_shape: Shape) -> Shape:
        """Tell the shape."""
        return (*stamps_shape[:2], 2 * len(_PLACES))


class Visits(layers.Layer):
    """What a visit shows: (object, epoch, n) to (object, epoch, 2 n).

    The mean of each number over the exposures that are within two hours, which has less noise than one of them; and the
    logarithm of their standard deviation, which tells the noise, and how the air changes meanwhile.
    """

    def call(self, values: Any, features: Any, seen: Any) -> Any:
        """Compute them."""
        elapsed = hours(features)[..., 0]
        place = ops.cumsum(ops.ones_like(elapsed), axis=1)
        last = ops.sum(ops.cast(seen, elapsed.dtype), axis=1, keepdims=True)
        count = ops.ones_like(elapsed)[..., None]
        total, squares = ops.zeros_like(values), ops.zeros_like(values)
        for step in _NEAR:
            near = ops.abs(ops.roll(elapsed, -step, axis=1) - elapsed) < _VISIT
            there = (place + step >= 1) & (place + step <= last)
            weight = ops.cast(near & there, values.dtype)[..., None]
            more = weight * (ops.roll(values, -step, axis=1) - values)
            count, total, squares = count + weight, total + more, squares + ops.square(more)
        mean = total / count
        variance = ops.maximum(squares / count - ops.square(mean), 0.0)
        return ops.concatenate([values + mean, 0.5 * ops.log(variance / 0.01 + 0.01)], axis=-1)

    def compute_output_shape(self, values_shape: Shape) -> Shape:
        """Tell the shape."""
        return (*values_shape[:-1], 2 * (values_shape[-1] or 0))


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
        elapsed = hours(features)[..., 0]
        place = ops.cumsum(ops.ones_like(elapsed), axis=1)
        last = ops.sum(ops.cast(seen, elapsed.dtype), axis=1, keepdims=True)
        squares, lags, known = [], [], []
        for step in _STEPS:
            square = ops.square(ops.roll(values, -step, axis=1) - values)
            squares.append(sum(ops.split(square, self.axes, axis=-1)))
            lags.append(ops.roll(elapsed, -step, axis=1) - elapsed)
            known.append(ops.cast(place + step <= last, elapsed.dtype))
        lag = ops.concatenate(lags, axis=1)[..., None]
        edges = ops.convert_to_tensor(np.array([-1.0, *_LAGS, 1e9], np.float32))
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
        flat = ops.reshape(found, (-1, (len(_LAGS) + 1) * (n + 1)))
        return ops.concatenate([flat, 0.5 * ops.log(largest / 0.01 + 0.01)], axis=-1)

    def compute_output_shape(self, values_shape: Shape) -> Shape:
        """Tell the shape."""
        n = (values_shape[-1] or 0) // self.axes
        return (values_shape[0], (len(_LAGS) + 1) * (n + 1) + n)


class Drift(layers.Layer):
    """How fast places move on: (object, epoch, 2 n), first all x, then y, to (object, 2 n).

    The slope of a straight line through each, its length in units a year, as a logarithm; and how sure that is, the same
    in units of what the scatter lets expect.
    """

    def call(self, places: Any, features: Any, seen: Any) -> Any:
        """Compute them."""
        there = ops.cast(seen, places.dtype)[..., None]
        years = hours(features) / _YEAR
        count = ops.maximum(ops.sum(there, axis=1, keepdims=True), 1.0)
        years = (years - ops.sum(years * there, axis=1, keepdims=True) / count) * there
        places = (places - ops.sum(places * there, axis=1, keepdims=True) / count) * there
        span = ops.sum(years**2, axis=1) + 0.01
        slope = ops.sum(years * places, axis=1) / span
        left = ops.square(places - slope[:, None] * years)
        scatter = ops.sum(left, axis=1) / count[:, 0] + 1e-4
        square, noise = (
            sum(ops.split(ops.square(v), 2, axis=-1)) for v in (slope, ops.sqrt(scatter))
        )
        sure = square * span / noise
        return ops.concatenate([0.5 * ops.log(square + 1e-4), 0.5 * ops.log(sure + 0.1)], axis=-1)

    def compute_output_shape(self, places_shape: Shape) -> Shape:
        """Tell the shape."""
        return (places_shape[0], places_shape[-1])


class LongPeriods(layers.Layer):
    """What share of their variance numbers have in one slow sine: (object, epoch, n) to (object, 9 n).

    The highest in each of eight groups of periods, from 40 to 1,000 days, by least squares with a free mean (Zechmeister &
    Kürster 2009, A&A 496, 577); and the logarithm of the scatter that the best of all leaves.
    """

    def call(self, values: Any, features: Any, seen: Any) -> Any:
        """Compute them."""
        there = ops.cast(seen, values.dtype)[..., None]
        count = ops.maximum(ops.sum(there, axis=1, keepdims=True), 1.0)
        speeds = (2 * np.pi * 365.25 * _FREQUENCIES).astype(np.float32)  # a year
        turns = hours(features) / _YEAR * ops.convert_to_tensor(speeds)
        values, even, odd = (
            (v - ops.sum(v * there, axis=1, keepdims=True) / count) * there
            for v in (values, ops.cos(turns), ops.sin(turns))
        )
        along, across = (ops.matmul(ops.transpose(v, (0, 2, 1)), values) for v in (even, odd))
        ee, oo, eo = (ops.sum(v, axis=1)[..., None] for v in (even**2, odd**2, even * odd))
        variance = ops.sum(ops.square(values), axis=1, keepdims=True) + 1e-3
        # what few epochs hardly tell is held back
        fitted = oo * ops.square(along) + ee * ops.square(across) - 2.0 * eo * along * across
        power = fitted / (ee * oo - ops.square(eo) + 1e-3 * ops.square(count)) / variance
        n = values.shape[-1]
        grouped = ops.reshape(power, (-1, _GROUPS, len(_FREQUENCIES) // _GROUPS, n))
        highest = ops.max(grouped, axis=2)
        left = variance[:, 0] / count[:, 0] * ops.maximum(1.0 - ops.max(highest, axis=1), 1e-4)
        return ops.concatenate(
            [ops.reshape(highest, (-1, _GROUPS * n)), 0.5 * ops.log(left / 0.01 + 1e-3)], axis=-1
        )

    def compute_output_shape(self, values_shape: Shape) -> Shape:
        """Tell the shape."""
        return (values_shape[0], (_GROUPS + 1) * (values_shape[-1] or 0))


class LightCurve(layers.Layer):
    """How numbers are spread and follow each other, and how sure they are: (object, epoch, n) to (object, 14 n).

    What tells kinds of variability apart (Richards et al. 2011, ApJ 733, 10; Kim et al. 2014, A&A 566, A43): skewness,
    kurtosis, the range of the cumulated sum, von Neumann's ratio without and with regard to the times, how many are beyond
    one and two standard deviations, the trend, the standard deviation, the mean deviation over it, and the steepest step.
    Of the signal-to-noise ratios: how many are above three, chi-squared about constant light, and the mean.
    """

    def call(self, values: Any, signal: Any, features: Any, seen: Any) -> Any:
        """Compute them, of logarithms of fluxes, and of the arcsinh of their signal-to-noise ratios."""
        there = ops.cast(seen, values.dtype)[..., None]
        count = ops.maximum(ops.sum(there, axis=1, keepdims=True), 1.0)

        def mean(numbers: Any) -> Any:
            return ops.sum(numbers * there, axis=1, keepdims=True) / count

        days = hours(features) / 24
        apart = (values - mean(values)) * there
        spread = ops.sqrt(mean(ops.square(apart)) + 1e-4)
        z = apart / spread
        time = (days - mean(days)) * there
        time = time / ops.sqrt(mean(ops.square(time)) + 1e-6)
        total = ops.cumsum(z, axis=1) / count

        def before(numbers: Any) -> Any:
            return ops.concatenate([ops.zeros_like(numbers[:, :1]), numbers[:, :-1]], axis=1)

        both = there * before(there)
        lag = ops.maximum(days - before(days), 0.005)
        step = ops.abs(apart - before(apart)) * both
        squares = ops.square(step / spread)
        weight = both / ops.square(lag)
        weights = ops.sum(weight, axis=1, keepdims=True) + 1e-9
        timed = ops.sum(weight * squares, axis=1, keepdims=True) / weights
        timed = timed * weights / count * ops.square(ops.max(days * there, axis=1, keepdims=True))
        ratio = ops.sinh(ops.clip(ops.stop_gradient(signal), -12.0, 12.0)) * there
        dim = ops.exp(-ops.clip(ops.stop_gradient(feature(features, "depth")), -5.0, 5.0)) * there
        usual = mean(ratio * dim) / (mean(ops.square(dim)) + 1e-6)
        found = [
            mean(z**3),
            ops.log(mean(z**4) + 0.1),
            ops.max(total, axis=1, keepdims=True) - ops.min(total, axis=1, keepdims=True),
            ops.log(ops.sum(squares, axis=1, keepdims=True) / count + 1e-3),
            ops.log(timed + 1e-3) / 5.0,
            *(mean(ops.sigmoid(10.0 * (ops.abs(z) - limit))) for limit in (1.0, 2.0)),
            mean(time * z),
            ops.log(spread),
            mean(ops.abs(z)),
            ops.log(ops.max(step / ops.maximum(lag, 0.04), axis=1, keepdims=True) + 1e-3),
            mean(ops.sigmoid(2.0 * (ratio - 3.0))),
            ops.log(mean(ops.square(ratio - usual * dim)) + 0.1),
            mean(signal),
        ]
        return ops.concatenate(found, axis=-1)[:, 0]

    def compute_output_shape(self, values_shape: Shape) -> Shape:
        """Tell the shape."""
        return (values_shape[0], 14 * (values_shape[-1] or 0))


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
        """Tell the shape."""
        return (values_shape[0], len(_QUANTILES) * (values_shape[-1] or 0))


class Pool(layers.Layer):
    """Mean and maximum over the epochs that there are: (object, epoch, n) to (object, 2 n)."""

    supports_masking = True

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        """What is pooled has no epochs any more."""

    def call(self, inputs: Any, seen: Any) -> Any:
        """Compute both."""
        there = ops.expand_dims(ops.cast(seen, inputs.dtype), -1)
        mean = ops.sum(inputs * there, axis=1) / ops.maximum(ops.sum(there, axis=1), 1.0)
        largest = ops.max(inputs * there - (1.0 - there), axis=1)  # a state is never below -1
        return ops.concatenate([mean, largest], axis=-1)

    def compute_output_shape(self, inputs_shape: Shape) -> Shape:
        """Tell the shape."""
        return (inputs_shape[0], 2 * (inputs_shape[-1] or 0))


class TaoNet(Recurrent):
    """Classifies an object by all of its epochs."""

    build = staticmethod(taonet)
    fewest = 0.8  # what flares, or moves through, is there for an exposure or a visit only


def _encoder(shape: tuple[int, int, int], name: str, growth: int) -> keras.Model:
    """Look at an image: apertures upon its first plane, and two dense blocks upon all of it."""
    pixels = keras.Input(shape)
    x = Arcsinh()(pixels)
    x = layers.Conv2D(12, 5, strides=2, padding="same", activation="relu")(x)
    x = layers.AveragePooling2D(2)(x)
    x = _dense_block(x, 2, growth=growth)
    x = layers.Conv2D(16, 1, use_bias=False)(_active(x))
    x = _dense_block(x, 2, growth=growth)
    x = _active(x)
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])
    measured = apertures(pixels[..., :1], _APERTURES)
    return keras.Model(pixels, layers.Concatenate()([measured, x]), name=name)


def _blurred() -> np.ndarray:
    """Weights of a row's pixels in each blurred one, float32 ``(x, x)``, with a unit of noise as before."""
    apart = np.subtract.outer(np.arange(SIDE), np.arange(SIDE))
    kernel = np.exp(-0.5 * (apart / _BLUR) ** 2)
    return (kernel / np.sqrt(np.median((kernel**2).sum(axis=1)))).astype(np.float32)


def _around() -> np.ndarray:
    """Weights of the pixels around the object, float32 ``(y, x)``: how many are one, blurred."""
    y, x = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    one = 1 / np.sqrt(4 * np.pi * _BLUR**2)
    return np.where(np.hypot(x, y) > _OWN, one, 0.0).astype(np.float32)


_BLURRED, _AROUND = _blurred(), _around()


def _active(x: Any) -> Any:
    return layers.Activation("relu")(layers.BatchNormalization(momentum=0.9)(x))


def _dense_block(x: Any, depth: int, growth: int) -> Any:
    """Convolutions that each see what all before them saw."""
    for _ in range(depth):
        new = layers.Conv2D(growth, 3, padding="same", use_bias=False)(_active(x))
        x = layers.Concatenate()([x, new])
    return x
