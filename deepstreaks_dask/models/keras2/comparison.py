"""Find the architecture of this package that an imported network has, whatever its layers are called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from deepstreaks_dask.models.registry import ARCHITECTURES, build, weight_shapes

SCORE_TOLERANCE = 1e-5
"""Difference of two scores that are the same."""

# Layers with weights, whatever the input's shape is: architectures that cannot fit need not be built.
_WEIGHTED_LAYERS = {"vgg6": 6, "resnet50": 107, "densenet121": 242}


def as_ours(model: keras.Model) -> tuple[str, keras.Model] | None:
    """Find the architecture of this package that a network has, and copy its weights into it.

    Parameters
    ----------
    model
        Any network.

    Returns
    -------
    (str, keras.Model) or None
        The architecture and the network, which gives the same scores; None if there is no such architecture.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.output_shape) != 2:
        return None
    shape, outputs = model.input_shape[1:], model.output_shape[1]
    if len(shape) != 3 or None in shape:
        return None
    kinds = _kinds(model)
    for name in ARCHITECTURES:
        if len(kinds) != _WEIGHTED_LAYERS.get(name, len(kinds)):
            continue
        try:
            layers = weight_shapes(name, shape, outputs)
        except ValueError:  # its input is too small for this architecture
            continue
        if sorted((kind, tuple(weights.values())) for kind, weights in layers if weights) != kinds:
            continue
        ours = build(name, shape, outputs)
        pairs = _pairs(ours, model)
        if pairs is None:
            continue
        for mine, theirs in pairs:
            mine.set_weights(theirs.get_weights())
        if _same_scores(ours, model, pairs[0]):
            return name, ours
    return None


@dataclass(frozen=True, eq=False)
class _Place:
    """A layer with weights, or one that merges, and the places that it takes its input from.

    Layers between them, which have neither weights nor a choice of inputs, are left out: networks that differ in
    those only are told apart by their scores.
    """

    layer: keras.Layer
    below: tuple[_Place, ...]
    sign: int  # equal where all below is equal in kind and shape


def _pairs(ours: keras.Model, theirs: keras.Model) -> list[tuple[keras.Layer, keras.Layer]] | None:
    """Return their layer in the place of each of our layers with weights, the last one first."""
    signs: dict[Any, int] = {}
    mine, other = _last_place(ours, signs), _last_place(theirs, signs)
    if mine is None or other is None or mine.sign != other.sign:
        return None
    todo, seen, pairs = [(mine, other)], set(), []
    while todo:
        pair = todo.pop()
        if pair in seen:
            continue
        seen.add(pair)
        if pair[0].layer.weights:
            pairs.append((pair[0].layer, pair[1].layer))
        todo += zip(pair[0].below, pair[1].below, strict=True)
    return pairs


def _last_place(model: keras.Model, signs: dict[Any, int]) -> _Place | None:
    graph = _graph(model)
    if graph is None:
        return None
    takes, last = graph
    places: dict[str, _Place | None] = {}
    for layer in model.layers:  # what a layer takes comes before it
        below = [place for name in takes[layer.name] if (place := places[name]) is not None]
        if isinstance(layer, keras.layers.Add):
            below.sort(key=lambda place: place.sign)
        if not layer.weights and len(below) < 2:
            places[layer.name] = below[0] if below else None
            continue
        key = (*_kind(layer), *(place.sign for place in below))
        sign = signs.setdefault(key, len(signs))
        places[layer.name] = _Place(layer, tuple(below), sign)
    return places[last]


def _graph(model: keras.Model) -> tuple[dict[str, list[str]], str] | None:
    """Return the names of the layers that each layer takes its input from, and the last layer."""
    names = [layer.name for layer in model.layers]
    if isinstance(model, keras.Sequential):
        return {name: names[max(k - 1, 0) : k] for k, name in enumerate(names)}, names[-1]
    config = model.get_config()
    takes = {}
    for item in config["layers"]:
        if len(item["inbound_nodes"]) > 1:
            return None  # a layer that is used twice: none of ours
        takes[item["name"]] = list(_histories([node["args"] for node in item["inbound_nodes"]]))
    last = config["output_layers"]
    return takes, last[0] if isinstance(last[0], str) else last[0][0]


def _histories(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        yield value["config"]["keras_history"][0]
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _histories(item)


def _kinds(model: keras.Model) -> list[Any]:
    return sorted(_kind(layer) for layer in model.layers if layer.weights)


def _kind(layer: keras.Layer) -> tuple[str, tuple[tuple[int, ...], ...]]:
    return type(layer).__name__, tuple(tuple(weight.shape) for weight in layer.weights)


def _same_scores(
    ours: keras.Model, theirs: keras.Model, last: tuple[keras.Layer, keras.Layer]
) -> bool:
    """Compare scores, and what the last layer makes them from: a score of 1 hides much."""
    rng = np.random.default_rng(0)
    shape = ours.input_shape[1:]
    noise = rng.random((1, *shape), np.float32)
    ramp = np.broadcast_to(np.linspace(0, 1, shape[1], dtype=np.float32)[:, None], (1, *shape))
    images = np.concatenate([noise, ramp])
    found = []
    for model, layer in zip((ours, theirs), last, strict=True):
        both = keras.Model(model.inputs, [layer.input, model.outputs[0]])
        found.append([keras.ops.convert_to_numpy(part) for part in both(images, training=False)])
    (my_features, my_scores), (their_features, their_scores) = found
    return (
        my_features.shape == their_features.shape
        and np.allclose(
            my_features, their_features, rtol=1e-4, atol=1e-4 * np.abs(my_features).max()
        )
        and np.allclose(my_scores, their_scores, rtol=0, atol=SCORE_TOLERANCE)
    )
