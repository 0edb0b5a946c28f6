"""Rows that are withdrawn: they stay where they are, and the commit record lists them.

Scores of runs, units of a campaign's work and the offsets of sequences name rows by their numbers, so that a row keeps its
number for ever. Withdrawing rows therefore moves none: the attribute ``retracted`` of the commit record lists their
numbers, which is one small object, replaced in one step, whatever the size of the archive.
:func:`~deepstreaks_dask.archive.dataset.open_archive` leaves the rows out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr

from deepstreaks_dask.archive.schema import ROW_DIMS, STORED_ROW
from deepstreaks_dask.archive.store import read_commit_record
from deepstreaks_dask.errors import ArchiveError

RETRACTED_ATTRIBUTE = "retracted"
"""Attribute of the commit record that lists the withdrawn rows."""

CORRECTIONS_ATTRIBUTE = "corrections"
"""Attribute of the commit record that counts the changes to rows that were committed before."""


@dataclass(frozen=True)
class Retraction:
    """Rows that were withdrawn together.

    Attributes
    ----------
    rows : tuple of (int, int)
        Rows ``[first, last)`` of the archive.
    reason : str
        Such as ``"night 20260101 withdrawn"``.
    night : int
        The night that was withdrawn, YYYYMMDD; 0 where single cutouts were replaced.
    time : str
        When, in UTC.
    """

    rows: tuple[tuple[int, int], ...]
    reason: str
    night: int
    time: str

    @classmethod
    def now(cls, rows: Iterable[int] | np.ndarray, reason: str, night: int = 0) -> Retraction:
        """Return the retraction of some rows at this moment.

        Parameters
        ----------
        rows : iterable of int
            Row numbers in the archive, in any order.
        reason : str
            Why.
        night : int
            The night that is withdrawn, YYYYMMDD; 0 if not a night.

        Returns
        -------
        Retraction
            Not in the commit record yet.
        """
        when = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(tuple(_stretches(np.sort(np.fromiter(rows, np.int64)))), reason, night, when)

    @property
    def count(self) -> int:
        """Number of rows."""
        return sum(last - first for first, last in self.rows)

    def numbers(self) -> np.ndarray:
        """Return the numbers of the rows, int64 ``(row,)``, ascending."""
        parts = [np.arange(first, last) for first, last in self.rows]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def without(self, rows: np.ndarray) -> Retraction:
        """Return what is left of the retraction if some rows are restored."""
        left = np.setdiff1d(self.numbers(), rows)
        return Retraction(tuple(_stretches(left)), self.reason, self.night, self.time)

    def to_dict(self) -> dict[str, Any]:
        """Return the retraction as the commit record holds it."""
        return {
            "rows": [list(pair) for pair in self.rows],
            "reason": self.reason,
            "night": self.night,
            "time": self.time,
        }


def retractions(attributes: Mapping[str, Any]) -> list[Retraction]:
    """Return the retractions that a commit record lists, the oldest first.

    Parameters
    ----------
    attributes : mapping
        Attributes of the commit record.

    Returns
    -------
    list of Retraction
        Empty where nothing was withdrawn.

    Raises
    ------
    ArchiveError
        If the list is not as this package writes it.
    """
    try:
        return [
            Retraction(
                tuple(_checked_range(*pair) for pair in one["rows"]),
                str(one["reason"]),
                int(one["night"]),
                str(one["time"]),
            )
            for one in attributes.get(RETRACTED_ATTRIBUTE, ())
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f"the list of withdrawn rows cannot be read ({error!r})") from error


def _checked_range(first: int, last: int) -> tuple[int, int]:
    if type(first) is not int or type(last) is not int or not 0 <= first < last:
        raise ValueError(f"rows {first!r} to {last!r}")
    return first, last


def with_retractions(attributes: Mapping[str, Any], found: Iterable[Retraction]) -> dict[str, Any]:
    """Return attributes of a commit record that list these retractions in place of others.

    Parameters
    ----------
    attributes : mapping
        Attributes of the commit record.
    found : iterable of Retraction
        Those to list; one without rows is left out.

    Returns
    -------
    dict
        Attributes that count one more correction.
    """
    kept = [one.to_dict() for one in found if one.rows]
    others = {name: value for name, value in attributes.items() if name != RETRACTED_ATTRIBUTE}
    return corrected({**others, **({RETRACTED_ATTRIBUTE: kept} if kept else {})})


def corrected(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes of a commit record that count one more correction."""
    return {**attributes, CORRECTIONS_ATTRIBUTE: int(attributes.get(CORRECTIONS_ATTRIBUTE, 0)) + 1}


def retracted_mask(attributes: Mapping[str, Any], total: int) -> np.ndarray:
    """Return which rows are withdrawn.

    Parameters
    ----------
    attributes : mapping
        Attributes of the commit record.
    total : int
        Committed rows.

    Returns
    -------
    ndarray
        bool ``(row,)``.
    """
    mask = np.zeros(total, bool)
    for one in retractions(attributes):
        for first, last in one.rows:
            mask[first:last] = True
    return mask


def retracted_rows(url: str | os.PathLike[str], total: int) -> np.ndarray:
    """Return which rows of an archive are withdrawn.

    Parameters
    ----------
    url : str or path
        The archive.
    total : int
        Its rows, withdrawn ones included.

    Returns
    -------
    ndarray
        bool ``(row,)``.
    """
    return retracted_mask(read_commit_record(url).attributes, total)


def without_retracted(dataset: xr.Dataset, attributes: Mapping[str, Any]) -> xr.Dataset:
    """Leave withdrawn rows out of a dataset of all rows.

    Parameters
    ----------
    dataset : xarray.Dataset
        All rows of an archive.
    attributes : mapping
        Attributes of the commit record.

    Returns
    -------
    xarray.Dataset
        The same dataset where nothing is withdrawn; otherwise the other rows, with their numbers in the archive as
        coordinate :data:`STORED_ROW`. The epochs of withdrawn objects stay: no object refers to them.
    """
    if not attributes.get(RETRACTED_ATTRIBUTE):
        return dataset  # which may have more rows than fit in memory
    (row,) = dataset["id"].dims
    kept = np.flatnonzero(~retracted_mask(attributes, dataset.sizes[row]))
    first, last = (int(kept[0]), int(kept[-1]) + 1) if len(kept) else (0, 0)
    whole = last - first == len(kept)
    dataset = dataset.isel({row: slice(first, last) if whole else kept})
    described = {"long_name": "number of the row in the archive"}
    return dataset.assign_coords({STORED_ROW: (row, kept, described)})


def stored_rows(dataset: xr.Dataset) -> np.ndarray:
    """Return the numbers that the rows of a dataset have in the archive.

    Parameters
    ----------
    dataset : xarray.Dataset
        As :func:`~deepstreaks_dask.archive.dataset.open_archive` or
        :func:`~deepstreaks_dask.scoring.runs.open_run` returns it: all of its rows.

    Returns
    -------
    ndarray
        int64 ``(row,)``.
    """
    if STORED_ROW in dataset.coords:
        return np.asarray(dataset[STORED_ROW].values)
    row = next(name for name in ROW_DIMS if name in dataset.sizes)
    return np.arange(dataset.sizes[row])


def _stretches(rows: np.ndarray) -> list[tuple[int, int]]:
    """Return ``[first, last)`` of each stretch of neighbouring rows, which are in ascending order."""
    if not len(rows):
        return []
    breaks = np.flatnonzero(np.diff(rows) > 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(rows, breaks)]
