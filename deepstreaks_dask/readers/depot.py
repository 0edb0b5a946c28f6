"""A ZTF night of streaks as its depot has it: tarballs of cutouts and ADES files, tables of streaks.

``…_strkcutouts.tar.gz`` hold ``strkid…_pid…_scimref.jpg`` and ``strkid…_pid…_ades.xml``; ``…_streaks.txt`` hold a row
a streak. The three are joined by the streak's id, and what one of them does not say stays missing. Tarballs
are read as streams and never unpacked.

ADES: Chesley et al. 2017, IAU, https://github.com/IAU-ADES/ADES-Master.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import astropy.units as u
import numpy as np
import pandas as pd
from astropy.coordinates import SkyCoord
from astropy.time import Time
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from deepstreaks_dask.archive.append import CutoutBatch, Quarantined
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.folder import (
    Picture,
    Refused,
    decode_all,
    leads_out,
    make_batch,
    said_columns,
    spelt,
)
from deepstreaks_dask.readers.images import MAX_IMAGE_BYTES, decode_image
from deepstreaks_dask.readers.options import DEFAULTS, ReadOptions
from deepstreaks_dask.readers.tables import Metadata, read_metadata
from deepstreaks_dask.readers.tarballs import WRONG_CHECKSUM, count_members, members

TARBALL, TABLE, ADES = "_strkcutouts.tar.gz", "_streaks.txt", "_ades.xml"
"""How the names of a night's products end."""

# fmt: off
STREAK_COLUMNS = (
    "jd", "fid", "pid", "diffmaglim", "pdiffimfilename", "programpi", "programid", "streakid", "strid", "ra1", "dec1",
    "ra2", "dec2", "startmjd", "endmjd", "flux", "bg", "length", "sigma", "lengtherr", "sigmaerr", "paerr", "bgerr",
    "fitmagerr", "apsnr", "apmagerr", "dmag", "dmagerr", "chi2", "numfit", "prob", "ra1err", "dec1err", "corr1",
    "ra2err", "dec2err", "corr2",
)
# fmt: on
"""Columns of a table of streaks, in their order."""

CUT_SHORT_REASON = "cut short: the table has no footer"
"""Detail of a table that ends too early."""

FILTER_NAMES = {1: "g", 2: "r", 3: "i"}
"""ZTF's filters by ``fid``."""

_CONCURRENT_SCANS = 16  # tarballs looked into at once
_IMAGES_PER_TASK = 32  # pictures a task: enough to hide the cost of handing it out
_TASKS_PER_BATCH = 16  # tasks a batch
_MAX_XML_BYTES = 2**17  # a streak's astrometry is of the order of 2 kB
_MAX_TABLE_BYTES = 2**28
_MAX_OBSERVATIONS = 1000
_CUTOUT = re.compile(r"(strkid(\d{1,18})_pid\d{1,18})_scimref\.jpe?g", re.ASCII)
_ASTROMETRY = re.compile(r"strkid(\d{1,18})_pid\d{1,18}_ades\.xml", re.ASCII)
_SIBLING = re.compile(r"strkid\d{1,18}_pid\d{1,18}_\w+\.(jpe?g|png|txt|fits(\.[fg]z)?)", re.ASCII)
_STREAK_ID = re.compile(r"\d{1,18}", re.ASCII)
_NIGHT = re.compile(r"(?<!\d)((?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))")
_END_COLUMNS = ["ra1", "dec1", "ra2", "dec2"]
_NUMBER_COLUMNS = [
    "jd",
    "fid",
    *_END_COLUMNS,
    "startmjd",
    "endmjd",
    "flux",
    "length",
    "sigma",
    "apsnr",
]
_FIRST_JD, _LAST_JD = 2396759.0, 2506332.0  # 1850 to 2150
_MJD_OFFSET = 2400000.5


@dataclass(frozen=True)
class Products:
    """The files of a night, sorted by name."""

    tarballs: list[Path] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    ades: list[Path] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.tarballs or self.tables or self.ades)


class Depot:
    """Reader ``depot``: see :meth:`read`."""

    name = "depot"

    def sniff(self, path: Path) -> bool:
        """Say whether ``path`` is one of a night's products, or a folder with some."""
        return bool(find_products(path))

    def count(self, path: Path) -> int:
        """Give the number of files in the tarballs."""
        return sum(count_members(file) for file in find_products(path).tarballs)

    def read(self, path: Path, options: ReadOptions = DEFAULTS) -> Iterator[CutoutBatch]:
        """Read the products of a night.

        Parameters
        ----------
        path : Path
            A folder, searched with its sub-folders, or a single tarball.
        options : ReadOptions, optional
            ``table``: as the reader ``images`` takes it, with a column ``id``, such as labels; goes before what the
            products say. ``night``: of all cutouts; else the table's, else that of a folder or tarball so named, else
            the UTC date of mid-exposure, else 0.

        Yields
        ------
        CutoutBatch
            As :func:`read_products`.

        Raises
        ------
        ReaderError
            If there is no tarball, or the table cannot be read.
        """
        products = find_products(path)
        if not products.tarballs:
            raise ReaderError(f"{path} holds no file that ends in {TARBALL}: check the path")
        root = path if path.is_dir() else path.parent
        metadata = read_metadata(options.table, options) if options.table else None
        yield from read_products(
            products, root, metadata=metadata, night=options.night, executor=options.executor
        )


READER = Depot()


def find_products(path: Path) -> Products:
    """Find a night's products: ``path`` itself, or those in a folder and its sub-folders."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    found = Products()
    for file in (f for f in files if f.is_file() and not f.name.startswith(".")):
        for end, kind in ((TARBALL, found.tarballs), (TABLE, found.tables), (ADES, found.ades)):
            if file.name.endswith(end):
                kind.append(file)
    return found


def read_products(
    products: Products,
    root: Path,
    *,
    metadata: Metadata | None = None,
    night: int | None = None,
    executor: Executor | None = None,
) -> Iterator[CutoutBatch]:
    """Read tarballs, and join what tables and ADES files say of their streaks.

    Parameters
    ----------
    products : Products
        Tables and ADES files may speak of streaks in other tarballs.
    root : Path
        Folder that sources are spelt relative to; links that lead out of it are refused.
    metadata : Metadata, optional
        Further columns by ``id``, which go before the products'.
    night : int, optional
        As :meth:`Depot.read` takes it.
    executor : concurrent.futures.Executor, optional
        Where to look into tarballs and to decode; threads by default.

    Yields
    ------
    CutoutBatch
        Up to 512 cutouts. In ``quarantined`` are pictures as with the reader ``images``; members that are no
        regular files, have unsafe names or are of no known kind; tarballs, tables and ADES files that are
        damaged, from where the damage begins; and whole tarballs whose checksum is wrong, since nobody
        knows where the damage is.

    Notes
    -----
    Each tarball is read twice: for the checksum and the ADES files first, since they may come after their
    pictures. In memory are two batches and the numbers of the streaks' tables, never a tarball.
    """
    joined = _Joined(root.resolve(), metadata, night)
    joined.read_tables(products.tables)
    joined.read_ades(products.ades)
    if rest := joined.batch(()):
        yield rest
    for scans in decode_all(_Scanner(joined.root), products.tarballs, _CONCURRENT_SCANS, executor):
        for file, scan in scans:
            joined.streaks_of_tarball = scan.said
            for where, refused in scan.refused:
                joined.refuse(file, where, refused)
            if scan.spoiled is None:
                stream = _pictures(file)
                portions = iter(lambda stream=stream: tuple(islice(stream, _IMAGES_PER_TASK)), ())  # type: ignore[misc]
                for block in decode_all(_decode_some, portions, _TASKS_PER_BATCH, executor):
                    found = [
                        (file, name, result)
                        for portion, results in block
                        for (name, _), result in zip(portion, results, strict=True)
                    ]
                    if batch := joined.batch(found):
                        yield batch
            if rest := joined.batch(()):
                yield rest


def check_tarball(file: Path) -> Refused | None:
    """Read a tarball to its checksum; say where and how it is damaged, None if it is whole."""
    for name, content in members(file, MAX_IMAGE_BYTES):
        if not name and isinstance(content, Refused):
            return content
    return None


def read_table(file: Path) -> tuple[pd.DataFrame, list[tuple[str, Refused]]]:
    """Read a table of streaks: ``|`` between columns, two lines of header, one of footer.

    Parameters
    ----------
    file : Path
        ``…_streaks.txt``; where a header names the columns, they may come in another order.

    Returns
    -------
    pandas.DataFrame
        A row a streak, indexed by its id: ``jd`` (mid-exposure), ``filter``, ``ra``, ``dec`` (middle of the
        streak), its ends, ``length``, ``sigma``, ``flux``, ``snr``, as the archive's columns are.
    list of (str, Refused)
        Lines that are no rows. A table without a footer was cut short, and its last line with it.
    """
    try:
        if (size := file.stat().st_size) > _MAX_TABLE_BYTES:
            return _streaks({}), [("", Refused("too large", f"{size} bytes"))]
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return _streaks({}), [("", Refused("damaged", str(error)))]
    numbered = [(k, _fields(line)) for k, line in enumerate(lines, 1) if line.strip()]
    if len(numbered) < 3:
        detail = f"{len(numbered)} lines, where two of header and one of footer are the least"
        return _streaks({}), [("", Refused("damaged" if size else "empty", detail))]
    header = next(
        (fields for _, fields in numbered[:2] if "streakid" in fields), list(STREAK_COLUMNS)
    )
    places = {name: header.index(name) for name in ("streakid", *_NUMBER_COLUMNS) if name in header}
    rows: dict[int, list[str]] = {}
    refused = []

    def row_in(fields: list[str]) -> bool:
        return len(fields) == len(header) and bool(_STREAK_ID.fullmatch(fields[places["streakid"]]))

    *body, (last, footer) = numbered[2:]
    for number, fields in body:
        if not row_in(fields):
            detail = f"{len(fields)} fields, not {len(header)} with a number as streakid"
            refused.append((f":{number}", Refused("damaged", detail)))
            continue
        streak = int(fields[places["streakid"]])
        if rows.setdefault(streak, fields) != fields:
            refused.append((f":{number}", Refused("duplicate", f"another row has streak {streak}")))
    if len(footer) > 1:
        refused.append((f":{last}", Refused("damaged", CUT_SHORT_REASON)))
    columns = {name: [fields[at] for fields in rows.values()] for name, at in places.items()}
    return _streaks(columns), refused


def read_ades(data: bytes) -> dict[str, Any] | Refused:
    """Read a streak's astrometry from MPC ADES XML. Never raises.

    Parameters
    ----------
    data : bytes
        A whole file. Of its optical observations the first and the last are the ends of the streak.

    Returns
    -------
    dict or Refused
        What is known of ``jd``, ``ra``, ``dec``, the ends, ``mag`` and ``filter``, as the archive's columns
        are; or why it is not read. Document types and entities are refused.
    """
    if len(data) > _MAX_XML_BYTES:
        return Refused("too large", f"{len(data)} bytes, more than {_MAX_XML_BYTES}")
    try:
        root = fromstring(data, forbid_dtd=True)
        observations = list(islice(root.iter("optical"), _MAX_OBSERVATIONS))
    except DefusedXmlException as error:
        return Refused("not ADES", f"it declares a document type or entities: {error}")
    except (ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        return Refused("damaged" if data else "empty", str(error))
    if root.tag != "ades" or not observations:
        return Refused("not ADES", f"<{root.tag[:50]}> with {len(observations)} observations")
    return _observed(observations)


def _observed(observations: list[Element]) -> dict[str, Any]:
    def number(observation: Element, name: str) -> float:
        return _number(observation.findtext(name))

    said: dict[str, Any] = {}
    ends = [observations[0], observations[-1]]
    ra, dec = ([number(end, name) for end in ends] for name in ("ra", "dec"))
    middle = _middles(*(np.array([value]) for value in (ra[0], dec[0], ra[1], dec[1])))
    said |= {name: float(values[0]) for name, values in middle.items()}
    if len(observations) == 1:  # a point has no ends
        said = {name: said[name] for name in ("ra", "dec")}
    days = [_day(observation.findtext("obsTime")) for observation in ends]
    said["jd"] = sum(days) / 2
    magnitudes = [m for m in (number(o, "mag") for o in observations) if -5 < m < 40]
    said["mag"] = float(np.mean(magnitudes)) if magnitudes else np.nan
    band = (observations[0].findtext("band") or "").strip().removeprefix("z")
    said["filter"] = band if band in FILTER_NAMES.values() else ""
    return {name: value for name, value in said.items() if value == value and value != ""}


def _streaks(columns: Mapping[str, list[str]]) -> pd.DataFrame:
    """Turn a table's text to the archive's columns; what makes no sense is missing."""
    streaks = pd.Index(columns.get("streakid", []), dtype=str).astype("int64")
    raw = {
        name: np.array(list(map(_number, columns[name])))
        if name in columns
        else np.full(len(streaks), np.nan)
        for name in _NUMBER_COLUMNS
    }
    start, end = raw["startmjd"] + _MJD_OFFSET, raw["endmjd"] + _MJD_OFFSET
    sane = _sane_days(start) & _sane_days(end) & (start <= end)
    jd = np.where(_sane_days(raw["jd"]), raw["jd"], np.nan)
    opened = Time(start[sane] - _MJD_OFFSET, format="mjd", scale="utc")
    closed = Time(end[sane] - _MJD_OFFSET, format="mjd", scale="utc")
    jd[sane] = (opened + (closed - opened) / 2).jd
    return pd.DataFrame(
        {
            "jd": jd,
            "filter": np.array([FILTER_NAMES.get(fid, "") for fid in raw["fid"]], object),
            **_middles(*(raw[name] for name in _END_COLUMNS)),
            "length": np.where(raw["length"] >= 0, raw["length"], np.nan),
            "sigma": np.where(raw["sigma"] >= 0, raw["sigma"], np.nan),
            "flux": raw["flux"],
            "snr": raw["apsnr"],
        },
        index=streaks,
    )


def _middles(
    ra1: np.ndarray, dec1: np.ndarray, ra2: np.ndarray, dec2: np.ndarray
) -> dict[str, np.ndarray]:
    """Middles of the great circles between the ends of streaks, and the ends, all in degrees."""
    columns = {name: np.full(len(ra1), np.nan) for name in ("ra", "dec")}
    sane = np.ones(len(ra1), bool)
    for ra, dec in ((ra1, dec1), (ra2, dec2)):
        sane &= (ra >= -180) & (ra <= 360) & (np.abs(dec) <= 90)  # NaN is neither
    one = SkyCoord(ra1[sane] * u.deg, dec1[sane] * u.deg)
    two = SkyCoord(ra2[sane] * u.deg, dec2[sane] * u.deg)
    middle = one.directional_offset_by(one.position_angle(two), one.separation(two) / 2)
    columns["ra"][sane], columns["dec"][sane] = middle.ra.deg, middle.dec.deg
    ends = {"ra1": ra1 % 360, "dec1": dec1, "ra2": ra2 % 360, "dec2": dec2}
    return columns | {name: np.where(sane, values, np.nan) for name, values in ends.items()}


class _Joined:
    """What is known of a night's streaks, and what was refused since the last batch."""

    def __init__(self, root: Path, metadata: Metadata | None, night: int | None) -> None:
        self.root, self.metadata, self.night = root, metadata, night
        self.streaks_of_tarball: Mapping[int, dict[str, Any]] = {}
        self._loose: dict[int, dict[str, Any]] = {}
        self._streaks: pd.Index = pd.Index([], dtype="int64")
        self._tables = Metadata(_streaks({}), {})
        self._refused: list[Quarantined] = []

    def read_tables(self, files: Iterable[Path]) -> None:
        frames = [_streaks({})]
        for file in files:
            if leads_out(file, self.root):
                self.refuse(file, "", Refused("not a file", "a link that leads out of the folder"))
                continue
            frame, refused = read_table(file)
            frames.append(frame)
            for where, why in refused:
                self.refuse(file, where, why)
        joined = pd.concat([frame for frame in frames if len(frame)] or frames[:1])
        joined = joined[~joined.index.duplicated(keep="last")]  # the newest by name
        self._streaks = joined.index
        self._tables = Metadata(joined.reset_index(drop=True), {})

    def read_ades(self, files: Iterable[Path]) -> None:
        for file in files:
            streak, found = _read_loose(file, self.root)
            if isinstance(found, Refused):
                self.refuse(file, "", found)
            else:
                self._loose[streak] = found

    def refuse(self, file: Path, where: str, why: Refused) -> None:
        source = self._source(file) + where
        self._refused.append(Quarantined(source, why.reason, why.detail, self._named_night(file)))

    def batch(self, found: Iterable[tuple[Path, str, Picture | Refused]]) -> CutoutBatch | None:
        """Make a batch of a tarball's pictures and of all that was refused; None if there is nothing."""
        ids, sources, nights, pictures, streaks, said = [], [], [], [], [], []
        for file, name, result in found:
            if isinstance(result, Refused):
                self.refuse(file, f"/{name}" if name else "", result)
                continue
            match = _CUTOUT.fullmatch(name.rsplit("/", 1)[-1])
            assert match
            ids.append(match[1])
            sources.append(f"{self._source(file)}/{name}")
            nights.append(self._named_night(file))
            pictures.append(result)
            streaks.append(streak := int(match[2]))
            said.append(self._loose.get(streak, {}) | self.streaks_of_tarball.get(streak, {}))
        refused, self._refused = self._refused, []
        if not (pictures or refused):
            return None
        columns = said_columns(said)
        if len(self._streaks):
            columns = self._tables.over(columns, self._streaks.get_indexer(pd.Index(streaks)))
        jd = columns.get("jd", np.full(len(ids), np.nan))
        night = np.where(nights, nights, _dates(jd)).astype(np.int32)
        if self.metadata:
            rows = np.array([self.metadata.rows.get(name, -1) for name in ids], dtype=int)
            columns = self.metadata.over(columns, rows)
            tabled = [self.metadata.night_of(row) or 0 for row in rows]
            night = np.where(tabled, tabled, night).astype(np.int32)
        columns |= {
            "id": np.array(ids, object),
            "source": np.array(sources, object),
            "night": night if self.night is None else np.full(len(ids), self.night, np.int32),
        }
        return make_batch(pictures, columns, refused)

    def _source(self, file: Path) -> str:
        place = file.absolute()
        inside = place.is_relative_to(self.root)
        return spelt(str(place.relative_to(self.root)) if inside else file.name)

    def _named_night(self, file: Path) -> int:
        if self.night:
            return self.night
        names = (file.name, *(folder.name for folder in file.absolute().parents))
        return next((int(match[1]) for name in names[:4] if (match := _NIGHT.search(name))), 0)


@dataclass(frozen=True)
class _Scan:
    """What a first look into a tarball shows."""

    said: dict[int, dict[str, Any]] = field(default_factory=dict)
    refused: list[tuple[str, Refused]] = field(default_factory=list)
    spoiled: Refused | None = None


@dataclass(frozen=True)
class _Scanner:
    """Looks into a tarball: its checksum, its ADES files, and what in it cannot be taken."""

    root: Path

    def __call__(self, file: Path) -> _Scan:
        if leads_out(file, self.root):
            why = Refused("not a file", "a link that leads out of the folder")
            return _Scan(refused=[("", why)], spoiled=why)
        scan = _Scan()
        for name, content in members(file, MAX_IMAGE_BYTES):
            base = name.rsplit("/", 1)[-1]
            if isinstance(content, Refused):
                if content.reason == WRONG_CHECKSUM:
                    return _Scan(refused=[("", content)], spoiled=content)
                scan.refused.append((f"/{name}" if name else "", content))
            elif match := _ASTROMETRY.fullmatch(base):
                said = read_ades(content)
                if isinstance(said, Refused):
                    scan.refused.append((f"/{name}", said))
                else:
                    scan.said[int(match[1])] = said
            elif not (_CUTOUT.fullmatch(base) or _SIBLING.fullmatch(base)):
                scan.refused.append(
                    (f"/{name}", Refused("unknown", "no kind of file that streaks have"))
                )
        return scan


def _pictures(file: Path) -> Iterator[tuple[str, bytes]]:
    """Cutouts of a tarball; whatever is wrong with it was told by the first look."""
    for name, content in members(file, MAX_IMAGE_BYTES):
        if isinstance(content, bytes) and _CUTOUT.fullmatch(name.rsplit("/", 1)[-1]):
            yield name, content


def _decode_some(portion: tuple[tuple[str, bytes], ...]) -> list[Picture | Refused]:
    return [decode_image(data) for _, data in portion]


def _read_loose(file: Path, root: Path) -> tuple[int, dict[str, Any] | Refused]:
    """Read an ADES file that lies in no tarball."""
    match = _ASTROMETRY.fullmatch(file.name)
    if match is None:
        return 0, Refused("unknown", "not named by a streak")
    if leads_out(file, root):
        return 0, Refused("not a file", "a link that leads out of the folder")
    try:
        with file.open("rb") as opened:
            return int(match[1]), read_ades(opened.read(_MAX_XML_BYTES + 1))
    except OSError as error:
        return 0, Refused("damaged", str(error))


def _fields(line: str) -> list[str]:
    fields = [part.strip() for part in line.split("|")]
    if len(fields) > len(STREAK_COLUMNS) + 1 and not fields[0] and not fields[-1]:
        return fields[1:-1]  # drawn with borders
    return fields


def _number(text: str | None) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        return np.nan
    return value if isfinite(value) else np.nan


def _day(text: str | None) -> float:
    """Julian date (UTC) of an ISO 8601 time, NaN if it is none."""
    try:
        day = float(Time((text or "").strip().removesuffix("Z"), format="isot", scale="utc").jd)
    except ValueError:
        return np.nan
    return day if _FIRST_JD < day < _LAST_JD else np.nan


def _sane_days(jd: np.ndarray) -> np.ndarray:
    return (jd > _FIRST_JD) & (jd < _LAST_JD)


def _dates(jd: np.ndarray) -> np.ndarray:
    """Nights as YYYYMMDD of the UTC dates of Julian dates, 0 where not known."""
    dates = np.zeros(len(jd), np.int32)
    known = _sane_days(jd)
    if known.any():
        at = Time(jd[known], format="jd", scale="utc").ymdhms
        dates[known] = at["year"] * 10000 + at["month"] * 100 + at["day"]
    return dates
