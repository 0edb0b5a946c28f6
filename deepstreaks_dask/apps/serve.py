"""Serve the dashboards of one archive, to this machine alone."""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

import panel as pn

from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.runs import list_runs

APPS = ("explore", "campaign")


def serve(
    archive: str | os.PathLike[str],
    app: str = "explore",
    *,
    run: str = "default",
    address: str = "127.0.0.1",
    port: int = 5006,
    origins: Sequence[str] = (),
    show: bool = True,
) -> None:
    """Serve a dashboard until interrupted.

    Parameters
    ----------
    archive : str or path
        Path or URL. What is served comes from this archive alone.
    app : str
        One of :data:`APPS`.
    run : str
        Run that is shown first.
    address : str
        To listen on. These dashboards ask for no password: only this machine's own addresses are taken.
    port : int
        0 takes a free one.
    origins : sequence of str
        ``host:port`` by which a reverse proxy, which asks for one, is reached.
    show : bool
        Open a browser.

    Raises
    ------
    DeepStreaksError
        If the archive, the app or the address cannot be served.
    """
    if app not in APPS:
        raise DeepStreaksError(f"no dashboard {app!r}: there are {', '.join(APPS)}")
    if not is_loopback(address):
        raise DeepStreaksError(
            f"{address} can be reached from other machines, and the {app} dashboard asks for no password: "
            "serve it on 127.0.0.1, and go there by 'ssh -L' or through a reverse proxy that asks for one"
        )
    runs = list_runs(archive)  # a mistyped path is an error now, not on the first visit
    make = import_module(f"deepstreaks_dask.apps.{app}").app
    if app == "explore" and runs:
        first = run if run in runs else runs[0]
        threading.Thread(target=_preload, args=(os.fspath(archive), first), daemon=True).start()
    try:
        port = port or _free_port(address)
        hosts = [f"{host}:{port}" for host in dict.fromkeys((address, "127.0.0.1", "localhost"))]
        pn.serve(
            {app: lambda: make(archive, run)},
            address=address,
            port=port,
            websocket_origin=[*hosts, *origins],
            show=show,
            title=f"DeepStreaks {app}",
            index=None,
        )
    except OSError as error:
        raise DeepStreaksError(
            f"cannot serve on {address}:{port} ({error.strerror or error}): give another --port"
        ) from error


def is_loopback(address: str) -> bool:
    """Say whether an address can be reached from this machine alone."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(address, None)}
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(ip.split("%")[0]).is_loopback for ip in found)


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as probe:
        return int(probe.getsockname()[1])


def _preload(archive: str, run: str) -> None:
    """Read the scores before the first visit asks for them; whoever visits is told what fails."""
    from deepstreaks_dask.exploration import explore

    with suppress(DeepStreaksError):
        explore(archive, run).begin()
