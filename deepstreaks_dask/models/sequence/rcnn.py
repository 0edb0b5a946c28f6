"""A recurrent convolutional network that classifies an object after each of its epochs (Carrasco-Davis et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import layers

from deepstreaks_dask.archive.sequences import Sequences
from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.inference import compile_arrays
from deepstreaks_dask.models.sequence.periodogram import OnePeriodogram, Periodogram, memory
from deepstreaks_dask.models.sequence.preprocessing import FEATURES, Batch, Begun, batched, prepare
from deepstreaks_dask.models.sequence.recurrent import (
    STAMP_SIZE,
    Arcsinh,
    Changes,
    OneChange,
    Photometry,
    Recurrent,
    apertures,
    encode,
)

_UNITS = 128
_APERTURES = 16
_FLUXES = 2  # whose periods are looked for
_STATE_PARTS = _UNITS, _UNITS, 5 * _APERTURES + 1, memory(_FLUXES)
_STATE_SIZE = sum(_STATE_PARTS)  # numbers that a step leaves to the next
_STAMPS_PER_CALL = 1024  # stamps of an update that are looked at in one call


def rcnn(classes: int) -> keras.Model:
    """Build the network with random weights.

    Convolutions look at every stamp with the same weights, beside them learned apertures measure it; what has changed so
    far, and which periods fit, is told by running sums; two gated recurrent layers follow the sequence, with the time gaps
    among their inputs; after every epoch there is a prediction.

    Parameters
    ----------
    classes
        Number of classes.

    Returns
    -------
    keras.Model
        Takes ``stamps`` float32 (object, epoch, 21, 21) and ``features`` (object, epoch, feature), as
        `deepstreaks_dask.models.sequence.preprocessing` prepares them, and gives probabilities (object, epoch, class).
        An epoch's do not depend on later ones, padding among these. It is smaller than the published network.

    References
    ----------
    Carrasco-Davis et al. 2019, PASP 131, 108006, arXiv:1807.03869.
    """
    pixels = keras.Input((STAMP_SIZE, STAMP_SIZE, 1))
    x = Arcsinh()(pixels)
    x = layers.Conv2D(24, 5, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv2D(48, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv2D(64, 3, activation="relu")(x)
    x = layers.Dense(64, activation="relu")(layers.Flatten()(x))
    seen = layers.Concatenate()([apertures(pixels, _APERTURES), x])
    stamps = keras.Input((None, STAMP_SIZE, STAMP_SIZE), name="stamps")
    features = keras.Input((None, len(FEATURES)), name="features")
    looked = encode(keras.Model(pixels, seen, name="stamp"), stamps, features)
    epochs = layers.Concatenate()([looked, features])
    x = layers.Dense(_UNITS, activation="relu", name="epoch")(epochs)
    corrections = layers.Dense(_APERTURES, name="corrections")(x)
    measured = layers.Add()([Photometry(_APERTURES)(epochs), corrections])
    fluxes = layers.Dense(_FLUXES, use_bias=False, kernel_initializer=_Middle(), name="fluxes")(
        measured
    )
    waves = Periodogram()(fluxes, epochs)
    x = layers.Concatenate()([x, measured, Changes()(measured), waves])
    x = layers.Dense(_UNITS, activation="relu", name="changed")(x)
    for name in ("first", "second"):  # layers of cells, whose names a step of one epoch needs apart
        cell = layers.GRUCell(_UNITS, name=f"{name}_cell")
        x = layers.RNN(cell, return_sequences=True, name=name)(x)
    probabilities = layers.Dense(classes, activation="softmax", name="classes")(x)
    return keras.Model([stamps, features], probabilities, name="rcnn")


@dataclass(frozen=True)
class State:
    """Where a network stands with some objects: all that it needs of their past, 2.9 kB an object.

    Attributes
    ----------
    begun : Begun
        Times and depth that features refer to.
    values : ndarray
        float32 ``(object, n)``: states of the recurrent layers, what changes refer to, and the sums of periodograms.
    """

    begun: Begun
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: np.ndarray) -> State:
        """Return the state of some of the objects, by their places ``(object,)``."""
        begun = Begun(self.begun.first[rows], self.begun.last[rows], self.begun.unit[rows])
        return State(begun, self.values[rows])

    @classmethod
    def join(cls, parts: Sequence[State]) -> State:
        """Put the objects of several behind one another; one at least."""
        begun = Begun(
            *(
                np.concatenate([getattr(part.begun, name) for part in parts])
                for name in ("first", "last", "unit")
            )
        )
        return cls(begun, np.concatenate([part.values for part in parts]))


class Rcnn(Recurrent):
    """Classifies an object after each of its epochs, all at once or one by one as they come."""

    build = staticmethod(rcnn)

    def predict_epochs(self, sequences: Sequences) -> np.ndarray:
        """Return the probability of each class after each epoch, float32 ``(epoch, class)``."""
        scores = np.empty((len(sequences.stamps), len(self.classes)), np.float32)
        for batch in batched(prepare(sequences)):
            given = self.forward(*self.of(batch))
            for row, mask, values in zip(batch.rows, batch.mask, given, strict=True):
                scores[sequences.starts[row] : sequences.ends[row]] = values[mask]
        return scores

    def step(self, sequences: Sequences, state: State | None = None) -> tuple[np.ndarray, State]:
        """Update the state of each object by one new epoch.

        Parameters
        ----------
        sequences : Sequences
            One epoch an object.
        state : State, optional
            What the last step left of the same objects, in the same order; None where this is their first epoch.

        Returns
        -------
        ndarray, State
            Probabilities float32 ``(object, class)``, equal to those of :meth:`predict` for all epochs so far but for
            rounding; and what the next step needs.

        Raises
        ------
        ModelError
            If an object has not one epoch, the state is of another number of objects, or an epoch is earlier than
            the last one.
        """
        n = len(sequences)
        if (sequences.counts != 1).any():
            raise ModelError("a step takes one epoch of each object: give more of them one by one")
        if state is not None and len(state) != n:
            raise ModelError(f"the state is of {len(state)} objects, but {n} are given")
        if state is not None and (sequences.epochs["mjd"] < state.begun.last).any():
            raise ModelError("an epoch is earlier than the last one: give epochs as they come")
        prepared = prepare(sequences, None if state is None else state.begun)
        before = np.zeros((n, _STATE_SIZE), np.float32) if state is None else state.values
        inputs = [prepared.pixels, prepared.features, before]
        parts = [
            self._one(*(values[k : k + _STAMPS_PER_CALL] for values in inputs))
            for k in range(0, n, _STAMPS_PER_CALL)
        ]
        given = np.concatenate([np.empty((0, len(self.classes) + _STATE_SIZE), np.float32), *parts])
        scores, values = np.split(given, [len(self.classes)], axis=1)
        return scores, State(prepared.begun, values)

    @cached_property
    def _one(self) -> Any:
        """One epoch as a compiled function of stamps, features and states: probabilities and new states side by side."""
        stamps, features = keras.Input((STAMP_SIZE, STAMP_SIZE)), keras.Input((len(FEATURES),))
        states = keras.Input((_STATE_SIZE,))
        first, second, changed, sums = keras.ops.split(states, np.cumsum(_STATE_PARTS)[:-1], axis=1)
        layer = self.model.get_layer
        seen = layer("stamp")(keras.ops.expand_dims(stamps, -1))
        epoch = layers.Concatenate()([seen, features])
        x = layer("epoch")(epoch)
        measured = layers.Add()([Photometry(_APERTURES)(epoch), layer("corrections")(x)])
        changes, changed = OneChange()(measured, changed)
        waves, sums = OnePeriodogram()(layer("fluxes")(measured), epoch, sums)
        x = layer("changed")(layers.Concatenate()([x, measured, changes, waves]))
        first, _ = layer("first").cell(x, [first])
        second, _ = layer("second").cell(first, [second])
        scores = layer("classes")(second)
        together = layers.Concatenate()([scores, first, second, changed, sums])
        return compile_arrays(keras.Model([stamps, features, states], together))

    def _last(self, given: np.ndarray, batch: Batch) -> np.ndarray:
        last: np.ndarray = given[np.arange(len(given)), batch.mask.sum(axis=1) - 1]
        return last


class _Middle(keras.initializers.Initializer):
    """Fluxes begin as those of apertures about as wide as the PSF, and of wider ones."""

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        apart = np.linspace(0, 1, shape[0])[:, None] - np.linspace(0.45, 0.65, shape[1])
        kernel = np.exp(-0.5 * (apart / 0.05) ** 2)
        return keras.ops.convert_to_tensor(kernel / kernel.sum(axis=0), dtype=dtype)
