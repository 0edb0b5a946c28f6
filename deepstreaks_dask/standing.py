"""How far the runs of an archive are, told from what lies in the store.

A campaign writes one object a shard, once, in one step. Which there are and when they were written says what is
done, how fast, and whether anyone is still at work, wherever the workers run and without asking them.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import zarr

from deepstreaks_dask.archive import open_archive, shard_bounds
from deepstreaks_dask.runs import Run
from deepstreaks_dask.storage import locate

WINDOW = 300.0
"""Seconds before the last shard over which the rate is taken."""

AT_WORK = 120.0
"""A run that wrote a shard within as many seconds is taken to be at work."""


@dataclass(frozen=True)
class Standing:
    """How far a run is.

    Attributes
    ----------
    run : str
    cutouts, done : int
        In the archive; with scores.
    shards : ndarray of str
        ``"done"``, ``"failed"`` or ``"left"`` for each shard, in order.
    written : pandas.DataFrame
        ``time`` (seconds since 1970) and ``cutouts`` (so far), a row for each shard that is done, in order of time.
    rate : float
        Cutouts a second over the last :data:`WINDOW` seconds of work; NaN with fewer than two shards.
    seconds_left : float
        At that rate; NaN if it is not known, 0 if all is done.
    at_work : bool
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
    at_work: bool
    failures: list[tuple[int, int, str]]
    provenance: dict[str, Any]

    def count(self, state: str) -> int:
        """Count the shards in a state."""
        return int((self.shards == state).sum())


def standing(archive: str | os.PathLike[str], run: str = "default") -> Standing:
    """Tell how far a run is.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    run : str
        Name of the run.

    Raises
    ------
    CampaignError
        If there is no such run.
    """
    dataset = open_archive(archive)
    url, total = dataset.attrs["url"], dataset.sizes["cutout"]
    stored = Run.open(archive, run)
    array, provenance = stored.scores, stored.provenance
    bounds = shard_bounds(total, array.chunks[0])
    times = _times(url, run)
    failures = [(int(a), int(b), str(why)) for a, b, why in provenance.get("failures", [])]
    failed = {first for first, _, _ in failures}
    partly = _partly(array, total)
    shards = np.array(
        [
            "done" if k in times and k != partly else "failed" if first in failed else "left"
            for k, (first, _) in enumerate(bounds)
        ],
        dtype=object,
    )
    done = [index for index, state in enumerate(shards) if state == "done"]
    sizes = np.array([bounds[index][1] - bounds[index][0] for index in done], np.int64)
    when = np.array([times[index] for index in done])
    order = np.argsort(when, kind="stable")
    written = pd.DataFrame({"time": when[order], "cutouts": np.cumsum(sizes[order])})
    rate = _rate(written)
    left = total - int(sizes.sum())
    return Standing(
        run=run,
        cutouts=total,
        done=int(sizes.sum()),
        shards=shards,
        written=written,
        rate=rate,
        seconds_left=left / rate if left else 0.0,
        at_work=bool(left and len(when) and time.time() - when.max() < AT_WORK),
        failures=[f for f in failures if shards[f[0] // array.chunks[0]] == "failed"],
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
        if len(parts) == 2 and parts[0].isdigit():  # no temporary file of a write under way
            stamp = entry.get("mtime") or entry.get("LastModified") or entry.get("updated") or 0.0
            times[int(parts[0])] = (
                stamp.timestamp() if isinstance(stamp, datetime) else float(stamp)
            )
    return times


def _partly(array: zarr.Array, total: int) -> int:
    """Number of the last shard if the archive has grown within it since it was scored; -1 if not."""
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
    return shard if np.isnan(last).all() else -1


def _rate(written: pd.DataFrame) -> float:
    recent = written[written["time"] >= written["time"].max() - WINDOW] if len(written) else written
    if len(recent) < 2:
        return np.nan
    span = float(recent["time"].iloc[-1] - recent["time"].iloc[0])
    gained = int(recent["cutouts"].iloc[-1] - recent["cutouts"].iloc[0])
    return gained / span if span > 0 else np.nan
