"""What the feeds of cutouts and of sequences share.

A feed returns the batches of one epoch after the other. What an epoch holds depends on the seed and on the number of the
epoch only, so that a training that was killed resumes with the batches that it would have had.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import keras
import numpy as np

from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.training.recipe import Recipe


class Feed(keras.utils.PyDataset):
    """Batches of one epoch after the other, for Keras.

    Parameters
    ----------
    recipe : Recipe
        Its seed decides the order of an epoch.
    shuffled : bool
        False returns the same batches in the same order in every epoch, for a validation.
    epoch : int
        Number of the first epoch, from 0.
    """

    def __init__(self, recipe: Recipe, *, shuffled: bool = True, epoch: int = 0) -> None:
        super().__init__(workers=1)
        self.recipe, self.shuffled, self.epoch = recipe, shuffled, epoch

    def generator(self, *numbers: int) -> np.random.Generator | None:
        """Return the random generator of the current epoch, or of a part of it.

        Parameters
        ----------
        *numbers : int
            Which part.

        Returns
        -------
        numpy.random.Generator or None
            None for a validation, in which nothing is random.
        """
        if not self.shuffled:
            return None
        return np.random.default_rng((self.recipe.seed, self.epoch, *numbers))

    @property
    def failure(self) -> TrainingError | None:
        """Why a batch could not be read, if one could not."""
        return None

    def begin(self) -> None:
        """Draw the batches of the current epoch; kinds of feeds define how."""

    def on_epoch_end(self) -> None:
        """Draw the batches of the next epoch."""
        self.epoch += 1
        self.begin()


class _Failing(Protocol):
    @property
    def failure(self) -> TrainingError | None: ...


@contextmanager
def naming_damage(sources: Iterable[_Failing]) -> Iterator[None]:
    """Raise why data could not be read in place of the error that Keras makes of it.

    Parameters
    ----------
    sources : iterable
        What a training reads: each has a ``failure``, None while there is none.

    Yields
    ------
    None
        The training runs within.

    Raises
    ------
    TrainingError
        Which cutouts or objects cannot be read.
    """
    try:
        yield
    except Exception:
        failures = [source.failure for source in sources]
        if known := next((failure for failure in failures if failure is not None), None):
            raise known from None
        raise


def split_by_shard(rows: np.ndarray, shard: int) -> list[np.ndarray]:
    """Return the places of rows shard by shard.

    Parameters
    ----------
    rows : ndarray
        int ``(row,)``, ascending.
    shard : int
        Rows in a shard of the archive.

    Returns
    -------
    list of ndarray
        For each shard that holds any of the rows, their places in ``rows``, int ``(place,)``.
    """
    return np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows // shard)) + 1)
