"""The order in which members score: given, kept with a run, taken from an earlier run, or learned from a sample.

The order changes the cost of a campaign, never its decision (:mod:`~deepstreaks_dask.scoring.cascade`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.distributed import Future

from deepstreaks_dask.errors import CampaignError
from deepstreaks_dask.scoring.cascade import Cascade, Order, cheapest_order
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import Run, list_runs
from deepstreaks_dask.scoring.worker import Unit, sample

if TYPE_CHECKING:
    from dask.distributed import Client

_MAX_SAMPLE_SIZE = 512  # cutouts that tell the order, at most
_SAMPLE_STRIDE = 128  # one in so many
_SAMPLE_BLOCKS = 8  # pieces of the archive that the sample comes from
_EARLIER_ROWS = 8192  # rows of an earlier run that tell the order


def settle_cascade(
    client: Client,
    unit: Unit,
    stored: Run,
    decision: Decision,
    order: Sequence[Sequence[str]] | None = None,
    result: Callable[[Future], Any] = Future.result,
) -> Cascade:
    """Return the cascade of a run, with the order that it keeps, that is given, or that is now learned and kept.

    Parameters
    ----------
    client : dask.distributed.Client
        Where a sample is scored, if one is needed.
    unit : Unit
        The members, and all shards that are to be scored.
    stored : Run
        Gets the order.
    decision : Decision
        With the thresholds.
    order : sequence of sequence of str, optional
        Names of the members that decide, family by family.
    result : callable
        Waits for the result of a future.

    Returns
    -------
    Cascade
        Thresholds and order.

    Raises
    ------
    CampaignError
        If the order leaves out a member, or names another one.
    """
    provenance = stored.provenance
    models = provenance["models"]
    columns: Order
    if "order" in provenance:
        columns = _columns(provenance["order"], models)
    elif order is not None:
        columns = check_order(order, decision, models)
    elif (earlier := _decided_alike(unit.url, provenance)) is not None:
        columns = _columns(earlier, models)
    else:
        scores = _scored_in_full(unit.url, provenance)
        columns = learn_order(client, unit, decision, models, scores, result=result)
    # another campaign may have learned one at the same time
    names = stored.settle("order", [[models[member] for member in family] for family in columns])
    return Cascade(tuple(map(float, decision.limits(models))), _columns(names, models))


def check_order(order: Sequence[Sequence[str]], decision: Decision, models: Sequence[str]) -> Order:
    """Check that an order names every member that decides once, family by family.

    Parameters
    ----------
    order : sequence of sequence of str
        Names of members.
    decision : Decision
        Tells which members decide.
    models : sequence of str
        Names of all members.

    Returns
    -------
    Order
        Columns of ``models``.

    Raises
    ------
    CampaignError
        If a member is left out, named twice, unknown, or in another family.
    """
    columns = _columns(order, models)
    if sorted(map(sorted, columns)) != sorted(map(sorted, decision.needed(models).values())):
        shown = [list(family) for family in order]
        raise CampaignError(
            f"the order {shown} is not of the members that decide: give each once, family by family"
        )
    return columns


def learn_order(
    client: Client,
    unit: Unit,
    decision: Decision,
    models: list[str],
    scores: np.ndarray | None = None,
    *,
    result: Callable[[Future], Any] = Future.result,
) -> Order:
    """Find the cheapest order of the members, with costs measured on a sample.

    Parameters
    ----------
    client : dask.distributed.Client
        Where the sample is scored.
    unit : Unit
        The members, and the shards that the sample comes from.
    decision : Decision
        What they decide.
    models : list of str
        Their names.
    scores : ndarray, optional
        Complete scores of cutouts such as are to be decided, float32 ``(cutout, member)``; those of the sample by default,
        which is larger then.
    result : callable
        Waits for the result of a future.

    Returns
    -------
    Order
        Columns of ``models``, family by family; as they come if nothing of the sample can be read.
    """
    limits, needed = decision.limits(models), decision.needed(models)
    # with scores at hand one batch tells the costs
    some = replace(
        unit, shards=_sample_of(unit, _MAX_SAMPLE_SIZE if scores is None else unit.batch)
    )
    looked = result(client.submit(sample, some, pure=False))
    if looked is None:
        return tuple(map(tuple, needed.values()))
    return cheapest_order(looked.scores if scores is None else scores, limits, needed, looked.costs)


def _columns(order: Sequence[Sequence[str]], models: Sequence[str]) -> Order:
    try:
        return tuple(tuple(models.index(name) for name in family) for family in order)
    except ValueError as error:
        shown = [list(family) for family in order]
        raise CampaignError(
            f"the order {shown} names a member that is not there: {error}"
        ) from None


def _sample_of(unit: Unit, most: int) -> tuple[tuple[int, int], ...]:
    """Choose rows from all over what is to be done: whole batches, and of many rows fewer than one in a hundred."""
    rows = np.concatenate([np.arange(first, last) for first, last in unit.shards])
    wanted = unit.batch * max(1, round(min(most, len(rows) // _SAMPLE_STRIDE) / unit.batch))
    size = -(-wanted // _SAMPLE_BLOCKS)
    blocks = np.array_split(rows, _SAMPLE_BLOCKS)
    starts = [int(block[0]) for block in blocks if len(block)]
    return tuple((start, min(start + size, int(rows[-1]) + 1)) for start in starts)


def _runs_alike(url: str, provenance: dict[str, Any]) -> Iterator[Run]:
    """Give the runs of an archive that have the same members in the same precision."""
    for name in list_runs(url):
        run = Run.attach(url, name)
        has = run.provenance
        # what a triage keeps is another mixture of cutouts, and has its own order
        if all(has[key] == provenance[key] for key in ("members", "dtype", "flips", "triage")):
            yield run


def _decided_alike(url: str, provenance: dict[str, Any]) -> list[list[str]] | None:
    """Find the order of an earlier run for the same decision."""
    for run in _runs_alike(url, provenance):
        has = run.provenance
        if has["decided"] == provenance["decided"] and "order" in has:
            found: list[list[str]] = has["order"]
            return found
    return None


def _scored_in_full(url: str, provenance: dict[str, Any]) -> np.ndarray | None:
    """Find scores in an earlier run, float32 (cutout, member), of cutouts that all members looked at."""
    for run in _runs_alike(url, provenance):
        if run.provenance["decided"] is not None:
            continue
        rows, size = run.scores.shape[0], run.scores.chunks[0]
        parts: list[np.ndarray] = []
        for first in range(0, rows, max(size, -(-rows // _SAMPLE_BLOCKS) // size * size)):
            try:
                values = np.asarray(
                    run.scores[first : first + min(size, _EARLIER_ROWS // _SAMPLE_BLOCKS)]
                )
            except Exception:  # noqa: S112 - a torn chunk fails in its codec's own way
                continue
            parts.append(values[~np.isnan(values).any(axis=1)])
        if sum(map(len, parts)) >= _MAX_SAMPLE_SIZE:
            return np.concatenate(parts)
    return None
