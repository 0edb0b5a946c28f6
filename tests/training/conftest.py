"""Archives of cutouts so small that a network trains on them in a moment."""

import numpy as np
import pytest

from deepstreaks_dask.archive.append import CutoutBatch, append_batches
from deepstreaks_dask.archive.create import create_archive

SIDE = 24


def tiny_batch(n, *, nights=8, seed=0):
    """Cutouts of noise: label 1 has a bright stripe, 0 a dark one; kd knows only every other, the other way round."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, n).astype(np.int8)
    cutouts = rng.integers(90, 130, (n, SIDE, SIDE), np.uint8)
    cutouts[:, 10:13] = np.where(truth, 230, 20)[:, None, None] + rng.integers(
        -15, 15, (n, 3, SIDE)
    )
    half = np.arange(n) % 2 == 0
    return CutoutBatch(
        cutouts,
        {
            "id": np.array([f"t{k}" for k in range(n)], dtype=object),
            "night": (20260101 + np.arange(n) * nights // n).astype(np.int32),
            "kind": np.array([f"object{k // 5}" for k in range(n)], dtype=object),
            "source": np.array(["simulation, stripes"] * n, dtype=object),
            "label_rb": truth,
            "label_sl": truth,
            "label_kd": np.where(half, 1 - truth, -1).astype(np.int8),
        },
    )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """An archive of eight nights of 40 labelled cutouts of 24 x 24 px; not to be changed."""
    url = tmp_path_factory.mktemp("tiny") / "tiny.zarr"
    create_archive(url, shard=64, shape=(SIDE, SIDE))
    append_batches(url, [tiny_batch(320)])
    return url
