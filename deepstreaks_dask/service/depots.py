"""Depots of nightly products: an HTTP directory listing behind basic authentication, or a folder.

Both hold a folder a night, ``YYYYMMDD``, with the files that :mod:`deepstreaks_dask.readers.depot` reads.
"""

from __future__ import annotations

import errno
import netrc
import os
import re
import shutil
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import unquote, urljoin, urlsplit

import requests
import urllib3

from deepstreaks_dask.errors import DepotError
from deepstreaks_dask.readers.depot import ADES, TABLE, TARBALL

USER, PASSWORD = "DEEPSTREAKS_DEPOT_USER", "DEEPSTREAKS_DEPOT_PASSWORD"
"""Environment variables with the credentials."""

_T = TypeVar("_T")
_FILE_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,200}", re.ASCII)
_PRODUCT_SUFFIXES = TARBALL, TABLE, ADES
_MAX_LISTING_BYTES = 2**26
_BLOCK_BYTES = 2**13  # so little is lost when a download breaks off, or we are killed
_FREE_SPACE_RESERVE = 2**26  # bytes of disk left free
_MIN_BYTES_PER_SECOND = 1024  # bytes a second, once a download has lasted for its time-out


@dataclass(frozen=True)
class Remote:
    """A file in a depot; ``stamp`` is another one when the listing shows that the file has changed."""

    night: int
    name: str
    stamp: str = ""


@dataclass(frozen=True)
class Credentials:
    """User and password; the latter is never shown."""

    user: str
    password: str = field(repr=False)


class Depot(Protocol):
    """Where nightly products come from."""

    def list(self, night: int) -> list[Remote]:
        """List a night's products; none if there is no such night yet."""
        ...

    def fetch(self, remote: Remote, spool: Path) -> tuple[Path, bool]:
        """Give a file on this machine's disk, and whether it changed since the last call.

        What has begun to arrive is in ``spool`` and goes on from there, after a kill too.

        Parameters
        ----------
        remote : Remote
            As :meth:`list` gives it.
        spool : Path
            Folder for what is fetched.

        Returns
        -------
        Path, bool
            The file, and whether it changed.
        """
        ...


def open_depot(
    place: str, *, credentials: Path | None = None, timeout: float = 30.0, pause: float = 1.0
) -> Depot:
    """Open a depot.

    Parameters
    ----------
    place : str
        ``https://…``, or a folder.
    credentials : Path, optional
        In the form of a ``.netrc``, readable by its owner only. Else :data:`USER` and :data:`PASSWORD` of the
        environment, if there are.
    timeout : float
        Seconds to wait for an answer, and for each next part of it.
    pause : float
        Seconds before the first of several further tries, doubled each time.

    Returns
    -------
    Depot
        Nothing is asked of it yet.

    Raises
    ------
    DepotError
        If there is no such folder, the URL holds a password, or the credentials cannot be used.
    """
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
    return HttpDepot(place, read_credentials(credentials, parts.hostname), timeout, pause)


def read_credentials(file: Path | None, host: str) -> Credentials | None:
    """Read the credentials for a host from a file, or else from the environment.

    Parameters
    ----------
    file : Path, optional
        In the form of a ``.netrc``.
    host : str
        Name of the host.

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
        user, password = os.environ.get(USER), os.environ.get(PASSWORD)
        if (user is None) != (password is None):
            raise DepotError(f"of {USER} and {PASSWORD} one is missing: set both, or neither")
        return Credentials(user, password) if user is not None and password is not None else None
    try:
        with file.open() as opened:
            state = os.fstat(opened.fileno())
            if state.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise DepotError(f"{file} may be read by others: chmod 600 {file}")
        found = netrc.netrc(str(file)).authenticators(host)
    except (OSError, UnicodeDecodeError) as error:
        raise DepotError(f"credentials {file} cannot be read: {type(error).__name__}") from None
    except netrc.NetrcParseError:  # its message would tell what stands there
        raise DepotError(
            f"credentials {file} are in no such form: write them like 'machine {host} login … password …'"
        ) from None
    if found is None:
        raise DepotError(f"credentials {file} say nothing of {host}: add a line 'machine {host} …'")
    return Credentials(found[0], found[2])


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
                if _is_product(entry.name) and entry.is_file()
            ]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DepotError(f"{folder} cannot be listed: {error}") from error

    def fetch(self, remote: Remote, spool: Path) -> tuple[Path, bool]:
        """Give the file itself.

        Parameters
        ----------
        remote : Remote
            As :meth:`list` gives it.
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
        note = _note(spool, remote.name)
        changed = not note.exists() or note.read_text() != remote.stamp
        note.write_text(remote.stamp)
        return file, changed


class HttpDepot:
    """A directory listing; see :func:`open_depot`.

    Parameters
    ----------
    url : str
        With a folder a night below it.
    credentials : Credentials, optional
        Sent to this host alone.
    timeout, pause : float
        Seconds to wait for an answer, and before the next attempt.
    """

    tries = 4

    def __init__(
        self, url: str, credentials: Credentials | None, timeout: float = 30.0, pause: float = 1.0
    ) -> None:
        self.url = url.rstrip("/")
        self.timeout, self.pause = timeout, pause
        self._session = requests.Session()
        # On a redirect to another host or port, requests leaves them out.
        self._session.auth = (credentials.user, credentials.password) if credentials else None

    def list(self, night: int) -> list[Remote]:
        """List a night's products: links to files of that very folder, and no others."""
        url = f"{self.url}/{night}/"
        page = self._persist(url, lambda: self._page(url))
        if page is None:
            return []
        listing = _Listing()
        listing.feed(page)
        origin, folder = urlsplit(url)[:2], urlsplit(url).path
        found: dict[str, Remote] = {}
        for href, stamp in listing.links:
            try:
                target = urlsplit(urljoin(url, href))
            except ValueError:
                continue
            path, _, name = target.path.rpartition("/")
            name = unquote(name)
            if target[:2] == origin and f"{path}/" == folder and _is_product(name):
                found[name] = Remote(night, name, " ".join("".join(stamp).split()))
        return [found[name] for name in sorted(found)]

    def fetch(self, remote: Remote, spool: Path) -> tuple[Path, bool]:
        """Download a file, or what is missing of it; ask only whether it changed if it is there already.

        Parameters
        ----------
        remote : Remote
            As :meth:`list` gives it.
        spool : Path
            Folder for what is fetched.

        Returns
        -------
        Path, bool
            The file, and whether it changed.
        """
        url = f"{self.url}/{remote.night}/{remote.name}"
        target = spool / remote.name
        changed = self._persist(url, lambda: self._download(url, target))
        return target, bool(changed)

    def _persist(self, url: str, step: Callable[[], _T]) -> _T:
        """Try several times, with longer pauses, whatever may go better the next time."""
        why = ""
        for attempt in range(self.tries):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                return step()
            except _AgainError as error:
                why = str(error)
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                why = f"{type(error).__name__}: {error}"
        raise DepotError(f"{url}: {why} (tried {self.tries} times)")

    def _page(self, url: str) -> str | None:
        with self._session.get(url, stream=True, timeout=self.timeout) as response:
            if response.status_code == requests.codes.not_found:
                return None
            self._check(response, url)
            page = response.raw.read(_MAX_LISTING_BYTES + 1, decode_content=True)
            if len(page) > _MAX_LISTING_BYTES:
                raise DepotError(f"{url}: the listing has more than {_MAX_LISTING_BYTES} bytes")
            length = response.headers.get("Content-Length", "")
            if length.isdecimal() and not response.headers.get("Content-Encoding"):
                _expect(len(page), int(length))
            return str(page, "utf-8", "replace")

    def _download(self, url: str, target: Path) -> bool:
        part, note = target.with_name(f"{target.name}.part"), _note(target.parent, target.name)
        known = note.read_text() if note.exists() else ""
        headers = {"Accept-Encoding": "identity"}
        start = part.stat().st_size if part.exists() and known else 0
        if target.exists() and known:
            headers["If-None-Match" if known.startswith('"') else "If-Modified-Since"] = known
        elif start:
            headers |= {"Range": f"bytes={start}-", "If-Range": known}
        with self._session.get(url, headers=headers, stream=True, timeout=self.timeout) as response:
            if response.status_code == requests.codes.not_modified and target.exists():
                return False
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                part.unlink(missing_ok=True)
                raise _AgainError("the file has become shorter")
            self._check(response, url)
            begins, total = _extent(response)
            if begins not in (0, start):
                part.unlink(missing_ok=True)
                raise _AgainError(f"asked to go on from byte {start}, it goes on from {begins}")
            if begins == 0:
                tag = response.headers.get("ETag", "")
                strong = tag if tag.startswith('"') else ""
                for old in (part, target):  # before the note speaks of another version
                    old.unlink(missing_ok=True)
                note.write_text(strong or response.headers.get("Last-Modified", ""))
            self._save(response, part, begins, total)
        part.replace(target)
        return True

    def _save(
        self, response: requests.Response, part: Path, begins: int, total: int | None
    ) -> None:
        began = time.monotonic()
        with part.open("ab" if begins else "wb", buffering=0) as opened:
            written = begins
            for block in response.raw.stream(_BLOCK_BYTES, decode_content=False):
                if shutil.disk_usage(part.parent).free < _FREE_SPACE_RESERVE + len(block):
                    raise OSError(errno.ENOSPC, "the disk is full", str(part))
                opened.write(block)
                written += len(block)
                lasted = time.monotonic() - began
                if lasted > self.timeout and (written - begins) / lasted < _MIN_BYTES_PER_SECOND:
                    raise _AgainError(f"{written - begins} bytes in {lasted:.0f} s")
            os.fsync(opened.fileno())
        if total is not None and written != total:
            if written > total:
                part.unlink()
            _expect(written, total)

    def _check(self, response: requests.Response, url: str) -> None:
        status = response.status_code
        if status in (requests.codes.unauthorized, requests.codes.forbidden):
            raise DepotError(
                f"{url}: the depot refuses us ({status}): check the credentials "
                f"({USER} and {PASSWORD}, or --credentials)"
            )
        if status == requests.codes.not_found:
            raise DepotError(f"{url} is gone (404)")
        if status not in (requests.codes.ok, requests.codes.partial_content):
            raise _AgainError(f"the depot answers {status}")


class _AgainError(Exception):
    """What may go better the next time."""


class _Listing(HTMLParser):
    """Links of a page, and the text after each: date and size, with most servers."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, list[str]]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a" and (href := dict(attrs).get("href")):
            self.links.append((href, []))
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "a"

    def handle_data(self, data: str) -> None:
        if self.links and not self._inside:
            self.links[-1][1].append(data)


def _is_product(name: str) -> bool:
    return bool(_FILE_NAME.fullmatch(name)) and name.endswith(_PRODUCT_SUFFIXES)


def _note(spool: Path, name: str) -> Path:
    """File beside a download that says which version of it this is."""
    return spool / f"{name}.version"


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """Give the byte that an answer begins with, and the length of the whole file."""
    if response.status_code == requests.codes.partial_content:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not match:
            raise _AgainError("a part of a file that does not say which")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _expect(found: int, expected: int) -> None:
    if found != expected:
        raise _AgainError(f"{found} bytes of {expected}")
