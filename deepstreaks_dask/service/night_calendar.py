"""The calendar of nights: what became of each night that the service is responsible for.

A night is expected until the depot has files of it (seen); complete once it is over and all of them are taken; scored once
all of its cutouts are. What does not come to that in :data:`LATE_DAYS` days is given up, with the reason. A night
that is not tonight and neither scored nor given up is a gap.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.dialects.sqlite import insert

from deepstreaks_dask.service.nights import age_in_days, nights_from, tonight_utc
from deepstreaks_dask.service.schema import nights, settings

EXPECTED, SEEN, COMPLETE, SCORED, GIVEN_UP = "expected", "seen", "complete", "scored", "given up"
STATES = (EXPECTED, SEEN, COMPLETE, SCORED, GIVEN_UP)
"""States of a night."""

LATE_DAYS = 14
"""Days for which files of a night may come late."""

_DAY = 86400.0  # seconds
_LOOKS_PER_AGE = 50  # a night that was a day ago is looked at every half an hour


class Calendar:
    """Nights and their states.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        Of the state.
    late_days : int
        Days for which files may come late.
    """

    def __init__(self, engine: Engine, late_days: int = LATE_DAYS) -> None:
        self._engine, self.late_days = engine, late_days

    def begin(self, first: int) -> int:
        """Return the night that the calendar begins with: the earliest that was ever given.

        Parameters
        ----------
        first : int
            YYYYMMDD.

        Returns
        -------
        int
            YYYYMMDD.
        """
        here = settings.c.name == "begins"
        with self._engine.begin() as connection:
            known = connection.execute(select(settings.c.value).where(here)).scalar()
            begins = first if known is None else min(first, known)
            row = insert(settings).values(name="begins", value=begins)
            connection.execute(
                row.on_conflict_do_update(index_elements=["name"], set_={"value": begins})
            )
        return begins

    def expect_until_tonight(self, first: int) -> None:
        """Expect all nights from the calendar's first, or an earlier one, until tonight."""
        self.expect(nights_from(self.begin(first), tonight_utc()))

    def expect(self, wanted: Iterable[int]) -> None:
        """Expect nights that are not in the calendar yet.

        Parameters
        ----------
        wanted : iterable of int
            YYYYMMDD.
        """
        rows = [{"night": night, "state": EXPECTED, "changed": time.time()} for night in wanted]
        if rows:
            with self._engine.begin() as connection:
                connection.execute(insert(nights).on_conflict_do_nothing(), rows)

    def reopen(self, wanted: Iterable[int]) -> None:
        """Expect nights again that were given up."""
        chosen = nights.c.night.in_(list(wanted)) & (nights.c.state == GIVEN_UP)
        with self._engine.begin() as connection:
            connection.execute(
                update(nights).where(chosen).values(state=EXPECTED, detail="", changed=time.time())
            )

    def wake(self) -> None:
        """Let all nights be looked at again at once."""
        with self._engine.begin() as connection:
            connection.execute(update(nights).values(looked=None))

    def due(self) -> list[int]:
        """Return the nights to look at now, tonight first, then backwards.

        Tonight and last night are always among them; the older a night is, the more rarely it is looked at. Nights of
        which something waits are looked at each time. Those that are scored or given up, and too old for late files, are
        not.
        """
        now, chosen = time.time(), []
        for row in reversed(self.rows()):
            age = age_in_days(row["night"])
            closed = row["state"] in (SCORED, GIVEN_UP) and age > self.late_days
            pause = 0.0 if age <= 1 else min(age * _DAY / _LOOKS_PER_AGE, _DAY)
            rests = row["looked"] is not None and 0 <= now - row["looked"] < pause
            if not closed and not rests:
                chosen.append(row["night"])
        return chosen

    def note(
        self,
        night: int,
        *,
        files: int,
        waiting: int,
        all_in: bool,
        fresh: bool = False,
    ) -> None:
        """Note what a look at a night has shown.

        Parameters
        ----------
        night : int
            YYYYMMDD.
        files, waiting : int
            Files of the night that are known, and that are still to be taken.
        all_in : bool
            No more files are to be expected now.
        fresh : bool
            Some of them came just now.
        """
        now = time.time()
        row = self.row(night)
        state = row["state"]
        if waiting or fresh or (files and state in (EXPECTED, GIVEN_UP)):
            state = SEEN
        if files and not waiting and state == SEEN and all_in:
            state = COMPLETE
        values: dict[str, Any] = {"looked": None if waiting else now}
        if files and row["seen"] is None:
            values["seen"] = now
        if state != row["state"]:
            values |= {"state": state, "changed": now, "detail": ""}
        with self._engine.begin() as connection:
            connection.execute(update(nights).where(nights.c.night == night).values(**values))

    def rest(self, night: int) -> None:
        """Note that a look at a night failed, so that older nights do not take all of the time."""
        with self._engine.begin() as connection:
            here = nights.c.night == night
            connection.execute(update(nights).where(here).values(looked=time.time()))

    def is_overdue(self, night: int) -> bool:
        """Return whether a night that is neither scored nor given up has had all of its time."""
        row = self.row(night)
        if row["state"] in (SCORED, GIVEN_UP) or age_in_days(night) <= self.late_days:
            return False
        return row["seen"] is None or time.time() - row["seen"] > self.late_days * _DAY

    def settle(self, connection: Connection, night: int, state: str, detail: str = "") -> None:
        """Set the state of a night, within a transaction.

        Parameters
        ----------
        connection : sqlalchemy.Connection
            Of the transaction.
        night : int
            YYYYMMDD.
        state : str
            :data:`SCORED`, :data:`GIVEN_UP` or :data:`SEEN`.
        detail : str
            Why.
        """
        values = {"state": state, "detail": detail[:500], "changed": time.time()}
        connection.execute(update(nights).where(nights.c.night == night).values(**values))

    def reopen_scored(self, connection: Connection, wanted: Iterable[int]) -> None:
        """Note that nights have new scores, so that their numbers are told again, within a transaction.

        Parameters
        ----------
        connection : sqlalchemy.Connection
            Of the transaction.
        wanted : iterable of int
            Nights, YYYYMMDD; those that are neither scored nor given up stay as they are.
        """
        closed = nights.c.state.in_((SCORED, GIVEN_UP)) & nights.c.night.in_(list(wanted))
        values = {"state": COMPLETE, "detail": "", "changed": time.time()}
        connection.execute(update(nights).where(closed).values(**values))

    def nights(self, *states: str) -> list[int]:
        """Return the nights in given states, in order."""
        return [row["night"] for row in self.rows() if row["state"] in states]

    def gaps(self) -> list[int]:
        """Return the nights before tonight that are neither scored nor given up, in order."""
        tonight = tonight_utc()
        return [n for n in self.nights(EXPECTED, SEEN, COMPLETE) if n < tonight]

    def counts(self) -> dict[str, int]:
        """Return the number of nights in each state."""
        query = select(nights.c.state, func.count()).group_by(nights.c.state)
        with self._engine.connect() as connection:
            found = {row[0]: int(row[1]) for row in connection.execute(query)}
        return dict.fromkeys(STATES, 0) | found

    def row(self, night: int) -> dict[str, Any]:
        """Return what is known of a night of the calendar."""
        query = select(nights).where(nights.c.night == night)
        with self._engine.connect() as connection:
            return dict(connection.execute(query).mappings().one())

    def rows(self) -> list[dict[str, Any]]:
        """Return what is known of all nights, in order."""
        with self._engine.connect() as connection:
            query = select(nights).order_by(nights.c.night)
            return [dict(row) for row in connection.execute(query).mappings()]
