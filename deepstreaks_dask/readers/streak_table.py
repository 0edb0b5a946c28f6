"""A night's table of streaks, ``…_streaks.txt``: 37 columns, of which all are kept."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
from astropy.coordinates import SkyCoord
from astropy.time import Time

from deepstreaks_dask.archive.append import Remark
from deepstreaks_dask.archive.schema import Column
from deepstreaks_dask.readers.folder import Refused
from deepstreaks_dask.readers.quantities import FIRST_JD, LAST_JD, MJD_OFFSET

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

_COUNT, _NUMBER, _DAY = ("int64", 0), ("float32", np.nan), ("float64", np.nan)
_TEXT = ("string", "")
ZTF_COLUMNS: dict[str, Column] = {
    "fid": Column(*_COUNT, "", "filter: 1 g, 2 r, 3 i, 0 not known"),
    "pid": Column(*_COUNT, "", "processing identifier of the science image, 0 not known"),
    "diffmaglim": Column(*_NUMBER, "mag", "5-sigma limit of the difference image"),
    "pdiffimfilename": Column(*_TEXT, "", "difference image"),
    "programpi": Column(*_TEXT, "", "principal investigator"),
    "programid": Column(
        *_COUNT, "", "programme: 1 public, 2 collaboration, 3 Caltech, 0 not known"
    ),
    "streakid": Column(*_COUNT, "", "identifier of the streak, 0 not known"),
    "strid": Column(*_COUNT, "", "number of the streak in its image, 0 not known"),
    "startmjd": Column(*_DAY, "d", "modified Julian date (UTC) of the start of the exposure"),
    "endmjd": Column(*_DAY, "d", "modified Julian date (UTC) of the end of the exposure"),
    "bg": Column(*_NUMBER, "adu", "background of the fit"),
    "lengtherr": Column(*_NUMBER, "pixel", "1-sigma uncertainty of the length"),
    "sigmaerr": Column(*_NUMBER, "pixel", "1-sigma uncertainty of the width"),
    "paerr": Column(*_NUMBER, "deg", "1-sigma uncertainty of the position angle"),
    "bgerr": Column(*_NUMBER, "adu", "1-sigma uncertainty of the background"),
    "fitmagerr": Column(*_NUMBER, "mag", "1-sigma uncertainty of the fitted magnitude"),
    "apsnr": Column(*_NUMBER, "", "signal-to-noise ratio in the aperture"),
    "apmagerr": Column(*_NUMBER, "mag", "1-sigma uncertainty of the aperture magnitude"),
    "dmag": Column(*_NUMBER, "mag", "difference of the fitted and the aperture magnitude"),
    "dmagerr": Column(*_NUMBER, "mag", "1-sigma uncertainty of dmag"),
    "chi2": Column(*_NUMBER, "", "chi-square of the fit"),
    "numfit": Column(*_NUMBER, "", "number of the fit's pixels"),
    "prob": Column(*_NUMBER, "", "the pipeline's probability that the streak is real"),
    **{
        name: Column(*_NUMBER, unit, meaning)
        for end, which in ((1, "one"), (2, "other"))
        for name, unit, meaning in (
            (f"ra{end}err", "arcsec", f"1-sigma uncertainty of the {which} end in right ascension"),
            (f"dec{end}err", "arcsec", f"1-sigma uncertainty of the {which} end in declination"),
            (f"corr{end}", "", f"correlation of ra{end}err and dec{end}err"),
        )
    },
}
"""Columns of a table of streaks that an archive gets beside its own, under ZTF's names."""

_MAX_TABLE_BYTES = 2**28
_STREAK_ID = re.compile(r"\d{1,18}", re.ASCII)
_END_COLUMNS = ["ra1", "dec1", "ra2", "dec2"]
_NUMBER_COLUMNS = ("jd", *_END_COLUMNS, "flux", "length", "sigma")
_MISSING_WORDS = ("", "nan", "null", "none", "\\n", "-", "--", "na", "n/a")
_MAX_EXPOSURE = 1.0  # days
_MAX_FLOAT = 3e38  # float32
_DETAIL_LENGTH = 60  # characters of a value in a remark
_RANGES = {
    "jd": (FIRST_JD, LAST_JD),
    "fid": (1, 3),
    **dict.fromkeys(("startmjd", "endmjd"), (FIRST_JD - MJD_OFFSET, LAST_JD - MJD_OFFSET)),
    **dict.fromkeys(("ra1", "ra2"), (-180, 360)),
    **dict.fromkeys(("dec1", "dec2"), (-90, 90)),
    **dict.fromkeys(("length", "sigma"), (0, _MAX_FLOAT)),
    **dict.fromkeys(("pid", "programid", "streakid", "strid"), (0, 10**18 - 1)),
    **dict.fromkeys(("corr1", "corr2"), (-1, 1)),
    "prob": (0, 1),
}


@dataclass(frozen=True)
class StreakTable:
    """A table of streaks that was read.

    Attributes
    ----------
    frame : pandas.DataFrame
        A row a streak, indexed by its id: ``jd`` (mid-exposure), ``filter``, ``ra``, ``dec`` (middle of the streak), its
        ends, ``length``, ``sigma``, ``flux``, ``snr``, ``exptime`` and :data:`ZTF_COLUMNS`, as the archive's columns are.
    refused : list of (str, Refused)
        Lines that are no rows. A table without a footer was cut short, and its last line with it.
    remarks : list of Remark
        Values that were not understood.
    """

    frame: pd.DataFrame
    refused: list[tuple[str, Refused]] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)


def read_table(file: Path) -> tuple[pd.DataFrame, list[tuple[str, Refused]]]:
    """Read a table of streaks: its rows, and the lines that are none.

    Parameters
    ----------
    file : Path
        As :func:`read_streaks` takes it.

    Returns
    -------
    pandas.DataFrame
        As :class:`StreakTable` describes it.
    list of (str, Refused)
        Lines that are no rows.
    """
    read = read_streaks(file)
    return read.frame, read.refused


def read_streaks(file: Path) -> StreakTable:
    """Read a table of streaks: ``|`` between columns, two lines of header, one of footer.

    Parameters
    ----------
    file : Path
        ``…_streaks.txt``; where a header names the columns, they may come in another order.

    Returns
    -------
    StreakTable
        Its rows, and what of it was not understood.
    """
    try:
        if (size := file.stat().st_size) > _MAX_TABLE_BYTES:
            return StreakTable(_streaks({}), [("", Refused("too large", f"{size} bytes"))])
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return StreakTable(_streaks({}), [("", Refused("damaged", str(error)))])
    numbered = [(k, _fields(line)) for k, line in enumerate(lines, 1) if line.strip()]
    if len(numbered) < 3:
        detail = f"{len(numbered)} lines, where two of header and one of footer are the least"
        return StreakTable(_streaks({}), [("", Refused("damaged" if size else "empty", detail))])
    header = next(
        (fields for _, fields in numbered[:2] if "streakid" in fields), list(STREAK_COLUMNS)
    )
    places = {name: header.index(name) for name in STREAK_COLUMNS if name in header}
    rows: dict[int, list[str]] = {}
    refused = []

    def row_in(fields: list[str]) -> bool:
        return len(fields) == len(header) and bool(_STREAK_ID.fullmatch(fields[places["streakid"]]))

    *body, (last, footer) = numbered[2:]
    for line, fields in body:
        if not row_in(fields):
            detail = f"{len(fields)} fields, not {len(header)} with a number as streakid"
            refused.append((f":{line}", Refused("damaged", detail)))
            continue
        streak = int(fields[places["streakid"]])
        if rows.setdefault(streak, fields) != fields:
            refused.append((f":{line}", Refused("duplicate", f"another row has streak {streak}")))
    if len(footer) > 1:
        refused.append((f":{last}", Refused("damaged", CUT_SHORT_REASON)))
    columns = {name: [fields[at] for fields in rows.values()] for name, at in places.items()}
    remarks = _remarks(columns, file.name)
    if unknown := [name for name in header if name not in STREAK_COLUMNS]:
        detail = f"did you mean {near}?" if (near := _near(unknown[0])) else ""
        remarks += [
            Remark("column of the streak table ignored", f"{file.name}: {name}", detail)
            for name in unknown
        ]
    return StreakTable(_streaks(columns), refused, remarks)


def _numeric() -> list[str]:
    return [name for name, column in ZTF_COLUMNS.items() if column.dtype.startswith("float")] + [
        "fid"
    ]


def _kept(
    columns: Mapping[str, list[str]], raw: Mapping[str, np.ndarray], index: pd.Index
) -> dict[str, np.ndarray | pd.Series]:
    """Columns that are kept as the table has them."""
    kept: dict[str, np.ndarray | pd.Series] = {}
    for name, column in ZTF_COLUMNS.items():
        texts = columns.get(name)
        if texts is None:
            continue
        if column.dtype == "string":
            words = [None if text.lower() in _MISSING_WORDS else text for text in texts]
            kept[name] = np.array(words, object)
        elif column.dtype == "int64":  # identifiers have more digits than a float
            low, high = _RANGES[name]
            whole = [int(text) if _STREAK_ID.fullmatch(text) else -1 for text in texts]
            kept[name] = pd.Series(
                [n if low <= n <= high else None for n in whole], dtype="Int64", index=index
            )
        else:
            low, high = _RANGES.get(name, (-_MAX_FLOAT, _MAX_FLOAT))
            kept[name] = np.where((raw[name] >= low) & (raw[name] <= high), raw[name], np.nan)
    return kept


def _near(name: str) -> str:
    return next(iter(difflib.get_close_matches(name.lower(), STREAK_COLUMNS, 1)), "")


def _remarks(columns: Mapping[str, list[str]], source: str) -> list[Remark]:
    """Remark on texts where there should be numbers, and on numbers that cannot be."""
    ids = columns.get("streakid", [])
    remarks = []
    for name, texts in columns.items():
        if name in ZTF_COLUMNS and ZTF_COLUMNS[name].dtype == "string":
            continue
        for streak, text in zip(ids, texts, strict=True):
            if text.lower() in _MISSING_WORDS:
                continue
            value = number(text)
            low, high = _RANGES.get(name, (-np.inf, np.inf))
            what = "not understood" if value != value else "out of range"
            if not low <= value <= high:
                remarks.append(
                    Remark(f"{name} {what}", f"{source}: streak {streak}", text[:_DETAIL_LENGTH])
                )
    return remarks


def _streaks(columns: Mapping[str, list[str]]) -> pd.DataFrame:
    """Turn a table's text to the archive's columns; what makes no sense is missing."""
    streaks = pd.Index(columns.get("streakid", []), dtype=str).astype("int64")
    raw = {
        name: np.array(list(map(number, columns[name])))
        if name in columns
        else np.full(len(streaks), np.nan)
        for name in (*_NUMBER_COLUMNS, *_numeric())
    }
    start, end = raw["startmjd"] + MJD_OFFSET, raw["endmjd"] + MJD_OFFSET
    sane = sane_days(start) & sane_days(end) & (start <= end)
    jd = np.where(sane_days(raw["jd"]), raw["jd"], np.nan)
    opened = Time(start[sane] - MJD_OFFSET, format="mjd", scale="utc")
    closed = Time(end[sane] - MJD_OFFSET, format="mjd", scale="utc")
    jd[sane] = (opened + (closed - opened) / 2).jd
    return pd.DataFrame(
        {
            "jd": jd,
            "filter": np.array([FILTER_NAMES.get(fid, "") for fid in raw["fid"]], object),
            **middles(*(raw[name] for name in _END_COLUMNS)),
            "length": np.where(raw["length"] >= 0, raw["length"], np.nan),
            "sigma": np.where(raw["sigma"] >= 0, raw["sigma"], np.nan),
            "flux": raw["flux"],
            "snr": raw["apsnr"],
            "exptime": np.where(
                sane & (end - start < _MAX_EXPOSURE), np.round((end - start) * 86400, 3), np.nan
            ),
            **_kept(columns, raw, streaks),
        },
        index=streaks,
    )


def middles(
    ra1: np.ndarray, dec1: np.ndarray, ra2: np.ndarray, dec2: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute the middles of the great circles between the ends of streaks.

    Parameters
    ----------
    ra1, dec1, ra2, dec2 : ndarray
        ``(streak,)`` degrees.

    Returns
    -------
    dict of str to ndarray
        ``ra`` and ``dec`` of the middles and the ends, degrees ``(streak,)``; NaN where an end is not on the sky.
    """
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


def _fields(line: str) -> list[str]:
    fields = [part.strip() for part in line.split("|")]
    if len(fields) > len(STREAK_COLUMNS) + 1 and not fields[0] and not fields[-1]:
        return fields[1:-1]  # drawn with borders
    return fields


def number(text: str | None) -> float:
    """Return the number that a text is, NaN where it is none or not finite."""
    try:
        value = float(text or "nan")
    except ValueError:
        return np.nan
    return value if isfinite(value) else np.nan


def sane_days(jd: np.ndarray) -> np.ndarray:
    """Return where Julian dates, days ``(n,)``, are of 1850 to 2150: bool ``(n,)``."""
    return (jd > FIRST_JD) & (jd < LAST_JD)
