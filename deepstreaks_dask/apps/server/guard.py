"""The guard before every route of a site.

It refuses every request without a known session, except those for the log-in page, its assets and the HTTP API, whose routes
check sessions and tokens themselves.
"""

from __future__ import annotations

import asyncio
import re
from urllib.parse import urlsplit

from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepstreaks_dask.apps.server.auth import ServedArchive
from deepstreaks_dask.apps.server.sockets import POLICY_VIOLATION, GuardedSocket
from deepstreaks_dask.apps.visitor import SessionVisitor, current_visitor

_PUBLIC_PATHS = re.compile(r"/(login|enter|assets/[a-z]+\.(css|js)|favicon\.ico)|/api/v1/.*")
_MAX_REQUEST_BYTES = 64 * 1024  # bytes of a request's body
_BODY_SECONDS = 30.0  # until a request's body must have come
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
_PANEL_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; frame-ancestors 'none'"
)
MISSING_KEY_MESSAGE = (
    "Open the address that 'deepstreaks dashboard' printed when it began: there is a key in it."
)
"""Response to a browser that does not hold the key of a site on this machine."""


class Guard:
    """ASGI middleware that refuses requests without a session, from another site, or with too large a body.

    Parameters
    ----------
    app : ASGI application
        The application behind the guard.
    site : ServedArchive
        The archive that is served, with the authenticator of its users.
    login_path : str, optional
        Path to which browsers without a session are sent; None refuses them.
    """

    def __init__(self, app: ASGIApp, site: ServedArchive, login_path: str | None) -> None:
        self.app, self.site, self.login_path = app, site, login_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        known = headers.get("host", "").lower() in self.site.hosts
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send, headers, known)
            return
        send = _with_headers(scope, send, secure=self.site.secure)
        if not known:
            await Response("This site has another name.", 421)(scope, receive, send)
            return
        visitor = None if _PUBLIC_PATHS.fullmatch(scope["path"]) else await self._visitor(scope)
        if visitor is not None:
            current_visitor.set(visitor)
        elif not _PUBLIC_PATHS.fullmatch(scope["path"]):
            refusal: Response = Response(
                MISSING_KEY_MESSAGE if self.login_path is None else "Log in first.", 401
            )
            is_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
            if is_page and self.login_path is not None:
                refusal = RedirectResponse(self.login_path, 303)
            await refusal(scope, receive, send)
            return
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await _read_body(receive)
        except TimeoutError:
            await Response("The request did not come to its end.", 408)(scope, receive, send)
            return
        if len(body) > _MAX_REQUEST_BYTES:
            await Response('{"detail":"too much at once"}', 413, media_type="application/json")(
                scope, receive, send
            )
            return
        waiting = [{"type": "http.request", "body": body}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        await self.app(scope, replay, send)

    async def _websocket(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str], known: bool
    ) -> None:
        from_here = urlsplit(headers.get("origin", "")).netloc.lower() in self.site.hosts
        visitor = await self._visitor(scope) if known and from_here else None
        if visitor is None:
            await receive()
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        await GuardedSocket(receive, send, visitor).run(self.app, scope)

    async def _visitor(self, scope: Scope) -> SessionVisitor | None:
        """Return the person who sends a request, if the request's cookie names a session."""
        secret = HTTPConnection(scope).cookies.get(self.site.cookie)
        if not secret:
            return None
        visitor = SessionVisitor(self.site.authenticator, secret)
        found = await run_in_threadpool(visitor.person, used=True)
        return visitor if found is not None else None


async def _read_body(receive: Receive) -> bytes:
    """Return the body of a request, or its beginning where it is too large."""
    body = b""
    while len(body) <= _MAX_REQUEST_BYTES:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body"):
            break
    return body


def _with_headers(scope: Scope, send: Send, *, secure: bool) -> Send:
    path = scope["path"]
    own = path in ("/", "/login", "/review", "/account", "/admin") or path.startswith(
        ("/assets/", "/api/")
    )
    added = {**_HEADERS, "Content-Security-Policy": _POLICY if own else _PANEL_POLICY}
    if secure or scope["scheme"] == "https":
        added["Strict-Transport-Security"] = "max-age=31536000"

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            more = dict(added)
            if b"cache-control" not in present:
                more["Cache-Control"] = "no-store"
            message["headers"] = [
                *message["headers"],
                *((k.lower().encode(), v.encode()) for k, v in more.items()),
            ]
        await send(message)

    return sending
