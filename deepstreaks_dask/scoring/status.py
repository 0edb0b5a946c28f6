"""How far the runs of an archive are, told from what lies in the store.

A campaign writes one object a shard, once, in one step. Which there are and when they were written says what is
done and how fast, wherever the workers run and without asking them; its pulse says whether it is at work.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from deepstreaks_dask.archive.dataset import shard_bounds
from deepstreaks_dask.archive.retraction import retracted_rows
from deepstreaks_dask.archive.store import read_commit_record
from deepstreaks_dask.scoring.heartbeat import Pulse, read_pulse
from deepstreaks_dask.scoring.runs import Run
from deepstreaks_dask.utils.storage import locate

RATE_WINDOW = 300.0
"""Seconds before the last shard over which the rate is taken."""


@dataclass(frozen=True)
class Standing:
    """How far a run is.

    Attributes
    ----------
    run : str
    cutouts, done : int
        In the archive; with scores.
    shards : ndarray of str
        ``(shard,)``: ``"done"``, ``"failed"`` or ``"left"``, in order.
    written : pandas.DataFrame
        ``time`` (seconds since 1970) and ``cutouts`` (so far), a row for each shard that is done, in order of time.
    rate : float
        Cutouts a second over the last :data:`RATE_WINDOW` seconds of work; NaN with fewer than two shards.
    seconds_left : float
        Seconds at that rate; NaN if it is not known, 0 if all is done.
    pulse : Pulse or None
        Of the campaign that is at work on it, or was killed; None if none is.
    failures : list of (int, int, str)
        First and last row, and why, as the last campaign to end listed them.
    provenance : dict
    """

    run: str
    cutouts: int
    done: int
    shards: np.ndarray
    written: pd.DataFrame
    rate: float
    seconds_left: float
    pulse: Pulse | None
    failures: list[tuple[int, int, str]]
    provenance: dict[str, Any]

    @property
    def at_work(self) -> bool:
        """Whether a campaign works on it now."""
        return self.pulse is not None and self.pulse.fresh

    def count(self, state: str) -> int:
        """Count the shards in a state."""
        return int((self.shards == state).sum())


def run_status(archive: str | os.PathLike[str], run: str = "default") -> Standing:
    """Tell how far a run is.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    run : str
        Name of the run.

    Returns
    -------
    Standing
        As it lies in the store now.

    Raises
    ------
    CampaignError
        If there is no such run.
    """
    total, url = read_commit_record(archive).total, os.fspath(archive)
    stored = Run.open(archive, run)
    # before what is stored: else a campaign that ends meanwhile would seem to have stopped short
    pulse = read_pulse(url, run)
    array, provenance = stored.scores, stored.provenance
    bounds = shard_bounds(total, array.chunks[0])
    times = _times(url, run)
    failures = [(int(a), int(b), str(why)) for a, b, why in provenance.get("failures", [])]
    size = array.chunks[0]
    failures = [(a, b, why) for a, b, why in failures if _unscored(stored, a, b)]
    failed = {first // size for first, _, _ in failures}
    partly = _partly(stored, total)
    withdrawn = retracted_rows(stored.url, total)
    left_rows = [int((~withdrawn[first:last]).sum()) for first, last in bounds]
    shards = np.array(
        [
            "failed"
            if k in failed
            else "done"
            if (k in times and k != partly) or not left_rows[k]
            else "left"
            for k in range(len(bounds))
        ],
        dtype=object,
    )
    done = [index for index, state in enumerate(shards) if state == "done"]
    sizes = np.array([left_rows[index] for index in done], np.int64)
    when = np.array([times.get(index, 0.0) for index in done])
    order = np.argsort(when, kind="stable")
    written = pd.DataFrame({"time": when[order], "cutouts": np.cumsum(sizes[order])})
    rate = _rate(written)
    total = sum(left_rows)
    left = total - int(sizes.sum())
    return Standing(
        run=run,
        cutouts=total,
        done=int(sizes.sum()),
        shards=shards,
        written=written,
        rate=rate,
        seconds_left=left / rate if left else 0.0,
        pulse=pulse,
        failures=failures,
        provenance=provenance,
    )


def _times(url: str, run: str) -> dict[int, float]:
    """When the scores of each shard were written, by its number."""
    fs, root = locate(url)
    fs.invalidate_cache()
    folder = f"{root}/runs/{run}/scores/c"
    times = {}
    for path, entry in fs.find(folder, detail=True).items():
        parts = path.removeprefix(folder).strip("/").split("/")
        if all(part.isdigit() for part in parts):  # no file of a write under way, or killed
            stamp = entry.get("mtime") or entry.get("LastModified") or entry.get("updated") or 0.0
            times[int(parts[0])] = (
                stamp.timestamp() if isinstance(stamp, datetime) else float(stamp)
            )
    return times


def _unscored(stored: Run, first: int, last: int) -> bool:
    """Say whether rows that could not be read still have no scores."""
    try:
        return bool(np.isnan(stored.scores[first:last]).all())
    except Exception:  # a torn chunk fails in its codec's own way
        return True


def _partly(stored: Run, total: int) -> int:
    """Number of the last shard if the archive has grown within it since it was scored; -1 if not."""
    array = stored.scores
    scored, size = array.shape[0], array.chunks[0]
    if scored < total:
        return scored // size if scored % size else -1
    if not total:
        return -1
    shard = (total - 1) // size
    try:
        last = np.asarray(array[total - 1])
    except Exception:  # a torn chunk fails in its codec's own way, and is to be scored again
        return shard
    left = np.isnan(last).all() and stored.kept(total - 1, total).all()
    return shard if left else -1


def _rate(written: pd.DataFrame) -> float:
    recent = (
        written[written["time"] >= written["time"].max() - RATE_WINDOW] if len(written) else written
    )
    if len(recent) < 2:
        return np.nan
    span = float(recent["time"].iloc[-1] - recent["time"].iloc[0])
    gained = int(recent["cutouts"].iloc[-1] - recent["cutouts"].iloc[0])
    return gained / span if span > 0 else np.nan
