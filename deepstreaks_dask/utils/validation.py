"""Check JSON and TOML that people and other programs wrote, with pydantic models and one-line errors.

A file format is a class that derives from :class:`StrictModel`. Its fields are typed, nothing is converted (the text
``"1"`` is no number, ``true`` is no 1), unknown fields are errors, and NaN and infinity are no numbers. To read a file,
parse it and pass the values to :func:`validate`::

    from deepstreaks_dask.utils.validation import ListOf, StrictModel, validate

    class _FamilyTable(StrictModel):
        members: ListOf[str] = Field(min_length=1)
        scaling: str = "bytes"

    table = validate(
        _FamilyTable,
        tomllib.loads(text),
        source="families.toml",
        error=CampaignError,
        remedy="see the example in the documentation of Ensemble.from_file",
    )

A file that does not fit ends in one line, with the file, the field and what to do::

    families.toml: members[0]: must be text, not 3; see the example in the documentation of Ensemble.from_file

For JSON, pass ``json.loads(data)``, so that a file that is no JSON has its own error. Where a class is a frozen dataclass
of the standard library already, no second class is needed: give it ``__pydantic_config__ = STRICT`` and read it with
:func:`validate_json`, and write it with ``json.dumps(asdict(value))``. Relations between fields go into
a ``model_validator(mode="after")`` that raises :class:`ValueError`; its text is the message. A field that a file may
have and this version does not know is kept from being an error by ``model_config = ConfigDict(extra="ignore")`` in the
class. Where a message of its own is wanted, catch :class:`pydantic.ValidationError` and use :func:`describe`.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from deepstreaks_dask.errors import DeepStreaksError, did_you_mean

_INPUT_LENGTH = 60  # characters of a wrong value that a message shows

_TYPE_NAMES = {
    "bool": "true or false",
    "dataclass": "a table",
    "dict": "a table",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "mapping": "a table",
    "model": "a table",
    "model_attributes": "a table",
    "string": "text",
    "tuple": "a list",
}
"""What a file's author calls the types that pydantic names, by the first part of its error types."""

_Item = TypeVar("_Item")
_Model = TypeVar("_Model", bound=BaseModel)
_Kind = TypeVar("_Kind")

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""Configuration of :class:`StrictModel`, for ``__pydantic_config__`` of a dataclass."""

ListOf = Annotated[tuple[_Item, ...], Field(strict=False)]
"""A list in a file, ``ListOf[str]``: a tuple in the model, so that a frozen model is hashable."""


class StrictModel(BaseModel):
    """Base of file formats: frozen, without conversions, without unknown fields, with finite numbers only."""

    model_config = ConfigDict(**STRICT, frozen=True)


def validate(
    model: type[_Model],
    values: Any,
    *,
    source: str,
    error: type[DeepStreaksError] = DeepStreaksError,
    remedy: str = "",
) -> _Model:
    """Check parsed values against a model.

    Parameters
    ----------
    model : type of pydantic.BaseModel
        File format.
    values : Any
        As :func:`json.loads` or :func:`tomllib.loads` return them.
    source : str
        What to call the values in an error: the path of the file, say.
    error : type of DeepStreaksError
        Class of the error.
    remedy : str
        What to do about it, as the end of a sentence.

    Returns
    -------
    pydantic.BaseModel
        Instance of ``model``.

    Raises
    ------
    DeepStreaksError
        Of the class ``error``, if the values do not fit: one line with source, field, reason and remedy.
    """
    try:
        return model.model_validate(values)
    except ValidationError as wrong:
        end = f"; {remedy}" if remedy else ""
        raise error(f"{source}: {describe(wrong, model)}{end}") from wrong


def validate_json(
    kind: type[_Kind],
    data: str | bytes,
    *,
    source: str,
    error: type[DeepStreaksError] = DeepStreaksError,
    remedy: str = "",
) -> _Kind:
    """Check JSON against a model, or a dataclass with ``__pydantic_config__ = STRICT``.

    Parameters
    ----------
    kind : type
        File format.
    data : str or bytes
        JSON.
    source : str
        What to call the data in an error: the path of the file, say.
    error : type of DeepStreaksError
        Class of the error.
    remedy : str
        What to do about it, as the end of a sentence.

    Returns
    -------
    object
        Instance of ``kind``.

    Raises
    ------
    DeepStreaksError
        Of the class ``error``, if the data are no JSON or do not fit: one line with source, field, reason and remedy.
    """
    try:
        return TypeAdapter(kind).validate_json(data)
    except ValidationError as wrong:
        end = f"; {remedy}" if remedy else ""
        raise error(f"{source}: {describe(wrong)}{end}") from wrong


def describe(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Return the first problem of a pydantic error in one line, with the number of the others.

    Parameters
    ----------
    error : pydantic.ValidationError
        As pydantic raised it.
    model : type of pydantic.BaseModel, optional
        Model that was checked; its fields are suggested for one that is misspelled.

    Returns
    -------
    str
        ``members[0]: must be text, not 3 (and 2 more)``.
    """
    problems = error.errors(include_url=False)
    others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    first = problems[0]
    field = _field_path(first)
    return f"{f'{field}: ' if field else ''}{_reason(first, model)}{others}"


def _field_path(problem: ErrorDetails) -> str:
    """Return where a problem is, ``checked.nights[2]``."""
    path = ""
    for part in problem["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _reason(problem: ErrorDetails, model: type[BaseModel] | None) -> str:
    kind, found = problem["type"], problem["input"]
    if kind == "missing":
        return "is missing"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        known = model.model_fields if model is not None and len(problem["loc"]) == 1 else ()
        return f"{did_you_mean(str(problem['loc'][-1]), known)}no such field is known"
    if kind == "value_error":
        return _one_line(problem["msg"].removeprefix("Value error, "))
    name, _, rest = kind.rpartition("_")
    if rest in ("type", "parsing") and name in _TYPE_NAMES:
        return f"must be {_TYPE_NAMES[name]}, not {_shown(found)}"
    text = _one_line(problem["msg"])
    return f"{text[:1].lower()}{text[1:]}, not {_shown(found)}"


def _shown(value: Any) -> str:
    text = _one_line(repr(value))
    return text if len(text) <= _INPUT_LENGTH else f"{text[: _INPUT_LENGTH - 1]}…"


def _one_line(text: str) -> str:
    return " ".join(text.split())
