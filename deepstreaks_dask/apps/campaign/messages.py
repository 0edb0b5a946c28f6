"""The messages of the campaign's page: what ``pages/campaign.js`` sends, and what it takes."""

from __future__ import annotations

from typing import Any, Literal

from deepstreaks_dask.apps.messages import Hello, Message, MessageSchema, Theme, Update
from deepstreaks_dask.vocabulary import Role


class Repeat(Message, role=Role.VIEWER):
    """Refresh the page every few seconds, or stop doing so.

    Attributes
    ----------
    on : bool
        Refresh it.
    """

    do: Literal["repeat"]
    on: bool


SCHEMA = MessageSchema(Hello, Theme, Repeat)
"""All messages that the campaign's page may send."""


class Activity(Update):
    """Whether the campaign runs, where, and with how many workers.

    Attributes
    ----------
    state, words : str
        One of :data:`~deepstreaks_dask.apps.campaign.app.STATE_TEXT`, and its description.
    mine : bool
        The campaign was started on this machine and can be paused here.
    last : str
        The last error of a campaign that has stopped.
    workers, threads : int, optional
        How many, while it runs.
    dashboard, host : str
        Address of Dask's dashboard, and the machine; empty while it does not run.
    """

    what: Literal["campaign"] = "campaign"
    state: str
    words: str
    mine: bool
    last: str
    workers: int | None
    threads: int | None
    dashboard: str
    host: str


class Progress(Update):
    """How much of a run is scored, and what its scores are made from.

    Attributes
    ----------
    share : float
        Cutouts that are scored, a share from 0 to 1.
    tiles : list of dict
        Headline figures.
    cells : list of dict
        A shard, or a group of shards, each: ``first`` and ``last`` shard, share ``done``, how many ``failed``.
    failures : list
        First row, row after the last one, and reason of each failed shard.
    failed : int
        How many shards failed.
    members, facts : list
        The networks, and the run's provenance.
    command : str
        The command that resumes the run.
    """

    what: Literal["standing"] = "standing"
    share: float
    tiles: list[dict[str, Any]]
    cells: list[dict[str, Any]]
    failures: list[tuple[int, int, str]]
    failed: int
    members: list[tuple[str, str, str, str]]
    facts: list[tuple[str, str]]
    command: str


class AllRuns(Update):
    """The runs of the archive.

    Attributes
    ----------
    rows : list
        Of each run: its name, state, share that is scored, start, latest update and networks.
    """

    what: Literal["all"] = "all"
    rows: list[list[str]]


class RefusedInputs(Update):
    """The inputs in quarantine.

    Attributes
    ----------
    reasons : dict of str to int
        How many for which reason.
    total : int
        How many there are.
    rows : list
        Source, night, reason and detail of the first ones.
    """

    what: Literal["quarantine"] = "quarantine"
    reasons: dict[str, int]
    total: int
    rows: list[tuple[str, str, str, str]]
