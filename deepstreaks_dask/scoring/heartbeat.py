"""What a campaign says of itself while it is at work, in the store, where whoever looks can read it.

An object ``runs/<run>/pulse.json``, written anew every few seconds and gone when the campaign ends. One that has
not been written for :data:`MAX_HEARTBEAT_AGE` seconds was left by a campaign that was killed.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.utils.storage import locate, write_whole
from deepstreaks_dask.utils.validation import STRICT, validate_json

if TYPE_CHECKING:
    from dask.distributed import Client

HEARTBEAT_INTERVAL = 5.0
"""Seconds from one beat to the next."""

MAX_HEARTBEAT_AGE = 60.0
"""Seconds after which a campaign that did not beat is taken to be dead."""

_MAX_FILE_BYTES = 10_000


@dataclass(frozen=True)
class Pulse:
    """A campaign at work.

    Attributes
    ----------
    beat : float
        Seconds since 1970.
    host : str
        Machine of the client and the scheduler's dashboard.
    pid : int
        Of the client.
    workers, threads : int
        Of its cluster, now.
    dashboard : str
        Address of Dask's own dashboard; empty if there is none.
    pausing : bool
        It was asked to stop, and ends when the shards under way are stored.
    """

    __pydantic_config__ = STRICT

    beat: float
    host: str
    pid: int
    workers: int
    threads: int
    dashboard: str
    pausing: bool

    @property
    def fresh(self) -> bool:
        """Whether the campaign still beats."""
        return abs(time.time() - self.beat) < MAX_HEARTBEAT_AGE

    @property
    def here(self) -> bool:
        """Whether its client is on this machine."""
        return self.host == socket.gethostname()


@contextmanager
def beating(
    client: Client, url: str, run: str, stop: threading.Event | None = None
) -> Iterator[None]:
    """Beat while the block runs.

    Parameters
    ----------
    client : dask.distributed.Client
    url : str
        Store of the archive.
    run : str
    stop : threading.Event, optional
        Set once the campaign is asked to stop.

    Yields
    ------
    None
        While the campaign is at work.
    """
    fs, root = locate(url)
    path, over = f"{root}/runs/{run}/pulse.json", threading.Event()

    def beat() -> None:
        while not over.is_set():
            # neither a store nor a scheduler that fails to answer this may end a campaign
            with suppress(Exception):
                threads = client.nthreads()
                pulse = Pulse(
                    time.time(),
                    socket.gethostname(),
                    os.getpid(),
                    len(threads),
                    sum(threads.values()),
                    str(client.dashboard_link or ""),
                    stop is not None and stop.is_set(),
                )
                write_whole(fs, path, json.dumps(asdict(pulse)).encode())
            over.wait(HEARTBEAT_INTERVAL)

    thread = threading.Thread(target=beat, name="pulse", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(HEARTBEAT_INTERVAL)
        with suppress(Exception):
            fs.rm_file(path)


def read_pulse(url: str, run: str) -> Pulse | None:
    """Read the last beat of a run's campaign; None if it ended, or what is there is none.

    Parameters
    ----------
    url : str
        Store of the archive.
    run : str

    Returns
    -------
    Pulse or None
        None if there is none, or it cannot be read.
    """
    fs, root = locate(url)
    path = f"{root}/runs/{run}/pulse.json"
    try:
        fs.invalidate_cache()
        data = fs.cat_file(path, start=0, end=_MAX_FILE_BYTES)
        pulse = validate_json(Pulse, data, source=path)
    except (OSError, ValueError, DeepStreaksError):
        return None
    known = urlsplit(pulse.dashboard).scheme in ("http", "https", "")
    return pulse if known else None
