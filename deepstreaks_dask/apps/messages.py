"""Messages between a page's script and Python: what each holds, checked before it is used.

The page sends a :class:`Message`, named by ``do``; Python sends an :class:`Update`, named by ``what``. The models of a page
are in its own ``messages`` module, and the scripts in ``pages/`` use the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.vocabulary import Role

MAX_REFUSAL_LENGTH = 200
"""Characters of the line that says why a message is refused."""

MAX_NAME_LENGTH = 40
"""Characters of an unknown message's name, or of a field, in that line."""


class MessageError(DeepStreaksError):
    """The page sent a message that is unknown or malformed."""


class Message(BaseModel):
    """What a page asks for; each kind has its own ``do``. Values are not converted, and unknown keys are refused.

    Attributes
    ----------
    role : Role
        The least role that may send the message. Each kind names its own, ``class Save(Message, role=Role.REVIEWER)``.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    role: ClassVar[Role]

    def __init_subclass__(cls, *, role: Role, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.role = role


class Hello(Message, role=Role.VIEWER):
    """The page is open and listens.

    Attributes
    ----------
    dark : bool
        The page is dark.
    """

    do: Literal["hello"]
    dark: bool


class Theme(Message, role=Role.VIEWER):
    """The page has become dark or light.

    Attributes
    ----------
    dark : bool
        The page is dark.
    """

    do: Literal["theme"]
    dark: bool


class Update(BaseModel):
    """What Python sends to a page; each kind has its own ``what``."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Error(Update):
    """An error for the person to read.

    Attributes
    ----------
    words : str
        One line.
    """

    what: Literal["error"] = "error"
    words: str


Handlers = Mapping[type[Message], Callable[[Any], None]]
"""The function for each kind of message."""


class MessageSchema:
    """The messages that a page may send.

    Parameters
    ----------
    *kinds : type of Message
        All of them, each with its own ``do``.
    """

    def __init__(self, *kinds: type[Message]) -> None:
        self.kinds = kinds
        any_kind: Any = Union[kinds]  # noqa: UP007 -- the types are in a tuple
        self._adapter: TypeAdapter[Message] = TypeAdapter(
            Annotated[any_kind, Field(discriminator="do")]
        )

    def read(self, data: Any) -> Message:
        """Check a message.

        Parameters
        ----------
        data : object
            As the page sent it, of any type.

        Returns
        -------
        Message
            The message, of one of the schema's kinds.

        Raises
        ------
        MessageError
            If the message is unknown or malformed; the error is one line.
        """
        try:
            return self._adapter.validate_python(data)
        except ValidationError as error:
            raise MessageError(_refusal(data, error)) from None


def _refusal(data: Any, error: ValidationError) -> str:
    """Return one line that says why a message is refused."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = data.get("do") if isinstance(data, dict) else None
    if not isinstance(name, str):
        words = "This page sent a message without a name. Reload the page."
    elif first["type"] == "union_tag_invalid":
        words = f"This page sent an unknown message, {name[:MAX_NAME_LENGTH]!r}. Reload the page."
    else:
        field = ".".join(str(part) for part in first["loc"][1:])
        words = f"{name}, {field[:MAX_NAME_LENGTH]}: {first['msg']}"
    return " ".join(words.split())[:MAX_REFUSAL_LENGTH]
