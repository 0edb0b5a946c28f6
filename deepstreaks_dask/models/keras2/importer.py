"""Import networks that Keras 2 wrote, such as the published ones of DeepStreaks, into a zoo.

They come as pairs, ``<base>.architecture.json`` (``model.to_json()``) and ``<base>.weights.h5``
(``model.save_weights()``), or as whole models, ``<base>.h5``. What a network is, `keras2` finds out; its weights are
read by `hdf5`. One that is a network of this package in all but the names of its layers is kept as such, once both
have given the same scores; any other is kept as a ``.keras`` file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.keras2.builder import Builder
from deepstreaks_dask.models.keras2.comparison import as_ours
from deepstreaks_dask.models.keras2.hdf5 import HDF5Error, read_hdf5
from deepstreaks_dask.models.keras2.sources import (
    JSON_SUFFIX,
    Source,
    find_sources,
    is_published,
    parse_json,
    read_file,
)
from deepstreaks_dask.models.keras2.stored_outputs import check_outputs
from deepstreaks_dask.models.keras2.weights import finish_layers, set_weights
from deepstreaks_dask.models.zoo.card import KERAS_FILE, Card
from deepstreaks_dask.models.zoo.store import Zoo

PAPER_REFERENCE = "Duev et al. 2019, MNRAS 486, 4158, arXiv:1904.05920"


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
    data = [read_file(path) for path in files]
    weights = str(files[-1])
    try:
        header, arrays = read_hdf5(data[-1])
    except HDF5Error as error:
        raise ModelError(f"{weights}: {error}") from error
    text = data[0].decode("utf-8", "replace") if len(data) > 1 else header["model_config"]
    if text is None:
        raise ModelError(f"{weights} holds weights only: put its {JSON_SUFFIX} beside it")
    origin = str(files[0])
    config = parse_json(text, origin)
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
    finish_layers(network.layer)
    hashes = {
        path.name: hashlib.sha256(content).hexdigest()
        for path, content in zip(files, data, strict=True)
    }
    return Legacy(network.layer, next(filter(None, versions), "2"), hashes)


def import_legacy(
    path: str | os.PathLike[str],
    zoo: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    family: str | None = None,
    scaling: str = "bytes",
    version: str = "1",
    on_model: Callable[[str], None] | None = None,
) -> list[Card]:
    """Import a network or a whole folder of them into a zoo, or nothing if any file fails.

    Where outputs are stored beside a network, ``<base>.outputs.npz`` with arrays ``inputs`` and ``outputs``, the imported
    network must give them.

    Parameters
    ----------
    path, config, family
        As `find_sources` takes them.
    zoo
        Path or URL. Networks that are in it already, from the same files, stay as they are.
    scaling
        How pixels are scaled for these networks, one of :data:`~deepstreaks_dask.models.zoo.card.SCALINGS`: ``"bytes"``
        to 0..1, ``"l2"`` each plane to a norm of 1 as braai takes it, ``"none"`` not at all.
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
    sources = sorted(find_sources(path, config, family=family).items())
    have = {card.ref: card for card in store.list()}
    ready: list[tuple[keras.Model | None, Card]] = []
    for name, source in sources:
        legacy = load_legacy(*source.files)
        verified = check_outputs(legacy.model, source)
        model, card = _card(
            legacy, source, Card(name, version, KERAS_FILE, scaling=scaling), verified
        )
        old = have.get(card.ref)
        if old is not None and not _is_same(old, card):
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


def _is_same(old: Card, new: Card) -> bool:
    return old.recipe.get("files") == new.recipe["files"] and old.scaling == new.scaling


def _card(
    legacy: Legacy, source: Source, named: Card, verified: Mapping[str, str]
) -> tuple[keras.Model, Card]:
    """Return a network as it is stored, and its card, of which name, version and scaling are given."""
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
    published = is_published(source.base)
    return model, Card(
        named.name,
        named.version,
        architecture,
        scaling=named.scaling,
        input_shape=tuple(model.input_shape[1:]),
        outputs=model.output_shape[1],
        recipe={
            "imported_from": "Keras 2",
            "keras_version": legacy.keras_version,
            "files": dict(legacy.files),
            **({"outputs_checked": dict(verified)} if verified else {}),
        },
        training_data={"paper": PAPER_REFERENCE} if published else {},
        description=f"{source.base}, imported from Keras 2"
        + (f"; published by {PAPER_REFERENCE}." if published else "."),
        limits="Its scores were not measured here: see its paper." if published else "",
    )


def _version(version: Any, origin: str) -> str:
    if version is None:
        return ""
    if not isinstance(version, str) or not version.startswith("2."):
        raise ModelError(f"{origin}: written by Keras {str(version)[:20]}, not by Keras 2")
    return version
