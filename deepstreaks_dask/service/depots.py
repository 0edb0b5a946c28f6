"""Depots of nightly products: an HTTP directory listing behind basic authentication, or a folder.

Both hold a folder a night, ``YYYYMMDD``, with the files that :mod:`deepstreaks_dask.readers.depot` reads.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from deepstreaks_dask.errors import DepotError
from deepstreaks_dask.service.credentials import PASSWORD, USER, read_credentials
from deepstreaks_dask.service.listing import is_product


@dataclass(frozen=True)
class Remote:
    """A file in a depot; ``stamp`` is another one when the listing shows that the file has changed."""

    night: int
    name: str
    stamp: str = ""


class Depot(Protocol):
    """Where nightly products come from."""

    def list(self, night: int) -> list[Remote]:
        """List a night's products; none if there is no such night yet."""
        ...

    def fetch(self, remote: Remote, spool: Path) -> tuple[Path, bool]:
        """Return a file on this machine's disk, and whether it changed since the last call.

        A download is in ``spool`` and resumes from there, after a kill too.

        Parameters
        ----------
        remote : Remote
            As :meth:`list` returns it.
        spool : Path
            Folder for what is fetched.

        Returns
        -------
        Path, bool
            The file, and whether it changed.
        """
        ...


@dataclass(frozen=True)
class Limits:
    """What is accepted from a depot over HTTP.

    Attributes
    ----------
    timeout : float
        Seconds for all of a listing, for the headers of a file, and for each read.
    download : float
        Seconds for one attempt at a file; the next attempt resumes.
    pause : float
        Seconds before the second attempt, doubled for each further one.
    file_bytes : int
        Largest file.
    """

    timeout: float = 30.0
    download: float = 3600.0
    pause: float = 1.0
    file_bytes: int = 2**32


def open_depot(
    place: str,
    *,
    credentials: Path | None = None,
    limits: Limits | None = None,
    allow_plaintext: bool = False,
) -> Depot:
    """Open a depot.

    Parameters
    ----------
    place : str
        ``https://…``, or a folder.
    credentials : Path, optional
        In the form of a ``.netrc``, readable by its owner only. Else
        :data:`~deepstreaks_dask.service.credentials.USER` and
        :data:`~deepstreaks_dask.service.credentials.PASSWORD` of the environment, if there are.
    limits : Limits, optional
        Deadlines and largest sizes.
    allow_plaintext : bool
        Whether credentials may be sent over ``http://``, where everybody on the way can read them.

    Returns
    -------
    Depot
        Nothing is asked of it yet.

    Raises
    ------
    DepotError
        If there is no such folder, the URL holds a password, or the credentials cannot be used or would be sent
        without encryption.
    """
    from deepstreaks_dask.service.http_depot import HttpDepot

    if "://" not in place:
        if not Path(place).is_dir():
            raise DepotError(f"{place} is no folder: give one, or a URL that begins with https://")
        return FolderDepot(Path(place))
    parts = urlsplit(place)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DepotError(
            f"depot {place.split('://')[0]}://…: give a URL of http or https, or a folder"
        )
    if parts.username is not None or parts.password is not None:
        raise DepotError(
            f"the depot's URL ({parts.hostname}) holds credentials, where others may see them: give them in "
            f"a file with --credentials, or as {USER} and {PASSWORD}"
        )
    found = read_credentials(credentials, parts.hostname)
    if found is not None and parts.scheme != "https" and not allow_plaintext:
        raise DepotError(
            f"user and password would be sent to {parts.hostname} without encryption: use https://, or give "
            "--allow-plaintext where nobody else is on the way"
        )
    return HttpDepot(place, found, limits or Limits())


class FolderDepot:
    """A folder with a folder a night; its files are read where they lie.

    Parameters
    ----------
    folder : Path
        With a folder a night.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def list(self, night: int) -> list[Remote]:
        """List a night's products.

        Parameters
        ----------
        night : int
            YYYYMMDD.

        Returns
        -------
        list of Remote
            By name; empty if there is no such night.

        Raises
        ------
        DepotError
            If the folder cannot be read.
        """
        folder = self.folder / str(night)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            return [
                Remote(night, entry.name, f"{entry.stat().st_size} {entry.stat().st_mtime_ns}")
                for entry in entries
                if is_product(entry.name) and entry.is_file()
            ]
        except FileNotFoundError:
            if not self.folder.is_dir():  # a disk that is not mounted has no empty nights
                raise DepotError(f"{self.folder} is gone: is its disk mounted?") from None
            return []
        except OSError as error:
            raise DepotError(f"{folder} cannot be listed: {error}") from error

    def fetch(self, remote: Remote, spool: Path) -> tuple[Path, bool]:
        """Return the file itself.

        Parameters
        ----------
        remote : Remote
            As :meth:`list` returns it.
        spool : Path
            Folder with a note of what was seen last.

        Returns
        -------
        Path, bool
            The file, and whether it changed.

        Raises
        ------
        DepotError
            If it is gone.
        """
        file = self.folder / str(remote.night) / remote.name
        if not file.is_file():
            raise DepotError(f"{file} is gone")
        note = version_note(spool, remote.name)
        changed = not note.exists() or note.read_text() != remote.stamp
        note.write_text(remote.stamp)
        return file, changed


def version_note(spool: Path, name: str) -> Path:
    """Return the file beside a download that holds the version of it.

    Parameters
    ----------
    spool : Path
        Folder of downloads.
    name : str
        Name of the download.

    Returns
    -------
    Path
        It need not be there.
    """
    return spool / f"{name}.version"
