"""A campaign that takes some seconds, and its scores from a run that nothing disturbed."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deepstreaks_dask.archive.append import CutoutBatch, append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.schema import CUTOUT_SIZE

DEPLOYMENTS = Path(__file__).parents[2] / "cluster"
SHARDS = 48


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """URL of a zoo with a network for each family that costs next to nothing to load."""
    import keras

    from deepstreaks_dask.models.zoo.card import KERAS_FILE, Card
    from deepstreaks_dask.models.zoo.store import Zoo

    made = Zoo(tmp_path_factory.mktemp("models") / "zoo")
    layers = keras.layers
    for seed, family in enumerate(("rb", "sl", "kd")):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential(
            [
                layers.Input((CUTOUT_SIZE, CUTOUT_SIZE, 1)),
                layers.Conv2D(8, 7, strides=2, activation="relu"),
                layers.GlobalMaxPooling2D(),
                layers.Dense(1, activation="sigmoid"),
            ]
        )
        made.save(model, Card(f"{family}_tiny", "1", KERAS_FILE, family=family))
    return made.url


@pytest.fixture(scope="session")
def campaign(tmp_path_factory, tiny):
    """Path of an archive of 48 shards, and the scores of its run that was left in peace."""
    from dask.distributed import Client

    from deepstreaks_dask.scoring.campaign import score
    from deepstreaks_dask.scoring.ensemble import Ensemble

    rng = np.random.default_rng(5)
    n = SHARDS * 64 - 10
    cutouts = np.zeros((n, CUTOUT_SIZE, CUTOUT_SIZE), np.uint8)
    cutouts[:, 20:60:4, 20:60:4] = rng.integers(0, 256, (n, 10, 10))
    url = tmp_path_factory.mktemp("campaign") / "survey.zarr"
    create_archive(url, shard=64)
    append_batches(
        url, [CutoutBatch(cutouts, {"id": np.array([f"c{k}" for k in range(n)], object)})]
    )
    here = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": "127.0.0.1:0"}
    with Client(processes=False, **here) as client:
        scores = score(
            url, ensemble=Ensemble.from_zoo(tiny), client=client, run="peace", progress=False
        )
    assert scores["scores"].notnull().all()
    return url, scores["scores"].values


@pytest.fixture(scope="session")
def tls(tmp_path_factory):
    """Folder of certificates."""
    folder = tmp_path_factory.mktemp("certificates") / "tls"
    subprocess.run(
        [DEPLOYMENTS / "tls" / "certificates.sh", folder], check=True, capture_output=True
    )
    return folder


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    """Folder with `deepstreaks` and `dask` of this Python, wherever they are installed."""
    folder = tmp_path_factory.mktemp("bin")
    starts = {
        "deepstreaks": "from deepstreaks_dask.cli.main import main; main()",
        "dask": "from dask.__main__ import main; main()",
    }
    for name, code in starts.items():
        (folder / name).write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(code)} "$@"\n'
        )
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def environment(tls, commands, monkeypatch):
    """What a user exports: the certificates, and the package on the path."""
    monkeypatch.setenv("DASK_CONFIG", str(tls))
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
