"""Cutouts around a table of positions, out of whole difference images in FITS or fpack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.nddata import Cutout2D
from astropy.wcs import WCS, NoConvergence
from astropy.wcs.utils import skycoord_to_pixel
from PIL import Image

from deepstreaks_dask.archive.append import CutoutBatch, Quarantined
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.fits import FitsImage, open_images, quietly
from deepstreaks_dask.readers.fits_checks import UnreadableError
from deepstreaks_dask.readers.fits_headers import observed, place, sky
from deepstreaks_dask.readers.folder import (
    LARGEST,
    SMALLEST,
    Folder,
    Picture,
    Refused,
    decode_all,
    list_files,
)
from deepstreaks_dask.readers.images import to_cutout
from deepstreaks_dask.readers.options import DEFAULTS, ReadOptions
from deepstreaks_dask.readers.stretch import ZTF_STRETCH, check_stretch, develop
from deepstreaks_dask.readers.tables import Metadata, TableRead, read_table

_BATCH_IMAGES = 8
_ROWS_PER_TASK = 128


@dataclass(frozen=True)
class _Task:
    """Positions to look for in a file, indexed by their rows in the table; ``joined`` goes on to their ids."""

    file: Path
    positions: pd.DataFrame
    joined: str


@dataclass(frozen=True)
class Positions:
    """Reader ``positions``: see :meth:`read`.

    Attributes
    ----------
    side : int
        Pixels on a side of what is cut out; ZTF's cutouts have 157.
    stretch : str
        One of :data:`deepstreaks_dask.readers.stretch.STRETCHES`.
    """

    side: int = 157
    stretch: str = ZTF_STRETCH
    name = "positions"

    def sniff(self, path: Path) -> bool:
        """Say False: what is to be cut out is asked for by name."""
        return False

    def count(self, path: Path) -> int:
        """Give the number of files."""
        return len(list_files(path))

    def read(self, path: Path, options: ReadOptions = DEFAULTS) -> Iterator[CutoutBatch]:
        """Cut out every position from every image that shows it.

        Parameters
        ----------
        path : Path
            A whole image, or a folder of them: FITS as it is, gzipped or
            fpacked. No more of an image is read than what is cut out.
        options : ReadOptions, optional
            ``table``: CSV, Parquet or ECSV with columns ``ra`` and ``dec`` (degrees, ICRS) or ``x`` and ``y`` (pixels,
            the first one's middle being 1, as FITS and SExtractor count them), and any of the archive's columns.
            With a column ``file`` (relative to the folder) a row is looked for in that file alone. ``night``: of all
            cutouts; else the table's, else that of a folder so named, else the UTC date of mid-exposure, else 0.

        Yields
        ------
        CutoutBatch
            What lies over the edge of the image, or is no number there, is painted as the background.
            A cutout is named by the table's ``id``, joined with the image's name where the table has no
            ``file``; without ``id`` by image and pixel. Positions that no image shows are in ``quarantined``, and
            so are files that cannot be read.

        Raises
        ------
        ReaderError
            If there is no table, it has no positions, or speaks of none of the files.
        """
        check_stretch(self.stretch)
        if not SMALLEST <= self.side <= LARGEST:
            raise ReaderError(f"cutouts of {self.side} px: give {SMALLEST} to {LARGEST} a side")
        if (table := options.table) is None:
            raise ReaderError("the reader 'positions' needs a table of them: give one with --table")
        read = _read_positions(table, options)
        frame = read.frame
        folder = Folder(path, options)
        if "file" in frame:
            first = frame.dropna(subset="file").drop_duplicates("file")
            rows = dict(zip(first["file"], first.index, strict=True))
            metadata = Metadata(frame, rows, read.remarks, read.extra, table.name)
            folder.match(metadata, table, several_rows=True)
        else:
            folder.take(Metadata(frame, {}, read.remarks, read.extra, table.name), {})
        sought: set[int | None] = {*range(len(frame))}
        work = partial(_cut, root=folder.root, side=self.side, stretch=self.stretch)
        for done in quietly(
            decode_all(work, _tasks(folder, frame), _BATCH_IMAGES, options.executor)
        ):
            yield folder.batch((task.file, found) for task, several in done for found in several)
            sought -= {found.row for _, several in done for found in several}
        nowhere = [
            Quarantined(f"{table.name}:{row + 1}", "outside", "no image that can be read shows it")
            for row in range(len(frame))
            if row in sought
        ]
        yield CutoutBatch(np.empty((0, 144, 144), np.uint8), {}, nowhere, [])


READER = Positions()


def _read_positions(path: Path, options: ReadOptions) -> TableRead:
    read = read_table(path, options, extra=("x", "y"))
    frame = read.frame.reset_index(drop=True)
    if not {"x", "y"} <= {*frame} and not {"ra", "dec"} <= {*frame}:
        raise ReaderError(
            f"table {path} has neither columns 'ra' and 'dec' nor 'x' and 'y': add them"
        )
    return replace(read, frame=frame)


def _tasks(folder: Folder, frame: pd.DataFrame) -> Iterator[_Task]:
    groups = frame.groupby("file").indices if "file" in frame else {}
    for file in folder.files:
        name, row = folder.names[file], folder.row_of(file)
        rows = groups[frame["file"].iat[row]] if row >= 0 else np.empty(0, int)
        mine = frame.iloc[rows] if "file" in frame else frame
        for first in range(0, len(mine), _ROWS_PER_TASK):
            joined = "" if "file" in frame else f"_{name}"
            yield _Task(file, mine.iloc[first : first + _ROWS_PER_TASK], joined)


def _cut(task: _Task, root: Path, side: int, stretch: str) -> list[Picture | Refused]:
    """Cut out what a file shows of its positions. Never raises: one bad file must not stop a night."""
    try:
        with open_images(task.file, root) as images:
            several = len(images) > 1
            return [
                found
                for image in images
                for found in _cut_image(task, image, several, side, stretch)
            ]
    except UnreadableError as error:
        return [error.refused]
    except Exception as error:  # astropy raises many kinds on damaged files
        return [Refused("damaged", f"{type(error).__name__}: {error}")]


def _cut_image(
    task: _Task, image: FitsImage, several: bool, side: int, stretch: str
) -> list[Picture | Refused]:
    hdu = f"[{image.number}]"
    if len(image.shape) != 2 or min(image.shape) < SMALLEST:
        return [Refused("wrong shape", f"{image.size} is no image to cut from", hdu)]
    notes: list[tuple[str, str]] = []
    wcs, said = sky(image.header), observed(image.header, notes)
    height, width = image.shape
    if "x" in task.positions:
        xs, ys = (task.positions[name].to_numpy(float, na_value=np.nan) - 1 for name in "xy")
    elif wcs is None:
        detail = "the header has no celestial coordinates that can be used"
        return [Refused("no coordinates", detail, hdu)]
    else:
        xs, ys = _pixels(task.positions, wcs, width, height)
    results: list[Picture | Refused] = []
    for row, x, y in zip(task.positions.index, xs, ys, strict=True):
        if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
            continue
        where = hdu
        try:
            # a section is read from the file as it is asked for, the rest of the image never
            cut = Cutout2D(image.section, (x, y), side, mode="partial", fill_value=0)
            (y0, y1), (x0, x1) = cut.bbox_original
            where += f"[{x0 + 1}:{x1 + 1},{y0 + 1}:{y1 + 1}]"
            pixels = np.full(cut.shape, np.nan)
            pixels[cut.slices_cutout] = cut.data[cut.slices_cutout]
            native = develop(pixels, stretch)
        except UnreadableError as error:
            results.append(Refused(error.refused.reason, error.refused.detail, where, int(row)))
            continue
        except Exception as error:  # astropy raises many kinds on damaged data
            detail = f"{type(error).__name__}: {error}"
            results.append(Refused("damaged", detail, where, int(row)))
            continue
        named = "id" in task.positions and task.positions["id"].notna().loc[row]
        part = task.joined if named else f"_x{x + 1:.0f}_y{y + 1:.0f}"
        results.append(
            Picture(
                to_cutout(Image.fromarray(native)),
                native,
                part=part + (hdu if several else ""),
                where=f"{where} {stretch}",
                said=said | place(wcs, x, y),
                row=int(row),
                remarks=tuple(notes),
            )
        )
    return results


def _pixels(
    positions: pd.DataFrame, wcs: WCS, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, counted from 0, of the positions that lie near an image; NaN for those that do not.

    A projection has nothing to say of the other side of the sky, and a distortion nothing of what is far from
    the image; either may give pixels that look right.
    """
    ra, dec = (positions[name].to_numpy(float, na_value=np.nan) for name in ("ra", "dec"))
    xs, ys = np.full(len(ra), np.nan), np.full(len(ra), np.nan)
    usable = np.isfinite(ra) & (np.abs(dec) <= 90)
    corners = wcs.pixel_to_world(
        [0, 0, width, width, width / 2], [0, height, 0, height, height / 2]
    )
    sought = SkyCoord(ra[usable] * units.deg, dec[usable] * units.deg).transform_to(corners.frame)
    radius = corners[:4].separation(corners[4]).max()
    near = sought.separation(corners[4]) <= radius
    if near.any():
        at = np.flatnonzero(usable)[near]
        try:
            xs[at], ys[at] = skycoord_to_pixel(sought[near], wcs, mode="all")
        except NoConvergence as error:  # NaN where it did not
            xs[at], ys[at] = error.best_solution.T
            for lost in (error.divergent, error.slow_conv):
                if lost is not None:
                    xs[at[lost]] = np.nan
    return xs, ys
