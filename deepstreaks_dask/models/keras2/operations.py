"""The functions of TensorFlow that networks of Keras 2 may call on the outputs of their layers.

``x * 0.5 + y`` between layers of Keras 2 becomes layers ``TFOpLambda`` that name a function, ``x[:, 1:]`` a
``SlicingOpLambda``. Each function is here with its equal in Keras 3, on any backend; there are no others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from keras import ops

INPUT = "input"
"""Key of an argument that is the output of a layer, with its number among those of the call."""

MAX_CONSTANTS = 10_000
"""Numbers that the arguments of a call may have."""

_OLD_PREFIX = "compat.v1."
_FLOAT_TYPES = ("float16", "float32", "float64", "bfloat16")


def _binary(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, y: function(_array(x), _array(y))


def _array(value: Any) -> Any:
    """Return lists of numbers as an array, in single precision."""
    return np.asarray(value, np.float32) if isinstance(value, list) else value


def _reduced(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda input_tensor, axis=None, keepdims=False: function(
        input_tensor, axis=_axes(axis), keepdims=bool(keepdims)
    )


def _axes(axis: Any) -> Any:
    return tuple(axis) if isinstance(axis, list) else axis


def _l2_normalize(x: Any, axis: Any = None, epsilon: float = 1e-12) -> Any:
    squares = ops.sum(ops.square(x), axis=_axes(axis), keepdims=True)
    return x * ops.rsqrt(ops.maximum(squares, epsilon))


def _cast(x: Any, dtype: str) -> Any:
    if dtype not in _FLOAT_TYPES:
        raise ValueError(f"a cast to {dtype!r} is not supported")
    return ops.cast(x, "float32")  # networks are read in single precision


def _getitem(tensor: Any, slice_spec: Any) -> Any:
    return tensor[tuple(_index(part) for part in slice_spec)]


def _index(part: Any) -> Any:
    if isinstance(part, Mapping):
        if "start" in part:
            return slice(part.get("start"), part.get("stop"), part.get("step"))
        if part.get("class_name") == "__ellipsis__":
            return Ellipsis
    if part is None or type(part) is int:
        return part
    raise ValueError("a slice by anything but numbers is not supported")


def _pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: float = 0) -> Any:
    kind = mode.lower()
    value = {"constant_values": constant_values} if kind == "constant" else {}
    return ops.pad(tensor, paddings, mode=kind, **value)


_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": ops.add,
    "subtract": ops.subtract,
    "multiply": ops.multiply,
    "divide": ops.true_divide,
    "truediv": ops.true_divide,
    "pow": ops.power,
    "maximum": ops.maximum,
    "minimum": ops.minimum,
}
_OPERATORS = {
    "add": ops.add,
    "sub": ops.subtract,
    "mul": ops.multiply,
    "truediv": ops.true_divide,
    "div": ops.true_divide,
    "pow": ops.power,
}
_OF_ONE = {
    "math.abs": ops.abs,
    "math.negative": ops.negative,
    "math.square": ops.square,
    "math.sqrt": ops.sqrt,
    "math.rsqrt": ops.rsqrt,
    "math.exp": ops.exp,
    "math.log": ops.log,
    "math.log1p": ops.log1p,
    "math.tanh": ops.tanh,
    "math.sigmoid": ops.sigmoid,
    "math.softplus": ops.softplus,
    "math.asinh": ops.arcsinh,
    "math.sin": ops.sin,
    "math.cos": ops.cos,
    "identity": lambda x: x * 1.0,
}
_ACTIVATIONS = {
    "relu": ops.relu,
    "relu6": ops.relu6,
    "elu": ops.elu,
    "selu": ops.selu,
    "tanh": ops.tanh,
    "sigmoid": ops.sigmoid,
    "softplus": ops.softplus,
    "softsign": ops.softsign,
}

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{f"math.{name}": _binary(function) for name, function in _ARITHMETIC.items()},
    **{f"__operators__.{name}": _binary(function) for name, function in _OPERATORS.items()},
    **{name: (lambda x, _f=function: _f(x)) for name, function in _OF_ONE.items()},
    **{
        f"nn.{name}": (lambda features, _f=function: _f(features))
        for name, function in _ACTIVATIONS.items()
    },
    "nn.silu": lambda features, beta=1.0: features * ops.sigmoid(beta * features),
    "nn.swish": lambda features, beta=1.0: features * ops.sigmoid(beta * features),
    "nn.gelu": lambda features, approximate=False: ops.gelu(features, approximate=approximate),
    "nn.leaky_relu": lambda features, alpha=0.2: ops.leaky_relu(features, negative_slope=alpha),
    "nn.softmax": lambda logits, axis=-1: ops.softmax(logits, axis=-1 if axis is None else axis),
    "math.reduce_mean": _reduced(ops.mean),
    "math.reduce_sum": _reduced(ops.sum),
    "math.reduce_max": _reduced(ops.max),
    "math.reduce_min": _reduced(ops.min),
    "math.reduce_std": _reduced(ops.std),
    "math.reduce_variance": _reduced(ops.var),
    "math.l2_normalize": _l2_normalize,
    "linalg.l2_normalize": _l2_normalize,
    "nn.l2_normalize": _l2_normalize,
    "clip_by_value": lambda t, clip_value_min, clip_value_max: ops.clip(
        t, clip_value_min, clip_value_max
    ),
    "cast": _cast,
    "concat": lambda values, axis: ops.concatenate(values, axis=axis),
    "stack": lambda values, axis=0: ops.stack(values, axis=axis),
    "expand_dims": lambda input, axis: ops.expand_dims(input, axis),
    "squeeze": lambda input, axis=None: ops.squeeze(input, axis=_axes(axis)),
    "reshape": lambda tensor, shape: ops.reshape(tensor, shape),
    "transpose": lambda a, perm=None: ops.transpose(a, perm),
    "pad": _pad,
    "__operators__.getitem": _getitem,
}
"""By the name that Keras 2 writes, with the names of the arguments that TensorFlow has."""

_FIRST = {
    **dict.fromkeys((name for name in FUNCTIONS if name.startswith("nn.")), "features"),
    **dict.fromkeys((name for name in FUNCTIONS if ".reduce_" in name), "input_tensor"),
    **dict.fromkeys(("nn.l2_normalize",), "x"),
    "nn.softmax": "logits",
    "clip_by_value": "t",
    "concat": "values",
    "stack": "values",
    "expand_dims": "input",
    "squeeze": "input",
    "reshape": "tensor",
    "transpose": "a",
    "pad": "tensor",
    "__operators__.getitem": "tensor",
}


def known_function(name: Any) -> str:
    """Return the key of a function in :data:`FUNCTIONS`.

    Parameters
    ----------
    name : Any
        As Keras 2 writes it: ``"math.add"``, or ``"compat.v1.squeeze"``.

    Returns
    -------
    str
        Without what some functions begin with.

    Raises
    ------
    ValueError
        If the function is not in the list.
    """
    key = name.removeprefix(_OLD_PREFIX) if isinstance(name, str) else ""
    if key not in FUNCTIONS:
        raise ValueError(f"{str(name)[:80]!r} is none of the functions that can be read")
    return key


def first_argument(function: str) -> str:
    """Return the name of a function's first argument, which Keras 2 does not write."""
    return _FIRST.get(function, "x")


def apply_operation(function: str, arguments: Mapping[str, Any], inputs: list[Any]) -> Any:
    """Call a function of the list.

    Parameters
    ----------
    function : str
        A key of :data:`FUNCTIONS`.
    arguments : mapping
        By name: constants, or ``{"input": k}`` for one of the inputs, or lists of these.
    inputs : list of tensor
        Outputs of layers.

    Returns
    -------
    tensor
        What the function gives.

    Raises
    ------
    ValueError
        If there is no such function, or an argument that is not supported.
    """
    given = {
        name: _filled(value, inputs)
        for name, value in arguments.items()
        if value is not None and name != "name" and not (name == "conjugate" and value is False)
    }
    return FUNCTIONS[known_function(function)](**given)


def _filled(value: Any, inputs: list[Any]) -> Any:
    if isinstance(value, Mapping):
        return inputs[value[INPUT]] if set(value) == {INPUT} else value
    if isinstance(value, (list, tuple)):
        return [_filled(one, inputs) for one in value]
    return value


def check_constants(value: Any) -> int:
    """Count the numbers of an argument, and refuse what is none.

    Parameters
    ----------
    value : Any
        As JSON has it.

    Returns
    -------
    int
        How many there are.

    Raises
    ------
    ValueError
        If there is anything but finite numbers, short texts, null, and lists and tables of these, or too many.
    """
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        count = 0
        for one in value:
            count += check_constants(one)
            if count > MAX_CONSTANTS:
                raise ValueError(f"more than {MAX_CONSTANTS:,} numbers")
        return count + 1
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no finite number")
    if isinstance(value, str) and len(value) > 100:
        raise ValueError("an overlong text")
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise ValueError(f"a {type(value).__name__}")
    return 1
