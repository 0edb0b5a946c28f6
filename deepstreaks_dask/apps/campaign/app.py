"""The campaign dashboard: progress and rate of a run, its workers, its failures, and its provenance.

The page reads the run from the store every few seconds, so it shows campaigns of any machine. To start, pause and resume a
campaign, its script calls the API of :mod:`~deepstreaks_dask.apps.server.campaign_api`, if there is one.
"""

from __future__ import annotations

import math
import os
import shlex
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pandas as pd
import panel as pn

from deepstreaks_dask import plots
from deepstreaks_dask.apps.bridge import Bridge
from deepstreaks_dask.apps.campaign.messages import (
    SCHEMA,
    Activity,
    AllRuns,
    Progress,
    RefusedInputs,
    Repeat,
)
from deepstreaks_dask.apps.figures import DEFAULT_HEIGHT, Figures
from deepstreaks_dask.apps.messages import Hello, Message, Theme
from deepstreaks_dask.apps.server.campaign_api import (
    campaign_names,
    campaign_state,
    campaign_status,
)
from deepstreaks_dask.apps.template import archive_name, page_template
from deepstreaks_dask.apps.visitor import Visitor
from deepstreaks_dask.archive.store import quarantine
from deepstreaks_dask.scoring.launcher import LaunchedCampaign
from deepstreaks_dask.scoring.status import Standing
from deepstreaks_dask.vocabulary import DECIDING_FAMILIES, CampaignState

REFRESH_MILLISECONDS = 3000
"""Time between two refreshes."""

FULL_REFRESH_CYCLES = 10
"""Every so many refreshes all runs and the quarantine are read, too."""

MAX_LISTED_FAILURES = 100
"""Failed shards, and refused inputs, in the tables."""

MAX_CELLS = 400
"""Cells in the map of shards; each is a shard, or a group of shards of one size."""


def app(
    archive: str | os.PathLike[str],
    run: str = "default",
    *,
    control: bool = False,
    visitor: Visitor | None = None,
) -> pn.Template:
    """Return the page for one person; ``?run=NAME`` in its address names another run.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    run : str
        The run that is shown first.
    control : bool
        The API is served beside the page.
    visitor : Visitor, optional
        The person at the page; by default the user who started this process.

    Returns
    -------
    panel.Template
        The page.

    Raises
    ------
    DeepStreaksError
        If there is no such archive.
    """
    asked = [value.decode(errors="replace") for value in pn.state.session_args.get("run", [])]
    return CampaignPage(os.fspath(archive), (asked or [run])[0], control, visitor).layout()


class CampaignPage:
    """One person's page of a campaign. It reads the run from the store every few seconds.

    Parameters
    ----------
    archive, run : str
        Path or URL, and the run's name.
    control : bool
        The API is served beside the page.
    visitor : Visitor, optional
        The person at the page; by default the user who started this process.
    """

    def __init__(
        self, archive: str, run: str, control: bool, visitor: Visitor | None = None
    ) -> None:
        self.archive, self.control = archive, control
        self.runs = campaign_names(archive)
        self.run = run if run in self.runs else (self.runs or [run])[0]
        self.bridge = Bridge(SCHEMA, self._receive, visitor)
        self.figures = Figures({"history": DEFAULT_HEIGHT})
        self._drawn_counts: tuple[int, int] | None = None
        self._refreshing = False
        self._refreshes = 0
        self._timer: Any = None

    def layout(self) -> pn.Template:
        """Return the page."""
        return page_template(
            "campaign",
            self.bridge,
            self.figures.places,
            app="campaign",
            heading=archive_name(self.archive),
            runs=self.runs,
            run=self.run,
            control=self.control,
            families=", ".join(DECIDING_FAMILIES),
            most=os.cpu_count() or 1,
            command=f"deepstreaks score {shlex.quote(self.archive)}",
            dashboard=f"deepstreaks dashboard {shlex.quote(self.archive)} --app campaign",
        )

    def _receive(self, message: Message) -> None:
        if isinstance(message, Hello):
            self.figures.dark = message.dark
            self._timer = pn.state.add_periodic_callback(self._refresh, REFRESH_MILLISECONDS)
            self._refresh()
        elif isinstance(message, Theme):
            self.figures.recolour(message.dark)
        elif isinstance(message, Repeat) and self._timer is not None:
            if message.on and not self._timer.running:
                self._timer.start()
            elif not message.on and self._timer.running:
                self._timer.stop()

    def _refresh(self) -> None:
        if self._refreshing:
            return
        self._refreshing = True
        full = self._refreshes % FULL_REFRESH_CYCLES == 0
        self._refreshes += 1
        self.bridge.later(lambda: self._read(full), self._show)

    def _read(self, full: bool) -> Snapshot | Exception:
        try:
            state, campaign = campaign_status(self.archive, self.run)
            if not full:
                return Snapshot(state, campaign)
            rows = [_run_row(self.archive, run) for run in campaign_names(self.archive)]
            return Snapshot(state, campaign, rows, quarantine(self.archive))
        except Exception as error:  # raised by _show; the next refresh may succeed
            return error

    def _show(self, found: Snapshot | Exception) -> None:
        self._refreshing = False
        if isinstance(found, Exception):
            raise found
        if found.runs is not None:
            self.bridge.send(AllRuns(rows=found.runs))
        if found.refused is not None:
            self.bridge.send(_refused_inputs(found.refused))
        if found.state is not None:
            self._show_progress(found.state)
        # Last, so that no state is shown beside the figures of an earlier one.
        self.bridge.send(_activity(found.state, found.campaign))

    def _show_progress(self, state: Standing) -> None:
        self.bridge.send(_progress(state, self.archive))
        counts = len(state.written), state.cutouts
        if counts != self._drawn_counts:
            self._drawn_counts = counts
            self.figures.draw("history", plots.campaign_history(state.written, state.cutouts))


@dataclass(frozen=True)
class Snapshot:
    """A run as the store has it at one time.

    Attributes
    ----------
    state : Standing, optional
        None before the run's first shard.
    campaign : LaunchedCampaign, optional
        None if no campaign of this run was launched on this machine.
    runs : list, optional
        A row for each run of the archive, at a full refresh.
    refused : pandas.DataFrame, optional
        The quarantine, at a full refresh: ``source, night, reason, detail``.
    """

    state: Standing | None
    campaign: LaunchedCampaign | None
    runs: list[list[str]] | None = None
    refused: pd.DataFrame | None = None


def _refused_inputs(refused: pd.DataFrame) -> RefusedInputs:
    rows = [
        (
            str(row["source"]),
            plots.night_name(int(row["night"])),
            str(row["reason"]),
            str(row["detail"]),
        )
        for _, row in refused.head(MAX_LISTED_FAILURES).iterrows()
    ]
    reasons = {str(key): int(count) for key, count in refused["reason"].value_counts().items()}
    return RefusedInputs(reasons=reasons, total=len(refused), rows=rows)


STATE_TEXT = {
    CampaignState.STARTING: "The campaign is starting: it loads its networks.",
    CampaignState.AT_WORK: "Shards are being scored.",
    CampaignState.STOPPING: "The campaign stops once the shards under way are stored.",
    CampaignState.STOPPED: "No campaign is running. Start it again to resume where it stopped.",
    CampaignState.KILLED: "The campaign ended unexpectedly: it was killed, or its machine stopped. "
    "Start it again to resume where it stopped.",
    CampaignState.DONE: "All cutouts have scores.",
}
"""Descriptions of :class:`~deepstreaks_dask.vocabulary.CampaignState`."""

PROVENANCE_KEYS = (
    *("zoo", "deepstreaks_dask", "keras", "backend", "dtype", "batch", "decided"),
    *("started", "updated"),
)
"""What the page lists of a run's provenance."""


def _activity(state: Standing | None, campaign: LaunchedCampaign | None) -> Activity:
    word = campaign_state(state, campaign)
    pulse = state.pulse if state is not None and state.at_work else None
    mine = campaign is not None and campaign.alive
    words = STATE_TEXT[word]
    if word.may_pause and pulse is not None and not mine:
        words = f"Started elsewhere: end process {pulse.pid} on {pulse.host} to pause it."
    return Activity(
        state=word.value,
        words=words,
        mine=mine,
        last=campaign.last_words() if campaign and word.may_resume else "",
        workers=pulse.workers if pulse else None,
        threads=pulse.threads if pulse else None,
        dashboard=pulse.dashboard if pulse else "",
        host=pulse.host if pulse else "",
    )


def _run_row(archive: str, run: str) -> list[str]:
    """Return a run's name, state, share that is scored, start, latest update and networks."""
    state, campaign = campaign_status(archive, run)
    share = f"{100 * state.done / state.cutouts:.1f} %" if state and state.cutouts else "none"
    made = state.provenance if state else {}
    members = ", ".join(f"{m.get('name')}@{m.get('version')}" for m in made.get("members", []))
    started = str(made.get("started", campaign.started if campaign else ""))
    times = [time[:16].replace("T", " ") for time in (started, str(made.get("updated", "")))]
    return [run, campaign_state(state, campaign).value, share, *times, members]


def _progress(state: Standing, archive: str) -> Progress:
    made = state.provenance
    members = [
        (str(m.get("name")), str(m.get("version")), str(m.get("family")), str(m.get("sha256")))
        for m in made.get("members", [])
    ]
    return Progress(
        share=_share(state),
        tiles=_tiles(state),
        cells=_cells(state),
        failures=state.failures[:MAX_LISTED_FAILURES],
        failed=len(state.failures),
        members=members,
        facts=[(k, str(made[k])) for k in PROVENANCE_KEYS if made.get(k) not in (None, "")],
        command=f"deepstreaks score {shlex.quote(archive)} --run {shlex.quote(state.run)}",
    )


def _share(state: Standing) -> float:
    return state.done / state.cutouts if state.cutouts else 0.0


def _tiles(state: Standing) -> list[dict[str, str]]:
    """Return the headline figures of a run."""
    known_rate = math.isfinite(state.rate)
    if state.at_work and known_rate:
        left = str(timedelta(seconds=round(state.seconds_left)))
    else:
        left = "none" if _share(state) == 1 else "unknown"
    source = "over the last five minutes of work"
    figures = [
        ("Scored", f"{100 * _share(state):.1f} %", f"{state.done:,} of {state.cutouts:,} cutouts"),
        (
            "Shards",
            f"{state.count('done'):,}",
            f"{state.count('left'):,} left, {state.count('failed'):,} failed",
        ),
        (
            "Rate",
            f"{state.rate:,.0f} /s" if known_rate else "unknown",
            f"cutouts, {source}" if known_rate else "known after two shards",
        ),
        ("Time left", left, "at the rate of the last five minutes of work"),
    ]
    return [{"title": title, "value": value, "note": note} for title, value, note in figures]


def _cells(state: Standing) -> list[dict[str, Any]]:
    """Group the shards into at most :data:`MAX_CELLS` cells, each with its share done and number failed."""
    each = max(1, -(-len(state.shards) // MAX_CELLS))
    groups = [state.shards[k : k + each] for k in range(0, len(state.shards), each)]
    return [
        {
            "first": k * each,
            "last": k * each + len(group) - 1,
            "done": int((group == "done").sum()) / len(group),
            "failed": int((group == "failed").sum()),
        }
        for k, group in enumerate(groups)
    ]
