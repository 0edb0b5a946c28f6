"""Every epoch has every cutout once, depends on the seed alone, and holds no more than a few windows."""

import subprocess
import sys

import numpy as np
import pytest

from deepstreaks_dask.archive.append import CutoutBatch, append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.training.batches import CutoutFeed, InMemory, Streamed
from deepstreaks_dask.training.recipe import Recipe

SIDE = 12


@pytest.fixture
def numbered(tmp_path):
    """An archive of 500 cutouts, each with its number in one corner, in shards of 64."""
    cutouts = np.zeros((500, SIDE, SIDE), np.uint8)
    cutouts[:, 3, 5], cutouts[:, 3, 6] = np.arange(500) % 250 + 1, np.arange(500) // 250 + 1
    create_archive(tmp_path / "a.zarr", shard=64, shape=(SIDE, SIDE))
    ids = np.array([f"n{k}" for k in range(500)], dtype=object)
    append_batches(tmp_path / "a.zarr", [CutoutBatch(cutouts, {"id": ids})])
    return open_archive(tmp_path / "a.zarr")


def batches_of(pixels, **options):
    ones = np.ones((len(pixels), 1), np.float32)
    return CutoutFeed(pixels, ones, ones, Recipe(batch=16), **options)


def epoch_of(batches):
    images = np.rint(np.concatenate([batches[k][0] for k in range(len(batches))]) * 255).astype(int)
    return images[..., 0]


@pytest.mark.parametrize("window", [0, 1, 128, 10**6])
def test_every_cutout_comes_once_flipped_or_not(numbered, window):
    rows = np.setdiff1d(np.arange(500), np.arange(130, 260))[::2]
    rows = rows[rows < 250]
    held = InMemory(numbered["cutouts"].values[rows])
    pixels = Streamed(numbered, rows, window) if window else held
    batches, orders, places = batches_of(pixels), [], set()
    for _ in range(6):
        images = epoch_of(batches)
        orders.append(tuple(images.max(axis=(1, 2)) - 1))
        assert sorted(orders[-1]) == rows.tolist()
        brightest = images.reshape(len(images), -1).argmax(axis=1)
        places |= {divmod(int(place), SIDE) for place in brightest if images.max() > 2}
        batches.on_epoch_end()
    assert {(3, 5), (8, 5), (3, 6), (8, 6)} <= places
    assert len(set(orders)) == 6


@pytest.mark.parametrize("window", [0, 100])
def test_an_epoch_depends_on_seed_and_number_alone(numbered, window):
    def pixels():
        rows = np.arange(500)
        return Streamed(numbered, rows, window) if window else InMemory(numbered["cutouts"].values)

    running = batches_of(pixels())
    for _ in range(3):
        epoch_of(running)
        running.on_epoch_end()
    np.testing.assert_array_equal(epoch_of(running), epoch_of(batches_of(pixels(), epoch=3)))


def test_a_window_mixes_shards_and_only_its_own(numbered):
    pixels = Streamed(numbered, np.arange(500), 128)
    order = pixels.begin(np.random.default_rng(0))
    shards = order // 64
    first = shards[:128]
    assert len(set(first)) in (2, 3)
    assert (np.diff(first) != 0).sum() > 10
    assert not set(first) & set(shards[192:])


def test_a_validation_comes_as_it_lies(numbered):
    rows = np.arange(100, 300)
    batches = batches_of(Streamed(numbered, rows, 64), shuffled=False)
    np.testing.assert_array_equal(epoch_of(batches), numbered["cutouts"].values[rows])


def test_few_windows_are_held(numbered):
    pixels = Streamed(numbered, np.arange(500), 64)
    batches = batches_of(pixels)
    for k in range(len(batches)):
        batches[k]
        assert pixels.held <= 3 * 64


def test_batches_of_several_windows_come_in_any_order(numbered):
    batches = batches_of(Streamed(numbered, np.arange(500), 64))
    forward = [batches[k][0] for k in range(len(batches))]
    for k in np.random.default_rng(0).permutation(len(batches)):
        np.testing.assert_array_equal(batches[int(k)][0], forward[k])


def test_a_lost_shard_is_named(numbered, tmp_path):
    (tmp_path / "a.zarr" / "cutouts" / "c" / "2" / "0" / "0").unlink()
    batches = batches_of(Streamed(numbered, np.arange(500), 64))
    with pytest.raises(TrainingError, match=r"cutouts 128 to 191 .*archive verify"):
        epoch_of(batches)


_PEAK = """
import sys
from pathlib import Path
import numpy as np
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.training.batches import CutoutFeed, InMemory, Streamed
from deepstreaks_dask.training.recipe import Recipe

def peak():
    # ru_maxrss would count what the process was forked from
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

def go_through(pixels):
    ones = np.ones((len(rows), 1), np.float32)
    batches = CutoutFeed(pixels, ones, ones, Recipe())
    for k in range(len(batches)):
        batches[k]
    print(peak() - before)

archive = open_archive(sys.argv[1])
rows = np.arange(archive.sizes["cutout"])
archive["cutouts"][:64].values
before = peak()
go_through(Streamed(archive, rows, 256))
go_through(InMemory(archive["cutouts"].values))
"""


def test_memory_is_bounded_by_the_window(tmp_path):
    """250 MB of cutouts pass through a process that grows by less than half of that."""
    create_archive(tmp_path / "large.zarr", shard=256)

    def blocks():
        for k in range(24):
            cutouts = np.zeros((512, 144, 144), np.uint8)
            cutouts[:, 0, 0], cutouts[:, 0, 1] = k, np.arange(512) % 256
            cutouts[:, 0, 2] = np.arange(512) // 256
            ids = np.array([f"{k}-{j}" for j in range(512)], dtype=object)
            yield CutoutBatch(cutouts, {"id": ids})

    append_batches(tmp_path / "large.zarr", blocks())
    size = 24 * 512 * 144 * 144 / 2**20
    said = subprocess.run(
        [sys.executable, "-c", _PEAK, tmp_path / "large.zarr"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    streamed, in_memory = map(float, said.split())
    assert streamed < size / 2
    assert in_memory > 0.9 * size  # or the measurement measures nothing
