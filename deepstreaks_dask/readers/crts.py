"""Objects of the Catalina Real-Time Transient Survey, a FITS file each, as TAO-Net's authors published them.

Gómez et al. (2020, MNRAS 499, 3130): the first header says ``CRTS_ID``, ``RA_(J2000)``, ``Dec_(J2000)``, ``Mag`` and
``Class``; the table in extension 1 has a row an image, with ``MJD`` and, in ``HDU_Ext``, the extension that the image
is in. They tell neither zero points nor seeing.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import Angle
from astropy.io import fits

from deepstreaks_dask.archive.append import CutoutBatch
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.fits import SUFFIXES, quietly
from deepstreaks_dask.readers.fits_checks import UnreadableError, open_checked
from deepstreaks_dask.readers.folder import Refused, decode_all, list_files, spelt
from deepstreaks_dask.readers.options import DEFAULTS, ReadOptions
from deepstreaks_dask.readers.sequences import LAYOUT, Epoch, Object, batch, middle

_BATCH_OBJECTS = 32
_MAX_UNITS = 4096
_FIRST_HEADER_BYTES = 28800  # bytes in which a first header ends
_IMAGE_COUNT = re.compile(rb"N_IMAGES *= *(\d{1,6}) ", re.IGNORECASE)
_MAX_IMAGE_SIZE = 512  # pixels of an image
_MJD_RANGE = (15000.0, 100000.0)  # MJD
_MAX_MAGNITUDE = 100.0
MAX_KIND_LENGTH = 32
"""Characters of the name of a class that are kept."""

_BAND_NAME = "C"  # clear: the survey has no filter


class Crts:
    """Reader ``crts``: see :meth:`read`."""

    name = "crts"
    layout: Mapping[str, Any] = LAYOUT
    processes = True

    def sniff(self, path: Path) -> bool:
        """Say whether ``path`` is such a file, or a folder whose first FITS file is one."""
        file = next(iter(_fits_files(path)), None)
        if file is None:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with open_checked(file, file.resolve().parent, _MAX_UNITS) as hdus:
                    return len(hdus) > 1 and "HDU_Ext" in _column_names(hdus[1])
            except Exception:  # whatever astropy says of what is none
                return False

    def count(self, path: Path) -> int:
        """Give the number of images, as the files' first headers have it; one where a file does not say."""
        return sum(_count_images(file) for file in _fits_files(path))

    def read(self, path: Path, options: ReadOptions = DEFAULTS) -> Iterator[CutoutBatch]:
        """Read objects in the order of their files' names.

        Parameters
        ----------
        path : Path
            A FITS file, or a folder of them.
        options : ReadOptions, optional
            ``night``: of all objects; else that of each one's first epoch. A table is refused: files say what is known.

        Yields
        ------
        CutoutBatch
            Up to 32 objects, each with the middle 21 x 21 pixels of its images in the order of their times. In
            ``quarantined`` are files that are none, and images that are missing, blank, too small, or without a time:
            the object is kept without these.

        Raises
        ------
        ReaderError
            If there are no such files.
        """
        if options.table is not None:
            raise ReaderError("the reader crts takes classes from its files: no table")
        files = _fits_files(path)
        if not files:
            raise ReaderError(f"{path} holds no FITS files: check the path")
        folder = path if path.is_dir() else path.parent
        decode = partial(_decode_file, folder=folder, root=folder.resolve())
        for block in quietly(decode_all(decode, files, _BATCH_OBJECTS, options.executor)):
            yield batch([found for _, found in block], options.night)


READER = Crts()


def _fits_files(path: Path) -> list[Path]:
    return [file for file in list_files(path) if file.name.lower().endswith(SUFFIXES)]


def _count_images(file: Path) -> int:
    try:
        with file.open("rb") as opened:
            found = _IMAGE_COUNT.search(opened.read(_FIRST_HEADER_BYTES))
    except OSError:
        return 1
    return min(max(int(found[1]), 1), _MAX_UNITS) if found else 1


def _decode_file(file: Path, folder: Path, root: Path) -> Object:
    """Read one object. Never raises: a file that is none gives an object without epochs, and why."""
    source = spelt(str(file.relative_to(folder)))
    try:
        with open_checked(file, root, _MAX_UNITS) as hdus:
            return _object(hdus, source)
    except UnreadableError as error:
        refused = error.refused
    except Exception as error:  # astropy raises many kinds on damaged files
        refused = Refused("damaged", f"{type(error).__name__}: {error}")
    return Object({"id": source, "source": source}, [], [refused])


def _object(hdus: fits.HDUList, source: str) -> Object:
    if len(hdus) < 2 or not {"HDU_Ext", "MJD"} <= set(_column_names(hdus[1])):
        raise UnreadableError("not a sequence", "extension 1 has no columns HDU_Ext and MJD")
    header = {str(key).upper(): hdus[0].header[key] for key in hdus[0].header if key}
    identifier = str(header.get("CRTS_ID", "")).strip()
    if not identifier:
        raise UnreadableError("no identifier", "no CRTS_ID in the first header")
    columns: dict[str, Any] = {"id": identifier, "source": source}
    columns["kind"] = str(header.get("CLASS", "")).strip().upper()[:MAX_KIND_LENGTH]
    columns["ra"] = _degrees(header.get("RA_(J2000)"), u.hourangle, 0, 360)
    columns["dec"] = _degrees(header.get("DEC_(J2000)"), u.deg, -90, 90)
    columns["mag"] = _magnitude(header.get("MAG"))
    remarks = _remarks(header, columns)
    extensions, times = (_numbers(hdus[1], name) for name in ("HDU_Ext", "MJD"))
    epochs, refused = [], []
    for extension, mjd in zip(extensions, times, strict=True):
        found = _epoch(hdus, extension, mjd)
        if isinstance(found, Epoch):
            epochs.append(found)
        else:
            refused.append(found)
    return Object(columns, epochs, refused, remarks)


def _magnitude(value: Any) -> float:
    """Read a magnitude; NaN where it is none."""
    try:
        magnitude = float(str(value))
    except ValueError:
        return float("nan")
    return magnitude if abs(magnitude) < _MAX_MAGNITUDE else float("nan")


def _remarks(header: Mapping[str, Any], columns: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what of a first header was not understood, with what stands there."""
    cards = {"ra": "RA_(J2000)", "dec": "DEC_(J2000)", "mag": "MAG"}
    remarks = [
        (f"{name} not understood", f"{card} = {header[card]}")
        for name, card in cards.items()
        if card in header and not isfinite(columns[name])
    ]
    kind = str(header.get("CLASS", "")).strip()
    if len(kind) > MAX_KIND_LENGTH:
        remarks.append(("class cut short", kind))
    return remarks


def _epoch(hdus: fits.HDUList, extension: float, mjd: float) -> Epoch | Refused:
    where = f"[{extension:g}]"
    if not extension.is_integer() or not 1 < extension < len(hdus):
        return Refused("missing epoch", f"there is no extension {extension:g}", where)
    if not _MJD_RANGE[0] <= mjd <= _MJD_RANGE[1]:
        return Refused("no time", f"MJD is {mjd:g}", where)
    hdu = hdus[int(extension)]
    if isinstance(hdu, fits.CompImageHDU) or not hdu.is_image or not hdu.shape:
        return Refused("missing epoch", f"extension {extension:g} is no image", where)
    if len(hdu.shape) != 2 or max(hdu.shape) > _MAX_IMAGE_SIZE:
        return Refused("wrong shape", f"an image of shape {hdu.shape}", where)
    stamp = middle(np.asarray(hdu.data))
    if isinstance(stamp, Refused):
        return Refused(stamp.reason, stamp.detail, where)
    return Epoch(stamp, {"mjd": mjd, "band": _BAND_NAME})


def _column_names(hdu: Any) -> list[str]:
    return list(hdu.columns.names) if isinstance(hdu, fits.BinTableHDU | fits.TableHDU) else []


def _numbers(hdu: Any, name: str) -> list[float]:
    """Read a column of numbers; one of anything else is refused before it is read."""
    if hdu.columns[name].format.strip().upper()[-1:] in ("P", "Q", "X") or "(" in (
        hdu.columns[name].format
    ):
        raise UnreadableError("damaged", f"column {name} holds no single numbers")
    values = np.asarray(hdu.data[name])
    if values.ndim != 1:
        raise UnreadableError("damaged", f"column {name} holds no single numbers")
    try:
        return [float(value) for value in values.astype(float)]
    except ValueError as error:
        raise UnreadableError("damaged", f"column {name}: {error}") from error


def _degrees(value: Any, unit: Any, low: float, high: float) -> float:
    """Read an angle: degrees as a number, or hours or degrees as text; NaN where it is none."""
    try:
        angle = float(value) if isinstance(value, int | float) else Angle(str(value), unit).deg
    except (ValueError, u.UnitsError):
        return float("nan")
    return float(angle) if low <= angle <= high else float("nan")
