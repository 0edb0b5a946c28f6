"""What the page of cutouts asks for: the messages that ``pages/explore.js`` sends."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Strict

from deepstreaks_dask.apps.messages import Hello, Message, MessageSchema, Theme
from deepstreaks_dask.evaluation.selection import Selection
from deepstreaks_dask.vocabulary import Role

MAX_TITLE_LENGTH = 200
"""Characters of a gallery's title; longer ones are cut."""

MAX_RANGES = 4
"""Ranges of scores in a selection."""

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Title = Annotated[str, AfterValidator(lambda words: words[:MAX_TITLE_LENGTH])]
Truth = Literal[1, 0, -1]
TabName = Literal["decision", "scores", "joint", "drift", "compare", "search"]
ScoreGroups = Literal["label", "night", "filter"]
GalleryOrder = Literal["surest", "doubtful", "time"]
Range = Annotated[tuple[str, Share, Share], Strict(False)]  # a list in JSON


class OpenTab(Message, role=Role.VIEWER):
    """Open a tab.

    Attributes
    ----------
    name : str
        The tab.
    """

    do: Literal["tab"]
    name: TabName


class MoveThreshold(Message, role=Role.VIEWER):
    """Move the threshold of a member or of a family.

    Attributes
    ----------
    name : str
        The member or family.
    value : float
        The threshold, a score from 0 to 1.
    n : int
        Number of the move; the state that follows from it has the same.
    """

    do: Literal["threshold"]
    name: str
    value: Share
    n: int = Field(ge=0)


class FollowFamily(Message, role=Role.VIEWER):
    """Let a member follow the threshold of its family again.

    Attributes
    ----------
    name : str
        The member.
    """

    do: Literal["follow"]
    name: str


class ResetThresholds(Message, role=Role.VIEWER):
    """Set all thresholds to 0.5."""

    do: Literal["reset"]


class ChooseFilter(Message, role=Role.VIEWER):
    """Count only cutouts in a filter.

    Attributes
    ----------
    value : str
        The filter; ``"*"`` for all of them.
    """

    do: Literal["filter"]
    value: str


class LoadThresholds(Message, role=Role.VIEWER):
    """Take over thresholds that are saved with the archive.

    Attributes
    ----------
    name : str
        Name of the set.
    """

    do: Literal["load"]
    name: str


class SaveThresholds(Message, role=Role.REVIEWER):
    """Save the thresholds with the archive.

    Attributes
    ----------
    name : str
        Name of the set.
    """

    do: Literal["save"]
    name: str


class ExportThresholds(Message, role=Role.VIEWER):
    """Download the thresholds as TOML.

    Attributes
    ----------
    name : str
        Name of the file, without its ending.
    """

    do: Literal["toml"]
    name: str = ""


class Settled(Message, role=Role.VIEWER):
    """The thresholds have not moved for a moment."""

    do: Literal["settled"]


class CopyCell(Message, role=Role.VIEWER):
    """Write a notebook cell that opens this view."""

    do: Literal["cell"]


class ChooseCurves(Message, role=Role.VIEWER):
    """Draw the curves of all families, or of one family and its members.

    Attributes
    ----------
    of : str
        ``"families"``, or a family.
    """

    do: Literal["curves"]
    of: str


class ChooseScores(Message, role=Role.VIEWER):
    """Draw the distribution of scores.

    Attributes
    ----------
    name : str
        Member, family or ``"decision"``.
    by : str
        What the scores are split by.
    night : int
        Night that is drawn when split by night, as YYYYMMDD.
    log : bool
        Logarithmic counts.
    """

    do: Literal["scores"]
    name: str
    by: ScoreGroups
    night: int
    log: bool


class ChooseAxis(Message, role=Role.VIEWER):
    """Choose the scores on an axis of a joint view.

    Attributes
    ----------
    pair : int
        The joint view, 0 or 1.
    axis : str
        ``"x"`` or ``"y"``.
    name : str
        Member, family or ``"decision"``.
    """

    do: Literal["axis"]
    pair: Literal[0, 1]
    axis: Literal["x", "y"]
    name: str


class ClearSelection(Message, role=Role.VIEWER):
    """Clear the selection in the joint views."""

    do: Literal["clear"]


class ChooseDrift(Message, role=Role.VIEWER):
    """Draw the drift of scores.

    Attributes
    ----------
    name : str
        Member, family or ``"decision"``.
    """

    do: Literal["drift"]
    name: str


class CompareRun(Message, role=Role.VIEWER):
    """Compare with another run.

    Attributes
    ----------
    run : str
        The other run; empty for none.
    """

    do: Literal["compare"]
    run: str


class ShowChanged(Message, role=Role.VIEWER):
    """Show cutouts that are plausible in one run only.

    Attributes
    ----------
    key : str
        ``"gained"`` for this run, ``"lost"`` for the other.
    truth : int
        1 labelled plausible, 0 labelled other, -1 without label.
    words : str
        Title of the gallery.
    """

    do: Literal["changed"]
    key: Literal["gained", "lost"]
    truth: Truth
    words: Title = ""


class SearchThresholds(Message, role=Role.VIEWER):
    """Search for thresholds.

    Attributes
    ----------
    target : str
        ``"fpr"`` or ``"budget"``.
    value : float
        The greatest false-positive rate, a share from 0 to 1, or number of candidates per night.
    by : str
        One threshold per family, or per member.
    """

    do: Literal["search"]
    target: Literal["fpr", "budget"]
    value: float = Field(allow_inf_nan=False)
    by: Literal["family", "member"]


class UseFound(Message, role=Role.VIEWER):
    """Take over the thresholds that the search has found."""

    do: Literal["use"]


class SelectedCutouts(Message, role=Role.VIEWER):
    """A selection of cutouts; attributes that are None select nothing.

    Attributes
    ----------
    night, truth, plausible, region, ranges
        As for :class:`~deepstreaks_dask.evaluation.selection.Selection`.
    """

    night: int | None = None
    truth: Truth | None = None
    plausible: bool | None = None
    region: str | None = None
    ranges: list[Range] = Field(default=[], max_length=MAX_RANGES)

    def with_filter(self, filter: str | None) -> Selection:
        """Return the selection among cutouts of a filter."""
        return Selection(filter=filter, **(dict(self) | {"ranges": tuple(self.ranges)}))


class ShowCutouts(Message, role=Role.VIEWER):
    """Show selected cutouts in the gallery.

    Attributes
    ----------
    selection : SelectedCutouts
        Of all cutouts in the page's filter.
    words : str
        Title of the gallery.
    """

    do: Literal["show"]
    selection: SelectedCutouts
    words: Title = ""


class OrderGallery(Message, role=Role.VIEWER):
    """Sort the gallery.

    Attributes
    ----------
    value : str
        Surest first, least sure first, or as in the archive.
    """

    do: Literal["order"]
    value: GalleryOrder


class ShowMore(Message, role=Role.VIEWER):
    """Show the next cutouts of the gallery."""

    do: Literal["more"]


class ExplainScore(Message, role=Role.VIEWER):
    """Draw the attribution map of a cutout.

    Attributes
    ----------
    place : int
        The cutout, by its place in the exploration.
    member : str
        The network.
    """

    do: Literal["explain"]
    place: int = Field(ge=0)
    member: str


SCHEMA = MessageSchema(
    *(Hello, Theme, OpenTab, Settled, CopyCell),
    *(MoveThreshold, FollowFamily, ResetThresholds, ChooseFilter),
    *(LoadThresholds, SaveThresholds, ExportThresholds),
    *(ChooseCurves, ChooseScores, ChooseAxis, ClearSelection, ChooseDrift),
    *(CompareRun, ShowChanged, SearchThresholds, UseFound),
    *(ShowCutouts, OrderGallery, ShowMore, ExplainScore),
)
"""All messages that the page of cutouts may send."""
