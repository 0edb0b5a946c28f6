"""The person at a page: who may send which message, and until when.

A page of a site belongs to the session that opened it. Its messages are checked against that session each time, so that a
page of somebody who has logged out, was disabled or has another role now does nothing more.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import Protocol

from deepstreaks_dask.review.people import Person, RefusedError
from deepstreaks_dask.vocabulary import Role

MAX_UNCHECKED_SECONDS = 1.0
"""Time for which a session is taken to be as it was, unless this process has ended sessions since."""

USE_SECONDS = 60.0
"""Time between two reports that a session is in use."""


class SessionEndedError(RefusedError):
    """The session of a page has ended.

    Examples
    --------
    >>> str(SessionEndedError())
    'Your session has ended. Log in again.'
    """

    def __init__(self) -> None:
        super().__init__("Your session has ended. Log in again.")


class Visitor(Protocol):
    """Finds the person at a page; the session of a browser is one."""

    def person(self, *, used: bool = False) -> Person | None:
        """Return the person; None once the session has ended."""

    def record(self, what: str, detail: str) -> None:
        """Write an entry of the audit log, if there is one.

        Parameters
        ----------
        what, detail : str
            The action and its object.
        """


class SessionStore(Protocol):
    """Finds the person of a session; :class:`~deepstreaks_dask.review.accounts.Accounts` is one."""

    @property
    def revision(self) -> int:
        """A number that changes when this process ends sessions."""

    def person_of(self, secret: str, *, used: bool = True) -> Person | None:
        """Return the user of a session; None if there is no such session.

        Parameters
        ----------
        secret : str
            Secret of the session.
        used : bool
            The user has just done something: the time without a request begins anew.
        """

    def record(self, who: str, what: str, detail: str = "") -> None:
        """Write an entry of the audit log.

        Parameters
        ----------
        who : str
            User name.
        what, detail : str
            The action and its object.
        """


class Owner:
    """The user who started this process, on a page that is served without a log-in.

    Examples
    --------
    >>> Owner().person().name
    'you'
    """

    def person(self, *, used: bool = False) -> Person | None:
        """Return the user."""
        return Person("you", Role.ADMINISTRATOR)

    def record(self, what: str, detail: str) -> None:
        """Write nothing: there is no audit log.

        Parameters
        ----------
        what, detail : str
            The action and its object.
        """


class SessionVisitor:
    """The person of a session, looked up again whenever the session may have changed.

    Parameters
    ----------
    store : SessionStore
        Finds people by the secrets of their sessions.
    secret : str
        Secret of the session.
    """

    def __init__(self, store: SessionStore, secret: str) -> None:
        self._store, self._secret = store, secret
        self._found: Person | None = None
        self._revision: int | None = None
        self._checked = self._used = float("-inf")

    @property
    def fresh(self) -> bool:
        """Whether the last look-up still holds, so that :meth:`person` reads nothing."""
        young = time.monotonic() - self._checked < MAX_UNCHECKED_SECONDS
        return young and self._revision == self._store.revision

    def person(self, *, used: bool = False) -> Person | None:
        """Return the person of the session; None once it has ended.

        Parameters
        ----------
        used : bool
            The person has just done something, so that the session is not idle.

        Returns
        -------
        Person or None
            The person.
        """
        now = time.monotonic()
        report = used and now - self._used > USE_SECONDS
        if report or not self.fresh:
            revision = self._store.revision  # before the look-up: a change during it counts
            self._found = self._store.person_of(self._secret, used=report)
            self._revision, self._checked = revision, now
            self._used = now if report else self._used
        return self._found

    def record(self, what: str, detail: str) -> None:
        """Write an entry of the audit log.

        Parameters
        ----------
        what, detail : str
            The action and its object.
        """
        person = self.person()
        self._store.record(person.name if person is not None else "", what, detail)


current_visitor: ContextVar[Visitor] = ContextVar("current_visitor")
"""The person who sent the request that is being handled, on a site with a log-in."""
