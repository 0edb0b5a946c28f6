"""What alerts of several surveys say of themselves, under the names that ZTF gave it.

ZTF's schema is at https://zwickytransientfacility.github.io/ztf-avro-alert, that of LSST in ``lsst/alert_packet``. The
surveys that Kowalski (Duev et al. 2019, MNRAS 489, 3582) takes in beside ZTF, PGIR, WNTR and TURBO, follow ZTF's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import isfinite, log10
from typing import Any

import numpy as np
from astropy.time import Time

from deepstreaks_dask.archive.schema import SCHEMA, Column
from deepstreaks_dask.readers.alert_stamps import field_key, is_stamp_field
from deepstreaks_dask.readers.fits_checks import UnreadableError

ALERT_COLUMNS: dict[str, Column] = {
    "objectId": Column("string", "", "", "identifier of the object"),
    "pid": Column("int64", 0, "", "processing identifier of the science image"),
    "programid": Column("int8", 0, "", "programme: 1 public, 2 collaboration, 3 Caltech"),
    "field": Column("int32", 0, "", "field of the survey"),
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

OWN_COLUMNS = ("id", "night", "jd", "filter", "ra", "dec", "mag", "flux", "snr")
"""Columns of any archive that an alert fills."""

_OTHER_NAMES = {
    "objectId": ("objectid", "diaobjectid", "ssobjectid"),
    "field": ("field", "fieldid"),
    "exptime": ("exptime", "exposuretime"),
    "drb": ("drb", "reliability"),
    "drbversion": ("drbversion", "reliabilityversion"),
    "ndethist": ("ndethist", "ndiasources"),
    "dec": ("dec", "decl"),
    "mag": ("magpsf",),
    "flux": ("psfflux", "psflux"),
}
"""Names of fields in other surveys, as :func:`field_key` returns them."""

_BANDS: Mapping[str, Mapping[int, str]] = {
    "ZTF": {1: "g", 2: "r", 3: "i"},
    "WNTR": {1: "Y", 2: "J", 3: "Hs"},
    "PGIR": {1: "J"},
}
"""Filters by survey and number."""

_PREFIXES = {
    "ZTF": "ZTF",
    "WNTR": "WNTR",
    "WINTER": "WNTR",
    "PGIR": "PGIR",
    "TURBO": "TURBO",
    "TRB": "TURBO",
}
_RECORDS = (
    "candidate",
    "diasource",
)  # what is said of the detection itself, which goes before what is said elsewhere
_AROUND = "diaobject", "ssobject", "sssource", "mpcorbits"
_FROM_AROUND = {
    "diaobjectid",
    "ssobjectid",
    "ndiasources",
    "designation",
    "unpackedprimaryprovisionaldesignation",
}
_NAMES_OF_PLANETS = "ssnamenr", "designation", "unpackedprimaryprovisionaldesignation"
_MAX_TEXT_LENGTH = 100
_UNKNOWN_NUMBER = -999  # what ZTF writes for "not known"
_UNKNOWN_TEXTS = ("", "null")
_ZTF_EXPOSURE_TIME = 30.0  # s, of the surveys, for packets before schema 3.2, which do not say
_VALUE_RANGES = {"jd": (2396759, 2506332), "ra": (0, 360), "dec": (-90, 90)}  # jd from 1850 to 2150
_UNIX_EPOCH = 2440587.5
_MJD_OFFSET = 2400000.5
_NJY_ZERO_POINT = 31.4  # AB magnitude of 1 nJy


@dataclass
class Fields:
    """The fields of one alert, by :func:`field_key`.

    Attributes
    ----------
    values : mapping
        Fields that say something; those of the detection go before those of the packet.
    survey : str
        ``ZTF``, ``LSST``, ``WNTR``, ``PGIR`` or ``TURBO``; empty if it is none of these.
    remarks : list of tuple
        What was not understood, and what stood there.
    """

    values: Mapping[str, Any]
    survey: str
    remarks: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, packet: Mapping[str, Any]) -> Fields:
        """Collect the fields of an alert.

        Parameters
        ----------
        packet : mapping
            As a broker writes it: a record with a record of the detection in it, ``candidate`` or ``diaSource``, or
            one flat record, as in tables.

        Returns
        -------
        Fields
            Those that are not null.
        """
        parts = {field_key(name): value for name, value in packet.items()}
        values: dict[str, Any] = {}
        for name in _AROUND:
            if isinstance(parts.get(name), Mapping):
                around = _spoken(parts[name])
                values |= {key: around[key] for key in _FROM_AROUND & around.keys()}
        values |= _spoken(
            {name: value for name, value in packet.items() if not is_stamp_field(name)}
        )
        for name in _RECORDS:
            if isinstance(parts.get(name), Mapping):
                values |= _spoken(parts[name])
        return cls(values, _survey(values))

    def take(self, name: str, column: Column) -> Any:
        """Return a field as a column has it; a remark is made of a value that the column cannot have.

        Parameters
        ----------
        name : str
            Of the column.
        column : Column
            Its type, and what stands for "not known".

        Returns
        -------
        Any
            Missing where the alert says nothing, or "not known".
        """
        for key in _OTHER_NAMES.get(name, (field_key(name),)):
            value = self.values.get(key)
            if key.endswith("objectid") and type(value) is int:
                value = str(value) if value else None  # LSST writes 0 for no object
            if value is not None:
                return self._typed(name, value, column)
        return column.missing

    def _typed(self, name: str, value: Any, column: Column) -> Any:
        typed = _typed_text(value) if column.dtype == "string" else _typed_number(value, column)
        if typed is None:
            self.remarks.append((f"{name} not understood", repr(value)[:_MAX_TEXT_LENGTH]))
        return column.missing if typed is None or _is_unknown(value) else typed

    def columns(self) -> dict[str, Any]:
        """Return all columns of an alert.

        Returns
        -------
        dict
            :data:`OWN_COLUMNS` and :data:`ALERT_COLUMNS`.

        Raises
        ------
        UnreadableError
            If it has no identifier, no time or no place.
        """
        found = {name: self.take(name, column) for name, column in ALERT_COLUMNS.items()}
        found["isdiffpos"] = self._sign(found["isdiffpos"])
        found["ssnamenr"] = self._planet(found["ssnamenr"])
        for name in ("ra", "dec"):
            found[name] = self._within(name, self.take(name, SCHEMA[name]))
        found |= self._brightness(found["sigmapsf"])
        middle, start = self._times(found["exptime"])
        day = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=start - _UNIX_EPOCH)
        return found | {
            "id": self._identifier(),
            "jd": middle,
            "night": int(f"{day:%Y%m%d}"),
            "filter": self._filter(),
        }

    def zero_point(self, unit: str) -> float:
        """Return the magnitude of 1 count of the science cutout, whose unit is given; NaN if not known."""
        if unit == "nJy":
            return _NJY_ZERO_POINT
        return self.take("magzpsci", SCHEMA["mag"])

    def _identifier(self) -> str:
        for name in ("candid", "diasourceid", "alertid"):
            value = self.values.get(name)
            if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
                value = int(value)
            if type(value) is int and value > 0:
                return str(value)
        raise UnreadableError("not an alert", "no candid or diaSourceId in it")

    def _times(self, exposure: float) -> tuple[float, float]:
        """Return the Julian dates (UTC) of the middle of the exposure and of what the alert dates it by."""
        for name in ("midpointmjdtai", "midpointtai"):
            if isinstance(value := self.values.get(name), (int, float)):
                tai = self._within("jd", value + _MJD_OFFSET)
                jd = float(Time(tai, format="jd", scale="tai").utc.jd)
                return jd, jd
        start = self._within("jd", self.take("jd", SCHEMA["jd"]))
        if not 0 <= exposure < 86400:
            if self.survey == "ZTF":
                exposure = _ZTF_EXPOSURE_TIME
            else:
                self.remarks.append(("no exposure time: jd is that of its start", ""))
                exposure = 0
        return start + exposure / 2 / 86400, start

    def _within(self, name: str, value: float) -> float:
        low, high = _VALUE_RANGES[name]
        if not low <= value <= high:
            there = next(
                (self.values[k] for k in _OTHER_NAMES.get(name, (name,)) if k in self.values), None
            )
            raise UnreadableError(
                "damaged", f"{name} is {str(value if there is None else there)[:40]}"
            )
        return value

    def _filter(self) -> str:
        band = self.values.get("band", self.values.get("filtername"))
        if isinstance(band, str) and 0 < len(band) <= _MAX_TEXT_LENGTH:
            return band
        number = self.values.get("fid")
        if isinstance(number, int) and number in _BANDS.get(self.survey, {}):
            return _BANDS[self.survey][number]
        there = band if number is None else number
        what = "no filter" if there is None else "filter not understood"
        self.remarks.append((what, "" if there is None else repr(there)[:_MAX_TEXT_LENGTH]))
        return ""

    def _sign(self, sign: str) -> str:
        negative = self.values.get("isnegative")
        return ("f" if negative else "t") if isinstance(negative, bool) else sign

    def _planet(self, name: str) -> str:
        for key in _NAMES_OF_PLANETS:
            value = self.values.get(key)
            if isinstance(value, str) and value.strip() not in _UNKNOWN_TEXTS:
                return value.strip()[:_MAX_TEXT_LENGTH]
        return name

    def _brightness(self, uncertainty: float) -> dict[str, float]:
        """Return magnitude, flux and what belongs to them; LSST gives fluxes in nJy, negative ones too."""
        mag, flux = self.take("mag", SCHEMA["mag"]), self.take("flux", SCHEMA["flux"])
        error = self.values.get("psffluxerr", self.values.get("psfluxerr"))
        if isfinite(flux) and flux and not isfinite(mag):
            mag = _NJY_ZERO_POINT - 2.5 * log10(abs(flux))
            if isinstance(error, (int, float)) and 0 < error < np.inf:
                uncertainty = min(2.5 / np.log(10) * error / abs(flux), float(np.finfo("f4").max))
        snr = self.take("snr", SCHEMA["snr"])
        return {"mag": mag, "flux": flux, "sigmapsf": uncertainty, "snr": snr}


def _spoken(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record says, by key: its fields that are not null, and neither records nor lists."""
    return {
        field_key(name): value
        for name, value in record.items()
        if value is not None and not isinstance(value, (Mapping, list))
    }


def _survey(values: Mapping[str, Any]) -> str:
    if "diasourceid" in values:
        return "LSST"
    for name in ("objectid", "publisher"):
        text = str(values.get(name, "")).upper()
        for prefix, survey in _PREFIXES.items():
            if text.startswith(prefix):
                return survey
    return ""


def _is_unknown(value: Any) -> bool:
    return value == _UNKNOWN_NUMBER or (isinstance(value, str) and value in _UNKNOWN_TEXTS)


def _typed_text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "t" if value else "f"
    text = str(value) if isinstance(value, (str, int)) else None
    return text if text is not None and len(text) <= _MAX_TEXT_LENGTH else None


def _typed_number(value: Any, column: Column) -> Any:
    """Return a number of a column's type; what is not a number is missing, and None what the column cannot have."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    kind = np.dtype(column.dtype)
    if kind.kind == "i":
        limits = np.iinfo(kind)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return value if isinstance(value, int) and limits.min <= value <= limits.max else None
    if value != value:  # NaN is how floats say that they are not known
        return column.missing
    return float(value) if isfinite(value) and abs(value) <= float(np.finfo(kind).max) else None
