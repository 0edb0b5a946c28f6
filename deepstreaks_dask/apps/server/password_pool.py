"""Threads of their own for the slow work on passwords, with a line that is bounded.

Argon2 takes a core and 64 MiB for a tenth of a second by intention. In the threads that serve everybody, a flood of log-ins
would keep all other requests waiting.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from deepstreaks_dask.errors import DeepStreaksError

MAX_WAITING = 16
"""Attempts that wait for a thread; further ones are refused at once."""

RETRY_SECONDS = 5
"""Seconds after which a refused attempt may be repeated."""

_NICENESS = 10  # of these threads, so that others come first where cores are few
T = TypeVar("T")


class BusyError(DeepStreaksError):
    """Too many people log in at once."""

    def __init__(self) -> None:
        super().__init__(f"too many people log in at once: try again in {RETRY_SECONDS} seconds")


class PasswordPool:
    """Two to four threads for the work on passwords.

    Parameters
    ----------
    threads : int, optional
        Threads; by default one per core, but at least 2 and at most 4.
    waiting : int
        Attempts that may wait.
    """

    def __init__(self, threads: int | None = None, waiting: int = MAX_WAITING) -> None:
        self.threads = threads or max(2, min(4, os.cpu_count() or 1))
        self._places = threading.BoundedSemaphore(self.threads + waiting)
        self._executor = ThreadPoolExecutor(
            self.threads, thread_name_prefix="passwords", initializer=_step_back
        )

    async def run(self, work: Callable[[], T]) -> T:
        """Do work in one of the threads.

        Parameters
        ----------
        work : callable
            The work.

        Returns
        -------
        object
            Its result.

        Raises
        ------
        BusyError
            If as many wait as may.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError
        future: Future[T] = self._executor.submit(work)
        future.add_done_callback(self._leave)  # also where the browser has gone meanwhile
        return await asyncio.wrap_future(future)

    def _leave(self, _: Future[Any]) -> None:
        self._places.release()


def _step_back() -> None:
    """Let the threads that serve requests come first: Linux has a niceness for each thread."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
