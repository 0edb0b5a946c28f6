"""Failed attempts to log in, and how long the next one waits.

Attempts are counted by name and address together, so that a stranger elsewhere cannot lock a person out; by address, which
has many names to try; and by name from everywhere, with a limit that only many addresses together reach. A device on which
the person has logged in before is counted by itself, and not kept waiting by what others do.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from deepstreaks_dask.review.schema import AttemptRow, digest

FREE_ATTEMPTS = {"pair": 5, "device": 5, "address": 20, "user": 100}
"""Failed attempts after which each further one waits; an address may be a whole observatory's."""

_MEMORY = timedelta(hours=1)
_MAX_DELAY = 900.0  # seconds


def attempt_keys(name: str, address: str, device: str) -> dict[str, str]:
    """Return what an attempt is counted by.

    Parameters
    ----------
    name, address : str
        User name, and network address or network.
    device : str
        Secret of a device that the person has used before; empty for another one.

    Returns
    -------
    dict of str to str
        Hash by kind, one of :data:`FREE_ATTEMPTS`.
    """
    if device:
        return {"device": digest(device)}
    pair = digest(f"{name} {address}")
    return {"pair": pair, "address": digest(address), "user": digest(name)}


def attempt_delay(session: Session, keys: Mapping[str, str], now: float) -> float:
    """Return the seconds to wait after failed attempts: none for the first few, then twice as long each time.

    Parameters
    ----------
    session : sqlalchemy.orm.Session
        An open transaction.
    keys : mapping of str to str
        As :func:`attempt_keys` returns them.
    now : float
        Current time, in seconds since 1970.

    Returns
    -------
    float
        Seconds; 0 if the attempt may be made.
    """
    return max(_delay(session, kind, key, now) for kind, key in keys.items())


def _delay(session: Session, kind: str, key: str, now: float) -> float:
    count, last = session.execute(
        sa.select(sa.func.count(AttemptRow.id), sa.func.max(AttemptRow.at)).where(
            AttemptRow.kind == kind,
            AttemptRow.key == key,
            AttemptRow.at >= now - _MEMORY.total_seconds(),
        )
    ).one()
    if count < FREE_ATTEMPTS[kind]:
        return 0.0
    wait = min(2.0 ** (count - FREE_ATTEMPTS[kind] + 1), _MAX_DELAY)
    return max(0.0, float(last) + wait - now)


def count_attempt(session: Session, keys: Mapping[str, str], now: float) -> None:
    """Count an attempt, and forget those of more than an hour ago.

    Parameters
    ----------
    session : sqlalchemy.orm.Session
        An open transaction that writes.
    keys : mapping of str to str
        As :func:`attempt_keys` returns them.
    now : float
        Current time, in seconds since 1970.
    """
    session.execute(sa.delete(AttemptRow).where(AttemptRow.at < now - _MEMORY.total_seconds()))
    session.add_all(AttemptRow(kind=kind, key=key, at=now) for kind, key in keys.items())


def forget_attempts(session: Session, keys: Mapping[str, str]) -> None:
    """Forget failed attempts after a success.

    Of the address and of the name only this attempt is forgotten: others may go on guessing there.

    Parameters
    ----------
    session : sqlalchemy.orm.Session
        An open transaction that writes.
    keys : mapping of str to str
        As :func:`attempt_keys` returns them.
    """
    for kind, key in keys.items():
        found = AttemptRow.kind == kind, AttemptRow.key == key
        if kind in ("address", "user"):
            newest = sa.select(sa.func.max(AttemptRow.id)).where(*found).scalar_subquery()
            session.execute(sa.delete(AttemptRow).where(AttemptRow.id == newest))
        else:
            session.execute(sa.delete(AttemptRow).where(*found))
