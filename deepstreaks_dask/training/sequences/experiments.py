"""Trainings that belong together, on Dask workers or one after the other: folds, and fine-tunings with a few objects.

That a network trained on simulated sequences goes on to another survey with a few objects a class is how
Carrasco-Davis et al. (2019, PASP 131, 108006, arXiv:1807.03869) used theirs; fold by fold, beside a forest on light
curves, is how Gómez et al. (2020, MNRAS 499, 3130, arXiv:2004.13877) measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.training.checkpoints import OnEpoch
from deepstreaks_dask.training.recipe import RECIPES, Recipe, Split
from deepstreaks_dask.training.sequences.fit import figures, probabilities, train_classifier
from deepstreaks_dask.training.sequences.folds import draw_samples, fold_splits
from deepstreaks_dask.training.sequences.labelled import Labelled
from deepstreaks_dask.training.workers import on_workers
from deepstreaks_dask.utils.storage import write_text


@dataclass(frozen=True)
class Job:
    """One of the trainings, as :func:`~deepstreaks_dask.training.sequences.fit.train_classifier` takes it.

    Attributes
    ----------
    folder : Path
    architecture, family : str
    recipe : Recipe
    split : Split
    version, start : str
    start_zoo : str or None
    """

    folder: Path
    architecture: str
    family: str
    recipe: Recipe
    split: Split
    version: str
    start: str = ""
    start_zoo: str | None = None

    def train(self, archive: xr.Dataset, on_epoch: OnEpoch | None = None) -> dict[str, Any]:
        """Train, and give the figures of the test objects.

        Parameters
        ----------
        archive : xarray.Dataset
            Of sequences, with their classes in ``kind(object)``.
        on_epoch : callable, optional
            Called after every epoch.

        Returns
        -------
        dict
            As :func:`~deepstreaks_dask.training.sequences.fit.figures` gives them.
        """
        record = train_classifier(
            self.folder,
            archive,
            self.architecture,
            family=self.family,
            recipe=self.recipe,
            split=self.split,
            start=self.start,
            start_zoo=self.start_zoo,
            version=self.version,
            on_epoch=on_epoch,
        )
        metrics: dict[str, Any] = record["cards"][0]["metrics"]
        return metrics


def _train(
    jobs: Sequence[Job],
    archive: xr.Dataset,
    client: Client | None,
    *,
    on_epoch: OnEpoch | None = None,
    on_training: Callable[[], object] | None = None,
) -> list[dict[str, Any]]:
    """Give the figures of each, in their order."""
    if client is None:
        done: Iterable[tuple[Job, dict[str, Any]]] = (
            (job, job.train(archive, on_epoch)) for job in jobs
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
    jobs: Sequence[Job], url: str, client: Client, on_epoch: OnEpoch | None
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Give each with its figures, as they are done."""
    topic = f"epochs of {uuid4().hex}"
    if on_epoch is not None:
        client.subscribe_topic(topic, lambda event: on_epoch(*event[1]))
    try:
        yield from on_workers(client, partial(_on_one, url, topic), iter(jobs))
    finally:
        if on_epoch is not None:
            client.unsubscribe_topic(topic)


def _on_one(url: str, topic: str, job: Job) -> dict[str, Any]:
    worker = get_worker()

    def tell(epoch: int, losses: Mapping[str, float]) -> None:
        worker.log_event(topic, (epoch, {name: float(loss) for name, loss in losses.items()}))

    return job.train(open_archive(url, cache=True), tell)


def train_folds(
    folder: Path,
    archive: xr.Dataset,
    architecture: str,
    folds: int,
    *,
    family: str,
    recipe: Recipe | None = None,
    version: str = "1",
    client: Client | None = None,
    on_epoch: OnEpoch | None = None,
) -> dict[str, Any]:
    """Train once a fold, each time tested on objects that were not trained on, in folders ``fold-1``, ``fold-2``, ….

    Parameters
    ----------
    folder, archive, architecture, family, recipe, version
        As for :func:`~deepstreaks_dask.training.sequences.fit.train_classifier`. Equal seeds give equal
        folds to all architectures.
    folds : int
        How many.
    client : dask.distributed.Client, optional
        Where to train, a fold a worker, with folder and archive in reach of all; in this process by default.
    on_epoch : callable, optional
        Called after every epoch of every fold, with its number in that and the losses.

    Returns
    -------
    dict
        ``f1`` and ``recall``: the mean over folds of the average over classes, ``…_spread`` its standard deviation over
        folds, ``…_classes`` the standard deviation over classes, and what each fold had.

    Raises
    ------
    TrainingError
        As :func:`~deepstreaks_dask.training.sequences.fit.train_classifier`, or if there are too few objects.
    """
    recipe = recipe or RECIPES["sequences"]
    labelled = Labelled.of(archive)
    splits = fold_splits(labelled.ids, labelled.kinds, folds, recipe)
    jobs = [
        Job(folder.absolute() / f"fold-{number}", architecture, family, recipe, split, version)
        for number, split in enumerate(splits, start=1)
    ]
    each = _train(jobs, archive, client, on_epoch=on_epoch)
    summary: dict[str, Any] = {"architecture": architecture, "folds": folds, "seed": recipe.seed}
    for name in ("f1", "recall"):
        table = pd.DataFrame([one[f"{name}_by_class"] for one in each]).astype(float)
        summary |= {
            name: round(float(table.mean(axis=1).mean()), 4),
            f"{name}_spread": round(float(table.mean(axis=1).std(ddof=1)), 4),
            f"{name}_classes": round(float(table.mean().std(ddof=1)), 4),
            f"{name}_by_class": {
                kind: [
                    round(float(table[kind].mean()), 4),
                    round(float(table[kind].std(ddof=1)), 4),
                ]
                for kind in table
            },
        }
    summary["each"] = each
    write_text(folder / "folds.json", json.dumps(summary, indent=1, allow_nan=False))
    return summary


def finetune_in(
    folder: Path,
    archive: xr.Dataset,
    start: str,
    samples: Sequence[int],
    *,
    start_zoo: str | None = None,
    repeats: int = 3,
    recipe: Recipe | None = None,
    version: str = "1",
    client: Client | None = None,
    on_training: Callable[[], object] | None = None,
) -> dict[str, Any]:
    """Fine-tune a classifier with a few objects a class, and see what that does to the others.

    The objects are parted in halves: samples are drawn from one, and the other is the test of every training, so that
    figures compare.

    Parameters
    ----------
    folder : Path
        Gets ``finetuning.json``, and a training a number of samples and repeat, so that a killed one goes on.
    archive : xarray.Dataset
        Of sequences, with their classes in ``kind(object)``.
    start, start_zoo : str
        Classifier to start from.
    samples : sequence of int
        Objects a class to train on.
    repeats : int
        How often objects are drawn anew.
    recipe : Recipe, optional
        ``few`` by default.
    version : str
        Of the network, on its card.
    client : dask.distributed.Client, optional
        Where to train, one network a worker, with folder, archive and zoo in reach of all; in this process by default.
    on_training : callable, optional
        Called after each training.

    Returns
    -------
    dict
        ``before``: figures of the classifier as it was. ``after``: for each number of samples recall and F1, averaged over
        the repeats, their smallest and largest value, and each repeat's figures.

    Raises
    ------
    TrainingError
        If a class has too few objects, or as :func:`~deepstreaks_dask.training.sequences.fit.train_classifier`.
    ModelError
        If there is no such classifier.
    """
    recipe = recipe or RECIPES["few"]
    zoo = Zoo(start_zoo)
    card, classifier = zoo.card(start), zoo.load_classifier(start)
    labelled = Labelled.of(archive, card.classes)
    order = np.random.default_rng(recipe.seed).permutation(len(labelled.rows))
    pool, test = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    truth = labelled.numbers(test)
    found: dict[str, Any] = {
        "start": card.ref,
        "sha256": card.sha256,
        "archive": str(archive.attrs.get("url", "")),
        "pool": len(pool),
        "before": figures(truth, probabilities(classifier, labelled, test), labelled.classes),
        "after": [],
    }
    jobs = []
    for number, repeat in product(samples, range(1, repeats + 1)):
        rng = np.random.default_rng((recipe.seed, number, repeat))
        drawn = pool[draw_samples(labelled.kinds[pool], labelled.classes, number, rng)]
        split = Split(tuple(labelled.ids[drawn].tolist()), (), tuple(labelled.ids[test].tolist()))
        jobs.append(
            Job(
                folder.absolute() / f"samples-{number}-{repeat}",
                card.architecture,
                card.family,
                recipe,
                split,
                version,
                card.ref,
                start_zoo,
            )
        )
    metrics = _train(jobs, archive, client, on_training=on_training)
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
