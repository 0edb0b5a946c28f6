"""What a worker of a campaign does: read shards, let the members look, store the scores.

Schedulers import this module too, since tasks come by them, and run no network: the networks are loaded by those who do.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import zarr
from dask.distributed import Reschedule, get_worker

from deepstreaks_dask.archive.hashing import digests
from deepstreaks_dask.archive.opening import open_array
from deepstreaks_dask.archive.sequences import Stretch, read_objects
from deepstreaks_dask.errors import CampaignError
from deepstreaks_dask.scoring.cascade import Cascade
from deepstreaks_dask.scoring.machine import card_is_gone, describe_worker, has_lost_card
from deepstreaks_dask.scoring.runs import Run
from deepstreaks_dask.utils.storage import is_local, locate

if TYPE_CHECKING:
    from deepstreaks_dask.scoring.networks import Networks, Sample

_ZARR_WRITE_CONFIG: Any = {"write_empty_chunks": True}
_device = threading.Lock()  # one forward pass at a time in a worker; the other thread reads ahead
_disk = threading.Lock()
_TIMED_CUTOUTS = 4  # in a call that is timed on a processor
_TIMED_CALLS = 3
_LONG_CALL = 2.0  # seconds; a call that took longer is not timed again

LOST_CARD = "deepstreaks-lost-card"
"""Topic of Dask's events under which a worker tells that its card is gone."""


@dataclass(frozen=True)
class Unit:
    """What travels to a worker: names and numbers, never pixels or weights."""

    url: str
    run: str
    shards: tuple[tuple[int, int], ...]  # rows [first, last) of each
    zoo: str | None
    members: tuple[tuple[str, str], ...]  # (name@version, sha256)
    batch: int
    precision: str = "float32"
    cascade: Cascade | None = None
    first_look: bool = False  # the one member's scores are those of a triage's first look
    sequences: bool = False  # rows are objects with their stamps
    flips: bool = False  # a score is the mean of a cutout's and its flips'


@dataclass(frozen=True)
class Outcome:
    """What comes back: how many rows were dealt with, which could not be read, and why; and what the device held.

    Attributes
    ----------
    cutouts : int
        Rows that were dealt with.
    failures : tuple of (int, int, str)
        Rows ``[first, last)`` that could not be read, and why.
    size : int or None
        How many cutouts a call takes, where a batch was too much for a device's memory.
    worker : str
        Its name.
    seconds : float
        Seconds that it took.
    machine : mapping of str to str, or None
        As :func:`~deepstreaks_dask.scoring.machine.describe_worker` describes it.
    """

    cutouts: int
    failures: tuple[tuple[int, int, str], ...] = ()
    size: int | None = None
    worker: str = ""
    seconds: float = 0.0
    machine: Mapping[str, str] | None = None


def score_unit(unit: Unit) -> Outcome:
    """Read, score and store shards, but for what a triage rejected; runs on a worker.

    A worker whose card is gone ends, and another one does its work.
    """
    if has_lost_card():
        _leave("the backend finds no card that it can compute with")
    start = time.perf_counter()
    try:
        outcome = _score_unit(unit)
    except Exception as error:
        if card_is_gone():
            _leave(_why(error), error)
        raise
    seconds = time.perf_counter() - start
    return replace(outcome, worker=_name(), seconds=seconds, machine=describe_worker())


def _name() -> str:
    with suppress(ValueError):  # no worker: called by itself
        return str(get_worker().name)
    return ""


def _leave(why: str, error: Exception | None = None) -> NoReturn:
    """End this worker, whose card is gone; its work goes to others."""
    try:
        worker = get_worker()
    except ValueError:
        raise CampaignError(f"this process has lost its card: {why}") from error
    said = {"name": _name(), "host": socket.gethostname(), "why": " ".join(why.split())[:200]}
    worker.log_event(LOST_CARD, said)
    worker.loop.add_callback(worker.close_gracefully, reason="its card is gone")
    raise Reschedule from error


def _score_unit(unit: Unit) -> Outcome:
    if unit.sequences:
        return _score_sequences(unit)
    run = Run.attach(unit.url, unit.run, write=True)
    source, digest = (open_array(unit.url, name) for name in ("cutouts", "digest"))
    read, failures = [], []
    for first, last in unit.shards:
        cutouts, whole, unread = _read(source, digest, first, last)
        failures += unread
        if whole.any():
            kept = whole if unit.first_look else whole & run.kept(first, last)
            read.append((first, last, kept, cutouts[kept]))
    size = None
    if read:
        networks = _networks(unit, unit.precision, source)
        pixels = np.concatenate([cutouts for *_, cutouts in read])
        with _device:
            scores = networks.score(pixels, unit.cascade)
        size = networks.halved
        # a shard whose cutouts are all rejected is written too: it is done
        array = (run.first_look if unit.first_look else run.scores).with_config(_ZARR_WRITE_CONFIG)
        start = 0
        for first, last, kept, cutouts in read:
            values = np.full((last - first, *array.shape[1:]), np.nan, np.float32)
            values[kept] = scores[start : start + len(cutouts)].reshape(-1, *array.shape[1:])
            array[first:last] = values
            start += len(cutouts)
    return Outcome(sum(last - first for first, last in unit.shards), tuple(failures), size)


def _score_sequences(unit: Unit) -> Outcome:
    """Read, score and store the objects of shards; one that cannot be used stays NaN, and is named."""
    run = Run.attach(unit.url, unit.run, write=True)
    array = run.scores.with_config(_ZARR_WRITE_CONFIG)
    failures: list[tuple[int, int, str]] = []
    for together in _neighbours(unit.shards):
        for shards, stretch in _read_stretches(unit.url, together):
            failures += stretch.failures
            if stretch.sequences is None:
                continue
            from deepstreaks_dask.scoring.networks import load_classifiers

            members = load_classifiers(unit.zoo, unit.members)
            begin, end = shards[0][0], shards[-1][1]
            values = np.full((end - begin, *array.shape[1:]), np.nan, np.float32)
            for first, last in shards:
                # by shards, so that a score does not depend on which of them are read together
                a, b = np.searchsorted(stretch.rows, [first, last])
                if a < b:
                    # not one pass at a time: these are small, and recurrent layers leave a processor idle between steps
                    scores = members.score(stretch.sequences.part(a, b))
                    values[stretch.rows[a:b] - begin] = scores
            array[begin:end] = values
    return Outcome(sum(last - first for first, last in unit.shards), tuple(failures))


def _neighbours(shards: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Put shards together that follow each other."""
    together: list[list[tuple[int, int]]] = []
    for first, last in shards:
        if not together or together[-1][-1][1] != first:
            together.append([])
        together[-1].append((first, last))
    return together


def _read_stretches(
    url: str, shards: Sequence[tuple[int, int]]
) -> list[tuple[Sequence[tuple[int, int]], Stretch]]:
    """Read shards that follow each other at once, in a third less time, or one by one where that is not possible."""
    # what comes from a disk costs a processor, and threads in step would all read and then all compute; but over a
    # network it is waited for, and that they can do together
    with _disk if is_local(locate(url)[0]) else nullcontext():
        together = read_objects(url, shards[0][0], shards[-1][1])
    if together.sequences is not None or len(shards) == 1:
        return [(shards, together)]
    return [([one], read_objects(url, *one)) for one in shards]


def _read(
    source: zarr.Array, digest: zarr.Array, first: int, last: int
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int, str]]]:
    """Read a shard, piece by piece if it is damaged: give cutouts, which of them are whole, and why others are not."""
    try:
        return _checked(source, digest, first, last), np.ones(last - first, bool), []
    except MemoryError:
        raise
    except OSError as error:  # the store's
        none = np.zeros((last - first, *source.shape[1:]), source.dtype)
        return none, np.zeros(last - first, bool), [(first, last, _why(error))]
    except Exception:  # codecs raise whatever their libraries do
        cutouts = np.zeros((last - first, *source.shape[1:]), source.dtype)
    whole, failures = np.zeros(last - first, bool), []
    for a in range(first, last, source.chunks[0]):
        b = min(a + source.chunks[0], last)
        try:
            cutouts[a - first : b - first] = _checked(source, digest, a, b)
            whole[a - first : b - first] = True
        except Exception as error:
            failures.append((a, b, _why(error)))
    return cutouts, whole, failures


def _checked(source: zarr.Array, digest: zarr.Array, first: int, last: int) -> np.ndarray:
    cutouts = np.asarray(source[first:last])
    # an object that is gone reads as zeros; a damaged one fails its checksum
    if digests(cutouts[:1])[0] != np.asarray(digest[first]):
        raise OSError("the shard is missing")
    return cutouts


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


def sample(unit: Unit) -> Sample | None:
    """Let all members look at some rows, one member after the other; runs on a worker.

    What cannot be read is left out: who scores it says what is wrong with it. None if nothing can.
    """
    source = open_array(unit.url, "cutouts")
    read = []
    for first, last in unit.shards:
        try:
            read.append(np.asarray(source[first:last]))
        except Exception:  # noqa: S112 - codecs raise whatever their libraries do
            continue
    if not read:
        return None
    with _device:
        networks = _networks(unit, unit.precision, source)
        return networks.sample(np.concatenate(read))


def time_precision(unit: Unit) -> dict[str, float] | None:
    """Measure the time of a call in single precision and in the unit's own; runs on a worker.

    Parameters
    ----------
    unit : Unit
        The members, and shards that a few cutouts are taken from.

    Returns
    -------
    dict of str to float or None
        Seconds a cutout, by precision; None if no cutout can be read.
    """
    # a processor is as fast with few cutouts, and in a precision that it lacks it takes minutes for many
    batch = unit.batch if describe_worker()["kind"] == "gpu" else min(unit.batch, _TIMED_CUTOUTS)
    few = replace(unit, batch=batch)
    source = zarr.open_array(unit.url, path="cutouts", mode="r")
    for first, last in unit.shards:
        try:
            cutouts = np.asarray(source[first : min(last, first + batch)])
        except Exception:  # noqa: S112 - who scores it says what is wrong with it
            continue
        with _device:
            return {
                precision: _seconds(_networks(few, precision, source), cutouts)
                for precision in ("float32", unit.precision)
            }
    return None


def _seconds(networks: Networks, cutouts: np.ndarray) -> float:
    """Return the shortest time that a cutout took, once all is compiled."""
    networks.score(cutouts, None)
    times = []
    for _ in range(_TIMED_CALLS):
        start = time.perf_counter()
        networks.score(cutouts, None)
        times.append(time.perf_counter() - start)
        if times[-1] > _LONG_CALL:
            break
    return min(times) / len(cutouts)


def measure_precision(unit: Unit) -> dict[str, float] | None:
    """Compare scores with those in single precision, on the first shard that can be read; runs on a worker."""
    source = open_array(unit.url, "cutouts")
    for first, last in unit.shards:
        try:
            cutouts = np.asarray(source[first:last])
        except Exception:  # noqa: S112 - who scores it says what is wrong with it
            continue
        with _device:
            # the unit's own comes last, and stays loaded
            single, own = (
                _networks(unit, precision, source).score(cutouts, None)
                for precision in ("float32", unit.precision)
            )
        difference = np.abs(own - single)
        return {
            "cutouts": len(cutouts),
            "largest": float(difference.max()),
            "mean": float(difference.mean()),
        }
    return None


def _networks(unit: Unit, precision: str, cutouts: zarr.Array) -> Networks:
    from deepstreaks_dask.scoring.networks import load

    height, width = cutouts.shape[1:3]
    return load(unit.zoo, unit.members, (height, width), unit.batch, precision, unit.flips)
