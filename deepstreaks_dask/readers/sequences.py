"""What the readers of sequences share: epochs become objects, and objects batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from deepstreaks_dask.archive.append import CutoutBatch, Quarantined, Remark
from deepstreaks_dask.archive.schema import EPOCHS, SCHEMA
from deepstreaks_dask.readers.folder import Refused

STAMP_SIZE = 21
"""Pixels on a side of a stamp, as the published classifiers take them."""

LAYOUT: Mapping[str, Any] = {
    "shape": (STAMP_SIZE, STAMP_SIZE),
    "dtype": "float32",
    "shard": 256,
    "epochs": EPOCHS,
}
"""What an archive for these readers is created with."""

MJD_OFFSET = 2400000.5
"""Julian date at which modified Julian dates begin."""

_MAX_ID_DIGITS = 64  # of an identifier


@dataclass(frozen=True)
class Epoch:
    """One exposure of an object: its stamp, float32 ``(21, 21)``, and its columns, ``mjd`` among them."""

    stamp: np.ndarray
    columns: Mapping[str, Any]


@dataclass(frozen=True)
class Object:
    """An object: its columns, ``id`` and ``source`` among them, its epochs, those refused, and what was not understood."""

    columns: Mapping[str, Any]
    epochs: Sequence[Epoch]
    refused: Sequence[Refused] = field(default_factory=list)
    remarks: Sequence[tuple[str, str]] = ()


def middle(image: np.ndarray) -> np.ndarray | Refused:
    """Cut the stamp out of the middle of an image, or say why there is none.

    Parameters
    ----------
    image : ndarray
        ``(height, width)``; NaN where there is no number.

    Returns
    -------
    ndarray or Refused
        float32 ``(21, 21)``.
    """
    if image.ndim != 2 or min(image.shape) < STAMP_SIZE:
        size = " x ".join(str(side) for side in reversed(image.shape)) or "no"
        return Refused(
            "wrong shape", f"a stamp of {size} px, less than {STAMP_SIZE} x {STAMP_SIZE}"
        )
    top, left = ((side - STAMP_SIZE) // 2 for side in image.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        stamp = image[top : top + STAMP_SIZE, left : left + STAMP_SIZE].astype(np.float32)
    stamp[~np.isfinite(stamp)] = np.nan
    if np.isnan(stamp).all():
        return Refused("blank", "no pixel of the stamp holds a number")
    return stamp


def batch(objects: Sequence[Object], night: int | None = None) -> CutoutBatch:
    """Make a batch of objects, their epochs in the order of their times.

    Parameters
    ----------
    objects : sequence of Object
    night : int, optional
        ``YYYYMMDD`` of all; else that of each object's first epoch.

    Returns
    -------
    CutoutBatch
        Refused epochs are in ``quarantined``; so are objects of which no epoch is left.
    """
    kept, refused = [], []
    for one in objects:
        source, day = str(one.columns["source"]), night or 0
        refused += [
            Quarantined(source + why.where, why.reason, why.detail, day) for why in one.refused
        ]
        epochs = sorted(one.epochs, key=lambda epoch: epoch.columns["mjd"])
        if not epochs:
            if all(why.where for why in one.refused):  # else it is said why the whole file is none
                refused.append(Quarantined(source, "no epochs", "none can be used", day))
        elif not str(one.columns["id"]) or len(str(one.columns["id"])) > _MAX_ID_DIGITS:
            refused.append(Quarantined(source, "no identifier", "the object has no name", day))
        else:
            kept.append((one, epochs))
    columns: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(name for one, _ in kept for name in one.columns):
        column = SCHEMA[name]
        values = [one.columns.get(name, column.missing) for one, _ in kept]
        columns[name] = np.array(values, object if column.dtype == "string" else column.dtype)
    starts = [epochs[0].columns["mjd"] for _, epochs in kept]
    columns["jd"] = np.array(starts, float) + MJD_OFFSET
    columns["night"] = np.array([night or _night(mjd) for mjd in starts], np.int32)
    flat = [epoch for _, epochs in kept for epoch in epochs]
    along = {}
    for name, column in EPOCHS.items():
        values = [epoch.columns.get(name, column.missing) for epoch in flat]
        along[name] = np.array(values, object if column.dtype == "string" else column.dtype)
    stamps = (
        np.stack([e.stamp for e in flat])
        if flat
        else np.empty((0, STAMP_SIZE, STAMP_SIZE), np.float32)
    )
    counts = np.array([len(epochs) for _, epochs in kept], np.int64)
    if not kept:
        columns = {"id": np.array([], object)}
    remarks = [
        Remark(what, str(one.columns["source"]), detail)
        for one, _ in kept
        for what, detail in one.remarks
    ]
    return CutoutBatch(stamps, columns, refused, counts=counts, epochs=along, remarks=remarks)


def _night(mjd: float) -> int:
    return int(f"{datetime(1858, 11, 17, tzinfo=UTC) + timedelta(days=mjd):%Y%m%d}")
