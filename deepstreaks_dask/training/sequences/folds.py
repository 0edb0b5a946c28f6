"""Splits of objects into parts to train and to test on; all epochs of an object are in one part."""

from __future__ import annotations

import numpy as np

from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.training.recipe import Recipe, Split


def fold_splits(ids: np.ndarray, kinds: np.ndarray, folds: int, recipe: Recipe) -> list[Split]:
    """Split objects into folds, each of which is the test once; equal seeds give equal folds for every architecture.

    Parameters
    ----------
    ids, kinds : ndarray
        Name and class of each object, ``(object,)``; each fold has as many of a class as the others, give or take one.
    folds : int
        How many, 2 at least.
    recipe : Recipe
        Gives the seed, and what fraction of the objects that are not tested is held out for early stopping.

    Returns
    -------
    list of Split
        A fold each.

    Raises
    ------
    TrainingError
        If a class has fewer objects than there are folds.
    """
    names, counts = np.unique(kinds, return_counts=True)
    if folds < 2 or min(counts, default=0) < folds:
        raise TrainingError(
            f"{folds} folds of {dict(zip(names.tolist(), counts.tolist(), strict=True))} objects: give 2 or more, "
            "and no more than the rarest class has objects"
        )
    rng = np.random.default_rng(recipe.seed)
    part = np.empty(len(ids), np.int64)
    for name in names:
        mine = rng.permutation(np.flatnonzero(kinds == name))
        part[mine] = (np.arange(len(mine)) + rng.integers(folds)) % folds
    splits = []
    for fold in range(folds):
        others = rng.permutation(np.flatnonzero(part != fold))
        held_out = max(1, round(recipe.validation * len(others)))
        rows = others[held_out:], others[:held_out], np.flatnonzero(part == fold)
        splits.append(Split(*(tuple(np.sort(ids[chosen]).tolist()) for chosen in rows)))
    return splits


def draw_samples(
    kinds: np.ndarray, classes: tuple[str, ...], samples: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw so many objects of each class, rows in ascending order.

    Parameters
    ----------
    kinds : ndarray
        str ``(object,)``: the class of each.
    classes : tuple of str
        Names of the classes.
    samples : int
        Of each.
    rng : numpy.random.Generator
        Draws them.

    Returns
    -------
    ndarray
        int ``(sample,)``.

    Raises
    ------
    TrainingError
        If a class has fewer.
    """
    drawn = []
    for name in classes:
        mine = np.flatnonzero(kinds == name)
        if len(mine) < samples:
            raise TrainingError(
                f"there are {len(mine)} objects of class {name!r}: {samples} are wanted"
            )
        drawn.append(rng.permutation(mine)[:samples])
    return np.sort(np.concatenate(drawn))
