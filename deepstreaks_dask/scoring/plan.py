"""The plan of a campaign: what is to be done, as a value, before any worker starts and without a change in the store.

:func:`plan_campaign` reads the archive and the run, refuses what cannot be scored, and lists the shards that are left.
:func:`~deepstreaks_dask.scoring.campaign.execute` carries the plan out. ``print(plan)`` shows it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import xarray as xr

from deepstreaks_dask.archive.dataset import open_archive, shard_bounds
from deepstreaks_dask.archive.retraction import retracted_rows
from deepstreaks_dask.errors import CampaignError, TriageError
from deepstreaks_dask.models.registry import check_precision
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring.decision import Decision, family_of
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.order import check_order
from deepstreaks_dask.scoring.run_lock import check_name
from deepstreaks_dask.scoring.runs import SHIPPED_ZOO, Remaining, Run, list_runs
from deepstreaks_dask.scoring.triage import Triage

if TYPE_CHECKING:
    from dask.distributed import Client

Mode = Literal["all", "decide", "triage"]
"""Every member scores every cutout; or only while the decision is open; or what a first look does not reject."""

Task = tuple[tuple[int, int], ...]
"""Shards of one task: rows ``[first, last)`` of each."""

STAMPS_PER_TASK = 32_768
"""Stamps of sequences in a task, about: 60 MB that are read at once."""

_CUTOUTS_PER_CASCADE = 4096  # so many at once that what the first family leaves still fills batches
_TASKS_PER_WORKER = 2  # at least, where there are shards enough
_LABEL_WIDTH = 12  # characters of a printed plan's first column


@dataclass(frozen=True)
class CampaignOptions:
    """Options of a campaign that are rarely needed.

    Attributes
    ----------
    batch : int
        Cutouts in a forward pass. A run keeps the number it began with. Sequences are batched by their lengths.
    triage : Triage, optional
        Of the mode ``triage``, as :func:`~deepstreaks_dask.training.distillation.fit_triage` makes it. A run keeps the
        triage it began with, which need not be given again.
    order : sequence of sequence of str, optional
        Members in the order in which they score, family by family: the ``order`` of an earlier run, say. By
        default a triage's, or learned from an earlier run of the same members in this archive, or else from a
        sample. The order changes the cost of a campaign, never its decision.
    precision : str, optional
        One of :data:`~deepstreaks_dask.models.registry.PRECISIONS`, ``float32`` by default. The effect of another
        precision on the scores is measured on the first shard: the largest and the mean difference to ``float32`` are
        in the run's ``precision_effect``. A run keeps the precision it began with.
    flips : bool
        A score is the mean of a network's scores of the cutout and of its three flips, for four times the work. A run
        that began with flips continues with them.
    force_precision : bool
        Score in a precision that is slower on the workers than ``float32``, which is refused otherwise.
    stop : threading.Event, optional
        Once it is set, the shards under way are stored and no others begun.
    wait_workers : float, optional
        Minutes without any worker, at the beginning or later, after which the campaign ends. By default it waits for as
        long as it takes, and says so.
    verbose : bool
        Print the plan, the address of Dask's dashboard, and at the end the rate of each worker.
    """

    batch: int = 64
    triage: Triage | None = None
    order: Sequence[Sequence[str]] | None = None
    precision: str | None = None
    flips: bool = False
    force_precision: bool = False
    stop: threading.Event | None = None
    wait_workers: float | None = None
    verbose: bool = False


@dataclass(frozen=True)
class CampaignPlan:
    """What a campaign is to do.

    Attributes
    ----------
    archive : str
        URL of the archive.
    run : str
        Name of the run that holds the scores.
    mode : {"all", "decide", "triage"}
    ensemble : Ensemble
        Members by family, and their zoo.
    decision : Decision or None
        For which members score in turn; None if every member scores every cutout.
    triage : Triage or None
    order : tuple of tuple of str, or None
        Members in the order given; None if the run has one, or is to learn it.
    batch : int
        Cutouts in a forward pass.
    precision : str
    flips : bool
    classes : tuple of str
        Classes of sequences; empty for cutouts.
    rows, shard : int
        Rows of the archive, withdrawn rows included, and of one of its shards.
    resumes : bool
        The run exists.
    todo : Remaining
        Shards without scores. In the mode ``triage`` the first look may still reject some.
    first_look : Remaining
        Shards that the first look of a triage has not seen.
    stamps : tuple of int
        Stamps in each shard of ``todo``, for sequences.
    workers, threads : int
        Of the cluster; 0 if there is none yet.
    """

    archive: str
    run: str
    mode: Mode
    ensemble: Ensemble
    decision: Decision | None
    triage: Triage | None = field(repr=False)
    order: tuple[tuple[str, ...], ...] | None
    batch: int
    precision: str
    flips: bool
    classes: tuple[str, ...]
    rows: int
    shard: int
    resumes: bool
    todo: Remaining = field(repr=False)
    first_look: Remaining = field(repr=False)
    stamps: tuple[int, ...] = field(repr=False)
    workers: int = 0
    threads: int = 0

    @property
    def unit(self) -> str:
        """What a row is, ``"objects"`` or ``"cutouts"``."""
        return "objects" if self.classes else "cutouts"

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return not self.todo.shards and not self.first_look.shards

    @property
    def shards(self) -> int:
        """Number of shards of the archive."""
        return -(-self.rows // self.shard)

    @property
    def rows_left(self) -> int:
        """Number of rows in the shards that are left."""
        return sum(last - first for first, last in self.todo.shards)

    @property
    def thresholds(self) -> dict[str, float] | None:
        """Threshold of each member that decides, as float32 has it; None if nothing is decided."""
        if self.decision is None:
            return None
        names = [member.name for member in self.ensemble.members]
        limits = self.decision.limits(names)
        deciding = {k for columns in self.decision.needed(names).values() for k in columns}
        return {name: float(limits[k]) for k, name in enumerate(names) if k in deciding}

    @property
    def thresholds_sha256(self) -> str | None:
        """SHA-256 of the thresholds as JSON with sorted keys; None if nothing is decided."""
        if self.thresholds is None:
            return None
        return hashlib.sha256(json.dumps(self.thresholds, sort_keys=True).encode()).hexdigest()

    @property
    def members(self) -> list[dict[str, Any]]:
        """Members as a run's provenance lists them."""
        return [
            {
                "name": member.name,
                "version": member.version,
                "sha256": member.sha256,
                "family": family.name,
                "threshold": member.threshold,
            }
            for family in self.ensemble
            for member in family.members
        ]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Shards that are left, put together to tasks for the workers at hand, one worker if there is none."""
        todo = self.todo.shards
        if self.classes:
            return tasks_of_sequences(todo, self.stamps, self.threads or 1)
        size = 1
        if self.decision is not None:
            most = len(todo) // (_TASKS_PER_WORKER * (self.workers or 1))
            size = max(1, min(_CUTOUTS_PER_CASCADE // self.shard, most))
        return tuple(todo[k : k + size] for k in range(0, len(todo), size))

    def with_workers(self, threads: Mapping[str, int]) -> CampaignPlan:
        """Return the plan for the workers of a cluster.

        Parameters
        ----------
        threads : mapping of str to int
            Threads of each worker by address, as :meth:`dask.distributed.Client.nthreads` returns them.

        Returns
        -------
        CampaignPlan
            Its ``tasks`` are shared out among these workers.
        """
        return replace(self, workers=len(threads), threads=sum(threads.values()))

    def check_run(self, provenance: Mapping[str, Any]) -> None:
        """Check that a run was made as this plan would make it.

        Parameters
        ----------
        provenance : mapping
            Attributes of the run.

        Raises
        ------
        CampaignError
            If it was made with other weights, another triage, for another decision or without flips.
        """
        where = f"run {self.run!r} of {self.archive}"
        if provenance["members"] != self.members:
            refs = ", ".join(f"{m['name']}@{m['version']}" for m in provenance["members"])
            raise CampaignError(f"{where} was made with other weights ({refs}): give another --run")
        if (provenance["triage"] is None) != (self.triage is None):
            kind = "no triage" if self.triage else "a triage"
            raise CampaignError(f"{where} was made with {kind}: give another --run")
        if (decided := provenance["decided"]) != self.thresholds:
            kind = f"decides at {decided} only" if decided else "holds all scores"
            raise CampaignError(f"{where} {kind}: give another --run")

    def __str__(self) -> str:
        state = "nothing is left to do" if self.finished else "resumes" if self.resumes else "new"
        entries = {
            "mode": self.mode,
            "members": "; ".join(
                f"{family.name}: {', '.join(member.ref for member in family.members)}"
                for family in self.ensemble
            ),
            "zoo": self.ensemble.zoo or SHIPPED_ZOO,
        }
        if self.thresholds is not None:
            entries["thresholds"] = (
                ", ".join(f"{name} {limit:g}" for name, limit in self.thresholds.items())
                + f" (sha256 {self.thresholds_sha256})"
            )
        if self.triage is not None:
            looks = f"{self.triage.first} in {len(self.first_look.shards):,} shards"
            entries["first look"] = looks
        flips = "with" if self.flips else "without"
        entries["precision"] = f"{self.precision}, batches of {self.batch}, {flips} flips"
        entries["done"] = f"{self.shards - len(self.todo.shards):,} of {self.shards:,} shards"
        entries["to do"] = (
            f"{len(self.todo.shards):,} shards, {self.rows_left:,} of {self.rows:,} {self.unit}"
        )
        at_hand = (
            f"{self.workers} workers, {self.threads} threads" if self.workers else "no workers yet"
        )
        entries["tasks"] = f"{len(self.tasks):,} ({at_hand})"
        lines = [f"Campaign: run {self.run!r} of {self.archive} ({state})"]
        lines += [f"  {label:<{_LABEL_WIDTH}}{entry}" for label, entry in entries.items()]
        return "\n".join(lines)


def plan_campaign(
    archive: str | os.PathLike[str],
    *,
    ensemble: Ensemble | None = None,
    client: Client | None = None,
    run: str = "default",
    mode: Mode = "all",
    decision: Decision | None = None,
    options: CampaignOptions | None = None,
) -> CampaignPlan:
    """Plan a campaign; nothing is changed in the store, and no worker is needed.

    Parameters
    ----------
    archive : str or path
        Path or URL of the archive.
    ensemble : Ensemble, optional
        Members to run; those of the zoo that ships with this package by default.
    client : dask.distributed.Client, optional
        Whose workers the tasks are shared out among.
    run : str
        Name of the run that holds the scores.
    mode : {"all", "decide", "triage"}
        As for :func:`~deepstreaks_dask.scoring.campaign.score`.
    decision : Decision, optional
        Of the mode ``decide``.
    options : CampaignOptions, optional
        Batch, triage, order, precision and flips.

    Returns
    -------
    CampaignPlan
        What is left to do.

    Raises
    ------
    CampaignError
        If the archive is empty or its cutouts, or sequences, are not what a member takes, members tell other classes
        apart than each other, sequences are to be decided, flipped or scored in half precision, the run was made with
        other weights, for another decision, in another precision or without flips, or the order leaves out a member.
    TriageError
        If the triage was calibrated for other members or another precision.
    ModelError
        If there is no such precision.
    """
    ensemble, options = ensemble or Ensemble.from_zoo(), options or CampaignOptions()
    _check_request(mode, decision, options)
    check_name(run)
    dataset = open_archive(archive, cache=True, retracted=True)
    url, rows, shard = dataset.attrs["url"], dataset["id"].size, dataset.attrs["shard"]
    withdrawn = retracted_rows(archive, rows)
    if withdrawn.all():
        raise CampaignError(f"{url} holds no cutouts: ingest some first")
    classes = _check_input(dataset, ensemble, mode, options)
    stored = Run.attach(url, run) if run in list_runs(url) else None
    provenance = stored.provenance if stored is not None else None
    triage, order = None, options.order
    if mode == "decide":
        decision = decision or Decision()
    if mode == "triage":
        triage = _triage_of(url, run, provenance, options.triage)
        _check_triage(triage, ensemble, options.precision or "float32")
        decision, order = Decision(triage.limits), order or triage.order
    plan = CampaignPlan(
        archive=url,
        run=run,
        mode=mode,
        ensemble=ensemble,
        decision=decision,
        triage=triage,
        order=tuple(map(tuple, order)) if order is not None else None,
        batch=options.batch,
        precision=options.precision or "float32",
        flips=options.flips,
        classes=classes,
        rows=rows,
        shard=shard,
        resumes=stored is not None,
        todo=Remaining(),
        first_look=Remaining(),
        stamps=(),
    )
    if provenance is None:
        _check_new(plan)
    else:
        plan.check_run(provenance)
        plan = _as_begun(plan, provenance, options)
    if plan.order is not None and "order" not in (provenance or {}) and decision is not None:
        check_order(plan.order, decision, [member.name for member in ensemble.members])
    plan = _with_shards(plan, stored, withdrawn)
    if classes:
        epochs = dataset["epochs"].values
        stamps = tuple(int(epochs[first:last].sum()) for first, last in plan.todo.shards)
        plan = replace(plan, stamps=stamps)
    return plan.with_workers(client.nthreads()) if client is not None else plan


def _check_request(mode: str, decision: Decision | None, options: CampaignOptions) -> None:
    """Refuse arguments that do not belong to the mode."""
    if mode not in get_args(Mode):
        raise CampaignError(f"no mode {mode!r}: choose one of {', '.join(get_args(Mode))}")
    if mode == "all" and options.order is not None:
        raise CampaignError("an order matters to the modes 'decide' and 'triage' only: name one")
    if mode != "decide" and decision is not None:
        raise CampaignError("a decision is for the mode 'decide': name it (a triage has its own)")
    if mode != "triage" and options.triage is not None:
        raise CampaignError("a triage is for the mode 'triage': name it")
    if mode == "triage" and options.flips:
        raise CampaignError("a triage is calibrated on scores without flips: score all without one")


def _check_input(
    dataset: xr.Dataset, ensemble: Ensemble, mode: str, options: CampaignOptions
) -> tuple[str, ...]:
    """Refuse members that take something else than the archive has; return the classes of sequences."""
    cutouts, store = dataset["cutouts"], Zoo(ensemble.zoo)
    sequences = "object" in dataset.sizes
    shape = (*cutouts.shape[1:], 1)[:3]
    cards = [store.card(member.ref) for member in ensemble.members]
    for card in cards:
        if bool(card.classes) != sequences:
            takes, has = ("sequences", "single cutouts")[:: 1 if card.classes else -1]
            raise CampaignError(
                f"{card.ref} takes {takes}, but the archive has {has}: score it with other families"
            )
        if card.classes != cards[0].classes:
            raise CampaignError(
                f"{card.ref} tells other classes apart ({', '.join(card.classes)}) than {cards[0].ref} "
                f"({', '.join(cards[0].classes)}): score them as two runs"
            )
        only_bytes = card.scaling == "bytes" and not sequences
        if card.takes(shape[:2]) != shape or (only_bytes and cutouts.dtype != np.uint8):
            wants = "uint8" if only_bytes else "numbers"
            raise CampaignError(
                f"{card.ref} takes cutouts of {wants} {card.input_shape}, but the archive has "
                f"{cutouts.dtype} {shape}: score it with other families"
            )
    classes = cards[0].classes if cards else ()
    plain = mode == "all" and not options.flips and options.precision in (None, "float32")
    if classes and not plain:
        raise CampaignError(
            f"{dataset.attrs['url']} holds sequences: they are scored in the mode 'all', in float32 and as they are, "
            "since a classifier of sequences makes no decision"
        )
    return classes


def _triage_of(
    url: str, run: str, provenance: Mapping[str, Any] | None, given: Triage | None
) -> Triage:
    """Return the triage that a run began with, or is to begin with."""
    if provenance is not None:
        has = provenance["triage"]
        if has is None or (given is not None and given != Triage.from_dict(has)):
            kind = "another triage" if has else "no triage"
            raise CampaignError(f"run {run!r} of {url} was made with {kind}: give another --run")
        return Triage.from_dict(has)
    if given is None:
        raise CampaignError("the mode 'triage' needs one: make it with 'deepstreaks triage fit'")
    return given


def _check_triage(triage: Triage, ensemble: Ensemble, precision: str) -> None:
    """Refuse members whose acceptance a triage was not calibrated for."""
    have = {member.ref: member.sha256 for member in ensemble.members}
    if have != dict(triage.members):
        raise TriageError(
            f"the triage was calibrated for other members ({', '.join(triage.members)}): "
            "calibrate one for these, or name those"
        )
    if precision != triage.dtype:
        raise TriageError(f"the triage was calibrated in {triage.dtype}, not in {precision}")


def _check_new(plan: CampaignPlan) -> None:
    """Refuse what a new run cannot be made with."""
    check_precision(plan.precision)
    if any(family_of(str(member["name"])) != member["family"] for member in plan.members):
        raise CampaignError("a member's name must begin with its family and an underscore")


def _as_begun(
    plan: CampaignPlan, provenance: Mapping[str, Any], options: CampaignOptions
) -> CampaignPlan:
    """Return the plan in the precision, batches and flips that its run began with."""
    where = f"run {plan.run!r} of {plan.archive}"
    if options.precision not in (None, provenance["dtype"]):
        raise CampaignError(f"{where} was made in {provenance['dtype']}: give another --run")
    if options.flips and not provenance["flips"]:
        raise CampaignError(f"{where} was made without flips: give another --run")
    return replace(
        plan,
        batch=provenance["batch"],
        precision=provenance["dtype"],
        flips=provenance["flips"],
    )


def _with_shards(plan: CampaignPlan, stored: Run | None, withdrawn: np.ndarray) -> CampaignPlan:
    """Return the plan with the shards that are left."""
    if stored is not None:
        unseen = stored.unseen(plan.rows, plan.shard) if plan.triage is not None else Remaining()
        return replace(plan, todo=stored.missing(plan.rows, plan.shard), first_look=unseen)
    bounds = shard_bounds(plan.rows, plan.shard)
    everything = Remaining(tuple(one for one in bounds if not withdrawn[slice(*one)].all()))
    unseen = everything if plan.triage is not None else Remaining()
    return replace(plan, todo=everything, first_look=unseen)


def tasks_of_sequences(
    todo: Sequence[tuple[int, int]], stamps: Sequence[int], threads: int
) -> tuple[Task, ...]:
    """Put shards of sequences together to tasks of about as many stamps, equally many for each thread.

    Parameters
    ----------
    todo : sequence of (int, int)
        Rows ``[first, last)`` of each shard.
    stamps : sequence of int
        Stamps in each shard.
    threads : int
        Of all workers.

    Returns
    -------
    tuple of tuple of (int, int)
        Shards of each task, in order.
    """
    sizes = np.array(stamps, dtype=np.int64)
    ends, total = np.cumsum(sizes), max(int(sizes.sum()), 1)
    each = max(-(-total // (STAMPS_PER_TASK * threads)), _TASKS_PER_WORKER)
    tasks = min(len(todo), each * threads)
    # the task in whose share of all stamps a shard's middle lies
    task = (ends - sizes / 2) * tasks // total
    edges = np.flatnonzero(np.diff(task)) + 1
    return tuple(tuple(todo[a:b]) for a, b in pairwise([0, *edges, len(todo)]) if a < b)
