"""Train classifiers of sequences, in folders that a killed training resumes in.

Trainings that belong together, folds and fine-tunings, are in :mod:`deepstreaks_dask.training.sequences.experiments`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.evaluation.sequence_metrics import measure_member
from deepstreaks_dask.models.registry import classifier_class
from deepstreaks_dask.models.sequence.classifier import Classifier
from deepstreaks_dask.models.sequence.recurrent import STAMP_SIZE, Recurrent
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.training.cards import card_texts, recipe_entries, simulation_sources
from deepstreaks_dask.training.checkpoints import OnEpoch
from deepstreaks_dask.training.harness import (
    EpochLoop,
    Objective,
    TrainedNetworks,
    TrainingOptions,
    hash_weights,
    train_in_folder,
)
from deepstreaks_dask.training.recipe import RECIPES, Recipe, Split, split_groups
from deepstreaks_dask.training.records import TrainingRecord
from deepstreaks_dask.training.seeds import seeded
from deepstreaks_dask.training.sequences.batches import (
    FIRST_EPOCHS_PER_OBJECT,
    MAX_EPOCHS_PER_OBJECT,
    SequenceFeed,
)
from deepstreaks_dask.training.sequences.head import HEAD_CARD_TEXT, HEAD_EPOCHS, fit_head
from deepstreaks_dask.training.sequences.labelled import LabelledObjects

_OBJECTIVE = Objective("sparse_categorical_crossentropy", clipnorm=1.0)


def fit_classifier(
    labelled: LabelledObjects,
    architecture: str,
    split: Split,
    recipe: Recipe,
    *,
    start: Classifier | None = None,
    folder: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> tuple[Classifier, dict[str, list[float]]]:
    """Fit a classifier to one part of the objects, and stop early by another.

    Objects are weighted by the inverse of the square root of the size of their class; in a forest, classes are weighted
    alike. A network sees objects turned over, and with some epochs left out; of an object with many epochs, a limited
    number is drawn in each pass. Last layers that a network names are then trained once more
    (:mod:`~deepstreaks_dask.training.sequences.head`). A classifier that is no network is fitted by its own ``fit``.

    Parameters
    ----------
    labelled : LabelledObjects
        Objects with a class.
    architecture : str
        A key of :data:`~deepstreaks_dask.models.registry.CLASSIFIERS`.
    split : Split
        Split of the objects' names. With an empty validation part, training goes on to the last epoch.
    recipe : Recipe
        How to train.
    start : Classifier, optional
        Classifier to start from; random weights by default.
    folder : Path, optional
        Gets a checkpoint after every epoch, from which an equal call resumes, and logs for TensorBoard.
    on_epoch : callable, optional
        Called after every epoch with its number and the losses.

    Returns
    -------
    Classifier, dict
        With the weights as they are stored, in half precision, and the losses by epoch; those of the last layers, trained
        once more, as ``head_loss`` and ``head_val_loss``.

    Raises
    ------
    TrainingError
        If objects cannot be read, the folder holds another training, the recipe is in half precision, or the loss is no
        longer a number.
    """
    if recipe.precision != "float32":
        raise TrainingError(f"sequences are trained in float32, not in {recipe.precision}")
    kind: Any = classifier_class(architecture)
    classes = labelled.classes
    train, held_out = (labelled.part(split, part) for part in ("train", "validation"))
    learner = getattr(kind, "fit", None)
    if learner is not None:
        both = np.sort(np.concatenate([train, held_out]))
        objects = labelled.shards(both)
        (window,) = objects.windows(None)
        objects.load(window)
        return learner(objects.take(window), labelled.numbers(both), classes, seed=recipe.seed), {}
    with seeded(recipe.seed):
        classifier = kind.from_arrays(classes, start.to_arrays()) if start else kind(classes)
    assert isinstance(classifier, Recurrent)
    numbers = labelled.numbers(train)
    weights = _class_weights(numbers, len(classes))
    model = classifier.model
    parts = train, held_out if len(held_out) else train
    shards = [labelled.shards(part, recipe.window) for part in parts]
    validated = labelled.numbers(parts[1])

    def feeds(epoch: int) -> tuple[SequenceFeed, SequenceFeed]:
        return (
            SequenceFeed(shards[0], numbers, weights, classifier, recipe, epoch=epoch),
            SequenceFeed(shards[1], validated, weights, classifier, recipe, shuffled=False),
        )

    identity = {
        "architecture": architecture,
        "classes": list(classes),
        "recipe": asdict(recipe),
        "data": [labelled.data(part) for part in (train, held_out)],
        "start": hash_weights(model) if start else "",
    }
    state = EpochLoop(model, recipe, _OBJECTIVE, len(train), feeds, identity).run(folder, on_epoch)
    history = dict(state.history)
    if _has_head(architecture, start) and len(held_out) and state.best is not None:
        losses = fit_head(classifier, *feeds(recipe.epochs), state.best, on_epoch=on_epoch)
        history |= {f"head_{name}": values for name, values in losses.items()}
    return kind.from_arrays(classes, classifier.to_arrays()), history


def _class_weights(numbers: np.ndarray, classes: int) -> np.ndarray:
    """Return the weight of each class, between weighing objects alike and weighing classes alike.

    Equal weights of objects miss rare classes; equal weights of classes find them everywhere.
    """
    counts = np.bincount(numbers, minlength=classes)
    weights = np.sqrt(len(numbers) / np.maximum(counts, 1) / np.count_nonzero(counts))
    return (weights / weights[numbers].mean()).astype(np.float32)


def max_epochs(architecture: str, recipe: Recipe, *, start: object = None) -> int:
    """Return how often a training calls its ``on_epoch`` at most, with the passes of the last layers.

    Parameters
    ----------
    architecture : str
        A key of :data:`~deepstreaks_dask.models.registry.CLASSIFIERS`.
    recipe : Recipe
        How to train.
    start : object
        Classifier to start from, if any.

    Returns
    -------
    int
        Epochs.

    Raises
    ------
    ModelError
        If there is no such architecture.
    """
    return recipe.epochs + (HEAD_EPOCHS if _has_head(architecture, start) else 0)


def _has_head(architecture: str, start: object) -> bool:
    """Return whether the last layers are trained once more; not those of a network that training starts from."""
    return not start and bool(getattr(classifier_class(architecture), "head", ""))


def predict_objects(
    classifier: Classifier, labelled: LabelledObjects, places: np.ndarray
) -> np.ndarray:
    """Compute the probabilities of some objects, float32 ``(object, class)``, a shard at a time.

    Parameters
    ----------
    classifier : Classifier
        Trained.
    labelled : LabelledObjects
        Objects.
    places : ndarray
        int ``(object,)``: which.

    Returns
    -------
    ndarray
        float32 ``(object, class)``.
    """
    shards = labelled.shards(places, 1)
    scores = np.empty((len(places), len(labelled.classes)), np.float32)
    for window in shards.windows(None):
        shards.load(window)
        scores[window] = classifier.predict(shards.take(window))
    return scores


def class_metrics(
    numbers: np.ndarray, scores: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Return recall and F1 of each class and their averages, of the most probable class.

    Parameters
    ----------
    numbers : ndarray
        int ``(object,)``: the true classes.
    scores : ndarray
        ``(object, class)``.
    classes : sequence of str
        Names.

    Returns
    -------
    dict
        ``recall`` and ``f1`` with their averages over classes, and 95 % intervals of the averages, as
        :func:`~deepstreaks_dask.evaluation.sequence_metrics.measure_member` returns them.
    """
    measured = measure_member("", numbers, scores, classes)
    found: dict[str, Any] = {"test_objects": len(numbers)}
    for name, average in (("recall", measured.recall), ("f1", measured.f1)):
        found |= {
            name: round(average.value, 4),
            f"{name}_95": [round(average.low, 4), round(average.high, 4)],
            f"{name}_by_class": {
                kind: None if np.isnan(rate) else round(float(rate), 4)
                for kind, rate in zip(classes, measured.table[name], strict=True)
            },
        }
    return found


@dataclass(frozen=True)
class SequenceClassifier:
    """A classifier of sequences, to be trained on the labelled objects of an archive.

    Attributes
    ----------
    labelled : LabelledObjects
        Objects with a class.
    architecture : str
        Key of :data:`~deepstreaks_dask.models.registry.CLASSIFIERS`.
    family : str
        Family whose member it becomes.
    options : TrainingOptions
        How.
    """

    labelled: LabelledObjects
    architecture: str
    family: str
    options: TrainingOptions

    @property
    def archive(self) -> xr.Dataset:
        """Archive of sequences, rows of objects."""
        return self.labelled.archive

    @property
    def recipe(self) -> Recipe:
        """Recipe; ``sequences`` by default."""
        return self.options.recipe or RECIPES["sequences"]

    @cached_property
    def split(self) -> Split:
        """Split of the objects' names; drawn by the recipe by default."""
        return self.options.split or split_groups(self.labelled.ids, self.recipe)

    def identity(self) -> dict[str, Any]:
        """Return the number of objects and the family."""
        return {"objects": len(self.labelled.rows), "family": self.family}

    def train(
        self, folder: Path, zoo: Zoo, start: str, on_epoch: OnEpoch | None
    ) -> TrainedNetworks:
        """Train the classifier, and save it with its card.

        Parameters
        ----------
        folder : Path
            Gets checkpoints and logs.
        zoo : Zoo
            Gets the classifier.
        start : str
            What the card names as the start of the classifier.
        on_epoch : callable, optional
            Called after every epoch.

        Returns
        -------
        TrainedNetworks
            Card, split, losses and data.
        """
        options, labelled = self.options, self.labelled
        classifier, history = fit_classifier(
            labelled,
            self.architecture,
            self.split,
            self.recipe,
            start=Zoo(options.start_zoo).load_classifier(options.start) if options.start else None,
            folder=folder,
            on_epoch=on_epoch,
        )
        test = labelled.part(self.split, "test")
        scores = predict_objects(classifier, labelled, test)
        metrics = class_metrics(labelled.numbers(test), scores, labelled.classes)
        card = replace(self._card(history, start), metrics=metrics)
        saved = zoo.save(classifier, card, overwrite=True)
        return TrainedNetworks([saved], self.split, history, card.training_data)

    def _card(self, history: Mapping[str, list[float]], start: str) -> Card:
        labelled, kind = self.labelled, classifier_class(self.architecture)
        sources = simulation_sources(self.archive)
        data = {
            part: labelled.data(labelled.part(self.split, part))
            for part in ("train", "validation", "test")
        }
        title = f"Classifier of sequences of stamps, {self.architecture}"
        description, limits = card_texts(title, "objects", sources)
        return Card(
            f"{self.family}_{self.architecture}",
            self.options.version,
            self.architecture,
            family=self.family,
            input_shape=(STAMP_SIZE, STAMP_SIZE, 1),
            classes=labelled.classes,
            scaling="none",
            recipe={
                **recipe_entries(self.recipe, history),
                "start": start,
                **(_network_entries(kind, history) if history else _LEARNER_ENTRIES),
            },
            training_data={
                "archive": str(self.archive.attrs.get("url", "")),
                "simulation": sources,
                **data,
            },
            description=description,
            limits=limits,
        )


_LEARNER_ENTRIES = {"class_weights": "inverse to the class counts"}


def _network_entries(kind: Any, history: Mapping[str, list[float]]) -> dict[str, str]:
    entries = {
        "class_weights": "inverse to the square root of the class counts",
        "optimizer": "Adam, gradients clipped to a norm of 1",
        "loss": "categorical cross-entropy",
        "epochs_of_an_object": f"{kind.fewest:.0%} to all of them, drawn in each pass, {MAX_EPOCHS_PER_OBJECT} at most, "
        f"{FIRST_EPOCHS_PER_OBJECT} in nearly the first half of the passes",
    }
    if "head_loss" in history:
        entries["last_layers"] = HEAD_CARD_TEXT
    return entries


def train_classifier(
    folder: Path,
    archive: xr.Dataset,
    architecture: str,
    *,
    family: str,
    options: TrainingOptions | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainingRecord:
    """Train a classifier of sequences in a folder.

    Parameters
    ----------
    folder : Path
        Local folder of this training alone; created if missing. A training that was cut short there resumes.
    archive : xarray.Dataset
        Of sequences, with their classes in ``kind(object)``.
    architecture : str
        Key of :data:`~deepstreaks_dask.models.registry.CLASSIFIERS`.
    family : str
        Family whose member the classifier becomes.
    options : TrainingOptions, optional
        Recipe (``sequences`` by default), split of the objects' names, classifier to start from, and version.
    on_epoch : callable, optional
        Called after every epoch.

    Returns
    -------
    TrainingRecord
        Record, as it is in ``record.json``; its one card has the metrics of the test objects.

    Raises
    ------
    TrainingError
        If the objects cannot be trained on, or the folder holds another training, another process trains there, or it
        cannot be written to.
    ModelError
        If there is no such architecture, or no such classifier to start from.
    """
    classifier_class(architecture)  # there is one
    options = options or TrainingOptions()
    origin = options.start_card()
    if origin is not None and origin.architecture != architecture:
        raise TrainingError(f"{origin.ref} is a {origin.architecture}, no {architecture}")
    labelled = LabelledObjects.of(archive, origin.classes if origin else ())
    classifier = SequenceClassifier(labelled, architecture, family, options)
    return train_in_folder(folder, classifier, options, on_epoch)
