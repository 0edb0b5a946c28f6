"""A ZTF night of streaks: tarballs of cutouts and ADES files, or the same unpacked, and tables of streaks.

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
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.time import Time

from deepstreaks_dask.archive.append import CutoutBatch, Quarantined, Remark
from deepstreaks_dask.archive.schema import OPTIONAL_COLUMNS
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.ades_files import MAX_XML_BYTES, read_ades
from deepstreaks_dask.readers.folder import (
    Picture,
    Refused,
    decode_all,
    leads_out,
    make_batch,
    said_columns,
    spelt,
)
from deepstreaks_dask.readers.images import MAX_IMAGE_BYTES, SUFFIXES, decode_file, decode_image
from deepstreaks_dask.readers.options import DEFAULTS, ReadOptions
from deepstreaks_dask.readers.streak_table import (
    FILTER_NAMES as FILTER_NAMES,
)
from deepstreaks_dask.readers.streak_table import (
    ZTF_COLUMNS,
    read_streaks,
    sane_days,
)
from deepstreaks_dask.readers.tables import Metadata, read_metadata
from deepstreaks_dask.readers.tarballs import WRONG_CHECKSUM, count_members, members

TARBALL, TABLE, ADES = "_strkcutouts.tar.gz", "_streaks.txt", "_ades.xml"
"""How the names of a night's products end."""

_CONCURRENT_SCANS = 16  # tarballs looked into at once
_IMAGES_PER_TASK = 32  # pictures a task: enough to hide the cost of handing it out
_TASKS_PER_BATCH = 16  # tasks a batch
_CUTOUT = re.compile(r"(strkid(\d{1,18})_pid\d{1,18})_scimref\.jpe?g", re.ASCII)
_ASTROMETRY = re.compile(r"strkid(\d{1,18})_pid\d{1,18}_ades\.xml", re.ASCII)
_SIBLING = re.compile(r"strkid\d{1,18}_pid\d{1,18}_\w+\.(jpe?g|png|txt|fits(\.[fg]z)?)", re.ASCII)
_NIGHT = re.compile(r"(?<!\d)((?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))")
_PORTION_FILES = 32  # loose pictures a task
_NO_STREAKS: Mapping[int, dict[str, Any]] = {}


Notes = list[tuple[str, str]]


@dataclass(frozen=True)
class Products:
    """The files of a night, sorted by name: ``pictures`` are loose cutouts, ``unknown`` pictures of other names."""

    tarballs: list[Path] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    ades: list[Path] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    unknown: list[Path] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.tarballs or self.tables or self.ades)


class Depot:
    """Reader ``depot``: see :meth:`read`."""

    name = "depot"

    def sniff(self, path: Path) -> bool:
        """Say whether ``path`` is one of a night's products, or a folder with some."""
        return bool(find_products(path))

    def count(self, path: Path) -> int:
        """Give the number of files in the tarballs, and of loose cutouts."""
        found = find_products(path)
        return sum(count_members(file) for file in found.tarballs) + len(found.pictures)

    def read(self, path: Path, options: ReadOptions = DEFAULTS) -> Iterator[CutoutBatch]:
        """Read the products of a night.

        Parameters
        ----------
        path : Path
            A folder, searched with its sub-folders, of tarballs or of what they hold, or a single tarball.
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
            If there is no tarball and no cutout, or the table cannot be read or names none of the cutouts.
        """
        products = find_products(path)
        if not products.tarballs and not products.pictures:
            raise ReaderError(
                f"{path} holds no file that ends in {TARBALL}, and no strkid…_pid…_scimref.jpg: check the path"
            )
        root = path if path.is_dir() else path.parent
        metadata = read_metadata(options.table, options) if options.table else None
        yield from read_products(
            products,
            root,
            metadata=metadata,
            night=options.night,
            executor=options.executor,
            whole=True,
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
        if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
            if _CUTOUT.fullmatch(file.name):
                found.pictures.append(file)
            elif not _SIBLING.fullmatch(file.name):
                found.unknown.append(file)
    return found


def read_products(
    products: Products,
    root: Path,
    *,
    metadata: Metadata | None = None,
    night: int | None = None,
    executor: Executor | None = None,
    whole: bool = False,
) -> Iterator[CutoutBatch]:
    """Read tarballs and loose cutouts, and join what tables and ADES files say of their streaks.

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
    whole : bool
        The products are all there are: remark on rows of tables, and on ADES files, that no cutout belongs to.

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
    joined.remark_on(products.unknown, "picture is not named by a streak")
    if rest := joined.batch(()):
        yield rest
    for scans in decode_all(_Scanner(joined.root), products.tarballs, _CONCURRENT_SCANS, executor):
        for file, scan in scans:
            joined.begin(file, scan)
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
    joined.streaks_of_tarball = _NO_STREAKS
    decode = partial(decode_file, root=joined.root)
    size = _PORTION_FILES * _TASKS_PER_BATCH
    for decoded in decode_all(decode, products.pictures, size, executor, together=_PORTION_FILES):
        if batch := joined.batch((file, "", result) for file, result in decoded):
            yield batch
    if rest := joined.rest(whole=whole):
        yield rest


def check_tarball(file: Path) -> Refused | None:
    """Read a tarball to its checksum; say where and how it is damaged, None if it is whole."""
    for name, content in members(file, MAX_IMAGE_BYTES):
        if not name and isinstance(content, Refused):
            return content
    return None


class _Joined:
    """What is known of a night's streaks, and what was refused since the last batch."""

    def __init__(self, root: Path, metadata: Metadata | None, night: int | None) -> None:
        self.root, self.metadata, self.night = root, metadata, night
        self.streaks_of_tarball: Mapping[int, dict[str, Any]] = {}
        self._loose: dict[int, dict[str, Any]] = {}
        self._streaks: pd.Index = pd.Index([], dtype="int64")
        self._tables = Metadata(pd.DataFrame(), {})
        self._refused: list[Quarantined] = []
        self._remarks: list[Remark] = list(metadata.remarks) if metadata else []
        self._found: set[int] = set()
        self._rows: set[int] = set()
        self._ids = 0

    def read_tables(self, files: Iterable[Path]) -> None:
        frames = []
        for file in files:
            if leads_out(file, self.root):
                self.refuse(file, "", Refused("not a file", "a link that leads out of the folder"))
                continue
            read = read_streaks(file)
            self._remarks += read.remarks
            for where, why in read.refused:
                self.refuse(file, where, why)
            if len(read.frame):
                frames.append(read.frame)
        if frames:
            joined = pd.concat(frames)
            joined = joined[~joined.index.duplicated(keep="last")]  # the newest by name
            self._streaks = joined.index
            self._tables = Metadata(joined.reset_index(drop=True), {}, extra=ZTF_COLUMNS)

    def read_ades(self, files: Iterable[Path]) -> None:
        for file in files:
            notes: Notes = []
            streak, found = _read_loose(file, self.root, notes)
            self._note(self._source(file), notes)
            if isinstance(found, Refused):
                self.refuse(file, "", found)
            else:
                self._loose[streak] = found

    def begin(self, file: Path, scan: _Scan) -> None:
        """Begin with a tarball that was looked into."""
        self.streaks_of_tarball = scan.said
        for where, notes in scan.notes:
            self._note(self._source(file) + where, notes)

    def remark_on(self, files: Iterable[Path], what: str) -> None:
        self._remarks += [Remark(what, self._source(file)) for file in files]

    def _note(self, source: str, notes: Iterable[tuple[str, str]]) -> None:
        self._remarks += [Remark(what, source, detail) for what, detail in notes]

    def rest(self, *, whole: bool) -> CutoutBatch | None:
        """Make a batch of what remains to be said at the end."""
        if self.metadata:
            if self._ids and not self._rows:
                first = next(iter(self.metadata.rows), "(none)")
                raise ReaderError(
                    f"table {self.metadata.name} speaks of none of the cutouts: its rows are named like {first!r}, "
                    "the cutouts like 'strkid1234_pid5678'"
                )
            self._remarks += self.metadata.unmatched(self._rows)
        if whole:
            rows, loose = set(self._streaks) - self._found, set(self._loose) - self._found
            for what, streaks in (
                ("row of the streak table without a cutout", rows),
                ("ADES file without a cutout", loose),
            ):
                self._remarks += [Remark(what, f"streak {streak}") for streak in sorted(streaks)]
        return self.batch(())

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
            match = _CUTOUT.fullmatch(name.rsplit("/", 1)[-1] or file.name)
            assert match
            ids.append(match[1])
            sources.append(f"{self._source(file)}/{name}".rstrip("/"))
            self._note(sources[-1], result.remarks)
            nights.append(self._named_night(file))
            pictures.append(result)
            streaks.append(streak := int(match[2]))
            said.append(self._loose.get(streak, {}) | self.streaks_of_tarball.get(streak, {}))
            if not said[-1] and streak not in self._streaks:
                self._note(sources[-1], [("no astrometry: in no table and no ADES file", "")])
        refused, self._refused = self._refused, []
        if not (pictures or refused or self._remarks):
            return None
        self._found |= {*streaks}
        self._ids += len(ids)
        columns = said_columns(said, ZTF_COLUMNS)
        if len(self._streaks):
            columns = self._tables.over(columns, self._streaks.get_indexer(pd.Index(streaks)))
        jd = columns.get("jd", np.full(len(ids), np.nan))
        night = np.where(nights, nights, _dates(jd)).astype(np.int32)
        if self.metadata:
            named = zip(sources, ids, strict=True)
            found_rows = [self._row_of(source, name) for source, name in named]
            rows = np.array(found_rows, dtype=int)
            self._rows |= {*found_rows} - {-1}
            columns = self.metadata.over(columns, rows)
            tabled = [self.metadata.night_of(row) or 0 for row in rows]
            night = np.where(tabled, tabled, night).astype(np.int32)
        night = night if self.night is None else np.full(len(ids), self.night, np.int32)
        self.remark_on_nights(night, sources)
        columns |= {
            "id": np.array(ids, object),
            "source": np.array(sources, object),
            "night": night,
        }
        remarks, self._remarks = self._remarks, []
        extra = {
            **OPTIONAL_COLUMNS,
            **ZTF_COLUMNS,
            **(self.metadata.extra if self.metadata else {}),
        }
        return make_batch(pictures, columns, refused, remarks=remarks, described=extra)

    def remark_on_nights(self, nights: np.ndarray, sources: list[str]) -> None:
        unknown = np.flatnonzero(nights == 0)
        self._remarks += [Remark("no night known", sources[row]) for row in unknown]

    def _row_of(self, source: str, name: str) -> int:
        """Row of the table that names a cutout, by its id or its file."""
        assert self.metadata
        keys = (name, source, source.rsplit("/", 1)[-1])
        return next((self.metadata.rows[key] for key in keys if key in self.metadata.rows), -1)

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
    notes: list[tuple[str, Notes]] = field(default_factory=list)
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
                notes: Notes = []
                said = read_ades(content, notes)
                if notes:
                    scan.notes.append((f"/{name}", notes))
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


def _read_loose(file: Path, root: Path, notes: Notes) -> tuple[int, dict[str, Any] | Refused]:
    """Read an ADES file that lies in no tarball."""
    match = _ASTROMETRY.fullmatch(file.name)
    if match is None:
        return 0, Refused("unknown", "not named by a streak")
    if leads_out(file, root):
        return 0, Refused("not a file", "a link that leads out of the folder")
    try:
        with file.open("rb") as opened:
            return int(match[1]), read_ades(opened.read(MAX_XML_BYTES + 1), notes)
    except OSError as error:
        return 0, Refused("damaged", str(error))


def _dates(jd: np.ndarray) -> np.ndarray:
    """Nights as YYYYMMDD of the UTC dates of Julian dates, 0 where not known."""
    dates = np.zeros(len(jd), np.int32)
    known = sane_days(jd)
    if known.any():
        at = Time(jd[known], format="jd", scale="utc").ymdhms
        dates[known] = at["year"] * 10000 + at["month"] * 100 + at["day"]
    return dates
