"""Headless Chromium, and archives for it to look at."""

import os
import shutil

import numpy as np
import pytest
from helpers import as_shipped, visiting, write_run

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.simulation.nights import simulate_nights

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
MEMBERS = [f"{f}_{a}" for f in ("rb", "sl", "kd") for a in ("vgg6", "resnet50")]


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium; tests are skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not os.access(CHROMIUM, os.X_OK):
        pytest.skip("there is no Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open pages that must load nothing from elsewhere and raise no error in the browser."""
    with visiting(browser) as visit:
        yield visit


@pytest.fixture(scope="session")
def explored(tmp_path_factory):
    """An archive of five simulated nights with two runs of six members, one night of them odd."""
    url = str(tmp_path_factory.mktemp("explored") / "week.zarr")
    create_archive(url, shard=64)
    append_batches(url, simulate_nights(5, 60, seed=3))
    dataset, rng = open_archive(url), np.random.default_rng(0)
    scores = np.empty((300, 6), np.float32)
    for k, member in enumerate(MEMBERS):
        label = dataset[f"label_{member[:2]}"].values
        scores[:, k] = 1 / (1 + np.exp(-(label * 4.0 - 2 + rng.normal(0, 1.5, 300))))
    odd = dataset["night"].values == np.unique(dataset["night"].values)[2]
    scores[odd, 0] = 0.3 * rng.random(odd.sum())
    write_run(url, "default", MEMBERS, scores)
    as_shipped(url)
    other = np.clip(scores + rng.normal(0, 0.3, scores.shape), 0, 1).astype(np.float32)
    write_run(url, "other", MEMBERS, other)
    return url
