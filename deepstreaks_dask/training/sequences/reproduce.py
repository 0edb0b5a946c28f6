"""Reproduce the figures of the papers in one call, on simulated objects and at a small size.

``rcnn`` (Carrasco-Davis et al. 2019, PASP 131, 108006): train on a simulation, test on a differently drawn one, fine-tune
with a few of its objects. ``taonet`` and ``taonet6`` (Gómez et al. 2020, MNRAS 499, 3130): train fold by fold, beside the
forest on light curves on the same folds. Every step leaves its result in the folder, so that a call that was killed resumes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import ArchiveError, DeepStreaksError
from deepstreaks_dask.evaluation.epoch_by_epoch import follow
from deepstreaks_dask.evaluation.sequence_metrics import (
    SequenceEvaluation,
    evaluate_sequences,
    held_out,
)
from deepstreaks_dask.report.sequence_report import write_evaluation
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.cluster import connect
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.runs import open_run
from deepstreaks_dask.simulation.archives import simulate_into
from deepstreaks_dask.simulation.sequences import LAYOUT
from deepstreaks_dask.training.harness import TrainingOptions
from deepstreaks_dask.training.recipe import read_recipe
from deepstreaks_dask.training.records import lock_folder, publish
from deepstreaks_dask.training.sequences.experiments import finetune, train_folds
from deepstreaks_dask.training.sequences.fit import max_epochs, train_classifier
from deepstreaks_dask.utils.progress import Bar, progress_bar
from deepstreaks_dask.utils.storage import write_text

SHIFTED_OBJECTS = 700
"""Objects of the survey that the RCNN was not trained on: one half to fine-tune with, one to test on."""

SAMPLES_PER_CLASS = (1, 2, 5, 10, 20)
"""Objects a class that the RCNN is fine-tuned with."""

REPEAT_COUNT = 2
"""How often these are drawn."""

FOLD_COUNT = 3
"""Of the TAO-Net and the forest."""

_SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class ReproductionSettings:
    """What is reproduced, and at which size.

    Attributes
    ----------
    what : str
        A key of :data:`DEFAULTS`.
    objects : int
        Simulated objects: those that the RCNN trains on, or all that the TAO-Net is trained and tested on.
    epochs : int
        Of the network's training.
    seed : int
        Of everything.
    """

    what: str
    objects: int
    epochs: int
    seed: int = 0


DEFAULTS: Mapping[str, ReproductionSettings] = {
    "rcnn": ReproductionSettings("rcnn", 2800, 12),
    "taonet": ReproductionSettings("taonet", 900, 16),
    "taonet6": ReproductionSettings("taonet6", 900, 16),
}
"""What can be reproduced, at sizes that are to end within ten minutes on two cores."""


def settings_for(
    what: str, *, objects: int | None = None, epochs: int | None = None, seed: int = 0
) -> ReproductionSettings:
    """Return the settings of a reproduction.

    Parameters
    ----------
    what : str
        A key of :data:`DEFAULTS`.
    objects, epochs : int, optional
        As for :class:`ReproductionSettings`.
    seed : int
        Of everything.

    Returns
    -------
    ReproductionSettings
        The default where nothing is given.

    Raises
    ------
    DeepStreaksError
        If there is nothing of this name.
    """
    if what not in DEFAULTS:
        raise DeepStreaksError(f"no figures of {what!r}: choose one of {', '.join(DEFAULTS)}")
    default = DEFAULTS[what]
    return ReproductionSettings(what, objects or default.objects, epochs or default.epochs, seed)


def reproduce(folder: Path, settings: ReproductionSettings) -> SequenceEvaluation:
    """Simulate, train, score and measure in a folder, and write ``report.html``; go on with what was cut short there.

    Parameters
    ----------
    folder : Path
        Local folder of this alone; made if it is not there.
    settings : ReproductionSettings
        What to do.

    Returns
    -------
    SequenceEvaluation
        As the report shows it; everything in it is of simulated objects.

    Raises
    ------
    DeepStreaksError
        If the folder holds something else or another process is at work in it, or there are too few objects.
    """
    asked = asdict(settings)
    mark = folder / _SETTINGS_FILE
    if mark.exists():
        if (there := _read(mark)) != asked:
            raise DeepStreaksError(f"{folder} holds another one ({there}): choose another folder")
    elif folder.exists() and any(folder.iterdir()):
        raise DeepStreaksError(f"{folder} holds something else: choose another folder")
    else:
        write_text(mark, json.dumps(asked))
    with lock_folder(folder):
        measure = _rcnn if settings.what == "rcnn" else _taonet
        scores, found = measure(folder, settings)
        write_evaluation(found, scores, folder / "report.html")
    return found


def _rcnn(folder: Path, settings: ReproductionSettings) -> tuple[xr.Dataset, SequenceEvaluation]:
    """Train on surveys that differ, test on one that was not trained on, and fine-tune with its objects."""
    train, shifted, zoo = folder / "train.zarr", folder / "shifted.zarr", str(folder / "zoo")
    _simulate(train, settings.objects, "hits-varied", "rcnn", settings.seed)
    _simulate(shifted, SHIFTED_OBJECTS, "hits-shifted", "rcnn", settings.seed + 1)
    recipe = read_recipe("sequences", epochs=settings.epochs, seed=settings.seed)
    for architecture in ("forest", "rcnn"):
        record = folder / "training" / architecture
        total = max_epochs(architecture, recipe)
        with progress_bar(f"train {architecture}", total, unit="epochs") as bar:
            train_classifier(
                record,
                open_archive(train, cache=True),
                architecture,
                family="hits",
                options=TrainingOptions(recipe),
                on_epoch=_advancing(bar),
            )
        publish(record, zoo)
    total = len(SAMPLES_PER_CLASS) * REPEAT_COUNT
    with connect(jobs=total) as client:
        score(shifted, ensemble=Ensemble.from_zoo(zoo, ["hits"]), client=client)
        with progress_bar("fine-tune", total, unit="trainings") as bar:
            few = read_recipe("few", seed=settings.seed)
            finetune(
                folder / "finetuned",
                open_archive(shifted, cache=True),
                SAMPLES_PER_CLASS,
                TrainingOptions(few, start="hits_rcnn@1", start_zoo=zoo),
                repeats=REPEAT_COUNT,
                client=client,
                on_training=bar.advance,
            )
    scores = open_run(shifted, cache=True)
    curves = follow(scores)
    return scores, evaluate_sequences(scores, by_epochs=curves, finetuned=[folder / "finetuned"])


def _taonet(folder: Path, settings: ReproductionSettings) -> tuple[xr.Dataset, SequenceEvaluation]:
    """Train fold by fold; the confusion matrices are those of the first fold's members on its test objects."""
    archive, zoo = folder / "crts.zarr", str(folder / "zoo")
    _simulate(archive, settings.objects, "crts", settings.what, settings.seed)
    recipe = read_recipe("sequences", epochs=settings.epochs, seed=settings.seed)
    folds = [folder / "folds" / architecture for architecture in ("forest", "taonet")]
    with connect(jobs=FOLD_COUNT) as client:
        for record in folds:
            total = FOLD_COUNT * max_epochs(record.name, recipe)
            with progress_bar(f"train {record.name}", total, unit="epochs") as bar:
                train_folds(
                    record,
                    open_archive(archive, cache=True),
                    record.name,
                    FOLD_COUNT,
                    family="crts",
                    options=TrainingOptions(recipe),
                    client=client,
                    on_epoch=_advancing(bar),
                )
            publish(record / "fold-1", zoo)
        score(archive, ensemble=Ensemble.from_zoo(zoo, ["crts"]), client=client)
    scores = open_run(archive, cache=True)
    only = held_out(scores, folds[0] / "fold-1")
    return scores, evaluate_sequences(scores, only=only, folds=folds)


def _simulate(archive: Path, objects: int, survey: str, task: str, seed: int) -> None:
    """Simulate what is not there yet."""
    try:
        there = open_archive(archive).sizes["object"] if archive.exists() else 0
    except ArchiveError:  # killed while it was made
        there = 0
        create_archive(archive, **LAYOUT, overwrite=True)
    if there < objects:
        simulate_into(
            archive,
            objects - there,
            survey,
            task,
            seed=seed,
            first=there,
            what=f"simulate {archive.stem}",
        )


def _advancing(bar: Bar) -> Callable[..., None]:
    return lambda *_: bar.advance()


def _read(mark: Path) -> Any:
    try:
        return json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DeepStreaksError(f"{mark} cannot be read ({error}): choose another folder") from error
