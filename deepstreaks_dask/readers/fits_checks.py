"""Check a FITS file's structure before it is opened."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import Any

from astropy.io import fits

from deepstreaks_dask.readers.folder import Refused, leads_out

_BLOCK_BYTES = 2880
_MAX_AXES = 8
_MAX_UNITS = 512
_MAX_HEADER_BYTES = 2**21
_MAX_UNPACKED_BYTES = 2**30  # of an image that must be decompressed before it can be read
_MAX_TILE_PIXELS = 2**24  # pixels of one tile of an fpack image
_PACKERS = {b"\x1f\x8b": gzip, b"BZh": bz2, b"\xfd7zXZ": lzma}
_HCOMPRESS_HEADER_BYTES = 25  # magic, two sides, scale, sum of the pixels, bit planes
_MAX_BIT_PLANES = 64
_END_CARD = re.compile(rb"END(?![A-Z0-9_-])")
_COUNT_CARD = re.compile(
    rb"(HIERARCH\s+)?(?P<key>Z?NAXIS\d*|BITPIX|PCOUNT|GCOUNT|TFIELDS)\s*="
    rb"(\s*(?P<value>[+-]?\d{1,19})\s*(/.*)?$)?",
    re.IGNORECASE,
)


class UnreadableError(Exception):
    """Why a file or an image in it cannot be read.

    Parameters
    ----------
    reason : str
        In a few words; what is refused is counted by it.
    detail : str
        What exactly.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.refused = Refused(reason, detail)


@contextmanager
def open_checked(file: Path, root: Path, most: int = _MAX_UNITS) -> Iterator[fits.HDUList]:
    """Open a FITS file, packed by gzip, bzip2 or xz or not, of at most so many header and data units.

    Nothing that a header claims is allocated before it is checked against the length of the file.

    Parameters
    ----------
    file : Path
        To open.
    root : Path
        Folder that it must lie in, resolved.
    most : int
        Header and data units at most.

    Yields
    ------
    astropy.io.fits.HDUList
        Open while the block runs.

    Raises
    ------
    UnreadableError
        If it is no FITS file, leads out of the folder ``root``, is cut short, or claims what cannot be.
    """
    if leads_out(file, root):
        raise UnreadableError("not FITS", "a link that leads out of the folder")
    with file.open("rb") as opened:
        start = opened.read(9)
    if not start:
        raise UnreadableError("empty", "no bytes")
    with ExitStack() as stack:
        if packer := next((p for magic, p in _PACKERS.items() if start.startswith(magic)), None):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="deepstreaks-"))
            file = _unpack(file, Path(folder) / "unpacked.fits", packer)
            with file.open("rb") as opened:
                start = opened.read(9)
        if start != b"SIMPLE  =":
            raise UnreadableError("not FITS", "the first bytes are not those of a FITS file")
        _check_layout(file, most)
        # sections are read where they lie; a memory map would not do for scaled integers
        with fits.open(file, memmap=False) as hdus:
            yield hdus


def _unpack(file: Path, target: Path, packer: Any) -> Path:
    """Decompress a file, unless it grows beyond all bounds."""
    written = 0
    try:
        with packer.open(file) as packed, target.open("wb") as out:
            while data := packed.read(2**20):
                written += out.write(data)
                if written > _MAX_UNPACKED_BYTES:
                    detail = f"more than {_MAX_UNPACKED_BYTES} bytes when decompressed"
                    raise UnreadableError("wrong shape", detail)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise UnreadableError("damaged", f"{packer.__name__}: {error}") from error
    return target


def _check_layout(file: Path, most: int) -> None:
    """Walk from header to header and refuse what claims more than there is.

    Astropy counts to whatever a header names before it looks at the file.
    """
    length, position, units = file.stat().st_size, 0, 0
    with file.open("rb") as opened:
        while position < length:
            opened.seek(position)
            header, ended = b"", False
            while not ended:
                block = opened.read(_BLOCK_BYTES)
                if position and not header and not block.startswith(b"XTENSION"):
                    return  # whatever follows the last unit is none
                header += block
                if len(block) < _BLOCK_BYTES or len(header) > _MAX_HEADER_BYTES:
                    raise UnreadableError("damaged", f"header {units} has no end")
                ended = any(_END_CARD.match(block, k) for k in range(0, _BLOCK_BYTES, 80))
            size = _size(header, units)
            position += len(header)
            if position + size > length:
                claimed = f"header {units} claims {size} bytes of data, {length - position} follow"
                raise UnreadableError("damaged", claimed)
            position += -(-size // _BLOCK_BYTES) * _BLOCK_BYTES
            units += 1
            if units > most:
                raise UnreadableError("wrong shape", f"more than {most} units in the file")


def _size(header: bytes, unit: int) -> int:
    """Bytes of data that a header claims (FITS standard 4.0, equations 1 and 2)."""
    found: dict[str, int] = {}
    for card in (header[k : k + 80] for k in range(0, len(header), 80)):
        if match := _COUNT_CARD.match(card):
            key = match["key"].decode().upper()
            if key in found or match["value"] is None:
                raise UnreadableError(
                    "damaged", f"header {unit} has {key} twice, or no number in it"
                )
            found[key] = int(match["value"])
    axes = found.get("NAXIS", -1)
    sides = [found.get(f"NAXIS{k}", -1) for k in range(1, min(axes, _MAX_AXES) + 1)]
    counts = (found.get("PCOUNT", 0), found.get("GCOUNT", 1), found.get("TFIELDS", 0))
    if (
        not 0 <= axes <= _MAX_AXES
        or not 0 <= found.get("ZNAXIS", 0) <= _MAX_AXES
        or min(*sides, *counts, 0) < 0
        or counts[2] > 999
        or (axes > 1 and sides[0] == 0)  # random groups
        or found.get("BITPIX") not in (8, 16, 32, 64, -32, -64)
    ):
        raise UnreadableError("damaged", f"header {unit} has counts that cannot be")
    pixels = prod(sides) if axes else 0
    return abs(found["BITPIX"]) // 8 * counts[1] * (counts[0] + pixels)


def check_packed(file: Path, numbers: list[int]) -> None:
    """Check the headers of fpack images: the decoders are written in C and trust them.

    Parameters
    ----------
    file : Path
        FITS file whose structure was checked.
    numbers : list of int
        Numbers of the units that hold packed images.

    Raises
    ------
    UnreadableError
        If a header claims a tile, a size or a compression that is not supported, or a tile unpacks to more than its pixels.
    """
    with fits.open(file, memmap=True, disable_image_compression=True) as hdus:
        for number in numbers:
            header = hdus[number].header
            axes = range(1, header["ZNAXIS"] + 1)
            sides = [header[f"ZNAXIS{k}"] for k in axes]
            tile = [header.get(f"ZTILE{k}", sides[0] if k == 1 else 1) for k in axes]
            settings = {
                str(header[f"ZNAME{k}"]).upper(): header[f"ZVAL{k}"]
                for k in range(1, 10)
                if f"ZNAME{k}" in header
            }
            allowed = {
                "ZCMPTYPE": header["ZCMPTYPE"]
                in ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "HCOMPRESS_1", "NOCOMPRESS"),
                "SCALE": 0 <= float(settings.get("SCALE", 0)) < 1e6,
                "SMOOTH": settings.get("SMOOTH", 0) in (0, 1),
                "ZNAXIS": all(type(n) is int and 0 < n < 2**31 for n in sides),
                "ZTILE": all(type(n) is int and n > 0 for n in tile)
                and prod(tile) <= _MAX_TILE_PIXELS,
                "BLOCKSIZE": settings.get("BLOCKSIZE", 32) in (16, 32),
                "BYTEPIX": settings.get("BYTEPIX", 4) in (1, 2, 4),
                "ZDITHER0": header.get("ZDITHER0", 1) in range(1, 10001),
            }
            if wrong := [key for key, fine in allowed.items() if not fine]:
                detail = f"image {number} is packed with a {wrong[0]} that is not supported"
                raise UnreadableError("damaged", detail)
            if prod(sides) * abs(header["ZBITPIX"]) // 8 > 8 * _MAX_UNPACKED_BYTES:
                raise UnreadableError("wrong shape", f"image {number} claims {prod(sides)} pixels")
            if header["ZCMPTYPE"] == "HCOMPRESS_1":
                _check_hcompress(hdus[number], prod(tile))
            _check_tiles(hdus[number], prod(tile) * 8)


def _check_hcompress(table: Any, most: int) -> None:
    """Refuse HCOMPRESS tiles whose own header claims more pixels than the tile has."""
    for tile in table.data["COMPRESSED_DATA"]:
        data = tile.tobytes()
        if not data:  # packed otherwise, or blank
            continue
        if len(data) < _HCOMPRESS_HEADER_BYTES or not data.startswith(b"\xdd\x99"):
            raise UnreadableError("damaged", "a tile is not packed by HCOMPRESS")
        height, width = (int.from_bytes(data[k : k + 4]) for k in (2, 6))
        if not 0 < height * width <= most or max(data[22:25]) > _MAX_BIT_PLANES:
            raise UnreadableError("damaged", "an HCOMPRESS tile claims more than its pixels")


def _check_tiles(table: Any, most: int) -> None:
    """Refuse gzipped tiles that hold more than ``most`` bytes: they would be decompressed whole."""
    packed = str(table.header["ZCMPTYPE"]).startswith("GZIP")
    for name in ("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA"):
        if name not in table.columns.names or (name == "COMPRESSED_DATA" and not packed):
            continue
        for tile in table.data[name]:
            stream = zlib.decompressobj(wbits=31)
            stream.decompress(tile.tobytes(), most)
            if stream.unconsumed_tail:
                raise UnreadableError("damaged", "a gzipped tile holds more than its pixels")
