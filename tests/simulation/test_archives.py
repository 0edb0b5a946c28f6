"""``simulate`` makes an archive, and replaces none that it is not told to replace."""

import numpy as np
import pytest

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import ArchiveError
from deepstreaks_dask.simulation import archives
from deepstreaks_dask.simulation.archives import simulate


def test_simulate_reports_its_nights_and_replaces_nothing_unasked(tmp_path):
    report = simulate(tmp_path / "a.zarr", nights=2, per_night=5, seed=1)
    assert report.nights == {20260101: 5, 20260102: 5}
    with pytest.raises(ArchiveError, match="exists"):
        simulate(tmp_path / "a.zarr", nights=1, per_night=5)
    simulate(tmp_path / "a.zarr", nights=1, per_night=5, overwrite=True)
    assert open_archive(tmp_path / "a.zarr").sizes["cutout"] == 5


def test_processes_simulate_the_same_cutouts(tmp_path, monkeypatch):
    simulate(tmp_path / "here.zarr", nights=1, per_night=6, seed=3)
    monkeypatch.setattr(archives, "_PROCESS_POOL_CUTOUTS", 0)
    simulate(tmp_path / "there.zarr", nights=1, per_night=6, seed=3)
    here, there = (open_archive(tmp_path / f"{name}.zarr") for name in ("here", "there"))
    np.testing.assert_array_equal(here["cutouts"].values, there["cutouts"].values)
