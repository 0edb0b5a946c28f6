"""Open an archive as an xarray dataset, and summarise what it holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr
from dask.base import tokenize

from deepstreaks_dask.archive.attributes import encode_attributes
from deepstreaks_dask.archive.opening import locate_archive, zarr_location
from deepstreaks_dask.archive.retraction import (
    RETRACTED_ATTRIBUTE,
    without_retracted,
)
from deepstreaks_dask.archive.schema import (
    CONVENTIONS,
    LABEL_FLAGS,
    PIXEL_ARRAYS,
    ROW_DIMS,
    SCHEMA,
)
from deepstreaks_dask.archive.store import quarantine, read_commit_record
from deepstreaks_dask.errors import ArchiveError

_ROWS_PER_BLOCK = 2**20
_MAX_PIXEL_CHUNKS = 2**20  # Dask takes a second to list so many
_ROW_DIMENSIONS = (*ROW_DIMS, "epoch")
_UNIX_EPOCH_JD = 2440587.5
_MAX_MILLISECONDS = 9.2e12  # 1970 +- so many: what datetime64[ns] can hold


@dataclass(frozen=True)
class ArchiveSummary:
    """What an archive holds: counts per night, filter, label and kind, its size in bytes, runs, quarantine.

    ``objects`` is 0 where there are no sequences; where there are, the counts are of objects. Withdrawn rows are counted in
    ``retracted`` alone.
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
    retracted: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Give the summary as JSON can hold it."""
        return asdict(self)


def open_archive(
    url: str | os.PathLike[str], *, cache: bool = False, retracted: bool = False
) -> xr.Dataset:
    """Open an archive lazily, as it was at its last commit.

    Parameters
    ----------
    url : str or path
        Local path or any fsspec URL.
    cache : bool
        Keep a column in memory once it is read, instead of a Dask array that reads it whenever it is computed. For
        archives whose columns fit in memory.
    retracted : bool
        Keep withdrawn rows, so that the place of a row is its number in the archive.

    Returns
    -------
    xarray.Dataset
        ``cutouts(cutout, y, x)`` uint8, or ``(cutout, y, x, plane)``, in Dask chunks of one shard or several, and
        the columns as coordinates, with ``time(cutout)``, datetime64 in UTC, beside ``jd``. Of sequences
        ``cutouts(epoch, y, x)``, with columns along ``epoch`` and along ``object``, ``offset`` and ``epochs`` among
        these. Withdrawn rows are left out; where there are any, ``stored_row`` is the number of each row in the
        archive. Nothing is read but metadata. Structured attributes are read by
        :func:`~deepstreaks_dask.archive.attributes.provenance_of`. Plain :func:`xarray.open_zarr` opens an archive too.

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
    layout = record.layout
    with _name_archive(url):
        stored = xr.backends.ZarrStore(record.open(), mode="r")
        dataset = xr.open_dataset(stored, chunks=None, cache=cache).drop_encoding()
    token = tokenize(zarr_location(url), repr(record))
    pixels = chunk_length(record.pixels, record.pixels_shard, _MAX_PIXEL_CHUNKS)
    chunked = {}
    for name in dataset.variables if not cache else dataset.data_vars:
        variable = dataset[name].variable
        rows = pixels if name in PIXEL_ARRAYS else row_block(record.shard)
        chunks = {dimension: rows for dimension in variable.dims if dimension in _ROW_DIMENSIONS}
        chunked[name] = variable.chunk(chunks, name=f"{name}-{token}")
    dataset = dataset.assign(chunked)  # in one step: each one copies every variable
    dataset = dataset.set_coords([name for name in dataset.variables if name not in PIXEL_ARRAYS])
    if "time" not in dataset:
        dataset = dataset.assign_coords(time=_times(dataset["jd"]))
    for name in layout.spans:
        dataset[name].attrs |= layout.span_attributes(name)
    for name in (name for name in SCHEMA if name.startswith("label_")):
        dataset[name].attrs |= LABEL_FLAGS
    described = {"Conventions": CONVENTIONS, **dataset.attrs, "url": os.fspath(url)}
    described.pop(RETRACTED_ATTRIBUTE, None)
    dataset.attrs = encode_attributes(described)
    if retracted:
        return dataset
    return without_retracted(dataset, record.attributes)


@contextmanager
def _name_archive(url: str | os.PathLike[str]) -> Iterator[None]:
    """Name the archive whose attributes xarray cannot decode."""
    try:
        yield
    except Exception as error:
        reason = " ".join((str(error) or type(error).__name__).split())
        raise ArchiveError(f"cannot open {url} with xarray: {reason}") from error


def row_block(shard: int) -> int:
    """Return the number of rows in a Dask chunk of columns and scores: whole shards, about a million rows."""
    return shard * max(1, _ROWS_PER_BLOCK // shard)


def chunk_length(total: int, shard: int, most: int) -> int:
    """Return the length of Dask chunks of pixels.

    Parameters
    ----------
    total, shard : int
        Cutouts in the archive, and in a shard of pixels.
    most : int
        Number of chunks at most.

    Returns
    -------
    int
        One shard, or several where there would be too many chunks.
    """
    return shard * max(1, -(-total // (shard * most)))


def _times(jd: xr.DataArray) -> xr.DataArray:
    """Convert Julian dates to UTC, to the millisecond: they resolve 0.04 ms."""
    lazy = jd.variable if jd.chunks else jd.variable.chunk(_ROWS_PER_BLOCK)
    times = xr.apply_ufunc(
        _to_datetime, lazy, dask="parallelized", output_dtypes=[np.dtype("M8[ns]")]
    )
    times.attrs = {"standard_name": "time", "long_name": "time (UTC) of mid-exposure"}
    return xr.DataArray(times)


def _to_datetime(jd: np.ndarray) -> np.ndarray:
    milliseconds = np.rint((jd - _UNIX_EPOCH_JD) * 86_400_000)
    known = np.abs(milliseconds) < _MAX_MILLISECONDS  # not of NaN
    times = np.where(known, milliseconds, 0).astype(np.int64).astype("M8[ms]").astype("M8[ns]")
    return np.where(known, times, np.datetime64("NaT", "ns"))


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
    dataset = open_archive(url, cache=True)
    runs = sorted(path.split("/")[-3] for path in fs.glob(f"{root}/runs/*/scores/zarr.json"))

    def counts(name: str) -> dict[Any, int]:
        values, n = np.unique(dataset[name].values, return_counts=True)
        return dict(zip(values.tolist(), n.tolist(), strict=True))

    rows = dataset["id"].size
    objects = record.layout.counts_objects(rows)
    return ArchiveSummary(
        url=os.fspath(url),
        cutouts=int(dataset["epochs"].values.sum()) if objects else rows,
        objects=objects,
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
        retracted=record.total - rows,
    )
