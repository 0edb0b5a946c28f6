"""Deadlines by the wall clock for whatever comes over a socket.

The time-out of a socket bounds each read: a server that sends a byte a second never runs into it. A :class:`Clock` bounds
all reads together, and how slow they may be on average.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

_current: ContextVar[Clock | None] = ContextVar("clock", default=None)


class Clock:
    """The time that is left for all reads of an exchange.

    Parameters
    ----------
    seconds : float
        Seconds for all of it.
    idle : float
        Seconds for one read.
    min_rate : float
        Bytes a second that must have come on average once ``idle`` seconds have passed.
    """

    def __init__(self, seconds: float, *, idle: float, min_rate: float = 0.0) -> None:
        self.seconds, self.idle, self.min_rate = seconds, idle, min_rate
        self.received = 0
        self._began = time.monotonic()

    def left(self) -> float:
        """Return the seconds that the next read may take.

        Returns
        -------
        float
            At most ``idle``.

        Raises
        ------
        TimeoutError
            If none are left, or too little came in those that have passed.
        """
        lasted = time.monotonic() - self._began
        if lasted >= self.seconds:
            raise TimeoutError(f"not complete after {self.seconds:g} s")
        if lasted > self.idle and self.received < self.min_rate * lasted:
            raise TimeoutError(f"{self.received} bytes in {lasted:.0f} s")
        return min(self.idle, self.seconds - lasted)


@contextmanager
def deadline(seconds: float, *, idle: float, min_rate: float = 0.0) -> Iterator[Clock]:
    """Bound all reads of this thread while the block runs; see :class:`Clock`.

    Parameters
    ----------
    seconds, idle, min_rate : float
        As for :class:`Clock`.

    Yields
    ------
    Clock
        Counts what is received.
    """
    clock = Clock(seconds, idle=idle, min_rate=min_rate)
    token = _current.set(clock)
    try:
        yield clock
    finally:
        _current.reset(token)


class _ClockedReader(io.RawIOBase):
    """Reads a socket within the time that the current clock has left."""

    def __init__(self, raw: io.RawIOBase, connection: socket.socket) -> None:
        self._raw, self._connection = raw, connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        clock = _current.get()
        if clock is None:
            return self._raw.readinto(buffer)
        self._connection.settimeout(clock.left())
        count = self._raw.readinto(buffer)
        clock.received += count or 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def clocked(reader: Any, connection: socket.socket) -> io.BufferedReader:
    """Return a reader of a socket's file that obeys the current clock.

    Parameters
    ----------
    reader : io.BufferedReader
        As ``connection.makefile("rb")`` returns it; it is detached.
    connection : socket.socket
        The socket.

    Returns
    -------
    io.BufferedReader
        Raises ``TimeoutError`` once no time is left.
    """
    return io.BufferedReader(_ClockedReader(reader.detach(), connection))


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = clocked(self.fp, sock)


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls: Any = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls: Any = _SecureConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        return manager


def clocked_session() -> requests.Session:
    """Return a session of requests whose reads, of headers too, end at the deadline of :func:`deadline`."""
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())
    return session
