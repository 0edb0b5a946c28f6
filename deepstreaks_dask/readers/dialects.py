"""Tables as people write them: CSV of any delimiter and encoding, Parquet, ECSV, VOTable and FITS tables."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astropy.time import Time

from deepstreaks_dask.archive.append import Remark
from deepstreaks_dask.errors import ReaderError

TEXT_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".dat")
MISSING_WORDS = frozenset({"", "na", "n/a", "#n/a", "nan", "-nan", "null", "none", "<na>"})
"""What stands for a value that is not known, in lower case."""

_ASTROPY_FORMATS = {
    ".ecsv": "ascii.ecsv",
    ".vot": "votable",
    ".xml": "votable",
    ".fits": "fits",
    ".fit": "fits",
}
_UNPACK = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ": lzma.decompress}
_PACKED_SUFFIXES = (".gz", ".bz2", ".xz")
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins like UTF-16's, and so stands before it
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_DELIMITERS = ",;\t|"
_SAMPLE_LINES = 100
_MAX_TABLE_BYTES = 2**31


def read_columns(path: Path) -> tuple[pd.DataFrame, list[Remark]]:
    """Read a table with all of its columns as they are.

    Parameters
    ----------
    path : Path
        CSV, TSV or other delimited text, packed or not, Parquet, ECSV, VOTable or a FITS table.

    Returns
    -------
    pandas.DataFrame
        A row a row; columns of text files hold text, and NaN for what is not known.
    list of Remark
        Rows and columns that were not understood.

    Raises
    ------
    ReaderError
        If it does not exist or cannot be read.
    """
    if not path.is_file():
        raise ReaderError(f"table {path} does not exist: check the path")
    suffixes = [s.lower() for s in path.suffixes]
    suffix = next((s for s in reversed(suffixes) if s not in _PACKED_SUFFIXES), "")
    try:
        if suffix in TEXT_SUFFIXES:
            return _read_text(path)
        if suffix == ".parquet":
            table = pd.read_parquet(path)
            return table.reset_index(drop=table.index.name is None), []
        if suffix in _ASTROPY_FORMATS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _from_astropy(Table.read(path, format=_ASTROPY_FORMATS[suffix])), []
    except ReaderError:
        raise
    except Exception as error:  # each format's library has its own
        raise ReaderError(f"table {path} cannot be read: {error}") from error
    raise ReaderError(
        f"table {path} ends in {suffix!r}: give CSV, TSV, Parquet, ECSV, VOTable or FITS"
    )


def _from_astropy(table: Table) -> pd.DataFrame:
    """Turn an astropy table to a frame: times to Julian dates, angles to degrees, positions to two columns."""
    columns: dict[str, object] = {}
    for name in table.colnames:
        column = table[name]
        if isinstance(column, SkyCoord):
            sky = column.icrs
            columns |= {"ra": np.asarray(sky.ra.deg), "dec": np.asarray(sky.dec.deg)}
        elif isinstance(column, Time):
            columns[name] = np.ma.filled(np.ma.asarray(column.utc.jd).astype(float), np.nan)
        elif column.ndim == 1:
            if column.unit is not None and column.unit.is_equivalent(u.deg):
                table[name] = u.Quantity(column).to(u.deg) if column.unit != u.deg else column
            columns[name] = table[[name]].to_pandas()[name]
    return pd.DataFrame(columns)


def _read_text(path: Path) -> tuple[pd.DataFrame, list[Remark]]:
    """Read delimited text; rows that do not fit the header are left out, and said."""
    text, remarks = _decode(path)
    lines = text.splitlines(keepends=True)
    delimiter = ""
    if lines and lines[0].lower().startswith("sep=") and len(lines[0].strip()) <= 5:  # Excel's
        delimiter = lines.pop(0).rstrip("\r\n")[4:]
    lines = _without_comments(lines)
    delimiter = delimiter or _delimiter(lines)
    header, *rows = _split(lines, delimiter) or [[]]
    width = len(header)
    kept: list[list[str]] = []
    for number, fields in enumerate(rows, 1):
        if any(fields[width:]):
            detail = f"{len(fields)} fields, but the header has {width}"
            remarks.append(
                Remark("row of the table not understood", f"{path.name}:{number}", detail)
            )
            continue
        if len(fields) < width:
            detail = f"{len(fields)} fields, but the header has {width}: the last are missing"
            remarks.append(Remark("row of the table is short", f"{path.name}:{number}", detail))
        kept.append([*fields[:width], *[""] * (width - len(fields))])
    frame = pd.DataFrame(kept, columns=range(width), dtype=object)
    frame = frame.mask(frame.apply(lambda values: values.str.lower().isin(MISSING_WORDS)))
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    remarks += [Remark("column of the table named twice", f"{path.name}: {n}", "") for n in twice]
    named = [k for k, name in enumerate(header) if name and name not in header[:k]]
    unnamed = [k for k, name in enumerate(header) if not name and frame[k].notna().any() and k]
    remarks += [Remark("column of the table has no name", f"{path.name}: {k + 1}") for k in unnamed]
    frame = frame[named]
    frame.columns = pd.Index([header[k] for k in named])
    return frame, remarks


def _decode(path: Path) -> tuple[str, list[Remark]]:
    if (size := path.stat().st_size) > _MAX_TABLE_BYTES:
        raise ReaderError(
            f"table {path} has {size} bytes, more than {_MAX_TABLE_BYTES}: use Parquet"
        )
    data = path.read_bytes()
    for magic, unpack in _UNPACK.items():
        if data.startswith(magic):
            data = unpack(data)
    encoding = next((e for mark, e in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "")
    if not encoding and len(data) > 1 and 0 in data[:2] and data[0] != data[1]:
        encoding = "utf-16-le" if data[1] == 0 else "utf-16-be"  # UTF-16 without its mark
    try:
        return data.decode(encoding or "utf-8"), []
    except UnicodeDecodeError:
        detail = f"it is no {(encoding or 'utf-8').upper()}: read as Windows-1252"
        text = data.decode("cp1252", "replace")
        return text, [Remark("encoding of the table not understood", path.name, detail)]


def _without_comments(lines: list[str]) -> list[str]:
    """Drop lines that begin with ``#``, and only the ``#`` of a header that does."""
    lines = [line for line in lines if line.strip(" \t\r\n;,")]
    first = next((k for k, line in enumerate(lines) if not line.startswith("#")), len(lines))
    body = [line for line in lines[first:] if not line.startswith("#")]
    last = lines[first - 1].lstrip("# ").lower() if first else ""
    names = {name for fields in _split([last], _delimiter([last])) for name in fields}
    if names & {"file", "id", "filename"} or (names & {"ra", "x"} and names & {"dec", "y"}):
        return [lines[first - 1].lstrip("# "), *body]
    return body


def _delimiter(lines: list[str]) -> str:
    """Return the delimiter that splits most lines as it splits the first; a blank stands for white space."""
    sample = lines[:_SAMPLE_LINES]
    best, score = ",", (0.0, 1)
    for delimiter in _DELIMITERS:
        counts = [len(fields) for fields in _split(sample, delimiter)]
        if counts and counts[0] > 1:
            alike = sum(count == counts[0] for count in counts) / len(counts)
            if (alike, counts[0]) > score:
                best, score = delimiter, (alike, counts[0])
    if score[1] == 1 and sample:
        counts = [len(line.split()) for line in sample]
        if counts[0] > 1 and counts == [counts[0]] * len(counts):
            return " "
    return best


def _split(lines: list[str], delimiter: str) -> list[list[str]]:
    """Split lines to fields without the blanks around them."""
    if delimiter == " ":
        return [line.split() for line in lines]
    quote = "'" if lines and lines[0].lstrip().startswith("'") else '"'
    try:
        rows = list(_reader("".join(lines), delimiter, quote))
    except csv.Error:  # a quote that is never closed: it must not swallow the other rows
        rows = [
            [field.strip(quote) for field in line.rstrip("\r\n").split(delimiter)]
            if line.count(quote) % 2
            else next(_reader(line, delimiter, quote, strict=False), [])
            for line in lines
        ]
    return [[field.strip() for field in fields] for fields in rows if any(fields)]


def _reader(text: str, delimiter: str, quote: str, *, strict: bool = True) -> Iterator[list[str]]:
    return csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quotechar=quote,
        skipinitialspace=delimiter != "\t",
        strict=strict,
    )
