"""Secrets of the service: from files that nobody else may read, or from the environment, never from a command line."""

from __future__ import annotations

import netrc
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from deepstreaks_dask.errors import DepotError

USER, PASSWORD = "DEEPSTREAKS_DEPOT_USER", "DEEPSTREAKS_DEPOT_PASSWORD"
"""Environment variables with the depot's credentials."""

SMTP_USER, SMTP_PASSWORD = "DEEPSTREAKS_SMTP_USER", "DEEPSTREAKS_SMTP_PASSWORD"
"""Environment variables with the mail server's credentials."""

WEBHOOK = "DEEPSTREAKS_WEBHOOK"
"""Environment variable with the webhook's URL, which is a secret."""

_MAX_SECRET_BYTES = 2**16


@dataclass(frozen=True)
class Credentials:
    """User and password; the latter is never shown."""

    user: str
    password: str = field(repr=False)


def read_private(file: Path) -> str:
    """Read a file that only its owner may read.

    Parameters
    ----------
    file : Path
        With a secret.

    Returns
    -------
    str
        All of it.

    Raises
    ------
    DepotError
        If it cannot be read, or others may read it.
    """
    try:
        with file.open() as opened:
            state = os.fstat(opened.fileno())
            # systemd's credentials show the mask of an access list as rights of a group
            others = stat.S_IRWXO if _is_of_systemd(file) else stat.S_IRWXG | stat.S_IRWXO
            if state.st_mode & others:
                raise DepotError(f"{file} may be read by others: chmod 600 {file}")
            return opened.read(_MAX_SECRET_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise DepotError(f"credentials {file} cannot be read: {type(error).__name__}") from None


def _is_of_systemd(file: Path) -> bool:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(folder) and file.absolute().parent == Path(str(folder))


def read_credentials(
    file: Path | None, host: str, *, variables: tuple[str, str] = (USER, PASSWORD)
) -> Credentials | None:
    """Read the credentials for a host from a file, or else from the environment.

    Parameters
    ----------
    file : Path, optional
        In the form of a ``.netrc``.
    host : str
        Name of the host.
    variables : tuple of str
        Environment variables of user and password.

    Returns
    -------
    Credentials or None
        None where there are none.

    Raises
    ------
    DepotError
        If others may read the file, or it says nothing of the host.
    """
    if file is None:
        user, password = map(os.environ.get, variables)
        if (user is None) != (password is None):
            raise DepotError(f"of {' and '.join(variables)} one is missing: set both, or neither")
        return Credentials(user, password) if user is not None and password is not None else None
    read_private(file)
    try:
        found = netrc.netrc(str(file)).authenticators(host)
    except OSError as error:
        raise DepotError(f"credentials {file} cannot be read: {type(error).__name__}") from None
    except netrc.NetrcParseError:  # its message would tell what stands there
        raise DepotError(
            f"credentials {file} are in no such form: write them like 'machine {host} login … password …'"
        ) from None
    if found is None:
        raise DepotError(f"credentials {file} say nothing of {host}: add a line 'machine {host} …'")
    return Credentials(found[0], found[2])
