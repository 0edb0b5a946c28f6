"""What becomes of pictures of every mode and bit depth, and of those with bright sources on a dark sky."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.folder import Refused
from deepstreaks_dask.readers.images import decode_image, to_cutout
from deepstreaks_dask.readers.ingestion import ingest
from deepstreaks_dask.readers.options import ReadOptions
from deepstreaks_dask.readers.polarity import agree, darkness
from deepstreaks_dask.readers.registry import get_reader
from deepstreaks_dask.readers.stretch import develop

REAL = sorted((Path(__file__).parents[3] / "shared" / "real_cutouts").glob("*.png"))


def drawn(seed=0, side=60):
    """A streak dark on light, as ZTF draws it."""
    pixels = np.random.default_rng(seed).normal(200, 20, (side, side))
    pixels[side // 2 - 1 : side // 2 + 2, 10 : side - 10] = 30
    return pixels.clip(0, 255).astype(np.uint8)


def file_of(picture, form="PNG", **options):
    made = io.BytesIO()
    picture.save(made, form, **options)
    return made.getvalue()


def notes(found):
    return [what for what, _ in found.remarks]


GREY = drawn()
RGB = np.repeat(GREY[:, :, None], 3, axis=2)
ALPHA = np.full_like(GREY, 255)
SAME = {
    "L": (Image.fromarray(GREY), []),
    "LA": (Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), []),
    "P": (Image.fromarray(GREY).convert("P"), []),
    "RGB": (Image.fromarray(RGB), []),
    "RGBA": (Image.fromarray(np.dstack([RGB, ALPHA])), []),
    "I;16": (Image.fromarray(GREY.astype(np.uint16) * 257), ["16 bits scaled to 8"]),
    "I;16 by 256": (Image.fromarray(GREY.astype(np.uint16) * 256), ["16 bits scaled to 8"]),
}


@pytest.mark.parametrize(("picture", "said"), SAME.values(), ids=SAME)
def test_a_png_of_any_mode_is_the_same_cutout(picture, said):
    found = decode_image(file_of(picture), "auto")
    difference = np.abs(found.cutout.astype(int) - to_cutout(Image.fromarray(GREY)))
    assert difference.max() <= 1
    assert notes(found) == said


TIFFS = {
    "L": (GREY, "8-bit", []),
    "I;16": (GREY.astype(np.uint16) * 257, "16-bit", ["16 bits scaled to 8"]),
    "I": (GREY.astype(np.int32) * 257, "32-bit", ["32 bits scaled to 8"]),
    "F": ((GREY / 255).astype(np.float32), "float", ["32 bits scaled to 8"]),
}


@pytest.mark.parametrize(("pixels", "_", "said"), TIFFS.values(), ids=TIFFS)
def test_a_tiff_of_any_depth_is_the_same_cutout(pixels, _, said):
    found = decode_image(file_of(Image.fromarray(pixels), "TIFF"), "auto")
    difference = np.abs(found.cutout.astype(int) - to_cutout(Image.fromarray(GREY)))
    assert difference.max() <= 1
    assert notes(found) == said


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_one_bit_is_black_and_white(form):
    ones = Image.fromarray(GREY > 100).convert("1")
    np.testing.assert_array_equal(
        decode_image(file_of(ones, form), "auto").cutout, to_cutout(ones.convert("L"))
    )


def test_a_jpeg_in_cmyk_is_the_same_but_for_its_losses():
    found = decode_image(file_of(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=98), "auto")
    assert np.abs(found.cutout.astype(int) - to_cutout(Image.fromarray(GREY))).mean() < 4


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_as_grey_as_the_sky(kind):
    alpha = ALPHA.copy()
    alpha[5:25, 5:25] = 0
    black = np.where(alpha > 0, GREY, 0).astype(np.uint8)
    if kind == "RGBA":
        data = file_of(Image.fromarray(np.dstack([black, black, black, alpha])))
    elif kind == "LA":
        data = file_of(Image.merge("LA", [Image.fromarray(black), Image.fromarray(alpha)]))
    else:
        palette = Image.fromarray(np.where(alpha > 0, np.maximum(GREY, 1), 0).astype(np.uint8))
        data = file_of(palette.convert("P"), transparency=0)
    found = decode_image(data, "auto")
    native = np.asarray(found.native)
    assert abs(int(native[10, 10]) - np.median(GREY)) <= 2
    assert np.array_equal(native[30:], np.maximum(GREY[30:], kind == "P"))
    assert notes(found) == ["transparent pixels painted as the sky"]


def test_a_picture_that_is_transparent_everywhere_is_refused():
    found = decode_image(file_of(Image.fromarray(np.dstack([RGB, ALPHA * 0]))), "auto")
    assert isinstance(found, Refused)
    assert found.reason == "blank"


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_measured_values_are_stretched_as_those_of_fits(dtype):
    counts = np.random.default_rng(1).normal(1000, 15, (60, 60))
    counts[29:32, 10:50] += 500
    counts = counts.astype(dtype)
    found = decode_image(file_of(Image.fromarray(counts), "TIFF"), "auto")
    np.testing.assert_array_equal(found.native, np.flipud(develop(counts)))
    assert "sigma" in found.where
    assert notes(found)[0].endswith("bits stretched to 8")
    assert darkness(found.native) > 0.5


def test_measured_values_with_faint_sources_are_stretched_the_other_way_round():
    counts = np.random.default_rng(1).normal(1000, 15, (60, 60))
    counts[29:32, 10:50] -= 500
    found = decode_image(file_of(Image.fromarray(counts.astype(np.uint16))), "auto")
    assert np.asarray(found.native)[30, 30] < 20
    assert "sources fainter than the sky" in notes(found)


def test_sixteen_bits_of_noise_within_a_level_are_not_flattened():
    counts = np.random.default_rng(1).normal(30000, 40, (60, 60)).astype(np.uint16)
    found = decode_image(file_of(Image.fromarray(counts)), "auto")
    assert np.asarray(found.native).std() > 10


def test_pixels_that_are_no_numbers_are_as_grey_as_the_sky():
    values = (GREY / 255).astype(np.float32)
    values[:5] = np.nan
    found = decode_image(file_of(Image.fromarray(values), "TIFF"), "auto")
    assert abs(int(np.asarray(found.native)[2, 2]) - np.median(GREY)) <= 3
    values[:] = np.nan
    assert decode_image(file_of(Image.fromarray(values), "TIFF"), "auto").reason == "blank"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_exifs_rotation_is_carried_out(form, orientation):
    picture = Image.fromarray(drawn(3)[:, :44])
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(picture, form, exif=exif, **({"quality": 95} if form == "JPEG" else {}))
    found = decode_image(data, "auto")
    with Image.open(io.BytesIO(data)) as opened:
        expected = ImageOps.exif_transpose(opened)
    np.testing.assert_array_equal(found.native, expected)
    assert notes(found) == (["turned as EXIF says"] if orientation > 1 else [])


def test_colours_are_said():
    colours = RGB.copy()
    colours[:, :, 2] = 20
    assert notes(decode_image(file_of(Image.fromarray(colours)), "auto")) == ["colours made grey"]


def test_a_tiff_of_several_pages_needs_to_be_told_which():
    first, second = Image.fromarray(GREY), Image.fromarray(drawn(7))
    data = file_of(first, "TIFF", save_all=True, append_images=[second])
    refused = decode_image(data, "auto")
    assert (refused.reason, "--plane" in refused.detail) == ("several pictures", True)
    np.testing.assert_array_equal(decode_image(data, "auto", plane=2).native, drawn(7))


def write(folder, pictures):
    folder.mkdir()
    for k, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"p{k}.png")
    return folder


def test_bright_sources_are_found_out_turned_round_and_said(tmp_path):
    dark = [drawn(k) for k in range(6)]
    folder = write(tmp_path / "20260101", [255 - pixels for pixels in dark])
    ingest(folder, tmp_path / "a.zarr")
    rows = open_archive(tmp_path / "a.zarr").load()
    expected = [to_cutout(Image.fromarray(pixels)) for pixels in dark]
    assert np.abs(rows["cutouts"].values.astype(int) - np.array(expected)).max() <= 1
    assert all(source.endswith(" inverted") for source in rows["source"].values)
    (batch,) = get_reader("images").read(folder)
    assert [r.what for r in batch.remarks] == ["bright sources, inverted"] * 6


@pytest.mark.parametrize(("polarity", "turned"), [("dark", False), ("bright", True)])
def test_polarity_can_be_given(tmp_path, polarity, turned):
    folder = write(tmp_path / "20260101", [drawn(1)])
    (batch,) = get_reader("images").read(folder, ReadOptions(polarity=polarity))
    np.testing.assert_array_equal(batch.native[0], 255 - drawn(1) if turned else drawn(1))


def test_one_that_is_not_like_the_others_is_said(tmp_path):
    pictures = [*(drawn(k) for k in range(5)), 255 - drawn(9)]
    (batch,) = get_reader("images").read(write(tmp_path / "20260101", pictures))
    assert [(r.what, r.source) for r in batch.remarks] == [
        ("looks bright on dark, not inverted", "p5.png")
    ]


def test_a_polarity_that_there_is_none_of_is_named():
    with pytest.raises(ReaderError, match="did you mean 'bright'"):
        ReadOptions(polarity="brigth")


@pytest.mark.skipif(not REAL, reason="the real cutouts are not here")
def test_real_cutouts_and_their_negatives_are_told_apart():
    pictures = [Image.open(file).convert("L") for file in REAL]
    assert agree([darkness(one) for one in pictures]) == ("dark", True)
    assert agree([darkness(ImageOps.invert(one)) for one in pictures]) == ("bright", True)
    assert all(darkness(one) > 0.25 for one in pictures)
