"""Train the members of families in folders, and save them with their metrics."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import xarray as xr

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.evaluation.metrics import auc, confusion
from deepstreaks_dask.models.inference import compile_forward
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.training.batches import Streamed
from deepstreaks_dask.training.cards import card_texts, simulation_sources
from deepstreaks_dask.training.checkpoints import OnEpoch
from deepstreaks_dask.training.fit import FittedMembers, fit_members, groups_of
from deepstreaks_dask.training.harness import (
    RANDOM_WEIGHTS,
    TrainedNetworks,
    TrainingOptions,
    train_in_folder,
)
from deepstreaks_dask.training.recipe import Recipe, Split, read_recipe, split_groups
from deepstreaks_dask.training.records import TrainingRecord
from deepstreaks_dask.utils.progress import progress_bar

_MAX_LISTED_GROUPS = 2000  # groups that a card names one by one


@dataclass(frozen=True)
class FamilyMembers:
    """Members of families, to be trained together on cutouts of an archive.

    Attributes
    ----------
    archive : xarray.Dataset
        As :func:`~deepstreaks_dask.archive.dataset.open_archive` opens it, rows of cutouts with their labels.
    families : tuple of str
        Families whose labels are learned.
    architecture : str
        Key of :data:`~deepstreaks_dask.models.registry.ARCHITECTURES`.
    options : TrainingOptions
        How.
    """

    archive: xr.Dataset
    families: tuple[str, ...]
    architecture: str
    options: TrainingOptions

    @property
    def recipe(self) -> Recipe:
        """Recipe; the published one by default."""
        return self.options.recipe or Recipe()

    def identity(self) -> dict[str, Any]:
        """Return the number of cutouts, the hash of the labels, and the families."""
        return {
            "cutouts": self.archive.sizes["cutout"],
            "labels": _hash_labels(self.archive, self.families),
            "families": list(self.families),
        }

    def train(
        self, folder: Path, zoo: Zoo, start: str, on_epoch: OnEpoch | None
    ) -> TrainedNetworks:
        """Train the members together, and save each with its card.

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
            Cards, split, losses and data.
        """
        options = self.options
        fitted = fit_members(
            self.archive,
            self.families,
            self.architecture,
            recipe=self.recipe,
            start=Zoo(options.start_zoo).load(options.start) if options.start else None,
            split=options.split,
            folder=folder,
            on_epoch=on_epoch,
        )
        cards = [
            save_member(
                zoo, fitted, self.archive, family, options.version, start=start, overwrite=True
            )
            for family in self.families
        ]
        return TrainedNetworks(cards, fitted.split, fitted.history, fitted.data, fitted.counts)


def train_member(
    folder: Path,
    archive: xr.Dataset,
    families: Sequence[str],
    architecture: str = "vgg6",
    *,
    options: TrainingOptions | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainingRecord:
    """Train a member of a family, or of several families together, in a folder.

    Parameters
    ----------
    folder : Path
        Local folder of this training alone; created if missing. A training that was cut short there resumes.
    archive, families, architecture, on_epoch
        As for :func:`~deepstreaks_dask.training.fit.fit_members`.
    options : TrainingOptions, optional
        Recipe, split, network to start from, and version.

    Returns
    -------
    TrainingRecord
        Record with one card per family, as it is in ``record.json``.

    Raises
    ------
    TrainingError
        If the folder holds another training, another process trains there, it cannot be written to, and as
        :func:`~deepstreaks_dask.training.fit.fit_members` raises it.
    ModelError
        If there is no such network to start from.
    """
    options = options or TrainingOptions()
    members = FamilyMembers(archive, tuple(families), architecture, options)
    return train_in_folder(folder, members, options, on_epoch)


def train(
    archive: str | os.PathLike[str] | xr.Dataset,
    families: str | Sequence[str],
    *,
    out: str | os.PathLike[str],
    recipe: str | Recipe = "duev2019",
    architecture: str = "vgg6",
    version: str = "1",
    progress: bool = True,
) -> TrainingRecord | dict[str, TrainingRecord]:
    """Train a member of one family, or of each of several families, on the labels of an archive.

    Each member is trained by itself, all of them on the same nights. Repeat an interrupted call to resume; finished
    trainings are not repeated.

    Parameters
    ----------
    archive : str, path or xarray.Dataset
        Path or URL of an archive with labels, or the open archive, rows of cutouts.
    families : str or sequence of str
        ``rb``, ``sl``, ``kd`` or ``os``: one name, or a list of names.
    out : str or path
        Local folder; created if missing. Of several members each gets a folder in it, ``<family>_<architecture>``.
    recipe : str or Recipe
        Name of a recipe, path of a ``.toml`` file, or a recipe.
    architecture : str
        ``vgg6``, ``resnet50`` or ``densenet121``.
    version : str
        Version of the networks on their cards.
    progress : bool
        Show epochs and time left.

    Returns
    -------
    TrainingRecord or dict of str to TrainingRecord
        Record of the member of one family; of several families the record of each. Metrics are on the cards
        (``record.cards``), the networks in ``record.networks``.

    Raises
    ------
    TrainingError
        If the archive has no labels of a family, the recipe is unknown, the folder holds another training, or the
        training fails.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> quick = ds.training.read_recipe("short", epochs=1)
    >>> record = ds.train("week.zarr", "rb", recipe=quick, out="training")
    >>> record.cards[0].ref
    'rb_vgg6@1'
    >>> sorted(record.history)
    ['binary_accuracy', 'loss', 'val_binary_accuracy', 'val_loss']

    References
    ----------
    Duev et al. 2019, MNRAS 486, 4158, arXiv:1904.05920.
    """
    dataset = archive if isinstance(archive, xr.Dataset) else open_archive(archive, cache=True)
    chosen = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    names = [families] if isinstance(families, str) else list(families)
    alone = len(names) == 1
    split = None if alone else shared_split(dataset, names, chosen)
    options = TrainingOptions(recipe=chosen, split=split, version=version)
    records = {}
    for family in names:
        folder = Path(out) if alone else Path(out) / f"{family}_{architecture}"
        with progress_bar(f"train {family}", chosen.epochs, unit="epochs", show=progress) as bar:
            records[family] = train_member(
                folder,
                dataset,
                [family],
                architecture,
                options=options,
                on_epoch=lambda *_, bar=bar: bar.advance(),
            )
    return records[names[0]] if alone else records


def shared_split(archive: xr.Dataset, families: Sequence[str], recipe: Recipe) -> Split:
    """Return one split for trainings of several families.

    Parameters
    ----------
    archive : xarray.Dataset
        Rows of cutouts with their labels.
    families : sequence of str
        Families; one without labels is passed over.
    recipe : Recipe
        Groups, fractions and seed.

    Returns
    -------
    Split
        Of the groups that have a label of any of the families.

    Raises
    ------
    TrainingError
        If there are too few groups, or the archive has no such column.
    """
    labelled = labelled_rows(archive, families)
    return split_groups(groups_of(archive, recipe.by)[labelled], recipe)


def labelled_rows(archive: xr.Dataset, families: Sequence[str]) -> np.ndarray:
    """Return which cutouts have a label of any of some families.

    Parameters
    ----------
    archive : xarray.Dataset
        Rows of cutouts with their labels.
    families : sequence of str
        Families; one without labels is passed over.

    Returns
    -------
    ndarray
        bool ``(cutout,)``.
    """
    labelled = np.zeros(archive.sizes["cutout"], bool)
    for family in families:
        if f"label_{family}" in archive:
            labelled |= archive[f"label_{family}"].values >= 0
    return labelled


def save_member(
    zoo: Zoo,
    fitted: FittedMembers,
    archive: xr.Dataset,
    family: str,
    version: str,
    *,
    start: str = RANDOM_WEIGHTS,
    overwrite: bool = False,
) -> Card:
    """Save one family's member in half precision, with its metrics on its test nights *as saved*.

    Parameters
    ----------
    zoo : Zoo
        Gets the network as ``<family>_<architecture>@<version>``.
    fitted : FittedMembers
        As :func:`~deepstreaks_dask.training.fit.fit_members` returns them.
    archive : xarray.Dataset
        Archive that they were trained on, as :func:`~deepstreaks_dask.archive.dataset.open_archive` opens it; the
        rows of the test nights are taken from it.
    family, version : str
        Which family's member, and its version in the zoo.
    start : str
        Network that it started from, for the card.
    overwrite : bool
        Replace this version if the zoo has it.

    Returns
    -------
    Card
        With AUC, TPR and FPR at 0.5 and their 95 % intervals.

    Raises
    ------
    ModelError
        If the zoo has this version already.
    """
    sources = simulation_sources(archive)
    labels = archive[f"label_{family}"].values
    held_out = fitted.split.rows(groups_of(archive, fitted.recipe.by), "test")
    rows = np.flatnonzero((labels >= 0) & held_out)
    model = half_precision(fitted.models[family])
    name = f"{family}_{fitted.architecture}"
    title = f"DeepStreaks member {name} (Duev et al. 2019, arXiv:1904.05920)"
    description, limits = card_texts(title, "cutouts", sources)
    card = Card(
        name,
        version,
        fitted.architecture,
        family=family,
        input_shape=tuple(model.input_shape[1:]),
        recipe=fitted.record() | {"start": start},
        training_data={
            **fitted.data,
            "simulation": sources,
            f"{fitted.recipe.by}s": _listed(fitted.split),
            "counts": fitted.counts[family],
        },
        description=description,
        limits=limits,
    )
    scores = predict_cutouts(archive, [model], rows)[:, 0]
    area = auc(labels[rows], scores)
    counts = confusion(labels[rows], scores >= np.float32(0.5))
    metrics: dict[str, Any] = {"test_cutouts": len(rows)}
    for name, estimate in (("auc", area), ("tpr", counts.tpr), ("fpr", counts.fpr)):
        if np.isfinite(estimate.value):
            metrics[name] = round(estimate.value, 5)
            metrics[f"{name}_95"] = [round(estimate.low, 5), round(estimate.high, 5)]
    return zoo.save(model, replace(card, metrics=metrics), overwrite=overwrite)


def predict_cutouts(
    archive: xr.Dataset, models: Sequence[keras.Model], rows: np.ndarray, *, batch: int = 64
) -> np.ndarray:
    """Compute the scores of some cutouts of an archive in this process, a batch at a time.

    Parameters
    ----------
    archive : xarray.Dataset
        With ``cutouts(cutout, y, x)`` uint8.
    models : sequence of keras.Model
        Networks of one input shape.
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
    scores = np.empty((len(rows), len(models)), np.float32)
    if not len(rows):
        return scores
    pixels = Streamed(archive, rows, archive.attrs.get("shard", 1024))
    pixels.begin(None)
    for k in range(0, len(rows), batch):
        places = np.arange(k, min(k + batch, len(rows)))
        scores[places] = forward(pixels.take(places))
    return scores


def half_precision(model: keras.Model) -> keras.Model:
    """Round a network's kernels to half precision, as a zoo stores them, and return the network."""
    for weight in model.weights:
        if len(weight.shape) > 1:
            rounded = keras.ops.convert_to_numpy(weight).astype(np.float16).astype(np.float32)
            weight.assign(rounded)
    return model


def _hash_labels(archive: xr.Dataset, families: Sequence[str]) -> str:
    hashed = hashlib.sha256()
    for family in families:
        if f"label_{family}" in archive:  # fit_members raises where it is missing
            hashed.update(archive[f"label_{family}"].values.astype(np.int8).tobytes())
    return hashed.hexdigest()


def _listed(split: Split) -> dict[str, Any]:
    """Return the groups of each part, or, where they are too many for a card, their number and hash."""
    parts: dict[str, Any] = {}
    for part, groups in asdict(split).items():
        hashed = hashlib.sha256("\n".join(map(str, groups)).encode()).hexdigest()
        few = len(groups) <= _MAX_LISTED_GROUPS
        parts[part] = list(groups) if few else {"count": len(groups), "sha256": hashed}
    return parts
