"""Verdicts as a user may see them: those of others only once the user's own is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from deepstreaks_dask.apps.server.context import Site
from deepstreaks_dask.archive.query import Kind
from deepstreaks_dask.review.catalogue import Catalogue
from deepstreaks_dask.review.people import Person
from deepstreaks_dask.review.verdicts import Verdict
from deepstreaks_dask.vocabulary import Role

REVIEW_COLUMNS: dict[str, Kind] = {
    "verdict": "text",
    "reviewed": "truth",
    "marked": "truth",
    "people": "number",
    "disputed": "truth",
}
"""Columns that the verdicts add to a catalogue, by name, with their kind."""

_DTYPES: dict[Kind, Any] = {"text": object, "truth": bool, "number": np.int64}


class VisibleVerdicts:
    """The verdicts on a catalogue's cutouts as a user may see them.

    Parameters
    ----------
    site : Site
        The site with the review.
    who : Person
        The user.
    catalogue : Catalogue
        The cutouts.
    cutout : str, optional
        Identifier, where the verdicts on one cutout are enough.
    """

    def __init__(
        self, site: Site, who: Person, catalogue: Catalogue, cutout: str | None = None
    ) -> None:
        self._site, self._who, self._catalogue = site, who, catalogue
        self._verdicts: dict[str, dict[str, Verdict]] = {}  # by cutout and user name
        for verdict in site.review.verdicts.current(site.key, cutout):
            self._verdicts.setdefault(verdict.cutout, {})[verdict.who] = verdict

    def of(self, cutout: str) -> dict[str, Any]:
        """Return the verdicts on a cutout.

        Parameters
        ----------
        cutout : str
            Identifier of the cutout.

        Returns
        -------
        dict
            ``mine``, the user's own or None; ``people``, the number of people with a verdict; ``others``, the verdicts of
            others, empty before the user has given one, unless the user is an administrator.
        """
        verdicts = self._verdicts.get(cutout, {})
        mine = verdicts.get(self._who.name)
        visible = self._who.may(Role.ADMINISTRATOR) or (mine is not None and mine.verdict)
        others = [v.to_dict() for v in verdicts.values() if v.who != self._who.name]
        return {
            "mine": mine.to_dict() if mine else None,
            "people": len(verdicts),
            "others": others if visible else [],
        }

    def column(self, name: str) -> np.ndarray:
        """Return a column that the verdicts add to the catalogue.

        Parameters
        ----------
        name : str
            One of :data:`REVIEW_COLUMNS`.

        Returns
        -------
        ndarray
            ``(cutout,)``: object of str, bool or int64.
        """
        column = np.zeros(self._catalogue.rows, _DTYPES[REVIEW_COLUMNS[name]])
        if name == "verdict":
            column[:] = ""
        rows = self._catalogue.index.get_indexer(pd.Index(list(self._verdicts), dtype=object))
        disputed = self._disputed() if name == "disputed" else set()
        for (cutout, verdicts), row in zip(self._verdicts.items(), rows, strict=True):
            mine = verdicts.get(self._who.name)
            if row < 0:
                continue
            if name == "people":
                column[row] = len(verdicts)
            elif name == "disputed":
                column[row] = cutout in disputed
            elif mine is not None:
                column[row] = {
                    "verdict": mine.verdict,
                    "reviewed": bool(mine.verdict),
                    "marked": mine.marked,
                }[name]
        return column

    def _disputed(self) -> set[str]:
        return set(self._site.review.verdicts.disagreements(self._site.key)["cutout"])
