"""A scored archive, and a page of it without a browser."""

import numpy as np
import pytest
from helpers import write_run

from deepstreaks_dask.apps.bridge import Bridge
from deepstreaks_dask.apps.explore.messages import SCHEMA
from deepstreaks_dask.apps.explore.page import CutoutPage
from deepstreaks_dask.apps.explore.session import ScoredArchive, Session
from deepstreaks_dask.apps.figures import Figures
from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.evaluation.interactive import open_exploration
from deepstreaks_dask.simulation.nights import simulate_nights

MEMBERS = ["rb_vgg6", "rb_resnet50", "sl_vgg6", "kd_vgg6"]


@pytest.fixture(scope="package")
def scored(tmp_path_factory):
    """An archive of two nights with two runs of random scores."""
    url = str(tmp_path_factory.mktemp("scored") / "nights.zarr")
    create_archive(url, shard=64)
    append_batches(url, simulate_nights(2, 40, seed=3))
    rng = np.random.default_rng(0)
    for run in ("default", "other"):
        write_run(url, run, MEMBERS, rng.random((80, 4), np.float32))
    return url


@pytest.fixture
def sent(monkeypatch):
    """Updates that are sent to the page; work is done at once."""
    updates = []
    monkeypatch.setattr(Bridge, "send", lambda bridge, update: updates.append(update))
    monkeypatch.setattr(Bridge, "later", lambda bridge, work, then, long=False: then(work()))
    monkeypatch.setattr(Bridge, "soon", lambda bridge, then: then())
    return updates


@pytest.fixture
def session(scored, sent):
    source = ScoredArchive.open(scored, "default", None, dimension="cutout")
    session = Session(source, Bridge(SCHEMA, lambda message: None), Figures({}))
    session.begin(open_exploration(scored))
    return session


@pytest.fixture
def page(scored, sent):
    """A page whose scores are loaded; call it with a message as the script sends it."""
    page = CutoutPage(scored, "default")

    def receive(**message):
        page.bridge._handle_msg(message)

    receive(do="hello", dark=False)
    receive.page = page
    return receive
