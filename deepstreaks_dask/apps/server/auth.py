"""Who asks, and whether they may: the same for every page and every route.

A program shows a token (``Authorization: Bearer …``), a browser the cookie of its session and, for whatever changes
something, a second secret that only pages of this site can read.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict

from deepstreaks_dask.archive.query import FilterError
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.report.explanation_maps import TooManyError
from deepstreaks_dask.review.accounts import Person, RefusedError, Role, WaitError

SESSION_COOKIE = "deepstreaks_session"
CSRF_HEADER = "X-CSRF-Token"


class Door(Protocol):
    """Knows people by what they show; :class:`~deepstreaks_dask.review.database.Review` is one."""

    def person_of(self, secret: str) -> Person | None:
        """Give the person whose open session this is."""

    def person_of_token(self, token: str) -> Person | None:
        """Give the person whose token this is."""


class AccountStore(Protocol):
    """What is served: one archive, behind one door."""

    archive: str
    run: str
    zoo: str | None
    hosts: frozenset[str]
    cookie: str

    @property
    def door(self) -> Door:
        """Who is let in."""


def csrf_of(secret: str) -> str:
    """Give the second secret of a session."""
    return hmac.new(secret.encode(errors="replace"), b"csrf", hashlib.sha256).hexdigest()


def place_of(request: Request) -> AccountStore:
    """Give the place that a request is for."""
    place: AccountStore = request.app.state.site
    return place


_bearer = HTTPBearer(auto_error=False, description="A token of the page 'Account'")
_cookie = APIKeyCookie(name=SESSION_COOKIE, auto_error=False, description="A browser's session")


def person(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    _: Annotated[str | None, Depends(_cookie)],  # for the description only: a place names its own
) -> Person:
    """Give who asks.

    Parameters
    ----------
    request : Request
        What was asked for.
    bearer : HTTPAuthorizationCredentials, optional
        The token that was shown.

    Returns
    -------
    Person
        With a role.

    Raises
    ------
    HTTPException
        401 if that is not known; 403 if a change was asked for by a page of another site.
    """
    place = place_of(request)
    cookie = request.cookies.get(place.cookie)
    if request.headers.get("authorization"):
        found = place.door.person_of_token(bearer.credentials) if bearer else None
    else:
        found = place.door.person_of(cookie) if cookie else None
        if found and cookie and request.method not in ("GET", "HEAD"):
            shown = request.headers.get(CSRF_HEADER, "").encode()
            if not hmac.compare_digest(shown, csrf_of(cookie).encode()):
                raise HTTPException(403, "this change was not asked for by a page of this site")
    if found is None:
        raise HTTPException(401, "log in, or show a token", {"WWW-Authenticate": "Bearer"})
    return found


def needs(role: Role) -> Any:
    """Make a dependency that gives who asks, if that person may do what ``role`` may."""

    def check(who: Annotated[Person, Depends(person)]) -> Person:
        who.need(role)
        return who

    return Depends(check)


Viewer = Annotated[Person, needs("viewer")]
Reviewer = Annotated[Person, needs("reviewer")]
Administrator = Annotated[Person, needs("administrator")]


class Strict(BaseModel):
    """Of what comes in and goes out, nothing but what is described."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Problem(BaseModel):
    """What was wrong; for a filter, with the characters at fault."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    detail: str | list[Any]
    """In words, or a list of the fields at fault."""
    start: int | None = None
    """First character at fault, from 0."""
    end: int | None = None
    """The character after the last one at fault."""


class SessionInfo(Strict):
    """Who is logged in."""

    name: str
    """Of the user."""
    role: Role
    """What the user may do."""
    csrf: str
    """To be sent as the header ``X-CSRF-Token`` with whatever a page changes."""


PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Not as it must be"},
    401: {"model": Problem, "description": "Not logged in"},
    403: {"model": Problem, "description": "Not allowed"},
    404: {"model": Problem, "description": "No such thing here"},
    413: {"model": Problem, "description": "Too much at once"},
    422: {"model": Problem, "description": "Not of the form described here"},
}
access = APIRouter(prefix="/api/v1", responses=PROBLEM_RESPONSES)


@access.get("/session")
def session(who: Viewer, request: Request) -> SessionInfo:
    """Say who asks; a page of this site learns here what to show with a change."""
    cookie = request.cookies.get(place_of(request).cookie)
    return SessionInfo(name=who.name, role=who.role, csrf=csrf_of(cookie) if cookie else "")


@access.get("/openapi.json", include_in_schema=False)
def openapi(request: Request, who: Viewer) -> dict[str, Any]:
    """Describe this API."""
    described: dict[str, Any] = request.app.openapi()
    return described


def problem_response(request: Request, error: Exception) -> JSONResponse:
    """Turn a mistake of the user's into an answer that says what was wrong.

    Parameters
    ----------
    request : Request
        What was asked for.
    error : DeepStreaksError
        What came of it.

    Returns
    -------
    JSONResponse
        A :class:`Problem`, with the status 400, 403, 429 or 503.
    """
    body: dict[str, Any] = {"detail": str(error)}
    headers = {}
    status = 400
    if isinstance(error, WaitError):
        status, headers = 429, {"Retry-After": str(max(1, round(error.seconds)))}
    elif isinstance(error, TooManyError):
        status, headers = 503, {"Retry-After": "5"}
    elif isinstance(error, RefusedError):
        status = 403
    elif isinstance(error, FilterError):
        body = {"detail": error.words, "start": error.start, "end": error.end}
    assert isinstance(error, DeepStreaksError)
    return JSONResponse(body, status, headers)
