"""The workers of a campaign as they come and go: waiting for them, and saying so.

Jobs wait in a queue, an autoscaler takes its time, a job's hours are over: a campaign without workers waits.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from dask.distributed import Client

from deepstreaks_dask.errors import StoppedError
from deepstreaks_dask.scoring.cluster import start_again, wanted_workers
from deepstreaks_dask.scoring.worker import LOST_CARD

COUNT_INTERVAL = 1.0
"""Seconds from one count of the workers to the next."""

MESSAGE_INTERVAL = 30.0
"""Seconds from one line about waiting to the next."""

_GRACE = 5.0  # seconds without a worker, in the middle of a campaign, that are not worth a line


@dataclass
class Attendance:
    """The workers of a campaign, counted now and then.

    Parameters
    ----------
    client : dask.distributed.Client
    label : str
        Begins each line, like ``"score default"``.
    limit : float, optional
        Minutes without any worker after which the campaign ends; it waits for as long as it takes by default.
    show : bool
        Print lines about waiting, to standard error.
    """

    client: Client
    label: str
    limit: float | None = None
    show: bool = True
    threads: dict[str, int] = field(default_factory=dict)
    _counted: float = -1e9
    _missing_since: float | None = None
    _said: float | None = None
    _came: bool = False
    _lost: list[dict[str, Any]] = field(default_factory=list)
    _lost_said: int = 0

    def __enter__(self) -> Attendance:
        """Listen to workers that lose their cards."""
        self.client.subscribe_topic(LOST_CARD, lambda event: self._lost.append(event[1]))
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more; tell what was heard last."""
        self._tell_lost_cards()
        with suppress(Exception):  # the scheduler may be gone
            self.client.unsubscribe_topic(LOST_CARD)

    def __len__(self) -> int:
        return len(self.threads)

    def check(self) -> bool:
        """Count the workers, if that was not done just now; say so where there are none.

        Returns
        -------
        bool
            Whether they were counted.

        Raises
        ------
        StoppedError
            If there has been none for longer than the limit, or all have lost their cards.
        """
        now = time.monotonic()
        if now - self._counted < COUNT_INTERVAL:
            return False
        try:
            self.threads = dict(self.client.nthreads())
        except (OSError, ValueError, RuntimeError):  # if the scheduler is gone, the tasks will tell
            return False
        self._counted = now
        self._tell_lost_cards()
        if self.threads:
            self._came, self._missing_since, self._said = True, None, None
        else:
            self._wait(now)
        return True

    def _wait(self, now: float) -> None:
        """Note that there is no worker, and say so now and then."""
        if self._lost:
            raise StoppedError(
                f"all workers have lost their cards, the last of them {_where(self._lost[-1])}: see to the card and its "
                "driver; what is scored is stored, and the same command goes on from there"
            )
        if self._missing_since is None:
            self._missing_since = now
        waited = now - self._missing_since
        if self.limit is not None and waited >= 60 * self.limit:
            raise StoppedError(
                f"no worker came within {self.limit:g} min: look at the queue, or at what the workers' logs say; what is "
                "scored is stored, and the same command goes on from there"
            )
        if self._came and waited < _GRACE:
            return
        if self._said is None or now - self._said >= MESSAGE_INTERVAL:
            if self._said is not None:
                start_again(self.client)
            self._said = now
            self._print(f"waiting for workers: {self.describe()}")

    def describe(self) -> str:
        """Return how many workers there are, of how many, and for how long there has been none."""
        wanted = wanted_workers(self.client)
        count = f"{len(self)} of {wanted}" if wanted else f"{len(self)} so far"
        if self._missing_since is None:
            return count
        waited = time.monotonic() - self._missing_since
        if waited < 1:
            return count
        return f"{count}, {_duration(waited)} in the queue"

    def _tell_lost_cards(self) -> None:
        for event in self._lost[self._lost_said :]:
            self._print(f"{_where(event)} has lost its card, and ends ({event['why']})")
            self._lost_said += 1

    def _print(self, text: str) -> None:
        if self.show:
            print(f"{self.label}: {text}", file=sys.stderr)


def _where(event: dict[str, Any]) -> str:
    return f"worker {event['name']} on {event['host']}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"
