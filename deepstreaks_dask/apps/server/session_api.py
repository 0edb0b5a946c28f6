"""The HTTP API of log-in, passwords, tokens, users and the audit log."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi import Path as PathParameter
from pydantic import Field

from deepstreaks_dask.apps.server.auth import (
    PROBLEM_RESPONSES,
    SESSION_COOKIE,
    Administrator,
    Problem,
    SessionOut,
    StrictModel,
    Viewer,
    csrf_of,
)
from deepstreaks_dask.apps.server.context import SiteDependency
from deepstreaks_dask.review.accounts import SESSION_LIFETIME
from deepstreaks_dask.review.passwords import MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH
from deepstreaks_dask.review.people import RefusedError, ReviewError, WaitError
from deepstreaks_dask.vocabulary import Role

_NAME_PATTERN = r"^[a-z0-9][a-z0-9._@-]{0,63}$"
_MAX_NAME_LENGTH = 64

NewPassword = Annotated[str, Field(min_length=MIN_PASSWORD_LENGTH, max_length=MAX_PASSWORD_LENGTH)]


class LoginIn(StrictModel):
    """User name and password."""

    name: str = Field(max_length=_MAX_NAME_LENGTH)
    """User name."""
    password: str = Field(max_length=MAX_PASSWORD_LENGTH)
    """The user's password."""


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


class PasswordChange(StrictModel):
    """The user's own password, and the new one."""

    old: str = Field(max_length=MAX_PASSWORD_LENGTH)
    """The present password."""
    new: NewPassword
    """The new password."""


class TokenIn(StrictModel):
    """A token to create."""

    name: str = Field(min_length=1, max_length=_MAX_NAME_LENGTH)
    """Name of the token, for the user's own list."""


session_routes = APIRouter(prefix="/api/v1", responses=PROBLEM_RESPONSES)
_slowed: dict[int | str, dict[str, Any]] = {
    429: {"model": Problem, "description": "Too many failed attempts"}
}


@session_routes.post("/login", responses=_slowed)
def login(given: LoginIn, request: Request, response: Response, site: SiteDependency) -> SessionOut:
    """Open a session."""
    origin = request.headers.get("origin")
    other = request.headers.get("sec-fetch-site") not in (None, "same-origin", "none")
    if other or (origin is not None and urlsplit(origin).netloc != request.headers.get("host")):
        raise HTTPException(403, "log in on a page of this site")
    address = request.client.host if request.client else ""
    try:
        secret = site.review.accounts.log_in(given.name, given.password, address=address)
    except WaitError:
        raise
    except RefusedError as error:
        raise HTTPException(401, str(error), {"WWW-Authenticate": "Bearer"}) from None
    who = site.review.accounts.person_of(secret)
    assert who is not None
    secure = request.url.scheme == "https"
    response.set_cookie(
        SESSION_COOKIE,
        secret,
        httponly=True,
        secure=secure,
        samesite="strict",
        max_age=round(SESSION_LIFETIME.total_seconds()),
    )
    return SessionOut(name=who.name, role=who.role, csrf=csrf_of(secret))


@session_routes.post("/logout", status_code=204)
def logout(request: Request, response: Response, who: Viewer, site: SiteDependency) -> None:
    """End this session."""
    site.review.accounts.log_out(request.cookies.get(SESSION_COOKIE, ""))
    response.delete_cookie(SESSION_COOKIE)


@session_routes.post("/password", status_code=204, responses=_slowed)
def password(given: PasswordChange, request: Request, who: Viewer, site: SiteDependency) -> None:
    """Change your own password; your sessions end."""
    address = request.client.host if request.client else ""
    try:
        site.review.accounts.log_out(
            site.review.accounts.log_in(who.name, given.old, address=address)
        )
    except WaitError:
        raise
    except RefusedError:
        raise HTTPException(403, "that is not your password") from None
    site.review.accounts.change_user(who.name, password=given.new, by=who.name)


@session_routes.get("/tokens")
def tokens(who: Viewer, site: SiteDependency) -> list[dict[str, Any]]:
    """List your tokens."""
    return site.review.accounts.tokens(who.name)


@session_routes.post("/tokens", status_code=201)
def add_token(given: TokenIn, who: Viewer, site: SiteDependency) -> dict[str, str]:
    """Create a token for your programs; it cannot be read again."""
    return {"token": site.review.accounts.add_token(who.name, given.name)}


@session_routes.delete("/tokens/{number}", status_code=204)
def revoke_token(
    number: Annotated[int, PathParameter(description="The token's id in the list of tokens")],
    who: Viewer,
    site: SiteDependency,
) -> None:
    """Revoke one of your tokens."""
    try:
        site.review.accounts.revoke_token(who.name, number)
    except ReviewError as error:
        raise HTTPException(404, str(error)) from None


@session_routes.get("/users")
def users(who: Administrator, site: SiteDependency) -> list[UserOut]:
    """List the users."""
    return [UserOut(**vars(one)) for one in site.review.accounts.users()]


@session_routes.post("/users", status_code=201)
def add_user(given: UserIn, who: Administrator, site: SiteDependency) -> UserOut:
    """Add a user."""
    made = site.review.accounts.add_user(given.name, given.password, given.role, by=who.name)
    return UserOut(**vars(made))


@session_routes.patch("/users/{name}")
def change_user(
    name: Annotated[str, PathParameter(description="User name")],
    given: UserChange,
    who: Administrator,
    site: SiteDependency,
) -> UserOut:
    """Change the role or password of a user, disable or enable the user; the user's sessions end."""
    if name not in {one.name for one in site.review.accounts.users()}:
        raise HTTPException(404, "there is no such user")
    changed = site.review.accounts.change_user(name, **given.model_dump(), by=who.name)
    return UserOut(**vars(changed))


@session_routes.get("/audit")
def audit(
    who: Administrator,
    site: SiteDependency,
    limit: Annotated[int, Query(ge=1, le=1000, description="Entries at most")] = 200,
    offset: Annotated[int, Query(ge=0, le=10**9, description="Entries to leave out first")] = 0,
) -> list[dict[str, Any]]:
    """List the changes to users, sessions and tokens, with who made them, the newest first."""
    return site.review.database.audit_log(limit=limit, offset=offset)
