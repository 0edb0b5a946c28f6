"""What networks of sequences share: stamps folded out of their epochs and back, batches, and the zoo's arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import keras
import numpy as np
from keras import layers, ops

from deepstreaks_dask.archive.sequences import Sequences
from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.inference import compile_arrays
from deepstreaks_dask.models.sequence.preprocessing import (
    FEATURES,
    LOG_HOURS_SCALE,
    Batch,
    batched,
    prepare,
)

STAMP_SIZE = 21
"""Pixels on a side of a stamp."""

Shape = tuple[int | None, ...]
"""Of a tensor, None where it may be of any size. A layer that asks for one shape is told that of its first input."""


class Recurrent:
    """A classifier that is a network of stamps and of time.

    Parameters
    ----------
    classes : sequence of str
        Names of the classes.
    model : keras.Model, optional
        The network, as :attr:`build` makes it; with random weights by default.
    """

    fewest: ClassVar[float] = 0.5
    """Share of an object's epochs that a step of the training sees at least; the others are left out at random."""

    standard: ClassVar[str] = ""
    head: ClassVar[str] = ""
    """Names of the layer that standardises what a network has to say of an object, and of the network within the network
    that classifies by that. It is trained once more for itself
    (:mod:`deepstreaks_dask.training.sequences.head`); empty if there
    is none."""

    def __init__(self, classes: Sequence[str], model: keras.Model | None = None) -> None:
        self._classes = tuple(classes)
        self.model = type(self).build(len(self._classes)) if model is None else model

    @staticmethod
    def build(classes: int) -> keras.Model:
        """Build the network for a number of classes.

        Its inputs are fields of :class:`~deepstreaks_dask.models.sequence.preprocessing.Batch`, by their names.
        """
        raise NotImplementedError

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities."""
        return self._classes

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what the network takes."""
        return tuple(tensor.name for tensor in self.model.inputs)

    @cached_property
    def forward(self) -> Callable[..., np.ndarray]:
        """The network compiled: a function of its inputs that gives float32 ``(object, class)``, for batches of any size."""
        return compile_arrays(self.model)

    def of(self, batch: Batch) -> list[np.ndarray]:
        """Return a batch as the network takes it, arrays ``(object, epoch, …)``."""
        return [getattr(batch, name) for name in self.inputs]

    def predict(self, sequences: Sequences) -> np.ndarray:
        """Return the probability of each class after the last epoch, float32 ``(object, class)``."""
        scores = np.empty((len(sequences), len(self.classes)), np.float32)
        for batch in batched(prepare(sequences)):
            scores[batch.rows] = self._last(self.forward(*self.of(batch)), batch)
        return scores

    def _last(self, given: np.ndarray, batch: Batch) -> np.ndarray:
        """Return the probabilities after the last epoch, from the output of the network."""
        return given

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the weights, of any shape: kernels in half precision; few, sensitive biases and statistics in single."""
        arrays = {}
        for name, weight in _named(self.model).items():
            array = ops.convert_to_numpy(weight).astype(np.float32)
            with np.errstate(over="ignore"):
                arrays[name] = array.astype(np.float16) if array.ndim > 1 else array
        return arrays

    @classmethod
    def from_arrays(cls, classes: Sequence[str], arrays: Mapping[str, np.ndarray]) -> Recurrent:
        """Build the network and give it its weights.

        Parameters
        ----------
        classes : sequence of str
            Names of the classes.
        arrays : mapping of str to ndarray
            As :meth:`to_arrays` returns them.

        Returns
        -------
        Recurrent
            Ready to predict.

        Raises
        ------
        ModelError
            If they are those of another network.
        """
        made = cls(classes)
        weights = _named(made.model)
        if strange := sorted(set(arrays) ^ set(weights)):
            raise ModelError(
                f"{len(strange)} arrays are missing or too many, such as {strange[0]!r}"
            )
        for name, weight in weights.items():
            array = arrays[name]
            if array.shape != tuple(weight.shape) or array.dtype.kind != "f":
                raise ModelError(
                    f"{name} is {array.dtype} {array.shape}, not {tuple(weight.shape)}"
                )
            weight.assign(array.astype(np.float32))
        return made


class Fold(layers.Layer):
    """Vectors of stamps ``(object * epoch, n)`` as sequences ``(object, epoch, n)``, like those of a second tensor."""

    def call(self, vectors: Any, like: Any) -> Any:
        """Fold."""
        return ops.reshape(vectors, (*ops.shape(like)[:2], vectors.shape[-1]))

    def compute_output_shape(self, vectors_shape: Shape, like_shape: Shape) -> Shape:
        """Return the shape."""
        return (*like_shape[:2], vectors_shape[-1])


class Arcsinh(layers.Layer):
    """The inverse hyperbolic sine: a logarithm of what is bright, with its sign, and linear within the noise."""

    def call(self, inputs: Any) -> Any:
        """Compute it."""
        # the library's own takes ten times as long
        size = ops.abs(inputs)
        return ops.sign(inputs) * ops.log(size + ops.sqrt(ops.square(size) + 1.0))


class Changes(layers.Layer):
    """How a sequence of numbers has changed so far: (object, epoch, n) to (object, epoch, 4 n).

    For each number and epoch: how far it is from the epoch before, how far from the mean of all epochs so far, their
    standard deviation, and the root mean square of the steps from one to the next; compared with each other
    these tell noise from what varies slowly (von Neumann 1941, Ann. Math. Stat. 12, 367). Small ones are stretched.
    Later epochs, padding among these, do not matter.
    """

    def call(self, inputs: Any) -> Any:
        """Compute them for all epochs."""
        since = inputs - inputs[:, :1]
        moved = inputs - ops.concatenate([inputs[:, :1], inputs[:, :-1]], axis=1)
        counted = ops.cumsum(ops.ones_like(inputs[:, :, :1]), axis=1)
        sums = [ops.cumsum(values, axis=1) for values in (since, since**2, moved**2)]
        return _changes(since, moved, sums, counted)

    def compute_output_shape(self, inputs_shape: Shape) -> Shape:
        """Return the shape."""
        return (*inputs_shape[:-1], 4 * (inputs_shape[-1] or 0))


class OneChange(layers.Layer):
    """:class:`Changes` for one new epoch: (object, n) and a memory (object, 5 n + 1) to (object, 4 n).

    The new memory is returned, too. The memory of an object without epochs is zero.
    """

    def call(self, inputs: Any, memory: Any) -> tuple[Any, Any]:
        """Compute them, and what the next epoch needs."""
        n = inputs.shape[-1]
        first, last, *sums = (memory[:, k * n : (k + 1) * n] for k in range(5))
        counted = memory[:, 5 * n :]
        first, last = (ops.where(counted > 0, known, inputs) for known in (first, last))
        since, moved, counted = inputs - first, inputs - last, counted + 1.0
        sums = [a + b for a, b in zip(sums, (since, since**2, moved**2), strict=True)]
        changes = _changes(since, moved, sums, counted)
        return changes, ops.concatenate([first, inputs, *sums, counted], axis=-1)


def _changes(since: Any, moved: Any, sums: Sequence[Any], counted: Any) -> Any:
    total, squares, steps = sums
    mean = total / counted
    spread = ops.sqrt(ops.maximum(squares / counted - mean**2, 0.0) + 1e-6)
    step = ops.sqrt(steps / ops.maximum(counted - 1.0, 1.0) + 1e-6)
    return ops.arcsinh(20.0 * ops.concatenate([moved, since - mean, spread, step], axis=-1))


class Photometry(layers.Layer):
    """Natural logarithms of fluxes in the units of the first epoch, from learned apertures: (…, n) to (…, aperture).

    What a Gaussian aperture loses of a Gaussian PSF is added back, with the widths that the apertures begin with; what that
    leaves is for the network to learn. Its inputs are the apertures, with :data:`FEATURES` as the last ones.

    Parameters
    ----------
    filters : int
        How many of the first inputs are apertures.
    **options
        Of a Keras layer.
    """

    def __init__(self, filters: int, **options: Any) -> None:
        super().__init__(**options)
        self.filters = filters

    def call(self, epochs: Any) -> Any:
        """Compute them."""
        squared = ops.square(3.0 * ops.exp(feature(epochs, "fwhm")) / 2.3548)
        lost = ops.log(squared + ops.convert_to_tensor(_widths(self.filters) ** 2))
        return epochs[..., : self.filters] + feature(epochs, "depth") + lost

    def compute_output_shape(self, epochs_shape: Shape) -> Shape:
        """Return the shape."""
        return (*epochs_shape[:-1], self.filters)


def _widths(filters: int) -> np.ndarray:
    """Standard deviations in pixels that apertures begin with, from a pixel's to a stamp's."""
    return np.geomspace(0.7, STAMP_SIZE / 3, filters).astype(np.float32)


def feature(epochs: Any, name: str) -> Any:
    """Return one of :data:`FEATURES`, which come last of the numbers of an epoch.

    Parameters
    ----------
    epochs : tensor
        Numbers of epochs, (…, n).
    name : str
        Of the feature.

    Returns
    -------
    tensor
        That one, (…, 1).
    """
    return epochs[..., FEATURES.index(name) - len(FEATURES), None]


def hours(epochs: Any) -> Any:
    """Return the time since the first epoch.

    Parameters
    ----------
    epochs : tensor
        Numbers of epochs with :data:`FEATURES` as the last ones, (…, n).

    Returns
    -------
    tensor
        Hours, (…, 1).
    """
    return ops.expm1(LOG_HOURS_SCALE * feature(epochs, "elapsed"))


def encode(encoder: keras.Model, images: Any, features: Any) -> Any:
    """Apply an encoder of single images to every image of a batch of sequences.

    Parameters
    ----------
    encoder
        Takes float32 (image, y, x, plane) and gives (image, n).
    images : tensor
        (object, epoch, y, x, plane), or without the last where that is one.
    features : tensor
        (object, epoch, feature).

    Returns
    -------
    tensor
        Output of the encoder for every epoch, (object, epoch, n).
    """
    flat = ops.reshape(images, (-1, *encoder.input_shape[1:]))
    return Fold()(encoder(flat), features)


def apertures(pixels: Any, filters: int) -> Any:
    """Weigh pixels linearly, and then take the arcsinh: photometry whose apertures are learned.

    They begin as Gaussians around the middle, from one as narrow as a pixel to one as wide as the stamp.

    Parameters
    ----------
    pixels : tensor
        Of stamps.
    filters : int
        How many apertures.

    Returns
    -------
    tensor
        Their fluxes, compressed.
    """
    weighed = layers.Dense(filters, kernel_initializer=_Gaussians(), name="apertures")(
        layers.Flatten()(pixels)
    )
    return Arcsinh()(weighed)


def gaussians(widths: Sequence[float] | np.ndarray) -> np.ndarray:
    """Weigh the pixels of a stamp by Gaussians around its middle, that turn a pixel's noise of one into one.

    Parameters
    ----------
    widths : sequence of float
        Standard deviations in pixels, ``(aperture,)``.

    Returns
    -------
    ndarray
        float64 ``(pixel, aperture)``.
    """
    y, x = (np.indices((STAMP_SIZE, STAMP_SIZE)) - (STAMP_SIZE - 1) / 2).reshape(2, -1, 1)
    weights = np.exp(-0.5 * (x**2 + y**2) / np.asarray(widths) ** 2)
    return np.asarray(weights / np.sqrt((weights**2).sum(axis=0)))


class _Gaussians(keras.initializers.Initializer):
    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        return ops.convert_to_tensor(gaussians(_widths(shape[1])), dtype=dtype)


def _named(model: keras.Model) -> dict[str, Any]:
    """Return each weight by a name of its place and kind, which are the same in every session."""
    return {f"{place:03d}.{weight.name}": weight for place, weight in enumerate(model.weights)}
