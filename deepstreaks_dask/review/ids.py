"""Rows of an archive by id."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

import numpy as np
import pandas as pd


class Ids:
    """Index of rows by id that takes 12 bytes per row.

    The index keeps a hash of 64 bits of each id (SipHash with a key of this process): of seven million ids, two share a hash
    in one of a million archives, and nobody can construct ids that do.

    Parameters
    ----------
    parts : iterable of ndarray
        The ids, str ``(row,)``, in parts.
    """

    def __init__(self, parts: Iterable[np.ndarray]) -> None:
        self._key = secrets.token_hex(8)
        hashes = np.concatenate([np.zeros(0, np.uint64), *map(self._hash, parts)])
        self._order = np.argsort(hashes, kind="stable").astype(np.int32)
        self._hashes = hashes[self._order]

    def get_indexer(self, ids: Iterable[str]) -> np.ndarray:
        """Return the row of each id, int ``(n,)``; -1 where there is none."""
        wanted = self._hash(np.array(list(ids), dtype=object))
        at = np.searchsorted(self._hashes, wanted)
        inside = at < len(self._hashes)
        rows = np.full(len(wanted), -1)
        found = inside.copy()
        found[inside] = self._hashes[at[inside]] == wanted[inside]
        rows[found] = self._order[at[found]]
        return rows

    def _hash(self, ids: np.ndarray) -> np.ndarray:
        hashes: np.ndarray = pd.util.hash_array(ids, hash_key=self._key, categorize=False)
        return hashes
