"""A streak's astrometry in MPC ADES XML, ``strkid…_pid…_ades.xml``."""

from __future__ import annotations

from itertools import islice
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from astropy.time import Time
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from deepstreaks_dask.readers.bands import band_name
from deepstreaks_dask.readers.folder import Refused
from deepstreaks_dask.readers.quantities import FIRST_JD, LAST_JD
from deepstreaks_dask.readers.streak_table import middles, number

MAX_XML_BYTES = 2**17
"""Bytes of the largest file that is read; a streak's astrometry is of the order of 2 kB."""

_MAX_OBSERVATIONS = 1000
_ERRORS = {"rmsRA": "ra", "rmsDec": "dec", "rmsCorr": "corr"}
_RANGES = {
    "obsTime": (FIRST_JD, LAST_JD),
    "ra": (-180, 360),
    "dec": (-90, 90),
    "mag": (-5, 40),
    "exp": (0, 86400),
    "rmsRA": (0, np.inf),
    "rmsDec": (0, np.inf),
    "rmsCorr": (-1, 1),
}


def read_ades(data: bytes, notes: list[tuple[str, str]] | None = None) -> dict[str, Any] | Refused:
    """Read a streak's astrometry from MPC ADES XML. Never raises.

    Parameters
    ----------
    data : bytes
        A whole file. Of its optical observations the first and the last are the ends of the streak.
    notes : list of (str, str), optional
        What is not understood is added to it: what it is, and the text.

    Returns
    -------
    dict or Refused
        What is known of ``jd``, ``ra``, ``dec``, the ends and their uncertainties, ``mag``, ``exptime`` and
        ``filter``, as the archive's columns are; or why it is not read. Document types and entities are refused.
    """
    if len(data) > MAX_XML_BYTES:
        return Refused("too large", f"{len(data)} bytes, more than {MAX_XML_BYTES}")
    try:
        root = fromstring(data, forbid_dtd=True)
        observations = list(islice(root.iter("optical"), _MAX_OBSERVATIONS))
    except DefusedXmlException as error:
        return Refused("not ADES", f"it declares a document type or entities: {error}")
    except (ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        return Refused("damaged" if data else "empty", str(error))
    if root.tag != "ades" or not observations:
        return Refused("not ADES", f"<{root.tag[:50]}> with {len(observations)} observations")
    return _observed(observations, [] if notes is None else notes)


def _observed(observations: list[Element], notes: list[tuple[str, str]]) -> dict[str, Any]:
    def value(observation: Element, name: str) -> float:
        return number(observation.findtext(name))

    said: dict[str, Any] = {}
    ends = [observations[0], observations[-1]]
    ra, dec = ([value(end, name) for end in ends] for name in ("ra", "dec"))
    middle = middles(*(np.array([value]) for value in (ra[0], dec[0], ra[1], dec[1])))
    said |= {name: float(values[0]) for name, values in middle.items()}
    if len(observations) == 1:  # a point has no ends
        said = {name: said[name] for name in ("ra", "dec")}
    days = [_day(observation.findtext("obsTime")) for observation in ends]
    said["jd"] = sum(days) / 2
    magnitudes = [m for m in (value(o, "mag") for o in observations) if -5 < m < 40]
    said["mag"] = float(np.mean(magnitudes)) if magnitudes else np.nan
    for name in ("rmsRA", "rmsDec", "rmsCorr"):
        for end, observation in zip((1, 2), ends, strict=True):
            said[f"{_ERRORS[name]}{end}" + ("err" if name != "rmsCorr" else "")] = value(
                observation, name
            )
    exposure = value(observations[0], "exp")
    said["exptime"] = exposure if 0 < exposure < 86400 else np.nan
    band = (observations[0].findtext("band") or "").strip()
    name, understood = band_name(band)
    said["filter"] = name if understood else ""
    if band and not understood:
        notes.append(("band of ADES not understood", band))
    notes += _not_understood(observations)
    return {name: found for name, found in said.items() if found == found and found != ""}


def _not_understood(observations: list[Element]) -> list[tuple[str, str]]:
    """Note texts where there should be numbers or times, or places on the sky."""
    notes = []
    for observation in (observations[0], observations[-1]):
        for name, (low, high) in _RANGES.items():
            text = (observation.findtext(name) or "").strip()
            found = _day(text) if name == "obsTime" else number(text)
            if text and not low <= found <= high:
                notes.append((f"{name} of ADES not understood or out of range", text[:60]))
        missing = [n for n in ("obsTime", "ra", "dec") if not observation.findtext(n)]
        notes += [(f"{name} of ADES missing", "") for name in missing]
    return list(dict.fromkeys(notes))


def _day(text: str | None) -> float:
    """Julian date (UTC) of an ISO 8601 time, NaN if it is none."""
    try:
        day = float(Time((text or "").strip().removesuffix("Z"), format="isot", scale="utc").jd)
    except ValueError:
        return np.nan
    return day if FIRST_JD < day < LAST_JD else np.nan
