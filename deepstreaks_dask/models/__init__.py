"""The networks of DeepStreaks, the compiled forward pass that runs them, and the zoo of weights.

Definitions are plain Keras 3, so that they run on TensorFlow, JAX or PyTorch alike.
"""

import difflib
from collections.abc import Callable

import keras

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.classifier import Classifier
from deepstreaks_dask.models.densenet121 import densenet121
from deepstreaks_dask.models.rcnn import Rcnn
from deepstreaks_dask.models.resnet50 import resnet50
from deepstreaks_dask.models.taonet import TaoNet
from deepstreaks_dask.models.vgg6 import vgg6
from deepstreaks_dask.sequences.forest import Forest

ARCHITECTURES: dict[str, Callable[..., keras.Model]] = {
    "vgg6": vgg6,
    "resnet50": resnet50,
    "densenet121": densenet121,
}
"""What builds an architecture, by its name on a card."""

CLASSIFIERS: dict[str, type[Classifier]] = {
    "rcnn": Rcnn,
    "taonet": TaoNet,
    "forest": Forest,
}
"""What classifies sequences, by the name of its architecture on a card; not all of them are networks."""


def build(
    architecture: str, input_shape: tuple[int, int, int] = (144, 144, 1), outputs: int = 1
) -> keras.Model:
    """Build an architecture by its name, with random weights.

    Parameters
    ----------
    architecture
        A key of `ARCHITECTURES`.
    input_shape
        Height and width in px, and number of planes, of one cutout.
    outputs
        Number of sigmoid outputs.

    Returns
    -------
    keras.Model
        Takes float32 (cutout, y, x, plane) in 0..1 and gives float32 (cutout, output) in 0..1.

    Raises
    ------
    ModelError
        If there is no such architecture.
    """
    if architecture not in ARCHITECTURES:
        near = difflib.get_close_matches(architecture, ARCHITECTURES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ModelError(
            f"no architecture {architecture!r}: {hint}choose one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[architecture](input_shape=tuple(input_shape), outputs=outputs)


__all__ = ["ARCHITECTURES", "CLASSIFIERS", "Classifier", "build"]
