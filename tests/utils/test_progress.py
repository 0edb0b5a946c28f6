"""Progress in a terminal, in a notebook, and where there is neither."""

import io
import math
import sys
import types

import pytest
from rich.console import Console

from deepstreaks_dask.utils import progress
from deepstreaks_dask.utils.progress import Bar, progress_bar


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = types.SimpleNamespace(time=100.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.time)
    return now


def test_rate_and_time_left_of_slow_steps(clock):
    bar = Bar("score", 4096, "cutouts")
    assert (bar.rate, bar.pace) == (0, "")
    assert math.isnan(bar.seconds_left)
    clock.time += 128
    bar.advance(1024)
    assert bar.rate == 8
    assert bar.seconds_left == 384
    clock.time += 100  # between steps the rate holds, and the time left counts down
    assert bar.rate == 8
    assert bar.pace == "8 cutouts/s, 0:04:44 left"
    clock.time += 1000
    assert bar.seconds_left == 0


def test_parts_count_once_they_are_dealt_with():
    bar, seen = Bar("ingest", 5, "cutouts"), []
    for part in bar.over(["ab", "cde"], len):
        seen.append((part, bar.done))
    assert seen == [("ab", 0), ("cde", 2)]
    assert bar.done == 5


def test_a_terminal_shows_count_rate_and_time_left(clock, monkeypatch):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    with progress_bar("score default", 2048) as bar:
        clock.time += 2
        bar.advance(1024)
    assert "score default" in out.getvalue()
    assert "1024/2048 512 cutouts/s, 0:00:02 left" in out.getvalue()


def test_a_notebook_shows_html_and_needs_no_widgets(clock, monkeypatch):
    shown = []
    handle = types.SimpleNamespace(update=lambda bar: shown.append(bar._repr_html_()))

    def display(bar, display_id):
        assert display_id
        shown.append(bar._repr_html_())
        return handle

    module = types.SimpleNamespace(display=display)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(display=module))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(progress, "Console", lambda **_: Console(force_jupyter=True))
    with progress_bar("score <b>", 100) as bar:
        for _ in range(100):
            clock.time += 0.01
            bar.advance()
    assert len(shown) < 10, "redrawn too often"
    assert shown[0].startswith('<progress value="0" max="100">')
    assert shown[-1].startswith('<progress value="100" max="100">')
    assert "score &lt;b&gt;: 100 of 100 cutouts, 100 cutouts/s, 0:00:00 left" in shown[-1]


def test_elsewhere_one_plain_line(clock, capsys):
    with progress_bar("train", 7, unit="epochs") as bar:
        clock.time += 140
        bar.advance(7)
    assert capsys.readouterr() == ("", "train: 7 of 7 epochs, 0.05 epochs/s\n")


def test_nothing_when_not_asked_for(capsys):
    with progress_bar("verify", 7, show=False) as bar:
        bar.advance(7)
    assert bar.done == 7
    assert capsys.readouterr() == ("", "")
