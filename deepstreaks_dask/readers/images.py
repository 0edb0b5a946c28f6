"""A folder of JPEG, PNG or TIFF cutouts, with an optional table of what is known of each."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from deepstreaks_dask.archive.append import CutoutBatch
from deepstreaks_dask.archive.schema import CUTOUT_SIZE
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.fits_checks import UnreadableError
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
from deepstreaks_dask.readers.grey import Grey, to_grey
from deepstreaks_dask.readers.options import DEFAULTS, Polarity, ReadOptions, check_used
from deepstreaks_dask.readers.polarity import agree, darkness, invert
from deepstreaks_dask.readers.tables import read_metadata

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "TIFF")
_BATCH_IMAGES = 256
MAX_IMAGE_BYTES = LARGEST**2 * 4
"""No cutout needs more, so nothing larger is ever read."""

_MAGIC_BYTES = b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*"
_SAMPLE_PICTURES = 24
_CLEARLY_OTHERWISE = 0.5
_LIGHT_SKY = 140  # grey level


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


def decode_image(
    data: bytes, polarity: Polarity = "dark", plane: int | None = None
) -> Picture | Refused:
    """Decode the bytes of a JPEG, PNG or TIFF file, or say why not. Never raises.

    Parameters
    ----------
    data : bytes
        A whole file.
    polarity : {"dark", "bright", "auto"}
        Of its sources; bright ones are inverted. ``auto`` takes drawn pictures as they are and decides for measured
        values, of more than 8 bits, by the values.
    plane : int, optional
        Which page of a TIFF, counted from 1.

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
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if not (SMALLEST <= width <= LARGEST and SMALLEST <= height <= LARGEST):
                detail = f"{width} x {height} px, not {SMALLEST} to {LARGEST} a side"
                return Refused("wrong shape", detail)
            if max(width, height) > 2 * min(width, height):
                return Refused("wrong shape", f"{width} x {height} px is no cutout's aspect")
            pages = getattr(picture, "n_frames", 1)
            if pages > 1 and not 1 <= (plane or 0) <= pages:
                return Refused("several pictures", f"{pages} in one file: name one with --plane")
            if pages > 1 and plane:
                picture.seek(plane - 1)
            return _picture(to_grey(picture, polarity), polarity, _reduced_bits(data))
    except Image.DecompressionBombError as error:
        return Refused("wrong shape", str(error))
    except UnreadableError as error:
        return error.refused
    except UnidentifiedImageError:
        if data.startswith(_MAGIC_BYTES):
            return Refused("damaged", "the header is cut short, or of a kind that cannot be read")
        return Refused("not an image", "neither JPEG, PNG nor TIFF")
    except Exception as error:  # Pillow's decoders raise many kinds on damaged data
        return Refused("damaged", f"{type(error).__name__}: {error}")


def _picture(found: Grey, polarity: Polarity, reduced: tuple[tuple[str, str], ...]) -> Picture:
    grey, notes = found.picture, found.notes + reduced
    if found.stretch:
        return Picture(to_cutout(grey), grey, where=f" {found.stretch}", remarks=notes)
    if polarity == "bright":
        grey = invert(grey)
        notes += (("bright sources, inverted", ""),)
        return Picture(to_cutout(grey), grey, where=" inverted", remarks=notes)
    cutout = to_cutout(grey)
    if polarity == "auto" and _looks_bright(grey, cutout):
        notes += (("looks bright on dark, not inverted", "the other pictures are dark on light"),)
    return Picture(cutout, grey, remarks=notes)


def _looks_bright(grey: Image.Image, cutout: np.ndarray) -> bool:
    """Return whether sources are surely bright; few pixels tell that a sky is light, which saves a look at all."""
    return cutout[::8, ::8].mean() < _LIGHT_SKY and darkness(grey) < -_CLEARLY_OTHERWISE


def _reduced_bits(data: bytes) -> tuple[tuple[str, str], ...]:
    """Note that Pillow reads only the upper 8 of the 16 bits of a channel in colour PNGs."""
    if data.startswith(b"\x89PNG") and data[24:26] in (b"\x10\x02", b"\x10\x04", b"\x10\x06"):
        return (("16 bits a channel read as 8", "of colours, or of grey with transparency"),)
    return ()


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
            Up to 256 cutouts, sources dark on light.
            Files that are damaged, empty, no image or of a wrong shape are in ``quarantined``.

        Raises
        ------
        ReaderError
            If the folder or the table cannot be read, or the table speaks of none of the files.
        """
        if not path.is_dir():
            raise ReaderError(f"{path} is not a folder: give the folder that holds the pictures")
        check_used(options)
        folder = Folder(path, options)
        if options.table:
            folder.match(read_metadata(options.table, options), options.table)
        polarity = find_polarity(folder.files, folder.root, options)
        work = partial(decode_file, root=folder.root, polarity=polarity, plane=options.plane)
        for decoded in decode_all(work, folder.files, _BATCH_IMAGES, options.executor, together=32):
            yield folder.batch(decoded)


READER = ImageFolder()


def find_polarity(files: Sequence[Path], root: Path, options: ReadOptions) -> Polarity:
    """Decide whether the pictures of a folder are dark on light or bright on dark, by some of them.

    Parameters
    ----------
    files : sequence of Path
        The pictures.
    root : Path
        Folder that they must lie in, resolved.
    options : ReadOptions
        Whose ``polarity``, unless it is ``auto``, decides.

    Returns
    -------
    str
        ``bright``, or ``auto`` where drawn pictures are dark on light and measured values decide for themselves.
    """
    if options.polarity != "auto":
        return options.polarity
    step = max(len(files) // _SAMPLE_PICTURES, 1)
    found = (decode_file(file, root, "auto", options.plane) for file in files[::step])
    drawn = [one for one in found if isinstance(one, Picture) and not one.where]
    scores = [darkness(one.native) for one in drawn if isinstance(one.native, Image.Image)]
    return "bright" if agree(scores)[0] == "bright" else "auto"


def decode_file(
    file: Path, root: Path, polarity: Polarity = "dark", plane: int | None = None
) -> Picture | Refused:
    """Decode one file, or say why not. Never raises: one bad file must not stop a night.

    Parameters
    ----------
    file : Path
        JPEG, PNG or TIFF.
    root : Path
        Folder that it must lie in, resolved.
    polarity, plane
        As :func:`decode_image` takes them.

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
        return decode_image(file.read_bytes(), polarity, plane)
    except OSError as error:
        return Refused("damaged", str(error))
