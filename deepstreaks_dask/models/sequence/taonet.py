"""A densely connected network of stamps, and recurrent layers that read the sequence both ways (Gómez et al. 2020)."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from deepstreaks_dask.models.sequence.layers import (
    HOURS_PER_YEAR,
    Apertures,
    Detections,
    Distribution,
    LightCurve,
    LongPeriods,
    Relative,
    StructureFunction,
    Visits,
    centred,
    counted,
)
from deepstreaks_dask.models.sequence.preprocessing import FEATURES
from deepstreaks_dask.models.sequence.recurrent import (
    STAMP_SIZE,
    Arcsinh,
    Changes,
    Photometry,
    Recurrent,
    Shape,
    apertures,
    encode,
    feature,
    gaussians,
    hours,
)

_UNITS = 64
_APERTURES = 12
_POSITION_WIDTHS = 0.8, 1.6, 3.2, 6.4  # pixels: widths of what tells where an object is
_BLUR_SIGMA = 1.5  # pixels by which stars are blurred before they are compared, more than seeing and misalignment move them
_OBJECT_RADIUS = 5.0  # pixels around the middle that are the object's own
_TRANSPARENCY_PRIOR = 0.15  # standard deviation of a transparency that no star tells
_FLUX_PRECISION = 0.02  # of a flux: no photometry of a survey's stamps is better
_FAINT_SNR = 5.0  # units of noise: fainter fluxes have no centroid


def taonet(classes: int) -> keras.Model:
    """Build the network with random weights.

    Two dense blocks (Huang et al. 2017, arXiv:1608.06993) look at every stamp, and at what it has more than the mean of all
    stamps; another two look at that mean. Learned apertures measure the object. Gated recurrent units read the
    sequence forwards and backwards. What they say, their mean and largest over all epochs, is classified together with
    how fluxes and places differ by the time between epochs, periods, motions, and what describes light curves, exposure by
    exposure and visit by visit; all that of learned apertures, and of such of which nothing is learned, which mean the
    same throughout a training.

    Parameters
    ----------
    classes
        Number of classes.

    Returns
    -------
    keras.Model
        Takes ``stamps`` float32 (object, epoch, 21, 21), ``features`` (object, epoch, feature) and ``mask`` bool (object,
        epoch), as `deepstreaks_dask.models.sequence.preprocessing` prepares them, and gives probabilities (object, class).
        It is smaller than the published network, so that it can be trained without a GPU.

    References
    ----------
    Gómez et al. 2020, MNRAS 499, 3130, arXiv:2004.13877.
    """
    stamps = keras.Input((None, STAMP_SIZE, STAMP_SIZE), name="stamps")
    features = keras.Input((None, len(FEATURES)), name="features")
    mask = keras.Input((None,), dtype="bool", name="mask")
    mean, pairs, calibrated, stars = Reference(name="reference")(stamps, features, mask)
    looked = encode(_encoder((STAMP_SIZE, STAMP_SIZE, 2), "stamp", 8), pairs, features)
    epochs = layers.Concatenate()([looked, stars, calibrated])
    x = layers.Dense(_UNITS, activation="relu", name="epoch")(epochs)
    corrections = layers.Dense(_APERTURES, name="corrections")(x)
    measured = layers.Add()([Photometry(_APERTURES)(epochs), corrections])
    centroids = Centroids(name="place")(stamps)
    visits = Visits(name="visits")(layers.Concatenate()([measured, stars]), features, mask)
    told = [
        *_described("", measured, visits[..., :_APERTURES], features, mask),
        _learned_curve(measured, epochs[..., :_APERTURES], features, mask),
        *_fixed(stamps, calibrated, stars, features, mask),
        StructureFunction(2, name="motion")(centroids, features, mask),
        Drift(name="drift")(centroids, features, mask),
        _encoder((STAMP_SIZE, STAMP_SIZE, 1), "mean", 12)(mean),
    ]
    x = layers.Concatenate()([x, measured, centroids, visits, Changes()(measured)])
    x = layers.Dense(_UNITS, activation="relu", name="changed")(x)
    x = layers.Bidirectional(layers.GRU(_UNITS, return_sequences=True), name="both")(x, mask=mask)
    told = layers.Concatenate(name="told")([Pool()(x, mask), *told])
    standard = layers.BatchNormalization(name=TaoNet.standard)(told)
    probabilities = _head(told.shape[-1], classes)(standard)
    return keras.Model([stamps, features, mask], probabilities, name="taonet")


def _described(name: str, light: Any, steady: Any, features: Any, mask: Any) -> list[Any]:
    """Describe logarithms of fluxes (object, epoch, n), exposure by exposure and visit by visit."""
    return [
        Distribution(name=f"{name}distribution")(light, mask),
        Distribution(name=f"{name}slow")(steady, mask),
        StructureFunction(name=f"{name}structure")(light, features, mask),
        StructureFunction(name=f"{name}late")(steady, features, mask),
        LongPeriods(name=f"{name}period")(steady, features, mask),
    ]


def _learned_curve(measured: Any, signal: Any, features: Any, mask: Any) -> Any:
    """Describe light curves of learned apertures, whose arcsinh of the signal-to-noise ratio tells their errors."""
    # the derivative of the arcsinh; and what no photometry does better than
    error = 1.0 / ops.cosh(ops.clip(ops.stop_gradient(signal), -12.0, 12.0)) + _FLUX_PRECISION
    there, _ = counted(mask, "float32")
    return LightCurve(name="curve")(measured, error, hours(features) / 24, there)


def _fixed(stamps: Any, calibrated: Any, stars: Any, features: Any, mask: Any) -> list[Any]:
    """Describe light curves of apertures of which nothing is learned: all fluxes, and the magnitudes of detections."""
    flux, error = Apertures(name="apertures")(stamps, calibrated)
    relative, relative_error, height = Relative(name="relative")(flux, error, mask)
    *detections, share = Detections(name="detections")(flux, error, features, mask)
    there, _ = counted(mask, "float32")
    days = hours(features) / 24
    light = ops.arcsinh(flux / error) + ops.log(error)
    visits = Visits(name="fixed_visits")(layers.Concatenate()([light, stars]), features, mask)
    steady = visits[..., : light.shape[-1]]
    return [
        LightCurve(name="fluxes")(relative, relative_error, days, there),
        LightCurve(name="detected")(*detections),
        height,
        share,
        *_described("fixed_", light, steady, features, mask),
    ]


def _head(numbers: int, classes: int) -> keras.Model:
    """Classify an object by the standardised numbers that all else gives of it."""
    told = keras.Input((numbers,))
    x = layers.Dropout(0.2)(told)
    x = layers.Dense(2 * _UNITS, activation="relu")(x)
    x = layers.Dropout(0.3)(x)
    x = layers.Dense(_UNITS, activation="relu")(x)
    x = layers.Dropout(0.2)(x)
    probabilities = layers.Dense(classes, activation="softmax")(x)
    return keras.Model(told, probabilities, name=TaoNet.head)


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
        prior = 1.0 / _TRANSPARENCY_PRIOR**2
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
        """Return the shapes."""
        return (
            (stamps_shape[0], STAMP_SIZE, STAMP_SIZE, 1),
            (*stamps_shape, 2),
            (*stamps_shape[:2], len(FEATURES)),
            (*stamps_shape[:2], 2),
        )


class Centroids(layers.Layer):
    """Centroids of the light of a stamp, by learned weights: (object, epoch, y, x) to (object, epoch, 2 n), x first, then y.

    They begin as Gaussians of four widths, times x and times y; each is in units of the Gaussian's own flux, and nothing
    where that is faint.
    """

    def build(self, stamps_shape: tuple[int | None, ...]) -> None:
        """Create the weights."""
        y, x = (np.indices((STAMP_SIZE, STAMP_SIZE)) - (STAMP_SIZE - 1) / 2).reshape(2, -1, 1)
        widths = np.array(_POSITION_WIDTHS)
        light = gaussians(widths)
        kernels = np.concatenate([light, light * x / widths, light * y / widths], axis=1)
        self.kernel = self.add_weight(
            name="kernel",
            shape=kernels.shape,
            initializer=keras.initializers.Constant(kernels.astype(np.float32)),
        )

    def call(self, stamps: Any) -> Any:
        """Compute them."""
        flat = ops.reshape(stamps, (-1, ops.shape(stamps)[1], STAMP_SIZE * STAMP_SIZE))
        sums = ops.matmul(flat, self.kernel)
        light, away = sums[..., : len(_POSITION_WIDTHS)], sums[..., len(_POSITION_WIDTHS) :]
        whole = ops.sqrt(ops.square(light) + _FAINT_SNR**2)
        return ops.clip(away / ops.concatenate([whole, whole], axis=-1), -3.0, 3.0)

    def compute_output_shape(self, stamps_shape: Shape) -> Shape:
        """Return the shape."""
        return (*stamps_shape[:2], 2 * len(_POSITION_WIDTHS))


class Drift(layers.Layer):
    """Drift of the centroids with time: (object, epoch, 2 n), first all x, then y, to (object, 2 n).

    The slope of a straight line through each, its length in units a year, as a logarithm; and how sure that is, the same
    in units of what the scatter lets expect.
    """

    def call(self, places: Any, features: Any, seen: Any) -> Any:
        """Compute them."""
        there, count = counted(seen, places.dtype)
        years, places = (
            centred(v, there, count) for v in (hours(features) / HOURS_PER_YEAR, places)
        )
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
        """Return the shape."""
        return (places_shape[0], places_shape[-1])


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
        """Return the shape."""
        return (inputs_shape[0], 2 * (inputs_shape[-1] or 0))


class TaoNet(Recurrent):
    """Classifier of an object by all of its epochs."""

    build = staticmethod(taonet)
    fewest = 0.8  # what flares, or moves through, is there for an exposure or a visit only
    standard, head = "standard", "head"


def _encoder(shape: tuple[int, int, int], name: str, growth: int) -> keras.Model:
    """Encode an image by apertures on its first plane and by two dense blocks on all planes."""
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
    apart = np.subtract.outer(np.arange(STAMP_SIZE), np.arange(STAMP_SIZE))
    kernel = np.exp(-0.5 * (apart / _BLUR_SIGMA) ** 2)
    return (kernel / np.sqrt(np.median((kernel**2).sum(axis=1)))).astype(np.float32)


def _around() -> np.ndarray:
    """Weights of the pixels around the object, float32 ``(y, x)``: how many are one, blurred."""
    y, x = np.indices((STAMP_SIZE, STAMP_SIZE)) - (STAMP_SIZE - 1) / 2
    one = 1 / np.sqrt(4 * np.pi * _BLUR_SIGMA**2)
    return np.where(np.hypot(x, y) > _OBJECT_RADIUS, one, 0.0).astype(np.float32)


_BLURRED, _AROUND = _blurred(), _around()


def _active(x: Any) -> Any:
    return layers.Activation("relu")(layers.BatchNormalization(momentum=0.9)(x))


def _dense_block(x: Any, depth: int, growth: int) -> Any:
    """Convolutions that each see what all before them saw."""
    for _ in range(depth):
        new = layers.Conv2D(growth, 3, padding="same", use_bias=False)(_active(x))
        x = layers.Concatenate()([x, new])
    return x
