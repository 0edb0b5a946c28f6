"""The benchmarks run, at a size that says nothing about speed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

THROUGHPUT = Path(__file__).parents[1] / "benchmarks" / "throughput.py"


def _run(*options):
    return subprocess.run(
        [sys.executable, THROUGHPUT, *options], capture_output=True, text=True, check=False
    )


def test_throughput_measures_all_three_ways_on_equal_scores():
    """The benchmark itself stops if the three ways do not score alike."""
    sizes = ["--cutouts", "20", "--repeats", "1", "--batch", "8"]
    done = _run(*sizes, "--architectures", "vgg6", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["architecture"] == "vgg6"
    assert row["cutouts"] == 20
    assert min(row[way] for way in "abc") > 0
    assert row["b/a"] == pytest.approx(row["b"] / row["a"])
    assert row["c/a"] == pytest.approx(row["c"] / row["a"])


def test_throughput_refuses_an_unknown_architecture():
    done = _run("--architectures", "vgg16")
    assert done.returncode == 2
    assert "vgg16" in done.stderr
