"""Batches of sequences for a training: objects of about one length, some of their epochs left out at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from deepstreaks_dask.archive.retraction import stored_rows
from deepstreaks_dask.archive.sequences import Sequences, read_objects
from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.models.sequence.preprocessing import Batch, Prepared, pad, prepare
from deepstreaks_dask.models.sequence.recurrent import Recurrent
from deepstreaks_dask.training.feeds import Feed, split_by_shard
from deepstreaks_dask.training.recipe import Recipe
from deepstreaks_dask.utils.progress import progress_bar

MAX_EPOCHS_PER_OBJECT = 128
"""Epochs of an object in a training step; of more, so many are drawn each time."""

FIRST_EPOCHS_PER_OBJECT = 32
"""The same in nearly the first half of the passes, which are the quicker for it."""

_SORTED_BATCHES = 8  # batches whose objects are sorted by length together


class Shards:
    """Objects of an archive, read shard by shard when they are needed.

    Parameters
    ----------
    archive : xarray.Dataset
        As :func:`~deepstreaks_dask.archive.dataset.open_archive` returns it.
    rows : ndarray
        int ``(object,)``: rows of the objects, ascending.
    window : int
        Objects in memory at once, rounded up to whole shards; 0 for all.
    """

    def __init__(self, archive: xr.Dataset, rows: np.ndarray, window: int = 0) -> None:
        self.url, self.rows = str(archive.attrs["url"]), stored_rows(archive)[rows]
        self.counts = archive["epochs"].values[rows].astype(np.int64)
        self._total, self._shard = int(self.rows.max(initial=0)) + 1, int(archive.attrs["shard"])
        self._shards = split_by_shard(self.rows, self._shard)
        self._size = max(1, -(-window // self._shard)) if window else len(self._shards)
        self._places = np.empty(0, np.int64)
        self._held: Sequences | None = None
        self.failure: TrainingError | None = None

    def windows(self, rng: np.random.Generator | None) -> list[np.ndarray]:
        """Return the places ``(object,)`` window by window, their shards in random order."""
        n = len(self._shards)
        order = np.arange(n) if rng is None else rng.permutation(n)
        return [
            np.sort(np.concatenate([self._shards[k] for k in order[first : first + self._size]]))
            for first in range(0, n, self._size)
        ]

    def load(self, places: np.ndarray, *, progress: bool = False) -> None:
        """Read a window, unless it was read last.

        Parameters
        ----------
        places : ndarray
            int ``(object,)``: the window.
        progress : bool
            Show count, rate and time left.

        Raises
        ------
        TrainingError
            If an object cannot be used.
        """
        if self._held is not None and np.array_equal(places, self._places):
            return
        self._held = None
        rows = self.rows[places]
        parts = []
        with progress_bar("read", len(rows), unit="objects", show=progress) as bar:
            for mine in (rows[part] for part in split_by_shard(rows, self._shard)):
                first = int(mine[0]) // self._shard * self._shard
                stretch = read_objects(self.url, first, min(first + self._shard, self._total))
                wanted = np.isin(stretch.rows, mine)
                if stretch.sequences is None or wanted.sum() < len(mine):
                    lost = next(
                        (f for f in stretch.failures if f[0] <= int(mine[-1])), ("", "", "")
                    )
                    self.failure = TrainingError(
                        f"object {lost[0]} of {self.url} cannot be used ({lost[2]}): look for damage with "
                        "'deepstreaks archive verify'"
                    )
                    raise self.failure
                parts.append(stretch.sequences.take(np.flatnonzero(wanted)))
                bar.advance(len(mine))
        self._places, self._held = places, Sequences.join(parts)

    def take(self, places: np.ndarray) -> Sequences:
        """Return objects, by their places ``(object,)``, of the window that was read last."""
        assert self._held is not None
        return self._held.take(np.searchsorted(self._places, places))


class SequenceFeed(Feed):
    """Batches of sequences, with epochs left out at random, or whole for a validation.

    Parameters
    ----------
    shards : Shards
    labels : ndarray
        int ``(object,)``: number of its class.
    weights : ndarray
        float32 ``(class,)``.
    classifier : Recurrent
        What is trained: it says what it takes.
    recipe : Recipe
        Gives the seed, the batch, and whether stamps are turned over.
    shuffled : bool
        False gives whole objects as they are.
    epoch : int
        Which epoch comes first.
    """

    def __init__(
        self,
        shards: Shards,
        labels: np.ndarray,
        weights: np.ndarray,
        classifier: Recurrent,
        recipe: Recipe,
        *,
        shuffled: bool = True,
        epoch: int = 0,
    ) -> None:
        super().__init__(recipe, shuffled=shuffled, epoch=epoch)
        self.shards, self.labels, self.weights = shards, labels, weights
        self.classifier = classifier
        self._longest = MAX_EPOCHS_PER_OBJECT if shuffled else int(shards.counts.max())
        self.begin()

    @property
    def failure(self) -> TrainingError | None:
        """Why a batch could not be read, if one could not."""
        return self.shards.failure

    def begin(self) -> None:
        """Draw the batches of the current epoch."""
        self._most = (
            FIRST_EPOCHS_PER_OBJECT
            if self.epoch < self.recipe.epochs // 2
            else MAX_EPOCHS_PER_OBJECT
        )
        rng = self.generator()
        size, self._steps = self.recipe.batch, []
        for window in self.shards.windows(rng):
            places = window if rng is None else rng.permutation(window)
            together = len(places) if rng is None else _SORTED_BATCHES * size
            mine = []
            for first in range(0, len(places), together):
                some = places[first : first + together]
                some = some[np.argsort(self.shards.counts[some], kind="stable")]
                mine += [some[k : k + size] for k in range(0, len(some), size)]
            order = range(len(mine)) if rng is None else rng.permutation(len(mine))
            self._steps += [(window, mine[k]) for k in order]

    def at(self, epoch: int | None) -> SequenceFeed:
        """Return a feed of the same objects as an epoch of this number has them; None for whole objects as they are."""
        return SequenceFeed(
            self.shards,
            self.labels,
            self.weights,
            self.classifier,
            self.recipe,
            shuffled=epoch is not None,
            epoch=epoch or 0,
        )

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        window, places = self._steps[index]
        self.shards.load(window)
        sequences = self.shards.take(places)
        if (rng := self.generator(index)) is not None:
            sequences = _thinned(sequences, rng, self.classifier.fewest, self._most)
            prepared = prepare(sequences)
            if self.recipe.flips:
                _turn(prepared, rng)
        else:
            prepared = prepare(sequences)
        # Keras takes a length for fixed that its first batches share: the very first is one that no other can have
        length = self._longest + 1 if index == 0 else 0
        batch = pad(prepared, np.arange(len(places)), length)
        labels = self.labels[places]
        given = dict(zip(self.classifier.inputs, self.classifier.of(batch), strict=True))
        return given, *self._targets(batch, labels)

    def _targets(self, batch: Batch, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and weights: an object's weight is that of its class, distributed over its predictions."""
        weights = self.weights[labels]
        if len(self.classifier.model.output_shape) == 2:
            return labels, weights
        # after every epoch there is a prediction; later ones, which know more, count for more
        ramp = np.cumsum(batch.mask, axis=1) * batch.mask
        share = ramp / ramp.sum(axis=1, keepdims=True) * batch.mask.shape[1]
        return np.repeat(labels[:, None], batch.mask.shape[1], axis=1), (
            share * weights[:, None]
        ).astype(np.float32)


def _thinned(sequences: Sequences, rng: np.random.Generator, fewest: float, most: int) -> Sequences:
    """Leave out epochs at random, as other cadences and clouds do; so large a share stays at least, or so many as may."""
    kept, counts = [], []
    for start, count in zip(sequences.starts, sequences.counts, strict=True):
        wanted = min(most, max(1, round(count * rng.uniform(fewest, 1.0))))
        kept.append(start + np.sort(rng.permutation(count)[:wanted]))
        counts.append(wanted)
    return sequences.only(np.concatenate(kept), np.array(counts))


def _turn(prepared: Prepared, rng: np.random.Generator) -> None:
    """Turn over all stamps of each object alike: one of the eight symmetries of a square."""
    ends = np.cumsum(prepared.counts)
    for first, last, turns, mirrored in zip(
        ends - prepared.counts,
        ends,
        rng.integers(4, size=len(ends)),
        rng.random(len(ends)) < 0.5,
        strict=True,
    ):
        stamps: Any = np.rot90(prepared.pixels[first:last], turns, axes=(1, 2))
        prepared.pixels[first:last] = stamps[:, ::-1] if mirrored else stamps
