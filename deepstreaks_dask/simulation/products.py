"""Simulated nights in the form of a survey's nightly products: tarballs, tables of streaks, ADES files."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np
import pandas as pd
from astropy.time import Time, TimeDelta
from PIL import Image

from deepstreaks_dask.readers.depot import ADES, TABLE, TARBALL
from deepstreaks_dask.readers.streak_table import FILTER_NAMES, STREAK_COLUMNS
from deepstreaks_dask.simulation.nights import Night, simulated_columns

EXPOSURE_TIME = 30.0
"""Seconds of an exposure."""

_STATION_NAME = "I41"  # Palomar Mountain - ZTF


def write_depot(folder: Path, night: Night, cutouts: int, *, in_tarball: int = 100) -> Path:
    """Write a night as the depot has it, and beside it a table of labels.

    Parameters
    ----------
    folder : Path
        Gets ``YYYYMMDD/ztf_…_strkcutouts.tar.gz`` and ``…_streaks.txt``, a pair an exposure, each as
        :mod:`deepstreaks_dask.readers.depot` describes it, and ``YYYYMMDD.csv`` with the truth.
    night : Night
        The night to simulate.
    cutouts : int
        How many.
    in_tarball : int
        Streaks in a tarball.

    Returns
    -------
    Path
        The table of labels, with a row for each cutout.
    """
    products = folder / str(night.night)
    products.mkdir(parents=True, exist_ok=True)
    made = [night.cutout(number) for number in range(cutouts)]
    truth = pd.DataFrame(simulated_columns(night, range(cutouts), made))
    pictures = [cutout.picture for cutout, _ in made]
    for first in range(0, cutouts, in_tarball):
        rows = range(first, min(first + in_tarball, cutouts))
        streaks = [{**dict(truth.iloc[row]), "number": row} for row in rows]
        stem = f"ztf_{night.night}{first // in_tarball:06d}"
        table = write_table(streaks)
        (products / f"{stem}{TABLE}").write_text(table)
        (products / f"{stem}{TARBALL}").write_bytes(
            write_tarball(streaks, [pictures[row] for row in rows])
        )
    path = folder / f"{night.night}.csv"
    truth.drop(columns="source").to_csv(path, index=False)
    return path


def write_tarball(streaks: list[dict[str, Any]], pictures: list[Image.Image]) -> bytes:
    """Make a tarball: of each streak its cutout and its ADES file.

    Parameters
    ----------
    streaks : list of dict
        Columns of each.
    pictures : list of PIL.Image.Image
        Their cutouts.

    Returns
    -------
    bytes
        Gzipped tar.
    """
    packed = io.BytesIO()
    # gzip's header would hold the time: equal seeds give equal files
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for streak, picture in zip(streaks, pictures, strict=True):
            jpeg = io.BytesIO()
            picture.convert("L").save(jpeg, "JPEG", quality=92)
            for end, data in (("_scimref.jpg", jpeg.getvalue()), (ADES, write_ades(streak))):
                member = tarfile.TarInfo(f"{streak['id']}{end}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def write_table(streaks: list[dict[str, Any]]) -> str:
    """Make a table of streaks: two lines of header, a row each, one line of footer."""
    numbers = {letter: fid for fid, letter in FILTER_NAMES.items()}
    lines = [" | ".join(STREAK_COLUMNS), "-+-".join("-" * len(name) for name in STREAK_COLUMNS)]
    for streak in streaks:
        start, end = _exposure(streak)
        streakid, pid = str(streak["id"]).removeprefix("strkid").split("_pid")
        known = {
            "jd": repr(float(start.jd)),
            "fid": numbers[streak["filter"]],
            "pid": pid,
            "pdiffimfilename": f"ztf_{pid}_scimrefdiffimg.fits",
            "programid": 1,
            "streakid": streakid,
            "strid": streak["number"],
            "startmjd": repr(float(start.mjd)),
            "endmjd": repr(float(end.mjd)),
            "apsnr": _spelt(streak["snr"]),
            **{name: _spelt(streak[name]) for name in ("ra1", "dec1", "ra2", "dec2")},
            **{name: _spelt(streak[name]) for name in ("flux", "length", "sigma")},
        }
        lines.append(" | ".join(str(known.get(name, "")) for name in STREAK_COLUMNS))
    return "\n".join([*lines, f"({len(streaks)} rows)", ""])


def write_ades(streak: Mapping[str, Any]) -> bytes:
    """Make a streak's ADES file: an optical observation of each end.

    What has no length (a cosmic ray, say) gets one, where it was seen.

    Parameters
    ----------
    streak : mapping
        Its columns.

    Returns
    -------
    bytes
        XML.
    """
    root = Element("ades", version="2017")
    block = SubElement(root, "obsBlock")
    context = SubElement(block, "obsContext")
    SubElement(SubElement(context, "observatory"), "mpcCode").text = _STATION_NAME
    SubElement(SubElement(context, "submitter"), "name").text = "deepstreaks_dask simulation"
    SubElement(SubElement(context, "telescope"), "design").text = "Schmidt"
    data = SubElement(block, "obsData")
    times = _exposure(streak)
    for end, time in zip("12", times, strict=True):
        optical = SubElement(data, "optical")
        for name, value in {
            "trkSub": f"s{streak['number']:06d}",
            "mode": "CCD",
            "stn": _STATION_NAME,
            "obsTime": f"{time.isot}Z",
            "ra": f"{streak['ra' + end]:.7f}",
            "dec": f"{streak['dec' + end]:.7f}",
            "astCat": "Gaia1",
            "mag": f"{streak['mag']:.2f}" if np.isfinite(streak["mag"]) else None,
            "band": streak["filter"],
            "exp": f"{EXPOSURE_TIME:.0f}",
        }.items():
            if value is not None:
                SubElement(optical, name).text = value
    indent(root)
    return bytes(tostring(root, encoding="utf-8", xml_declaration=True))


def _exposure(streak: Mapping[str, Any]) -> tuple[Time, Time]:
    middle = Time(streak["jd"], format="jd", scale="utc")
    half = TimeDelta(EXPOSURE_TIME / 2, format="sec")
    return middle - half, middle + half


def _spelt(value: float) -> str:
    return repr(float(value)) if np.isfinite(value) else ""
