"""Other detections of the same night where a streak's motion would bring it."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from helpers import random_batch, write_run

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.review.catalogue import EXPOSURE_TIME, Catalogue
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import open_run

JD, LENGTH, ANGLE = 2461041.8, 20.0, 70.0  # arcseconds in an exposure, degrees east of north
RATE = LENGTH / EXPOSURE_TIME


def detection(minutes, *, off=0.0, turned=0.0, start, night=20260101, known=True):
    """Where an object is after some minutes, or ``off`` arcseconds beside, its streak ``turned`` by degrees."""
    way = RATE * minutes * 60
    place = start.directional_offset_by(ANGLE * u.deg, way * u.arcsec)
    place = place.directional_offset_by((ANGLE + 90) * u.deg, off * u.arcsec)
    ends = [
        place.directional_offset_by((ANGLE + turned) * u.deg, sign * LENGTH / 2 * u.arcsec)
        for sign in (-1, 1)
    ]
    numbers = [JD + minutes / 1440, *(v for at in (place, *ends) for v in (at.ra.deg, at.dec.deg))]
    return [night, *(numbers if known else [np.nan] * 7)]


@pytest.fixture(params=[(359.999, 80.0), (10.0, 0.0), (200.0, -30.0)], ids=str)
def catalogue(request, tmp_path):
    start = SkyCoord(*request.param, unit="deg")
    rows = {
        "c0": detection(0, start=start),
        "c1 later": detection(10, start=start),
        "c2 earlier": detection(-20, start=start),
        "c3 a little beside": detection(2, off=40, start=start),
        "c4 beside": detection(10, off=400, start=start),
        "c5 across": detection(10, turned=80, start=start),
        "c6 the other way round": detection(15, turned=180, start=start),
        "c7 another night": detection(10, start=start, night=20260102),
        "c8 nowhere": detection(10, start=start, known=False),
        "c9 far off but early": detection(100, off=150, start=start),
    }
    names = ("night", "jd", "ra", "dec", "ra1", "dec1", "ra2", "dec2")
    table = np.array(list(rows.values()))
    columns = {name: table[:, k] for k, name in enumerate(names)}
    columns["night"] = columns["night"].astype(np.int32)
    batch = random_batch(len(rows), **columns)
    batch.columns["id"][:] = list(rows)
    url = tmp_path / "motion.zarr"
    create_archive(url, shard=64)
    append_batches(url, [batch])
    write_run(url, "default", ["rb_a", "sl_a", "kd_a"], np.ones((len(rows), 3), np.float32))
    return Catalogue(Decision().apply(open_run(url)), Decision())


def test_what_lies_along_the_motion_is_found(catalogue):
    found = catalogue.along(catalogue.find("c0")).set_index("id")
    assert list(found.index) == [
        "c3 a little beside",
        "c1 later",
        "c6 the other way round",
        "c2 earlier",
        "c9 far off but early",  # within 5 % of the way
    ]
    assert found["minutes"].tolist() == pytest.approx([2, 10, 15, -20, 100], abs=0.02)
    assert found.loc["c1 later", "arcsec"] < 1
    assert found.loc["c3 a little beside", "arcsec"] == pytest.approx(40, abs=1)


def test_the_motion_is_the_same_from_either_end(catalogue):
    assert "c0" in set(catalogue.along(catalogue.find("c1 later"))["id"])
    assert "c1 later" in set(catalogue.along(catalogue.find("c2 earlier"))["id"])


def test_a_streak_without_a_position_has_no_motion(catalogue):
    assert catalogue.along(catalogue.find("c8 nowhere")).empty
    assert catalogue.along(catalogue.find("c7 another night")).empty
