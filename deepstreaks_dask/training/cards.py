"""Entries that the cards of all trained networks have."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import keras
import xarray as xr

import deepstreaks_dask
from deepstreaks_dask.training.recipe import Recipe


def recipe_entries(recipe: Recipe, history: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return how a network was trained, as JSON can hold it.

    Parameters
    ----------
    recipe : Recipe
        How.
    history : mapping of str to sequence of float
        Losses and accuracies by epoch; empty for what is not trained by epochs.

    Returns
    -------
    dict
        Settings of the recipe, its changes from the named one, and versions. Where there is a history: ``epochs_run``,
        ``history`` and the backend of Keras, too.
    """
    entries: dict[str, Any] = {**asdict(recipe), "changes": recipe.changes()}
    if history:
        entries |= {
            "epochs_run": len(history["loss"]),
            "history": {key: [round(v, 5) for v in vs] for key, vs in history.items()},
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
        }
    return entries | {
        "python": platform.python_version(),
        "deepstreaks_dask": deepstreaks_dask.__version__,
    }


def simulation_sources(archive: xr.Dataset) -> list[str]:
    """Return the simulations that an archive has rows of, sorted; empty if nothing is simulated.

    Parameters
    ----------
    archive : xarray.Dataset
        With ``source`` of each row.

    Returns
    -------
    list of str
        Values of ``source`` that begin with ``simulation``.
    """
    return sorted({str(s) for s in archive["source"].values if str(s).startswith("simulation")})


def card_texts(title: str, unit: str, sources: Sequence[str]) -> tuple[str, str]:
    """Return the description and the limits of a card.

    Parameters
    ----------
    title : str
        What the network is.
    unit : str
        What it was trained and tested on: ``cutouts`` or ``objects``.
    sources : sequence of str
        Simulations that it was trained on.

    Returns
    -------
    description, limits : str
        Both name the simulation where anything was simulated.
    """
    description, limits = title, f"Its metrics are those of its own test {unit}"
    if sources:
        description += f", trained on simulated {unit} only"
        limits += ", which are simulated: they do not tell its error rates on the sky"
    return description, limits
