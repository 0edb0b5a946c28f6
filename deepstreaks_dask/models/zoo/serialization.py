"""Networks and classifiers as bytes: safetensors, and `.keras` files without code in them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import fsspec
import keras
import numpy as np
import safetensors
import safetensors.numpy

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.keras2.hdf5 import MAX_BYTES
from deepstreaks_dask.models.registry import build, classifier_class, weight_shapes
from deepstreaks_dask.models.sequence.classifier import Classifier
from deepstreaks_dask.models.zoo.card import DTYPES, KERAS_FILE, Card
from deepstreaks_dask.models.zoo.keras_file import limited_weights, parse_keras


def network(data: bytes, card: Card) -> keras.Model:
    """Build the network that a file of weights holds.

    Parameters
    ----------
    data : bytes
        The file, which may be a stranger's.
    card : Card
        Of a network of cutouts.

    Returns
    -------
    keras.Model
        Takes float32 ``(cutout, y, x, plane)`` and gives float32 ``(cutout, output)``.

    Raises
    ------
    ModelError
        If the weights do not fit the card, or the file holds code.
    """
    if card.architecture == KERAS_FILE:
        model = parse_keras(data, card.ref)
    else:
        arrays = _arrays(data, card.ref)
        with limited_weights(sum(array.size for array in arrays.values()), card.ref):
            model = _built(card)
        _set_weights(model, arrays, card.ref)
    _check_shape(model, card)
    return model


def classifier(data: bytes, card: Card) -> Classifier:
    """Build the classifier of sequences that a file of weights holds.

    Parameters
    ----------
    data : bytes
        The file, which may be a stranger's.
    card : Card
        Of a classifier of sequences.

    Returns
    -------
    Classifier
        Ready to predict.

    Raises
    ------
    ModelError
        If the weights do not fit the card.
    """
    arrays = _arrays(data, card.ref)
    try:
        with limited_weights(sum(array.size for array in arrays.values()), card.ref):
            return classifier_class(card.architecture).from_arrays(card.classes, arrays)
    except ModelError as error:
        raise ModelError(f"the weights of model {card.ref!r} do not fit: {error}") from error


def to_bytes(model: keras.Model | Classifier, card: Card, dtype: str) -> tuple[bytes, str, str]:
    """Return the file of a model's weights.

    Parameters
    ----------
    model
        What the card speaks of.
    card : Card
        Names its architecture, shape and classes.
    dtype : str
        Precision that kernels of a network of this package are to have, one of ``float16`` and ``float32``.

    Returns
    -------
    bytes, str, str
        The file, how its name ends, and the precision of its kernels.

    Raises
    ------
    ModelError
        If the model does not fit its card, holds code, or has values that `dtype` cannot hold.
    """
    if card.classes:
        data, dtype = _classifier_bytes(model, card)
        return data, "safetensors", dtype
    _check_shape(model, card)
    if card.architecture == KERAS_FILE:
        return _keras_bytes(model, card.ref), "keras", "float32"
    return _weight_bytes(model, card, dtype), "safetensors", dtype


def load_keras(path: str | os.PathLike[str]) -> keras.Model:
    """Load a whole network from a `.keras` file that holds no code.

    Parameters
    ----------
    path
        Local path or URL.

    Returns
    -------
    keras.Model
        Not compiled for training.

    Raises
    ------
    ModelError
        If the file cannot be read, is no `.keras` file, or holds a Lambda or a class from outside
        Keras.
    """
    try:
        with fsspec.open(os.fspath(path), "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ImportError, ValueError) as error:
        raise ModelError(f"cannot read {os.fspath(path)!r}: {error}") from error
    if len(data) > MAX_BYTES:
        raise ModelError(f"{os.fspath(path)!r} has more than {MAX_BYTES:,} bytes")
    return parse_keras(data, os.fspath(path))


def _check_shape(model: Any, card: Card) -> None:
    takes, gives = tuple(model.input_shape[1:]), tuple(model.output_shape[1:])
    if takes != card.input_shape or gives != (card.outputs,):
        raise ModelError(
            f"model {card.ref!r} takes {takes} and gives {gives}, but its card says "
            f"{card.input_shape} and {(card.outputs,)}"
        )


def _named_weights(model: Any) -> dict[str, keras.Variable]:
    """Return each weight by a name of its layer's place and kind, which are the same in every session."""
    return {
        _weight_name(place, type(layer).__name__, weight.name): weight
        for place, layer in enumerate(model.layers)
        for weight in layer.weights
    }


def _weight_name(place: int, kind: str, name: str) -> str:
    return f"{place:03d}.{kind.lower()}.{name}"


def _weight_bytes(model: Any, card: Card, dtype: str) -> bytes:
    layers = weight_shapes(card.architecture, card.input_shape, card.outputs)
    shapes = {
        _weight_name(place, kind, name): shape
        for place, (kind, weights) in enumerate(layers)
        for name, shape in weights.items()
    }
    weights = _named_weights(model)
    if {name: tuple(weight.shape) for name, weight in weights.items()} != shapes:
        raise ModelError(f"model {card.ref!r} is no {card.architecture!r}, though its card says so")
    arrays = {}
    for name, weight in weights.items():
        array = weight.numpy().astype(np.float32)
        with np.errstate(over="ignore"):
            stored = array.astype(dtype if array.ndim > 1 else np.float32)
        if not np.isfinite(stored).all():
            raise ModelError(f"{name} of model {card.ref!r} has values that {dtype} cannot hold")
        arrays[name] = stored
    return safetensors.numpy.save(arrays)


def _classifier_bytes(model: Any, card: Card) -> tuple[bytes, str]:
    """Return a classifier's arrays as safetensors, and their precision."""
    if not isinstance(model, classifier_class(card.architecture)):
        raise ModelError(f"model {card.ref!r} is no {card.architecture!r}, though its card says so")
    if tuple(model.classes) != card.classes:
        raise ModelError(
            f"model {card.ref!r} tells {', '.join(model.classes)} apart, but its card says "
            f"{', '.join(card.classes)}"
        )
    arrays = {name: np.ascontiguousarray(array) for name, array in model.to_arrays().items()}
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelError(f"{name} of model {card.ref!r} holds what is not finite")
    half = any(array.dtype == np.float16 for array in arrays.values())
    return safetensors.numpy.save(arrays), "float16" if half else "float32"


def _arrays(data: bytes, ref: str) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load(data)
    except Exception as error:  # the library's own, and NumPy's for types that it does not know
        reason = " ".join((str(error) or type(error).__name__).split())
        raise ModelError(f"the weights of model {ref!r} are no safetensors: {reason}") from error


def _built(card: Card) -> keras.Model:
    try:
        return build(card.architecture, card.input_shape, card.outputs)
    except ValueError as error:
        raise ModelError(
            f"there is no {card.architecture} of input {card.input_shape}, as the card of {card.ref!r} has it: {error}"
        ) from error


def _set_weights(model: keras.Model, arrays: dict[str, np.ndarray], ref: str) -> None:
    weights = _named_weights(model)
    if set(arrays) != set(weights):
        strange = sorted(set(arrays) ^ set(weights))
        raise ModelError(
            f"the weights of model {ref!r} do not fit a {model.name}: {len(strange)} are missing "
            f"or too many, such as {strange[0]!r}"
        )
    for name, weight in weights.items():
        array = arrays[name]
        if array.shape != tuple(weight.shape) or array.dtype.name not in DTYPES:
            raise ModelError(
                f"{name} of model {ref!r} is {array.dtype} {array.shape}, not {tuple(weight.shape)}"
            )
        weight.assign(array.astype(np.float32))


def _keras_bytes(model: Any, ref: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        data = path.read_bytes()
    parse_keras(data, ref)  # refuse now what could not be loaded later
    return data
