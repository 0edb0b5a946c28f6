"""The Typer applications that commands register with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

RESUMABLE = frozenset(
    {
        *("ingest", "quickstart", "score", "train", "retrain", "train-all", "sweep"),
        *("sequences simulate", "sequences train", "sequences finetune", "sequences score"),
        "sequences reproduce",
    }
)
"""Commands that resume where they were interrupted when they are run again."""

INTERRUPTED_STATUS = 130
"""Exit status after Ctrl-C, as shells have it."""


def _simplify_types(parameter: Any) -> None:
    """Show no type of a flag, and of a list the type of one value."""
    if getattr(parameter, "is_flag", False):
        parameter.metavar = ""
    elif parameter.nargs == -1:
        label = parameter.display_type if hasattr(parameter, "display_type") else None
        if label is not None:
            parameter.display_type = lambda ctx: label(ctx).replace("list[", "").replace("]", "")


class _Command(TyperCommand):
    """A command whose help shows types that users know."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters = super().get_params(ctx)
        for parameter in parameters:
            _simplify_types(parameter)
        return parameters


class _Group(TyperGroup):
    """A group of commands whose help shows types that users know, and that says how to go on after Ctrl-C."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters = super().get_params(ctx)
        for parameter in parameters:
            _simplify_types(parameter)
        return parameters

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            # the program's name may be several words, as in "python -m deepstreaks_dask"
            program = ctx.find_root().command_path
            words = f"{ctx.command_path} {ctx.invoked_subcommand or ''}".removeprefix(program)
            said = str(interrupt) or _describe_interruption(words.strip())
            typer.echo(f"\ndeepstreaks: {said}", err=True)
            raise typer.Exit(INTERRUPTED_STATUS) from None


def _describe_interruption(command: str) -> str:
    """Describe what to do after Ctrl-C ended a command."""
    if command in RESUMABLE:
        return "interrupted; what was stored is kept. Run the same command again to resume"
    if command in ("simulate", "inject"):
        return "interrupted; the archive is incomplete. Run the command again with --overwrite"
    return "interrupted"


def expand_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make the fields of dataclasses among a function's parameters parameters of their own.

    Parameters
    ----------
    function : callable
        A command. A parameter that is annotated with a dataclass stands for that dataclass's fields, whose annotations are
        Typer's.

    Returns
    -------
    callable
        Takes the fields by name, makes the dataclasses of them, and calls ``function``.
    """
    signature = inspect.signature(function, eval_str=True)
    groups: dict[str, Any] = {
        one.name: one.annotation
        for one in signature.parameters.values()
        if is_dataclass(one.annotation)
    }
    parameters = []
    for one in signature.parameters.values():
        if one.name not in groups:
            parameters.append(one.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        hints = get_type_hints(groups[one.name], include_extras=True)
        for field in fields(groups[one.name]):
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=inspect.Parameter.empty if field.default is MISSING else field.default,
                    annotation=hints[field.name],
                )
            )

    @wraps(function)
    def command(**given: Any) -> Any:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        return function(**given)

    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


class Application(typer.Typer):
    """An application whose commands share help and behaviour, and take dataclasses of options.

    Parameters
    ----------
    **options
        As for :class:`typer.Typer`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=_Group, no_args_is_help=True, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[..., Any]:
        """Register a command, as :meth:`typer.Typer.command` does.

        Parameters
        ----------
        name : str, optional
            Of the command; the function's by default.
        **options
            As for :meth:`typer.Typer.command`.

        Returns
        -------
        callable
            Decorator of a function, of whose parameters dataclasses are expanded as by :func:`expand_options`.
        """
        register = super().command(name, cls=_Command, **options)

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            register(expand_options(function))
            return function

        return decorate


app = Application(
    name="deepstreaks",
    help="Find fast-moving asteroids in archives of survey cutouts.",
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
models_app = Application(help="Look into a zoo of trained networks.")
app.add_typer(models_app, name="models")
triage_app = Application(help="Reject by a first look, with a guarantee.")
app.add_typer(triage_app, name="triage")
archive_app = Application(help="Look into an archive, or check it.")
app.add_typer(archive_app, name="archive")
sequences_app = Application(help="Classify objects by their sequences of images.")
app.add_typer(sequences_app, name="sequences")
users_app = Application(help="Who may log in to an archive's review.")
app.add_typer(users_app, name="users")
thresholds_app = Application(help="Find thresholds, or list those kept.")
app.add_typer(thresholds_app, name="thresholds")
