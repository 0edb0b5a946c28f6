"""The web server of an archive: its application, and the socket to listen on.

Dashboards made with Panel, and their websockets, are mounted behind the same guard as every other route.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response

import deepstreaks_dask
from deepstreaks_dask.apps.server.addresses import shared_machine_warning
from deepstreaks_dask.apps.server.auth import (
    ServedArchive,
    access_routes,
    problem_response,
    validation_response,
)
from deepstreaks_dask.apps.server.campaign_api import campaign_routes
from deepstreaks_dask.apps.server.guard import MISSING_KEY_MESSAGE, Guard
from deepstreaks_dask.apps.server.protocol import protocol_options
from deepstreaks_dask.apps.server.vocabulary_api import vocabulary_routes
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.review.people import Person
from deepstreaks_dask.vocabulary import Role

_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" '
    'fill="#141a24"/><path d="M3 13 13 3" stroke="#56b4e9" stroke-width="2.4" stroke-linecap="round"/></svg>'
)


@dataclass
class LoopbackSite:
    """An archive that is served on the loopback interface, to the holder of the key in the address that is printed.

    The key is needed since other people with an account on the same machine reach its loopback interface too, and a campaign
    that is started here runs with the rights of the user who started this server.

    Attributes
    ----------
    archive, run : str
        Path or URL, and the name of the run that is shown first.
    zoo : str, optional
        Path or URL of the zoo of new campaigns; the shipped zoo by default.
    hosts : frozenset of str
        ``name:port`` under which browsers may open this site.
    cookie : str
        Name of the cookie that holds the key.
    secure : bool
        False: this machine's loopback interface needs no https.
    key : str
        The key.
    """

    archive: str
    run: str
    zoo: str | None
    hosts: frozenset[str]
    cookie: str = "deepstreaks_key"
    secure: bool = False
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def authenticator(self) -> LoopbackSite:
        """The site itself, which compares the key."""
        return self

    @property
    def revision(self) -> int:
        """0: the key holds until this server ends."""
        return 0

    def person_of(self, secret: str, *, used: bool = True) -> Person | None:
        """Return the user of this machine if the secret is the key; None otherwise.

        Parameters
        ----------
        secret : str
            The key, or what was sent in its place.
        used : bool
            The user has just done something; the key does not expire.

        Returns
        -------
        Person or None
            The user.
        """
        same = hmac.compare_digest(secret.encode(errors="replace"), self.key.encode())
        return Person("you", Role.ADMINISTRATOR) if same else None

    def person_of_token(self, token: str) -> Person | None:
        """Return None: this site has no tokens."""

    def record(self, who: str, what: str, detail: str = "") -> None:
        """Write nothing: this site has no audit log.

        Parameters
        ----------
        who : str
            User name.
        what, detail : str
            The action and its object.
        """


def make_loopback_app(
    archive: str,
    pages: Mapping[str, Callable[[], Any]],
    *,
    run: str = "default",
    zoo: str | None = None,
    hosts: set[str],
) -> FastAPI:
    """Return the application that serves an archive to this machine alone, without users.

    Parameters
    ----------
    archive : str
        Path or URL.
    pages : mapping of str to callable
        Panel pages by path; ``/enter?key=…`` leads to the first.
    run : str
        Name of the run that is shown first.
    zoo : str, optional
        Path or URL of the zoo of new campaigns; the shipped zoo by default.
    hosts : set of str
        ``name:port`` under which browsers may open this site.

    Returns
    -------
    FastAPI
        With a guard before every route.
    """
    site = LoopbackSite(archive, run, zoo, frozenset(hosts))
    app = make_app(site, "DeepStreaks")
    first_page = next(iter(pages))

    @app.get("/enter", include_in_schema=False)
    def enter(key: Annotated[str, Query(max_length=100)] = "") -> Response:
        if site.person_of(key) is None:
            return Response(MISSING_KEY_MESSAGE, 401)
        response = RedirectResponse(first_page, 303)
        response.set_cookie(site.cookie, key, httponly=True, samesite="strict")
        return response

    add_guard(app, site, pages, login_path=None)
    return app


def make_app(site: ServedArchive, title: str) -> FastAPI:
    """Return an application with the routes that every site has; add its other routes, then call :func:`add_guard`.

    Parameters
    ----------
    site : ServedArchive
        The archive to serve.
    title : str
        Title of the API.

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
    app.state.site = site
    app.add_exception_handler(DeepStreaksError, problem_response)
    app.add_exception_handler(RequestValidationError, validation_response)
    for routes in (access_routes, vocabulary_routes, campaign_routes):
        app.include_router(routes)

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(_ICON, media_type="image/svg+xml")

    return app


def add_guard(
    app: FastAPI,
    site: ServedArchive,
    pages: Mapping[str, Callable[[], Any]],
    *,
    login_path: str | None,
) -> None:
    """Mount Panel pages, and put the guard before every route.

    Parameters
    ----------
    app : FastAPI
        The application with all of its routes.
    site : ServedArchive
        The archive that it serves.
    pages : mapping of str to callable
        Panel pages by path.
    login_path : str, optional
        Path to which browsers without a session are sent; None refuses them.
    """
    if pages:
        from panel.io.fastapi import add_applications
        from tornado.web import HTTPError

        def refused(_: Request, error: Exception) -> Response:
            assert isinstance(error, HTTPError)  # Panel's, which FastAPI does not know
            return Response(error.reason, error.status_code)

        app.add_exception_handler(HTTPError, refused)
        titles = {path: f"DeepStreaks {path.strip('/')}" for path in pages}
        add_applications(dict(pages), app=app, title=titles, **_panel_options(site))
    app.add_middleware(Guard, site=site, login_path=login_path)


def _panel_options(site: ServedArchive) -> dict[str, Any]:
    """Return the options of Panel's pages.

    Panel puts what it has of a request, cookies among it, into a token in the page, for scripts to read and send: nothing
    secret may be there. The token is signed, so that no browser makes up what it says.
    """
    return {
        "websocket_origins": sorted(site.hosts),
        "include_headers": [],
        "include_cookies": [],
        "secret_key": secrets.token_bytes(32),
        "sign_sessions": True,
    }


def listen(host: str, port: int) -> tuple[socket.socket, set[str]]:
    """Open a listening socket.

    Parameters
    ----------
    host : str
        Network address of this machine.
    port : int
        TCP port; 0 takes a free port.

    Returns
    -------
    socket
        The socket.
    set of str
        ``name:port`` under which browsers of this machine may open it.

    Raises
    ------
    DeepStreaksError
        If the address or port cannot be used.
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


def open_browser(address: str) -> None:
    """Open an address in a browser by way of a file that nobody else can read.

    An address may hold a key, and everybody on this machine can read the command that starts a browser.

    Parameters
    ----------
    address : str
        The address.
    """
    page = (
        f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(address, quote=True)}">'
    )
    with tempfile.NamedTemporaryFile(
        "w", suffix=".html", prefix="deepstreaks-", delete=False
    ) as file:
        file.write(page)  # mode 0600, as tempfile makes all of them
    webbrowser.open(Path(file.name).as_uri())


def run_app(
    app: FastAPI,
    listening: socket.socket,
    address: str,
    words: str,
    *,
    trusted: Sequence[str] = (),
    show: bool = False,
) -> None:
    """Print the address, and serve until interrupted.

    Parameters
    ----------
    app : FastAPI
        The application, with its guard.
    listening : socket
        The socket of :func:`listen`.
    address, words : str
        Address of the site, and what is served there, to print.
    trusted : sequence of str
        Networks of the reverse proxies whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed. Anybody else could
        write any address there.
    show : bool
        Whether to open a browser.
    """
    print(f"{words} at {address}", flush=True)
    warning = shared_machine_warning(
        "browsers send cookies to every port of it, also to servers of theirs"
    )
    if warning and not trusted:
        print(warning, file=sys.stderr, flush=True)
    if show:
        open_browser(address)
    config = uvicorn.Config(
        app,
        log_level="warning",
        proxy_headers=bool(trusted),
        forwarded_allow_ips=",".join(trusted),
        server_header=False,
        **protocol_options(),
        ws_max_size=20 * 2**20,
    )
    uvicorn.Server(config).run(sockets=[listening])
