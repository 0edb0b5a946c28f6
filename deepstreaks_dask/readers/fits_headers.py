"""Time, filter and sky position from FITS headers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS

from deepstreaks_dask.readers.bands import band_name
from deepstreaks_dask.readers.quantities import FIRST_JD, LAST_JD, MJD_OFFSET

_WCS_KEYS = re.compile(
    r"(CTYPE|CRVAL|CRPIX|CDELT|CROTA|CUNIT)[12]|(CD|PC)[12]_[12]|PV[12]_\d{1,2}"
    r"|(A|B|AP|BP)_(ORDER|DMAX|\d_\d)|LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX"
)
_MIDDLE_KEYS = (
    "MJD-AVG", "DATE-AVG", "MJD-MID", "MJD_MID", "MJDMID", "DATE-MID", "JD-MID", "JD_MID", "JDMID", "JD_UTC", "JD-UTC",
)  # fmt: skip
"""Cards of the middle of an exposure, in the order in which they are read; ``JD_UTC`` is AstroImageJ's."""

_END_KEYS = (
    ("MJD-BEG", "MJD-END"),
    ("DATE-BEG", "DATE-END"),
    ("SHUTOPEN", "SHUTCLSD"),
)  # ZTF's last
_START_KEYS = (
    "MJD-OBS", "DATE-OBS", "MJD_OBS", "MJDOBS", "DATE_OBS", "OBSMJD", "MJD-STR", "MJD", "OBSJD", "JD", "JD-OBS",
    "JD_OBS", "JD_SOBS", "JDSTART",
)  # fmt: skip
"""Cards of the start of an exposure, in the order in which they are read."""
_CLOCK_KEYS = (
    "TIME-OBS", "UTC-OBS", "UT", "UTSTART", "UT-START", "UTC", "UTOBS", "UT-OBS", "UT_OBS", "TIME_OBS", "UTC_OBS",
    "UTCSTART", "UTSHUT", "UTIME", "TM-START",
)  # fmt: skip
"""Cards of the time of day, for a date that has none."""

_EXPOSURE_KEYS = (
    "XPOSURE",
    "EXPTIME",
    "EXPOSURE",
    "AEXPTIME",
    "EXP_TIME",
    "EXPOSED",
    "ITIME",
    "ELAPTIME",
    "EXP-TIME",
)
_FILTER_KEYS = (
    "FILTER",
    "BAND",
    "FILTER1",
    "FILTER2",
    "FILTERID",
    "FILTNAME",
    "FILTNAM",
    "FILTERS",
    "INSFLNAM",
    "FILT",
)
_TIME_KEYS = (
    *_MIDDLE_KEYS,
    *sum(_END_KEYS, ()),
    *_START_KEYS,
    *_CLOCK_KEYS,
    *_EXPOSURE_KEYS,
    "TIMESYS",
)
_KEY_PATTERN = re.compile("|".join([_WCS_KEYS.pattern, *_TIME_KEYS, *_FILTER_KEYS]))
_SCALES = ("tai", "tt", "tdb", "tcg", "tcb")
_OTHER_SCALES = {"et": "tdb", "tdt": "tt", "iat": "tai"}
_DATE = re.compile(
    r"(?P<year>\d{4})[-/](?P<month>\d\d?)[-/](?P<day>\d\d?)(?:[T\s]+(?P<rest>.+))?", re.I
)
_OLD_DATE = re.compile(r"(?P<day>\d\d)/(?P<month>\d\d)/(?P<year>\d\d)")  # before 2000, of FITS then
_CLOCK = re.compile(
    r"(?P<hour>\d\d?):(?P<minute>\d\d?)(?::(?P<second>\d\d?(?:[.,]\d*)?))?\s*(?P<zone>Z|UTC?|GMT|[+-]\d\d(?::?\d\d)?)?",
    re.I,
)
_SECONDS = re.compile(
    r"([+-]?\d+\.?\d*(?:[eE][+-]?\d+)?)\s*(s|sec|secs|seconds?|min|minutes?)?", re.I
)
_FIRST_MJD = 15020.0  # 1900


def readable_cards(*headers: fits.Header) -> dict[str, Any]:
    """Give what headers say of sky, time and filter, the later over the earlier, if it can be read."""
    cards: dict[str, Any] = {}
    for header in headers:
        for key in filter(_KEY_PATTERN.fullmatch, header):
            try:
                if isinstance(value := header[key], bool | int | float | str):
                    cards[_meant(key, header.comments[key])] = value
            except (fits.VerifyError, ValueError):  # one bad card does not spoil the others
                continue
    return cards


def _meant(key: str, comment: str) -> str:
    """Return the card that one is in truth, which its comment may say: the middle of an exposure, or its start."""
    if key in _START_KEYS and re.search(r"\bmid(dle|[- ]?(exp|point|time|obs))", comment, re.I):
        return "DATE-MID" if key.startswith("DATE") else "MJD-MID"
    if key in _MIDDLE_KEYS and re.search(r"\b(start|begin|open)", comment, re.I):
        return "JD-OBS"
    return key


def observed(
    header: Mapping[str, Any], notes: list[tuple[str, str]] | None = None
) -> dict[str, Any]:
    """Read mid-exposure, exposure time and filter from a header.

    Parameters
    ----------
    header : mapping
        As :func:`readable_cards` gives it.
    notes : list of (str, str), optional
        What is not understood is added to it: what it is, and the cards.

    Returns
    -------
    dict
        Of ``jd`` (UTC), ``night``, ``exptime`` (seconds) and ``filter`` what is known. From FITS's own keywords (FITS
        standard 4.0, section 9), ZTF's and the customary ones. Where an exposure's length is not known, neither is its
        middle.
    """
    notes = [] if notes is None else notes
    said: dict[str, Any] = {}
    scale = _scale(header, notes)
    middle, start, length = _times(header, scale) if scale else (None, None, None)
    exposure = _exposure(header, notes)
    if exposure is None and length is not None:
        exposure = length
    if middle is None and start and exposure is not None:
        middle = start + exposure / 2 / 86400
    if exposure is not None:
        said["exptime"] = exposure
    if middle:
        said["jd"] = middle
    if day := middle or start:
        said["night"] = int(Time(day, format="jd").strftime("%Y%m%d"))
    if not middle:
        cards = _cards(header, (*_MIDDLE_KEYS, *sum(_END_KEYS, ()), *_START_KEYS, *_CLOCK_KEYS))
        if start:
            notes.append(("no exposure time: its middle is not known", cards))
        elif cards:
            notes.append(("time of the header not understood", cards))
    if band := _filter(header, notes):
        said["filter"] = band
    return said


def _times(
    header: Mapping[str, Any], scale: str
) -> tuple[float | None, float | None, float | None]:
    """Middle and start of an exposure as Julian dates (UTC), and its length in seconds, as far as they are known."""
    middle = next((t for t in (_moment(header, key, scale) for key in _MIDDLE_KEYS) if t), None)
    length = None
    for begin, end in _END_KEYS:
        ends = _moment(header, begin, scale), _moment(header, end, scale)
        if ends[0] and ends[1] and ends[0] <= ends[1] < ends[0] + 1:
            middle = middle or (ends[0] + ends[1]) / 2
            length = round((ends[1] - ends[0]) * 86400, 3) if length is None else length
    starts = (_moment(header, key, scale) for key in (*_START_KEYS, *(b for b, _ in _END_KEYS)))
    return middle, next((t for t in starts if t), None), length


def _scale(header: Mapping[str, Any], notes: list[tuple[str, str]]) -> str:
    """Time scale of a header, UTC where it says none; empty where it is one that is not known."""
    text = str(header.get("TIMESYS", "")).strip().lower()
    if not text or text.startswith(("ut", "gmt", "z")):
        return "utc"
    scale = _OTHER_SCALES.get(text, text.partition("(")[0].strip())
    if scale in _SCALES:
        return scale
    notes.append(("time scale of the header not understood", _cards(header, ("TIMESYS",))))
    return ""


def _exposure(header: Mapping[str, Any], notes: list[tuple[str, str]]) -> float | None:
    """Exposure time in seconds, None where it is not known."""
    for key in (key for key in _EXPOSURE_KEYS if key in header):
        match = _SECONDS.fullmatch(str(header[key]).strip())
        seconds = float(match[1]) * (60 if (match[2] or "s")[0] in "mM" else 1) if match else -1.0
        if 0 <= seconds < 86400 and not isinstance(header[key], bool):
            return seconds
    if cards := _cards(header, _EXPOSURE_KEYS):
        notes.append(("exposure time of the header not understood", cards))
    return None


def _filter(header: Mapping[str, Any], notes: list[tuple[str, str]]) -> str:
    """Band of the filter, the first that is understood and no empty place of a wheel; empty where none is given."""
    given = [text for key in _FILTER_KEYS if (text := str(header.get(key, "")).strip())]
    found = [band_name(text) for text in given]
    bands = [band for band, understood in found if understood]
    if coloured := [band for band in bands if len(band) <= 2]:
        return coloured[0]
    if bands or not found:
        return bands[0] if bands else ""
    notes.append(("filter of the header not understood", _cards(header, _FILTER_KEYS)))
    return found[0][0]


def _cards(header: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Cards of a header in words, those of ``keys`` that it has."""
    return ", ".join(f"{key} = {header[key]!r}" for key in keys if key in header)


def sky(header: Mapping[str, Any]) -> WCS | None:
    """Read the celestial coordinate system of an image, None where it has none that can be used.

    Only the cards that describe the two axes are looked at (FITS papers I and II, with the
    conventions SIP and TPV).

    Parameters
    ----------
    header : astropy.io.fits.Header
        Of the image.

    Returns
    -------
    astropy.wcs.WCS or None
        Of two celestial axes.
    """
    cards = {key: value for key, value in header.items() if _WCS_KEYS.fullmatch(key)}
    if not str(cards.get("CTYPE1", "")).strip():
        return None
    if not str(cards["CTYPE1"]).rstrip().endswith("-SIP"):
        cards = {k: v for k, v in cards.items() if not re.match(r"(A|B|AP|BP)_", k)}
    for key in ("A_ORDER", "B_ORDER", "AP_ORDER", "BP_ORDER"):
        if key in cards and cards[key] not in range(10):  # it sizes an array
            return None
    try:
        wcs = WCS(fits.Header(cards), naxis=2)
        return wcs if wcs.has_celestial else None
    except Exception:  # wcslib has a kind of its own for everything that can be wrong
        return None


def place(wcs: WCS | None, x: float, y: float) -> dict[str, float]:
    """Give ``ra`` and ``dec`` (ICRS, degrees) of a pixel counted from 0; nothing where they are not known.

    Parameters
    ----------
    wcs : astropy.wcs.WCS or None
        The image's.
    x, y : float
        Pixels, the middle of the first one at 0.

    Returns
    -------
    dict of str to float
        ``ra`` and ``dec``, or empty.
    """
    if wcs is None:
        return {}
    try:
        if wcs.wcs.radesys == "ICRS" and wcs.wcs.lngtyp == "RA":  # without the toll of SkyCoord
            ra, dec = (float(v) for v in wcs.all_pix2world(x, y, 0, ra_dec_order=True))
        else:
            coordinate = wcs.pixel_to_world(x, y)
            assert isinstance(coordinate, SkyCoord)
            ra, dec = float(coordinate.icrs.ra.deg), float(coordinate.icrs.dec.deg)
    except Exception:  # as above; frames without a way to ICRS, too
        return {}
    return {"ra": ra, "dec": dec} if isfinite(ra) and isfinite(dec) else {}


def _moment(header: Mapping[str, Any], key: str, scale: str) -> float | None:
    """Julian date (UTC) of a card, None where it gives none between 1850 and 2150."""
    value = header.get(key)
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except ValueError:
        jd = _written(str(value).strip(), header, scale)
    else:
        jd = _numbered(number, scale)
    return jd if jd is not None and FIRST_JD < jd < LAST_JD else None


def _numbered(number: float, scale: str) -> float | None:
    """Julian date (UTC) of a Julian date or, whatever its card is called, a modified one."""
    modified = _FIRST_MJD <= number < LAST_JD - MJD_OFFSET
    if not modified and not FIRST_JD < number < LAST_JD:
        return None
    moment = Time(number, format="mjd" if modified else "jd", scale=scale)
    return float(moment.utc.jd)


def _written(text: str, header: Mapping[str, Any], scale: str) -> float | None:
    """Julian date (UTC) of a date and time, the time perhaps in another card."""
    date = _DATE.fullmatch(text) or _OLD_DATE.fullmatch(text)
    if date is None:
        return None
    clocks = [date["rest"]] if date.groupdict().get("rest") else _clocks(header)
    clock = next((match for text in clocks if (match := _CLOCK.fullmatch(text.strip()))), None)
    if clock is None:
        return None
    year = date["year"] if len(date["year"]) == 4 else f"19{date['year']}"
    second = (clock["second"] or "0").replace(",", ".")
    written = (
        f"{year}-{int(date['month']):02}-{int(date['day']):02}"
        f"T{int(clock['hour']):02}:{int(clock['minute']):02}:{float(second):09.6f}"
    )
    zone = (clock["zone"] or "").lstrip("+")
    try:
        moment = Time(written, format="isot", scale="utc" if zone else scale)
        return float(moment.utc.jd) - _zone_days(clock["zone"] or "")
    except ValueError:  # no such date or time
        return None


def _clocks(header: Mapping[str, Any]) -> list[str]:
    """Times of day that a header gives; where one is a whole date and time, its time."""
    texts = [str(header[key]).strip() for key in _CLOCK_KEYS if key in header]
    return [match["rest"] if (match := _DATE.fullmatch(t)) and match["rest"] else t for t in texts]


def _zone_days(zone: str) -> float:
    """Days that a zone, such as ``-08:00``, is ahead of UTC."""
    if zone[:1] not in ("+", "-") or not zone:
        return 0.0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    return float(f"{zone[0]}1") * (int(digits[:2]) / 24 + int(digits[2:]) / 1440)
