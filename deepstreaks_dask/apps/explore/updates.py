"""What the page of cutouts shows: the updates that ``pages/explore.js`` takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from deepstreaks_dask.apps.messages import Update

Row = dict[str, Any]
"""A row of a table, or a card, of values that JSON can hold."""


class Ready(Update):
    """The scores are loaded.

    Attributes
    ----------
    families : list of dict
        ``name``, ``description`` and ``members`` of each.
    names, filters : list of str
        What scores and filters can be chosen.
    nights : list of (str, str)
        Each night as YYYYMMDD and as YYYY-MM-DD.
    span : str
        How many cutouts and nights there are.
    """

    what: Literal["ready"] = "ready"
    families: list[Row]
    names: list[str]
    filters: list[str]
    nights: list[tuple[str, str]]
    span: str


class State(Update):
    """The thresholds, and the counts that follow from them.

    Attributes
    ----------
    n : int
        Number of the move that led to it; 0 for none.
    thresholds : dict of str to float
        By member or family.
    members, families : list of dict
        How many cutouts pass each, and each member's threshold.
    tiles : list of dict
        Headline figures.
    confusion : dict, optional
        Decisions against labels; None without labels.
    venn : dict
        How many cutouts pass exactly which families.
    """

    what: Literal["state"] = "state"
    n: int
    thresholds: dict[str, float]
    members: list[Row]
    families: list[Row]
    tiles: list[Row]
    confusion: dict[str, list[Any]] | None
    venn: Row


class Saved(Update):
    """The sets of thresholds that are saved with the archive.

    Attributes
    ----------
    names : list of str
        Of the sets.
    words : str
        What happened.
    """

    what: Literal["saved"] = "saved"
    names: list[str]
    words: str = ""


class File(Update):
    """A file to download.

    Attributes
    ----------
    name, text : str
        Its name and content.
    """

    what: Literal["file"] = "file"
    name: str
    text: str


class Words(Update):
    """A text for one element of the page.

    Attributes
    ----------
    id, words : str
        The element, and its text.
    """

    what: Literal["words"] = "words"
    id: str
    words: str


class JointNames(Update):
    """The scores that joint views can show.

    Attributes
    ----------
    names : list of str
        To choose from.
    pairs : list of (str, str)
        On the axes of each view now.
    """

    what: Literal["joint"] = "joint"
    names: list[str]
    pairs: list[tuple[str, str]]


class Drift(Update):
    """The flagged nights.

    Attributes
    ----------
    name : str
        Family or member whose scores are compared; the page shows only the one that is selected.
    rows : list of dict
        A flagged night each.
    of : int
        How many nights are compared.
    """

    what: Literal["drift"] = "drift"
    name: str
    rows: list[Row]
    of: int


class Comparison(Update):
    """What differs between two runs.

    Attributes
    ----------
    run, other : str
        The runs.
    table, members : list of dict
        Cutouts plausible in both, one or none of the runs by label, and changes of scores by member.
    """

    what: Literal["compare"] = "compare"
    run: str
    other: str
    table: list[Row]
    members: list[Row]


class Searching(Update):
    """A search for thresholds has begun."""

    what: Literal["searching"] = "searching"


class SearchResult(Update):
    """The thresholds that a search has found.

    Attributes
    ----------
    words : str
        Why it found none; empty if it did.
    thresholds, rates : list of dict
        Thresholds with their intervals, and rates on nights that were searched and that were held out.
    target : str
        What was to be kept.
    """

    what: Literal["found"] = "found"
    words: str = ""
    thresholds: Sequence[Row] = ()
    rates: Sequence[Row] = ()
    target: str = ""


class Busy(Update):
    """The gallery is being looked up.

    Attributes
    ----------
    words : str
        What is looked for.
    """

    what: Literal["busy"] = "busy"
    words: str


class GalleryCards(Update):
    """Cutouts of the gallery.

    Attributes
    ----------
    title, words : str
        What they are, and how many.
    cards : list of dict
        A cutout each, with its scores and its picture.
    append : bool
        Add the cards to those shown, instead of replacing them.
    more : bool
        There are more.
    """

    what: Literal["gallery"] = "gallery"
    title: str
    words: str
    cards: list[Row]
    append: bool
    more: bool


class Explained(Update):
    """An attribution map.

    Attributes
    ----------
    place, member
        The cutout and the network, as asked for.
    words : str, optional
        Why there is no map.
    png : str, optional
        The map as PNG in base64.
    logits : list of float, optional
        Logits, which have no unit, of the cutout and of an empty sky, and what the map lacks of their difference.
    """

    what: Literal["explained"] = "explained"
    place: int
    member: str
    words: str | None = None
    png: str | None = None
    logits: list[float] | None = None


class Cell(Update):
    """A notebook cell.

    Attributes
    ----------
    code : str
        Python.
    """

    what: Literal["cell"] = "cell"
    code: str
