"""A densely connected network of stamps, and recurrent layers that read the sequence both ways (Gómez et al. 2020)."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from deepstreaks_dask.models.recurrent import (
    SIDE,
    Arcsinh,
    Changes,
    Photometry,
    Recurrent,
    apertures,
    per_epoch,
)

_UNITS = 64
_APERTURES = 12


def taonet(classes: int) -> keras.Model:
    """Build the network with random weights.

    Two dense blocks (Huang et al. 2017, arXiv:1608.06993) look at every stamp, beside them learned apertures measure it;
    gated recurrent units read the sequence forwards and backwards; the mean and the largest of what they say
    over all epochs are classified.

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
    pixels = keras.Input((SIDE, SIDE, 1))
    x = Arcsinh()(pixels)
    x = layers.Conv2D(12, 5, strides=2, padding="same", activation="relu")(x)
    x = layers.AveragePooling2D(2)(x)
    x = _dense_block(x, 3, growth=8)
    x = layers.Conv2D(20, 1, use_bias=False)(_active(x))
    x = _dense_block(x, 3, growth=8)
    x = layers.GlobalAveragePooling2D()(_active(x))
    seen = layers.Concatenate()([apertures(pixels, _APERTURES), x])
    inputs, epochs = per_epoch(keras.Model(pixels, seen, name="stamp"))
    mask = keras.Input((None,), dtype="bool", name="mask")
    x = layers.Dense(_UNITS, activation="relu", name="epoch")(epochs)
    corrections = layers.Dense(_APERTURES, name="corrections")(x)
    measured = layers.Add()([Photometry(_APERTURES)(epochs), corrections])
    x = layers.Concatenate()([x, measured, Changes()(measured)])
    x = layers.Dense(_UNITS, activation="relu", name="changed")(x)
    x = layers.Bidirectional(layers.GRU(_UNITS, return_sequences=True), name="both")(x, mask=mask)
    x = layers.Dropout(0.3)(Pool()(x, mask))
    x = layers.Dense(_UNITS, activation="relu", name="object")(x)
    probabilities = layers.Dense(classes, activation="softmax", name="classes")(x)
    return keras.Model([*inputs, mask], probabilities, name="taonet")


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

    def compute_output_shape(
        self, inputs_shape: tuple[int | None, ...], seen_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Tell the shape."""
        return (inputs_shape[0], 2 * (inputs_shape[-1] or 0))


class TaoNet(Recurrent):
    """Classifies an object by all of its epochs."""

    build = staticmethod(taonet)


def _active(x: Any) -> Any:
    return layers.Activation("relu")(layers.BatchNormalization(momentum=0.9)(x))


def _dense_block(x: Any, depth: int, growth: int) -> Any:
    """Convolutions that each see what all before them saw."""
    for _ in range(depth):
        new = layers.Conv2D(growth, 3, padding="same", use_bias=False)(_active(x))
        x = layers.Concatenate()([x, new])
    return x
