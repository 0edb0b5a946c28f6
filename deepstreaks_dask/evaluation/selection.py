"""What is asked of an exploration, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from deepstreaks_dask.evaluation.metrics import Confusion


@dataclass(frozen=True)
class Selection:
    """Which cutouts to look at; what is None is left open.

    Attributes
    ----------
    night : int
        YYYYMMDD, 0 for those whose night is not known.
    filter : str
        Filter, ``""`` for not known.
    truth : int
        What is truly plausible: 1, 0 or -1 (unknown).
    plausible : bool
        What the decision says; cutouts whose decision is open are in neither.
    region : str
        Region of the families' Venn diagram, ``"rb&kd"`` or ``"none"``.
    ranges : tuple of (str, float, float)
        Member, family or ``"decision"``, and the lowest and highest score.
    """

    night: int | None = None
    filter: str | None = None
    truth: int | None = None
    plausible: bool | None = None
    region: str | None = None
    ranges: tuple[tuple[str, float, float], ...] = ()


@dataclass(frozen=True)
class Counts:
    """What a decision leads to, over all nights or one filter; equal to what ``evaluation`` measures.

    Attributes
    ----------
    cutouts, decided, plausible : int
    joint : Confusion
        The decision against what is truly plausible.
    members, families : pandas.DataFrame
        A row each: ``name, passed, tpr, fpr`` against the label of their family, ``n_pos, n_neg``.
    nights : pandas.DataFrame
        As :func:`~deepstreaks_dask.evaluation.decision_metrics.rates_by_night` gives it.
    venn : dict
        As :func:`~deepstreaks_dask.evaluation.decision_metrics.venn` gives it.
    """

    cutouts: int
    decided: int
    plausible: int
    joint: Confusion
    members: pd.DataFrame
    families: pd.DataFrame
    nights: pd.DataFrame
    venn: dict[str, int]
