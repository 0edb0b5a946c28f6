"""Candidates before people's eyes: users, sessions, tokens, verdicts, and the log of who did what.

Everything is in one database, SQLite by default and PostgreSQL by URL. A verdict is never changed: an *act* is added, and
the last one of a person on a cutout that was not undone is what that person says. What is told to a caller
as done is on the disk.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pandas as pd
import sqlalchemy as sa
import xarray as xr
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from deepstreaks_dask.errors import DeepStreaksError, did_you_mean
from deepstreaks_dask.migrations import upgrade
from deepstreaks_dask.storage import is_local, locate

Role = Literal["viewer", "reviewer", "administrator"]
ROLES: tuple[Role, ...] = ("viewer", "reviewer", "administrator")
"""Each may do what those before it may."""

VERDICTS = ("keep", "ditch", "unsure", "bogus")
LENGTHS = ("long", "short")
FAMILIES = ("rb", "sl", "kd", "os")
NOTE = 2000
"""Characters of a note at most."""

_SESSION = timedelta(hours=12)
_IDLE = timedelta(hours=2)
_FREE_ATTEMPTS = {"user": 5, "address": 20}  # an address may be a whole observatory's
_REMEMBERED = timedelta(hours=1)
_LONGEST_WAIT = 900.0  # seconds
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
_hasher = PasswordHasher()


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


class _Base(DeclarativeBase):
    type_annotation_map = {float: sa.Double}  # noqa: RUF012 - as SQLAlchemy declares it


METADATA = _Base.metadata
"""The tables as this version has them; a change to them needs a script in ``migrations/versions/``."""


class _User(_Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(64), unique=True)
    password: Mapped[str] = mapped_column(sa.String(256))
    role: Mapped[str] = mapped_column(sa.String(16))
    active: Mapped[bool] = mapped_column(default=True)
    created: Mapped[float]


class _Session(_Base):
    __tablename__ = "sessions"
    hash: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    user: Mapped[int] = mapped_column(sa.ForeignKey("users.id"), index=True)
    expires: Mapped[float]
    used: Mapped[float]


class _Token(_Base):
    __tablename__ = "tokens"
    id: Mapped[int] = mapped_column(primary_key=True)
    user: Mapped[int] = mapped_column(sa.ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(sa.String(64))
    hash: Mapped[str] = mapped_column(sa.String(64), unique=True)
    created: Mapped[float]
    revoked: Mapped[bool] = mapped_column(default=False)


class _Attempt(_Base):
    """A failed attempt to log in, under the hash of a name or an address."""

    __tablename__ = "attempts"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(8))
    key: Mapped[str] = mapped_column(sa.String(64), index=True)
    at: Mapped[float]


class _Act(_Base):
    __tablename__ = "acts"
    __table_args__ = (sa.Index("acts_of", "archive", "cutout", "user"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    archive: Mapped[str] = mapped_column(sa.String(1024))
    cutout: Mapped[str] = mapped_column(sa.String(512))
    user: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))
    verdict: Mapped[str] = mapped_column(sa.String(8), default="")
    length: Mapped[str] = mapped_column(sa.String(8), default="")
    note: Mapped[str] = mapped_column(sa.String(NOTE), default="")
    marked: Mapped[bool] = mapped_column(default=False)
    at: Mapped[float]
    undone: Mapped[bool] = mapped_column(default=False)


class _Log(_Base):
    __tablename__ = "log"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float] = mapped_column(index=True)
    who: Mapped[str] = mapped_column(sa.String(64))
    what: Mapped[str] = mapped_column(sa.String(32))
    detail: Mapped[str] = mapped_column(sa.String(512), default="")
    address: Mapped[str] = mapped_column(sa.String(64), default="")


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


@dataclass(frozen=True)
class Verdict:
    """What one person says of one cutout, now."""

    cutout: str
    who: str
    verdict: str = ""
    length: str = ""
    note: str = ""
    marked: bool = False
    at: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Give the verdict as JSON can hold it."""
        return asdict(self)


class Review:
    """A review database.

    Parameters
    ----------
    url : str
        SQLAlchemy's URL: ``sqlite:////path/to/file`` or ``postgresql+psycopg://…``. A SQLite file is made if it is
        not there; an older schema is brought up to date.

    Raises
    ------
    ReviewError
        If the database cannot be opened.
    SchemaError
        If a newer version of this package made it.
    """

    def __init__(self, url: str) -> None:
        try:
            self.engine = sa.create_engine(url, pool_pre_ping=True)
            if self.engine.dialect.name == "sqlite":
                _prepare_sqlite(self.engine)
            with self.engine.begin() as connection:
                _in_turn(connection, "schema")
                upgrade(connection)
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            words = str(getattr(error, "orig", None) or error).splitlines()[0]
            shown = re.sub(r"//[^@/]*@", "//…@", url)  # never a password
            raise ReviewError(f"cannot open the review database {shown}: {words}") from None

    @contextmanager
    def _begin(self) -> Iterator[Session]:
        with Session(self.engine) as session, session.begin():
            yield session

    @contextmanager
    def _read(self) -> Iterator[Session]:
        """Look without waiting for those who write."""
        with Session(self.engine.execution_options(reading=True)) as session:
            yield session

    # Users

    def add_user(
        self, name: str, password: str, role: str = "reviewer", *, by: str = "cli"
    ) -> Person:
        """Add a user.

        Parameters
        ----------
        name : str
            Small letters, digits and ``. _ @ -``.
        password : str
            Twelve characters or more.
        role : str
            One of :data:`ROLES`.
        by : str
            Who does it, for the log.

        Returns
        -------
        Person
            As it is now.

        Raises
        ------
        ReviewError
            If there is such a user, or one of the three cannot be.
        """
        if not _NAME.fullmatch(name):
            raise ReviewError(f"user {name!r}: use small letters, digits and . _ @ -, 64 at most")
        hashed = _hash_password(name, password)
        try:
            with self._begin() as session:
                user = _User(
                    name=name, password=hashed, role=_role(role), active=True, created=_now()
                )
                session.add(user)
                session.flush()
                _log(session, by, "user added", f"{name}, {role}")
                return _person(user)
        except sa.exc.IntegrityError:
            raise ReviewError(f"there is a user {name!r} already: choose another name") from None

    def users(self) -> list[Person]:
        """List the users by name."""
        with self._read() as session:
            return [
                _person(user) for user in session.scalars(sa.select(_User).order_by(_User.name))
            ]

    def change_user(
        self,
        name: str,
        *,
        role: str | None = None,
        active: bool | None = None,
        password: str | None = None,
        by: str = "cli",
    ) -> Person:
        """Give a user another role or password, or disable or enable one. Open sessions end at once.

        Parameters
        ----------
        name : str
            Whom.
        role : str, optional
            One of :data:`ROLES`.
        active : bool, optional
            False disables.
        password : str, optional
            A new one.
        by : str
            Who does it, for the log.

        Returns
        -------
        Person
            As it is now.

        Raises
        ------
        ReviewError
            If there is no such user, or nobody would be left to administer the rest.
        """
        hashed = _hash_password(name, password) if password is not None else None
        with self._begin() as session:
            _in_turn(
                session.connection(), "users"
            )  # else two administrators could disable each other
            user = _named(session, name)
            was_administrator = user.active and user.role == "administrator"
            if role is not None and _role(role) != user.role:
                user.role = role
                _log(session, by, "role changed", f"{name}, {role}")
            if active is not None and active != user.active:
                user.active = active
                _log(session, by, "user enabled" if active else "user disabled", name)
            if hashed is not None:
                user.password = hashed
                _log(session, by, "password changed", name)
            session.flush()
            if was_administrator and not (user.active and user.role == "administrator"):
                left = sa.select(sa.func.count(_User.id)).where(
                    _User.role == "administrator", _User.active
                )
                if not session.scalar(left):
                    raise ReviewError(f"{name!r} is the last administrator: make another one first")
            session.execute(sa.delete(_Session).where(_Session.user == user.id))
            return _person(user)

    # Logging in

    def log_in(self, name: str, password: str, *, address: str = "") -> str:
        """Open a session.

        Parameters
        ----------
        name, password : str
        address : str
            Where the attempt comes from.

        Returns
        -------
        str
            The session's secret; the database has its hash only.

        Raises
        ------
        WaitError
            After too many failed attempts for this user or from this address.
        RefusedError
            If name and password do not belong together; which of them is wrong is not said.
        """
        name = unicodedata.normalize("NFKC", name).strip().lower()[:64]
        keys = {"user": _digest(name), "address": _digest(address)}
        with self._begin() as session:
            # Counted before the slow look at the password: many at once gain nothing.
            _in_turn(session.connection(), *keys.values())
            waits = [_wait(session, kind, key) for kind, key in keys.items()]
            if max(waits) > 0:
                _log(session, name, "log-in put off", "", address)
            else:
                session.add_all(_Attempt(kind=k, key=v, at=_now()) for k, v in keys.items())
            known = sa.select(_User).where(_User.name == name)
            user = session.scalar(known) if _NAME.fullmatch(name) else None
            stored = user.password if user is not None else _nobodys_password()
            active = user is not None and user.active
        if max(waits) > 0:
            raise WaitError(max(waits))
        right = _verify(stored, password) and active
        with self._begin() as session:
            if not right:
                _log(session, name, "log-in refused", "", address)
            else:
                user = _named(session, name)
                for kind, key in keys.items():
                    session.execute(
                        sa.delete(_Attempt).where(_Attempt.kind == kind, _Attempt.key == key)
                        if kind == "user"
                        else sa.delete(_Attempt).where(
                            _Attempt.id
                            == sa.select(sa.func.max(_Attempt.id))
                            .where(_Attempt.kind == kind, _Attempt.key == key)
                            .scalar_subquery()
                        )
                    )
                if _hasher.check_needs_rehash(user.password):
                    user.password = _hasher.hash(password)
                secret = secrets.token_urlsafe(32)
                now = _now()
                session.execute(sa.delete(_Session).where(_Session.expires < now))
                session.add(
                    _Session(
                        hash=_digest(secret),
                        user=user.id,
                        expires=now + _SESSION.total_seconds(),
                        used=now,
                    )
                )
                _log(session, name, "logged in", "", address)
        if not right:
            raise RefusedError("name and password do not belong together")
        return secret

    def person_of(self, secret: str) -> Person | None:
        """Give the person whose open session this is; None if it is nobody's, or over."""
        now, key = _now(), _digest(secret)
        with self._read() as session:
            row = session.execute(
                sa.select(_Session, _User)
                .join(_User, _User.id == _Session.user)
                .where(_Session.hash == key, _User.active)
            ).first()
            if row is None:
                return None
            opened, user = row
            person, expires, used = _person(user), opened.expires, opened.used
        if now > expires or now > used + _IDLE.total_seconds():
            self.log_out(secret)
            return None
        if now > used + 60:
            with self._begin() as session:
                session.execute(sa.update(_Session).where(_Session.hash == key).values(used=now))
        return person

    def log_out(self, secret: str) -> None:
        """End a session."""
        with self._begin() as session:
            session.execute(sa.delete(_Session).where(_Session.hash == _digest(secret)))

    # Tokens

    def add_token(self, name: str, label: str) -> str:
        """Make a token for a user's programs.

        Parameters
        ----------
        name : str
            Of the user.
        label : str
            What the user calls it.

        Returns
        -------
        str
            The token, which is not to be had again.

        Raises
        ------
        ReviewError
            If the user has 20 tokens already.
        """
        token = f"ds_{secrets.token_urlsafe(32)}"
        with self._begin() as session:
            _in_turn(session.connection(), f"token {name}")
            user = _named(session, name)
            live = sa.select(sa.func.count(_Token.id)).where(
                _Token.user == user.id, ~_Token.revoked
            )
            if (session.scalar(live) or 0) >= 20:
                raise ReviewError("there are 20 tokens already: revoke one first")
            session.add(_Token(user=user.id, name=label[:64], hash=_digest(token), created=_now()))
            _log(session, name, "token made", label[:64])
        return token

    def tokens(self, name: str) -> list[dict[str, Any]]:
        """List a user's tokens that are not revoked: number, name and date."""
        with self._read() as session:
            user = _named(session, name)
            found = session.scalars(
                sa.select(_Token).where(_Token.user == user.id, ~_Token.revoked).order_by(_Token.id)
            )
            return [{"id": t.id, "name": t.name, "created": _iso(t.created)} for t in found]

    def revoke_token(self, name: str, number: int) -> None:
        """Revoke a token of a user's.

        Parameters
        ----------
        name : str
            Of the user.
        number : int
            Of the token.

        Raises
        ------
        ReviewError
            If this user has no such token.
        """
        with self._begin() as session:
            token = session.get(_Token, number) if 0 < number < 2**31 else None
            if token is None or token.revoked or token.user != _named(session, name).id:
                raise ReviewError(f"there is no token {number}")
            token.revoked = True
            _log(session, name, "token revoked", token.name)

    def person_of_token(self, token: str) -> Person | None:
        """Give the person whose token this is; None if it is nobody's, or revoked."""
        with self._read() as session:
            user = session.scalar(
                sa.select(_User)
                .join(_Token, _User.id == _Token.user)
                .where(_Token.hash == _digest(token), ~_Token.revoked, _User.active)
            )
            return None if user is None else _person(user)

    # Verdicts

    def judge(
        self,
        archive: str,
        cutout: str,
        name: str,
        *,
        verdict: str | None = None,
        length: str | None = None,
        note: str | None = None,
        marked: bool | None = None,
    ) -> Verdict:
        """Add what a person says of a cutout; what is None stays as this person had it.

        Parameters
        ----------
        archive, cutout : str
            Name of the archive and id of the cutout. That there is such a one is the caller's to see to.
        name : str
            Who says it: a reviewer.
        verdict : str, optional
            One of :data:`VERDICTS`, or empty for none.
        length : str, optional
            One of :data:`LENGTHS`, or empty for none.
        note : str, optional
        marked : bool, optional
            For submission to the Minor Planet Center.

        Returns
        -------
        Verdict
            As it stands now.

        Raises
        ------
        RefusedError
            If this person may not judge.
        ReviewError
            If it is no verdict.
        """
        for value, known in ((verdict, VERDICTS), (length, LENGTHS)):
            if value and value not in known:
                raise ReviewError(f"verdict {value!r}: choose one of {', '.join(known)}")
        if note is not None and len(note) > NOTE:
            raise ReviewError(f"a note of {len(note):,} characters: {NOTE:,} is the most")
        if note is not None and "\0" in note:
            raise ReviewError("a note cannot hold a NUL character")
        with self._begin() as session:
            user = _named(session, name)
            _person(user).need("reviewer")
            _in_turn(
                session.connection(), f"judge {name}"
            )  # what is None stays as the act before had it
            last = session.scalar(_current(archive, cutout=cutout, user=user.id))
            act = _Act(
                archive=archive,
                cutout=cutout,
                user=user.id,
                verdict=verdict if verdict is not None else last.verdict if last else "",
                length=length if length is not None else last.length if last else "",
                note=note if note is not None else last.note if last else "",
                marked=marked if marked is not None else last.marked if last else False,
                at=_now(),
                undone=False,
            )
            session.add(act)
            session.flush()
            return _verdict(act, name)

    def undo(self, archive: str, name: str) -> Verdict:
        """Take a person's last act in an archive back.

        Parameters
        ----------
        archive : str
            Its name in the database.
        name : str
            Of the user.

        Returns
        -------
        Verdict
            What the person says of that cutout now.

        Raises
        ------
        ReviewError
            If there is nothing to undo.
        """
        with self._begin() as session:
            user = _named(session, name)
            _person(user).need("reviewer")
            _in_turn(session.connection(), f"judge {name}")
            act = session.scalar(
                sa.select(_Act)
                .where(_Act.archive == archive, _Act.user == user.id, ~_Act.undone)
                .order_by(_Act.id.desc())
                .limit(1)
            )
            if act is None:
                raise ReviewError("there is nothing to undo")
            act.undone = True
            session.flush()
            last = session.scalar(_current(archive, cutout=act.cutout, user=user.id))
            return _verdict(last, name) if last else Verdict(act.cutout, name)

    def verdicts(self, archive: str, cutout: str | None = None) -> list[Verdict]:
        """List what everybody says now, of all cutouts of an archive or of one, the oldest first.

        Parameters
        ----------
        archive : str
            Its name in the database.
        cutout : str, optional
            Id; all by default.

        Returns
        -------
        list of Verdict
            One a person and cutout.
        """
        with self._read() as session:
            names = dict(session.execute(sa.select(_User.id, _User.name)).all())
            acts = session.scalars(_current(archive, cutout=cutout))
            return [_verdict(act, names[act.user]) for act in acts]

    def disagreements(self, archive: str) -> pd.DataFrame:
        """List the cutouts on which people differ.

        Parameters
        ----------
        archive : str
            Its name in the database.

        Returns
        -------
        DataFrame
            A row a cutout and family: ``cutout``, ``family``, and ``says``, the names with what they say.
        """
        table = self._sayings(archive)
        rows = []
        for (cutout, family), said in table.groupby(["cutout", "family"], sort=True):
            if said["label"].nunique() > 1:
                says = {str(w): str(s) for w, s in zip(said["who"], said["says"], strict=True)}
                rows.append({"cutout": cutout, "family": family, "says": says})
        return pd.DataFrame(rows, columns=["cutout", "family", "says"])

    def labels(self, archive: str) -> pd.DataFrame:
        """Turn verdicts into labels of the archive's families.

        ``bogus`` is rb 0, kd 0 and os 0. ``keep`` is rb 1, kd 1 and, unless the same person says long, os 1.
        ``ditch`` is kd 0 and os 0. ``long`` is rb 1, sl 0 and os 0; ``short`` is rb 1 and sl 1; both, but for os, unless
        the same person says bogus. ``unsure`` has no say. Where two people's labels of a family differ, that family of
        that cutout gets no label
        (-1) until they agree, and is counted in ``disputed``: a majority of two against one is no truth.

        Parameters
        ----------
        archive : str

        Returns
        -------
        DataFrame
            A row a judged cutout, by id: ``label_rb`` … ``label_os``, int8, 1, 0 or -1; ``people`` who had a say;
            ``disputed`` families.
        """
        said = self._sayings(archive)
        grouped = said.groupby(["cutout", "family"])["label"].agg(["min", "max"])
        agreed = grouped["min"].where(grouped["min"] == grouped["max"], -1).unstack("family")
        table = agreed.reindex(columns=list(FAMILIES)).fillna(-1).astype(np.int8)
        disputed = (grouped["min"] != grouped["max"]).groupby("cutout").sum().astype(int)
        people = said.groupby("cutout")["who"].nunique()
        table.columns = pd.Index([f"label_{family}" for family in FAMILIES])
        table.index.name = "id"
        return table.assign(people=people, disputed=disputed)

    def _sayings(self, archive: str) -> pd.DataFrame:
        rows = [
            (said.cutout, said.who, family, label, _words(said))
            for said in self.verdicts(archive)
            for family, label in labels_of(said).items()
        ]
        return pd.DataFrame(rows, columns=["cutout", "who", "family", "label", "says"])

    def log(self, *, limit: int = 200, offset: int = 0) -> list[dict[str, Any]]:
        """List what was done to users, sessions and tokens, the newest first.

        Parameters
        ----------
        limit, offset : int
            How many, after skipping how many.

        Returns
        -------
        list of dict
            ``at`` (ISO 8601, UTC), ``who``, ``what``, ``detail`` and ``address``.
        """
        with self._read() as session:
            rows = session.scalars(
                sa.select(_Log).order_by(_Log.id.desc()).limit(limit).offset(offset)
            )
            return [
                {
                    "at": _iso(row.at),
                    "who": row.who,
                    "what": row.what,
                    "detail": row.detail,
                    "address": row.address,
                }
                for row in rows
            ]


def labels_of(said: Verdict) -> dict[str, int]:
    """Give the labels by family that one person's verdict amounts to: see :meth:`Review.labels`."""
    labels: dict[str, int] = {}
    if said.length and said.verdict != "bogus":
        labels |= {"rb": 1, "sl": int(said.length == "short")}
    if said.length == "long":
        labels["os"] = 0
    if said.verdict == "bogus":
        labels |= {"rb": 0, "kd": 0, "os": 0}
    elif said.verdict == "ditch":
        labels |= {"kd": 0, "os": 0}
    elif said.verdict == "keep":
        labels |= {"rb": 1, "kd": 1, "os": int(said.length != "long")}
    return labels


def with_labels(dataset: xr.Dataset, labels: pd.DataFrame) -> xr.Dataset:
    """Lay people's labels over an archive's, for training and evaluation.

    Parameters
    ----------
    dataset : xarray.Dataset
        As :func:`~deepstreaks_dask.archive.open_archive` or
        :func:`~deepstreaks_dask.runs.open_scores` gives it.
    labels : DataFrame
        As :meth:`Review.labels` gives it.

    Returns
    -------
    xarray.Dataset
        The same, with ``label_<family>(cutout)`` replaced where people have said something that they agree on. What
        they dispute stays as the archive had it.
    """
    at = pd.Index(dataset["id"].values).get_indexer(labels.index)
    there = at >= 0
    changed = {}
    for family in FAMILIES:
        name = f"label_{family}"
        values = dataset[name].values.copy()
        said = labels[name].to_numpy()[there]
        values[at[there][said >= 0]] = said[said >= 0]
        changed[name] = (dataset[name].dims, values, dataset[name].attrs)
    return dataset.assign_coords(changed)


def default_url(archive: str | os.PathLike[str]) -> str:
    """Give the database of an archive where none is named: a file beside it.

    Parameters
    ----------
    archive : str or path
        Path or URL.

    Returns
    -------
    str
        As SQLAlchemy takes it.

    Raises
    ------
    ReviewError
        If the archive is not on a local disk.
    """
    fs, root = locate(archive)
    if not is_local(fs):
        raise ReviewError(f"{os.fspath(archive)} is not on this machine: name a --database")
    return f"sqlite:///{root}.review.sqlite"


def archive_key(archive: str | os.PathLike[str]) -> str:
    """Give the name under which a database keeps an archive's verdicts: its whole path or URL."""
    fs, root = locate(archive)
    return str(fs.unstrip_protocol(root))


def _prepare_sqlite(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy begins; the driver must not
        cursor = connection.cursor()
        for pragma in (
            "busy_timeout=30000",
            "journal_mode=WAL",
            "synchronous=FULL",  # what was acknowledged outlives a power cut
            "foreign_keys=ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        # A transaction that reads first and writes later could not wait for its turn.
        reading = connection.get_execution_options().get("reading")
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _in_turn(connection: sa.Connection, *what: str) -> None:
    """Let only one at a time go on with this until it is committed; SQLite lets only one write anyway."""
    if connection.dialect.name == "postgresql":
        digests = (hashlib.sha256(one.encode()).digest()[:8] for one in what)
        for number in sorted(int.from_bytes(digest, signed=True) for digest in digests):
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))


def _current(archive: str, *, cutout: str | None = None, user: int | None = None) -> Any:
    """Select everybody's last act that was not undone."""
    last = sa.select(sa.func.max(_Act.id)).where(_Act.archive == archive, ~_Act.undone)
    if cutout is not None:
        last = last.where(_Act.cutout == cutout)
    if user is not None:
        last = last.where(_Act.user == user)
    last = last.group_by(_Act.cutout, _Act.user)
    return sa.select(_Act).where(_Act.id.in_(last)).order_by(_Act.id)


def _verdict(act: _Act, name: str) -> Verdict:
    return Verdict(
        act.cutout, name, act.verdict, act.length, act.note, bool(act.marked), _iso(act.at)
    )


def _words(said: Verdict) -> str:
    return ", ".join(filter(None, [said.verdict, said.length]))


def _person(user: _User) -> Person:
    return Person(user.name, _role(user.role), bool(user.active), _iso(user.created))


def _named(session: Session, name: str) -> _User:
    user = session.scalar(sa.select(_User).where(_User.name == name))
    if user is None:
        known = session.scalars(sa.select(_User.name)).all()
        hint = did_you_mean(name, known).rstrip()
        raise ReviewError(f"no user {name!r}" + (f": {hint}" if hint else ""))
    return user


def _role(role: str) -> Role:
    for known in ROLES:
        if role == known:
            return known
    raise ReviewError(f"role {role!r}: choose one of {', '.join(ROLES)}")


def _log(session: Session, who: str, what: str, detail: str = "", address: str = "") -> None:
    clean = "".join(c for c in who if c.isprintable())[:64]
    session.add(_Log(at=_now(), who=clean, what=what, detail=detail[:512], address=address[:64]))


def _hash_password(name: str, password: str) -> str:
    if not 12 <= len(password) <= 256:
        raise ReviewError("a password has 12 to 256 characters: choose another one")
    if password.lower() == name or len(set(password)) < 5:
        raise ReviewError("this password is too easy to guess: choose another one")
    return _hasher.hash(password)


def _verify(stored: str, password: str) -> bool:
    try:
        return _hasher.verify(stored, password[:1024])
    except (VerificationError, InvalidHashError):
        return False


@lru_cache(maxsize=1)
def _nobodys_password() -> str:
    """A hash that an unknown name is checked against, so that it takes as long as a known one."""
    return _hasher.hash(secrets.token_urlsafe(16))


def _wait(session: Session, kind: str, key: str) -> float:
    """Seconds to wait after failed attempts: none for the first few, then twice as long each time."""
    now = _now()
    session.execute(sa.delete(_Attempt).where(_Attempt.at < now - _REMEMBERED.total_seconds()))
    count, last = session.execute(
        sa.select(sa.func.count(_Attempt.id), sa.func.max(_Attempt.at)).where(
            _Attempt.kind == kind, _Attempt.key == key
        )
    ).one()
    if count < _FREE_ATTEMPTS[kind]:
        return 0.0
    wait = min(2.0 ** (count - _FREE_ATTEMPTS[kind] + 1), _LONGEST_WAIT)
    return max(0.0, float(last) + wait - now)


def _digest(secret: str) -> str:
    """Hash what is random enough to need no salt."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _now() -> float:
    return datetime.now(UTC).timestamp()


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
