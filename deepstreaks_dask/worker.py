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

import keras
import numpy as np
import zarr

from deepstreaks_dask.archive import digests
from deepstreaks_dask.cascade import Look, Order, cascade
from deepstreaks_dask.errors import CampaignError
from deepstreaks_dask.models.forward import Forward, compile_forward, set_precision
from deepstreaks_dask.models.zoo import Zoo
from deepstreaks_dask.runs import Run

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


@dataclass(frozen=True)
class Outcome:
    """What comes back: how many cutouts were dealt with, and which shards could not be read, and why."""

    cutouts: int
    failures: tuple[tuple[int, int, str], ...] = ()


@dataclass(frozen=True)
class Sample:
    """All scores of some cutouts, float32 (cutout, member), and the seconds that each member took for one."""

    scores: np.ndarray
    costs: tuple[float, ...]


def score_unit(unit: Unit) -> Outcome:
    """Read, score and store shards; runs on a worker."""
    source, digest = (
        zarr.open_array(unit.url, path=name, mode="r") for name in ("cutouts", "digest")
    )
    read, failures = [], []
    for first, last in unit.shards:
        try:
            cutouts = np.asarray(source[first:last])
            # an object that is gone reads as zeros; a damaged one fails its checksum
            if digests(cutouts[:1])[0] != np.asarray(digest[first]):
                raise OSError("the shard is missing")
            read.append((first, last, cutouts))
        except Exception as error:  # codecs raise whatever their libraries do
            failures.append((first, last, str(error) or type(error).__name__))
    if read:
        networks = _load(unit.zoo, unit.members, unit.batch, unit.precision)
        pixels = np.concatenate([cutouts for _, _, cutouts in read])
        with _device:
            scores = networks.score(pixels, unit.cascade)
        stored, start = Run.attach(unit.url, unit.run, write=True).scores, 0
        for first, last, _ in read:
            stored[first:last] = scores[start : start + last - first]
            start += last - first
    return Outcome(sum(last - first for first, last in unit.shards), tuple(failures))


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


@lru_cache(maxsize=1)
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
