"""Files of alerts: Avro, gzipped or not, tar archives of it, and Parquet, as brokers write them."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from deepstreaks_dask.readers.alert_stamps import field_key, is_stamp_field
from deepstreaks_dask.readers.avro import Block, count_records, decode_block, read_blocks
from deepstreaks_dask.readers.fits_checks import UnreadableError
from deepstreaks_dask.readers.folder import Refused, leads_out, list_files, spelt
from deepstreaks_dask.readers.tarballs import count_members, is_tarball, members

AVRO_SUFFIXES = (".avro", ".avro.gz")
PARQUET_SUFFIX = ".parquet"

_TABLES = (".csv", ".ecsv")  # files among alerts that hold none
_MAX_UNZIPPED_BYTES = 2**27
_MAX_MEMBER_BYTES = 2**25
_MAX_PART_BYTES = 2**22
_MAX_PART_BLOCKS = 16
_ROWS = 16  # alerts of a table that are decoded as one
_MAX_ROW_GROUP_BYTES = 2**31
_FLAT_FIELDS = (
    *("objectid", "candid", "candidate", "diasource", "diasourceid", "diaobject", "sssource"),
    *("mpcorbits", "publisher", "alertid"),
)


@dataclass(frozen=True)
class Part:
    """A part of a file: a block of Avro, rows of a table, or why it cannot be read.

    Attributes
    ----------
    source : str
        The file, and in an archive the member.
    content : Block, tuple of mapping, or Refused
        What it holds, not yet decoded.
    first : int
        Number of the first row in its file.
    """

    source: str
    content: Block | tuple[Mapping[str, Any], ...] | Refused
    first: int = 0

    @property
    def size(self) -> int:
        """Bytes of it, about."""
        return len(self.content.data) if isinstance(self.content, Block) else _MAX_PART_BYTES // 4


def find_alert_files(path: Path, table: Path | None = None) -> list[Path]:
    """List the files of a folder that may hold alerts, sorted.

    Parameters
    ----------
    path : Path
        File or folder.
    table : Path, optional
        A file that is no alert.

    Returns
    -------
    list of Path
        All files but hidden ones and tables without cutouts.
    """
    files = list_files(path, table, skip=_TABLES)
    return [file for file in files if not _is_parquet(file) or file == path or has_stamps(file)]


def has_stamps(file: Path) -> bool:
    """Return whether a file is a Parquet table with a column of cutouts."""
    try:
        return any(map(is_stamp_field, pq.read_schema(file).names))
    except (pa.ArrowException, OSError):
        return False


def is_alert_file(file: Path) -> bool:
    """Return whether a file is Avro, a table with cutouts, or a tar archive that begins with Avro."""
    if is_tarball(file):
        first = islice(members(file, 0), 1)
        return any(name.lower().endswith(AVRO_SUFFIXES) for name, _ in first)
    if _is_parquet(file):
        return has_stamps(file)
    return file.name.lower().endswith(AVRO_SUFFIXES)


def count_alerts(file: Path) -> int:
    """Count the alerts that a file claims; members of an archive count as one alert each, and so do unreadable files."""
    if is_tarball(file):
        return count_members(file)
    try:
        if _is_parquet(file):
            return max(pq.read_metadata(file).num_rows, 1)
        with file.open("rb") as stream:
            return 1 if _is_gzipped(stream) else count_records(stream)
    except (pa.ArrowException, OSError):
        return 1


def read_parts(folder: Path, files: list[Path]) -> Iterator[list[Part]]:
    """Read files part by part; nothing is decoded yet.

    Parameters
    ----------
    folder : Path
        That was given. Links that lead out of it are refused.
    files : list of Path
        In it.

    Yields
    ------
    list of Part
        Some megabytes of parts, in the order of the files.
    """
    together: list[Part] = []
    for part in _parts(folder, files):
        together.append(part)
        if len(together) == _MAX_PART_BLOCKS or sum(p.size for p in together) >= _MAX_PART_BYTES:
            yield together
            together = []
    if together:
        yield together


def packets(part: Part) -> Iterator[tuple[str, Mapping[str, Any] | Refused]]:
    """Decode the alerts of a part.

    Parameters
    ----------
    part : Part
        As :func:`read_parts` yields it.

    Yields
    ------
    tuple of str and (mapping or Refused)
        The alert's place, such as ``night.avro[3]``, and its fields, or why it has none.
    """
    if isinstance(part.content, Refused):
        yield part.source + part.content.where, part.content
    elif isinstance(part.content, Block):
        for number, record in decode_block(part.content):
            yield part.source + ("" if part.content.alone else f"[{number}]"), record
    else:
        for number, row in enumerate(part.content, part.first):
            yield f"{part.source}[{number}]", row


def parts_of(source: str, data: bytes) -> Iterator[Part]:
    """Split an Avro file in memory, gzipped or not.

    Parameters
    ----------
    source : str
        Its name.
    data : bytes
        All of it.

    Yields
    ------
    Part
        Its blocks, and what of it cannot be read.
    """
    try:
        stream = io.BytesIO(_unzipped(data) if data.startswith(b"\x1f\x8b") else data)
    except UnreadableError as error:
        yield Part(source, error.refused)
        return
    for content in read_blocks(stream):
        yield Part(source, content)


def _parts(folder: Path, files: list[Path]) -> Iterator[Part]:
    for file in files:
        source = spelt(str(file.relative_to(folder)))
        try:
            if leads_out(file, folder.resolve()):
                why = Refused("not an alert", "a link that leads out of the folder")
                yield Part(source, why)
            elif is_tarball(file):
                yield from _members(file, source)
            elif _is_parquet(file):
                yield from _rows(file, source)
            else:
                yield from _avro(file, source)
        except OSError as error:
            yield Part(source, Refused("damaged", str(error)))


def _avro(file: Path, source: str) -> Iterator[Part]:
    with file.open("rb") as stream:
        if not _is_gzipped(stream):
            for content in read_blocks(stream):
                yield Part(source, content)
        elif file.stat().st_size > _MAX_UNZIPPED_BYTES:
            size = f"{file.stat().st_size} bytes"
            yield Part(source, Refused("too large", f"{size}, too many for a gzipped file"))
        else:
            yield from parts_of(source, stream.read())


def _members(file: Path, source: str) -> Iterator[Part]:
    for name, found in members(file, _MAX_MEMBER_BYTES):
        place = f"{source}/{name}".rstrip("/")
        if isinstance(found, Refused):
            yield Part(place, found)
        else:
            yield from parts_of(place, found)


def _rows(file: Path, source: str) -> Iterator[Part]:
    """Read the alerts of a table, those columns of it that are used."""
    done = 0
    try:
        with pq.ParquetFile(file) as table:
            names = [
                name for name in table.schema_arrow.names if _is_used(name, table.schema_arrow)
            ]
            groups = range(table.num_row_groups)
            sizes = [table.metadata.row_group(k).total_byte_size for k in groups]
            if max(sizes, default=0) > _MAX_ROW_GROUP_BYTES:
                raise UnreadableError("too large", f"a group of rows takes {max(sizes)} bytes")
            for rows in table.iter_batches(_ROWS, columns=names, use_threads=False):
                yield Part(source, tuple(rows.to_pylist()), done)
                done += rows.num_rows
        claimed = sum(table.metadata.row_group(k).num_rows for k in groups)
        if done != claimed or not done:
            detail = f"it claims {claimed} alerts and has {done}" if claimed else "no alerts in it"
            yield Part(source, Refused("damaged" if claimed else "not an alert", detail))
    except UnreadableError as error:
        yield Part(source, error.refused)
    except Exception as error:  # Arrow raises many kinds on damaged data
        detail = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
        where = f"[{done}] and on" if done else ""
        yield Part(source, Refused("damaged", detail, where))


def _is_used(name: str, schema: pa.Schema) -> bool:
    """Return whether a column of a table is read: cutouts, records of the detection, and plain values."""
    kind = schema.field(name).type
    if is_stamp_field(name) or field_key(name) in _FLAT_FIELDS:
        return True
    return not pa.types.is_nested(kind) and not pa.types.is_binary(kind)


def _is_parquet(file: Path) -> bool:
    return file.name.lower().endswith(PARQUET_SUFFIX)


def _is_gzipped(stream: IO[bytes]) -> bool:
    start = stream.read(2)
    stream.seek(0)
    return start == b"\x1f\x8b"


def _unzipped(data: bytes) -> bytes:
    unzip = zlib.decompressobj(wbits=31)
    try:
        unpacked = unzip.decompress(data, _MAX_UNZIPPED_BYTES)
    except zlib.error as error:
        raise UnreadableError("damaged", f"gzip: {error}") from error
    if unzip.unconsumed_tail:
        raise UnreadableError(
            "too large", f"more than {_MAX_UNZIPPED_BYTES} bytes when decompressed"
        )
    if not unzip.eof:
        raise UnreadableError("damaged", "gzip: it is cut short")
    return unpacked
