"""Simulate labelled cutouts, or objects with sequences, into an archive on all processors."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack

from deepstreaks_dask.archive.append import AppendSummary, append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.readers.reports import IngestReport
from deepstreaks_dask.simulation.nights import simulate_nights
from deepstreaks_dask.simulation.sequences import LAYOUT, simulate_sequences
from deepstreaks_dask.simulation.surveys import Survey, get_survey
from deepstreaks_dask.simulation.tasks import get_task
from deepstreaks_dask.utils.processes import process_pool
from deepstreaks_dask.utils.progress import progress_bar
from deepstreaks_dask.utils.storage import locate

_OBJECTS_PER_COMMIT = 1024  # objects in a commit
_PROCESS_POOL_CUTOUTS = 4096  # fewer are simulated before processes have started


def simulate(
    url: str | os.PathLike[str],
    *,
    nights: int = 7,
    per_night: int = 300,
    seed: int = 0,
    overwrite: bool = False,
) -> IngestReport:
    """Simulate nights of labelled streak cutouts into a new archive.

    The nights begin with 1 January 2026. The cutouts are **simulated**, and the archive says so.

    Parameters
    ----------
    url : str or path
        Path or URL of the archive.
    nights, per_night : int
        Number of nights, and of cutouts in each.
    seed : int
        Equal seeds give equal cutouts.
    overwrite : bool
        Replace the archive if it exists.

    Returns
    -------
    IngestReport
        Rows that were added, by night.

    Raises
    ------
    ArchiveError
        If there is an archive already and ``overwrite`` is false, or ``url`` is something else.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> ds.simulate("two-nights.zarr", nights=2, per_night=5, seed=1)
    <IngestReport: 10 rows added to two-nights.zarr, 0 already present, 0 refused, 10 in all>
    """
    return simulate_archive(url, nights=nights, per_night=per_night, seed=seed, overwrite=overwrite)


def simulate_archive(
    url: str | os.PathLike[str],
    *,
    nights: int = 7,
    per_night: int = 300,
    seed: int = 0,
    first: int = 20260101,
    shard: int = 1024,
    overwrite: bool = False,
) -> IngestReport:
    """Simulate nights into a new archive as :func:`simulate` does, beginning with any night.

    Parameters
    ----------
    url, nights, per_night, seed, overwrite
        As for :func:`simulate`.
    first : int
        First night, YYYYMMDD.
    shard : int
        Cutouts in a shard, a multiple of 64.

    Returns
    -------
    IngestReport
        Rows that were added, by night.

    Raises
    ------
    ArchiveError
        If there is an archive already and ``overwrite`` is false, ``url`` is something else, or there can be no such
        shard.
    MainGuardError
        If there are so many cutouts that processes simulate them, and the script that calls has no main guard.
    """
    with ExitStack() as stack:
        executor = None
        if nights * per_night >= _PROCESS_POOL_CUTOUTS:
            executor = stack.enter_context(process_pool())
        create_archive(url, shard=shard, overwrite=overwrite)
        bar = stack.enter_context(progress_bar("simulate", nights * per_night))
        batches = simulate_nights(nights, per_night, seed=seed, first=first, executor=executor)
        done = append_batches(url, bar.over(batches, lambda batch: batch.rows))
    return IngestReport.from_append(url, nights * per_night, done)


def simulate_into(
    archive: str | os.PathLike[str],
    objects: int,
    survey: Survey | str,
    task: str,
    *,
    seed: int = 0,
    first: int = 0,
    what: str = "simulate",
) -> AppendSummary:
    """Simulate labelled objects with sequences into an archive, which is created if it does not exist.

    Objects are committed a part at a time, so that a simulation that is killed keeps its finished parts.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    objects : int
        1 or more.
    survey, task, seed, first
        As for :func:`~deepstreaks_dask.simulation.sequences.simulate_sequences`.
    what : str
        Title of the progress bar.

    Returns
    -------
    AppendSummary
        Of all parts together.

    Raises
    ------
    SimulationError
        If there is no such survey or task; then no archive is made.
    MainGuardError
        If the script that calls has no main guard; then no archive is made, either.
    ArchiveError
        If the archive is none of sequences.
    """
    survey = get_survey(survey) if isinstance(survey, str) else survey
    get_task(task)
    done = []
    with process_pool() as executor, progress_bar(what, objects, unit="objects") as bar:
        if not _exists(archive):
            create_archive(archive, **LAYOUT)
        for start in range(first, first + objects, _OBJECTS_PER_COMMIT):
            number = min(_OBJECTS_PER_COMMIT, first + objects - start)
            batches = simulate_sequences(
                number, survey, task, seed=seed, first=start, executor=executor
            )
            done.append(append_batches(archive, bar.over(batches, lambda batch: batch.rows)))
    return AppendSummary(
        sum(one.appended for one in done),
        sum(one.already_present for one in done),
        sum(one.quarantined for one in done),
        dict(sum((Counter(one.reasons) for one in done), Counter())),
        done[-1].total,
        nights=dict(sum((Counter(one.nights) for one in done), Counter())),
    )


def _exists(archive: str | os.PathLike[str]) -> bool:
    fs, root = locate(archive)
    return bool(fs.exists(root))
