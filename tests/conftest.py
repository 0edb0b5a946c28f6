"""Archives, networks and cutouts that several tests need."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import uuid

import dask
import hypothesis
import keras
import pytest
import sqlalchemy as sa
from helpers import random_batch

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive

# A busy machine is no failure: what takes too long ends at pytest's own time limit.
hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.load_profile("no-deadline")


@pytest.fixture(autouse=True)
def _lazy_reads():
    """Read what is lazy in the tests' own process, which has their credentials and stores in memory."""
    with dask.config.set(scheduler="threads"):
        yield


@pytest.fixture
def archive(tmp_path):
    """An archive of 150 cutouts of noise in shards of 64, the last one not full."""
    url = tmp_path / "archive.zarr"
    create_archive(url, shard=64)
    append_batches(url, [random_batch(150)])
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """URL of an empty database: SQLite, and where DEEPSTREAKS_TEST_POSTGRESQL names a server, PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/review.sqlite"
        return
    server = os.environ.get("DEEPSTREAKS_TEST_POSTGRESQL")
    if not server:
        pytest.skip("DEEPSTREAKS_TEST_POSTGRESQL names no PostgreSQL")
    name = f"t{uuid.uuid4().hex}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"create database {name}"))
    yield sa.make_url(server).set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(sa.text(f"drop database {name} with (force)"))
    engine.dispose()


@pytest.fixture
def cheap_passwords(monkeypatch):
    """Hash passwords as cheaply as argon2 allows."""
    from deepstreaks_dask.review import passwords

    cheap = passwords.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(passwords, "_hasher", cheap)
    passwords.placeholder_hash.cache_clear()


@pytest.fixture(scope="session")
def client():
    """Client of one worker process, which once it has imported TensorFlow serves all tests that kill none.

    Without TLS, since commands under test reach it by its address, and have no key of it.
    """
    from deepstreaks_dask.scoring.cluster import connect

    with connect(workers=1, insecure=True) as client:
        yield client


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """URL of a zoo with one untrained VGG6 for each family."""
    from deepstreaks_dask.models.registry import build
    from deepstreaks_dask.models.zoo.card import Card
    from deepstreaks_dask.models.zoo.store import Zoo

    made = Zoo(tmp_path_factory.mktemp("models") / "zoo")
    for seed, family in enumerate(("rb", "sl", "kd")):
        keras.utils.set_random_seed(seed)
        made.save(build("vgg6"), Card(f"{family}_vgg6", "1", "vgg6"))
    return made.url


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """An archive of four simulated nights of 60 labelled cutouts; not to be changed."""
    from deepstreaks_dask.simulation.nights import simulate_nights

    url = tmp_path_factory.mktemp("simulated") / "simulated.zarr"
    create_archive(url, shard=64)
    append_batches(url, simulate_nights(4, 60, seed=1))
    return url
