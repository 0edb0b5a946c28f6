"""Users of a review: add, list and change them."""

from __future__ import annotations

import re
from typing import Literal

import sqlalchemy as sa

from deepstreaks_dask.review.passwords import hash_password
from deepstreaks_dask.review.people import Person, ReviewError, check_role
from deepstreaks_dask.review.rows import get_user, person_from_row
from deepstreaks_dask.review.schema import FactorRow, SessionRow, UserRow, current_time
from deepstreaks_dask.review.second_factor import forget_factor, has_factor
from deepstreaks_dask.review.tokens import revoke_tokens
from deepstreaks_dask.review.transactions import CLI, Database, log
from deepstreaks_dask.vocabulary import Role

USER_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
"""What user names look like."""


class Users:
    """The users of a review.

    Parameters
    ----------
    database : Database
        Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._revision = 0

    @property
    def revision(self) -> int:
        """A number that changes when sessions end by way of this object, so that what was looked up before is stale."""
        return self._revision

    def record(self, who: str, what: str, detail: str = "") -> None:
        """Write an entry of the audit log: see :func:`~deepstreaks_dask.review.transactions.log`.

        Parameters
        ----------
        who : str
            User name.
        what, detail : str
            The action and its object.
        """
        self._database.record(who, what, detail)

    def add_user(
        self, name: str, password: str, role: str = Role.REVIEWER, *, by: str = CLI
    ) -> Person:
        """Add a user.

        Parameters
        ----------
        name : str
            Lower-case letters, digits and ``. _ @ -``.
        password : str
            12 characters or more.
        role : str
            One of :data:`~deepstreaks_dask.vocabulary.ROLES`.
        by : str
            Name of the user who adds this one, for the audit log.

        Returns
        -------
        Person
            The new user.

        Raises
        ------
        ReviewError
            If the user exists already, or the name, password or role is invalid.
        """
        if not USER_NAME.fullmatch(name):
            raise ReviewError(f"user {name!r}: use small letters, digits and . _ @ -, 64 at most")
        hashed = hash_password(name, password)
        try:
            with self._database.write() as session:
                user = UserRow(
                    name=name,
                    password=hashed,
                    role=check_role(role).value,
                    active=True,
                    created=current_time(),
                )
                session.add(user)
                session.flush()
                log(session, by, "user added", f"{name}, {role}")
                return person_from_row(user)
        except sa.exc.IntegrityError:
            raise ReviewError(f"there is a user {name!r} already: choose another name") from None

    def users(self) -> list[Person]:
        """Return the users, sorted by name."""
        with self._database.read() as session:
            factors = set(session.scalars(sa.select(FactorRow.user).where(FactorRow.confirmed)))
            found = session.scalars(sa.select(UserRow).order_by(UserRow.name))
            return [person_from_row(user, factor=user.id in factors) for user in found]

    def change_user(
        self,
        name: str,
        *,
        role: str | None = None,
        active: bool | None = None,
        password: str | None = None,
        second_factor: Literal[False] | None = None,
        by: str = CLI,
    ) -> Person:
        """Change the role or password of a user, or disable or enable the user.

        The user's sessions end at once, and with another password the tokens, too.

        Parameters
        ----------
        name : str
            User name.
        role : str, optional
            The new role, one of :data:`~deepstreaks_dask.vocabulary.ROLES`.
        active : bool, optional
            False disables the user, True enables the user.
        password : str, optional
            The new password.
        second_factor : bool, optional
            False removes the user's one-time passwords.
        by : str
            Name of the user who changes this one, for the audit log.

        Returns
        -------
        Person
            The user after the change.

        Raises
        ------
        ReviewError
            If there is no such user, or no active administrator would be left.
        """
        hashed = hash_password(name, password) if password is not None else None
        # The lock keeps two administrators from disabling each other.
        with self._database.write("users") as session:
            user = get_user(session, name)
            was_administrator = _is_active_administrator(user)
            if role is not None and check_role(role) != user.role:
                user.role = check_role(role).value
                log(session, by, "role changed", f"{name}, {role}")
            if active is not None and active != user.active:
                user.active = active
                log(session, by, "user enabled" if active else "user disabled", name)
            if hashed is not None:
                user.password = hashed
                revoke_tokens(session, user)
                log(session, by, "password changed", name)
            if second_factor is False:
                forget_factor(session, user)
                log(session, by, "one-time passwords removed", name)
            session.flush()
            if was_administrator and not _is_active_administrator(user):
                left = sa.select(sa.func.count(UserRow.id)).where(
                    UserRow.role == Role.ADMINISTRATOR.value, UserRow.active
                )
                if not session.scalar(left):
                    raise ReviewError(f"{name!r} is the last administrator: make another one first")
            session.execute(sa.delete(SessionRow).where(SessionRow.user == user.id))
            changed = person_from_row(user, factor=has_factor(session, user))
        self._revision += 1
        return changed


def _is_active_administrator(user: UserRow) -> bool:
    return bool(user.active) and user.role == Role.ADMINISTRATOR
