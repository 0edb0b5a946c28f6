"""How much each worker of a campaign has scored, how fast, and with what."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from deepstreaks_dask.scoring.worker import Outcome

_LISTED_WORKERS = 20  # in a list of rates


@dataclass
class WorkerRates:
    """How much each worker has scored, how fast, and with what."""

    cutouts: Counter[str] = field(default_factory=Counter)
    machines: list[dict[str, str]] = field(default_factory=list)
    _since: dict[str, float] = field(default_factory=dict)
    _last: dict[str, float] = field(default_factory=dict)
    _recorded: int = 0
    _recorded_at: float = -np.inf

    def add(self, outcome: Outcome) -> None:
        """Add what a task has returned.

        Parameters
        ----------
        outcome : Outcome
            With the worker's name, and what it computes with.
        """
        now, worker = time.monotonic(), outcome.worker
        self._since.setdefault(worker, now - outcome.seconds)
        self._last[worker] = now
        self.cutouts[worker] += outcome.cutouts
        machine = dict(outcome.machine or {})
        if machine and machine not in self.machines:
            self.machines.append(machine)

    def new_machines(self, interval: float = 0.0) -> list[dict[str, str]]:
        """Return the machines that have come since the last call, unless that is less than ``interval`` seconds ago."""
        now = time.monotonic()
        if self._recorded == len(self.machines) or now - self._recorded_at < interval:
            return []
        new, self._recorded = self.machines[self._recorded :], len(self.machines)
        self._recorded_at = now
        return new

    def rate(self, worker: str) -> float:
        """Return the cutouts a second of a worker, from its first task to its last."""
        return self.cutouts[worker] / max(self._last[worker] - self._since[worker], 1e-9)

    def __str__(self) -> str:
        slowest = sorted(self.cutouts, key=self.rate)
        lines = [
            f"  worker {name}: {self.cutouts[name]:,} in all, {self.rate(name):.3g} a second"
            for name in slowest[:_LISTED_WORKERS]
        ]
        if len(slowest) > _LISTED_WORKERS:
            rest = len(slowest) - _LISTED_WORKERS
            lines.append(f"  and {rest:,} more, up to {self.rate(slowest[-1]):.3g} a second")
        return "\n".join(["Rate of each worker, the slowest first:", *lines] if lines else [])
