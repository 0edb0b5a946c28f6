"""Benchmarks as a user runs them."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from dask.distributed import Client

from deepstreaks_dask.scoring import cluster

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run(monkeypatch, capsys, client):
    """Run a benchmark, by its name and with options, in this process and on the tests' worker, which have imported all."""

    def running(benchmark, *options):
        monkeypatch.setattr(cluster, "connect", lambda *_, **__: Client(client.scheduler.address))
        monkeypatch.syspath_prepend(BENCHMARKS)
        monkeypatch.setattr(sys, "argv", [f"{benchmark}.py", *options])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(BENCHMARKS / f"{benchmark}.py"), run_name="__main__")
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, ended.value.code or 0, out, err)

    return running


@pytest.fixture
def run_alone():
    """Run a benchmark as a process of its own, where it starts others as itself or drives a browser."""

    def running(benchmark, *options):
        command = [sys.executable, BENCHMARKS / f"{benchmark}.py", *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return running
