"""The nights that a service is responsible for, as dates in UTC."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from deepstreaks_dask.errors import DepotError

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Nights:
    """A range of nights.

    Attributes
    ----------
    first, last : int, optional
        ``YYYYMMDD``. Without ``last`` until tonight, whenever that is; without either, from last night on, since
        files come late.
    """

    first: int | None = None
    last: int | None = None

    @property
    def open_ended(self) -> bool:
        """Whether the range grows by a night a day."""
        return self.last is None

    def __call__(self) -> list[int]:
        """Return the nights, in order."""
        tonight = to_date(tonight_utc())
        start = to_date(self.first) if self.first is not None else tonight - _DAY
        return list(nights_from(to_night(start), self.last or tonight_utc()))


def nights_between(first: int | None, last: int | None) -> Nights:
    """Return a range of nights to watch.

    Parameters
    ----------
    first, last : int, optional
        As for :class:`Nights`.

    Returns
    -------
    Nights
        Called, it returns the nights, YYYYMMDD.

    Raises
    ------
    DepotError
        If one is no date, or they are in the wrong order.

    Examples
    --------
    >>> from deepstreaks_dask.service import nights_between
    >>> nights_between(20260227, 20260302)()
    [20260227, 20260228, 20260301, 20260302]
    """
    start, end = (to_date(night) if night is not None else None for night in (first, last))
    if start is None and end is not None:
        raise DepotError("give --from too, where there is --to")
    if start and end and start > end:
        raise DepotError(f"--from {first} is after --to {last}: exchange them")
    return Nights(first, last)


def tonight_utc() -> int:
    """Return tonight, YYYYMMDD, by the date in UTC."""
    return to_night(datetime.now(UTC).date())


def nights_from(first: int, last: int) -> Iterator[int]:
    """Yield all nights from one to another, in order; none if the last is before the first.

    Parameters
    ----------
    first, last : int
        YYYYMMDD.

    Yields
    ------
    int
        YYYYMMDD.
    """
    day, end = to_date(first), to_date(last)
    while day <= end:
        yield to_night(day)
        day += _DAY


def age_in_days(night: int) -> int:
    """Return how many days ago a night was; 0 for tonight."""
    return (to_date(tonight_utc()) - to_date(night)).days


def to_night(day: date) -> int:
    """Return a date as a night, YYYYMMDD."""
    return int(day.strftime("%Y%m%d"))


def to_date(night: int) -> date:
    """Return the date of a night.

    Parameters
    ----------
    night : int
        YYYYMMDD.

    Returns
    -------
    datetime.date
        Of the same day.

    Raises
    ------
    DepotError
        If it is none.
    """
    try:
        return datetime.strptime(f"{night:08d}", "%Y%m%d").date()
    except ValueError:
        raise DepotError(f"night {night}: write it as YYYYMMDD") from None
