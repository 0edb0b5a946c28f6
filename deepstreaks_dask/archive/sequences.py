"""Objects with their stamps, read from an archive of sequences a stretch at a time.

What cannot be used is left out and named: an object whose pixels are damaged or hold no number, or that has more epochs
than anybody looks at. A stamp without any number is as good as an epoch that is missing, and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import zarr

from deepstreaks_dask.archive.hashing import digests
from deepstreaks_dask.archive.schema import EPOCHS
from deepstreaks_dask.archive.store import get_array, read_commit_record

MAX_EPOCHS = 4096
"""Epochs of an object that is looked at, at most: a survey's decade; its stamps take 7 MB."""

Failure = tuple[int, int, str]
"""Rows ``[first, last)`` that could not be read, and why."""


@dataclass(frozen=True)
class Sequences:
    """Objects with the stamps of all their epochs, one after the other.

    Attributes
    ----------
    stamps : ndarray
        float32 ``(epoch, y, x)``, counts (ADU); NaN where a pixel is not known.
    counts : ndarray
        int64 ``(object,)``: how many epochs each object has, 1 at least.
    epochs : mapping of str to ndarray
        The columns of :data:`~deepstreaks_dask.archive.schema.EPOCHS`, each ``(epoch,)``; what an archive does not know is
        NaN, or an empty text.
    """

    stamps: np.ndarray
    counts: np.ndarray
    epochs: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.counts)

    @cached_property
    def ends(self) -> np.ndarray:
        """Where each object's epochs end, int64 ``(object,)``."""
        return np.cumsum(self.counts)

    @property
    def starts(self) -> np.ndarray:
        """Where each object's epochs begin, int64 ``(object,)``."""
        return self.ends - self.counts

    def take(self, rows: np.ndarray) -> Sequences:
        """Give some of the objects, in the order of ``rows``."""
        counts = self.counts[rows]
        # places within each object, from its first epoch on
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.only(np.repeat(self.starts[rows], counts) + within, counts)

    def only(self, epochs: np.ndarray, counts: np.ndarray) -> Sequences:
        """Give some of the epochs: their places, object by object, and how many each object then has.

        Parameters
        ----------
        epochs : ndarray
            int ``(epoch,)``: their places.
        counts : ndarray
            int ``(object,)``.

        Returns
        -------
        Sequences
            As many objects as ``counts``.
        """
        columns = {name: values[epochs] for name, values in self.epochs.items()}
        return Sequences(self.stamps[epochs], np.asarray(counts, np.int64), columns)

    def part(self, first: int, last: int) -> Sequences:
        """Give some of the objects, which are not copied.

        Parameters
        ----------
        first, last : int
            The first of them, and the one after the last.

        Returns
        -------
        Sequences
            A view.
        """
        epochs = slice(self.ends[first - 1] if first else 0, self.ends[last - 1] if last else 0)
        columns = {name: values[epochs] for name, values in self.epochs.items()}
        return Sequences(self.stamps[epochs], self.counts[first:last], columns)

    @classmethod
    def join(cls, parts: list[Sequences]) -> Sequences:
        """Put the objects of several behind one another; one at least."""
        epochs = {
            name: np.concatenate([part.epochs[name] for part in parts]) for name in parts[0].epochs
        }
        stamps = np.concatenate([part.stamps for part in parts])
        return cls(stamps, np.concatenate([part.counts for part in parts]), epochs)


@dataclass(frozen=True)
class Stretch:
    """What was read of rows ``[first, last)``: the objects, their rows, and what could not be read."""

    sequences: Sequences | None
    rows: np.ndarray
    failures: tuple[Failure, ...] = ()


def read_objects(url: str, first: int, last: int) -> Stretch:
    """Read objects ``[first, last)`` of an archive of sequences.

    Parameters
    ----------
    url : str
        The archive's store.
    first, last : int
        Rows.

    Returns
    -------
    Stretch
        ``sequences`` is None where nothing can be used.

    Raises
    ------
    MemoryError
        If there is too little memory; whatever else goes wrong is a failure of the rows.
    """
    nothing = np.empty(0, np.int64)
    try:
        group = read_commit_record(url).open()
        offsets, counts, known = (
            np.asarray(get_array(group, name)[first:last])
            for name in ("offset", "epochs", "digest")
        )
        counts, total = counts.astype(np.int64), get_array(group, "cutouts").shape[0]
        ends = offsets + counts
        if (counts < 1).any() or (offsets < 0).any() or (ends > total).any():
            raise ValueError("the offsets lead out of the archive's epochs")
        if (offsets[1:] != ends[:-1]).any():
            raise ValueError("the offsets do not follow each other")
    except MemoryError:
        raise
    except Exception as error:  # codecs and stores raise whatever their libraries do
        return Stretch(None, nothing, ((first, last, _why(error)),))
    fit = counts <= MAX_EPOCHS
    failures = [
        (first + k, first + k + 1, f"{counts[k]} epochs: at most {MAX_EPOCHS} are looked at")
        for k in np.flatnonzero(~fit).tolist()
    ]
    rows, kept = [nothing], []
    for a, b in _runs(fit):
        for mine, some in _read_run(group, offsets, counts, a, b):
            if isinstance(some, Sequences) and _is_sound(some):
                rows.append(first + mine)
                kept.append(some)
                continue
            for k, one in zip(mine.tolist(), _singly(some), strict=True):
                why = one if isinstance(one, str) else _fault(one, known[k])
                if isinstance(one, str) or why:
                    failures.append((first + k, first + k + 1, why))
                else:
                    rows.append(np.array([first + k]))
                    kept.append(_without_blanks(one))
    if not kept:
        return Stretch(None, nothing, tuple(sorted(failures)))
    read = kept[0] if len(kept) == 1 else Sequences.join(kept)
    return Stretch(read, np.concatenate(rows), tuple(sorted(failures)))


def _read_run(
    group: zarr.Group, offsets: np.ndarray, counts: np.ndarray, a: int, b: int
) -> Iterator[tuple[np.ndarray, Sequences | str]]:
    """Read neighbouring objects at once, and in halves where that fails; a text is why one cannot be read."""
    try:
        yield np.arange(a, b), _slice(group, int(offsets[a]), counts[a:b])
    except MemoryError:
        raise
    except Exception as error:
        if b - a == 1:
            yield np.arange(a, b), _why(error)
            return
        middle = (a + b) // 2
        yield from _read_run(group, offsets, counts, a, middle)
        yield from _read_run(group, offsets, counts, middle, b)


def _singly(some: Sequences | str) -> Iterator[Sequences | str]:
    """Part what was read at once into its objects."""
    if isinstance(some, str):
        yield some
        return
    for k in range(len(some)):
        yield some.part(k, k + 1)


def _slice(group: zarr.Group, start: int, counts: np.ndarray) -> Sequences:
    stop = start + int(counts.sum())
    stamps = np.asarray(get_array(group, "cutouts")[start:stop])
    epochs = {}
    for name, column in EPOCHS.items():
        dtype = object if column.dtype == "string" else column.dtype
        if name in group:
            epochs[name] = np.asarray(get_array(group, name)[start:stop]).astype(dtype)
        else:
            epochs[name] = np.full(stop - start, column.missing, dtype)
    return Sequences(stamps, counts, epochs)


def _is_sound(some: Sequences) -> bool:
    """Say, in one look at all objects, whether there can be nothing wrong with any; else each is looked at."""
    brightest = some.stamps.max(axis=(1, 2))  # NaN where any pixel is
    mjd = some.epochs["mjd"]
    onward = np.diff(mjd, prepend=-np.inf) >= 0
    onward[some.starts] = True
    return bool((np.isfinite(brightest) & (brightest != 0) & np.isfinite(mjd) & onward).all())


def _fault(one: Sequences, digest: np.uint64) -> str:
    """Say what is wrong with an object that was read, if anything."""
    # an object of the store that is gone reads as zeros; a damaged one fails its checksum
    if not one.stamps.any(axis=(1, 2)).all() and digests([one.stamps])[0] != digest:
        return "the stamps are missing"
    if not np.isfinite(one.stamps).any():
        return "no stamp holds a number"
    if not np.isfinite(one.epochs["mjd"]).all() or (np.diff(one.epochs["mjd"]) < 0).any():
        return "the epochs have no times, or are not in their order"
    return ""


def _without_blanks(one: Sequences) -> Sequences:
    seen = np.isfinite(one.stamps).any(axis=(1, 2))
    return one if seen.all() else one.only(np.flatnonzero(seen), np.array([seen.sum()]))


def _runs(mask: np.ndarray) -> Iterator[tuple[int, int]]:
    """Give ``[first, last)`` of each run of neighbours that are True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
