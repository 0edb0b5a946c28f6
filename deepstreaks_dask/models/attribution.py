"""What in a cutout a network's score comes from: integrated gradients (Sundararajan, Taly and Yan 2017, arXiv:1703.01365).

The picture is faded in from an empty sky, a picture of its own median, and each pixel is given its share of what this
does to the network's logit, the score before the last sigmoid: the gradient along the way, times how far the pixel is from
the sky. The shares add up to the logit of the cutout less that of the sky, but for the error of summing in steps. This
needs nothing of a network but its gradient, and so is the same for every architecture; Grad-CAM (Selvaraju et al. 2017),
which looks at the last feature maps, would see 5 x 5 pixels of ResNet50's and 4 x 4 of DenseNet121's.

A share has a sign: above zero speaks for a high score, below against it. Maps without it would say little, since
how large shares are depends on the picture more than on the network (Adebayo et al. 2018, arXiv:1810.03292). On twelve
simulated asteroids the rank correlation between maps of a shipped network and of one with random weights is within 0.05
of 0 with the sign, and 0.5 to 0.6 without it. A map tells what one network reacted to in one picture, not whether it was
right, nor what another picture would do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.inference import SCALERS, last_layer
from deepstreaks_dask.models.zoo.card import SCALINGS

INTEGRATION_STEPS = 32
"""From the empty sky to the cutout."""

_STEPS_PER_CALL = 16  # steps in a compiled call, so that the larger networks fit into memory

_Gradient = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Explanation:
    """What a network's score of a cutout comes from.

    Attributes
    ----------
    shares : ndarray
        float32 ``(y, x, plane)``: what each pixel adds to the logit, above that of the empty sky.
    logit, sky : float
        Of the cutout, and of an empty sky, all of its median grey; no unit. (The score itself, where a network does not
        end in a sigmoid.)
    """

    shares: np.ndarray
    logit: float
    sky: float

    @property
    def missing(self) -> float:
        """What the shares lack of ``logit - sky``: the error of summing in steps."""
        return self.logit - self.sky - float(self.shares.sum(dtype=np.float64))


class Explainer:
    """A network that says where its scores come from.

    Parameters
    ----------
    model : keras.Model
        Takes float32 ``(cutout, y, x, plane)`` and gives one score. It is changed: its last sigmoid is taken away.
    scaling : str
        How pixels become what it takes, one of :data:`~deepstreaks_dask.models.zoo.card.SCALINGS`.

    Raises
    ------
    ModelError
        If there is no such scaling, or the network gives several scores.
    """

    def __init__(self, model: keras.Model, scaling: str = "bytes") -> None:
        if scaling not in SCALINGS:
            raise ModelError(f"no scaling {scaling!r}: choose one of {', '.join(SCALINGS)}")
        if tuple(model.output_shape[1:]) != (1,):
            raise ModelError(
                f"model {model.name!r} gives {model.output_shape[1:]}: only one score can be explained"
            )
        last = last_layer(model)
        if getattr(last, "activation", None) is keras.activations.sigmoid:
            # a sigmoid near 1 is flat: the gradient of a sure score would be none
            last.activation = keras.activations.linear
        self._shape, self._scale = tuple(model.input_shape[1:]), SCALERS[scaling]
        self._gradient = _BACKENDS[keras.backend.backend()](model, (_STEPS_PER_CALL, *self._shape))

    def __call__(self, cutout: np.ndarray) -> Explanation:
        """Explain a score.

        Parameters
        ----------
        cutout : ndarray
            ``(y, x)`` or ``(y, x, plane)``, as an archive has it.

        Raises
        ------
        ModelError
            If the network takes cutouts of another shape.
        """
        pixels = cutout[..., None] if cutout.ndim == 2 else cutout
        if pixels.shape != self._shape:
            raise ModelError(f"the cutout is {pixels.shape}, and the network takes {self._shape}")
        scaled = self._scale(ops.cast(pixels[None], "float32"))
        picture = np.nan_to_num(ops.convert_to_numpy(scaled)[0])
        sky = np.broadcast_to(np.median(picture, axis=(0, 1)), picture.shape)
        ways = (np.arange(INTEGRATION_STEPS, dtype=np.float32) + 0.5) / INTEGRATION_STEPS
        total = np.zeros(picture.shape, np.float64)
        for k in range(0, INTEGRATION_STEPS, _STEPS_PER_CALL):
            way = ways[k : k + _STEPS_PER_CALL, None, None, None]
            total += self._gradient(sky + way * (picture - sky))[0].sum(axis=0, dtype=np.float64)
        ends = np.zeros((_STEPS_PER_CALL, *self._shape), np.float32)
        ends[0], ends[1] = picture, sky
        logit, of_sky = self._gradient(ends)[1][:2, 0]
        shares = (total / INTEGRATION_STEPS * (picture - sky)).astype(np.float32)
        return Explanation(shares, float(logit), float(of_sky))


def _tensorflow(model: keras.Model, shape: tuple[int, ...]) -> _Gradient:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec(shape)], autograph=False, jit_compile=False)
    def gradient(images: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            values = model(images, training=False)
        return tape.gradient(values, images), values

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slopes, values = gradient(tf.constant(images))
        return slopes.numpy(), values.numpy()

    return run


def _jax(model: keras.Model, shape: tuple[int, ...]) -> _Gradient:
    import jax

    weights = (
        [variable.value for variable in model.trainable_variables],
        [variable.value for variable in model.non_trainable_variables],
    )

    @jax.jit
    def gradient(images: Any) -> Any:
        def look(images: Any) -> Any:
            return model.stateless_call(*weights, images, training=False)[0]

        values, back = jax.vjp(look, images)
        return back(ops.ones_like(values))[0], values

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slopes, values = gradient(images)
        return np.asarray(slopes), np.asarray(values)

    return run


def _torch(model: keras.Model, shape: tuple[int, ...]) -> _Gradient:
    import torch

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pixels = ops.convert_to_tensor(images).requires_grad_()
        values = model(pixels, training=False)
        (slopes,) = torch.autograd.grad(values.sum(), pixels)
        return ops.convert_to_numpy(slopes), ops.convert_to_numpy(values)

    return run


_BACKENDS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
