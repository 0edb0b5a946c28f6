"""Values of a table's columns: numbers, times, angles, nights and labels, as people write them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from datetime import datetime

import numpy as np
import pandas as pd
from astropy import units as u
from astropy.coordinates import Angle
from astropy.time import Time

from deepstreaks_dask.readers.bands import band_name
from deepstreaks_dask.vocabulary import LABEL_PREFIX, LABEL_VALUES

MJD_OFFSET = 2400000.5
FIRST_JD, LAST_JD = 2396759.0, 2506332.0
"""Julian dates of 1850 and 2150: no time of an image lies outside."""

_FIRST_MJD = 15020.0  # 1900: smaller numbers are more likely something else
_RANGES = {
    **dict.fromkeys(("ra", "ra1", "ra2"), (0.0, 360.0)),
    **dict.fromkeys(("dec", "dec1", "dec2"), (-90.0, 90.0)),
    **dict.fromkeys(("length", "sigma"), (0.0, 1e6)),
    "mag": (-30.0, 60.0),
}
_ANGLES = ("ra", "dec", "ra1", "dec1", "ra2", "dec2")
_YES = {"true": 1, "yes": 1, "y": 1, "t": 1, "false": 0, "no": 0, "n": 0, "f": 0}
_UNKNOWN = {"unknown": -1, "unsure": -1, "?": -1, "-": -1, "--": -1}
_DATE_ALONE = re.compile(r"\d{4}-\d\d?-\d\d?|\d{8}")

Doubts = dict[str, np.ndarray]
"""By what is wrong, the places (bool) of the values that it is wrong with."""


def read_values(values: pd.Series, name: str, words: Mapping[str, int]) -> tuple[pd.Series, Doubts]:
    """Bring the values of a column to what the archive holds; what is not understood becomes missing.

    Parameters
    ----------
    values : pandas.Series
        ``(row,)`` of texts, numbers or times.
    name : str
        Column of the archive.
    words : mapping of str to int
        Labels by the words that stand for them.

    Returns
    -------
    pandas.Series
        ``(row,)`` of floats, NaN where missing; texts for the filter.
    dict of str to ndarray
        bool ``(row,)`` by what was not understood there, or is out of range, or was changed.
    """
    if name == "filter":
        return _bands(values)
    if name.startswith(LABEL_PREFIX):
        return _labels(values, name.removeprefix(LABEL_PREFIX), words)
    reader: Callable[[pd.Series], tuple[np.ndarray, Doubts]]
    if name == "jd":
        reader = _days
    elif name == "night":
        reader = _nights
    elif name in _ANGLES:
        reader = lambda column: _degrees(column, right_ascension=name.startswith("ra"))  # noqa: E731
    else:
        reader = lambda column: (_numbers(column), {})  # noqa: E731
    numbers, doubts = reader(values)
    unread = values.notna().to_numpy() & np.isnan(numbers)
    unread &= ~np.logical_or.reduce([*doubts.values(), np.zeros(len(values), bool)])
    doubts["not understood"] = unread
    low, high = _RANGES.get(name, (-np.inf, np.inf))
    outside = (numbers < low) | (numbers > high) | np.isinf(numbers)
    doubts["out of range"] = doubts.get("out of range", np.zeros(len(values), bool)) | outside
    numbers = np.where(outside, np.nan, numbers)
    return pd.Series(numbers, index=values.index), doubts


def _numbers(values: pd.Series) -> np.ndarray:
    """Numbers of a column, those with a decimal comma among them; NaN for what is none."""
    if pd.api.types.is_bool_dtype(values) or pd.api.types.is_numeric_dtype(values):
        return values.to_numpy(float, copy=True, na_value=np.nan)
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(float, copy=True)
    left = np.isnan(numbers) & values.notna().to_numpy()
    if left.any():
        texts = values[left].astype(str)
        comma = texts.str.fullmatch(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*")
        texts = texts.where(comma).str.replace(",", ".", regex=False)
        numbers[left] = pd.to_numeric(texts, errors="coerce").to_numpy(float)
    return numbers


def _days(values: pd.Series) -> tuple[np.ndarray, Doubts]:
    """Julian dates (UTC) of times in any of the usual forms."""
    doubts: Doubts = {}
    if pd.api.types.is_datetime64_any_dtype(values):
        stamps = pd.to_datetime(values, utc=True)
        days, numeric = _julian(stamps), np.zeros(len(values), bool)
    else:
        days = _numbers(values)
        numeric = ~np.isnan(days)
        left = np.flatnonzero(values.notna().to_numpy() & ~numeric)
        texts = values.iloc[left].astype(str).str.strip()
        alone = texts.str.fullmatch(_DATE_ALONE.pattern).to_numpy(bool)
        doubts["date without a time of day"] = np.isin(np.arange(len(values)), left[alone])
        stamps = pd.to_datetime(texts.where(~alone), format="ISO8601", utc=True, errors="coerce")
        days[left] = _julian(stamps)
        for at in left[np.isnan(days[left]) & ~alone]:
            days[at] = _one_day(str(values.iloc[at]).strip())
    modified = numeric & (days > _FIRST_MJD) & (days < LAST_JD - MJD_OFFSET)
    days = np.where(modified, days + MJD_OFFSET, days)
    doubts["modified Julian date, converted"] = modified
    outside = ~np.isnan(days) & ~((days > FIRST_JD) & (days < LAST_JD))
    doubts["out of range"] = outside
    return np.where(outside, np.nan, days), doubts


def _julian(stamps: pd.Series) -> np.ndarray:
    days = np.full(len(stamps), np.nan)
    known = stamps.notna().to_numpy()
    if known.any():
        times = stamps[known].dt.tz_localize(None).to_numpy("datetime64[ns]")
        days[known] = Time(times, format="datetime64", scale="utc").jd
    return days


def _one_day(text: str) -> float:
    """Julian date of a time in another of astropy's formats, or with a leap second."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(Time(text.removesuffix("Z"), scale="utc").jd)
    except Exception:  # whatever astropy says of what is no time
        return np.nan


def _degrees(values: pd.Series, *, right_ascension: bool) -> tuple[np.ndarray, Doubts]:
    """Degrees of angles that are written as degrees or sexagesimal, right ascensions then in hours."""
    degrees = _numbers(values)
    for at in np.flatnonzero(values.notna().to_numpy() & np.isnan(degrees)):
        degrees[at] = _one_angle(str(values.iloc[at]).strip(), right_ascension=right_ascension)
    if not right_ascension:
        return degrees, {}
    wrapped = (degrees < 0) & (degrees >= -180)
    return np.where(wrapped, degrees % 360, degrees), {"negative, 360 added": wrapped}


def _one_angle(text: str, *, right_ascension: bool) -> float:
    sexagesimal = re.fullmatch(r"[+-]?\d+([: ]\d+){1,2}([.,]\d*)?", text) is not None
    unit = u.hourangle if right_ascension and sexagesimal else u.deg
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(Angle(text.replace(",", "."), unit).deg)
    except Exception:  # whatever astropy says of what is no angle
        return np.nan


def _nights(values: pd.Series) -> tuple[np.ndarray, Doubts]:
    """Nights as YYYYMMDD, of numbers or ISO dates; 0 is one that is not known."""
    if pd.api.types.is_datetime64_any_dtype(values):
        texts = pd.to_datetime(values).dt.strftime("%Y%m%d")
    else:
        texts = values.astype("string").str.strip().str.replace(r"\.0*$", "", regex=True)
        texts = texts.str.replace(r"^(\d{4})[-/](\d\d)[-/](\d\d)([T ].*)?$", r"\1\2\3", regex=True)
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(float, na_value=np.nan)
    dates = {text: is_night(text) for text in texts.dropna().unique()}
    valid = np.array([text in dates and dates[text] for text in texts.fillna("")], bool)
    wrong = ~np.isnan(numbers) & (numbers != 0) & ~valid
    return np.where(wrong, np.nan, numbers), {"out of range": wrong}


def is_night(text: str) -> bool:
    """Return whether a text is a date as YYYYMMDD, of 1900 to 2099."""
    try:
        return bool(re.fullmatch(r"(19|20)\d{6}", text)) and bool(datetime.strptime(text, "%Y%m%d"))
    except ValueError:
        return False


def _labels(values: pd.Series, family: str, words: Mapping[str, int]) -> tuple[pd.Series, Doubts]:
    """Labels of numbers and words; a word of the family goes before one of all families."""
    known = label_words(family, words)
    texts = values.astype("string").str.strip().str.casefold()
    texts = texts.str.replace(r"^([+-]?\d+)\.0*$", r"\1", regex=True)
    labels = texts.map(known).to_numpy(float, na_value=np.nan)
    doubts = {"not understood": values.notna().to_numpy() & np.isnan(labels)}
    return pd.Series(labels, index=values.index), doubts


def label_words(family: str, words: Mapping[str, int]) -> dict[str, int]:
    """Return the labels of a family by the words that stand for them, in lower case.

    Parameters
    ----------
    family : str
        Such as ``rb``.
    words : mapping of str to int
        Labels by word, or by ``family:word``.

    Returns
    -------
    dict of str to int
        Numbers and the family's own words among them.
    """
    positive, negative = LABEL_VALUES[family]
    known = {"1": 1, "+1": 1, "0": 0, "-1": -1, **_YES, **_UNKNOWN, positive: 1, negative: 0}
    general = {word.casefold(): label for word, label in words.items() if ":" not in word}
    own = {
        word.partition(":")[2].casefold(): label
        for word, label in words.items()
        if word.startswith(f"{family}:")
    }
    return known | general | own


def _bands(values: pd.Series) -> tuple[pd.Series, Doubts]:
    texts = values.astype("string").str.strip()
    found = {text: band_name(text) for text in texts.dropna().unique()}
    unread = np.array([text in found and not found[text][1] for text in texts.fillna("")], bool)
    bands = texts.map({text: band for text, (band, _) in found.items()})
    return bands.astype("string"), {"not understood": unread}
