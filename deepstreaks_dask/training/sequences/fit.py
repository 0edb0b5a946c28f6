"""Train classifiers of sequences, in folders that a killed training goes on in.

What belongs together, folds and fine-tunings, is in :mod:`deepstreaks_dask.training.sequences.experiments`.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import xarray as xr

import deepstreaks_dask
from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.evaluation.sequence_metrics import measure_member
from deepstreaks_dask.models.registry import classifier_class
from deepstreaks_dask.models.sequence.classifier import Classifier
from deepstreaks_dask.models.sequence.recurrent import STAMP_SIZE, Recurrent
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.training.checkpoints import Checkpoints, OnEpoch
from deepstreaks_dask.training.fit import adam, hash_weights
from deepstreaks_dask.training.recipe import RECIPES, Recipe, Split, split_groups
from deepstreaks_dask.training.records import alone_in, drawing_curves, find_record, write_record
from deepstreaks_dask.training.seeds import seeded
from deepstreaks_dask.training.sequences.batches import FIRST_BATCH_SIZE, MAX_BATCH_OBJECTS, Feed
from deepstreaks_dask.training.sequences.head import HEAD_EPOCHS, LAST_LAYERS, train_head
from deepstreaks_dask.training.sequences.labelled import Labelled


def fit_classifier(
    labelled: Labelled,
    architecture: str,
    split: Split,
    recipe: Recipe,
    *,
    start: Classifier | None = None,
    folder: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> tuple[Classifier, dict[str, list[float]]]:
    """Train a classifier on one part of the objects, and stop early by another.

    An object weighs the less the more of its class there are, by the square root; in a forest, classes weigh alike. A
    network sees objects turned over, and with some epochs left out; of an object with many epochs, so many are drawn in
    each pass. Last layers that a network names are then trained once more
    (:mod:`~deepstreaks_dask.training.sequences.head`). What
    is no network learns in its own way (its ``fit``).

    Parameters
    ----------
    labelled : Labelled
    architecture : str
        A key of :data:`~deepstreaks_dask.models.registry.CLASSIFIERS`.
    split : Split
        Of the objects' names. Without any for the validation it goes on to the last epoch.
    recipe : Recipe
        How to train.
    start : Classifier, optional
        To go on from; random weights by default.
    folder : Path, optional
        Gets a checkpoint after every epoch, from which an equal call goes on.
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
        shards = labelled.shards(both)
        (window,) = shards.windows(None)
        shards.load(window)
        made = learner(shards.take(window), labelled.numbers(both), classes, seed=recipe.seed)
        return made, {}
    with seeded(recipe.seed):
        classifier = kind.from_arrays(classes, start.to_arrays()) if start else kind(classes)
    assert isinstance(classifier, Recurrent)
    numbers = labelled.numbers(train)
    counts = np.bincount(numbers, minlength=len(classes))
    # between weighing objects alike, which gives rare classes up, and classes alike, which finds them everywhere
    weights = np.sqrt(len(numbers) / np.maximum(counts, 1) / np.count_nonzero(counts))
    weights = (weights / weights[numbers].mean()).astype(np.float32)
    model = classifier.model
    identity = {
        "architecture": architecture,
        "classes": list(classes),
        "recipe": asdict(recipe),
        "data": [labelled.data(part) for part in (train, held_out)],
        "start": hash_weights(model) if start else "",
    }
    progress = Checkpoints(recipe.patience, folder, identity)
    model.compile(
        adam(recipe, -(-len(train) // recipe.batch), clipnorm=1.0),
        loss="sparse_categorical_crossentropy",
        jit_compile=keras.backend.backend() == "jax",
    )
    model.optimizer.build(model.trainable_variables)
    progress.resume(model)
    done = progress.standing.epochs
    feeds = [
        Feed(
            labelled.shards(part, recipe.window),
            labelled.numbers(part),
            weights,
            classifier,
            recipe,
            shuffled=shuffled,
            epoch=done if shuffled else 0,
        )
        for part, shuffled in ((train, True), (held_out if len(held_out) else train, False))
    ]
    progress.fit(model, feeds[0], feeds[1], recipe.epochs, on_epoch=on_epoch)
    history, lowest = dict(progress.standing.history), progress.standing.best
    if _has_head(architecture, start) and len(held_out) and lowest is not None:
        losses = train_head(classifier, feeds[0], feeds[1], lowest, on_epoch=on_epoch)
        history |= {f"head_{name}": values for name, values in losses.items()}
    return kind.from_arrays(classes, classifier.to_arrays()), history


def passes(architecture: str, recipe: Recipe, *, start: object = None) -> int:
    """Tell how often a training calls its ``on_epoch`` at most, those of the last layers among them (:func:`train_head`).

    Parameters
    ----------
    architecture : str
        A key of :data:`~deepstreaks_dask.models.registry.CLASSIFIERS`.
    recipe : Recipe
        How to train.
    start : object
        What it goes on from, if anything.

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
    """Say whether last layers are trained once more; what goes on from a network with few objects keeps its own."""
    return not start and bool(getattr(classifier_class(architecture), "head", ""))


def probabilities(classifier: Classifier, labelled: Labelled, places: np.ndarray) -> np.ndarray:
    """Give the probabilities of some objects, float32 ``(object, class)``, a shard at a time.

    Parameters
    ----------
    classifier : Classifier
        Trained.
    labelled : Labelled
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


def figures(numbers: np.ndarray, scores: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Give recall and F1 of each class and their averages, of the most probable class.

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
        :func:`~deepstreaks_dask.evaluation.sequence_metrics.measure_member` gives them.
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


def train_classifier(
    folder: Path,
    archive: xr.Dataset,
    architecture: str,
    *,
    family: str,
    recipe: Recipe | None = None,
    split: Split | None = None,
    start: str = "",
    start_zoo: str | None = None,
    version: str = "1",
    on_epoch: OnEpoch | None = None,
) -> dict[str, Any]:
    """Train in a folder: go on with what was cut short there, and leave the record and the network in it.

    Parameters
    ----------
    folder : Path
        Local folder of this training alone; made if it is not there.
    archive : xarray.Dataset
        Of sequences, with their classes in ``kind(object)``.
    architecture : str
        A key of :data:`~deepstreaks_dask.models.registry.CLASSIFIERS`.
    family : str
        Whose member the network becomes.
    recipe : Recipe, optional
        ``sequences`` by default.
    split : Split, optional
        Of the objects' names; drawn by the recipe by default.
    start : str
        ``name@version`` of a classifier to go on from; random weights by default.
    start_zoo : str, optional
        The zoo that it is in; the shipped one by default.
    version : str
        Of the network, on its card.
    on_epoch : callable, optional
        Called after every epoch.

    Returns
    -------
    dict
        The record, as it lies in ``record.json``; its one card has the figures of the test objects.

    Raises
    ------
    TrainingError
        If the objects cannot be trained on, or the folder holds another training, is being trained in, or cannot be
        written to.
    ModelError
        If there is no such architecture, or no such classifier to start from.
    """
    classifier_class(architecture)  # there is one
    recipe = recipe or RECIPES["sequences"]
    origin = Zoo(start_zoo).card(start) if start else None
    if origin is not None and origin.architecture != architecture:
        raise TrainingError(f"{origin.ref} is a {origin.architecture}, no {architecture}")
    labelled = Labelled.of(archive, origin.classes if origin else ())
    begun = Zoo(start_zoo).load_classifier(start) if start else None
    began_as = "random weights" if origin is None else f"{origin.ref}, {origin.sha256}"
    with alone_in(folder):
        asked = {
            "archive": str(archive.attrs.get("url", "")),
            "objects": len(labelled.rows),
            "architecture": architecture,
            "family": family,
            "version": version,
            "recipe": asdict(recipe),
            "start": began_as,
            "split": None if split is None else asdict(split),
        }
        if (done := find_record(folder, asked)) is not None:
            return done
        chosen = split or split_groups(labelled.ids, recipe)
        classifier, history = fit_classifier(
            labelled,
            architecture,
            chosen,
            recipe,
            start=begun,
            folder=folder,
            on_epoch=drawing_curves(folder, on_epoch),
        )
        test = labelled.part(chosen, "test")
        metrics = figures(
            labelled.numbers(test), probabilities(classifier, labelled, test), labelled.classes
        )
        card = _card(labelled, architecture, family, version, recipe, chosen, history, began_as)
        card = Zoo(folder / "networks").save(
            classifier, replace(card, metrics=metrics), overwrite=True
        )
        record = {
            "asked": asked,
            "changes": recipe.changes(),
            "data": card.training_data,
            "split": asdict(chosen),
            "history": history,
            "cards": [card.to_dict()],
        }
        return write_record(folder, record)


def _card(
    labelled: Labelled,
    architecture: str,
    family: str,
    version: str,
    recipe: Recipe,
    split: Split,
    history: Mapping[str, list[float]],
    start: str,
) -> Card:
    sources = sorted(
        {str(s) for s in labelled.archive["source"].values if str(s).startswith("simulation")}
    )
    network = bool(history)
    kind: Any = classifier_class(architecture)
    made: dict[str, Any] = {
        **asdict(recipe),
        "changes": recipe.changes(),
        "start": start,
        "class_weights": "inverse to the square root of the class counts"
        if network
        else "inverse to the class counts",
        "python": platform.python_version(),
        "deepstreaks_dask": deepstreaks_dask.__version__,
    }
    if network:
        made |= {
            "optimizer": "Adam, gradients clipped to a norm of 1",
            "loss": "categorical cross-entropy",
            "epochs_run": len(history["loss"]),
            "epochs_of_an_object": f"{kind.fewest:.0%} to all of them, drawn in each pass, {MAX_BATCH_OBJECTS} at most, "
            f"{FIRST_BATCH_SIZE} in nearly the first half of the passes",
            "history": {key: [round(v, 5) for v in vs] for key, vs in history.items()},
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
        }
        if "head_loss" in history:
            made["last_layers"] = LAST_LAYERS
    return Card(
        f"{family}_{architecture}",
        version,
        architecture,
        family=family,
        input_shape=(STAMP_SIZE, STAMP_SIZE, 1),
        classes=labelled.classes,
        scaling="none",
        recipe=made,
        training_data={
            "archive": str(labelled.archive.attrs.get("url", "")),
            "simulation": sources,
            **{
                part: labelled.data(labelled.part(split, part))
                for part in ("train", "validation", "test")
            },
        },
        description=f"Classifier of sequences of stamps, {architecture}"
        + (", trained on simulated objects only" if sources else ""),
        limits="Its figures are those of its own test objects"
        + (", which are simulated: they say nothing of the sky" if sources else ""),
    )
