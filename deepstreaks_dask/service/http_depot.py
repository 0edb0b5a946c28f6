"""A depot behind HTTP, which is not trusted: every answer has a deadline and a largest size.

Credentials go to the depot's own scheme, host and port alone, wherever it redirects to.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
import urllib3
from requests.auth import HTTPBasicAuth

from deepstreaks_dask.errors import DepotError
from deepstreaks_dask.service.clock import clocked_session, deadline
from deepstreaks_dask.service.credentials import PASSWORD, USER, Credentials
from deepstreaks_dask.service.depots import Limits, Remote, version_note
from deepstreaks_dask.service.listing import ListingError, parse_listing

_T = TypeVar("_T")
_MAX_LISTING_BYTES = 2**25
_BLOCK_BYTES = 2**13  # so little is lost when a download breaks off, or we are killed
_FREE_SPACE_RESERVE = 2**26  # bytes of disk left free
_MIN_BYTES_PER_SECOND = 1024  # bytes a second, once a download has lasted for its time-out
_MAX_REDIRECTS = 5
_IDENTITY = {"Accept-Encoding": "identity"}


class HttpDepot:
    """A directory listing; see :func:`~deepstreaks_dask.service.depots.open_depot`.

    Parameters
    ----------
    url : str
        With a folder a night below it.
    credentials : Credentials, optional
        Sent to this scheme, host and port alone.
    limits : Limits, optional
        Deadlines and largest sizes.
    """

    tries = 4

    def __init__(
        self, url: str, credentials: Credentials | None, limits: Limits | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self.limits = limits or Limits()
        self.moved: Callable[[], None] = lambda: None
        self._session = clocked_session()
        # With it requests takes no others from a .netrc. Cookies would go to other ports of the host.
        self._session.auth = _SameOrigin(urlsplit(url), credentials)
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def list(self, night: int) -> list[Remote]:
        """List a night's products: links to files of that very folder, and no others.

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
            If there is no listing after several attempts, or the depot refuses the credentials.
        """
        url = f"{self.url}/{night}/"
        found = self._persist(url, lambda: self._products(url))
        return [Remote(night, name, stamp) for name, stamp in found.items()]

    def fetch(self, remote: Remote, spool: Path) -> tuple[Path, bool]:
        """Download a file, or what is missing of it; ask only whether it changed if it is there already.

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

        Raises
        ------
        DepotError
            If it is gone, too large, or cannot be fetched after several attempts.
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
                time.sleep(self.limits.pause * 2 ** (attempt - 1))
            try:
                return step()
            except (_AgainError, ListingError, TimeoutError) as error:
                why = str(error)
            except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError) as error:
                why = _late(error) or f"{type(error).__name__}: {error}"
        raise DepotError(f"{url}: {why} (tried {self.tries} times)")

    @contextmanager
    def _get(self, url: str, headers: dict[str, str]) -> Iterator[requests.Response]:
        """Follow redirects without reading their bodies, which may have no end."""
        for _ in range(_MAX_REDIRECTS + 1):
            with self._session.get(
                url,
                headers=headers,
                stream=True,
                timeout=self.limits.timeout,
                allow_redirects=False,
            ) as response:
                if not response.is_redirect:
                    yield response
                    return
                try:
                    url = urljoin(url, response.headers["Location"])
                except ValueError:
                    raise _AgainError("a redirect to what is no URL") from None
        raise _AgainError(f"more than {_MAX_REDIRECTS} redirects")

    def _products(self, url: str) -> dict[str, str]:
        timeout = self.limits.timeout
        with deadline(timeout, idle=timeout), self._get(url, _IDENTITY) as response:
            if response.status_code == requests.codes.not_found:
                return {}
            self._check(response, url)
            kind = response.headers.get("Content-Type", "text/html").partition(";")[0].strip()
            if kind.lower() not in ("text/html", "application/xhtml+xml", ""):
                raise _AgainError(f"the listing is {kind[:50]!r}, not text/html")
            page = response.raw.read(_MAX_LISTING_BYTES + 1, decode_content=False)
            if len(page) > _MAX_LISTING_BYTES:
                raise DepotError(f"{url}: the listing has more than {_MAX_LISTING_BYTES} bytes")
            length = _length(response)
            if length is not None:
                _expect(len(page), length)
        return parse_listing(str(page, "utf-8", "replace"), url)

    def _download(self, url: str, target: Path) -> bool:
        part, note = (
            target.with_name(f"{target.name}.part"),
            version_note(target.parent, target.name),
        )
        known = note.read_text() if note.exists() else ""
        headers = dict(_IDENTITY)
        start = part.stat().st_size if part.exists() and known else 0
        if target.exists() and known:
            headers["If-None-Match" if known.startswith('"') else "If-Modified-Since"] = known
        elif start:
            headers |= {"Range": f"bytes={start}-", "If-Range": known}
        limits = self.limits
        whole = deadline(limits.download, idle=limits.timeout, min_rate=_MIN_BYTES_PER_SECOND)
        with whole, self._get(url, headers) as response:
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
            if total is not None and total > limits.file_bytes:
                raise self._too_large(url, total)
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
        with part.open("ab" if begins else "wb", buffering=0) as opened:
            written = begins
            for block in response.raw.stream(_BLOCK_BYTES, decode_content=False):
                if shutil.disk_usage(part.parent).free < _FREE_SPACE_RESERVE + len(block):
                    raise OSError(errno.ENOSPC, "the disk is full", str(part))
                opened.write(block)
                written += len(block)
                if written > self.limits.file_bytes:
                    part.unlink()
                    raise self._too_large(response.url, written)
                self.moved()
            os.fsync(opened.fileno())
        if total is not None and written != total:
            if written > total:
                part.unlink()
            _expect(written, total)

    def _too_large(self, url: str, size: int) -> DepotError:
        return DepotError(
            f"{url} has {size} bytes or more, where {self.limits.file_bytes} are the most: raise "
            "--largest-file if that is right"
        )

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
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _AgainError("the depot answers in an encoding that was not asked for")


def _late(error: BaseException | None) -> str:
    """Return the reason of an error that came of a deadline, else an empty text."""
    while error is not None:
        if type(error) is TimeoutError:
            return f"too late: {error}"
        error = error.__cause__ or error.__context__
    return ""


class _AgainError(Exception):
    """What may go better the next time."""


class _SameOrigin(requests.auth.AuthBase):
    """Basic authentication for one scheme, host and port, and for no other."""

    def __init__(self, url: SplitResult, credentials: Credentials | None) -> None:
        self._origin = _origin(url)
        self._basic = credentials and HTTPBasicAuth(credentials.user, credentials.password)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._basic and request.url and _origin(urlsplit(request.url)) == self._origin:
            return self._basic(request)
        return request


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """Return the byte that an answer begins with, and the length of the whole file."""
    if response.status_code == requests.codes.partial_content:
        said = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", said)
        if not match:
            raise _AgainError("a part of a file that does not say which")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    return 0, _length(response)


def _expect(found: int, expected: int) -> None:
    if found != expected:
        raise _AgainError(f"{found} bytes of {expected}")
