"""The Typer applications that commands register with."""

from __future__ import annotations

import typer

from deepstreaks_dask.cli.sequences import app as sequences_app

app = typer.Typer(
    name="deepstreaks",
    help="Find fast-moving asteroids in archives of survey cutouts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
models_app = typer.Typer(no_args_is_help=True, help="Look into a zoo of trained networks.")
archive_app = typer.Typer(no_args_is_help=True, help="Look into an archive, or check it.")
app.add_typer(models_app, name="models")
triage_app = typer.Typer(no_args_is_help=True, help="Reject by a first look, with a guarantee.")
app.add_typer(triage_app, name="triage")
app.add_typer(archive_app, name="archive")
app.add_typer(sequences_app, name="sequences")
users_app = typer.Typer(no_args_is_help=True, help="Who may log in to an archive's review.")
app.add_typer(users_app, name="users")
thresholds_app = typer.Typer(no_args_is_help=True, help="Find thresholds, or list those kept.")
app.add_typer(thresholds_app, name="thresholds")
