"""Candidates as files that others read: Parquet, CSV, ECSV, VOTable, and ADES for the Minor Planet Center.

A streak is one observation in ADES: its middle at mid-exposure. Its two ends are not reported as observations, since
one exposure does not tell which came first; they are told in the remarks.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from astropy.table import Table
from astropy.time import Time

import deepstreaks_dask
from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.provenance import simulated
from deepstreaks_dask.archive.schema import NATIVE_SIZES, OPTIONAL_COLUMNS, SCHEMA
from deepstreaks_dask.errors import DeepStreaksError, did_you_mean
from deepstreaks_dask.export import ades
from deepstreaks_dask.readers.streak_table import ZTF_COLUMNS
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.utils.spreadsheets import to_csv
from deepstreaks_dask.utils.storage import read_bytes, write_bytes

MAX_SUBMISSION_BYTES = 2**20
"""Bytes of a file of what ADES is to say."""

CANDIDATE_COLUMNS = [name for name in SCHEMA if name != "digest" and not name.startswith("label_")]
_FIRST, _LAST = 2396759, 2506332  # Julian dates of 1850 and 2150
_RMS_LENGTH = 7  # characters that ADES has for an uncertainty
_SMALL_RMS = 0.01  # arcsec
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Submission:
    """What ADES asks for and no archive knows; ZTF's where it can be.

    Attributes
    ----------
    submitter : str
        Who answers for the observations, ``J. Doe``.
    measurers, observers : tuple of str
        Who measured them, by default the submitter, and who took them.
    institution, comment : str
        Optional.
    stn, mode : str
        Observatory code (ZTF is I41) and kind of instrument.
    astCat : str
        Catalogue of the astrometry. ZTF's was calibrated with Gaia DR1 (Masci et al. 2019, PASP 131, 018003).
    rmsRA, rmsDec : float, optional
        Uncertainties in arcseconds of candidates of which the archive has none; none are made up.
    design, detector : str
        Of the telescope.
    aperture, fRatio, pixelScale : float
        Metres, focal ratio, arcseconds a pixel.
    """

    submitter: str = ""
    measurers: tuple[str, ...] = ()
    observers: tuple[str, ...] = ()
    institution: str = ""
    comment: str = ""
    stn: str = "I41"
    mode: str = "CCD"
    astCat: str = "Gaia1"  # noqa: N815 - the standard's names
    rmsRA: float | None = None  # noqa: N815
    rmsDec: float | None = None  # noqa: N815
    design: str = "Schmidt"
    detector: str = "CCD"
    aperture: float = 1.2
    fRatio: float = 2.5  # noqa: N815
    pixelScale: float = 1.01  # noqa: N815

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Submission:
        """Read a TOML file with any of the attributes.

        Parameters
        ----------
        path : str or path
            TOML file: path or URL.

        Returns
        -------
        Submission
            What the file does not say is as by default.

        Raises
        ------
        DeepStreaksError
            If it cannot be read, or has an attribute or value that cannot be.
        """
        known = {f.name: f.default for f in fields(cls)}
        try:
            given = tomllib.loads(read_bytes(path, MAX_SUBMISSION_BYTES).decode())
        except ValueError as error:
            raise DeepStreaksError(f"{os.fspath(path)} cannot be read as TOML: {error}") from error
        for name, value in given.items():
            if name not in known:
                choices = f"{did_you_mean(name, known)}choose one of {', '.join(sorted(known))}"
                raise DeepStreaksError(f"{os.fspath(path)}: no {name!r}: {choices}")
            form = "tuple" if isinstance(value, list) else type(value).__name__
            wanted = type(known[name]).__name__
            if form != wanted and not (
                form in ("int", "float") and wanted in ("float", "NoneType")
            ):
                raise DeepStreaksError(f"{os.fspath(path)}: {name} = {value!r} is of a wrong type")
            if isinstance(value, list):
                given[name] = tuple(str(item) for item in value)
        return cls(**given)

    @property
    def context(self) -> ades.Context:
        """The head of an ADES document."""
        submitter = [("name", self.submitter), ("institution", self.institution)]
        lines = ["Streaks selected by neural networks.", *filter(None, [self.comment])]
        groups: dict[str, list[tuple[str, str]]] = {
            "observatory": [("mpcCode", self.stn)],
            "submitter": [pair for pair in submitter if pair[1]],
            "observers": [("name", name) for name in self.observers],
            "measurers": [("name", name) for name in self.measurers or (self.submitter,)],
            "telescope": [
                ("design", self.design),
                ("aperture", f"{self.aperture:g}"),
                ("detector", self.detector),
                ("fRatio", f"{self.fRatio:g}"),
                ("pixelScale", f"{self.pixelScale:g}"),
            ],
            "software": [("objectDetection", f"deepstreaks_dask {deepstreaks_dask.__version__}")],
            "comment": [("line", line) for line in lines],
        }
        return {group: elements for group, elements in groups.items() if elements}


@dataclass(frozen=True)
class Exported:
    """What went into a file, and what did not: counts by reason."""

    written: int
    left_out: dict[str, int]


def candidate_table(decided: xr.Dataset) -> pd.DataFrame:
    """Tabulate the plausible cutouts.

    Parameters
    ----------
    decided : xarray.Dataset
        As :meth:`deepstreaks_dask.scoring.decision.Decision.apply` gives it.

    Returns
    -------
    pandas.DataFrame
        A row a candidate: what the archive knows of it, with the columns that its inputs brought, whether it is
        ``simulated``, then a column of scores a member. ``attrs`` has archive, run and the networks that the scores are of.
    """
    chosen = decided.isel(cutout=np.flatnonzero(decided["plausible"].values))
    names = [*CANDIDATE_COLUMNS, *_extra_columns(chosen)]
    frame = pd.DataFrame({name: chosen[name].values for name in names})
    marked = simulated(decided["kind"].values, decided["source"].values)
    frame["simulated"] = marked[decided["plausible"].values]
    for k, model in enumerate(chosen["model"].values):
        frame[str(model)] = chosen["scores"].values[:, k]
    known = provenance_of(decided)
    frame.attrs = {
        "archive": str(known.get("url", "")),
        "run": str(known.get("run", "")),
        "networks": {
            f"{member['name']}@{member['version']}": member["sha256"]
            for member in known.get("members", ())
        },
        "deepstreaks_dask": deepstreaks_dask.__version__,
    }
    return frame


def _extra_columns(decided: xr.Dataset) -> list[str]:
    """Columns that the archive's inputs brought, beside those that every archive has."""
    return [
        str(name)
        for name, values in decided.coords.items()
        if values.dims == ("cutout",) and name not in (*SCHEMA, *NATIVE_SIZES, "time", "cutout")
    ]


def export_candidates(
    decided: xr.Dataset | pd.DataFrame,
    output: str | os.PathLike[str],
    *,
    submission: Submission | None = None,
    decision: Decision | None = None,
) -> Exported:
    """Write candidates to a file, all or nothing.

    Parameters
    ----------
    decided : xarray.Dataset or DataFrame
        As :meth:`deepstreaks_dask.scoring.decision.Decision.apply` returns it, or :func:`candidate_table`.
    output : str or path
        Path or fsspec URL; its ending chooses the format: ``.csv``, ``.parquet``, ``.ecsv``, ``.vot``, or for
        ADES ``.psv`` and ``.xml``.
    submission : Submission, optional
        For ADES, which cannot do without.
    decision : Decision, optional
        Whose thresholds to note in the formats that have a place for notes.

    Returns
    -------
    Exported
        ADES leaves out candidates without time or position, and simulated ones.

    Raises
    ------
    DeepStreaksError
        If the ending is unknown, ADES lacks its ``submission``, or what would be written breaks its rules.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> decided = ds.Decision({"kd": 0.9}).apply(ds.open_run("week.zarr"))
    >>> written = ds.export_candidates(decided, "candidates.csv")
    >>> written.written == int(decided["plausible"].sum())
    True
    """
    suffix = PurePath(os.fspath(output)).suffix
    if suffix not in _FORMATS:
        endings = ", ".join(_FORMATS)
        raise DeepStreaksError(f"{os.fspath(output)}: give a name that ends in one of {endings}")
    frame = candidate_table(decided) if isinstance(decided, xr.Dataset) else decided
    if decision is not None:
        frame = frame.copy(deep=False)
        members = [name.partition("@")[0] for name in frame.attrs.get("networks", ())]
        frame.attrs = frame.attrs | {"thresholds": {m: decision.threshold(m) for m in members}}
    data, exported = _FORMATS[suffix](frame, submission)
    write_bytes(output, data)
    return exported


def observations(
    frame: pd.DataFrame, submission: Submission
) -> tuple[list[ades.Record], dict[str, int]]:
    """Make ADES records of candidates.

    Parameters
    ----------
    frame : DataFrame
        As :func:`candidate_table` gives it.
    submission : Submission
        Station, mode, catalogue and uncertainties.

    Returns
    -------
    records : list of mapping
        One an observed candidate with time and position.
    left_out : dict
        How many are not there, by reason.
    """
    records: list[ades.Record] = []
    left_out: Counter[str] = Counter()
    taken: set[str] = set()
    for row in frame.to_dict("records"):
        if row["simulated"]:
            left_out["simulated"] += 1
        elif not _FIRST < row["jd"] < _LAST:  # NaN neither
            left_out["no time"] += 1
        elif not (0 <= row["ra"] <= 360 and abs(row["dec"]) <= 90):
            left_out["no position"] += 1
        else:
            records.append(_record(row, submission, taken))
    return records, dict(left_out)


def _record(row: dict[Any, Any], submission: Submission, taken: set[str]) -> ades.Record:
    optional = _uncertainties(row, submission) | {
        "exp": f"{row['exptime']:.1f}" if row.get("exptime", 0) > 0 else "",
        "obsSubID": str(row["id"]),
        "logSNR": f"{math.log10(row['snr']):.2f}" if row["snr"] > 0 else "",
    }
    photometry = {"mag": f"{row['mag']:.2f}", "band": str(row["filter"])}
    if not any(ades.OPTICAL_RULES[name].problem(text) for name, text in photometry.items()):
        optional |= photometry
    remarks = "middle of the streak at mid-exposure"
    ends = [row[name] for name in ("ra1", "dec1", "ra2", "dec2")]
    on_sky = all(0 <= ra <= 360 and abs(dec) <= 90 for ra, dec in (ends[:2], ends[2:]))
    if on_sky and ends[:2] != ends[2:]:
        remarks += "; ends {:.6f} {:+.6f} and {:.6f} {:+.6f}, in what order is not known".format(
            *ends
        )
    record = {
        "trkSub": _track(str(row["id"]), taken),
        "mode": submission.mode,
        "stn": submission.stn,
        "obsTime": Time(row["jd"], format="jd", scale="utc", precision=3).isot + "Z",
        "ra": f"{round(row['ra'] % 360, 6) % 360:.6f}",
        "dec": f"{row['dec']:+.6f}",
        "astCat": submission.astCat,
        "remarks": remarks,
    }
    return record | {
        name: text for name, text in optional.items() if not ades.OPTICAL_RULES[name].problem(text)
    }


def _uncertainties(row: Mapping[Any, Any], submission: Submission) -> dict[str, str]:
    """Uncertainties of a streak's middle, from those of its ends, whose errors are taken as independent."""
    texts = {}
    means = {}
    for name, ends, given in (
        ("rmsRA", ("ra1err", "ra2err"), submission.rmsRA),
        ("rmsDec", ("dec1err", "dec2err"), submission.rmsDec),
    ):
        one, two = (float(row.get(end, math.nan)) for end in ends)
        measured = math.hypot(one, two) / 2 if one > 0 and two > 0 else math.nan
        means[name] = measured
        value = measured if math.isfinite(measured) else given
        digits = 3 if value and value >= _SMALL_RMS else 5
        texts[name] = f"{value:.{digits}f}"[:_RMS_LENGTH] if value else ""
    covariance = sum(
        row.get(f"corr{k}", math.nan)
        * row.get(f"ra{k}err", math.nan)
        * row.get(f"dec{k}err", math.nan)
        for k in (1, 2)
    )
    correlation = covariance / (4 * means["rmsRA"] * means["rmsDec"])
    if abs(correlation) < 1:
        texts["rmsCorr"] = f"{correlation:.3f}"
    return texts


def _track(name: str, taken: set[str]) -> str:
    """Name a tracklet in the eight characters there are: always the same for the same id."""
    salt = 0
    while True:
        hashed = hashlib.blake2b(f"{name}{salt or ''}".encode(), digest_size=8).digest()
        number, text = int.from_bytes(hashed), "d"
        while len(text) < 8:
            number, digit = divmod(number, len(_ALPHABET))
            text += _ALPHABET[digit]
        if text not in taken:
            taken.add(text)
            return text
        salt += 1


def _table(frame: pd.DataFrame) -> Table:
    """Make an astropy table with the units and descriptions of the archive's columns."""
    table = Table({name: np.asarray(frame[name]) for name in frame.columns})
    for name in frame.columns:
        if frame[name].dtype == object or pd.api.types.is_string_dtype(frame[name]):
            table[name] = np.array([str(value) for value in frame[name]], dtype=str)
        column = {**SCHEMA, **OPTIONAL_COLUMNS, **ZTF_COLUMNS}.get(name)
        scored = name.partition("@")[0] in {
            network.partition("@")[0] for network in frame.attrs.get("networks", ())
        }
        words = f"score of {name}, 0 to 1" if scored else "column of the archive's inputs"
        words = "simulated, not observed" if name == "simulated" else words
        table[name].description = column.long_name if column else words
        if column and column.units:
            table[name].unit = "pix" if column.units == "pixel" else column.units
    table.meta = dict(frame.attrs)
    return table


def _csv(frame: pd.DataFrame, _: Submission | None) -> bytes:
    return to_csv(frame).encode()


def _parquet(frame: pd.DataFrame, _: Submission | None) -> bytes:
    return frame.to_parquet(index=False)


def _ecsv(frame: pd.DataFrame, _: Submission | None) -> bytes:
    buffer = io.StringIO()
    _table(frame).write(buffer, format="ascii.ecsv")
    return buffer.getvalue().encode()


def _votable(frame: pd.DataFrame, _: Submission | None) -> bytes:
    buffer = io.BytesIO()
    _table(frame).write(buffer, format="votable")
    return buffer.getvalue()


def _block(frame: pd.DataFrame, submission: Submission | None) -> tuple[ades.Block, Exported]:
    if submission is None or not submission.submitter:
        raise DeepStreaksError(
            "ADES names who answers for the observations: give --ades a TOML file with submitter = 'J. Doe'"
        )
    records, left_out = observations(frame, submission)
    if not records:
        why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "none there"
        raise DeepStreaksError(f"no candidate can be reported to the Minor Planet Center: {why}")
    block = ades.Block(submission.context, records)
    problems = ades.check_context(block.context)
    problems += [problem for record in records for problem in ades.check_record(record)]
    if problems:
        raise DeepStreaksError(f"this would be no valid ADES: {'; '.join(problems[:3])}")
    return block, Exported(len(records), left_out)


def _ades(
    write: Callable[[ades.Block], bytes],
) -> Callable[[pd.DataFrame, Submission | None], tuple[bytes, Exported]]:
    def made(frame: pd.DataFrame, submission: Submission | None) -> tuple[bytes, Exported]:
        block, exported = _block(frame, submission)
        return write(block), exported

    return made


def _whole(
    write: Callable[[pd.DataFrame, Submission | None], bytes],
) -> Callable[[pd.DataFrame, Submission | None], tuple[bytes, Exported]]:
    return lambda frame, submission: (write(frame, submission), Exported(len(frame), {}))


_FORMATS = {
    ".csv": _whole(_csv),
    ".parquet": _whole(_parquet),
    ".ecsv": _whole(_ecsv),
    ".vot": _whole(_votable),
    ".psv": _ades(ades.to_psv),
    ".xml": _ades(ades.to_xml),
}
