"""Tables are never cut, whatever the terminal or its encoding; files go to standard output where that was asked for."""

import io
import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers import write_run
from typer.testing import CliRunner

from deepstreaks_dask.cli import main as cli
from deepstreaks_dask.cli.output import open_output, print_frame, print_table
from deepstreaks_dask.errors import DeepStreaksError

IDS = [f"20260901_{number:04d}_with_a_long_name" for number in range(3)]


class Stream(io.TextIOWrapper):
    """Standard output of a terminal or pipe, in an encoding."""

    def __init__(self, encoding="utf-8", terminal=True):
        super().__init__(io.BytesIO(), encoding=encoding)
        self.terminal = terminal

    def isatty(self):
        return self.terminal

    @property
    def said(self):
        """What was written, without colours."""
        self.flush()
        return re.sub(r"\x1b\[[\d;]*m", "", self.buffer.getvalue().decode(self.encoding))


@pytest.fixture
def stdout(monkeypatch):
    """Replace standard output by a stream, in a terminal of so many columns."""

    def replace(width=40, **options):
        stream = Stream(**options)
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(sys, "stdout", stream)
        return stream

    return replace


def rows():
    return [(name, 20260901, 2460000.5, "r", 0.91) for name in IDS]


COLUMNS = ("id", "night", "jd", "filter", "rb_vgg6")


def test_a_narrow_terminal_drops_columns_and_says_which(stdout):
    stream = stdout(60)
    print_table(COLUMNS, rows(), importance=("id", "rb_vgg6"))
    said = stream.said
    assert all(name in said for name in IDS)
    assert "0.91" in said
    assert "…" not in said
    assert "Columns that do not fit: jd, filter." in said
    assert all(len(line) <= 60 for line in said.splitlines() if "do not fit" not in line)


def test_an_id_wider_than_the_terminal_is_whole(stdout):
    stream = stdout(20)
    print_table(COLUMNS, rows())
    assert all(name in stream.said for name in IDS)


def test_a_wide_terminal_shows_all_columns(stdout):
    stream = stdout(200)
    print_table(COLUMNS, rows())
    assert "2460000.5" in stream.said
    assert "do not fit" not in stream.said


def test_a_pipe_gets_all_columns(stdout):
    stream = stdout(40, terminal=False)
    print_frame(pd.DataFrame(rows(), columns=COLUMNS))
    for line, name in zip(stream.said.splitlines()[3:6], IDS, strict=True):
        assert name in line
        assert "2460000.5" in line


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_table_in_another_encoding(stdout, encoding, terminal):
    stream = stdout(200, encoding=encoding, terminal=terminal)
    stream.reconfigure(errors="backslashreplace")
    print_table(("name", "value"), [("naïve [0.1, 0.2] ±", 1)], title="Größe")
    said = stream.said
    assert "[0.1, 0.2]" in said
    assert ("naïve" if encoding == "latin-1" else r"na\xefve") in said


def test_output_to_standard_output(capfdbinary):
    with open_output("-", ".bin") as path:
        Path(path).write_bytes(b"\x00\xff")
    assert capfdbinary.readouterr().out == b"\x00\xff"


def test_output_to_a_file_or_nowhere(tmp_path):
    with open_output(str(tmp_path / "a.csv"), ".csv", endings=(".csv",)) as path:
        assert path == str(tmp_path / "a.csv")
    with open_output(None, ".csv") as path:
        assert path == ""


@pytest.mark.parametrize(
    ("output", "as_json", "words"), [("-", True, "give one"), ("a.txt", False, "ends in .csv")]
)
def test_output_that_cannot_be(output, as_json, words):
    with (
        pytest.raises(DeepStreaksError, match=words),
        open_output(output, ".csv", as_json=as_json, endings=(".csv",)),
    ):
        pass


@pytest.fixture
def scored(archive):
    """150 cutouts, of which 100 are plausible."""
    write_run(archive, "default", ["rb_a", "sl_a"], [[0.9] * 2] * 100 + [[0.9, 0.1]] * 50)
    return str(archive)


def run(*arguments):
    done = CliRunner().invoke(cli.app, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_decide_writes_csv_into_a_pipe(scored, tmp_path):
    done = run("decide", scored)
    table = pd.read_csv(io.StringIO(done.stdout))
    assert len(table) == 100
    assert table["id"].tolist() == [f"c{number}" for number in range(100)]
    assert "100 plausible of 150 cutouts" in done.stderr
    run("decide", scored, "-o", tmp_path / "c.csv")
    assert run("decide", scored, "-o", "-").stdout == (tmp_path / "c.csv").read_text()
    assert done.stdout == (tmp_path / "c.csv").read_text()


def test_decide_at_a_terminal(scored, stdout, monkeypatch):
    stream = stdout(40)
    monkeypatch.setattr(sys, "argv", ["deepstreaks", "decide", scored])
    monkeypatch.setenv("DEEPSTREAKS_DEBUG", "1")
    with pytest.raises(SystemExit):
        cli.main()
    said = stream.said
    assert all(f" c{number} " in said for number in range(20))
    assert " c20 " not in said
    assert "rb_a" in said
    assert "Columns that do not fit: " in said
    assert "100 plausible of 150 cutouts" in said


@pytest.mark.parametrize("output", [[], ["-o", "-"]], ids=["pipe", "standard output"])
def test_queue_into_a_pipe_is_csv_of_all(scored, output):
    done = run("queue", scored, "--most", "50", *output)
    assert len(pd.read_csv(io.StringIO(done.stdout))) == 50
    assert "50 cutouts" in done.stderr


def test_report_to_standard_output(scored):
    assert run("report", scored, "-o", "-").stdout.startswith("<!doctype html>")


def test_summary_is_a_table(scored):
    said = run("archive", "summary", scored).stdout
    assert "{" not in said
    (line,) = [line for line in said.splitlines() if "cutouts" in line]
    assert "150" in line
    assert "positive" in said
    assert json.loads(run("archive", "summary", scored, "--json").stdout)["cutouts"] == 150


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--help"],
        ["models", "list"],
        ["archive", "summary"],
        ["decide"],
        ["evaluate"],
        ["queue"],
        ["thresholds", "list"],
    ],
    ids=" ".join,
)
def test_no_encoding_ends_a_command(scored, stdout, monkeypatch, arguments, encoding):
    stream = stdout(80, encoding=encoding)
    named = [] if arguments[0] in ("train", "models") else [scored]
    monkeypatch.setattr(sys, "argv", ["deepstreaks", *arguments, *named])
    monkeypatch.setenv("DEEPSTREAKS_DEBUG", "1")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert stream.said
