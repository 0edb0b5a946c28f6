"""What commands print and write: tables that are never cut, JSON, CSV, and files or standard output.

At a terminal a table that is too wide loses its least important columns, and says which; nothing is cut within a cell. Into
a pipe all columns are printed, however wide.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from deepstreaks_dask.errors import DeepStreaksError

if TYPE_CHECKING:
    import pandas as pd

STANDARD_OUTPUT = "-"
"""Name of an output file that is standard output."""

MIN_FIXED_POINT = 0.001
"""Numbers smaller than this are printed with an exponent."""

MAX_TABLE_WIDTH = 100_000
"""Characters in a line of a table into a pipe."""


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    importance: Sequence[str] = (),
    kept: int = 1,
) -> None:
    """Print a table: at a terminal the most important columns that fit, into a pipe all of them.

    Parameters
    ----------
    columns : sequence of str
        Headings.
    rows : iterable of sequence
        A value for each column.
    title : str
        Above the table.
    importance : sequence of str
        Columns, the most important first; those that are not named follow in their order. By default the order of
        ``columns``.
    kept : int
        How many of the most important columns are shown however narrow the terminal is.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    ranked = [*importance, *(name for name in columns if name not in importance)]
    shown, left_out = list(columns), []
    width = _width(columns, cells, shown)
    if sys.stdout.isatty():
        available = Console(file=sys.stdout).width
        while width > available and len(shown) > kept:
            left_out.append(ranked.pop())
            shown.remove(left_out[-1])
            width = _width(columns, cells, shown)
    console = Console(file=sys.stdout, width=width, highlight=False)
    console.print(_table(columns, cells, shown, title), crop=False)
    if left_out:
        names = ", ".join(name for name in columns if name in left_out)
        print(f"Columns that do not fit: {names}. A wider terminal shows them.")


def print_frame(frame: pd.DataFrame, *, title: str = "", importance: Sequence[str] = ()) -> None:
    """Print a data frame as :func:`print_table` does.

    Parameters
    ----------
    frame : pandas.DataFrame
        Rows, whatever their columns.
    title : str
        Above the table.
    importance : sequence of str
        Columns, the most important first.
    """
    columns = [str(name) for name in frame.columns]
    print_table(columns, frame.itertuples(index=False), title=title, importance=importance)


def _cell(value: object) -> str:
    if value is None or value != value:  # NaN
        return ""
    if not isinstance(value, float):
        return str(value)
    if value and abs(value) < MIN_FIXED_POINT:
        return f"{value:.3g}"
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _table(
    columns: Sequence[str], cells: list[list[str]], shown: Sequence[str], title: str = ""
) -> Table:
    places = [place for place, name in enumerate(columns) if name in shown]
    headings = [Column(Text(columns[place]), no_wrap=True, overflow="ignore") for place in places]
    table = Table(*headings, title=Text(title) if title else None, box=HEAVY_HEAD)
    for row in cells:
        table.add_row(*(Text(row[place]) for place in places))
    return table


def _width(columns: Sequence[str], cells: list[list[str]], shown: Sequence[str]) -> int:
    """Measure the width in characters of a table of which nothing is cut."""
    console = Console(file=sys.stdout, width=MAX_TABLE_WIDTH)
    return Measurement.get(console, console.options, _table(columns, cells, shown)).maximum


def say(as_json: bool, values: dict[str, Any]) -> None:
    """Print an answer: a line a value, or JSON.

    Parameters
    ----------
    as_json : bool
        For machines.
    values : dict
        By name.
    """
    if as_json:
        print_json(values)
        return
    for key, value in values.items():
        if isinstance(value, float):
            value = f"{value:.4f}"
        print(f"{key}: {value if value not in ({}, []) else 'none'}")


def print_json(values: Any) -> None:
    """Print JSON, of which NaN is no part."""
    print(json.dumps(values, indent=2, allow_nan=False))


def print_remark(text: str, *, output: object = None) -> None:
    """Print a line for people, on standard error where standard output is for a file.

    Parameters
    ----------
    text : str
        The line.
    output : str or path, optional
        Where the command writes its file.
    """
    print(text, file=sys.stderr if str(output) == STANDARD_OUTPUT else sys.stdout)


def output_of_rows(output: str | None, *, as_json: bool) -> str | None:
    """Return where the rows of a command go: into a pipe as CSV, if nothing else was asked for.

    Parameters
    ----------
    output : str, optional
        Path or URL, or ``-`` for standard output, as given on the command line.
    as_json : bool
        Whether JSON is printed instead.

    Returns
    -------
    str, optional
        ``-`` where standard output is no terminal; otherwise `output`.
    """
    if output is None and not as_json and not sys.stdout.isatty():
        return STANDARD_OUTPUT
    return output


@contextmanager
def open_output(
    output: str | Path | None,
    suffix: str,
    *,
    as_json: bool = False,
    endings: Sequence[str] = (),
) -> Iterator[str]:
    """Name the file to write an output to; standard output gets what was written to it if that was asked for.

    Parameters
    ----------
    output : str or path, optional
        Path or URL, or ``-`` for standard output; None where nothing is to be written.
    suffix : str
        Ending of the file's name where it is standard output, such as ``.csv``.
    as_json : bool
        Whether JSON is printed, too.
    endings : sequence of str
        Endings that the name of a file may have; any by default.

    Yields
    ------
    str
        Where to write; empty if nothing is to be written.

    Raises
    ------
    DeepStreaksError
        If JSON and the file would both go to standard output, or the name ends otherwise.
    """
    if output is None:
        yield ""
        return
    named = str(output)
    if named != STANDARD_OUTPUT:
        if endings and Path(named).suffix not in endings:
            raise DeepStreaksError(f"{named}: name a file that ends in {' or '.join(endings)}")
        yield named
        return
    if as_json:
        raise DeepStreaksError("--json and --output - both write to standard output: give one")
    with TemporaryDirectory(prefix="deepstreaks-") as folder:
        path = Path(folder) / f"output{suffix}"
        yield str(path)
        sys.stdout.flush()
        sys.stdout.buffer.write(path.read_bytes())
        sys.stdout.buffer.flush()
