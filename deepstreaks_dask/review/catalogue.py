"""The cutouts of a run as columns: filter and sort them, read one, find other detections along its motion."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from functools import cached_property
from typing import Any

import astropy.units as u
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from astropy.coordinates import SkyCoord
from PIL import Image

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.opening import open_array
from deepstreaks_dask.archive.pictures import grey
from deepstreaks_dask.archive.provenance import simulated
from deepstreaks_dask.archive.query import Filter, Kind, parse
from deepstreaks_dask.archive.retraction import CORRECTIONS_ATTRIBUTE, STORED_ROW, stored_rows
from deepstreaks_dask.archive.schema import CHUNK
from deepstreaks_dask.evaluation.active_learning import columns_of, with_agreement
from deepstreaks_dask.evaluation.labels import plausibility_labels
from deepstreaks_dask.review.ids import Ids
from deepstreaks_dask.scoring.decision import Decision, family_of
from deepstreaks_dask.scoring.runs import Run
from deepstreaks_dask.vocabulary import LABEL_PREFIX

EXPOSURE_TIME = 30.0
"""Exposure time of a streak in seconds, since archives do not record it: ZTF's."""

_DERIVED_COLUMNS = ("plausible", "undecided", "labelled")
_BLOCK_ROWS = 65536  # rows of a column that are read together
_MAX_CACHED_BLOCKS = 48
_MAX_CACHED_PIXEL_BYTES = 400_000_000  # those of a night's candidates and more


class Catalogue(Mapping[str, np.ndarray]):
    """The columns of a decided run, each loaded when it is first used; :meth:`take` reads parts of them.

    The columns are the archive's own, the scores of each member, the highest score in each family (which is compared with
    the threshold), ``plausible``, ``undecided``, ``labelled`` (whether the archive's labels tell what is plausible), and the
    agreement of members (:func:`~deepstreaks_dask.evaluation.active_learning.with_agreement`).

    Parameters
    ----------
    decided : xarray.Dataset
        Scores ``(cutout, model)`` with a decision, from :meth:`deepstreaks_dask.scoring.decision.Decision.apply`.
    decision : Decision
        The decision that was applied.
    """

    def __init__(self, decided: xr.Dataset, decision: Decision) -> None:
        self.decided, self.decision = decided, decision
        self.members = [str(name) for name in decided["model"].values]
        self.families = list(dict.fromkeys(family_of(name) for name in self.members))
        self.kinds: dict[str, Kind] = {}
        for name, column in decided.coords.items():
            if column.dims == ("cutout",) and name not in ("digest", STORED_ROW):
                self.kinds[str(name)] = "number" if column.dtype.kind in "iuf" else "text"
        self.kinds |= dict.fromkeys([*self.families, *self.members], "number")
        self._agreement = columns_of(self.members)
        self.kinds |= dict.fromkeys(self._agreement, "number")
        self.kinds |= dict.fromkeys(_DERIVED_COLUMNS, "truth")
        self._columns: dict[str, np.ndarray] = {}
        self._blocks: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._chunks: OrderedDict[int, Future[np.ndarray]] = OrderedDict()
        self._reading = threading.Lock()
        self._loading = threading.RLock()  # what takes seconds and gigabytes is loaded once

    def __getitem__(self, name: str) -> np.ndarray:
        with self._loading:
            if name not in self._columns:
                self._columns[name] = self._load(name)
            return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.kinds)

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def rows(self) -> int:
        """Number of cutouts."""
        return int(self.decided.sizes["cutout"])

    @cached_property
    def index(self) -> Ids:
        """The ids, to find rows by."""
        with self._loading:
            return Ids(self._in_blocks("id"))

    @cached_property
    def simulated(self) -> np.ndarray:
        """Which cutouts are simulated, bool ``(cutout,)``: they must not be reported as detections."""
        nothing = np.array([""], dtype=object)
        with self._loading:
            by_kind = simulated(self["kind"], nothing)
            parts = [simulated(nothing, source) for source in self._in_blocks("source")]
        return by_kind | np.concatenate([np.zeros(0, bool), *parts])

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return some rows of a column without loading all of it.

        Parameters
        ----------
        name : str
            One of the columns.
        rows : ndarray
            int ``(n,)``.

        Returns
        -------
        ndarray
            ``(n,)``, the values.
        """
        if name in self._columns:
            return self._columns[name][rows]
        if name in self.families:
            of = [k for k, member in enumerate(self.members) if family_of(member) == name]
            return np.fmax.reduce(self.decided["scores"].values[rows][:, of], axis=1)
        if name in self._agreement:
            return self._agree(name, rows)
        if name == "labelled":
            labels = [one for one in self.kinds if one.startswith(LABEL_PREFIX)]
            columns = {one: ("cutout", self.take(one, rows)) for one in labels}
            return plausibility_labels(xr.Dataset({"row": ("cutout", rows), **columns})) >= 0
        if name in (*self.members, *_DERIVED_COLUMNS):
            return self[name][rows]
        blocks, places = np.divmod(np.asarray(rows, np.int64), _BLOCK_ROWS)
        parts = {int(k): self._block(name, int(k)) for k in np.unique(blocks)}
        kind = next(iter(parts.values())).dtype if parts else object
        found = np.empty(len(blocks), kind)
        for k, part in parts.items():
            found[blocks == k] = part[places[blocks == k]]
        return found

    def find(self, cutout: str) -> int:
        """Return the row of an id; -1 if there is none."""
        return int(self.index.get_indexer([cutout])[0])

    def where(self, text: str) -> np.ndarray:
        """Return whether each row passes a filter.

        Parameters
        ----------
        text : str
            A filter; see :mod:`~deepstreaks_dask.archive.query`.

        Returns
        -------
        ndarray
            bool ``(row,)``.

        Raises
        ------
        FilterError
            If the text is not a valid filter.
        """
        chosen: Filter = parse(text, self.kinds)
        return chosen(self, self.rows)

    def offered(self, name: str) -> list[str]:
        """Return values of a column to complete a filter with: the most frequent, 20 at most."""
        if self.kinds.get(name) == "truth":
            return ["True", "False"]
        if name in (*self.members, *self.families):
            return ["0.5", "0.9", "0.99"]
        if name not in ("night", "filter", "kind") and not name.startswith(LABEL_PREFIX):
            return []
        found = pd.Series(self[name]).value_counts().index[:20]
        return sorted(str(value) for value in found if '"' not in str(value))

    def record(self, row: int) -> dict[str, Any]:
        """Return all columns of a row, as JSON can hold them; None where a value is not known."""
        return {name: _plain(self.take(name, np.array([row]))[0]) for name in self.kinds}

    def picture(self, row: int) -> bytes:
        """Return a cutout as PNG: the archive's pixels, several planes side by side.

        Parameters
        ----------
        row : int
            Row of the cutout.

        Returns
        -------
        bytes
            A PNG file of one channel, 8 bits.

        Raises
        ------
        OSError
            If the pixels cannot be read.
        """
        buffer = io.BytesIO()
        Image.fromarray(grey(self.pixels(row))).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def pixels(self, row: int) -> np.ndarray:
        """Return the archive's pixels of a cutout.

        Parameters
        ----------
        row : int
            Row of the cutout.

        Returns
        -------
        ndarray
            uint8 ``(y, x)`` or ``(y, x, plane)``.

        Raises
        ------
        OSError
            If the pixels cannot be read.
        """
        chunk, place = divmod(int(self._stored_rows[row]), CHUNK)
        with self._reading:
            mine = chunk not in self._chunks
            reading = self._chunks.setdefault(chunk, Future())
            self._chunks.move_to_end(chunk)
        if mine:  # other threads that need this chunk wait for it, and for no other chunk
            self._read(chunk, reading)
        try:
            pixels: np.ndarray = reading.result()[place]
        except Exception as error:  # codecs raise whatever their libraries do
            raise OSError(f"cutout {row} cannot be read") from error
        return pixels

    def along(self, row: int) -> pd.DataFrame:
        """Find other detections of the same night along the motion of a streak.

        A streak has a rate and a direction but no sense, so both senses are tried. The rate is the streak's length over the
        exposure of :data:`EXPOSURE_TIME` seconds. Another detection fits if it lies within 60 arcseconds, or 5 % of the
        distance moved, of the predicted position on the great circle, and its own streak runs within 15 degrees of the
        same direction.

        Parameters
        ----------
        row : int
            Row of the streak.

        Returns
        -------
        DataFrame
            ``id``, ``minutes`` after this streak, ``arcsec`` from the predicted position, ``row``; the nearest in time
            first, 50 at most. Empty where the streak has no time or no end points.
        """
        names = ("jd", "ra", "dec", "ra1", "dec1", "ra2", "dec2")
        empty = pd.DataFrame(columns=["id", "minutes", "arcsec", "row"])
        own = np.array([self[name][row] for name in names], float)
        if not (np.isfinite(own).all() and (np.abs(own[[2, 4, 6]]) <= 90).all()):
            return empty
        jd, ra, dec, *ends = own
        near = np.flatnonzero(self["night"] == self["night"][row])
        table = np.stack([np.asarray(self[name][near], float) for name in names])
        fits = np.isfinite(table).all(axis=0) & (np.abs(table[[2, 4, 6]]) <= 90).all(axis=0)
        fits &= (near != row) & (np.abs(table[0] - jd) < 0.75)
        near, table = near[fits], table[:, fits]
        first, last = (SkyCoord(*pair, unit="deg") for pair in (ends[:2], ends[2:]))
        rate = first.separation(last) / (EXPOSURE_TIME * u.s)
        angle = first.position_angle(last)
        if not len(near) or not rate > 0:
            return empty
        here, others = SkyCoord(ra, dec, unit="deg"), SkyCoord(table[1], table[2], unit="deg")
        seconds = (table[0] - jd) * 86400 * u.s
        way = rate * seconds
        places = [here.directional_offset_by(angle, sense * way) for sense in (1, -1)]
        off = np.minimum(*(others.separation(place).arcsec for place in places))
        their = SkyCoord(table[3], table[4], unit="deg").position_angle(
            SkyCoord(table[5], table[6], unit="deg")
        )
        turned = np.abs((their - angle).wrap_at(180 * u.deg).deg) % 180
        turned = np.minimum(turned, 180 - turned)
        good = (off < np.maximum(60, 0.05 * np.abs(way.to_value(u.arcsec)))) & (turned < 15)
        found = pd.DataFrame(
            {
                "id": self["id"][near[good]],
                "minutes": np.round(seconds[good].to_value(u.min), 2),
                "arcsec": np.round(off[good], 1),
                "row": near[good],
            }
        )
        return found.sort_values("minutes", key=abs).head(50).reset_index(drop=True)

    def _read(self, chunk: int, reading: Future[np.ndarray]) -> None:
        try:
            pixels = np.asarray(self._pixels[chunk * CHUNK : (chunk + 1) * CHUNK])
        except Exception as error:
            reading.set_exception(error)
            with self._reading:
                del self._chunks[chunk]
            return
        reading.set_result(pixels)
        with self._reading:
            while len(self._chunks) > max(1, _MAX_CACHED_PIXEL_BYTES // max(pixels.nbytes, 1)):
                self._chunks.popitem(last=False)

    @cached_property
    def _stored_rows(self) -> np.ndarray:
        return stored_rows(self.decided)

    @cached_property
    def _pixels(self) -> zarr.Array:
        return open_array(self.decided.attrs["url"], "cutouts")

    def _block(self, name: str, k: int) -> np.ndarray:
        with self._reading:
            if (name, k) in self._blocks:
                self._blocks.move_to_end((name, k))
                return self._blocks[name, k]
        values = self.decided[name][k * _BLOCK_ROWS : (k + 1) * _BLOCK_ROWS].values
        values = values.astype(object) if self.kinds[name] == "text" else values
        with self._reading:
            self._blocks[name, k] = values
            while len(self._blocks) > _MAX_CACHED_BLOCKS:
                self._blocks.popitem(last=False)
        return values

    def _in_blocks(self, name: str) -> Iterator[np.ndarray]:
        """Read a column of texts in parts: all of a large one would be gigabytes."""
        for first in range(0, self.rows, 4 * _BLOCK_ROWS):
            yield self.decided[name][first : first + 4 * _BLOCK_ROWS].values.astype(object)

    def _agree(self, name: str, rows: np.ndarray | slice) -> np.ndarray:
        """Compute a column of the agreement of members, for some rows."""
        some = self.decided["scores"].values[rows]
        scores = xr.Dataset({"scores": (("cutout", "model"), some)}, {"model": self.members})
        values: np.ndarray = with_agreement(scores, self.decision)[name].values
        return values

    def _load(self, name: str) -> np.ndarray:
        if name in self.members:
            return self.decided["scores"].values[:, self.members.index(name)]
        if name in self.families:
            of = [k for k, member in enumerate(self.members) if family_of(member) == name]
            scores = self.decided["scores"].values[:, of]
            return np.fmax.reduce(scores, axis=1)
        if name == "labelled":
            return plausibility_labels(self.decided) >= 0
        if name in self._agreement:
            starts = range(0, self.rows, 4 * _BLOCK_ROWS)
            parts = [self._agree(name, slice(first, first + 4 * _BLOCK_ROWS)) for first in starts]
            return np.concatenate([np.zeros(0, np.float32), *parts])
        if self.kinds[name] != "text":
            return self.decided[name].values
        column, first = np.empty(self.rows, object), 0
        known: dict[str, str] = {}
        for part in self._in_blocks(name):  # equal texts are kept once
            codes, texts = pd.factorize(part)
            shared = [known.setdefault(text, text) for text in texts]
            column[first : first + len(part)] = np.asarray(shared, dtype=object)[codes]
            first += len(part)
        return column


def newest_commit(archive: str, run: str) -> str:
    """Return a text that changes when an archive or the scores of a run grow.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    run : str
        Name of the run.

    Returns
    -------
    str
        The same as long as neither has changed.
    """
    dataset = open_archive(archive, cache=True)
    provenance = Run.attach(dataset.attrs["url"], run).provenance
    corrections = dataset.attrs.get(CORRECTIONS_ATTRIBUTE, 0)
    return f"{dataset['id'].size} {corrections} {provenance.get('updated')}"


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
