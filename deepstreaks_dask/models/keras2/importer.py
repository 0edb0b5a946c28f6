"""Import networks that Keras 2 wrote, such as the published ones of DeepStreaks, into a zoo.

They come as pairs, ``<base>.architecture.json`` (``model.to_json()``) and ``<base>.weights.h5``
(``model.save_weights()``), or as whole models, ``<base>.h5``. What a network is, `keras2` finds out; its weights are
read by `hdf5`. One that is a network of this package in all but the names of its layers is kept as such, once both
have given the same scores; any other is kept as a ``.keras`` file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.keras2.builder import Builder
from deepstreaks_dask.models.keras2.hdf5 import MAX_BYTES, HDF5Error, read_hdf5
from deepstreaks_dask.models.keras2.weights import set_weights
from deepstreaks_dask.models.registry import ARCHITECTURES, build, weight_shapes
from deepstreaks_dask.models.zoo.card import KERAS_FILE, Card
from deepstreaks_dask.models.zoo.store import Zoo

NEEDED_PREFIXES = ("rb_", "sl_", "kd_")
"""Networks that the published decision needs."""

PROJECTS = {
    "5b96af9c0354c9000b0aea36": "rb",
    "5b99b2c6aec3c500103a14de": "sl",
    "5be0ae7958830a0018821794": "kd",
    "5c05bbdc826480000a95c0bf": "os",
}
"""Families of the projects that the published networks were trained for."""

PAPER_REFERENCE = "Duev et al. 2019, MNRAS 486, 4158, arXiv:1904.05920"
JSON_SUFFIX, WEIGHTS_SUFFIX, WHOLE_SUFFIX = ".architecture.json", ".weights.h5", ".h5"
MAX_JSON_BYTES = 64 * 2**20
MAX_FILES = 1000
SCORE_TOLERANCE = 1e-5  # of a score
_BASE_NAME = re.compile(
    r"(?P<project>[0-9a-f]{24})_(?P<architecture>[A-Za-z0-9]+)_(?P<date>[0-9_]+)"
)


@dataclass(frozen=True)
class Source:
    """The files of one network.

    Attributes
    ----------
    base
        Their common name.
    files
        One whole model, or an architecture and its weights.
    """

    base: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Legacy:
    """A network read from files, and where it came from."""

    model: keras.Model
    keras_version: str
    files: Mapping[str, str]  # name and SHA-256


def load_legacy(*paths: str | os.PathLike[str]) -> Legacy:
    """Load a network that Keras 2 wrote.

    Parameters
    ----------
    *paths
        A whole model (``.h5``), or an architecture (JSON) and its weights (HDF5).

    Returns
    -------
    Legacy
        Its model gives what the original gives. Frozen layers, regularisers and initialisers, which act in training
        only, are not kept.

    Raises
    ------
    ModelError
        If a file cannot be read, is not of Keras 2, is not safe, or does not fit the other one.
    """
    files = [Path(path) for path in paths]
    data = [_read(path) for path in files]
    weights = str(files[-1])
    try:
        header, arrays = read_hdf5(data[-1])
    except HDF5Error as error:
        raise ModelError(f"{weights}: {error}") from error
    text = data[0].decode("utf-8", "replace") if len(data) > 1 else header["model_config"]
    if text is None:
        raise ModelError(f"{weights} holds weights only: put its {JSON_SUFFIX} beside it")
    origin = str(files[0])
    config = _parse(text, origin)
    versions = [
        _version(config.get("keras_version"), origin),
        _version(header["keras_version"], weights),
    ]
    if header["backend"] == "theano":
        raise ModelError(
            f"{weights}: it was trained with Theano, whose kernels are the other way round"
        )
    # Twice what there is, so that a layer of another size is found by its name, not by running out.
    builder = Builder(origin, 2 * sum(array.size for array in arrays))
    network = builder.build(config)
    rest = iter(arrays)
    stored = [(name, [next(rest) for _ in names]) for name, names in header["layers"]]
    set_weights(network, stored, weights)
    hashes = {
        path.name: hashlib.sha256(content).hexdigest()
        for path, content in zip(files, data, strict=True)
    }
    return Legacy(network.layer, next(filter(None, versions), "2"), hashes)


def find_sources(
    folder: str | os.PathLike[str], config: str | os.PathLike[str] | None = None
) -> dict[str, Source]:
    """Find the networks of a folder.

    Parameters
    ----------
    folder
        Local folder.
    config
        JSON file with a table (or with one in ``"models"``) of names, such as ``"rb_vgg6"``, and base names of files.
        Without it, the names come from those of the files: ``<project>_<architecture>_<date>``. A network beyond those
        of rb, sl and kd of which there is no file at all is left out: the service's table names more than were published.

    Returns
    -------
    dict
        By name in the zoo, such as ``"rb_vgg6"``.

    Raises
    ------
    ModelError
        If the folder or a file is missing, a file has no partner, or a name does not say what it is.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ModelError(
            f"{root} is no folder: give the one with {JSON_SUFFIX} and {WEIGHTS_SUFFIX} files"
        )
    if config is not None:
        table = _table(Path(config))
        return {
            name: _source(root, base)
            for name, base in table.items()
            if name.startswith(NEEDED_PREFIXES) or _is_there(root, base)
        }
    bases = sorted({base for path in root.iterdir() if (base := _base(path.name)) is not None})
    if not bases:
        raise ModelError(f"{root} holds no {JSON_SUFFIX}, {WEIGHTS_SUFFIX} or {WHOLE_SUFFIX} files")
    if len(bases) > MAX_FILES:
        raise ModelError(f"{root} holds {len(bases)} networks, more than {MAX_FILES}")
    found: dict[str, Source] = {}
    for base in bases:
        match = _BASE_NAME.fullmatch(base)
        family = PROJECTS.get(match["project"]) if match else None
        if match is None or family is None:
            raise ModelError(
                f"{root / base}: its name does not begin with a published project: say what it is with --config, "
                'a JSON file like {"rb_vgg6": "' + base[:80] + '"}'
            )
        name = f"{family}_{match['architecture'].lower()}"
        if name in found:
            raise ModelError(
                f"{root}: {found[name].base} and {base} are both {name}: say which to take with --config"
            )
        found[name] = _source(root, base)
    return found


def import_legacy(
    folder: str | os.PathLike[str],
    zoo: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    version: str = "1",
    on_model: Callable[[str], None] | None = None,
) -> list[Card]:
    """Import a whole folder of networks into a zoo, or nothing if any file fails.

    Parameters
    ----------
    folder, config
        As `find_sources` takes them.
    zoo
        Path or URL. Networks that are in it already, from the same files, stay as they are.
    version
        Of the networks in the zoo.
    on_model
        Called with the name of each network once it is read.

    Returns
    -------
    list of Card
        In the order of names.

    Raises
    ------
    ModelError
        If any of them cannot be read or stored; then the zoo has none of them.
    """
    store = Zoo(zoo)
    sources = sorted(find_sources(folder, config).items())
    have = {card.ref: card for card in store.list()}
    ready: list[tuple[keras.Model | None, Card]] = []
    for name, source in sources:
        legacy = load_legacy(*source.files)
        model, card = _card(legacy, source, name, version)
        old = have.get(card.ref)
        if old is not None and old.recipe.get("files") != card.recipe["files"]:
            raise ModelError(f"model {card.ref!r} is in {zoo} already: give another --version")
        ready.append((None, old) if old is not None else (model, card))
        if on_model is not None:
            on_model(name)
    cards = []
    saved: list[Card] = []
    try:
        for model, card in ready:
            if model is None:
                cards.append(card)
                continue
            saved.append(store.save(model, card, dtype="float32"))
            cards.append(saved[-1])
    except BaseException:  # a full disk, or a key pressed: leave the zoo as it was
        for card in saved:
            store.remove(card.ref)
        raise
    return cards


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


def _card(legacy: Legacy, source: Source, name: str, version: str) -> tuple[keras.Model, Card]:
    model = legacy.model
    one = len(model.inputs) == 1 and len(model.outputs) == 1
    if (
        not one
        or len(model.input_shape) != 4
        or len(model.output_shape) != 2
        or None
        in (
            *model.input_shape[1:],
            model.output_shape[1],
        )
    ):
        raise ModelError(
            f"{source.files[0]}: it takes {model.input_shape} and gives {model.output_shape}, but a zoo keeps networks "
            "of one cutout (height, width and planes) and one row of scores"
        )
    architecture = KERAS_FILE
    if (found := as_ours(model)) is not None:
        architecture, model = found
    match = _BASE_NAME.fullmatch(source.base)
    published = match is not None and match["project"] in PROJECTS
    return model, Card(
        name,
        version,
        architecture,
        input_shape=tuple(model.input_shape[1:]),
        outputs=model.output_shape[1],
        recipe={
            "imported_from": "Keras 2",
            "keras_version": legacy.keras_version,
            "files": dict(legacy.files),
        },
        training_data={"paper": PAPER_REFERENCE} if published else {},
        description=f"{source.base}, imported from Keras 2"
        + (f"; published by {PAPER_REFERENCE}." if published else "."),
        limits="Its scores were not measured here: see its paper." if published else "",
    )


def _read(path: Path) -> bytes:
    limit = MAX_JSON_BYTES if path.name.endswith(".json") else MAX_BYTES
    try:
        if path.stat().st_size > limit:
            raise ModelError(f"{path} is larger than the {limit:,} bytes allowed")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error


def _parse(text: str, origin: str) -> dict[str, Any]:
    """Parse JSON, which was written twice over in some of the published files."""
    value: Any = text
    try:
        for _ in range(3):
            if isinstance(value, str):
                value = json.loads(value, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise ModelError(f"{origin}: not JSON of a network: {reason}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{origin}: not JSON of a network: it is no table of keys and values")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _version(version: Any, origin: str) -> str:
    if version is None:
        return ""
    if not isinstance(version, str) or not version.startswith("2."):
        raise ModelError(f"{origin}: written by Keras {str(version)[:20]}, not by Keras 2")
    return version


def _table(path: Path) -> dict[str, str]:
    values = _parse(_read(path).decode("utf-8", "replace"), str(path))
    if isinstance(values.get("models"), dict):
        values = values["models"]
    if not values or not all(isinstance(base, str) for base in values.values()):
        raise ModelError(f'{path}: give a table like {{"rb_vgg6": "<base name of its files>"}}')
    table = {}
    for name, base in values.items():
        Card(name, "1", KERAS_FILE)  # refuses what is no name for a model
        for suffix in (JSON_SUFFIX, WEIGHTS_SUFFIX, WHOLE_SUFFIX):
            base = base.removesuffix(suffix)
        if Path(base).name != base or base in ("", ".", ".."):
            raise ModelError(
                f"{path}: {base[:80]!r} of {name} is no base name of files in the folder"
            )
        table[name] = base
    return table


def _base(name: str) -> str | None:
    for suffix in (JSON_SUFFIX, WEIGHTS_SUFFIX, WHOLE_SUFFIX):
        if name.endswith(suffix) and not name.startswith("."):
            return name.removesuffix(suffix)
    return None


def _is_there(root: Path, base: str) -> bool:
    return any((root / f"{base}{s}").is_file() for s in (JSON_SUFFIX, WEIGHTS_SUFFIX, WHOLE_SUFFIX))


def _source(root: Path, base: str) -> Source:
    pair = tuple(root / f"{base}{suffix}" for suffix in (JSON_SUFFIX, WEIGHTS_SUFFIX))
    whole = root / f"{base}{WHOLE_SUFFIX}"
    there = [path for path in pair if path.is_file()]
    if len(there) == 2:
        return Source(base, pair)
    if pair[0] in there and whole.is_file():  # weights under the shorter name
        return Source(base, (pair[0], whole))
    if whole.is_file():
        return Source(base, (whole,))
    missing = next(path for path in pair if path not in there)
    raise ModelError(f"{missing} is missing")


# Comparison with the architectures of this package


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
