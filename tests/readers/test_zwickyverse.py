"""People's labels become labels of families; where they disagree, or are of nothing, it is said."""

import json

import numpy as np
import pytest
from PIL import Image

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.options import ReadOptions
from deepstreaks_dask.readers.registry import get_reader, sniff

RB, SL = "5b96af9c0354c9000b0aea36", "5b99b2c6aec3c500103a14de"


def picture(folder, streak):
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(streak).integers(0, 256, (157, 157), np.uint8)
    Image.fromarray(pixels).save(folder / f"strkid{streak}_pid1_scimref.jpg")


def name(streak):
    return f"strkid{streak}_pid1_scimref.jpg"


@pytest.fixture
def root(tmp_path):
    """Two projects; data set a is older than its newest labels, b has its labels beside it."""
    folder = tmp_path / "in"
    folder.mkdir()
    for streak in range(1, 6):
        picture(folder / "a", streak)
    for streak in (1, 6):
        picture(folder / "b", streak)
    rb = {"classes": ["bogus", "streak"], "datasets": ["a"]}
    sl = {"classes": ["long", "short"], "datasets": ["a", "b"], "name": "x"}
    (folder / f"{RB}.json").write_text(json.dumps(rb))
    (folder / "sl_2019.json").write_text(json.dumps(sl))
    (folder / "a" / "a.9.json").write_text(json.dumps({name(1): ["bogus"]}))
    (folder / "a" / "a.10.json").write_text(
        json.dumps({name(1): ["streak"], name(2): ["bogus"], name(3): []})
    )
    (folder / "b.1.json").write_text(json.dumps({name(1): ["short"], name(6): ["long"]}))
    return folder


def read(path, **options):
    batches = list(get_reader("zwickyverse").read(path, ReadOptions(**options)))
    refused = [(q.source, q.reason) for batch in batches for q in batch.quarantined]
    rows = {}
    for batch in batches:
        for row, identifier in enumerate(batch.columns["id"]):
            assert identifier not in rows
            rows[identifier] = {
                family: int(batch.columns.get(f"label_{family}", np.full(9999, -1))[row])
                for family in ("rb", "sl")
            }
    return rows, refused


def test_labels_go_to_their_families(root, tmp_path):
    assert sniff(root).name == "zwickyverse"
    assert get_reader("zwickyverse").count(root) == 4
    # a's labels speak of rb's classes only, which are none of sl's
    rows, refused = read(root)
    assert rows == {
        "strkid1_pid1": {"rb": 1, "sl": 1},
        "strkid2_pid1": {"rb": 0, "sl": -1},
        "strkid3_pid1": {"rb": -1, "sl": -1},
        "strkid6_pid1": {"rb": -1, "sl": 0},
    }
    assert {reason for _, reason in refused} == {"unknown class"}
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    assert append_batches(url, get_reader("zwickyverse").read(root)).appended == 4
    assert open_archive(url)["label_sl"].values.tolist() == [1, -1, -1, 0]


def test_one_project_is_read_alone(root):
    rows, refused = read(root / f"{RB}.json")
    assert not refused
    assert {key: labels["rb"] for key, labels in rows.items()} == {
        "strkid1_pid1": 1,
        "strkid2_pid1": 0,
        "strkid3_pid1": -1,
    }


def test_whatever_is_wrong_has_a_reason(root, tmp_path):
    (tmp_path / "outside.jpg").write_bytes((root / "a" / name(1)).read_bytes())
    (root / "a" / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    (root / "a" / "page.jpg").write_text("<html>")
    labels = {
        name(1): ["bogus", "streak"],
        name(2): "bogus",
        name(3): ["cat"],
        name(4): ["streak", "streak"],
        name(9): ["streak"],
        "../outside.jpg": ["streak"],
        "/etc/passwd": ["streak"],
        "link.jpg": ["streak"],
        "page.jpg": ["streak"],
        "a.10.json": ["streak"],
    }
    (root / "a" / "a.11.json").write_text(json.dumps(labels))
    (root / "c").mkdir()
    (root / "c.1.json").write_text("[" * 100_000)
    project = {"classes": ["bogus", "streak"], "datasets": ["a", "c", "../a", "gone"]}
    (root / f"{RB}.json").write_text(json.dumps(project))
    rows, refused = read(root / f"{RB}.json")
    assert rows == {"strkid1_pid1": {"rb": -1, "sl": -1}, "strkid4_pid1": {"rb": 1, "sl": -1}}
    assert dict(refused) == {
        name(1): "ambiguous label",
        f"a.11.json: {name(2)}": "damaged",
        f"a.11.json: {name(3)}": "unknown class",
        f"a.11.json: {name(9)}": "missing",
        "a.11.json: ../outside.jpg": "unsafe name",
        "a.11.json: /etc/passwd": "unsafe name",
        "a.11.json: a.10.json": "unsafe name",
        "a/link.jpg": "not an image",
        "a/page.jpg": "not an image",
        "c.1.json": "damaged",
        f"{RB}.json: ../a": "unsafe name",
        f"{RB}.json: gone": "missing",
    }


def test_mistakes_are_named(root, tmp_path):
    with pytest.raises(ReaderError, match="holds no Zwickyverse project"):
        read(tmp_path)
    with pytest.raises(ReaderError, match="no table"):
        read(root, table=tmp_path / "t.csv")
    (tmp_path / "rb.json").write_text(json.dumps({"classes": ["no", "yes"], "datasets": ["x"]}))
    with pytest.raises(ReaderError, match="no labelled picture"):
        read(tmp_path / "rb.json")
