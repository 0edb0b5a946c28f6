"""Make a triage: distil a student from the members' scores, or take a member, as the first network, and calibrate it.

The student is a small network that is trained on how certain all members together are (Hinton, Vinyals and Dean 2015,
arXiv:1503.02531): for each cutout by how much, in logits, the weakest family's best score is above its threshold. Nights
are drawn into three parts: one to learn from, one to calibrate on, and one to see the loss on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import xarray as xr
from dask.distributed import Client
from scipy.special import expit, logit

from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import ModelError, TriageError
from deepstreaks_dask.evaluation.metrics import auc
from deepstreaks_dask.models.inference import resizing, set_precision
from deepstreaks_dask.models.registry import build, check_precision
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring import triage as triages
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.ensemble import Ensemble, Family, Member
from deepstreaks_dask.scoring.order import learn_order
from deepstreaks_dask.scoring.runs import SHIPPED_ZOO, open_run
from deepstreaks_dask.scoring.triage import Triage
from deepstreaks_dask.scoring.worker import Unit
from deepstreaks_dask.training.batches import CutoutFeed, Streamed
from deepstreaks_dask.training.feeds import naming_damage
from deepstreaks_dask.training.harness import adam
from deepstreaks_dask.training.recipe import Recipe
from deepstreaks_dask.training.seeds import seeded
from deepstreaks_dask.utils.progress import progress_bar

TRIAGE_FAMILY = "first"
"""Family of students, in a zoo."""

MIN_SIZE, MAX_SIZE = 24, 512
"""On a side of what a student sees."""

_MAX_TRAINING_CUTOUTS = 60_000  # cutouts to learn from
_SHUFFLE_WINDOW = 8192  # of them are read and shuffled together, 21 kB of memory each


@dataclass(frozen=True)
class TriagePlan:
    """How a triage is made.

    Attributes
    ----------
    first : str, optional
        Network of the zoo that looks first; a student is distilled by default.
    architecture : str
        Of the student.
    side : int, optional
        Pixels on a side of what the student sees, resized from the cutouts on the device: half as many cost a quarter.
        Theirs by default.
    epochs : int
        Passes of the student over what it learns from.
    precision : str
        In which it is trained, one of :data:`~deepstreaks_dask.models.registry.PRECISIONS`.
    learn, check : float
        Shares of the nights, 0 to 1: to learn from (none if ``first`` is given), and to see the loss on; the others
        calibrate.
    loss, confidence : float
        With this confidence less than this share of the plausible cutouts is lost, both 0 to 1.
    seed : int
        Of the parts, and of the student.
    """

    first: str | None = None
    architecture: str = "vgg6"
    side: int | None = None
    epochs: int = 6
    precision: str = "float32"
    learn: float = 0.3
    check: float = 0.2
    loss: float = triages.MAX_LOSS
    confidence: float = triages.CONFIDENCE_LEVEL
    seed: int = 1

    def __post_init__(self) -> None:
        shares = (self.loss, self.confidence, self.learn, self.check)
        if not all(0 < share < 1 for share in shares) or self.learn + self.check >= 1:
            raise TriageError("loss, confidence, learn and check are shares that leave nights over")
        if self.side is not None and not MIN_SIZE <= self.side <= MAX_SIZE:
            raise TriageError(f"a side of {self.side} pixels: give {MIN_SIZE} to {MAX_SIZE}")
        if self.epochs < 1 or self.seed < 0:
            raise TriageError("give at least one epoch, and a seed of 0 or more")
        check_precision(self.precision)


def fit_triage(
    archive: str | os.PathLike[str],
    client: Client,
    *,
    run: str = "default",
    zoo: str | None = None,
    plan: TriagePlan | None = None,
    progress: bool = True,
) -> Triage:
    """Make a triage from a run whose decisions are known, with all scores or with those that decided.

    Parameters
    ----------
    archive : str or path
        Path or URL of the archive. Its nights are those to learn from, to calibrate on and to check with.
    client : dask.distributed.Client
        Where the first look is run over them; the scores stay in the archive as a run of their own.
    run : str
        The run.
    zoo : str, optional
        Gets the student, or has the network that looks first.
    plan : TriagePlan, optional
        How.
    progress : bool
        Show how far it is.

    Returns
    -------
    Triage
        As :func:`~deepstreaks_dask.scoring.triage.write_triage` keeps it and ``score(..., mode="triage")`` takes it.

    Raises
    ------
    TriageError
        If there are too few nights or plausible cutouts for the guarantee.
    ModelError
        If the zoo lacks the network, or cannot take the student.
    """
    plan = plan or TriagePlan()
    scores = open_run(archive, run, cache=True)
    if provenance_of(scores)["triage"] is not None:
        raise TriageError(f"run {run!r} was triaged itself: take one that decided exactly")
    if provenance_of(scores)["flips"]:
        raise TriageError(f"run {run!r} has the mean scores of flips: take one without")
    decided = Decision.of_run(scores).apply(scores)
    known = ~decided["undecided"].values
    nights = decided["night"].values
    learn, check = _part(np.unique(nights[known]), plan)
    plausible = decided["plausible"].values
    calibrating = known & ~np.isin(nights, [*learn, *check])
    # before anything is computed: with so few there is nothing to calibrate
    few = int((calibrating & plausible).sum())
    if triages.losses_allowed(few, plan.loss, plan.confidence) < 0:
        triages.choose_threshold(np.zeros(few), np.zeros(few), plan.loss, plan.confidence)
    store = Zoo(zoo)
    if plan.first is not None:
        card = store.card(plan.first)
    else:
        rows = np.flatnonzero(known & np.isin(nights, learn))
        card = _distil(archive, decided, rows, store, plan, progress)
    family = Family(card.family, (Member(card.name, card.version, card.sha256),))
    looked = score(
        archive,
        ensemble=Ensemble((family,), zoo),
        client=client,
        run=f"first-{card.name}-{card.sha256[:12]}",
        progress=progress,
    )["scores"].values[:, 0]
    used = known & ~np.isin(nights, learn) & ~np.isnan(looked)
    attrs = provenance_of(scores)
    models = [str(name) for name in scores["model"].values]
    decision = Decision.of_run(scores)
    needed = {models[k] for columns in decision.needed(models).values() for k in columns}
    limits = zip(models, decision.limits(models), strict=True)
    found = triages.calibrate_triage(
        looked[used],
        plausible[used],
        nights[used],
        check,
        loss=plan.loss,
        confidence=plan.confidence,
        first=card.ref,
        sha256=card.sha256,
        zoo=zoo,
        members={f"{m['name']}@{m['version']}": m["sha256"] for m in attrs["members"]},
        limits={name: float(limit) for name, limit in limits if name in needed},
        order=_named(attrs.get("order", decision.needed(models).values()), models),
        dtype=attrs["dtype"],
        archive=str(attrs["url"]),
        run=run,
    )
    if "order" in attrs:
        return found
    kept = used & (looked >= np.float32(found.threshold))
    unit = Unit(
        str(attrs["url"]),
        run,
        ((0, len(nights)),),
        None if attrs["zoo"] == SHIPPED_ZOO else attrs["zoo"],
        tuple((f"{m['name']}@{m['version']}", m["sha256"]) for m in attrs["members"]),
        attrs["batch"],
        attrs["dtype"],
    )
    order = learn_order(client, unit, decision, models, scores["scores"].values[kept])
    return replace(found, order=_named(order, models))


def _named(order: Iterable[Iterable[Any]], models: list[str]) -> tuple[tuple[str, ...], ...]:
    """Return an order of columns by name; names stay."""
    return tuple(
        tuple(models[member] if isinstance(member, int) else str(member) for member in family)
        for family in order
    )


def certainty(decided: xr.Dataset) -> np.ndarray:
    """Return how certain the members are together, in 0..1 and above 0.5 where a cutout is plausible.

    Parameters
    ----------
    decided : xarray.Dataset
        Scores under the decision that they are decided by, as
        :meth:`~deepstreaks_dask.scoring.decision.Decision.apply` returns them.

    Returns
    -------
    ndarray
        float32 ``(cutout,)``: logistic of the weakest family's margin, which is its best member's in logits above its
        threshold, at a temperature that makes the median margin 2. Families without a score are left out; NaN if
        there is none.
    """
    models = [str(name) for name in decided["model"].values]
    decision = Decision.of_run(decided)
    limits = np.clip(decision.limits(models).astype(float), 1e-6, 1 - 1e-6)
    margins = logit(np.clip(decided["scores"].values.astype(float), 1e-6, 1 - 1e-6)) - logit(limits)
    families = [
        np.fmax.reduce(margins[:, list(columns)], axis=1)
        for columns in decision.needed(models).values()
    ]
    weakest = np.fmin.reduce(families, axis=0)
    temperature = np.nanmedian(np.abs(weakest)) / 2
    sure: np.ndarray = expit(weakest / max(temperature, 1e-6)).astype(np.float32)
    return sure


def _part(nights: np.ndarray, plan: TriagePlan) -> tuple[np.ndarray, np.ndarray]:
    """Draw the nights to learn from and to check with."""
    order = np.random.default_rng(plan.seed).permutation(nights)
    learn = 0 if plan.first is not None else max(1, round(plan.learn * len(nights)))
    check = max(1, round(plan.check * len(nights)))
    if len(nights) - learn - check < triages.MIN_NIGHTS:
        raise TriageError(
            f"{len(nights)} nights leave {max(0, len(nights) - learn - check)} to calibrate on: at least "
            f"{triages.MIN_NIGHTS} are needed to tell a night that drifted"
        )
    return np.sort(order[:learn]), np.sort(order[learn : learn + check])


def _distil(
    archive: str | os.PathLike[str],
    decided: xr.Dataset,
    rows: np.ndarray,
    zoo: Zoo,
    plan: TriagePlan,
    progress: bool,
) -> Card:
    """Train a student on some rows and save it as the next version."""
    target = certainty(decided)
    rng = np.random.default_rng(plan.seed)
    plausible = decided["plausible"].values[rows]
    ours, others = rng.permutation(rows[plausible]), rng.permutation(rows[~plausible])
    if not len(ours) or not len(others):
        raise TriageError("the nights to learn from hold one kind of decision only: give more")
    # as many plausible ones as there are, up to half; the others fill up
    ours = ours[: _MAX_TRAINING_CUTOUTS // 2]
    rows = np.sort(np.concatenate([ours, others[: _MAX_TRAINING_CUTOUTS - len(ours)]]))
    rows = rows[~np.isnan(target[rows])]
    dataset = open_archive(archive, cache=True)
    if dataset["cutouts"].dtype != np.uint8:
        raise TriageError("a student looks at bytes: name a network of the zoo to look first")
    pixels = Streamed(dataset, rows, _SHUFFLE_WINDOW)
    truth = decided["plausible"].values[rows]
    both = np.array([(~truth).sum(), truth.sum()])
    weights = (both.min() / both)[truth.astype(int)].astype(np.float32)
    height, width, planes = (*dataset["cutouts"].shape[1:], 1)[:3]
    side = (height, width) if plan.side is None else (plan.side, plan.side)
    shape = (*side, planes)
    with seeded(plan.seed):
        student = build(plan.architecture, shape)
    teachers = Zoo(None if decided.attrs["zoo"] == SHIPPED_ZOO else decided.attrs["zoo"])
    start = _start(decided.isel(cutout=rows), teachers, plan.architecture, shape)
    if start is not None:
        student.set_weights(teachers.load(start).get_weights())
    # not flipped: what the teachers think of a cutout is not what they think of its mirror image
    recipe = Recipe(
        epochs=plan.epochs, cosine=True, flips=False, seed=plan.seed, precision=plan.precision
    )
    feed = CutoutFeed(pixels, target[rows, None], weights[:, None], recipe)
    set_precision(student, plan.precision)
    # one loss a cutout, so that each has its own weight
    apart = keras.Sequential([resizing(student, height, width), keras.layers.Reshape((1, 1))])
    apart.compile(
        adam(recipe, len(feed)),
        loss="binary_crossentropy",
        jit_compile=keras.backend.backend() == "jax",
    )
    with progress_bar("distil", plan.epochs, show=progress, unit="epochs") as bar:
        counting = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: bar.advance())
        with naming_damage([feed]):
            apart.fit(feed, epochs=plan.epochs, shuffle=False, callbacks=[counting], verbose=0)
    set_precision(student, "float32")
    name = f"{TRIAGE_FAMILY}_{plan.architecture}"
    have = sum(card.name == name for card in zoo.list())
    card = Card(
        name,
        str(have + 1),
        plan.architecture,
        family=TRIAGE_FAMILY,
        input_shape=shape,
        resizes=side != (height, width),
        recipe={
            "epochs": plan.epochs,
            "seed": plan.seed,
            "precision": plan.precision,
            "start": start or "random weights",
        },
        training_data={
            "archive": str(decided.attrs["url"]),
            "run": decided.attrs["run"],
            "nights": sorted({int(night) for night in decided["night"].values[rows]}),
            "cutouts": len(rows),
            "plausible": int(truth.sum()),
            "teachers": provenance_of(decided)["models"],
        },
        description="First look of a triage, distilled from the scores of its teachers",
        limits="Ranks cutouts by how likely its teachers accept them; says nothing without a calibrated threshold",
    )
    return zoo.save(student, card)


def _start(
    decided: xr.Dataset, zoo: Zoo, architecture: str, shape: tuple[int, int, int]
) -> str | None:
    """Return the teacher of the student's architecture with the largest area under the ROC curve, to start from."""
    truth = decided["plausible"].values.astype(int)
    best: tuple[float, str] | None = None
    for member, column in zip(
        provenance_of(decided)["members"], decided["scores"].values.T, strict=True
    ):
        try:
            card = zoo.card(f"{member['name']}@{member['version']}")
        except ModelError:  # the zoo has moved: the student starts from nothing
            return None
        alike = (card.architecture, card.input_shape, card.scaling) == (
            architecture,
            shape,
            "bytes",
        )
        area = auc(truth, column).value if alike else np.nan
        if area == area and (best is None or area > best[0]):
            best = area, card.ref
    return best[1] if best else None
