"""Progress bars for everything that takes longer than a breath: count, rate, time left.

They go to standard error in a terminal and beneath the cell in a notebook. Where there is neither, such as in the log of
a job, a plain line comes every 30 seconds, and one at the end.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from html import escape
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

LINE_INTERVAL = 30.0
"""Seconds from one plain line to the next where there is no terminal."""

_Part = TypeVar("_Part")


class Bar:
    """A count on its way to a total: ``advance(n)`` moves it.

    Parameters
    ----------
    description : str
        What is going on.
    total : int
        How many there are to do.
    unit : str
        What is counted.
    """

    def __init__(self, description: str, total: int, unit: str) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = 0
        self._start = self._moved = time.monotonic()

    def advance(self, n: int = 1) -> None:
        """Say that ``n`` more are done."""
        self.done += n
        self._moved = time.monotonic()

    def tick(self, note: str = "") -> None:
        """Show what has to be shown now, though nothing more is done.

        Parameters
        ----------
        note : str
            Follows the count in a plain line, such as the number of workers.
        """

    def over(self, parts: Iterable[_Part], size: Callable[[_Part], int]) -> Iterator[_Part]:
        """Give parts one after the other, and say of each how much is done with it once the next is asked for.

        Parameters
        ----------
        parts : iterable
            What is worked on.
        size : callable
            How many units a part has.

        Yields
        ------
        object
            Each part.
        """
        for part in parts:
            yield part
            self.advance(size(part))

    @property
    def rate(self) -> float:
        """Units a second from the start to the last step; 0 before the first.

        A mean, since a step may take a minute: a window of seconds would find it empty.
        """
        return self.done / max(self._moved - self._start, 1e-9)

    @property
    def seconds_left(self) -> float:
        """Seconds to go at this rate, counted down between steps; NaN before the first."""
        if not self.done:
            return float("nan")
        left = (self.total - self.done) / self.rate
        return max(left - (time.monotonic() - self._moved), 0.0)

    @property
    def speed(self) -> str:
        """The rate with its unit, ``512 cutouts/s``."""
        rate = f"{self.rate:,.0f}" if self.rate >= 10 else f"{self.rate:.2g}"
        return f"{rate} {self.unit}/s"

    @property
    def pace(self) -> str:
        """Rate and time left, ``512 cutouts/s, 0:01:20 left``."""
        if not self.done:
            return ""
        return f"{self.speed}, {timedelta(seconds=round(self.seconds_left))} left"

    def __str__(self) -> str:
        count = f"{self.description}: {self.done:,} of {self.total:,} {self.unit}"
        return f"{count}, {self.pace}" if self.done else count


class _PlainBar(Bar):
    """Lines on standard error, one now and then."""

    def __init__(self, description: str, total: int, unit: str) -> None:
        super().__init__(description, total, unit)
        self._shown, self._note = self._start, ""

    def advance(self, n: int = 1) -> None:
        super().advance(n)
        if self.done < self.total:  # the last line is written at the end
            self.tick()

    def tick(self, note: str = "") -> None:
        now = time.monotonic()
        self._note = note or self._note
        if now - self._shown >= LINE_INTERVAL:
            self._shown = now
            print(f"{self}{f', {self._note}' if self._note else ''}", file=sys.stderr)


class _TerminalBar(Bar):
    def __init__(self, progress: Progress, description: str, total: int, unit: str) -> None:
        super().__init__(description, total, unit)
        self._progress = progress
        self._task = progress.add_task(description, total=total, bar=self)

    def advance(self, n: int = 1) -> None:
        super().advance(n)
        self._progress.advance(self._task, n)


class _Pace(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields["bar"].pace, style="progress.data.speed")


class _NotebookBar(Bar):
    """An HTML progress element, replaced as it moves: needs no widgets and stays in the saved notebook."""

    def __init__(self, description: str, total: int, unit: str) -> None:
        super().__init__(description, total, unit)
        self._shown = time.monotonic()
        notebook = importlib.import_module("IPython.display")  # there, since this is one
        self._handle = notebook.display(self, display_id=True)

    def advance(self, n: int = 1) -> None:
        super().advance(n)
        if self._moved - self._shown > 0.2 or self.done >= self.total:
            self._shown = self._moved
            self._handle.update(self)

    def _repr_html_(self) -> str:
        element = f'<progress value="{self.done}" max="{max(self.total, 1)}"></progress>'
        return f"{element} {escape(str(self))}"


@contextmanager
def progress_bar(
    description: str, total: int, *, unit: str = "cutouts", show: bool = True
) -> Iterator[Bar]:
    """Show progress while the block runs.

    Parameters
    ----------
    description : str
        What is going on.
    total : int
        How many ``unit`` there are to do.
    unit : str
        What is counted.
    show : bool
        False shows nothing.

    Yields
    ------
    Bar
        Call its ``advance(n)``.
    """
    console = Console(stderr=True)
    if not show:
        yield Bar(description, total, unit)
    elif console.is_jupyter:
        yield _NotebookBar(description, total, unit)
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Pace(),
        )
        with Progress(*columns, console=console) as progress:
            yield _TerminalBar(progress, description, total, unit)
    else:
        bar = _PlainBar(description, total, unit)
        yield bar
        print(f"{description}: {bar.done:,} of {total:,} {unit}, {bar.speed}", file=sys.stderr)
