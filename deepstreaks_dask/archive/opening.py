"""Locate an archive, and open it or parts of it from metadata that were checked: the only way to Zarr in this package.

A group is made of the very commit record that was checked, and an array of the very ``zarr.json``, so that nothing
else can have taken its place in between.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import fsspec
import zarr
from zarr.storage import FsspecStore, LocalStore, StorePath

from deepstreaks_dask.archive.metadata import check_array, check_group, read_metadata
from deepstreaks_dask.archive.writers import current_claim
from deepstreaks_dask.errors import ArchiveError
from deepstreaks_dask.utils.optional import missing_extra
from deepstreaks_dask.utils.storage import is_local, locate


def locate_archive(url: str | os.PathLike[str]) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system and the root of an archive.

    Parameters
    ----------
    url : str or path
        The archive.

    Returns
    -------
    fsspec.AbstractFileSystem, str
        To be used together.

    Raises
    ------
    ArchiveError
        If the protocol of the URL is unknown, or its library is not installed.
    """
    try:
        return locate(url)
    except (ImportError, ValueError) as error:
        missing = missing_extra(error)
        raise ArchiveError(f"cannot reach {url}: {missing or error}") from error


def zarr_location(url: str | os.PathLike[str]) -> str:
    """Return the location that Zarr opens: a plain path for a local archive, since only Zarr's own store is atomic."""
    fs, root = locate_archive(url)
    return root if is_local(fs) else os.fspath(url)


def read_array(url: str | os.PathLike[str], path: str) -> dict[str, Any]:
    """Read the metadata of one array of an archive, and check them.

    Parameters
    ----------
    url : str or path
        The archive.
    path : str
        Path of the array in the archive.

    Returns
    -------
    dict
        Content of its ``zarr.json``.

    Raises
    ------
    ArchiveError
        If there is no such array, or it is none of this package's.
    """
    values = _read_node(url, path)
    check_array(values, f"{path} of {os.fspath(url)}")
    return values


def open_array(
    url: str | os.PathLike[str],
    path: str,
    *,
    write: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> zarr.Array:
    """Open one array of an archive.

    Parameters
    ----------
    url : str or path
        The archive.
    path : str
        Path of the array in the archive.
    write : bool
        Whether the array is to be changed.
    metadata : mapping, optional
        As :func:`read_array` returned them; by default they are read now.

    Returns
    -------
    zarr.Array
        No value of it is read yet.

    Raises
    ------
    ArchiveError
        As for :func:`read_array`.
    """
    values = dict(read_array(url, path) if metadata is None else metadata)
    return zarr.Array.from_dict(_place(url, path, write), values)


def open_group(url: str | os.PathLike[str], path: str, *, write: bool = False) -> zarr.Group:
    """Open one group of an archive for its attributes, once its own metadata are checked.

    Parameters
    ----------
    url : str or path
        The archive.
    path : str
        Path of the group in the archive.
    write : bool
        Whether the attributes are to be changed.

    Returns
    -------
    zarr.Group
        Arrays in it are opened by :func:`open_array`, which checks their metadata.

    Raises
    ------
    ArchiveError
        If there is no such group.
    """
    values = _read_node(url, path)
    check_group(values, f"{path} of {os.fspath(url)}")
    made = {"attributes": values.get("attributes", {}), "zarr_format": 3}
    return zarr.Group(zarr.AsyncGroup.from_dict(_place(url, path, write), made))


def open_to_create(url: str | os.PathLike[str]) -> zarr.Group:
    """Open the root of an archive to create arrays in it; nothing of it is read.

    Parameters
    ----------
    url : str or path
        The archive.

    Returns
    -------
    zarr.Group
        Without attributes, which are in the commit record.
    """
    made = {"attributes": {}, "zarr_format": 3}
    return zarr.Group(zarr.AsyncGroup.from_dict(_place(url, "", write=True), made))


def open_record(url: str | os.PathLike[str], record: Mapping[str, Any]) -> zarr.Group:
    """Open an archive as its commit record describes it.

    Parameters
    ----------
    url : str or path
        The archive.
    record : mapping
        Content of its root ``zarr.json``, checked.

    Returns
    -------
    zarr.Group
        Its arrays are those of the record; nothing is read.
    """
    return zarr.Group(zarr.AsyncGroup.from_dict(_place(url, "", write=False), dict(record)))


def _place(url: str | os.PathLike[str], path: str, write: bool) -> StorePath:
    location, (fs, root) = zarr_location(url), locate_archive(url)
    if write and (claim := current_claim(root)):
        return StorePath(claim.store, path)
    if is_local(fs):
        return StorePath(LocalStore(location, read_only=not write), path)
    return StorePath(FsspecStore.from_url(location, read_only=not write), path)


def _read_node(url: str | os.PathLike[str], path: str) -> Any:
    fs, root = locate_archive(url)
    where = f"{path} of {os.fspath(url)}"
    try:
        return read_metadata(fs, f"{root}/{path}/zarr.json", where)
    except FileNotFoundError:
        raise ArchiveError(f"there is no {where}: it was removed, or never finished") from None
