"""Tar archives as streams: read member by member, never unpacked, believed in nothing."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Self, cast

from deepstreaks_dask.readers.folder import Refused
from deepstreaks_dask.utils.progress import progress_bar

SUFFIXES = (".tar.gz", ".tgz", ".tar")

WRONG_CHECKSUM = "wrong checksum"
"""Reason for an archive that is whole but for its checksum: nobody knows which of its members are."""

_MAX_NAME_LENGTH = 255
_BLOCK_BYTES = 2**16
_MAX_MEMBER_BYTES = 2**26  # bytes from one member to the next: headers, and what is skipped
_MAX_COMPRESSION_RATIO = 30  # data that is worth archiving does not compress so well
_LARGE_ARCHIVE_BYTES = 2**28  # bytes of an archive that takes a while to count


def is_tarball(file: Path) -> bool:
    """Say whether a file is named like a tar archive, gzipped or not."""
    return file.name.lower().endswith(SUFFIXES)


def members(file: Path, most: int) -> Iterator[tuple[str, bytes | Refused]]:
    """Read the files in a tar archive in its order. Never raises for what is in it.

    Parameters
    ----------
    file : Path
        Gzipped or not.
    most : int
        Bytes of the largest member that is read.

    Yields
    ------
    tuple of str and (bytes or Refused)
        Name of a member and its bytes, or why it is not read: its name leads out of a folder, it is no
        regular file, it is larger than ``most``. Hidden files and folders are passed over. Where the archive
        is damaged, holds nothing, or grows beyond all bounds as it is decompressed, that is the last, with an empty name.
        Members before are whole, unless its reason is :data:`WRONG_CHECKSUM`.
    """
    try:
        with file.open("rb") as opened:
            yield from _members(opened, file.stat().st_size, most)
    except gzip.BadGzipFile as error:
        wrong = "CRC" in str(error) or "length" in str(error)
        yield "", Refused(WRONG_CHECKSUM if wrong else "damaged", str(error))
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
        yield "", Refused("damaged", f"the archive cannot be read on: {error}")


def count_members(file: Path) -> int:
    """Count what :func:`members` yields; shows its progress where that takes a while."""
    size = file.stat().st_size
    counted = 0
    with progress_bar("count", size, unit="bytes", show=size > _LARGE_ARCHIVE_BYTES) as bar:
        try:
            with file.open("rb") as opened:
                for _ in _members(opened, size, 0):
                    counted += 1
                    bar.advance(opened.tell() - bar.done)
        except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError):
            counted += 1
    return counted


def _members(opened: IO[bytes], size: int, most: int) -> Iterator[tuple[str, bytes | Refused]]:
    stream = _Bounded(opened, size)
    holds_something = False
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|", tarinfo=_Header) as archive:
        while (member := archive.next()) is not None:
            holds_something = True
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            stream.step = 0
            name = member.name.encode("utf-8", "surrogateescape").decode(
                "utf-8", "backslashreplace"
            )
            path = PurePosixPath(name.replace("\\", "/"))
            if member.isdir() or path.name.startswith("."):
                continue
            if (
                path.is_absolute()
                or ".." in path.parts
                or ":" in name
                or len(name) > _MAX_NAME_LENGTH
            ):
                yield (
                    name[:_MAX_NAME_LENGTH],
                    Refused("unsafe name", "it leads out of the folder, or is overlong"),
                )
            elif not member.isreg():
                yield name, Refused("not a file", "a link, a device or the like")
            elif member.size > most:
                yield name, Refused("too large", f"{member.size} bytes, more than {most}")
            else:
                data = archive.extractfile(member)
                yield name, data.read() if data else b""
        stream.step = 0
        while rest := archive.fileobj.read(_BLOCK_BYTES):
            if rest.strip(b"\0"):  # nothing but padding, and then the checksum
                raise tarfile.ReadError("data after the end")
        # Zeros alone are what a download leaves that reserved its space and stopped.
        if not holds_something:
            yield "", Refused("empty", "the archive holds no files")


class _Header(tarfile.TarInfo):
    """A member's header; a damaged one is an error, where tarfile would take it for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
            raise  # a block of zeros: the end as it should be; or nothing, as some programs end
        except tarfile.HeaderError as error:
            raise ValueError(f"no header where one should be: {error}") from error


class _Bounded:
    """Bytes of an archive, decompressed, and no more of them than can be honest."""

    def __init__(self, opened: IO[bytes], size: int) -> None:
        packed = opened.read(2) == b"\x1f\x8b"
        opened.seek(0)
        self._stream: IO[bytes] | gzip.GzipFile = (
            gzip.GzipFile(fileobj=opened) if packed else opened
        )
        self._left = _MAX_MEMBER_BYTES + _MAX_COMPRESSION_RATIO * size
        self.step = 0

    def read(self, n: int) -> bytes:
        data = self._stream.read(n)
        self._left -= len(data)
        self.step += len(data)
        if self._left < 0 or self.step > _MAX_MEMBER_BYTES:
            raise OSError("it grows beyond all bounds")
        return data
