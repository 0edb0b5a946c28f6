"""Networks and classifiers as bytes: safetensors, and `.keras` files without code in them."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec
import keras
import numpy as np
import safetensors
import safetensors.numpy

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.keras2 import layers as keras2_layers
from deepstreaks_dask.models.keras2.activations import REGISTERED_NAMES
from deepstreaks_dask.models.keras2.safe_layers import OWN_LAYERS
from deepstreaks_dask.models.registry import build, classifier_class, weight_shapes
from deepstreaks_dask.models.sequence.classifier import Classifier
from deepstreaks_dask.models.zoo.card import DTYPES, KERAS_FILE, Card


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
        model = _parse_keras(data, card.ref)
    else:
        model = build(card.architecture, card.input_shape, card.outputs)
        _set_weights(model, data, card.ref)
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
            data = file.read()
    except (OSError, ImportError, ValueError) as error:
        raise ModelError(f"cannot read {os.fspath(path)!r}: {error}") from error
    return _parse_keras(data, os.fspath(path))


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
    except (safetensors.SafetensorError, KeyError) as error:
        raise ModelError(f"the weights of model {ref!r} are no safetensors: {error}") from error


def _set_weights(model: keras.Model, data: bytes, ref: str) -> None:
    arrays = _arrays(data, ref)
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
    _parse_keras(data, ref)  # refuse now what could not be loaded later
    return data


def _parse_keras(data: bytes, origin: str) -> keras.Model:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ModelError(f"{origin!r} is no .keras file: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{origin!r} is no .keras file: its configuration is no table")
    config.pop("compile_config", None)  # never loaded
    for module, name, value in _classes(config):
        if (module, name) == ("builtins", "function") and value in REGISTERED_NAMES:
            continue
        if module == keras2_layers.__name__ and name in OWN_LAYERS:
            continue
        if "lambda" in name.lower():
            raise ModelError(f"{origin!r} holds a Lambda, code that could do anything: refused")
        if module is not None and module.split(".")[0] != "keras":
            raise ModelError(
                f"{origin!r} holds {module}.{name}, which is not a part of Keras: refused"
            )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(data)
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:  # Keras raises many kinds for a damaged or hostile file
            raise ModelError(f"{origin!r} cannot be loaded: {error}") from error


def _classes(config: Any) -> Iterator[tuple[str | None, str, Any]]:
    """Yield (module, class name, configuration) of all objects that a Keras configuration would make."""
    if isinstance(config, dict):
        if "class_name" in config:
            inner = config.get("config")
            yield (
                config.get("module"),
                str(config["class_name"]),
                inner if isinstance(inner, str) else None,
            )
        for value in config.values():
            yield from _classes(value)
    elif isinstance(config, list):
        for value in config:
            yield from _classes(value)
