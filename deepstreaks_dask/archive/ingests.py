"""The reports of ingests that are kept with an archive.

A report is an object ``ingests/<number>.json``, which is written before the commit; the attribute ``ingests`` of the commit
record counts those that are committed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import fsspec

from deepstreaks_dask.archive.store import locate_archive, read_commit_record
from deepstreaks_dask.errors import ArchiveError
from deepstreaks_dask.utils.storage import write_whole

MAX_REPORTS = 1_000_000
"""Reports that an archive may have."""

INGESTS_ATTRIBUTE = "ingests"
"""Attribute of the commit record that counts the reports."""


def keep_report(
    fs: fsspec.AbstractFileSystem,
    root: str,
    attributes: Mapping[str, Any],
    report: Mapping[str, Any],
) -> dict[str, Any]:
    """Write a report that the next commit of an archive will include.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem
        File system of the archive.
    root : str
        Root of the archive on it.
    attributes : mapping
        Attributes of the commit record.
    report : mapping
        The report, as JSON can hold it.

    Returns
    -------
    dict
        Attributes of the commit record that is to be written.
    """
    number = int(attributes.get(INGESTS_ATTRIBUTE, 0)) + 1
    write_whole(fs, _path(root, number), json.dumps(report, indent=1).encode())
    return {**attributes, INGESTS_ATTRIBUTE: number}


def ingest_reports(url: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the reports of all ingests into an archive, the oldest first.

    Parameters
    ----------
    url : str or path
        The archive.

    Returns
    -------
    list of dict
        As :meth:`~deepstreaks_dask.readers.reports.IngestReport.to_dict` returned them.

    Raises
    ------
    ArchiveError
        If there is no archive, or a report cannot be read.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> from deepstreaks_dask.archive import ingest_reports
    >>> report = ds.ingest("cutouts", "kept.zarr")
    >>> [one["appended"] for one in ingest_reports("kept.zarr")]
    [8]
    """
    fs, root = locate_archive(url)
    count = read_commit_record(url).attributes.get(INGESTS_ATTRIBUTE, 0)
    if type(count) is not int or not 0 <= count <= MAX_REPORTS:
        raise ArchiveError(f"{url} cannot have {count!r} reports of ingests: it is damaged")
    paths = [_path(root, number) for number in range(1, count + 1)]
    try:
        return [json.loads(fs.cat_file(path)) for path in paths]
    except (OSError, ValueError) as error:
        raise ArchiveError(f"a report of an ingest into {url} cannot be read: {error}") from error


def _path(root: str, number: int) -> str:
    return f"{root}/ingests/{number:06d}.json"
