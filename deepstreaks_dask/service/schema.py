"""Tables of the service's state, an SQLite file, and how an older one becomes a newer one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    URL,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    inspect,
    text,
)
from sqlalchemy.exc import DatabaseError

from deepstreaks_dask.errors import DepotError

VERSION = 2
"""Of the tables, in SQLite's ``user_version``; 0 and 1 are those of 0.1.0."""

metadata = MetaData()
files = Table(
    "files",
    metadata,
    Column("night", Integer, primary_key=True),
    Column("name", String, primary_key=True),
    Column("stamp", String, nullable=False),
    Column("state", String, nullable=False),
    Column("seen", Float, nullable=False),  # seconds since 1970, as are all times here
    Column("changed", Float, nullable=False),
    Column("detail", String, nullable=False, default=""),
)
nights = Table(
    "nights",
    metadata,
    Column("night", Integer, primary_key=True),
    Column("state", String, nullable=False),
    Column("changed", Float, nullable=False),  # the state
    Column("seen", Float),  # when files were there first
    Column("looked", Float),  # when it need not be looked at again for a while
    Column("detail", String, nullable=False, default=""),
)
settings = Table(
    "settings",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", Integer, nullable=False),
)
CANDIDATE_COLUMNS = ("jd", "filter", "ra", "dec", "length", "mag")
candidates = Table(
    "candidates",
    metadata,
    Column("id", String, primary_key=True),
    Column("run", String, primary_key=True),
    Column("night", Integer, nullable=False, index=True),
    *(Column(name, String if name == "filter" else Float) for name in CANDIDATE_COLUMNS),
    Column("scores", JSON, nullable=False),
    Column("recorded", String, nullable=False),
)
marks = Table(
    "marks",
    metadata,
    Column("run", String, primary_key=True),
    Column("rows", Integer, nullable=False),
)
switches = Table(
    "switches",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("run", String, nullable=False),
    Column("row", Integer, nullable=False),  # from which on all rows are this run's
    Column("since", Integer),  # rows before are, too, if they are of this night or a later one
    Column("time", Float, nullable=False),
)
tallies = Table(
    "tallies",
    metadata,
    Column("night", Integer, primary_key=True),
    Column("run", String, primary_key=True),
    Column("cutouts", Integer, nullable=False),
)
told = Table("told", metadata, Column("id", String, primary_key=True))
outbox = Table(
    "outbox",
    metadata,
    Column("key", String, primary_key=True),
    Column("channel", String, primary_key=True),
    Column("subject", String, nullable=False),
    Column("text", String, nullable=False),
    Column("queued", Float, nullable=False),
    Column("tries", Integer, nullable=False, default=0),
    Column("next", Float, nullable=False),
    Column("sent", Float),
    Column("error", String, nullable=False, default=""),
)


def open_database(path: Path) -> Engine:
    """Open the state, make it if it is not there, bring it up to date if it is an older one.

    Parameters
    ----------
    path : Path
        The SQLite file; nobody else may read it.

    Returns
    -------
    sqlalchemy.Engine
        Every change through it is one transaction.

    Raises
    ------
    DepotError
        If it is no SQLite file, or a newer version made it.
    """
    engine = create_engine(URL.create("sqlite", database=str(path)))

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy's "begin" below begins
        connection.execute("PRAGMA journal_mode=WAL")  # others may read while we write
        connection.execute("PRAGMA busy_timeout=30000")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")  # tables are changed within it, too

    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        with engine.begin() as connection:
            _migrate(connection, path)
    except DatabaseError as error:
        raise DepotError(f"{path} is no record of this service: {error.orig}") from error
    return engine


def _migrate(connection: Connection, path: Path) -> None:
    version = connection.exec_driver_sql("PRAGMA user_version").scalar() or 0
    if version > VERSION:
        raise DepotError(
            f"{path} was written by a newer version ({version}, not {VERSION}): update this one"
        )
    old = version < VERSION and inspect(connection).has_table("candidates")
    if old:  # one candidate an id, whatever the run
        connection.execute(text("ALTER TABLE candidates RENAME TO candidates_of_1"))
        connection.execute(text("DROP INDEX IF EXISTS ix_candidates_night"))
    metadata.create_all(connection)
    if old:
        names = ", ".join(column.name for column in candidates.columns)
        connection.execute(
            text(f"INSERT INTO candidates ({names}) SELECT {names} FROM candidates_of_1")  # noqa: S608
        )
        connection.execute(text("DROP TABLE candidates_of_1"))
        _carry_over(connection)
    connection.exec_driver_sql(f"PRAGMA user_version={VERSION}")


def _carry_over(connection: Connection) -> None:
    """Make a calendar of an older state: it begins with its last night, and what was found is not told again."""
    for statement in (
        "INSERT INTO told SELECT DISTINCT id FROM candidates",
        "INSERT INTO nights (night, state, changed, seen, detail) SELECT night, "
        "CASE WHEN sum(state = 'waiting') THEN 'seen' ELSE 'scored' END, max(changed), min(seen), '' "
        "FROM files GROUP BY night",
        "INSERT INTO settings SELECT 'begins', max(night) FROM files HAVING count(*) > 0",
        "INSERT INTO switches (run, row, since, time) SELECT run, 0, NULL, 0 FROM marks ORDER BY rows",
    ):
        connection.execute(text(statement))
