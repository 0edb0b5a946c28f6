"""Go on with a training after a kill, exactly where its last whole epoch ended.

A checkpoint is one safetensors file: weights, the best epoch's weights, the optimiser's moments, the state of the
random generators, and, in its header as JSON, the losses so far and how long early stopping has waited. It is
replaced in one step after every epoch; an epoch that was cut short is done again from its beginning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import safetensors
import safetensors.numpy

from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.utils.storage import locate, write_whole

CHECKPOINT_FILE = "checkpoint.safetensors"

OnEpoch = Callable[[int, Mapping[str, float]], None]
"""Is told, after an epoch, its number from 0 on, and its losses and accuracies."""


@dataclass
class Standing:
    """How far a training is.

    Attributes
    ----------
    epochs : int
        Whole epochs that are done.
    history : dict
        Losses and accuracies after each of them.
    wait, best, best_epoch : int, float, int
        Epochs since the lowest validation loss, that loss, and its epoch from 0.
    stopped : bool
        Early stopping has ended it.
    """

    epochs: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)
    wait: int = 0
    best: float | None = None
    best_epoch: int = 0
    stopped: bool = False


class Checkpoints(keras.callbacks.EarlyStopping):
    """Early stopping that remembers: writes a checkpoint after every epoch, and goes on from one.

    Parameters
    ----------
    patience : int
        Epochs without a lower validation loss that end the training.
    folder : Path or None
        Where the checkpoint lies; None keeps none.
    identity : mapping
        What the training is, as JSON can hold it: a checkpoint of another one is refused.
    """

    def __init__(self, patience: int, folder: Path | None, identity: Mapping[str, Any]) -> None:
        super().__init__("val_loss", patience=patience, mode="min", restore_best_weights=True)
        self.path = None if folder is None else folder / CHECKPOINT_FILE
        self.identity = json.loads(json.dumps(identity))
        self.standing = Standing()
        self.best_epoch_weights: list[np.ndarray] | None = None

    def resume(self, model: keras.Model) -> None:
        """Give a compiled, built model the state of the checkpoint, if there is one.

        Parameters
        ----------
        model : keras.Model
            Compiled and built.

        Raises
        ------
        TrainingError
            If the checkpoint is damaged or is of another training.
        """
        if self.path is None or not self.path.exists():
            return
        try:
            with safetensors.safe_open(self.path, "np") as file:
                metadata = json.loads(file.metadata()["training"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception as error:  # the library raises its own
            raise TrainingError(
                f"{self.path} is no checkpoint ({error}): remove it to begin anew"
            ) from error
        was, now = metadata["identity"], self.identity
        if was != now:
            other = [key for key in {**was, **now} if was.get(key) != now.get(key)]
            raise TrainingError(
                f"{self.path} is of another training ({', '.join(other)} differ): choose another folder"
            )
        self.standing = Standing(**metadata["standing"])
        for name, variables in _state(model).items():
            for k, variable in enumerate(variables):
                variable.assign(arrays[f"{name}/{k}"])
        self.best_epoch_weights = [arrays[f"best/{k}"] for k in range(len(model.weights))]

    def fit(
        self,
        model: keras.Model,
        batches: Any,
        held_out: Any,
        epochs: int,
        *,
        on_epoch: OnEpoch | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        """Train a model that was resumed to the end, and leave it with the weights of its best epoch.

        Parameters
        ----------
        model : keras.Model
            As :meth:`resume` has left it.
        batches, held_out : keras.utils.PyDataset
            To train on, from the next epoch on, and to stop early by.
        epochs : int
            In all, those before the kill among them.
        on_epoch : callable, optional
            Called after every epoch, and once for each that was done before.
        callbacks : sequence of keras.callbacks.Callback
            Of Keras, besides.
        """
        done, history = self.standing.epochs, self.standing.history
        told = [keras.callbacks.LambdaCallback(on_epoch_end=on_epoch)] if on_epoch else []
        if on_epoch is not None:
            for epoch in range(done):
                on_epoch(epoch, {key: values[epoch] for key, values in history.items()})
        if self.standing.stopped or done >= epochs:
            model.set_weights(self.best_epoch_weights)
            return
        model.fit(
            batches,
            validation_data=held_out,
            initial_epoch=done,
            epochs=epochs,
            shuffle=False,  # of whole batches, by a generator that no checkpoint holds
            callbacks=[self, *told, *callbacks],
            verbose=0,
        )

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin, or go on with the patience that is left."""
        super().on_train_begin(logs)
        if self.standing.epochs:
            self.wait, self.best = self.standing.wait, self.standing.best
            self.best_epoch = self.standing.best_epoch
            self.best_weights = self.best_epoch_weights

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop or go on, and write the checkpoint.

        Parameters
        ----------
        epoch : int
            Its number, from 0.
        logs : mapping
            Losses and accuracies.

        Raises
        ------
        TrainingError
            If the loss is no longer a number.
        """
        values = {key: float(value) for key, value in (logs or {}).items()}
        if not np.isfinite([values["loss"], values["val_loss"]]).all():
            raise TrainingError(
                f"the loss is not a number after epoch {epoch + 1}: choose a lower learning rate"
            )
        super().on_epoch_end(epoch, values)
        for key, value in values.items():
            self.standing.history.setdefault(key, []).append(value)
        self.standing = Standing(
            epoch + 1,
            self.standing.history,
            self.wait,
            None if self.best is None else float(self.best),
            self.best_epoch,
            bool(self.model.stop_training),
        )
        if self.path is not None:
            self._write(self.path)

    def _write(self, path: Path) -> None:
        arrays = {
            f"{name}/{k}": np.array(keras.ops.convert_to_numpy(variable), order="C")
            for name, variables in _state(self.model).items()
            for k, variable in enumerate(variables)
        }
        best = self.best_weights or []
        arrays |= {f"best/{k}": np.array(value, order="C") for k, value in enumerate(best)}
        said = {"identity": self.identity, "standing": asdict(self.standing)}
        data = safetensors.numpy.save(arrays, {"training": json.dumps(said)})
        fs, target = locate(path)
        write_whole(fs, target, data)


def _state(model: keras.Model) -> dict[str, list[Any]]:
    """All that an epoch starts from, beside the data."""
    seeds = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    return {"weight": model.weights, "optimizer": model.optimizer.variables, "seed": seeds}
