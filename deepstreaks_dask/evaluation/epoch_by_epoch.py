"""Follow objects epoch by epoch with those members of a run that can look at them so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.retraction import stored_rows
from deepstreaks_dask.archive.sequences import Sequences, read_objects
from deepstreaks_dask.evaluation.sequence_metrics import accuracy_by_epochs
from deepstreaks_dask.models.registry import classifier_class
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo, find_weights
from deepstreaks_dask.scoring.runs import SHIPPED_ZOO
from deepstreaks_dask.utils.progress import progress_bar


def online_members(
    scores: xr.Dataset, zoos: Sequence[str | None] | None = None
) -> dict[str, tuple[Zoo, Card]]:
    """Name the members of a run that give probabilities after every epoch.

    Parameters
    ----------
    scores : xarray.Dataset
        As :func:`~deepstreaks_dask.scoring.runs.open_run` gives it.
    zoos : sequence of str or None, optional
        Where to look for their weights, None being the shipped zoo; by default where the run says that it had them from.
        Who serves an archive of others names zoos, since else the archive says what is loaded.

    Returns
    -------
    dict of str to (Zoo, Card)
        The zoo that has a member's very weights, and their card, by member.

    Raises
    ------
    ModelError
        If one is not there.
    """
    attrs = provenance_of(scores)
    if zoos is None:
        zoos = [None if attrs["zoo"] == SHIPPED_ZOO else attrs["zoo"]]
    found = {
        one["name"]: find_weights(f"{one['name']}@{one['version']}", one["sha256"], zoos)
        for one in attrs["members"]
    }
    return {
        name: (store, card)
        for name, (store, card) in found.items()
        if hasattr(classifier_class(card.architecture), "predict_epochs")
    }


def follow(
    scores: xr.Dataset,
    *,
    only: np.ndarray | None = None,
    objects: int = 512,
    zoos: Sequence[str | None] | None = None,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Measure how accurate members are after so many epochs.

    Parameters
    ----------
    scores : xarray.Dataset
        As :func:`~deepstreaks_dask.scoring.runs.open_run` gives it.
    only : ndarray, optional
        bool ``(object,)``: which objects count; all by default.
    objects : int
        How many are followed, drawn at random of those with a class.
    zoos : sequence of str or None, optional
        As for :func:`online_members`.
    seed : int
        Of that draw.

    Returns
    -------
    dict of str to pandas.DataFrame
        As :func:`~deepstreaks_dask.evaluation.sequence_metrics.accuracy_by_epochs` gives it, by member;
        empty where none looks
        epoch by epoch, or no object can be read.

    Raises
    ------
    ModelError
        If the weights of a member are not there.
    """
    members = online_members(scores, zoos)
    classes = [str(name) for name in scores["class"].values]
    kinds = scores["kind"].values.astype(object).astype(str)
    known = np.isin(kinds, classes) if only is None else np.isin(kinds, classes) & only
    rng = np.random.default_rng(seed)
    rows, sequences = _read(scores, np.sort(rng.permutation(np.flatnonzero(known))[:objects]))
    if not members or sequences is None:
        return {}
    truth = np.array([classes.index(kind) for kind in kinds[rows]])
    curves = {}
    with progress_bar("follow", len(members), unit="members") as bar:
        for name, (store, card) in members.items():
            classifier: Any = store.load_classifier(card.ref)
            given = classifier.predict_epochs(sequences)
            order = [card.classes.index(kind) for kind in classes]
            curves[name] = accuracy_by_epochs(given[:, order], sequences.counts, truth, classes)
            bar.advance()
    return curves


def _read(scores: xr.Dataset, chosen: np.ndarray) -> tuple[np.ndarray, Sequences | None]:
    """Read some objects, shard by shard: their rows, and what can be used of them."""
    shard, numbers = int(scores.attrs["shard"]), stored_rows(scores)
    stored, total = numbers[chosen], int(numbers[-1]) + 1 if len(numbers) else 0
    parts, rows = [], []
    for first in np.unique(stored // shard) * shard:
        stretch = read_objects(scores.attrs["url"], int(first), min(int(first) + shard, total))
        wanted = np.flatnonzero(np.isin(stretch.rows, stored))
        if stretch.sequences is not None and len(wanted):
            parts.append(stretch.sequences.take(wanted))
            rows.append(np.searchsorted(numbers, stretch.rows[wanted]))
    if not parts:
        return np.empty(0, np.int64), None
    return np.concatenate(rows), Sequences.join(parts)
