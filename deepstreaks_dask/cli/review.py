"""Commands that serve the dashboards and manage the review's users."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.table import Table

from deepstreaks_dask.cli.app import app, users_app
from deepstreaks_dask.cli.options import (
    ArchiveArg,
    JsonOption,
    OfArchive,
    RunOption,
    UserArg,
    ZooOption,
    console,
    print_json,
)
from deepstreaks_dask.cli.verdicts import DatabaseOption, open_review
from deepstreaks_dask.vocabulary import ROLES, Role


@app.command()
def dashboard(
    archive: ArchiveArg,
    app: Annotated[str, typer.Option(help="explore, campaign or review.")] = "explore",
    run: RunOption = "default",
    address: Annotated[str, typer.Option(help="Of this machine, to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 5006,
    origin: Annotated[
        str | None,
        typer.Option(
            help="https://name of a reverse proxy on this machine; see docs/reverse-proxy.md."
        ),
    ] = None,
    database: DatabaseOption = None,
    zoo: ZooOption = None,
    show: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Look at scores, thresholds, candidates and campaigns in a browser. Ctrl+C stops.

    The review, and whatever other machines can reach, asks people to log in: add an administrator first with 'deepstreaks
    users add'.

    Example: deepstreaks dashboard week.zarr --app explore
    """
    from deepstreaks_dask.apps.server.options import Listener, SiteOptions
    from deepstreaks_dask.apps.server.serve import serve

    options = SiteOptions(run=run, database=database, zoo=zoo)
    serve(archive, app, options, Listener(address=address, port=port, origin=origin, show=show))


@users_app.command("add")
def users_add(
    name: UserArg,
    archive: OfArchive = None,
    role: Annotated[str, typer.Option(help=f"One of {', '.join(ROLES)}.")] = Role.REVIEWER.value,
    database: DatabaseOption = None,
) -> None:
    """Add a user. The password is asked for, or read from standard input.

    Example: deepstreaks users add vera --role administrator --archive week.zarr
    """
    added = open_review(archive, database).accounts.add_user(name, _new_password(), role)
    print(f"{added.name} was added: {added.role}")


@users_app.command("list")
def users_list(
    archive: OfArchive = None, database: DatabaseOption = None, as_json: JsonOption = False
) -> None:
    """List the users.

    Example: deepstreaks users list --archive week.zarr
    """
    people = open_review(archive, database).accounts.users()
    if as_json:
        print_json([vars(person) for person in people])
        return
    table = Table("name", "role", "active", "since")
    for person in people:
        table.add_row(person.name, person.role, "yes" if person.active else "no", person.created)
    console.print(table)


@users_app.command("disable")
def users_disable(
    name: UserArg,
    archive: OfArchive = None,
    undo: Annotated[bool, typer.Option("--undo", help="Enable again.")] = False,
    database: DatabaseOption = None,
) -> None:
    """Disable a user, whose sessions end at once. Verdicts are kept.

    Example: deepstreaks users disable vera --archive week.zarr
    """
    open_review(archive, database).accounts.change_user(name, active=undo)
    print(f"{name} is {'enabled' if undo else 'disabled'}")


@users_app.command("password")
def users_password(
    name: UserArg, archive: OfArchive = None, database: DatabaseOption = None
) -> None:
    """Give a user a new password, asked for or read from standard input; ends the user's sessions.

    Example: deepstreaks users password vera --archive week.zarr
    """
    open_review(archive, database).accounts.change_user(name, password=_new_password())
    print(f"{name} has a new password")


def _new_password() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\n")
