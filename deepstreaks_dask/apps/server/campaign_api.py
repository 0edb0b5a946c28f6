"""The HTTP API of campaigns: see how far they are, start one, pause it, go on."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Path
from pydantic import Field

from deepstreaks_dask.apps.server.auth import (
    PROBLEM_RESPONSES,
    AccountStore,
    Administrator,
    Strict,
    Viewer,
    place_of,
)
from deepstreaks_dask.scoring.launcher import LaunchedCampaign as Launched
from deepstreaks_dask.scoring.launcher import launched_campaigns, pause_campaign, start_campaign
from deepstreaks_dask.scoring.runs import list_runs
from deepstreaks_dask.scoring.status import Standing, run_status

State = Literal["starting", "at work", "stopping", "stopped", "killed", "done"]

campaigns = APIRouter(prefix="/api/v1", responses=PROBLEM_RESPONSES)
Here = Annotated[AccountStore, Depends(place_of)]
Run = Annotated[
    str, Path(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of a run")
]


class CampaignState(Strict):
    """How far a run is, and who is at work on it."""

    run: str
    """Its name."""
    state: State
    """How it is about it."""
    cutouts: int
    """In the archive."""
    done: int
    """Cutouts with scores."""
    failed: int
    """Shards that could not be read."""
    rate: float | None
    """Cutouts a second."""
    seconds_left: float | None
    """Seconds at that rate."""
    workers: int | None
    """At work now."""
    started: str | None
    """When, UTC in ISO 8601."""
    by: str | None
    """Who started it from here."""
    words: str
    """What it said last, where it ended before all was done."""


class Beginning(Strict):
    """What to begin, or to go on with."""

    run: str = Field("default", max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Its name."""
    families: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,16}$")]] = Field([], max_length=16)
    """Of a new run; rb, sl and kd if none is named."""
    workers: Annotated[int, Field(ge=1, le=1024, strict=True)] | None = None
    """Dask workers; one a core by default."""


def state_of(found: Standing | None, campaign: Launched | None) -> State:
    """Say in a word how it is about a run.

    Parameters
    ----------
    found : Standing or None
        None where the store has no such run yet.
    campaign : Campaign or None
        As it was started here.

    Returns
    -------
    str
        One of :data:`State`.
    """
    pulse = found.pulse if found is not None else None
    if pulse is not None and pulse.fresh:
        return "stopping" if pulse.pausing else "at work"
    if found is not None and found.done == found.cutouts:
        return "done"
    if campaign is not None and campaign.alive:
        if found is None:
            return "starting"
        updated, began = (str(found.provenance.get(key)) for key in ("updated", "started"))
        return "stopping" if updated >= campaign.started and updated != began else "starting"
    return "killed" if pulse is not None else "stopped"


def known(archive: str) -> list[str]:
    """Name the runs of an archive, and those that are being started."""
    return sorted({*list_runs(archive), *launched_campaigns(archive)})


def look(archive: str, run: str) -> tuple[Standing | None, Launched | None]:
    """Look at a run in the store, and at what was started here for it.

    Parameters
    ----------
    archive, run : str
        Path or URL, and the run's name.

    Returns
    -------
    Standing or None, Campaign or None
        None where there is none such.
    """
    return (
        run_status(archive, run) if run in list_runs(archive) else None,
        launched_campaigns(archive).get(run),
    )


@campaigns.get("/campaigns")
def list_campaigns(who: Viewer, place: Here) -> list[CampaignState]:
    """List running and past campaigns."""
    return [_told(place.archive, run) for run in known(place.archive)]


@campaigns.post("/campaigns", status_code=201)
def begin(given: Beginning, who: Administrator, place: Here) -> CampaignState:
    """Begin a run, or go on with one that was paused or killed."""
    start_campaign(
        place.archive,
        given.run,
        families=given.families,
        zoo=place.zoo,
        workers=given.workers,
        by=who.name,
    )
    return _told(place.archive, given.run)


@campaigns.post("/campaigns/{run}/pause", status_code=202)
def stop(run: Run, who: Administrator, place: Here) -> CampaignState:
    """Let a campaign stop once the shards under way are stored."""
    if run not in known(place.archive):
        raise HTTPException(404, "this archive has no such run")
    pause_campaign(place.archive, run)
    return _told(place.archive, run)


def _told(archive: str, run: str) -> CampaignState:
    found, campaign = look(archive, run)
    state = state_of(found, campaign)
    pulse = found.pulse if found is not None and found.at_work else None
    ended = state in ("stopped", "killed") and campaign is not None
    return CampaignState(
        run=run,
        state=state,
        cutouts=found.cutouts if found else 0,
        done=found.done if found else 0,
        failed=found.count("failed") if found else 0,
        rate=_known(found.rate) if found else None,
        seconds_left=_known(found.seconds_left) if found and pulse else None,
        workers=pulse.workers if pulse else None,
        started=found.provenance.get("started") if found else None,
        by=campaign.by if campaign else None,
        words=campaign.last_words() if ended and campaign else "",
    )


def _known(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
