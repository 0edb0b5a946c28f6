"""Reproducible trainings: networks whose weights depend on a seed, and sums in one order."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import keras

_one = threading.Lock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make the weights, and the seeds of the dropout, of networks that are built within the block depend on a seed alone.

    Keras draws those from the one generator of Python's module ``random``, from which the other threads of a Dask
    worker draw, too, whenever they like. So, while the block runs, this thread's numbers come from a generator of its
    own: the same ones that the common generator gives where nobody else draws. From now on TensorFlow computes the same
    again to the last bit, too.

    Parameters
    ----------
    seed : int
        0 or more.

    Yields
    ------
    None
        To one thread at a time.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    own, mine = random.Random(seed), threading.get_ident()  # noqa: S311 (nothing secret)

    def randint(a: int, b: int) -> int:
        return (own.randint if threading.get_ident() == mine else common)(a, b)

    with _one:
        common, state = random.randint, random.getstate()
        keras.utils.set_random_seed(seed)
        random.setstate(state)  # other threads go on, and do not draw the same numbers again
        random.randint = randint
        try:
            yield
        finally:
            random.randint = common
