"""The site of one archive: its catalogue, its review, and the dependency of routes on it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from fastapi import Depends, HTTPException, Request

from deepstreaks_dask.apps.server.auth import SESSION_COOKIE, cookie_name
from deepstreaks_dask.apps.server.password_pool import PasswordPool
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.review.accounts import Accounts
from deepstreaks_dask.review.catalogue import Catalogue, newest_commit
from deepstreaks_dask.review.database import Review
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import open_run

_MAX_CATALOGUE_AGE = 5.0  # seconds for which an archive is assumed not to have changed


@dataclass
class Site:
    """One run of an archive, and its review.

    Attributes
    ----------
    archive, run : str
        Path or URL, and the run's name.
    key : str
        Name of the archive in the database (:func:`~deepstreaks_dask.review.database.archive_key`).
    review : Review
        Accounts and verdicts.
    decision : Decision, optional
        In place of the run's own.
    hosts : frozenset of str
        ``name:port`` under which browsers may open this site.
    zoo : str, optional
        Path or URL of the zoo of the run's networks; the shipped zoo by default.
    secure : bool
        Whether browsers reach this site over https only.
    passwords : PasswordPool
        Threads for the work on passwords.
    """

    archive: str
    run: str
    key: str
    review: Review
    decision: Decision | None = None
    hosts: frozenset[str] = frozenset()
    zoo: str | None = None
    secure: bool = False
    passwords: PasswordPool = field(default_factory=PasswordPool)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _catalogue: Catalogue | None = None
    _commit: str = ""
    _checked: float = float("-inf")

    @property
    def cookie(self) -> str:
        """Name of the cookie that holds a session's secret."""
        return cookie_name(SESSION_COOKIE, secure=self.secure)

    @property
    def authenticator(self) -> Accounts:
        """The accounts of the review."""
        return self.review.accounts

    @cached_property
    def sequences(self) -> bool:
        """Whether the archive holds objects with sequences of stamps, which have no candidates."""
        return "object" in open_archive(self.archive).sizes

    def catalogue(self) -> Catalogue:
        """Return the catalogue of the run's newest commit."""
        with self._lock:
            if time.monotonic() - self._checked > _MAX_CATALOGUE_AGE:
                commit = newest_commit(self.archive, self.run)
                if self._catalogue is None or commit != self._commit:
                    scores = open_run(self.archive, self.run, cache=True)
                    decision = self.decision or Decision.of_run(scores)
                    self._catalogue = Catalogue(decision.apply(scores), decision)
                    self._commit = commit
                self._checked = time.monotonic()
            assert self._catalogue is not None
            return self._catalogue

    def row(self, cutout: str) -> int:
        """Return the row of a cutout.

        Parameters
        ----------
        cutout : str
            Identifier of the cutout.

        Returns
        -------
        int
            Row of the archive.

        Raises
        ------
        HTTPException
            404, if the archive has no such cutout.
        """
        row = self.catalogue().find(cutout)
        if row < 0:
            raise HTTPException(404, "this archive has no such cutout")
        return row


def site_of(request: Request) -> Site:
    """Return the site that a request is for."""
    site: Site = request.app.state.site
    return site


SiteDependency = Annotated[Site, Depends(site_of)]
