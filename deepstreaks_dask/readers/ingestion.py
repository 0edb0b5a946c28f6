"""Ingest cutouts into an archive: find the reader, read the inputs, append what is new."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepstreaks_dask.archive.append import AppendSummary, CutoutBatch, append_batches
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.labels import Labels
from deepstreaks_dask.readers.options import Polarity, ReadOptions
from deepstreaks_dask.readers.registry import Reader, get_reader, layout_of, sniff
from deepstreaks_dask.readers.reports import IngestReport, Tally
from deepstreaks_dask.utils.progress import progress_bar
from deepstreaks_dask.utils.storage import local_copy

if TYPE_CHECKING:
    from dask.distributed import Client


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
    replace: bool = False,
    shard: int | None = None,
) -> IngestReport:
    """Read cutouts and append those that are new to an archive, which is created if it does not exist.

    The append is atomic, and safe to repeat: cutouts that the archive has already are counted and skipped.

    Parameters
    ----------
    source : str or path
        File or folder, or a URL of one, which is copied to the local disk for as long as it is read.
    archive : str or path
        Path or URL.
    reader : str, optional
        Name of the format, such as ``"images"``; detected from ``source`` by default.
    table : str or path, optional
        CSV, Parquet or ECSV file, or a URL of one, with a row a cutout: metadata and labels.
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
        Read everything twice: first only to raise an error if an input is refused or anything in it, or in the table, is
        not understood, before anything is written. By default refused inputs are listed in the archive's quarantine,
        and both are in the report. Duplicates are not errors of reading, and are always only reported.
    replace : bool
        A cutout with other pixels takes the place of the one in the archive that has its id, instead of being refused as
        a duplicate. The old pixels and scores are kept, as
        :func:`~deepstreaks_dask.archive.append.append_batches` describes.
    shard : int, optional
        Cutouts in a shard of a new archive, a multiple of 64. By default as the reader prefers.

    Returns
    -------
    IngestReport
        Rows added and already present, inputs refused by reason, and what was not understood. It is kept with the
        archive: :func:`~deepstreaks_dask.archive.ingests.ingest_reports`.

    Raises
    ------
    ReaderError
        If ``source`` or ``table`` cannot be read, a column or label is not as it must be, or, if ``strict``, an input
        is refused or not understood.
    ArchiveError
        If the archive is damaged, being written to, or was made for other cutouts. Then nothing is appended, and no new
        archive is left.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> ds.ingest("cutouts", "survey.zarr", table="labels.csv", labels={"rb": "real"}).appended
    8
    >>> ds.ingest("cutouts", "survey.zarr").already_present
    8
    """
    given = Labels.parse(labels)
    renamed = {**(columns or {}), **given.columns}
    if renamed and table is None:
        raise ReaderError(f"columns {', '.join(renamed)}: name the table that has them")
    with ExitStack() as stack:
        path = stack.enter_context(local_copy(source))
        known = None if table is None else stack.enter_context(local_copy(table))
        chosen = find_reader(path, reader)
        options = ReadOptions(
            table=known,
            night=night,
            executor=None if client is None else client.get_executor(),
            columns=renamed,
            words=given.words,
            labels_from_folders=labels_from_folders,
            keep_columns=keep_columns,
            polarity=polarity,
            plane=plane,
        )
        reading = _Reading(chosen, path, options, given)
        if strict:
            reading.check()
        tally = Tally()

        def report(done: AppendSummary) -> IngestReport:
            return IngestReport.from_append(
                archive,
                tally.inputs,
                done,
                source=os.fspath(source),
                reader=chosen.name,
                table="" if table is None else os.fspath(table),
                columns=tally.columns,
                remarks=tally.remarks,
            )

        done = append_batches(
            archive,
            reading.batches(tally),
            create={**layout_of(chosen), **({} if shard is None else {"shard": shard})},
            replace=replace,
            describe=lambda done: report(done).to_dict(),
        )
        return report(done)


@dataclass(frozen=True)
class _Reading:
    """What is to be read, and how."""

    reader: Reader
    path: Path
    options: ReadOptions
    labels: Labels

    def batches(self, tally: Tally, title: str = "ingest") -> Iterator[CutoutBatch]:
        """Read all, with a progress bar, and count it."""
        with progress_bar(title, self.reader.count(self.path)) as bar:
            batches = self.reader.read(self.path, self.options)
            # of sequences, too, what is counted is images
            counted = bar.over(batches, lambda batch: len(batch.cutouts) + len(batch.quarantined))
            for batch in self.labels.overlay(counted):
                tally.add(batch)
                yield batch

    def check(self) -> None:
        """Read all and raise an error if anything was refused or not understood."""
        tally = Tally()
        for _ in self.batches(tally, "check"):
            pass
        tally.check()


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
