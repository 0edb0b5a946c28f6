"""Trainings that belong together, on Dask workers or one after the other: folds, and fine-tunings with a few objects.

Carrasco-Davis et al. (2019, PASP 131, 108006, arXiv:1807.03869) fine-tuned a network that was trained on simulated sequences
with a few objects a class of another survey; Gómez et al. (2020, MNRAS 499, 3130, arXiv:2004.13877) measured theirs fold by
fold, beside a forest on light curves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import xarray as xr
from dask.distributed import Client, get_worker

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.training.checkpoints import OnEpoch
from deepstreaks_dask.training.harness import TrainingOptions
from deepstreaks_dask.training.recipe import RECIPES, Split
from deepstreaks_dask.training.sequences.fit import (
    class_metrics,
    predict_objects,
    train_classifier,
)
from deepstreaks_dask.training.sequences.folds import draw_samples, fold_splits
from deepstreaks_dask.training.sequences.labelled import LabelledObjects
from deepstreaks_dask.training.workers import on_workers
from deepstreaks_dask.utils.storage import write_text


@dataclass(frozen=True)
class TrainingJob:
    """Arguments of one training, to be sent to a worker.

    Attributes
    ----------
    folder : Path
        Folder of the training.
    architecture : str
        Key of :data:`~deepstreaks_dask.models.registry.CLASSIFIERS`.
    family : str
        Family whose member the classifier becomes.
    options : TrainingOptions
        How it is trained.
    """

    folder: Path
    architecture: str
    family: str
    options: TrainingOptions

    def metrics(self, archive: xr.Dataset, on_epoch: OnEpoch | None = None) -> dict[str, Any]:
        """Train, and return the metrics of the test objects.

        Parameters
        ----------
        archive : xarray.Dataset
            Of sequences, with their classes in ``kind(object)``.
        on_epoch : callable, optional
            Called after every epoch.

        Returns
        -------
        dict
            As :func:`~deepstreaks_dask.training.sequences.fit.class_metrics` returns them.
        """
        record = train_classifier(
            self.folder,
            archive,
            self.architecture,
            family=self.family,
            options=self.options,
            on_epoch=on_epoch,
        )
        metrics: dict[str, Any] = record["cards"][0]["metrics"]
        return metrics


def _run(
    jobs: Sequence[TrainingJob],
    archive: xr.Dataset,
    client: Client | None,
    *,
    on_epoch: OnEpoch | None = None,
    on_training: Callable[[], object] | None = None,
) -> list[dict[str, Any]]:
    """Train all jobs, and return the metrics of each, in their order."""
    if client is None:
        done: Iterable[tuple[TrainingJob, dict[str, Any]]] = (
            (job, job.metrics(archive, on_epoch)) for job in jobs
        )
    else:
        done = _on_workers(jobs, str(archive.attrs["url"]), client, on_epoch)
    found: dict[Path, dict[str, Any]] = {}
    for job, metrics in done:
        found[job.folder] = metrics
        if on_training is not None:
            on_training()
    return [found[job.folder] for job in jobs]


def _on_workers(
    jobs: Sequence[TrainingJob], url: str, client: Client, on_epoch: OnEpoch | None
) -> Iterator[tuple[TrainingJob, dict[str, Any]]]:
    """Yield each job with its metrics, as they are done."""
    topic = f"epochs of {uuid4().hex}"
    if on_epoch is not None:
        client.subscribe_topic(topic, lambda event: on_epoch(*event[1]))
    try:
        yield from on_workers(client, partial(_on_worker, url, topic), iter(jobs))
    finally:
        if on_epoch is not None:
            client.unsubscribe_topic(topic)


def _on_worker(url: str, topic: str, job: TrainingJob) -> dict[str, Any]:
    worker = get_worker()

    def publish_epoch(epoch: int, losses: Mapping[str, float]) -> None:
        worker.log_event(topic, (epoch, {name: float(loss) for name, loss in losses.items()}))

    return job.metrics(open_archive(url, cache=True), publish_epoch)


def train_folds(
    folder: Path,
    archive: xr.Dataset,
    architecture: str,
    folds: int,
    *,
    family: str,
    options: TrainingOptions | None = None,
    client: Client | None = None,
    on_epoch: OnEpoch | None = None,
) -> dict[str, Any]:
    """Train once per fold, each time tested on objects that were not trained on, in folders ``fold-1``, ``fold-2``, ….

    Parameters
    ----------
    folder, archive, architecture, family
        As for :func:`~deepstreaks_dask.training.sequences.fit.train_classifier`.
    folds : int
        How many.
    options : TrainingOptions, optional
        Recipe (``sequences`` by default) and version. Equal seeds give equal folds to all architectures.
    client : dask.distributed.Client, optional
        Where to train, one fold per worker, with folder and archive in reach of all workers; in this process by default.
    on_epoch : callable, optional
        Called after every epoch of every fold, with its number in the fold and the losses.

    Returns
    -------
    dict
        ``f1`` and ``recall``: the mean over folds of the average over classes, ``…_spread`` its standard deviation over
        folds, ``…_classes`` the standard deviation over classes, and the metrics of each fold.

    Raises
    ------
    TrainingError
        As :func:`~deepstreaks_dask.training.sequences.fit.train_classifier`, if there are too few objects, or if the
        options have a split or a network to start from: folds measure what training from scratch reaches.
    """
    options = options or TrainingOptions()
    if options.split is not None or options.start:
        raise TrainingError("folds have splits of their own and start from random weights")
    recipe = options.recipe or RECIPES["sequences"]
    labelled = LabelledObjects.of(archive)
    splits = fold_splits(labelled.ids, labelled.kinds, folds, recipe)
    jobs = [
        TrainingJob(
            folder.absolute() / f"fold-{number}",
            architecture,
            family,
            replace(options, recipe=recipe, split=split),
        )
        for number, split in enumerate(splits, start=1)
    ]
    each = _run(jobs, archive, client, on_epoch=on_epoch)
    summary: dict[str, Any] = {"architecture": architecture, "folds": folds, "seed": recipe.seed}
    for name in ("f1", "recall"):
        summary |= _over_folds(name, each)
    summary["each"] = each
    write_text(folder / "folds.json", json.dumps(summary, indent=1, allow_nan=False))
    return summary


def _over_folds(name: str, each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean and the standard deviations of a metric by class, over folds and over classes."""
    table = pd.DataFrame([one[f"{name}_by_class"] for one in each]).astype(float)
    return {
        name: round(float(table.mean(axis=1).mean()), 4),
        f"{name}_spread": round(float(table.mean(axis=1).std(ddof=1)), 4),
        f"{name}_classes": round(float(table.mean().std(ddof=1)), 4),
        f"{name}_by_class": {
            kind: [round(float(table[kind].mean()), 4), round(float(table[kind].std(ddof=1)), 4)]
            for kind in table
        },
    }


def finetune(
    folder: Path,
    archive: xr.Dataset,
    samples: Sequence[int],
    options: TrainingOptions,
    *,
    repeats: int = 3,
    client: Client | None = None,
    on_training: Callable[[], object] | None = None,
) -> dict[str, Any]:
    """Fine-tune a classifier with a few objects of each class, and measure it on the other objects.

    The objects are divided in halves: samples are drawn from one, and the other is the test of every training, so that
    the metrics are comparable.

    Parameters
    ----------
    folder : Path
        Gets ``finetuning.json``, and a folder per training, so that an equal call resumes.
    archive : xarray.Dataset
        Of sequences, with their classes in ``kind(object)``.
    samples : sequence of int
        Objects of each class to train on.
    options : TrainingOptions
        Classifier to start from, its zoo, version, and recipe (``few`` by default).
    repeats : int
        How often objects are drawn anew.
    client : dask.distributed.Client, optional
        Where to train, one network per worker, with folder, archive and zoo in reach of all workers; in this process by
        default.
    on_training : callable, optional
        Called after each training.

    Returns
    -------
    dict
        ``before``: metrics of the classifier as it was. ``after``: for each number of samples recall and F1, averaged over
        the repeats, their smallest and largest value, and each repeat's metrics.

    Raises
    ------
    TrainingError
        If a class has too few objects, the options have no classifier to start from or a split, or as
        :func:`~deepstreaks_dask.training.sequences.fit.train_classifier`.
    ModelError
        If there is no such classifier.
    """
    if not options.start or options.split is not None:
        raise TrainingError(
            "fine-tuning needs a classifier to start from, and draws its own splits"
        )
    recipe = options.recipe or RECIPES["few"]
    zoo = Zoo(options.start_zoo)
    card, classifier = zoo.card(options.start), zoo.load_classifier(options.start)
    labelled = LabelledObjects.of(archive, card.classes)
    order = np.random.default_rng(recipe.seed).permutation(len(labelled.rows))
    pool, test = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    truth, scores = labelled.numbers(test), predict_objects(classifier, labelled, test)
    found: dict[str, Any] = {
        "start": card.ref,
        "sha256": card.sha256,
        "archive": str(archive.attrs.get("url", "")),
        "pool": len(pool),
        "before": class_metrics(truth, scores, labelled.classes),
        "after": [],
    }
    jobs = []
    for number, repeat in product(samples, range(1, repeats + 1)):
        rng = np.random.default_rng((recipe.seed, number, repeat))
        drawn = pool[draw_samples(labelled.kinds[pool], labelled.classes, number, rng)]
        split = Split(tuple(labelled.ids[drawn].tolist()), (), tuple(labelled.ids[test].tolist()))
        jobs.append(
            TrainingJob(
                folder.absolute() / f"samples-{number}-{repeat}",
                card.architecture,
                card.family,
                replace(options, recipe=recipe, split=split, start=card.ref),
            )
        )
    metrics = _run(jobs, archive, client, on_training=on_training)
    for place, number in enumerate(samples):
        each = metrics[place * repeats : (place + 1) * repeats]
        row: dict[str, Any] = {"samples": number, "repeats": each}
        for name in ("recall", "f1"):
            values = [one[name] for one in each]
            row |= {
                name: round(float(np.mean(values)), 4),
                f"{name}_range": [min(values), max(values)],
            }
        found["after"].append(row)
    write_text(folder / "finetuning.json", json.dumps(found, indent=1, allow_nan=False))
    return found
