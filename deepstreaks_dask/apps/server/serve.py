"""Serve the dashboards of one archive: to this machine alone, or behind a log-in."""

from __future__ import annotations

import os
import socket
import sys
import threading
from contextlib import suppress

from deepstreaks_dask.apps.server.addresses import is_loopback, shared_machine_warning
from deepstreaks_dask.apps.server.options import Listener, SiteOptions
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.scoring.runs import list_runs

APP_NAMES = ("explore", "campaign", "review")
"""The dashboards."""


def serve(
    archive: str | os.PathLike[str],
    app: str = "explore",
    options: SiteOptions | None = None,
    listener: Listener | None = None,
) -> None:
    """Serve a dashboard until interrupted.

    The review, and every dashboard that other machines can reach, requires a log-in, and all three are served there. On this
    machine alone, explore requires nothing; campaign, which can start work, requires the key in the address that is printed.

    Parameters
    ----------
    archive : str or path
        Path or URL. Only this archive is served.
    app : str
        The dashboard to show first, one of :data:`APP_NAMES`.
    options : SiteOptions, optional
        The run, database, thresholds and zoo.
    listener : Listener, optional
        The address, port and origin.

    Raises
    ------
    DeepStreaksError
        If the archive, the dashboard or the address cannot be served.
    """
    options, listener = options or SiteOptions(), listener or Listener()
    if app not in APP_NAMES:
        raise DeepStreaksError(f"no dashboard {app!r}: there are {', '.join(APP_NAMES)}")
    if app == "review" or listener.origin is not None or not is_loopback(listener.address):
        from deepstreaks_dask.apps.review import app as review

        review.serve(archive, app, options, listener)
        return
    runs = list_runs(archive)  # a mistyped path is an error now, not on the first visit
    if app == "explore":
        _explore(os.fspath(archive), runs, options, listener)
    else:
        _campaign(os.fspath(archive), options, listener)


def _campaign(archive: str, options: SiteOptions, listener: Listener) -> None:
    from deepstreaks_dask.apps.campaign import app as campaign
    from deepstreaks_dask.apps.server.site import listen, make_loopback_app, run_app
    from deepstreaks_dask.apps.visitor import current_visitor

    listening, hosts = listen(listener.address, listener.port)
    pages = {
        "/campaign": lambda: campaign.app(
            archive, options.run, control=True, visitor=current_visitor.get()
        )
    }
    app = make_loopback_app(archive, pages, run=options.run, zoo=options.zoo, hosts=hosts)
    port = listening.getsockname()[1]
    address = f"http://{listener.address}:{port}/enter?key={app.state.site.key}"
    run_app(app, listening, address, f"Campaigns of {archive}", show=listener.show)


def _explore(archive: str, runs: list[str], options: SiteOptions, listener: Listener) -> None:
    import panel as pn

    from deepstreaks_dask.apps.explore import app as open_exploration

    run, address, port = options.run, listener.address, listener.port
    if warning := shared_machine_warning(
        "they can open this page and save thresholds; --app review asks for a log-in"
    ):
        print(warning, file=sys.stderr, flush=True)
    if runs:
        first = run if run in runs else runs[0]
        threading.Thread(target=_preload, args=(archive, first), daemon=True).start()
    try:
        port = port or _free_port(address)
        hosts = [f"{host}:{port}" for host in dict.fromkeys((address, "127.0.0.1", "localhost"))]
        pn.serve(
            {"explore": lambda: open_exploration.app(archive, run, zoo=options.zoo)},
            address=address,
            port=port,
            websocket_origin=hosts,
            show=listener.show,
            title="DeepStreaks explore",
            index=None,
        )
    except OSError as error:
        raise DeepStreaksError(
            f"cannot serve on {address}:{port} ({error.strerror or error}): give another --port"
        ) from error


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as probe:
        return int(probe.getsockname()[1])


def _preload(archive: str, run: str) -> None:
    """Read the scores before the first visit; errors are shown to the visitor, not here."""
    from deepstreaks_dask.evaluation.interactive import open_exploration

    with suppress(DeepStreaksError):
        open_exploration(archive, run).begin()
