"""The campaign dashboard: how far a run is, how fast, who is at work, what failed, what made its scores.

What it shows it reads from the store, so that it shows campaigns of any machine, and looks again every few seconds.
To begin, pause and go on, its page asks the API of :mod:`~deepstreaks_dask.apps.server.campaign_api`, where there is one.
"""

from __future__ import annotations

import os
import shlex
from datetime import timedelta
from typing import Any

import pandas as pd
import panel as pn

from deepstreaks_dask import plots
from deepstreaks_dask.apps import bridge as style
from deepstreaks_dask.apps.server.campaign_api import (
    campaign_names,
    campaign_state,
    campaign_status,
)
from deepstreaks_dask.archive.store import quarantine
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.scoring.launcher import LaunchedCampaign
from deepstreaks_dask.scoring.status import Standing
from deepstreaks_dask.vocabulary import DECIDING_FAMILIES, CampaignState

REFRESH_MILLISECONDS = 3000
"""Milliseconds between two looks at the store."""

FULL_REFRESH_CYCLES = 10
"""Looks at one run to each at all of them."""

MAX_LISTED_FAILURES = 100
MAX_CELLS = 400
"""Shards, or groups of as many shards, in the picture of all."""


def app(
    archive: str | os.PathLike[str], run: str = "default", *, control: bool = False
) -> pn.Template:
    """Make the page for one person; ``?run=NAME`` in its address names another run.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    run : str
        Run that is shown first.
    control : bool
        The API is served beside the page.

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
    return Watcher(os.fspath(archive), (asked or [run])[0], control).page()


class Watcher:
    """One person's look at a campaign.

    Parameters
    ----------
    archive, run : str
        Path or URL, and the run's name.
    control : bool
        The API is served beside the page.
    """

    def __init__(self, archive: str, run: str, control: bool) -> None:
        self.archive, self.control = archive, control
        self.runs = campaign_names(archive)
        self.run = run if run in self.runs else (self.runs or [run])[0]
        self.bridge = style.Bridge(self._receive)
        self.place = style.place()
        self.dark = False
        self._drawn: Any = None
        self._known: Any = None
        self._looking = False
        self._looks = 0
        self._repeat: Any = None

    def page(self) -> pn.Template:
        """Lay the page out."""
        return style.page(
            "campaign",
            self.bridge,
            {"history": self.place},
            app="campaign",
            heading=self.archive.rstrip("/").rsplit("/", 1)[-1],
            runs=self.runs,
            run=self.run,
            control=self.control,
            families=", ".join(DECIDING_FAMILIES),
            most=os.cpu_count() or 1,
            command=f"deepstreaks score {shlex.quote(self.archive)}",
            dashboard=f"deepstreaks dashboard {shlex.quote(self.archive)} --app campaign",
        )

    def _receive(self, message: dict[str, Any]) -> None:
        do = message.get("do")
        if do == "hello":
            self.dark = message.get("dark") is True
            self._repeat = pn.state.add_periodic_callback(self._look, REFRESH_MILLISECONDS)
            self._look()
        elif do == "theme":
            self.dark = message.get("dark") is True
            if self._drawn is not None:
                style.recolour(self._drawn, self.dark)
        elif do == "repeat" and self._repeat is not None:
            wanted = message.get("on") is True
            if wanted and not self._repeat.running:
                self._repeat.start()
            elif not wanted and self._repeat.running:
                self._repeat.stop()

    def _look(self) -> None:
        if self._looking:
            return
        self._looking = True

        every = self._looks % FULL_REFRESH_CYCLES == 0
        self._looks += 1

        def find() -> dict[str, Any] | DeepStreaksError:
            try:
                state, campaign = campaign_status(self.archive, self.run)
                found: dict[str, Any] = {"state": state, "campaign": campaign}
                if every:
                    found["quarantine"] = quarantine(self.archive)
                    found["all"] = [_row(self.archive, run) for run in campaign_names(self.archive)]
                return found
            except DeepStreaksError as error:  # shown below, and the next look may find it mended
                return error

        self.bridge.later(find, self._show)

    def _show(self, found: Any) -> None:
        self._looking = False
        if isinstance(found, DeepStreaksError):
            raise found
        if "quarantine" in found:
            self._show_all(found["all"], found["quarantine"])
        state, campaign = found["state"], found["campaign"]
        self.bridge.send("campaign", **_told(state, campaign))
        if state is None:
            return
        self.bridge.send("standing", **_words(state, self.archive))
        drawn = len(state.written), state.cutouts
        if drawn != self._known:
            self._known = drawn
            self._drawn = style.figure(
                plots.campaign_history(state.written, state.cutouts), self.dark
            )
            style.put(self.place, self._drawn)

    def _show_all(self, rows: list[list[str]], refused: pd.DataFrame) -> None:
        self.bridge.send("all", rows=rows)
        reasons = {str(k): int(v) for k, v in refused["reason"].value_counts().items()}
        self.bridge.send(
            "quarantine",
            reasons=reasons,
            total=len(refused),
            rows=[
                [
                    str(row["source"]),
                    plots.night_name(int(row["night"])),
                    str(row["reason"]),
                    str(row["detail"]),
                ]
                for _, row in refused.head(MAX_LISTED_FAILURES).iterrows()
            ],
        )


_STATE_TEXT = {
    CampaignState.STARTING: "The campaign is starting: its networks are being loaded.",
    CampaignState.AT_WORK: "Shards are being scored.",
    CampaignState.STOPPING: "It stops as soon as the shards under way are stored.",
    CampaignState.STOPPED: "Nothing is at work. A campaign goes on where it was.",
    CampaignState.KILLED: "It ended without a word: it was killed, or its machine stopped. A campaign goes on where it was.",
    CampaignState.DONE: "All cutouts have scores.",
}


def _told(state: Standing | None, campaign: LaunchedCampaign | None) -> dict[str, Any]:
    """Say what is at work, as the page shows it."""
    word = campaign_state(state, campaign)
    pulse = state.pulse if state is not None and state.at_work else None
    mine = campaign is not None and campaign.alive
    words = _STATE_TEXT[word]
    if word.may_pause and pulse is not None and not mine:
        words = f"It was started elsewhere: end process {pulse.pid} on {pulse.host} to pause it."
    return {
        "state": word.value,
        "words": words,
        "mine": mine,
        "last": campaign.last_words() if campaign and word.may_resume else "",
        "workers": pulse.workers if pulse else None,
        "threads": pulse.threads if pulse else None,
        "dashboard": pulse.dashboard if pulse else "",
        "host": pulse.host if pulse else "",
    }


def _row(archive: str, run: str) -> list[str]:
    """Tell of a run in one line."""
    state, campaign = campaign_status(archive, run)
    share = f"{100 * state.done / state.cutouts:.1f} %" if state and state.cutouts else "none"
    made = state.provenance if state else {}
    members = ", ".join(f"{m.get('name')}@{m.get('version')}" for m in made.get("members", []))
    began = str(made.get("started", campaign.started if campaign else ""))
    times = [time[:16].replace("T", " ") for time in (began, str(made.get("updated", "")))]
    return [run, campaign_state(state, campaign).value, share, *times, members]


def _words(state: Standing, archive: str) -> dict[str, Any]:
    """Say how far a run is, as the page shows it."""
    share = state.done / state.cutouts if state.cutouts else 0.0
    left = state.count("left")
    known = state.rate == state.rate
    tiles = [
        {
            "title": "Scored",
            "value": f"{100 * share:.1f} %",
            "note": f"{state.done:,} of {state.cutouts:,} cutouts",
        },
        {
            "title": "Shards",
            "value": f"{state.count('done'):,}",
            "note": f"{left:,} left, {state.count('failed'):,} failed",
        },
        {
            "title": "Rate",
            "value": f"{state.rate:,.0f} /s" if known else "unknown",
            "note": "cutouts, over the last five minutes of work"
            if known
            else "it takes two shards to tell",
        },
        {
            "title": "Time left",
            "value": str(timedelta(seconds=round(state.seconds_left)))
            if state.at_work and known
            else "none"
            if share == 1
            else "unknown",
            "note": "at the rate of the last five minutes of work",
        },
    ]
    made = state.provenance
    facts = [
        (key, str(made[key]))
        for key in (
            "zoo",
            "deepstreaks_dask",
            "keras",
            "backend",
            "dtype",
            "batch",
            "decided",
            "started",
            "updated",
        )
        if made.get(key) not in (None, "")
    ]
    return {
        "share": share,
        "tiles": tiles,
        "cells": _cells(state),
        "failures": [
            [first, last, why] for first, last, why in state.failures[:MAX_LISTED_FAILURES]
        ],
        "failed": len(state.failures),
        "members": [
            [str(m.get("name")), str(m.get("version")), str(m.get("family")), str(m.get("sha256"))]
            for m in made.get("members", [])
        ],
        "facts": facts,
        "command": f"deepstreaks score {shlex.quote(archive)} --run {shlex.quote(state.run)}",
    }


def _cells(state: Standing) -> list[dict[str, Any]]:
    """Group the shards into at most :data:`MAX_CELLS`, each with how many are done and failed."""
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
