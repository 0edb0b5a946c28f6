"""The nightly service: fetch what is new in a depot, append it, score it, record candidates, tell people, repeat.

Each step may be done twice without harm, so that a kill anywhere loses and doubles nothing: downloads resume, the archive
skips cutouts that it has, a campaign computes what is missing, and candidates, the mark up to which rows are decided, and
the messages about them are recorded in one transaction.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from filelock import FileLock, Timeout

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.retraction import stored_rows
from deepstreaks_dask.archive.store import quarantine, read_commit_record
from deepstreaks_dask.errors import DepotError
from deepstreaks_dask.service.channels import Channel, ChannelError, deliver_all
from deepstreaks_dask.service.depots import Depot
from deepstreaks_dask.service.intake import Intake
from deepstreaks_dask.service.messages import Writer
from deepstreaks_dask.service.monitor import Monitor, open_log, serve
from deepstreaks_dask.service.night_calendar import COMPLETE, EXPECTED, LATE_DAYS, SEEN
from deepstreaks_dask.service.nights import Nights, tonight_utc
from deepstreaks_dask.service.scorer import Score, candidate_rows
from deepstreaks_dask.service.state import BROKEN, WAITING, Ledger, Turn
from deepstreaks_dask.utils.storage import locate


@dataclass(frozen=True)
class Settings:
    """How to watch.

    Attributes
    ----------
    archive : str
        Path or URL of the archive; made if it is not there.
    state : Path
        Folder of the service's own: downloads, state, log.
    run : str
        Name of the run that holds the scores of what is new. Another name than before is a switch-over: that run goes on
        where the one before ended.
    rescore_from : int, optional
        Night, YYYYMMDD, from which on the past is scored by this run, too.
    poll : float
        Seconds from one look at the depot to the next.
    patience : float
        Seconds that a tarball waits for its table, or for what it lacks itself, before it is taken as it is.
    late_days : int
        Days for which files of a night may come late; after them the night is given up.
    shard : int
        Cutouts a shard, should the archive be made.
    port : int, optional
        Of health and metrics; 0 takes a free one, None none.
    address : str
        Of the interface for them.
    log_to_stdout : bool
        Whether the log goes to standard output, too.
    channels : tuple of Channel
        Over which people are told.
    site : str
        Address of the review, for links in messages.
    """

    archive: str
    state: Path
    run: str = "default"
    rescore_from: int | None = None
    poll: float = 60.0
    patience: float = 900.0
    late_days: int = LATE_DAYS
    shard: int = 1024
    port: int | None = None
    address: str = "127.0.0.1"
    log_to_stdout: bool = False
    channels: tuple[Channel, ...] = ()
    site: str = ""


def watch(
    depot: Depot,
    settings: Settings,
    score: Score,
    nights: Nights,
    *,
    once: bool = False,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Watch a depot until ``stop`` is set.

    Parameters
    ----------
    depot : Depot
        As :func:`~deepstreaks_dask.service.depots.open_depot` returns it.
    settings : Settings
        How to watch.
    score : callable
        Such as a :class:`~deepstreaks_dask.service.scorer.Scorer`.
    nights : Nights
        As :func:`~deepstreaks_dask.service.nights.nights_between` returns it. An open-ended range goes on with the
        nights that the calendar of the state has.
    once : bool
        Look once, and take everything as it is.
    stop : threading.Event, optional
        Set it to end after the step under way.

    Returns
    -------
    dict
        What the last pass did, by name.

    Raises
    ------
    DepotError
        If another service works in the same folder, or, with ``once``, if something went wrong; whatever
        could be done was done all the same.
    """
    stop = stop or threading.Event()
    with _opened(settings) as (ledger, monitor):
        watcher = Watcher(depot, settings, score, ledger, monitor, once)
        for part in (depot, score):
            if hasattr(part, "moved"):
                part.moved = monitor.moved
        watcher.begin(nights)
        while True:
            did = watcher.look(nights, stop)
            if once or stop.wait(settings.poll):
                break
        if once and monitor.problems:
            raise DepotError("; ".join(monitor.problems))
    return did


@dataclass
class Watcher:
    """The service's parts, and its pass."""

    depot: Depot
    settings: Settings
    score: Score
    ledger: Ledger
    monitor: Monitor
    once: bool = False
    _turn: Turn | None = field(default=None, init=False)
    # rows wait for scores: from before a kill, perhaps
    _behind: bool = field(default=True, init=False)
    # nights with rows that could not be scored
    _undecided: frozenset[int] = field(default=frozenset(), init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self._calendar, self._outbox = self.ledger.calendar, self.ledger.outbox
        name = settings.archive.rstrip("/").rsplit("/", 1)[-1]
        self._writer = Writer(name, settings.site.rstrip("/"))
        self._intake = Intake(
            self.depot,
            self.ledger,
            self.monitor,
            settings.archive,
            settings.state / "spool",
            -1.0 if self.once else settings.patience,
            settings.shard,
            self._surviving,
        )

    def begin(self, nights: Nights) -> None:
        """Prepare for the first pass: nights that are asked for by name are looked at again, and messages tried again."""
        self._calendar.wake()
        self._outbox.wake()
        if not nights.open_ended:
            self._calendar.reopen(nights())

    def _due(self, nights: Nights) -> list[int]:
        """Return the nights to look at in this pass, tonight first, then backwards."""
        wanted = nights()
        if not nights.open_ended:
            self._calendar.expect(wanted)
            return wanted[::-1]
        if wanted:  # none before the first night
            self._calendar.expect_until_tonight(wanted[0])
        return self._calendar.due()

    def look(self, nights: Nights, stop: threading.Event) -> dict[str, Any]:
        """Look at the depot once: fetch, append and score night by night, record, tell.

        Parameters
        ----------
        nights : Nights
            Those that the service is responsible for.
        stop : threading.Event
            Ends the look where it is.

        Returns
        -------
        dict
            How many ``files``, ``appended``, ``quarantined``, ``scored``, ``candidates`` and ``messages``.
        """
        names = ("files", "appended", "quarantined", "scored", "candidates", "messages")
        did = dict.fromkeys(names, 0)
        problems, self.monitor.problems = self.monitor.problems, []
        due: list[int] = []
        with self._surviving("calendar failed"):
            due = self._due(nights)
            self._show()
        failed = False  # what cannot be scored is tried once a pass
        for night in [*due, None]:  # at last whatever waits from before a kill
            if stop.is_set():
                break
            before = dict(did)
            if night is not None:
                self._take_night(night, did)
            if (self._behind or self._undecided) and not failed:
                failed = not self._try_to_score(did, stop)
            if did != before:
                self._finish(did)
        self._finish(did)
        self.monitor.passed = time.time()
        self.monitor.moved()
        if any(did.values()) or problems != self.monitor.problems:
            self.monitor.event("pass", **did, problems=len(self.monitor.problems))
        return did

    def _take_night(self, night: int, did: dict[str, int]) -> None:
        before = len(self.monitor.problems)
        with self._surviving("night failed", night=night):
            known, appended = did["files"], did["appended"]
            self._intake.take(night, did)
            self._behind |= did["appended"] > appended
            numbers = self.ledger.numbers(night)
            self._calendar.note(
                night,
                files=numbers["files"],
                waiting=numbers["waiting"],
                all_in=self.once or night < tonight_utc(),
                fresh=(did["files"], did["appended"]) != (known, appended),
            )
            if len(self.monitor.problems) == before:
                self._give_up(night)
        if len(self.monitor.problems) > before:
            with self._surviving("calendar failed"):
                self._calendar.rest(night)

    def _give_up(self, night: int) -> None:
        """Give a night up that had all of its time and lacks something that the depot was asked for just now."""
        if not self._calendar.is_overdue(night):
            return
        state = self._calendar.row(night)["state"]
        if state == EXPECTED:
            why = f"the depot has no files of it, {self.settings.late_days} days later"
        elif state == SEEN:
            names = [entry["name"] for entry in self.ledger.files(night, WAITING)]
            why = f"{len(names)} files were never whole: {', '.join(names[:5])}"
        elif night in self._undecided:
            why = "some of its cutouts have no scores; look for damage with 'deepstreaks archive verify'"
        else:
            return
        self.ledger.give_up(night, why, self._writer.given_up(night, why))
        self.monitor.event("given up", night=night, why=why)

    def _try_to_score(self, did: dict[str, int], stop: threading.Event) -> bool:
        """Score what is new; return whether that went well."""
        done = False
        with self._surviving("scoring failed"):
            self._score(did, stop)
            done = True
        return done

    def _score(self, did: dict[str, int], stop: threading.Event) -> None:
        archive = self.settings.archive
        fs, place = locate(archive)
        # rows that were withdrawn keep their numbers, which the mark counts
        if fs.exists(place) and (total := read_commit_record(archive).total):
            turn = self._turn = self._turn or self._switch()
            mark = self.ledger.mark(turn.run)
            if mark < total:
                decided = self.score(archive, mark)
                self.monitor.moved()
                if stop.is_set():
                    return
                self._record(decided, turn, (mark, total), did)
                return
        self._behind, self._undecided = False, frozenset()

    def _switch(self) -> Turn:
        """Let the run take its turn, once there is an archive."""
        since, first_row, before = self.settings.rescore_from, 0, self.ledger.turn()
        if since is not None:
            archive = self.settings.archive
            dataset = open_archive(archive)
            late = stored_rows(dataset)[dataset["night"].values >= since]
            first_row = int(late[0]) if len(late) else read_commit_record(archive).total
        turn = self.ledger.switch(self.settings.run, since, first_row)
        if before is not None and turn != before:
            self.monitor.event("switched", **{"from": before.run, "to": turn.run, "since": since})
        return turn

    def _record(
        self, decided: xr.Dataset, turn: Turn, reach: tuple[int, int], did: dict[str, int]
    ) -> None:
        """Record what a run has decided on some of the archive's rows, ``[first, last)``."""
        rows = stored_rows(decided)
        new = np.flatnonzero((rows >= reach[0]) & (rows < reach[1]))
        rows, decided = rows[new], decided.isel(cutout=new)
        night, undecided = decided["night"].values, decided["undecided"].values
        mine = rows >= turn.row
        if turn.since is not None:
            mine |= night >= turn.since
        open_rows = np.flatnonzero(undecided & mine)
        reached = int(rows[open_rows[0]]) if len(open_rows) else reach[1]
        counted = night[mine & (rows < reached)]
        found = candidate_rows(decided.isel(cutout=np.flatnonzero(mine)))
        self.ledger.record(
            found,
            turn.run,
            reached,
            cutouts={int(n): int((counted == n).sum()) for n in np.unique(counted)},
            tell=lambda new: self._writer.candidates(new, turn.run),
        )
        self._behind, self._undecided = False, frozenset(map(int, night[open_rows]))
        did["scored"] += len(counted)
        did["candidates"] += len(found)
        self.monitor.scored.inc(len(counted))
        self.monitor.candidates.inc(len(found))
        self.monitor.event("scored", run=turn.run, cutouts=len(counted), candidates=len(found))
        if len(open_rows):
            raise DepotError(
                f"row {reached} of {self.settings.archive} has no scores: look for damage with "
                "'deepstreaks archive verify'"
            )

    def _finish(self, did: dict[str, int]) -> None:
        """Close nights that are scored, and deliver messages."""
        with self._surviving("night failed"):
            for night in () if self._behind else self._calendar.nights(COMPLETE):
                if night not in self._undecided:
                    self._close(night)
        with self._surviving("message failed"):
            count = deliver_all(self._outbox, self.settings.channels, self._not_told)
            did["messages"] += count
            self.monitor.messages.inc(count)
        with self._surviving("state failed"):
            self._show()

    def _show(self) -> None:
        """Let health and metrics show how things stand."""
        self.monitor.waiting_since = self.ledger.oldest_waiting()
        self.monitor.gaps = self._calendar.gaps()
        self.monitor.nights = self._calendar.counts()
        self.monitor.undelivered = self._outbox.waiting()

    def _close(self, night: int) -> None:
        refused = quarantine(self.settings.archive)
        numbers = self.ledger.numbers(night)
        numbers["quarantined"] = int((refused["night"] == night).sum())
        numbers["broken"] = len(self.ledger.files(night, BROKEN))
        run = self._turn.run if self._turn else self.settings.run
        self.ledger.finish(night, self._writer.scored(night, numbers, run))
        self.monitor.event("night scored", night=night, **numbers)

    def _not_told(self, error: ChannelError) -> None:
        self.monitor.failure("message failed", error)

    @contextmanager
    def _surviving(self, what: str, **fields: Any) -> Iterator[None]:
        """Let what goes wrong end a step, but not the service: it is tried again."""
        try:
            yield
        except Exception as error:  # whatever a depot, a store or a library comes up with
            self.monitor.failure(what, error, **fields)


@contextmanager
def _opened(settings: Settings) -> Iterator[tuple[Ledger, Monitor]]:
    """Take the service's folder for this process alone."""
    try:
        settings.state.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(FileLock(settings.state / "lock", timeout=0))
            names = [channel.name for channel in settings.channels]
            ledger = Ledger(settings.state / "watch.sqlite", names, late_days=settings.late_days)
            stack.callback(ledger.close)
            log = stack.enter_context(
                open_log(settings.state / "watch.log", to_stdout=settings.log_to_stdout)
            )
            monitor = Monitor(log, patience=10 * settings.poll + 600)
            if settings.port is not None:
                port = stack.enter_context(serve(monitor, settings.port, settings.address))
                monitor.event("listening", address=settings.address, port=port)
            monitor.event("started", archive=settings.archive, process=os.getpid())
            yield ledger, monitor
            monitor.event("ended")
    except Timeout:
        raise DepotError(
            f"another service works in {settings.state}: end it, or give another --state"
        ) from None
