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
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.orm import Session

from deepstreaks_dask.evaluation.labels import FAMILIES
from deepstreaks_dask.review.accounts import (
    SESSION_IDLE_TIME,
    SESSION_LIFETIME,
    USER_NAME,
    Person,
    RefusedError,
    ReviewError,
    WaitError,
    check_role,
    get_user,
    hash_password,
    login_delay,
    password_hasher,
    person_from_row,
    placeholder_hash,
    secret_digest,
    verify_password,
)
from deepstreaks_dask.review.migrations import upgrade
from deepstreaks_dask.review.schema import (
    MAX_NOTE_LENGTH,
    ActRow,
    AttemptRow,
    LogRow,
    SessionRow,
    TokenRow,
    UserRow,
    current_time,
    iso_time,
)
from deepstreaks_dask.review.verdicts import LENGTHS, VERDICTS, Verdict, labels_of, verdict_words
from deepstreaks_dask.utils.storage import is_local, locate


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
        if not USER_NAME.fullmatch(name):
            raise ReviewError(f"user {name!r}: use small letters, digits and . _ @ -, 64 at most")
        hashed = hash_password(name, password)
        try:
            with self._begin() as session:
                user = UserRow(
                    name=name,
                    password=hashed,
                    role=check_role(role),
                    active=True,
                    created=current_time(),
                )
                session.add(user)
                session.flush()
                _log(session, by, "user added", f"{name}, {role}")
                return person_from_row(user)
        except sa.exc.IntegrityError:
            raise ReviewError(f"there is a user {name!r} already: choose another name") from None

    def users(self) -> list[Person]:
        """List the users by name."""
        with self._read() as session:
            return [
                person_from_row(user)
                for user in session.scalars(sa.select(UserRow).order_by(UserRow.name))
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
        hashed = hash_password(name, password) if password is not None else None
        with self._begin() as session:
            _in_turn(
                session.connection(), "users"
            )  # else two administrators could disable each other
            user = get_user(session, name)
            was_administrator = user.active and user.role == "administrator"
            if role is not None and check_role(role) != user.role:
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
                left = sa.select(sa.func.count(UserRow.id)).where(
                    UserRow.role == "administrator", UserRow.active
                )
                if not session.scalar(left):
                    raise ReviewError(f"{name!r} is the last administrator: make another one first")
            session.execute(sa.delete(SessionRow).where(SessionRow.user == user.id))
            return person_from_row(user)

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
        keys = {"user": secret_digest(name), "address": secret_digest(address)}
        with self._begin() as session:
            # Counted before the slow look at the password: many at once gain nothing.
            _in_turn(session.connection(), *keys.values())
            waits = [login_delay(session, kind, key) for kind, key in keys.items()]
            if max(waits) > 0:
                _log(session, name, "log-in put off", "", address)
            else:
                session.add_all(
                    AttemptRow(kind=k, key=v, at=current_time()) for k, v in keys.items()
                )
            known = sa.select(UserRow).where(UserRow.name == name)
            user = session.scalar(known) if USER_NAME.fullmatch(name) else None
            stored = user.password if user is not None else placeholder_hash()
            active = user is not None and user.active
        if max(waits) > 0:
            raise WaitError(max(waits))
        right = verify_password(stored, password) and active
        with self._begin() as session:
            if not right:
                _log(session, name, "log-in refused", "", address)
            else:
                user = get_user(session, name)
                for kind, key in keys.items():
                    session.execute(
                        sa.delete(AttemptRow).where(AttemptRow.kind == kind, AttemptRow.key == key)
                        if kind == "user"
                        else sa.delete(AttemptRow).where(
                            AttemptRow.id
                            == sa.select(sa.func.max(AttemptRow.id))
                            .where(AttemptRow.kind == kind, AttemptRow.key == key)
                            .scalar_subquery()
                        )
                    )
                if password_hasher.check_needs_rehash(user.password):
                    user.password = password_hasher.hash(password)
                secret = secrets.token_urlsafe(32)
                now = current_time()
                session.execute(sa.delete(SessionRow).where(SessionRow.expires < now))
                session.add(
                    SessionRow(
                        hash=secret_digest(secret),
                        user=user.id,
                        expires=now + SESSION_LIFETIME.total_seconds(),
                        used=now,
                    )
                )
                _log(session, name, "logged in", "", address)
        if not right:
            raise RefusedError("name and password do not belong together")
        return secret

    def person_of(self, secret: str) -> Person | None:
        """Give the person whose open session this is; None if it is nobody's, or over."""
        now, key = current_time(), secret_digest(secret)
        with self._read() as session:
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
        if now > used + 60:
            with self._begin() as session:
                session.execute(
                    sa.update(SessionRow).where(SessionRow.hash == key).values(used=now)
                )
        return person

    def log_out(self, secret: str) -> None:
        """End a session."""
        with self._begin() as session:
            session.execute(sa.delete(SessionRow).where(SessionRow.hash == secret_digest(secret)))

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
            user = get_user(session, name)
            live = sa.select(sa.func.count(TokenRow.id)).where(
                TokenRow.user == user.id, ~TokenRow.revoked
            )
            if (session.scalar(live) or 0) >= 20:
                raise ReviewError("there are 20 tokens already: revoke one first")
            session.add(
                TokenRow(
                    user=user.id, name=label[:64], hash=secret_digest(token), created=current_time()
                )
            )
            _log(session, name, "token made", label[:64])
        return token

    def tokens(self, name: str) -> list[dict[str, Any]]:
        """List a user's tokens that are not revoked: number, name and date."""
        with self._read() as session:
            user = get_user(session, name)
            found = session.scalars(
                sa.select(TokenRow)
                .where(TokenRow.user == user.id, ~TokenRow.revoked)
                .order_by(TokenRow.id)
            )
            return [{"id": t.id, "name": t.name, "created": iso_time(t.created)} for t in found]

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
            token = session.get(TokenRow, number) if 0 < number < 2**31 else None
            if token is None or token.revoked or token.user != get_user(session, name).id:
                raise ReviewError(f"there is no token {number}")
            token.revoked = True
            _log(session, name, "token revoked", token.name)

    def person_of_token(self, token: str) -> Person | None:
        """Give the person whose token this is; None if it is nobody's, or revoked."""
        with self._read() as session:
            user = session.scalar(
                sa.select(UserRow)
                .join(TokenRow, UserRow.id == TokenRow.user)
                .where(TokenRow.hash == secret_digest(token), ~TokenRow.revoked, UserRow.active)
            )
            return None if user is None else person_from_row(user)

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
        if note is not None and len(note) > MAX_NOTE_LENGTH:
            raise ReviewError(
                f"a note of {len(note):,} characters: {MAX_NOTE_LENGTH:,} is the most"
            )
        if note is not None and "\0" in note:
            raise ReviewError("a note cannot hold a NUL character")
        with self._begin() as session:
            user = get_user(session, name)
            person_from_row(user).need("reviewer")
            _in_turn(
                session.connection(), f"judge {name}"
            )  # what is None stays as the act before had it
            last = session.scalar(_current(archive, cutout=cutout, user=user.id))
            act = ActRow(
                archive=archive,
                cutout=cutout,
                user=user.id,
                verdict=verdict if verdict is not None else last.verdict if last else "",
                length=length if length is not None else last.length if last else "",
                note=note if note is not None else last.note if last else "",
                marked=marked if marked is not None else last.marked if last else False,
                at=current_time(),
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
            user = get_user(session, name)
            person_from_row(user).need("reviewer")
            _in_turn(session.connection(), f"judge {name}")
            act = session.scalar(
                sa.select(ActRow)
                .where(ActRow.archive == archive, ActRow.user == user.id, ~ActRow.undone)
                .order_by(ActRow.id.desc())
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
            names = dict(session.execute(sa.select(UserRow.id, UserRow.name)).all())
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
            (said.cutout, said.who, family, label, verdict_words(said))
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
                sa.select(LogRow).order_by(LogRow.id.desc()).limit(limit).offset(offset)
            )
            return [
                {
                    "at": iso_time(row.at),
                    "who": row.who,
                    "what": row.what,
                    "detail": row.detail,
                    "address": row.address,
                }
                for row in rows
            ]


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
    last = sa.select(sa.func.max(ActRow.id)).where(ActRow.archive == archive, ~ActRow.undone)
    if cutout is not None:
        last = last.where(ActRow.cutout == cutout)
    if user is not None:
        last = last.where(ActRow.user == user)
    last = last.group_by(ActRow.cutout, ActRow.user)
    return sa.select(ActRow).where(ActRow.id.in_(last)).order_by(ActRow.id)


def _verdict(act: ActRow, name: str) -> Verdict:
    return Verdict(
        act.cutout, name, act.verdict, act.length, act.note, bool(act.marked), iso_time(act.at)
    )


def _log(session: Session, who: str, what: str, detail: str = "", address: str = "") -> None:
    clean = "".join(c for c in who if c.isprintable())[:64]
    session.add(
        LogRow(at=current_time(), who=clean, what=what, detail=detail[:512], address=address[:64])
    )
