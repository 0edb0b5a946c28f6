"""The gallery: the cutouts of whatever was chosen, with their scores, a page at a time."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import zarr
from PIL import Image

from deepstreaks_dask import plots
from deepstreaks_dask.apps.explore.messages import one_of, selection, whole
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.interactive import DECISION_NAME, Selection
from deepstreaks_dask.report.explanation_maps import Map, explanation_map
from deepstreaks_dask.scoring.decision import family_of

if TYPE_CHECKING:
    from deepstreaks_dask.apps.explore.page import Explorer

CARDS_PER_PAGE = 24
"""Cutouts that are added to the gallery at a time."""

MAX_CARDS = 2400
_ORDERS = ("surest", "doubtful", "time")
_CARD_COLUMNS = ("jd", "ra", "dec", "length", "mag", "snr", "source")


class Galleries:
    """Opens a gallery for each choice; the latest one is shown.

    Parameters
    ----------
    explorer : Explorer
        The person's, who looks.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.handlers = {
            "show": self._show,
            "order": self._order,
            "more": self._more,
            "explain": self._explain,
        }
        self.shown: Gallery | None = None

    def select(self, chosen: Selection, words: str) -> None:
        """Open the gallery of a selection.

        Parameters
        ----------
        chosen : Selection
            What finds the cutouts.
        words : str
            What they are.
        """
        explorer = self.explorer

        def find() -> np.ndarray:
            with explorer.lock:
                return explorer.cut.select(chosen)

        follows = (chosen.plausible, chosen.region) != (None, None)
        self.open(find, words, follows=follows, chosen=chosen)

    def open(
        self,
        find: Callable[[], np.ndarray],
        words: str,
        *,
        follows: bool,
        chosen: Selection | None = None,
    ) -> None:
        """Open a gallery.

        Parameters
        ----------
        find : callable
            Gives the places ``(cutout,)`` in the exploration.
        words : str
            What they are.
        follows : bool
            Whether they depend on the thresholds.
        chosen : Selection, optional
            What finds them.
        """
        order = self.shown.order if self.shown else "surest"
        gallery = Gallery(self.explorer, find, words, order, follows, chosen)
        self.shown = gallery
        self.explorer.bridge.send("busy", words=f"{words}: looking for cutouts")
        self.explorer.bridge.later(gallery.first, gallery.show)

    def follow(self) -> None:
        """Look anew for cutouts that depend on what has changed: the filter, or the thresholds."""
        old, explorer = self.shown, self.explorer
        if old is None:
            return
        if old.chosen is not None and old.chosen.filter != explorer.filter:
            self.select(replace(old.chosen, filter=explorer.filter), old.words)
        elif old.follows and old.decision != explorer.cut.decision:
            self.open(old.find, old.words, follows=True, chosen=old.chosen)

    def _show(self, message: dict[str, Any]) -> None:
        chosen = message.get("selection")
        if isinstance(chosen, dict):
            words = str(message.get("words", ""))[:200]
            self.select(selection(chosen, self.explorer.filter), words)

    def _order(self, message: dict[str, Any]) -> None:
        order = one_of(message.get("value"), _ORDERS)
        if self.shown is not None:
            self.shown.order = order
            self.explorer.bridge.later(self.shown.first, self.shown.show)

    def _more(self, message: dict[str, Any]) -> None:
        if self.shown is not None:
            self.explorer.bridge.later(self.shown.next, self.shown.show)

    def _explain(self, message: dict[str, Any]) -> None:
        explorer = self.explorer
        member = one_of(message.get("member"), explorer.exploration.members)
        place = whole(message.get("place"))
        if not 0 <= place < len(explorer.exploration):
            raise DeepStreaksError("there is no such cutout here")
        row = int(explorer.exploration.rows[place])

        def work() -> Map | str:
            """Give the map, or why there is none: beside the cutout, not on top of the page, which a dialog hides."""
            url = open_archive(explorer.archive).attrs["url"]
            try:
                pixels = np.asarray(zarr.open_array(url, path="cutouts", mode="r")[row])
            except Exception:  # codecs raise whatever their libraries do
                return "The pixels of this cutout cannot be read."
            try:
                return explanation_map(pixels, member, explorer.attrs["members"], explorer.zoo)
            except DeepStreaksError as error:
                return str(error)

        def show(found: Map | str) -> None:
            told = (
                {"words": found}
                if isinstance(found, str)
                else {
                    "png": base64.b64encode(found.png).decode(),
                    "logits": [found.logit, found.sky, found.missing],
                }
            )
            explorer.bridge.send("explained", place=place, member=member, **told)

        explorer.bridge.later(work, show, long=True)


class Gallery:
    """Cutouts of one choice; its work is done on other threads.

    Parameters
    ----------
    explorer : Explorer
        The person's, who looks.
    find, words, follows, chosen
        As :meth:`Galleries.open` takes them.
    order : str
        What they are sorted by.
    """

    def __init__(
        self,
        explorer: Explorer,
        find: Callable[[], np.ndarray],
        words: str,
        order: str,
        follows: bool,
        chosen: Selection | None,
    ) -> None:
        self.explorer, self.find, self.words = explorer, find, words
        self.order, self.follows, self.chosen = order, follows, chosen
        self.decision = explorer.cut.decision
        self.places = np.empty(0, np.int64)
        self.total = self._given = 0

    def first(self) -> dict[str, Any]:
        """Find the cutouts, and read the first of them."""
        places = self.find()
        self.total = len(places)
        if self.order != "time":
            joint = self.explorer.exploration.column(DECISION_NAME, places)
            key = np.nan_to_num(joint, nan=-1.0)
            key = -key if self.order == "surest" else key
            if len(key) > MAX_CARDS:
                best = np.argpartition(key, MAX_CARDS)[:MAX_CARDS]
                places, key = places[best], key[best]
            places = places[np.argsort(key, kind="stable")]
        self.places, self._given = places[:MAX_CARDS], 0
        return {**self.next(), "append": False}

    def next(self) -> dict[str, Any]:
        """Read the next ones."""
        places = self.places[self._given : self._given + CARDS_PER_PAGE]
        self._given += len(places)
        return {"cards": cards(self.explorer, places), "append": True}

    def show(self, page: dict[str, Any]) -> None:
        """Send what was read to the page."""
        if self.explorer.galleries.shown is not self:
            return  # another selection was made meanwhile
        words = f"{self._given:,} of {self.total:,} cutouts." if self.total else "No cutouts."
        more = self._given < len(self.places)
        self.explorer.bridge.send("gallery", title=self.words, words=words, more=more, **page)


def cards(explorer: Explorer, places: np.ndarray) -> list[dict[str, Any]]:
    """Read cutouts and what is known of them, as the page shows them.

    Parameters
    ----------
    explorer : Explorer
        Whose archive and thresholds.
    places : ndarray
        int ``(cutout,)``, in the exploration.

    Returns
    -------
    list of dict
        One each, with the picture as a ``data:`` URL.
    """
    exploration, decision = explorer.exploration, explorer.cut.decision
    rows = exploration.rows[places]
    dataset = open_archive(explorer.archive, cache=True)
    pixels = zarr.open_group(dataset.attrs["url"], mode="r")["cutouts"]
    columns = {
        name: dataset[name].isel(cutout=xr.DataArray(rows, dims="n")).values
        for name in ("id", "night", "filter", "kind", *_CARD_COLUMNS)
    }
    limits = {member: decision.threshold(member) for member in exploration.members}
    shown = []
    for k, (row, place) in enumerate(zip(rows, places, strict=True)):
        known = {name: values[k] for name, values in columns.items()}
        scores = {
            m: _score(exploration.scores[j, place]) for j, m in enumerate(exploration.members)
        }
        members = [
            [m, value, value is not None and np.float32(value) >= np.float32(limits[m]), limits[m]]
            for m, value in scores.items()
        ]
        families = [
            [
                family,
                _score(exploration.column(family, place)),
                any(bool(m[2]) for m in members if family_of(str(m[0])) == family),
            ]
            for family in exploration.families
        ]
        stratum = exploration.strata.iloc[exploration.cell[place] % len(exploration.strata)]
        labels = [f"{f} {stratum[f]}" for f in ("rb", "sl", "kd", "os") if stratum[f] >= 0]
        where = [plots.night_name(int(known["night"])), known["filter"], known["kind"]]
        facts = [("labels", ", ".join(labels) or "none")]
        facts += [(name, _fact(known[name])) for name in _CARD_COLUMNS]
        shown.append(
            {
                "id": str(known["id"]),
                "place": int(place),
                "where": ", ".join(str(part) for part in where if part),
                "families": families,
                "members": [[m, v, bool(p), limit] for m, v, p, limit in members],
                "facts": [[name, value] for name, value in facts if value],
                "png": _png(pixels, int(row)),
            }
        )
    return shown


def _png(pixels: Any, row: int) -> str:
    try:
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(pixels[row])).save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode()
    except Exception:  # a damaged shard fails in its codec's own way; the rest stands
        return ""


def _score(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


def _fact(value: Any) -> str:
    if not isinstance(value, float | np.floating):
        return str(value)
    number = float(value)
    return "" if math.isnan(number) else f"{number:.6g}" if abs(number) < 1e6 else f"{number:.5f}"
