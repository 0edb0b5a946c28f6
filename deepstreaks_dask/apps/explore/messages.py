"""What a page may say, each part checked before it is used, and tables as it can be told them."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.interactive import Selection


def one_of(value: Any, known: Any) -> Any:
    """Take a value that is among the known ones.

    Parameters
    ----------
    value : object
        What the page said.
    known : sequence
        What it may say.

    Returns
    -------
    object
        The value.

    Raises
    ------
    DeepStreaksError
        If it is not.
    """
    if not isinstance(value, str | int) or value not in known:
        raise DeepStreaksError(f"{str(value)[:80]!r} is none of {', '.join(map(str, known))}")
    return value


def share(value: Any) -> float:
    """Take a number from 0 to 1.

    Parameters
    ----------
    value : object
        What the page said.

    Returns
    -------
    float
        The number.

    Raises
    ------
    DeepStreaksError
        If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DeepStreaksError(f"{str(value)[:40]!r}: give a number from 0 to 1")
    return float(value)


def whole(value: Any) -> int:
    """Take a whole number.

    Parameters
    ----------
    value : object
        What the page said.

    Returns
    -------
    int
        The number.

    Raises
    ------
    DeepStreaksError
        If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0:
        raise DeepStreaksError(f"{str(value)[:40]!r}: give a whole number")
    return int(value)


def selection(chosen: dict[str, Any], filter: str | None) -> Selection:
    """Take a selection of cutouts.

    Parameters
    ----------
    chosen : dict
        Attributes of :class:`~deepstreaks_dask.evaluation.interactive.Selection` other than ``filter``.
    filter : str, optional
        The filter that the page shows.

    Returns
    -------
    Selection
        Of checked parts.

    Raises
    ------
    DeepStreaksError
        If a part of it cannot be one.
    """
    ranges = chosen.get("ranges") or []
    if (
        not isinstance(ranges, list)
        or len(ranges) > 4
        or not all(isinstance(part, list) and len(part) == 3 for part in ranges)
    ):
        raise DeepStreaksError("ranges of scores: give name, lowest and highest score")
    named = [(str(name), share(low), share(high)) for name, low, high in ranges]
    optional: dict[str, Any] = {
        "night": None if chosen.get("night") is None else whole(chosen["night"]),
        "truth": None if chosen.get("truth") is None else one_of(chosen["truth"], (1, 0, -1)),
        "plausible": None if chosen.get("plausible") is None else chosen["plausible"] is True,
        "region": None if chosen.get("region") is None else str(chosen["region"]),
    }
    return Selection(filter=filter, ranges=tuple(named), **optional)


def plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Give a table's rows, whatever its columns, as JSON can hold them; NaN becomes None."""
    return [
        {
            str(key): None if isinstance(value, float) and math.isnan(value) else value
            for key, value in row.items()
        }
        for row in table.to_dict("records")
    ]
