"""Correct what is in an archive: withdraw a night and restore it, and lay labels over rows.

Each correction is one commit. Killed before it, the archive is as it was; the same command can be given again at any time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr

from deepstreaks_dask.archive.dataset import open_archive, shard_bounds
from deepstreaks_dask.archive.known_ids import hash_ids, known_ids
from deepstreaks_dask.archive.opening import locate_archive, open_array
from deepstreaks_dask.archive.retraction import (
    Retraction,
    corrected,
    retracted_mask,
    retractions,
    with_retractions,
)
from deepstreaks_dask.archive.schema import COLUMN_CHUNK
from deepstreaks_dask.archive.store import (
    CommitRecord,
    commit,
    read_commit_record,
    write_lock,
)
from deepstreaks_dask.errors import ArchiveError
from deepstreaks_dask.utils.storage import storage_errors
from deepstreaks_dask.vocabulary import LABEL_COLUMNS

_LABEL_VALUES = (-1, 0, 1)


@dataclass(frozen=True)
class RetractionReport:
    """What a retraction, or its reversal, changed.

    Attributes
    ----------
    archive : str
        Path or URL.
    night : int
        YYYYMMDD.
    rows : int
        Rows that were withdrawn, or restored, by this call.
    kept_back : int
        Rows that could not be restored, since other rows have their ids now.
    total : int
        Rows of the archive now.
    runs : tuple of str
        Runs from which the scores of withdrawn rows were removed.
    """

    archive: str
    night: int
    rows: int
    kept_back: int
    total: int
    runs: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        return {**asdict(self), "runs": list(self.runs)}


@dataclass(frozen=True)
class LabelReport:
    """What labels given later changed.

    Attributes
    ----------
    archive : str
        Path or URL.
    given, matched : int
        Ids that labels were given for, and those of them that the archive has.
    changed : dict of str to int
        Labels that are others than before, by column.
    unmatched : tuple of str
        The first ids that no row has, 20 at most.
    """

    archive: str
    given: int
    matched: int
    changed: dict[str, int]
    unmatched: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        return {**asdict(self), "unmatched": list(self.unmatched)}


def retract(
    url: str | os.PathLike[str], night: int, *, remove_scores: bool = False
) -> RetractionReport:
    """Withdraw all rows of a night from an archive.

    The rows are left out wherever the archive, or a run of it, is opened; they stay stored, with their scores, and
    :func:`restore` brings them back. Cutouts of the night that are ingested later, under the same ids with other pixels,
    are new rows. No pixels are rewritten, whatever the size of the archive.

    Parameters
    ----------
    url : str or path
        The archive.
    night : int
        YYYYMMDD.
    remove_scores : bool
        Remove the scores of withdrawn rows of the night from all runs, too, instead of keeping them as history.

    Returns
    -------
    RetractionReport
        How many rows were withdrawn; 0 where they were before.

    Raises
    ------
    ArchiveError
        If there is no archive, it has no such night, or another writer is at work.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> from deepstreaks_dask.archive import restore, retract
    >>> made = ds.simulate("two.zarr", nights=2, per_night=5)
    >>> retract("two.zarr", 20260101).rows
    5
    >>> ds.open_archive("two.zarr").sizes["cutout"]
    5
    >>> restore("two.zarr", 20260101).total
    10
    """
    if night <= 0:
        raise ArchiveError(f"night {night}: give YYYYMMDD")
    read_commit_record(url)  # before the lock, which would make folders for a mistyped path
    with write_lock(url):
        record = read_commit_record(url)
        nights = _all_rows(url)["night"].values
        mine = nights == night
        if not mine.any():
            raise ArchiveError(f"{url} has no night {night}: {_describe_nights(nights)}")
        gone = retracted_mask(record.attributes, record.total)
        rows = np.flatnonzero(mine & ~gone)
        if len(rows):
            one = Retraction.now(rows, f"night {night} withdrawn", night)
            _commit(
                url,
                record,
                with_retractions(record.attributes, [*retractions(record.attributes), one]),
            )
        runs = _remove_scores(url, np.flatnonzero(mine)) if remove_scores else ()
    total = record.total - int((gone | mine).sum())
    return RetractionReport(os.fspath(url), night, len(rows), 0, total, runs)


def restore(url: str | os.PathLike[str], night: int) -> RetractionReport:
    """Bring the withdrawn rows of a night back.

    Parameters
    ----------
    url : str or path
        The archive.
    night : int
        YYYYMMDD, as it was withdrawn.

    Returns
    -------
    RetractionReport
        How many rows were restored. Rows whose ids other rows have by now, or later versions of the night, stay
        withdrawn, and are counted.

    Raises
    ------
    ArchiveError
        If there is no archive, the night was not withdrawn, or another writer is at work.
    """
    read_commit_record(url)
    with write_lock(url):
        record = read_commit_record(url)
        known = retractions(record.attributes)
        withdrawn = [one.numbers() for one in known if one.night == night]
        if night <= 0 or not withdrawn:
            nights = sorted({one.night for one in known if one.night})
            has = ", ".join(map(str, nights)) or "none"
            raise ArchiveError(f"night {night} of {url} was not withdrawn: these were: {has}")
        rows = np.sort(np.concatenate(withdrawn))
        gone = retracted_mask(record.attributes, record.total)
        hashes = hash_ids(_all_rows(url)["id"].values)
        latest = rows[::-1][np.unique(hashes[rows[::-1]], return_index=True)[1]]
        free = latest[~np.isin(hashes[latest], hashes[~gone])]
        if len(free):
            left = [one.without(free) if one.night == night else one for one in known]
            _commit(url, record, with_retractions(record.attributes, left))
    total = record.total - int(gone.sum()) + len(free)
    return RetractionReport(os.fspath(url), night, len(free), len(rows) - len(free), total)


def set_labels(
    url: str | os.PathLike[str], labels: Mapping[str, Mapping[str, int]] | pd.DataFrame
) -> LabelReport:
    """Set labels of rows that are in an archive.

    Parameters
    ----------
    url : str or path
        The archive.
    labels : DataFrame or mapping
        Labels ``(id, column)``, columns ``label_rb`` … ``label_os``: 1, 0, or -1 for unknown. Ids or families that
        are not named, and missing values, keep their labels.

    Returns
    -------
    LabelReport
        Labels that were changed, and ids that no row has.

    Raises
    ------
    ArchiveError
        If there is no archive, a label or column cannot be one, no row has any of the ids, or another writer is at
        work. Then nothing is changed.

    Notes
    -----
    Columns are replaced a piece of 65,536 rows at a time, each in one step. A call that is killed leaves each label
    either as it was or as it is to be; the same call again does the rest.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> from deepstreaks_dask.archive import set_labels
    >>> first = str(ds.open_archive("week.zarr")["id"].values[0])
    >>> set_labels("week.zarr", {"label_kd": {first: 1}}).matched
    1
    """
    table = _checked_labels(labels)
    read_commit_record(url)
    with write_lock(url):
        record = read_commit_record(url)
        stored = _all_rows(url)
        known, _ = known_ids(stored, retracted_mask(record.attributes, record.total))
        places = known.find(hash_ids(table.index.to_numpy()))
        rows = np.array([places.get(k, (0, -1))[1] for k in range(len(table))], np.int64)
        unmatched = table.index[rows < 0]
        if len(unmatched) == len(table):
            has = f"has {str(stored['id'].values[0])!r}" if record.total else "is empty"
            raise ArchiveError(
                f"the labels match no row of {url}: they name {table.index[0]!r}, the archive {has}"
            )
        found = table[rows >= 0]
        with storage_errors(url, "write", ArchiveError):
            changed = {
                str(name): _lay_over(
                    open_array(url, str(name), write=True), rows[rows >= 0], found[name]
                )
                for name in table.columns
            }
        _commit(
            url, record, corrected(record.attributes)
        )  # even if a killed call has changed them all
    missing = tuple(str(name) for name in unmatched[:20])
    return LabelReport(os.fspath(url), len(table), len(found), changed, missing)


def _checked_labels(labels: Mapping[str, Mapping[str, int]] | pd.DataFrame) -> pd.DataFrame:
    """Return labels as a table of floats by id, NaN where none is given."""
    table = pd.DataFrame(labels)
    unknown = [str(name) for name in table.columns if name not in LABEL_COLUMNS]
    if unknown or table.empty:
        raise ArchiveError(
            f"labels of {', '.join(unknown) or 'no column'}: give {', '.join(LABEL_COLUMNS)}"
        )
    table.index = pd.Index([str(name) for name in table.index], dtype=object)
    twice = table.index[table.index.duplicated()]
    if len(twice):
        raise ArchiveError(f"labels of {twice[0]!r} are given twice: give them once")
    try:
        values = table.to_numpy(float)
    except (TypeError, ValueError) as error:
        raise ArchiveError(f"labels that are no numbers: give 1, 0, or -1: {error}") from error
    wrong = ~np.isnan(values) & ~np.isin(values, _LABEL_VALUES)
    if wrong.any():
        row, column = (int(places[0]) for places in np.nonzero(wrong))
        raise ArchiveError(
            f"label {values[row, column]:g} of {table.index[row]!r} in {table.columns[column]}: "
            "give 1, 0, or -1 for unknown"
        )
    return pd.DataFrame(values, table.index, table.columns)


def _lay_over(array: zarr.Array, rows: np.ndarray, values: pd.Series) -> int:
    """Set values of a column, chunk by chunk, and return how many were changed."""
    given = values.to_numpy()
    rows, given = rows[~np.isnan(given)], given[~np.isnan(given)].astype(np.int8)
    changed = 0
    for chunk in np.unique(rows // COLUMN_CHUNK):
        first = int(chunk) * COLUMN_CHUNK
        mine = rows // COLUMN_CHUNK == chunk
        before = np.asarray(array[first : first + COLUMN_CHUNK])
        after = before.copy()
        after[rows[mine] - first] = given[mine]
        if count := int((before != after).sum()):
            array[first : first + len(after)] = after
            changed += count
    return changed


def _remove_scores(url: str | os.PathLike[str], rows: np.ndarray) -> tuple[str, ...]:
    """Set scores of rows to their missing value in all runs; return the runs that had some."""
    fs, root = locate_archive(url)
    changed = []
    for path in sorted(fs.glob(f"{root}/runs/*/scores/zarr.json")):
        run = path.split("/")[-3]
        paths = [f"runs/{run}/{name}" for name in ("scores", "first_look")]
        there = [one for one in paths if fs.exists(f"{root}/{one}/zarr.json")]
        blanked = [_blank(open_array(url, one, write=True), rows) for one in there]
        if any(blanked):
            changed.append(run)
    return tuple(changed)


def _blank(array: zarr.Array, rows: np.ndarray) -> bool:
    """Set rows of an array to its fill value, and return whether any was something else."""
    found = False
    for first, last in shard_bounds(array.shape[0], array.chunks[0]):
        mine = rows[(rows >= first) & (rows < last)] - first
        if not len(mine):
            continue
        try:
            values = np.asarray(array[first:last])
        except Exception:  # noqa: S112 - a torn chunk fails in its codec's own way, and holds no scores
            continue
        if not np.isnan(values[mine]).all():
            values[mine] = np.nan
            array[first:last] = values
            found = True
    return found


def _all_rows(url: str | os.PathLike[str]) -> xr.Dataset:
    return open_archive(url, cache=True, retracted=True)


def _commit(url: str | os.PathLike[str], record: CommitRecord, attributes: dict[str, Any]) -> None:
    fs, root = locate_archive(url)
    with storage_errors(url, "write", ArchiveError):
        commit(fs, root, attributes, record.metadata)


def _describe_nights(nights: np.ndarray) -> str:
    known = np.unique(nights)
    if not len(known):
        return "it is empty"
    return f"it has {len(known)}, {known[0]} to {known[-1]}"
