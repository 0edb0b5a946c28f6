"""One compiled forward pass of any number of models over batches of uint8 cutouts.

A batch is sent to the device once, as bytes where the archive has bytes, and scaled there as each model wants it
(`SCALINGS`); every call has the same shape, so that nothing is compiled twice, but where that is too much for the memory
of a device: then the batch is halved. Two calls are under way at a time: one is copied to a card while the other is
computed there, or uses the cores that the other leaves idle. Each Keras backend has its branch here, for gradients
in `explanations`, and is imported nowhere else.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import keras
import numpy as np
from keras import ops

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.registry import check_precision
from deepstreaks_dask.models.zoo.card import SCALINGS

# Take of a GPU's memory what is needed, and not all of it at once: others compute there too. TensorFlow and JAX
# look when they first use the card, PyTorch does so anyway. What somebody has set already stays.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

_Wait = Callable[[], np.ndarray]
_Begin = Callable[[np.ndarray], _Wait]  # begins a call, and gives what waits for its scores
_CALLS_IN_FLIGHT = 2  # calls under way


def _to_unit(cutouts: Any) -> Any:
    """Bytes to 0..1."""
    return cutouts / 255.0


def _to_norm(cutouts: Any) -> Any:
    """Every plane of every cutout to an L2 norm of 1, what is not finite to 0, as braai takes it (Duev et al. 2019b)."""
    known = ops.where(ops.isfinite(cutouts), cutouts, 0.0)
    norm = ops.sqrt(ops.sum(ops.square(known), axis=(1, 2), keepdims=True))
    return known / ops.maximum(norm, 1e-20)


def _unscaled(cutouts: Any) -> Any:
    return cutouts


SCALERS: Mapping[str, Callable[[Any], Any]] = dict(
    zip(SCALINGS, (_to_unit, _to_norm, _unscaled), strict=True)
)
"""What scales float32 pixels (cutout, y, x, plane), by name."""


def set_precision(model: keras.Model, precision: str) -> None:
    """Set the precision that a network computes in; its weights stay in single.

    Parameters
    ----------
    model
        To be changed before it is compiled. Its last layer stays in single precision: eight bits of a score near
        a threshold would be too few.
    precision
        One of `PRECISIONS`.

    Raises
    ------
    ModelError
        If there is no such precision.

    References
    ----------
    Micikevicius et al. 2018, Mixed Precision Training, arXiv:1710.03740.
    """
    check_precision(precision)
    *inner, last = _leaves(model)
    for layer in inner:
        layer.dtype_policy = keras.DTypePolicy(precision)
    last.dtype_policy = keras.DTypePolicy("float32")


def resizing(model: keras.Model, height: int, width: int) -> keras.Model:
    """Return a network that takes cutouts of another size and resizes them on the device.

    Parameters
    ----------
    model
        Takes float32 (cutout, y, x, plane) of a size of its own.
    height, width
        Of the cutouts, in px.

    Returns
    -------
    keras.Model
        The network itself where the size is its own. Else it is preceded by bilinear interpolation that averages over
        what it shrinks (antialiased), as Pillow's does, without rounding to bytes.
    """
    _, *size, planes = model.input_shape
    if (height, width) == tuple(size):
        return model
    cutouts = keras.Input((height, width, planes))
    brought = ops.image.resize(cutouts, size, interpolation="bilinear", antialias=True)
    return keras.Model(cutouts, model(brought), name=model.name)


def last_layer(model: keras.Model) -> keras.Layer:
    """Return the layer that computes a network's scores, however deep networks are nested."""
    *_, last = _leaves(model)
    return last


def _leaves(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


class Forward:
    """Models compiled by :func:`compile_forward`: a function from cutouts to scores.

    Parameters
    ----------
    compiled : callable
        Compiles the pass for so many cutouts.
    shape : tuple of int
        Batch, height, width and planes.
    dtype : numpy.dtype
        That cutouts are brought to.
    only_bytes : bool
        Whether cutouts must be uint8.

    Attributes
    ----------
    size : int
        Cutouts in a compiled call: the batch, halved as often as the memory of the device was exhausted. A call of
        another size may be computed by another algorithm, so that its scores may differ in their last bits.
    """

    def __init__(
        self,
        compiled: Callable[[int], _Begin],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        only_bytes: bool,
    ) -> None:
        self._compiled, self._shape = compiled, shape
        self._dtype, self._only_bytes = dtype, only_bytes
        self.size = shape[0]
        self._begin = self._fitting(lambda: compiled(self.size))

    def __call__(self, cutouts: np.ndarray) -> np.ndarray:
        """Score any number of cutouts, a batch a call."""
        if cutouts.ndim == 3:
            cutouts = cutouts[..., None]
        if (self._only_bytes and cutouts.dtype != np.uint8) or cutouts.shape[1:] != self._shape[1:]:
            raise ModelError(
                f"cutouts are {cutouts.dtype} {cutouts.shape}: give {'uint8' if self._only_bytes else 'numbers'} of "
                f"shape (n, {', '.join(map(str, self._shape[1:]))})"
            )
        return self._fitting(lambda: self._passes(cutouts))

    def _passes(self, cutouts: np.ndarray) -> np.ndarray:
        """Score cutouts in calls of one size, the last one filled up."""
        done: list[np.ndarray] = []
        under_way: deque[_Wait] = deque()
        try:
            for k in range(0, max(1, len(cutouts)), self.size):
                if len(under_way) == _CALLS_IN_FLIGHT:
                    done.append(under_way.popleft()())
                under_way.append(self._begin(self._filled(cutouts[k : k + self.size])))
            done += [wait() for wait in under_way]
        except Exception:
            for wait in under_way:  # of them, too, nothing may be on the device when less is tried
                with suppress(Exception):
                    wait()
            raise
        return np.concatenate(done)[: len(cutouts)]

    def _filled(self, cutouts: np.ndarray) -> np.ndarray:
        if len(cutouts) == self.size and cutouts.dtype == self._dtype:
            return cutouts
        filled = np.zeros((self.size, *self._shape[1:]), self._dtype)
        filled[: len(cutouts)] = cutouts
        return filled

    def _fitting(self, work: Callable[[], Any]) -> Any:
        """Do what needs the device's memory; while it does not fit, halve the size and do it again."""
        while True:
            try:
                return work()
            except Exception as error:
                if self.size == 1 or not _exhausted(error):
                    raise
            # here, where the error is gone and no frame of it keeps arrays on the device
            self.size = -(-self.size // 2)
            self._begin = self._fitting(lambda: self._compiled(self.size))


def _exhausted(error: Exception) -> bool:
    """Return whether the memory of a device is full: TensorFlow and PyTorch have a class for this error, JAX only a text."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    full = kinds & {"ResourceExhaustedError", "OutOfMemoryError"}
    return bool(full) or "RESOURCE_EXHAUSTED" in str(error)


def compile_forward(
    models: Sequence[keras.Model],
    batch: int,
    scalings: Sequence[str] | None = None,
    *,
    flips: bool = False,
) -> Forward:
    """Compile models into one function from cutouts to scores.

    Parameters
    ----------
    models
        Networks that take float32 (cutout, y, x, plane), all of one input shape, and give one score
        each.
    batch
        Number of cutouts in a compiled call.
    scalings
        A key of `SCALINGS` for each model; ``"bytes"`` for all by default.
    flips
        Give the mean of what a model says of a cutout and of its three flips, upside down, left to right and both: four
        looks for one score.

    Returns
    -------
    callable
        Takes any number of cutouts, (cutout, y, x, plane) or, of one plane, (cutout, y, x), uint8 where a model
        wants bytes and else of any type, and returns float32 (cutout, model) in 0..1. What is left of the last batch is
        padded, which leaves its scores as they are.
        Where the memory of the device is exhausted the batch is halved, for good (:attr:`Forward.size`).

    Raises
    ------
    ModelError
        If the models disagree in shape, are none, or `batch` is below 1; and, from the function, if
        the cutouts are of another type or shape.
    """
    if not models:
        raise ModelError("no model to run: give at least one")
    if batch < 1:
        raise ModelError(f"batch of {batch} cutouts: give 1 or more")
    for model in models:
        if model.input_shape != models[0].input_shape:
            raise ModelError(
                f"models take cutouts of different shapes, {models[0].input_shape[1:]} and "
                f"{model.input_shape[1:]}: score them in separate campaigns"
            )
        if len(model.input_shape) != 4 or None in model.input_shape[1:]:
            raise ModelError(
                f"model {model.name!r} takes {model.input_shape[1:]}, no cutouts of one size"
            )
        if tuple(model.output_shape[1:]) != (1,):
            raise ModelError(
                f"model {model.name!r} gives {model.output_shape[1:]}: only one score is supported"
            )
    scalings = ["bytes"] * len(models) if scalings is None else list(scalings)
    for scaling in scalings:
        if scaling not in SCALINGS:
            raise ModelError(f"no scaling {scaling!r}: choose one of {', '.join(SCALINGS)}")
    only_bytes = "bytes" in scalings
    dtype = np.dtype(np.uint8 if set(scalings) == {"bytes"} else np.float32)
    shape = (batch, *models[0].input_shape[1:])
    looks = _Looks(models, scalings, flips)
    backend = _BACKENDS[keras.backend.backend()]
    return Forward(
        lambda size: backend(looks, (size, *shape[1:]), dtype.name), shape, dtype, only_bytes
    )


def compile_arrays(model: keras.Model) -> Callable[..., np.ndarray]:
    """Compile one network into a function of its inputs, whatever their sizes.

    Parameters
    ----------
    model
        With one output. What TensorFlow compiles once JAX compiles for every new shape.

    Returns
    -------
    callable
        Takes an array for each input, in their order, each ``(n, …)``, and returns the output as float32 ``(n, …)``.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        # of any sizes, so that it is traced once
        signature = [tf.TensorSpec(x.shape, x.dtype) for x in model.inputs]

        @tf.function(input_signature=signature, autograph=False, jit_compile=False)
        def run(*arrays: Any) -> Any:
            return model(list(arrays), training=False)

        return lambda *arrays: run(*map(tf.constant, arrays)).numpy()
    if backend == "jax":
        import jax

        compiled = jax.jit(
            lambda weights, *arrays: model.stateless_call(*weights, list(arrays), training=False)[0]
        )
        return lambda *arrays: np.asarray(compiled(_values(model), *arrays))
    import torch

    @torch.inference_mode()
    def look(*arrays: np.ndarray) -> np.ndarray:
        given = model([ops.convert_to_tensor(array) for array in arrays], training=False)
        return np.asarray(ops.convert_to_numpy(given))

    return look


@dataclass(frozen=True)
class _Looks:
    """Who looks at cutouts, and how they are scaled for each."""

    models: Sequence[keras.Model]
    scalings: Sequence[str]
    flips: bool

    def columns(self, cutouts: Any, look: Callable[[int, Any], Any] | None = None) -> list[Any]:
        """Scale pixels on the device, once a scaling, and let each model look at its own."""
        look = look or (lambda k, images: self.models[k](images, training=False))
        pixels = ops.cast(cutouts, "float32")
        scaled = {scaling: SCALERS[scaling](pixels) for scaling in dict.fromkeys(self.scalings)}
        if not self.flips:
            return [look(k, scaled[scaling]) for k, scaling in enumerate(self.scalings)]
        views = {scaling: _flipped(images) for scaling, images in scaled.items()}
        return [
            sum(look(k, view) for view in views[scaling]) / len(views[scaling])
            for k, scaling in enumerate(self.scalings)
        ]


def _flipped(images: Any) -> list[Any]:
    """Return images (cutout, y, x, plane) as they are, upside down, left to right, and both."""
    return [images, ops.flip(images, 1), ops.flip(images, 2), ops.flip(images, (1, 2))]


def _tensorflow(looks: _Looks, shape: tuple[int, ...], dtype: str) -> _Begin:
    import tensorflow as tf

    # Not XLA: on CPUs it halves the speed of VGG6 and gains nothing on the larger networks. Weights
    # stay variables: as constants they let normalisation fold into the convolutions, a tenth
    # faster, but a worker with nine members then takes 6 GB in place of 2.
    @tf.function(input_signature=[tf.TensorSpec(shape, dtype)], autograph=False, jit_compile=False)
    def scores(cutouts: Any) -> Any:
        # Joined outside: within, TensorFlow moves the sigmoids behind the concatenation, where their
        # last bit depends on which other models run along.
        return looks.columns(cutouts)

    compiled = scores.get_concrete_function()

    def run(cutouts: np.ndarray) -> np.ndarray:
        columns = [column.numpy() for column in compiled(tf.constant(cutouts))]
        return np.concatenate(columns, axis=1)

    pool = ThreadPoolExecutor(
        _CALLS_IN_FLIGHT, "forward"
    )  # TensorFlow's own calls return when they are done
    return lambda cutouts: pool.submit(run, cutouts).result


def _jax(looks: _Looks, shape: tuple[int, ...], dtype: str) -> _Begin:
    import jax

    def weights() -> list[Any]:
        return [_values(model) for model in looks.models]

    # Weights are arguments: as constants of the trace they would be compiled in, slowly.
    @jax.jit
    def scores(weights: Any, cutouts: Any) -> Any:
        def look(k: int, images: Any) -> Any:
            return looks.models[k].stateless_call(*weights[k], images, training=False)[0]

        return ops.concatenate(looks.columns(cutouts, look), axis=1)

    compiled = scores.lower(weights(), jax.ShapeDtypeStruct(shape, dtype)).compile()
    # it returns before anything is copied or computed
    return lambda cutouts: partial(np.asarray, compiled(weights(), cutouts))


def _values(model: keras.Model) -> tuple[list[Any], list[Any]]:
    """Return a network's arrays for JAX, anew for each call: Keras's own predict() and fit() donate old ones."""
    kept = model.trainable_variables, model.non_trainable_variables
    trainable, others = ([variable.value for variable in some] for some in kept)
    return trainable, others


def _torch(looks: _Looks, shape: tuple[int, ...], dtype: str) -> _Begin:
    import torch

    def scores(pixels: Any) -> Any:
        return ops.concatenate(looks.columns(pixels), axis=1)

    @torch.inference_mode()
    def run(cutouts: np.ndarray) -> np.ndarray:
        return np.asarray(ops.convert_to_numpy(scores(ops.convert_to_tensor(cutouts))))

    device = looks.models[0].weights[0].value.device
    if device.type == "cuda":
        return _torch_on_card(scores, shape, dtype, device)
    return lambda cutouts: partial(run, cutouts)


def _torch_on_card(
    scores: Callable[[Any], Any], shape: tuple[int, ...], dtype: str, device: Any
) -> _Begin:
    """Copy to the card while it computes: from memory that it reads by itself, in a queue beside the one of its work."""
    import torch

    buffers = cycle(
        [
            torch.empty(shape, dtype=getattr(torch, dtype), pin_memory=True)
            for _ in range(_CALLS_IN_FLIGHT)
        ]
    )
    copies = torch.cuda.Stream(device)

    @torch.inference_mode()
    def begin(cutouts: np.ndarray) -> _Wait:
        buffer = next(buffers)  # its last call has been waited for
        buffer.copy_(torch.from_numpy(cutouts))
        with torch.cuda.stream(copies):
            pixels = buffer.to(device, non_blocking=True)
        work = torch.cuda.current_stream(device)
        work.wait_stream(copies)
        pixels.record_stream(work)
        given = scores(pixels)
        found = torch.empty(given.shape, dtype=given.dtype, pin_memory=True)
        found.copy_(given, non_blocking=True)
        done = torch.cuda.Event()
        done.record(work)

        def wait() -> np.ndarray:
            done.synchronize()
            return np.asarray(found)

        return wait

    return begin


_BACKENDS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
