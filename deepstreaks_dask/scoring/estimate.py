"""What a campaign would take: a sample is scored on the workers at hand, and nothing is stored."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from dask.distributed import Client, wait
from zarr.codecs import Crc32cCodec, ZstdCodec

from deepstreaks_dask.errors import CampaignError
from deepstreaks_dask.scoring.attendance import Attendance
from deepstreaks_dask.scoring.cascade import Cascade
from deepstreaks_dask.scoring.machine import describe_worker
from deepstreaks_dask.scoring.order import check_order, learn_order
from deepstreaks_dask.scoring.plan import CampaignPlan
from deepstreaks_dask.scoring.worker import Unit
from deepstreaks_dask.utils.storage import locate

if TYPE_CHECKING:
    from deepstreaks_dask.scoring.networks import Networks

_BATCHES = 2  # of a worker's sample
_WAIT_STEP = 1.0  # seconds
_GB = 1e9  # bytes


@dataclass(frozen=True)
class Prices:
    """What is paid for; None where it is not known.

    Attributes
    ----------
    processor_hour, gpu_hour : float, optional
        Of a processor's core and of a GPU, an hour.
    gb_read, gb_written : float, optional
        Of 10^9 bytes read from and written to the store.
    """

    processor_hour: float | None = None
    gpu_hour: float | None = None
    gb_read: float | None = None
    gb_written: float | None = None


@dataclass(frozen=True)
class Estimate:
    """What a campaign would take on the workers that scored the sample.

    Attributes
    ----------
    cutouts : int
        That are left to score.
    sample : int
        Cutouts that were scored for this.
    workers : int
    seconds : float
        Time in seconds from the first shard to the last, without the start of workers.
    processor_hours, gpu_hours : float
        Core-hours of workers without a card, and hours of cards.
    bytes_read, bytes_written : int
        From and to the store.
    cost : float or None
        At the prices that are known; None if none is.
    """

    cutouts: int
    sample: int
    workers: int
    seconds: float
    processor_hours: float
    gpu_hours: float
    bytes_read: int
    bytes_written: int
    cost: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return all values by name."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.cutouts:,} cutouts are left; a sample of {self.sample:,} was scored on {self.workers} workers",
            f"time          {timedelta(seconds=round(self.seconds))} on these workers",
        ]
        if self.processor_hours:
            lines.append(f"processors    {self.processor_hours:,.4g} core-hours")
        if self.gpu_hours:
            lines.append(f"GPUs          {self.gpu_hours:,.4g} GPU-hours")
        lines.append(f"read          {self.bytes_read / _GB:,.4g} GB")
        lines.append(f"written       {self.bytes_written / _GB:,.4g} GB")
        if self.cost is not None:
            lines.append(f"cost          {self.cost:,.2f} at the prices given")
        return "\n".join(lines)


@dataclass(frozen=True)
class Measured:
    """What a sample took on one worker.

    Attributes
    ----------
    cutouts : int
        In the sample.
    seconds, processor_seconds : float
        Seconds a cutout, of time and of processors.
    bytes_read, bytes_written : float
        Bytes a cutout.
    gpu : bool
        Whether the worker computes with a card.
    """

    cutouts: int
    seconds: float
    processor_seconds: float
    bytes_read: float
    bytes_written: float
    gpu: bool


def estimate_campaign(
    plan: CampaignPlan, client: Client, prices: Prices | None = None, *, limit: float | None = None
) -> Estimate:
    """Estimate what a campaign would take; nothing is changed in the store.

    Parameters
    ----------
    plan : CampaignPlan
        As :func:`~deepstreaks_dask.scoring.plan.plan_campaign` returns it, of cutouts.
    client : dask.distributed.Client
        Each of its workers scores two batches, all at the same time. While there is no worker this waits.
    prices : Prices, optional
        For the cost.
    limit : float, optional
        Minutes to wait for workers; as long as it takes by default.

    Returns
    -------
    Estimate
        Of a triage, as if no night drifted.

    Raises
    ------
    CampaignError
        If the plan is of sequences, or nothing of the sample can be read.
    """
    if plan.classes:
        raise CampaignError("a dry run is for single cutouts: sequences differ too much in length")
    left = plan.rows_left
    if not plan.todo.shards:
        return Estimate(0, 0, len(client.nthreads()), 0.0, 0.0, 0.0, 0, 0, None)
    with Attendance(client, f"dry run of {plan.run}", limit) as attendance:
        while not attendance.threads:
            if not attendance.check():
                time.sleep(_WAIT_STEP / 4)
        workers = list(attendance.threads)
        units = _units(plan, client, len(workers))
        futures = [
            client.submit(measure_unit, *unit, pure=False, workers=worker, allow_other_workers=True)
            for unit, worker in zip(units, workers, strict=True)
        ]
        while True:
            attendance.check()
            try:
                wait(futures, _WAIT_STEP)
                break
            except TimeoutError:
                continue
        measured = [one for one in client.gather(futures) if one is not None]
    if not measured:
        raise CampaignError(f"nothing of a sample of {plan.archive} can be read: verify it")
    return _add_up(measured, left, prices or Prices())


def _units(
    plan: CampaignPlan, client: Client, workers: int
) -> list[tuple[Unit, Unit | None, float]]:
    """Return a sample for each worker: its unit, and that of a triage's first look with the threshold."""
    members = tuple((one.ref, one.sha256) for one in plan.ensemble.members)
    unit = Unit(
        plan.archive, plan.run, (), plan.ensemble.zoo, members, plan.batch, plan.precision,
        flips=plan.flips,
    )  # fmt: skip
    shards = plan.todo.shards
    if plan.decision is not None:
        names = [member.name for member in plan.ensemble.members]
        order = (
            check_order(plan.order, plan.decision, names)
            if plan.order is not None
            else learn_order(client, replace(unit, shards=shards), plan.decision, names)
        )
        unit = replace(unit, cascade=Cascade(tuple(map(float, plan.decision.limits(names))), order))
    look, threshold = None, 0.0
    if plan.triage is not None:
        first = ((plan.triage.first, plan.triage.sha256),)
        look = replace(unit, zoo=plan.triage.zoo, members=first, precision="float32", cascade=None)
        threshold = plan.triage.threshold
    chosen = np.linspace(0, len(shards) - 1, workers).round().astype(int)
    samples: list[tuple[Unit, Unit | None, float]] = []
    for k in chosen:
        one = (shards[k],)
        first_look = replace(look, shards=one) if look is not None else None
        samples.append((replace(unit, shards=one), first_look, threshold))
    return samples


def measure_unit(unit: Unit, look: Unit | None = None, threshold: float = 0.0) -> Measured | None:
    """Score a sample of a shard, and store nothing; runs on a worker.

    Parameters
    ----------
    unit : Unit
        One shard, and the members that score it.
    look : Unit, optional
        A triage's first look, which comes before.
    threshold : float
        Cutouts below it are rejected by the first look.

    Returns
    -------
    Measured or None
        None if the shard cannot be read.
    """
    gpu = describe_worker()["kind"] == "gpu"
    source = zarr.open_array(unit.url, path="cutouts", mode="r")
    networks, first = _load(unit, source), _load(look, source) if look is not None else None
    ((begin, end),) = unit.shards
    try:
        start, busy = time.perf_counter(), time.process_time()
        cutouts = np.asarray(source[begin:end])
        reading, reading_busy = time.perf_counter() - start, time.process_time() - busy
    except Exception:  # codecs raise whatever their libraries do; who scores it says what is wrong
        return None
    some = cutouts[: _BATCHES * unit.batch]
    for one, cascade in ((networks, unit.cascade), (first, None)):
        if one is not None:
            one.score(some[:1], cascade)  # compiled outside of what is timed
    start, busy = time.perf_counter(), time.process_time()
    kept = np.ones(len(some), bool) if first is None else first.score(some, None)[:, 0] >= threshold
    scores = np.full((len(some), len(unit.members)), np.nan, np.float32)
    scores[kept] = networks.score(some[kept], unit.cascade)
    scoring, scoring_busy = time.perf_counter() - start, time.process_time() - busy
    rows, scored = end - begin, len(some)
    # beside a card one thread reads while the other computes; a processor does both
    a, b = reading / rows, scoring / scored
    return Measured(
        scored,
        max(a, b) if gpu else a + b,
        reading_busy / rows + scoring_busy / scored,
        _stored_bytes(unit.url, begin, source) / rows,
        _encoded_bytes(scores) / scored,
        gpu,
    )


def _load(unit: Unit, source: zarr.Array) -> Networks:
    from deepstreaks_dask.scoring.networks import load  # on a worker only

    height, width = source.shape[1:3]
    return load(unit.zoo, unit.members, (height, width), unit.batch, unit.precision, unit.flips)


def _stored_bytes(url: str, first: int, source: zarr.Array) -> float:
    """Return the size of the object of a shard in the store, bytes; that of its pixels if the store does not tell."""
    shard = (source.shards or source.chunks)[0]
    fs, root = locate(url)
    zeros = "/0" * (source.ndim - 1)
    try:
        return float(fs.size(f"{root}/cutouts/c/{first // shard}{zeros}"))
    except (OSError, TypeError):
        return float(np.prod(source.shape[1:])) * source.dtype.itemsize * shard


def _encoded_bytes(scores: np.ndarray) -> int:
    """Return the size of scores as a run stores them, bytes."""
    array = zarr.create_array(
        zarr.storage.MemoryStore(),
        shape=scores.shape,
        chunks=scores.shape,
        dtype="float32",
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
    )
    metadata = array.nbytes_stored()
    array[:] = scores
    return int(array.nbytes_stored() - metadata)


def _add_up(measured: Sequence[Measured], left: int, prices: Prices) -> Estimate:
    """Return what is left at the rates measured, shared out among the workers by their rates."""
    rates = np.array([1 / max(one.seconds, 1e-12) for one in measured])
    shares = left * rates / rates.sum()
    gpu = np.array([one.gpu for one in measured])
    busy = np.array([one.processor_seconds for one in measured])
    seconds = left / rates.sum()
    processor_hours = float((shares * busy)[~gpu].sum()) / 3600
    gpu_hours = float(seconds * gpu.sum()) / 3600
    read = int(left * np.mean([one.bytes_read for one in measured]))
    written = int(left * np.mean([one.bytes_written for one in measured]))
    paid = [
        (prices.processor_hour, processor_hours),
        (prices.gpu_hour, gpu_hours),
        (prices.gb_read, read / _GB),
        (prices.gb_written, written / _GB),
    ]
    known = [price * amount for price, amount in paid if price is not None]
    return Estimate(
        cutouts=left,
        sample=sum(one.cutouts for one in measured),
        workers=len(measured),
        seconds=float(seconds),
        processor_hours=processor_hours,
        gpu_hours=gpu_hours,
        bytes_read=read,
        bytes_written=written,
        cost=float(sum(known)) if known else None,
    )
