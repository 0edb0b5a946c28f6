"""The plan for ten billion cutouts is what its formulas give, and these know the archive."""

import runpy
import subprocess
import sys
from collections import Counter
from math import ceil

import numpy as np
import xarray as xr
from cluster.conftest import DEPLOYMENTS
from fsspec.implementations.local import LocalFileSystem
from helpers import random_batch, write_run
from zarr.storage import LocalStore

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import shard_bounds
from deepstreaks_dask.archive.known_ids import known_ids
from deepstreaks_dask.archive.schema import SCHEMA
from deepstreaks_dask.scoring import worker

PLAN = DEPLOYMENTS / "plan.py"


def _run(*options):
    done = subprocess.run(
        [sys.executable, PLAN, *options], check=True, capture_output=True, text=True
    )
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]
    return done.stdout, dict(rows)


def test_the_page_has_what_the_formulas_give():
    table, _ = _run()
    assert table in (DEPLOYMENTS / "PLAN.md").read_text()


def test_counts_are_those_of_a_real_archive(tmp_path):
    """Objects counted in an archive, beside what the plan foresees for one of its size."""
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    append_batches(url, [random_batch(300)])
    _, rows = _run("--cutouts", "300", "--archives", "1", "--shard", "64")
    files = [path.relative_to(url).parts for path in url.glob("**/c/**/*") if path.is_file()]
    pixels = sum(parts[0] == "cutouts" for parts in files)
    columns = sum(parts[0] in SCHEMA for parts in files)
    assert rows["objects: pixels"] == f"{pixels}"
    assert rows["objects: columns"] == f"{columns}"
    assert rows["tasks (shards)"].startswith(f"{len(shard_bounds(300, 64))},")


def test_arithmetic():
    _, rows = _run("--cutouts", "1e8", "--archives", "1", "--shard", "8192", "--rate", "1000")
    shards = ceil(1e8 / 8192)
    assert rows["objects: scores"] == f"{shards:,}"
    assert rows["a shard"] == f"8,192 cutouts, {8192 * 144 * 144 / 1e6:,.0f} MB in memory"
    assert rows["GPU hours"] == f"{1e5 / 3600:,.0f}"
    assert rows["memory of an append"].startswith("2.4 GB")
    known, _ = known_ids(_some_ids(), np.zeros(2, bool))
    assert known.nbytes == 2 * 24


def _some_ids():
    return xr.Dataset(
        coords={
            "id": ("cutout", np.array(["a", "b"], object)),
            "digest": ("cutout", np.array([1, 2], np.uint64)),
        }
    )


def test_requests_of_a_task_are_no_more_than_planned(tmp_path, monkeypatch):
    """Counted at the store, for a worker that has its networks already."""
    url = str(tmp_path / "a.zarr")
    create_archive(url, shard=64)
    append_batches(url, [random_batch(192)])
    write_run(url, "r", ["rb_a", "sl_a"], np.full((192, 2), np.nan, np.float32))
    monkeypatch.setattr(worker, "_networks", lambda *_: _Networks())
    requests = Counter()
    for name in ("get", "exists", "set", "set_if_not_exists", "delete"):
        monkeypatch.setattr(LocalStore, name, _counting(name, getattr(LocalStore, name), requests))
    read_file = LocalFileSystem.cat_file

    def counted(self, *arguments, **options):
        requests["get"] += 1
        return read_file(self, *arguments, **options)

    monkeypatch.setattr(LocalFileSystem, "cat_file", counted)  # metadata are read so
    for first in (0, 64, 128):
        done = worker.score_unit(worker.Unit(url, "r", ((first, first + 64),), None, (), 64))
        assert not done.failures
    plan = runpy.run_path(str(PLAN))
    read = requests["get"] + requests["exists"]
    assert 3 * 5 < read <= 3 * plan["REQUESTS_READ"], requests
    assert requests["set"] == 3 * plan["REQUESTS_WRITTEN"], requests
    assert set(requests) <= {"get", "exists", "set"}


class _Networks:
    halved = None

    def score(self, cutouts, _):
        return np.zeros((len(cutouts), 2), np.float32)


def _counting(name, method, requests):
    async def counted(self, *arguments, **options):
        requests[name] += 1
        return await method(self, *arguments, **options)

    return counted
