"""The review site: log-in, a night's candidates and verdicts on them, with the HTTP API and the other dashboards.

One server, one log-in. The pages are HTML on the API of :mod:`~deepstreaks_dask.apps.server.streak_api` and
:mod:`~deepstreaks_dask.apps.server.verdict_api`; dashboards made with Panel are mounted behind the same log-in.
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
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from deepstreaks_dask.apps.server.addresses import is_loopback, trusted_networks
from deepstreaks_dask.apps.server.auth import csrf_of
from deepstreaks_dask.apps.server.context import Site, site_of
from deepstreaks_dask.apps.server.options import Listener, SiteOptions
from deepstreaks_dask.apps.server.session_api import session_routes
from deepstreaks_dask.apps.server.site import add_guard, listen, make_app, run_app
from deepstreaks_dask.apps.server.streak_api import streak_routes
from deepstreaks_dask.apps.server.token_api import token_routes
from deepstreaks_dask.apps.server.verdict_api import verdict_routes
from deepstreaks_dask.apps.server.vocabulary_api import vocabulary
from deepstreaks_dask.apps.visitor import current_visitor
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.active_learning import ORDERS
from deepstreaks_dask.report import explanation_maps as explanations
from deepstreaks_dask.review.database import Review, archive_key, default_url
from deepstreaks_dask.review.people import ReviewError
from deepstreaks_dask.review.schema import MAX_NOTE_LENGTH
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import Run, list_runs
from deepstreaks_dask.vocabulary import Role

_PAGES_FOLDER = Path(__file__).parents[1] / "pages"
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


def _secret(request: Request) -> str:
    return request.cookies.get(site_of(request).cookie, "")


SessionSecret = Annotated[str, Depends(_secret)]


def serve(
    archive: str | os.PathLike[str],
    app: str = "review",
    options: SiteOptions | None = None,
    listener: Listener | None = None,
) -> None:
    """Serve all dashboards of an archive until interrupted. Every one requires a log-in.

    Sequences have no candidates to review: the site of such an archive shows explore and campaign.

    Parameters
    ----------
    archive : str or path
        Path or URL of a scored archive; for ``campaign`` also of one without scores.
    app : str
        The dashboard to show first: ``review``, ``explore`` or ``campaign``.
    options : SiteOptions, optional
        The run, database, thresholds and zoo.
    listener : Listener, optional
        The address, port and origin.

    Raises
    ------
    DeepStreaksError
        If there is no such run or no user yet, or passwords would travel unencrypted.
    """
    options, listener = options or SiteOptions(), listener or Listener()
    host, origin = listener.address, listener.origin
    public = urlsplit(origin) if origin else None
    if public and not (public.scheme == "https" and public.netloc and not public.path.strip("/")):
        raise DeepStreaksError(f"--origin {origin}: write it like https://review.example.org")
    if not public and not is_loopback(host):
        raise DeepStreaksError(
            f"listening on {host} would let passwords travel unencrypted: put a reverse proxy with TLS before it "
            "and name its --origin https://…"
        )
    if listener.trusted_proxies and not public:
        raise DeepStreaksError("--trusted-proxy is for a site with an --origin https://…")
    trusted = trusted_networks(listener.trusted_proxies) if public else ()
    if app != "campaign":
        Run.open(archive, options.run)
    listening, hosts = listen(host, listener.port)
    if public:
        hosts.add(public.netloc.lower())
    secure = public is not None
    site_app = create_app(archive, options, hosts=hosts, first_page=f"/{app}", secure=secure)
    own = f"http://{host}:{listening.getsockname()[1]}"
    words = f"{app.capitalize()} of {os.fspath(archive)}"
    run_app(site_app, listening, origin or own, words, trusted=trusted, show=listener.show)


def create_app(
    archive: str | os.PathLike[str],
    options: SiteOptions | None = None,
    *,
    hosts: set[str],
    first_page: str = "/review",
    dashboards: Mapping[str, Callable[[], Any]] | None = None,
    secure: bool = False,
) -> FastAPI:
    """Return the application that serves all dashboards of an archive behind a log-in.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    options : SiteOptions, optional
        The run, database, thresholds and zoo.
    hosts : set of str
        ``name:port`` under which browsers may open this site.
    first_page : str
        Path to which ``/`` leads.
    dashboards : mapping of str to callable, optional
        Panel pages by path; by default explore and campaign.
    secure : bool
        Browsers reach the site over https only.

    Returns
    -------
    FastAPI
        With a guard before every route.

    Raises
    ------
    DeepStreaksError
        If there is no such run, or no active administrator yet.
    """
    archive, options = os.fspath(archive), options or SiteOptions()
    review = Review(options.database or default_url(archive))
    users = review.accounts.users()
    if not any(one.may(Role.ADMINISTRATOR) and one.active for one in users):
        raise ReviewError(
            "there is nobody to administer the review yet: "
            f"'deepstreaks users add NAME --role {Role.ADMINISTRATOR} --archive {archive}'"
        )
    site = Site(
        archive,
        options.run,
        archive_key(archive),
        review,
        Decision(dict(options.thresholds)) if options.thresholds else None,
        frozenset(hosts),
        options.zoo,
        secure,
    )
    if site.run in list_runs(archive) and not site.sequences:
        site.catalogue()  # errors are raised now, not on the first visit
    app = make_app(site, "DeepStreaks review")
    for routes in (session_routes, token_routes, streak_routes, verdict_routes):
        app.include_router(routes)
    mounted = _dashboards(site) if dashboards is None else dashboards
    app.state.dashboards = sorted(mounted)
    _add_pages(app, first_page)
    add_guard(app, site, mounted, login_path="/login")
    return app


def _dashboards(site: Site) -> dict[str, Callable[[], Any]]:
    import panel as pn

    from deepstreaks_dask.apps.campaign import app as campaign
    from deepstreaks_dask.apps.explore import app as explore

    def explore_page() -> Any:
        if not list_runs(site.archive):
            return pn.pane.HTML(
                '<p>Nothing is scored yet: <a href="/campaign">begin there</a>.</p>'
            )
        return explore.app(site.archive, site.run, zoo=site.zoo, visitor=current_visitor.get())

    return {
        "/explore": explore_page,
        "/campaign": lambda: campaign.app(
            site.archive, site.run, control=True, visitor=current_visitor.get()
        ),
    }


def login_link(archive: str, port: str = "5007") -> Any:
    """Return a Panel page with a link to the review of an archive, and serve the review from this process.

    Panel's own server does not check the review's users, so its page holds the link only.

    Parameters
    ----------
    archive : str
        Path or URL.
    port : str
        TCP port of the review, on this machine only.

    Returns
    -------
    panel.pane.HTML
        The page.

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


def _add_pages(app: FastAPI, first_page: str) -> None:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGES_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def page(name: str, request: Request, secret: str = "", **more: Any) -> HTMLResponse:
        site = site_of(request)
        who = site.review.accounts.person_of(secret) if secret else None
        text = templates.get_template(f"{name}.html.j2").render(
            page=name,
            who=who,
            csrf=csrf_of(secret) if who else "",
            archive=Path(site.archive.rstrip("/")).name,
            run=site.run,
            dashboards=request.app.state.dashboards,
            reviewed=not site.sequences,
            Role=Role,
            vocabulary=vocabulary().model_dump(mode="json"),
            **more,
        )
        return HTMLResponse(text)

    @app.get("/", include_in_schema=False)
    def root() -> RedirectResponse:
        return RedirectResponse(first_page, 303)

    @app.get("/login", include_in_schema=False)
    def login(request: Request, secret: SessionSecret) -> HTMLResponse:
        return page("login", request)

    @app.get("/review", include_in_schema=False)
    def review(request: Request, secret: SessionSecret) -> Response:
        if site_of(request).sequences:
            return RedirectResponse("/explore", 303)
        if site_of(request).run not in list_runs(site_of(request).archive):
            return RedirectResponse("/campaign", 303)
        catalogue = site_of(request).catalogue()
        sorts = ["jd", "mag", "length", "snr", *ORDERS, *catalogue.families, *catalogue.members]
        some_sources = catalogue.take("source", np.arange(min(50, catalogue.rows)))
        simulated = any("simulat" in str(source) for source in some_sources)
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
    def account(request: Request, secret: SessionSecret) -> HTMLResponse:
        return page("account", request, secret)

    @app.get("/admin", include_in_schema=False)
    def admin(request: Request, secret: SessionSecret) -> Response:
        site = site_of(request)
        who = site.review.accounts.person_of(secret)
        if who is not None:
            who.need(Role.ADMINISTRATOR)
            if site.secure and not who.second_factor:
                return RedirectResponse("/account", 303)
        return page("admin", request, secret)

    @app.get("/assets/{name}", include_in_schema=False)
    def asset(name: str) -> Response:
        if name not in _ASSET_TYPES:
            return Response("There is no such file.", 404)
        return Response(
            (_PAGES_FOLDER / name).read_bytes(),
            media_type=_ASSET_TYPES[name],
            headers={"Cache-Control": "no-cache"},
        )
