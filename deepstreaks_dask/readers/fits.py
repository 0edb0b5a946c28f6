"""FITS and fpack cutouts and image sections, brought to the 8-bit domain by a stated stretch.

The format is that of Pence et al. (2010, A&A 524, A42). What the header says of sky, time and filter goes to the archive's
columns. Cutting cutouts out of whole images
is :mod:`deepstreaks_dask.readers.positions`.
"""

from __future__ import annotations

import gzip
import re
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.stats import sigma_clipped_stats
from astropy.time import Time
from astropy.visualization import BaseInterval, LinearStretch, ZScaleInterval
from astropy.wcs import WCS
from PIL import Image

from deepstreaks_dask.archive import CutoutBatch
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.folder import (
    SMALLEST,
    Folder,
    Picture,
    Refused,
    decode_all,
    leads_out,
    list_files,
)
from deepstreaks_dask.readers.images import SUFFIXES as PICTURES
from deepstreaks_dask.readers.images import to_cutout
from deepstreaks_dask.readers.tables import read_metadata

SUFFIXES = (".fits", ".fit", ".fts", ".fits.gz", ".fit.gz", ".fts.gz", ".fz")
LARGEST = 512
"""Side in pixels above which an image is a whole one, to be cut at positions, and no cutout."""

_BATCH = 64
_BLOCK = 2880
_MOST_AXES = 8
_MOST_UNITS = 512
_MOST_HEADER = 2**21
_MOST_BYTES = 2**30  # of an image that must be decompressed before it can be read
_MOST_TILE = 2**24  # pixels of one tile of an fpack image
_NOT_SKY = ("MASK", "MSK", "DQ", "ERR", "ERROR", "VAR", "VARIANCE", "WHT", "WGT", "WEIGHT", "PSF")
_WCS_KEYS = re.compile(
    r"(CTYPE|CRVAL|CRPIX|CDELT|CROTA|CUNIT)[12]|(CD|PC)[12]_[12]|PV[12]_\d{1,2}"
    r"|(A|B|AP|BP)_(ORDER|DMAX|\d_\d)|LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX"
)
_END = re.compile(rb"END(?![A-Z0-9_-])")
_COUNT = re.compile(
    rb"(HIERARCH\s+)?(?P<key>Z?NAXIS\d*|BITPIX|PCOUNT|GCOUNT|TFIELDS)\s*="
    rb"(\s*(?P<value>[+-]?\d{1,19})\s*(/.*)?$)?",
    re.IGNORECASE,
)
_MIDDLE = ("MJD-AVG", "DATE-AVG")
_ENDS = (("MJD-BEG", "MJD-END"), ("DATE-BEG", "DATE-END"), ("SHUTOPEN", "SHUTCLSD"))  # ZTF's last
_START = ("MJD-OBS", "DATE-OBS", "OBSMJD", "OBSJD", "JD")
_EXPOSURE = ("XPOSURE", "EXPTIME", "EXPOSURE", "AEXPTIME")
_FILTER = ("FILTER", "BAND", "FILTER1", "FILTERID")
_TIMES = (*_MIDDLE, *sum(_ENDS, ()), *_START, *_EXPOSURE, "TIMESYS", "TIME-OBS", "UTC-OBS")
_KEYS = re.compile("|".join([_WCS_KEYS.pattern, *_TIMES, *_FILTER]))
_ZTF_FILTERS = {"1": "g", "2": "r", "3": "i"}


class SigmaInterval(BaseInterval):
    """From ``below`` standard deviations under the background to ``above`` over it.

    Background and deviation are the sigma-clipped median and standard deviation; 2.5 and 10 are what the real
    ZTF cutouts at hand show, and what the simulation gives.

    Parameters
    ----------
    below, above : float
        Standard deviations of the background.
    """

    def __init__(self, below: float = 2.5, above: float = 10.0) -> None:
        self.below, self.above = below, above

    def get_limits(self, values: np.ndarray) -> tuple[float, float]:
        """Give the ends of the interval, in the units of ``values``, an image ``(y, x)``."""
        _, median, sigma = sigma_clipped_stats(values)
        return median - self.below * sigma, median + self.above * sigma


STRETCHES: dict[str, BaseInterval] = {
    "linear(-2.5 sigma, +10 sigma)": SigmaInterval(),
    "zscale": ZScaleInterval(),
}
"""Intervals that are mapped linearly to 255 (their lower end) … 0, by the name that ``source`` records."""

ZTF_STRETCH = next(iter(STRETCHES))


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


@dataclass(frozen=True)
class FitsFolder:
    """Reader ``fits``: see :meth:`read`.

    Attributes
    ----------
    stretch : str
        One of :data:`STRETCHES`; cutouts are named with it in the column ``source``.
    """

    stretch: str = ZTF_STRETCH
    name = "fits"
    processes = True

    def sniff(self, path: Path) -> bool:
        """Say whether ``path`` is a FITS file, or a folder with some and no pictures of other formats."""
        names = [f.name.lower() for f in list_files(path)]
        return any(n.endswith(SUFFIXES) for n in names) and not any(
            n.endswith(PICTURES) for n in names
        )

    def count(self, path: Path) -> int:
        """Give the number of files."""
        return len(list_files(path))

    def read(
        self,
        path: Path,
        *,
        table: Path | None = None,
        night: int | None = None,
        executor: Executor | None = None,
    ) -> Iterator[CutoutBatch]:
        """Read a file, or a folder and its sub-folders in the order of their names; each image is a cutout.

        Parameters
        ----------
        path : Path
            FITS as it is, gzipped or fpacked (Rice or gzip tiles). Every two-dimensional image in a
            file is taken but masks and errors, which go by their EXTNAME.
        table : Path, optional
            CSV, Parquet or ECSV as the reader ``images`` takes it; goes before what headers say.
        night : int, optional
            ``YYYYMMDD`` of all cutouts. Else the table's, else that of a folder so named, else the UTC
            date of mid-exposure, else 0.
        executor : concurrent.futures.Executor, optional
            Where to decode; threads by default. Processes, or Dask's ``client.get_executor()``, are
            faster for many small files, since most of the work is Python's.

        Yields
        ------
        CutoutBatch
            Rows run from top to bottom as displays show them. Pixels without a number are painted as the
            background. Files and images that are damaged, empty, blank, not FITS or of a wrong shape are in
            ``quarantined``.

        Raises
        ------
        ReaderError
            If the folder or the table cannot be read, or the table speaks of none of the files.
        """
        check_stretch(self.stretch)
        folder = Folder(path, table, night=night)
        if table:
            folder.match(read_metadata(table), table)
        work = partial(_decode_file, root=folder.root, stretch=self.stretch)
        for decoded in quietly(decode_all(work, folder.files, _BATCH, executor, together=8)):
            yield folder.batch((file, found) for file, several in decoded for found in several)


READER = FitsFolder()


def check_stretch(name: str) -> None:
    """Refuse a stretch that there is none of.

    Parameters
    ----------
    name : str
        Of a stretch.

    Raises
    ------
    ReaderError
        Names those there are.
    """
    if name not in STRETCHES:
        raise ReaderError(f"no stretch {name!r}: choose one of {', '.join(map(repr, STRETCHES))}")


def develop(data: np.ndarray, stretch: str = ZTF_STRETCH) -> np.ndarray:
    """Turn measured pixels into a grey picture, sources dark on light grey as the networks know them.

    Parameters
    ----------
    data : ndarray
        ``(height, width)``, any number type, the first row at the bottom of the sky as FITS has it.
        What is not finite is masked.
    stretch : str
        One of :data:`STRETCHES`.

    Returns
    -------
    ndarray
        uint8 ``(height, width)``, the first row at the top. Masked pixels are as grey as the background.

    Raises
    ------
    UnreadableError
        If there is no pixel with a number, or all have the same.
    """
    values = np.asarray(data, dtype=np.float64)
    known = np.isfinite(values)
    if not known.any():
        raise UnreadableError("blank", "no pixel holds a number")
    with np.errstate(all="ignore"):
        low, high = STRETCHES[stretch].get_limits(values[known])
        if not (isfinite(low) and isfinite(high) and isfinite(high - low) and high > low):
            raise UnreadableError("blank", "the pixels are all alike, or beyond all measure")
        filled = np.where(known, values, np.median(values[known]))
        grey = LinearStretch(slope=-1, intercept=1)((filled - low) / (high - low), clip=True)
    return np.flipud(np.rint(255 * grey).astype(np.uint8))


def quietly(blocks: Iterator[Any]) -> Iterator[Any]:
    """Take blocks without astropy's warnings of headers that it mends or ignores."""
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            block = next(blocks, None)
        if block is None:
            return
        yield block


@dataclass(frozen=True)
class FitsImage:
    """An image in an open FITS file.

    Attributes
    ----------
    number : int
        Of its header and data unit, from 0.
    shape : tuple of int
        Slowest axis first.
    section : array-like
        Read from the file as it is indexed.
    header : mapping
        As :func:`readable_cards` gives it, with what the file's first header says beneath it.
    """

    number: int
    shape: tuple[int, ...]
    section: Any
    header: Mapping[str, Any]

    @property
    def size(self) -> str:
        """Width and height in words."""
        return " x ".join(str(n) for n in reversed(self.shape)) + " px"


@contextmanager
def open_checked(file: Path, root: Path, most: int = _MOST_UNITS) -> Iterator[fits.HDUList]:
    """Open a FITS file, gzipped or not, of at most so many header and data units.

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
        if start.startswith(b"\x1f\x8b"):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="deepstreaks-"))
            file = _gunzip(file, Path(folder) / "unzipped.fits")
            with file.open("rb") as opened:
                start = opened.read(9)
        if start != b"SIMPLE  =":
            raise UnreadableError("not FITS", "the first bytes are not those of a FITS file")
        _check_layout(file, most)
        # sections are read where they lie; a memory map would not do for scaled integers
        with fits.open(file, memmap=False) as hdus:
            yield hdus


@contextmanager
def open_images(file: Path, root: Path) -> Iterator[list[FitsImage]]:
    """Open a FITS file for reading its images; no more of one is read than the sections that are asked for.

    Parameters
    ----------
    file : Path
        To open.
    root : Path
        Folder that it must lie in, resolved.

    Yields
    ------
    list of FitsImage
        Open while the block runs.

    Raises
    ------
    UnreadableError
        As :func:`open_checked`, and if there is no image.
    """
    with open_checked(file, root) as hdus:
        images = [
            (number, hdu)
            for number, hdu in enumerate(hdus)
            if hdu.is_image and hdu.shape and 0 not in hdu.shape
            if str(hdu.name).upper() not in _NOT_SKY
        ]
        if not images:
            raise UnreadableError("not an image", "no image in the file")
        packed = [n for n, hdu in images if isinstance(hdu, fits.CompImageHDU)]
        if packed:
            _check_packed(Path(hdus.filename()), packed)
        yield [
            FitsImage(n, hdu.shape, hdu.section, readable_cards(hdus[0].header, hdu.header))
            for n, hdu in images
        ]


def readable_cards(*headers: fits.Header) -> dict[str, Any]:
    """Give what headers say of sky, time and filter, the later over the earlier, if it can be read."""
    cards: dict[str, Any] = {}
    for header in headers:
        for key in filter(_KEYS.fullmatch, header):
            try:
                if isinstance(value := header[key], bool | int | float | str):
                    cards[key] = value
            except (fits.VerifyError, ValueError):  # one bad card does not spoil the others
                continue
    return cards


def observed(header: Mapping[str, Any]) -> dict[str, Any]:
    """Read mid-exposure and filter from a header.

    Parameters
    ----------
    header : mapping
        As :func:`readable_cards` gives it.

    Returns
    -------
    dict
        Of ``jd`` (UTC), ``night`` and ``filter`` what is known. From FITS's own keywords (FITS standard
        4.0, section 9), ZTF's and the customary ones. Where an exposure's length is not known, neither is its middle.
    """
    said: dict[str, Any] = {}
    scale = str(header.get("TIMESYS", "UTC")).strip().lower()
    scale = scale if scale in ("tai", "tt", "tdb", "tcg", "tcb") else "utc"
    middle = next((t for t in (_moment(header, key, scale) for key in _MIDDLE) if t), None)
    for begin, end in _ENDS:
        ends = _moment(header, begin, scale), _moment(header, end, scale)
        if middle is None and ends[0] and ends[1] and ends[0] <= ends[1] < ends[0] + 1:
            middle = (ends[0] + ends[1]) / 2
    starts = (_moment(header, key, scale) for key in (*_START, *(b for b, _ in _ENDS)))
    start = next((t for t in starts if t), None)
    exposure = next((header[key] for key in _EXPOSURE if key in header), None)
    if middle is None and start and isinstance(exposure, int | float) and 0 <= exposure < 86400:
        middle = start + exposure / 2 / 86400
    if middle:
        said["jd"] = middle
    if day := middle or start:
        said["night"] = int(Time(day, format="jd").strftime("%Y%m%d"))
    band = next(
        (str(header[key]).strip() for key in _FILTER if str(header.get(key, "")).strip()), ""
    )
    if band:
        band = re.split(r"[\s.]", band.removeprefix("ZTF_").removeprefix("ztf_"))[0]
        band = _ZTF_FILTERS.get(band, band)
        said["filter"] = band.lower() if band in ("G", "R", "I") else band[:16]
    return said


def sky(header: Mapping[str, Any]) -> WCS | None:
    """Read the celestial coordinate system of an image, None where it has none that can be used.

    Only the cards that describe the two axes are looked at (FITS papers I and II, with the
    conventions SIP and TPV).

    Parameters
    ----------
    header : astropy.io.fits.Header
        Of the image.

    Returns
    -------
    astropy.wcs.WCS or None
        Of two celestial axes.
    """
    cards = {key: value for key, value in header.items() if _WCS_KEYS.fullmatch(key)}
    if not str(cards.get("CTYPE1", "")).strip():
        return None
    if not str(cards["CTYPE1"]).rstrip().endswith("-SIP"):
        cards = {k: v for k, v in cards.items() if not re.match(r"(A|B|AP|BP)_", k)}
    for key in ("A_ORDER", "B_ORDER", "AP_ORDER", "BP_ORDER"):
        if key in cards and cards[key] not in range(10):  # it sizes an array
            return None
    try:
        wcs = WCS(fits.Header(cards), naxis=2)
        return wcs if wcs.has_celestial else None
    except Exception:  # wcslib has a kind of its own for everything that can be wrong
        return None


def place(wcs: WCS | None, x: float, y: float) -> dict[str, float]:
    """Give ``ra`` and ``dec`` (ICRS, degrees) of a pixel counted from 0; nothing where they are not known.

    Parameters
    ----------
    wcs : astropy.wcs.WCS or None
        The image's.
    x, y : float
        Pixels, the middle of the first one at 0.

    Returns
    -------
    dict of str to float
        ``ra`` and ``dec``, or empty.
    """
    if wcs is None:
        return {}
    try:
        if wcs.wcs.radesys == "ICRS" and wcs.wcs.lngtyp == "RA":  # without the toll of SkyCoord
            ra, dec = (float(v) for v in wcs.all_pix2world(x, y, 0, ra_dec_order=True))
        else:
            coordinate = wcs.pixel_to_world(x, y)
            assert isinstance(coordinate, SkyCoord)
            ra, dec = float(coordinate.icrs.ra.deg), float(coordinate.icrs.dec.deg)
    except Exception:  # as above; frames without a way to ICRS, too
        return {}
    return {"ra": ra, "dec": dec} if isfinite(ra) and isfinite(dec) else {}


def _decode_file(file: Path, root: Path, stretch: str) -> list[Picture | Refused]:
    """Decode the images of one file, or say why not. Never raises: one bad file must not stop a night."""
    try:
        with open_images(file, root) as images:
            return [_decode_image(image, len(images) > 1, stretch) for image in images]
    except UnreadableError as error:
        return [error.refused]
    except Exception as error:  # astropy raises many kinds on damaged files
        return [Refused("damaged", f"{type(error).__name__}: {error}")]


def _decode_image(image: FitsImage, several: bool, stretch: str) -> Picture | Refused:
    where = f"[{image.number}]"
    thick = [axis for axis, n in enumerate(image.shape) if n > 1]
    shape = image.shape[thick[0] :] if thick else ()
    if len(shape) != 2 or min(shape) < SMALLEST or max(shape) > 2 * min(shape):
        return Refused("wrong shape", f"{image.size} is no cutout", where)
    if max(shape) > LARGEST:
        hint = "cut it at positions with --reader positions and a --table of them"
        return Refused("wrong shape", f"{image.size} is a whole image: {hint}", where)
    try:
        native = develop(image.section[...].reshape(shape), stretch)
    except UnreadableError as error:
        return Refused(error.refused.reason, error.refused.detail, where)
    except Exception as error:  # astropy raises many kinds on damaged data
        return Refused("damaged", f"{type(error).__name__}: {error}", where)
    middle = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    return Picture(
        to_cutout(Image.fromarray(native)),
        native,
        part=where if several else "",
        where=f"{where} {stretch}",
        said=observed(image.header) | place(sky(image.header), *middle),
    )


def _moment(header: Mapping[str, Any], key: str, scale: str) -> float | None:
    """Julian date (UTC) of a card, None where it gives none between 1850 and 2150."""
    value = header.get(key)
    try:
        if isinstance(value, str):
            if "T" not in value:  # a day alone, its time in another card
                value += f"T{header.get('TIME-OBS') or header['UTC-OBS']}"
            moment = Time(value.strip(), format="isot", scale=scale)
        else:
            form = "mjd" if "MJD" in key else "jd"
            moment = Time(float(value), format=form, scale=scale)  # type: ignore[arg-type]
        jd = float(moment.utc.jd)
    except Exception:  # missing, or no date
        return None
    return jd if 2396759 < jd < 2506332 else None


def _gunzip(file: Path, target: Path) -> Path:
    """Decompress a file, unless it grows beyond all bounds."""
    written = 0
    try:
        with gzip.open(file) as packed, target.open("wb") as out:
            while data := packed.read(2**20):
                written += out.write(data)
                if written > _MOST_BYTES:
                    detail = f"more than {_MOST_BYTES} bytes when decompressed"
                    raise UnreadableError("wrong shape", detail)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UnreadableError("damaged", f"gzip: {error}") from error
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
                block = opened.read(_BLOCK)
                if position and not header and not block.startswith(b"XTENSION"):
                    return  # whatever follows the last unit is none
                header += block
                if len(block) < _BLOCK or len(header) > _MOST_HEADER:
                    raise UnreadableError("damaged", f"header {units} has no end")
                ended = any(_END.match(block, k) for k in range(0, _BLOCK, 80))
            size = _size(header, units)
            position += len(header)
            if position + size > length:
                claimed = f"header {units} claims {size} bytes of data, {length - position} follow"
                raise UnreadableError("damaged", claimed)
            position += -(-size // _BLOCK) * _BLOCK
            units += 1
            if units > most:
                raise UnreadableError("wrong shape", f"more than {most} units in the file")


def _size(header: bytes, unit: int) -> int:
    """Bytes of data that a header claims (FITS standard 4.0, equations 1 and 2)."""
    found: dict[str, int] = {}
    for card in (header[k : k + 80] for k in range(0, len(header), 80)):
        if match := _COUNT.match(card):
            key = match["key"].decode().upper()
            if key in found or match["value"] is None:
                raise UnreadableError(
                    "damaged", f"header {unit} has {key} twice, or no number in it"
                )
            found[key] = int(match["value"])
    axes = found.get("NAXIS", -1)
    sides = [found.get(f"NAXIS{k}", -1) for k in range(1, min(axes, _MOST_AXES) + 1)]
    counts = (found.get("PCOUNT", 0), found.get("GCOUNT", 1), found.get("TFIELDS", 0))
    if (
        not 0 <= axes <= _MOST_AXES
        or not 0 <= found.get("ZNAXIS", 0) <= _MOST_AXES
        or min(*sides, *counts, 0) < 0
        or counts[2] > 999
        or (axes > 1 and sides[0] == 0)  # random groups
        or found.get("BITPIX") not in (8, 16, 32, 64, -32, -64)
    ):
        raise UnreadableError("damaged", f"header {unit} has counts that cannot be")
    pixels = prod(sides) if axes else 0
    return abs(found["BITPIX"]) // 8 * counts[1] * (counts[0] + pixels)


def _check_packed(file: Path, numbers: list[int]) -> None:
    """Refuse fpack images whose headers would mislead the decoders, which are written in C and trust them."""
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
                in ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "NOCOMPRESS"),
                "ZNAXIS": all(type(n) is int and 0 < n < 2**31 for n in sides),
                "ZTILE": all(type(n) is int and n > 0 for n in tile) and prod(tile) <= _MOST_TILE,
                "BLOCKSIZE": settings.get("BLOCKSIZE", 32) in (16, 32),
                "BYTEPIX": settings.get("BYTEPIX", 4) in (1, 2, 4),
                "ZDITHER0": header.get("ZDITHER0", 1) in range(1, 10001),
            }
            if wrong := [key for key, fine in allowed.items() if not fine]:
                detail = f"image {number} is packed with a {wrong[0]} that is not supported"
                raise UnreadableError("damaged", detail)
            if prod(sides) * abs(header["ZBITPIX"]) // 8 > 8 * _MOST_BYTES:
                raise UnreadableError("wrong shape", f"image {number} claims {prod(sides)} pixels")
            _check_tiles(hdus[number], prod(tile) * 8)


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
