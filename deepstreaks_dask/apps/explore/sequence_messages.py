"""The messages of the page of sequences: what ``pages/sequences.js`` sends, and what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from deepstreaks_dask.apps.messages import Hello, Message, MessageSchema, Theme, Update
from deepstreaks_dask.vocabulary import Role

# What the page asks for


class ChooseMember(Message, role=Role.VIEWER):
    """Show the classes of a member.

    Attributes
    ----------
    name : str
        The member.
    """

    do: Literal["member"]
    name: str


class ListObjects(Message, role=Role.VIEWER):
    """List objects by their true and their predicted class.

    Attributes
    ----------
    truth, taken : str
        True and predicted class; ``"*"`` for any, empty for not known and not scored.
    """

    do: Literal["list"]
    truth: str
    taken: str


class ChooseObject(Message, role=Role.VIEWER):
    """Show an object in the player.

    Attributes
    ----------
    row : int
        The object.
    """

    do: Literal["object"]
    row: int = Field(ge=0)


class ShowEpoch(Message, role=Role.VIEWER):
    """Mark an epoch of the object in the figures.

    Attributes
    ----------
    epoch : int
        The epoch, from 0.
    """

    do: Literal["at"]
    epoch: int = Field(ge=0)


class FollowEpochs(Message, role=Role.VIEWER):
    """Compute the members' classes after each epoch of some objects."""

    do: Literal["follow"]


SCHEMA = MessageSchema(
    Hello, Theme, ChooseMember, ListObjects, ChooseObject, ShowEpoch, FollowEpochs
)
"""All messages that the page of sequences may send."""


# What the page takes

Row = dict[str, Any]


class Ready(Update):
    """The scores are loaded.

    Attributes
    ----------
    members, classes : list of str
        Their names.
    """

    what: Literal["ready"] = "ready"
    members: list[str]
    classes: list[str]


class MemberRates(Update):
    """How well a member classifies.

    Attributes
    ----------
    name : str
        The member.
    tiles : list of dict
        Headline figures.
    classes : list of dict
        Recall and F1 of each class.
    """

    what: Literal["member"] = "member"
    name: str
    tiles: Sequence[Row] = ()
    classes: Sequence[Row] = ()


class ObjectList(Update):
    """The objects of a class.

    Attributes
    ----------
    objects : list of dict
        The surest objects.
    total : int
        How many there are.
    """

    what: Literal["list"] = "list"
    objects: list[Row]
    total: int


class PlayedObject(Update):
    """An object for the player.

    Attributes
    ----------
    row : int
        The object.
    id, kind : str
        Its name, and its true class.
    strip : str
        All stamps side by side as PNG in base64.
    side : int
        Pixels on a side of a stamp.
    epochs : list of dict
        ``mjd`` in days, ``band``, ``flux``, ``error`` and ``magnitude`` of each.
    scores : list of dict
        A member each, with its score of each class.
    """

    what: Literal["object"] = "object"
    row: int
    id: str
    kind: str
    strip: str
    side: int
    epochs: list[Row]
    scores: list[Row]


class Probabilities(Update):
    """The probabilities of classes after each epoch of an object.

    Attributes
    ----------
    row : int
        The object.
    members : dict of str to list
        By member: a list ``(epoch, class)``.
    """

    what: Literal["probabilities"] = "probabilities"
    row: int
    members: dict[str, list[list[float]]]


class Followed(Update):
    """The classes after each epoch are drawn."""

    what: Literal["followed"] = "followed"
