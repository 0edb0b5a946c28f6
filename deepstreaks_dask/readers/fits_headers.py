"""Time, filter and sky position from FITS headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS

_WCS_KEYS = re.compile(
    r"(CTYPE|CRVAL|CRPIX|CDELT|CROTA|CUNIT)[12]|(CD|PC)[12]_[12]|PV[12]_\d{1,2}"
    r"|(A|B|AP|BP)_(ORDER|DMAX|\d_\d)|LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX"
)
_MIDDLE_KEYS = ("MJD-AVG", "DATE-AVG")
_END_KEYS = (
    ("MJD-BEG", "MJD-END"),
    ("DATE-BEG", "DATE-END"),
    ("SHUTOPEN", "SHUTCLSD"),
)  # ZTF's last
_START_KEYS = ("MJD-OBS", "DATE-OBS", "OBSMJD", "OBSJD", "JD")
_EXPOSURE_KEYS = ("XPOSURE", "EXPTIME", "EXPOSURE", "AEXPTIME")
_FILTER_KEYS = ("FILTER", "BAND", "FILTER1", "FILTERID")
_TIME_KEYS = (
    *_MIDDLE_KEYS,
    *sum(_END_KEYS, ()),
    *_START_KEYS,
    *_EXPOSURE_KEYS,
    "TIMESYS",
    "TIME-OBS",
    "UTC-OBS",
)
_KEY_PATTERN = re.compile("|".join([_WCS_KEYS.pattern, *_TIME_KEYS, *_FILTER_KEYS]))
_ZTF_FILTERS = {"1": "g", "2": "r", "3": "i"}


def readable_cards(*headers: fits.Header) -> dict[str, Any]:
    """Give what headers say of sky, time and filter, the later over the earlier, if it can be read."""
    cards: dict[str, Any] = {}
    for header in headers:
        for key in filter(_KEY_PATTERN.fullmatch, header):
            try:
                if isinstance(value := header[key], bool | int | float | str):
                    cards[key] = value
            except (fits.VerifyError, ValueError):  # one bad card does not spoil the others
                continue
    return cards


def observed(header: Mapping[str, Any]) -> dict[str, Any]:
    """Read mid-exposure and filter from a header.

    Parameters
    ----------
    header : mapping
        As :func:`readable_cards` gives it.

    Returns
    -------
    dict
        Of ``jd`` (UTC), ``night`` and ``filter`` what is known. From FITS's own keywords (FITS standard
        4.0, section 9), ZTF's and the customary ones. Where an exposure's length is not known, neither is its middle.
    """
    said: dict[str, Any] = {}
    scale = str(header.get("TIMESYS", "UTC")).strip().lower()
    scale = scale if scale in ("tai", "tt", "tdb", "tcg", "tcb") else "utc"
    middle = next((t for t in (_moment(header, key, scale) for key in _MIDDLE_KEYS) if t), None)
    for begin, end in _END_KEYS:
        ends = _moment(header, begin, scale), _moment(header, end, scale)
        if middle is None and ends[0] and ends[1] and ends[0] <= ends[1] < ends[0] + 1:
            middle = (ends[0] + ends[1]) / 2
    starts = (_moment(header, key, scale) for key in (*_START_KEYS, *(b for b, _ in _END_KEYS)))
    start = next((t for t in starts if t), None)
    exposure = next((header[key] for key in _EXPOSURE_KEYS if key in header), None)
    if middle is None and start and isinstance(exposure, int | float) and 0 <= exposure < 86400:
        middle = start + exposure / 2 / 86400
    if middle:
        said["jd"] = middle
    if day := middle or start:
        said["night"] = int(Time(day, format="jd").strftime("%Y%m%d"))
    band = next(
        (str(header[key]).strip() for key in _FILTER_KEYS if str(header.get(key, "")).strip()), ""
    )
    if band:
        band = re.split(r"[\s.]", band.removeprefix("ZTF_").removeprefix("ztf_"))[0]
        band = _ZTF_FILTERS.get(band, band)
        said["filter"] = band.lower() if band in ("G", "R", "I") else band[:16]
    return said


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
    try:
        if isinstance(value, str):
            if "T" not in value:  # a day alone, its time in another card
                value += f"T{header.get('TIME-OBS') or header['UTC-OBS']}"
            moment = Time(value.strip(), format="isot", scale=scale)
        else:
            form = "mjd" if "MJD" in key else "jd"
            moment = Time(float(value), format=form, scale=scale)  # type: ignore[arg-type]
        jd = float(moment.utc.jd)
    except Exception:  # missing, or no date
        return None
    return jd if 2396759 < jd < 2506332 else None
