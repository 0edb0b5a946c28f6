"""Train members of families on the labels of an archive, and write down how it was done.

The recipe is that of DeepStreaks (Duev et al. 2019, MNRAS 486, 4158, arXiv:1904.05920): random horizontal and
vertical flips, Adam, binary cross-entropy, batches of 32, class weights, early stopping on the
validation loss. Two things differ and are said in every record: whole *nights* are held out, so that nothing
leaks from one part to another, and the learning rate may fall along a half cosine, which reaches the
same loss in far fewer epochs.

Several families can be trained at once: they share one network with an output each, which learns from all
their labels and is then taken apart into one member a family. That costs one training instead of several, but the
members then err together more often than members of separate trainings do; the record says so.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import keras
import numpy as np
import xarray as xr

import deepstreaks_dask
from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.evaluation import auc, confusion
from deepstreaks_dask.models import build
from deepstreaks_dask.models.forward import compile_forward
from deepstreaks_dask.models.zoo import Card, Zoo

PRECISIONS = ("float32", "mixed_bfloat16")
"""What a training may compute in. (float16 would need loss scaling.)"""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes
    ----------
    epochs : int
        At most this many passes over the training nights.
    batch : int
        Cutouts in a step.
    learning_rate : float
        Of Adam, at the start.
    cosine : bool
        Let the learning rate fall to zero along a half cosine; False keeps it, as published.
    flips : bool
        Flip cutouts at random, horizontally and vertically.
    patience : int
        Stop after this many epochs without a lower validation loss; the best epoch's weights are kept.
    validation, test : float
        Fraction of the nights held out for early stopping, and for the figures on the model's card.
    seed : int
        Of the split, the initial weights, the order and the flips.
    precision : str
        ``float32``, or ``mixed_bfloat16`` for processors that compute faster in it. Weights are float32 either way.
    """

    epochs: int = 12
    batch: int = 32
    learning_rate: float = 1e-3
    cosine: bool = True
    flips: bool = True
    patience: int = 5
    validation: float = 0.05
    test: float = 0.10
    seed: int = 1
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or self.learning_rate <= 0:
            raise TrainingError(
                "epochs and batch must be 1 or more, and the learning rate positive"
            )
        if not (0 < self.validation < 1 and 0 < self.test < 1 and self.validation + self.test < 1):
            raise TrainingError("validation and test are fractions that leave nights to train on")
        if self.precision not in PRECISIONS:
            raise TrainingError(
                f"no precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}"
            )


@dataclass(frozen=True)
class Split:
    """Nights (``YYYYMMDD``) to train on, to stop early by, and to measure on."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class Training:
    """Trained networks, one a family, and the record of their making.

    Attributes
    ----------
    models : dict
        The network of each family, with one output.
    architecture : str
        Of every network.
    recipe : Recipe
        How they were trained.
    split : Split
        On which nights.
    history : dict
        Losses and accuracies after each epoch, over all families.
    counts : dict
        Labelled cutouts of each family as ``{family: {"train_0": …, "train_1": …, "validation_0": …, …}}``.
    """

    models: dict[str, keras.Model]
    architecture: str
    recipe: Recipe
    split: Split
    history: dict[str, list[float]]
    counts: dict[str, dict[str, int]]

    def record(self) -> dict[str, Any]:
        """Give the recipe and its circumstances as JSON can hold them."""
        return {
            **asdict(self.recipe),
            "trained_together": list(self.models),
            "optimizer": "Adam",
            "loss": "binary cross-entropy",
            "class_weights": "inverse to the class counts, at most 1",
            "epochs_run": len(self.history["loss"]),
            "history": {key: [round(v, 5) for v in vs] for key, vs in self.history.items()},
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
            "python": platform.python_version(),
            "deepstreaks_dask": deepstreaks_dask.__version__,
        }


def split_nights(nights: np.ndarray, recipe: Recipe) -> Split:
    """Part nights into training, validation and test, each night wholly in one of them.

    Parameters
    ----------
    nights : array of int
        Night of each cutout.
    recipe : Recipe
        Gives the fractions and the seed.

    Raises
    ------
    TrainingError
        If there are fewer than three nights.
    """
    known = np.unique(nights)
    if len(known) < 3:
        raise TrainingError(
            f"the labelled cutouts are of {len(known)} night(s): at least 3 are needed to hold out "
            "one for validation and one for the test"
        )
    order = np.random.default_rng(recipe.seed).permutation(known)
    n_test = max(1, round(recipe.test * len(known)))
    n_validation = max(1, round(recipe.validation * len(known)))
    parts = np.split(order, [n_test, n_test + n_validation])
    test, validation, train = (tuple(int(night) for night in np.sort(part)) for part in parts)
    return Split(train, validation, test)


class FlippedBatches(keras.utils.PyDataset):
    """Shuffled batches of uint8 cutouts as floats in 0..1, each flipped at random.

    Labels are (cutout, family, 1) and 0 or 1, weights (cutout, family) and 0 where there is no label.
    Epoch ``k`` depends on the seed and on ``k`` only.
    """

    def __init__(
        self, cutouts: np.ndarray, labels: np.ndarray, weights: np.ndarray, recipe: Recipe
    ) -> None:
        super().__init__(workers=1)
        self.cutouts, self.labels, self.weights = cutouts, labels, weights
        self.recipe = recipe
        self.epoch = 0
        self._shuffle()

    def _shuffle(self) -> None:
        self._rng = np.random.default_rng((self.recipe.seed, self.epoch))
        self._order = self._rng.permutation(len(self.cutouts))
        self._flips = self._rng.random((len(self.cutouts), 2)) < (0.5 if self.recipe.flips else 0)

    def __len__(self) -> int:
        return -(-len(self.cutouts) // self.recipe.batch)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        first = index * self.recipe.batch
        rows = self._order[first : first + self.recipe.batch]
        images = self.cutouts[rows].astype(np.float32) / 255
        vertical, horizontal = self._flips[rows].T
        images[vertical] = images[vertical, ::-1]
        images[horizontal] = images[horizontal, :, ::-1]
        return images[..., None], self.labels[rows, :, None].clip(0), self.weights[rows]

    def on_epoch_end(self) -> None:
        """Draw the next epoch's order and flips."""
        self.epoch += 1
        self._shuffle()


def train(
    archive: xr.Dataset,
    families: Sequence[str],
    architecture: str = "vgg6",
    *,
    recipe: Recipe | None = None,
    start: keras.Model | None = None,
    on_epoch: Callable[[int, Mapping[str, float]], None] | None = None,
) -> Training:
    """Train a member of each family on the labelled cutouts of an archive.

    Parameters
    ----------
    archive : xarray.Dataset
        As :func:`~deepstreaks_dask.archive.open_archive` gives it: ``cutouts(cutout, y, x)`` uint8, ``night`` and
        ``label_<family>`` (1, 0, or -1 for unknown). The labelled cutouts are held in memory, 21 kB each.
    families : sequence of str
        Whose labels to learn: ``rb``, ``sl``, ``kd`` or ``os``. Several share one network while they are trained.
    architecture : str
        A key of :data:`~deepstreaks_dask.models.ARCHITECTURES`.
    recipe : Recipe, optional
        How to train.
    start : keras.Model, optional
        Network of the same architecture, with one output, whose weights to start from; random by default.
    on_epoch : callable, optional
        Called after every epoch with its number and the losses.

    Returns
    -------
    Training
        The networks with the weights of the best epoch, and the record.

    Raises
    ------
    TrainingError
        If there are no labels, a part of the split lacks a class, or ``start`` does not fit.
    """
    recipe = recipe or Recipe()
    labels = _labels(archive, families)
    labelled = np.flatnonzero((labels >= 0).any(axis=1))
    nights = archive["night"].values[labelled]
    split = split_nights(nights, recipe)
    rows = {
        part: labelled[np.isin(nights, getattr(split, part))] for part in ("train", "validation")
    }
    counts = {
        family: {
            f"{part}_{c}": int((labels[chosen, k] == c).sum())
            for part, chosen in rows.items()
            for c in (0, 1)
        }
        for k, family in enumerate(families)
    }
    for family, numbers in counts.items():
        for part in rows:
            if not (numbers[f"{part}_0"] and numbers[f"{part}_1"]):
                raise TrainingError(
                    f"the {part} nights of family {family!r} hold one class only: give more nights"
                )
    y = {part: labels[chosen].astype(np.float32) for part, chosen in rows.items()}
    # A family that has no label for a cutout does not learn from it: its weight there is zero.
    known = {part: (values >= 0).astype(np.float32) for part, values in y.items()}
    weights = known["train"].copy()
    for k, numbers in enumerate(counts.values()):
        both = np.array([numbers["train_0"], numbers["train_1"]])
        weights[:, k] *= (both.min() / both)[(y["train"][:, k] > 0).astype(int)]
    images = {part: archive["cutouts"].isel(cutout=chosen).values for part, chosen in rows.items()}

    keras.utils.set_random_seed(recipe.seed)
    shared = _shared_network(architecture, len(families), recipe.precision, start)
    batches = FlippedBatches(images["train"], y["train"], weights, recipe)
    rate: Any = recipe.learning_rate
    if recipe.cosine:
        rate = keras.optimizers.schedules.CosineDecay(rate, recipe.epochs * len(batches))
    # One loss a family and cutout, so that each can have its own weight.
    apart = keras.Sequential([shared, keras.layers.Reshape((len(families), 1), dtype="float32")])
    # Not XLA: on CPUs it makes training several times slower.
    apart.compile(
        keras.optimizers.Adam(rate),
        loss="binary_crossentropy",
        weighted_metrics=["binary_accuracy"],
        jit_compile=keras.backend.backend() == "jax",
    )
    callbacks = [
        keras.callbacks.EarlyStopping(
            monitor="val_loss", patience=recipe.patience, restore_best_weights=True
        )
    ]
    if on_epoch is not None:
        callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=on_epoch))
    history = apart.fit(
        batches,
        validation_data=(
            images["validation"][..., None].astype(np.float32) / 255,
            y["validation"][..., None].clip(0),
            known["validation"],
        ),
        validation_batch_size=64,
        epochs=recipe.epochs,
        callbacks=callbacks,
        verbose=0,
    )
    return Training(
        {family: _take_apart(shared, architecture, k) for k, family in enumerate(families)},
        architecture,
        recipe,
        split,
        {key: [float(v) for v in values] for key, values in history.history.items()},
        counts,
    )


def _labels(archive: xr.Dataset, families: Sequence[str]) -> np.ndarray:
    """Give the labels of each family as int ``(cutout, family)``, -1 where there is none."""
    if not families or len(set(families)) < len(families):
        raise TrainingError("name at least one family, and each once")
    for family in families:
        if f"label_{family}" not in archive:
            known = sorted(str(n)[6:] for n in archive.variables if str(n).startswith("label_"))
            raise TrainingError(f"the archive has no labels of family {family!r}, only of {known}")
        if not (archive[f"label_{family}"].values >= 0).any():
            raise TrainingError(f"no cutout of the archive has a label of family {family!r}")
    return np.stack([archive[f"label_{family}"].values for family in families], axis=1)


def _shared_network(
    architecture: str, outputs: int, precision: str, start: keras.Model | None
) -> keras.Model:
    """Build a network with an output a family, each output as that of ``start`` if it is given."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        model = build(architecture, outputs=outputs)
    finally:
        keras.config.set_dtype_policy(before)
    # In bfloat16 a sigmoid is 1 from 6 on, and its gradient 0: a gross error would teach nothing.
    model.layers[-1].dtype_policy = "float32"
    if start is not None:
        *body, kernel, bias = start.get_weights()
        try:
            model.set_weights([*body, np.tile(kernel, (1, outputs)), np.tile(bias, outputs)])
        except ValueError as error:
            raise TrainingError(
                f"the starting weights do not fit a {architecture}: {error}"
            ) from None
    return model


def _take_apart(shared: keras.Model, architecture: str, output: int) -> keras.Model:
    """Give one output of a shared network as a network of its own, in float32."""
    model = build(architecture)
    *body, kernel, bias = shared.get_weights()  # the last layer is the dense one, in every network
    model.set_weights([*body, kernel[:, output : output + 1], bias[output : output + 1]])
    return model


def save_member(
    zoo: Zoo,
    training: Training,
    archive: xr.Dataset,
    family: str,
    version: str,
    *,
    start: str = "",
) -> Card:
    """Save one family's member in half precision, with what it scores on its test nights *as saved*.

    Parameters
    ----------
    zoo : Zoo
        Gets the network as ``<family>_<architecture>@<version>``.
    training : Training
        What :func:`train` gave.
    archive : xarray.Dataset
        The archive that it was trained on; the test nights are taken from it.
    family, version : str
        Which family's member, and its version in the zoo.
    start : str
        Network that it started from, for the record.

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
    rows = np.flatnonzero((labels >= 0) & np.isin(archive["night"].values, training.split.test))
    card = Card(
        f"{family}_{training.architecture}",
        version,
        training.architecture,
        family=family,
        recipe=training.record() | {"start": start or "random weights"},
        training_data={
            "archive": archive.attrs.get("url", ""),
            "simulation": sources,
            "nights": asdict(training.split),
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
    model = half_precision(training.models[family])
    forward = compile_forward([model], 64)
    pixels = archive["cutouts"].isel(cutout=rows).values
    scores = np.concatenate([forward(pixels[k : k + 64]) for k in range(0, len(rows), 64)])[:, 0]
    area = auc(labels[rows], scores)
    counts = confusion(labels[rows], scores >= np.float32(0.5))
    metrics: dict[str, Any] = {"test_cutouts": len(rows)}
    for name, estimate in (("auc", area), ("tpr", counts.tpr), ("fpr", counts.fpr)):
        metrics[name] = round(estimate.value, 5)
        metrics[f"{name}_95"] = [round(estimate.low, 5), round(estimate.high, 5)]
    return zoo.save(model, replace(card, metrics=metrics))


def half_precision(model: keras.Model) -> keras.Model:
    """Round a network's kernels to half precision, as they are kept on disk, and give it back."""
    for weight in model.weights:
        if len(weight.shape) > 1:
            rounded = keras.ops.convert_to_numpy(weight).astype(np.float16).astype(np.float32)
            weight.assign(rounded)
    return model
