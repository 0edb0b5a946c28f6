"""A simulated night, a depot that serves it, a stand-in for the networks, and what came of a look."""

import json
import shutil
import threading
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from depot_server import PASSWORD, USER, serving

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.service import credentials as secrets
from deepstreaks_dask.service.depots import Limits, open_depot
from deepstreaks_dask.service.nights import nights_between
from deepstreaks_dask.service.service import Settings, watch
from deepstreaks_dask.service.state import Ledger
from deepstreaks_dask.simulation.nights import Night
from deepstreaks_dask.simulation.products import write_depot

NIGHT, CUTOUTS = 20260105, 12
TARBALLS = [f"ztf_{NIGHT}{k:06d}_strkcutouts.tar.gz" for k in range(3)]
TABLES = [name.replace("strkcutouts.tar.gz", "streaks.txt") for name in TARBALLS]


def all_plausible(archive, first=0):
    """Stands in for the networks where they are not what is tested."""
    dataset = open_archive(archive)
    values = np.full((dataset.sizes["cutout"], 3), 0.75, np.float32)
    scores = xr.DataArray(values, dims=("cutout", "model"))
    models = ["rb_vgg6", "sl_vgg6", "kd_vgg6"]
    return Decision().apply(dataset.assign(scores=scores).assign_coords(model=models))


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A simulated night's products: three tarballs and their tables."""
    folder = tmp_path_factory.mktemp("written")
    write_depot(folder, Night.draw(NIGHT, 7), CUTOUTS, in_tarball=4)
    return folder


@pytest.fixture
def night(written, tmp_path):
    """The depot's folder of the night, to be spoiled."""
    return shutil.copytree(written / str(NIGHT), tmp_path / "depot" / str(NIGHT))


@pytest.fixture
def server(night):
    with serving(night.parent) as started:
        yield started


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    monkeypatch.setenv(secrets.USER, USER)
    monkeypatch.setenv(secrets.PASSWORD, PASSWORD)


@pytest.fixture
def settings(tmp_path):
    return Settings(str(tmp_path / "a.zarr"), tmp_path / "state", shard=64)


class Passes(threading.Event):
    """Ends a service after so many passes."""

    def __init__(self, passes):
        super().__init__()
        self.left = passes

    def wait(self, timeout=None):
        self.left -= 1
        return self.left <= 0


def look(place, settings, once=True, score=all_plausible, timeout=20.0, passes=1):
    """Look at the depot once, or as a service would, ``passes`` times."""
    depot = opened(place, timeout=timeout)
    nights = nights_between(NIGHT, NIGHT)
    return watch(depot, settings, score, nights, once=once, stop=Passes(passes))


def opened(place, **limits):
    """The depot, which is on this very machine, without long pauses."""
    return open_depot(place, limits=Limits(**{"pause": 0.001, **limits}), allow_plaintext=True)


def contents(settings):
    """Ids in the archive and of the candidates; each must be there once."""
    ids = list(open_archive(settings.archive)["id"].values)
    ledger = Ledger(settings.state / "watch.sqlite")
    recorded = list(ledger.candidates()["id"])
    ledger.close()
    assert len(set(ids)) == len(ids)
    assert len(set(recorded)) == len(recorded)
    return sorted(ids), sorted(recorded)


def assert_whole(settings, written):
    """All of the night is there, once, with all that is known of it."""
    truth = pd.read_csv(written / f"{NIGHT}.csv").sort_values("id")
    ids, recorded = contents(settings)
    assert ids == recorded == list(truth["id"])
    dataset = open_archive(settings.archive).sortby("id")
    np.testing.assert_allclose(dataset["ra"].values, truth["ra"])
    assert list(dataset["filter"].values) == list(truth["filter"])


def log(settings):
    lines = (settings.state / "watch.log").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(autouse=True)
def _no_password_anywhere(tmp_path, capfd):
    yield
    told = capfd.readouterr()
    assert PASSWORD not in told.out + told.err
    state = tmp_path / "state"
    for file in (f for f in state.rglob("*") if f.is_file()):
        assert PASSWORD.encode() not in file.read_bytes(), file


@pytest.fixture
def at():
    """The clock, at noon of a day in January 2026; ``shift`` and ``move_to`` set it."""
    import time_machine

    with time_machine.travel(datetime(2026, 1, 20, 12, tzinfo=UTC)) as clock:
        yield clock
