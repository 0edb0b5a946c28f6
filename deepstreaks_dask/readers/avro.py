"""Read Avro files block by block, led by their own schema, and believe nothing that they claim.

An Avro object container file (Apache Avro 1.11 specification) has a header with the schema of its records, and blocks
of records; a mark of 16 bytes ends each block. Where a block is damaged, reading resumes after the next mark, so that
only the damaged block is lost. Every record is bounded, not the file: brokers write any number of alerts into one.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa

from deepstreaks_dask.readers.avro_schema import parsed_schema
from deepstreaks_dask.readers.fits_checks import UnreadableError
from deepstreaks_dask.readers.folder import Refused
from deepstreaks_dask.utils.optional import extras_named

MAX_RECORD_BYTES = 2**23
"""Bytes of one alert; one of ZTF takes 70 kB, one of LSST with its history some hundred."""

MAX_BLOCK_BYTES = 2**27
"""Bytes of one block of alerts, as it is stored and as it is decompressed."""

_MAGIC = b"Obj\x01"
_MAX_HEADER_BYTES = 2**22
_MAX_HEADER_ENTRIES = 1000
_MARK_BYTES = 16
_SCAN_BYTES = 2**20
_MAX_REFUSALS = 1000  # lost alerts of one block that are listed one by one
_WINDOWS = 2**18, MAX_RECORD_BYTES
_MAX_XZ_MEMORY = 2**28
_KAFKA_HINT = (
    "Avro without its schema, as it travels through Kafka: store each alert with its schema, as "
    "fastavro.writer does"
)


@dataclass(frozen=True)
class Block:
    """Records of an Avro file, not yet decoded.

    Attributes
    ----------
    schema : str
        JSON of the records' schema, as the file has it.
    codec : str
        How ``data`` are compressed, as the file names it.
    count : int
        Records that the file claims.
    data : bytes
        As stored.
    first : int
        Number of its first record in the file, from 0.
    alone : bool
        Whether the file has this one record and no other.
    """

    schema: str
    codec: str
    count: int
    data: bytes
    first: int = 0
    alone: bool = False


def read_blocks(stream: IO[bytes]) -> Iterator[Block | Refused]:
    """Read the blocks of an Avro file; nothing is decoded yet.

    Parameters
    ----------
    stream : file object
        Binary, at its beginning; can be sought in.

    Yields
    ------
    Block or Refused
        In their order. A part of the file that belongs to no block is refused, with what was found in its place.
    """
    try:
        schema, codec, mark = _header(stream)
    except UnreadableError as error:
        yield error.refused
        return
    first, number = 0, 0
    while (start := _skip_nothing(stream)) is not None:
        try:
            count, data, note, ended = _block(stream, mark)
        except UnreadableError as error:
            yield Refused("damaged", f"block {number}: {error.refused.detail}", f"[{first}]")
            if not _seek_mark(stream, start, mark):
                return
            number += 1
            continue
        alone = number == 0 and count == 1 and ended
        yield Block(schema, codec, count, data, first, alone)
        first += count
        number += 1
        if note:
            yield Refused("damaged", f"after block {number - 1}: {note}", f"[{first}]")
    if not number:
        yield Refused("not an alert", "no alerts in the file")


def count_records(stream: IO[bytes]) -> int:
    """Count the records that an Avro file claims; 1 for a file that cannot be read.

    Parameters
    ----------
    stream : file object
        Binary, at its beginning; can be sought in.

    Returns
    -------
    int
        At least 1, since a file that cannot be read is one input that is refused.
    """
    total = 0
    try:
        _, _, mark = _header(stream)
        while _skip_nothing(stream) is not None:
            count, size = _long(stream), _long(stream)
            if count < 0 or not 0 <= size <= MAX_BLOCK_BYTES:
                break
            stream.seek(size, io.SEEK_CUR)
            if stream.read(_MARK_BYTES) != mark:
                break
            total += count
    except UnreadableError:
        pass
    return max(total, 1)


def decode_block(block: Block) -> Iterator[tuple[int, Mapping[str, Any] | Refused]]:
    """Decode the records of a block.

    Parameters
    ----------
    block : Block
        As :func:`read_blocks` yields it.

    Yields
    ------
    tuple of int and (mapping or Refused)
        Number of each record in the file, and its fields. Where a record cannot be decoded, it and the rest of its
        block are refused, one by one: nobody knows where the next one begins.

    Raises
    ------
    MissingExtraError
        If fastavro is not installed.
    """
    with extras_named():
        import fastavro
    try:
        schema = parsed_schema(block.schema)
        data = _decompressed(block.data, block.codec)
    except UnreadableError as error:
        yield from _lost(block, 0, error.refused)
        return
    at = 0
    for k in range(block.count):
        try:
            record, taken = _record(fastavro.schemaless_reader, schema, data, at)
        except UnreadableError as error:
            yield from _lost(block, k, error.refused)
            return
        at += taken
        yield block.first + k, record
    if at < len(data):
        detail = f"{len(data) - at} bytes follow the alerts of a block, which belong to none"
        yield block.first + block.count, Refused("damaged", detail)


def _record(
    read: Callable[..., Any], schema: Any, data: bytes, at: int
) -> tuple[Mapping[str, Any], int]:
    """Decode one record, which may take so many bytes and no more; return it and the bytes that it took."""
    for most in _WINDOWS:  # a small one first: what is taken is copied
        stream = io.BytesIO(data[at : at + most] if at or most < len(data) else data)
        try:
            return read(stream, schema, None), stream.tell()
        except Exception as error:  # fastavro raises many kinds on damaged data
            more = at + most < len(data)
            if more and isinstance(error, EOFError) and most < MAX_RECORD_BYTES:
                continue
            if more and isinstance(error, EOFError):
                detail = f"more than {MAX_RECORD_BYTES} bytes, too many for one alert"
                raise UnreadableError("too large", detail) from error
            raise UnreadableError("damaged", f"{type(error).__name__}: {error}") from error
    raise AssertionError("the last window is not the largest")


def _lost(block: Block, k: int, why: Refused) -> Iterator[tuple[int, Refused]]:
    """Refuse a record and all that follow it in its block."""
    lost = block.count - k
    for number in range(k, k + min(lost, _MAX_REFUSALS)):
        yield block.first + number, why
    if lost > _MAX_REFUSALS:
        rest = f"{lost - _MAX_REFUSALS} more alerts that the block claims: {why.detail}"
        yield block.first + k + _MAX_REFUSALS, Refused(why.reason, rest)
    if not block.count:
        yield block.first, why


def _header(stream: IO[bytes]) -> tuple[str, str, bytes]:
    """Read schema, codec and mark of a file."""
    start = stream.read(len(_MAGIC))
    if not start:
        raise UnreadableError("empty", "no bytes")
    if start != _MAGIC:
        kafka = start[0] == 0 and len(start) == len(_MAGIC)
        raise UnreadableError("not an alert", _KAFKA_HINT if kafka else "not an Avro file")
    entries: dict[bytes, bytes] = {}
    while count := _long(stream):
        if count < 0:
            count, _ = -count, _long(stream)
        if count + len(entries) > _MAX_HEADER_ENTRIES:
            raise UnreadableError("damaged", f"its header claims {count} entries")
        for _ in range(count):
            name = _bytes(stream)
            entries[name] = _bytes(stream)
    mark = stream.read(_MARK_BYTES)
    if len(mark) < _MARK_BYTES:
        raise UnreadableError("damaged", "its header is cut short")
    if b"avro.schema" not in entries:
        raise UnreadableError("not an alert", "its header has no schema")
    schema = entries[b"avro.schema"].decode("utf-8", "replace")
    parsed_schema(schema)  # refused once for the whole file
    codec = entries.get(b"avro.codec", b"null").decode("utf-8", "replace") or "null"
    if codec not in _CODECS:
        known = ", ".join(_CODECS)
        raise UnreadableError(
            "not an alert", f"compressed with {codec[:40]!r}: the codecs {known} can be read"
        )
    return schema, codec, mark


def _skip_nothing(stream: IO[bytes]) -> int | None:
    """Return the position of the stream; None at its end."""
    at = stream.tell()
    if not stream.read(1):
        return None
    stream.seek(at)
    return at


def _block(stream: IO[bytes], mark: bytes) -> tuple[int, bytes, str, bool]:
    """Read a block to its mark: records claimed, bytes, what is wrong after it, and whether the file ends with it."""
    count, size = _long(stream), _long(stream)
    if count < 0:
        raise UnreadableError("damaged", f"it claims {count} alerts")
    start = stream.tell()
    if 0 <= size <= MAX_BLOCK_BYTES:
        data = stream.read(size)
        if stream.read(_MARK_BYTES) == mark:
            return count, data, "", _skip_nothing(stream) is None
        if _begins_block(stream, mark):
            return count, data, "the mark of its end is damaged", False
    else:
        data = b""
    if (end := _find(stream, start, mark)) is None:
        if size > MAX_BLOCK_BYTES:
            raise UnreadableError(
                "too large", f"it claims {size} bytes, more than {MAX_BLOCK_BYTES}"
            )
        if len(data) < size:
            return count, data, "", True  # cut short: its last alert says so
        return count, data, "the mark of its end is damaged, and no other follows", True
    stream.seek(end + _MARK_BYTES)
    if end - start > max(size, 0):  # its own mark is damaged
        if not 0 <= size <= MAX_BLOCK_BYTES:
            raise UnreadableError("damaged", f"it claims {size} bytes")
        lost = end - start - size - _MARK_BYTES
        note = f"{lost} bytes lie between blocks" if lost > 0 else "the mark of its end is damaged"
        return count, data, note, False
    stream.seek(start)
    data = stream.read(end - start)
    stream.seek(end + _MARK_BYTES)
    return count, data, f"it claims {size} bytes and has {end - start}", False


def _begins_block(stream: IO[bytes], mark: bytes) -> bool:
    """Return whether a whole block begins here, and stay here."""
    here = stream.tell()
    try:
        size = (_long(stream), _long(stream))[1]
        if not 0 <= size <= MAX_BLOCK_BYTES:
            return False
        stream.seek(size, io.SEEK_CUR)
        return stream.read(_MARK_BYTES) == mark
    except UnreadableError:
        return False
    finally:
        stream.seek(here)


def _seek_mark(stream: IO[bytes], start: int, mark: bytes) -> bool:
    """Go behind the next mark; return False if there is none."""
    found = _find(stream, start, mark)
    if found is not None:
        stream.seek(found + _MARK_BYTES)
    return found is not None


def _find(stream: IO[bytes], start: int, mark: bytes) -> int | None:
    """Return where the next mark begins."""
    stream.seek(start)
    before = b""
    while data := stream.read(_SCAN_BYTES):
        window = before + data
        if (at := window.find(mark)) >= 0:
            return start - len(before) + at
        before = window[-_MARK_BYTES + 1 :]
        start += len(data)
    return None


def _long(stream: IO[bytes]) -> int:
    """Read a number: zigzag, seven bits a byte."""
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            raise UnreadableError("damaged", "it is cut short")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return (value >> 1) ^ -(value & 1)
    raise UnreadableError("damaged", "a number in it has no end")


def _bytes(stream: IO[bytes]) -> bytes:
    size = _long(stream)
    if not 0 <= size <= _MAX_HEADER_BYTES:
        raise UnreadableError("damaged", f"its header claims an entry of {size} bytes")
    data = stream.read(size)
    if len(data) < size:
        raise UnreadableError("damaged", "its header is cut short")
    return data


def _decompressed(data: bytes, codec: str) -> bytes:
    try:
        return _CODECS[codec](data)
    except UnreadableError:
        raise
    except Exception as error:  # each codec raises its own kinds
        raise UnreadableError("damaged", f"{codec}: {error}") from error


def _inflate(data: bytes) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    unpacked = stream.decompress(data, MAX_BLOCK_BYTES)
    return _whole(unpacked, stream.eof, bool(stream.unconsumed_tail))


def _bunzip(data: bytes) -> bytes:
    stream = bz2.BZ2Decompressor()
    unpacked = stream.decompress(data, MAX_BLOCK_BYTES)
    return _whole(unpacked, stream.eof, not (stream.eof or stream.needs_input))


def _unxz(data: bytes) -> bytes:
    stream = lzma.LZMADecompressor(memlimit=_MAX_XZ_MEMORY)
    unpacked = stream.decompress(data, MAX_BLOCK_BYTES)
    return _whole(unpacked, stream.eof, not (stream.eof or stream.needs_input))


def _unzstd(data: bytes) -> bytes:
    with pa.input_stream(pa.py_buffer(data), compression="zstd") as stream:
        unpacked = stream.read(MAX_BLOCK_BYTES + 1)
    return _whole(unpacked, True, len(unpacked) > MAX_BLOCK_BYTES)


def _unsnap(data: bytes) -> bytes:
    """Decompress Snappy, whose length stands before it and whose checksum after it."""
    size = shift = 0
    for byte in data[:5]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    _whole(b"", True, size > MAX_BLOCK_BYTES)
    unpacked = pa.Codec("snappy").decompress(data[:-4], size, asbytes=True)
    if zlib.crc32(unpacked) != int.from_bytes(data[-4:], "big"):
        raise UnreadableError("damaged", "snappy: wrong checksum")
    return unpacked


def _whole(unpacked: bytes, ended: bool, more: bool) -> bytes:
    """Check that data were decompressed to their end."""
    if more:
        raise UnreadableError("too large", f"a block of more than {MAX_BLOCK_BYTES} bytes")
    if not ended:
        raise UnreadableError("damaged", "a compressed block is cut short")
    return unpacked


_CODECS: Mapping[str, Callable[[bytes], bytes]] = {
    "null": bytes,
    "deflate": _inflate,
    "snappy": _unsnap,
    "zstandard": _unzstd,
    "bzip2": _bunzip,
    "xz": _unxz,
}
