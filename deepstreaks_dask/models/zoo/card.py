"""A model's card: what it is, how it came about, and what it is not for."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.registry import ARCHITECTURES, CLASSIFIERS

DTYPES = ("float16", "float32")
"""Precisions of kernels on disk."""

KERAS_FILE = "keras"
"""The architecture of a network that is none of this package."""

SCALINGS = "bytes", "l2", "none"
"""How pixels become what a network takes: 8-bit ones to 0..1, each plane to a norm of 1, or as they are."""

_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FILE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.(safetensors|keras)")
_MAX_CLASS_LENGTH = 64  # characters
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
        A key of `deepstreaks_dask.models.registry.ARCHITECTURES`, of
        `deepstreaks_dask.models.registry.CLASSIFIERS` if it classifies
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
        How pixels become what it takes, one of `SCALINGS`.
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
            check_name(getattr(self, what), what)
        if not self.family:
            object.__setattr__(self, "family", self.name.split("_")[0])
        check_name(self.family, "family")
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
        for what, pattern in (("file", _FILE_PATTERN), ("sha256", _SHA256)):
            value = getattr(self, what)
            if value and not pattern.fullmatch(value):
                raise ModelError(f"model {self.name!r}: {what} {value!r} in its card is not valid")
        if self.dtype and self.dtype not in DTYPES:
            raise ModelError(f"model {self.name!r}: dtype {self.dtype!r} is none of {DTYPES}")

    def _check_classes(self) -> None:
        classes = self.classes
        if not isinstance(classes, (list, tuple)) or not all(
            isinstance(name, str) and 0 < len(name) <= _MAX_CLASS_LENGTH for name in classes
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
            Height and width of the cutouts in pixels.

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


def check_name(value: Any, what: str) -> None:
    """Refuse what could lead out of the zoo as a part of a path, or be mistaken in a reference.

    Parameters
    ----------
    value
        What is to be a name or a version.
    what : str
        Which of them, for the error.

    Raises
    ------
    ModelError
        If it is not made of letters, digits, full stops, underscores and hyphens.
    """
    if not valid_name(value):
        raise ModelError(
            f"model {what} {value!r} is not valid: use letters, digits, '.', '_' and '-', and "
            "begin with a letter or digit"
        )


def valid_name(value: Any) -> bool:
    """Tell whether something can be the name or the version of a model."""
    return isinstance(value, str) and _NAME_PATTERN.fullmatch(value) is not None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
