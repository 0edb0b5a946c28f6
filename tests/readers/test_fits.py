"""FITS cutouts become what the networks know, at a stated stretch; whatever is wrong has a reason."""

import gzip
import io
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.time import Time
from astropy.visualization import ZScaleInterval
from astropy.wcs import WCS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.store import quarantine
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.fits import FitsFolder
from deepstreaks_dask.readers.fits_headers import observed, readable_cards, sky
from deepstreaks_dask.readers.images import to_cutout
from deepstreaks_dask.readers.options import ReadOptions
from deepstreaks_dask.readers.registry import get_reader, sniff
from deepstreaks_dask.readers.stretch import STRETCHES, develop

SIGMA = "linear(-2.5 sigma, +10 sigma)"


def noise(shape=(157, 157), seed=0, level=100.0, sigma=5.0):
    return np.random.default_rng(seed).normal(level, sigma, shape).astype(np.float32)


def header(ra=150.0, dec=20.0, shape=(157, 157), **cards):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval, wcs.wcs.crpix = (ra, dec), ((shape[1] + 1) / 2, (shape[0] + 1) / 2)
    wcs.wcs.cdelt = -1.01 / 3600, 1.01 / 3600
    made = wcs.to_header()
    made.update({key.replace("_", "-"): value for key, value in cards.items()})
    return made


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def read(folder, name="fits", **options):
    batches = list(get_reader(name).read(folder, ReadOptions(**options)))
    assert len(batches) == 1
    return batches[0]


def test_a_source_is_dark_on_light_grey_and_north_is_up():
    data = noise()
    data[150, 3] = 1000  # near the top left corner of the sky
    grey = develop(data)
    assert grey[157 - 1 - 150, 3] == 0
    assert 200 <= np.median(grey) <= 208  # 255 * 10 / 12.5
    level, sigma = 100.0, 5.0
    expected = 255 * (level + 10 * sigma - np.flipud(data)) / (12.5 * sigma)
    assert np.abs(grey - expected.clip(0, 255)).mean() < 3


def test_pixels_without_a_number_are_flat_and_change_nothing_else():
    data = noise()
    whole = develop(data)
    data[:20], data[20, 0], data[20, 1] = np.nan, np.inf, -np.inf
    grey = develop(data)
    masked = np.flipud(~np.isfinite(data))
    assert np.unique(grey[masked]).size == 1
    assert abs(int(grey[masked][0]) - 204) <= 2
    assert np.abs(grey[~masked].astype(int) - whole[~masked]).max() <= 8


def test_zscale_is_astropys():
    data = noise()
    low, high = ZScaleInterval().get_limits(data.astype(float))
    expected = np.rint(255 * (1 - ((data - low) / (high - low)).clip(0, 1)))
    assert np.abs(develop(data, "zscale") - np.flipud(expected)).max() <= 1


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz", ".fits.fz"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint16", "int32", ">f4"])
def test_every_packing_and_type_gives_the_same_cutout(folder, suffix, dtype):
    data = noise().round().astype(dtype)
    hdus = [fits.PrimaryHDU(data, header())]
    if suffix == ".fits.fz":
        quantize = {"quantize_level": 0, "compression_type": "GZIP_2"}
        lossless = {} if np.issubdtype(data.dtype, np.integer) else quantize
        hdus = [fits.PrimaryHDU(), fits.CompImageHDU(data, header(), **lossless)]
    fits.HDUList(hdus).writeto(folder / f"strkid1_pid2_scimref{suffix}")
    assert sniff(folder).name == "fits"
    assert sniff(next(folder.iterdir())).name == "fits"
    batch = read(folder)
    assert list(batch.columns["id"]) == ["strkid1_pid2"]
    expected = to_cutout(Image.fromarray(develop(noise().round())))
    np.testing.assert_array_equal(batch.cutouts[0], expected)
    assert batch.columns["source"][0].endswith(f"{suffix}[{len(hdus) - 1}] {SIGMA}")
    assert batch.columns["ra"][0] == pytest.approx(150, abs=1e-6)
    assert batch.columns["dec"][0] == pytest.approx(20, abs=1e-6)


def test_a_quantised_rice_image_is_nearly_the_same(folder):
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(noise())]).writeto(folder / "a.fits.fz")
    (found,) = read(folder).cutouts
    expected = to_cutout(Image.fromarray(develop(noise())))
    assert np.abs(found.astype(int) - expected).mean() < 3


def test_files_of_several_images_give_several_cutouts(folder):
    hdus = [fits.PrimaryHDU(header=fits.Header({"MJD-AVG": 60000.25, "FILTER": "ZTF_r"}))]
    for seed, name in enumerate(("A", "B", "MASK")):
        hdus.append(fits.ImageHDU(noise(seed=seed), header(ra=10 + seed), name=name))
    hdus[2].header["FILTER"] = "ZTF_g"
    hdus.append(fits.BinTableHDU.from_columns([fits.Column("n", "J", array=[1, 2])]))
    fits.HDUList(hdus).writeto(folder / "many.fits")
    batch = read(folder)
    assert list(batch.columns["id"]) == ["many[1]", "many[2]"]
    assert list(batch.columns["filter"]) == ["r", "g"]
    np.testing.assert_allclose(batch.columns["ra"], [10, 11], atol=1e-6)
    np.testing.assert_allclose(batch.columns["jd"], 2460000.75)
    assert list(batch.columns["night"]) == [20230225, 20230225]
    assert not batch.quarantined


def test_the_archive_takes_them_and_a_table_wins(folder, tmp_path):
    fits.PrimaryHDU(
        noise(), header(DATE_OBS="2024-03-01T10:00:00", EXPTIME=30.0, FILTER="r")
    ).writeto(folder / "a.fits")
    fits.PrimaryHDU(noise(seed=1), header(FILTER="g")).writeto(folder / "b.fits")
    table = tmp_path / "t.csv"
    pd.DataFrame({"id": ["a"], "ra": [12.5], "filter": ["i"], "rb": [1]}).to_csv(table, index=False)
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64, native=(157, 157))
    append_batches(url, get_reader("fits").read(folder, ReadOptions(table)))
    found = open_archive(url).set_index(cutout="id").load()
    assert found["filter"].sel(cutout=["a", "b"]).values.tolist() == ["i", "g"]
    np.testing.assert_allclose(found["ra"].sel(cutout=["a", "b"]), [12.5, 150])
    assert found["label_rb"].sel(cutout=["a", "b"]).values.tolist() == [1, -1]
    middle = Time("2024-03-01T10:00:15", scale="utc").jd
    assert float(found["jd"].sel(cutout="a")) == pytest.approx(middle, abs=1e-8)
    assert np.isnan(found["jd"].sel(cutout="b"))
    assert found["night"].sel(cutout=["a", "b"]).values.tolist() == [20240301, 0]
    np.testing.assert_array_equal(found["native"].sel(cutout="a"), develop(noise()))


START = Time("2024-03-01T10:00:00", scale="utc").jd
MIDDLE = START + 15 / 86400


@pytest.mark.parametrize(
    ("cards", "jd"),
    [
        ({"DATE-OBS": "2024-03-01T10:00:00", "EXPTIME": 30}, MIDDLE),
        ({"DATE-OBS": "2024-03-01", "TIME-OBS": "10:00:00", "EXPOSURE": 30.0}, MIDDLE),
        ({"DATE-OBS": "2024-03-01", "UTC-OBS": "10:00:00.000", "XPOSURE": 30.0}, MIDDLE),
        ({"MJD-OBS": START - 2400000.5, "EXPTIME": 30}, MIDDLE),
        ({"OBSJD": START, "AEXPTIME": 30}, MIDDLE),
        ({"JD": START, "EXPTIME": 30}, MIDDLE),
        (
            {
                "SHUTOPEN": "2024-03-01T10:00:00",
                "SHUTCLSD": "2024-03-01T10:00:30",
                "OBSJD": 2460000,
            },
            MIDDLE,
        ),
        ({"MJD-BEG": START - 2400000.5, "MJD-END": MIDDLE * 2 - START - 2400000.5}, MIDDLE),
        (
            {"DATE-AVG": "2024-03-01T10:00:15", "DATE-OBS": "1999-01-01T00:00:00", "EXPTIME": 1},
            MIDDLE,
        ),
        ({"DATE-OBS": "2024-03-01T10:01:24.184", "TIMESYS": "TDB", "EXPTIME": 0}, MIDDLE),
        ({"DATE-OBS": "2024-03-01T10:00:00"}, None),
        ({"DATE-OBS": "01/03/24", "EXPTIME": 30}, None),
        ({"DATE-OBS": "2024-13-41T10:00:00", "EXPTIME": 30}, None),
        ({"MJD-OBS": 1e300, "EXPTIME": 30}, None),
        ({"MJD-OBS": START - 2400000.5, "EXPTIME": -30}, None),
        ({"MJD-OBS": True, "EXPTIME": "long"}, None),
    ],
)
def test_mid_exposure(cards, jd):
    found = observed(readable_cards(fits.Header(cards))).get("jd")
    assert found is None if jd is None else found == pytest.approx(jd, abs=1e-7)


@pytest.mark.parametrize(
    ("cards", "band"),
    [
        ({"FILTER": "ZTF_g"}, "g"),
        ({"FILTER": "R "}, "r"),
        ({"FILTER": "r.00000"}, "r"),
        ({"FILTER": "i DECam SDSS c0003 7835.0 1470.0"}, "i"),
        ({"FILTERID": 2}, "r"),
        ({"FILTER": "", "BAND": "VR"}, "VR"),
        ({}, None),
    ],
)
def test_filter(cards, band):
    assert observed(readable_cards(fits.Header(cards))).get("filter") == band


def test_coordinates_are_icrs_whatever_the_frame(folder):
    old = header(ra=83.0, dec=-5.0)
    old["RADESYS"], old["EQUINOX"] = "FK4", 1950.0
    fits.PrimaryHDU(noise(), old).writeto(folder / "a.fits")
    galactic = header(ra=0.0, dec=0.0)
    galactic["CTYPE1"], galactic["CTYPE2"] = "GLON-TAN", "GLAT-TAN"
    fits.PrimaryHDU(noise(seed=1), galactic).writeto(folder / "b.fits")
    columns = read(folder).columns
    # by hand: 50 years of precession, 46.124 + 20.043 sin(ra) tan(dec) arcsec a year in ra; the galactic centre
    np.testing.assert_allclose(columns["ra"], [83.6164, 266.4050], atol=1e-3)
    np.testing.assert_allclose(columns["dec"], [-4.9675, -28.9362], atol=1e-3)


def test_what_is_wrong_has_a_reason(folder, tmp_path):
    whole = io.BytesIO()
    fits.PrimaryHDU(noise(), header()).writeto(whole)
    whole = whole.getvalue()
    (folder / "cut.fits").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.fits").touch()
    (folder / "page.fits").write_text("<html>404</html>")
    (folder / "cut.fits.gz").write_bytes(gzip.compress(whole)[:5000])
    (folder / "junk.fits.gz").write_bytes(gzip.compress(b"junk"))
    (folder / "unzipped.fits.gz").write_bytes(b"\x1f\x8bjunk")
    fits.PrimaryHDU(np.full((157, 157), np.nan)).writeto(folder / "nothing.fits")
    fits.PrimaryHDU(np.ones((157, 157))).writeto(folder / "flat.fits")
    fits.PrimaryHDU(np.ones((3, 157, 157))).writeto(folder / "cube.fits")
    fits.PrimaryHDU(np.ones((8, 8))).writeto(folder / "dot.fits")
    fits.PrimaryHDU(noise((600, 600))).writeto(folder / "large.fits")
    fits.PrimaryHDU().writeto(folder / "bare.fits")
    fits.PrimaryHDU(noise()[None], header()).writeto(folder / "one-plane.fits")
    (tmp_path / "outside.fits").write_bytes(whole)
    (folder / "link.fits").symlink_to(tmp_path / "outside.fits")
    packed = fits.CompImageHDU(noise().astype("i2"), compression_type="HCOMPRESS_1")
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(folder / "hcompress.fits.fz")
    batch = read(folder, night=20240101)
    assert list(batch.columns["id"]) == ["hcompress", "one-plane"]
    assert {q.source: q.reason for q in batch.quarantined} == {
        "bare.fits": "not an image",
        "cube.fits[0]": "wrong shape",
        "cut.fits": "damaged",
        "cut.fits.gz": "damaged",
        "dot.fits[0]": "wrong shape",
        "empty.fits": "empty",
        "flat.fits[0]": "blank",
        "junk.fits.gz": "not FITS",
        "large.fits[0]": "wrong shape",
        "link.fits": "not FITS",
        "nothing.fits[0]": "blank",
        "page.fits": "not FITS",
        "unzipped.fits.gz": "damaged",
    }
    assert all(q.detail for q in batch.quarantined)
    assert {q.night for q in batch.quarantined} == {20240101}


def claim(**cards):
    """A file whose header claims what its data do not hold."""
    made = io.BytesIO()
    fits.PrimaryHDU(noise()).writeto(made)
    changed = made.getvalue()
    for key, value in cards.items():
        at = changed.index(f"{key:8}=".encode())
        changed = changed[:at] + f"{key:8}= {value:>20}".ljust(80).encode() + changed[at + 80 :]
    return changed


@pytest.mark.parametrize("claimed", [10**5, 2**31 - 1, 10**12])
@pytest.mark.parametrize("packed", [False, True])
def test_a_huge_image_is_refused_without_allocating_it(folder, claimed, packed):
    data = claim(NAXIS1=claimed, NAXIS2=claimed)
    (folder / "huge.fits.gz").write_bytes(gzip.compress(data)) if packed else (
        folder / "huge.fits"
    ).write_bytes(data)
    read(folder)  # imports and caches are not what is measured
    tracemalloc.start()
    batch = read(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [q.reason for q in batch.quarantined] == ["damaged"]
    assert peak < 20e6


def test_a_gzip_bomb_is_refused(folder, monkeypatch):
    monkeypatch.setattr("deepstreaks_dask.readers.fits_checks._MAX_UNPACKED_BYTES", 10**7)
    (folder / "bomb.fits.gz").write_bytes(gzip.compress(claim() + bytes(10**8)))
    (refused,) = read(folder).quarantined
    assert refused.reason == "wrong shape"
    assert "decompressed" in refused.detail


def test_a_tile_that_holds_more_than_its_pixels_is_refused(folder):
    packed = fits.CompImageHDU(
        np.arange(64 * 64, dtype="i4").reshape(64, 64),
        compression_type="GZIP_1",
        tile_shape=(64, 64),
    )
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(folder / "a.fits.fz")
    with fits.open(folder / "a.fits.fz", disable_image_compression=True) as hdus:
        table = fits.BinTableHDU.from_columns(
            [
                fits.Column(
                    "COMPRESSED_DATA",
                    "1PB()",
                    array=np.array([np.frombuffer(gzip.compress(bytes(10**7)), np.uint8)], object),
                )
            ]
        )
        for card in hdus[1].header.cards:
            if card.keyword.startswith("Z"):
                table.header[card.keyword] = card.value
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(folder / "b.fits.fz")
    batch = read(folder)
    assert list(batch.columns["id"]) == ["a"]
    assert ["holds more" in q.detail for q in batch.quarantined] == [True]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ZTILE1", 10**9),
        ("ZTILE1", 0),
        ("ZNAXIS2", 10**10),
        ("ZVAL1", 0),
        ("ZVAL2", 3),
        ("ZDITHER0", -5),
    ],
)
def test_hostile_settings_of_fpack_are_refused(folder, key, value):
    packed = fits.CompImageHDU(noise(), compression_type="RICE_1", quantize_method=1)
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(folder / "a.fits.fz")
    with fits.open(folder / "a.fits.fz", disable_image_compression=True, mode="update") as hdus:
        hdus[1].header[key] = value
    (refused,) = read(folder).quarantined
    assert refused.reason == "damaged"


def test_hostile_coordinates_are_no_coordinates():
    cards = readable_cards(header())
    assert sky(cards) is not None
    for wrong in (
        {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 10**6, "B_ORDER": 10**6},
        {"CTYPE1": "RA---XXX"},
        {"CDELT1": 0.0},
        {"CUNIT1": "furlong"},
        {"CTYPE1": ""},
    ):
        found = sky({**cards, **wrong})
        assert found is None, wrong


def test_processes_may_decode(folder):
    for k in range(3):
        fits.PrimaryHDU(noise(seed=k), header()).writeto(folder / f"{k}.fits")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        batch = read(folder, executor=executor)
    np.testing.assert_array_equal(batch.cutouts, read(folder).cutouts)


def test_a_stretch_is_chosen_by_name_and_recorded(folder):
    fits.PrimaryHDU(noise()).writeto(folder / "a.fits")
    for name in STRETCHES:
        (batch,) = FitsFolder(stretch=name).read(folder)
        assert batch.columns["source"][0] == f"a.fits[0] {name}"
    with pytest.raises(ReaderError, match="zscale"):
        next(FitsFolder(stretch="log").read(folder))


def seeds():
    """Small files of every packing, to be damaged."""
    made = {}
    small = noise((40, 40)).round()
    cards = header(shape=(40, 40), DATE_OBS="2024-03-01T10:00:00", EXPTIME=30.0, FILTER="r")
    for name, hdus in {
        "plain": [fits.PrimaryHDU(small, cards)],
        "int16": [fits.PrimaryHDU(small.astype("u2"), cards)],
        "several": [
            fits.PrimaryHDU(),
            fits.ImageHDU(small, cards),
            fits.ImageHDU(small + 1, cards),
        ],
        "rice": [fits.PrimaryHDU(), fits.CompImageHDU(small, cards, quantize_method=1)],
        "rice16": [fits.PrimaryHDU(), fits.CompImageHDU(small.astype("i2"), cards)],
        "gzip1": [
            fits.PrimaryHDU(),
            fits.CompImageHDU(small.astype("i4"), cards, compression_type="GZIP_1"),
        ],
        "gzip2": [
            fits.PrimaryHDU(),
            fits.CompImageHDU(small, cards, compression_type="GZIP_2", quantize_level=0),
        ],
    }.items():
        file = io.BytesIO()
        fits.HDUList(hdus).writeto(file)
        made[name] = file.getvalue()
    return made


SEEDS = seeds()
HOSTILE = [
    "0", "-1", "1", "2", "3", "999", "2147483647", "-2147483648", "9223372036854775807", "1E300",
    "NaN", "'", "'X'", "T", "", "'RA---TAN-SIP'", "'RICE_1'", "'PLIO_1'", "'1PB(999999999)'", "8",
]  # fmt: skip


@st.composite
def damaged(draw):
    """A FITS file with cards replaced, bytes changed, removed or put in; maybe gzipped."""
    data = bytearray(SEEDS[draw(st.sampled_from(sorted(SEEDS)))])
    # most damage goes past the first header, or little else would ever be reached
    first = draw(st.sampled_from([0, 240, 2880, 2880, 2880, 5760]))
    for _ in range(draw(st.integers(0, 3))):
        at = first + 80 * draw(st.integers(0, (len(data) - first) // 80 - 1))
        key = bytes(data[at : at + 8])
        value = draw(st.sampled_from(HOSTILE))
        if key.strip().replace(b"-", b"").isalnum():
            data[at : at + 80] = (key + b"= " + value.rjust(20).encode()).ljust(80)[:80]
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(first, len(data) - 1))] = draw(st.integers(0, 255))
    match draw(st.sampled_from(["", "", "", "", "cut", "insert", "grow"])):
        case "cut":
            del data[draw(st.integers(first, len(data))) :]
        case "insert":
            at = draw(st.integers(first, len(data)))
            data[at:at] = draw(st.binary(max_size=100))
        case "grow":
            data += draw(st.binary(max_size=3000))
    return gzip.compress(bytes(data), 1) if draw(st.booleans()) else bytes(data)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=damaged())
def test_damaged_files_end_as_cutouts_or_with_a_reason(data, folder):
    (folder / "damaged.fits").write_bytes(data)
    batch = read(folder)
    assert len(batch.cutouts) or batch.quarantined
    assert all(q.reason and q.detail for q in batch.quarantined)
    assert list(folder.iterdir()) == [folder / "damaged.fits"]


def test_a_folder_goes_on_past_what_is_wrong(folder, tmp_path):
    (folder / "a.fits").write_bytes(b"SIMPLE  =")
    fits.PrimaryHDU(noise()).writeto(folder / "b.fits")
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    done = append_batches(url, get_reader("fits").read(folder))
    assert (done.appended, done.quarantined) == (1, 1)
    assert quarantine(url)["source"].tolist() == ["a.fits"]
