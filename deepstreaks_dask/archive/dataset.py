"""Open an archive as an xarray dataset, and summarise what it holds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr

from deepstreaks_dask.archive.schema import SCHEMA
from deepstreaks_dask.archive.store import (
    locate_archive,
    quarantine,
    read_commit_record,
    zarr_location,
)

_HASH_BLOCK_BYTES = 2047  # bytes; from 2048 on hashlib lets other threads go first


@dataclass(frozen=True)
class ArchiveSummary:
    """What an archive holds: counts per night, filter, label and kind, its size in bytes, runs, quarantine.

    ``objects`` is 0 where there are no sequences; where there are, the counts are of objects.
    """

    url: str
    cutouts: int
    objects: int
    shard: int
    bytes: int
    nights: dict[int, int]
    filters: dict[str, int]
    kinds: dict[str, int]
    labels: dict[str, dict[str, int]]
    runs: list[str]
    quarantined: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Give the summary as JSON can hold it."""
        return asdict(self)


def open_archive(url: str | os.PathLike[str]) -> xr.Dataset:
    """Open an archive lazily, as it was at its last commit.

    Parameters
    ----------
    url : str or path
        Local path or any fsspec URL.

    Returns
    -------
    xarray.Dataset
        ``cutouts(cutout, y, x)`` uint8, or ``(cutout, y, x, plane)``, in Dask chunks of one shard, and
        the columns as coordinates. Of sequences ``cutouts(epoch, y, x)``, with columns along ``epoch`` and along
        ``object``, ``offset`` and ``epochs`` among these. Plain :func:`xarray.open_zarr` opens it too.

    Raises
    ------
    ArchiveError
        If there is no archive.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> cutouts = ds.open_archive("week.zarr")
    >>> cutouts["cutouts"].shape
    (60, 144, 144)
    >>> picture = cutouts.streaks.gallery(n=4)
    """
    record = read_commit_record(url)
    dataset = xr.open_zarr(zarr_location(url), consolidated=True, chunks=None)
    chunks = {"epoch" if record.sequences else "cutout": record.pixels_shard}
    dataset = dataset.assign({k: dataset[k].variable.chunk(chunks) for k in dataset.data_vars})
    dataset.attrs["url"] = os.fspath(url)
    return dataset


def shard_bounds(total: int, shard: int) -> list[tuple[int, int]]:
    """Give the rows ``[first, last)`` of every shard of ``total`` cutouts.

    Parameters
    ----------
    total, shard : int
        Rows of the archive, and of a shard.

    Returns
    -------
    list of (int, int)
        The last shard may be shorter.
    """
    return [(first, min(first + shard, total)) for first in range(0, total, shard)]


def summary(url: str | os.PathLike[str]) -> ArchiveSummary:
    """Count what an archive holds."""
    fs, root = locate_archive(url)
    record = read_commit_record(url)
    dataset = open_archive(url)
    runs = sorted(path.split("/")[-3] for path in fs.glob(f"{root}/runs/*/scores/zarr.json"))

    def counts(name: str) -> dict[Any, int]:
        values, n = np.unique(dataset[name].values, return_counts=True)
        return dict(zip(values.tolist(), n.tolist(), strict=True))

    return ArchiveSummary(
        url=os.fspath(url),
        cutouts=record.pixels,
        objects=record.total if record.sequences else 0,
        shard=record.shard,
        bytes=int(fs.du(root)),
        nights=counts("night"),
        filters=counts("filter"),
        kinds=counts("kind"),
        labels={
            name.removeprefix("label_"): {
                {1: "positive", 0: "negative", -1: "unknown"}[k]: v for k, v in counts(name).items()
            }
            for name in SCHEMA
            if name.startswith("label_")
        },
        runs=runs,
        quarantined={str(k): int(v) for k, v in quarantine(url)["reason"].value_counts().items()},
    )


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
