"""Tables of the review database."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

MAX_NOTE_LENGTH = 2000
"""Characters of a note at most."""

MAX_AGENT_LENGTH = 200
"""Characters of a browser's description of itself that are kept."""


class _Base(DeclarativeBase):
    type_annotation_map = {float: sa.Double}  # noqa: RUF012 - as SQLAlchemy declares it


METADATA = _Base.metadata
"""The tables as this version has them; a change to them needs a script in ``migrations/versions/``."""


class UserRow(_Base):
    """A user: name, role and password hash."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(64), unique=True)
    password: Mapped[str] = mapped_column(sa.String(256))
    role: Mapped[str] = mapped_column(sa.String(16))
    active: Mapped[bool] = mapped_column(default=True)
    created: Mapped[float]


class SessionRow(_Base):
    """A log-in session: hash of its secret and when it expires."""

    __tablename__ = "sessions"
    hash: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    user: Mapped[int] = mapped_column(sa.ForeignKey("users.id"), index=True)
    opened: Mapped[float]
    expires: Mapped[float]
    used: Mapped[float]
    address: Mapped[str] = mapped_column(sa.String(64), default="")
    agent: Mapped[str] = mapped_column(sa.String(MAX_AGENT_LENGTH), default="")


class FactorRow(_Base):
    """The secret of a user's one-time passwords, and the step of the last one that was used."""

    __tablename__ = "factors"
    user: Mapped[int] = mapped_column(sa.ForeignKey("users.id"), primary_key=True)
    secret: Mapped[str] = mapped_column(sa.String(64))
    confirmed: Mapped[bool] = mapped_column(default=False)
    step: Mapped[int] = mapped_column(sa.BigInteger, default=0)


class RecoveryRow(_Base):
    """The hash of a recovery code that was not used yet."""

    __tablename__ = "recovery_codes"
    id: Mapped[int] = mapped_column(primary_key=True)
    user: Mapped[int] = mapped_column(sa.ForeignKey("users.id"), index=True)
    hash: Mapped[str] = mapped_column(sa.String(64))


class TokenRow(_Base):
    """An API token: hash of its secret, and whose it is."""

    __tablename__ = "tokens"
    id: Mapped[int] = mapped_column(primary_key=True)
    user: Mapped[int] = mapped_column(sa.ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(sa.String(64))
    hash: Mapped[str] = mapped_column(sa.String(64), unique=True)
    scope: Mapped[str] = mapped_column(sa.String(16))
    created: Mapped[float]
    expires: Mapped[float]
    used: Mapped[float | None]
    revoked: Mapped[bool] = mapped_column(default=False)


class AttemptRow(_Base):
    """A failed attempt to log in, under the hash of a name or an address."""

    __tablename__ = "attempts"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(8))
    key: Mapped[str] = mapped_column(sa.String(64), index=True)
    at: Mapped[float]


class ActRow(_Base):
    """One act on a cutout: a verdict, a length, a note or a mark."""

    __tablename__ = "acts"
    __table_args__ = (sa.Index("acts_of", "archive", "cutout", "user"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    archive: Mapped[str] = mapped_column(sa.String(1024))
    cutout: Mapped[str] = mapped_column(sa.String(512))
    user: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))
    verdict: Mapped[str] = mapped_column(sa.String(8), default="")
    length: Mapped[str] = mapped_column(sa.String(8), default="")
    note: Mapped[str] = mapped_column(sa.String(MAX_NOTE_LENGTH), default="")
    marked: Mapped[bool] = mapped_column(default=False)
    at: Mapped[float]
    undone: Mapped[bool] = mapped_column(default=False)


class LogRow(_Base):
    """One line of the audit log."""

    __tablename__ = "log"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float] = mapped_column(index=True)
    who: Mapped[str] = mapped_column(sa.String(64))
    what: Mapped[str] = mapped_column(sa.String(32))
    detail: Mapped[str] = mapped_column(sa.String(512), default="")
    address: Mapped[str] = mapped_column(sa.String(64), default="")


def current_time() -> float:
    """Return the current time in seconds since 1970."""
    return datetime.now(UTC).timestamp()


def iso_time(at: float) -> str:
    """Return a time in seconds since 1970 as ISO 8601 in UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def digest(secret: str) -> str:
    """Return the hash of a secret that is random enough to need no salt."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
