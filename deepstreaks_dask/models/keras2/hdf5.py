"""Read weights in HDF5, as Keras 2 or Keras 3 wrote them, in a process of its own.

The HDF5 library ends the process, or runs for ever, on files damaged in the right places. So the parent starts
this file as a script, with a limit on time and memory, and takes plain arrays from it; a reader that dies is one
more damaged file. The script needs h5py and NumPy only.

Followed are hard links to arrays of plain numbers inside the file, and nothing else: a soft or external link, an
external or virtual array, or an object could lead out of the file.
"""

import io
import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

MAX_BYTES = 2**31  # of the file
MAX_EXPANSION = (
    8  # bytes of weights a byte of the file: what was never written costs nothing to declare
)
MAX_OBJECTS = 100_000
TIME_LIMIT = 120  # seconds, for files of 2 GB on a busy machine


class HDF5Error(ValueError):
    """The file is not what Keras writes, or is not safe to read."""


def read_hdf5(data: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Read layers and their weights in another process.

    Parameters
    ----------
    data
        The file.

    Returns
    -------
    header : dict
        ``keras_version`` and ``backend`` (or None), ``model_config`` (text, or None if the file holds weights only),
        and ``layers``: pairs of a layer's name and the names of its weights, in the order of the file.
    weights : list of numpy.ndarray
        float32, of all layers in that order, of any shape.

    Raises
    ------
    HDF5Error
        If the file is damaged, is not in the layout of Keras 2, or leads out of itself.
    """
    return _read_apart(data, "keras2")


def read_tree(data: bytes) -> dict[str, np.ndarray]:
    """Read all arrays of a file of Keras 3 but those of its optimizer, in another process.

    Parameters
    ----------
    data
        The file.

    Returns
    -------
    dict of str to numpy.ndarray
        By their paths in the file; of any shape, of plain numbers or truth values.

    Raises
    ------
    HDF5Error
        If the file is damaged, or leads out of itself.
    """
    header, arrays = _read_apart(data, "tree")
    return dict(zip(header["paths"], arrays, strict=True))


def _read_apart(data: bytes, layout: str) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Read a file in another process, in one of the layouts."""
    if len(data) > MAX_BYTES:
        raise HDF5Error(f"{len(data):,} bytes are more than the {MAX_BYTES:,} allowed")
    try:
        done = subprocess.run(  # noqa: S603 - our own file, no shell
            [sys.executable, "-I", str(Path(__file__).resolve()), layout],
            input=data,
            capture_output=True,
            timeout=TIME_LIMIT,
            check=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"},
        )
    except subprocess.TimeoutExpired:
        raise HDF5Error("damaged: it cannot be read to its end") from None
    except subprocess.CalledProcessError:
        raise HDF5Error("damaged: the HDF5 library fails on it") from None
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as arrays:
        header = json.loads(arrays["header"].tobytes())
        if "error" in header:
            raise HDF5Error(header["error"])
        return header, [arrays[str(k)] for k in range(len(arrays.files) - 1)]


def _read(data: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    with h5py.File(io.BytesIO(data), "r") as file:
        config = file.attrs.get("model_config")
        top = _follow(file, "model_weights", h5py.Group) if "model_weights" in file else file
        names = _names(top, "layer_names")
        if names is None:
            raise HDF5Error("it has no layer_names, so it is not in the HDF5 layout of Keras 2")
        if len(set(names)) < len(names):
            raise HDF5Error("it names a layer twice")
        layers: list[tuple[str, list[str]]] = []
        found: list[h5py.Dataset] = []
        for name in names:
            group = _follow(top, name, h5py.Group)
            weights = _names(group, "weight_names") or []
            found += [_follow(group, weight, h5py.Dataset) for weight in weights]
            layers.append((name, weights))
        declared = sum(_size(dataset) for dataset in found)
        if declared > MAX_EXPANSION * len(data):
            raise HDF5Error(f"it declares {declared:,} bytes of weights in {len(data):,} bytes")
        _refuse_surplus(top, found)
        arrays = [_values(dataset) for dataset in found]
        header = {
            "keras_version": _text(top.attrs.get("keras_version", file.attrs.get("keras_version"))),
            "backend": _text(top.attrs.get("backend", file.attrs.get("backend"))),
            "model_config": _text(config),
            "layers": layers,
        }
    return header, arrays


def _read_tree(data: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    with h5py.File(io.BytesIO(data), "r") as file:
        found = [item for item in _walk(file, leave="optimizer") if isinstance(item, h5py.Dataset)]
        declared = sum(_size(dataset, "fiub") for dataset in found)
        if declared > MAX_EXPANSION * len(data):
            raise HDF5Error(f"it declares {declared:,} bytes of weights in {len(data):,} bytes")
        arrays = []
        for dataset in found:
            arrays.append(np.asarray(dataset[()]))
            if not np.isfinite(arrays[-1]).all():
                raise HDF5Error(f"{dataset.name!r} holds values that are not finite")
        return {"paths": [dataset.name.strip("/") for dataset in found]}, arrays


def _follow(group: h5py.Group, path: str, kind: type) -> Any:
    """Go down a path of hard links only."""
    here: Any = group
    for part in [part for part in path.split("/") if part not in ("", ".")]:
        if not isinstance(here, h5py.Group) or part not in here:
            raise HDF5Error(f"{path!r} of {group.name!r} is missing")
        if not isinstance(here.get(part, getlink=True), h5py.HardLink):
            raise HDF5Error(f"{path!r} of {group.name!r} is a link, which could lead anywhere")
        here = here[part]
    if not isinstance(here, kind):
        raise HDF5Error(f"{path!r} of {group.name!r} is no {kind.__name__.lower()}")
    return here


def _names(group: h5py.Group, attribute: str) -> list[str] | None:
    """List names in an attribute, which Keras splits into numbered ones if it is too long."""
    if attribute in group.attrs:
        parts = [group.attrs[attribute]]
    elif f"{attribute}0" in group.attrs:
        keys = [f"{attribute}{k}" for k in range(len(group.attrs))]
        parts = [group.attrs[key] for key in keys if key in group.attrs]
    else:
        return None
    names = [_text(name) for part in parts for name in np.atleast_1d(part)]
    if not all(names):
        raise HDF5Error(f"{attribute} of {group.name!r} are no names")
    return [str(name) for name in names]


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if isinstance(value, str) else None


def _size(dataset: h5py.Dataset, kinds: str = "fiu") -> int:
    if dataset.dtype.kind not in kinds:
        raise HDF5Error(f"{dataset.name!r} holds {dataset.dtype}, no plain numbers")
    if dataset.is_virtual or dataset.external:
        raise HDF5Error(f"{dataset.name!r} keeps its values outside of the file")
    if dataset.shape is None:
        raise HDF5Error(f"{dataset.name!r} is empty")
    size = math.prod(dataset.shape)
    if size and not dataset.id.get_storage_size():
        raise HDF5Error(f"{dataset.name!r} was never written")
    return size * max(4, dataset.dtype.itemsize)


def _values(dataset: h5py.Dataset) -> np.ndarray:
    values = np.asarray(dataset[()]).astype(np.float32)
    if not np.isfinite(values).all():
        raise HDF5Error(f"{dataset.name!r} holds values that are not finite")
    return values


def _refuse_surplus(top: h5py.Group, expected: list[h5py.Dataset]) -> None:
    """Check that every array belongs to a layer: a part of the network would silently be lost."""
    known = {dataset.name for dataset in expected}
    for item in _walk(top):
        if isinstance(item, h5py.Dataset) and item.name not in known:
            raise HDF5Error(f"{item.name!r} belongs to no layer")


def _walk(top: h5py.Group, leave: str = "") -> Iterator[Any]:
    """Yield all objects of a group, each once, but for those of one member."""
    seen = set()
    todo = [top]
    while todo:
        group = todo.pop()
        for name in group:
            if group is top and name == leave:
                continue
            item = _follow(group, name, object)
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if len(seen) > MAX_OBJECTS:
                raise HDF5Error(f"it holds more than {MAX_OBJECTS:,} objects")
            yield item
            if isinstance(item, h5py.Group):
                todo.append(item)


def _main() -> None:
    data = sys.stdin.buffer.read()
    memory = 2**32 + 4 * MAX_EXPANSION * len(data)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        header, arrays = (_read_tree if sys.argv[1:] == ["tree"] else _read)(data)
    except HDF5Error as error:
        header, arrays = {"error": str(error)}, []
    except Exception as error:  # h5py raises many kinds for a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        header, arrays = {"error": f"damaged: {reason}"}, []
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    buffer = io.BytesIO()
    found = {"header": text, **{str(k): array for k, array in enumerate(arrays)}}
    np.savez(buffer, allow_pickle=False, **found)
    sys.stdout.buffer.write(buffer.getvalue())


if __name__ == "__main__":
    _main()
