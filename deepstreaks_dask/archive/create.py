"""Create an empty archive."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import fsspec
import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from deepstreaks_dask.archive.layouts import CUTOUTS, SEQUENCES, Layout
from deepstreaks_dask.archive.opening import locate_archive, zarr_location
from deepstreaks_dask.archive.schema import (
    CHUNK,
    COLUMN_CHUNK,
    COLUMN_TYPES,
    CONVENTIONS,
    CUTOUT_SIZE,
    FORMAT,
    MAX_CHUNK_BYTES,
    MAX_SHARD_BYTES,
    MAX_SHARD_ROWS,
    NATIVE_DIMS,
    NATIVE_SIZES,
    PIXEL_DIMS,
    PIXEL_TYPES,
    QUARANTINE_COLUMNS,
    SCHEMA,
    VERSION,
    Column,
    is_free_name,
)
from deepstreaks_dask.archive.store import CommitRecord, commit, read_root_metadata, write_lock
from deepstreaks_dask.archive.writers import current_claim
from deepstreaks_dask.errors import ArchiveError
from deepstreaks_dask.utils.storage import storage_errors, write_whole


def create_archive(
    url: str | os.PathLike[str],
    *,
    shard: int = 1024,
    native: tuple[int, int] | None = None,
    shape: tuple[int, ...] = (CUTOUT_SIZE, CUTOUT_SIZE),
    dtype: str = "uint8",
    columns: Mapping[str, Column] | None = None,
    epochs: Mapping[str, Column] | None = None,
    overwrite: bool = False,
) -> None:
    """Create an empty archive.

    Parameters
    ----------
    url : str or path
        Local path or any fsspec URL.
    shard : int
        Cutouts, or objects with sequences, in a shard, a multiple of 64. 1024 cutouts take about 20 MB.
    native : (int, int), optional
        Keep the pictures as they came too, up to this height and width in pixels.
    shape : tuple of int
        Height and width of a cutout in pixels and, where it has several, the number of planes.
    dtype : str
        Type of a pixel. What an archive of floats does not know is NaN.
    columns : mapping of str to Column, optional
        Columns that this archive has beside :data:`SCHEMA`'s.
    epochs : mapping of str to Column, optional
        Columns along ``epoch``, such as :data:`EPOCHS`: the archive is one of sequences.
    overwrite : bool
        Replace the archive that is there.

    Raises
    ------
    ArchiveError
        If something is there already that is not to be replaced or no archive, ``shard`` is no multiple of
        64, or there can be no such cutouts or columns.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> ds.create_archive("empty.zarr", shard=256)
    >>> ds.open_archive("empty.zarr")["cutouts"].shape
    (0, 144, 144)
    """
    with write_lock(url), storage_errors(url, "write", ArchiveError):
        fs, root = locate_archive(url)
        record = begin_archive(
            url,
            shard=shard,
            native=native,
            shape=shape,
            dtype=dtype,
            columns=columns,
            epochs=epochs,
            overwrite=overwrite,
        )
        commit(fs, root, record.attributes, record.metadata)


def begin_archive(
    url: str | os.PathLike[str],
    *,
    shard: int = 1024,
    native: tuple[int, int] | None = None,
    shape: tuple[int, ...] = (CUTOUT_SIZE, CUTOUT_SIZE),
    dtype: str = "uint8",
    columns: Mapping[str, Column] | None = None,
    epochs: Mapping[str, Column] | None = None,
    overwrite: bool = False,
) -> CommitRecord:
    """Write all of an empty archive but its commit record: until that is written, there is no archive.

    The caller holds the lock of :func:`~deepstreaks_dask.archive.store.write_lock`.

    Parameters
    ----------
    url : str or path
        Local path or any fsspec URL.
    shard, native, shape, dtype, columns, epochs, overwrite
        As for :func:`create_archive`.

    Returns
    -------
    CommitRecord
        To be committed.

    Raises
    ------
    ArchiveError
        As for :func:`create_archive`.
    """
    layout = CUTOUTS if epochs is None else SEQUENCES
    schema = {**SCHEMA, **(columns or {}), **layout.spans}
    schema |= {name: Column("int16", 0, "pixel", name) for name in (NATIVE_SIZES if native else ())}
    along = dict(epochs or {})
    _check_pixels(shard, native, shape, dtype)
    for sides, kind in ((shape, dtype), (native or (), "uint8")):
        _check_size(shard, layout, sides, kind)
    layout.check_columns(along, native=bool(native))
    _check_names([*(columns or {}), *along])
    _check_types({**(columns or {}), **along})
    pixels = [("cutouts", tuple(shape), dtype, PIXEL_DIMS[: len(shape)], "cutout")]
    if native:
        pixels.append(("native", tuple(native), "uint8", NATIVE_DIMS, "unresized cutout"))
    attributes: dict[str, Any] = {
        "Conventions": CONVENTIONS,
        "format": FORMAT,
        "version": VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "shard": shard,
        "native": list(native) if native else None,
    }
    fs, root = _clear(url, overwrite)
    group = zarr.open_group(zarr_location(url), mode="w", zarr_format=3, attributes=attributes)
    for name, sides, kind, dimensions, long_name in pixels:
        group.create_array(
            name,
            shape=(0, *sides),
            chunks=(layout.pixel_chunk, *sides),
            shards=(layout.pixel_shard(shard), *sides),
            dtype=kind,
            fill_value=0,
            compressors=[_codec(kind), Crc32cCodec()],
            dimension_names=[layout.pixels, *dimensions],
            attributes={"coordinates": " ".join([*schema, *along]), "long_name": long_name},
        )
    for name, column in schema.items():
        create_column(group, name, column, layout.row)
    for name, column in along.items():
        create_column(group, name, column, layout.pixels, layout.pixel_shard(shard))
    table = group.create_group("quarantine")
    for name in QUARANTINE_COLUMNS:
        column = Column("int32" if name == "night" else "string", None, "", name)
        create_column(table, name, column, "quarantined")
    listed = [f"quarantine/{name}" for name in QUARANTINE_COLUMNS]
    names = [*(name for name, *_ in pixels), *schema, *along, "quarantine", *listed]
    metadata = {name: json.loads(fs.cat_file(f"{root}/{name}/zarr.json")) for name in names}
    if claim := current_claim(root):
        claim.restart()  # with the new root in the place of the one that was claimed
    return CommitRecord(
        os.fspath(url),
        {"attributes": attributes, "consolidated_metadata": {"metadata": metadata}},
    )


def holds_archive(url: str | os.PathLike[str]) -> bool:
    """Return whether something is at a place that a new archive must not replace.

    Parameters
    ----------
    url : str or path
        Local path or any fsspec URL.

    Returns
    -------
    bool
        False where there is nothing, or an archive whose creation was never finished.
    """
    with storage_errors(url, "read", ArchiveError):
        if _is_vacant(*locate_archive(url)):
            return False
    try:
        return "consolidated_metadata" in read_root_metadata(url)
    except ArchiveError:  # whatever it is, it is not ours to replace
        return True


def _is_vacant(fs: fsspec.AbstractFileSystem, root: str) -> bool:
    """Return whether nothing is at a place, or nothing but what a killed write has left."""
    if not fs.exists(root):
        return True
    return fs.isdir(root) and all(path.endswith(".partial") for path in fs.ls(root, detail=False))


def _check_pixels(
    shard: int, native: tuple[int, int] | None, shape: tuple[int, ...], dtype: str
) -> None:
    if shard < CHUNK or shard % CHUNK:
        raise ArchiveError(f"shard of {shard} cutouts: give a positive multiple of {CHUNK}")
    if native and min(native) < 1:
        raise ArchiveError(f"native pictures of {native} pixels: give two positive numbers")
    if len(shape) not in (2, 3) or min(shape) < 1 or dtype not in PIXEL_TYPES:
        raise ArchiveError(
            f"cutouts of shape {shape} and type {dtype}: give height, width and, where there are "
            f"several, planes, and one of {', '.join(PIXEL_TYPES)}"
        )


def _check_size(shard: int, layout: Layout, sides: tuple[int, ...], dtype: str) -> None:
    one = math.prod(sides) * np.dtype(dtype).itemsize
    chunk, whole = (one * rows for rows in (layout.pixel_chunk, layout.pixel_shard(shard)))
    if shard > MAX_SHARD_ROWS or chunk > MAX_CHUNK_BYTES or whole > MAX_SHARD_BYTES:
        raise ArchiveError(
            f"pictures of {sides} pixels of {dtype}, {shard:,} rows in a shard: give fewer, since an archive with chunks "
            f"of over {MAX_CHUNK_BYTES:,} bytes, shards of over {MAX_SHARD_BYTES:,} or {MAX_SHARD_ROWS:,} rows is not opened"
        )


def _check_types(columns: Mapping[str, Column]) -> None:
    for name, column in columns.items():
        if column.dtype not in COLUMN_TYPES:
            raise ArchiveError(
                f"column {name!r} cannot be of type {column.dtype!r}: choose one of {', '.join(COLUMN_TYPES)}"
            )


def _check_names(names: list[str]) -> None:
    taken: set[str] = set()
    for name in names:
        if not is_free_name(name) or name in taken:
            raise ArchiveError(f"a column cannot be named {name!r}: choose another name")
        taken.add(name)


def _clear(url: str | os.PathLike[str], overwrite: bool) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return an empty place, after removing the archive there if it may be overwritten."""
    fs, root = locate_archive(url)
    if not _is_vacant(fs, root):
        if not overwrite:
            raise ArchiveError(f"{url} exists: choose another place, or overwrite it")
        record = read_root_metadata(url)  # never remove what is not an archive
        # Were this killed half-way, what is left must still be known for one, and for a broken one.
        record.pop("consolidated_metadata", None)
        write_whole(fs, f"{root}/zarr.json", json.dumps(record).encode())
        for path in fs.ls(root, detail=False):
            if not path.endswith("/zarr.json"):
                fs.rm(path, recursive=True)
    return fs, root


def _codec(dtype: str) -> ZstdCodec | BloscCodec:
    """Give the codec of pixels, as ``benchmarks/reading.py`` chose it."""
    if dtype == "uint8":  # half of a byte of sky is noise, whatever is done
        return ZstdCodec(level=1)
    # counts leave most bits of a float alike: shuffled together they vanish
    width = np.dtype(dtype).itemsize
    return BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=width)


def create_column(
    group: zarr.Group, name: str, column: Column, dimension: str, chunk: int = COLUMN_CHUNK
) -> zarr.Array:
    """Create an empty column, in place of one that a killed append left.

    Parameters
    ----------
    group : zarr.Group
        The archive.
    name : str
        Of the column.
    column : Column
        Its description.
    dimension : str
        That it lies along.
    chunk : int
        Values in a chunk.

    Returns
    -------
    zarr.Array
        Of length 0.
    """
    missing = column.missing
    if missing is None:
        missing = "" if column.dtype == "string" else 0
    return group.create_array(
        name,
        overwrite=True,
        shape=(0,),
        chunks=(chunk,),
        dtype=column.dtype,
        fill_value=missing,
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        dimension_names=[dimension],
        attributes={
            k: v for k, v in (("long_name", column.long_name), ("units", column.units)) if v
        },
    )
