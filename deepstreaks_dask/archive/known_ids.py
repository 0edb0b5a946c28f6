"""The ids that an archive holds, to find what is appended twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from deepstreaks_dask.archive.schema import COLUMN_CHUNK


class KnownIds:
    """Hashes of ids, sorted, with digest and row: 24 bytes a row, where a Python string would be 60 and more.

    Parameters
    ----------
    ids, digests : ndarray
        uint64 ``(row,)``: hash of the id, and digest of the pixels.
    rows : ndarray
        int64 ``(row,)``: number of the row in the archive.
    """

    def __init__(self, ids: np.ndarray, digests: np.ndarray, rows: np.ndarray) -> None:
        order = np.argsort(ids, kind="stable")
        self._ids, self._digests, self._rows = ids[order], digests[order], rows[order]

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._ids.nbytes + self._digests.nbytes + self._rows.nbytes

    def find(self, hashes: np.ndarray) -> dict[int, tuple[int, int]]:
        """Find ids by their hashes.

        Parameters
        ----------
        hashes : ndarray
            uint64 ``(id,)``, as :func:`hash_ids` returns them.

        Returns
        -------
        dict
            Digest and row by the place in ``hashes``, of the ids that are known.
        """
        if not len(self._ids):
            return {}
        at = np.minimum(np.searchsorted(self._ids, hashes), len(self._ids) - 1)
        places = np.flatnonzero(self._ids[at] == hashes)
        found = zip(
            self._digests[at[places]].tolist(), self._rows[at[places]].tolist(), strict=True
        )
        return dict(zip(places.tolist(), found, strict=True))


def hash_ids(ids: np.ndarray | Sequence[str]) -> np.ndarray:
    """Return a hash of each id, uint64 ``(id,)``."""
    hashed: np.ndarray = pd.util.hash_array(np.asarray(ids, dtype=object))
    return hashed


def hash_versions(hashes: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Return a hash of each id with its pixels, since an id may have been withdrawn several times.

    Parameters
    ----------
    hashes, digests : ndarray
        uint64 ``(id,)``: hash of the id, and digest of the pixels.

    Returns
    -------
    ndarray
        uint64 ``(id,)``.
    """
    versions: np.ndarray = hashes ^ digests
    return versions


def known_ids(dataset: xr.Dataset, retracted: np.ndarray) -> tuple[KnownIds, KnownIds]:
    """Read the ids of an archive.

    Parameters
    ----------
    dataset : xarray.Dataset
        All rows, those that were withdrawn among them.
    retracted : ndarray
        bool ``(row,)``: which rows were withdrawn.

    Returns
    -------
    (KnownIds, KnownIds)
        Those of the archive, and those that were withdrawn; these to be found by :func:`hash_versions`.
    """
    ids = dataset["id"]
    (row,), n = ids.dims, ids.size
    blocks = [slice(k, k + COLUMN_CHUNK) for k in range(0, n, COLUMN_CHUNK)]
    parts = [hash_ids(ids.isel({row: block}).values) for block in blocks]
    hashed = np.concatenate([np.empty(0, np.uint64), *parts])
    digests, rows = dataset["digest"].values, np.arange(n)
    live = KnownIds(hashed[~retracted], digests[~retracted], rows[~retracted])
    gone = hash_versions(hashed[retracted], digests[retracted])
    return live, KnownIds(gone, digests[retracted], rows[retracted])
