"""The review site: log in, look at a night's candidates, judge them; with the HTTP API and other dashboards beside.

One server, one log-in. The pages are HTML that asks the API of
:mod:`~deepstreaks_dask.apps.server.review_api`; dashboards made with
Panel are mounted behind the same log-in.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import jinja2
import numpy as np
import uvicorn
from fastapi import Cookie, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from deepstreaks_dask.apps.server.auth import SESSION_COOKIE, csrf_of
from deepstreaks_dask.apps.server.context import Site, site_of
from deepstreaks_dask.apps.server.review_api import api as review_api
from deepstreaks_dask.apps.server.session_api import api as session_api
from deepstreaks_dask.apps.server.site import close, is_loopback, listen, make_app, run_app
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.active_learning import ORDERS
from deepstreaks_dask.report import explanation_maps as explanations
from deepstreaks_dask.review.accounts import ROLES, ReviewError
from deepstreaks_dask.review.database import Review, archive_key, default_url
from deepstreaks_dask.review.schema import MAX_NOTE_LENGTH
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import Run, list_runs

PAGES_FOLDER = Path(__file__).parents[1] / "pages"
_ASSET_TYPES = {
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
Secret = Annotated[str, Cookie(alias=SESSION_COOKIE)]


def serve(
    archive: str | os.PathLike[str],
    *,
    app: str = "review",
    run: str = "default",
    database: str | None = None,
    thresholds: Mapping[str, float] | None = None,
    zoo: str | None = None,
    host: str = "127.0.0.1",
    port: int = 5006,
    origin: str | None = None,
    show: bool = False,
) -> None:
    """Serve all dashboards of an archive until interrupted. Nobody sees anything without logging in.

    Of sequences there are no candidates to review: they are explored, behind the same log-in.

    Parameters
    ----------
    archive : str or path
        A scored archive; for ``campaign`` one without scores, too.
    app : str
        What is shown first: ``review``, ``explore`` or ``campaign``.
    run : str
        Whose scores to show.
    database : str, optional
        SQLAlchemy's URL; by default a SQLite file beside the archive.
    thresholds : mapping of str to float, optional
        By member or family; by default as the run was decided.
    zoo : str, optional
        Of campaigns that are begun here, and of the networks that are asked what a score comes from; the shipped one
        by default.
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
    if app != "campaign":
        Run.open(archive, run)
    listening, hosts = listen(host, port)
    if public:
        hosts.add(public.netloc.lower())
    made = create_app(
        archive,
        run=run,
        database=database,
        thresholds=thresholds,
        zoo=zoo,
        hosts=hosts,
        begin=f"/{app}",
    )
    own, behind = f"http://{host}:{listening.getsockname()[1]}", public is not None
    words = f"{app.capitalize()} of {os.fspath(archive)}"
    run_app(made, listening, origin or own, words, behind_proxy=behind, show=show)


def create_app(
    archive: str | os.PathLike[str],
    *,
    run: str = "default",
    database: str | None = None,
    thresholds: Mapping[str, float] | None = None,
    zoo: str | None = None,
    hosts: set[str],
    begin: str = "/review",
    dashboards: Mapping[str, Callable[[], Any]] | None = None,
) -> FastAPI:
    """Make the site of one archive.

    Parameters
    ----------
    archive, run, database, thresholds, zoo
        As :func:`serve` takes them.
    hosts : set of str
        ``name:port`` that browsers may name this site by.
    begin : str
        Where ``/`` leads.
    dashboards : mapping of str to callable, optional
        Panel pages by path; by default explore and campaign.

    Returns
    -------
    FastAPI
        With a guard before every route.

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
    key = archive_key(archive)
    site = Site(archive, run, key, review, decision, frozenset(hosts), zoo)
    if run in list_runs(archive) and not site.sequences:
        site.catalogue()  # whatever is wrong is said now
    app = make_app(site, "DeepStreaks review")
    app.include_router(session_api)
    app.include_router(review_api)
    mounted = _dashboards(archive, run, zoo) if dashboards is None else dashboards
    app.state.dashboards = sorted(mounted)
    _add_pages(app, begin)
    close(app, site, mounted, entrance="/login")
    return app


def _dashboards(archive: str, run: str, zoo: str | None) -> dict[str, Callable[[], Any]]:
    import panel as pn

    from deepstreaks_dask.apps.campaign import app as campaign
    from deepstreaks_dask.apps.explore import app as explore

    def explored() -> Any:
        if not list_runs(archive):
            return pn.pane.HTML(
                '<p>Nothing is scored yet: <a href="/campaign">begin there</a>.</p>'
            )
        return explore.app(archive, run, zoo=zoo)

    return {
        "/explore": explored,
        "/campaign": lambda: campaign.app(archive, run, control=True),
    }


def door(archive: str, port: str = "5007") -> Any:
    """Make a Panel page that leads to the review of an archive, served by this process too.

    Panel's own server knows none of the review's users: what it shows is the way to the log-in, nothing else.

    Parameters
    ----------
    archive : str
    port : str
        Where the review listens, on this machine only.

    Returns
    -------
    panel.Column
        With a link.

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


def _add_pages(app: FastAPI, begin: str) -> None:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES_FOLDER),
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
            reviewed=not site.sequences,
            **more,
        )
        return HTMLResponse(text)

    @app.get("/", include_in_schema=False)
    def root() -> RedirectResponse:
        return RedirectResponse(begin, 303)

    @app.get("/login", include_in_schema=False)
    def login(request: Request, secret: Secret = "") -> HTMLResponse:
        return page("login", request)

    @app.get("/review", include_in_schema=False)
    def review(request: Request, secret: Secret = "") -> Response:
        if site_of(request).sequences:
            return RedirectResponse("/explore", 303)
        if site_of(request).run not in list_runs(site_of(request).archive):
            return RedirectResponse("/campaign", 303)
        catalogue = site_of(request).catalogue()
        sorts = ["jd", "mag", "length", "snr", *ORDERS, *catalogue.families, *catalogue.members]
        first = catalogue.take("source", np.arange(min(50, catalogue.rows)))
        simulated = any("simulat" in str(source) for source in first)
        return page(
            "review",
            request,
            secret,
            sorts=sorts,
            note=MAX_NOTE_LENGTH,
            simulated=simulated,
            explained=explanations.CAPTION,
        )

    @app.get("/account", include_in_schema=False)
    def account(request: Request, secret: Secret = "") -> HTMLResponse:
        return page("account", request, secret)

    @app.get("/admin", include_in_schema=False)
    def admin(request: Request, secret: Secret = "") -> HTMLResponse:
        who = site_of(request).review.person_of(secret)
        if who is not None:
            who.need("administrator")
        return page("admin", request, secret, roles=ROLES)

    @app.get("/assets/{name}", include_in_schema=False)
    def asset(name: str) -> Response:
        if name not in _ASSET_TYPES:
            return Response("There is no such file.", 404)
        return Response(
            (PAGES_FOLDER / name).read_bytes(),
            media_type=_ASSET_TYPES[name],
            headers={"Cache-Control": "no-cache"},
        )
