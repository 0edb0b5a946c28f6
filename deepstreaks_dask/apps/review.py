"""The review site: log in, look at a night's candidates, judge them; with the HTTP API and other dashboards beside.

One server, one log-in. The pages are HTML that asks the API of :mod:`~deepstreaks_dask.apps.api`; dashboards made with
Panel are mounted behind the same log-in.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
import webbrowser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import jinja2
import uvicorn
from fastapi import Cookie, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import deepstreaks_dask
from deepstreaks_dask.apps.api import COOKIE, Site, api, csrf_of, explain, site_of
from deepstreaks_dask.apps.serve import is_loopback
from deepstreaks_dask.decision import Decision
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.review import (
    NOTE,
    ROLES,
    Person,
    Review,
    ReviewError,
    archive_key,
    default_url,
)

PAGES = Path(__file__).with_name("pages")
_ASSETS = {
    name: {"css": "text/css", "js": "text/javascript"}[name.rpartition(".")[2]]
    for name in (
        "style.css",
        "site.css",
        "site.js",
        "login.js",
        "review.js",
        "account.js",
        "admin.js",
    )
}
Secret = Annotated[str, Cookie(alias=COOKIE)]
_OPEN = re.compile(r"/(login|assets/[a-z]+\.(css|js)|favicon\.ico)|/api/v1/.*")
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" '
    'fill="#141a24"/><path d="M3 13 13 3" stroke="#56b4e9" stroke-width="2.4" stroke-linecap="round"/></svg>'
)
_LARGEST = 64 * 1024  # bytes of what a request may bring
_ASK_AGAIN = 10.0  # seconds after which an open websocket must be somebody's again
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


def serve(
    archive: str | os.PathLike[str],
    *,
    run: str = "default",
    database: str | None = None,
    thresholds: Mapping[str, float] | None = None,
    host: str = "127.0.0.1",
    port: int = 5006,
    origin: str | None = None,
    show: bool = False,
) -> None:
    """Serve the review of an archive until interrupted. Nobody sees anything without logging in.

    Parameters
    ----------
    archive : str or path
        A scored archive.
    run : str
        Whose scores to show.
    database : str, optional
        SQLAlchemy's URL; by default a SQLite file beside the archive.
    thresholds : mapping of str to float, optional
        By member or family; by default as the run was decided.
    host : str
        Where to listen; other machines cannot reach the default.
    port : int
        0 takes a free one.
    origin : str, optional
        ``https://…`` as people type it, where a reverse proxy on this machine stands before this server.
    show : bool
        Open a browser.

    Raises
    ------
    DeepStreaksError
        If there is no such run or no user yet, or passwords would travel unencrypted.
    """
    public = urlsplit(origin) if origin else None
    if public and not (public.scheme == "https" and public.netloc and not public.path.strip("/")):
        raise DeepStreaksError(f"--origin {origin}: write it like https://review.example.org")
    if not public and not is_loopback(host):
        raise DeepStreaksError(
            f"listening on {host} would let passwords travel unencrypted: put a reverse proxy with TLS before it "
            "and name its --origin https://…"
        )
    try:
        listening = socket.create_server((host, port))  # before the address is told to anybody
    except OSError as error:
        raise DeepStreaksError(
            f"cannot serve on {host}:{port} ({error.strerror or error}): give another --port"
        ) from error
    port = int(listening.getsockname()[1])
    hosts = {public.netloc.lower()} if public else set()
    hosts |= {f"{name}:{port}" for name in (host, "localhost", "127.0.0.1")}
    app = create_app(archive, run=run, database=database, thresholds=thresholds, hosts=hosts)
    address = origin or f"http://{host}:{port}"
    print(f"Review of {os.fspath(archive)} at {address}")
    if show:
        webbrowser.open(address)
    config = uvicorn.Config(
        app,
        log_level="warning",
        proxy_headers=public is not None,  # else anybody could name any address
        server_header=False,
        ws_max_size=20 * 2**20,
    )
    uvicorn.Server(config).run(sockets=[listening])


def create_app(
    archive: str | os.PathLike[str],
    *,
    run: str = "default",
    database: str | None = None,
    thresholds: Mapping[str, float] | None = None,
    hosts: set[str],
    dashboards: Mapping[str, Callable[[], Any]] | None = None,
) -> FastAPI:
    """Make the site of one archive.

    Parameters
    ----------
    archive, run, database, thresholds
        As :func:`serve` takes them.
    hosts : set of str
        ``name:port`` that browsers may name this site by.
    dashboards : mapping of str to callable, optional
        Panel pages by path; by default explore and campaign.

    Raises
    ------
    DeepStreaksError
        If there is no such run, or no user yet.
    """
    archive = os.fspath(archive)
    review = Review(database or default_url(archive))
    if not any(one.role == "administrator" and one.active for one in review.users()):
        raise ReviewError(
            "there is nobody to administer the review yet: "
            f"'deepstreaks users add NAME --role administrator --archive {archive}'"
        )
    decision = Decision(dict(thresholds)) if thresholds else None
    site = Site(archive, run, archive_key(archive), review, decision, frozenset(hosts))
    site.catalogue()  # whatever is wrong is said now
    app = FastAPI(
        title="DeepStreaks review",
        version=deepstreaks_dask.__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.site = site
    app.state.dashboards = []
    app.add_exception_handler(DeepStreaksError, explain)
    app.include_router(api)
    _add_pages(app)
    mounted = _dashboards(archive, run) if dashboards is None else dashboards
    if mounted:
        from panel.io.fastapi import add_applications

        titles = {path: f"DeepStreaks {path.strip('/')}" for path in mounted}
        add_applications(dict(mounted), app=app, title=titles, websocket_origins=sorted(hosts))
        app.state.dashboards = sorted(mounted)
    app.add_middleware(_Guard, site=site)
    return app


def _dashboards(archive: str, run: str) -> dict[str, Callable[[], Any]]:
    from deepstreaks_dask.apps import explore

    return {"/explore": lambda: explore.app(archive, run)}


def door(archive: str, port: str = "5007") -> Any:
    """Make a Panel page that leads to the review of an archive, served by this process too.

    Panel's own server knows none of the review's users: what it shows is the way to the log-in, nothing else.

    Parameters
    ----------
    archive : str
    port : str
        Where the review listens, on this machine only.

    Raises
    ------
    DeepStreaksError
        As :func:`serve`.
    """
    import panel as pn

    key = f"review {archive} {port}"
    if key not in pn.state.cache:
        app = create_app(archive, hosts={f"127.0.0.1:{port}", f"localhost:{port}"})
        config = uvicorn.Config(app, host="127.0.0.1", port=int(port), log_level="warning")
        pn.state.cache[key] = threading.Thread(target=uvicorn.Server(config).run, daemon=True)
        pn.state.cache[key].start()
    address = f"http://127.0.0.1:{port}/review"
    return pn.pane.HTML(
        f'<h1>DeepStreaks review</h1><p><a href="{address}">Log in</a> to review.</p>'
    )


class _Guard:
    """Lets nobody in who is not logged in, and nothing that is too large or from another site."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self.app, self.site = app, site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
        if not _OPEN.fullmatch(scope["path"]) and await self._who(scope) is None:
            away: Response = Response("Log in first.", 401)
            if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
                away = RedirectResponse("/login", 303)
            await away(scope, receive, send)
            return
        body = b""
        while len(body) <= _LARGEST:
            message = await receive()
            body += message.get("body", b"")
            if message["type"] != "http.request" or not message.get("more_body"):
                break
        if len(body) > _LARGEST:
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
        asked = time.monotonic()

        async def checked() -> Message:
            nonlocal asked
            message = await receive()
            if message["type"] == "websocket.receive" and time.monotonic() - asked > _ASK_AGAIN:
                asked = time.monotonic()
                if await self._who(scope) is None:
                    await send({"type": "websocket.close", "code": 1008})
                    return {"type": "websocket.disconnect", "code": 1008}
            return message

        await self.app(scope, checked, send)

    async def _who(self, scope: Scope) -> Person | None:
        from starlette.concurrency import run_in_threadpool
        from starlette.requests import HTTPConnection

        secret = HTTPConnection(scope).cookies.get(COOKIE)
        return await run_in_threadpool(self.site.review.person_of, secret) if secret else None


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


def _add_pages(app: FastAPI) -> None:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def page(name: str, request: Request, secret: str = "", **more: Any) -> HTMLResponse:
        site = site_of(request)
        who = site.review.person_of(secret) if secret else None
        text = templates.get_template(f"{name}.html.j2").render(
            page=name,
            who=who,
            csrf=csrf_of(secret) if who else "",
            archive=Path(site.archive.rstrip("/")).name,
            run=site.run,
            dashboards=request.app.state.dashboards,
            **more,
        )
        return HTMLResponse(text)

    @app.get("/", include_in_schema=False)
    def root() -> RedirectResponse:
        return RedirectResponse("/review", 303)

    @app.get("/login", include_in_schema=False)
    def login(request: Request, secret: Secret = "") -> HTMLResponse:
        return page("login", request)

    @app.get("/review", include_in_schema=False)
    def review(request: Request, secret: Secret = "") -> HTMLResponse:
        catalogue = site_of(request).catalogue()
        sorts = ["jd", "mag", "length", "snr", *catalogue.families, *catalogue.members]
        simulated = any("simulat" in str(source) for source in catalogue["source"][:50])
        return page("review", request, secret, sorts=sorts, note=NOTE, simulated=simulated)

    @app.get("/account", include_in_schema=False)
    def account(request: Request, secret: Secret = "") -> HTMLResponse:
        return page("account", request, secret)

    @app.get("/admin", include_in_schema=False)
    def admin(request: Request, secret: Secret = "") -> HTMLResponse:
        who = site_of(request).review.person_of(secret)
        if who is not None:
            who.need("administrator")
        return page("admin", request, secret, roles=ROLES)

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(_ICON, media_type="image/svg+xml")

    @app.get("/assets/{name}", include_in_schema=False)
    def asset(name: str) -> Response:
        if name not in _ASSETS:
            return Response("There is no such file.", 404)
        return Response(
            (PAGES / name).read_bytes(),
            media_type=_ASSETS[name],
            headers={"Cache-Control": "no-cache"},
        )
