"""The gallery: the cutouts of whatever was selected, with their scores, a page at a time."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from deepstreaks_dask.apps.explore.cards import read_cards
from deepstreaks_dask.apps.explore.messages import (
    ExplainScore,
    GalleryOrder,
    OrderGallery,
    ShowCutouts,
    ShowMore,
)
from deepstreaks_dask.apps.explore.session import Session, check_choice
from deepstreaks_dask.apps.explore.updates import Busy, Explained, GalleryCards
from deepstreaks_dask.apps.messages import Handlers
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.opening import open_array
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.interactive import DECISION_NAME
from deepstreaks_dask.evaluation.selection import Selection
from deepstreaks_dask.report.explanation_maps import explanation_map
from deepstreaks_dask.scoring.decision import Decision

CARDS_PER_PAGE = 24
"""Cutouts that are added to the gallery at a time."""

MAX_CARDS = 2400
"""Cutouts that a gallery shows at most."""


@dataclass(frozen=True)
class Choice:
    """What a gallery shows.

    Attributes
    ----------
    find : callable
        Returns the places of the cutouts, int ``(cutout,)``, in the exploration; called on another thread.
    words : str
        Title of the gallery.
    follows : bool
        The cutouts depend on the thresholds.
    selection : Selection, optional
        What finds the cutouts.
    """

    find: Callable[[], np.ndarray]
    words: str
    follows: bool
    selection: Selection | None = None


class GalleryPanel:
    """Opens a gallery for each choice; the latest one is shown.

    Parameters
    ----------
    session : Session
        The state of the page.

    Attributes
    ----------
    handlers : mapping
        The function for each kind of message that the gallery handles.
    shown : Gallery, optional
        The latest gallery.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.handlers: Handlers = {
            ShowCutouts: self._show_cutouts,
            OrderGallery: self._order,
            ShowMore: self._show_more,
            ExplainScore: self._explain,
        }
        self.shown: Gallery | None = None

    def select(self, selection: Selection, words: str) -> None:
        """Open the gallery of a selection.

        Parameters
        ----------
        selection : Selection
            What finds the cutouts.
        words : str
            Title of the gallery.
        """
        session = self.session

        def find() -> np.ndarray:
            with session.lock:
                return session.cut.select(selection)

        follows = (selection.plausible, selection.region) != (None, None)
        self.open(Choice(find, words, follows, selection))

    def open(self, choice: Choice, order: GalleryOrder | None = None) -> None:
        """Open the gallery of a choice.

        Parameters
        ----------
        choice : Choice
            What the gallery shows.
        order : str, optional
            ``"surest"``, ``"doubtful"`` or ``"time"``; by default the order of the gallery before it.
        """
        session = self.session
        session.selection, session.selected = choice.selection, 0
        order = order or (self.shown.order if self.shown else "surest")
        self.shown = Gallery(session, choice, order)
        session.bridge.send(Busy(words=f"{choice.words}: looking for cutouts"))
        self._read(self.shown, self.shown.first, append=False)

    def follow(self) -> None:
        """Search again for cutouts that depend on what has changed: the filter, or the thresholds."""
        if self.shown is None:
            return
        session, choice = self.session, self.shown.choice
        selection = choice.selection
        if selection is not None and selection.filter != session.filter:
            self.select(replace(selection, filter=session.filter), choice.words)
        elif choice.follows and self.shown.decision != session.cut.decision:
            self.open(choice)

    def _read(
        self, gallery: Gallery, read: Callable[[], list[dict[str, object]]], *, append: bool
    ) -> None:
        gallery.reading = True

        def work() -> list[dict[str, object]]:
            try:
                return read()
            finally:
                gallery.reading = False

        self.session.bridge.later(work, lambda cards: self._show(gallery, cards, append))

    def _show(self, gallery: Gallery, cards: list[dict[str, object]], append: bool) -> None:
        if self.shown is not gallery:
            return  # another selection was made meanwhile
        self.session.selected = gallery.total
        words = (
            f"{gallery.read:,} of {gallery.total:,} cutouts." if gallery.total else "No cutouts."
        )
        self.session.bridge.send(
            GalleryCards(
                title=gallery.choice.words,
                words=words,
                cards=cards,
                append=append,
                more=gallery.read < len(gallery.places),
            )
        )

    def _show_cutouts(self, message: ShowCutouts) -> None:
        self.select(message.selection.with_filter(self.session.filter), message.words)

    def _order(self, message: OrderGallery) -> None:
        if self.shown is not None:
            self.open(self.shown.choice, message.value)

    def _show_more(self, message: ShowMore) -> None:
        gallery = self.shown
        if gallery is not None and not gallery.reading:
            self._read(gallery, gallery.next, append=True)

    def _explain(self, message: ExplainScore) -> None:
        session = self.session
        check_choice(message.member, session.exploration.members)
        if message.place >= len(session.exploration):
            raise DeepStreaksError("there is no such cutout here")
        session.bridge.later(lambda: self._explained(message), session.bridge.send, long=True)

    def _explained(self, message: ExplainScore) -> Explained:
        """Return the map of a score, or why there is none: an error on the page would be behind the dialog."""
        session, place, member = self.session, message.place, message.member
        url = open_archive(session.source.archive).attrs["url"]
        row = int(session.exploration.stored_rows[place])
        try:
            pixels = np.asarray(open_array(url, "cutouts")[row])
        except Exception:  # codecs raise whatever their libraries do
            words = "The pixels of this cutout cannot be read."
            return Explained(place=place, member=member, words=words)
        try:
            drawn = explanation_map(
                pixels, member, session.provenance["members"], session.source.zoo
            )
        except DeepStreaksError as error:
            return Explained(place=place, member=member, words=str(error))
        return Explained(
            place=place,
            member=member,
            png=base64.b64encode(drawn.png).decode(),
            logits=[drawn.logit, drawn.sky, drawn.missing],
        )


class Gallery:
    """The cutouts of one choice; they are found and read on other threads.

    Parameters
    ----------
    session : Session
        The state of the page.
    choice : Choice
        What the gallery shows.
    order : str
        ``"surest"``, ``"doubtful"`` or ``"time"``.

    Attributes
    ----------
    decision : Decision
        The thresholds that the cutouts are found at.
    places : ndarray
        Cutouts that the gallery shows, int ``(cutout,)``, in the exploration.
    total, read : int
        How many cutouts were found, and how many of them are read.
    reading : bool
        Cutouts are being read: what asks for more of them meanwhile asks twice.
    """

    def __init__(self, session: Session, choice: Choice, order: GalleryOrder) -> None:
        self.session, self.choice, self.order = session, choice, order
        self.decision: Decision = session.cut.decision
        self.places = np.empty(0, np.int64)
        self.total = self.read = 0
        self.reading = False

    def first(self) -> list[dict[str, object]]:
        """Find the cutouts, and return the cards of the first of them."""
        places = self.choice.find()
        self.total = len(places)
        if self.order != "time":
            joint = self.session.exploration.column(DECISION_NAME, places)
            key = np.nan_to_num(joint, nan=-1.0)
            key = -key if self.order == "surest" else key
            if len(key) > MAX_CARDS:
                best = np.argpartition(key, MAX_CARDS)[:MAX_CARDS]
                places, key = places[best], key[best]
            places = places[np.argsort(key, kind="stable")]
        self.places, self.read = places[:MAX_CARDS], 0
        return self.next()

    def next(self) -> list[dict[str, object]]:
        """Return the cards of the next cutouts."""
        places = self.places[self.read : self.read + CARDS_PER_PAGE]
        self.read += len(places)
        return read_cards(self.session, places)
