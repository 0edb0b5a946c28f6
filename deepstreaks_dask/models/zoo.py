"""A zoo: named, versioned, hashed models in a directory or at any fsspec URL.

Each model is `<name>/<version>/card.json` and the file of weights that the card names and hashes:

- safetensors of an architecture of this package, kernels in half or single precision, or of a classifier of sequences, or
- for any other network (architecture "keras") a `.keras` file without code in it.

The file of weights has a part of its hash in its name, and the card is written last, in one step: a
reader sees a model whole, as it was or as it is, and never half of it.
"""

import builtins
import dataclasses
import difflib
import hashlib
import importlib.resources
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec
import keras
import numpy as np
import safetensors
import safetensors.numpy

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models import ARCHITECTURES, CLASSIFIERS, Classifier, build
from deepstreaks_dask.models.activations import REGISTERED
from deepstreaks_dask.models.forward import SCALINGS, resizing
from deepstreaks_dask.storage import locate, write_whole

DTYPES = ("float16", "float32")
KERAS_FILE = "keras"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.(safetensors|keras)")
_LONGEST_CLASS = 64  # characters
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Card:
    """What a model is, how it came about, and what it is not for.

    Attributes
    ----------
    name
        Such as ``"rb_vgg6"``: family, underscore, architecture.
    version
        Such as ``"1"`` or ``"2026.11"``; numbers in it are compared as numbers.
    architecture
        A key of `deepstreaks_dask.models.ARCHITECTURES`, of `deepstreaks_dask.models.CLASSIFIERS` if it classifies
        sequences, or ``"keras"`` for any other network.
    family
        Such as ``"rb"``; the part of the name before the first underscore if not given.
    input_shape
        Height and width in px, and number of planes, of one cutout.
    outputs
        Number of sigmoid outputs; of a classifier of sequences the number of classes, filled in.
    classes
        Names of the classes that a classifier of sequences tells apart; empty for what scores single cutouts.
    scaling
        How pixels become what it takes, a key of `deepstreaks_dask.models.forward.SCALINGS`.
    resizes
        Whether cutouts of another height and width are resized to `input_shape`; else they are refused.
    dtype
        Precision of the kernels on disk, ``"float16"`` or ``"float32"``; filled in on saving.
    file, sha256
        File of weights beside the card, and its SHA-256; filled in on saving.
    created
        Time of saving, ISO 8601, UTC; filled in on saving if empty.
    recipe
        How it was trained: optimiser, learning rate, epochs, seed and so on.
    training_data
        What it was trained on.
    metrics
        What it reaches, and on which data.
    description, limits
        For people: what it is, and what it is not for.
    """

    name: str
    version: str
    architecture: str
    family: str = ""
    input_shape: tuple[int, int, int] = (144, 144, 1)
    outputs: int = 1
    classes: tuple[str, ...] = ()
    scaling: str = "bytes"
    resizes: bool = False
    dtype: str = ""
    file: str = ""
    sha256: str = ""
    created: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    training_data: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    limits: str = ""

    def __post_init__(self) -> None:
        for what in ("name", "version"):
            _check_name(getattr(self, what), what)
        if not self.family:
            object.__setattr__(self, "family", self.name.split("_")[0])
        _check_name(self.family, "family")
        known = *ARCHITECTURES, *CLASSIFIERS, KERAS_FILE
        if self.architecture not in known:
            raise ModelError(
                f"model {self.name!r}: no architecture {self.architecture!r}; choose one of "
                f"{', '.join(known)}"
            )
        self._check_classes()
        shape = self.input_shape
        if not isinstance(shape, (list, tuple)) or len(shape) != 3 or not all(map(_whole, shape)):
            raise ModelError(
                f"model {self.name!r}: input_shape is {shape!r}; give height, width and planes"
            )
        object.__setattr__(self, "input_shape", tuple(shape))
        if not _whole(self.outputs):
            raise ModelError(f"model {self.name!r}: outputs is {self.outputs!r}; give 1 or more")
        if self.scaling not in SCALINGS:
            raise ModelError(
                f"model {self.name!r}: no scaling {self.scaling!r}; choose one of {', '.join(SCALINGS)}"
            )
        if not isinstance(self.resizes, bool):
            raise ModelError(
                f"model {self.name!r}: resizes is {self.resizes!r}; give true or false"
            )
        for what in ("recipe", "training_data", "metrics"):
            if not isinstance(getattr(self, what), Mapping):
                raise ModelError(f"model {self.name!r}: {what} is no table of keys and values")
        for what in ("dtype", "file", "sha256", "created", "description", "limits"):
            if not isinstance(getattr(self, what), str):
                raise ModelError(f"model {self.name!r}: {what} is no text")
        for what, pattern in (("file", _FILE), ("sha256", _SHA256)):
            value = getattr(self, what)
            if value and not pattern.fullmatch(value):
                raise ModelError(f"model {self.name!r}: {what} {value!r} in its card is not valid")
        if self.dtype and self.dtype not in DTYPES:
            raise ModelError(f"model {self.name!r}: dtype {self.dtype!r} is none of {DTYPES}")

    def _check_classes(self) -> None:
        classes = self.classes
        if not isinstance(classes, (list, tuple)) or not all(
            isinstance(name, str) and 0 < len(name) <= _LONGEST_CLASS for name in classes
        ):
            raise ModelError(f"model {self.name!r}: classes is {classes!r}; give a list of names")
        if (self.architecture in CLASSIFIERS) != bool(classes) or len(set(classes)) < len(classes):
            raise ModelError(
                f"model {self.name!r}: a classifier of sequences ({', '.join(CLASSIFIERS)}) needs classes, each "
                "named once, and nothing else has any"
            )
        object.__setattr__(self, "classes", tuple(classes))
        if classes:
            object.__setattr__(self, "outputs", len(classes))

    @property
    def ref(self) -> str:
        """Name and version, ``"rb_vgg6@1"``, as `Zoo.load` takes them."""
        return f"{self.name}@{self.version}"

    def takes(self, size: Sequence[int]) -> tuple[int, int, int]:
        """Give the shape of what it takes where cutouts are of some size: theirs if it resizes them, else its own.

        Parameters
        ----------
        size
            Height and width of the cutouts, in px.

        Returns
        -------
        tuple of int
            Height and width in px, and number of planes.
        """
        height, width, planes = self.input_shape
        if self.resizes:
            height, width = size
        return height, width, planes

    def to_dict(self) -> dict[str, Any]:
        """Give the card as plain values that JSON can hold."""
        return {
            **{item.name: getattr(self, item.name) for item in dataclasses.fields(self)},
            "input_shape": list(self.input_shape),
            "classes": list(self.classes),
            **{what: dict(getattr(self, what)) for what in ("recipe", "training_data", "metrics")},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Card":
        """Make a card from plain values.

        Parameters
        ----------
        values : mapping
            As :meth:`to_dict` gives them.

        Returns
        -------
        Card
            Checked.

        Raises
        ------
        ModelError
            If a value is missing, unknown or not valid.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        needed = {"name", "version", "architecture"}
        if not isinstance(values, Mapping) or not needed <= set(values):
            raise ModelError("a model card needs name, version and architecture")
        if unknown := sorted(set(values) - known):
            raise ModelError(f"model card {values['name']!r} has unknown entries: {unknown}")
        return cls(**values)


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

    def list(self) -> list[Card]:
        """Give the cards of all models, by name and then oldest version first.

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
        """Give the card of one model.

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
        _check_name(name, "name")
        if "@" in ref:
            _check_name(version, "version")
        refs = self._refs()
        versions = [have for have_name, have in refs if have_name == name]
        if not versions:
            names = sorted({have_name for have_name, _ in refs})
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            there = f"it has {', '.join(names)}" if names else "it is empty"
            raise ModelError(f"no model {name!r} in {self._label()}: {there}{hint}")
        if not version:
            version = versions[-1]
        elif version not in versions:
            raise ModelError(
                f"no version {version!r} of model {name!r} in {self._label()}: "
                f"it has {', '.join(versions)}"
            )
        return self._read_card(name, version)

    def load(self, ref: str, size: Sequence[int] | None = None) -> keras.Model:
        """Build a model and give it its weights, in single precision.

        Parameters
        ----------
        ref
            ``"rb_vgg6"`` for the newest version, or ``"rb_vgg6@1"``.
        size
            Height and width of the cutouts, in px; as the card has it by default. A model that resizes then takes these.

        Returns
        -------
        keras.Model
            Takes float32 ``(cutout, y, x, plane)`` and gives float32 ``(cutout, output)``.

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
        if card.architecture == KERAS_FILE:
            model = _load_keras(data, card.ref)
        else:
            model = build(card.architecture, card.input_shape, card.outputs)
            _set_weights(model, data, card.ref)
        _check_shape(model, card)
        if size is None:
            return model
        height, width, _ = card.takes(size)
        return resizing(model, height, width)

    def load_classifier(self, ref: str) -> Classifier:
        """Give a classifier of sequences with what it has learned.

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
        arrays = _arrays(self._weights(card), card.ref)
        try:
            return CLASSIFIERS[card.architecture].from_arrays(card.classes, arrays)
        except ModelError as error:
            raise ModelError(f"the weights of model {card.ref!r} do not fit: {error}") from error

    def _weights(self, card: Card) -> bytes:
        """Read a model's file, and compare it with its hash."""
        if not card.file or not card.sha256:
            raise ModelError(
                f"the card of model {card.ref!r} names no file of weights or no sha256"
            )
        data = self._read(f"{card.name}/{card.version}/{card.file}")
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
            What to say of it; `dtype`, `file`, `sha256` and an empty `created` are filled in.
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
        if card.classes:
            data, dtype = _classifier_bytes(model, card)
            suffix = "safetensors"
        else:
            _check_shape(model, card)
            if card.architecture == KERAS_FILE:
                data, suffix, dtype = _keras_bytes(model, card.ref), "keras", "float32"
            else:
                data, suffix = _weight_bytes(model, card, dtype), "safetensors"
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
        """Take a model out, its card first, so that nobody finds a half of it.

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
        """Load every model and give what is wrong, one line a problem; none if all is well."""
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
        except OSError as error:
            raise ModelError(f"cannot list {self._label()}: {error}") from error
        refs = set()
        for path in paths:
            parts = path.removeprefix(self._root).strip("/").split("/")
            if len(parts) == 3 and parts[2] == "card.json" and all(map(_valid_name, parts[:2])):
                refs.add((parts[0], parts[1]))
        return sorted(refs, key=lambda ref: (ref[0], _version_key(ref[1])))

    def _read_card(self, name: str, version: str) -> Card:
        path = f"{name}/{version}/card.json"
        try:
            card = Card.from_dict(json.loads(self._read(path)))
        except (ValueError, ModelError) as error:
            raise ModelError(f"{path} in {self._label()} is not a model card: {error}") from error
        if (card.name, card.version) != (name, version):
            raise ModelError(f"{path} in {self._label()} is the card of {card.ref!r}: move it")
        return card

    def _read(self, path: str) -> bytes:
        try:
            return self._fs.cat_file(f"{self._root}/{path}")
        except OSError as error:
            raise ModelError(f"cannot read {path} in {self._label()}: {error}") from error

    def _write(self, path: str, data: bytes) -> None:
        try:
            write_whole(self._fs, f"{self._root}/{path}", data)
        except OSError as error:
            raise ModelError(f"cannot write {path} in {self._label()}: {error}") from error


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


def load_keras(path: str | os.PathLike[str]) -> keras.Model:
    """Load a whole network from a `.keras` file that holds no code.

    Parameters
    ----------
    path
        Local path or URL.

    Returns
    -------
    keras.Model
        Not compiled for training.

    Raises
    ------
    ModelError
        If the file cannot be read, is no `.keras` file, or holds a Lambda or a class from outside
        Keras.
    """
    try:
        with fsspec.open(os.fspath(path), "rb") as file:
            data = file.read()
    except (OSError, ImportError, ValueError) as error:
        raise ModelError(f"cannot read {os.fspath(path)!r}: {error}") from error
    return _load_keras(data, os.fspath(path))


def _check_name(value: Any, what: str) -> None:
    """Refuse what could lead out of the zoo as a part of a path, or be mistaken in a reference."""
    if not _valid_name(value):
        raise ModelError(
            f"model {what} {value!r} is not valid: use letters, digits, '.', '_' and '-', and "
            "begin with a letter or digit"
        )


def _valid_name(value: Any) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _version_key(version: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Sort key by which 2026.9 < 2026.11 and 1.0rc1 < 1.0.1."""
    parts = re.findall(r"[0-9]+|[A-Za-z]+", version)
    return [(p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts], version


def _check_shape(model: keras.Model, card: Card) -> None:
    takes, gives = tuple(model.input_shape[1:]), tuple(model.output_shape[1:])
    if takes != card.input_shape or gives != (card.outputs,):
        raise ModelError(
            f"model {card.ref!r} takes {takes} and gives {gives}, but its card says "
            f"{card.input_shape} and {(card.outputs,)}"
        )


def _named_weights(model: keras.Model) -> dict[str, keras.Variable]:
    """Name each weight by its layer's place and kind, which are the same in every session."""
    return {
        f"{place:03d}.{type(layer).__name__.lower()}.{weight.name}": weight
        for place, layer in enumerate(model.layers)
        for weight in layer.weights
    }


def _weight_bytes(model: keras.Model, card: Card, dtype: str) -> bytes:
    expected = build(card.architecture, card.input_shape, card.outputs)
    shapes = {name: tuple(weight.shape) for name, weight in _named_weights(expected).items()}
    weights = _named_weights(model)
    if {name: tuple(weight.shape) for name, weight in weights.items()} != shapes:
        raise ModelError(f"model {card.ref!r} is no {card.architecture!r}, though its card says so")
    arrays = {}
    for name, weight in weights.items():
        array = weight.numpy().astype(np.float32)
        with np.errstate(over="ignore"):
            stored = array.astype(dtype if array.ndim > 1 else np.float32)
        if not np.isfinite(stored).all():
            raise ModelError(f"{name} of model {card.ref!r} has values that {dtype} cannot hold")
        arrays[name] = stored
    return safetensors.numpy.save(arrays)


def _classifier_bytes(model: Any, card: Card) -> tuple[bytes, str]:
    """Give a classifier's arrays as safetensors, and their precision."""
    if not isinstance(model, CLASSIFIERS[card.architecture]):
        raise ModelError(f"model {card.ref!r} is no {card.architecture!r}, though its card says so")
    if tuple(model.classes) != card.classes:
        raise ModelError(
            f"model {card.ref!r} tells {', '.join(model.classes)} apart, but its card says "
            f"{', '.join(card.classes)}"
        )
    arrays = {name: np.ascontiguousarray(array) for name, array in model.to_arrays().items()}
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelError(f"{name} of model {card.ref!r} holds what is not finite")
    half = any(array.dtype == np.float16 for array in arrays.values())
    return safetensors.numpy.save(arrays), "float16" if half else "float32"


def _arrays(data: bytes, ref: str) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError) as error:
        raise ModelError(f"the weights of model {ref!r} are no safetensors: {error}") from error


def _set_weights(model: keras.Model, data: bytes, ref: str) -> None:
    arrays = _arrays(data, ref)
    weights = _named_weights(model)
    if set(arrays) != set(weights):
        strange = sorted(set(arrays) ^ set(weights))
        raise ModelError(
            f"the weights of model {ref!r} do not fit a {model.name}: {len(strange)} are missing "
            f"or too many, such as {strange[0]!r}"
        )
    for name, weight in weights.items():
        array = arrays[name]
        if array.shape != tuple(weight.shape) or array.dtype.name not in DTYPES:
            raise ModelError(
                f"{name} of model {ref!r} is {array.dtype} {array.shape}, not {tuple(weight.shape)}"
            )
        weight.assign(array.astype(np.float32))


def _keras_bytes(model: keras.Model, ref: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        data = path.read_bytes()
    _load_keras(data, ref)  # refuse now what could not be loaded later
    return data


def _load_keras(data: bytes, origin: str) -> keras.Model:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ModelError(f"{origin!r} is no .keras file: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{origin!r} is no .keras file: its configuration is no table")
    config.pop("compile_config", None)  # never loaded
    for module, name, value in _classes(config):
        if (module, name) == ("builtins", "function") and value in REGISTERED:
            continue
        if "lambda" in name.lower():
            raise ModelError(f"{origin!r} holds a Lambda, code that could do anything: refused")
        if module is not None and module.split(".")[0] != "keras":
            raise ModelError(
                f"{origin!r} holds {module}.{name}, which is not a part of Keras: refused"
            )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(data)
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:  # Keras raises many kinds for a damaged or hostile file
            raise ModelError(f"{origin!r} cannot be loaded: {error}") from error


def _classes(config: Any) -> Iterator[tuple[str | None, str, Any]]:
    """Find (module, class name, configuration) of all that a Keras configuration would make."""
    if isinstance(config, dict):
        if "class_name" in config:
            inner = config.get("config")
            yield (
                config.get("module"),
                str(config["class_name"]),
                inner if isinstance(inner, str) else None,
            )
        for value in config.values():
            yield from _classes(value)
    elif isinstance(config, list):
        for value in config:
            yield from _classes(value)
