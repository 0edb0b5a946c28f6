"""The HTTP API of tokens for programs, and of one-time passwords."""

from __future__ import annotations

import re
from typing import Annotated

import segno
from fastapi import APIRouter, HTTPException
from fastapi import Path as PathParameter
from pydantic import Field

from deepstreaks_dask.apps.server.auth import (
    PROBLEM_RESPONSES,
    Administrator,
    LoggedIn,
    StrictModel,
    Viewer,
    check_second_factor,
)
from deepstreaks_dask.apps.server.context import SiteDependency
from deepstreaks_dask.review.people import ReviewError
from deepstreaks_dask.review.tokens import (
    DEFAULT_TOKEN_DAYS,
    MAX_TOKEN_DAYS,
    MAX_TOKEN_NAME_LENGTH,
)
from deepstreaks_dask.vocabulary import Role, Scope

_MAX_CODE_LENGTH = 32
token_routes = APIRouter(prefix="/api/v1", responses=PROBLEM_RESPONSES)
TokenNumber = Annotated[int, PathParameter(description="The token's id in the list of tokens")]


class TokenIn(StrictModel):
    """A token to create."""

    name: str = Field(min_length=1, max_length=MAX_TOKEN_NAME_LENGTH)
    """Name of the token, for the user's own list."""
    scope: Scope = Scope.READ
    """What programs may do with the token, as far as your role allows it."""
    days: int = Field(DEFAULT_TOKEN_DAYS, ge=1, le=MAX_TOKEN_DAYS, strict=True)
    """Days until the token expires."""


class TokenMade(StrictModel):
    """A new token."""

    token: str
    """The token, which cannot be read again."""


class TokenOut(StrictModel):
    """A valid token."""

    id: int
    """Names the token in this API."""
    user: str
    """User name of its owner."""
    name: str
    """Name of the token."""
    scope: Scope
    """What programs may do with it."""
    created: str
    """Time at which it was made, UTC in ISO 8601."""
    expires: str
    """Time at which it expires, UTC in ISO 8601."""
    used: str
    """Time of its last use, to the hour, UTC in ISO 8601; empty if there was none."""


class CodeIn(StrictModel):
    """A one-time password."""

    code: str = Field(min_length=1, max_length=_MAX_CODE_LENGTH)
    """What the authenticator shows now, or a recovery code."""


class FactorOut(StrictModel):
    """Whether a user logs in with one-time passwords."""

    on: bool
    """Whether one-time passwords are on."""
    required: bool
    """Whether the user needs them on this site."""
    recovery_codes: int
    """Recovery codes that are left."""


class FactorBegun(StrictModel):
    """A secret to enter into an authenticator."""

    secret: str
    """The secret in base32."""
    uri: str
    """The same as an address that authenticators read."""
    path: str
    """A QR code of that address, the path of an SVG of 1 unit per module."""
    modules: int
    """Width and height of the QR code, counted in its modules."""


class RecoveryCodes(StrictModel):
    """Recovery codes, each for one log-in without the authenticator."""

    codes: list[str]
    """The codes, which cannot be read again."""


@token_routes.get("/tokens")
def tokens(who: Viewer, site: SiteDependency) -> list[TokenOut]:
    """List your valid tokens."""
    return [TokenOut(**one) for one in site.review.accounts.tokens(who.name)]


@token_routes.post("/tokens", status_code=201)
def add_token(given: TokenIn, who: LoggedIn, site: SiteDependency) -> TokenMade:
    """Create a token for your programs; it cannot be read again."""
    who.need(given.scope.role)
    if given.scope is Scope.ADMINISTER:
        check_second_factor(site, who)
    accounts = site.review.accounts
    token = accounts.add_token(who.name, given.name, scope=given.scope, days=given.days)
    return TokenMade(token=token)


@token_routes.delete("/tokens/{number}", status_code=204)
def revoke_token(number: TokenNumber, who: LoggedIn, site: SiteDependency) -> None:
    """Revoke one of your tokens."""
    _revoke(site, who.name, number, by=who.name)


@token_routes.get("/all-tokens")
def all_tokens(who: Administrator, site: SiteDependency) -> list[TokenOut]:
    """List the valid tokens of all users."""
    return [TokenOut(**one) for one in site.review.accounts.tokens()]


@token_routes.delete("/all-tokens/{number}", status_code=204)
def revoke_any_token(number: TokenNumber, who: Administrator, site: SiteDependency) -> None:
    """Revoke a token of any user."""
    _revoke(site, None, number, by=who.name)


def _revoke(site: SiteDependency, owner: str | None, number: int, *, by: str) -> None:
    try:
        site.review.accounts.revoke_token(owner, number, by=by)
    except ReviewError as error:
        raise HTTPException(404, str(error)) from None


@token_routes.get("/second-factor")
def second_factor(who: LoggedIn, site: SiteDependency) -> FactorOut:
    """Return whether you log in with one-time passwords."""
    return FactorOut(
        on=who.second_factor,
        required=site.secure and who.may(Role.ADMINISTRATOR),
        recovery_codes=site.review.accounts.recovery_codes_left(who.name),
    )


@token_routes.post("/second-factor", status_code=201)
def begin_second_factor(who: LoggedIn, site: SiteDependency) -> FactorBegun:
    """Make a secret for your authenticator; confirm it with a code to turn one-time passwords on."""
    begun = site.review.accounts.begin_factor(who.name)
    path, modules = _qr_path(begun.uri)
    return FactorBegun(secret=begun.secret, uri=begun.uri, path=path, modules=modules)


@token_routes.post("/second-factor/confirm")
def confirm_second_factor(given: CodeIn, who: LoggedIn, site: SiteDependency) -> RecoveryCodes:
    """Turn one-time passwords on, and return recovery codes."""
    return RecoveryCodes(codes=site.review.accounts.confirm_factor(who.name, given.code))


@token_routes.post("/second-factor/remove", status_code=204)
def remove_second_factor(given: CodeIn, who: LoggedIn, site: SiteDependency) -> None:
    """Turn one-time passwords off."""
    site.review.accounts.remove_factor(who.name, given.code)


def _qr_path(text: str) -> tuple[str, int]:
    """Return a QR code as the path of an SVG, and its width with the quiet zone."""
    code = segno.make(text, micro=False, error="m")
    rows = list(code.matrix_iter(border=4))
    path = "".join(
        f"M{run.start()} {y}h{run.end() - run.start()}v1h-{run.end() - run.start()}z"
        for y, row in enumerate(rows)
        for run in re.finditer("1+", "".join("1" if dark else "0" for dark in row))
    )
    return path, len(rows)
