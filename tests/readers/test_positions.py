"""Cutouts out of whole images: at the right pixels, over the edge, past NaN, and never the whole image."""

import gzip
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from PIL import Image

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.store import quarantine
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.images import to_cutout
from deepstreaks_dask.readers.options import ReadOptions
from deepstreaks_dask.readers.positions import Positions
from deepstreaks_dask.readers.registry import get_reader
from deepstreaks_dask.readers.stretch import develop

HEIGHT, WIDTH = 700, 900


def image(seed=0):
    return np.random.default_rng(seed).normal(50, 4, (HEIGHT, WIDTH)).astype(np.float32)


def wcs(ra=150.0, dec=20.0):
    made = WCS(naxis=2)
    made.wcs.ctype = "RA---TAN-SIP", "DEC--TAN-SIP"
    made.wcs.crval, made.wcs.crpix = (ra, dec), (WIDTH / 2, HEIGHT / 2)
    made.wcs.cdelt = -1.01 / 3600, 1.01 / 3600
    return made


def header(**options):
    made = wcs(**options).to_header()
    made["DATE-OBS"], made["EXPTIME"], made["FILTER"] = "2024-03-01T10:00:00", 30.0, "ZTF_r"
    for key, value in {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-5, "B_0_2": -1e-5}.items():
        made[key] = value
    return made


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def table(folder, suffix=".csv", **columns):
    path = folder.parent / f"positions{suffix}"
    frame = pd.DataFrame(columns)
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix == ".parquet":
        frame.to_parquet(path)
    else:
        Table.from_pandas(frame).write(path, format="ascii.ecsv", overwrite=True)
    return path


def read(folder, path, **options):
    batches = list(Positions(**options).read(folder, ReadOptions(path)))
    columns = {
        name: np.concatenate([b.columns[name] for b in batches if name in b.columns])
        for name in dict.fromkeys(name for b in batches for name in b.columns)
    }
    cutouts = np.concatenate([b.cutouts for b in batches])
    return cutouts, columns, [q for b in batches for q in b.quarantined]


def expected(pixels):
    return to_cutout(Image.fromarray(develop(pixels)))


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".ecsv"])
def test_pixels_count_from_one_and_rows_carry_their_columns(folder, suffix):
    fits.PrimaryHDU(image(), header()).writeto(folder / "a.fits")
    path = table(
        folder, suffix, x=[301.0, 501.4], y=[201.0, 400.6], id=["p", "q"], mag=[18.5, 19.0]
    )
    cutouts, columns, refused = read(folder, path)
    assert not refused
    np.testing.assert_array_equal(cutouts[0], expected(image()[122:279, 222:379]))
    np.testing.assert_array_equal(cutouts[1], expected(image()[322:479, 422:579]))
    assert columns["id"].tolist() == ["p_a", "q_a"]
    assert columns["mag"].tolist() == [18.5, 19.0]
    assert columns["filter"].tolist() == ["r", "r"]
    assert columns["night"].tolist() == [20240301, 20240301]
    assert columns["source"][0].startswith("a.fits[0][223:379,123:279] linear")
    sky = WCS(header()).pixel_to_world(300, 200)
    assert columns["ra"][0] == pytest.approx(sky.ra.deg, abs=1e-7)
    assert columns["dec"][0] == pytest.approx(sky.dec.deg, abs=1e-7)


@pytest.mark.parametrize("form", [".fits", ".fits.gz", ".fits.fz"])
def test_sky_positions_are_found_through_the_distortion(folder, form):
    hdus = [fits.PrimaryHDU(image().round().astype("u2"), header())]
    if form == ".fits.fz":
        hdus = [fits.PrimaryHDU(), fits.CompImageHDU(image().round().astype("i2"), header())]
    fits.HDUList(hdus).writeto(folder / f"a{form}")
    at = WCS(header()).pixel_to_world([100, 850], [600, 90])
    cutouts, columns, refused = read(folder, table(folder, ra=at.ra.deg, dec=at.dec.deg))
    assert not refused
    np.testing.assert_array_equal(cutouts[0], expected(image().round()[522:679, 22:179]))
    assert columns["id"].tolist() == ["a_x101_y601", "a_x851_y91"]
    np.testing.assert_allclose(columns["ra"], at.ra.deg, atol=1e-9)
    assert columns["jd"][0] == pytest.approx(2460370.9168402776, abs=1e-8)


def test_over_the_edge_and_nan_are_flat_grey(folder):
    data = image()
    data[300:320] = np.nan
    fits.PrimaryHDU(data, header()).writeto(folder / "a.fits")
    path = table(folder, x=[1.0, 900.0, 450.0], y=[1.0, 350.0, 310.0], id=[*"abc"])
    batch = next(Positions().read(folder, ReadOptions(path)))
    corner, edge, gap = batch.native
    assert [picture.shape for picture in batch.native] == [(157, 157)] * 3
    outside = np.ones((157, 157), bool)
    outside[:79, 78:] = False  # the sky's top right
    assert np.unique(corner[outside]).size == 1
    assert np.unique(corner[~outside]).size > 100
    assert np.unique(edge[:, 79:]).size == 1
    rows = [np.unique(row).size for row in gap]
    assert sum(n == 1 for n in rows) == 20
    flat = [picture[-1, 0] for picture in (corner,)] + [gap[rows.index(1), 0]]
    assert all(abs(int(grey) - 204) <= 3 for grey in flat)


def test_positions_that_no_image_shows_are_named(folder):
    fits.PrimaryHDU(image(), header()).writeto(folder / "a.fits")
    ra, dec = [150.0, 150.5, 330.0, np.nan, 10.0], [20.0, 20.0, -20.0, 20.0, 95.0]
    cutouts, _, refused = read(folder, table(folder, ra=ra, dec=dec))
    assert len(cutouts) == 1
    assert [(q.source, q.reason) for q in refused] == [
        (f"positions.csv:{row}", "outside") for row in (2, 3, 4, 5)
    ]


def test_each_position_in_each_image_or_in_the_one_named(folder):
    for seed, name in enumerate("abc"):
        fits.PrimaryHDU(image(seed), header()).writeto(folder / f"{name}.fits")
    everywhere = table(folder, ra=[150.0], dec=[20.0], id=["p"])
    assert read(folder, everywhere)[1]["id"].tolist() == ["p_a", "p_b", "p_c"]
    named = table(
        folder,
        ra=[150.0, 150.01, 150.0],
        dec=[20.0] * 3,
        id=[*"pqr"],
        file=["b.fits", "b.fits", "c"],
    )
    _, columns, refused = read(folder, named)
    assert columns["id"].tolist() == ["p", "q", "r"]
    assert [s[:6] for s in columns["source"]] == ["b.fits", "b.fits", "c.fits"]
    assert not refused
    with pytest.raises(ReaderError, match="speaks of none"):
        read(folder, table(folder, ra=[150.0], dec=[20.0], file=["d.fits"]))


def test_many_positions_go_in_pieces(folder):
    fits.PrimaryHDU(image(), header()).writeto(folder / "a.fits")
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(20, 620, 2.0), [100.0, 200.0]))
    cutouts, columns, refused = read(folder, table(folder, x=x, y=y), side=16)
    assert len(cutouts) == 600
    assert not refused
    assert len(set(columns["id"])) == 600
    np.testing.assert_array_equal(cutouts[599], expected(image()[191:207, 609:625]))


def test_what_is_wrong_has_a_reason_and_stops_nothing(folder, tmp_path):
    fits.PrimaryHDU(image(), header()).writeto(folder / "a.fits")
    fits.PrimaryHDU(image()).writeto(folder / "bare.fits")
    fits.PrimaryHDU(np.zeros((700, 900)), header()).writeto(folder / "flat.fits")
    fits.PrimaryHDU(np.ones((3, 700, 900)), header()).writeto(folder / "cube.fits")
    whole = (folder / "a.fits").read_bytes()
    (folder / "cut.fits").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.fits.gz").write_bytes(gzip.compress(whole, 1)[:100000])
    (folder / "page.fits").write_text("<html>")
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    path = table(folder, ra=[150.0, 151.0], dec=[20.0, 20.0], night=[20240302, 0])
    done = append_batches(url, get_reader("positions").read(folder, ReadOptions(path)))
    assert (done.appended, done.quarantined) == (1, 7)
    assert open_archive(url)["night"].values.tolist() == [20240302]
    refused = quarantine(url).set_index("source")["reason"].to_dict()
    assert refused.pop("positions.csv:2") == "outside"
    assert {source.split("[")[0]: reason for source, reason in refused.items()} == {
        "bare.fits": "no coordinates",
        "cube.fits": "wrong shape",
        "cut.fits": "damaged",
        "cut.fits.gz": "damaged",
        "flat.fits": "blank",
        "page.fits": "not FITS",
    }


@pytest.mark.parametrize(
    ("columns", "words"),
    [({"ra": [1.0]}, "neither columns"), ({"x": ["a"], "y": [1]}, "not numeric")],
)
def test_tables_without_positions_are_refused(folder, columns, words):
    fits.PrimaryHDU(image(), header()).writeto(folder / "a.fits")
    with pytest.raises(ReaderError, match=words):
        read(folder, table(folder, **columns))
    with pytest.raises(ReaderError, match="--table"):
        next(Positions().read(folder))
    with pytest.raises(ReaderError, match="a side"):
        next(Positions(side=5).read(folder, ReadOptions(table(folder, x=[1], y=[1]))))


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_one_cutout_does_not_read_the_image(folder, dtype):
    large = np.random.default_rng(0).integers(0, 1000, (3080, 3072)).astype(dtype)
    fits.PrimaryHDU(large, header()).writeto(folder / "a.fits")
    path = table(folder, x=[1500.0], y=[1500.0])
    read(folder, path)  # imports and caches are not what is measured
    tracemalloc.start()
    cutouts, _, _ = read(folder, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(cutouts) == 1
    assert peak < large.nbytes / 5
