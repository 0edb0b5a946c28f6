"""Compare an imported network with outputs of the original that are stored beside it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.keras2.comparison import SCORE_TOLERANCE
from deepstreaks_dask.models.keras2.sources import Source

OUTPUTS_SUFFIX = ".outputs.npz"
"""End of the name of a file with arrays ``inputs`` and ``outputs`` of the original network."""

_MAX_BYTES = 2**28
_BATCH = 64
_REMEDY = "give arrays of numbers 'inputs' (n, height, width, planes) and 'outputs' (n, scores)"


def check_outputs(model: keras.Model, source: Source) -> Mapping[str, str]:
    """Compare the outputs of a network with those stored beside its files, if there are any.

    Parameters
    ----------
    model : keras.Model
        As it was imported.
    source : Source
        Its files. Outputs of the original are in ``<base>.outputs.npz`` beside them: ``inputs``, as the network takes them,
        ``(n, height, width, planes)``, and ``outputs``, ``(n, scores)``.

    Returns
    -------
    dict
        SHA-256 of the file by its name; empty if there is none.

    Raises
    ------
    ModelError
        If the file cannot be read, or an output differs by more than 1e-5 of the largest, or of 1.
    """
    file = source.files[0].with_name(source.base + OUTPUTS_SUFFIX)
    if not file.exists():
        return {}
    inputs, wanted, data = _arrays(file)
    if inputs.shape[1:] != tuple(model.input_shape[1:]) or len(inputs) != len(wanted):
        raise ModelError(
            f"{file}: inputs are {inputs.shape} and outputs {wanted.shape}, but the network takes "
            f"{model.input_shape}: {_REMEDY}"
        )
    parts = [
        np.asarray(model(inputs[k : k + _BATCH], training=False))
        for k in range(0, len(inputs), _BATCH)
    ]
    found = np.concatenate(parts)
    wanted = wanted.reshape(found.shape) if wanted.size == found.size else wanted
    if wanted.shape != found.shape:
        raise ModelError(f"{file}: outputs are {wanted.shape}, those of the network {found.shape}")
    difference = float(np.abs(found - wanted).max())
    if not difference <= SCORE_TOLERANCE * max(1.0, float(np.abs(wanted).max())):
        raise ModelError(
            f"{source.files[0]}: the imported network differs from the outputs in {file.name} by {difference:.2g}: "
            "check that they belong to these weights, and report the network if they do"
        )
    return {file.name: hashlib.sha256(data).hexdigest()}


def _arrays(file: Path) -> tuple[np.ndarray, np.ndarray, bytes]:
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ModelError(f"{file} is larger than the {_MAX_BYTES:,} bytes allowed")
        data = file.read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(item.file_size for item in archive.infolist()) > 4 * _MAX_BYTES:
                raise ModelError(f"{file} is larger than allowed when decompressed")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            inputs, outputs = (arrays[name].astype(np.float32) for name in ("inputs", "outputs"))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{file} cannot be read ({error}): {_REMEDY}") from error
    if not len(inputs) or not np.isfinite(outputs).all():
        raise ModelError(f"{file} holds no outputs: {_REMEDY}")
    return inputs, outputs, data
