"""FITS and fpack cutouts and image sections, brought to the 8-bit domain by a stated stretch.

The format is that of Pence et al. (2010, A&A 524, A42). What the header says of sky, time and filter goes to the archive's
columns. Cutting cutouts out of whole images
is :mod:`deepstreaks_dask.readers.positions`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from astropy.io import fits
from PIL import Image

from deepstreaks_dask.archive.append import CutoutBatch
from deepstreaks_dask.readers.fits_checks import UnreadableError, check_packed, open_checked
from deepstreaks_dask.readers.fits_headers import observed, place, readable_cards, sky
from deepstreaks_dask.readers.folder import (
    SMALLEST,
    Folder,
    Picture,
    Refused,
    decode_all,
    list_files,
)
from deepstreaks_dask.readers.images import SUFFIXES as PICTURES
from deepstreaks_dask.readers.images import to_cutout
from deepstreaks_dask.readers.options import DEFAULTS, Polarity, ReadOptions, check_used
from deepstreaks_dask.readers.stretch import ZTF_STRETCH, check_stretch, develop
from deepstreaks_dask.readers.tables import read_metadata

_NAMES, _PACKED = (".fits", ".fit", ".fts"), ("", ".gz", ".bz2", ".xz")
SUFFIXES = (*(name + packed for name in _NAMES for packed in _PACKED), ".fz")
MAX_PICTURE_SIZE = 512
"""Side in pixels above which an image is a whole one, to be cut at positions, and no cutout."""

_BATCH_FILES = 64
_NON_SKY_EXTENSIONS = (
    "MASK",
    "MSK",
    "DQ",
    "ERR",
    "ERROR",
    "VAR",
    "VARIANCE",
    "WHT",
    "WGT",
    "WEIGHT",
    "PSF",
)


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

    def read(self, path: Path, options: ReadOptions = DEFAULTS) -> Iterator[CutoutBatch]:
        """Read a file, or a folder and its sub-folders in the order of their names; each image is a cutout.

        Parameters
        ----------
        path : Path
            FITS as it is, packed by gzip, bzip2 or xz, or fpacked (Rice, gzip or HCOMPRESS
            tiles). Every two-dimensional image in a
            file is taken but masks and errors, which go by their EXTNAME.
        options : ReadOptions, optional
            ``table``: as the reader ``images`` takes it; goes before what headers say. ``night``: of all cutouts; else
            the table's, else that of a folder so named, else the UTC date of mid-exposure, else 0. ``executor``:
            processes, or Dask's ``client.get_executor()``, are faster for many small files than the default threads,
            since most of the work is Python's.

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
        check_used(options)
        folder = Folder(path, options)
        if options.table:
            folder.match(read_metadata(options.table, options), options.table)
        work = partial(
            _decode_file,
            root=folder.root,
            stretch=self.stretch,
            options=_Decoding(options.polarity, options.plane),
        )
        for decoded in quietly(
            decode_all(work, folder.files, _BATCH_FILES, options.executor, together=8)
        ):
            yield folder.batch((file, found) for file, several in decoded for found in several)


READER = FitsFolder()


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
            if str(hdu.name).upper() not in _NON_SKY_EXTENSIONS
        ]
        if not images:
            raise UnreadableError("not an image", "no image in the file")
        packed = [n for n, hdu in images if isinstance(hdu, fits.CompImageHDU)]
        if packed:
            check_packed(Path(hdus.filename()), packed)
        yield [
            FitsImage(n, hdu.shape, hdu.section, readable_cards(hdus[0].header, hdu.header))
            for n, hdu in images
        ]


def _decode_file(
    file: Path, root: Path, stretch: str, options: _Decoding
) -> list[Picture | Refused]:
    """Decode the images of one file, or say why not. Never raises: one bad file must not stop a night."""
    try:
        with open_images(file, root) as images:
            return [_decode_image(image, len(images) > 1, stretch, options) for image in images]
    except UnreadableError as error:
        return [error.refused]
    except Exception as error:  # astropy raises many kinds on damaged files
        return [Refused("damaged", f"{type(error).__name__}: {error}")]


@dataclass(frozen=True)
class _Decoding:
    """Those of the reader's options that decide on pixels."""

    polarity: Polarity
    plane: int | None


def _decode_image(
    image: FitsImage, several: bool, stretch: str, options: _Decoding
) -> Picture | Refused:
    where = f"[{image.number}]"
    try:
        index, shape = plane_of(image.shape, options.plane)
    except UnreadableError as error:
        return Refused(error.refused.reason, error.refused.detail, where)
    if index is not ... and options.plane:
        where += f"[plane {options.plane}]"
    if len(shape) != 2 or min(shape) < SMALLEST or max(shape) > 2 * min(shape):
        return Refused("wrong shape", f"{image.size} is no cutout", where)
    if max(shape) > MAX_PICTURE_SIZE:
        hint = "cut it at positions with --reader positions and a --table of them"
        return Refused("wrong shape", f"{image.size} is a whole image: {hint}", where)
    try:
        pixels = image.section[index].reshape(shape)
        dark = options.polarity == "dark"
        native = develop(-pixels.astype(float) if dark else pixels, stretch)
    except UnreadableError as error:
        return Refused(error.refused.reason, error.refused.detail, where)
    except Exception as error:  # astropy raises many kinds on damaged data
        return Refused("damaged", f"{type(error).__name__}: {error}", where)
    middle = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    notes: list[tuple[str, str]] = []
    said = observed(image.header, notes) | place(sky(image.header), *middle)
    return Picture(
        to_cutout(Image.fromarray(native)),
        native,
        part=where if several else "",
        where=f"{where} {stretch}" + (" of the negative" if dark else ""),
        said=said,
        remarks=tuple(notes),
    )


def plane_of(shape: tuple[int, ...], plane: int | None) -> tuple[Any, tuple[int, ...]]:
    """Return the index of the image in an array, and its shape.

    Parameters
    ----------
    shape : tuple of int
        Of the array, slowest axis first; axes of one pixel do not count.
    plane : int or None
        Which plane of a cube, counted from 1. Planes lie along its first axis, or along its last where that is shorter
        than an image could be.

    Returns
    -------
    index : tuple or Ellipsis
        Of the image in the array.
    tuple of int
        Height and width, or whatever the shape is of what is no image.

    Raises
    ------
    UnreadableError
        If it is a cube and no plane is named, or there is no such plane.
    """
    thick = [axis for axis, n in enumerate(shape) if n > 1]
    if len(thick) != 3:
        if plane and plane > 1:
            raise UnreadableError("no such plane", f"plane {plane} of an image of one plane")
        return ..., shape[thick[0] :] if thick else ()
    last = shape[thick[2]] < SMALLEST <= shape[thick[0]]
    axis = thick[2] if last else thick[0]
    count = shape[axis]
    if plane is None:
        raise UnreadableError("wrong shape", f"a cube of {count} planes: name one with --plane")
    if plane > count:
        raise UnreadableError("no such plane", f"plane {plane} of {count}")
    index = tuple(plane - 1 if k == axis else slice(None) for k in range(len(shape)))
    return index, tuple(shape[k] for k in thick if k != axis)
