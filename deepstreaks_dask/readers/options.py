"""How inputs are to be read: one set of options for all readers."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from deepstreaks_dask.errors import ReaderError, did_you_mean

Polarity = Literal["auto", "dark", "bright"]


@dataclass(frozen=True)
class ReadOptions:
    """Options of a reader; each reader uses those that apply to its format.

    Attributes
    ----------
    table : Path, optional
        Table with a row a cutout: metadata and labels.
    night : int, optional
        Night of all cutouts, YYYYMMDD.
    executor : concurrent.futures.Executor, optional
        Where to decode; threads of this process by default.
    columns : mapping of str to str
        Name in the archive by name in the table, for columns that are named otherwise.
    words : mapping of str to int
        Label, 1, 0 or -1 (unknown), by the word that stands for it: ``{"asteroid": 1, "bogus": 0}``. A word of one
        family only is written ``kd:ditch``.
    labels_from_folders : bool
        Take labels from the names of the folders that pictures lie in.
    keep_columns : bool
        Keep the columns of the table that an archive has not.
    polarity : {"auto", "dark", "bright"}
        Whether sources in pictures are dark on a light sky, as in ZTF's cutouts, or bright on a dark one.
    plane : int, optional
        Which plane of a cube is the cutout, counted from 1.
    """

    table: Path | None = None
    night: int | None = None
    executor: Executor | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, int] = field(default_factory=dict)
    labels_from_folders: bool = False
    keep_columns: bool = False
    polarity: Polarity = "auto"
    plane: int | None = None

    def __post_init__(self) -> None:
        """Check the options that have few values.

        Raises
        ------
        ReaderError
            If the polarity is unknown, or a plane is not counted from 1.
        """
        known = get_args(Polarity)
        if self.polarity not in known:
            hint = did_you_mean(self.polarity, known)
            raise ReaderError(f"polarity {self.polarity!r}: {hint}choose one of {', '.join(known)}")
        if self.plane is not None and self.plane < 1:
            raise ReaderError(f"plane {self.plane}: planes are counted from 1")


DEFAULTS = ReadOptions()
"""The options of a reader to which none are given."""


def check_used(options: ReadOptions) -> None:
    """Check that options about a table or labels have a table or labels to go with.

    Parameters
    ----------
    options : ReadOptions
        Of a reader of files in folders.

    Raises
    ------
    ReaderError
        If words or columns are given, but nothing that has them.
    """
    if options.words and not (options.table or options.labels_from_folders):
        first = next(iter(options.words))
        raise ReaderError(
            f"label {first!r}: give the --table whose labels are such words, or --labels-from-folders"
        )
    if options.keep_columns and not options.table:
        raise ReaderError("--keep-columns: give the --table that has them")
