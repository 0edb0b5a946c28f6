"""Serve the dashboards of one archive: to this machine alone, or behind a log-in."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress

from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.scoring.runs import list_runs

APP_NAMES = ("explore", "campaign", "review")


def serve(
    archive: str | os.PathLike[str],
    app: str = "explore",
    *,
    run: str = "default",
    database: str | None = None,
    zoo: str | None = None,
    address: str = "127.0.0.1",
    port: int = 5006,
    origin: str | None = None,
    show: bool = True,
) -> None:
    """Serve a dashboard until interrupted.

    The review, and whatever other machines can reach, is behind a log-in, and all three are served there. On this machine
    alone, explore asks for nothing; campaign, which can begin work, for a key that is in the address it prints.

    Parameters
    ----------
    archive : str or path
        Path or URL. What is served comes from this archive alone.
    app : str
        One of :data:`APP_NAMES`.
    run : str
        Run that is shown first.
    database : str, optional
        Of the people who may log in: SQLAlchemy's URL; by default a file beside the archive.
    zoo : str, optional
        Of campaigns that are begun from the page, and of the networks that are asked what a score comes from; the shipped
        one by default.
    address : str
        To listen on.
    port : int
        0 takes a free one.
    origin : str, optional
        ``https://…`` of a reverse proxy on this machine.
    show : bool
        Open a browser.

    Raises
    ------
    DeepStreaksError
        If the archive, the app or the address cannot be served.
    """
    from deepstreaks_dask.apps.server.site import is_loopback, listen, own_machine, run_app

    if app not in APP_NAMES:
        raise DeepStreaksError(f"no dashboard {app!r}: there are {', '.join(APP_NAMES)}")
    if app == "review" or origin is not None or not is_loopback(address):
        from deepstreaks_dask.apps.review import app as review

        review.serve(
            archive,
            app=app,
            run=run,
            database=database,
            zoo=zoo,
            host=address,
            port=port,
            origin=origin,
            show=show,
        )
        return
    runs = list_runs(archive)  # a mistyped path is an error now, not on the first visit
    if app == "explore":
        _explore(os.fspath(archive), run, zoo, runs, address, port, show)
        return
    from deepstreaks_dask.apps.campaign import app as campaign

    path = os.fspath(archive)
    listening, hosts = listen(address, port)
    pages = {"/campaign": lambda: campaign.app(path, run, control=True)}
    made = own_machine(path, pages, run=run, zoo=zoo, hosts=hosts)
    where = f"http://{address}:{listening.getsockname()[1]}/enter?key={made.state.site.key}"
    run_app(made, listening, where, f"Campaigns of {path}", show=show)


def _explore(
    archive: str, run: str, zoo: str | None, runs: list[str], address: str, port: int, show: bool
) -> None:
    import panel as pn

    from deepstreaks_dask.apps.explore import app as open_exploration

    if runs:
        first = run if run in runs else runs[0]
        threading.Thread(target=_preload, args=(archive, first), daemon=True).start()
    try:
        port = port or _free_port(address)
        hosts = [f"{host}:{port}" for host in dict.fromkeys((address, "127.0.0.1", "localhost"))]
        pn.serve(
            {"explore": lambda: open_exploration.app(archive, run, zoo=zoo)},
            address=address,
            port=port,
            websocket_origin=hosts,
            show=show,
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
    """Read the scores before the first visit asks for them; whoever visits is told what fails."""
    from deepstreaks_dask.evaluation.interactive import open_exploration

    with suppress(DeepStreaksError):
        open_exploration(archive, run).begin()
