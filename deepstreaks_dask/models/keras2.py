"""Build a Keras 3 network from the configuration that Keras 2 wrote, and give it its weights.

Keras 3 cannot read ``model.to_json()`` of Keras 2. Here every layer is made from its options, which are renamed,
dropped where they act in training only, or refused; then the calls of the layers are made again. Only layers of
`LAYERS` are made: no Lambda and no class of anybody's own, so a configuration cannot run code. What weights may
take together is bounded by what the file of weights holds, so it cannot fill the memory either.
"""

from __future__ import annotations

import graphlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.activations import keras2_hard_sigmoid

_WITH_DIMENSIONS = (
    "AveragePooling",
    "Conv",
    "ConvLSTM",
    "Cropping",
    "GlobalAveragePooling",
    "GlobalMaxPooling",
    "MaxPooling",
    "SpatialDropout",
    "UpSampling",
    "ZeroPadding",
)
_OTHERS = """
Activation ActivityRegularization Add AdditiveAttention AlphaDropout Attention Average BatchNormalization Bidirectional
CenterCrop Concatenate Conv1DTranspose Conv2DTranspose Conv3DTranspose Dense DepthwiseConv1D DepthwiseConv2D Dot Dropout
ELU Embedding Flatten GRU GRUCell GaussianDropout GaussianNoise GroupNormalization Identity LSTM LSTMCell
LayerNormalization LeakyReLU Masking Maximum Minimum Multiply PReLU Permute RNN ReLU RepeatVector Rescaling Reshape
SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell Softmax StackedRNNCells Subtract TimeDistributed
UnitNormalization
"""
LAYERS = frozenset(_OTHERS.split()) | {
    f"{name}{k}D" for name in _WITH_DIMENSIONS for k in (1, 2, 3)
}
"""Layers of Keras 2 that Keras 3 has too."""

NETWORKS = frozenset({"Model", "Functional", "Sequential"})
MERGES = frozenset(
    {"Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot"}
)
RECURRENT = frozenset(
    {"SimpleRNN", "GRU", "LSTM", "RNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "Bidirectional"}
)
RENAMED = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "CuDNNGRU": "GRU",
    "CuDNNLSTM": "LSTM",
    "ThresholdedReLU": "ReLU",
}
_UNCHANGED = (
    "elu selu softmax softplus softsign relu relu6 tanh sigmoid exponential linear gelu mish"
)
ACTIVATIONS: dict[str, str | Callable[..., Any]] = {
    **{name: name for name in _UNCHANGED.split()},
    "swish": "silu",
    "silu": "silu",
    "hard_sigmoid": keras2_hard_sigmoid,
}
ACTIVATION_LAYERS = frozenset({"ELU", "LeakyReLU", "ReLU", "Softmax", "ThresholdedReLU"})

# Without effect on what a trained network gives.
TRAINING_ONLY = ("_initializer", "_regularizer", "_constraint")
_NO_EFFECT = """
autocast batch_input_shape batch_size dtype fused implementation input_length num_constants rank seed sparse trainable
unroll
"""
NO_EFFECT = frozenset(_NO_EFFECT.split())
# Options that Keras 3 has no more, and the values that change nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
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

MAX_DEPTH = 16
MAX_LAYERS = 5_000
MAX_NUMBER = 10**8
MAX_ACTIVATION = 2**27  # values that one layer gives for one cutout
INPUT_DTYPES = frozenset({"float16", "float32", "float64", "int32", "int64", "uint8", "bool"})


@dataclass
class Node:
    """A layer, with what is needed to find its weights in the order that Keras 2 keeps."""

    name: str
    kind: str
    layer: keras.Layer
    trainable: bool = True
    children: list[Node] | None = None  # of a network, or what TimeDistributed holds

    def weights(self) -> list[keras.Variable]:
        """All weights, those that are trained before those that are not, as in Keras 2."""
        return [*self._trained(), *self._fixed()]

    def _trained(self) -> list[keras.Variable]:
        if not self.trainable:
            return []
        if self.children is None:
            return list(self.layer.trainable_weights)
        return [weight for child in self.children for weight in child._trained()]

    def _fixed(self) -> list[keras.Variable]:
        if self.children is None:
            fixed = list(self.layer.non_trainable_weights)
            return fixed if self.trainable else [*self.layer.trainable_weights, *fixed]
        fixed = [weight for child in self.children for weight in child._fixed()]
        if self.trainable:
            return fixed
        return [*(weight for child in self.children for weight in child._trained()), *fixed]


@dataclass
class Builder:
    """Makes the network of one file.

    Attributes
    ----------
    origin
        File to name in errors.
    budget
        Number of values that all weights may have; a layer that asks for more is refused.
    """

    origin: str
    budget: int
    _layers: int = 0
    _names: set[str] = field(default_factory=set)
    _guarded: list[keras.Layer] = field(default_factory=list)

    def build(self, config: Any) -> Node:
        """Make the network that a whole configuration describes.

        Returns
        -------
        Node
            Its output.

        Raises
        ------
        ModelError
            If it is no network of Keras 2, or a layer of it is not standard, or does not fit.
        """
        if not isinstance(config, dict) or not _is_network(config):
            raise ModelError(f"{self.origin}: it is no Sequential or functional network of Keras 2")
        try:
            node = self._network(config, 0)
        finally:
            for layer in self._guarded:
                del layer.add_weight
        if not node.layer.built or not getattr(node.layer, "inputs", None):
            raise ModelError(
                f"{self.origin}: it does not say what shape its input has: save it once it is built"
            )
        return node

    def _network(self, spec: Mapping[str, Any], depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise ModelError(f"{self.origin}: networks are nested more than {MAX_DEPTH} deep")
        config = spec.get("config")
        if isinstance(config, list):  # Sequential before Keras 2.2.3
            config = {"layers": config}
        if not isinstance(config, dict) or not isinstance(config.get("layers"), list):
            raise ModelError(f"{self.origin}: a {spec['class_name']} lists no layers")
        specs = config["layers"]
        if not specs or not all(isinstance(item, dict) for item in specs):
            raise ModelError(f"{self.origin}: a {spec['class_name']} lists no layers")
        name = _name(config.get("name") or spec.get("name") or spec["class_name"].lower())
        make = self._sequential if spec["class_name"] == "Sequential" else self._functional
        layer, children = make(config, specs, name, depth)
        trainable = bool(config.get("trainable", True))
        return Node(str(config.get("name") or name), spec["class_name"], layer, trainable, children)

    def _sequential(
        self, config: Mapping[str, Any], specs: list[Any], name: str, depth: int
    ) -> tuple[keras.Layer, list[Node]]:
        shape, dtype = config.get("build_input_shape"), None
        first = specs[0].get("config") if isinstance(specs[0].get("config"), dict) else {}
        if specs[0].get("class_name") == "InputLayer":
            specs = specs[1:]
            dtype = first.get("dtype")
        shape = first.get("batch_input_shape", first.get("batch_shape", shape))
        if shape is None:
            shape = _inner_shape(specs)
        nodes = [self._node(item, depth) for item in specs]
        _refuse_twice([node.name for node in nodes], self.origin)
        if shape is None:  # nested, and built where it is called
            return keras.Sequential([node.layer for node in nodes], name=name), nodes
        inputs = outputs = self._input(shape, dtype or first.get("dtype"), f"{name}_input")
        for node in nodes:
            outputs = self._call(node, [outputs])
        return self._made(keras.Model, inputs, outputs, name=name), nodes

    def _functional(
        self, config: Mapping[str, Any], specs: list[Any], name: str, depth: int
    ) -> tuple[keras.Layer, list[Node]]:
        nodes: dict[str, Node | None] = {}
        tensors: dict[tuple[str, int], Any] = {}
        calls: dict[tuple[str, int], list[tuple[str, int, int]]] = {}
        for item in specs:
            inner = item.get("config")
            label = item.get("name") or (inner.get("name") if isinstance(inner, dict) else None)
            if not isinstance(label, str) or label in nodes:
                raise ModelError(f"{self.origin}: a layer has no name, or one that another has")
            if item.get("class_name") == "InputLayer":
                if not isinstance(inner, dict):
                    raise ModelError(f"{self.origin}: input {label!r} has no configuration")
                shape = inner.get("batch_input_shape", inner.get("batch_shape"))
                tensors[label, 0] = self._input(shape, inner.get("dtype"), label)
                nodes[label] = None
                continue
            nodes[label] = self._node(item, depth)
            inbound = item.get("inbound_nodes")
            if not isinstance(inbound, list) or not inbound:
                raise ModelError(f"{self.origin}: layer {label!r} is not connected to any other")
            for index, references in enumerate(inbound):
                calls[label, index] = self._references(references, label)
        inputs = self._ends(config.get("input_layers"))
        outputs = self._ends(config.get("output_layers"))
        self._renumber(nodes, calls, outputs)
        known = {*calls, *tensors}
        for wanted in [*(r for found in calls.values() for r in found), *inputs, *outputs]:
            if wanted[:2] not in known:
                raise ModelError(f"{self.origin}: there is no call {wanted[1]} of {wanted[0]!r}")
        graph = {key: [wanted[:2] for wanted in found] for key, found in calls.items()}
        try:
            order = list(graphlib.TopologicalSorter(graph).static_order())
        except graphlib.CycleError:
            raise ModelError(f"{self.origin}: its layers are connected in a circle") from None
        for key in order:
            node = nodes[key[0]]
            if node is not None:
                found = [self._tensor(tensors, wanted) for wanted in calls[key]]
                tensors[key] = self._call(node, found)
        ends = [[self._tensor(tensors, wanted) for wanted in part] for part in (inputs, outputs)]
        takes, gives = (part[0] if len(part) == 1 else part for part in ends)
        children = [node for node in nodes.values() if node is not None]
        return self._made(keras.Model, takes, gives, name=name), children

    def _references(self, references: Any, label: str) -> list[tuple[str, int, int]]:
        """Read what a layer was called with: [name, call, output] each."""
        if isinstance(references, list) and references and isinstance(references[0], str):
            references = [references]
        if not isinstance(references, list) or not references:
            raise ModelError(f"{self.origin}: layer {label!r} is called in a way that is not known")
        found = []
        for reference in references:
            if (
                not isinstance(reference, list)
                or len(reference) not in (3, 4)
                or not isinstance(reference[0], str)
                or not all(type(number) is int and number >= 0 for number in reference[1:3])
                or not isinstance(reference[3] if len(reference) == 4 else {}, dict)
            ):
                raise ModelError(
                    f"{self.origin}: layer {label!r} is called in a way that is not known"
                )
            for option, value in (reference[3] if len(reference) == 4 else {}).items():
                if value is not None and (option, value) not in (
                    ("training", False),
                    ("training", 0),
                ):
                    raise ModelError(
                        f"{self.origin}: layer {label!r} is called with {_name(option)}: only calls with inputs "
                        "alone are supported"
                    )
            found.append((reference[0], reference[1], reference[2]))
        return found

    def _ends(self, references: Any) -> list[tuple[str, int, int]]:
        if not isinstance(references, list):
            raise ModelError(f"{self.origin}: it does not say what its inputs and outputs are")
        return self._references(references, "(inputs and outputs)")

    def _renumber(
        self,
        nodes: Mapping[str, Node | None],
        calls: dict[tuple[str, int], list[tuple[str, int, int]]],
        outputs: Sequence[tuple[str, int, int]],
    ) -> None:
        """Number the calls of nested networks as others refer to them.

        Keras 2 counts a network's own making as its call 0, and so refers to those that it writes from 1 on; but
        some versions do not.
        """
        lowest: dict[str, int] = {}
        for name, call, _ in [*(r for found in calls.values() for r in found), *outputs]:
            lowest[name] = min(call, lowest.get(name, call))
        for name, node in nodes.items():
            if node is not None and node.kind in NETWORKS and lowest.get(name) == 1:
                count = sum(key[0] == name for key in calls)
                moved = {(name, k + 1): calls.pop((name, k)) for k in range(count)}
                calls.update(moved)

    def _tensor(self, tensors: Mapping[tuple[str, int], Any], wanted: tuple[str, int, int]) -> Any:
        found = tensors[wanted[:2]]
        outputs = found if isinstance(found, (list, tuple)) else [found]
        if wanted[2] >= len(outputs):
            raise ModelError(f"{self.origin}: layer {wanted[0]!r} has no output {wanted[2]}")
        return outputs[wanted[2]]

    def _input(self, shape: Any, dtype: Any, name: str) -> Any:
        shape = _plain(shape)
        if (
            not isinstance(shape, tuple)
            or len(shape) < 2
            or not all(size is None or _size(size) for size in shape)
        ):
            raise ModelError(f"{self.origin}: input {name!r} has no shape that can be read")
        dtype = dtype if isinstance(dtype, str) and dtype in INPUT_DTYPES else "float32"
        dtype = "float32" if dtype.startswith("float") else dtype
        return self._made(
            keras.Input, batch_shape=(None, *shape[1:]), dtype=dtype, name=self._unused(name)
        )

    def _unused(self, name: str) -> str:
        """Give a name that Keras 3 takes, and that no other layer of the file has got."""
        name = unused = _name(name)
        number = 2
        while unused in self._names:
            unused = f"{name}_{number}"
            number += 1
        self._names.add(unused)
        return unused

    def _node(self, spec: Any, depth: int) -> Node:
        """Make one layer, or one network as a layer."""
        self._layers += 1
        if self._layers > MAX_LAYERS:
            raise ModelError(f"{self.origin}: it has more than {MAX_LAYERS:,} layers")
        if not isinstance(spec, dict) or not isinstance(spec.get("class_name"), str):
            raise ModelError(f"{self.origin}: a layer has no class")
        if _is_network(spec):
            return self._network(spec, depth + 1)
        config = spec.get("config")
        if not isinstance(config, dict):
            raise ModelError(f"{self.origin}: a {spec['class_name']} has no configuration")
        label = str(config.get("name") or spec.get("name") or spec["class_name"].lower())
        kind = RENAMED.get(spec["class_name"], spec["class_name"])
        if kind not in LAYERS or str(spec.get("module") or "keras").split(".")[0] not in (
            "keras",
            "tf_keras",
        ):
            raise ModelError(
                f"{self.origin}: layer {label!r} is a {spec['class_name'][:80]}, which is no standard layer "
                "(code of anybody's own is never run)"
            )
        where = f"{self.origin}: layer {label!r} ({kind})"
        children = None
        parts: dict[str, Any] = {}
        if depth > MAX_DEPTH:
            raise ModelError(f"{where}: layers are nested more than {MAX_DEPTH} deep")
        for key in ("layer", "backward_layer", "cell"):
            if config.get(key) is not None:
                inner = self._node(config[key], depth + 1)
                parts[key] = inner.layer
                children = [inner] if kind == "TimeDistributed" else None
        if "cells" in config:
            if not isinstance(config["cells"], list):
                raise ModelError(f"{where}: it lists no cells")
            parts["cells"] = [self._node(cell, depth + 1).layer for cell in config["cells"]]
        cls = getattr(keras.layers, kind)
        options = _options(spec["class_name"], config, cls, where)
        name = self._unused(label)
        layer = self._made(cls, name=name, dtype="float32", **options, **parts, where=where)
        for part in _parts(layer):
            self._guard(part, where)
        return Node(label, kind, layer, bool(config.get("trainable", True)), children)

    def _call(self, node: Node, tensors: list[Any]) -> Any:
        where = f"{self.origin}: layer {node.name!r} ({node.kind})"
        if node.kind in RECURRENT and len(tensors) > 1:
            outputs = self._made(node.layer, tensors[0], initial_state=tensors[1:], where=where)
        else:
            alone = len(tensors) == 1 and node.kind not in MERGES
            outputs = self._made(node.layer, tensors[0] if alone else tensors, where=where)
        for output in outputs if isinstance(outputs, (list, tuple)) else [outputs]:
            if math.prod(size or 1 for size in output.shape[1:]) > MAX_ACTIVATION:
                raise ModelError(f"{where} gives {output.shape}: too large")
        return outputs

    def _guard(self, layer: keras.Layer, where: str) -> None:
        """Let a layer make no more weights than the file holds values for."""
        make = layer.add_weight

        def add_weight(shape: Any = None, *args: Any, **kwargs: Any) -> Any:
            size = math.prod(shape or ())
            if size > self.budget:
                raise ModelError(
                    f"{where} needs a weight of shape {tuple(shape)}, far more than its file of weights holds"
                )
            self.budget -= size
            return make(shape, *args, **kwargs)

        layer.add_weight = add_weight
        self._guarded.append(layer)

    def _made(self, make: Callable[..., Any], *args: Any, where: str = "", **kwargs: Any) -> Any:
        """Call Keras, and turn what it does not like into one clear error."""
        try:
            return make(*args, **kwargs)
        except ModelError:
            raise
        except Exception as error:  # Keras raises many kinds for options that do not fit
            raise ModelError(f"{where or self.origin}: {_first_line(error)}") from error


def set_weights(
    network: Node, stored: Sequence[tuple[str, Sequence[np.ndarray]]], origin: str
) -> None:
    """Give a network the weights of a file.

    Parameters
    ----------
    network
        As `Builder` makes it.
    stored
        Name and weights, of any shape, of each layer of the file, in its order. They are matched by name; if the file
        has other names than the network, they are matched by order, as Keras 2 does.
    origin
        File to name in errors.

    Raises
    ------
    ModelError
        If a weight is missing, surplus or of another shape. The network is then of no use.
    """
    nodes = [node for node in network.children or [] if node.weights()]
    layers = [(name, list(arrays)) for name, arrays in stored if len(arrays)]
    by_name = dict(layers)
    names = [node.name for node in nodes]
    if set(names) == set(by_name):
        layers = [(name, by_name[name]) for name in names]
    elif len(layers) != len(nodes):
        missing = sorted(set(names) - set(by_name)) or ["none"]
        surplus = sorted(set(by_name) - set(names)) or ["none"]
        raise ModelError(
            f"{origin}: it holds weights of {len(layers)} layers, the network has {len(nodes)} with weights "
            f"(missing: {', '.join(missing[:5])}; surplus: {', '.join(surplus[:5])})"
        )
    for node, (name, arrays) in zip(nodes, layers, strict=True):
        variables = node.weights()
        arrays = _from_cudnn(node.kind, arrays, variables)
        where = f"{origin}: layer {name!r} ({node.kind})"
        if len(arrays) != len(variables):
            raise ModelError(
                f"{where} has {len(arrays)} weights, the network needs {len(variables)}"
            )
        for variable, array in zip(variables, arrays, strict=True):
            if array.shape != tuple(variable.shape):
                raise ModelError(
                    f"{where}: {variable.name} has shape {array.shape}, the network needs {tuple(variable.shape)}"
                )
            variable.assign(array)


def _from_cudnn(
    kind: str, arrays: list[np.ndarray], variables: list[keras.Variable]
) -> list[np.ndarray]:
    """Turn weights of CuDNNLSTM and CuDNNGRU, told by their bias, into those of LSTM and GRU."""
    if kind == "Bidirectional" and len(arrays) == len(variables) == 6:
        return [
            *_from_cudnn("", arrays[:3], variables[:3]),
            *_from_cudnn("", arrays[3:], variables[3:]),
        ]
    if kind not in ("", "LSTM", "GRU") or len(arrays) != 3 or len(variables) != 3:
        return arrays
    kernel, recurrent, bias = arrays
    shapes = [tuple(variable.shape) for variable in variables]
    if len(shapes[1]) != 2 or [kernel.shape, recurrent.shape] != shapes[:2]:
        return arrays
    gates = shapes[1][1] // shapes[1][0]
    if bias.ndim != 1 or bias.size != 2 * gates * shapes[1][0]:
        return arrays
    if shapes[2] not in ((bias.size // 2,), (2, bias.size // 2)) or (gates == 3) != (
        len(shapes[2]) == 2
    ):
        return arrays
    # cuDNN keeps each gate's kernel by columns, and a bias for the input beside one for the state.
    inputs = [gate.T.reshape(gate.shape, order="F") for gate in np.split(kernel, gates, axis=1)]
    states = [gate.T for gate in np.split(recurrent, gates, axis=1)]
    both = bias.reshape(2, -1)
    return [np.hstack(inputs), np.hstack(states), both if gates == 3 else both.sum(axis=0)]


def _options(old_class: str, config: Mapping[str, Any], cls: type, where: str) -> dict[str, Any]:
    """Choose and rename the options that a Keras 3 layer takes; refuse what it cannot do."""
    given = {key: value for key, value in config.items() if key != "name"}
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
        if key.endswith(TRAINING_ONLY) or key in NO_EFFECT:
            continue
        value = _plain(value)
        if key in accepted:
            if key.endswith("activation"):
                value = _activation(value, where)
            if key == "axis" and cls.__name__ == "BatchNormalization" and isinstance(value, tuple):
                value = value[0] if len(value) == 1 else value
            _check_numbers(value, f"{where}: option {_name(key)}")
            options[key] = value
        elif key not in NEUTRAL or value not in NEUTRAL[key]:
            raise ModelError(f"{where}: option {_name(key)}={str(value)[:80]} is not supported")
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
            cls = getattr(keras.layers, RENAMED.get(name, name))
            return cls(**_options(name, config, cls, where))
        value = config if isinstance(config, str) else name
    raise ModelError(
        f"{where}: activation {str(value)[:80]!r} is no standard one (code of anybody's own is never run)"
    )


def _parts(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Give a layer and those in it that were made with it."""
    yield layer
    for name in ("cell", "forward_layer", "backward_layer"):
        if isinstance(part := getattr(layer, name, None), keras.Layer):
            yield from (found for found in _parts(part) if "add_weight" not in vars(found))
    for part in getattr(layer, "cells", ()):
        yield from (found for found in _parts(part) if "add_weight" not in vars(found))


def _is_network(spec: Mapping[str, Any]) -> bool:
    return isinstance(spec.get("class_name"), str) and spec["class_name"] in NETWORKS


def _inner_shape(specs: list[Any]) -> Any:
    """Find the input shape of a Sequential whose first layer is itself a network or a wrapper."""
    for _ in range(MAX_DEPTH):
        if not specs or not isinstance(specs[0], dict):
            return None
        config = specs[0].get("config")
        layers = config if isinstance(config, list) else None
        if isinstance(config, dict):
            for key in ("batch_input_shape", "batch_shape"):
                if config.get(key) is not None:
                    return config[key]
            if config.get("build_input_shape") is not None:
                return config["build_input_shape"]
            layers = config.get("layers")
        if not _is_network(specs[0]) or not isinstance(layers, list):
            return None
        specs = layers
    return None


def _plain(value: Any, depth: int = 0) -> Any:
    """Undo the ways in which Keras 2 writes tuples, shapes and NumPy numbers to JSON."""
    if depth > MAX_DEPTH:
        return None
    if isinstance(value, dict):
        if value.get("type") == "ndarray" and "value" in value:
            return _plain(value["value"], depth + 1)
        if value.get("class_name") in ("__tuple__", "TensorShape") and "items" in value:
            return _plain(value["items"], depth + 1)
        return value
    if isinstance(value, list):
        return tuple(_plain(item, depth + 1) for item in value)
    return value


def _check_numbers(value: Any, where: str) -> None:
    if isinstance(value, tuple):
        for item in value:
            _check_numbers(item, where)
    elif isinstance(value, (int, float)) and not abs(value) <= MAX_NUMBER:
        raise ModelError(f"{where} is {value}: too large")


def _size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_NUMBER


def _refuse_twice(names: list[str], origin: str) -> None:
    if len(set(names)) < len(names):
        raise ModelError(f"{origin}: two layers have the same name")


def _name(name: Any) -> str:
    """Make a name that Keras 3 takes: Keras 2 allows slashes in it, as in ``conv1/bn``."""
    return str(name)[:200].replace("/", "_")


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
