"""Accounts of a review: log-in and sessions, beside the users, tokens and one-time passwords."""

from __future__ import annotations

import hmac
import secrets
import unicodedata
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from deepstreaks_dask.review.attempts import (
    attempt_delay,
    attempt_keys,
    count_attempt,
    forget_attempts,
)
from deepstreaks_dask.review.passwords import current_hash, placeholder_hash, verify_password
from deepstreaks_dask.review.people import Person, RefusedError, ReviewError, WaitError
from deepstreaks_dask.review.rows import get_user, person_from_row
from deepstreaks_dask.review.schema import (
    MAX_AGENT_LENGTH,
    FactorRow,
    SessionRow,
    UserRow,
    current_time,
    digest,
    iso_time,
)
from deepstreaks_dask.review.second_factor import (
    CodeNeededError,
    SecondFactors,
    check_code,
    has_factor,
)
from deepstreaks_dask.review.tokens import MAX_TOKENS, Tokens
from deepstreaks_dask.review.transactions import Database, log
from deepstreaks_dask.review.users import USER_NAME, Users

SESSION_LIFETIME = timedelta(hours=12)
"""Time after which a session ends."""

SESSION_IDLE_TIME = timedelta(hours=2)
"""Time without a request after which a session ends."""

_MAX_NAME_LENGTH = 64
_MAX_ADDRESS_LENGTH = 64
_SESSION_ID_LENGTH = 16  # characters of a session's hash that name it
_SESSION_UPDATE_SECONDS = 60  # between two updates of a session's last use


class Accounts(Users, Tokens, SecondFactors):
    """The users of a review, their sessions, tokens and one-time passwords.

    Of passwords, sessions and tokens the database holds hashes only; the secrets of one-time passwords cannot be hashed.

    Parameters
    ----------
    database : Database
        Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        Users.__init__(self, database)

    def log_in(
        self,
        name: str,
        password: str,
        *,
        address: str = "",
        code: str = "",
        device: str = "",
        agent: str = "",
    ) -> str:
        """Open a session.

        Parameters
        ----------
        name, password : str
            User name and password of the attempt.
        address : str
            Network address that the attempt comes from, or its network.
        code : str
            One-time password or recovery code, for users who have them.
        device : str
            What :meth:`remember_device` returned to the browser after an earlier log-in.
        agent : str
            The browser's description of itself.

        Returns
        -------
        str
            The secret of the session; the database holds its hash only.

        Raises
        ------
        WaitError
            After too many failed attempts for this user from this address, or from this address.
        CodeNeededError
            If name and password are right, and a code is needed.
        RefusedError
            If the user name, password or code is wrong; the message does not tell whether it is name or password.
        """
        name = unicodedata.normalize("NFKC", name).strip().lower()[:_MAX_NAME_LENGTH]
        stored, active, keys = self._begin_attempt(name, address, device)
        right = verify_password(stored, password) and active
        problem: RefusedError | None = None
        with self._database.write(f"factor {name}") as session:
            if not right:
                problem = RefusedError("name and password do not belong together")
            else:
                problem = _code_problem(session, get_user(session, name), code)
            if problem is None:
                user = get_user(session, name)
                forget_attempts(session, keys)
                user.password = current_hash(user.password, password)
                secret = _open_session(session, user, address, agent)
                log(session, name, "logged in", "", address)
            elif not isinstance(problem, CodeNeededError):
                log(session, name, "log-in refused", "", address)
        if problem is not None:
            raise problem
        return secret

    def _begin_attempt(
        self, name: str, address: str, device: str
    ) -> tuple[str, bool, dict[str, str]]:
        """Count an attempt before the slow check of its password, so that many at once gain nothing.

        Returns the stored hash, whether the user may log in, and what the attempt is counted by.
        """
        known = sa.select(UserRow).where(UserRow.name == name)
        with self._database.read() as session:  # cheap: most of a flood ends here
            user = session.scalar(known) if USER_NAME.fullmatch(name) else None
            trusted = device if user is not None and _is_device(user, device) else ""
            keys = attempt_keys(name, address, trusted)
            wait = attempt_delay(session, keys, current_time())
        if wait <= 0:
            with self._database.write(*keys.values()) as session:
                wait = attempt_delay(session, keys, current_time())
                if wait <= 0:
                    count_attempt(session, keys, current_time())
                else:
                    log(session, name, "log-in put off", "", address)
        if wait > 0:
            raise WaitError(wait)
        if user is None:
            return placeholder_hash(), False, keys
        return user.password, bool(user.active), keys

    def remember_device(self, name: str, device: str = "") -> str:
        """Return a secret for a browser in which somebody has logged in.

        Attempts to log in with it are not kept waiting by failed ones from elsewhere. It holds until the password changes.

        Parameters
        ----------
        name : str
            User name.
        device : str
            The secret that the browser has, which stays if it is valid.

        Returns
        -------
        str
            The secret.
        """
        with self._database.read() as session:
            user = get_user(session, name)
            return device if _is_device(user, device) else _device_secret(user)

    def person_of(self, secret: str, *, used: bool = True) -> Person | None:
        """Return the user of a session; None if there is no such session or it has ended.

        Parameters
        ----------
        secret : str
            Secret of the session.
        used : bool
            The user has just done something: the time without a request begins anew.

        Returns
        -------
        Person or None
            The user.
        """
        now, key = current_time(), digest(secret)
        confirmed = sa.and_(FactorRow.user == UserRow.id, FactorRow.confirmed)
        with self._database.read() as session:
            row = session.execute(
                sa.select(SessionRow, UserRow, FactorRow.user)
                .join(UserRow, UserRow.id == SessionRow.user)
                .outerjoin(FactorRow, confirmed)
                .where(SessionRow.hash == key, UserRow.active)
            ).first()
            if row is None:
                return None
            opened, user, factor = row
            person = person_from_row(user, factor=factor is not None)
            expires, last = opened.expires, opened.used
        if now > expires or now > last + SESSION_IDLE_TIME.total_seconds():
            self.log_out(secret)
            return None
        if used and now > last + _SESSION_UPDATE_SECONDS:
            with self._database.write() as session:
                session.execute(
                    sa.update(SessionRow).where(SessionRow.hash == key).values(used=now)
                )
        return person

    def log_out(self, secret: str) -> None:
        """End a session."""
        with self._database.write() as session:
            session.execute(sa.delete(SessionRow).where(SessionRow.hash == digest(secret)))
        self._revision += 1

    def sessions(self, name: str, secret: str = "") -> list[dict[str, Any]]:
        """Return the open sessions of a user, the newest first.

        Parameters
        ----------
        name : str
            User name.
        secret : str
            Secret of the session that asks.

        Returns
        -------
        list of dict
            ``id``, ``opened`` and ``used`` (ISO 8601, UTC), ``address``, ``agent``, and ``this`` for the session that asks.
        """
        now = current_time()
        with self._database.read() as session:
            found = session.scalars(
                sa.select(SessionRow)
                .where(
                    SessionRow.user == get_user(session, name).id,
                    SessionRow.expires > now,
                    SessionRow.used > now - SESSION_IDLE_TIME.total_seconds(),
                )
                .order_by(SessionRow.opened.desc())
            )
            return [
                {
                    "id": row.hash[:_SESSION_ID_LENGTH],
                    "opened": iso_time(row.opened),
                    "used": iso_time(row.used),
                    "address": row.address,
                    "agent": row.agent,
                    "this": row.hash == digest(secret),
                }
                for row in found
            ]

    def end_session(self, name: str, number: str) -> None:
        """End a session of a user.

        Parameters
        ----------
        name : str
            User name.
        number : str
            The session's ``id``.

        Raises
        ------
        ReviewError
            If this user has no such session.
        """
        with self._database.write() as session:
            user = get_user(session, name)
            own = sa.select(SessionRow).where(SessionRow.user == user.id)
            found = [row for row in session.scalars(own) if row.hash[:_SESSION_ID_LENGTH] == number]
            if not found:
                raise ReviewError("there is no such session")
            session.delete(found[0])
            log(session, name, "session ended", found[0].address)
        self._revision += 1


def _code_problem(session: Session, user: UserRow, code: str) -> RefusedError | None:
    """Return what is wrong with the code of an attempt, if a code is needed."""
    if not has_factor(session, user):
        return None
    if not code.strip():
        return CodeNeededError()
    if check_code(session, user, code):
        return None
    return RefusedError("this is not the code that the authenticator shows now")


def _open_session(session: Session, user: UserRow, address: str, agent: str) -> str:
    """Store a new session of a user, and return its secret."""
    secret, now = secrets.token_urlsafe(32), current_time()
    session.execute(sa.delete(SessionRow).where(SessionRow.expires < now))
    session.add(
        SessionRow(
            hash=digest(secret),
            user=user.id,
            opened=now,
            expires=now + SESSION_LIFETIME.total_seconds(),
            used=now,
            address=address[:_MAX_ADDRESS_LENGTH],
            agent="".join(c for c in agent if c.isprintable())[:MAX_AGENT_LENGTH],
        )
    )
    return secret


def _device_secret(user: UserRow, nonce: str = "") -> str:
    """Return the secret of a device: a number, and what only the holder of the password's hash can make of it."""
    nonce = nonce or secrets.token_urlsafe(16)
    mark = hmac.digest(user.password.encode(), f"device {nonce}".encode(), "sha256").hex()
    return f"{nonce}.{mark}"


def _is_device(user: UserRow, device: str) -> bool:
    nonce = device.partition(".")[0]
    return bool(nonce) and hmac.compare_digest(
        device.encode(errors="replace"), _device_secret(user, nonce).encode(errors="replace")
    )


__all__ = ["MAX_TOKENS", "SESSION_IDLE_TIME", "SESSION_LIFETIME", "Accounts"]
