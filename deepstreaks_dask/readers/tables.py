"""Tables of what is known of cutouts: CSV, Parquet or ECSV, checked against the archive's schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.table import Table

from deepstreaks_dask.archive.schema import SCHEMA
from deepstreaks_dask.errors import ReaderError, did_you_mean
from deepstreaks_dask.readers.options import DEFAULTS, ReadOptions
from deepstreaks_dask.vocabulary import FAMILIES, LABEL_PREFIX, label_column

SUFFIXES = (".csv", ".parquet", ".ecsv")
_SET_BY_READERS = ["id", "digest", "source", "night"]


@dataclass(frozen=True)
class Metadata:
    """A table of metadata; ``rows`` finds the row of a file or an id."""

    frame: pd.DataFrame
    rows: dict[str, int]

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
        for name in self.frame.columns.intersection(list(SCHEMA)).difference(_SET_BY_READERS):
            schema = SCHEMA[name]
            taken = self.frame[name].reindex(at)
            known = taken.notna().to_numpy()
            dtype = object if schema.dtype == "string" else schema.dtype
            columns[name] = np.full(len(at), schema.missing, dtype=dtype)
            values = taken[known].to_numpy()
            columns[name][known] = values.astype(str) if schema.dtype == "string" else values
        return columns

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
            missing = SCHEMA[name].missing
            unknown = values != values if values.dtype.kind == "f" else values == missing
            laid[name] = np.where(unknown, columns[name], values) if name in columns else values
        return laid


def read_metadata(path: Path, options: ReadOptions = DEFAULTS) -> Metadata:
    """Read a table with one row a cutout and index its rows by file and id.

    Parameters
    ----------
    path : Path
        CSV, Parquet or ECSV with a column ``file`` or ``id``.
    options : ReadOptions, optional
        Its ``columns`` name those that are named otherwise.

    Returns
    -------
    Metadata
        Checked.

    Raises
    ------
    ReaderError
        If the table cannot be read, holds what the schema does not allow, or contradicts itself.
    """
    table = read_frame(path, options)
    keys = [key for key in ("file", "id") if key in table]
    if not keys:
        raise ReaderError(f"table {path} has neither a column 'file' nor 'id': add one")
    twice = table.drop_duplicates()[keys[0]].dropna()
    if (twice := twice[twice.duplicated()]).size:
        raise ReaderError(f"table {path} has rows that disagree on {twice.iloc[0]!r}: keep one")
    rows: dict[str, int] = {}
    for key in reversed(keys):  # a file's name goes before an id that is spelt like it
        filled = table[key].dropna()
        rows.update(zip(filled, filled.index, strict=True))
    return Metadata(table, rows)


def read_frame(
    path: Path, options: ReadOptions = DEFAULTS, *, extra: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Read a table; keep ``file``, the schema's columns and the numbers in ``extra``, all checked.

    Parameters
    ----------
    path : Path
        CSV, Parquet or ECSV. Labels may be spelt ``rb``, ``sl``, ``kd``, ``os``.
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
    if not path.is_file():
        raise ReaderError(f"table {path} does not exist: check the path")
    try:
        match path.suffix.lower():
            case ".csv":
                table = pd.read_csv(path, dtype={"id": str, "file": str}, keep_default_na=True)
            case ".parquet":
                table = pd.read_parquet(path)
                table = table.reset_index(drop=table.index.name is None)
            case ".ecsv":
                table = Table.read(path, format="ascii.ecsv").to_pandas()
            case other:
                raise ReaderError(f"table {path} ends in {other!r}: give CSV, Parquet or ECSV")
    except ReaderError:
        raise
    except Exception as error:  # each format's library has its own
        raise ReaderError(f"table {path} cannot be read: {error}") from error
    table = _renamed(table, path, options.columns, ("file", *SCHEMA, *extra))
    table = table.rename(columns={family: label_column(family) for family in FAMILIES})
    table = table[table.columns.intersection(["file", *SCHEMA, *extra])]
    return pd.DataFrame({name: _checked(table[name], name, path) for name in table.columns})


def _renamed(
    table: pd.DataFrame, path: Path, names: Mapping[str, str], known: tuple[str, ...]
) -> pd.DataFrame:
    """Rename columns, in place of columns that have these names."""
    for name, wanted in names.items():
        if name not in table:
            hint = did_you_mean(name, map(str, table.columns))
            has = ", ".join(map(str, table.columns))
            raise ReaderError(f"table {path} has no column {name!r}: {hint}it has {has}")
        if wanted not in known:
            hint = did_you_mean(wanted, known)
            raise ReaderError(f"column {name!r} of {path}: {hint}an archive has no {wanted!r}")
    kept = table.drop(
        columns=[name for name in names.values() if name in table and name not in names]
    )
    return kept.rename(columns=dict(names))


def _checked(values: pd.Series, name: str, path: Path) -> pd.Series:
    """Bring a column to text or numbers, and refuse what is neither or makes no sense."""
    if name == "file" or (name in SCHEMA and SCHEMA[name].dtype == "string"):
        return values.astype("string")
    try:
        if pd.api.types.is_datetime64_any_dtype(values):  # pandas would take them as nanoseconds
            raise TypeError("it holds dates")
        numbers = pd.to_numeric(values)
    except (TypeError, ValueError) as error:
        raise ReaderError(f"table {path}: column {name!r} is not numeric: {error}") from error
    known = numbers.dropna()
    if name.startswith(LABEL_PREFIX) and not known.isin((-1, 0, 1)).all():
        raise ReaderError(f"table {path}: column {name!r} must hold 1, 0, or -1 for not known")
    if name == "night" and not known[known != 0].between(19000101, 21001231).all():
        raise ReaderError(f"table {path}: column 'night' must hold YYYYMMDD, or 0 for not known")
    return numbers
