"""Explanation maps add up, lie on the streak, and are the network's own: other weights give another map."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter, label
from scipy.stats import spearmanr
from shallow import QUICK_XLA, shallow

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.attribution import Explainer
from deepstreaks_dask.models.registry import ARCHITECTURES, build
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.simulation.nights import simulate_nights


@pytest.fixture(scope="module")
def asteroids():
    """Eight simulated asteroids of nights that nothing was trained on, and where their streaks are."""
    (batch,) = simulate_nights(1, 120, seed=777, first=20190701)
    cutouts = batch.cutouts[batch.columns["label_os"] == 1][:8]
    near = []
    for cutout in cutouts:
        dark = np.median(cutout) - gaussian_filter(cutout.astype(float), 1)
        middle = np.zeros(cutout.shape, bool)
        middle[52:92, 52:92] = True  # the simulator's asteroids go through it
        pieces, _ = label(dark > 0.4 * dark[middle].max())
        streak = pieces == pieces.flat[np.argmax(np.where(middle, dark, -np.inf))]
        near.append(distance_transform_edt(~streak) <= 5)
    return cutouts, np.array(near)


@pytest.fixture(scope="module")
def maps(asteroids):
    explain = Explainer(Zoo().load("rb_vgg6"))
    return [explain(cutout) for cutout in asteroids[0]]


def test_shares_add_up_to_the_logit(asteroids, maps):
    model = Zoo().load("rb_vgg6")
    for cutout, found in zip(asteroids[0], maps, strict=True):
        score = float(model(cutout[None, ..., None] / np.float32(255), training=False)[0, 0])
        assert 1 / (1 + np.exp(-found.logit)) == pytest.approx(score, abs=1e-5)
        assert found.shares.shape == (144, 144, 1)
        assert abs(found.missing) < 0.15 * abs(found.logit - found.sky)
        assert found.logit - found.sky - found.shares.sum() == pytest.approx(
            found.missing, abs=1e-2
        )


def test_what_speaks_for_an_asteroid_lies_on_its_streak(asteroids, maps):
    _, near = asteroids
    area = near.mean(axis=(1, 2))
    assert area.max() < 0.15
    # of the logit above that of an empty sky; and of all that speaks for it, of which noise has its part everywhere
    net, dense = [], []
    for found, where in zip(maps, near, strict=True):
        net.append(found.shares[where].sum() / found.shares.sum())
        shares = gaussian_filter(found.shares[..., 0], 1.5).clip(0)
        dense.append(shares[where].sum() / shares.sum() / where.mean())
    assert np.mean(net) > 0.5, net
    assert min(dense) > 5, dense


def test_other_weights_give_another_map(asteroids, maps):
    """The sanity check of Adebayo et al. (2018): of all weights, and of the last layers' only."""
    keras.utils.set_random_seed(5)
    trained, drawn = Zoo().load("rb_vgg6").get_weights(), build("vgg6").get_weights()
    for weights in (drawn, [*trained[:-4], *drawn[-4:]]):
        model = build("vgg6")
        model.set_weights(weights)
        explain = Explainer(model)
        alike = [
            spearmanr(found.shares.ravel(), explain(cutout).shares.ravel())[0]
            for cutout, found in zip(asteroids[0][:4], maps, strict=False)
        ]
        assert np.abs(alike).max() < 0.2


@pytest.mark.parametrize(
    ("architecture", "planes", "scaling"),
    [("vgg6", 3, "l2"), *((name, 1, "bytes") for name in ARCHITECTURES if name != "vgg6")],
)
def test_every_architecture_and_scaling(architecture, planes, scaling):
    keras.utils.set_random_seed(2)
    cutout = np.random.default_rng(3).integers(0, 256, (40, 40, planes), np.uint8)
    with shallow():
        model = build(architecture, (40, 40, planes))
    found = Explainer(model, scaling)(cutout)
    assert found.shares.shape == (40, 40, planes)
    assert np.abs(found.shares).max() > 0
    assert abs(found.missing) < 0.1 * abs(found.logit - found.sky) + 1e-3


def test_networks_in_networks_and_other_endings():
    inner = build("vgg6", (24, 24, 1))
    cutout = np.random.default_rng(3).integers(0, 256, (24, 24), np.uint8)
    expected = Explainer(inner)(cutout)
    outer = keras.Sequential([keras.Input((24, 24, 1)), inner])
    np.testing.assert_allclose(Explainer(outer)(cutout).shares, expected.shares, atol=1e-6)
    flat = keras.Sequential([keras.Input((24, 24, 1)), keras.layers.GlobalAveragePooling2D()])
    found = Explainer(flat)(cutout)
    assert found.logit == pytest.approx(cutout.mean() / 255, abs=1e-5)
    assert found.missing == pytest.approx(0, abs=1e-5)


def test_mistakes_are_named():
    with pytest.raises(ModelError, match="no scaling 'percent'"):
        Explainer(build("vgg6", (24, 24, 1)), "percent")
    with pytest.raises(ModelError, match="only one score"):
        Explainer(build("vgg6", (24, 24, 1), 2))
    with pytest.raises(ModelError, match="takes"):
        Explainer(build("vgg6", (24, 24, 1)))(np.zeros((144, 144), np.uint8))


@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_backends_agree(asteroids, maps, tmp_path, backend):
    if backend == keras.backend.backend():
        pytest.skip(f"{backend} is what the other tests run on")
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    np.save(tmp_path / "cutout.npy", asteroids[0][0])
    code = """
import sys
import numpy as np
from deepstreaks_dask.models.attribution import Explainer
from deepstreaks_dask.models.zoo.store import Zoo
found = Explainer(Zoo().load("rb_vgg6"))(np.load(sys.argv[1] + "/cutout.npy"))
np.save(sys.argv[1] + "/shares.npy", found.shares)
"""
    environment = {**os.environ, "KERAS_BACKEND": backend, "XLA_FLAGS": QUICK_XLA}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=True)
    shares = np.load(tmp_path / "shares.npy")
    np.testing.assert_allclose(shares, maps[0].shares, atol=1e-3 * np.abs(maps[0].shares).max())
