"""Simulated objects into an archive, on all processors, a part at a time: what is killed has stored what it simulated."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from deepstreaks_dask.archive.append import AppendSummary, append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.simulation.sequences import LAYOUT, simulate_sequences
from deepstreaks_dask.simulation.surveys import Survey, get_survey
from deepstreaks_dask.simulation.tasks import get_task
from deepstreaks_dask.utils.progress import progress_bar
from deepstreaks_dask.utils.storage import locate

_OBJECTS_PER_COMMIT = 1024  # objects in a commit


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
    """Simulate labelled objects into an archive, which is made if need be.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    objects : int
        1 or more.
    survey, task, seed, first
        As for :func:`~deepstreaks_dask.simulation.sequences.simulate_sequences`.
    what : str
        What the progress bar calls it.

    Returns
    -------
    AppendSummary
        Of all parts together.

    Raises
    ------
    SimulationError
        If there is no such survey or task; then no archive is made.
    ArchiveError
        If the archive is none of sequences.
    """
    survey = get_survey(survey) if isinstance(survey, str) else survey
    get_task(task)
    fs, root = locate(archive)
    if not fs.exists(root):
        create_archive(archive, **LAYOUT)
    done = []
    with (
        progress_bar(what, objects, unit="objects") as bar,
        ProcessPoolExecutor(mp_context=get_context("spawn")) as executor,
    ):
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
    )
