"""Alerts of ZTF, LSST and surveys like them: their three cutouts become a triplet, their fields columns.

Brokers write alerts as Avro, one in a file (ZTF: Patterson et al. 2019, PASP 131, 018001) or any number (LSST, Fink), and as
Parquet (Fink's data transfer). Archives of whole nights, as the University of Washington keeps them, are tar.gz archives of
packets. Cutouts are FITS images, gzipped by ZTF, plain by LSST.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from deepstreaks_dask.archive.append import CutoutBatch, Quarantined, Remark
from deepstreaks_dask.archive.schema import SCHEMA
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.alert_fields import ALERT_COLUMNS, OWN_COLUMNS, Fields
from deepstreaks_dask.readers.alert_files import (
    Part,
    count_alerts,
    find_alert_files,
    is_alert_file,
    packets,
    parts_of,
    read_parts,
)
from deepstreaks_dask.readers.alert_stamps import PLANE_NAMES, Stamp, find_stamps, place_stamp
from deepstreaks_dask.readers.fits import quietly
from deepstreaks_dask.readers.fits_checks import UnreadableError
from deepstreaks_dask.readers.folder import Refused, decode_all
from deepstreaks_dask.readers.options import DEFAULTS, ReadOptions
from deepstreaks_dask.readers.tables import Metadata, read_metadata

ALERT_STAMP_SIZE = 63
"""Pixels on a side of an alert's cutout, as ZTF cuts it."""

_BATCH_ALERTS = 256
_BATCH_PARTS = 16


@dataclass(frozen=True)
class Alert:
    """One alert.

    Attributes
    ----------
    triplet : ndarray
        float32 ``(63, 63, 3)``; NaN where there is no number.
    columns : mapping
        Of an archive of alerts.
    zero_point : float
        Magnitude of 1 count in the science image.
    survey : str
        ``ZTF``, ``LSST`` or another; empty if it is not known.
    remarks : tuple
        What was not understood, and what stood there.
    """

    triplet: np.ndarray
    columns: Mapping[str, Any]
    zero_point: float = float("nan")
    survey: str = ""
    remarks: tuple[tuple[str, str], ...] = ()


def decode_packets(data: bytes) -> list[Alert | Refused]:
    """Decode all alerts of an Avro file, or return why that cannot be done.

    Parameters
    ----------
    data : bytes
        The whole file, gzipped or not.

    Returns
    -------
    list of (Alert or Refused)
        As :func:`decode_alert` returns each. Of a damaged file the alerts outside of the damage are decoded.

    Raises
    ------
    MissingExtraError
        If fastavro is not installed.
    """
    return [found for _, found in _decode_parts(list(parts_of("", data)))]


def decode_alert(packet: Mapping[str, Any]) -> Alert | Refused:
    """Make an alert of a packet's fields, or return why that cannot be done.

    Parameters
    ----------
    packet : mapping
        Fields of the alert, as its survey names them.

    Returns
    -------
    Alert or Refused
        The triplet's pixels as they were measured; the networks' normalisation is theirs. NaN is where
        there is no number: masked pixels, and those around cutouts smaller than 63 x 63. Those of ZTF, at the edge of
        a detector, begin at the first row and column, as with braai; those of other surveys are in the middle. Of
        larger ones the middle is taken, which a remark says.
    """
    try:
        if not isinstance(packet, Mapping):
            return Refused("not an alert", "no record")
        fields = Fields.of(packet)
        if not {"ra", "jd", "candid"} & fields.values.keys() and "diasourceid" not in fields.values:
            return Refused("not an alert", "no candidate in it")
        stamps = find_stamps(packet)
        planes = [
            _plane(stamp, name, fields) for stamp, name in zip(stamps, PLANE_NAMES, strict=True)
        ]
        columns = fields.columns()
        zero_point = fields.zero_point(stamps[0].unit)
        remarks = tuple(dict.fromkeys(fields.remarks))
        return Alert(np.stack(planes, axis=-1), columns, zero_point, fields.survey, remarks)
    except UnreadableError as error:
        return error.refused
    except Exception as error:  # astropy raises many kinds on damaged data
        return Refused("damaged", f"{type(error).__name__}: {error}")


class AlertPackets:
    """Reader ``alerts``: see :meth:`read`."""

    name = "alerts"
    processes = True
    layout: Mapping[str, Any] = {
        "shape": (ALERT_STAMP_SIZE, ALERT_STAMP_SIZE, len(PLANE_NAMES)),
        "dtype": "float32",
        "columns": ALERT_COLUMNS,
    }

    def sniff(self, path: Path) -> bool:
        """Return whether ``path`` is a file of alerts, a tar archive that begins with one, or a folder with either."""
        return any(map(is_alert_file, find_alert_files(path)))

    def count(self, path: Path) -> int:
        """Count the alerts."""
        return sum(map(count_alerts, find_alert_files(path)))

    def read(self, path: Path, options: ReadOptions = DEFAULTS) -> Iterator[CutoutBatch]:
        """Read alerts in the order of their files' names, and of their places in files and archives.

        Parameters
        ----------
        path : Path
            Avro (``.avro``, ``.avro.gz``) or Parquet with any number of alerts, a tar.gz archive of such Avro, or a
            folder of these. Links that lead out of the folder are refused.
        options : ReadOptions, optional
            ``table``: CSV, Parquet or ECSV with a column ``id`` (``candid`` or ``diaSourceId``) or ``file`` and any of
            the archive's columns; labels also as ``rb``, ``sl``, ``kd``, ``os``. ``night``: of all alerts; else the
            UTC day of each.

        Yields
        ------
        CutoutBatch
            Up to 256 alerts, triplets as in :func:`decode_alert`. What is no alert, is damaged, or lacks one of the
            cutouts is in ``quarantined``; fields that were not understood are in ``remarks``.

        Raises
        ------
        ReaderError
            If there are no files, or the table cannot be read or no row of it matches an alert.
        """
        table = options.table
        metadata = read_metadata(table, options) if table else None
        matched = False
        decoded = decoded_alerts(path, table, options.executor)
        while block := list(islice(decoded, _BATCH_ALERTS)):
            batch, spoken = _batch(block, metadata, options.night)
            matched |= spoken
            yield batch
        if metadata and not matched:
            raise ReaderError(
                f"table {table} speaks of none of the alerts in {path}: its rows are named like "
                f"{next(iter(metadata.rows), '(none)')!r}; name them by their candid"
            )


READER = AlertPackets()


def decoded_alerts(
    path: Path, table: Path | None = None, executor: Executor | None = None
) -> Iterator[tuple[str, Alert | Refused]]:
    """Decode all alerts of a file or folder.

    Parameters
    ----------
    path : Path
        As :meth:`AlertPackets.read` takes it.
    table : Path, optional
        A file that is no alert.
    executor : concurrent.futures.Executor, optional
        Where to decode; threads by default.

    Yields
    ------
    tuple of str and (Alert or Refused)
        Place of each alert, and what :func:`decode_alert` returns of it.

    Raises
    ------
    ReaderError
        If there are no files.
    """
    files = find_alert_files(path, table)
    if not files:
        raise ReaderError(f"{path} holds no files: check the path")
    tasks = read_parts(path if path.is_dir() else path.parent, files)
    for block in quietly(decode_all(_decode_parts, tasks, _BATCH_PARTS, executor)):
        for _, found in block:
            yield from found


def _decode_parts(parts: list[Part]) -> list[tuple[str, Alert | Refused]]:
    return [
        (source, found if isinstance(found, Refused) else decode_alert(found))
        for part in parts
        for source, found in packets(part)
    ]


def _plane(stamp: Stamp, name: str, fields: Fields) -> np.ndarray:
    """Bring a cutout to the size of a triplet."""
    shape = stamp.pixels.shape
    if max(shape) > ALERT_STAMP_SIZE:
        size = " x ".join(map(str, reversed(shape)))
        if fields.survey == "ZTF":
            raise UnreadableError("wrong shape", f"the {name.lower()} cutout has {size} px")
        what = f"larger than {ALERT_STAMP_SIZE} x {ALERT_STAMP_SIZE} px: the middle was taken"
        fields.remarks.append((f"{name.lower()} cutout {what}", f"{size} px"))
    return place_stamp(stamp.pixels, ALERT_STAMP_SIZE, centred=fields.survey != "ZTF")


def _batch(
    decoded: list[tuple[str, Alert | Refused]], metadata: Metadata | None, night: int | None
) -> tuple[CutoutBatch, bool]:
    """Make a batch, and return whether a row of the table matches any of it."""
    alerts = [(source, found) for source, found in decoded if isinstance(found, Alert)]
    refused = [
        Quarantined(source, found.reason, found.detail, night or 0)
        for source, found in decoded
        if isinstance(found, Refused)
    ]
    columns: dict[str, np.ndarray] = {}
    for name in (*OWN_COLUMNS, *ALERT_COLUMNS):
        column = SCHEMA.get(name) or ALERT_COLUMNS[name]
        values = [alert.columns[name] for _, alert in alerts]
        columns[name] = np.array(values, object if column.dtype == "string" else column.dtype)
    columns["source"] = np.array([source for source, _ in alerts], object)
    if night:
        columns["night"] = np.full(len(alerts), night)
    rows = np.array([], int)
    if metadata:
        named = zip(columns["source"], columns["id"], strict=True)
        rows = np.array([metadata.row_of("", source, name) for source, name in named], int)
        columns = metadata.over(columns, rows)
    triplets = [alert.triplet for _, alert in alerts]
    empty = np.empty((0, ALERT_STAMP_SIZE, ALERT_STAMP_SIZE, len(PLANE_NAMES)), np.float32)
    remarks = [
        Remark(what, source, detail) for source, one in alerts for what, detail in one.remarks
    ]
    stacked = np.stack(triplets) if triplets else empty
    made = CutoutBatch(stacked, columns, refused, remarks=remarks, own_ids=True)
    return made, bool((rows >= 0).any())
