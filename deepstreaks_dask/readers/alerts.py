"""ZTF alert packets: their three cutouts become a triplet, their candidate's fields columns.

A packet is an Avro file with one alert; its cutouts are gzipped FITS images of 63 x 63 pixels. Schema and
meaning of the fields: https://zwickytransientfacility.github.io/ztf-avro-alert (Masci et al. 2019,
PASP 131, 018003; Patterson et al. 2019, PASP 131, 018001). Archives of whole nights, as the University of
Washington keeps them, are tar.gz archives of packets.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from deepstreaks_dask.archive.append import CutoutBatch, Quarantined
from deepstreaks_dask.archive.schema import SCHEMA, Column
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.depot import FILTER_NAMES
from deepstreaks_dask.readers.fits import quietly
from deepstreaks_dask.readers.fits_checks import UnreadableError
from deepstreaks_dask.readers.folder import (
    Refused,
    decode_all,
    leads_out,
    list_files,
    need_files,
    spelt,
)
from deepstreaks_dask.readers.options import DEFAULTS, ReadOptions
from deepstreaks_dask.readers.tables import Metadata, read_metadata
from deepstreaks_dask.readers.tarballs import count_members, is_tarball, members
from deepstreaks_dask.utils.optional import MissingExtraError, extras_named

AVRO_SUFFIX = ".avro"
ALERT_STAMP_SIZE = 63
"""Pixels on a side of an alert's cutout."""

PLANE_NAMES = "Science", "Template", "Difference"
"""The planes of a triplet in their order, braai's (Duev et al. 2019, MNRAS 489, 3582)."""

ALERT_COLUMNS: dict[str, Column] = {
    "objectId": Column("string", "", "", "identifier of the object"),
    "pid": Column("int64", 0, "", "processing identifier of the science image"),
    "programid": Column("int8", 0, "", "programme: 1 public, 2 collaboration, 3 Caltech"),
    "field": Column("int32", 0, "", "ZTF field"),
    "rcid": Column("int16", -1, "", "readout channel, 0 to 63"),
    "exptime": Column("float32", np.nan, "s", "exposure time"),
    "isdiffpos": Column("string", "", "", "t or 1 brighter than the template, f or 0 fainter"),
    "sigmapsf": Column("float32", np.nan, "mag", "1-sigma uncertainty of mag"),
    "diffmaglim": Column("float32", np.nan, "mag", "5-sigma limit of the difference image"),
    "rb": Column("float32", np.nan, "", "random-forest real/bogus score of the packet"),
    "rbversion": Column("string", "", "", "version of rb"),
    "drb": Column("float32", np.nan, "", "deep-learning real/bogus score of the packet"),
    "drbversion": Column("string", "", "", "version of drb"),
    "scorr": Column("float32", np.nan, "", "peak signal-to-noise ratio in the detection image"),
    "fwhm": Column("float32", np.nan, "pixel", "full width at half maximum, a Gaussian assumed"),
    "elong": Column("float32", np.nan, "", "ratio of the axes of the windowed profile"),
    "classtar": Column("float32", np.nan, "", "SExtractor's star-galaxy score"),
    "nneg": Column("int16", -1, "", "negative pixels in 5 x 5"),
    "nbad": Column("int16", -1, "", "bad pixels in 5 x 5"),
    "distnr": Column("float32", np.nan, "pixel", "distance to the nearest reference source"),
    "magnr": Column("float32", np.nan, "mag", "magnitude of the nearest reference source"),
    "sgscore1": Column(
        "float32", np.nan, "", "star-galaxy score of the nearest PS1 source, 1 a star"
    ),
    "distpsnr1": Column("float32", np.nan, "arcsec", "distance to the nearest PS1 source"),
    "ssdistnr": Column("float32", np.nan, "arcsec", "distance to the nearest known minor planet"),
    "ssmagnr": Column("float32", np.nan, "mag", "magnitude of the nearest known minor planet"),
    "ssnamenr": Column("string", "", "", "name of the nearest known minor planet"),
    "ndethist": Column("int32", -1, "", "earlier detections at this position"),
    "ncovhist": Column("int32", -1, "", "times this position was imaged"),
    "jdstarthist": Column("float64", np.nan, "d", "Julian date of the first of these"),
}
"""Columns of an archive of alerts beside the archive's own, under ZTF's names."""

_BATCH_PACKETS = 256
_MAX_PACKET_BYTES = 2**20  # a packet is of the order of 70 kB
_MAX_STAMP_BYTES = (
    2**17
)  # bytes of a FITS image of 63 x 63 doubles and its header, several times over
_MAX_TEXT_LENGTH = 100
_UNKNOWN_VALUE = -999  # what ZTF writes for "not known"
_EXPOSURE_TIME = 30.0  # s, of the surveys, for packets before schema 3.2, which do not say
_VALUE_RANGES = {"jd": (2396759, 2506332), "ra": (0, 360), "dec": (-90, 90)}  # jd from 1850 to 2150
_UNIX_EPOCH = 2440587.5
_ONE_BYTE_TYPES = {"boolean", "int", "long", "float", "double", "bytes", "string"}


@dataclass(frozen=True)
class Alert:
    """One alert: its triplet, float32 ``(63, 63, 3)``, its columns, and its science image's zero point, mag."""

    triplet: np.ndarray
    columns: Mapping[str, Any]
    zero_point: float = float("nan")


def decode_packet(data: bytes) -> Alert | Refused:
    """Decode a packet, or return why that cannot be done.

    Parameters
    ----------
    data : bytes
        A whole Avro file.

    Returns
    -------
    Alert or Refused
        The triplet's pixels as they were measured; the networks' normalisation is theirs. NaN is where
        there is no number: masked pixels, and those that fill up cutouts smaller than 63 x 63, which begin at
        the first row and column, as with braai.

    Raises
    ------
    MissingExtraError
        If fastavro is not installed.
    """
    if not data:
        return Refused("empty", "no bytes")
    if len(data) > _MAX_PACKET_BYTES:
        return Refused("too large", f"{len(data)} bytes, too many for one alert")
    try:
        packet = _packet(data)
        planes = np.stack([_plane(packet, name) for name in PLANE_NAMES], axis=-1)
        zero_point = _value(packet["candidate"].get("magzpsci"), SCHEMA["mag"])
        return Alert(planes, _columns(packet), zero_point)
    except UnreadableError as error:
        return error.refused
    except MissingExtraError:
        raise
    except Exception as error:  # fastavro and astropy raise many kinds on damaged data
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
        """Say whether ``path`` is a packet, a tar archive that begins with one, or a folder with either."""
        return any(self._holds_alerts(file) for file in list_files(path))

    def count(self, path: Path) -> int:
        """Give the number of packets."""
        files = list_files(path)
        return sum(count_members(file) if is_tarball(file) else 1 for file in files)

    def read(self, path: Path, options: ReadOptions = DEFAULTS) -> Iterator[CutoutBatch]:
        """Read packets in the order of their names, and of their places in archives.

        Parameters
        ----------
        path : Path
            A packet, a tar.gz archive of packets, or a folder of either. Links that lead out of the folder are
            refused.
        options : ReadOptions, optional
            ``table``: CSV, Parquet or ECSV with a column ``id`` (the ``candid``) or ``file`` and any of the archive's
            columns; labels also as ``rb``, ``sl``, ``kd``, ``os``. ``night``: of all alerts; else the UTC day of each.

        Yields
        ------
        CutoutBatch
            Up to 256 alerts, triplets as in :func:`decode_packet`. What is no alert, is damaged, or lacks one of the
            cutouts is in ``quarantined``.

        Raises
        ------
        ReaderError
            If there are no files, or the table cannot be read or speaks of none of the alerts.
        """
        table, night = options.table, options.night
        files = need_files(path, table)
        metadata = read_metadata(table, options) if table else None
        matched = False
        folder = path if path.is_dir() else path.parent
        for decoded in decoded_packets(folder, files, options.executor):
            batch, spoken = _batch([(task[0], found) for task, found in decoded], metadata, night)
            matched |= spoken
            yield batch
        if metadata and not matched:
            raise ReaderError(
                f"table {table} speaks of none of the alerts in {path}: its rows are named like "
                f"{next(iter(metadata.rows), '(none)')!r}; name them by their candid"
            )

    def _holds_alerts(self, file: Path) -> bool:
        if not is_tarball(file):
            return file.suffix.lower() == AVRO_SUFFIX
        return any(name.lower().endswith(AVRO_SUFFIX) for name, _ in islice(members(file, 0), 1))


READER = AlertPackets()


def decoded_packets(
    folder: Path, files: list[Path], executor: Executor | None = None
) -> Iterator[list[tuple[tuple[str, bytes | Refused], Alert | Refused]]]:
    """Decode all packets of files: in blocks, each packet's name and bytes with what :func:`decode_packet` says.

    Parameters
    ----------
    folder : Path
        That was given.
    files : sequence of Path
        Packets, or archives of them.
    executor : concurrent.futures.Executor or None
        Where to decode.

    Yields
    ------
    list
        Of one block: name, bytes and decoded packet, or why not.
    """
    yield from quietly(
        decode_all(_decode_task, _packets(folder, files), _BATCH_PACKETS, executor, together=16)
    )


def _packets(folder: Path, files: list[Path]) -> Iterator[tuple[str, bytes | Refused]]:
    """Give every packet's name and bytes, or why it has none."""
    for file in files:
        source = spelt(str(file.relative_to(folder)))
        try:
            if leads_out(file, folder.resolve()):
                yield source, Refused("not an alert", "a link that leads out of the folder")
            elif is_tarball(file):
                for name, found in members(file, _MAX_PACKET_BYTES):
                    yield f"{source}/{name}".rstrip("/"), found
            elif (size := file.stat().st_size) > _MAX_PACKET_BYTES:  # before it is read
                yield source, Refused("too large", f"{size} bytes, too many for one alert")
            else:
                yield source, file.read_bytes()
        except OSError as error:
            yield source, Refused("damaged", str(error))


def _decode_task(task: tuple[str, bytes | Refused]) -> Alert | Refused:
    return task[1] if isinstance(task[1], Refused) else decode_packet(task[1])


def _batch(
    decoded: list[tuple[str, Alert | Refused]], metadata: Metadata | None, night: int | None
) -> tuple[CutoutBatch, bool]:
    """Make a batch, and say whether the table speaks of any of it."""
    alerts = [(source, found) for source, found in decoded if isinstance(found, Alert)]
    refused = [
        Quarantined(source, found.reason, found.detail, night or 0)
        for source, found in decoded
        if isinstance(found, Refused)
    ]
    columns: dict[str, np.ndarray] = {}
    for name in ("id", "night", "jd", "filter", "ra", "dec", "mag", *ALERT_COLUMNS):
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
    stacked = (
        np.stack(triplets)
        if triplets
        else np.empty((0, ALERT_STAMP_SIZE, ALERT_STAMP_SIZE, len(PLANE_NAMES)), np.float32)
    )
    return CutoutBatch(stacked, columns, refused), bool((rows >= 0).any())


def _packet(data: bytes) -> dict[str, Any]:
    """Read the one alert of an Avro file, once its schema is one that can do no harm."""
    if not data.startswith(b"Obj\x01"):
        raise UnreadableError("not an alert", "not an Avro file")
    with extras_named():
        import fastavro

    reader = fastavro.reader(io.BytesIO(data))
    if reader.codec != "null":
        raise UnreadableError(
            "not an alert", f"compressed with {reader.codec!r}, as none of ZTF's is"
        )
    _check_schema(json.loads(reader.metadata["avro.schema"]))
    packets = list(islice(reader, 2))
    if len(packets) != 1:
        raise UnreadableError(
            "not an alert", f"{'several' if packets else 'no'} alerts in one packet"
        )
    packet = packets[0]
    if not isinstance(packet, dict) or not isinstance(packet.get("candidate"), dict):
        raise UnreadableError("not an alert", "no candidate in it")
    return packet


def _check_schema(schema: Any) -> None:
    """Refuse a schema that is not built like ZTF's: fields, flat records, and lists of those.

    A file brings its own schema. One that nests in itself, or has parts that take no bytes, would let a short
    file be read without end; in one built so, everything that is read takes a byte at least.
    """
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise UnreadableError("not an alert", "its schema is no record")
    flat: set[str] = set()

    def is_flat(kind: Any) -> bool:
        if isinstance(kind, list):
            return all(isinstance(k, str) and k in {*_ONE_BYTE_TYPES, "null"} for k in kind)
        return isinstance(kind, str) and kind in _ONE_BYTE_TYPES

    def is_record(kind: Any) -> bool:
        if isinstance(kind, str):
            return _last(kind) in flat
        if not isinstance(kind, dict) or kind.get("type") != "record" or not kind.get("fields"):
            return False
        if _last(kind["name"]) == _last(schema["name"]):  # another namespace would hide it
            return False
        if not all(is_flat(field["type"]) for field in kind["fields"]):
            return False
        flat.add(_last(kind["name"]))
        return True

    def is_part(kind: Any) -> bool:
        if isinstance(kind, dict) and kind.get("type") == "array":
            kind = kind["items"]
        return is_flat(kind) or is_record(kind)

    for field in schema["fields"]:
        kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
        several = len(kinds) > 1
        if not all(is_part(kind) or (several and kind == "null") for kind in kinds):
            detail = f"field {field['name']!r} is of no kind that ZTF's are"
            raise UnreadableError("not an alert", detail)


def _last(name: str) -> str:
    """Name of a record without its namespace."""
    return name.rpartition(".")[2]


def _plane(packet: Mapping[str, Any], name: str) -> np.ndarray:
    """Read one cutout of a packet: float32 ``(63, 63)``, NaN where there is no number."""
    cutout = packet.get(f"cutout{name}")
    packed = cutout.get("stampData") if isinstance(cutout, dict) else None
    if not isinstance(packed, bytes) or not packed:
        raise UnreadableError("missing cutout", f"no {name.lower()} cutout")
    stream = zlib.decompressobj(wbits=31)
    data = stream.decompress(packed, _MAX_STAMP_BYTES)
    if stream.unconsumed_tail or not stream.eof:
        detail = "holds more than its pixels" if stream.unconsumed_tail else "is cut short"
        raise UnreadableError("damaged", f"the {name.lower()} cutout {detail}")
    hdu = fits.PrimaryHDU.fromstring(data, ignore_missing_simple=True)
    shape = hdu.shape
    if len(shape) != 2 or not all(0 < side <= ALERT_STAMP_SIZE for side in shape):
        size = " x ".join(str(side) for side in reversed(shape)) or "no"
        raise UnreadableError("wrong shape", f"the {name.lower()} cutout has {size} px")
    with np.errstate(over="ignore", invalid="ignore"):
        pixels = np.asarray(hdu.data).astype(np.float32)
    known = np.isfinite(pixels)
    if not known.any():
        raise UnreadableError("blank", f"no pixel of the {name.lower()} cutout holds a number")
    plane = np.full((ALERT_STAMP_SIZE, ALERT_STAMP_SIZE), np.nan, np.float32)
    plane[: shape[0], : shape[1]] = np.where(known, pixels, np.nan)
    return plane


def _columns(packet: Mapping[str, Any]) -> dict[str, Any]:
    """Read the columns of an alert; what a packet does not know is missing."""
    candidate = {**packet["candidate"], "objectId": packet.get("objectId")}
    candid = packet.get("candid", candidate.get("candid"))
    if not isinstance(candid, int) or isinstance(candid, bool) or candid <= 0:
        raise UnreadableError("not an alert", "no candid in it")
    columns = {name: _value(candidate.get(name), column) for name, column in ALERT_COLUMNS.items()}
    for name, (low, high) in _VALUE_RANGES.items():
        columns[name] = _value(candidate.get(name), SCHEMA[name])
        if not low <= columns[name] <= high:
            raise UnreadableError("damaged", f"{name} is {candidate.get(name)!r}")
    start = columns["jd"]  # of the exposure, while the archive's is the middle
    exposure = columns["exptime"] if 0 <= columns["exptime"] < 86400 else _EXPOSURE_TIME
    day = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=start - _UNIX_EPOCH)
    return columns | {
        "id": str(candid),
        "jd": start + exposure / 2 / 86400,
        "night": int(f"{day:%Y%m%d}"),
        "filter": FILTER_NAMES.get(int(candidate.get("fid") or 0), ""),
        "mag": _value(candidate.get("magpsf"), SCHEMA["mag"]),
    }


def _value(value: Any, column: Column) -> Any:
    """Bring a field to a column's type; what is none of it, or stands for "not known", is missing."""
    if column.dtype == "string":
        return (
            value[:_MAX_TEXT_LENGTH]
            if isinstance(value, str) and value != "null"
            else column.missing
        )
    if isinstance(value, bool) or not isinstance(value, int | float) or value == _UNKNOWN_VALUE:
        return column.missing
    kind = np.dtype(column.dtype)
    if kind.kind == "i":
        limits = np.iinfo(kind)
        fits_in = isinstance(value, int) and limits.min <= value <= limits.max
        return value if fits_in else column.missing
    largest = float(np.finfo(kind).max)
    return value if isfinite(value) and abs(value) <= largest else column.missing
