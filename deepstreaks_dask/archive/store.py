"""The commit record of an archive, and how its objects are located, locked and replaced."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import zarr
from filelock import FileLock, Timeout

from deepstreaks_dask.archive.layouts import Layout, layout_of
from deepstreaks_dask.archive.schema import (
    FORMAT,
    GROUPS,
    PIXEL_ARRAYS,
    QUARANTINE_COLUMNS,
    ROW_DIMS,
    VERSION,
)
from deepstreaks_dask.errors import ArchiveError
from deepstreaks_dask.utils.optional import missing_extra
from deepstreaks_dask.utils.storage import is_local, locate, write_whole


def quarantine(url: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the table of refused inputs, a row each: ``source, reason, detail, night``."""
    read_commit_record(url)
    group = zarr.open_group(zarr_location(url), mode="r")
    return pd.DataFrame(
        {name: np.asarray(get_array(group, f"quarantine/{name}")[:]) for name in QUARANTINE_COLUMNS}
    )


def object_key(array: zarr.Array, name: str, index: int) -> str:
    """Return the key of the object that holds a shard, or a column's chunk.

    Parameters
    ----------
    array : zarr.Array
        Array of the archive.
    name : str
        Path of the array in the archive.
    index : int
        Number of the shard or chunk along the first axis.

    Returns
    -------
    str
        Key, from the root of the archive.
    """
    return "/".join([name, "c", str(index), *["0"] * (array.ndim - 1)])


def get_array(group: zarr.Group, path: str) -> zarr.Array:
    """Return the array at a path of a group.

    Parameters
    ----------
    group : zarr.Group
        Group of the archive.
    path : str
        Path of the array in the group.

    Returns
    -------
    zarr.Array
        Open array; nothing is read.
    """
    array = group[path]
    assert isinstance(array, zarr.Array)
    return array


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


def read_root_metadata(url: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the root ``zarr.json`` of an archive.

    Parameters
    ----------
    url : str or path
        The archive.

    Returns
    -------
    dict
        Its content.

    Raises
    ------
    ArchiveError
        If there is no archive, it cannot be read, or it was written by a newer version.
    """
    fs, root = locate_archive(url)
    fs.invalidate_cache()
    try:
        record = json.loads(fs.cat_file(f"{root}/zarr.json"))
        if record["attributes"]["format"] != FORMAT:
            raise KeyError("format")
        newer = record["attributes"]["version"] > VERSION
    except FileNotFoundError:
        raise ArchiveError(
            f"no archive at {url}: check the path, or make one with 'deepstreaks ingest' or "
            "'deepstreaks simulate'"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f"{url} is not a cutout archive ({error!r})") from error
    except Exception as error:  # each protocol's library has its own
        raise ArchiveError(f"cannot read {url}: {error}") from error
    if newer:
        raise ArchiveError(f"{url} was written by a newer deepstreaks_dask: update this one")
    return record


@dataclass(frozen=True)
class CommitRecord:
    """The commit record: the archive's attributes, and the metadata of its arrays by their paths."""

    attributes: dict[str, Any]
    metadata: dict[str, dict[str, Any]]

    @property
    def total(self) -> int:
        """Committed rows: cutouts or, of sequences, objects."""
        return self.length("id")

    @property
    def shard(self) -> int:
        """Rows in a shard."""
        return int(self.attributes["shard"])

    @property
    def layout(self) -> Layout:
        """What a row is, and how its pixels lie."""
        return layout_of(self.metadata["cutouts"]["dimension_names"][0])

    @property
    def pixels(self) -> int:
        """Committed cutouts: as many as rows or, of sequences, epochs."""
        return self.length("cutouts")

    @property
    def pixels_shard(self) -> int:
        """Cutouts in a shard of pixels."""
        return int(self.metadata["cutouts"]["chunk_grid"]["configuration"]["chunk_shape"][0])

    def length(self, name: str) -> int:
        """Committed length of an array."""
        return int(self.metadata[name]["shape"][0])

    @property
    def native(self) -> tuple[int, int] | None:
        """Largest native picture, where the archive keeps them."""
        size = self.attributes["native"]
        return (size[0], size[1]) if size else None

    @property
    def arrays(self) -> list[str]:
        """Names of the arrays of pixels and of the columns."""
        return [name for name in self.metadata if name.split("/")[0] not in GROUPS]

    @property
    def epochs(self) -> list[str]:
        """Names of the columns along ``epoch``."""
        along = [k for k in self.arrays if self.metadata[k]["dimension_names"][0] == "epoch"]
        return [name for name in along if name not in PIXEL_ARRAYS]

    @property
    def quarantine(self) -> list[str]:
        """Paths of the quarantine table's columns."""
        return [name for name in self.metadata if name.startswith("quarantine/")]


def read_commit_record(url: str | os.PathLike[str]) -> CommitRecord:
    """Read the commit record of an archive.

    Parameters
    ----------
    url : str or path
        The archive.

    Returns
    -------
    CommitRecord
        What is committed.

    Raises
    ------
    ArchiveError
        If there is no archive, or its creation was never finished.
    """
    record = read_root_metadata(url)
    try:
        root = CommitRecord(record["attributes"], record["consolidated_metadata"]["metadata"])
        _ = root.total, root.shard, root.native, root.pixels_shard
    except (KeyError, TypeError, ValueError, IndexError):
        raise ArchiveError(f"{url} was never finished: create it again, overwriting") from None
    return root


def commit(
    fs: fsspec.AbstractFileSystem, root: str, attributes: dict[str, Any], names: Iterable[str]
) -> None:
    """Write the commit record from the current metadata of the arrays, and of the runs.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem
        File system of the archive.
    root : str
        Root of the archive on it.
    attributes : dict
        Attributes of the archive.
    names : iterable of str
        Paths of the arrays and groups to record; those of runs are found.
    """
    with _record_lock(fs, root):
        metadata = {
            name: json.loads(fs.cat_file(f"{root}/{name}/zarr.json"))
            for name in names
            if not _is_of_run(name)
        }
        _write_record(fs, root, attributes, metadata)


def record_runs(url: str | os.PathLike[str]) -> None:
    """List the runs of an archive in its commit record, where :func:`xarray.open_datatree` finds them.

    Appending and, on a local disk, scoring do so themselves. At a URL, call this only while nobody appends: there is no
    lock.

    Parameters
    ----------
    url : str or path
        The archive.

    Raises
    ------
    ArchiveError
        If there is no archive, or its creation was never finished.
    """
    fs, root = locate_archive(url)
    with _record_lock(fs, root):
        record = read_commit_record(url)
        committed = {k: v for k, v in record.metadata.items() if not _is_of_run(k)}
        _write_record(fs, root, record.attributes, committed)


def _write_record(
    fs: fsspec.AbstractFileSystem,
    root: str,
    attributes: dict[str, Any],
    metadata: dict[str, dict[str, Any]],
) -> None:
    metadata = metadata | _run_metadata(fs, root, metadata["id"]["shape"][0])
    record = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": attributes,
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            # Zarr needs the members of a group next to each other
            "metadata": dict(sorted(metadata.items())),
        },
    }
    write_whole(fs, f"{root}/zarr.json", json.dumps(record, indent=1).encode())


def _run_metadata(fs: fsspec.AbstractFileSystem, root: str, rows: int) -> dict[str, dict[str, Any]]:
    """Read the metadata of all runs, with as many rows as are committed: those that are not stored read as missing."""
    fs.invalidate_cache()
    metadata: dict[str, dict[str, Any]] = {}
    for scores in sorted(fs.glob(f"{root}/runs/*/scores/zarr.json")):
        run = scores.split("/")[-3]
        arrays = [path.split("/")[-2] for path in fs.glob(f"{root}/runs/{run}/*/zarr.json")]
        paths = [f"runs/{run}", *(f"runs/{run}/{array}" for array in arrays)]
        try:
            found = {path: json.loads(fs.cat_file(f"{root}/{path}/zarr.json")) for path in paths}
            for one in found.values():
                if one.get("dimension_names", [""])[0] in ROW_DIMS:
                    one["shape"][0] = rows
        except (OSError, ValueError, KeyError, IndexError):  # it is being made, or removed
            continue
        metadata |= found
    if not metadata:
        return {}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    if not fs.exists(f"{root}/runs/zarr.json"):
        write_whole(fs, f"{root}/runs/zarr.json", json.dumps(group).encode())
    return {"runs": group, **metadata}


def _is_of_run(name: str) -> bool:
    return name.split("/")[0] == "runs"


@contextmanager
def _record_lock(fs: fsspec.AbstractFileSystem, root: str) -> Iterator[None]:
    """Keep two from replacing the commit record at the same time, on a local disk."""
    with FileLock(f"{root}.commit.lock") if is_local(fs) else nullcontext():
        yield


@contextmanager
def write_lock(url: str | os.PathLike[str]) -> Iterator[None]:
    """Lock an archive against other writers, and write empty chunks, so that a missing object is a damaged one.

    Parameters
    ----------
    url : str or path
        The archive.

    Yields
    ------
    None
        While the lock is held.

    Raises
    ------
    ArchiveError
        If another process holds the lock, or the lock cannot be written.
    """
    fs, root = locate_archive(url)
    with ExitStack() as stack:
        if is_local(fs):
            try:
                Path(root).parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(f"{root}.lock", timeout=0))
            except Timeout:
                raise ArchiveError(
                    f"{url} is being written to by another process: wait for it"
                ) from None
            except OSError as error:
                raise ArchiveError(f"cannot write to {url}: {error}") from error
        stack.enter_context(zarr.config.set({"array.write_empty_chunks": True}))
        yield


@contextmanager
def name_damage(url: str | os.PathLike[str]) -> Iterator[None]:
    """Wrap errors of codecs and stores in a message that names the archive.

    Parameters
    ----------
    url : str or path
        The archive.

    Yields
    ------
    None
        While the errors are wrapped.

    Raises
    ------
    ArchiveError
        In place of any other error.
    """
    try:
        yield
    except ArchiveError:
        raise
    except PermissionError as error:
        raise ArchiveError(f"cannot write to {url}: {error}; nothing was appended") from error
    except Exception as error:
        raise ArchiveError(
            f"cannot append to {url} ({str(error) or type(error).__name__}): look for damage with "
            "'deepstreaks archive verify'; nothing was appended"
        ) from error
