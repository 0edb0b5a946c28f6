"""Labels from a table for cutouts that are in an archive."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from deepstreaks_dask.archive.corrections import LabelReport, set_labels
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.labels import Labels, as_label
from deepstreaks_dask.readers.options import ReadOptions
from deepstreaks_dask.readers.tables import read_frame
from deepstreaks_dask.utils.storage import local_copy
from deepstreaks_dask.vocabulary import LABEL_COLUMNS


def label_archive(
    archive: str | os.PathLike[str],
    table: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    words: Mapping[str, str | int] | None = None,
) -> LabelReport:
    """Set labels of cutouts that are in an archive.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    table : str or path
        CSV, Parquet or ECSV, or a URL of one, with a column ``id`` or ``file``, and labels as for
        :func:`~deepstreaks_dask.readers.ingestion.ingest`. A file is found by the path that the archive's ``source``
        gives, or by its name where that is unique.
    columns : mapping of str to str, optional
        Name in the archive by name in the table.
    words : mapping of str to int, optional
        Label by the word that stands for it, ``{"asteroid": 1, "bogus": 0}``.

    Returns
    -------
    LabelReport
        Labels that were changed, and names that no row has.

    Raises
    ------
    ReaderError
        If the table cannot be read, or has no labels, or no column ``id`` or ``file``.
    ArchiveError
        If no row is named, or another writer is at work. Then nothing is changed.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> from deepstreaks_dask.readers import label_archive
    >>> report = ds.ingest("cutouts", "later.zarr")
    >>> label_archive("later.zarr", "labels.csv", columns={"real": "label_rb"}).matched
    8
    """
    given = Labels.parse({name: as_label(str(value)) for name, value in (words or {}).items()})
    options = ReadOptions(columns={**(columns or {}), **given.columns}, words=given.words)
    with local_copy(table) as path:
        frame = read_frame(path, options)
    named = [name for name in LABEL_COLUMNS if name in frame]
    if not named:
        raise ReaderError(
            f"table {table} has no labels: give a column {', '.join(LABEL_COLUMNS)}, or name one with --columns"
        )
    if "id" in frame and frame["id"].notna().any():
        names = frame["id"]
    elif "file" in frame:
        names = _ids_of_files(archive, frame["file"])
    else:
        raise ReaderError(f"table {table} has neither a column 'id' nor 'file': add one")
    known = names.notna().to_numpy()
    labels = pd.DataFrame(
        frame.loc[known, named].to_numpy(float),
        index=pd.Index(names[known].astype(str).to_numpy(object)),
        columns=named,
    )
    return set_labels(archive, labels)


def _ids_of_files(archive: str | os.PathLike[str], files: pd.Series) -> pd.Series:
    """Return the ids of rows that came from files; a file that none came from keeps its name."""
    rows = open_archive(archive, cache=True)
    ids, sources = (rows[name].values.astype(object) for name in ("id", "source"))
    by_source = dict(zip(sources, ids, strict=True))
    base = np.array([PurePosixPath(source).name for source in sources], object)
    counts = Counter(base)
    by_name = {name: key for name, key in zip(base, ids, strict=True) if counts[name] == 1}

    def find(file: str) -> str:
        path = PurePosixPath(file.strip().replace("\\", "/"))
        return str(by_source.get(str(path)) or by_name.get(path.name) or file)

    return files.map(find, na_action="ignore")
