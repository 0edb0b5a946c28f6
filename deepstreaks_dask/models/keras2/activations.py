"""Activations that Keras 3 changed or dropped; zoos may hold networks with them."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("deepstreaks_dask")
def keras2_hard_sigmoid(x: Any) -> Any:
    """Return ``0.2 x + 0.5`` within 0 and 1, as Keras 2 does; Keras 3 has a slope of 1/6."""
    return ops.clip(0.2 * x + 0.5, 0.0, 1.0)


REGISTERED_NAMES = frozenset({"deepstreaks_dask>keras2_hard_sigmoid"})
