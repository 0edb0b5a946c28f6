"""Put Keras 2 weights into the layers they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from deepstreaks_dask.errors import ModelError


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


def set_weights(
    network: Node, stored: Sequence[tuple[str, Sequence[np.ndarray]]], origin: str
) -> None:
    """Copy the weights of a file into a network.

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


def finish_layers(model: keras.Model) -> None:
    """Let layers that compute something from their weights do so, as Keras does after loading.

    Parameters
    ----------
    model : keras.Model
        With its weights.
    """
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            finish_layers(layer)
        elif isinstance(layer, keras.layers.Normalization) and layer.weights:
            layer.finalize_state()


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
