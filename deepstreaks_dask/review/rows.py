"""Rows of users as people."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from deepstreaks_dask.errors import did_you_mean
from deepstreaks_dask.review.people import Person, ReviewError, check_role
from deepstreaks_dask.review.schema import UserRow, iso_time
from deepstreaks_dask.vocabulary import Role


def person_from_row(
    user: UserRow, *, most: Role = Role.ADMINISTRATOR, factor: bool = False
) -> Person:
    """Return the user of a row without the password.

    Parameters
    ----------
    user : UserRow
        The row.
    most : Role
        The highest role that the person gets.
    factor : bool
        Whether the user logs in with one-time passwords.

    Returns
    -------
    Person
        The user.
    """
    own = check_role(user.role)
    role = most if own.includes(most) else own
    return Person(user.name, role, bool(user.active), iso_time(user.created), factor)


def get_user(session: Session, name: str) -> UserRow:
    """Return the row of a user.

    Parameters
    ----------
    session : sqlalchemy.orm.Session
        An open transaction.
    name : str
        User name.

    Returns
    -------
    UserRow
        The row, attached to the session.

    Raises
    ------
    ReviewError
        If the database has no such user.
    """
    user = session.scalar(sa.select(UserRow).where(UserRow.name == name))
    if user is None:
        known = session.scalars(sa.select(UserRow.name)).all()
        hint = did_you_mean(name, known).rstrip()
        raise ReviewError(f"no user {name!r}" + (f": {hint}" if hint else ""))
    return user
