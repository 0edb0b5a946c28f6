"""Layers that Keras 2 has and Keras 3 has not; zoos may hold networks with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from deepstreaks_dask.models.keras2.operations import (
    apply_operation,
    check_constants,
    known_function,
)


@keras.saving.register_keras_serializable("deepstreaks_dask")
class Operation(keras.layers.Layer):
    """A call of one function, out of a list of safe ones, with constants and the outputs of layers.

    Parameters
    ----------
    function : str
        A key of :data:`deepstreaks_dask.models.keras2.operations.FUNCTIONS`.
    arguments : mapping
        By name: constants, or ``{"input": k}`` for the k-th input of the layer.
    **kwargs
        Of any Keras layer.

    Raises
    ------
    ValueError
        If the function is not in the list, or an argument is none of JSON's plain values.
    """

    def __init__(self, function: str, arguments: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_constants(arguments)
        self.function, self.arguments = known_function(function), dict(arguments)

    def call(self, inputs: Any) -> Any:
        """Call the function with the inputs, one tensor or a list of them."""
        several = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        return apply_operation(self.function, self.arguments, several)

    def get_config(self) -> dict[str, Any]:
        """Return the options of the layer."""
        return super().get_config() | {"function": self.function, "arguments": self.arguments}


@keras.saving.register_keras_serializable("deepstreaks_dask")
class LayerScale(keras.layers.Layer):
    """A factor for each channel, learned (ConvNeXt: Liu et al. 2022, arXiv:2201.03545).

    Parameters
    ----------
    init_values : float
        Of the factors, before they are learned.
    projection_dim : int
        Number of channels.
    **kwargs
        Of any Keras layer.
    """

    def __init__(self, init_values: float = 1e-6, projection_dim: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.init_values, self.projection_dim = init_values, projection_dim

    def build(self, input_shape: Any) -> None:
        """Make the factors."""
        self.gamma = self.add_weight(
            shape=(self.projection_dim,),
            initializer=keras.initializers.Constant(self.init_values),
            name="gamma",
        )

    def call(self, inputs: Any) -> Any:
        """Multiply each channel, the last axis, by its factor."""
        return inputs * self.gamma

    def get_config(self) -> dict[str, Any]:
        """Return the options of the layer."""
        own = {"init_values": self.init_values, "projection_dim": self.projection_dim}
        return super().get_config() | own
