"""Tokens of programs: they expire, and allow no more than their scope."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from deepstreaks_dask.review.people import Person, ReviewError
from deepstreaks_dask.review.rows import get_user, person_from_row
from deepstreaks_dask.review.schema import (
    FactorRow,
    TokenRow,
    UserRow,
    current_time,
    digest,
    iso_time,
)
from deepstreaks_dask.review.transactions import Database, log
from deepstreaks_dask.vocabulary import Scope

MAX_TOKENS = 20
"""Tokens of a user at most."""

MAX_TOKEN_DAYS = 366
"""Days for which a token is valid at most."""

DEFAULT_TOKEN_DAYS = 90
"""Days for which a token is valid unless its maker says otherwise."""

MAX_TOKEN_NAME_LENGTH = 64
"""Characters of a token's name at most."""

_MAX_TOKEN_NUMBER = 2**31 - 1
_USE_SECONDS = 3600  # between two notes of a token's last use


class Tokens:
    """The tokens of a review's users.

    Parameters
    ----------
    database : Database
        Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_token(
        self,
        name: str,
        label: str,
        *,
        scope: Scope = Scope.ADMINISTER,
        days: float = DEFAULT_TOKEN_DAYS,
    ) -> str:
        """Create a token for a user's programs.

        Parameters
        ----------
        name : str
            User name.
        label : str
            Name of the token, for the user's own list.
        scope : Scope
            What programs may do with the token, as far as the user's role allows it.
        days : float
            Days until the token expires, 366 at most.

        Returns
        -------
        str
            The token. The database holds its hash only, so it cannot be read again.

        Raises
        ------
        ReviewError
            If the user has 20 tokens already, or the time is too long.
        """
        if not 0 < days <= MAX_TOKEN_DAYS:
            raise ReviewError(f"a token for {days:g} days: give 1 to {MAX_TOKEN_DAYS}")
        token, label = f"ds_{secrets.token_urlsafe(32)}", label[:MAX_TOKEN_NAME_LENGTH]
        now = current_time()
        with self._database.write(f"token {name}") as session:
            user = get_user(session, name)
            live = sa.select(sa.func.count(TokenRow.id)).where(TokenRow.user == user.id, *_valid())
            if (session.scalar(live) or 0) >= MAX_TOKENS:
                raise ReviewError(f"there are {MAX_TOKENS} tokens already: revoke one first")
            session.add(
                TokenRow(
                    user=user.id,
                    name=label,
                    hash=digest(token),
                    scope=Scope(scope).value,
                    created=now,
                    expires=now + timedelta(days=days).total_seconds(),
                )
            )
            log(session, name, "token made", f"{label}, {scope}, {days:g} days")
        return token

    def tokens(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the tokens that are valid.

        Parameters
        ----------
        name : str, optional
            User name; the tokens of all users by default.

        Returns
        -------
        list of dict
            ``id``, ``user``, ``name``, ``scope``, ``created``, ``expires`` and ``used``, the times in ISO 8601, UTC;
            ``used`` is empty for a token that was never used.
        """
        with self._database.read() as session:
            found = sa.select(TokenRow, UserRow.name).join(UserRow, UserRow.id == TokenRow.user)
            if name is not None:
                found = found.where(TokenRow.user == get_user(session, name).id)
            rows = session.execute(found.where(*_valid()).order_by(TokenRow.id))
            return [
                {
                    "id": token.id,
                    "user": user,
                    "name": token.name,
                    "scope": token.scope,
                    "created": iso_time(token.created),
                    "expires": iso_time(token.expires),
                    "used": iso_time(token.used) if token.used else "",
                }
                for token, user in rows
            ]

    def revoke_token(self, name: str | None, number: int, *, by: str | None = None) -> None:
        """Revoke a token.

        Parameters
        ----------
        name : str or None
            Name of the user whose token it must be; None for anybody's.
        number : int
            The token's ``id``.
        by : str, optional
            Name of the user who revokes it, for the audit log; by default its owner.

        Raises
        ------
        ReviewError
            If there is no such token.
        """
        with self._database.write() as session:
            token = session.get(TokenRow, number) if 0 < number <= _MAX_TOKEN_NUMBER else None
            owner = session.get(UserRow, token.user) if token is not None else None
            if (
                token is None
                or owner is None
                or token.revoked
                or (name is not None and owner.name != name)
            ):
                raise ReviewError(f"there is no token {number}")
            token.revoked = True
            log(session, by or owner.name, "token revoked", f"{token.name} of {owner.name}")

    def person_of_token(self, token: str) -> Person | None:
        """Return the user of a token; None if there is no such token, or it is revoked or has expired.

        Parameters
        ----------
        token : str
            The token.

        Returns
        -------
        Person or None
            The user, whose role is that of the token's scope where the user's own is higher.
        """
        with self._database.read() as session:
            confirmed = sa.and_(FactorRow.user == UserRow.id, FactorRow.confirmed)
            row = session.execute(
                sa.select(UserRow, TokenRow, FactorRow.user)
                .join(TokenRow, UserRow.id == TokenRow.user)
                .outerjoin(FactorRow, confirmed)
                .where(TokenRow.hash == digest(token), UserRow.active, *_valid())
            ).first()
            if row is None:
                return None
            user, found, factor = row
            most = Scope(found.scope).role
            person = person_from_row(user, most=most, factor=factor is not None)
            number, used = found.id, found.used or 0.0
        if current_time() > used + _USE_SECONDS:
            with self._database.write() as session:
                session.execute(
                    sa.update(TokenRow).where(TokenRow.id == number).values(used=current_time())
                )
        return person


def revoke_tokens(session: Session, user: UserRow) -> None:
    """Revoke all tokens of a user.

    Parameters
    ----------
    session : sqlalchemy.orm.Session
        An open transaction.
    user : UserRow
        The user.
    """
    session.execute(sa.update(TokenRow).where(TokenRow.user == user.id).values(revoked=True))


def _valid() -> tuple[sa.ColumnElement[bool], ...]:
    return ~TokenRow.revoked, TokenRow.expires > current_time()
