"""The command line, ``deepstreaks``: parses a command and runs it; a user's mistake becomes one line."""

from __future__ import annotations

import io
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

import deepstreaks_dask
from deepstreaks_dask.cli import (  # noqa: F401 -- they register their commands
    archive,
    completeness,
    dashboards,
    doctor,
    evaluation,
    models,
    quickstart,
    scoring,
    sequences,
    service,
    thresholds,
    training,
    triage,
    users,
)
from deepstreaks_dask.cli.app import INTERRUPTED_STATUS, app
from deepstreaks_dask.cli.native_log import DEBUG_VARIABLE, NativeLog
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.utils.optional import extras_named
from deepstreaks_dask.utils.storage import STORE_LIBRARIES, describe_storage_error


def main() -> None:
    """Run the command line.

    A user's mistake becomes one line and exit status 1. What is not the user's mistake is shown with its traceback and the
    file that has the messages of native code; ``DEEPSTREAKS_DEBUG=1`` shows both for every error.
    """
    debug = bool(os.environ.get(DEBUG_VARIABLE))
    log = NativeLog()
    if not debug:
        log.start()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Line buffering: whoever reads a dashboard's address from a pipe, or from a log, wants it before the dashboard
            # ends. Escapes: a console or log of another encoding than UTF-8 is no reason to fail.
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    warnings.formatwarning = _format_warning
    try:
        with extras_named():
            app()
    except DeepStreaksError as error:
        log.remove()
        print(f"deepstreaks: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if debug:
            raise
        log.remove()
        print(f"deepstreaks: {_describe_os_error(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        log.remove()
        print("\ndeepstreaks: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED_STATUS)
    except Exception as error:
        if debug:
            raise
        if type(error).__module__.partition(".")[0] in STORE_LIBRARIES:
            log.remove()
            print(f"deepstreaks: {describe_storage_error(error)}", file=sys.stderr)
            sys.exit(1)
        traceback.print_exc()
        print(f"deepstreaks: unexpected {type(error).__name__}. {log.describe()}", file=sys.stderr)
        sys.exit(1)
    except SystemExit:
        log.remove()
        raise


def _format_warning(
    message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Format a warning: one of this package in one line for people, another one as Python does."""
    if Path(filename).is_relative_to(Path(deepstreaks_dask.__file__).parent):
        return f"deepstreaks: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _describe_os_error(error: OSError) -> str:
    """Describe in one line which file or address an operating system's error is about."""
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    if version:
        print(deepstreaks_dask.__version__)
        raise typer.Exit
