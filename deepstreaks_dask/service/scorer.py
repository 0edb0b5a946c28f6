"""Scores what is new in an archive with Dask workers, and the candidates among it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from dask.distributed import Client

from deepstreaks_dask.errors import StoppedError

if TYPE_CHECKING:
    from deepstreaks_dask.scoring.plan import CampaignPlan

Score = Callable[[str, int], xr.Dataset]
"""Scores what is not scored yet from a row of an archive on, and returns the decided scores of all of its rows."""

_PORTION = 4  # shards a thread, between two signs of progress


class Scorer(AbstractContextManager["Scorer"]):
    """Scores an archive with Dask workers that are kept from one pass to the next, and replaced when lost.

    Parameters
    ----------
    zoo : str, optional
        Path or URL of the zoo; the one that ships with the package by default.
    run : str
        Name of the run.
    thresholds : mapping of str to float
        Of the decision, as :class:`~deepstreaks_dask.scoring.decision.Decision` takes them.
    connect : callable
        Returns a Dask client, as :func:`~deepstreaks_dask.scoring.cluster.connect` does.
    only_decide : bool
        Whether members look only while the decision is open; the run keeps these thresholds then.
    stop : threading.Event, optional
        Once it is set, the shards under way are stored and no others begun.

    Attributes
    ----------
    moved : callable
        Called whenever a portion of the shards is scored.
    """

    def __init__(
        self,
        zoo: str | None,
        run: str,
        thresholds: Mapping[str, float],
        connect: Callable[[], Client],
        *,
        only_decide: bool = False,
        stop: threading.Event | None = None,
    ) -> None:
        self.zoo, self.run, self.thresholds, self.connect = zoo, run, thresholds, connect
        self.only_decide, self.stop = only_decide, stop
        self.moved: Callable[[], None] = lambda: None
        self._client: Client | None = None

    def __call__(self, archive: str, first: int = 0) -> xr.Dataset:
        """Score what is new, and decide.

        Parameters
        ----------
        archive : str
            Path or URL.
        first : int
            Shards that end before this row are left as they are.

        Returns
        -------
        xarray.Dataset
            Decided scores of all rows.

        Raises
        ------
        DeepStreaksError
            If it cannot be done now; the next call begins with new workers if these were lost.
        """
        from deepstreaks_dask.scoring.decision import Decision
        from deepstreaks_dask.scoring.ensemble import Ensemble
        from deepstreaks_dask.scoring.plan import plan_campaign
        from deepstreaks_dask.scoring.runs import open_run

        decision = Decision(self.thresholds)
        plan = plan_campaign(
            archive,
            ensemble=Ensemble.from_zoo(self.zoo),
            run=self.run,
            mode="decide" if self.only_decide else "all",
            decision=decision if self.only_decide else None,
        )
        todo = replace(
            plan.todo,
            shards=tuple(shard for shard in plan.todo.shards if shard[1] > first),
            torn=tuple(shard for shard in plan.todo.torn if shard[1] > first),
        )
        if self._client is None:
            self._client = self.connect()
        try:
            self._execute(replace(plan, todo=todo), self._client)
        except StoppedError:
            self.__exit__()
            raise
        return decision.apply(open_run(archive, self.run))

    def _execute(self, plan: CampaignPlan, client: Client) -> None:
        """Carry out a plan in portions, so that it can be seen to move."""
        from deepstreaks_dask.scoring.campaign import execute  # needs networks

        shards, size = plan.todo.shards, _PORTION
        with suppress(OSError):  # execute() says it better
            size *= max(sum(client.nthreads().values()), 1)
        todo = plan.todo
        for k in range(0, max(len(shards), 1), size):
            todo = replace(todo, shards=shards[k : k + size])
            execute(replace(plan, todo=todo), client, stop=self.stop, progress=False)
            self.moved()
            if self.stop is not None and self.stop.is_set():
                return
            todo = replace(todo, torn=())  # they were cleared

    def __exit__(self, *_: object) -> None:
        """Close the client and its workers."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(
                TimeoutError, OSError
            ):  # workers that are slow to end are ended all the same
                client.close()


def candidate_rows(decided: xr.Dataset) -> list[dict[str, Any]]:
    """Return the plausible cutouts as the state records them.

    Parameters
    ----------
    decided : xarray.Dataset
        Decided scores ``(cutout, model)``.

    Returns
    -------
    list of dict
        Columns of each; None where a value is not known.
    """
    rows = np.flatnonzero(decided["plausible"].values)
    names = ("jd", "ra", "dec", "length", "mag")
    columns = {
        name: decided[name].isel(cutout=rows).values
        for name in ("id", "night", "filter", "scores", *names)
    }
    models = [str(model) for model in decided["model"].values]
    return [
        {
            "id": str(columns["id"][k]),
            "night": int(columns["night"][k]),
            "filter": str(columns["filter"][k]) or None,
            **{name: _known(columns[name][k]) for name in names},
            "scores": {
                model: float(score)
                for model, score in zip(models, columns["scores"][k], strict=True)
                if score == score
            },
        }
        for k in range(len(rows))
    ]


def _known(value: Any) -> float | None:
    return float(value) if value == value else None
