"""What every request to the review server needs: the archive, the catalogue, the database."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from fastapi import Depends, HTTPException, Request

from deepstreaks_dask.apps.server.auth import SESSION_COOKIE
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.review.catalogue import Catalogue, newest_commit
from deepstreaks_dask.review.database import Review
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import open_run

_MAX_CATALOGUE_AGE = 5.0  # seconds for which an archive is taken not to have changed


@dataclass
class Site:
    """One archive's run and the database of what people say of it.

    Attributes
    ----------
    archive, run : str
        Path or URL, and the run's name.
    key : str
        What the database calls the archive (:func:`~deepstreaks_dask.review.database.archive_key`).
    review : Review
        The database.
    decision : Decision, optional
        In place of the run's own.
    hosts : frozenset of str
        ``name:port`` that browsers may name this site by.
    zoo : str, optional
        Where the run's networks are; the shipped one by default.
    cookie : str
        Name of the session's.
    """

    archive: str
    run: str
    key: str
    review: Review
    decision: Decision | None = None
    hosts: frozenset[str] = frozenset()
    zoo: str | None = None
    cookie: str = SESSION_COOKIE
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _catalogue: Catalogue | None = None
    _commit: str = ""
    _looked: float = float("-inf")

    @property
    def door(self) -> Review:
        """Who is let in."""
        return self.review

    @cached_property
    def sequences(self) -> bool:
        """Whether the archive has objects with their sequences, of which there are no candidates."""
        return "object" in open_archive(self.archive).sizes

    def catalogue(self) -> Catalogue:
        """Give the run as it is now."""
        with self._lock:
            if time.monotonic() - self._looked > _MAX_CATALOGUE_AGE:
                commit = newest_commit(self.archive, self.run)
                if self._catalogue is None or commit != self._commit:
                    scores = open_run(self.archive, self.run, cache=True)
                    decision = self.decision or Decision.of_run(scores)
                    self._catalogue = Catalogue(decision.apply(scores), decision)
                    self._commit = commit
                self._looked = time.monotonic()
            assert self._catalogue is not None
            return self._catalogue

    def row(self, cutout: str) -> int:
        """Give the row of an id.

        Parameters
        ----------
        cutout : str
            The id.

        Returns
        -------
        int
            Of the archive.

        Raises
        ------
        HTTPException
            404, if this archive has none such.
        """
        row = self.catalogue().find(cutout)
        if row < 0:
            raise HTTPException(404, "this archive has no such cutout")
        return row


def site_of(request: Request) -> Site:
    """Give the site that a request is for."""
    site: Site = request.app.state.site
    return site


Here = Annotated[Site, Depends(site_of)]
