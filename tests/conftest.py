"""Archives, networks and cutouts that several tests need."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest

from deepstreaks_dask.archive import CutoutBatch, append, create


def random_batch(n, *, start=0, night=20260101, seed=0, **columns):
    """Noise named ``c<start>`` onwards: the same again for the same ``n``, ``start`` and ``seed``."""
    rng = np.random.default_rng((seed, start))
    return CutoutBatch(
        rng.integers(0, 256, (n, 144, 144), np.uint8),
        {
            "id": np.array([f"c{k}" for k in range(start, start + n)], dtype=object),
            "night": np.full(n, night, np.int32),
            **columns,
        },
    )


@pytest.fixture
def archive(tmp_path):
    """An archive of 150 cutouts of noise in shards of 64, the last one not full."""
    url = tmp_path / "archive.zarr"
    create(url, shard=64)
    append(url, [random_batch(150)])
    return url


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """URL of a zoo with one untrained VGG6 for each family."""
    import keras

    from deepstreaks_dask.models import build
    from deepstreaks_dask.models.zoo import Card, Zoo

    made = Zoo(tmp_path_factory.mktemp("models") / "zoo")
    keras.utils.set_random_seed(1)
    for family in ("rb", "sl", "kd"):
        made.save(build("vgg6"), Card(f"{family}_vgg6", "1", "vgg6"))
    return made.url


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """An archive of four simulated nights of 60 labelled cutouts; not to be changed."""
    from deepstreaks_dask.simulate.nights import simulate_nights

    url = tmp_path_factory.mktemp("simulated") / "simulated.zarr"
    create(url, shard=64)
    append(url, simulate_nights(4, 60, seed=1))
    return url


def random_batch(
    n: int, *, start: int = 0, night: int = 20260101, seed: int = 0, **columns: np.ndarray
) -> CutoutBatch:
    """Cutouts of pure noise, ids ``c<start>`` upwards."""
    pixels = np.random.default_rng((seed, start)).integers(0, 256, (n, SIDE, SIDE), np.uint8)
    ids = np.array([f"c{start + k}" for k in range(n)], dtype=object)
    return CutoutBatch(pixels, {"id": ids, "night": np.full(n, night), **columns})


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """An archive of 150 noise cutouts in three shards."""
    path = tmp_path / "small.zarr"
    archive.create(path, shard=64)
    archive.append(path, [random_batch(150)])
    return path


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four simulated nights of 60 cutouts, labelled."""
    path = tmp_path_factory.mktemp("simulated") / "nights.zarr"
    archive.create(path, shard=64)
    archive.append(path, simulate_nights(4, 60, seed=5))
    return path


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A zoo with one untrained VGG6 in each family: real networks, meaningless scores."""
    path = tmp_path_factory.mktemp("zoo")
    for seed, family in enumerate(("rb", "sl", "kd")):
        keras.utils.set_random_seed(seed)
        Zoo(path).save(build("vgg6"), Card(f"{family}_vgg6", "1", "vgg6"))
    return str(path)
