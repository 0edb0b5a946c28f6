"""A model's card: what it is, how it was made, and what it is not for."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from deepstreaks_dask.errors import ModelError, did_you_mean
from deepstreaks_dask.models.registry import ARCHITECTURES, CLASSIFIERS
from deepstreaks_dask.utils.validation import ListOf, describe

DTYPES = ("float16", "float32")
"""Precisions of kernels on disk."""

KERAS_FILE = "keras"
"""Architecture of a network that is not one of this package."""

SCALINGS = "bytes", "l2", "none"
"""How pixels are scaled for a network: 8-bit ones to 0..1, each plane to a norm of 1, or not at all."""

MAX_CARD_BYTES = 4 * 2**20
"""Bytes of a card's file."""

_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NAME_REMEDY = "use letters, digits, '.', '_' and '-', begin with a letter or digit, and be short"
_FILE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.(safetensors|keras)")
_MAX_SHOWN = 80  # characters of a wrong value in an error
_MAX_SIDE = 4096  # px
_MAX_PLANES = 64
_MAX_INPUT = 2**24  # values of one cutout
_MAX_OUTPUTS = 1000
_SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")
_MAX_CLASS_LENGTH = 64  # characters


def _checked_name(value: str) -> str:
    if not valid_name(value):
        raise ValueError(f"{repr(value)[:_MAX_SHOWN]} is not valid: {_NAME_REMEDY}")
    return value


def _one_of(noun: str, known: Sequence[str]) -> AfterValidator:
    return AfterValidator(lambda value: _chosen(noun, value, known))


def _chosen(noun: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(
            f"no {noun} {value[:_MAX_SHOWN]!r}; choose one of {', '.join(filter(None, known))}"
        )
    return value


def _known_architecture(value: str) -> str:
    """Accept an architecture that is registered now: classifiers may be added while Python runs."""
    return _chosen("architecture", value, (*ARCHITECTURES, *CLASSIFIERS, KERAS_FILE))


def _like(pattern: re.Pattern[str]) -> AfterValidator:
    """Accept text that matches a pattern as a whole, and an empty one, which is filled in on saving."""

    def check(value: str) -> str:
        if value and not pattern.fullmatch(value):
            raise ValueError(
                f"{repr(value)[:_MAX_SHOWN]} is not valid: restore the card, or save the model again"
            )
        return value

    return AfterValidator(check)


_Name = Annotated[str, AfterValidator(_checked_name)]
_Side = Annotated[int, Field(ge=1, le=_MAX_SIDE)]
_Planes = Annotated[int, Field(ge=1, le=_MAX_PLANES)]
_ClassName = Annotated[str, Field(min_length=1, max_length=_MAX_CLASS_LENGTH)]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Card:
    """What a model is, how it was made, and what it is not for.

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
        Names of the classes of a classifier of sequences; empty for a network of single cutouts.
    scaling
        How pixels are scaled, one of `SCALINGS`.
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
        Metrics, and the data that they were measured on.
    description, limits
        For people: what it is, and what it is not for.
    """

    name: _Name
    version: _Name
    architecture: Annotated[str, AfterValidator(_known_architecture)]
    family: str = ""
    input_shape: Annotated[
        tuple[_Side, _Side, _Planes],
        Field(strict=False),  # a file has a list
    ] = (144, 144, 1)
    outputs: Annotated[int, Field(ge=1, le=_MAX_OUTPUTS)] = 1
    classes: Annotated[ListOf[_ClassName], Field(max_length=_MAX_OUTPUTS)] = ()
    scaling: Annotated[str, _one_of("scaling", SCALINGS)] = "bytes"
    resizes: bool = False
    dtype: Annotated[str, _one_of("dtype", ("", *DTYPES))] = ""
    file: Annotated[str, _like(_FILE_PATTERN)] = ""
    sha256: Annotated[str, _like(_SHA256_PATTERN)] = ""
    created: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    training_data: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    limits: str = ""

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, values: Any, handler: Callable[[Any], Card]) -> Card:
        """Raise what pydantic finds as an error of this package."""
        try:
            return handler(values)
        except ValidationError as error:
            raise ModelError(
                f"model {repr(_name_in(values))[:_MAX_SHOWN]}: {describe(error)}"
            ) from error

    def __post_init__(self) -> None:
        if not self.family:
            object.__setattr__(self, "family", self.name.split("_")[0])
        _checked_name(self.family)
        if math.prod(self.input_shape) > _MAX_INPUT:
            raise ValueError(f"input_shape: has more than {_MAX_INPUT:,} values")
        classes = self.classes
        if (self.architecture in CLASSIFIERS) != bool(classes) or len(set(classes)) < len(classes):
            raise ValueError(
                f"a classifier of sequences ({', '.join(CLASSIFIERS)}) needs classes, each named once, and "
                "nothing else has any"
            )
        if classes:
            object.__setattr__(self, "outputs", len(classes))

    @property
    def ref(self) -> str:
        """Name and version, ``"rb_vgg6@1"``, as `Zoo.load` takes them."""
        return f"{self.name}@{self.version}"

    def takes(self, size: Sequence[int]) -> tuple[int, int, int]:
        """Return the shape of its input for cutouts of some size: theirs if the model resizes them, else its own.

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
        """Return the card as plain values that JSON can hold."""
        return {
            **{item.name: getattr(self, item.name) for item in dataclasses.fields(self)},
            "input_shape": list(self.input_shape),
            "classes": list(self.classes),
            **{what: dict(getattr(self, what)) for what in ("recipe", "training_data", "metrics")},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Card:
        """Return a card of plain values.

        Parameters
        ----------
        values : mapping
            As :meth:`to_dict` returns them.

        Returns
        -------
        Card
            Checked.

        Raises
        ------
        ModelError
            If a value is missing, unknown or not valid.
        """
        if not isinstance(values, Mapping):
            raise ModelError("a model card is a table with name, version and architecture")
        known = [item.name for item in dataclasses.fields(cls)]
        if unknown := sorted(set(map(str, values)) - set(known)):
            named, field_name = repr(values.get("name"))[:_MAX_SHOWN], unknown[0][:_MAX_SHOWN]
            raise ModelError(
                f"model {named}: {field_name}: {did_you_mean(field_name, known)}no such field is known"
            )
        return cls(**values)


def check_name(value: Any, what: str) -> None:
    """Check a name or a version, which could lead out of the zoo as a part of a path or be mistaken in a reference.

    Parameters
    ----------
    value
        Name or version.
    what : str
        Which of them, for the error.

    Raises
    ------
    ModelError
        If it has other characters than letters, digits, full stops, underscores and hyphens.
    """
    if not valid_name(value):
        raise ModelError(f"model {what} {value!r} is not valid: {_NAME_REMEDY}")


def valid_name(value: Any) -> bool:
    """Return whether a value can be the name or the version of a model."""
    return isinstance(value, str) and _NAME_PATTERN.fullmatch(value) is not None


def _name_in(values: Any) -> Any:
    """Return the name among the arguments of a card that may be wrong."""
    if not isinstance(values, ArgsKwargs):
        return ""
    return (values.kwargs or {}).get("name", values.args[0] if values.args else "")
