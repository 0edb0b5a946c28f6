"""Build a Keras 3 network from the configuration that Keras 2 wrote, and give it its weights.

Keras 3 cannot read ``model.to_json()`` of Keras 2. Here every layer is made from its options, which are renamed,
dropped where they act in training only, or refused; then the calls of the layers are made again. Only layers of
`LAYERS` are made: no Lambda and no class of anybody's own, so a configuration cannot run code. What weights may
take together is bounded by what the file of weights holds, so it cannot fill the memory either.
"""

from __future__ import annotations

import graphlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.keras2.layers import LayerScale, Operation
from deepstreaks_dask.models.keras2.operations import INPUT, first_argument, known_function
from deepstreaks_dask.models.keras2.options import (
    INPUT_DTYPES,
    MAX_ACTIVATION,
    MAX_DEPTH,
    MAX_LAYERS,
    RENAMED_OPTIONS,
    first_line,
    layer_name,
    layer_options,
    layer_parts,
    layer_size,
    plain_value,
)
from deepstreaks_dask.models.keras2.safe_layers import (
    LAYERS,
    MERGE_LAYERS,
    NETWORKS,
    OPERATION_LAYERS,
    RECURRENT_LAYERS,
)
from deepstreaks_dask.models.keras2.weights import Node


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
        """Build the network that a whole configuration describes.

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
        name = layer_name(config.get("name") or spec.get("name") or spec["class_name"].lower())
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
        operations: dict[tuple[str, int], Node] = {}
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
            kind = item.get("class_name")
            operation = isinstance(kind, str) and kind in OPERATION_LAYERS
            nodes[label] = None if operation else self._node(item, depth)
            inbound = item.get("inbound_nodes")
            if not isinstance(inbound, list) or not inbound:
                raise ModelError(f"{self.origin}: layer {label!r} is not connected to any other")
            for index, references in enumerate(inbound):
                if operation:
                    made = self._operation(inner, references, label)
                    operations[label, index], calls[label, index] = made
                else:
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
            node = operations.get(key) or nodes[key[0]]
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
                        f"{self.origin}: layer {label!r} is called with {layer_name(option)}: only calls with inputs "
                        "alone are supported"
                    )
            found.append((reference[0], reference[1], reference[2]))
        return found

    def _operation(
        self, config: Any, references: Any, label: str
    ) -> tuple[Node, list[tuple[str, int, int]]]:
        """Build one call of a function, and read what it was called with."""
        self._count_layer()
        function = config.get("function") if isinstance(config, dict) else None
        where = f"{self.origin}: layer {label!r} ({str(function)[:80]})"
        if not isinstance(references, list) or not references:
            raise ModelError(f"{where} is called in a way that is not known")
        several = isinstance(references[0], list)
        calls = references if several else [references]
        if not all(isinstance(call, list) and len(call) in (3, 4) for call in calls):
            raise ModelError(f"{where} is called in a way that is not known")
        arguments: Any = next((call[3] for call in calls if len(call) == 4), {})
        if not isinstance(arguments, dict):
            raise ModelError(f"{where} is called in a way that is not known")
        inputs: list[tuple[str, int, int]] = []
        firsts = [_constant_or_input(call[:3], inputs) for call in calls]
        given = {name: _constant_or_input(value, inputs) for name, value in arguments.items()}
        key = self._made(known_function, function, where=where)
        given[first_argument(key)] = firsts if several else firsts[0]
        if not inputs:
            raise ModelError(f"{where} has no layer as its input")
        layer = self._made(Operation, key, given, name=self._unused(label), where=where)
        return Node(label, "Operation", layer), inputs

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
        shape = plain_value(shape)
        if (
            not isinstance(shape, tuple)
            or len(shape) < 2
            or not all(size is None or layer_size(size) for size in shape)
        ):
            raise ModelError(f"{self.origin}: input {name!r} has no shape that can be read")
        dtype = dtype if isinstance(dtype, str) and dtype in INPUT_DTYPES else "float32"
        dtype = "float32" if dtype.startswith("float") else dtype
        return self._made(
            keras.Input, batch_shape=(None, *shape[1:]), dtype=dtype, name=self._unused(name)
        )

    def _unused(self, name: str) -> str:
        """Return a name that Keras 3 accepts, and that no other layer of the file has."""
        name = unused = layer_name(name)
        number = 2
        while unused in self._names:
            unused = f"{name}_{number}"
            number += 1
        self._names.add(unused)
        return unused

    def _count_layer(self) -> None:
        self._layers += 1
        if self._layers > MAX_LAYERS:
            raise ModelError(f"{self.origin}: it has more than {MAX_LAYERS:,} layers")

    def _node(self, spec: Any, depth: int) -> Node:
        """Build one layer, or one network as a layer."""
        self._count_layer()
        if not isinstance(spec, dict) or not isinstance(spec.get("class_name"), str):
            raise ModelError(f"{self.origin}: a layer has no class")
        if _is_network(spec):
            return self._network(spec, depth + 1)
        config = spec.get("config")
        if not isinstance(config, dict):
            raise ModelError(f"{self.origin}: a {spec['class_name']} has no configuration")
        label = str(config.get("name") or spec.get("name") or spec["class_name"].lower())
        kind = RENAMED_OPTIONS.get(spec["class_name"], spec["class_name"])
        if kind not in (*LAYERS, "LayerScale") or str(spec.get("module") or "keras").split(".")[
            0
        ] not in (
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
        cls = LayerScale if kind == "LayerScale" else getattr(keras.layers, kind)
        options = layer_options(spec["class_name"], config, cls, where)
        name = self._unused(label)
        layer = self._made(cls, name=name, dtype="float32", **options, **parts, where=where)
        for part in layer_parts(layer):
            self._guard(part, where)
        return Node(label, kind, layer, bool(config.get("trainable", True)), children)

    def _call(self, node: Node, tensors: list[Any]) -> Any:
        where = f"{self.origin}: layer {node.name!r} ({node.kind})"
        if node.kind in RECURRENT_LAYERS and len(tensors) > 1:
            outputs = self._made(node.layer, tensors[0], initial_state=tensors[1:], where=where)
        else:
            alone = len(tensors) == 1 and node.kind not in MERGE_LAYERS
            outputs = self._made(node.layer, tensors[0] if alone else tensors, where=where)
        for output in outputs if isinstance(outputs, (list, tuple)) else [outputs]:
            if math.prod(size or 1 for size in output.shape[1:]) > MAX_ACTIVATION:
                raise ModelError(f"{where} gives {output.shape}: too large")
        return outputs

    def _guard(self, layer: keras.Layer, where: str) -> None:
        """Limit the weights of a layer to the values that the file holds."""
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
            raise ModelError(f"{where or self.origin}: {first_line(error)}") from error


def _constant_or_input(value: Any, inputs: list[tuple[str, int, int]], depth: int = 0) -> Any:
    """Return an argument as an `Operation` takes it; outputs of layers are added to its inputs."""
    if isinstance(value, list) and len(value) == 3 and isinstance(value[0], str):
        name, call, output = value
        if name == "_CONSTANT_VALUE":
            return output
        if type(call) is int and type(output) is int and min(call, output) >= 0:
            inputs.append((name, call, output))
            return {INPUT: len(inputs) - 1}
    if isinstance(value, list) and depth < MAX_DEPTH:
        return [_constant_or_input(one, inputs, depth + 1) for one in value]
    return value


def _is_network(spec: Mapping[str, Any]) -> bool:
    return isinstance(spec.get("class_name"), str) and spec["class_name"] in NETWORKS


def _inner_shape(specs: list[Any]) -> Any:
    """Return the input shape of a Sequential whose first layer is itself a network or a wrapper."""
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


def _refuse_twice(names: list[str], origin: str) -> None:
    if len(set(names)) < len(names):
        raise ModelError(f"{origin}: two layers have the same name")
