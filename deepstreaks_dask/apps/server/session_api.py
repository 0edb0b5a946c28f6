"""The HTTP API of log-in, passwords, sessions, users and the audit log."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi import Path as PathParameter
from pydantic import Field

from deepstreaks_dask.apps.server.addresses import address_group
from deepstreaks_dask.apps.server.auth import (
    PROBLEM_RESPONSES,
    Administrator,
    LoggedIn,
    Problem,
    SessionOut,
    StrictModel,
    cookie_name,
    csrf_of,
)
from deepstreaks_dask.apps.server.context import Site, SiteDependency
from deepstreaks_dask.review.accounts import SESSION_LIFETIME
from deepstreaks_dask.review.passwords import MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH
from deepstreaks_dask.review.people import Person, RefusedError, ReviewError, WaitError
from deepstreaks_dask.review.second_factor import CodeNeededError
from deepstreaks_dask.vocabulary import Role

_NAME_PATTERN = r"^[a-z0-9][a-z0-9._@-]{0,63}$"
_MAX_NAME_LENGTH = 64
_MAX_CODE_LENGTH = 32
_DEVICE_COOKIE = "deepstreaks_device"
_DEVICE_SECONDS = 365 * 86400

NewPassword = Annotated[str, Field(min_length=MIN_PASSWORD_LENGTH, max_length=MAX_PASSWORD_LENGTH)]


class LoginIn(StrictModel):
    """User name and password."""

    name: str = Field(max_length=_MAX_NAME_LENGTH)
    """User name."""
    password: str = Field(max_length=MAX_PASSWORD_LENGTH)
    """The user's password."""
    code: str = Field("", max_length=_MAX_CODE_LENGTH)
    """One-time password or recovery code, for users who have them."""


class UserIn(StrictModel):
    """A user to add."""

    name: str = Field(pattern=_NAME_PATTERN)
    """User name."""
    password: NewPassword
    """The first password, which the user can change."""
    role: Role = Role.REVIEWER
    """What the user may do."""


class UserChange(StrictModel):
    """Changes to a user."""

    role: Role | None = None
    """The new role."""
    active: bool | None = Field(None, strict=True)
    """Whether the user may log in."""
    password: NewPassword | None = None
    """The new password."""
    second_factor: Literal[False] | None = None
    """False removes the user's one-time passwords, as for a lost device."""


class UserOut(StrictModel):
    """A user."""

    name: str
    """User name."""
    role: Role
    """What the user may do."""
    active: bool
    """Whether the user may log in."""
    created: str
    """Time at which the user was added, UTC in ISO 8601."""
    second_factor: bool
    """Whether the user logs in with one-time passwords."""


class PasswordChange(StrictModel):
    """The user's own password, and the new one."""

    old: str = Field(max_length=MAX_PASSWORD_LENGTH)
    """The present password."""
    new: NewPassword
    """The new password."""


class SessionLine(StrictModel):
    """An open session of a user."""

    id: str
    """Names the session in this API."""
    opened: str
    """Time of the log-in, UTC in ISO 8601."""
    used: str
    """Time of the last request, to the minute, UTC in ISO 8601."""
    address: str
    """Network address of the log-in, of IPv6 its network."""
    agent: str
    """The browser's description of itself."""
    this: bool
    """Whether it is the session that asks."""


session_routes = APIRouter(prefix="/api/v1", responses=PROBLEM_RESPONSES)
SLOWED_RESPONSES: dict[int | str, dict[str, Any]] = {
    429: {"model": Problem, "description": "Too many failed attempts"},
    503: {"model": Problem, "description": "Too many people log in at once"},
}


@session_routes.post("/login", responses=SLOWED_RESPONSES)
async def login(
    given: LoginIn, request: Request, response: Response, site: SiteDependency
) -> SessionOut:
    """Open a session."""
    origin = request.headers.get("origin")
    other = request.headers.get("sec-fetch-site") not in (None, "same-origin", "none")
    if other or (origin is not None and urlsplit(origin).netloc != request.headers.get("host")):
        raise HTTPException(403, "log in on a page of this site")
    device = request.cookies.get(cookie_name(_DEVICE_COOKIE, secure=site.secure), "")
    attempt = partial(
        _open_session,
        site,
        given,
        address=_address(request),
        device=device,
        agent=request.headers.get("user-agent", ""),
    )
    try:
        secret, opened, device = await site.passwords.run(attempt)
    except (WaitError, CodeNeededError):
        raise
    except RefusedError as error:
        raise HTTPException(401, str(error), {"WWW-Authenticate": "Bearer"}) from None
    secure = site.secure or request.url.scheme == "https"
    _set_cookie(response, site.cookie, secret, SESSION_LIFETIME.total_seconds(), secure=secure)
    name = cookie_name(_DEVICE_COOKIE, secure=site.secure)
    _set_cookie(response, name, device, _DEVICE_SECONDS, secure=secure)
    return opened


def _open_session(
    site: Site, given: LoginIn, *, address: str, device: str, agent: str
) -> tuple[str, SessionOut, str]:
    """Return the secret of a new session, its user, and the secret of the device."""
    accounts = site.review.accounts
    details = {"address": address, "code": given.code, "device": device, "agent": agent}
    secret = accounts.log_in(given.name, given.password, **details)
    who = accounts.person_of(secret)
    if who is None:  # disabled in this very moment
        raise RefusedError("name and password do not belong together")
    opened = SessionOut(name=who.name, role=who.role, csrf=csrf_of(secret))
    return secret, opened, accounts.remember_device(who.name, device)


def _set_cookie(response: Response, name: str, value: str, seconds: float, *, secure: bool) -> None:
    response.set_cookie(
        *(name, value), httponly=True, secure=secure, samesite="strict", max_age=round(seconds)
    )


def _address(request: Request) -> str:
    return address_group(request.client.host) if request.client else ""


@session_routes.post("/logout", status_code=204)
def logout(request: Request, response: Response, who: LoggedIn, site: SiteDependency) -> None:
    """End this session."""
    site.review.accounts.log_out(request.cookies.get(site.cookie, ""))
    response.delete_cookie(site.cookie, httponly=True, secure=site.secure, samesite="strict")


@session_routes.post("/password", status_code=204, responses=SLOWED_RESPONSES)
async def password(
    given: PasswordChange, request: Request, who: LoggedIn, site: SiteDependency
) -> None:
    """Change your own password; your sessions and tokens end."""
    change = partial(_change_password, site, who.name, given, _address(request))
    await site.passwords.run(change)


def _change_password(site: Site, name: str, given: PasswordChange, address: str) -> None:
    accounts = site.review.accounts
    try:
        accounts.log_out(accounts.log_in(name, given.old, address=address))
    except WaitError:
        raise
    except CodeNeededError:
        pass  # the password is right, and the session that asks was opened with a code
    except RefusedError:
        raise HTTPException(403, "that is not your password") from None
    accounts.change_user(name, password=given.new, by=name)


@session_routes.get("/sessions")
def sessions(request: Request, who: LoggedIn, site: SiteDependency) -> list[SessionLine]:
    """List your open sessions, the newest first."""
    secret = request.cookies.get(site.cookie, "")
    return [SessionLine(**one) for one in site.review.accounts.sessions(who.name, secret)]


@session_routes.delete("/sessions/{session}", status_code=204)
def end_session(
    session: Annotated[str, PathParameter(description="The session's id in the list")],
    who: LoggedIn,
    site: SiteDependency,
) -> None:
    """End one of your sessions."""
    try:
        site.review.accounts.end_session(who.name, session)
    except ReviewError as error:
        raise HTTPException(404, str(error)) from None


@session_routes.get("/users")
def users(who: Administrator, site: SiteDependency) -> list[UserOut]:
    """List the users."""
    return [UserOut(**vars(one)) for one in site.review.accounts.users()]


@session_routes.post("/users", status_code=201, responses=SLOWED_RESPONSES)
async def add_user(given: UserIn, who: Administrator, site: SiteDependency) -> UserOut:
    """Add a user."""
    accounts = site.review.accounts
    add = partial(accounts.add_user, given.name, given.password, given.role, by=who.name)
    return UserOut(**vars(await site.passwords.run(add)))


@session_routes.patch("/users/{name}", responses=SLOWED_RESPONSES)
async def change_user(
    name: Annotated[str, PathParameter(description="User name")],
    given: UserChange,
    who: Administrator,
    site: SiteDependency,
) -> UserOut:
    """Change a user's role or password, disable or enable the user; the user's sessions end."""
    changed = await site.passwords.run(partial(_change_user, site, name, given, who.name))
    return UserOut(**vars(changed))


def _change_user(site: Site, name: str, given: UserChange, by: str) -> Person:
    if name not in {one.name for one in site.review.accounts.users()}:
        raise HTTPException(404, "there is no such user")
    return site.review.accounts.change_user(name, **given.model_dump(), by=by)


@session_routes.get("/audit")
def audit(
    who: Administrator,
    site: SiteDependency,
    limit: Annotated[int, Query(ge=1, le=1000, description="Entries at most")] = 200,
    offset: Annotated[int, Query(ge=0, le=10**9, description="Entries to leave out first")] = 0,
) -> list[dict[str, Any]]:
    """List what was done and what was refused, with who did it, the newest first."""
    return site.review.database.audit_log(limit=limit, offset=offset)
