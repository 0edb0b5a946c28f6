"""Objects of an archive of sequences whose class is known."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.training.recipe import Split
from deepstreaks_dask.training.sequences.batches import Shards


@dataclass(frozen=True)
class LabelledObjects:
    """Objects whose class is known.

    Attributes
    ----------
    archive : xarray.Dataset
        As :func:`~deepstreaks_dask.archive.dataset.open_archive` returns it.
    classes : tuple of str
        Their classes, in the order of the alphabet or of a network that is to be trained on.
    rows : ndarray
        Rows of the archive, ascending.
    ids, kinds : ndarray
        Name and class of each, ``(object,)``.
    """

    archive: xr.Dataset
    classes: tuple[str, ...]
    rows: np.ndarray
    ids: np.ndarray
    kinds: np.ndarray

    @classmethod
    def of(cls, archive: xr.Dataset, classes: Sequence[str] = ()) -> LabelledObjects:
        """Return the objects that have a class in the archive's column ``kind``.

        Parameters
        ----------
        archive : xarray.Dataset
            Of sequences, as :func:`~deepstreaks_dask.archive.dataset.open_archive` returns it.
        classes : sequence of str
            Names; those that occur by default.

        Returns
        -------
        LabelledObjects
            Objects with a class.

        Raises
        ------
        TrainingError
            If the archive holds no sequences or none with a class, or a class that is none of ``classes``.
        """
        if "object" not in archive.sizes:
            raise TrainingError(
                "the archive holds single cutouts: sequences are trained on, as 'deepstreaks sequences simulate' makes them"
            )
        kinds = archive["kind"].values.astype(object)
        known = tuple(sorted({str(kind) for kind in kinds} - {""}))
        if unknown := sorted(set(known) - set(classes or known)):
            raise TrainingError(
                f"the archive has objects of class {unknown[0]!r}, which is none of {', '.join(classes)}"
            )
        if len(known) < 2:
            raise TrainingError(
                f"the archive has objects of {len(known)} classes (column 'kind'): 2 or more are needed"
            )
        rows = np.flatnonzero(kinds != "")
        return cls(
            archive,
            tuple(classes) or known,
            rows,
            archive["id"].values[rows].astype(object).astype(str),
            kinds[rows],
        )

    def part(self, split: Split, part: str) -> np.ndarray:
        """Return the places of the objects in a part of a split.

        Parameters
        ----------
        split : Split
            Of the objects' names.
        part : str
            ``train``, ``validation`` or ``test``.

        Returns
        -------
        ndarray
            int ``(object,)``.
        """
        return np.flatnonzero(split.rows(self.ids, part))

    def numbers(self, places: np.ndarray) -> np.ndarray:
        """Return the numbers of the classes of objects at some places, both ``(object,)``."""
        number = {name: k for k, name in enumerate(self.classes)}
        return np.array([number[kind] for kind in self.kinds[places]], np.int64)

    def shards(self, places: np.ndarray, window: int = 0) -> Shards:
        """Return a reader of some of the objects.

        Parameters
        ----------
        places : ndarray
            int ``(object,)``.
        window : int
            Objects in memory at once; 0 is all.

        Returns
        -------
        Shards
            Nothing is read yet.
        """
        return Shards(self.archive, self.rows[places], window)

    def data(self, places: np.ndarray) -> dict[str, Any]:
        """Count objects ``(object,)``, and hash the digests of their pixels and their classes."""
        hashed = hashlib.sha256(
            self.archive["digest"].values[self.rows[places]].astype("<u8").tobytes()
        )
        hashed.update("\n".join(self.kinds[places]).encode())
        names, counts = np.unique(self.kinds[places].astype(str), return_counts=True)
        return {
            "objects": len(places),
            "epochs": int(self.archive["epochs"].values[self.rows[places]].sum()),
            "counts": dict(zip(names.tolist(), counts.tolist(), strict=True)),
            "sha256": hashed.hexdigest(),
        }
