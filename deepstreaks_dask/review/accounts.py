"""Accounts of a review: users, log-in, sessions and tokens."""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from deepstreaks_dask.review.passwords import (
    current_hash,
    hash_password,
    placeholder_hash,
    verify_password,
)
from deepstreaks_dask.review.people import (
    Person,
    RefusedError,
    ReviewError,
    WaitError,
    check_role,
    get_user,
    person_from_row,
)
from deepstreaks_dask.review.schema import (
    AttemptRow,
    SessionRow,
    TokenRow,
    UserRow,
    current_time,
    iso_time,
)
from deepstreaks_dask.review.transactions import Database, log
from deepstreaks_dask.vocabulary import Role

SESSION_LIFETIME = timedelta(hours=12)
"""Time after which a session ends."""

SESSION_IDLE_TIME = timedelta(hours=2)
"""Time without a request after which a session ends."""

MAX_TOKENS = 20
"""Tokens of a user at most."""

_USER_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
_MAX_NAME_LENGTH = 64
_MAX_TOKEN_NUMBER = 2**31 - 1
_SESSION_UPDATE_SECONDS = 60  # between two updates of a session's last use
_FREE_ATTEMPTS = {"user": 5, "address": 20}  # an address may be a whole observatory's
_ATTEMPT_MEMORY = timedelta(hours=1)
_MAX_LOGIN_DELAY = 900.0  # seconds


class Accounts:
    """The users of a review, their sessions and their tokens.

    The database holds hashes of passwords and secrets only.

    Parameters
    ----------
    database : Database
        Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_user(
        self, name: str, password: str, role: str = Role.REVIEWER, *, by: str = "cli"
    ) -> Person:
        """Add a user.

        Parameters
        ----------
        name : str
            Lower-case letters, digits and ``. _ @ -``.
        password : str
            12 characters or more.
        role : str
            One of :data:`~deepstreaks_dask.vocabulary.ROLES`.
        by : str
            Name of the user who adds this one, for the audit log.

        Returns
        -------
        Person
            The new user.

        Raises
        ------
        ReviewError
            If the user exists already, or the name, password or role is invalid.
        """
        if not _USER_NAME.fullmatch(name):
            raise ReviewError(f"user {name!r}: use small letters, digits and . _ @ -, 64 at most")
        hashed = hash_password(name, password)
        try:
            with self._database.write() as session:
                user = UserRow(
                    name=name,
                    password=hashed,
                    role=check_role(role).value,
                    active=True,
                    created=current_time(),
                )
                session.add(user)
                session.flush()
                log(session, by, "user added", f"{name}, {role}")
                return person_from_row(user)
        except sa.exc.IntegrityError:
            raise ReviewError(f"there is a user {name!r} already: choose another name") from None

    def users(self) -> list[Person]:
        """Return the users, sorted by name."""
        with self._database.read() as session:
            found = session.scalars(sa.select(UserRow).order_by(UserRow.name))
            return [person_from_row(user) for user in found]

    def change_user(
        self,
        name: str,
        *,
        role: str | None = None,
        active: bool | None = None,
        password: str | None = None,
        by: str = "cli",
    ) -> Person:
        """Change the role or password of a user, or disable or enable the user. The user's sessions end at once.

        Parameters
        ----------
        name : str
            User name.
        role : str, optional
            The new role, one of :data:`~deepstreaks_dask.vocabulary.ROLES`.
        active : bool, optional
            False disables the user, True enables the user.
        password : str, optional
            The new password.
        by : str
            Name of the user who changes this one, for the audit log.

        Returns
        -------
        Person
            The user after the change.

        Raises
        ------
        ReviewError
            If there is no such user, or no active administrator would be left.
        """
        hashed = hash_password(name, password) if password is not None else None
        # The lock keeps two administrators from disabling each other.
        with self._database.write("users") as session:
            user = get_user(session, name)
            was_administrator = _is_active_administrator(user)
            if role is not None and check_role(role) != user.role:
                user.role = check_role(role).value
                log(session, by, "role changed", f"{name}, {role}")
            if active is not None and active != user.active:
                user.active = active
                log(session, by, "user enabled" if active else "user disabled", name)
            if hashed is not None:
                user.password = hashed
                log(session, by, "password changed", name)
            session.flush()
            if was_administrator and not _is_active_administrator(user):
                left = sa.select(sa.func.count(UserRow.id)).where(
                    UserRow.role == Role.ADMINISTRATOR.value, UserRow.active
                )
                if not session.scalar(left):
                    raise ReviewError(f"{name!r} is the last administrator: make another one first")
            session.execute(sa.delete(SessionRow).where(SessionRow.user == user.id))
            return person_from_row(user)

    def log_in(self, name: str, password: str, *, address: str = "") -> str:
        """Open a session.

        Parameters
        ----------
        name, password : str
            User name and password of the attempt.
        address : str
            Network address that the attempt comes from.

        Returns
        -------
        str
            The secret of the session; the database holds its hash only.

        Raises
        ------
        WaitError
            After too many failed attempts for this user or from this address.
        RefusedError
            If the user name or the password is wrong; the message does not tell which.
        """
        name = unicodedata.normalize("NFKC", name).strip().lower()[:_MAX_NAME_LENGTH]
        keys = {"user": _digest(name), "address": _digest(address)}
        # Attempts are counted before the slow check of the password, so that many at once gain nothing.
        with self._database.write(*keys.values()) as session:
            wait = max(_login_delay(session, kind, key) for kind, key in keys.items())
            if wait > 0:
                log(session, name, "log-in put off", "", address)
            else:
                session.add_all(
                    AttemptRow(kind=k, key=v, at=current_time()) for k, v in keys.items()
                )
            known = sa.select(UserRow).where(UserRow.name == name)
            user = session.scalar(known) if _USER_NAME.fullmatch(name) else None
            stored = user.password if user is not None else placeholder_hash()
            active = user is not None and user.active
        if wait > 0:
            raise WaitError(wait)
        right = verify_password(stored, password) and active
        with self._database.write() as session:
            if right:
                secret = _open_session(session, get_user(session, name), password, keys)
                log(session, name, "logged in", "", address)
            else:
                log(session, name, "log-in refused", "", address)
        if not right:
            raise RefusedError("name and password do not belong together")
        return secret

    def person_of(self, secret: str) -> Person | None:
        """Return the user of a session; None if there is no such session or it has ended."""
        now, key = current_time(), _digest(secret)
        with self._database.read() as session:
            row = session.execute(
                sa.select(SessionRow, UserRow)
                .join(UserRow, UserRow.id == SessionRow.user)
                .where(SessionRow.hash == key, UserRow.active)
            ).first()
            if row is None:
                return None
            opened, user = row
            person, expires, used = person_from_row(user), opened.expires, opened.used
        if now > expires or now > used + SESSION_IDLE_TIME.total_seconds():
            self.log_out(secret)
            return None
        if now > used + _SESSION_UPDATE_SECONDS:
            with self._database.write() as session:
                session.execute(
                    sa.update(SessionRow).where(SessionRow.hash == key).values(used=now)
                )
        return person

    def log_out(self, secret: str) -> None:
        """End a session."""
        with self._database.write() as session:
            session.execute(sa.delete(SessionRow).where(SessionRow.hash == _digest(secret)))

    def add_token(self, name: str, label: str) -> str:
        """Create a token for a user's programs.

        Parameters
        ----------
        name : str
            User name.
        label : str
            Name of the token, for the user's own list.

        Returns
        -------
        str
            The token. The database holds its hash only, so it cannot be read again.

        Raises
        ------
        ReviewError
            If the user has 20 tokens already.
        """
        token, label = f"ds_{secrets.token_urlsafe(32)}", label[:_MAX_NAME_LENGTH]
        with self._database.write(f"token {name}") as session:
            user = get_user(session, name)
            live = sa.select(sa.func.count(TokenRow.id)).where(
                TokenRow.user == user.id, ~TokenRow.revoked
            )
            if (session.scalar(live) or 0) >= MAX_TOKENS:
                raise ReviewError(f"there are {MAX_TOKENS} tokens already: revoke one first")
            session.add(
                TokenRow(user=user.id, name=label, hash=_digest(token), created=current_time())
            )
            log(session, name, "token made", label)
        return token

    def tokens(self, name: str) -> list[dict[str, Any]]:
        """Return the tokens of a user that are not revoked, each with ``id``, ``name`` and ``created``."""
        with self._database.read() as session:
            user = get_user(session, name)
            found = session.scalars(
                sa.select(TokenRow)
                .where(TokenRow.user == user.id, ~TokenRow.revoked)
                .order_by(TokenRow.id)
            )
            return [{"id": t.id, "name": t.name, "created": iso_time(t.created)} for t in found]

    def revoke_token(self, name: str, number: int) -> None:
        """Revoke a token of a user.

        Parameters
        ----------
        name : str
            User name.
        number : int
            The token's ``id``.

        Raises
        ------
        ReviewError
            If this user has no such token.
        """
        with self._database.write() as session:
            token = session.get(TokenRow, number) if 0 < number <= _MAX_TOKEN_NUMBER else None
            if token is None or token.revoked or token.user != get_user(session, name).id:
                raise ReviewError(f"there is no token {number}")
            token.revoked = True
            log(session, name, "token revoked", token.name)

    def person_of_token(self, token: str) -> Person | None:
        """Return the user of a token; None if there is no such token or it is revoked."""
        with self._database.read() as session:
            user = session.scalar(
                sa.select(UserRow)
                .join(TokenRow, UserRow.id == TokenRow.user)
                .where(TokenRow.hash == _digest(token), ~TokenRow.revoked, UserRow.active)
            )
            return None if user is None else person_from_row(user)


def _is_active_administrator(user: UserRow) -> bool:
    return bool(user.active) and user.role == Role.ADMINISTRATOR


def _open_session(session: Session, user: UserRow, password: str, keys: dict[str, str]) -> str:
    """Store a new session of a user, forget the failed attempts, and return the session's secret."""
    of_user = AttemptRow.kind == "user", AttemptRow.key == keys["user"]
    session.execute(sa.delete(AttemptRow).where(*of_user))
    # Of the address only this attempt is forgotten: others there may go on guessing.
    of_address = AttemptRow.kind == "address", AttemptRow.key == keys["address"]
    newest = sa.select(sa.func.max(AttemptRow.id)).where(*of_address).scalar_subquery()
    session.execute(sa.delete(AttemptRow).where(AttemptRow.id == newest))
    user.password = current_hash(user.password, password)
    secret = secrets.token_urlsafe(32)
    now = current_time()
    session.execute(sa.delete(SessionRow).where(SessionRow.expires < now))
    session.add(
        SessionRow(
            hash=_digest(secret),
            user=user.id,
            expires=now + SESSION_LIFETIME.total_seconds(),
            used=now,
        )
    )
    return secret


def _login_delay(session: Session, kind: str, key: str) -> float:
    """Return the seconds to wait after failed attempts: none for the first few, then twice as long each time."""
    now = current_time()
    session.execute(
        sa.delete(AttemptRow).where(AttemptRow.at < now - _ATTEMPT_MEMORY.total_seconds())
    )
    count, last = session.execute(
        sa.select(sa.func.count(AttemptRow.id), sa.func.max(AttemptRow.at)).where(
            AttemptRow.kind == kind, AttemptRow.key == key
        )
    ).one()
    if count < _FREE_ATTEMPTS[kind]:
        return 0.0
    wait = min(2.0 ** (count - _FREE_ATTEMPTS[kind] + 1), _MAX_LOGIN_DELAY)
    return max(0.0, float(last) + wait - now)


def _digest(secret: str) -> str:
    """Return the hash of a secret that is random enough to need no salt."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
