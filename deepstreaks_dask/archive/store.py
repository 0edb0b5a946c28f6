"""The commit record of an archive, and how its objects are located, locked and replaced."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import zarr
from filelock import FileLock, Timeout

from deepstreaks_dask.archive.layouts import Layout, layout_of
from deepstreaks_dask.archive.metadata import (
    check_array,
    check_group,
    check_record,
    read_metadata,
    without_members,
)
from deepstreaks_dask.archive.opening import locate_archive, open_array, open_record, read_array
from deepstreaks_dask.archive.schema import (
    FORMAT,
    GROUPS,
    PIXEL_ARRAYS,
    QUARANTINE_COLUMNS,
    ROW_DIMS,
    VERSION,
)
from deepstreaks_dask.archive.writers import WRITER, claimed, current_claim
from deepstreaks_dask.errors import ArchiveError
from deepstreaks_dask.utils.storage import is_local, write_whole

_ARRAY_KEYS = "data_type", "chunk_grid", "fill_value", "codecs", "dimension_names"
_ROWS_TAKEN_AS_SAID = 2**20  # whose columns fit in memory anyway


def quarantine(url: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the table of refused inputs, a row each: ``source, reason, detail, night``."""
    group = read_commit_record(url).open()
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
        record = read_metadata(fs, f"{root}/zarr.json", f"zarr.json of {os.fspath(url)}")
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
    except ArchiveError:
        raise
    except Exception as error:  # each protocol's library has its own
        raise ArchiveError(f"cannot read {url}: {error}") from error
    if newer:
        raise ArchiveError(f"{url} was written by a newer deepstreaks_dask: update this one")
    return record


@dataclass(frozen=True)
class CommitRecord:
    """The commit record of an archive, checked.

    Attributes
    ----------
    url : str
        The archive.
    root : dict
        Content of the root ``zarr.json``.
    """

    url: str
    root: dict[str, Any]

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the archive."""
        return self.root["attributes"]

    @property
    def metadata(self) -> dict[str, dict[str, Any]]:
        """Metadata of the arrays and groups by their paths."""
        return self.root["consolidated_metadata"]["metadata"]

    def open(self) -> zarr.Group:
        """Return the archive as a read-only Zarr group that is as the record says; nothing is read."""
        return open_record(self.url, self.root)

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
    values = read_root_metadata(url)
    if not isinstance(values.get("consolidated_metadata"), dict):
        raise ArchiveError(f"{url} was never finished: create it again, overwriting")
    check_record(values, os.fspath(url))
    members = values["consolidated_metadata"]["metadata"]
    members.update({name: without_members(node) for name, node in members.items()})
    values["attributes"].pop(WRITER, None)
    record = CommitRecord(os.fspath(url), values)
    _check_lengths(record)
    return record


def _check_lengths(record: CommitRecord) -> None:
    """Check that a long archive is as long as what is stored: rows cost nothing to declare.

    Chunks that were lost are told by :func:`~deepstreaks_dask.archive.verification.verify`, so half of them suffice.
    """
    lengths = {"id": record.total, "cutouts": record.pixels}
    if max(lengths.values()) <= _ROWS_TAKEN_AS_SAID:
        return
    for name, rows in lengths.items():
        chunk = record.metadata[name]["chunk_grid"]["configuration"]["chunk_shape"][0]
        if rows > _ROWS_TAKEN_AS_SAID and rows > 2 * chunk * count_objects(record.url, name):
            raise ArchiveError(
                f"{record.url} says that it has {rows:,} rows of {name!r}, but stores far fewer: refused"
            )


def open_to_append(record: CommitRecord, name: str) -> zarr.Array:
    """Open an array of an archive to append to it.

    Parameters
    ----------
    record : CommitRecord
        What is committed.
    name : str
        Path of the array in the archive.

    Returns
    -------
    zarr.Array
        As committed, or longer where an append was killed.

    Raises
    ------
    ArchiveError
        If the array is not the one of the commit record.
    """
    committed, own = record.metadata[name], read_array(record.url, name)
    differs = [key for key in _ARRAY_KEYS if own.get(key) != committed.get(key)]
    if differs or own["shape"][1:] != committed["shape"][1:]:
        raise ArchiveError(
            f"{name} of {record.url} is not what its commit record says ({', '.join(differs or ['shape'])} differ)"
        )
    surplus = own["shape"][0] - committed["shape"][0]
    if surplus > _ROWS_TAKEN_AS_SAID:  # more than is stored need not be cleared away
        (chunk, *_) = own["chunk_grid"]["configuration"]["chunk_shape"]
        stored = max(1, chunk * count_objects(record.url, name))
        own["shape"][0] = committed["shape"][0] + min(surplus, stored)
    return open_array(record.url, name, write=True, metadata=own)


def count_objects(url: str, name: str) -> int:
    """Return the number of chunks or shards of an array along its first axis that are stored.

    Parameters
    ----------
    url : str
        The archive.
    name : str
        Path of the array in the archive.

    Returns
    -------
    int
        Found by a listing.
    """
    fs, root = locate_archive(url)
    try:
        return len(fs.ls(f"{root}/{name}/c", detail=False))
    except FileNotFoundError:
        return 0


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
    claim = current_claim(root)
    with _record_lock(fs, root):
        metadata = {
            name: claim.metadata(name)
            if claim
            else read_metadata(fs, f"{root}/{name}/zarr.json", name)
            for name in names
            if not _is_of_run(name)
        }
        _write_record(fs, root, attributes, metadata)


def record_runs(url: str | os.PathLike[str]) -> None:
    """List the runs of an archive in its commit record, where :func:`xarray.open_datatree` finds them.

    Appending and, on a local disk, scoring do so themselves. At a URL this is refused while somebody appends.

    Parameters
    ----------
    url : str or path
        The archive.

    Raises
    ------
    ArchiveError
        If there is no archive, its creation was never finished, or somebody appends to it at a URL.
    """
    fs, root = locate_archive(url)
    with _record_lock(fs, root), _claimed_at_url(url, fs, root):
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
    if claim := current_claim(root):
        claim.commit(record)
    else:
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
            found = {path: read_metadata(fs, f"{root}/{path}/zarr.json", path) for path in paths}
            check_group(found[paths[0]], paths[0])
            for path in paths[1:]:
                check_array(found[path], path)
                if found[path]["dimension_names"][0] in ROW_DIMS:
                    found[path]["shape"][0] = rows
        except (OSError, ArchiveError):  # it is being made, or removed, or a stranger's
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


def _claimed_at_url(
    url: str | os.PathLike[str], fs: fsspec.AbstractFileSystem, root: str
) -> AbstractContextManager[None]:
    """Return the claim of an archive at a URL, to be entered; nothing on a local disk, which has locks."""
    return nullcontext() if is_local(fs) else claimed(os.fspath(url), fs, root)


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
        else:
            stack.enter_context(_claimed_at_url(url, fs, root))
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
