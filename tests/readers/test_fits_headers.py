"""Times, exposures and filters of headers as observatories write them; packed files and planes of cubes."""

import bz2
import lzma

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.readers.bands import band_name
from deepstreaks_dask.readers.fits_headers import observed, readable_cards
from deepstreaks_dask.readers.options import ReadOptions
from deepstreaks_dask.readers.registry import get_reader

START = Time("2019-01-05T12:33:01.5", scale="utc")
MIDDLE = START.jd + 15 / 86400
TIMES = {
    "DATE-OBS": {"DATE-OBS": "2019-01-05T12:33:01.5"},
    "a space": {"DATE-OBS": "2019-01-05 12:33:01.5"},
    "Z": {"DATE-OBS": "2019-01-05T12:33:01.5Z"},
    "UTC behind it": {"DATE-OBS": "2019-01-05 12:33:01.5 UTC"},
    "an offset": {"DATE-OBS": "2019-01-05T04:33:01.5-08:00"},
    "an offset to the east": {"DATE-OBS": "2019-01-05T14:33:01.500+0200"},
    "slashes": {"DATE-OBS": "2019/01/05", "UT": "12:33:01.5"},
    "UT": {"DATE-OBS": "2019-01-05", "UT": "12:33:01.5"},
    "UTSTART": {"DATE-OBS": "2019-01-05", "UTSTART": "12:33:01.50"},
    "UTC-OBS": {"DATE-OBS": "2019-01-05", "UTC-OBS": "12:33:01.5"},
    "TIME-OBS": {"DATE-OBS": "2019-01-05", "TIME-OBS": "12:33:01.5"},
    "UTC": {"DATE-OBS": "2019-01-05", "UTC": "12:33:01.5"},
    "UT with its date": {"DATE-OBS": "2019-01-05", "UT": "2019-01-05T12:33:01.5"},
    "MJD-OBS": {"MJD-OBS": START.mjd},
    "MJD_OBS": {"MJD_OBS": START.mjd},
    "MJD as text": {"MJD-OBS": f"{START.mjd:.8f}"},
    "a JD in MJD-OBS": {"MJD-OBS": START.jd},
    "JD": {"JD": START.jd},
    "JD-OBS": {"JD-OBS": START.jd},
    "JD_UTC, the middle": {"JD_UTC": MIDDLE},
    "JD_UTC, the start": {"JD_UTC": (START.jd, "JD at start of exposure")},
    "a middle by its comment": {"MJD-OBS": (MIDDLE - 2400000.5, "MJD of mid-exposure")},
    "TAI": {"DATE-OBS": START.tai.isot, "TIMESYS": "TAI"},
    "UTC by another name": {"DATE-OBS": START.isot, "TIMESYS": "UTC (NTP)"},
}
EXPOSURES = {
    "EXPTIME": {"EXPTIME": 30.0},
    "EXPOSURE": {"EXPOSURE": 30},
    "text": {"EXPTIME": "30.0"},
    "text with a unit": {"EXPTIME": "30 s"},
    "minutes": {"EXPOSURE": "0.5 min"},
    "behind one that is none": {"XPOSURE": "n/a", "EXPTIME": 30.0},
}


def header(cards):
    made = fits.Header()
    for key, value in cards.items():
        made[key] = value
    return readable_cards(made)


@pytest.mark.parametrize("cards", TIMES.values(), ids=TIMES)
def test_the_middle_of_the_exposure_is_found(cards):
    notes = []
    said = observed(header({**cards, "EXPTIME": 30.0}), notes)
    assert abs(said["jd"] - MIDDLE) < 2e-8
    assert said["night"] == 20190105
    assert said["exptime"] == 30
    assert notes == []


@pytest.mark.parametrize("cards", EXPOSURES.values(), ids=EXPOSURES)
def test_the_exposure_time_is_found(cards):
    notes = []
    said = observed(header({"MJD-OBS": START.mjd, **cards}), notes)
    assert said["exptime"] == 30
    assert abs(said["jd"] - MIDDLE) < 2e-8
    assert notes == []


def test_start_and_end_give_the_exposure_time():
    cards = {"DATE-BEG": START.isot, "DATE-END": (START + 30 / 86400).isot}
    assert observed(header(cards))["exptime"] == 30


WRONG = {
    "no date": ({"DATE-OBS": "yesterday", "EXPTIME": 3}, "time of the header not understood"),
    "no such day": ({"DATE-OBS": "2019-02-30T00:00:00", "EXPTIME": 3}, "time of the header"),
    "no time of day": ({"DATE-OBS": "2019-01-05", "EXPTIME": 3}, "time of the header"),
    "year 5": ({"MJD-OBS": -600000.0, "EXPTIME": 3}, "time of the header"),
    "no length": ({"MJD-OBS": START.mjd}, "no exposure time"),
    "length in words": ({"MJD-OBS": START.mjd, "EXPTIME": "long"}, "exposure time of the header"),
    "another time": ({"DATE-OBS": START.isot, "TIMESYS": "LOCAL", "EXPTIME": 3}, "time scale"),
    "a filter": ({"FILTER": "ND 4"}, "filter of the header not understood"),
}


@pytest.mark.parametrize(("cards", "words"), WRONG.values(), ids=WRONG)
def test_what_is_not_understood_is_said_and_not_made_up(cards, words):
    notes = []
    said = observed(header(cards), notes)
    assert "jd" not in said
    assert any(what.startswith(words) for what, _ in notes)
    key = next(iter(cards))
    assert any(f"{key} = " in detail for _, detail in notes)


BANDS = {
    "r": "r", "R": "r", "SDSS r": "r", "SDSS-r": "r", "sdssr": "r", "r_SDSS": "r", "Sloan r": "r", "r'": "r", "rp": "r",
    "ZTF R": "r", "ZTF_r": "r", "ztf_g": "g", "ZTF g": "g", "zr": "r", "2": "r", "1": "g", "r.00000": "r", "g.00000": "g",
    "r.MP9601": "r", "r DECam SDSS c0002 6415.0 1480.0": "r", "PS1 i": "i", "g band": "g", "Bessell R": "R",
    "Cousins I": "I", "Johnson V": "V", "V": "V", "Ks": "K", "clear": "clear", "  SDSS  g ": "g", "z": "z", "2MASS J": "J",
    "o": "o", "w": "w",
}  # fmt: skip


@pytest.mark.parametrize(("text", "band"), BANDS.items())
def test_filters_are_bands(text, band):
    assert band_name(text) == (band, True)


@pytest.mark.parametrize("text", ["ND 4.0", "Halpha 6563", "grism", "SDSS", "SDSS x", "4", ""])
def test_other_filters_stay_as_they_are(text):
    assert band_name(text) == (text, False)


def test_an_empty_place_of_a_wheel_is_no_filter():
    assert observed(header({"FILTER1": "open", "FILTER2": "SDSS g"}))["filter"] == "g"
    assert observed(header({"FILTER1": "open"}))["filter"] == "open"


def image(seed=0, shape=(60, 60)):
    data = np.random.default_rng(seed).normal(100, 5, shape).astype("f4")
    data[..., 30, 10:50] += 200
    return data


def read(folder, **options):
    batches = list(get_reader("fits").read(folder, ReadOptions(**options)))
    assert len(batches) == 1
    return batches[0]


def test_remarks_name_the_file(tmp_path):
    hdu = fits.PrimaryHDU(image())
    hdu.header["DATE-OBS"] = "noon"
    hdu.writeto(tmp_path / "x.fits")
    said = [(r.what, r.source) for r in read(tmp_path).remarks]
    assert ("time of the header not understood", read(tmp_path).columns["source"][0]) in said
    assert "no night known" in [what for what, _ in said]


def test_exposure_times_are_kept_in_archives_that_had_none(tmp_path):
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    for k, cards in enumerate([{}, {"EXPTIME": 30.0}]):
        folder = tmp_path / str(k)
        folder.mkdir()
        fits.PrimaryHDU(image(k), fits.Header(cards)).writeto(folder / f"x{k}.fits")
        append_batches(url, get_reader("fits").read(folder))
    rows = open_archive(url)
    np.testing.assert_array_equal(rows["exptime"].values, np.float32([np.nan, 30]))
    assert rows["exptime"].attrs["units"] == "s"


@pytest.mark.parametrize("kind", ["bz2", "xz", "hcompress"])
def test_packed_files_are_the_same_cutouts(tmp_path, kind):
    folder = tmp_path / "in"
    folder.mkdir()
    plain = tmp_path / "x.fits"
    data = np.rint(image() * 10).astype("i4")
    fits.PrimaryHDU(data).writeto(plain)
    if kind == "hcompress":
        packed = fits.CompImageHDU(data, compression_type="HCOMPRESS_1", tile_shape=(30, 60))
        fits.HDUList([fits.PrimaryHDU(), packed]).writeto(folder / "x.fits")
    else:
        pack = bz2.compress if kind == "bz2" else lzma.compress
        (folder / f"x.fits.{kind}").write_bytes(pack(plain.read_bytes()))
    found = read(folder)
    np.testing.assert_array_equal(found.cutouts, read(plain).cutouts)
    assert found.columns["id"].tolist() == ["x"]


def test_a_tile_that_claims_more_than_its_pixels_is_refused(tmp_path):
    packed = fits.CompImageHDU(
        image().astype("i4"), compression_type="HCOMPRESS_1", tile_shape=(60, 60)
    )
    file = tmp_path / "x.fits"
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(file)
    raw = bytearray(file.read_bytes())
    at = raw.index(b"\xdd\x99")
    raw[at + 2 : at + 6] = (2**20).to_bytes(4)
    file.write_bytes(raw)
    (refused,) = read(tmp_path).quarantined
    assert (refused.reason, "claims more" in refused.detail) == ("damaged", True)


@pytest.mark.parametrize("last", [False, True], ids=["first axis", "last axis"])
def test_a_plane_of_a_cube_is_named(tmp_path, last):
    cube = image(shape=(3, 60, 60)) + np.arange(3)[:, None, None]
    cube[1, 10:20, 10:20] += 300
    fits.PrimaryHDU(np.moveaxis(cube, 0, -1) if last else cube).writeto(tmp_path / "x.fits")
    (refused,) = read(tmp_path).quarantined
    assert "3 planes: name one with --plane" in refused.detail
    single = tmp_path / "single"
    single.mkdir()
    fits.PrimaryHDU(cube[1]).writeto(single / "x.fits")
    expected = read(single).cutouts
    (single / "x.fits").unlink()
    found = read(tmp_path, plane=2)
    np.testing.assert_array_equal(found.cutouts, expected)
    assert "[plane 2]" in found.columns["source"][0]
    (refused,) = read(tmp_path, plane=4).quarantined
    assert (refused.reason, refused.detail) == ("no such plane", "plane 4 of 3")


def test_faint_sources_of_fits_are_turned_round_where_asked(tmp_path):
    fits.PrimaryHDU(-image()).writeto(tmp_path / "x.fits")
    fits.PrimaryHDU(image()).writeto(tmp_path / "y.fits")
    dark = read(tmp_path / "x.fits", polarity="dark")
    np.testing.assert_array_equal(dark.cutouts, read(tmp_path / "y.fits").cutouts)
