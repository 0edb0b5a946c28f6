"""A score is the same to the last bit whoever looks along, so that the cascade decides as all scores do."""

import keras
import numpy as np
import pytest
from helpers import random_batch

from deepstreaks_dask.models.registry import ARCHITECTURES, build
from deepstreaks_dask.scoring.cascade import Cascade
from deepstreaks_dask.scoring.networks import Networks


@pytest.fixture(scope="module")
def networks():
    models = {}
    for seed, name in enumerate(ARCHITECTURES):
        keras.utils.set_random_seed(seed)
        models[f"rb_{name}@1"] = build(name)
    return Networks(models, ["bytes"] * len(models), 4, flips=False)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="is promised of TensorFlow on CPUs"
)
def test_a_score_has_the_same_bits_alone_and_along_with_others(networks):
    cutouts = random_batch(6).cutouts
    whole = networks.score(cutouts, None)
    sample = networks.sample(cutouts)
    assert sample.scores.tobytes() == whole.tobytes()
    assert len(sample.costs) == 3
    assert min(sample.costs) > 0
    backwards = networks.sample(cutouts[::-1][:5]).scores
    assert backwards[::-1].tobytes() == whole[1:].tobytes()


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="is promised of TensorFlow on CPUs"
)
def test_thresholds_on_a_score_decide_alike(networks):
    """Members pass at exactly their own score, and fail at the next number above it."""
    cutouts = random_batch(6).cutouts
    whole = networks.score(cutouts, None)
    for k in range(6):
        on = tuple(map(float, whole[k]))
        above = tuple(float(np.nextafter(v, np.float32(2))) for v in whole[k])
        order = ((0,), (1,), (2,))
        looked = networks.score(cutouts, Cascade(on, order))
        assert looked[k].tobytes() == whole[k].tobytes()
        looked = networks.score(cutouts, Cascade(above, order))
        assert np.isnan(looked[k, 1:]).all()
