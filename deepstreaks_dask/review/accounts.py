"""Users, roles, passwords and sessions of the review."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Literal

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy.orm import Session

from deepstreaks_dask.errors import DeepStreaksError, did_you_mean
from deepstreaks_dask.review.schema import AttemptRow, UserRow, current_time, iso_time

Role = Literal["viewer", "reviewer", "administrator"]
ROLES: tuple[Role, ...] = ("viewer", "reviewer", "administrator")
"""Each may do what those before it may."""

SESSION_LIFETIME = timedelta(hours=12)
SESSION_IDLE_TIME = timedelta(hours=2)
_FREE_ATTEMPTS = {"user": 5, "address": 20}  # an address may be a whole observatory's
_ATTEMPT_MEMORY = timedelta(hours=1)
_MAX_LOGIN_DELAY = 900.0  # seconds
USER_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
password_hasher = PasswordHasher()


class ReviewError(DeepStreaksError):
    """A review database, a user or a verdict is not as it must be."""


class RefusedError(ReviewError):
    """Whoever asks may not do this."""


class WaitError(RefusedError):
    """Too many failed attempts to log in.

    Parameters
    ----------
    seconds : float
        As the attribute :attr:`seconds`.

    Attributes
    ----------
    seconds : float
        Seconds after which the next attempt is looked at.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"too many failed attempts: wait {max(1, round(seconds))} seconds")


@dataclass(frozen=True)
class Person:
    """Somebody with an account."""

    name: str
    role: Role
    active: bool = True
    created: str = ""

    def may(self, role: Role) -> bool:
        """Say whether this person may do what ``role`` may."""
        return ROLES.index(self.role) >= ROLES.index(role)

    def need(self, role: Role) -> None:
        """Raise unless this person may do what ``role`` may.

        Parameters
        ----------
        role : str
            One of :data:`ROLES`.

        Raises
        ------
        RefusedError
        """
        if not self.may(role):
            raise RefusedError(f"{self.name} is a {self.role}: this needs a {role}")


def person_from_row(user: UserRow) -> Person:
    """Return the user of a row without the password."""
    return Person(user.name, check_role(user.role), bool(user.active), iso_time(user.created))


def get_user(session: Session, name: str) -> UserRow:
    """Return the row of a user; raise `ReviewError` if there is none."""
    user = session.scalar(sa.select(UserRow).where(UserRow.name == name))
    if user is None:
        known = session.scalars(sa.select(UserRow.name)).all()
        hint = did_you_mean(name, known).rstrip()
        raise ReviewError(f"no user {name!r}" + (f": {hint}" if hint else ""))
    return user


def check_role(role: str) -> Role:
    """Check that a role exists and return it."""
    for known in ROLES:
        if role == known:
            return known
    raise ReviewError(f"role {role!r}: choose one of {', '.join(ROLES)}")


def hash_password(name: str, password: str) -> str:
    """Hash a password; raise `ReviewError` if it is too short or easy to guess."""
    if not 12 <= len(password) <= 256:
        raise ReviewError("a password has 12 to 256 characters: choose another one")
    if password.lower() == name or len(set(password)) < 5:
        raise ReviewError("this password is too easy to guess: choose another one")
    return password_hasher.hash(password)


def verify_password(stored: str, password: str) -> bool:
    """Check a password against its stored hash."""
    try:
        return password_hasher.verify(stored, password[:1024])
    except (VerificationError, InvalidHashError):
        return False


@lru_cache(maxsize=1)
def placeholder_hash() -> str:
    """A hash that an unknown name is checked against, so that it takes as long as a known one."""
    return password_hasher.hash(secrets.token_urlsafe(16))


def login_delay(session: Session, kind: str, key: str) -> float:
    """Seconds to wait after failed attempts: none for the first few, then twice as long each time."""
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


def secret_digest(secret: str) -> str:
    """Hash what is random enough to need no salt."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
