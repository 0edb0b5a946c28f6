"""What a worker computes with: its card or processor, the card's driver, the backend of Keras.

A worker that is meant to compute with a card and cannot any more stops: Keras would go on with the processor, a hundred
times slower, and without a word.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from deepstreaks_dask.scoring.starters import count_cards, show_first_card

_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_SMI_TIMEOUT = 20.0  # seconds; a card that hangs has it wait for ever
_NO_CARDS = ("", "none", "void")  # of NVIDIA_VISIBLE_DEVICES, in containers


@lru_cache(maxsize=1)
def describe_worker() -> dict[str, str]:
    """Describe what this process computes networks with; runs on a worker.

    Returns
    -------
    dict of str to str
        ``host``; ``device``, the card's or processor's name; ``kind``, ``"gpu"`` or ``"cpu"``; ``driver`` of the card, empty
        without one; ``backend`` and ``backend_version``; ``keras``.
    """
    own_card()
    import keras

    backend = keras.backend.backend()
    names = card_names(backend)
    gpu = bool(names) and computes_with_card()
    return {
        "host": socket.gethostname(),
        "device": names[0] if gpu else processor(),
        "kind": "gpu" if gpu else "cpu",
        "driver": driver() if gpu else "",
        "backend": backend,
        "backend_version": _version(backend),
        "keras": keras.__version__,
    }


def expects_card() -> bool:
    """Return whether this process was started to compute with a card.

    So it is where ``CUDA_VISIBLE_DEVICES`` names a card, as dask-cuda and batch systems set it, or where a container was
    given one. ``CUDA_VISIBLE_DEVICES=-1`` has a worker compute with its processor on purpose.
    """
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return count_cards() > 0
    given = os.environ.get("NVIDIA_VISIBLE_DEVICES", "").strip().lower()
    return given not in _NO_CARDS and count_cards() > 0


def has_lost_card() -> bool:
    """Return whether this process was started to compute with a card, but computes with its processor."""
    return expects_card() and describe_worker()["kind"] != "gpu"


def card_is_gone() -> bool:
    """Return whether the card that this process computed with does not answer any more; takes a moment."""
    if describe_worker()["kind"] != "gpu":
        return False
    return not computes_with_card()


def own_card() -> None:
    """Leave only the first of the cards that a worker's own process may use, before a library opens them.

    dask-cuda shows every card to each of its workers, its own first, and TensorFlow takes memory of each that it sees.
    """
    if parent_process() is None:  # a worker within its client's process: its cards are the client's
        return
    show_first_card(os.environ)
    with suppress(Exception):  # another backend, or one that has opened its cards: then they stay
        import tensorflow as tf

        cards = tf.config.list_physical_devices("GPU")
        if len(cards) > 1:
            tf.config.set_visible_devices(cards[:1], "GPU")


def card_names(backend: str) -> list[str]:
    """Return the names of the cards that a backend of Keras sees, the first the one that computes.

    Parameters
    ----------
    backend : {"tensorflow", "jax", "torch"}

    Returns
    -------
    list of str
        Empty where it sees none, or is not there.
    """
    with suppress(
        Exception
    ):  # each has its own errors for drivers that are too old, or cards that are gone
        if backend == "jax":
            import jax

            return [str(one.device_kind) for one in jax.local_devices() if one.platform != "cpu"]
        if backend == "torch":
            import torch

            return [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
        import tensorflow as tf

        details = tf.config.experimental.get_device_details
        cards = tf.config.list_physical_devices("GPU")
        return [str(details(card).get("device_name", card.name)) for card in cards]
    return []


def computes_with_card() -> bool:
    """Return whether a small sum is computed with a card."""
    try:
        import keras

        tensor = keras.ops.sum(keras.ops.ones((8,)))
        float(keras.ops.convert_to_numpy(tensor))
        place = tensor.devices() if hasattr(tensor, "devices") else tensor.device
        return re.search(r"gpu|cuda|rocm", str(place).lower()) is not None
    except Exception:  # a card that is gone fails in its library's own way
        return False


def processor() -> str:
    """Return the name of the processor."""
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        if found:
            return found[1].strip()
    return os.uname().machine


def driver() -> str:
    """Return the version of NVIDIA's driver; empty if there is none."""
    with suppress(OSError):
        found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", _DRIVER_FILE.read_text())
        if found:
            return found[1]
    said = [card["driver"] for card in cards_of_driver()]
    return said[0] if said else ""


def cards_of_driver() -> list[dict[str, str]]:
    """Return the cards of this machine as NVIDIA's driver lists them: ``name``, ``driver``, ``memory``, ``uuid`` of each."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = "--query-gpu=name,driver_version,memory.total,uuid"
    try:
        said = subprocess.run(  # noqa: S603 - a list, of what stands here
            [program, query, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_SMI_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    fields = ("name", "driver", "memory", "uuid")
    rows = [[part.strip() for part in line.split(",")] for line in said.stdout.splitlines()]
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # tensorflow-cpu and the like
        module: Any = __import__(package)
        return str(getattr(module, "__version__", ""))
