"""The command that serves the dashboards."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from deepstreaks_dask.cli.app import app
from deepstreaks_dask.cli.completion import choose
from deepstreaks_dask.cli.options import ArchiveArg, DatabaseOption, RunOption, ZooOption
from deepstreaks_dask.cli.verdicts import check_database_url


@dataclass(frozen=True)
class ServerOptions:
    """Where a dashboard is served."""

    address: Annotated[str, typer.Option(help="Of this machine, to listen on.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 5006
    origin: Annotated[
        str | None,
        typer.Option(
            help="https://name of a reverse proxy before this server; see docs/reverse-proxy.md."
        ),
    ] = None
    trusted_proxies: Annotated[
        list[str] | None,
        typer.Option(
            "--trusted-proxy",
            help="Address or network of a proxy whose X-Forwarded-For is believed. Default: this machine's.",
            metavar="ADDRESS",
        ),
    ] = None
    show: Annotated[bool, typer.Option(help="Open a browser.")] = True


@app.command()
def dashboard(
    archive: ArchiveArg,
    server: ServerOptions,
    app: Annotated[
        str, typer.Option(help="explore, campaign or review.", autocompletion=choose("app"))
    ] = "explore",
    run: RunOption = "default",
    database: DatabaseOption = None,
    zoo: ZooOption = None,
) -> None:
    """Look at scores, thresholds, candidates and campaigns in a browser. Ctrl+C stops.

    The review, and whatever other machines can reach, asks people to log in: add an administrator first with 'deepstreaks
    users add'.

    Example: deepstreaks dashboard week.zarr --app explore
    """
    from deepstreaks_dask.apps.server.options import Listener, SiteOptions
    from deepstreaks_dask.apps.server.serve import serve

    check_database_url(database)
    options = SiteOptions(run=run, database=database, zoo=zoo)
    listener = Listener(**asdict(server) | {"trusted_proxies": tuple(server.trusted_proxies or ())})
    serve(archive, app, options, listener)
