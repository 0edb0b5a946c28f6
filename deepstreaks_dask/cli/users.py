"""Commands that manage the review's users."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from deepstreaks_dask.cli.app import users_app
from deepstreaks_dask.cli.completion import choose
from deepstreaks_dask.cli.options import DatabaseOption, JsonOption
from deepstreaks_dask.cli.output import print_json, print_table
from deepstreaks_dask.cli.verdicts import open_review
from deepstreaks_dask.vocabulary import ROLES, Role

UserArg = Annotated[str, typer.Argument(help="Name of the user.")]
OfArchive = Annotated[str | None, typer.Option("--archive", help="Archive that is reviewed.")]


@users_app.command("add")
def users_add(
    name: UserArg,
    archive: OfArchive = None,
    role: Annotated[
        str,
        typer.Option(help=f"One of {', '.join(ROLES)}.", autocompletion=choose("role")),
    ] = Role.REVIEWER.value,
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
    rows = [(one.name, one.role, "yes" if one.active else "no", one.created) for one in people]
    print_table(("name", "role", "active", "since"), rows)


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


@users_app.command("reset-code")
def users_reset_code(
    name: UserArg, archive: OfArchive = None, database: DatabaseOption = None
) -> None:
    """Remove a user's one-time passwords, as for a lost device; ends the user's sessions.

    Example: deepstreaks users reset-code vera --archive week.zarr
    """
    open_review(archive, database).accounts.change_user(name, second_factor=False)
    print(f"{name} logs in with the password alone")


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
