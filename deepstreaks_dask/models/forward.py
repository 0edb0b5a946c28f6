"""One compiled forward pass of any number of models over batches of uint8 cutouts.

A batch is sent to the device once, as bytes, and scaled there; every call has the same shape, so
that nothing is compiled twice. Each Keras backend has its branch here and is imported nowhere else.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from deepstreaks_dask.errors import ModelError

Forward = Callable[[np.ndarray], np.ndarray]


def compile_forward(models: Sequence[keras.Model], batch: int) -> Forward:
    """Compile models into one function from cutouts to scores.

    Parameters
    ----------
    models
        Networks that take float32 (cutout, y, x, 1) in 0..1, all of one input shape, and give one
        score each.
    batch
        Number of cutouts in a compiled call.

    Returns
    -------
    callable
        Takes uint8 (cutout, y, x) of at most `batch` cutouts and returns float32 (cutout, model) in
        0..1. Fewer cutouts are padded to `batch`, which leaves their scores as they are.

    Raises
    ------
    ModelError
        If the models disagree in shape, are none, or `batch` is below 1; and, from the function, if
        the cutouts are of another type, shape or number.
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
        if model.input_shape[-1] != 1 or model.output_shape[-1] != 1:
            raise ModelError(
                f"model {model.name!r} takes {model.input_shape[-1]} planes and gives "
                f"{model.output_shape[-1]} scores: only one plane and one score are supported"
            )
    height, width = models[0].input_shape[1:3]
    shape = (batch, height, width)
    run = _BACKENDS[keras.backend.backend()](models, shape)

    def forward(cutouts: np.ndarray) -> np.ndarray:
        n = len(cutouts)
        if cutouts.dtype != np.uint8 or cutouts.shape[1:] != shape[1:] or n > batch:
            raise ModelError(
                f"cutouts are {cutouts.dtype} {cutouts.shape}: give uint8 (n, {height}, {width}) "
                f"with n of at most {batch}"
            )
        if n < batch:
            padded = np.zeros(shape, np.uint8)
            padded[:n] = cutouts
            cutouts = padded
        return run(cutouts)[:n]

    return forward


def _scale(cutouts: Any) -> Any:
    """Bytes (cutout, y, x) on the device to float32 (cutout, y, x, 1) in 0..1."""
    return ops.cast(ops.expand_dims(cutouts, -1), "float32") / 255.0


def _tensorflow(models: Sequence[keras.Model], shape: tuple[int, int, int]) -> Forward:
    import tensorflow as tf

    # Not XLA: on CPUs it halves the speed of VGG6 and gains nothing on the larger networks. Weights
    # stay variables: as constants they let normalisation fold into the convolutions, a tenth
    # faster, but a worker with nine members then takes 6 GB in place of 2.
    @tf.function(
        input_signature=[tf.TensorSpec(shape, tf.uint8)], autograph=False, jit_compile=False
    )
    def scores(cutouts: Any) -> Any:
        images = _scale(cutouts)
        # Joined outside: within, TensorFlow moves the sigmoids behind the concatenation, where their
        # last bit depends on which other models run along.
        return [model(images, training=False) for model in models]

    compiled = scores.get_concrete_function()
    return lambda cutouts: np.concatenate(
        [column.numpy() for column in compiled(tf.constant(cutouts))], axis=1
    )


def _jax(models: Sequence[keras.Model], shape: tuple[int, int, int]) -> Forward:
    import jax

    # Weights are arguments: as constants of the trace they would be compiled in, slowly.
    weights = [
        (
            [variable.value for variable in model.trainable_variables],
            [variable.value for variable in model.non_trainable_variables],
        )
        for model in models
    ]

    @jax.jit
    def scores(weights: Any, cutouts: Any) -> Any:
        images = _scale(cutouts)
        columns = [
            model.stateless_call(trainable, fixed, images, training=False)[0]
            for model, (trainable, fixed) in zip(models, weights, strict=True)
        ]
        return ops.concatenate(columns, axis=1)

    compiled = scores.lower(weights, jax.ShapeDtypeStruct(shape, np.uint8)).compile()
    return lambda cutouts: np.asarray(compiled(weights, cutouts))


def _torch(models: Sequence[keras.Model], shape: tuple[int, int, int]) -> Forward:
    import torch

    @torch.inference_mode()
    def scores(cutouts: np.ndarray) -> np.ndarray:
        images = _scale(ops.convert_to_tensor(cutouts))
        columns = [model(images, training=False) for model in models]
        return ops.convert_to_numpy(ops.concatenate(columns, axis=1))

    return scores


_BACKENDS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
