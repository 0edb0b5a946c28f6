"""The two layouts of an archive: single cutouts, and sequences of stamps of objects.

A row of :data:`CUTOUTS` is a cutout. A row of :data:`SEQUENCES` is an object, whose stamps follow each other along
``epoch`` as CF's contiguous ragged arrays do. All that differs between the two is here.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import zarr

from deepstreaks_dask.archive.hashing import digests
from deepstreaks_dask.archive.schema import (
    CHUNK,
    EPOCHS_PER_CHUNK,
    EPOCHS_PER_SHARD,
    SPANS,
    Column,
)
from deepstreaks_dask.errors import ArchiveError


class Layout(ABC):
    """What a row of an archive is, and how its pixels lie."""

    row: ClassVar[str]
    """Dimension of the rows."""

    pixels: ClassVar[str]
    """Dimension along which the cutouts lie."""

    rows: ClassVar[str]
    """What rows are called."""

    contents: ClassVar[str]
    """What the archive holds, in words."""

    spans: ClassVar[Mapping[str, Column]]
    """Columns that tell which cutouts belong to a row."""

    @property
    @abstractmethod
    def pixel_chunk(self) -> int:
        """Number of cutouts in a chunk of pixels."""

    @abstractmethod
    def pixel_shard(self, shard: int) -> int:
        """Return the number of cutouts in a shard of pixels, where a shard has so many rows."""

    @abstractmethod
    def check_columns(self, epochs: Mapping[str, Column], *, native: bool) -> None:
        """Check what a new archive of this layout is to hold.

        Parameters
        ----------
        epochs : mapping of str to Column
            Columns along ``epoch``.
        native : bool
            Whether the archive is to keep native pictures.

        Raises
        ------
        ArchiveError
            If this layout has no such columns or pictures.
        """

    def span_attributes(self, name: str) -> dict[str, str]:
        """Return what CF's ragged arrays say of a column of :attr:`spans`."""
        return {"sample_dimension": self.pixels} if name == "epochs" else {}

    @abstractmethod
    def counts_objects(self, rows: int) -> int:
        """Return how many of the rows are objects with sequences."""

    def check_counts(self, counts: np.ndarray | None, cutouts: int, url: Any) -> None:
        """Check that a batch is of this layout.

        Parameters
        ----------
        counts : ndarray or None
            int ``(object,)``: cutouts of each object; None where the batch has single cutouts.
        cutouts : int
            Number of cutouts in the batch.
        url : str or path
            The archive, which errors name.

        Raises
        ------
        ArchiveError
            If it is not, or the counts do not fit the cutouts.
        """
        if (counts is not None) != bool(self.spans):
            raise ArchiveError(f"{url} holds {self.contents}: choose an archive made for these")
        if counts is not None and (min(counts, default=0) < 0 or sum(counts) != cutouts):
            raise ArchiveError(f"the batch counts {sum(counts)} epochs, but has {cutouts} cutouts")

    @abstractmethod
    def split(self, cutouts: np.ndarray, counts: Any) -> Sequence[np.ndarray] | np.ndarray:
        """Return the pixels of each row of a batch.

        Parameters
        ----------
        cutouts : ndarray
            ``(n, …)``.
        counts : ndarray or None
            int ``(object,)``: cutouts of each row, where rows are objects.

        Returns
        -------
        sequence of ndarray
            One array a row, ``(…)`` of a cutout or ``(epoch, …)`` of an object.
        """

    @abstractmethod
    def unfit(
        self, cutouts: np.ndarray, counts: Any, epochs: Mapping[str, np.ndarray]
    ) -> dict[int, tuple[str, str]]:
        """Find the rows of a batch that cannot be stored.

        Parameters
        ----------
        cutouts : ndarray
            ``(n, …)``.
        counts : ndarray or None
            int ``(object,)``: cutouts of each row, where rows are objects.
        epochs : mapping of str to ndarray
            Columns along ``epoch``, each ``(n,)``.

        Returns
        -------
        dict
            Reason and detail by row.
        """

    @abstractmethod
    def place(
        self, keep: list[int], counts: Any, rows: int, start: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Select the cutouts of the rows to keep, and compute where they will lie.

        Parameters
        ----------
        keep : list of int
            Rows of the batch to keep, ascending.
        counts : ndarray or None
            int ``(object,)``: cutouts of each row, where rows are objects.
        rows : int
            Number of rows in the batch.
        start : int
            Cutouts that are in the archive before them.

        Returns
        -------
        (ndarray, dict)
            bool ``(n,)``, which cutouts to keep, and the columns :attr:`spans` of all rows of the batch.
        """

    @abstractmethod
    def digest_check(
        self, group: zarr.Group, lost: Mapping[str, list[tuple[int, int]]]
    ) -> DigestCheck:
        """Prepare the comparison of pixels with their digests.

        Parameters
        ----------
        group : zarr.Group
            The archive.
        lost : mapping of str to list of (int, int)
            By column, rows ``[first, last)`` that cannot be read.

        Returns
        -------
        DigestCheck
            To be called for one shard of pixels after the other.
        """


class DigestCheck(ABC):
    """Compares rows with their digests, one shard of pixels after the other."""

    @abstractmethod
    def differing(self, first: int, last: int, pixels: np.ndarray | None) -> int:
        """Count the rows that end in a shard of pixels and differ from their digests.

        Parameters
        ----------
        first, last : int
            Cutouts ``[first, last)`` of the shard.
        pixels : ndarray or None
            ``(n, …)``; None where they cannot be read.

        Returns
        -------
        int
            0 where there is nothing to compare with.
        """


class _CutoutLayout(Layout):
    """Single cutouts: a row is a cutout, and a shard of pixels holds those of a shard of rows."""

    row = pixels = "cutout"
    rows = "cutouts"
    contents = "single cutouts"
    spans: ClassVar[Mapping[str, Column]] = {}
    pixel_chunk = CHUNK

    def pixel_shard(self, shard: int) -> int:
        """Return the number of rows in a shard."""
        return shard

    def check_columns(self, epochs: Mapping[str, Column], *, native: bool) -> None:
        """Accept all: as for :meth:`Layout.check_columns`."""

    def counts_objects(self, rows: int) -> int:
        """Return 0."""
        return 0

    def split(self, cutouts: np.ndarray, counts: Any) -> Sequence[np.ndarray] | np.ndarray:
        """Return the cutouts ``(n, …)``: as for :meth:`Layout.split`."""
        return cutouts

    def unfit(
        self, cutouts: np.ndarray, counts: Any, epochs: Mapping[str, np.ndarray]
    ) -> dict[int, tuple[str, str]]:
        """Return nothing: as for :meth:`Layout.unfit`."""
        return {}

    def place(
        self, keep: list[int], counts: Any, rows: int, start: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Select the kept rows: as for :meth:`Layout.place`."""
        mask = np.zeros(rows, bool)
        mask[keep] = True
        return mask, {}

    def digest_check(
        self, group: zarr.Group, lost: Mapping[str, list[tuple[int, int]]]
    ) -> DigestCheck:
        """Compare cutout by cutout: as for :meth:`Layout.digest_check`."""
        return _CutoutDigests(group, lost.get("digest", []))


class _SequenceLayout(Layout):
    """Sequences: a row is an object, whose stamps lie along ``epoch``, in one shard of pixels or several."""

    row, pixels = "object", "epoch"
    rows = "objects"
    contents = "sequences of objects"
    spans = SPANS

    @property
    def pixel_chunk(self) -> int:
        """Number of stamps in a chunk of pixels."""
        return min(EPOCHS_PER_CHUNK, EPOCHS_PER_SHARD)

    def pixel_shard(self, shard: int) -> int:
        """Return the number of stamps in a shard of pixels, whatever a shard of rows is."""
        return EPOCHS_PER_SHARD

    def check_columns(self, epochs: Mapping[str, Column], *, native: bool) -> None:
        """Check the columns along ``epoch``: as for :meth:`Layout.check_columns`.

        Raises
        ------
        ArchiveError
            If native pictures are wanted, or there is no column ``mjd``.
        """
        if native:
            raise ArchiveError("an archive of sequences keeps no native pictures")
        if "mjd" not in epochs:
            raise ArchiveError(
                "an archive of sequences has a column 'mjd' along its epochs: give it"
            )

    def counts_objects(self, rows: int) -> int:
        """Return all of them."""
        return rows

    def split(self, cutouts: np.ndarray, counts: Any) -> Sequence[np.ndarray] | np.ndarray:
        """Return the stamps ``(epoch, …)`` of each object: as for :meth:`Layout.split`."""
        return np.split(cutouts, np.cumsum(counts)[:-1]) if len(counts) else ()

    def unfit(
        self, cutouts: np.ndarray, counts: Any, epochs: Mapping[str, np.ndarray]
    ) -> dict[int, tuple[str, str]]:
        """Find objects without epochs, times, order or numbers: as for :meth:`Layout.unfit`."""
        found = {}
        for row, (count, end) in enumerate(zip(counts, np.cumsum(counts), strict=True)):
            times = epochs["mjd"][end - count : end]
            if not count:
                found[row] = "no epochs", "a sequence needs one at least"
            elif not np.isfinite(times).all():
                found[row] = "no time", f"{int((~np.isfinite(times)).sum())} epochs have no mjd"
            elif (np.diff(times) < 0).any():
                found[row] = "unsorted times", "the epochs are not in the order of their times"
            elif not np.isfinite(cutouts[end - count : end]).any():
                found[row] = "blank", "no stamp holds a number"
        return found

    def place(
        self, keep: list[int], counts: Any, rows: int, start: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Select the stamps of the kept objects: as for :meth:`Layout.place`."""
        kept = np.zeros_like(counts)
        kept[keep] = counts[keep]
        offset = start + np.cumsum(kept, dtype=np.int64) - kept
        return np.repeat(kept > 0, counts), {"epochs": kept.astype(np.int32), "offset": offset}

    def digest_check(
        self, group: zarr.Group, lost: Mapping[str, list[tuple[int, int]]]
    ) -> DigestCheck:
        """Compare object by object: as for :meth:`Layout.digest_check`."""
        return (
            _NoDigests() if any(lost.get(k) for k in (*SPANS, "digest")) else _ObjectDigests(group)
        )


CUTOUTS: Layout = _CutoutLayout()
"""A row is a cutout."""

SEQUENCES: Layout = _SequenceLayout()
"""A row is an object with its stamps."""


def layout_of(dimension: str) -> Layout:
    """Return the layout of an archive whose cutouts lie along a dimension."""
    return SEQUENCES if dimension == SEQUENCES.pixels else CUTOUTS


class _NoDigests(DigestCheck):
    """Nothing can be compared."""

    def differing(self, first: int, last: int, pixels: np.ndarray | None) -> int:
        return 0


class _CutoutDigests(DigestCheck):
    """Compares cutouts with their digests, except where these are lost."""

    def __init__(self, group: zarr.Group, lost: list[tuple[int, int]]) -> None:
        self._digest, self._lost = group["digest"], lost

    def differing(self, first: int, last: int, pixels: np.ndarray | None) -> int:
        if pixels is None or any(a < last and first < b for a, b in self._lost):
            return 0
        assert isinstance(self._digest, zarr.Array)
        return int((digests(pixels) != np.asarray(self._digest[first:last])).sum())


class _ObjectDigests(DigestCheck):
    """Compares objects with their digests; an object may lie in several shards of pixels."""

    def __init__(self, group: zarr.Group) -> None:
        offset, counts, known = (group[name] for name in ("offset", "epochs", "digest"))
        assert isinstance(offset, zarr.Array)
        assert isinstance(counts, zarr.Array)
        assert isinstance(known, zarr.Array)
        self._starts = np.asarray(offset[:])
        self._ends = self._starts + np.asarray(counts[:], np.int64)
        self._digests = np.asarray(known[:])
        self._hasher: Any = None

    def differing(self, first: int, last: int, pixels: np.ndarray | None) -> int:
        begin = int(np.searchsorted(self._ends, first, "right"))
        wrong = 0
        for row in range(begin, int(np.searchsorted(self._starts, last))):
            start, end = int(self._starts[row]), int(self._ends[row])
            if start >= first:
                self._hasher = hashlib.blake2b(digest_size=8)
            if pixels is None:
                self._hasher = None
            elif self._hasher is not None:
                self._hasher.update(pixels[max(start - first, 0) : end - first].tobytes())
                if end <= last:
                    found = int.from_bytes(self._hasher.digest(), "little")
                    wrong += found != int(self._digests[row])
        return wrong
