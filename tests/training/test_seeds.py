"""Networks of a seed, in the midst of threads that draw random numbers, as those of a Dask worker do."""

import random
import threading

import keras
import numpy as np

from deepstreaks_dask.training.seeds import seeded


def build():
    return keras.Sequential(
        [keras.Input((4,)), *(keras.layers.Dense(4) for _ in range(20)), keras.layers.Dropout(0.5)]
    )


def numbers(model):
    return np.concatenate([np.ravel(v) for v in (*model.get_weights(), *map(seed, model.layers))])


def seed(layer):
    return [keras.ops.convert_to_numpy(v) for v in layer.non_trainable_variables]


def test_weights_depend_on_the_seed_alone():
    keras.utils.set_random_seed(5)
    alone = numbers(build())
    over = threading.Event()
    drawn = []

    def disturb():
        while not over.is_set():
            random.random()
            drawn.append(random.randint(1, 2**30))

    original = random.randint
    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(3):
            with seeded(5):
                np.testing.assert_array_equal(numbers(build()), alone)
        with seeded(6):
            assert not np.array_equal(numbers(build()), alone)
    finally:
        over.set()
        thread.join()
    assert random.randint == original
    assert len(set(drawn)) > 0.9 * len(drawn)  # the other thread goes on as it was
