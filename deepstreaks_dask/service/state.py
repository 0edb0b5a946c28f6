"""What the nightly service remembers: the depot's files and the candidates, in an SQLite file.

Every change is one transaction, so that a kill leaves it as it was before or after; what is told twice is there
once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import (
    JSON,
    Column,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError

from deepstreaks_dask.errors import DepotError
from deepstreaks_dask.service.depots import Remote

WAITING, BROKEN, DONE = "waiting", "broken", "done"
"""States of a file: still to be taken; taken as far as it was whole; taken."""

_metadata = MetaData()
_files = Table(
    "files",
    _metadata,
    Column("night", Integer, primary_key=True),
    Column("name", String, primary_key=True),
    Column("stamp", String, nullable=False),
    Column("state", String, nullable=False),
    Column("seen", Float, nullable=False),  # seconds since 1970, as is the next
    Column("changed", Float, nullable=False),
    Column("detail", String, nullable=False, default=""),
)
_known = ("jd", "filter", "ra", "dec", "length", "mag")
_candidates = Table(
    "candidates",
    _metadata,
    Column("id", String, primary_key=True),
    Column("night", Integer, nullable=False, index=True),
    *(Column(name, String if name == "filter" else Float) for name in _known),
    Column("scores", JSON, nullable=False),
    Column("run", String, nullable=False),
    Column("recorded", String, nullable=False),
)
_marks = Table(
    "marks",
    _metadata,
    Column("run", String, primary_key=True),
    Column("rows", Integer, nullable=False),
)


class Ledger:
    """Files and candidates.

    Parameters
    ----------
    path : Path
        The SQLite file; made if it is not there.

    Raises
    ------
    DepotError
        If it is no SQLite file.
    """

    def __init__(self, path: Path) -> None:
        self._engine = create_engine(f"sqlite:///{path}")

        @event.listens_for(self._engine, "connect")
        def _set_up(connection: Any, _: Any) -> None:
            connection.execute("PRAGMA journal_mode=WAL")  # others may read while we write
            connection.execute("PRAGMA busy_timeout=30000")

        try:
            _metadata.create_all(self._engine)
        except DatabaseError as error:
            raise DepotError(f"{path} is no record of this service: {error.orig}") from error

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    def see(self, remotes: Iterable[Remote]) -> int:
        """Note files that a listing shows; those that changed wait again. Give how many are new."""
        now, new = time.time(), 0
        with self._engine.begin() as connection:
            for remote in remotes:
                here = (_files.c.night == remote.night) & (_files.c.name == remote.name)
                stamp = connection.execute(select(_files.c.stamp).where(here)).scalar()
                if stamp is None:
                    new += 1
                    row = {"night": remote.night, "name": remote.name, "stamp": remote.stamp}
                    times = {"state": WAITING, "seen": now, "changed": now}
                    connection.execute(insert(_files).values(**row, **times))
                elif stamp != remote.stamp:
                    changes = {"stamp": remote.stamp, "state": WAITING, "changed": now}
                    connection.execute(_files.update().where(here).values(**changes))
        return new

    def files(self, night: int | None = None, *states: str) -> list[dict[str, Any]]:
        """Give files, those of a night and in given states if any are.

        Parameters
        ----------
        night : int, optional
            YYYYMMDD; all by default.
        *states : str
            Of :data:`DONE`, :data:`WAITING` and :data:`BROKEN`; all by default.

        Returns
        -------
        list of dict
            By night and name.
        """
        query = select(_files).order_by(_files.c.night, _files.c.name)
        if night is not None:
            query = query.where(_files.c.night == night)
        if states:
            query = query.where(_files.c.state.in_(states))
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def settle(self, night: int, name: str, state: str, detail: str = "") -> None:
        """Note what became of a file.

        Parameters
        ----------
        night : int
            YYYYMMDD.
        name : str
            Of the file.
        state : str
            :data:`DONE`, :data:`WAITING` or :data:`BROKEN`.
        detail : str
            Why.
        """
        self._change(night, name, state=state, detail=detail[:500])

    def touch(self, night: int, name: str) -> None:
        """Note that a file has other content now.

        Parameters
        ----------
        night : int
            YYYYMMDD.
        name : str
            Of the file.
        """
        self._change(night, name, changed=time.time())

    def _change(self, night: int, name: str, **values: Any) -> None:
        here = (_files.c.night == night) & (_files.c.name == name)
        with self._engine.begin() as connection:
            connection.execute(_files.update().where(here).values(**values))

    def oldest_waiting(self) -> float | None:
        """When the file that has waited longest was first seen, in seconds since 1970."""
        query = select(func.min(_files.c.seen)).where(_files.c.state == WAITING)
        with self._engine.connect() as connection:
            return connection.execute(query).scalar()

    def mark(self, run: str) -> int:
        """How many of the archive's rows have been decided on."""
        with self._engine.connect() as connection:
            query = select(_marks.c.rows).where(_marks.c.run == run)
            return connection.execute(query).scalar() or 0

    def record(self, candidates: Sequence[Mapping[str, Any]], run: str, rows: int) -> None:
        """Put candidates in, or over what is known of the same ones, and move the mark: all or nothing.

        Parameters
        ----------
        candidates : sequence of mapping
            Columns of each.
        run : str
            That decided.
        rows : int
            Of the archive, up to which it has decided.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._engine.begin() as connection:
            for candidate in candidates:
                row = {**candidate, "run": run, "recorded": now}
                changes = {name: value for name, value in row.items() if name != "id"}
                connection.execute(
                    insert(_candidates)
                    .values(**row)
                    .on_conflict_do_update(index_elements=["id"], set_=changes)
                )
            connection.execute(
                insert(_marks)
                .values(run=run, rows=rows)
                .on_conflict_do_update(index_elements=["run"], set_={"rows": rows})
            )

    def complete(self, night: int, streaks: pd.DataFrame) -> int:
        """Add what a late table says to candidates that have no position yet; give how many.

        Parameters
        ----------
        night : int
            YYYYMMDD.
        streaks : pandas.DataFrame
            A row a streak.

        Returns
        -------
        int
            Candidates that have a position now.
        """
        changed = 0
        with self._engine.begin() as connection:
            here = (_candidates.c.night == night) & _candidates.c.ra.is_(None)
            for name in connection.execute(select(_candidates.c.id).where(here)).scalars().all():
                streak = name.removeprefix("strkid").split("_")[0]
                if not streak.isdecimal() or int(streak) not in streaks.index:
                    continue
                row = streaks.loc[int(streak)]
                said = {k: row[k] for k in _known if k in row and row[k] == row[k] and row[k] != ""}
                if said:
                    changed += 1
                    this = _candidates.c.id == name
                    connection.execute(_candidates.update().where(this).values(**said))
        return changed

    def candidates(self, night: int | None = None) -> pd.DataFrame:
        """Give the candidates, a row each; those of a night (YYYYMMDD) if one is given."""
        query = select(_candidates).order_by(_candidates.c.id)
        if night is not None:
            query = query.where(_candidates.c.night == night)
        with self._engine.connect() as connection:
            return pd.DataFrame(
                connection.execute(query).mappings().all(), columns=_candidates.c.keys()
            )
