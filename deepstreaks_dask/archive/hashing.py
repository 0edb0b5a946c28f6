"""Digests of pixels, which tell duplicates and damage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

_HASH_BLOCK_BYTES = 2047  # bytes; from 2048 on hashlib lets other threads go first


def digests(cutouts: Iterable[np.ndarray]) -> np.ndarray:
    """Hash the pixels of each cutout of ``(n, …)``, or the stamps of each object, to uint64 (BLAKE2b)."""
    return np.array([_digest(cutout) for cutout in cutouts], np.uint64)


def _digest(pixels: np.ndarray) -> int:
    """Hash piece by piece, each too small for `hashlib` to let go of Python's lock.

    To get the lock back from threads that decode takes far longer than to hash a cutout.
    """
    hashed, data = hashlib.blake2b(digest_size=8), memoryview(pixels.tobytes())
    for first in range(0, len(data), _HASH_BLOCK_BYTES):
        hashed.update(data[first : first + _HASH_BLOCK_BYTES])
    return int.from_bytes(hashed.digest(), "little")
