"""Resume a training that was killed, exactly where its last whole epoch ended.

A checkpoint is one safetensors file: weights, the best epoch's weights, the optimiser's moments, the state of the
random generators, and, in its header as JSON, the losses so far and how long early stopping has waited. It is
replaced in one step after every epoch; an epoch that was cut short is done again from its beginning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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
"""Called after every epoch with its number, from 0, and its losses and accuracies."""


@dataclass
class TrainingState:
    """State of a training after its last whole epoch.

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
    """Early stopping that writes a checkpoint after every epoch and resumes from it.

    Parameters
    ----------
    patience : int
        Epochs without a lower validation loss that end the training.
    folder : Path or None
        Folder of the checkpoint; None keeps none.
    identity : mapping
        Identifies the training, as JSON can hold it: the checkpoint of another training is refused.
    """

    def __init__(self, patience: int, folder: Path | None, identity: Mapping[str, Any]) -> None:
        super().__init__("val_loss", patience=patience, mode="min", restore_best_weights=True)
        self.path = None if folder is None else folder / CHECKPOINT_FILE
        self.identity = json.loads(json.dumps(identity))
        self.state = TrainingState()
        self.best_epoch_weights: list[np.ndarray] | None = None

    def resume(self, model: keras.Model) -> None:
        """Restore the state of the checkpoint, if there is one.

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
        self.state = TrainingState(**metadata["standing"])
        for name, variables in _variables(model).items():
            for k, variable in enumerate(variables):
                variable.assign(arrays[f"{name}/{k}"])
        self.best_epoch_weights = [arrays[f"best/{k}"] for k in range(len(model.weights))]

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin, or resume with the patience that is left."""
        super().on_train_begin(logs)
        if self.state.epochs:
            self.wait, self.best = self.state.wait, self.state.best
            self.best_epoch = self.state.best_epoch
            self.best_weights = self.best_epoch_weights

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the checkpoint, and stop where the patience is used up.

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
            self.state.history.setdefault(key, []).append(value)
        self.state = TrainingState(
            epoch + 1,
            self.state.history,
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
            for name, variables in _variables(self.model).items()
            for k, variable in enumerate(variables)
        }
        best = self.best_weights or []
        arrays |= {f"best/{k}": np.array(value, order="C") for k, value in enumerate(best)}
        metadata = {"identity": self.identity, "standing": asdict(self.state)}
        data = safetensors.numpy.save(arrays, {"training": json.dumps(metadata)})
        fs, target = locate(path)
        write_whole(fs, target, data)


def _variables(model: keras.Model) -> dict[str, list[Any]]:
    """Return all that an epoch starts from, besides the data."""
    seeds = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    return {"weight": model.weights, "optimizer": model.optimizer.variables, "seed": seeds}
