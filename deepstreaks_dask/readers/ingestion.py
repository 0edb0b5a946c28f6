"""Ingest cutouts into an archive: find the reader, read the inputs, append what is new."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepstreaks_dask.archive.append import AppendSummary, CutoutBatch, append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.labels import Labels
from deepstreaks_dask.readers.options import Polarity, ReadOptions
from deepstreaks_dask.readers.registry import Reader, get_reader, layout_of, sniff
from deepstreaks_dask.utils.html import html_facts
from deepstreaks_dask.utils.progress import progress_bar
from deepstreaks_dask.utils.storage import locate

if TYPE_CHECKING:
    from dask.distributed import Client


@dataclass(frozen=True)
class IngestReport:
    """What was read, and what of it is in the archive now.

    Attributes
    ----------
    archive : str
        Path or URL.
    inputs : int
        Cutouts that were read, and files that could not be; simulated cutouts among them.
    appended, already_present : int
        Rows that were added, and those that the archive had already.
    quarantined : int
        Inputs that were refused.
    reasons : dict of str to int
        Refused inputs by reason.
    nights : dict of int to int
        Rows added by night, YYYYMMDD; 0 for a night that is not known.
    total : int
        Rows of the archive now.
    """

    archive: str
    inputs: int
    appended: int
    already_present: int
    quarantined: int
    reasons: dict[str, int]
    nights: dict[int, int]
    total: int

    @classmethod
    def from_append(
        cls, archive: str | os.PathLike[str], inputs: int, done: AppendSummary
    ) -> IngestReport:
        """Return the report of an append that is done.

        Parameters
        ----------
        archive : str or path
            Path or URL.
        inputs : int
            Cutouts that were read, and files that could not be.
        done : AppendSummary
            As :func:`~deepstreaks_dask.archive.append.append_batches` gives it.

        Returns
        -------
        IngestReport
            With the nights of the rows that were added.
        """
        added = open_archive(archive)["night"][done.total - done.appended : done.total].values
        names, counts = np.unique(added, return_counts=True)
        nights = dict(zip(names.tolist(), counts.tolist(), strict=True))
        return cls(os.fspath(archive), inputs, **asdict(done), nights=nights)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        return asdict(self)

    def __repr__(self) -> str:
        return (
            f"<IngestReport: {self.appended:,} rows added to {self.archive}, "
            f"{self.already_present:,} already present, {self.quarantined:,} refused, "
            f"{self.total:,} in all>"
        )

    def _repr_html_(self) -> str:
        facts: dict[str, Any] = {
            "inputs read": self.inputs,
            "rows added": self.appended,
            "already present": self.already_present,
            "refused": self.quarantined,
        }
        facts |= {f"refused: {reason}": count for reason, count in self.reasons.items()}
        if self.nights:
            first, last = min(self.nights), max(self.nights)
            spanned = str(first) if first == last else f"{first} to {last}"
            facts["nights"] = f"{len(self.nights):,} ({spanned})"
        facts["rows of the archive"] = self.total
        return html_facts(f"Ingested into {self.archive}", facts)


def ingest(  # noqa: PLR0913 -- the front door's signature
    source: str | os.PathLike[str],
    archive: str | os.PathLike[str],
    *,
    reader: str | None = None,
    table: str | os.PathLike[str] | None = None,
    night: int | None = None,
    columns: Mapping[str, str] | None = None,
    labels: Mapping[str, str | int | Mapping[str, int]] | None = None,
    labels_from_folders: bool = False,
    keep_columns: bool = False,
    polarity: Polarity = "auto",
    plane: int | None = None,
    client: Client | None = None,
    strict: bool = False,
) -> IngestReport:
    """Read cutouts and append those that are new to an archive, which is created if it does not exist.

    The append is atomic, and safe to repeat: cutouts that the archive has already are counted and skipped.

    Parameters
    ----------
    source : str or path
        File or folder.
    archive : str or path
        Path or URL.
    reader : str, optional
        Name of the format, such as ``"images"``; detected from ``source`` by default.
    table : str or path, optional
        CSV, Parquet or ECSV file with a row a cutout: metadata and labels.
    night : int, optional
        Night of all cutouts, YYYYMMDD.
    columns : mapping of str to str, optional
        Name in the archive by name in ``table``, such as ``{"RAJ2000": "ra"}``, for columns that are named otherwise.
    labels : mapping of str to (str, int or mapping), optional
        Labels by family, ``rb``, ``sl``, ``kd`` or ``os``: the name of a column of ``table``, or a mapping of ids of
        cutouts to 1, 0 or -1 (unknown). A mapping takes precedence over the table. An integer is the label that a
        word stands for: ``{"rb": "class", "asteroid": 1, "bogus": 0}``; ``kd:bogus`` is the word of one family.
    labels_from_folders : bool
        Take labels from the names of the folders that pictures lie in: words of ``labels``, or a family's own, such
        as ``real`` and ``bogus``.
    keep_columns : bool
        Keep the columns of ``table`` that an archive has not, under their names; they can be filtered by.
    polarity : {"auto", "dark", "bright"}
        Whether sources in pictures are dark on a light sky, as the networks expect, or bright on a dark one: such
        pictures are inverted. By default this is found out.
    plane : int, optional
        Which plane of a FITS cube is the cutout, counted from 1.
    client : dask.distributed.Client, optional
        Workers that read, which must see ``source``; threads of this process by default. Many FITS files or alert
        packets are read faster by ``connect()``'s workers.
    strict : bool
        Raise at the first input that cannot be read, and append nothing. By default such inputs are listed in the
        archive's quarantine. Duplicates are not errors of reading, and are always only reported.

    Returns
    -------
    IngestReport
        Rows added and already present, and inputs refused by reason.

    Raises
    ------
    ReaderError
        If ``source`` or ``table`` cannot be read, a column or label is not as it must be, or, if ``strict``, an input
        is refused.
    ArchiveError
        If the archive is damaged, being written to, or was made for other cutouts. Then nothing is appended.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> ds.ingest("cutouts", "survey.zarr", table="labels.csv", labels={"rb": "real"}).appended
    8
    >>> ds.ingest("cutouts", "survey.zarr").already_present
    8
    """
    path = Path(source)
    chosen = find_reader(path, reader)
    given = Labels.parse(labels)
    renamed = {**(columns or {}), **given.columns}
    if renamed and table is None:
        raise ReaderError(f"columns {', '.join(renamed)}: name the table that has them")
    prepare_archive(archive, chosen)
    options = ReadOptions(
        table=None if table is None else Path(table),
        night=night,
        executor=None if client is None else client.get_executor(),
        columns=renamed,
        words=given.words,
        labels_from_folders=labels_from_folders,
        keep_columns=keep_columns,
        polarity=polarity,
        plane=plane,
    )
    read = Counter[str]()
    with progress_bar("ingest", chosen.count(path)) as bar:
        batches = chosen.read(path, options)
        # of sequences, too, what is counted is images
        counted = bar.over(batches, lambda batch: len(batch.cutouts) + len(batch.quarantined))
        done = append_batches(archive, _checked(given.overlay(counted), read, strict=strict))
    return IngestReport.from_append(archive, read["inputs"], done)


def find_reader(source: Path, name: str | None = None) -> Reader:
    """Return the reader of a name or, by default, of what ``source`` looks like.

    Parameters
    ----------
    source : Path
        File or folder.
    name : str, optional
        Name of the format.

    Returns
    -------
    Reader
        The first that fits.

    Raises
    ------
    ReaderError
        If there is no such reader, or none fits.
    """
    return get_reader(name) if name else sniff(source)


def prepare_archive(archive: str | os.PathLike[str], reader: Reader, *, shard: int = 1024) -> None:
    """Create an archive for a reader's cutouts unless there is one.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    reader : Reader
        Of the format, which gives the archive's layout.
    shard : int
        Cutouts in a shard of a new archive, a multiple of 64.
    """
    fs, root = locate(archive)
    if not fs.exists(root):
        create_archive(archive, shard=shard, **layout_of(reader))


def _checked(
    batches: Iterator[CutoutBatch], read: Counter[str], *, strict: bool
) -> Iterator[CutoutBatch]:
    """Count inputs; if ``strict``, raise at the first that was refused."""
    for batch in batches:
        if strict and batch.quarantined:
            refused = batch.quarantined[0]
            why = f"{refused.reason} ({refused.detail})" if refused.detail else refused.reason
            raise ReaderError(f"{refused.source} was refused: {why}; nothing was appended")
        read["inputs"] += len(batch.cutouts) + len(batch.quarantined)
        yield batch
