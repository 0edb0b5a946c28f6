"""What the nightly service remembers, in an SQLite file: files, nights, candidates, and messages to deliver.

Every change is one transaction, so that a kill leaves the state as it was before or after; what is recorded twice is
there once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert

from deepstreaks_dask.service.depots import Remote
from deepstreaks_dask.service.night_calendar import GIVEN_UP, LATE_DAYS, SCORED, Calendar
from deepstreaks_dask.service.outbox import Message, Outbox
from deepstreaks_dask.service.schema import (
    CANDIDATE_COLUMNS,
    candidates,
    files,
    marks,
    open_database,
    switches,
    tallies,
)

WAITING, BROKEN, DONE = "waiting", "broken", "done"
"""States of a file: still to be taken; taken as far as it was whole; taken."""


@dataclass(frozen=True)
class Turn:
    """The rows of the archive that are a run's.

    Attributes
    ----------
    run : str
        Name of the run.
    row : int
        All rows from this one on.
    since : int or None
        Of the rows before, those of this night (YYYYMMDD) and of later ones; None if none.
    """

    run: str
    row: int = 0
    since: int | None = None


class Ledger:
    """The state of a service.

    Parameters
    ----------
    path : Path
        The SQLite file; made if it is not there.
    channels : sequence of str
        Names of the channels over which people are told.
    late_days : int
        Days for which files of a night may come late.

    Attributes
    ----------
    calendar : Calendar
        The nights.
    outbox : Outbox
        Messages to deliver.

    Raises
    ------
    DepotError
        If it is no SQLite file of such a service.
    """

    def __init__(
        self, path: Path, channels: Sequence[str] = (), *, late_days: int = LATE_DAYS
    ) -> None:
        self._engine = open_database(path)
        self.calendar = Calendar(self._engine, late_days)
        self.outbox = Outbox(self._engine, channels)

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()

    def see(self, remotes: Iterable[Remote]) -> int:
        """Note files that a listing shows; those that changed wait again. Return how many are new."""
        now, new = time.time(), 0
        with self._engine.begin() as connection:
            for remote in remotes:
                here = (files.c.night == remote.night) & (files.c.name == remote.name)
                stamp = connection.execute(select(files.c.stamp).where(here)).scalar()
                if stamp is None:
                    new += 1
                    row = {"night": remote.night, "name": remote.name, "stamp": remote.stamp}
                    times = {"state": WAITING, "seen": now, "changed": now}
                    connection.execute(insert(files).values(**row, **times))
                elif stamp != remote.stamp:
                    changes = {"stamp": remote.stamp, "state": WAITING, "changed": now}
                    connection.execute(update(files).where(here).values(**changes))
        return new

    def files(self, night: int | None = None, *states: str) -> list[dict[str, Any]]:
        """Return files, those of a night and in given states if any are.

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
        query = select(files).order_by(files.c.night, files.c.name)
        if night is not None:
            query = query.where(files.c.night == night)
        if states:
            query = query.where(files.c.state.in_(states))
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
        here = (files.c.night == night) & (files.c.name == name)
        with self._engine.begin() as connection:
            connection.execute(update(files).where(here).values(**values))

    def oldest_waiting(self) -> float | None:
        """Return when the file that has waited longest was first seen, in seconds since 1970."""
        query = select(func.min(files.c.seen)).where(files.c.state == WAITING)
        with self._engine.connect() as connection:
            return connection.execute(query).scalar()

    def mark(self, run: str) -> int:
        """Return how many of the archive's rows a run has decided on, those of the runs before it among them."""
        with self._engine.connect() as connection:
            query = select(marks.c.rows).where(marks.c.run == run)
            return connection.execute(query).scalar() or 0

    def turn(self) -> Turn | None:
        """Return whose turn it is now: the run of what is new; None before the first."""
        query = select(switches.c.run, switches.c.row, switches.c.since)
        with self._engine.connect() as connection:
            last = connection.execute(query.order_by(switches.c.number.desc()).limit(1)).first()
        return Turn(*last) if last else None

    def switch(self, run: str, since: int | None = None, first_row: int = 0) -> Turn:
        """Let a run go on where the last one ended; a run whose turn it is already just goes on.

        Parameters
        ----------
        run : str
            Name of the run that scores from now on.
        since : int, optional
            Night, YYYYMMDD, from which on the past is to be scored by it, too.
        first_row : int
            First row of the archive that is of that night or a later one.

        Returns
        -------
        Turn
            The run's rows.
        """
        last = self.turn()
        mine = last is not None and last.run == run
        if last is not None and mine and (since is None or _reaches(last.since, since)):
            return last
        ended = self.mark(last.run) if last else 0
        turn = Turn(run, ended, since)
        with self._engine.begin() as connection:
            values = {"run": run, "row": ended, "since": since, "time": time.time()}
            connection.execute(insert(switches).values(**values))
            _set_mark(connection, run, ended if since is None else min(first_row, ended))
            if since is not None:
                connection.execute(delete(tallies).where(tallies.c.night >= since))
        return turn

    def record(
        self,
        found: Sequence[Mapping[str, Any]],
        run: str,
        rows: int,
        *,
        cutouts: Mapping[int, int],
        tell: Callable[[list[Mapping[str, Any]]], Message] | None = None,
    ) -> None:
        """Record candidates, move the mark, and queue a message about those that are new: all or nothing.

        Parameters
        ----------
        found : sequence of mapping
            Columns of each candidate; one that is known by its id and run is replaced.
        run : str
            That decided.
        rows : int
            Of the archive, up to which it has decided.
        cutouts : mapping of int to int
            Cutouts that were decided on, by night.
        tell : callable, optional
            Makes the message about candidates that nobody was told of yet.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._engine.begin() as connection:
            for one in found:
                row = {**one, "run": run, "recorded": now}
                changes = {name: value for name, value in row.items() if name not in ("id", "run")}
                connection.execute(
                    insert(candidates)
                    .values(**row)
                    .on_conflict_do_update(index_elements=["id", "run"], set_=changes)
                )
            for night, count in cutouts.items():
                _count(connection, night, run, count)
            self.calendar.reopen_scored(connection, cutouts)
            _set_mark(connection, run, rows)
            new = self.outbox.untold(connection, (one["id"] for one in found))
            if new and tell is not None:
                self.outbox.queue(connection, tell([one for one in found if one["id"] in new]))

    def finish(self, night: int, message: Message) -> None:
        """Note that a night is scored, and queue a message about it.

        Parameters
        ----------
        night : int
            YYYYMMDD.
        message : Message
            About its numbers.
        """
        with self._engine.begin() as connection:
            self.calendar.settle(connection, night, SCORED)
            self.outbox.queue(connection, message)

    def give_up(self, night: int, detail: str, message: Message) -> None:
        """Note that a night is given up, and queue a message about it.

        Parameters
        ----------
        night : int
            YYYYMMDD.
        detail : str
            Why.
        message : Message
            About it.
        """
        with self._engine.begin() as connection:
            self.calendar.settle(connection, night, GIVEN_UP, detail)
            self.outbox.queue(connection, message)

    def numbers(self, night: int) -> dict[str, int]:
        """Return how many ``files``, ``waiting`` among them, ``cutouts`` and ``candidates`` a night has.

        Parameters
        ----------
        night : int
            YYYYMMDD.

        Returns
        -------
        dict of str to int
            A candidate of two runs counts once.
        """
        queries = {
            "files": select(func.count()).where(files.c.night == night),
            "waiting": select(func.count()).where(
                (files.c.night == night) & (files.c.state == WAITING)
            ),
            "cutouts": select(func.coalesce(func.sum(tallies.c.cutouts), 0)).where(
                tallies.c.night == night
            ),
            "candidates": select(func.count(candidates.c.id.distinct())).where(
                candidates.c.night == night
            ),
        }
        with self._engine.connect() as connection:
            return {name: connection.execute(query).scalar_one() for name, query in queries.items()}

    def complete(self, night: int, streaks: pd.DataFrame) -> int:
        """Add the values of a late table to candidates that have no position yet; return how many.

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
            here = (candidates.c.night == night) & candidates.c.ra.is_(None)
            names = connection.execute(select(candidates.c.id).where(here).distinct())
            for name in names.scalars().all():
                streak = name.removeprefix("strkid").split("_")[0]
                if not streak.isdecimal() or int(streak) not in streaks.index:
                    continue
                row = streaks.loc[int(streak)]
                said = {
                    k: row[k]
                    for k in CANDIDATE_COLUMNS
                    if k in row and row[k] == row[k] and row[k] != ""
                }
                if said:
                    changed += 1
                    this = candidates.c.id == name
                    connection.execute(update(candidates).where(this).values(**said))
        return changed

    def candidates(self, night: int | None = None, run: str | None = None) -> pd.DataFrame:
        """Return the candidates, a row for each id and run.

        Parameters
        ----------
        night : int, optional
            Only those of a night, YYYYMMDD.
        run : str, optional
            Only those of a run.

        Returns
        -------
        pandas.DataFrame
            ``(candidate, column)``, by id and run.
        """
        query = select(candidates).order_by(candidates.c.id, candidates.c.run)
        if night is not None:
            query = query.where(candidates.c.night == night)
        if run is not None:
            query = query.where(candidates.c.run == run)
        with self._engine.connect() as connection:
            return pd.DataFrame(
                connection.execute(query).mappings().all(), columns=candidates.c.keys()
            )


def _reaches(begins: int | None, since: int) -> bool:
    return begins is not None and begins <= since


def _set_mark(connection: Connection, run: str, rows: int) -> None:
    row = insert(marks).values(run=run, rows=rows)
    connection.execute(row.on_conflict_do_update(index_elements=["run"], set_={"rows": rows}))


def _count(connection: Connection, night: int, run: str, cutouts: int) -> None:
    row = insert(tallies).values(night=night, run=run, cutouts=cutouts)
    added = {"cutouts": tallies.c.cutouts + cutouts}
    connection.execute(row.on_conflict_do_update(index_elements=["night", "run"], set_=added))
