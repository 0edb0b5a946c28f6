"""Connections that do not wait for ever: HTTP with a time limit for what is half sent."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_SECONDS = 20.0
"""Seconds until the headers of a request must have come."""

MAX_CONNECTIONS = 2000
"""Connections and requests at once; further ones get 503."""


class ImpatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 that closes a connection on which no whole request head comes in time."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take data; a head that is whole ends the waiting, and the first piece of the next one begins it anew."""
        before = self.cycle
        super().data_received(data)
        upgraded = self.transport.get_protocol() is not self  # to a websocket
        if self.cycle is not before or upgraded or self.transport.is_closing():
            self._stop_waiting()
        elif self._deadline is None and (before is None or before.response_complete):
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()


def protocol_options() -> dict[str, Any]:
    """Return uvicorn's options for it."""
    return {"http": ImpatientProtocol, "limit_concurrency": MAX_CONNECTIONS}
