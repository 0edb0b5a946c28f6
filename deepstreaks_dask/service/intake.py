"""One night's products: fetch what is new, and append it to the archive.

Whatever is begun is begun again after a kill, and each step may be done twice without harm: downloads resume, and the
archive skips cutouts that it has. A file is noted as taken only once its cutouts are committed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepstreaks_dask.archive.append import CutoutBatch, append_batches
from deepstreaks_dask.archive.create import create_archive
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
from deepstreaks_dask.service.monitor import Monitor
from deepstreaks_dask.service.state import BROKEN, DONE, WAITING, Ledger
from deepstreaks_dask.utils.storage import is_local, locate

Fetched = dict[str, tuple[Path, Refused | None]]
"""Files by name: where they are, and what is wrong with them as a whole."""


@dataclass(frozen=True)
class Intake:
    """How nights are taken in.

    Attributes
    ----------
    depot, ledger, monitor
        The parts of the service.
    archive : str
        Path or URL; made if it is not there.
    spool : Path
        Folder for downloads.
    patience : float
        Seconds that a tarball waits for its table, or for what it lacks itself; none for 0 and less.
    shard : int
        Cutouts a shard, should the archive be made.
    surviving : callable
        Makes a context in which what goes wrong ends a step and not the service.
    """

    depot: Depot
    ledger: Ledger
    monitor: Monitor
    archive: str
    spool: Path
    patience: float
    shard: int
    surviving: Callable[..., AbstractContextManager[None]]

    def take(self, night: int, did: dict[str, int]) -> None:
        """Fetch and append what is new of a night.

        Parameters
        ----------
        night : int
            YYYYMMDD.
        did : dict of str to int
            Gets what was done added: ``files``, ``appended`` and ``quarantined``.

        Raises
        ------
        DeepStreaksError, OSError
            If the night cannot be listed or appended. Files that cannot be fetched are tried again by the next call.
        """
        new = self.ledger.see(self.depot.list(night))
        self.monitor.moved()
        self.monitor.files.inc(new)
        did["files"] += new
        self.monitor.waiting_since = self.ledger.oldest_waiting()
        spool = self.spool / str(night)
        spool.mkdir(parents=True, exist_ok=True)
        fresh: Fetched = {}
        for entry in self.ledger.files(night, WAITING, BROKEN):
            with self.surviving("file failed", night=night, file=entry["name"]):
                self._fetch(entry, spool, fresh)
            self.monitor.moved()
        ready = self._ready(night, fresh)
        if ready:
            self._append(night, ready, did)
        self._complete(night, ready)

    def _fetch(self, entry: dict[str, Any], spool: Path, fresh: Fetched) -> None:
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

    def _ready(self, night: int, fresh: Fetched) -> Fetched:
        """Choose what need not wait any more."""
        entries = {entry["name"]: entry for entry in self.ledger.files(night)}
        deadline = time.time() - self.patience

        def taken(name: str) -> bool:
            entry = entries.get(name)
            return entry is not None and (entry["state"] != WAITING or name in fresh)

        def is_ready(name: str, damage: Refused | None) -> bool:
            if self.patience < 0 or entries[name]["changed"] < deadline:
                return True
            has_table = not name.endswith(TARBALL) or taken(name.removesuffix(TARBALL) + TABLE)
            return damage is None and has_table

        return {name: found for name, found in fresh.items() if is_ready(name, found[1])}

    def _append(self, night: int, ready: Fetched, did: dict[str, int]) -> None:
        files = [file for file, _ in ready.values()]
        tables = {file.name: file for file in self._known(night) if file.name.endswith(TABLE)}
        tables |= {file.name: file for file in files if file.name.endswith(TABLE)}
        products = Products(
            [file for file in files if file.name.endswith(TARBALL)],
            [tables[name] for name in sorted(tables)],
            [file for file in files if not file.name.endswith((TARBALL, TABLE))],
        )
        root = files[0].parent
        _create_once(self.archive, self.shard)
        summary = append_batches(
            self.archive, self._moving(read_products(products, root, night=night))
        )
        for name, (file, damage) in ready.items():
            state = DONE if damage is None else BROKEN
            self.ledger.settle(night, name, state, damage.detail if damage else "")
            spooled = file.parent == self.spool / str(night)
            if damage is None and spooled and name.endswith(TARBALL):
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

    def _moving(self, batches: Iterator[CutoutBatch]) -> Iterator[CutoutBatch]:
        for batch in batches:
            self.monitor.moved()
            yield batch

    def _known(self, night: int) -> list[Path]:
        """Return the tables of a night that were taken earlier, where they still are."""
        taken = {e["name"]: e["stamp"] for e in self.ledger.files(night, DONE, BROKEN)}
        spool = self.spool / str(night)
        found = []
        for name in (name for name in taken if name.endswith(TABLE)):
            with self.surviving("table failed", night=night, file=name):
                here = spool / name
                if not here.exists():
                    here, _ = self.depot.fetch(Remote(night, name, taken[name]), spool)
                found.append(here)
        return found

    def _complete(self, night: int, ready: Fetched) -> None:
        for name, (file, _) in ready.items():
            if name.endswith(TABLE) and (n := self.ledger.complete(night, read_table(file)[0])):
                self.monitor.event("completed", night=night, file=name, candidates=n)


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
    """Return what is wrong with a product as a whole, None if nothing is."""
    if file.name.endswith(TARBALL):
        return check_tarball(file)
    if file.name.endswith(TABLE):
        wrong = read_table(file)[1]  # single bad rows get no better by waiting
        return next(
            (why for where, why in wrong if not where or why.detail == CUT_SHORT_REASON), None
        )
    return None
