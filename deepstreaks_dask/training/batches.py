"""Batches of cutouts for a training: from memory, or read from the archive while it trains."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import xarray as xr

from deepstreaks_dask.archive.hashing import digests
from deepstreaks_dask.archive.schema import CHUNK
from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.training.feeds import Feed, split_by_shard
from deepstreaks_dask.training.recipe import Recipe


class Pixels(Protocol):
    """Cutouts, named by their places 0 to n - 1, in the order of an epoch."""

    failure: TrainingError | None
    """Why cutouts could not be read, if they could not."""

    def __len__(self) -> int:
        """Return the number of cutouts."""

    def begin(self, rng: np.random.Generator | None) -> np.ndarray:
        """Begin an epoch, and return the places ``(n,)`` in an order drawn from ``rng``, or in the archive's."""

    def take(self, places: np.ndarray) -> np.ndarray:
        """Return cutouts, uint8 ``(place, y, x)``."""


class InMemory:
    """Cutouts that are all in memory, uint8 ``(n, y, x)``, in any order.

    Parameters
    ----------
    cutouts : ndarray
        uint8 ``(n, y, x)``.
    """

    def __init__(self, cutouts: np.ndarray) -> None:
        self.cutouts = cutouts
        self.failure: TrainingError | None = None

    def __len__(self) -> int:
        return len(self.cutouts)

    def begin(self, rng: np.random.Generator | None) -> np.ndarray:
        """Begin an epoch, and return the places ``(n,)``, all shuffled together."""
        return np.arange(len(self)) if rng is None else rng.permutation(len(self))

    def take(self, places: np.ndarray) -> np.ndarray:
        """Return cutouts, uint8 ``(place, y, x)``."""
        return self.cutouts[places]


class Streamed:
    """Cutouts that are read from an archive window by window, the next one while one is used.

    Parameters
    ----------
    archive : xarray.Dataset
        As :func:`~deepstreaks_dask.archive.dataset.open_archive` returns it.
    rows : ndarray
        Rows of the cutouts to read, ascending.
    window : int
        Cutouts that are shuffled together, rounded up to whole shards.
    """

    def __init__(self, archive: xr.Dataset, rows: np.ndarray, window: int) -> None:
        self.rows, self.window = rows, window
        self._pixels, self._digests = archive["cutouts"], archive["digest"].values[rows]
        self._shard = int(archive.attrs["shard"])
        self._shards = split_by_shard(rows, self._shard)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="windows")
        self._lock = threading.Lock()
        self._windows: list[np.ndarray] = []
        self._held: dict[int, Future[np.ndarray]] = {}
        self.failure: TrainingError | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def begin(self, rng: np.random.Generator | None) -> np.ndarray:
        """Begin an epoch, and return the places ``(n,)``, shards in random order, each window of them shuffled together."""
        shards = [self._shards[k] for k in _order(len(self._shards), rng)]
        windows: list[np.ndarray] = []
        together: list[np.ndarray] = []
        for k, places in enumerate(shards):
            together.append(places)
            if sum(map(len, together)) >= self.window or k == len(shards) - 1:
                windows.append(np.sort(np.concatenate(together)))
                together = []
        order = [window[_order(len(window), rng)] for window in windows]
        with self._lock:
            self._windows, self._held = windows, {}
            self._of = np.empty(len(self), np.int64)
            for k, window in enumerate(windows):
                self._of[window] = k
        self._window(0)
        return np.concatenate(order)

    def take(self, places: np.ndarray) -> np.ndarray:
        """Return cutouts, uint8 ``(place, y, x)``, as soon as their window is read."""
        of = self._of[places]
        taken = np.empty((len(places), *self._pixels.shape[1:]), np.uint8)
        for k in np.unique(of):
            here = of == k
            window = self._window(int(k)).result()
            taken[here] = window[np.searchsorted(self._windows[k], places[here])]
        return taken

    @property
    def held(self) -> int:
        """Cutouts in memory, or about to be."""
        with self._lock:
            return sum(len(self._windows[k]) for k in self._held)

    def _window(self, k: int) -> Future[np.ndarray]:
        """Start reading a window and the next one; windows before the last one are released."""
        with self._lock:
            for near in (k, k + 1):
                if near < len(self._windows) and near not in self._held:
                    self._held[near] = self._reader.submit(self._read, self._windows[near])
            self._held = {near: read for near, read in self._held.items() if near >= k - 1}
            return self._held[k]

    def _read(self, places: np.ndarray) -> np.ndarray:
        """Read places, ascending, by runs of neighbouring chunks, none longer than a shard."""
        rows = self.rows[places]
        apart = (np.diff(rows // CHUNK) > 1) | (np.diff(rows // self._shard) > 0)
        cutouts = np.empty((len(rows), *self._pixels.shape[1:]), np.uint8)
        for run in np.split(np.arange(len(rows)), np.flatnonzero(apart) + 1):
            first, last = int(rows[run[0]]), int(rows[run[-1]]) + 1
            try:
                read = self._pixels[first:last].values
                cutouts[run] = read[rows[run] - first]
                # an object that is gone reads as zeros; a damaged one fails its checksum
                if digests(cutouts[run[:1]])[0] != self._digests[places[run[0]]]:
                    raise OSError("the shard is missing, or was changed")
            except Exception as error:  # codecs raise whatever their libraries do
                # kept, since what feeds the network may wrap it
                self.failure = TrainingError(
                    f"cutouts {first} to {last - 1} cannot be read ({str(error) or type(error).__name__}): "
                    "look for damage with 'deepstreaks archive verify'"
                )
                raise self.failure from error
        return cutouts


def _order(n: int, rng: np.random.Generator | None) -> np.ndarray:
    return np.arange(n) if rng is None else rng.permutation(n)


class CutoutFeed(Feed):
    """Batches of uint8 cutouts as floats in 0..1, shuffled and each flipped at random, or as they come.

    Labels are (cutout, family, 1) and 0 or 1, weights (cutout, family) and 0 where there is no label.

    Parameters
    ----------
    pixels : Pixels
        The cutouts.
    labels, weights : ndarray
        float32 ``(cutout, family)``; labels of -1 where there is none.
    recipe : Recipe
        Gives the seed, the flips and the batch.
    shuffled : bool
        False gives the cutouts in their order and as they are, for a validation.
    epoch : int
        Number of the first epoch, from 0.
    """

    def __init__(
        self,
        pixels: Pixels,
        labels: np.ndarray,
        weights: np.ndarray,
        recipe: Recipe,
        *,
        shuffled: bool = True,
        epoch: int = 0,
    ) -> None:
        super().__init__(recipe, shuffled=shuffled, epoch=epoch)
        self.pixels, self.labels, self.weights = pixels, labels, weights
        self.begin()

    @property
    def failure(self) -> TrainingError | None:
        """Why a batch could not be read, if one could not."""
        return self.pixels.failure

    def begin(self) -> None:
        """Draw the order and the flips of the current epoch."""
        rng = self.generator()
        self._order = self.pixels.begin(rng)
        if rng is not None:
            self._flips = rng.random((len(self.pixels), 2)) < (0.5 if self.recipe.flips else 0)

    def __len__(self) -> int:
        return -(-len(self.pixels) // self.recipe.batch)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        first = index * self.recipe.batch
        places = self._order[first : first + self.recipe.batch]
        images = self.pixels.take(places).astype(np.float32) / 255
        if self.shuffled:
            vertical, horizontal = self._flips[places].T
            images[vertical] = images[vertical, ::-1]
            images[horizontal] = images[horizontal, :, ::-1]
        if images.ndim == 3:
            images = images[..., None]
        return images, self.labels[places, :, None].clip(0), self.weights[places]
