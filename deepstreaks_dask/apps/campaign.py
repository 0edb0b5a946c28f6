"""The campaign dashboard: how far a run is, how fast, what failed, what made its scores.

It reads the store alone, so that it shows campaigns of any machine, and looks again every few seconds.
"""

from __future__ import annotations

import os
import shlex
from datetime import timedelta
from typing import Any

import pandas as pd
import panel as pn

from deepstreaks_dask import plots
from deepstreaks_dask.apps import style
from deepstreaks_dask.archive import open_archive, quarantine
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.runs import list_runs
from deepstreaks_dask.standing import Standing, standing

EVERY = 3000
"""Milliseconds between two looks at the store."""

LISTED = 100
CELLS = 400
"""Shards, or groups of as many shards, in the picture of all."""


def app(archive: str | os.PathLike[str], run: str = "default") -> pn.Template:
    """Make the page for one person; ``?run=NAME`` in its address names another run.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    run : str
        Run that is shown first.

    Raises
    ------
    DeepStreaksError
        If there is no such archive.
    """
    asked = [value.decode(errors="replace") for value in pn.state.session_args.get("run", [])]
    return Watcher(os.fspath(archive), (asked or [run])[0]).page()


class Watcher:
    """One person's look at a campaign."""

    def __init__(self, archive: str, run: str) -> None:
        self.archive = archive
        self.url = open_archive(archive).attrs["url"]
        self.runs = list_runs(archive)
        self.run = run if run in self.runs else (self.runs or [run])[0]
        self.bridge = style.Bridge(self._receive)
        self.place = style.place()
        self.dark = False
        self._drawn: Any = None
        self._known: Any = None
        self._looking = False
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
            command=f"deepstreaks score {shlex.quote(self.archive)}",
        )

    def _receive(self, message: dict[str, Any]) -> None:
        do = message.get("do")
        if do == "hello":
            self.dark = message.get("dark") is True
            if self.runs:
                self._repeat = pn.state.add_periodic_callback(self._look, EVERY)
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

        def look() -> tuple[Standing | None, pd.DataFrame] | DeepStreaksError:
            try:
                return (standing(self.archive, self.run) if self.runs else None), quarantine(
                    self.archive
                )
            except DeepStreaksError as error:  # shown below, and the next look may find it mended
                return error

        self.bridge.later(look, self._show)

    def _show(self, found: Any) -> None:
        self._looking = False
        if isinstance(found, DeepStreaksError):
            raise found
        state, refused = found
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
                for _, row in refused.head(LISTED).iterrows()
            ],
        )
        if state is None:
            return
        self.bridge.send("standing", **_words(state, self.archive))
        known = len(state.written), state.cutouts
        if known != self._known:
            self._known = known
            self._drawn = style.figure(
                plots.campaign_history(state.written, state.cutouts), self.dark
            )
            style.put(self.place, self._drawn)


def _words(state: Standing, archive: str) -> dict[str, Any]:
    """Say how far a run is, as the page shows it."""
    share = state.done / state.cutouts if state.cutouts else 0.0
    left = state.count("left")
    known = state.rate == state.rate
    if state.done == state.cutouts:
        status, words = "done", "All cutouts have scores."
    elif state.at_work:
        status, words = "at work", "Shards are being written."
    else:
        status, words = (
            "stopped",
            "No shard was written lately. Run the command below: it goes on where it was.",
        )
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
            "note": words,
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
        "status": status,
        "share": share,
        "tiles": tiles,
        "cells": _cells(state),
        "failures": [[first, last, why] for first, last, why in state.failures[:LISTED]],
        "failed": len(state.failures),
        "members": [
            [str(m.get("name")), str(m.get("version")), str(m.get("family")), str(m.get("sha256"))]
            for m in made.get("members", [])
        ],
        "facts": facts,
        "command": f"deepstreaks score {shlex.quote(archive)} --run {shlex.quote(state.run)}",
    }


def _cells(state: Standing) -> list[dict[str, Any]]:
    """Group the shards into at most :data:`CELLS`, each with how many are done and failed."""
    each = max(1, -(-len(state.shards) // CELLS))
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
