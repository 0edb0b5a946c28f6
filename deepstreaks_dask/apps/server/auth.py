"""Authentication and roles, the same for every page and every route of the HTTP API.

A program sends a token (``Authorization: Bearer …``). A browser sends the cookie of its session and, with every request that
changes something, a second secret that only pages of this site can read.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict

from deepstreaks_dask.apps.server.password_pool import RETRY_SECONDS, BusyError
from deepstreaks_dask.apps.visitor import SessionStore
from deepstreaks_dask.archive.query import FilterError
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.report.explanation_maps import TooManyError
from deepstreaks_dask.review.people import Person, RefusedError, WaitError
from deepstreaks_dask.review.second_factor import CodeNeededError
from deepstreaks_dask.vocabulary import Role

SESSION_COOKIE = "deepstreaks_session"
"""Name of the cookie that holds the secret of a session."""

CSRF_HEADER = "X-CSRF-Token"
"""Header in which a page sends the second secret of its session."""


def cookie_name(name: str, *, secure: bool) -> str:
    """Return the name of a cookie as browsers get it.

    The prefix makes browsers refuse the cookie unless it came over TLS from this host itself, for all of its paths.

    Parameters
    ----------
    name : str
        Name of the cookie.
    secure : bool
        Whether browsers reach the site over https only.

    Returns
    -------
    str
        The name, with the prefix ``__Host-`` over https.
    """
    return f"__Host-{name}" if secure else name


class Authenticator(SessionStore, Protocol):
    """Finds users by their secrets; :class:`~deepstreaks_dask.review.accounts.Accounts` is one."""

    def person_of_token(self, token: str) -> Person | None:
        """Return the user of a token; None if there is no such token."""


class ServedArchive(Protocol):
    """An archive that is served, with the authenticator of its users."""

    archive: str
    run: str
    zoo: str | None
    hosts: frozenset[str]
    secure: bool

    @property
    def cookie(self) -> str:
        """Name of the cookie that holds a session's secret."""

    @property
    def authenticator(self) -> Authenticator:
        """Who finds users by their secrets."""


def csrf_of(secret: str) -> str:
    """Return the second secret of a session."""
    return hmac.new(secret.encode(errors="replace"), b"csrf", hashlib.sha256).hexdigest()


def served_archive(request: Request) -> ServedArchive:
    """Return the archive that a request is for."""
    served: ServedArchive = request.app.state.site
    return served


ArchiveDependency = Annotated[ServedArchive, Depends(served_archive)]

_bearer = HTTPBearer(auto_error=False, description="A token of the page 'Account'")
_cookie = APIKeyCookie(name=SESSION_COOKIE, auto_error=False, description="A browser's session")


def authenticated_person(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    _: Annotated[str | None, Depends(_cookie)],  # for the description only: a site names its own
) -> Person:
    """Return the user who sent a request.

    Parameters
    ----------
    request : Request
        The request.
    bearer : HTTPAuthorizationCredentials, optional
        The token of the request.

    Returns
    -------
    Person
        The user with the role.

    Raises
    ------
    HTTPException
        401 if the token or session is unknown; 403 if a page of another site asked for a change.
    """
    served = served_archive(request)
    cookie = request.cookies.get(served.cookie)
    request.state.by_token = bool(request.headers.get("authorization"))
    if request.state.by_token:
        found = served.authenticator.person_of_token(bearer.credentials) if bearer else None
    else:
        found = served.authenticator.person_of(cookie) if cookie else None
        if found and cookie and request.method not in ("GET", "HEAD"):
            shown = request.headers.get(CSRF_HEADER, "").encode()
            if not hmac.compare_digest(shown, csrf_of(cookie).encode()):
                raise HTTPException(403, "this change was not asked for by a page of this site")
    if found is None:
        raise HTTPException(401, "log in, or show a token", {"WWW-Authenticate": "Bearer"})
    return found


def requires(role: Role) -> Any:
    """Return a dependency on the user who sent a request, refused unless the user's role includes ``role``."""

    def check(who: Annotated[Person, Depends(authenticated_person)], request: Request) -> Person:
        served = served_archive(request)
        try:
            who.need(role)
            if role is Role.ADMINISTRATOR:
                check_second_factor(served, who)
        except RefusedError:
            detail = f"{request.method} {request.url.path}"
            served.authenticator.record(who.name, "refused", detail)
            raise
        return who

    return Depends(check)


def check_second_factor(served: ServedArchive, who: Person) -> None:
    """Check that an administrator logs in with one-time passwords where other machines reach the site.

    Parameters
    ----------
    served : ServedArchive
        The archive that is served.
    who : Person
        The administrator.

    Raises
    ------
    RefusedError
        If the administrator has no one-time passwords yet.
    """
    if served.secure and not who.second_factor:
        raise RefusedError(
            "administrators of this site need one-time passwords: turn them on, on the page Account"
        )


def _logged_in(who: Annotated[Person, requires(Role.VIEWER)], request: Request) -> Person:
    """Refuse tokens: what a program holds must not make more of itself, nor outlive its end."""
    if request.state.by_token:
        raise HTTPException(403, "a token cannot do this: log in")
    return who


Viewer = Annotated[Person, requires(Role.VIEWER)]
LoggedIn = Annotated[Person, Depends(_logged_in)]
Reviewer = Annotated[Person, requires(Role.REVIEWER)]
Administrator = Annotated[Person, requires(Role.ADMINISTRATOR)]


class StrictModel(BaseModel):
    """A request or response that holds the described fields and no others."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Problem(BaseModel):
    """An error; of a filter, with the position of the characters at fault."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    detail: str | list[Any]
    """The message, or a list of the invalid fields."""
    start: int | None = None
    """First character at fault, from 0."""
    end: int | None = None
    """The character after the last one at fault."""
    code_needed: bool | None = None
    """Of a log-in: name and password are right, and a one-time password is needed, too."""


class SessionOut(StrictModel):
    """The user of a session."""

    name: str
    """User name."""
    role: Role
    """What the user may do."""
    csrf: str
    """Secret to send in the header ``X-CSRF-Token`` with every change that a page asks for."""


PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Invalid request"},
    401: {"model": Problem, "description": "Not logged in"},
    403: {"model": Problem, "description": "Not allowed"},
    404: {"model": Problem, "description": "Not found"},
    413: {"model": Problem, "description": "Request too large"},
    422: {"model": Problem, "description": "Not of the form described here"},
}
access_routes = APIRouter(prefix="/api/v1", responses=PROBLEM_RESPONSES)


@access_routes.get("/session")
def session(who: Viewer, request: Request) -> SessionOut:
    """Return the user who sent the request, and the secret that a page of this site sends with changes."""
    cookie = request.cookies.get(served_archive(request).cookie)
    return SessionOut(name=who.name, role=who.role, csrf=csrf_of(cookie) if cookie else "")


@access_routes.get("/openapi.json", include_in_schema=False)
def openapi(request: Request, who: Viewer) -> dict[str, Any]:
    """Return the description of this API."""
    described: dict[str, Any] = request.app.openapi()
    return described


def problem_response(request: Request, error: Exception) -> JSONResponse:
    """Return the response to a request that raised an error of the user's.

    Parameters
    ----------
    request : Request
        The request.
    error : DeepStreaksError
        The error.

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
    elif isinstance(error, BusyError):
        status, headers = 503, {"Retry-After": str(RETRY_SECONDS)}
    elif isinstance(error, CodeNeededError):
        status, headers = 401, {"WWW-Authenticate": "Bearer"}
        body["code_needed"] = True
    elif isinstance(error, RefusedError):
        status = 403
    elif isinstance(error, FilterError):
        body = {"detail": error.words, "start": error.start, "end": error.end}
    assert isinstance(error, DeepStreaksError)
    return JSONResponse(body, status, headers)


def validation_response(request: Request, error: Exception) -> JSONResponse:
    """Return the response to a request whose fields are invalid.

    What was sent is not repeated: JSON cannot hold all of it, such as ``NaN`` or half of a surrogate pair.

    Parameters
    ----------
    request : Request
        The request.
    error : RequestValidationError
        The error.

    Returns
    -------
    JSONResponse
        A :class:`Problem` with the status 422: place, message and kind of each invalid field.
    """
    assert isinstance(error, RequestValidationError)
    fields = [
        {
            "loc": [_encodable(part) for part in one["loc"]],
            "msg": _encodable(one["msg"]),
            "type": one["type"],
        }
        for one in error.errors()
    ]
    return JSONResponse({"detail": fields}, 422)


def _encodable(part: Any) -> Any:
    return part.encode(errors="replace").decode() if isinstance(part, str) else part
