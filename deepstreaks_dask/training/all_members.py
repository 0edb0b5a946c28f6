"""Train all members of all families on one split, and plot the figures of the paper.

Every member is a training of its own, on nights that all of them share, so that the decision of all families can be
measured on nights that none of them saw. The page has the accuracy of each in training and validation, epoch by epoch, the
ROC curves and the confusion matrices (Duev et al. 2019, MNRAS 486, 4158, arXiv:1904.05920).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from deepstreaks_dask import plots
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.provenance import simulated
from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.evaluation.decision_metrics import Evaluation, evaluate
from deepstreaks_dask.evaluation.metrics import Confusion, confusion
from deepstreaks_dask.models.registry import ARCHITECTURES
from deepstreaks_dask.report.html import chart_item, write_page
from deepstreaks_dask.scoring.decision import Decision, family_of
from deepstreaks_dask.training.fit import groups_of
from deepstreaks_dask.training.harness import TrainingOptions
from deepstreaks_dask.training.members import (
    labelled_rows,
    predict_cutouts,
    shared_split,
    train_member,
)
from deepstreaks_dask.training.recipe import Recipe, Split
from deepstreaks_dask.training.records import TrainingRecord
from deepstreaks_dask.utils.storage import write_text

_CURVE_NAMES = ("binary_accuracy", "loss")


def train_all_members(
    folder: Path,
    archive: str,
    families: Sequence[str],
    architectures: Sequence[str] = tuple(ARCHITECTURES),
    *,
    recipe: Recipe | None = None,
    version: str = "1",
    on_epoch: Callable[[], object] | None = None,
) -> Evaluation:
    """Train every member, resuming unfinished ones, and write ``training.html``.

    Parameters
    ----------
    folder : Path
        Gets a folder a member, as :func:`~deepstreaks_dask.training.members.train_member` leaves it,
        ``test_scores.csv`` with
        the scores of the test part, and ``training.html``.
    archive : str
        Path or URL of an archive with labels.
    families, architectures : sequence of str
        Whose members: each architecture of each family.
    recipe : Recipe, optional
        How to train; the published recipe by default.
    version : str
        Version of the networks on their cards.
    on_epoch : callable, optional
        Called after every epoch of every member.

    Returns
    -------
    Evaluation
        Of the members, the families and the decision at 0.5, on the test part.

    Raises
    ------
    TrainingError
        As :func:`~deepstreaks_dask.training.fit.fit_members` does, and if there is no such architecture.
    """
    recipe = recipe or Recipe()
    if unknown := sorted(set(architectures) - set(ARCHITECTURES)):
        raise TrainingError(f"no architecture {unknown[0]!r}: choose of {', '.join(ARCHITECTURES)}")
    dataset = open_archive(archive, cache=True)
    split = shared_split(dataset, families, recipe)
    options = TrainingOptions(recipe, split, version=version)
    records = {}

    def after(epoch: int, losses: Mapping[str, float]) -> None:
        if on_epoch is not None:
            on_epoch()

    for family in families:
        for architecture in architectures:
            member = f"{family}_{architecture}"
            records[member] = train_member(
                folder / member,
                dataset,
                [family],
                architecture,
                options=options,
                on_epoch=after,
            )
    held_out = split.rows(groups_of(dataset, recipe.by), "test")
    rows = np.flatnonzero(labelled_rows(dataset, families) & held_out)
    models = [record.networks.load(f"{name}@{version}") for name, record in records.items()]
    scores = dataset.isel(cutout=rows).drop_vars(["cutouts", "native"], errors="ignore")
    scores = scores.assign(
        scores=(("cutout", "model"), predict_cutouts(dataset, models, rows))
    ).assign_coords(model=list(records))
    _write_scores(folder / "test_scores.csv", scores)
    evaluation = evaluate(scores, Decision())
    _write_page(folder / "training.html", dataset, scores, records, recipe, split, evaluation)
    return evaluation


def _write_scores(path: Path, scores: xr.Dataset) -> None:
    columns: dict[str, Any] = {name: scores[name].values for name in ("id", "night")}
    labels = [str(name) for name in scores.coords if str(name).startswith("label_")]
    columns |= {name: scores[name].values for name in labels}
    columns |= {
        str(name): scores["scores"].values[:, k] for k, name in enumerate(scores["model"].values)
    }
    write_text(path, pd.DataFrame(columns).to_csv(index=False))


def _write_page(
    path: Path,
    dataset: xr.Dataset,
    scores: xr.Dataset,
    records: Mapping[str, TrainingRecord],
    recipe: Recipe,
    split: Split,
    evaluation: Evaluation,
) -> None:
    families = list(dict.fromkeys(family_of(name) for name in records))
    curves = []
    for family in families:
        histories = {
            name: record["history"] for name, record in records.items() if family_of(name) == family
        }
        curves += [
            plots.learning_curves(histories, which, title=f"{family}: {words}")
            for which, words in zip(_CURVE_NAMES, ("accuracy", "loss"), strict=True)
        ]
    matrices = [plots.confusion(evaluation.joint, title="Decision of all families at 0.5")]
    for k, name in enumerate(records):
        matrices.append(
            plots.confusion(
                _confusion(scores, k, family_of(name)),
                title=name,
                decisions=("at least 0.5", "below"),
                labels=("label 1", "label 0"),
            )
        )
    at = (evaluation.joint.fpr.value, evaluation.joint.tpr.value)
    sections = [
        (
            "Learning curves",
            "Solid: validation, dashed: training, with dropout on and cutouts weighted by class. The weights of the "
            "epoch with the lowest validation loss were kept.",
            curves,
        ),
        ("ROC", "On the test part.", [plots.roc(evaluation.curves, at=at)]),
        ("Confusion", "On the test part.", matrices),
    ]
    sources = scores["kind"].values, scores["source"].values
    write_page(
        "training.html.j2",
        path,
        name=str(dataset.attrs["url"]).rstrip("/").rsplit("/", 1)[-1],
        recipe=recipe,
        changes=recipe.changes(),
        parts={part: len(groups) for part, groups in asdict(split).items()},
        cutouts=scores.sizes["cutout"],
        simulated=int(simulated(*sources).sum()),
        sections=[
            (title, words, [chart_item(c) for c in shown]) for title, words, shown in sections
        ],
        rows=_rows(records, evaluation),
    )


def _confusion(scores: xr.Dataset, column: int, family: str) -> Confusion:
    return confusion(
        scores[f"label_{family}"].values, scores["scores"].values[:, column] >= np.float32(0.5)
    )


def _rows(records: Mapping[str, TrainingRecord], evaluation: Evaluation) -> list[list[str]]:
    rows = []
    for _, figures in evaluation.members.iterrows():
        losses = records[str(figures["member"])]["history"]["val_loss"]
        cells = [str(figures["member"]), str(len(losses)), str(int(np.argmin(losses)) + 1)]
        cells += [f"{figures[name]:,}" for name in ("n_pos", "n_neg")]
        for name in ("auc", "tpr", "fpr"):
            known = np.isfinite(figures[name])
            span = f"[{figures[f'{name}_low']:.4f}, {figures[f'{name}_high']:.4f}]"
            cells.append(f"{figures[name]:.4f} {span}" if known else "not measured")
        rows.append(cells)
    return rows
