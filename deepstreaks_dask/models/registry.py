"""The networks of DeepStreaks, the compiled forward pass that runs them, and the zoo of weights.

Definitions are plain Keras 3, so that they run on TensorFlow, JAX or PyTorch alike. Keras, which takes seconds to import, is
only imported by who builds or runs one: clients of a campaign read cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from deepstreaks_dask.errors import ModelError, did_you_mean

if TYPE_CHECKING:
    import keras

    from deepstreaks_dask.models.sequence.classifier import Classifier

ARCHITECTURES = {
    "vgg6": "deepstreaks_dask.models.architectures.vgg6:vgg6",
    "resnet50": "deepstreaks_dask.models.architectures.resnet50:resnet50",
    "densenet121": "deepstreaks_dask.models.architectures.densenet121:densenet121",
}
"""Where the function is that builds an architecture, by its name on a card."""

CLASSIFIERS = {
    "rcnn": "deepstreaks_dask.models.sequence.rcnn:Rcnn",
    "taonet": "deepstreaks_dask.models.sequence.taonet:TaoNet",
    "forest": "deepstreaks_dask.models.sequence.forest:Forest",
}
"""Where the class is that classifies sequences, by the name of its architecture on a card; not all of them are networks."""

PRECISIONS = "float32", "mixed_bfloat16", "mixed_float16"
"""In what a network computes: single precision, or half with weights and scores in single."""


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
    made = _find(architecture, ARCHITECTURES)
    return made(input_shape=tuple(input_shape), outputs=outputs)


@lru_cache(maxsize=16)
def weight_shapes(
    architecture: str, input_shape: tuple[int, int, int], outputs: int
) -> tuple[tuple[str, dict[str, tuple[int, ...]]], ...]:
    """Return the layers of an architecture and the shapes of their weights.

    The network is built once for each input shape and number of outputs, and not kept.

    Parameters
    ----------
    architecture : str
        A key of `ARCHITECTURES`.
    input_shape : tuple of int
        Height and width in px, and number of planes, of one cutout.
    outputs : int
        Number of sigmoid outputs.

    Returns
    -------
    tuple of (str, dict)
        Class of each layer in its place, and the shapes of its weights by their names, which are not to be changed.

    Raises
    ------
    ModelError
        If there is no such architecture.
    ValueError
        If cutouts are too small for the architecture.
    """
    return tuple(
        (type(layer).__name__, {weight.name: tuple(weight.shape) for weight in layer.weights})
        for layer in build(architecture, input_shape, outputs).layers
    )


def classifier_class(architecture: str) -> type[Classifier]:
    """Return the class of classifiers of sequences of a name.

    Parameters
    ----------
    architecture : str
        A key of `CLASSIFIERS`.

    Returns
    -------
    type
        Its objects predict.

    Raises
    ------
    ModelError
        If there is none.
    """
    return _find(architecture, CLASSIFIERS)


def _find(architecture: str, there: Mapping[str, str]) -> Any:
    """Import what goes by a name."""
    if architecture not in there:
        hint = did_you_mean(architecture, there)
        raise ModelError(
            f"no architecture {architecture!r}: {hint}choose one of {', '.join(there)}"
        )
    return resolve_name(there[architecture])


def check_precision(precision: str) -> None:
    """Check that a precision is one of `PRECISIONS`.

    Parameters
    ----------
    precision : str
        Such as ``float32``.

    Raises
    ------
    ModelError
        Which ones there are.
    """
    if precision not in PRECISIONS:
        raise ModelError(f"no precision {precision!r}: choose one of {', '.join(PRECISIONS)}")


__all__ = [
    "ARCHITECTURES",
    "CLASSIFIERS",
    "PRECISIONS",
    "build",
    "check_precision",
    "classifier_class",
    "weight_shapes",
]
