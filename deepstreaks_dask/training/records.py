"""The folder that a training leaves behind, and the way of its networks into a zoo.

``record.json`` says what was done and on which data, ``curves.csv`` holds the losses epoch by epoch, ``networks/`` is a
zoo with the members and their cards, ``tensorboard/`` the logs, and ``checkpoint.safetensors``, while the training is not
done, what it goes on from. Nothing goes into another zoo unless it is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import xarray as xr
from filelock import FileLock, Timeout

from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.evaluation.metrics import auc, confusion
from deepstreaks_dask.models.inference import compile_forward
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.training.batches import Streamed
from deepstreaks_dask.training.checkpoints import CHECKPOINT_FILE, OnEpoch
from deepstreaks_dask.training.fit import Training, groups_of, train
from deepstreaks_dask.training.recipe import Recipe, Split
from deepstreaks_dask.utils.storage import write_text

_MAX_LISTED_GROUPS = 2000  # groups that a card names one by one


def train_member(
    folder: Path,
    archive: xr.Dataset,
    families: Sequence[str],
    architecture: str = "vgg6",
    *,
    recipe: Recipe | None = None,
    start: str = "",
    start_zoo: str | None = None,
    split: Split | None = None,
    version: str = "1",
    on_epoch: OnEpoch | None = None,
) -> dict[str, Any]:
    """Train in a folder: go on with what was cut short there, and leave the record.

    Parameters
    ----------
    folder : Path
        Local folder of this training alone; made if it is not there.
    archive, families, architecture, recipe, split, on_epoch
        As for :func:`~deepstreaks_dask.training.fit.train`.
    start : str
        ``name@version`` of a network to start from; random weights by default.
    start_zoo : str, optional
        The zoo that it is in; the shipped one by default.
    version : str
        Version of the networks on their cards.

    Returns
    -------
    dict
        The record, as it lies in ``record.json``; ``cards`` has a card a family.

    Raises
    ------
    TrainingError
        If the folder holds another training, is being trained in, or cannot be written to, and as
        :func:`~deepstreaks_dask.training.fit.train` does.
    ModelError
        If there is no such network to start from.
    """
    recipe = recipe or Recipe()
    begun = Zoo(start_zoo).load(start) if start else None
    origin = Zoo(start_zoo).card(start) if start else None
    began_as = "random weights" if origin is None else f"{origin.ref}, {origin.sha256}"
    with alone_in(folder):
        asked = {
            "archive": str(archive.attrs.get("url", "")),
            "cutouts": archive.sizes["cutout"],
            "labels": _hash_labels(archive, families),
            "families": list(families),
            "architecture": architecture,
            "version": version,
            "recipe": asdict(recipe),
            "start": began_as,
            "split": None if split is None else asdict(split),
        }
        if (done := find_record(folder, asked)) is not None:
            return done
        training = train(
            archive,
            families,
            architecture,
            recipe=recipe,
            start=begun,
            split=split,
            folder=folder,
            on_epoch=drawing_curves(folder, on_epoch),
        )
        zoo = Zoo(folder / "networks")
        cards = [
            save_member(zoo, training, archive, family, version, start=began_as, overwrite=True)
            for family in families
        ]
        record = {
            "asked": asked,
            "changes": recipe.changes(),
            "data": training.data,
            "split": asdict(training.split),
            "counts": training.counts,
            "history": training.history,
            "cards": [card.to_dict() for card in cards],
        }
        return write_record(folder, record)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, which is made if it is not there.

    Parameters
    ----------
    folder : Path
        Of the training.

    Yields
    ------
    None
        While nobody else may train there.

    Raises
    ------
    TrainingError
        If another process is at work in it, or it cannot be written to.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise TrainingError(f"another process trains in {folder}: wait for it") from None
    except OSError as error:
        raise TrainingError(f"cannot write to {folder}: {error}") from error
    try:
        yield
    finally:
        lock.release()


def read_record(folder: Path) -> dict[str, Any] | None:
    """Give the record of a training that is done; None if there is none.

    Parameters
    ----------
    folder : Path
        Of the training.

    Returns
    -------
    dict or None
        As it lies in ``record.json``.

    Raises
    ------
    TrainingError
        If what is there is no record.
    """
    try:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        _ = record["asked"], record["cards"], record["history"], record["split"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrainingError(
            f"{folder / 'record.json'} is no record of a training: {error!r}"
        ) from error
    return dict(record)


def find_record(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give the record of a training that ended, if it is the one that is asked for.

    Parameters
    ----------
    folder : Path
        Of the training.
    asked : mapping
        What it was to do, as its record holds it under ``asked``.

    Returns
    -------
    dict or None
        None if none has ended there.

    Raises
    ------
    TrainingError
        If another one has, or the record is damaged.
    """
    if (done := read_record(folder)) is None:
        return None
    wanted = json.loads(json.dumps(asked))  # as a file has it: lists for tuples
    if other := [key for key in wanted if done["asked"].get(key) != wanted[key]]:
        raise TrainingError(
            f"{folder} holds another training ({', '.join(other)} differ): choose another folder"
        )
    return done


def write_record(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """End a training: write its record, and remove the checkpoint that nobody needs any more.

    Parameters
    ----------
    folder : Path
        Of the training.
    record : mapping
        With ``asked`` and ``cards``.

    Returns
    -------
    dict
        The record as it is read again.
    """
    write_text(folder / "record.json", json.dumps(record, indent=1, allow_nan=False))
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    found = read_record(folder)
    assert found is not None
    return found


def drawing_curves(folder: Path, on_epoch: OnEpoch | None = None) -> OnEpoch:
    """Write the curves of a training anew after every epoch.

    Parameters
    ----------
    folder : Path
        Gets ``curves.csv``, a row an epoch.
    on_epoch : callable, optional
        Called after that.

    Returns
    -------
    callable
        To be called after every epoch with its number, from 0 on, and its figures.
    """
    rows: list[dict[str, float]] = []

    def after(epoch: int, losses: Mapping[str, float]) -> None:
        rows.append({"epoch": epoch + 1, **{k: float(v) for k, v in losses.items()}})
        write_text(folder / "curves.csv", pd.DataFrame(rows).to_csv(index=False))
        if on_epoch is not None:
            on_epoch(epoch, losses)

    return after


def publish(folder: Path, zoo: str) -> list[Card]:
    """Put the networks of a training that is done into a zoo.

    Parameters
    ----------
    folder : Path
        Of the training.
    zoo : str
        Path or URL.

    Returns
    -------
    list of Card
        Of the networks that the zoo has now.

    Raises
    ------
    TrainingError
        If there is none.
    ModelError
        If the zoo has this version of one of them already.
    """
    record = read_record(folder)
    if record is None:
        raise TrainingError(f"no training is done in {folder}")
    made, store = Zoo(folder / "networks"), Zoo(zoo)
    there = {card.ref: card for card in store.list()}
    cards = [Card.from_dict(values) for values in record["cards"]]
    same = {card.ref for card in cards if card.ref in there and there[card.ref] == card}

    def load(card: Card) -> Any:
        return made.load_classifier(card.ref) if card.classes else made.load(card.ref)

    return [
        card if card.ref in same else store.save(load(card), card, dtype=card.dtype)
        for card in cards
    ]


def save_member(
    zoo: Zoo,
    training: Training,
    archive: xr.Dataset,
    family: str,
    version: str,
    *,
    start: str = "",
    overwrite: bool = False,
) -> Card:
    """Save one family's member in half precision, with what it scores on its test nights *as saved*.

    Parameters
    ----------
    zoo : Zoo
        Gets the network as ``<family>_<architecture>@<version>``.
    training : Training
        What :func:`~deepstreaks_dask.training.fit.train` gave.
    archive : xarray.Dataset
        The archive that it was trained on, as :func:`~deepstreaks_dask.archive.dataset.open_archive` gives
        it; the test nights are
        taken from it.
    family, version : str
        Which family's member, and its version in the zoo.
    start : str
        Network that it started from, for the record.
    overwrite : bool
        Replace this version if it is there.

    Returns
    -------
    Card
        With AUC, TPR and FPR at 0.5 and their 95 % intervals.

    Raises
    ------
    ModelError
        If the zoo has this version already.
    """
    sources = sorted({str(s) for s in archive["source"].values if str(s).startswith("simulation")})
    labels = archive[f"label_{family}"].values
    held_out = training.split.rows(groups_of(archive, training.recipe.by), "test")
    rows = np.flatnonzero((labels >= 0) & held_out)
    model = half_precision(training.models[family])
    card = Card(
        f"{family}_{training.architecture}",
        version,
        training.architecture,
        family=family,
        input_shape=tuple(model.input_shape[1:]),
        recipe=training.record() | {"start": start or "random weights"},
        training_data={
            **training.data,
            "simulation": sources,
            f"{training.recipe.by}s": _listed(training.split),
            "counts": training.counts[family],
        },
        description=f"DeepStreaks member {family}_{training.architecture} (Duev et al. 2019, arXiv:1904.05920)"
        + (", trained on simulated cutouts only" if sources else ""),
        limits="Its figures are those of its own test nights"
        + (
            ", which are simulated: they say nothing of how often it errs on the sky"
            if sources
            else ""
        ),
    )
    scores = score_rows(archive, [model], rows)[:, 0]
    area = auc(labels[rows], scores)
    counts = confusion(labels[rows], scores >= np.float32(0.5))
    metrics: dict[str, Any] = {"test_cutouts": len(rows)}
    for name, estimate in (("auc", area), ("tpr", counts.tpr), ("fpr", counts.fpr)):
        if np.isfinite(estimate.value):
            metrics[name] = round(estimate.value, 5)
            metrics[f"{name}_95"] = [round(estimate.low, 5), round(estimate.high, 5)]
    return zoo.save(model, replace(card, metrics=metrics), overwrite=overwrite)


def score_rows(
    archive: xr.Dataset, models: Sequence[keras.Model], rows: np.ndarray, *, batch: int = 64
) -> np.ndarray:
    """Score some cutouts of an archive in this process, a few at a time.

    Parameters
    ----------
    archive : xarray.Dataset
        With ``cutouts(cutout, y, x)`` uint8.
    models : sequence of keras.Model
        Of one input shape.
    rows : ndarray
        int ``(row,)``: which cutouts, ascending.
    batch : int
        Cutouts in a pass.

    Returns
    -------
    ndarray
        float32 ``(row, model)``.
    """
    forward = compile_forward(models, batch)
    pixels = Streamed(archive, rows, archive.attrs.get("shard", 1024)) if len(rows) else None
    scores = np.empty((len(rows), len(models)), np.float32)
    if pixels is not None:
        pixels.begin(None)
        for k in range(0, len(rows), batch):
            places = np.arange(k, min(k + batch, len(rows)))
            scores[places] = forward(pixels.take(places))
    return scores


def half_precision(model: keras.Model) -> keras.Model:
    """Round a network's kernels to half precision, as they are kept on disk, and give it back."""
    for weight in model.weights:
        if len(weight.shape) > 1:
            rounded = keras.ops.convert_to_numpy(weight).astype(np.float16).astype(np.float32)
            weight.assign(rounded)
    return model


def _hash_labels(archive: xr.Dataset, families: Sequence[str]) -> str:
    hashed = hashlib.sha256()
    for family in families:
        if f"label_{family}" in archive:  # training says what is wrong where it is not
            hashed.update(archive[f"label_{family}"].values.astype(np.int8).tobytes())
    return hashed.hexdigest()


def _listed(split: Split) -> dict[str, Any]:
    """Name the groups of each part, or, where they are too many for a card, count and hash them."""
    parts: dict[str, Any] = {}
    for part, groups in asdict(split).items():
        hashed = hashlib.sha256("\n".join(map(str, groups)).encode()).hexdigest()
        few = len(groups) <= _MAX_LISTED_GROUPS
        parts[part] = list(groups) if few else {"count": len(groups), "sha256": hashed}
    return parts
