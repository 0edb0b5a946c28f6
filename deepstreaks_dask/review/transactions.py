"""The database of a review: its engine, its transactions, its schema and its audit log.

What a transaction has written is on the disk when the block that opened it ends.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from deepstreaks_dask.review.migrations import upgrade
from deepstreaks_dask.review.people import ReviewError
from deepstreaks_dask.review.schema import LogRow, current_time, iso_time

_SQLITE_PRAGMAS = (
    "busy_timeout=30000",
    "journal_mode=WAL",
    "synchronous=FULL",  # what was acknowledged outlives a power cut
    "foreign_keys=ON",
)
CLI = "cli"
"""Who does what a command does; the user of the machine is in the entry's address."""

REFUSALS = ("log-in refused", "log-in put off", "refused")
"""Entries that anybody can cause, however often: they are bounded by themselves, and push out nothing else."""

MAX_REFUSAL_ENTRIES = 20_000
"""Refusals in the audit log; older ones are dropped."""

MAX_OTHER_ENTRIES = 1_000_000
"""Other entries in the audit log; older ones are dropped."""

_SQLITE_SUFFIXES = ("-wal", "-shm", "-journal")
_PRUNE_EVERY = 256  # entries between two looks at the bounds
_MAX_LOGGED_NAME, _MAX_LOGGED_DETAIL, _MAX_LOGGED_ADDRESS = 64, 512, 64  # characters of columns


class Database:
    """A review database, SQLite or PostgreSQL.

    Parameters
    ----------
    url : str
        SQLAlchemy's URL: ``sqlite:////path/to/file`` or ``postgresql+psycopg://…``. A SQLite file that does not exist is
        created; an older schema is upgraded.

    Raises
    ------
    ReviewError
        If the database cannot be opened.
    SchemaError
        If a newer version of this package made the database.
    """

    def __init__(self, url: str) -> None:
        try:
            self.engine = sa.create_engine(url, pool_pre_ping=True)
            if self.engine.dialect.name == "sqlite":
                _keep_private(self.engine.url.database)
                _prepare_sqlite(self.engine)
            with self.engine.begin() as connection:
                _lock(connection, "schema")
                upgrade(connection)
        except (sa.exc.SQLAlchemyError, ImportError, OSError) as error:
            words = str(getattr(error, "orig", None) or error).splitlines()[0]
            shown = re.sub(r"//[^@/]*@", "//…@", url)  # never a password
            raise ReviewError(f"cannot open the review database {shown}: {words}") from None

    @contextmanager
    def write(self, *locks: str) -> Iterator[Session]:
        """Open a transaction that writes; it is committed when the block ends and rolled back on an error.

        Parameters
        ----------
        *locks : str
            Names; of all transactions that name the same lock, one at a time runs.

        Yields
        ------
        sqlalchemy.orm.Session
            The transaction.
        """
        with Session(self.engine) as session, session.begin():
            _lock(session.connection(), *locks)
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a transaction that only reads, and so does not wait for those that write.

        Yields
        ------
        sqlalchemy.orm.Session
            The transaction.
        """
        with Session(self.engine.execution_options(reading=True)) as session:
            yield session

    def record(self, who: str, what: str, detail: str = "", address: str = "") -> None:
        """Write an entry of the audit log in a transaction of its own: see :func:`log`.

        Parameters
        ----------
        who : str
            User name.
        what, detail : str
            The action and its object.
        address : str
            Network address that the request came from.
        """
        with self.write() as session:
            log(session, who, what, detail, address)

    def audit_log(self, *, limit: int = 200, offset: int = 0) -> list[dict[str, Any]]:
        """Return what was done, and what was refused, the newest first.

        Parameters
        ----------
        limit : int
            Entries at most.
        offset : int
            Entries to skip first.

        Returns
        -------
        list of dict
            ``at`` (ISO 8601, UTC), ``who``, ``what``, ``detail`` and ``address``.
        """
        newest = sa.select(LogRow).order_by(LogRow.id.desc()).limit(limit).offset(offset)
        with self.read() as session:
            return [
                {
                    "at": iso_time(row.at),
                    "who": row.who,
                    "what": row.what,
                    "detail": row.detail,
                    "address": row.address,
                }
                for row in session.scalars(newest)
            ]

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def log(session: Session, who: str, what: str, detail: str = "", address: str = "") -> None:
    """Write an entry of the audit log.

    Parameters
    ----------
    session : sqlalchemy.orm.Session
        The transaction that does what is logged.
    who : str
        User name as it was given, known or not.
    what, detail : str
        The action and its object.
    address : str
        Network address that the request came from.
    """
    entry = LogRow(
        at=current_time(),
        who=_printable(who)[:_MAX_LOGGED_NAME],
        what=what,
        detail=_printable(detail)[:_MAX_LOGGED_DETAIL],
        address=(address or (_operator() if who == CLI else ""))[:_MAX_LOGGED_ADDRESS],
    )
    session.add(entry)
    session.flush()
    if entry.id % _PRUNE_EVERY == 0:
        _prune(session, LogRow.what.in_(REFUSALS), MAX_REFUSAL_ENTRIES)
        _prune(session, LogRow.what.not_in(REFUSALS), MAX_OTHER_ENTRIES)


def sqlite_url(path: str) -> str:
    """Return SQLAlchemy's URL of a SQLite file, whatever characters its path holds.

    Parameters
    ----------
    path : str
        Path of the file.

    Returns
    -------
    str
        The URL.

    Examples
    --------
    >>> sqlite_url("/data/night?1.sqlite")
    'sqlite:////data/night%3F1.sqlite'
    """
    return sa.URL.create("sqlite", database=path).render_as_string(hide_password=False)


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable())


def _operator() -> str:
    """Return the user of this machine, and the machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        user = f"user {os.getuid()}"
    return f"{user} on {socket.gethostname()}"


def _prune(session: Session, kind: sa.ColumnElement[bool], most: int) -> None:
    """Drop the oldest entries of a kind beyond the most that are kept."""
    oldest = session.scalar(
        sa.select(LogRow.id).where(kind).order_by(LogRow.id.desc()).offset(most).limit(1)
    )
    if oldest is not None:
        session.execute(sa.delete(LogRow).where(kind, LogRow.id <= oldest))


def _keep_private(database: str | None) -> None:
    """Let nobody else read a SQLite file, nor the files that SQLite writes beside it with the same permissions."""
    if not database or database == ":memory:" or database.startswith("file:"):
        return
    path = Path(database)
    if not path.exists():
        with suppress(FileExistsError):  # made by another process meanwhile, in this same way
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    for one in (path, *(Path(f"{path}{suffix}") for suffix in _SQLITE_SUFFIXES)):
        with suppress(FileNotFoundError, PermissionError):  # of another user: not ours to change
            if stat.S_IMODE(one.stat().st_mode) & 0o077:
                one.chmod(0o600)


def _prepare_sqlite(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy begins; the driver must not
        cursor = connection.cursor()
        for pragma in _SQLITE_PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        # A transaction that reads first and writes later could not wait for its turn.
        reading = connection.get_execution_options().get("reading")
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _lock(connection: sa.Connection, *names: str) -> None:
    """Hold locks until the transaction ends. SQLite needs none, since it lets only one transaction write."""
    if connection.dialect.name == "postgresql":
        digests = (hashlib.sha256(name.encode()).digest()[:8] for name in names)
        for number in sorted(int.from_bytes(digest, signed=True) for digest in digests):
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))
