"""Options of Keras 2 layers, checked one by one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.keras2.activations import keras2_hard_sigmoid
from deepstreaks_dask.models.keras2.safe_layers import INERT_LAYERS

RENAMED_OPTIONS = {
    **dict.fromkeys(INERT_LAYERS, "Identity"),
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "CuDNNGRU": "GRU",
    "CuDNNLSTM": "LSTM",
    "ThresholdedReLU": "ReLU",
}
_UNCHANGED_OPTIONS = (
    "elu selu softmax softplus softsign relu relu6 tanh sigmoid exponential linear gelu mish"
)
ACTIVATIONS: dict[str, str | Callable[..., Any]] = {
    **{name: name for name in _UNCHANGED_OPTIONS.split()},
    "swish": "silu",
    "silu": "silu",
    "hard_sigmoid": keras2_hard_sigmoid,
}
ACTIVATION_LAYERS = frozenset({"ELU", "LeakyReLU", "ReLU", "Softmax", "ThresholdedReLU"})

# Without effect on what a trained network gives.
TRAINING_SUFFIXES = ("_initializer", "_regularizer", "_constraint")
_INERT_OPTIONS_TEXT = """
autocast batch_input_shape batch_size dtype fused implementation input_length num_constants rank seed sparse trainable
unroll
"""
INERT_OPTIONS = frozenset(_INERT_OPTIONS_TEXT.split())
# Options that Keras 3 has no more, and the values that change nothing.
NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "adjustment": (None,),
    "causal": (False,),
    "data_format": ("channels_last", None),
    "filters": (None,),
    "groups": (1,),
    "noise_shape": (None,),
    "ragged": (False, None),
    "renorm": (False, None),
    "renorm_clipping": (None,),
    "renorm_momentum": (0.99, None),
    "synchronized": (False, None),
    "time_major": (False, None),
    "virtual_batch_size": (None,),
}

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PLACE = re.compile(r"^Exception encountered when calling|Error encountered:$")

MAX_DEPTH = 16
MAX_LAYERS = 5_000
MAX_NUMBER = 10**8
MAX_ACTIVATION = 2**27  # values that one layer gives for one cutout
INPUT_DTYPES = frozenset({"float16", "float32", "float64", "int32", "int64", "uint8", "bool"})


def layer_options(
    old_class: str, config: Mapping[str, Any], cls: type, where: str
) -> dict[str, Any]:
    """Return the options of a Keras 2 layer under the names that Keras 3 has for them.

    Parameters
    ----------
    old_class : str
        Class of the layer in Keras 2.
    config : mapping
        Its options, as Keras 2 wrote them.
    cls : type
        Class of the layer in Keras 3.
    where : str
        What to call the layer in an error.

    Returns
    -------
    dict
        Keyword arguments of ``cls``.

    Raises
    ------
    ModelError
        If the layer is stateful, or Keras 3 has no equal of an option or an activation.
    """
    given = {key: value for key, value in config.items() if key != "name"}
    if old_class in INERT_LAYERS:  # all of its options act in training only
        given = {}
    if old_class == "ThresholdedReLU":
        given["threshold"] = given.pop("theta", 1.0)
    if old_class == "LeakyReLU" and "alpha" in given:
        given["negative_slope"] = given.pop("alpha")
    if old_class in ("CuDNNLSTM", "CuDNNGRU"):
        given |= {"activation": "tanh", "recurrent_activation": "sigmoid"}
    if cls.__name__ in ("GRU", "GRUCell"):
        given.setdefault("reset_after", old_class == "CuDNNGRU")
    if given.pop("stateful", False):
        raise ModelError(f"{where} is stateful: its scores would depend on those before")
    accepted = _accepted(cls)
    if "data_format" in accepted and given.get("data_format") is None:
        given["data_format"] = "channels_last"
    options = {}
    for key, value in given.items():
        if key in ("layer", "backward_layer", "cell", "cells"):
            continue
        if key.endswith(TRAINING_SUFFIXES) or key in INERT_OPTIONS:
            continue
        value = plain_value(value)
        if key in accepted:
            if key.endswith("activation"):
                value = _activation(value, where)
            if key == "axis" and cls.__name__ == "BatchNormalization" and isinstance(value, tuple):
                value = value[0] if len(value) == 1 else value
            _check_numbers(value, f"{where}: option {layer_name(key)}")
            options[key] = value
        elif key not in NEUTRAL_VALUES or value not in NEUTRAL_VALUES[key]:
            raise ModelError(
                f"{where}: option {layer_name(key)}={str(value)[:80]} is not supported"
            )
    return options


def _accepted(cls: type) -> set[str]:
    """Names of the options that a class takes, itself or to hand them on to its parents."""
    names = set()
    for parent in cls.__mro__:
        if "__init__" not in vars(parent):
            continue
        parameters = inspect.signature(vars(parent)["__init__"]).parameters.values()
        names |= {
            parameter.name
            for parameter in parameters
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        }
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return names - {"self"}


def _activation(value: Any, where: str) -> Any:
    if value is None:
        return None
    if isinstance(value, str) and value in ACTIVATIONS:
        return ACTIVATIONS[value]
    if isinstance(value, dict):
        name, config = value.get("class_name"), value.get("config")
        if isinstance(name, str) and name in ACTIVATION_LAYERS and isinstance(config, dict):
            cls = getattr(keras.layers, RENAMED_OPTIONS.get(name, name))
            return cls(**layer_options(name, config, cls, where))
        value = config if isinstance(config, str) else name
    raise ModelError(
        f"{where}: activation {str(value)[:80]!r} is no standard one (code of anybody's own is never run)"
    )


def layer_parts(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Return a layer and the layers within it that hold weights of their own.

    Parameters
    ----------
    layer : keras.Layer
        Built or not.

    Yields
    ------
    keras.Layer
        The layer first, then its cells, or its forward and backward layer.
    """
    yield layer
    for name in ("cell", "forward_layer", "backward_layer"):
        if isinstance(part := getattr(layer, name, None), keras.Layer):
            yield from (found for found in layer_parts(part) if "add_weight" not in vars(found))
    for part in getattr(layer, "cells", ()):
        yield from (found for found in layer_parts(part) if "add_weight" not in vars(found))


def plain_value(value: Any, depth: int = 0) -> Any:
    """Return a value of a Keras 2 configuration without the wrapping of tuples, shapes and NumPy numbers.

    Parameters
    ----------
    value : Any
        As JSON has it.
    depth : int
        Levels of nesting above this value; deeper than :data:`MAX_DEPTH` is cut off.

    Returns
    -------
    Any
        Lists and wrapped tuples as tuples; None where the nesting is too deep.
    """
    if depth > MAX_DEPTH:
        return None
    if isinstance(value, dict):
        if value.get("type") == "ndarray" and "value" in value:
            return plain_value(value["value"], depth + 1)
        if value.get("class_name") in ("__tuple__", "TensorShape") and "items" in value:
            return plain_value(value["items"], depth + 1)
        return value
    if isinstance(value, list):
        return tuple(plain_value(item, depth + 1) for item in value)
    return value


def _check_numbers(value: Any, where: str) -> None:
    if isinstance(value, tuple):
        for item in value:
            _check_numbers(item, where)
    elif isinstance(value, (int, float)) and not abs(value) <= MAX_NUMBER:
        raise ModelError(f"{where} is {value}: too large")


def layer_size(value: Any) -> bool:
    """Return whether a value is a size that a layer may have: a whole number from 1 to :data:`MAX_NUMBER`."""
    return type(value) is int and 1 <= value <= MAX_NUMBER


def layer_name(name: Any) -> str:
    """Return a name that Keras 3 accepts: Keras 2 allows slashes, as in ``conv1/bn``."""
    return str(name)[:200].replace("/", "_")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message that says what was wrong; Keras says around it where that was."""
    lines = [line for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    while len(lines) > 1 and _PLACE.search(lines[0]):
        lines = lines[1:]
    return (lines or [type(error).__name__])[0].strip()[:300]
