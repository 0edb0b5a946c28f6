"""The folder that a training leaves, and how its networks get into a zoo.

``record.json`` holds what was trained, how and on which data, ``curves.csv`` the losses epoch by epoch, ``tensorboard/`` the
logs, and ``networks/``, a zoo, the networks with their cards. An unfinished training resumes from
``checkpoint.safetensors``. Networks are copied to another zoo only by :func:`publish`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.training.checkpoints import CHECKPOINT_FILE, OnEpoch
from deepstreaks_dask.utils.storage import write_text
from deepstreaks_dask.utils.validation import validate

RECORD_FILE = "record.json"
"""Record of a training that is done, in its folder."""


class _RecordFile(BaseModel):
    """What every ``record.json`` has; trainings add entries of their own."""

    model_config = ConfigDict(strict=True, extra="allow")

    asked: dict[str, Any]
    cards: list[dict[str, Any]]
    history: dict[str, list[float]]
    split: dict[str, Any]


@dataclass(frozen=True, eq=False)
class TrainingRecord(Mapping[str, Any]):
    """Record of a training that is done: a mapping, as ``record.json`` holds it.

    Attributes
    ----------
    folder : Path
        Folder of the training.
    entries : dict
        ``asked`` (what was to be trained, and how), ``changes`` (from the named recipe), ``data``, ``split``, ``history``
        and ``cards``; trainings of cutouts have ``counts``, too.
    """

    folder: Path
    entries: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        networks = ", ".join(card.ref for card in self.cards)
        epochs = max((len(values) for values in self.history.values()), default=0)
        return f"<TrainingRecord of {networks}, {epochs} epochs, in {self.folder}>"

    @property
    def cards(self) -> list[Card]:
        """Cards of the networks, with their metrics on the test part."""
        return [Card.from_dict(values) for values in self.entries["cards"]]

    @property
    def history(self) -> dict[str, list[float]]:
        """Losses and accuracies by epoch."""
        history: dict[str, list[float]] = self.entries["history"]
        return history

    @property
    def networks(self) -> Zoo:
        """Zoo with the networks."""
        return Zoo(self.folder / "networks")


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, which is created if missing.

    Parameters
    ----------
    folder : Path
        Folder of a training.

    Yields
    ------
    None
        No other process trains there within the block.

    Raises
    ------
    TrainingError
        If another process trains there, or the folder cannot be written to.
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


def read_record(folder: Path) -> TrainingRecord | None:
    """Read the record of a training that is done.

    Parameters
    ----------
    folder : Path
        Folder of the training.

    Returns
    -------
    TrainingRecord or None
        None if there is no record.

    Raises
    ------
    TrainingError
        If the file is not the record of a training.
    """
    path = folder / RECORD_FILE
    source, remedy = f"{path} is no record of a training", "remove it to train again"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise TrainingError(f"{source}: {error}; {remedy}") from error
    validate(_RecordFile, values, source=source, error=TrainingError, remedy=remedy)
    return TrainingRecord(folder, values)


def find_record(folder: Path, asked: Mapping[str, Any]) -> TrainingRecord | None:
    """Return the record of a training, if it is done already.

    Parameters
    ----------
    folder : Path
        Folder of the training.
    asked : mapping
        What is to be trained, and how, as the record holds it under ``asked``.

    Returns
    -------
    TrainingRecord or None
        None if there is no record yet.

    Raises
    ------
    TrainingError
        If the folder has the record of another training, or a damaged one.
    """
    if (done := read_record(folder)) is None:
        return None
    wanted = json.loads(json.dumps(asked))  # as a file has it: lists for tuples
    if other := [key for key in wanted if done["asked"].get(key) != wanted[key]]:
        raise TrainingError(
            f"{folder} holds another training ({', '.join(other)} differ): choose another folder"
        )
    return done


def write_record(folder: Path, record: Mapping[str, Any]) -> TrainingRecord:
    """Write the record of a training, and remove its checkpoint.

    Parameters
    ----------
    folder : Path
        Folder of the training.
    record : mapping
        With at least ``asked``, ``split``, ``history`` and ``cards``.

    Returns
    -------
    TrainingRecord
        Record, as it is read again.
    """
    write_text(folder / RECORD_FILE, json.dumps(dict(record), indent=1, allow_nan=False))
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    written = read_record(folder)
    assert written is not None
    return written


def recording_curves(folder: Path, on_epoch: OnEpoch | None = None) -> OnEpoch:
    """Return a callback that writes the curves of a training after every epoch.

    Parameters
    ----------
    folder : Path
        Gets ``curves.csv``, one row per epoch.
    on_epoch : callable, optional
        Called after that.

    Returns
    -------
    callable
        Takes the number of an epoch, from 0, and its losses and accuracies.
    """
    rows: list[dict[str, float]] = []

    def after(epoch: int, losses: Mapping[str, float]) -> None:
        rows.append({"epoch": epoch + 1, **{k: float(v) for k, v in losses.items()}})
        write_text(folder / "curves.csv", pd.DataFrame(rows).to_csv(index=False))
        if on_epoch is not None:
            on_epoch(epoch, losses)

    return after


def publish(folder: Path, zoo: str) -> list[Card]:
    """Copy the networks of a training that is done to a zoo.

    Parameters
    ----------
    folder : Path
        Folder of the training.
    zoo : str
        Path or URL.

    Returns
    -------
    list of Card
        Cards of the networks in the zoo.

    Raises
    ------
    TrainingError
        If no training is done in the folder.
    ModelError
        If the zoo has another network of the same name and version.
    """
    record = read_record(folder)
    if record is None:
        raise TrainingError(f"no training is done in {folder}")
    store = Zoo(zoo)
    published = {card.ref: card for card in store.list()}

    def load(card: Card) -> Any:
        networks = record.networks
        return networks.load_classifier(card.ref) if card.classes else networks.load(card.ref)

    return [
        card if published.get(card.ref) == card else store.save(load(card), card, dtype=card.dtype)
        for card in record.cards
    ]
