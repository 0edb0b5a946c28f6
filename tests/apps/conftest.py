"""A reviewed archive, its people and its site."""

import subprocess

import numpy as np
import pytest
from fastapi.testclient import TestClient
from helpers import as_shipped, write_run

from deepstreaks_dask.apps.review.app import create_app
from deepstreaks_dask.apps.server.options import SiteOptions
from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.review.database import Review
from deepstreaks_dask.scoring import launcher as launch
from deepstreaks_dask.simulation.nights import simulate_nights

PASSWORD = "correct horse battery"
MEMBERS = ["rb_vgg6", "sl_vgg6", "kd_vgg6"]
PEOPLE = {"root": "administrator", "anna": "reviewer", "ben": "reviewer", "vera": "viewer"}


@pytest.fixture(autouse=True)
def started(tmp_path, monkeypatch):
    """Commands of the campaigns that a test asks for, of which none is run."""
    real, commands = subprocess.Popen, []

    def popen(command, **options):
        commands.append(command)
        return real(["true"], **options)

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(launch.subprocess, "Popen", popen)
    return commands


@pytest.fixture(scope="session")
def reviewed(tmp_path_factory):
    """An archive of three simulated nights, scored by networks that are always right."""
    url = str(tmp_path_factory.mktemp("reviewed") / "week.zarr")
    create_archive(url, shard=64)
    batches = list(simulate_nights(3, 60, seed=5))
    for batch in batches:  # what is known to be simulated is not to be submitted
        batch.columns["source"][:] = "a survey"
        batch.columns["kind"][:] = ""
    append_batches(url, batches)
    dataset = open_archive(url)
    labels = [dataset[f"label_{member[:2]}"].values for member in MEMBERS]
    write_run(url, "default", MEMBERS, np.stack(labels, axis=1).clip(0, 1).astype(np.float32))
    as_shipped(url)
    return url


@pytest.fixture
def people(database, cheap_passwords):
    """A database with somebody of each role."""
    review = Review(database)
    for name, role in PEOPLE.items():
        review.accounts.add_user(name, PASSWORD, role)
    review.close()
    return database


@pytest.fixture
def app(reviewed, people):
    """The site of an archive, without the dashboards made with Panel."""
    made = create_app(reviewed, SiteOptions(database=people), hosts={"testserver"}, dashboards={})
    yield made
    made.state.site.review.close()


@pytest.fixture
def client(app):
    """A browser without a session."""
    return TestClient(app, follow_redirects=False)


@pytest.fixture
def of(app):
    """Make a program that shows somebody's token: ``of("anna").get(...)``."""

    def make(name):
        token = app.state.site.review.accounts.add_token(name, "test")
        return TestClient(app, headers={"Authorization": f"Bearer {token}"})

    return make
