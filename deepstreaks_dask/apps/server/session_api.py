"""HTTP API of log-in, passwords, tokens, users and the audit log."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi import Path as Place
from pydantic import Field

from deepstreaks_dask.apps.server.auth import (
    PROBLEM_RESPONSES,
    SESSION_COOKIE,
    Administrator,
    Problem,
    SessionInfo,
    Strict,
    Viewer,
    csrf_of,
)
from deepstreaks_dask.apps.server.context import Here
from deepstreaks_dask.review.accounts import RefusedError, ReviewError, Role, WaitError


class Login(Strict):
    """Name and password."""

    name: str = Field(max_length=64)
    """Of the user."""
    password: str = Field(max_length=256)
    """That of the user."""


class NewUser(Strict):
    """A user to add."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._@-]{0,63}$")
    """To log in with."""
    password: str = Field(min_length=12, max_length=256)
    """The first one, which the user can change."""
    role: Role = "reviewer"
    """What the user may do."""


class UserChange(Strict):
    """What to change of a user."""

    role: Role | None = None
    """What the user may do from now on."""
    active: bool | None = Field(None, strict=True)
    """Whether the user may log in."""
    password: str | None = Field(None, min_length=12, max_length=256)
    """A new one."""


class User(Strict):
    """A user."""

    name: str
    """To log in with."""
    role: Role
    """What the user may do."""
    active: bool
    """Whether the user may log in."""
    created: str
    """When, UTC in ISO 8601."""


class Passwords(Strict):
    """One's own password, and the new one."""

    old: str = Field(max_length=256)
    """That which is to be changed."""
    new: str = Field(min_length=12, max_length=256)
    """To log in with from now on."""


class TokenName(Strict):
    """What to call a token."""

    name: str = Field(min_length=1, max_length=64)
    """For one's own list."""


api = APIRouter(prefix="/api/v1", responses=PROBLEM_RESPONSES)
_slowed: dict[int | str, dict[str, Any]] = {
    429: {"model": Problem, "description": "Too many failed attempts"}
}


@api.post("/login", responses=_slowed)
def login(given: Login, request: Request, response: Response, site: Here) -> SessionInfo:
    """Open a session."""
    origin = request.headers.get("origin")
    other = request.headers.get("sec-fetch-site") not in (None, "same-origin", "none")
    if other or (origin is not None and urlsplit(origin).netloc != request.headers.get("host")):
        raise HTTPException(403, "log in on a page of this site")
    address = request.client.host if request.client else ""
    try:
        secret = site.review.log_in(given.name, given.password, address=address)
    except WaitError:
        raise
    except RefusedError as error:
        raise HTTPException(401, str(error), {"WWW-Authenticate": "Bearer"}) from None
    who = site.review.person_of(secret)
    assert who is not None
    secure = request.url.scheme == "https"
    response.set_cookie(
        SESSION_COOKIE, secret, httponly=True, secure=secure, samesite="strict", max_age=12 * 3600
    )
    return SessionInfo(name=who.name, role=who.role, csrf=csrf_of(secret))


@api.post("/logout", status_code=204)
def logout(request: Request, response: Response, who: Viewer, site: Here) -> None:
    """End this session."""
    site.review.log_out(request.cookies.get(SESSION_COOKIE, ""))
    response.delete_cookie(SESSION_COOKIE)


@api.post("/password", status_code=204, responses=_slowed)
def password(given: Passwords, request: Request, who: Viewer, site: Here) -> None:
    """Change one's own password; ends one's sessions."""
    address = request.client.host if request.client else ""
    try:
        site.review.log_out(site.review.log_in(who.name, given.old, address=address))
    except WaitError:
        raise
    except RefusedError:
        raise HTTPException(403, "that is not your password") from None
    site.review.change_user(who.name, password=given.new, by=who.name)


@api.get("/tokens")
def tokens(who: Viewer, site: Here) -> list[dict[str, Any]]:
    """List your tokens."""
    return site.review.tokens(who.name)


@api.post("/tokens", status_code=201)
def add_token(given: TokenName, who: Viewer, site: Here) -> dict[str, str]:
    """Make a token for your programs; it is shown this once."""
    return {"token": site.review.add_token(who.name, given.name)}


@api.delete("/tokens/{number}", status_code=204)
def revoke_token(
    number: Annotated[int, Place(description="As the list of tokens has it")],
    who: Viewer,
    site: Here,
) -> None:
    """Revoke a token of yours."""
    try:
        site.review.revoke_token(who.name, number)
    except ReviewError as error:
        raise HTTPException(404, str(error)) from None


@api.get("/users")
def users(who: Administrator, site: Here) -> list[User]:
    """List the users."""
    return [User(**vars(one)) for one in site.review.users()]


@api.post("/users", status_code=201)
def add_user(given: NewUser, who: Administrator, site: Here) -> User:
    """Add a user."""
    made = site.review.add_user(given.name, given.password, given.role, by=who.name)
    return User(**vars(made))


@api.patch("/users/{name}")
def change_user(
    name: Annotated[str, Place(description="Of the user")],
    given: UserChange,
    who: Administrator,
    site: Here,
) -> User:
    """Give a user another role or password, disable or enable one; that user's sessions end."""
    if name not in {one.name for one in site.review.users()}:
        raise HTTPException(404, "there is no such user")
    changed = site.review.change_user(name, **given.model_dump(), by=who.name)
    return User(**vars(changed))


@api.get("/audit")
def audit(
    who: Administrator,
    site: Here,
    limit: Annotated[int, Query(ge=1, le=1000, description="Entries at most")] = 200,
    offset: Annotated[int, Query(ge=0, le=10**9, description="Entries to leave out first")] = 0,
) -> list[dict[str, Any]]:
    """List who did what to users, sessions and tokens, the newest first."""
    return site.review.log(limit=limit, offset=offset)
