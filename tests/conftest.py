"""Archives, networks and cutouts that several tests need."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hypothesis
import keras
import numpy as np
import pytest

from deepstreaks_dask.archive import CutoutBatch, append, create

# A busy machine is no failure: what takes too long ends at pytest's own time limit.
hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.load_profile("no-deadline")


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
    from deepstreaks_dask.models import build
    from deepstreaks_dask.models.zoo import Card, Zoo

    made = Zoo(tmp_path_factory.mktemp("models") / "zoo")
    for seed, family in enumerate(("rb", "sl", "kd")):
        keras.utils.set_random_seed(seed)
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
