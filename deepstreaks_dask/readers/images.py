"""A folder of JPEG or PNG cutouts, with an optional table of what is known of each."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from deepstreaks_dask.archive.append import CutoutBatch
from deepstreaks_dask.archive.schema import CUTOUT_SIZE
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.folder import (
    LARGEST,
    SMALLEST,
    Folder,
    Picture,
    Refused,
    decode_all,
    leads_out,
    list_files,
)
from deepstreaks_dask.readers.options import DEFAULTS, ReadOptions
from deepstreaks_dask.readers.tables import read_metadata

SUFFIXES = (".jpg", ".jpeg", ".png")
_BATCH_IMAGES = 256
MAX_IMAGE_BYTES = LARGEST**2 * 4
"""No cutout needs more, so nothing larger is ever read."""

_MAGIC_BYTES = b"\xff\xd8\xff", b"\x89PNG"


def to_cutout(picture: Image.Image) -> np.ndarray:
    """Make a picture what the networks take: grey, 144 x 144, 0 to 255.

    Parameters
    ----------
    picture : PIL.Image.Image
        Any mode and size.

    Returns
    -------
    ndarray
        uint8 ``(144, 144)``; byte for byte what Pillow's grey conversion and bilinear resize give,
        as in DeepStreaks (Duev et al. 2019, arXiv:1904.05920).
    """
    grey = picture if picture.mode == "L" else picture.convert("L")
    return np.asarray(grey.resize((CUTOUT_SIZE, CUTOUT_SIZE), Image.Resampling.BILINEAR))


def decode_image(data: bytes) -> Picture | Refused:
    """Decode the bytes of a JPEG or PNG file, or say why not. Never raises.

    Parameters
    ----------
    data : bytes
        A whole file.

    Returns
    -------
    Picture or Refused
        The latter with the reason.
    """
    if not data:
        return Refused("empty", "no bytes")
    if len(data) > MAX_IMAGE_BYTES:
        return Refused("wrong shape", f"{len(data)} bytes, too large for a cutout")
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
            width, height = picture.size
            if not (SMALLEST <= width <= LARGEST and SMALLEST <= height <= LARGEST):
                detail = f"{width} x {height} px, not {SMALLEST} to {LARGEST} a side"
                return Refused("wrong shape", detail)
            if max(width, height) > 2 * min(width, height):
                return Refused("wrong shape", f"{width} x {height} px is no cutout's aspect")
            grey = picture.convert("L")
            return Picture(to_cutout(grey), grey)
    except Image.DecompressionBombError as error:
        return Refused("wrong shape", str(error))
    except UnidentifiedImageError:
        if data.startswith(_MAGIC_BYTES):
            return Refused("damaged", "the header is cut short")
        return Refused("not an image", "neither JPEG nor PNG")
    except Exception as error:  # Pillow's decoders raise many kinds on damaged data
        return Refused("damaged", str(error))


class ImageFolder:
    """Reader ``images``: see :meth:`read`."""

    name = "images"

    def sniff(self, path: Path) -> bool:
        """Say whether ``path`` is a folder that holds pictures somewhere."""
        return path.is_dir() and any(f.suffix.lower() in SUFFIXES for f in path.rglob("*"))

    def count(self, path: Path) -> int:
        """Give the number of files, pictures or not."""
        return len(list_files(path))

    def read(self, path: Path, options: ReadOptions = DEFAULTS) -> Iterator[CutoutBatch]:
        """Read a folder and its sub-folders in the order of their names.

        Parameters
        ----------
        path : Path
            The folder. Links that lead out of it are refused.
        options : ReadOptions, optional
            ``table``: CSV, Parquet or ECSV with a column ``file`` (relative to the folder) or ``id`` and any of the
            archive's columns; labels also as ``rb``, ``sl``, ``kd``, ``os``. Where it has both ``file`` and ``id``,
            that is the cutout's id. ``night``: of all cutouts; else the table's, else that of a folder so named, else 0.

        Yields
        ------
        CutoutBatch
            Up to 256 cutouts. Files that are damaged, empty, no image or of a wrong shape are in ``quarantined``.

        Raises
        ------
        ReaderError
            If the folder or the table cannot be read, or the table speaks of none of the files.
        """
        if not path.is_dir():
            raise ReaderError(f"{path} is not a folder: give the folder that holds the pictures")
        folder = Folder(path, options.table, options.night)
        if options.table:
            folder.match(read_metadata(options.table, options), options.table)
        work = partial(decode_file, root=folder.root)
        for decoded in decode_all(work, folder.files, _BATCH_IMAGES, options.executor, together=32):
            yield folder.batch(decoded)


READER = ImageFolder()


def decode_file(file: Path, root: Path) -> Picture | Refused:
    """Decode one file, or say why not. Never raises: one bad file must not stop a night.

    Parameters
    ----------
    file : Path
        JPEG or PNG.
    root : Path
        Folder that it must lie in, resolved.

    Returns
    -------
    Picture or Refused
        The latter with the reason.
    """
    try:
        if leads_out(file, root):
            return Refused("not an image", "a link that leads out of the folder")
        if (size := file.stat().st_size) > MAX_IMAGE_BYTES:  # before it is read
            return Refused("wrong shape", f"{size} bytes, too large for a cutout")
        return decode_image(file.read_bytes())
    except OSError as error:
        return Refused("damaged", str(error))
