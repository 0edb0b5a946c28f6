"""Fit the members of families to the labelled cutouts of an archive.

Several families can be trained at once: they share one network with an output each, which learns from all
their labels and is then taken apart into one member a family. That costs one training instead of several, but the
members then err together more often than members of separate trainings do; the record says so.

The recipe is that of Duev et al. 2019 (MNRAS 486, 4158, arXiv:1904.05920) by default.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import xarray as xr

from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.models.inference import set_precision
from deepstreaks_dask.models.registry import build
from deepstreaks_dask.training.batches import CutoutFeed, InMemory, Pixels, Streamed
from deepstreaks_dask.training.cards import recipe_entries
from deepstreaks_dask.training.checkpoints import OnEpoch
from deepstreaks_dask.training.harness import EpochLoop, Objective, hash_weights
from deepstreaks_dask.training.recipe import Recipe, Split, split_groups
from deepstreaks_dask.training.seeds import seeded

_VALIDATION_BATCH_SIZE = 64  # cutouts in a step of the validation, which does not change its result
_OBJECTIVE = Objective("binary_crossentropy", ("binary_accuracy",))


@dataclass(frozen=True)
class FittedMembers:
    """Trained networks, one per family, and how they were trained.

    Attributes
    ----------
    models : dict
        The network of each family, with one output.
    architecture : str
        Architecture of every network.
    recipe : Recipe
        How they were trained.
    split : Split
        Nights that they were trained, validated and tested on.
    history : dict
        Losses and accuracies after each epoch, over all families; weighted as the loss is.
    counts : dict
        Labelled cutouts of each family as ``{family: {"train_0": …, "train_1": …, "validation_0": …, …}}``.
    data : dict
        Cutouts of each part, and SHA-256 of the digests of their pixels and of their labels.
    """

    models: dict[str, keras.Model]
    architecture: str
    recipe: Recipe
    split: Split
    history: dict[str, list[float]]
    counts: dict[str, dict[str, int]]
    data: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return the recipe and its circumstances as JSON can hold them."""
        return recipe_entries(self.recipe, self.history) | {
            "trained_together": list(self.models),
            "optimizer": "Adam",
            "loss": "binary cross-entropy",
            "class_weights": "inverse to the class counts, at most 1",
        }


def fit_members(
    archive: xr.Dataset,
    families: Sequence[str],
    architecture: str = "vgg6",
    *,
    recipe: Recipe | None = None,
    start: keras.Model | None = None,
    split: Split | None = None,
    folder: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> FittedMembers:
    """Fit a member of each family to the labelled cutouts of an archive.

    On one machine, equal arguments give equal losses to the last bit: TensorFlow's deterministic kernels are switched
    on, for the rest of the process.

    Parameters
    ----------
    archive : xarray.Dataset
        As :func:`~deepstreaks_dask.archive.dataset.open_archive` returns it: ``cutouts(cutout, y, x)`` uint8, ``night`` and
        ``label_<family>`` (1, 0, or -1 for unknown). The labelled cutouts are held in memory, 21 kB each, unless the
        recipe has a ``window``.
    families : sequence of str
        Whose labels to learn: ``rb``, ``sl``, ``kd`` or ``os``. Several share one network while they are trained.
    architecture : str
        A key of :data:`~deepstreaks_dask.models.registry.ARCHITECTURES`.
    recipe : Recipe, optional
        How to train; the published recipe by default.
    start : keras.Model, optional
        Network of the same architecture, with one output, whose weights to start from; random by default.
    split : Split, optional
        Which nights to train on; drawn by the recipe by default.
    folder : Path, optional
        Gets a checkpoint after every epoch, from which an equal call resumes, and logs for TensorBoard.
    on_epoch : callable, optional
        Called after every epoch with its number and the losses; also for the epochs that the checkpoint holds.

    Returns
    -------
    FittedMembers
        Networks with the weights of the best epoch, and the record.

    Raises
    ------
    TrainingError
        If there are no labels, a part of the split lacks a class, ``start`` does not fit, the folder holds another
        training, cutouts cannot be read, or the loss is no longer a number.
    """
    recipe = recipe or Recipe()
    height, width, planes = (*archive["cutouts"].shape[1:], 1)[:3]
    shape = (height, width, planes)
    if archive["cutouts"].dtype != np.uint8:
        raise TrainingError(
            f"the archive's cutouts are {archive['cutouts'].dtype}: training takes bytes"
        )
    labels = _labels(archive, families)
    labelled = np.flatnonzero((labels >= 0).any(axis=1))
    groups = groups_of(archive, recipe.by)[labelled]
    split = split or split_groups(groups, recipe)
    rows = {part: labelled[split.rows(groups, part)] for part in ("train", "validation")}
    counts = _counts(labels, rows, families)
    y = {part: labels[chosen].astype(np.float32) for part, chosen in rows.items()}
    # A family that has no label for a cutout does not learn from it: its weight there is zero.
    weights = {part: (values >= 0).astype(np.float32) for part, values in y.items()}
    for k, numbers in enumerate(counts.values()):
        both = np.array([numbers["train_0"], numbers["train_1"]])
        weights["train"][:, k] *= (both.min() / both)[(y["train"][:, k] > 0).astype(int)]
    data = {
        "archive": str(archive.attrs.get("url", "")),
        "created": str(archive.attrs.get("created", "")),
        "by": recipe.by,
        **{part: _hashed(archive, labels, chosen) for part, chosen in rows.items()},
    }

    with seeded(recipe.seed):
        shared = _shared_network(architecture, shape, len(families), recipe.precision, start)
    # One loss a family and cutout, so that each can have its own weight.
    apart = keras.Sequential([shared, keras.layers.Reshape((len(families), 1), dtype="float32")])

    def feeds(epoch: int) -> tuple[CutoutFeed, CutoutFeed]:
        pixels = {part: _pixels(archive, chosen, recipe.window) for part, chosen in rows.items()}
        train = CutoutFeed(pixels["train"], y["train"], weights["train"], recipe, epoch=epoch)
        validation = CutoutFeed(
            pixels["validation"],
            y["validation"],
            weights["validation"],
            Recipe(batch=_VALIDATION_BATCH_SIZE),
            shuffled=False,
        )
        return train, validation

    identity = {
        "architecture": architecture,
        "families": list(families),
        "recipe": asdict(recipe),
        "data": {part: data[part] for part in rows},
        "start": "" if start is None else hash_weights(start),
    }
    loop = EpochLoop(apart, recipe, _OBJECTIVE, len(rows["train"]), feeds, identity)
    state = loop.run(folder, on_epoch)
    return FittedMembers(
        {family: _take_apart(shared, architecture, shape, k) for k, family in enumerate(families)},
        architecture,
        recipe,
        split,
        state.history,
        counts,
        data,
    )


def groups_of(archive: xr.Dataset, by: str) -> np.ndarray:
    """Return the group of each cutout, int or str ``(cutout,)``: its night, or another column's value.

    Parameters
    ----------
    archive : xarray.Dataset
        As :func:`~deepstreaks_dask.archive.dataset.open_archive` returns it.
    by : str
        Name of a column.

    Returns
    -------
    ndarray
        int or str ``(cutout,)``.

    Raises
    ------
    TrainingError
        If the archive has no such column, or it holds no groups.
    """
    if by not in archive.coords or archive[by].dtype.kind == "f":
        raise TrainingError(
            f"the archive has no column {by!r} of numbers or names to part the cutouts by"
        )
    values = archive[by].values
    return values if values.dtype.kind in "iu" else values.astype(object).astype(str)


def _pixels(archive: xr.Dataset, rows: np.ndarray, window: int) -> Pixels:
    if window:
        return Streamed(archive, rows, window)
    return InMemory(archive["cutouts"].isel(cutout=rows).values)


def _counts(
    labels: np.ndarray, rows: Mapping[str, np.ndarray], families: Sequence[str]
) -> dict[str, dict[str, int]]:
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
    return counts


def _labels(archive: xr.Dataset, families: Sequence[str]) -> np.ndarray:
    """Return the labels of each family as int ``(cutout, family)``, -1 where there is none."""
    if not families or len(set(families)) < len(families):
        raise TrainingError("name at least one family, and each once")
    for family in families:
        if f"label_{family}" not in archive:
            known = sorted(str(n)[6:] for n in archive.variables if str(n).startswith("label_"))
            raise TrainingError(f"the archive has no labels of family {family!r}, only of {known}")
        if not (archive[f"label_{family}"].values >= 0).any():
            raise TrainingError(f"no cutout of the archive has a label of family {family!r}")
    return np.stack([archive[f"label_{family}"].values for family in families], axis=1)


def _hashed(archive: xr.Dataset, labels: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """Count cutouts, and hash the digests of their pixels and their labels."""
    hashed = hashlib.sha256(archive["digest"].values[rows].astype("<u8").tobytes())
    hashed.update(labels[rows].astype(np.int8).tobytes())
    return {"cutouts": len(rows), "sha256": hashed.hexdigest()}


def _shared_network(
    architecture: str,
    shape: tuple[int, int, int],
    outputs: int,
    precision: str,
    start: keras.Model | None,
) -> keras.Model:
    """Build a network with an output a family, each output as that of ``start`` if it is given."""
    model = build(architecture, shape, outputs)
    # Not by Keras's own policy, which other threads of a worker share. The last layer stays in float32: in bfloat16 a
    # sigmoid is 1 from 6 on, and its gradient 0, so that a gross error would teach nothing.
    set_precision(model, precision)
    if start is not None:
        *body, kernel, bias = start.get_weights()
        try:
            model.set_weights([*body, np.tile(kernel, (1, outputs)), np.tile(bias, outputs)])
        except ValueError as error:
            raise TrainingError(
                f"the starting weights do not fit a {architecture}: {error}"
            ) from None
    return model


def _take_apart(
    shared: keras.Model, architecture: str, shape: tuple[int, int, int], output: int
) -> keras.Model:
    """Return one output of a shared network as a network of its own, in float32."""
    model = build(architecture, shape)
    *body, kernel, bias = shared.get_weights()  # the last layer is the dense one, in every network
    model.set_weights([*body, kernel[:, output : output + 1], bias[output : output + 1]])
    return model
