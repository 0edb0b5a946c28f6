"""A network of sequences with every part that a training treats in its own way, and quickly compiled."""

import keras
from distributed import WorkerPlugin
from keras import layers, ops

from deepstreaks_dask.models.registry import CLASSIFIERS
from deepstreaks_dask.models.sequence.preprocessing import FEATURES
from deepstreaks_dask.models.sequence.recurrent import STAMP_SIZE, Recurrent, encode


class Mean(layers.Layer):
    """Mean over the epochs that there are: (object, epoch, n) to (object, n)."""

    def call(self, inputs, seen):
        there = ops.cast(seen, inputs.dtype)[..., None]
        return ops.sum(inputs * there, axis=1) / ops.maximum(ops.sum(there, axis=1), 1.0)

    def compute_output_shape(self, inputs_shape, seen_shape):
        return inputs_shape[0], inputs_shape[-1]


def small(classes):
    """Build it: an encoder of stamps, normalisation, dropout, and a head that is trained once more."""
    pixels = keras.Input((STAMP_SIZE, STAMP_SIZE, 1))
    x = layers.AveragePooling2D(7)(layers.Rescaling(0.1)(pixels))
    x = layers.BatchNormalization()(layers.Dense(8, activation="tanh")(layers.Flatten()(x)))
    stamps = keras.Input((None, STAMP_SIZE, STAMP_SIZE), name="stamps")
    features = keras.Input((None, len(FEATURES)), name="features")
    mask = keras.Input((None,), dtype="bool", name="mask")
    looked = encode(keras.Model(pixels, x, name="stamp"), stamps, features)
    x = layers.Dense(16, activation="tanh")(layers.Concatenate()([looked, features]))
    x = layers.BatchNormalization(name="standard")(Mean()(layers.Dropout(0.2)(x), mask))
    given = keras.Input((16,))
    probabilities = layers.Dense(classes, activation="softmax")(layers.Dropout(0.2)(given))
    head = keras.Model(given, probabilities, name="head")
    return keras.Model([stamps, features, mask], head(x), name="small")


class Small(Recurrent):
    """Classifier of an object by the mean of its epochs."""

    build = staticmethod(small)
    standard, head = "standard", "head"


class Headless(Small):
    """The same, of which nothing is trained once more."""

    head = ""


KINDS = {"small": f"{__name__}:Small", "headless": f"{__name__}:Headless"}
"""By the names of their architectures, as in the registry."""


class KnowSmall(WorkerPlugin):
    """Make both known to every worker, those that replace others, too."""

    def setup(self, worker):
        CLASSIFIERS.update(KINDS)
