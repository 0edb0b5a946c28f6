"""Turn scores into probabilities: temperature and isotonic calibration, and how far it can be trusted.

A network's score ranks cutouts; it is a probability only if of the cutouts with a score near 0.8 eight in ten are
positive. A temperature divides a score's logit by one number (Guo et al. 2017, ICML 70, 1321, arXiv:1706.04599), which
leaves the order of the scores and a threshold of 0.5 as they are; isotonic regression finds any rising curve (Zadrozny
and Elkan 2002, KDD, 694) and needs more labels. Either is fitted on some nights and measured on others, and never on
what the network was trained on. Probabilities hold for the mix of positives and negatives that they were fitted on:
where streaks are rarer, they are too high.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from pydantic import ConfigDict
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, logit
from sklearn.isotonic import IsotonicRegression

from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.errors import CalibrationError
from deepstreaks_dask.evaluation.metrics import Estimate, usable, wilson
from deepstreaks_dask.scoring.decision import family_of
from deepstreaks_dask.scoring.runs import SHIPPED_ZOO, Run
from deepstreaks_dask.utils.html import html_table
from deepstreaks_dask.utils.validation import validate_json

METHODS = ("temperature", "isotonic")
RELIABILITY_BINS = 15
"""Bins of equal width between 0 and 1, as Guo et al. (2017) had."""

_MAX_LOGIT = 1e-7  # scores are float32: a logit of one beyond this is not known
_BOOTSTRAP_ROUNDS = 1000
_MAX_KNOTS = 200  # of an isotonic curve, at most
_TABLE_HEADER = ("member", "curve", "error", "error after", "by chance", "log loss", "after")


_STORED = ConfigDict(strict=True, extra="forbid")
"""Of what a run keeps, which may be a stranger's; figures may be NaN."""


@dataclass(frozen=True)
class Curve:
    """How scores of one member become probabilities.

    Attributes
    ----------
    method : str
        One of :data:`METHODS`.
    temperature : float
        What logits are divided by; 1 for an isotonic curve.
    scores, probabilities : tuple of float
        Knots of an isotonic curve, between which it is straight; none for a temperature.
    """

    __pydantic_config__ = _STORED

    method: str
    temperature: float = 1.0
    scores: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()

    @property
    def problem(self) -> str:
        """What makes it no curve, empty if nothing does."""
        if self.method not in METHODS:
            return f"is of an unknown method, {self.method[:40]!r}"
        if not 0 < self.temperature < np.inf:
            return f"has a temperature of {self.temperature}"
        isotonic, knots = self.method == "isotonic", len(self.scores)
        if knots != len(self.probabilities) or bool(knots) != isotonic:
            return "has knots where it should have none, or none, or not two numbers each"
        for name, values in (("scores", self.scores), ("probabilities", self.probabilities)):
            rising = (np.diff(values) >= 0).all()  # not of NaN
            if knots and not (rising and 0 <= values[0] <= values[-1] <= 1):
                return f"has {name} that are not in ascending order within 0 and 1"
        return ""

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Give probabilities, float32 as long as ``scores``; NaN stays NaN."""
        values = np.asarray(scores, np.float64)
        if self.method == "temperature":
            sure = logit(np.clip(values, _MAX_LOGIT, 1 - _MAX_LOGIT))
            return expit(sure / self.temperature).astype(np.float32)
        return np.interp(values, self.scores, self.probabilities).astype(np.float32)


@dataclass(frozen=True)
class Figures:
    """How well scores are probabilities.

    Attributes
    ----------
    ece : Estimate
        Expected calibration error: mean distance of score and share of positives, over bins weighted by their cutouts.
        Its 95 % interval is of a bootstrap over nights. Noise makes it larger than it is: compare it with ``chance``.
    chance : float
        What it would be on average were these scores true probabilities.
    log_loss, brier : float
        Mean negative log-likelihood (nats), and mean squared distance of score and label.
    """

    __pydantic_config__ = _STORED

    ece: Estimate
    chance: float
    log_loss: float
    brier: float


@dataclass(frozen=True, repr=False)
class Calibration:
    """Curves of a run's members, and what they do on nights that they were not fitted on.

    Attributes
    ----------
    curves : dict of str to Curve
        By member.
    fitted, measured : tuple of int
        Nights.
    left_out : int
        Labelled cutouts that a member was trained on.
    before, after : dict of str to Figures
        By member, on the measured nights.
    """

    __pydantic_config__ = _STORED

    curves: dict[str, Curve]
    fitted: tuple[int, ...]
    measured: tuple[int, ...]
    left_out: int
    before: dict[str, Figures]
    after: dict[str, Figures]

    def __repr__(self) -> str:
        errors = ", ".join(
            f"{member} {before.ece.value:.4f} to {self.after[member].ece.value:.4f}"
            for member, before in self.before.items()
        )
        return (
            f"<Calibration: calibration error of {errors}; fitted on {len(self.fitted)} nights, "
            f"measured on {len(self.measured)} others>"
        )

    def _repr_html_(self) -> str:
        rows = []
        for member, before in self.before.items():
            curve, after = self.curves[member], self.after[member]
            fitted = (
                f"T = {curve.temperature:.3f}" if curve.method == "temperature" else curve.method
            )
            losses = (before.log_loss, after.log_loss)
            rows.append((member, fitted, before.ece, after.ece, after.chance, *losses))
        return html_table(
            "Calibration",
            rows,
            header=_TABLE_HEADER,
            note=f"Fitted on {len(self.fitted)} nights, measured on {len(self.measured)} others. "
            f"{self.left_out:,} cutouts that a member was trained on were left out. Brackets: 95 %.",
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the calibration as JSON can hold it."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


def fit_curve(labels: np.ndarray, scores: np.ndarray, method: str = "temperature") -> Curve:
    """Fit the curve of one member.

    Parameters
    ----------
    labels : array of int
        ``(cutout,)``: 1, 0, or -1 for unknown.
    scores : array of float
        ``(cutout,)``, NaN for not scored.
    method : str
        One of :data:`METHODS`.

    Returns
    -------
    Curve
        The curve of the member's scores.

    Raises
    ------
    CalibrationError
        If there is no such method, or one class is missing.
    """
    _check_method(method)
    truth, values = usable(labels, scores)
    if truth.all() or not truth.any():
        raise CalibrationError("the nights to fit on hold labels of one class only: give more")
    if method == "isotonic":
        curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        curve.fit(values.astype(np.float64), truth)
        x, y = curve.X_thresholds_, curve.y_thresholds_
        kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), _MAX_KNOTS)).round().astype(int))
        return Curve("isotonic", 1.0, tuple(x[kept].tolist()), tuple(y[kept].tolist()))
    sure = logit(np.clip(values.astype(np.float64), _MAX_LOGIT, 1 - _MAX_LOGIT)) * np.where(
        truth, 1, -1
    )

    def loss(log_temperature: float) -> float:
        return -float(log_expit(sure / np.exp(log_temperature)).mean())

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return Curve("temperature", float(np.exp(found.x)))


def reliability(
    labels: np.ndarray, scores: np.ndarray, *, bins: int = RELIABILITY_BINS
) -> pd.DataFrame:
    """Compare scores with the share of positives, bin by bin.

    Parameters
    ----------
    labels, scores : array
        ``(cutout,)``, as for :func:`fit_curve`.
    bins : int
        Of equal width between 0 and 1.

    Returns
    -------
    pandas.DataFrame
        A row a bin: ``score`` (the mean in it), ``share``, its 95 % Wilson interval ``low`` and ``high``, ``positives`` and
        ``total``; empty bins are left out.
    """
    truth, values = usable(labels, scores)
    total, summed, positives = _binned(truth, values, bins)
    with np.errstate(invalid="ignore"):
        table = {"score": summed / total, "share": positives / total}
    low, high = wilson(positives, total)
    frame = pd.DataFrame(
        {**table, "low": low, "high": high, "positives": positives, "total": total}
    )
    frame = frame.astype({"positives": int, "total": int})
    return frame[frame["total"] > 0].reset_index(drop=True)


def measure(
    labels: np.ndarray,
    scores: np.ndarray,
    nights: np.ndarray,
    *,
    bins: int = RELIABILITY_BINS,
    seed: int = 0,
) -> Figures:
    """Say how well scores are probabilities.

    Parameters
    ----------
    labels, scores : array
        ``(cutout,)``, as for :func:`fit_curve`.
    nights : array of int
        ``(cutout,)``; the bootstrap draws whole nights.
    bins : int
        Of equal width between 0 and 1.
    seed : int
        Of the bootstrap.

    Returns
    -------
    Figures
        NaN where there are no labels.
    """
    known = (labels >= 0) & ~np.isnan(scores)
    truth, values, night = labels[known] == 1, scores[known].astype(np.float64), nights[known]
    names, of = np.unique(night, return_inverse=True)
    if not len(names):
        empty = Estimate(np.nan, np.nan, np.nan, 0, 0)
        return Figures(empty, np.nan, np.nan, np.nan)
    parts = np.zeros((3, len(names), bins))
    place = _bin(values, bins)
    for part, weight in zip(parts, (np.ones(len(values)), values, truth), strict=True):
        np.add.at(part, (of, place), weight)
    total, summed, positives = parts.sum(axis=1)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), _BOOTSTRAP_ROUNDS)
    resampled = _error(*(drawn @ part for part in parts))
    spread = np.sqrt(np.bincount(place, values * (1 - values), bins))
    at_best = summed + spread * rng.standard_normal((_BOOTSTRAP_ROUNDS, bins))
    low, high = np.quantile(resampled, (0.025, 0.975))
    error = Estimate(
        float(_error(total, summed, positives)),
        float(low),
        float(high),
        int(truth.sum()),
        len(truth),
    )
    sure = logit(np.clip(values, _MAX_LOGIT, 1 - _MAX_LOGIT)) * np.where(truth, 1, -1)
    return Figures(
        error,
        float(_error(total, summed, at_best).mean()),
        -float(log_expit(sure).mean()),
        float(((values - truth) ** 2).mean()),
    )


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise CalibrationError(f"no method {method!r}: choose one of {', '.join(METHODS)}")


def calibrate(
    scores: xr.Dataset,
    method: str = "temperature",
    *,
    share: float = 0.5,
    seed: int = 0,
    leave_out: np.ndarray | None = None,
) -> Calibration:
    """Calibrate every member of a run against its family's labels.

    Parameters
    ----------
    scores : xarray.Dataset
        As :func:`~deepstreaks_dask.scoring.runs.open_run` gives it, of a run with all scores.
    method : str
        One of :data:`METHODS`.
    share : float
        Fraction of the nights to fit on; the others are measured on.
    seed : int
        Of the draw of the nights.
    leave_out : array of bool, optional
        ``(cutout,)``: what a member was trained on; :func:`seen_in_training` by default, if the scores are of a run.

    Returns
    -------
    Calibration
        A curve a member, with figures of the nights that it was not fitted on.

    Raises
    ------
    CalibrationError
        If the run was scored for a decision only, labels or nights are too few, or there is no such method.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> made = ds.calibrate(ds.open_run("week.zarr"))
    >>> sorted(made.curves)
    ['kd_vgg6', 'rb_vgg6', 'sl_vgg6']
    """
    _check_method(method)
    if provenance_of(scores).get("decided") is not None:
        raise CalibrationError(
            "the run was scored for its decision only, so that each member saw what others left: "
            "calibrate one with all scores"
        )
    members = [str(name) for name in scores["model"].values]
    nights, values = scores["night"].values, scores["scores"].values
    labels = {member: _labels(scores, member) for member in members}
    known = np.any([label >= 0 for label in labels.values()], axis=0)
    if leave_out is None:
        of_run = "members" in provenance_of(scores)
        leave_out = seen_in_training(scores) if of_run else np.zeros(len(nights), bool)
    seen = leave_out
    usable_nights = np.unique(nights[known & ~seen])
    n_fit = round(share * len(usable_nights))
    if not 0 < n_fit < len(usable_nights):
        raise CalibrationError(
            f"there are {len(usable_nights)} nights with labels that no member was trained on: at least one is needed to "
            "fit on and one to measure on"
        )
    order = np.random.default_rng(seed).permutation(usable_nights)
    parts = [np.sort(part) for part in np.split(order, [n_fit])]
    to_fit, to_measure = (known & ~seen & np.isin(nights, part) for part in parts)
    curves, before, after = {}, {}, {}
    for column, member in enumerate(members):
        own = labels[member]
        if not (own[to_measure] >= 0).any():
            raise CalibrationError(
                f"the nights to measure on have no labels of {member}'s family: draw others by another seed"
            )
        curve = curves[member] = fit_curve(own[to_fit], values[to_fit, column], method)
        raw = values[to_measure, column]
        before[member] = measure(own[to_measure], raw, nights[to_measure])
        after[member] = measure(own[to_measure], curve(raw), nights[to_measure])
    fitted, measured = (tuple(part.tolist()) for part in parts)
    return Calibration(curves, fitted, measured, int((known & seen).sum()), before, after)


def seen_in_training(scores: xr.Dataset) -> np.ndarray:
    """Say which cutouts of a run's archive a member of it was trained on, or stopped early by: bool ``(cutout,)``.

    Parameters
    ----------
    scores : xarray.Dataset
        As :func:`~deepstreaks_dask.scoring.runs.open_run` gives it.

    Returns
    -------
    ndarray
        bool ``(cutout,)``.

    Raises
    ------
    CalibrationError
        If a member was trained on this archive, and its card does not say on which cutouts.
    ModelError
        If the zoo of the run is not there.
    """
    from deepstreaks_dask.models.zoo.store import Zoo

    seen = np.zeros(scores.sizes["cutout"], bool)
    where = scores.attrs["zoo"]
    zoo = Zoo(None if where == SHIPPED_ZOO else where)
    for member in provenance_of(scores)["members"]:
        card = zoo.card(f"{member['name']}@{member['version']}")
        seen |= trained_on(card.training_data, scores, card.ref)
    return seen


def trained_on(data: Mapping[str, Any], dataset: xr.Dataset, name: str) -> np.ndarray:
    """Say which cutouts of an archive a network was trained on, or stopped early by: bool ``(cutout,)``.

    Parameters
    ----------
    data : mapping
        ``training_data`` of the network's card.
    dataset : xarray.Dataset
        As :func:`~deepstreaks_dask.archive.dataset.open_archive` gives it.
    name : str
        The network's, for what is wrong.

    Returns
    -------
    ndarray
        bool ``(cutout,)``.

    Raises
    ------
    CalibrationError
        If it was trained on this archive, and the card does not say on which cutouts.
    """
    seen = np.zeros(dataset.sizes["cutout"], bool)
    if "created" not in data or data["created"] != dataset.attrs.get("created"):
        return seen
    by = data["by"]
    for part in ("train", "validation"):
        groups = data[f"{by}s"][part]
        if not isinstance(groups, list):
            raise CalibrationError(
                f"{name} was trained on this archive, on too many {by}s for its card to name: "
                "take another archive"
            )
        values = dataset[by].values
        values = values if values.dtype.kind in "iu" else values.astype(object).astype(str)
        seen |= np.isin(values, np.array(groups, values.dtype))
    return seen


def store(archive: str | os.PathLike[str], run: str, calibration: Calibration) -> None:
    """Keep a calibration with the run, whose scores stay as they are.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    run : str
        Name of the run.
    calibration : Calibration
        As :func:`calibrate` gives it.
    """
    Run.open(archive, run, write=True).tell(calibration=calibration.to_dict())


def stored(scores: xr.Dataset) -> Calibration | None:
    """Give the calibration that a run keeps; None if it keeps none.

    Parameters
    ----------
    scores : xarray.Dataset
        As :func:`~deepstreaks_dask.scoring.runs.open_run` gives it.

    Returns
    -------
    Calibration or None
        As :func:`store` has put it there.

    Raises
    ------
    CalibrationError
        If it is damaged.
    """
    values = provenance_of(scores).get("calibration")
    if values is None:
        return None

    source = f"calibration of run {scores.attrs.get('run')!r}"
    try:
        text = json.dumps(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise CalibrationError(f"{source} is damaged: {error}") from error
    calibration = validate_json(Calibration, text, source=source, error=CalibrationError)
    for member, curve in calibration.curves.items():
        if problem := curve.problem:
            raise CalibrationError(f"{source} is damaged: the curve of {member} {problem}")
    if not calibration.curves.keys() == calibration.before.keys() == calibration.after.keys():
        raise CalibrationError(f"{source} is damaged: it has figures of other members")
    return calibration


def calibrated(scores: xr.Dataset) -> xr.Dataset:
    """Put probabilities in the place of the scores of a run that is calibrated.

    Parameters
    ----------
    scores : xarray.Dataset
        As :func:`~deepstreaks_dask.scoring.runs.open_run` gives it.

    Returns
    -------
    xarray.Dataset
        The same with probabilities as ``scores(cutout, model)``, float32.

    Raises
    ------
    CalibrationError
        If it is not.
    """
    kept = stored(scores)
    if kept is None:
        raise CalibrationError(
            f"run {scores.attrs.get('run')!r} is not calibrated: do it with 'deepstreaks calibrate'"
        )
    values = scores["scores"].values
    columns = [
        kept.curves[str(member)](values[:, k]) for k, member in enumerate(scores["model"].values)
    ]
    return scores.assign(scores=(("cutout", "model"), np.stack(columns, axis=1)))


def _labels(scores: xr.Dataset, member: str) -> np.ndarray:
    name = f"label_{family_of(member)}"
    if name not in scores:
        raise CalibrationError(f"the archive has no labels of {member}'s family")
    return scores[name].values


def _bin(values: np.ndarray, bins: int) -> np.ndarray:
    return np.minimum((values * bins).astype(int), bins - 1)


def _binned(
    truth: np.ndarray, values: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cutouts, sum of scores and positives of each bin."""
    place = _bin(values, bins)
    total, summed, positives = (
        np.bincount(place, weight, bins) for weight in (np.ones(len(place)), values, truth)
    )
    return total, summed, positives


def _error(total: np.ndarray, summed: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Expected calibration error along the last axis."""
    error: np.ndarray = np.abs(positives - summed).sum(axis=-1) / total.sum(axis=-1)
    return error
