"""A folder of pictures becomes cutouts as Pillow makes them; whatever is wrong is named and set aside."""

import io

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.store import quarantine
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.folder import Refused
from deepstreaks_dask.readers.images import decode_image, to_cutout
from deepstreaks_dask.readers.options import ReadOptions
from deepstreaks_dask.readers.registry import get_reader, sniff

NAMES = ["strkid123_pid45_scimref.jpg", "b.png", "c.jpeg"]


@pytest.fixture
def folder(tmp_path):
    night = tmp_path / "in" / "20260102"
    night.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for name in NAMES:
        Image.fromarray(rng.integers(0, 256, (157, 157), np.uint8)).save(night / name)
    return tmp_path / "in"


def read(folder, **options):
    batches = list(get_reader("images").read(folder, ReadOptions(**options)))
    assert len(batches) == 1
    return batches[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(16, 200), st.integers(16, 200), st.sampled_from(["L", "RGB", "RGBA", "P", "1"]))
def test_to_cutout_is_pillows_own(height, width, mode):
    pixels = np.random.default_rng((height, width)).integers(0, 256, (height, width, 3), np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    expected = picture.convert("L").resize((144, 144), Image.Resampling.BILINEAR)
    assert to_cutout(picture).tobytes() == expected.tobytes()
    assert to_cutout(picture).dtype == np.uint8


def test_a_folder_is_read_in_order(folder):
    assert sniff(folder).name == "images"
    batch = read(folder)
    assert list(batch.columns["id"]) == ["b", "c", "strkid123_pid45"]
    assert list(batch.columns["source"]) == [f"20260102/{n}" for n in sorted(NAMES)]
    assert set(batch.columns["night"]) == {20260102}
    for source, cutout in zip(batch.columns["source"], batch.cutouts, strict=True):
        with Image.open(folder / source) as picture:
            np.testing.assert_array_equal(cutout, to_cutout(picture))


def test_whatever_is_wrong_is_quarantined(folder):
    night = folder / "20260102"
    whole = (night / "b.png").read_bytes()
    (night / "cut.png").write_bytes(whole[: len(whole) // 2])
    (night / "empty.jpg").touch()
    (night / "page.jpg").write_text("<html>404</html>")
    Image.new("L", (157, 20)).save(night / "strip.png")
    Image.new("L", (5, 5)).save(night / "dot.png")
    Image.new("L", (5000, 5000)).save(night / "bomb.png")
    outside = folder.parent / "outside.png"
    Image.new("L", (157, 157)).save(outside)
    (night / "link.png").symlink_to(outside)
    batch = read(folder)
    assert len(batch.cutouts) == 3
    reasons = {q.source.split("/")[1]: q.reason for q in batch.quarantined}
    assert reasons == {
        "cut.png": "damaged",
        "empty.jpg": "empty",
        "page.jpg": "not an image",
        "strip.png": "wrong shape",
        "dot.png": "wrong shape",
        "bomb.png": "wrong shape",
        "link.png": "not an image",
    }
    assert {q.night for q in batch.quarantined} == {20260102}


def test_the_same_picture_twice_is_stored_once(folder, tmp_path):
    whole = (folder / "20260102" / "b.png").read_bytes()
    (folder / "20260102" / "again.png").write_bytes(whole)
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    done = append_batches(url, get_reader("images").read(folder))
    assert (done.appended, done.reasons) == (3, {"duplicate": 1})


def test_a_link_within_the_folder_is_followed(folder):
    (folder / "link.png").symlink_to(folder / "20260102" / "b.png")
    assert "link" in read(folder).columns["id"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".ecsv"])
def test_tables_give_columns_and_labels(folder, tmp_path, suffix):
    frame = pd.DataFrame(
        {
            "file": ["20260102/b.png", "20260102/c.jpeg"],
            "night": [20260103, 20260104],
            "ra": [10.5, 11.5],
            "rb": [1, 0],
            "filter": ["r", "g"],
        }
    )
    path = tmp_path / f"table{suffix}"
    if suffix == ".csv":
        frame.to_csv(path)
    elif suffix == ".parquet":
        frame.to_parquet(path)
    else:
        Table.from_pandas(frame).write(path, format="ascii.ecsv")
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    append_batches(url, get_reader("images").read(folder, ReadOptions(path)))
    dataset = open_archive(url).set_index(cutout="id").load()
    assert float(dataset["ra"].sel(cutout="b")) == 10.5
    assert int(dataset["label_rb"].sel(cutout="c")) == 0
    assert int(dataset["label_rb"].sel(cutout="strkid123_pid45")) == -1
    assert dataset["filter"].sel(cutout="strkid123_pid45").item() == ""
    assert [int(n) for n in dataset["night"].sel(cutout=["b", "c", "strkid123_pid45"])] == [
        20260103,
        20260104,
        20260102,
    ]


def test_mistakes_are_named(folder, tmp_path):
    with pytest.raises(ReaderError, match="does not exist"):
        sniff(tmp_path / "nowhere")
    with pytest.raises(ReaderError, match="did you mean 'images'"):
        get_reader("image")
    (tmp_path / "void").mkdir()
    with pytest.raises(ReaderError, match="no files"):
        read(tmp_path / "void")
    table = tmp_path / "t.csv"
    for text, words in [
        ("x,y\n1,2\n", "neither a column"),
        ("id,ra\nb,east\n", "'ra' is not numeric"),
        ("id,rb\nb,7\n", "must hold 1, 0"),
    ]:
        table.write_text(text)
        with pytest.raises(ReaderError, match=words):
            read(folder, table=table)


MODES = [
    ("L", ".png"),
    ("LA", ".png"),
    ("1", ".png"),
    ("P", ".png"),
    ("RGB", ".png"),
    ("RGBA", ".png"),
    ("I;16", ".png"),
    ("L", ".jpg"),
    ("RGB", ".jpg"),
    ("CMYK", ".jpeg"),
]


@pytest.mark.parametrize(("mode", "suffix"), MODES)
def test_files_become_what_pillow_makes_of_them(tmp_path, mode, suffix):
    rng = np.random.default_rng(5)
    if mode == "I;16":
        picture = Image.fromarray(rng.integers(0, 2**16, (157, 131), np.uint16))
    else:
        picture = Image.fromarray(rng.integers(0, 256, (157, 131, 3), np.uint8)).convert(mode)
    assert picture.mode == mode
    file = tmp_path / "in" / f"x{suffix}"
    file.parent.mkdir()
    picture.save(file)
    batch = read(tmp_path / "in")
    with Image.open(file) as opened:
        # Pillow's own conversion clips 16 bits at 255
        scaled = np.rint(np.asarray(opened) / 257).astype(np.uint8) if mode == "I;16" else None
        grey = opened.convert("L") if scaled is None else Image.fromarray(scaled)
        expected = grey.resize((144, 144), Image.Resampling.BILINEAR)
    assert batch.cutouts[0].tobytes() == expected.tobytes()
    assert np.asarray(batch.native[0]).tobytes() == grey.tobytes()


def test_what_is_wrong_is_counted_in_the_archive_and_the_rest_is_there(folder, tmp_path):
    night = folder / "20260102"
    whole = (night / "c.jpeg").read_bytes()
    (night / "copy.jpeg").write_bytes(whole)
    (night / "cut.jpeg").write_bytes(whole[: len(whole) // 2])
    (night / "header.jpeg").write_bytes(whole[:20])
    (night / "empty.png").touch()
    (night / "notes.txt").write_text("seeing 2.1")
    Image.new("L", (157, 20)).save(night / "strip.png")
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    for appended, present in ((3, 0), (0, 3)):
        done = append_batches(url, get_reader("images").read(folder))
        assert (done.appended, done.already_present, done.quarantined) == (appended, present, 6)
        assert done.reasons == {
            "damaged": 2,
            "empty": 1,
            "not an image": 1,
            "wrong shape": 1,
            "duplicate": 1,
        }
    listed = quarantine(url)
    assert len(listed) == 6
    assert set(listed["night"]) == {20260102}
    details = dict(zip(listed["source"], listed["detail"], strict=True))
    assert "c" in details["20260102/copy.jpeg"]
    assert all(details.values())


def encoded(suffix):
    out = io.BytesIO()
    pixels = np.random.default_rng(2).integers(0, 256, (40, 40), np.uint8)
    Image.fromarray(pixels).save(out, suffix)
    return out.getvalue()


@settings(max_examples=300)
@given(st.sampled_from([encoded("PNG"), encoded("JPEG")]), st.data())
def test_no_mutated_file_gets_through_or_stops_a_night(whole, data):
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    found = decode_image(bytes(changed[: data.draw(st.integers(0, len(changed)))]))
    if isinstance(found, Refused):
        assert found.reason
        assert found.detail
    else:
        assert found.cutout.shape == (144, 144)
        assert found.cutout.dtype == np.uint8
