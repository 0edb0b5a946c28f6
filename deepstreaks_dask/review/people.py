"""People of a review: who they are, what their role allows, and the errors that refuse them."""

from __future__ import annotations

from dataclasses import dataclass

from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.vocabulary import ROLES, Role


class ReviewError(DeepStreaksError):
    """A review database cannot be opened, or a user, token or verdict is unknown or invalid."""


class RefusedError(ReviewError):
    """The user's name, password or role does not allow the request."""


class WaitError(RefusedError):
    """Too many failed attempts to log in.

    Parameters
    ----------
    seconds : float
        As the attribute :attr:`seconds`.

    Attributes
    ----------
    seconds : float
        Seconds until the next attempt is accepted.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"too many failed attempts: wait {max(1, round(seconds))} seconds")


@dataclass(frozen=True)
class Person:
    """A user without the password.

    Attributes
    ----------
    name : str
        User name.
    role : Role
        What the user may do.
    active : bool
        Whether the user may log in.
    created : str
        Time at which the user was added, ISO 8601, UTC.
    second_factor : bool
        Whether the user logs in with one-time passwords.
    """

    name: str
    role: Role
    active: bool = True
    created: str = ""
    second_factor: bool = False

    def may(self, role: Role) -> bool:
        """Return whether this person may do what ``role`` may."""
        return self.role.includes(role)

    def need(self, role: Role) -> None:
        """Check that this person may do what ``role`` may.

        Parameters
        ----------
        role : Role
            The least role that is allowed.

        Raises
        ------
        RefusedError
            If this person's role does not include it.
        """
        if not self.may(role):
            raise RefusedError(f"{self.name} is a {self.role}: this needs a {role}")


def check_role(role: str) -> Role:
    """Return the role of a name.

    Parameters
    ----------
    role : str
        One of :data:`~deepstreaks_dask.vocabulary.ROLES`.

    Returns
    -------
    Role
        The role.

    Raises
    ------
    ReviewError
        If there is no such role.
    """
    try:
        return Role(role)
    except ValueError:
        raise ReviewError(f"role {role!r}: choose one of {', '.join(ROLES)}") from None
