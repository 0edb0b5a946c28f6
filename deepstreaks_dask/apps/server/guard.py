"""The guard before every route of a site.

It refuses every request without a known session, except those for the log-in page, its assets and the HTTP API, whose routes
check sessions and tokens themselves.
"""

from __future__ import annotations

import re
import time
from urllib.parse import urlsplit

from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepstreaks_dask.apps.server.auth import ServedArchive
from deepstreaks_dask.review.people import Person

_PUBLIC_PATHS = re.compile(r"/(login|enter|assets/[a-z]+\.(css|js)|favicon\.ico)|/api/v1/.*")
_MAX_REQUEST_BYTES = 64 * 1024  # bytes of a request's body
_WEBSOCKET_RECHECK_SECONDS = 10.0  # between checks of an open websocket's session
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
        send = _with_headers(scope, send)
        if not known:
            await Response("This site has another name.", 421)(scope, receive, send)
            return
        if not _PUBLIC_PATHS.fullmatch(scope["path"]) and await self._who(scope) is None:
            refusal: Response = Response(
                MISSING_KEY_MESSAGE if self.login_path is None else "Log in first.", 401
            )
            is_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
            if is_page and self.login_path is not None:
                refusal = RedirectResponse(self.login_path, 303)
            await refusal(scope, receive, send)
            return
        body = b""
        while len(body) <= _MAX_REQUEST_BYTES:
            message = await receive()
            body += message.get("body", b"")
            if message["type"] != "http.request" or not message.get("more_body"):
                break
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
        if not (known and from_here and await self._who(scope)):
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        checked_at = time.monotonic()

        async def receive_checked() -> Message:
            nonlocal checked_at
            message = await receive()
            if (
                message["type"] == "websocket.receive"
                and time.monotonic() - checked_at > _WEBSOCKET_RECHECK_SECONDS
            ):
                checked_at = time.monotonic()
                if await self._who(scope) is None:
                    await send({"type": "websocket.close", "code": 1008})
                    return {"type": "websocket.disconnect", "code": 1008}
            return message

        await self.app(scope, receive_checked, send)

    async def _who(self, scope: Scope) -> Person | None:
        secret = HTTPConnection(scope).cookies.get(self.site.cookie)
        return (
            await run_in_threadpool(self.site.authenticator.person_of, secret) if secret else None
        )


def _with_headers(scope: Scope, send: Send) -> Send:
    path = scope["path"]
    own = path in ("/", "/login", "/review", "/account", "/admin") or path.startswith(
        ("/assets/", "/api/")
    )
    added = {**_HEADERS, "Content-Security-Policy": _POLICY if own else _PANEL_POLICY}
    if scope["scheme"] == "https":
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
