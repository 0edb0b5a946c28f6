"""The HTTP API of campaigns: list, start, pause and resume them."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, HTTPException, Path
from pydantic import Field

from deepstreaks_dask.apps.server.auth import (
    PROBLEM_RESPONSES,
    Administrator,
    ArchiveDependency,
    StrictModel,
    Viewer,
)
from deepstreaks_dask.scoring.launcher import (
    LaunchedCampaign,
    launched_campaigns,
    pause_campaign,
    start_campaign,
)
from deepstreaks_dask.scoring.runs import list_runs
from deepstreaks_dask.scoring.status import Standing, run_status
from deepstreaks_dask.vocabulary import CampaignState

_RUN_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_MAX_RUN_LENGTH = 64
campaign_routes = APIRouter(prefix="/api/v1", responses=PROBLEM_RESPONSES)
RunName = Annotated[
    str, Path(max_length=_MAX_RUN_LENGTH, pattern=_RUN_PATTERN, description="Name of a run")
]


class CampaignOut(StrictModel):
    """A run: how far it is, and what is scoring it."""

    run: str
    """Name of the run."""
    state: CampaignState
    """What the campaign is doing."""
    cutouts: int
    """Cutouts in the archive."""
    done: int
    """Cutouts with scores."""
    failed: int
    """Shards that could not be read."""
    rate: float | None
    """Cutouts a second."""
    seconds_left: float | None
    """Seconds until all cutouts have scores, at that rate."""
    workers: int | None
    """Workers that are running now."""
    started: str | None
    """Time of the start, UTC in ISO 8601."""
    by: str | None
    """Name of the user who started it from this server."""
    words: str
    """Last line of its log, where it ended before all was done."""


class CampaignStart(StrictModel):
    """A run to start or resume."""

    run: str = Field("default", max_length=_MAX_RUN_LENGTH, pattern=_RUN_PATTERN)
    """Name of the run."""
    families: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,16}$")]] = Field([], max_length=16)
    """Families of a new run; rb, sl and kd if none is named."""
    workers: Annotated[int, Field(ge=1, le=1024, strict=True)] | None = None
    """Dask workers; one per core by default."""


def campaign_state(status: Standing | None, campaign: LaunchedCampaign | None) -> CampaignState:
    """Return what a campaign is doing.

    Parameters
    ----------
    status : Standing or None
        Status of the run; None where the archive has no such run yet.
    campaign : LaunchedCampaign or None
        The campaign as it was started on this machine.

    Returns
    -------
    CampaignState
        The state.
    """
    pulse = status.pulse if status is not None else None
    if pulse is not None and pulse.fresh:
        return CampaignState.STOPPING if pulse.pausing else CampaignState.AT_WORK
    if status is not None and status.done == status.cutouts:
        return CampaignState.DONE
    if campaign is not None and campaign.alive:
        if status is None:
            return CampaignState.STARTING
        updated, began = (str(status.provenance.get(key)) for key in ("updated", "started"))
        ending = updated >= campaign.started and updated != began
        return CampaignState.STOPPING if ending else CampaignState.STARTING
    return CampaignState.KILLED if pulse is not None else CampaignState.STOPPED


def campaign_names(archive: str) -> list[str]:
    """Return the names of the runs of an archive, with those that are being started."""
    return sorted({*list_runs(archive), *launched_campaigns(archive)})


def campaign_status(archive: str, run: str) -> tuple[Standing | None, LaunchedCampaign | None]:
    """Return the status of a run, and the campaign that was started for it on this machine.

    Parameters
    ----------
    archive, run : str
        Path or URL, and the run's name.

    Returns
    -------
    Standing or None
        None where the archive has no such run yet.
    LaunchedCampaign or None
        None where none was started on this machine.
    """
    return (
        run_status(archive, run) if run in list_runs(archive) else None,
        launched_campaigns(archive).get(run),
    )


@campaign_routes.get("/campaigns")
def list_campaigns(who: Viewer, served: ArchiveDependency) -> list[CampaignOut]:
    """List running and past campaigns."""
    return [_campaign(served.archive, run) for run in campaign_names(served.archive)]


@campaign_routes.post("/campaigns", status_code=201)
def start(given: CampaignStart, who: Administrator, served: ArchiveDependency) -> CampaignOut:
    """Start a run, or resume one that was paused or killed."""
    start_campaign(
        served.archive,
        given.run,
        families=given.families,
        zoo=served.zoo,
        workers=given.workers,
        by=who.name,
    )
    served.authenticator.record(who.name, "campaign started", given.run)
    return _campaign(served.archive, given.run)


@campaign_routes.post("/campaigns/{run}/pause", status_code=202)
def pause(run: RunName, who: Administrator, served: ArchiveDependency) -> CampaignOut:
    """Pause a campaign once the shards under way are stored."""
    if run not in campaign_names(served.archive):
        raise HTTPException(404, "this archive has no such run")
    pause_campaign(served.archive, run)
    served.authenticator.record(who.name, "campaign paused", run)
    return _campaign(served.archive, run)


def _campaign(archive: str, run: str) -> CampaignOut:
    status, campaign = campaign_status(archive, run)
    state = campaign_state(status, campaign)
    pulse = status.pulse if status is not None and status.at_work else None
    return CampaignOut(
        run=run,
        state=state,
        cutouts=status.cutouts if status else 0,
        done=status.done if status else 0,
        failed=status.count("failed") if status else 0,
        rate=_finite(status.rate) if status else None,
        seconds_left=_finite(status.seconds_left) if status and pulse else None,
        workers=pulse.workers if pulse else None,
        started=status.provenance.get("started") if status else None,
        by=campaign.by if campaign else None,
        words=campaign.last_words() if campaign and state.may_resume else "",
    )


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
