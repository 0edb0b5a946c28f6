"""Websockets that end with the session that opened them."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepstreaks_dask.apps.visitor import SessionVisitor, current_visitor

POLICY_VIOLATION = 1008
"""Code with which a websocket is closed that may not be open (RFC 6455, section 7.4.1)."""

_CHECK_SECONDS = 1.0  # between checks of a socket on which nothing is sent
_CLOSE: Message = {"type": "websocket.close", "code": POLICY_VIOLATION}
_DISCONNECT: Message = {"type": "websocket.disconnect", "code": POLICY_VIOLATION}


class GuardedSocket:
    """A websocket of a session: no frame passes, in either direction, once the session has ended.

    Parameters
    ----------
    receive, send : callable
        The websocket's ends, as ASGI has them.
    visitor : SessionVisitor
        The person of the session.
    """

    def __init__(self, receive: Receive, send: Send, visitor: SessionVisitor) -> None:
        self._receive, self._send, self._visitor = receive, send, visitor
        self._closed = False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Run an application on the websocket until either of them ends, or the session does.

        Parameters
        ----------
        app : ASGI application
            The application.
        scope : dict
            Of the connection, as ASGI has it.
        """
        current_visitor.set(self._visitor)
        watcher = asyncio.create_task(self._watch())
        try:
            await app(scope, self._checked_receive, self._checked_send)
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher

    async def _checked_receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.receive":
            await run_in_threadpool(self._visitor.person, used=True)
            if not await self._allowed():
                return _DISCONNECT
        return message

    async def _checked_send(self, message: Message) -> None:
        if message["type"] == "websocket.close":
            self._closed = True
            await self._send(message)
        elif await self._allowed():
            await self._send(message)

    async def _watch(self) -> None:
        """Close the websocket once the session has ended, though nobody sends anything."""
        while await self._allowed():
            await asyncio.sleep(_CHECK_SECONDS)
            await run_in_threadpool(self._visitor.person)

    async def _allowed(self) -> bool:
        """Return whether the session still holds; otherwise close the websocket.

        Nothing is awaited before the answer is known: Bokeh sends a message as several frames, and those of another message
        must not come between them.
        """
        if not self._closed and self._visitor.person() is None:
            self._closed = True
            with suppress(Exception):  # the browser may be gone
                await self._send(_CLOSE)
        return not self._closed
