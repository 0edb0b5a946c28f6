"""Tables of the review database."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

MAX_NOTE_LENGTH = 2000
"""Characters of a note at most."""


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
    expires: Mapped[float]
    used: Mapped[float]


class TokenRow(_Base):
    """An API token: hash of its secret, and whose it is."""

    __tablename__ = "tokens"
    id: Mapped[int] = mapped_column(primary_key=True)
    user: Mapped[int] = mapped_column(sa.ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(sa.String(64))
    hash: Mapped[str] = mapped_column(sa.String(64), unique=True)
    created: Mapped[float]
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
