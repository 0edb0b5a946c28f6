"""Progress bars for everything that takes longer than a breath: count, rate, time left.

They go to standard error, work in a terminal and in a notebook, and leave one plain line where there is
neither.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Bar:
    """A bar that is being shown: ``advance(n)`` moves it."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, n: int = 1) -> None:
        """Say that ``n`` more are done."""
        self.done += n


class _RichBar(Bar):
    def __init__(self, progress: Progress, task: int) -> None:
        super().__init__()
        self._progress, self._task = progress, task

    def advance(self, n: int = 1) -> None:
        super().advance(n)
        self._progress.advance(self._task, n)  # type: ignore[arg-type]


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {self.unit}/s" if speed else "", style="progress.data.speed")


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
    if not show:
        yield Bar()
        return
    console = Console(stderr=True)
    if console.is_terminal or console.is_jupyter:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(unit),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            yield _RichBar(progress, progress.add_task(description, total=total))
        return
    bar, start = Bar(), time.monotonic()
    yield bar
    seconds = max(time.monotonic() - start, 1e-9)
    rate = f"{bar.done / seconds:,.0f} {unit}/s"
    print(f"{description}: {bar.done:,} of {total:,} {unit}, {rate}", file=sys.stderr)
