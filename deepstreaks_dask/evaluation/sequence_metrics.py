"""How good classifiers of sequences are: confusion, recall and F1 by class, accuracy by epochs, beside what was published.

Rates of single classes have Wilson's 95 % interval, as everywhere in this package. Averages over classes, and F1, are no
proportions: theirs are the percentiles of 2,000 bootstrap samples of whole objects (Efron 1979, Ann. Stat. 7, 1), drawn
class by class, so that a rare class stays as rare as it is. Objects without a class, or that a member gives no scores, are
left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.metrics import Estimate, rate, wilson


@dataclass(frozen=True)
class Published:
    """A published figure, on other data than ours.

    Attributes
    ----------
    figure : str
        What was measured.
    value : str
        As it was printed.
    paper : str
        Where, and on which data.
    """

    figure: str
    value: str
    paper: str


_RCNN = "Carrasco-Davis et al. 2019, real HiTS sequences"
_TAONET = "Gómez et al. 2020, real CRTS sequences"
PUBLISHED_FIGURES = {
    "rcnn": Published("average recall of rcnn, from simulation alone", "0.85", _RCNN),
    "rcnn+10": Published("average recall of rcnn, fine-tuned with 10 a class", "0.94", _RCNN),
    "taonet": Published("F1 of taonet", "0.546 ± 0.133", _TAONET),
    "forest": Published("F1 of the forest on light curves", "0.455 ± 0.138", _TAONET),
    "taonet-forest": Published("F1 of taonet less that of the forest", "0.091", _TAONET),
}
"""What was published of the architectures."""

_BOOTSTRAP_DRAWS = 2000


class EvaluationError(DeepStreaksError):
    """What was asked for cannot be measured."""


@dataclass(frozen=True)
class MemberFigures:
    """What one member reaches.

    Attributes
    ----------
    member : str
    matrix : ndarray
        int ``(true, taken)``: objects by their class and by the most probable one.
    table : pandas.DataFrame
        A row a class: ``name, objects, recall, recall_low, recall_high, precision, f1, f1_low, f1_high``.
    accuracy : Estimate
        Share of all objects, however common each class is.
    recall, f1 : Estimate
        Averages over classes that weigh alike; ``count`` is of classes, ``total`` of objects.
    """

    member: str
    matrix: np.ndarray
    table: pd.DataFrame
    accuracy: Estimate
    recall: Estimate
    f1: Estimate


@dataclass(frozen=True)
class SequenceEvaluation:
    """What :func:`evaluate_sequences` measures.

    Attributes
    ----------
    classes : tuple of str
    members : tuple of MemberFigures
        In the order of the run.
    by_epochs : dict of str to pandas.DataFrame
        As :func:`accuracy_by_epochs` gives it, by member that predicts online.
    samples : dict of str to pandas.DataFrame
        Recall after fine-tuning by the number of objects a class, by classifier: ``samples, value, low, high``.
    folds : dict of str to dict
        What trainings fold by fold reached, by architecture.
    objects, unlabelled, simulated : int
        Objects that were measured on; without a class; that are simulated.
    notes : tuple of str
        What must be known to read the figures.
    """

    classes: tuple[str, ...]
    members: tuple[MemberFigures, ...]
    objects: int
    unlabelled: int
    simulated: int
    by_epochs: dict[str, pd.DataFrame] = field(default_factory=dict)
    samples: dict[str, pd.DataFrame] = field(default_factory=dict)
    folds: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give everything as JSON can hold it; NaN becomes None."""
        return {
            "objects": self.objects,
            "unlabelled": self.unlabelled,
            "simulated": self.simulated,
            "classes": list(self.classes),
            "members": {
                one.member: {
                    "confusion": one.matrix.tolist(),
                    "classes": _plain(one.table),
                    **{
                        name: _plain_values(asdict(getattr(one, name)))
                        for name in ("accuracy", "recall", "f1")
                    },
                }
                for one in self.members
            },
            "accuracy_by_epochs": {name: _plain(t) for name, t in self.by_epochs.items()},
            "recall_by_samples": {name: _plain(t) for name, t in self.samples.items()},
            "folds": self.folds,
            "published": beside_published(self).to_dict("records"),
            "notes": list(self.notes),
        }


def measure_member(
    member: str, truth: np.ndarray, scores: np.ndarray, classes: Sequence[str]
) -> MemberFigures:
    """Measure one member.

    Parameters
    ----------
    member : str
        What to call it.
    truth : ndarray
        int ``(object,)``: the true class of each, -1 for not known.
    scores : ndarray
        ``(object, class)``, NaN where not scored.
    classes : sequence of str
        Names.

    Returns
    -------
    MemberFigures
        NaN for a class of which there are no objects; averages are over the others.
    """
    n = len(classes)
    known = (truth >= 0) & np.isfinite(scores).all(axis=1)
    truth, guessed = truth[known], scores[known].argmax(axis=1)
    matrix = np.bincount(truth * n + guessed, minlength=n * n).reshape(n, n)
    rng = np.random.default_rng(0)
    there = np.flatnonzero(matrix.sum(axis=1))
    drawn = np.zeros((_BOOTSTRAP_DRAWS, n, n), np.int64)
    for row in there:
        count = matrix[row].sum()
        drawn[:, row] = rng.multinomial(count, matrix[row] / count, _BOOTSTRAP_DRAWS)
    recalls, f1s = _rates(drawn)
    recall, f1 = (values[0] for values in _rates(matrix[None]))
    low, high = wilson(np.diagonal(matrix), matrix.sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.diagonal(matrix) / matrix.sum(axis=0)
    spread = np.full((2, n), np.nan)
    if len(there):
        spread[:, there] = np.percentile(f1s[:, there], [2.5, 97.5], axis=0)
    table = pd.DataFrame(
        {
            "name": list(classes),
            "objects": matrix.sum(axis=1),
            "recall": recall,
            "recall_low": low,
            "recall_high": high,
            "precision": precision,
            "f1": f1,
            "f1_low": spread[0],
            "f1_high": spread[1],
        }
    )
    total = int(matrix.sum())
    averages = [
        _average(values[there], draws[:, there], total)
        for values, draws in ((recall, recalls), (f1, f1s))
    ]
    return MemberFigures(member, matrix, table, rate(int(np.trace(matrix)), total), *averages)


def _rates(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and F1 of each class, ``(table, class)``; F1 is 0 where nothing of a class is found."""
    right = np.diagonal(matrices, axis1=1, axis2=2)
    truly, taken = matrices.sum(axis=2), matrices.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, f1 = right / truly, 2 * right / (truly + taken)
    return recall, np.where(truly > 0, f1, np.nan)


def _average(values: np.ndarray, draws: np.ndarray, total: int) -> Estimate:
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan, 0, 0)
    low, high = np.percentile(draws.mean(axis=1), [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high), len(values), total)


def accuracy_by_epochs(
    scores: np.ndarray, counts: np.ndarray, truth: np.ndarray, classes: Sequence[str]
) -> pd.DataFrame:
    """Follow how a member's decisions improve while epochs come in.

    Parameters
    ----------
    scores : ndarray
        ``(epoch, class)`` of all objects one after the other: probabilities after each epoch.
    counts : ndarray
        ``(object,)``: epochs of each.
    truth : ndarray
        int ``(object,)``: class of each, -1 for not known.
    classes : sequence of str

    Returns
    -------
    pandas.DataFrame
        ``epochs, objects, value, low, high, recall``: accuracy with Wilson's interval, and recall averaged over
        classes, after so many epochs, of the objects that have as many; at most 60 rows.
    """
    starts = np.cumsum(counts) - counts
    known = np.flatnonzero((truth >= 0) & (counts > 0))
    longest = int(counts[known].max(initial=0))
    rows = []
    for k in np.unique(np.linspace(1, longest, min(longest, 60)).astype(int)):
        some = known[counts[known] >= k]
        guessed = scores[starts[some] + k - 1].argmax(axis=1)
        right = guessed == truth[some]
        found = rate(int(right.sum()), len(some))
        by_class = [right[truth[some] == c].mean() for c in np.unique(truth[some])]
        rows.append((k, len(some), found.value, found.low, found.high, float(np.mean(by_class))))
    return pd.DataFrame(rows, columns=["epochs", "objects", "value", "low", "high", "recall"])


def evaluate_sequences(
    scores: xr.Dataset,
    *,
    only: np.ndarray | None = None,
    by_epochs: Mapping[str, pd.DataFrame] | None = None,
    folds: Sequence[str | os.PathLike[str]] = (),
    finetuned: Sequence[str | os.PathLike[str]] = (),
) -> SequenceEvaluation:
    """Measure all members of a run on the objects whose class is known.

    Parameters
    ----------
    scores : xarray.Dataset
        As :func:`~deepstreaks_dask.scoring.runs.open_run` gives it: ``scores(object, member, class)`` and
        ``kind(object)``.
    only : ndarray, optional
        bool ``(object,)``: which objects count, such as those that no training saw; all by default.
    by_epochs : mapping of str to pandas.DataFrame, optional
        As :func:`accuracy_by_epochs` gives it, by member.
    folds, finetuned : sequence of path
        Folders of trainings fold by fold and of fine-tunings, whose ``folds.json`` and ``finetuning.json`` are shown beside.

    Returns
    -------
    SequenceEvaluation
        Figures of each member with their intervals.

    Raises
    ------
    EvaluationError
        If the run is none of sequences, no object has one of its classes, or a folder holds nothing of the kind.
    """
    if "class" not in scores["scores"].dims:
        raise EvaluationError(
            "the run scored single cutouts: 'deepstreaks evaluate' measures these"
        )
    classes = tuple(str(name) for name in scores["class"].values)
    number = {name: k for k, name in enumerate(classes)}
    truth = np.array([number.get(str(kind), -1) for kind in scores["kind"].values])
    if only is not None:
        truth = np.where(only, truth, -1)
    if not (truth >= 0).any():
        raise EvaluationError(
            f"no object has a class that the run tells apart ({', '.join(classes)}): there is nothing to measure"
        )
    members = tuple(
        measure_member(str(name), truth, scores["scores"].values[:, k], classes)
        for k, name in enumerate(scores["member"].values)
    )
    sources = np.array([str(source) for source in scores["source"].values])
    counted = truth >= 0
    simulated = int(np.char.startswith(sources[counted], "simulation").sum())
    found = {}
    for folder in folds:
        summary = _checked_folds(_read(folder, "folds.json"))
        found[str(summary["architecture"])] = summary
    curves = {}
    for folder in finetuned:
        summary = _read(folder, "finetuning.json")
        curves[str(summary.get("start", folder))] = _samples(summary)
    return SequenceEvaluation(
        classes,
        members,
        int(counted.sum()),
        int((~counted).sum()),
        simulated,
        dict(by_epochs or {}),
        curves,
        found,
        _notes(scores, only),
    )


def beside_published(evaluation: SequenceEvaluation) -> pd.DataFrame:
    """Put what was measured beside what was published of the same architectures on other data.

    A difference of two architectures is taken fold by fold, since their folds are the same objects.

    Parameters
    ----------
    evaluation : SequenceEvaluation
        With what trainings reached, where there are any.

    Returns
    -------
    pandas.DataFrame
        ``figure, here, published, paper``; ``here`` is "not measured" where nothing was.
    """
    here: dict[str, str] = {}
    for one in evaluation.members:
        if one.member.endswith("_rcnn"):
            here["rcnn"] = str(one.recall)
    for name, table in evaluation.samples.items():
        for row in table[table["samples"] == 10].to_dict("records"):
            if name.partition("@")[0].endswith("_rcnn"):
                here["rcnn+10"] = f"{row['value']:.4f}, draws {row['low']:.4f} to {row['high']:.4f}"
    f1 = {
        name: np.array([each["f1"] for each in summary["each"]])
        for name, summary in evaluation.folds.items()
    }
    here |= {name: _over_folds(values) for name, values in f1.items()}
    alike = {(each["seed"], len(each["each"])) for each in evaluation.folds.values()}
    if {"taonet", "forest"} <= set(f1) and len(alike) == 1:
        here["taonet-forest"] = _over_folds(f1["taonet"] - f1["forest"])
    rows = [
        (said.figure, here.get(key, "not measured"), said.value, said.paper)
        for key, said in PUBLISHED_FIGURES.items()
    ]
    return pd.DataFrame(rows, columns=["figure", "here", "published", "paper"])


def _over_folds(values: np.ndarray) -> str:
    return f"{values.mean():.4f} ± {values.std(ddof=1):.4f}, {len(values)} folds"


def held_out(scores: xr.Dataset, folder: str | os.PathLike[str]) -> np.ndarray:
    """Say which objects a training kept out of training and of stopping, to be measured on.

    Parameters
    ----------
    scores : xarray.Dataset
        As :func:`~deepstreaks_dask.scoring.runs.open_run` gives it, with ``id(object)``.
    folder : str or path
        The training's, with its ``record.json``.

    Returns
    -------
    ndarray
        bool ``(object,)``.

    Raises
    ------
    EvaluationError
        If it holds no record of such a training, or none of its test objects is there.
    """
    record = _read(folder, "record.json")
    try:
        names = {str(name) for name in record["split"]["test"]}
    except (KeyError, TypeError) as error:
        raise EvaluationError(f"{folder}/record.json names no test objects") from error
    chosen = np.array([str(name) in names for name in scores["id"].values])
    if not chosen.any():
        raise EvaluationError(f"none of the test objects of {folder} is in this archive")
    return chosen


def _samples(summary: Mapping[str, Any]) -> pd.DataFrame:
    """Give the recall curve of a fine-tuning: before, and after so many objects a class."""
    try:
        before = summary["before"]
        rows = [(0, float(before["recall"]), *map(float, before["recall_95"]))]
        for row in summary["after"]:
            rows.append(
                (int(row["samples"]), float(row["recall"]), *map(float, row["recall_range"]))
            )
    except (KeyError, TypeError, ValueError) as error:
        raise EvaluationError(f"the record of a fine-tuning cannot be read ({error!r})") from error
    return pd.DataFrame(rows, columns=["samples", "value", "low", "high"]).sort_values("samples")


def _checked_folds(summary: dict[str, Any]) -> dict[str, Any]:
    """Give the record of trainings fold by fold as it is, if it is one."""
    try:
        for name in ("f1", "f1_spread", "f1_classes", "recall", "recall_spread"):
            summary[name] = float(summary[name])
        summary["f1_by_class"] = {
            str(kind): [float(mean), float(spread)]
            for kind, (mean, spread) in summary["f1_by_class"].items()
        }
        for one in summary["each"]:
            one["f1"] = float(one["f1"])
        _ = summary["architecture"], summary["seed"] + 0
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EvaluationError(f"the record of folds cannot be read ({error!r})") from error
    return summary


def _read(folder: str | os.PathLike[str], name: str) -> dict[str, Any]:
    path = Path(folder) / name
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EvaluationError(
            f"{path} cannot be read: name the folder of a training ({error})"
        ) from error
    if not isinstance(found, dict):
        raise EvaluationError(f"{path} holds no record of a training")
    return found


def _notes(scores: xr.Dataset, only: np.ndarray | None) -> tuple[str, ...]:
    """Say what must be known to read the figures."""
    notes = []
    missing = np.isnan(scores["scores"].values).any(axis=2).sum(axis=0)
    for name, count in zip(scores["member"].values, missing, strict=True):
        if count:
            notes.append(
                f"{name} has not scored {count:,} objects: they are left out of its figures."
            )
    if only is None:
        notes.append(
            "All objects with a class count. Where members were trained on some of them, name the training's folder "
            "with --held-out, or the figures are too good."
        )
    return tuple(notes)


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [_plain_values({str(k): v for k, v in row.items()}) for row in table.to_dict("records")]


def _plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in values.items()}
