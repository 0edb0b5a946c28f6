"""A zoo: named, versioned, hashed models in a directory or at any fsspec URL.

Each model is `<name>/<version>/card.json` and the file of weights that the card names and hashes:

- safetensors of an architecture of this package, kernels in half or single precision, or of a classifier of sequences, or
- for any other network (architecture "keras") a `.keras` file without code in it.

The file of weights has a part of its hash in its name, and the card is written last, in one step: a
reader sees a model whole, as it was or as it is, and never half of it.
"""

from __future__ import annotations

import builtins
import dataclasses
import hashlib
import importlib.resources
import json
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from deepstreaks_dask.errors import ModelError, did_you_mean
from deepstreaks_dask.models.zoo.card import DTYPES, MAX_CARD_BYTES, Card, check_name, valid_name
from deepstreaks_dask.utils.html import html_table
from deepstreaks_dask.utils.storage import describe_storage_error, is_local, locate, write_whole

if TYPE_CHECKING:
    import keras

    from deepstreaks_dask.models.sequence.classifier import Classifier

MAX_WEIGHT_BYTES = 2**31
"""Bytes of a file of weights."""


class Zoo:
    """Models in a directory or at any fsspec URL.

    Parameters
    ----------
    url
        Local path or URL (``s3://…``, ``memory://…``). None is the zoo that ships with the package.

    Attributes
    ----------
    url : str or None
        As given.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> zoo = ds.Zoo()
    >>> [card.ref for card in zoo.list() if card.family == "rb"]
    ['rb_vgg6@1']
    """

    def __init__(self, url: str | os.PathLike[str] | None = None) -> None:
        self.url = None if url is None else os.fspath(url)
        if self.url is None:
            shipped = importlib.resources.files("deepstreaks_dask.models") / "weights"
            self._fs, self._root = locate(str(shipped))
        else:
            try:
                self._fs, self._root = locate(self.url)
            except (ImportError, ValueError) as error:
                raise ModelError(f"cannot reach the zoo at {self.url!r}: {error}") from error

    def __repr__(self) -> str:
        return f"Zoo({self.url!r})"

    def _repr_html_(self) -> str:
        rows = [
            (
                card.ref,
                card.family,
                card.architecture,
                " x ".join(map(str, card.input_shape)),
                ", ".join(card.classes) or "one score",
                card.created[:10],
            )
            for card in self.list()
        ]
        header = ("network", "family", "architecture", "input", "output", "created")
        return html_table(f"Networks of {self._label()}", rows, header=header)

    def list(self) -> list[Card]:
        """Return the cards of all models, by name and then oldest version first.

        Returns
        -------
        list of Card
            Empty if there are none.

        Raises
        ------
        ModelError
            If a card cannot be read or is not valid.
        """
        return [self._read_card(name, version) for name, version in self._refs()]

    def card(self, ref: str) -> Card:
        """Return the card of one model.

        Parameters
        ----------
        ref
            ``"rb_vgg6"`` for the newest version, or ``"rb_vgg6@1"``.

        Returns
        -------
        Card
            Of the newest version if none is named.

        Raises
        ------
        ModelError
            If there is no such model, or its card is not valid.
        """
        name, _, version = ref.partition("@")
        check_name(name, "name")
        if "@" in ref:
            check_name(version, "version")
        refs = self._refs()
        versions = [have for have_name, have in refs if have_name == name]
        if not versions:
            names = sorted({have_name for have_name, _ in refs})
            there = f"it has {', '.join(names)}" if names else "it is empty"
            hint = did_you_mean(name, names)
            raise ModelError(f"no model {name!r} in {self._label()}: {hint}{there}")
        if not version:
            version = versions[-1]
        elif version not in versions:
            raise ModelError(
                f"no version {version!r} of model {name!r} in {self._label()}: "
                f"it has {', '.join(versions)}"
            )
        return self._read_card(name, version)

    def load(self, ref: str, size: Sequence[int] | None = None) -> keras.Model:
        """Build a model with its weights, in single precision.

        Parameters
        ----------
        ref
            ``"rb_vgg6"`` for the newest version, or ``"rb_vgg6@1"``.
        size
            Height and width of the cutouts in pixels; as the card has it by default. A model that resizes then takes these.

        Returns
        -------
        keras.Model
            Takes float32 ``(cutout, y, x, plane)`` and returns float32 ``(cutout, output)``.

        Raises
        ------
        ModelError
            If there is no such model, or it is one of sequences, or its weights are missing, differ from the hash in
            the card, do not fit the architecture, or hold code.
        """
        card = self.card(ref)
        if card.classes:
            raise ModelError(f"{card.ref} classifies sequences: it is no network of cutouts")
        data = self._weights(card)
        from deepstreaks_dask.models.inference import resizing
        from deepstreaks_dask.models.zoo import serialization as files

        model = files.network(data, card)
        if size is None:
            return model
        height, width, _ = card.takes(size)
        return resizing(model, height, width)

    def load_classifier(self, ref: str) -> Classifier:
        """Build a classifier of sequences with what it has learned.

        Parameters
        ----------
        ref
            ``"hits_rcnn"`` for the newest version, or ``"hits_rcnn@1"``.

        Returns
        -------
        Classifier
            Ready to predict.

        Raises
        ------
        ModelError
            If there is no such model, or it is one of cutouts, or its weights are missing, differ from the hash in
            the card, or do not fit the architecture.
        """
        card = self.card(ref)
        if not card.classes:
            raise ModelError(f"{card.ref} takes single cutouts: it is no classifier of sequences")
        from deepstreaks_dask.models.zoo import serialization as files

        return files.classifier(self._weights(card), card)

    def _weights(self, card: Card) -> bytes:
        """Read a model's file, and compare it with its hash."""
        if not card.file or not card.sha256:
            raise ModelError(
                f"the card of model {card.ref!r} names no file of weights or no sha256"
            )
        data = self._read(f"{card.name}/{card.version}/{card.file}", MAX_WEIGHT_BYTES)
        found = hashlib.sha256(data).hexdigest()
        if found != card.sha256:
            raise ModelError(
                f"the weights of model {card.ref!r} in {self._label()} are damaged or were changed "
                f"(sha256 is {found[:12]}…, its card says {card.sha256[:12]}…): restore the file, "
                "or save the model again"
            )
        return data

    def save(
        self,
        model: keras.Model | Classifier,
        card: Card,
        *,
        dtype: str = "float16",
        overwrite: bool = False,
    ) -> Card:
        """Write a model and its card, the card last and in one step.

        Parameters
        ----------
        model
            The network; of the card's architecture, or of any if that is ``"keras"``. Or a classifier of sequences.
        card
            Its card; `dtype`, `file`, `sha256` and an empty `created` are filled in.
        dtype
            Precision of the kernels on disk, ``"float16"`` or ``"float32"``. Biases and statistics,
            few but sensitive, stay single. A ``"keras"`` model is always written as it is, and so are the arrays of
            a classifier of sequences.
        overwrite
            Replace this version if it is there.

        Returns
        -------
        Card
            The card as written.

        Raises
        ------
        ModelError
            If the version exists already, or the model does not fit its card, holds code, or has
            values that `dtype` cannot hold.
        """
        if dtype not in DTYPES:
            raise ModelError(f"cannot save weights as {dtype!r}: choose one of {', '.join(DTYPES)}")
        old = None
        if (card.name, card.version) in self._refs():
            if not overwrite:
                raise ModelError(
                    f"model {card.ref!r} is in {self._label()} already: save another version, or "
                    "overwrite it"
                )
            old = self._read_card(card.name, card.version)
        from deepstreaks_dask.models.zoo import serialization as files

        data, suffix, dtype = files.to_bytes(model, card, dtype)
        sha256 = hashlib.sha256(data).hexdigest()
        card = dataclasses.replace(
            card,
            dtype=dtype,
            file=f"weights-{sha256[:12]}.{suffix}",
            sha256=sha256,
            created=card.created or datetime.now(UTC).isoformat(timespec="seconds"),
        )
        try:
            text = json.dumps(card.to_dict(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"the card of model {card.ref!r} is not plain JSON: {error}"
            ) from error
        folder = f"{card.name}/{card.version}"
        self._write(f"{folder}/{card.file}", data)
        self._write(f"{folder}/card.json", text.encode())
        if old and old.file and old.file != card.file:
            self._fs.rm_file(f"{self._root}/{folder}/{old.file}")
        return card

    def remove(self, ref: str) -> None:
        """Remove a model, its card first, so that no reader finds half of it.

        Parameters
        ----------
        ref
            ``"rb_vgg6"`` for the newest version, or ``"rb_vgg6@1"``.

        Raises
        ------
        ModelError
            If there is no such model, or the zoo cannot be written to.
        """
        card = self.card(ref)
        folder = f"{self._root}/{card.name}/{card.version}"
        try:
            self._fs.rm_file(f"{folder}/card.json")
            if card.file:
                self._fs.rm_file(f"{folder}/{card.file}")
        except OSError as error:
            raise ModelError(f"cannot remove {card.ref} from {self._label()}: {error}") from error

    def verify(self) -> builtins.list[str]:
        """Load every model and return the problems, one line each; none if all models are sound."""
        problems = []
        for name, version in self._refs():
            try:
                card = self._read_card(name, version)
                (self.load_classifier if card.classes else self.load)(card.ref)
            except ModelError as error:
                problems.append(str(error))
        return problems

    def _label(self) -> str:
        return "the zoo of this package" if self.url is None else f"the zoo at {self.url!r}"

    def _refs(self) -> builtins.list[tuple[str, str]]:
        """List (name, version) of all models that have a card, oldest version first."""
        self._fs.invalidate_cache()
        try:
            paths = self._fs.find(self._root, maxdepth=3)
        except Exception as error:  # the library of each protocol has its own
            reason = describe_storage_error(error, url=not is_local(self._fs))
            raise ModelError(f"cannot list {self._label()}: {reason}") from error
        refs = set()
        for path in paths:
            parts = path.removeprefix(self._root).strip("/").split("/")
            if len(parts) == 3 and parts[2] == "card.json" and all(map(valid_name, parts[:2])):
                refs.add((parts[0], parts[1]))
        return sorted(refs, key=lambda ref: (ref[0], _version_key(ref[1])))

    def _read_card(self, name: str, version: str) -> Card:
        path = f"{name}/{version}/card.json"
        try:
            card = Card.from_dict(json.loads(self._read(path, MAX_CARD_BYTES)))
        except (ValueError, RecursionError, ModelError) as error:
            raise ModelError(f"{path} in {self._label()} is not a model card: {error}") from error
        if (card.name, card.version) != (name, version):
            raise ModelError(f"{path} in {self._label()} is the card of {card.ref!r}: move it")
        return card

    def _read(self, path: str, most: int) -> bytes:
        try:
            data: bytes = self._fs.cat_file(f"{self._root}/{path}", start=0, end=most + 1)
        except Exception as error:  # the library of each protocol has its own
            reason = describe_storage_error(error, url=not is_local(self._fs))
            raise ModelError(f"cannot read {path} in {self._label()}: {reason}") from error
        if len(data) > most:
            raise ModelError(f"{path} in {self._label()} has more than {most:,} bytes: refused")
        return data

    def _write(self, path: str, data: bytes) -> None:
        try:
            write_whole(self._fs, f"{self._root}/{path}", data)
        except Exception as error:  # the library of each protocol has its own
            reason = describe_storage_error(error, url=not is_local(self._fs))
            raise ModelError(f"cannot write {path} in {self._label()}: {reason}") from error


def find_weights(ref: str, sha256: str, places: Sequence[str | None]) -> tuple[Zoo, Card]:
    """Find the very weights that a run was made with.

    Parameters
    ----------
    ref : str
        ``name@version``.
    sha256 : str
        Of the file of weights, as the run has it.
    places : sequence of str or None
        Zoos to look in, the first one first; None is the shipped one.

    Returns
    -------
    Zoo, Card
        The zoo that has them, and their card.

    Raises
    ------
    ModelError
        If none of the zoos has them.
    """
    for store in map(Zoo, dict.fromkeys(places)):
        try:
            card = store.card(ref)
        except ModelError:
            continue
        if card.sha256 == sha256:
            return store, card
    raise ModelError(
        f"the weights of {ref} that this run was made with are not here: name the --zoo that has them"
    )


def _version_key(version: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Sort key by which 2026.9 < 2026.11 and 1.0rc1 < 1.0.1."""
    parts = re.findall(r"[0-9]+|[A-Za-z]+", version)
    return [(p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts], version
