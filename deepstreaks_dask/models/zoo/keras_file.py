"""Load a ``.keras`` file of a stranger's: without code, and within bounds of time and memory.

Keras sees only what was written here: the checked configuration, and a new HDF5 file of the plain arrays that another
process has read. Layers may not take more weights than the file holds.
"""

from __future__ import annotations

import json
import math
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.keras2.hdf5 import MAX_BYTES, MAX_EXPANSION, HDF5Error, read_tree
from deepstreaks_dask.models.keras2.options import MAX_ACTIVATION, first_line
from deepstreaks_dask.models.zoo.keras_config import MAX_CONFIG_BYTES, checked_config

_CONFIG, _WEIGHTS, _METADATA = "config.json", "model.weights.h5", "metadata.json"
_MAX_MEMBERS = 16
_SLACK = 2**20  # values, 4 MB
_guarded = threading.local()


def parse_keras(data: bytes, origin: str) -> keras.Model:
    """Return the network of a ``.keras`` file.

    Parameters
    ----------
    data : bytes
        The file, which may be a stranger's.
    origin : str
        What to call it in an error.

    Returns
    -------
    keras.Model
        Not compiled for training.

    Raises
    ------
    ModelError
        If it is no such file, or damaged, or holds code, a layer that is not known to be safe, or more than it should.
    """
    members = _members(data, origin)
    config = checked_config(members[_CONFIG], origin)
    try:
        arrays = read_tree(members[_WEIGHTS])
    except HDF5Error as error:
        raise ModelError(f"{origin!r} has weights that cannot be read: {error}") from error
    budget = sum(array.size for array in arrays.values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(_clean(config, arrays))
        try:
            with limited_weights(budget, origin):
                model = keras.saving.load_model(path, compile=False, safe_mode=True)
        except ModelError:
            raise
        except Exception as error:  # Keras raises many kinds for what does not fit
            raise ModelError(f"{origin!r} cannot be loaded: {first_line(error)}") from error
    _check_activations(model, origin)
    return model


@contextmanager
def limited_weights(budget: int, origin: str) -> Iterator[None]:
    """Refuse layers that take more weights than there are, before they take the memory.

    Parameters
    ----------
    budget : int
        Number of values of all weights that there are. Layers may take twice as many, and a little: one that does not
        fit is told by its name then, and states of random generators are not in files.
    origin : str
        What to call the network in an error.

    Yields
    ------
    None
        While it holds, for this thread.

    Raises
    ------
    ModelError
        From within Keras, where a layer wants more.
    """
    before = getattr(_guarded, "left", None)
    _guarded.left = (2 * budget + _SLACK, origin)
    try:
        yield
    finally:
        _guarded.left = before


_add_weight = keras.Layer.add_weight


def _add_limited_weight(self: keras.Layer, shape: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Do as Keras does, unless it is too much for :func:`limited_weights`."""
    if (limit := getattr(_guarded, "left", None)) is not None:
        budget, origin = limit
        size = math.prod(shape) if isinstance(shape, tuple | list) else shape or 1
        if size > budget:
            raise ModelError(
                f"{origin!r}: layer {self.name[:80]!r} needs a weight of {size:,} values, far more than its file "
                "of weights holds"
            )
        _guarded.left = (budget - size, origin)
    return _add_weight(self, shape, *args, **kwargs)


keras.Layer.add_weight = _add_limited_weight  # Keras has no place of its own to limit it


def _members(data: bytes, origin: str) -> dict[str, bytes]:
    """Read the parts of the file that Keras writes, and refuse any other, and bombs."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            names = archive.namelist()
            if len(names) > _MAX_MEMBERS or len(set(names)) < len(names):
                raise ModelError(f"{origin!r} is no .keras file: it has {len(names)} parts")
            if other := sorted(set(names) - {_CONFIG, _WEIGHTS, _METADATA}):
                raise ModelError(
                    f"{origin!r} holds {other[0][:80]!r}, which is no part of a network: refused"
                )
            limits = {
                _CONFIG: MAX_CONFIG_BYTES,
                _WEIGHTS: min(MAX_BYTES, MAX_EXPANSION * len(data)),
            }
            found = {}
            for name, limit in limits.items():
                with archive.open(name) as member:
                    found[name] = member.read(limit + 1)
                if len(found[name]) > limit:
                    raise ModelError(f"{origin!r}: {name} has more than {limit:,} bytes")
            return found
    except ModelError:
        raise
    except Exception as error:  # a damaged zip fails in many ways
        raise ModelError(f"{origin!r} is no .keras file: {first_line(error)}") from error


def _clean(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return a new ``.keras`` file of a configuration and plain arrays."""
    weights, whole = BytesIO(), BytesIO()
    with h5py.File(weights, "w") as file:
        file.create_group("layers")
        for path, array in arrays.items():
            file.create_dataset(path, data=array)
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr(_METADATA, json.dumps({"keras_version": keras.__version__}))
        archive.writestr(_CONFIG, json.dumps(config))
        archive.writestr(_WEIGHTS, weights.getvalue())
    return whole.getvalue()


def _check_activations(model: keras.Model, origin: str) -> None:
    """Refuse layers that give more values for one cutout than memory holds."""
    for layer in getattr(model, "operations", model.layers):
        try:
            given = layer.output
        except (AttributeError, ValueError, RuntimeError):  # it is called more than once
            continue
        for tensor in given if isinstance(given, list | tuple) else [given]:
            if math.prod(size or 1 for size in tensor.shape[1:]) > MAX_ACTIVATION:
                raise ModelError(
                    f"{origin!r}: layer {layer.name[:80]!r} gives {tensor.shape}: too large"
                )
