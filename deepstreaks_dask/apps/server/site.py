"""The server of a place: a guard before every route, and the ways to listen.

Nobody gets past the guard who is not let in by the place's door, but for the log-in and what it is drawn with. Dashboards
made with Panel are mounted behind the same guard, their websockets too.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
import time
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import deepstreaks_dask
from deepstreaks_dask.apps.server.auth import AccountStore, access, problem_response
from deepstreaks_dask.apps.server.campaign_api import campaigns
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.review.accounts import Person

_PUBLIC_PATHS = re.compile(r"/(login|enter|assets/[a-z]+\.(css|js)|favicon\.ico)|/api/v1/.*")
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" '
    'fill="#141a24"/><path d="M3 13 13 3" stroke="#56b4e9" stroke-width="2.4" stroke-linecap="round"/></svg>'
)
_MAX_REQUEST_BYTES = 64 * 1024  # bytes of what a request may bring
_WEBSOCKET_RECHECK_SECONDS = 10.0  # seconds after which an open websocket must be somebody's again
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
_UNKNOWN_HOST_MESSAGE = (
    "Open the address that 'deepstreaks dashboard' printed when it began: there is a key in it."
)


@dataclass
class OwnMachine:
    """A place on the loopback interface, whose door opens to whoever holds the key in the address that is printed.

    Other people with an account on the same machine reach its loopback interface too, and a campaign that is begun here runs
    with the rights of whoever serves this.
    """

    archive: str
    run: str
    zoo: str | None
    hosts: frozenset[str]
    cookie: str = "deepstreaks_key"
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def door(self) -> OwnMachine:
        """Who is let in."""
        return self

    def person_of(self, secret: str) -> Person | None:
        """Give whoever serves this, to the holder of the key."""
        same = hmac.compare_digest(secret.encode(errors="replace"), self.key.encode())
        return Person("you", "administrator") if same else None

    def person_of_token(self, token: str) -> Person | None:
        """Give nobody: there are no tokens here."""


def own_machine(
    archive: str,
    pages: Mapping[str, Callable[[], Any]],
    *,
    run: str = "default",
    zoo: str | None = None,
    hosts: set[str],
) -> FastAPI:
    """Make the site of an archive for one's own machine, without users.

    Parameters
    ----------
    archive : str
    pages : mapping of str to callable
        Panel pages by path; the first is where ``/enter?key=…`` leads.
    run, zoo : str
        What is shown first; the zoo of new campaigns.
    hosts : set of str
        ``name:port`` that browsers may name this site by.

    Returns
    -------
    FastAPI
        With a guard before every route.
    """
    place = OwnMachine(archive, run, zoo, frozenset(hosts))
    app = make_app(place, "DeepStreaks")
    begin = next(iter(pages))

    @app.get("/enter", include_in_schema=False)
    def enter(key: Annotated[str, Query(max_length=100)] = "") -> Response:
        if place.person_of(key) is None:
            return Response(_UNKNOWN_HOST_MESSAGE, 401)
        response = RedirectResponse(begin, 303)
        response.set_cookie(place.cookie, key, httponly=True, samesite="strict")
        return response

    close(app, place, pages, entrance=None)
    return app


def make_app(place: AccountStore, title: str) -> FastAPI:
    """Make an application with the routes that every place has; :func:`close` it when the rest is there.

    Parameters
    ----------
    place : Place
        What is served.
    title : str
        Of the API.

    Returns
    -------
    FastAPI
        Without a guard yet.
    """
    app = FastAPI(
        title=title,
        version=deepstreaks_dask.__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.site = place
    app.add_exception_handler(DeepStreaksError, problem_response)
    app.include_router(access)
    app.include_router(campaigns)

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(_ICON, media_type="image/svg+xml")

    return app


def close(
    app: FastAPI,
    place: AccountStore,
    pages: Mapping[str, Callable[[], Any]],
    *,
    entrance: str | None,
) -> None:
    """Mount Panel pages, and put the guard before everything.

    Parameters
    ----------
    app : FastAPI
    place : Place
    pages : mapping of str to callable
        By path.
    entrance : str, optional
        Where browsers are sent that are not let in.
    """
    if pages:
        from panel.io.fastapi import add_applications
        from tornado.web import HTTPError

        def refused(_: Request, error: Exception) -> Response:
            assert isinstance(error, HTTPError)  # Panel's, which FastAPI does not know
            return Response(error.reason, error.status_code)

        app.add_exception_handler(HTTPError, refused)
        titles = {path: f"DeepStreaks {path.strip('/')}" for path in pages}
        add_applications(dict(pages), app=app, title=titles, websocket_origins=sorted(place.hosts))
    app.add_middleware(Guard, place=place, entrance=entrance)


def listen(host: str, port: int) -> tuple[socket.socket, set[str]]:
    """Take a port before its address is told to anybody.

    Parameters
    ----------
    host : str
    port : int
        0 takes a free one.

    Returns
    -------
    socket, set of str
        And the ``name:port`` by which this machine's browsers may name it.

    Raises
    ------
    DeepStreaksError
        If it cannot be had.
    """
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise DeepStreaksError(
            f"cannot serve on {host}:{port} ({error.strerror or error}): give another --port"
        ) from error
    # asyncio does so for sockets that name their protocol only, which these do not: an answer in two pieces, headers and
    # body, would wait 40 ms for the first to be acknowledged
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    port = int(listening.getsockname()[1])
    named = f"[{host}]" if ":" in host else host
    return listening, {f"{name}:{port}" for name in (named, "localhost", "127.0.0.1")}


def run_app(
    app: FastAPI,
    listening: socket.socket,
    address: str,
    words: str,
    *,
    behind_proxy: bool = False,
    show: bool = False,
) -> None:
    """Say where it is, and serve until interrupted.

    Parameters
    ----------
    app : FastAPI
    listening : socket
    address, words : str
        To print.
    behind_proxy : bool
        A reverse proxy on this machine says who asks; else anybody could name any address.
    show : bool
        Open a browser.
    """
    print(f"{words} at {address}", flush=True)
    if show:
        webbrowser.open(address)
    config = uvicorn.Config(
        app,
        log_level="warning",
        proxy_headers=behind_proxy,
        server_header=False,
        ws_max_size=20 * 2**20,
    )
    uvicorn.Server(config).run(sockets=[listening])


def is_loopback(address: str) -> bool:
    """Say whether an address can be reached from this machine alone."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(address, None)}
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(ip.split("%")[0]).is_loopback for ip in found)


class Guard:
    """Lets nobody in who is not logged in, and nothing that is too large or from another site.

    Parameters
    ----------
    app : ASGI application
        What is behind it.
    place : Place
        Whose door it is.
    entrance : str, optional
        Where browsers are sent that are not let in; None refuses them.
    """

    def __init__(self, app: ASGIApp, place: AccountStore, entrance: str | None) -> None:
        self.app, self.place, self.entrance = app, place, entrance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it here."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        known = headers.get("host", "").lower() in self.place.hosts
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send, headers, known)
            return
        send = _with_headers(scope, send)
        if not known:
            await Response("This site has another name.", 421)(scope, receive, send)
            return
        if not _PUBLIC_PATHS.fullmatch(scope["path"]) and await self._who(scope) is None:
            away: Response = Response(
                _UNKNOWN_HOST_MESSAGE if self.entrance is None else "Log in first.", 401
            )
            reads = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
            if reads and self.entrance is not None:
                away = RedirectResponse(self.entrance, 303)
            await away(scope, receive, send)
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
        from_here = urlsplit(headers.get("origin", "")).netloc.lower() in self.place.hosts
        if not (known and from_here and await self._who(scope)):
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        asked = time.monotonic()

        async def checked() -> Message:
            nonlocal asked
            message = await receive()
            if (
                message["type"] == "websocket.receive"
                and time.monotonic() - asked > _WEBSOCKET_RECHECK_SECONDS
            ):
                asked = time.monotonic()
                if await self._who(scope) is None:
                    await send({"type": "websocket.close", "code": 1008})
                    return {"type": "websocket.disconnect", "code": 1008}
            return message

        await self.app(scope, checked, send)

    async def _who(self, scope: Scope) -> Person | None:
        secret = HTTPConnection(scope).cookies.get(self.place.cookie)
        return await run_in_threadpool(self.place.door.person_of, secret) if secret else None


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
