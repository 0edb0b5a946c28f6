"""One harness for trainings of cutouts and of sequences: the epoch loop, and the folder that a training leaves.

The trainings differ in their networks, data, losses and cards: an :class:`EpochLoop` and a :class:`Trainable` describe
these. What they share is here: the optimiser, early stopping, checkpoints from which a killed training resumes to the last
bit, logs for TensorBoard, curves, and the record.

The optimiser is Adam (Kingma and Ba 2015, arXiv:1412.6980), as in the published recipe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import xarray as xr

from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.training.checkpoints import Checkpoints, OnEpoch, TrainingState
from deepstreaks_dask.training.feeds import Feed, naming_damage
from deepstreaks_dask.training.recipe import Recipe, Split
from deepstreaks_dask.training.records import (
    TrainingRecord,
    find_record,
    lock_folder,
    recording_curves,
    write_record,
)

RANDOM_WEIGHTS = "random weights"
"""What records and cards name as the start of a network that was trained from scratch."""


@dataclass(frozen=True)
class TrainingOptions:
    """How networks are trained, besides the data and the architecture.

    Attributes
    ----------
    recipe : Recipe, optional
        Recipe; by default the published one for cutouts, ``sequences`` for sequences, and ``few`` for fine-tuning.
    split : Split, optional
        Nights, or objects, to train on, to stop early by, and to test on; drawn by the recipe by default.
    start : str
        ``name@version`` of a network to start from; random weights by default.
    start_zoo : str, optional
        Path or URL of the zoo of that network; the shipped zoo by default.
    version : str
        Version of the networks on their cards.
    """

    recipe: Recipe | None = None
    split: Split | None = None
    start: str = ""
    start_zoo: str | None = None
    version: str = "1"

    def start_card(self) -> Card | None:
        """Return the card of the network to start from.

        Returns
        -------
        Card or None
            None for random weights.

        Raises
        ------
        ModelError
            If the zoo has no such network.
        """
        return Zoo(self.start_zoo).card(self.start) if self.start else None


@dataclass(frozen=True)
class Objective:
    """What a network learns to lower.

    Attributes
    ----------
    loss : str
        Name of a loss of Keras.
    weighted_metrics : tuple of str
        Names of metrics to follow, weighted as the loss is.
    clipnorm : float, optional
        Norm that the gradient of a weight is clipped to; not clipped by default.
    """

    loss: str
    weighted_metrics: tuple[str, ...] = ()
    clipnorm: float | None = None


@dataclass(frozen=True)
class EpochLoop:
    """A network, what it learns, and from which data.

    Attributes
    ----------
    model : keras.Model
        Built, not compiled. It is trained in place.
    recipe : Recipe
        Epochs, batch, learning rate and patience.
    objective : Objective
        Loss and metrics.
    rows : int
        Cutouts or objects in the training part.
    feeds : callable
        Takes the number of the next epoch, and returns the feed to train on from this epoch and the feed of the validation.
    identity : mapping
        Identifies the training, as JSON can hold it: the checkpoint of another training is refused.
    """

    model: keras.Model
    recipe: Recipe
    objective: Objective
    rows: int
    feeds: Callable[[int], tuple[Feed, Feed]]
    identity: Mapping[str, Any]

    def run(self, folder: Path | None = None, on_epoch: OnEpoch | None = None) -> TrainingState:
        """Train to the end, and leave the network with the weights of its best epoch.

        Parameters
        ----------
        folder : Path, optional
            Gets a checkpoint after every epoch, from which an equal call resumes, and, where TensorBoard is installed, its
            logs.
        on_epoch : callable, optional
            Called after every epoch with its number and the losses; also for the epochs that the checkpoint holds.

        Returns
        -------
        TrainingState
            Losses of all epochs.

        Raises
        ------
        TrainingError
            If the folder holds another training, data cannot be read, or the loss is not a number.
        """
        checkpoints = Checkpoints(self.recipe.patience, folder, self.identity)
        self._compile()
        checkpoints.resume(self.model)
        done, history = checkpoints.state.epochs, checkpoints.state.history
        train, validation = self.feeds(done)
        if on_epoch is not None:
            for epoch in range(done):
                on_epoch(epoch, {key: values[epoch] for key, values in history.items()})
        if checkpoints.state.stopped or done >= self.recipe.epochs:
            self.model.set_weights(checkpoints.best_epoch_weights)
            return checkpoints.state
        callbacks: list[keras.callbacks.Callback] = [checkpoints]
        if on_epoch is not None:
            callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=on_epoch))
        if folder is not None and find_spec("tensorboard") is not None:
            logs = folder / "tensorboard"
            callbacks.append(keras.callbacks.TensorBoard(logs, write_graph=False, profile_batch=0))
        with naming_damage([train, validation]):
            self.model.fit(
                train,
                validation_data=validation,
                initial_epoch=done,
                epochs=self.recipe.epochs,
                shuffle=False,  # of whole batches, by a generator that no checkpoint holds
                callbacks=callbacks,
                verbose=0,
            )
        return checkpoints.state

    def _compile(self) -> None:
        steps = -(-self.rows // self.recipe.batch)
        self.model.compile(
            adam(self.recipe, steps, clipnorm=self.objective.clipnorm),
            loss=self.objective.loss,
            weighted_metrics=list(self.objective.weighted_metrics) or None,
            # not with XLA on TensorFlow: on CPUs it makes training several times slower
            jit_compile=keras.backend.backend() == "jax",
        )
        self.model.optimizer.build(self.model.trainable_variables)


def adam(
    recipe: Recipe, steps: int, *, clipnorm: float | None = None
) -> keras.optimizers.Optimizer:
    """Return the optimiser of a recipe.

    Parameters
    ----------
    recipe : Recipe
        Learning rate, its schedule, and precision.
    steps : int
        Steps in an epoch.
    clipnorm : float, optional
        Norm that the gradient of a weight is clipped to.

    Returns
    -------
    keras.optimizers.Optimizer
        Adam (Kingma and Ba 2015, arXiv:1412.6980), its loss scaled where gradients are in float16.
    """
    rate: Any = recipe.learning_rate
    if recipe.cosine:
        rate = keras.optimizers.schedules.CosineDecay(rate, recipe.epochs * steps)
    optimizer = keras.optimizers.Adam(rate, clipnorm=clipnorm)
    if recipe.precision == "mixed_float16":  # in which small gradients would be 0
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def hash_weights(model: keras.Model) -> str:
    """Return the SHA-256 of a network's weights."""
    hashed = hashlib.sha256()
    for weight in model.get_weights():
        hashed.update(np.ascontiguousarray(weight).tobytes())
    return hashed.hexdigest()


@dataclass(frozen=True)
class TrainedNetworks:
    """What a training in a folder has made.

    Attributes
    ----------
    cards : list of Card
        Cards of the networks, as they are in the zoo of the folder.
    split : Split
        What they were trained, validated and tested on.
    history : mapping of str to list of float
        Losses and accuracies by epoch.
    data : mapping
        What identifies the data.
    counts : mapping, optional
        Labels of each family, by part.
    """

    cards: list[Card]
    split: Split
    history: Mapping[str, list[float]]
    data: Mapping[str, Any]
    counts: Mapping[str, Any] | None = None


class Trainable(Protocol):
    """What a training in a folder trains: members of families, or a classifier of sequences."""

    @property
    def archive(self) -> xr.Dataset:
        """Archive with the labels, as :func:`~deepstreaks_dask.archive.dataset.open_archive` opens it."""

    @property
    def architecture(self) -> str:
        """Architecture of the networks."""

    @property
    def recipe(self) -> Recipe:
        """Recipe, with the default filled in."""

    def identity(self) -> dict[str, Any]:
        """Return what distinguishes this training from others, as JSON can hold it, besides the options."""

    def train(
        self, folder: Path, zoo: Zoo, start: str, on_epoch: OnEpoch | None
    ) -> TrainedNetworks:
        """Train, and save the networks with their cards.

        Parameters
        ----------
        folder : Path
            Gets checkpoints and logs.
        zoo : Zoo
            Gets the networks.
        start : str
            What the cards name as the start of the networks.
        on_epoch : callable, optional
            Called after every epoch.

        Returns
        -------
        TrainedNetworks
            Cards, split, losses and data, for the record.
        """


def train_in_folder(
    folder: Path,
    trainable: Trainable,
    options: TrainingOptions,
    on_epoch: OnEpoch | None = None,
) -> TrainingRecord:
    """Train in a folder, resuming what was cut short there, and leave the record and the networks.

    Parameters
    ----------
    folder : Path
        Local folder of this training alone; created if missing. Gets ``record.json``, ``curves.csv``, ``networks/`` (a
        zoo), ``tensorboard/`` and, until the training is done, ``checkpoint.safetensors``.
    trainable : Trainable
        What is trained.
    options : TrainingOptions
        How.
    on_epoch : callable, optional
        Called after every epoch with its number and the losses.

    Returns
    -------
    TrainingRecord
        Record, as it is in ``record.json``.

    Raises
    ------
    TrainingError
        If the folder holds another training, another process trains there, it cannot be written to, or the training
        fails.
    ModelError
        If there is no such network to start from.
    """
    origin = options.start_card()
    start = RANDOM_WEIGHTS if origin is None else f"{origin.ref}, {origin.sha256}"
    with lock_folder(folder):
        asked = {
            "archive": str(trainable.archive.attrs.get("url", "")),
            **trainable.identity(),
            "architecture": trainable.architecture,
            "version": options.version,
            "recipe": asdict(trainable.recipe),
            "start": start,
            "split": None if options.split is None else asdict(options.split),
        }
        if (done := find_record(folder, asked)) is not None:
            return done
        made = trainable.train(
            folder, Zoo(folder / "networks"), start, recording_curves(folder, on_epoch)
        )
        record = {
            "asked": asked,
            "changes": trainable.recipe.changes(),
            "data": made.data,
            "split": asdict(made.split),
            **({} if made.counts is None else {"counts": made.counts}),
            "history": made.history,
            "cards": [card.to_dict() for card in made.cards],
        }
        return write_record(folder, record)
