"""Check every shard and column of an archive for damage."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import zarr

from deepstreaks_dask.archive.dataset import shard_bounds
from deepstreaks_dask.archive.opening import locate_archive
from deepstreaks_dask.archive.schema import PIXEL_ARRAYS, QUARANTINE_COLUMNS
from deepstreaks_dask.archive.store import get_array, object_key, read_commit_record
from deepstreaks_dask.utils.progress import progress_bar


@dataclass(frozen=True)
class DamagedShard:
    """A shard of pixels that cannot be trusted: rows ``[first, last)``, in the object ``key``.

    Of pixels and columns along ``epoch`` these are epochs. ``shard`` is -1 where it is a piece of a column or of
    the quarantine table.
    """

    shard: int
    first: int
    last: int
    key: str
    why: str


@dataclass(frozen=True)
class VerifyReport:
    """Result of :func:`verify`."""

    cutouts: int
    shards: int
    damaged: list[DamagedShard]

    @property
    def ok(self) -> bool:
        """Say whether nothing is damaged."""
        return not self.damaged

    def to_dict(self) -> dict[str, Any]:
        """Give the report as JSON can hold it."""
        return {**asdict(self), "ok": self.ok}


def verify(url: str | os.PathLike[str], *, progress: bool = False) -> VerifyReport:
    """Read every shard again and compare checksums and pixel digests.

    Parameters
    ----------
    url : str or path
        The archive.
    progress : bool
        Show a progress bar.

    Returns
    -------
    VerifyReport
        Names each damaged shard, its rows, its object and what is wrong with it.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> ds.verify("week.zarr").ok
    True
    """
    record = read_commit_record(url)
    group = record.open()
    damaged = []
    columns = [name for name in group.array_keys() if name not in PIXEL_ARRAYS]
    for name in sorted([*columns, *(f"quarantine/{name}" for name in QUARANTINE_COLUMNS)]):
        array = get_array(group, name)
        for index, (first, last) in enumerate(shard_bounds(array.shape[0], array.chunks[0])):
            key = object_key(array, name, index)
            _, why = _reread(url, array, key, first, last)
            if why:
                damaged.append(DamagedShard(-1, first, last, key, why))
    lost: dict[str, list[tuple[int, int]]] = {}
    for d in damaged:
        lost.setdefault(d.key.split("/")[0], []).append((d.first, d.last))
    check = record.layout.digest_check(group, lost)
    bounds = shard_bounds(record.pixels, record.pixels_shard)
    with progress_bar("verify", record.pixels, show=progress) as bar:
        for index, (first, last) in enumerate(bounds):
            for name in (name for name in PIXEL_ARRAYS if name in group):
                array = get_array(group, name)
                key = object_key(array, name, index)
                pixels, why = _reread(url, array, key, first, last)
                if name == "cutouts":
                    wrong = check.differing(first, last, None if why else pixels)
                    if wrong and not why:
                        why = f"{wrong} {record.layout.rows} differ from their digests"
                if why:
                    damaged.append(DamagedShard(index, first, last, key, why))
            bar.advance(last - first)
    return VerifyReport(record.total, len(bounds), damaged)


def _reread(
    url: str | os.PathLike[str], array: zarr.Array, key: str, first: int, last: int
) -> tuple[np.ndarray, str]:
    """Read rows and say what is wrong with them, if anything; ``key`` is the object they are in."""
    fs, root = locate_archive(url)
    try:
        if not fs.exists(f"{root}/{key}"):
            return np.empty(0), "the object is missing"
        if not fs.size(f"{root}/{key}"):
            return np.empty(0), "the object is empty"
        return np.asarray(array[first:last]), ""
    except Exception as error:  # codecs and stores raise whatever their libraries do
        return np.empty(0), f"unreadable: {error}"
