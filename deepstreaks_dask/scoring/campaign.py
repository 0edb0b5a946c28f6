"""Score an archive with every member of every family, on Dask.

The unit of work is one shard. A task reads its cutouts once, runs all members in one compiled forward
pass and writes one chunk of ``runs/<run>/scores``: one object, in one step, that no other task touches. What a
killed campaign has not written is NaN; a rerun computes those shards only, and a score does not depend on
what was computed beside it, so that the result is the same to the last bit.

Of an archive of sequences a shard is a number of whole objects, the members are classifiers, and a task stores the
probabilities of their classes, ``scores(object, member, class)``. An object that cannot be used stays NaN and is named.

In the mode ``decide`` members score only while a decision is open (:mod:`~deepstreaks_dask.scoring.cascade`).
A task then takes several shards, so that the few that are left after the first family still fill batches.

In the mode ``triage`` (:mod:`~deepstreaks_dask.scoring.triage`) a first look comes before: once it has seen
all that is new, each night is tested for drift, what it rejects in the others is marked, and the rest is decided as
above.

:func:`score` plans a campaign (:mod:`~deepstreaks_dask.scoring.plan`) and executes the plan.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import xarray as xr
from dask.distributed import Client
from distributed.scheduler import KilledWorker

import deepstreaks_dask
from deepstreaks_dask.errors import CampaignError, DeepStreaksError, StoppedError
from deepstreaks_dask.scoring.attendance import Attendance
from deepstreaks_dask.scoring.cluster import connect, last_words
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.execution import Execution
from deepstreaks_dask.scoring.heartbeat import beating
from deepstreaks_dask.scoring.plan import CampaignOptions, CampaignPlan, Mode, plan_campaign
from deepstreaks_dask.scoring.run_lock import alone
from deepstreaks_dask.scoring.runs import SHIPPED_ZOO, Run, list_runs, open_run


def score(
    archive: str | os.PathLike[str],
    *,
    ensemble: Ensemble | None = None,
    client: Client | None = None,
    run: str = "default",
    mode: Mode = "all",
    decision: Decision | None = None,
    options: CampaignOptions | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Score every cutout, or every object with its sequence, that has no scores yet.

    Safe to re-run: what is scored is stored, and the same call resumes where it stopped.

    Parameters
    ----------
    archive : str or path
        Path or URL of the archive; the workers must reach it too.
    ensemble : Ensemble, optional
        Members to run; the newest of the zoo that ships with this package by default.
    client : dask.distributed.Client, optional
        Where to run them, as :func:`~deepstreaks_dask.scoring.cluster.connect` returns it. By default workers are
        started on this machine for this call.
    run : str
        Name of the run that holds the scores. The same name resumes the run.
    mode : {"all", "decide", "triage"}
        ``all``: every member scores every cutout. ``decide``: only while the decision is open, which finds
        the same plausible cutouts for a part of the cost; NaN stands where a member did not score. ``triage``: as
        ``decide``, without the cutouts that a first look rejects, except in nights that drifted.
    decision : Decision, optional
        Of the mode ``decide``; a threshold of 0.5 everywhere by default. A triage has its own.
    options : CampaignOptions, optional
        Batch, triage, order, precision, flips, and an event that stops the campaign.
    progress : bool
        Show count, rate and time left.

    Returns
    -------
    xarray.Dataset
        ``scores(cutout, model)`` or ``scores(object, member, class)`` as
        :func:`~deepstreaks_dask.scoring.runs.open_run` returns it; its provenance ``failures`` lists rows that could not be
        read, ``[first, last, why]``. Where a batch was too large for the memory of a GPU it was halved, and the smallest
        batch scored is in ``attrs["halved"]``: then scores may differ in their last bits from those of whole batches.

    Raises
    ------
    CampaignError
        If the archive is empty or its cutouts, or sequences, are not what a member takes, members tell other classes
        apart than each other, sequences are to be decided, flipped or scored in half precision, the run was made with other
        weights, for another decision, in another precision or without flips, the order leaves out a member, the precision is
        slower on the workers than float32, a network returns no number, or the workers, the scheduler or the store fail.
        What is scored by then is stored.
    KeyboardInterrupt
        At Ctrl-C, with a message that says how to resume.
    TriageError
        If the triage was calibrated for other members or another precision.
    ModelError
        If there is no such precision.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> scores = ds.score("week.zarr", run="again")  # with the shipped networks, on this machine
    >>> int(scores["scores"].notnull().all("model").sum())
    60
    >>> with ds.connect("local", workers=1) as client:  # safe to re-run: nothing is scored twice
    ...     scores = ds.score("week.zarr", ensemble=ds.Ensemble.from_zoo(), client=client, run="again")
    """
    options = options or CampaignOptions()
    with _naming_faults(os.fspath(archive), run):
        plan = plan_campaign(
            archive,
            ensemble=ensemble,
            run=run,
            mode=mode,
            decision=decision,
            options=options,
        )
        if client is not None:
            execute(plan, client, options=options, progress=progress)
        elif plan.finished:
            _prepare_run(plan).touch(())
        else:
            with connect(jobs=len(plan.tasks)) as own:
                execute(plan, own, options=options, progress=progress)
        return open_run(archive, run)


def execute(
    plan: CampaignPlan,
    client: Client,
    *,
    options: CampaignOptions | None = None,
    stop: threading.Event | None = None,
    progress: bool = True,
) -> None:
    """Carry out a plan; the scores are stored in its run.

    Parameters
    ----------
    plan : CampaignPlan
        As :func:`~deepstreaks_dask.scoring.plan.plan_campaign` returns it.
    client : dask.distributed.Client
        Where to run it. While there is no worker the campaign waits, and says so.
    options : CampaignOptions, optional
        How long it waits for workers, whether a slow precision is forced, and how much is printed.
    stop : threading.Event, optional
        Once it is set, the shards under way are stored and no others begun. That of the options by default.
    progress : bool
        Show count, rate, workers and time left.

    Raises
    ------
    CampaignError
        If the run was made otherwise meanwhile, a network returns no number, the precision is slower on the workers than
        float32, or the workers, the scheduler or the store fail. What is scored by then is stored.
    """
    options = options or CampaignOptions()
    stop = stop if stop is not None else options.stop
    label = f"score {plan.run}"
    with (
        _naming_faults(plan.archive, plan.run, client),
        Attendance(client, label, options.wait_workers, show=progress) as attendance,
    ):
        execution = Execution(plan, client, attendance, stop, progress, options.verbose)
        if not options.force_precision:
            execution.check_precision()
        stored = _prepare_run(plan)
        with beating(client, plan.archive, plan.run, stop):
            failures = execution.carry_out(stored)
        if execution.halved:
            sizes = [*execution.halved, stored.provenance.get("halved", plan.batch)]
            stored.tell(halved=min(sizes))
        stored.touch(failures)


def _is_not_sync_cancellation(record: logging.LogRecord) -> bool:
    """Drop what Dask logs when Ctrl-C comes before the call that it should cancel has begun.

    ``distributed.utils.sync`` schedules its ``cancel`` all the same, which then fails with a NameError in the event loop;
    perhaps after the campaign has ended, so that the filter stays.
    """
    return "function sync.<locals>.cancel" not in record.getMessage()


@contextmanager
def _naming_faults(url: str, run: str, client: Client | None = None) -> Iterator[None]:
    """Wrap errors from workers, schedulers and stores in a message that names the run and says the scores are safe."""
    safe = "what is scored is stored, and the same command goes on from there"
    logging.getLogger("tornado.application").addFilter(_is_not_sync_cancellation)
    try:
        yield
    except DeepStreaksError:
        raise
    except KeyboardInterrupt as interrupt:
        if interrupt.args:  # said already
            raise
        raise KeyboardInterrupt(f"run {run!r} of {url} was interrupted: {safe}") from None
    except KilledWorker as error:
        log = f"; {words}" if client is not None and (words := last_words(client)) else ""
        raise StoppedError(
            f"run {run!r} of {url} stopped: {error.allowed_failures + 1} workers died over the same cutouts, as they do "
            f"when their memory is full. Give workers more of it; {safe}{log}"
        ) from error
    except Exception as error:  # each has its own
        why = " ".join(str(error).split()) or type(error).__name__
        raise StoppedError(f"run {run!r} of {url} stopped: {why}. Mend this; {safe}") from error


def _prepare_run(plan: CampaignPlan) -> Run:
    """Open the run of a plan, or make it; grow it to the archive's length and clear what is torn."""
    with alone(plan.archive, plan.run):
        if plan.run not in list_runs(plan.archive):
            return Run.create(
                plan.archive,
                plan.run,
                plan.members,
                plan.rows,
                plan.shard,
                classes=plan.classes,
                decided=plan.thresholds,
                triage=plan.triage.to_dict() if plan.triage else None,
                zoo=plan.ensemble.zoo or SHIPPED_ZOO,
                batch=plan.batch,
                dtype=plan.precision,
                flips=plan.flips,
                deepstreaks_dask=deepstreaks_dask.__version__,
            )
        stored = Run.attach(plan.archive, plan.run, write=True)
        provenance = stored.provenance
        plan.check_run(provenance)  # another campaign may have made it since it was planned
        if (provenance["dtype"], provenance["flips"]) != (plan.precision, plan.flips):
            raise CampaignError(
                f"run {plan.run!r} of {plan.archive} was made otherwise by another campaign just now: "
                "give the same command again, or another --run"
            )
        stored.grow(plan.rows)
    stored.clear("scores", plan.todo.torn)
    if plan.first_look.torn:
        stored.clear("first_look", plan.first_look.torn)
    return stored
