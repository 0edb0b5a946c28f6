"""Check the configuration of a ``.keras`` file: what it may name is listed, and all else is refused.

Keras's own safe mode refuses code in a file; again and again something was found that runs code or opens files all the
same (CVE-2025-1550, CVE-2025-9906, CVE-2026-1462). So no configuration reaches Keras that names anything but layers,
operations and what belongs to them, all of which only compute.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

import keras

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.keras2 import layers as own_layers  # which registers them
from deepstreaks_dask.models.keras2.activations import REGISTERED_NAMES
from deepstreaks_dask.models.keras2.options import MAX_LAYERS, MAX_NUMBER
from deepstreaks_dask.models.keras2.safe_layers import LAYERS, OWN_LAYERS

MAX_CONFIG_BYTES = 64 * 2**20
MAX_DEPTH = 100  # levels of tables and lists in each other
MAX_VALUES = 500_000

_OTHER_LAYERS = """
EinsumDense GroupQueryAttention InputLayer MultiHeadAttention Normalization RMSNormalization RandomBrightness
RandomContrast RandomCrop RandomFlip RandomRotation RandomTranslation RandomZoom Resizing SpectralNormalization
"""
SAFE_LAYERS = LAYERS | frozenset(_OTHER_LAYERS.split())
"""Layers that a ``.keras`` file may have: those of Keras 2, and others that only compute."""

_NETWORKS = {
    "Functional": "keras.src.models.functional",
    "Model": "keras",
    "Sequential": "keras",
}
_OPERATIONS = "keras.src.ops.math", "keras.src.ops.nn", "keras.src.ops.numpy"
_HELPERS = ("keras.initializers", "keras.regularizers", "keras.constraints")
_VALUES = frozenset({"__keras_tensor__", "__slice__", "__ellipsis__"})
_POLICIES = frozenset({"DTypePolicy", "FloatDTypePolicy"})
_DROPPED = "compile_config", "quantization_config"
"""What is for training, or changes layers: never loaded."""

_UNBOUNDED = frozenset({"seed", "shared_object_id"})
"""Options that are numbers of any size."""


def checked_config(data: bytes, origin: str) -> dict[str, Any]:
    """Return the configuration of a ``.keras`` file as Keras may have it.

    Parameters
    ----------
    data : bytes
        Its ``config.json``.
    origin : str
        What to call the file in an error.

    Returns
    -------
    dict
        Without anything that is for training only.

    Raises
    ------
    ModelError
        If it is no configuration of a network, or names what is not known to be safe.
    """
    try:
        config = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise ModelError(
            f"{origin!r} is no .keras file: its configuration is no JSON: {reason}"
        ) from error
    if not isinstance(config, dict) or config.get("class_name") not in list(_NETWORKS):
        named = str(config.get("class_name"))[:80] if isinstance(config, dict) else "no table"
        raise ModelError(
            f"{origin!r} is no .keras file of a Sequential or functional network: {named}"
        )
    layers = 0
    for seen, (depth, holder, key) in enumerate(_everything(config)):
        if depth > MAX_DEPTH or seen > MAX_VALUES:
            raise ModelError(f"{origin!r} has a configuration that is too deep or too long")
        item = holder[key]
        if isinstance(item, dict):
            for name in _DROPPED:
                item.pop(name, None)
            if "class_name" in item:
                _check_class(item, origin)
                layers += item["class_name"] in SAFE_LAYERS | OWN_LAYERS
        elif isinstance(item, int | float):
            _check_number(key, item, origin)
    if layers > MAX_LAYERS:
        raise ModelError(f"{origin!r} has more than {MAX_LAYERS:,} layers")
    return config


def _everything(config: dict[str, Any]) -> Iterator[tuple[int, Any, Any]]:
    """Yield depth, container and key of all values, outer ones first: what is dropped there is not visited."""
    todo: list[tuple[int, Any, Any]] = [(0, {"": config}, "")]
    while todo:
        depth, holder, key = todo.pop()
        yield depth, holder, key
        value = holder[key]
        if isinstance(value, dict | list):
            keys = list(value) if isinstance(value, dict) else range(len(value))
            todo += [(depth + 1, value, inner) for inner in keys]


def _check_class(item: dict[str, Any], origin: str) -> None:
    """Check what Keras would make of a table with a class."""
    name, module = item["class_name"], item.get("module")
    if not isinstance(name, str) or not isinstance(module, str | None):
        raise ModelError(f"{origin!r} names a class that is no text: refused")
    if "lambda" in name.lower():
        raise ModelError(f"{origin!r} holds a Lambda, code that could do anything: refused")
    if name == "function" and item.get("config") in _functions():
        module = "keras"
    elif module == own_layers.__name__ and name in OWN_LAYERS:
        if item.get("registered_name") != f"deepstreaks_dask>{name}":
            raise ModelError(f"{origin!r} gives {name} another name: refused")
        return
    elif module is not None and module.split(".")[0] != "keras":
        raise ModelError(
            f"{origin!r} holds {module[:80]}.{name[:80]}, which is not a part of Keras: refused"
        )
    elif not _is_safe(name, module):
        raise ModelError(
            f"{origin!r} holds {name[:80]}, which is not among the layers that are known to be safe: refused"
        )
    registered = item.get("registered_name")
    if registered not in (None, name, *REGISTERED_NAMES):
        raise ModelError(
            f"{origin!r} gives {name[:80]} another name, {str(registered)[:80]!r}: refused"
        )
    inner = item.get("config")
    if isinstance(inner, dict) and inner.get("stateful"):
        raise ModelError(f"{origin!r}: {name} is stateful: its scores would depend on those before")


def _is_safe(name: str, module: str | None) -> bool:
    """Return whether a class may be made, where Keras would look for it."""
    if name in _VALUES:
        return module is None
    if name in _NETWORKS:
        return module in ("keras", "keras.models", _NETWORKS[name])
    if name in _POLICIES:
        return module in ("keras", "keras.dtype_policies")
    if module in _OPERATIONS:
        found = vars(import_module(module)).get(name)
        return isinstance(found, type) and issubclass(found, keras.Operation)
    if module in _HELPERS:
        return isinstance(getattr(import_module(module), name, None), type)
    return module == "keras.layers" and name in SAFE_LAYERS


@cache
def _functions() -> frozenset[str]:
    """Names of the functions that Keras may look up: its activations, and those of this package."""
    own = {name for name, value in vars(keras.activations).items() if callable(value)}
    return frozenset(own - {"get", "serialize", "deserialize"}) | REGISTERED_NAMES


def _check_number(key: Any, value: float, origin: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ModelError(f"{origin!r}: {key} is {value}: refused")
    if key not in _UNBOUNDED and isinstance(value, int) and abs(value) > MAX_NUMBER:
        raise ModelError(f"{origin!r}: {str(key)[:80]} is {value}: too large")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
