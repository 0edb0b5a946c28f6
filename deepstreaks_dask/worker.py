"""What a worker of a campaign does: read shards, let the members look, store the scores.

In full scoring all members are one compiled forward pass. Where they look one by one, each is a pass of its own over
batches of the same shape, filled up where cutouts run out: then a score does not depend on which others look along,
nor on what else is in the batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import keras
import numpy as np
import zarr

from deepstreaks_dask.archive import digests
from deepstreaks_dask.cascade import Look, Order, cascade
from deepstreaks_dask.errors import CampaignError
from deepstreaks_dask.models.forward import Forward, compile_forward, set_precision
from deepstreaks_dask.models.zoo import Zoo
from deepstreaks_dask.runs import Run

_EVERY_CHUNK: Any = {"write_empty_chunks": True}
_device = threading.Lock()  # one forward pass at a time in a worker; the other thread reads ahead
_loading = threading.Lock()


@dataclass(frozen=True)
class Cascade:
    """How members look one after the other: each one's threshold, and the order."""

    limits: tuple[float, ...]
    order: Order


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


@dataclass(frozen=True)
class Outcome:
    """What comes back: how many cutouts were dealt with, which could not be read, and why; and what the device held."""

    cutouts: int
    failures: tuple[tuple[int, int, str], ...] = ()
    size: int | None = None  # of a call, where a batch was too much for a device's memory


@dataclass(frozen=True)
class Sample:
    """All scores of some cutouts, float32 (cutout, member), and the seconds that each member took for one."""

    scores: np.ndarray
    costs: tuple[float, ...]


def score_unit(unit: Unit) -> Outcome:
    """Read, score and store shards, but for what a triage rejected; runs on a worker."""
    run = Run.attach(unit.url, unit.run, write=True)
    source, digest = (
        zarr.open_array(unit.url, path=name, mode="r") for name in ("cutouts", "digest")
    )
    read, failures = [], []
    for first, last in unit.shards:
        cutouts, whole, unread = _read(source, digest, first, last)
        failures += unread
        if whole.any():
            kept = whole if unit.first_look else whole & run.kept(first, last)
            read.append((first, last, kept, cutouts[kept]))
    size = None
    if read:
        networks = _load(unit.zoo, unit.members, unit.batch, unit.precision)
        pixels = np.concatenate([cutouts for *_, cutouts in read])
        with _device:
            scores = networks.score(pixels, unit.cascade)
        size = networks.halved
        # a shard whose cutouts are all rejected is written too: it is done
        array = (run.first_look if unit.first_look else run.scores).with_config(_EVERY_CHUNK)
        start = 0
        for first, last, kept, cutouts in read:
            values = np.full((last - first, *array.shape[1:]), np.nan, np.float32)
            values[kept] = scores[start : start + len(cutouts)].reshape(-1, *array.shape[1:])
            array[first:last] = values
            start += len(cutouts)
    return Outcome(sum(last - first for first, last in unit.shards), tuple(failures), size)


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
    source = zarr.open_array(unit.url, path="cutouts", mode="r")
    read = []
    for first, last in unit.shards:
        try:
            read.append(np.asarray(source[first:last]))
        except Exception:  # noqa: S112 - codecs raise whatever their libraries do
            continue
    if not read:
        return None
    with _device:
        networks = _load(unit.zoo, unit.members, unit.batch, unit.precision)
        return networks.sample(np.concatenate(read))


def measure_precision(unit: Unit) -> dict[str, float] | None:
    """Compare scores with those in single precision, on the first shard that can be read; runs on a worker."""
    source = zarr.open_array(unit.url, path="cutouts", mode="r")
    for first, last in unit.shards:
        try:
            cutouts = np.asarray(source[first:last])
        except Exception:  # noqa: S112 - who scores it says what is wrong with it
            continue
        with _device:
            # the unit's own comes last, and stays loaded
            single, own = (
                _load(unit.zoo, unit.members, unit.batch, precision).score(cutouts, None)
                for precision in ("float32", unit.precision)
            )
        difference = np.abs(own - single)
        return {
            "cutouts": len(cutouts),
            "largest": float(difference.max()),
            "mean": float(difference.mean()),
        }
    return None


class _Networks:
    """The members on a worker: all in one pass, or one by one."""

    def __init__(self, models: dict[str, keras.Model], scalings: list[str], batch: int) -> None:
        self.models, self.scalings, self.batch = models, scalings, batch
        self.looks: list[Look] = [partial(self._look, ref) for ref in models]
        self._alone: dict[str, Forward] = {}

    @cached_property
    def together(self) -> Forward:
        return compile_forward(list(self.models.values()), self.batch, self.scalings)

    @property
    def halved(self) -> int | None:
        """Cutouts in the smallest call of those that the device's memory was too small for; None if there is none."""
        passes = [*self._alone.values(), *filter(None, [self.__dict__.get("together")])]
        return min((one.size for one in passes if one.size < self.batch), default=None)

    def alone(self, ref: str) -> Forward:
        if ref not in self._alone:  # a member that never looks is never compiled
            scaling = self.scalings[list(self.models).index(ref)]
            self._alone[ref] = compile_forward([self.models[ref]], self.batch, [scaling])
        return self._alone[ref]

    def score(self, cutouts: np.ndarray, plan: Cascade | None) -> np.ndarray:
        if plan is None:
            passes = _passes(self.together, cutouts, self.batch)
            return _finite(np.concatenate(list(passes)), list(self.models))
        return cascade(cutouts, self.looks, np.array(plan.limits, np.float32), plan.order)

    def sample(self, cutouts: np.ndarray) -> Sample:
        """Score cutouts member by member; the last batch of each tells its cost, since the first warms up."""
        columns, costs = [], []
        whole = max(0, (len(cutouts) - 1) // self.batch * self.batch)
        for ref, look in zip(self.models, self.looks, strict=True):
            self.alone(ref)  # compiled outside of what is timed
            before = [look(cutouts[:whole])] if whole else []
            start = time.perf_counter()
            columns.append(np.concatenate([*before, look(cutouts[whole:])]))
            costs.append((time.perf_counter() - start) / self.batch)
        return Sample(np.stack(columns, axis=1), tuple(costs))

    def _look(self, ref: str, cutouts: np.ndarray) -> np.ndarray:
        passes = _passes(self.alone(ref), cutouts, self.batch)
        return _finite(np.concatenate(list(passes)), [ref])[:, 0]


def _passes(forward: Forward, cutouts: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    return (forward(cutouts[k : k + batch]) for k in range(0, len(cutouts), batch))


def _finite(scores: np.ndarray, refs: list[str]) -> np.ndarray:
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=0))
    if len(broken):
        names = ", ".join(refs[k] for k in broken)
        raise CampaignError(f"{names} gives no finite score: its weights are broken")
    return scores


def _load(
    zoo: str | None, members: tuple[tuple[str, str], ...], batch: int, precision: str
) -> _Networks:
    with _loading:  # two threads must not load the same networks at once
        return _load_once(zoo, members, batch, precision)


@lru_cache(maxsize=2)  # the members, and who looks first
def _load_once(
    zoo: str | None, members: tuple[tuple[str, str], ...], batch: int, precision: str
) -> _Networks:
    """Load the members once a worker; the hashes are part of the key."""
    store = Zoo(zoo)
    scalings = []
    for ref, sha256 in members:
        card = store.card(ref)
        if card.sha256 != sha256:
            raise CampaignError(f"the weights of {ref} changed since the campaign began")
        scalings.append(card.scaling)
    models = {ref: store.load(ref) for ref, _ in members}
    if precision != "float32":
        for model in models.values():
            set_precision(model, precision)
    return _Networks(models, scalings, batch)
