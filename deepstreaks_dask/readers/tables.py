"""Tables of what is known of cutouts: columns understood, brought to the archive's units, and checked."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deepstreaks_dask.archive.append import Remark
from deepstreaks_dask.archive.schema import OPTIONAL_COLUMNS, SCHEMA, Column, is_free_name
from deepstreaks_dask.errors import ReaderError, did_you_mean
from deepstreaks_dask.readers.dialects import read_columns
from deepstreaks_dask.readers.options import DEFAULTS, ReadOptions
from deepstreaks_dask.readers.quantities import read_values
from deepstreaks_dask.vocabulary import FAMILIES, LABEL_COLUMNS, LABEL_PREFIX, label_column

SUFFIXES = (".csv", ".tsv", ".parquet", ".ecsv", ".vot")
"""Endings of files that are tables, and no cutouts, where they lie among these."""

_SET_BY_READERS = ("id", "digest", "source", "night")
_ALIASES = {"mjd": "jd"}
_LABEL_LIKE = ("label", "labels", "class", "classification", "category", "type", "target", "truth")
_FILE_LIKE = ("filename", "file_name", "filepath", "path", "image", "name", "cutout", "stamp")
_EXACT_FLOATS = 2.0**53


@dataclass(frozen=True)
class Metadata:
    """A table of metadata.

    Attributes
    ----------
    frame : pandas.DataFrame
        A row a cutout, columns of the archive's names.
    rows : dict of str to int
        Row by file name and by id.
    remarks : list of Remark
        What of the table was not understood.
    extra : mapping of str to Column
        Columns of ``frame`` that an archive has not by itself.
    name : str
        Of the table, for remarks.
    """

    frame: pd.DataFrame
    rows: dict[str, int]
    remarks: list[Remark] = field(default_factory=list)
    extra: Mapping[str, Column] = field(default_factory=dict)
    name: str = ""

    def row_of(self, folder: str, source: str, name: str) -> int:
        """Row that speaks of a file, -1 if none.

        Parameters
        ----------
        folder : str
            Name of the folder that the file lies in.
        source : str
            Path of the file, relative to what was given.
        name : str
            The cutout's id.

        Returns
        -------
        int
            Place in ``frame``.
        """
        keys = (source, f"{folder}/{source}", name)
        return next((self.rows[key] for key in keys if key in self.rows), -1)

    def night_of(self, row: int) -> int | None:
        """Night that a row gives, ``YYYYMMDD``; None where it gives none."""
        value = self._value("night", row)
        return None if value is None else int(value)

    def id_of(self, row: int) -> str | None:
        """Identifier that a row gives; None where it gives none."""
        value = self._value("id", row)
        return None if value is None else str(value)

    def _value(self, name: str, row: int) -> Any:
        value: Any = self.frame[name].iat[row] if row >= 0 and name in self.frame else None
        return None if pd.isna(value) else value

    def columns(self, at: np.ndarray) -> dict[str, np.ndarray]:
        """Take rows ``at``; what the table does not know (or row -1) is missing."""
        columns = {}
        known_columns = {**SCHEMA, **OPTIONAL_COLUMNS, **self.extra}
        for name in self.frame.columns.intersection(list(known_columns)).difference(
            list(_SET_BY_READERS)
        ):
            column = known_columns[name]
            taken = self.frame[name].reindex(at)
            known = taken.notna().to_numpy()
            dtype = object if column.dtype == "string" else column.dtype
            columns[name] = np.full(len(at), column.missing, dtype=dtype)
            values = taken[known].to_numpy()
            columns[name][known] = values.astype(str) if column.dtype == "string" else values
        return columns

    def unmatched(self, matched: set[int], why: Mapping[int, str] | None = None) -> list[Remark]:
        """Return remarks on the rows that belong to no cutout.

        Parameters
        ----------
        matched : set of int
            Rows that belong to one.
        why : mapping of int to str, optional
            Reason by row, where one is known.

        Returns
        -------
        list of Remark
            One a row.
        """
        names = {row: name for name, row in reversed(self.rows.items())}
        return [
            Remark(
                "row of the table matches no cutout",
                f"{self.name}:{row + 1}",
                (why or {}).get(row) or names.get(row, "it names no file and no id"),
            )
            for row, repeated in enumerate(self.frame.duplicated())
            if row not in matched and not repeated
        ]

    def over(self, columns: dict[str, np.ndarray], at: np.ndarray) -> dict[str, np.ndarray]:
        """Lay rows ``at`` over columns: what the table knows goes before what they hold.

        Parameters
        ----------
        columns : mapping of str to ndarray
            What readers know, each ``(cutout,)``.
        at : ndarray
            int ``(cutout,)``: rows of the table, -1 for none.

        Returns
        -------
        dict of str to ndarray
            The same columns and more, each ``(cutout,)``.
        """
        laid = dict(columns)
        for name, values in self.columns(at).items():
            missing = {**SCHEMA, **OPTIONAL_COLUMNS, **self.extra}[name].missing
            unknown = values != values if values.dtype.kind == "f" else values == missing
            laid[name] = np.where(unknown, columns[name], values) if name in columns else values
        return laid


def read_metadata(path: Path, options: ReadOptions = DEFAULTS) -> Metadata:
    """Read a table with one row a cutout and index its rows by file and id.

    Parameters
    ----------
    path : Path
        CSV, TSV, Parquet, ECSV, VOTable or FITS table with a column ``file`` or ``id``.
    options : ReadOptions, optional
        Its ``columns`` name those that are named otherwise, ``words`` the labels, ``keep_columns`` what else to keep.

    Returns
    -------
    Metadata
        Checked.

    Raises
    ------
    ReaderError
        If the table cannot be read, holds what the schema does not allow, or contradicts itself.
    """
    read = read_table(path, options)
    table = read.frame
    keys = [key for key in ("file", "id") if key in table]
    if not keys:
        hint = _hint_of_file(read.ignored)
        raise ReaderError(f"table {path} has neither a column 'file' nor 'id': {hint}")
    twice = table.drop_duplicates()[keys[0]].dropna()
    if (twice := twice[twice.duplicated()]).size:
        raise ReaderError(f"table {path} has rows that disagree on {twice.iloc[0]!r}: keep one")
    rows: dict[str, int] = {}
    for key in reversed(keys):  # a file's name goes before an id that is spelt like it
        filled = table[key].dropna().drop_duplicates()
        rows.update(zip(filled, filled.index, strict=True))
    return Metadata(table, rows, read.remarks, read.extra, path.name)


def read_frame(
    path: Path, options: ReadOptions = DEFAULTS, *, extra: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Read a table; keep ``file``, the schema's columns and the numbers in ``extra``, all checked.

    Parameters
    ----------
    path : Path
        CSV, TSV, Parquet, ECSV, VOTable or FITS table. Labels may be spelt ``rb``, ``sl``, ``kd``, ``os``.
    options : ReadOptions, optional
        Its ``columns`` name those that are named otherwise.
    extra : tuple of str
        Further numeric columns to keep.

    Returns
    -------
    pandas.DataFrame
        A row a cutout, columns of the schema's types.

    Raises
    ------
    ReaderError
        If it cannot be read or holds what the schema does not allow.
    """
    return read_table(path, options, extra=extra).frame


@dataclass(frozen=True)
class TableRead:
    """A table that was read.

    Attributes
    ----------
    frame : pandas.DataFrame
        A row a row of the table: columns of the archive's names, and those to keep.
    remarks : list of Remark
        What was not understood.
    extra : mapping of str to Column
        Columns to keep that an archive has not by itself.
    ignored : tuple of str
        Columns of the file that were not used.
    """

    frame: pd.DataFrame
    remarks: list[Remark]
    extra: Mapping[str, Column]
    ignored: tuple[str, ...]


def read_table(
    path: Path, options: ReadOptions = DEFAULTS, *, extra: tuple[str, ...] = ()
) -> TableRead:
    """Read a table as :func:`read_frame` does, with remarks on what was not understood.

    Parameters
    ----------
    path : Path
        Table.
    options : ReadOptions, optional
        As :func:`read_metadata` takes them.
    extra : tuple of str
        Further numeric columns to keep.

    Returns
    -------
    TableRead
        Columns, and what was not understood.

    Raises
    ------
    ReaderError
        If it cannot be read, lacks a column that the options name, or a column is of no use at all.
    """
    table, remarks = read_columns(path)
    table.columns = pd.Index([str(name) for name in table.columns])
    known = ("file", *SCHEMA, *OPTIONAL_COLUMNS, *extra)
    names = _names(table, path, options.columns, known)
    frame, ignored = {}, []
    for column in table.columns:
        name = names.get(column)
        if name is None:
            ignored.append(column)
            continue
        frame[name], said = _checked(table[column], name, path, options)
        remarks += said
    kept: dict[str, Column] = {}
    for column in ignored:
        if options.keep_columns:
            name = _free_name(column, {*known, *kept})
            frame[name], kept[name] = keepable(table[column])
            if name != column:
                remarks.append(
                    Remark("column of the table renamed", f"{path.name}: {column}", name)
                )
        elif not column.startswith("Unnamed: ") and column not in ("digest", "source", "index"):
            hint = _hint(column, {*names.values()})
            remarks.append(Remark("column of the table ignored", f"{path.name}: {column}", hint))
    return TableRead(pd.DataFrame(frame, index=table.index), remarks, kept, tuple(ignored))


def _names(
    table: pd.DataFrame, path: Path, given: Mapping[str, str], known: tuple[str, ...]
) -> dict[str, str]:
    """Find what each column is in the archive: as the options say, else by its name, in whatever case."""
    names: dict[str, str] = {}
    for own, wanted in given.items():
        if own not in table:
            hint = did_you_mean(own, table.columns)
            has = ", ".join(table.columns)
            raise ReaderError(f"table {path} has no column {own!r}: {hint}it has {has}")
        if wanted not in known:
            hint = did_you_mean(wanted, known)
            raise ReaderError(f"column {own!r} of {path}: {hint}an archive has no {wanted!r}")
        names[own] = wanted
    for spelling in (
        lambda column: column,
        lambda column: column.strip().casefold(),
        lambda column: label_column(column.strip().casefold()),
        lambda column: _ALIASES.get(column.strip().casefold(), ""),
    ):
        for column in table.columns:
            name = spelling(column)
            if name in known and column not in names and name not in names.values():
                names[column] = name
    return names


def _checked(
    values: pd.Series, name: str, path: Path, options: ReadOptions
) -> tuple[pd.Series, list[Remark]]:
    """Bring a column to texts or numbers; refuse one of which nothing makes sense."""
    if name not in ("filter", "jd", "night") and (
        name == "file" or (name in SCHEMA and SCHEMA[name].dtype == "string")
    ):
        return _texts(values), []
    read, doubts = read_values(values, name, options.words)
    unread = doubts["not understood"]
    first = values[unread].iloc[0] if unread.any() else None
    if name.startswith(LABEL_PREFIX) and unread.any() and not options.words:
        raise ReaderError(
            f"table {path}: column {name!r} must hold 1, 0, or -1 for not known, not {str(first)!r}: say what its words "
            "stand for, like --labels asteroid=1,bogus=0"
        )
    if unread.any() and name != "filter" and unread.sum() == values.notna().sum():
        raise ReaderError(f"table {path}: column {name!r} is not numeric: it holds {str(first)!r}")
    remarks = [
        Remark(f"{name} {what}", f"{path.name}:{row + 1}", str(values.iloc[row]))
        for what, places in doubts.items()
        for row in np.flatnonzero(places)
        if str(values.name).strip().casefold() != "mjd" or "modified" not in what
    ]
    return read, remarks


def _texts(values: pd.Series) -> pd.Series:
    """Texts of a column; whole numbers, which pandas may hold as floats, without a decimal point."""
    if pd.api.types.is_float_dtype(values):
        whole = values.notna() & (values % 1 == 0)
        texts = values.astype("string")
        return texts.mask(whole, texts.str.replace(r"\.0$", "", regex=True))
    return values.astype("string")


def keepable(values: pd.Series) -> tuple[pd.Series, Column]:
    """Return a column as an archive can keep it, and its description.

    Parameters
    ----------
    values : pandas.Series
        ``(row,)`` of any type.

    Returns
    -------
    pandas.Series
        ``(row,)`` of floats, or texts where they are no numbers or a float could not hold them exactly.
    Column
        As the archive describes it.
    """
    name = str(values.name)
    if pd.api.types.is_bool_dtype(values):
        return values.astype("Int8"), Column("int8", -1, "", f"{name}: 1 true, 0 false, -1 unknown")
    numbers = pd.to_numeric(values, errors="coerce") if values.dtype == object else values
    if pd.api.types.is_numeric_dtype(numbers) and (numbers.isna() == values.isna()).all():
        floats = numbers.to_numpy(float, na_value=np.nan)
        if not (np.abs(floats) > _EXACT_FLOATS).any():
            return pd.Series(floats, values.index), Column("float64", np.nan, "", name)
    return _texts(values), Column("string", "", "", name)


def _free_name(column: str, taken: set[str]) -> str:
    """Name a column as an archive and its filters can: letters, digits and ``_``."""
    name = re.sub(r"\W+", "_", column.strip(), flags=re.ASCII).strip("_") or "column"
    name = f"column_{name}" if name[0].isdigit() or keyword.iskeyword(name) else name
    while name in taken or not is_free_name(name):
        name += "_"
    return name


def _hint(column: str, used: Iterable[str]) -> str:
    """Ask whether another name was meant, for a column that was ignored."""
    name = column.strip().casefold()
    free = [known for known in ("file", *SCHEMA) if known not in used]
    near: list[str]
    if name in _LABEL_LIKE or name in FAMILIES or name.startswith("label"):
        near = [one for one in LABEL_COLUMNS if one in free][:1]
    elif name in _FILE_LIKE:
        near = [str(one) for one in ("file", "id") if one in free][:1]
    else:
        return did_you_mean(name, free).strip()
    return f"did you mean {near[0]!r}? Then give --columns {near[0]}={column}" if near else ""


def _hint_of_file(columns: tuple[str, ...]) -> str:
    like = next((one for one in columns if one.strip().casefold() in _FILE_LIKE), None)
    if like:
        return f"did you mean {like!r}? Then give --columns file={like}"
    has = ", ".join(columns[:10]) or "no others"
    return f"add one, or name it with --columns file=NAME; it has {has}"
