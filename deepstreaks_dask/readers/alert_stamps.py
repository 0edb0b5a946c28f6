"""The three cutouts of an alert: found by their names, decompressed within bounds, brought to one size."""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from astropy.io import fits

from deepstreaks_dask.readers.fits_checks import UnreadableError

PLANE_NAMES = "Science", "Template", "Difference"
"""The planes of a triplet in their order, braai's (Duev et al. 2019, MNRAS 489, 3582)."""

MAX_STAMP_SIDE = 1024
"""Pixels on a side of a cutout, at most."""

_MAX_STAMP_BYTES = 2**24
_FITS_BLOCK_BYTES = 2880
_MAX_UNITS = 8  # of a cutout: LSST's have image, mask, variance and PSF


@dataclass(frozen=True)
class Stamp:
    """One cutout: pixels, float32 ``(height, width)``, NaN where there is no number, and their unit as its header has it."""

    pixels: np.ndarray
    unit: str = ""


@lru_cache(4096)
def field_key(name: str) -> str:
    """Return a field's name as it is compared: ``cutout_science``, ``cutoutScience`` and ``b:cutoutScience`` are one."""
    return name.rpartition(":")[2].replace("_", "").lower()


def is_stamp_field(name: str) -> bool:
    """Return whether a field of an alert is named like a cutout."""
    return field_key(name).startswith("cutout")


def find_stamps(packet: Mapping[str, Any]) -> list[Stamp]:
    """Read the cutouts of an alert.

    Parameters
    ----------
    packet : mapping
        Fields of the alert. A cutout is bytes of a FITS file, gzipped or bzipped or not, or a record that has them.

    Returns
    -------
    list of Stamp
        Science, template and difference.

    Raises
    ------
    UnreadableError
        If one of them is missing or damaged, or has no pixel with a number.
    """
    found = {field_key(name): value for name, value in packet.items() if is_stamp_field(name)}
    if not found:
        raise UnreadableError(
            "missing cutout", "alerts of this kind carry no cutouts: ask for packets that have them"
        )
    return [_stamp(found, name.lower()) for name in PLANE_NAMES]


def place_stamp(pixels: np.ndarray, size: int, *, centred: bool) -> np.ndarray:
    """Bring a cutout to one size.

    Parameters
    ----------
    pixels : ndarray
        ``(height, width)``.
    size : int
        Pixels on a side that are wanted. Of a larger cutout the middle is taken.
    centred : bool
        Whether a smaller cutout is put in the middle, else at the first row and column, as braai does with those of
        the edge of ZTF's detectors.

    Returns
    -------
    ndarray
        float32 ``(size, size)``; NaN around a smaller cutout.
    """
    cut = tuple(
        slice((side - size) // 2, (side - size) // 2 + size) if side > size else slice(None)
        for side in pixels.shape
    )
    pixels = pixels[cut]
    plane = np.full((size, size), np.nan, np.float32)
    # an even cutout has its source right of the middle, as astropy's Cutout2D cuts it
    top, left = ((size // 2 - side // 2) if centred else 0 for side in pixels.shape)
    plane[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return plane


def _stamp(found: Mapping[str, Any], name: str) -> Stamp:
    packed = found.get(f"cutout{name}", found.get(f"cutout{name}stampdata"))
    if isinstance(packed, Mapping):
        fields = {field_key(key): value for key, value in packed.items()}
        packed = fields.get("stampdata", next(filter(_is_binary, fields.values()), None))
    if not isinstance(packed, bytes) or not packed:
        raise UnreadableError("missing cutout", f"no {name} cutout")
    hdu = _image(_unpacked(packed, name), name)
    shape = hdu.shape
    if len(shape) != 2 or not all(0 < side <= MAX_STAMP_SIDE for side in shape):
        size = " x ".join(str(side) for side in reversed(shape)) or "no"
        raise UnreadableError("wrong shape", f"the {name} cutout has {size} px")
    with np.errstate(over="ignore", invalid="ignore"):
        pixels = np.asarray(hdu.data).astype(np.float32)
    known = np.isfinite(pixels)
    if not known.any():
        raise UnreadableError("blank", f"no pixel of the {name} cutout holds a number")
    unit = hdu.header.get("BUNIT", "")
    return Stamp(np.where(known, pixels, np.nan), unit if isinstance(unit, str) else "")


def _is_binary(value: Any) -> bool:
    return isinstance(value, bytes)


def _image(data: bytes, name: str) -> Any:
    """Return the first image of a FITS file in memory."""
    hdu = fits.PrimaryHDU.fromstring(data, ignore_missing_simple=True)
    at = 0
    for _ in range(_MAX_UNITS):
        if hdu.header.get("NAXIS"):
            return hdu
        at += -(-len(hdu.header.tostring()) // _FITS_BLOCK_BYTES) * _FITS_BLOCK_BYTES
        if not data[at:].startswith(b"XTENSION"):
            return hdu
        hdu = fits.ImageHDU.fromstring(data[at:])
    raise UnreadableError("wrong shape", f"no image in the {name} cutout")


def _unpacked(packed: bytes, name: str) -> bytes:
    """Decompress a cutout, unless it grows beyond all bounds."""
    if packed.startswith(b"SIMPLE"):
        return packed[:_MAX_STAMP_BYTES]
    if packed.startswith(b"BZh"):
        unzip = bz2.BZ2Decompressor()
        data = unzip.decompress(packed, _MAX_STAMP_BYTES)
        more = not unzip.eof and not unzip.needs_input
        ended = unzip.eof
    else:
        stream = zlib.decompressobj(wbits=31)
        data = stream.decompress(packed, _MAX_STAMP_BYTES)
        more, ended = bool(stream.unconsumed_tail), stream.eof
    if more or not ended:
        detail = "holds more than its pixels" if more else "is cut short"
        raise UnreadableError("damaged", f"the {name} cutout {detail}")
    return data
