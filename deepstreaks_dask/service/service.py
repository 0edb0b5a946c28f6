"""The nightly service: fetch what is new in a depot, append it to the archive, score it, record candidates, repeat.

Whatever is begun is begun again after a kill, and each step may be done twice without harm: downloads go on where
they ended, the archive passes over cutouts that it has, a campaign computes what is missing, candidates are put
over themselves. So a file is noted as taken only once its cutouts are committed, and nothing is lost or double.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from dask.distributed import Client
from filelock import FileLock, Timeout
from sqlalchemy.exc import SQLAlchemyError

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.retraction import stored_rows
from deepstreaks_dask.archive.store import read_commit_record
from deepstreaks_dask.errors import DeepStreaksError, DepotError, StoppedError
from deepstreaks_dask.readers.depot import (
    TABLE,
    TARBALL,
    Products,
    check_tarball,
    read_products,
)
from deepstreaks_dask.readers.folder import Refused
from deepstreaks_dask.readers.streak_table import CUT_SHORT_REASON, read_table
from deepstreaks_dask.service.depots import Depot, Remote
from deepstreaks_dask.service.monitor import Monitor, open_log, serve
from deepstreaks_dask.service.state import BROKEN, DONE, WAITING, Ledger
from deepstreaks_dask.utils.storage import is_local, locate

Score = Callable[[str], xr.Dataset]
"""Scores what is new in the archive at a path or URL and gives the decided scores (see :class:`Scorer`)."""


@dataclass(frozen=True)
class Settings:
    """How to watch.

    Attributes
    ----------
    archive : str
        Path or URL of the archive; made if it is not there.
    state : Path
        Folder of the service's own: downloads, record, log.
    run : str
        Name of the run that holds the scores.
    poll : float
        Seconds from one look at the depot to the next.
    patience : float
        Seconds that a tarball waits for its table, or for what it lacks itself, before it is taken as it is.
    shard : int
        Cutouts a shard, should the archive be made.
    port : int, optional
        Of health and metrics, on the loopback interface; 0 takes a free one, None none.
    """

    archive: str
    state: Path
    run: str = "default"
    poll: float = 60.0
    patience: float = 900.0
    shard: int = 1024
    port: int | None = None


def nights_between(first: int | None, last: int | None) -> Callable[[], list[int]]:
    """Give a function that names the nights to watch.

    Parameters
    ----------
    first, last : int, optional
        ``YYYYMMDD``. Without ``last`` until tonight, whenever that is; without either, last night and
        tonight, since files come late.

    Returns
    -------
    callable
        Gives the nights, YYYYMMDD.

    Raises
    ------
    DepotError
        If one is no date, or they are in the wrong order.
    """
    start, end = (_date(night) if night is not None else None for night in (first, last))
    if start is None and end is not None:
        raise DepotError("give --from too, where there is --to")
    if start and end and start > end:
        raise DepotError(f"--from {first} is after --to {last}: exchange them")

    def nights() -> list[int]:
        tonight = datetime.now(UTC).date()
        begin, stop = start or tonight - timedelta(days=1), end or tonight
        days = range((stop - begin).days + 1)
        return [int((begin + timedelta(days=k)).strftime("%Y%m%d")) for k in days]

    return nights


def watch(
    depot: Depot,
    settings: Settings,
    score: Score,
    nights: Callable[[], list[int]],
    *,
    once: bool = False,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Watch a depot until ``stop`` is set.

    Parameters
    ----------
    depot : Depot
        As :func:`~deepstreaks_dask.service.depots.open_depot` gives it.
    settings : Settings
        How to watch.
    score : callable
        Such as a :class:`Scorer`.
    nights : callable
        As :func:`nights_between` gives it.
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
        while True:
            did = watcher.look(nights(), stop)
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
    # rows may wait for scores: from before a kill, say
    _retry: bool = field(default=True, init=False)

    def look(self, nights: Sequence[int], stop: threading.Event) -> dict[str, Any]:
        """Look at the depot once: fetch, append, score, record.

        Parameters
        ----------
        nights : sequence of int
            YYYYMMDD.
        stop : threading.Event
            Ends the look where it is.

        Returns
        -------
        dict
            How many ``files``, ``appended``, ``quarantined``, ``scored`` and ``candidates``.
        """
        did = {"files": 0, "appended": 0, "quarantined": 0, "scored": 0, "candidates": 0}
        problems, self.monitor.problems = self.monitor.problems, []
        for night in nights:
            if stop.is_set():
                break
            with self._surviving("night failed", night=night):
                self._take_night(night, did)
        with self._surviving("scoring failed"):
            if did["appended"] or self._retry:
                self._score(did)
        self.monitor.passed = time.time()
        self._note_lag()
        if any(did.values()) or problems != self.monitor.problems:
            self.monitor.event("pass", **did, problems=len(self.monitor.problems))
        return did

    def _take_night(self, night: int, did: dict[str, Any]) -> None:
        new = self.ledger.see(self.depot.list(night))
        self.monitor.files.inc(new)
        did["files"] += new
        self._note_lag()
        spool = self.settings.state / "spool" / str(night)
        spool.mkdir(parents=True, exist_ok=True)
        fresh: dict[str, tuple[Path, Refused | None]] = {}
        for entry in self.ledger.files(night, WAITING, BROKEN):
            with self._surviving("file failed", night=night, file=entry["name"]):
                self._fetch(entry, spool, fresh)
        ready = self._ready(night, fresh)
        if ready:
            self._append(night, ready, did)
        self._complete(night, ready)

    def _fetch(
        self, entry: dict[str, Any], spool: Path, fresh: dict[str, tuple[Path, Refused | None]]
    ) -> None:
        night, name = entry["night"], entry["name"]
        file, changed = self.depot.fetch(Remote(night, name, entry["stamp"]), spool)
        if changed and entry["detail"]:  # it was damaged, and grows: give it more time
            self.ledger.touch(night, name)
        if entry["state"] == BROKEN and not changed:
            return
        damage = _check(file)
        if damage is not None and damage.detail != entry["detail"]:
            self.monitor.event("damaged", night=night, file=name, detail=damage.detail)
            self.ledger.settle(night, name, WAITING, damage.detail)
        fresh[name] = file, damage

    def _ready(
        self, night: int, fresh: dict[str, tuple[Path, Refused | None]]
    ) -> dict[str, tuple[Path, Refused | None]]:
        """Choose what need not wait any more."""
        entries = {entry["name"]: entry for entry in self.ledger.files(night)}
        deadline = time.time() - self.settings.patience

        def taken(name: str) -> bool:
            entry = entries.get(name)
            return entry is not None and (entry["state"] != WAITING or name in fresh)

        def is_ready(name: str, damage: Refused | None) -> bool:
            if self.once or entries[name]["changed"] < deadline:
                return True
            has_table = not name.endswith(TARBALL) or taken(name.removesuffix(TARBALL) + TABLE)
            return damage is None and has_table

        return {name: found for name, found in fresh.items() if is_ready(name, found[1])}

    def _append(
        self, night: int, ready: dict[str, tuple[Path, Refused | None]], did: dict[str, Any]
    ) -> None:
        spool = self.settings.state / "spool" / str(night)
        files = [file for file, _ in ready.values()]
        tables = {file.name: file for file in self._known(night) if file.name.endswith(TABLE)}
        tables |= {file.name: file for file in files if file.name.endswith(TABLE)}
        products = Products(
            [file for file in files if file.name.endswith(TARBALL)],
            [tables[name] for name in sorted(tables)],
            [file for file in files if not file.name.endswith((TARBALL, TABLE))],
        )
        root = files[0].parent
        archive = self.settings.archive
        _create_once(archive, self.settings.shard)
        summary = append_batches(archive, read_products(products, root, night=night))
        for name, (file, damage) in ready.items():
            state = DONE if damage is None else BROKEN
            self.ledger.settle(night, name, state, damage.detail if damage else "")
            if damage is None and file.parent == spool and name.endswith(TARBALL):
                file.unlink()
        self.monitor.seen.inc(summary.appended)
        self.monitor.quarantined.inc(summary.quarantined)
        did["appended"] += summary.appended
        did["quarantined"] += summary.quarantined
        self.monitor.event(
            "appended",
            night=night,
            files=sorted(ready),
            cutouts=summary.appended,
            present=summary.already_present,
            quarantined=summary.reasons,
        )

    def _known(self, night: int) -> list[Path]:
        """Tables of a night that were taken earlier, where they still are."""
        taken = {e["name"]: e["stamp"] for e in self.ledger.files(night, DONE, BROKEN)}
        spool = self.settings.state / "spool" / str(night)
        found = []
        for name in (name for name in taken if name.endswith(TABLE)):
            with self._surviving("table failed", night=night, file=name):
                here = spool / name
                if not here.exists():
                    here, _ = self.depot.fetch(Remote(night, name, taken[name]), spool)
                found.append(here)
        return found

    def _complete(self, night: int, ready: dict[str, tuple[Path, Refused | None]]) -> None:
        for name, (file, _) in ready.items():
            if name.endswith(TABLE) and (n := self.ledger.complete(night, read_table(file)[0])):
                self.monitor.event("completed", night=night, file=name, candidates=n)

    def _score(self, did: dict[str, Any]) -> None:
        self._retry = True
        archive, run = self.settings.archive, self.settings.run
        fs, place = locate(archive)
        # rows that were withdrawn keep their numbers, which the ledger's mark counts
        if fs.exists(place) and (total := read_commit_record(archive).total):
            mark = self.ledger.mark(run)
            if mark < total:
                decided = self.score(archive)
                rows = stored_rows(decided)
                candidates = _candidates(decided.isel(cutout=rows >= mark))
                undecided = rows[decided["undecided"].values]
                reached = int(undecided[0]) if len(undecided) else total
                self.ledger.record(candidates, run, reached)
                did["scored"] += reached - mark
                did["candidates"] += len(candidates)
                self.monitor.scored.inc(reached - mark)
                self.monitor.candidates.inc(len(candidates))
                self.monitor.event("scored", cutouts=reached - mark, candidates=len(candidates))
                if reached < total:
                    raise DepotError(
                        f"row {reached} of {archive} has no scores: look for damage with "
                        "'deepstreaks archive verify'"
                    )
        self._retry = False

    def _note_lag(self) -> None:
        self.monitor.waiting_since = self.ledger.oldest_waiting()

    @contextmanager
    def _surviving(self, what: str, **fields: Any) -> Iterator[None]:
        """Let what the world does wrong end a step, but not the service: it is tried again."""
        try:
            yield
        except (DeepStreaksError, OSError, SQLAlchemyError) as error:
            self.monitor.failure(what, error, **fields)


class Scorer(AbstractContextManager["Scorer"]):
    """Scores an archive with Dask workers that are kept from one pass to the next, and replaced when lost.

    Parameters
    ----------
    zoo : str, optional
        Path or URL of the zoo; the one that ships with the package by default.
    run : str
        Name of the run.
    thresholds : mapping of str to float
        Of the decision, as :class:`~deepstreaks_dask.scoring.decision.Decision` takes them.
    connect : callable
        Gives a Dask client, as :func:`~deepstreaks_dask.scoring.cluster.connect` does.
    only_decide : bool
        Whether members look only while the decision is open; the run keeps these thresholds then.
    """

    def __init__(
        self,
        zoo: str | None,
        run: str,
        thresholds: Mapping[str, float],
        connect: Callable[[], Client],
        *,
        only_decide: bool = False,
    ) -> None:
        self.zoo, self.run, self.thresholds, self.connect = zoo, run, thresholds, connect
        self.only_decide = only_decide
        self._client: Client | None = None

    def __call__(self, archive: str) -> xr.Dataset:
        """Score what is new, and decide.

        Raises
        ------
        DeepStreaksError
            If it cannot be done now; the next call begins with new workers if these were lost.
        """
        from deepstreaks_dask.scoring.campaign import (
            score,  # networks are not needed while nothing is new
        )
        from deepstreaks_dask.scoring.decision import Decision
        from deepstreaks_dask.scoring.ensemble import Ensemble

        families, decision = Ensemble.from_zoo(self.zoo), Decision(self.thresholds)
        if self._client is None:
            self._client = self.connect()
        try:
            scores = score(
                archive,
                ensemble=families,
                client=self._client,
                run=self.run,
                mode="decide" if self.only_decide else "all",
                decision=decision if self.only_decide else None,
                progress=False,
            )
        except StoppedError:
            self.__exit__()
            raise
        return decision.apply(scores)

    def __exit__(self, *_: object) -> None:
        """Let the workers go."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(
                TimeoutError, OSError
            ):  # workers that are slow to end are ended all the same
                client.close()


def _create_once(archive: str, shard: int) -> None:
    """Make the archive if it is not there; on a local disk in one step, which a kill cannot leave half done."""
    fs, place = locate(archive)
    if fs.exists(place):
        return
    if not is_local(fs):
        create_archive(archive, shard=shard)
        return
    begun = Path(f"{place}.begun")
    shutil.rmtree(begun, ignore_errors=True)
    create_archive(begun, shard=shard)
    begun.rename(place)
    for lock in ("lock", "commit.lock"):
        Path(f"{begun}.{lock}").unlink(missing_ok=True)


def _check(file: Path) -> Refused | None:
    """Say what is wrong with a product as a whole, None if nothing is."""
    if file.name.endswith(TARBALL):
        return check_tarball(file)
    if file.name.endswith(TABLE):
        wrong = read_table(file)[1]  # single bad rows get no better by waiting
        return next(
            (why for where, why in wrong if not where or why.detail == CUT_SHORT_REASON), None
        )
    return None


def _candidates(decided: xr.Dataset) -> list[dict[str, Any]]:
    """Rows of the plausible cutouts, as the record takes them."""
    chosen = decided.isel(cutout=np.flatnonzero(decided["plausible"].values)).load()
    models = [str(model) for model in chosen["model"].values]
    rows = []
    for k in range(chosen.sizes["cutout"]):
        one = chosen.isel(cutout=k)
        numbers = {name: float(one[name]) for name in ("jd", "ra", "dec", "length", "mag")}
        scores = [float(s) for s in one["scores"].values]
        rows.append(
            {
                "id": str(one["id"].values),
                "night": int(one["night"]),
                "filter": str(one["filter"].values) or None,
                **{name: None if value != value else value for name, value in numbers.items()},
                "scores": {m: s for m, s in zip(models, scores, strict=True) if s == s},
            }
        )
    return rows


@contextmanager
def _opened(settings: Settings) -> Iterator[tuple[Ledger, Monitor]]:
    """Take the service's folder for this process alone."""
    try:
        settings.state.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(FileLock(settings.state / "lock", timeout=0))
            ledger = Ledger(settings.state / "watch.sqlite")
            stack.callback(ledger.close)
            log = stack.enter_context(open_log(settings.state / "watch.log"))
            monitor = Monitor(log, patience=10 * settings.poll + 600)
            if settings.port is not None:
                port = stack.enter_context(serve(monitor, settings.port))
                monitor.event("listening", port=port)
            monitor.event("started", archive=settings.archive, process=os.getpid())
            yield ledger, monitor
            monitor.event("ended")
    except Timeout:
        raise DepotError(
            f"another service works in {settings.state}: end it, or give another --state"
        ) from None


def _date(night: int) -> date:
    try:
        return datetime.strptime(str(night), "%Y%m%d").date()
    except ValueError:
        raise DepotError(f"night {night}: write it as YYYYMMDD") from None
