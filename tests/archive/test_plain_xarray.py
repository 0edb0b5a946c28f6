"""What is opened is lazy, can be written as netCDF, and is read by plain xarray without this package."""

import json
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from deepstreaks_dask.archive import store
from deepstreaks_dask.archive.append import CutoutBatch, append_batches
from deepstreaks_dask.archive.attributes import encode_attributes, provenance_of
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.schema import EPOCHS, Column
from deepstreaks_dask.archive.store import record_runs
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import Run, open_run

STORED = Path(__file__).parents[1] / "fixtures" / "v0_1_0" / "stored.tar"
MODELS = ["rb_vgg6", "sl_vgg6", "kd_vgg6"]
MEMBERS = [
    {"name": name, "version": "1", "sha256": "aa", "family": name[:2], "threshold": 0.5}
    for name in MODELS
]
HUGE = 10**10
"""Rows that a survey of decades has."""


def append_cutouts(url, first, count):
    rng = np.random.default_rng(first)
    jd = 2461041.5 + np.arange(first, first + count)
    jd[::7] = np.nan
    columns = {
        "id": np.array([f"c{k}" for k in range(first, first + count)], object),
        "jd": jd,
        "kind": np.array(["nea", "", "größer"] * count, object)[:count],
        "label_rb": rng.integers(-1, 2, count).astype(np.int8),
    }
    append_batches(url, [CutoutBatch(rng.integers(0, 256, (count, 8, 8), dtype=np.uint8), columns)])


@pytest.fixture
def url(tmp_path):
    """An archive of 150 cutouts with a run that has scored 128 of them, of which one shard's scores are torn."""
    where = str(tmp_path / "a.zarr")
    create_archive(where, shard=64, shape=(8, 8))
    append_cutouts(where, 0, 150)
    run = Run.create(where, "default", MEMBERS, 150, 64, triage=None, zoo="none", flips=False)
    run.scores[:128] = np.random.default_rng(2).random((128, 3), np.float32)
    run.touch([])
    return where


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    with tarfile.open(STORED) as tar:
        tar.extractall(folder, filter="data")
    return folder


def test_all_that_has_rows_is_a_dask_array_and_equal_to_what_is_read_at_once(url):
    (Path(url) / "runs/default/scores/c/1/0").write_bytes(b"torn")
    lazy, read = open_run(url, cutouts=True), open_run(url, cutouts=True, cache=True)
    for name, variable in lazy.variables.items():
        assert isinstance(variable.data, da.Array) == ("cutout" in variable.dims), name
    xr.testing.assert_identical(lazy.compute(), read.compute())
    scores = read["scores"].values
    assert np.isnan(scores[64:]).all()
    assert np.isfinite(scores[:64]).all()


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A run of 200 rows, where the archive has 230."""
    where = str(tmp_path_factory.mktemp("grown") / "a.zarr")
    run = Run.create(where, "r", MEMBERS, 200, 64, triage=None)
    run.scores[:] = np.arange(600, dtype=np.float32).reshape(200, 3)
    return run


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_rows_of_a_run_are_sliced_as_arrays_are(data, grown):
    rows, expected = grown.rows("scores", 230), grown.read("scores", 230)
    number = st.integers(-229, 229)
    key = data.draw(
        st.one_of(
            number,
            st.lists(number, min_size=1, max_size=5),
            st.builds(slice, number, number, st.sampled_from([1, 2, 7, -1, -3])),
        )
    )
    np.testing.assert_array_equal(rows[key].compute(), expected[key])
    np.testing.assert_array_equal(rows[key, ..., 1].compute(), expected[key, ..., 1])


def enlarge(file):
    """Claim many rows in the metadata of an archive or of an array."""
    said = json.loads(file.read_text())
    every = said.get("consolidated_metadata", {}).get("metadata", {"": said})
    for one in every.values():
        if one.get("dimension_names", [""])[0] in ("cutout", "object", "epoch"):
            one["shape"][0] = HUGE
    file.write_text(json.dumps(said))


@pytest.mark.parametrize("epochs", [None, EPOCHS], ids=["cutouts", "sequences"])
def test_ten_billion_rows_are_not_read_to_open_an_archive(tmp_path, monkeypatch, epochs):
    where = str(tmp_path / "a.zarr")
    create_archive(where, shape=(144, 144), epochs=epochs)
    Run.create(where, "default", MEMBERS, 0, 1024, classes=["a", "b"] if epochs else ())
    for file in (tmp_path / "a.zarr/zarr.json", tmp_path / "a.zarr/runs/default/scores/zarr.json"):
        enlarge(file)

    def read(*_):
        raise AssertionError("an array was read")

    # as if the store had them: what it has not may not be declared
    monkeypatch.setattr(store, "count_objects", lambda url, name: HUGE)
    monkeypatch.setattr(zarr.Array, "__getitem__", read)
    monkeypatch.setattr(zarr.core.array.AsyncArray, "getitem", read)
    assert open_archive(where)["id"].size == HUGE
    tracemalloc.start()  # which takes ten times as long
    try:
        scores = open_run(where)  # opens the archive, too
        assert scores["scores"].shape[0] == HUGE
        if epochs is None:
            assert Decision().apply(scores)["plausible"].size == HUGE
        assert tracemalloc.get_traced_memory()[1] < 2**28
        tracemalloc.reset_peak()
        assert open_archive(where, cache=True)["id"].size == HUGE
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()


def test_times_are_those_of_the_julian_dates(url):
    dataset = open_archive(url)
    times, jd = dataset["time"].values, dataset["jd"].values
    assert times.dtype == "datetime64[ns]"
    assert (np.isnat(times) == np.isnan(jd)).all()
    assert np.isnat(times).any()
    assert times[1] == np.datetime64("2026-01-02T00:00:00")
    assert dataset["time"].attrs["standard_name"] == "time"


@pytest.mark.parametrize("jd", [0.0, 1e300, -np.inf, np.inf, -2461041.5])
def test_times_that_cannot_be_are_not_known(tmp_path, jd):
    where = tmp_path / "a.zarr"
    create_archive(where, shard=64, shape=(8, 8))
    columns = {"id": np.array(["a"], object), "jd": np.array([jd])}
    append_batches(where, [CutoutBatch(np.ones((1, 8, 8), np.uint8), columns)])
    assert np.isnat(open_archive(where)["time"].values).all()


def test_a_time_of_ones_own_is_kept(tmp_path):
    where = tmp_path / "a.zarr"
    columns = {"time": Column("float32", np.nan, "s", "time since the trigger")}
    create_archive(where, shard=64, shape=(8, 8), columns=columns)
    assert open_archive(where)["time"].dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(
    values=st.dictionaries(
        st.text("abc", min_size=1),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=12,
        ),
    )
)
def test_attributes_are_what_netcdf_can_hold_and_come_back(values):
    encoded = encode_attributes(values)
    assert all(type(value) in (str, int, float) for value in encoded.values())
    assert provenance_of(xr.Dataset(attrs=encoded)) == values


@pytest.mark.parametrize("name", ["nights", "small", "objects"])
def test_what_is_opened_can_be_written_as_netcdf(stored, tmp_path, name):
    archive = str(stored / f"{name}.zarr")
    run = "whole" if name == "small" else "default"
    for opened in (
        open_archive(archive),
        open_run(archive, run),
        open_run(archive, run, cache=True),
    ):
        assert opened.attrs["Conventions"].startswith("CF-")
        opened.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as back:
            xr.testing.assert_identical(back.load(), opened.compute())
            assert provenance_of(back) == provenance_of(opened)


def test_a_decision_is_the_same_of_a_netcdf_file(stored, tmp_path):
    scores = open_run(str(stored / "small.zarr"), "triaged")
    scores.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as back:
        decision = Decision.of_run(back)
        assert decision == Decision.of_run(scores)
        expected = decision.apply(scores)["undecided"].values
        assert (decision.apply(back)["undecided"].values == expected).all()


def test_runs_are_groups_of_a_tree(url):
    with xr.open_datatree(url, engine="zarr") as tree:
        scores = tree["runs/default/scores"]
        assert scores["model"].values.tolist() == MODELS
        np.testing.assert_array_equal(scores.values, open_run(url)["scores"].values)
        assert tree["runs/default"].attrs["models"] == MODELS
    append_cutouts(url, 150, 10)  # which the run has not scored
    with xr.open_datatree(url, engine="zarr") as tree:
        np.testing.assert_array_equal(
            tree["runs/default/scores"].values, open_run(url)["scores"].values
        )
        assert tree.sizes["cutout"] == 160
    Run.create(url, "default-2", MEMBERS, 160, 64, triage=None)
    Run.create(url, "d", MEMBERS, 160, 64, triage=None)
    with xr.open_datatree(url, engine="zarr") as tree:
        assert list(tree["runs"].children) == ["d", "default", "default-2"]


def test_runs_of_old_archives_are_groups_of_a_tree(stored):
    for archive in stored.glob("*.zarr"):
        record_runs(archive)
        runs = sorted(path.parent.parent.name for path in archive.glob("runs/*/scores/zarr.json"))
        with xr.open_datatree(archive, engine="zarr") as tree:
            assert sorted(tree["runs"].children) == runs
            for run in runs:
                expected = open_run(archive, run)["scores"].values
                np.testing.assert_array_equal(tree[f"runs/{run}/scores"].values, expected)


def test_a_run_that_cannot_be_listed_is_made_all_the_same(url, monkeypatch):
    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr("deepstreaks_dask.archive.store.write_whole", refuse)
    run = Run.create(url, "other", MEMBERS, 150, 64, triage=None)
    run.tell(zoo="somewhere")
    assert open_run(url, "other").attrs["zoo"] == "somewhere"


SCRIPT = """
import importlib.abc, json, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "deepstreaks_dask":
            raise ImportError("not installed here")

sys.meta_path.insert(0, Refuse())
import xarray as xr

cutouts = xr.open_zarr(sys.argv[1])
tree = xr.open_datatree(sys.argv[1], engine="zarr")
run = xr.open_zarr(sys.argv[1], group="runs/default", consolidated=False)
print(json.dumps({
    "pixels": int(cutouts["cutouts"].astype("int64").sum()),
    "labels": cutouts["label_rb"].values.tolist(),
    "kinds": cutouts["kind"].values.tolist(),
    "scores": float(tree["runs/default/scores"].astype("float64").sum()),
    "model": run["model"].values.tolist(),
    "ours": [name for name in sys.modules if name.startswith("deepstreaks")],
}))
"""


def test_plain_xarray_reads_cutouts_labels_and_scores_without_this_package(url, tmp_path):
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error::UserWarning:zarr", "-c", SCRIPT, url],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    said, expected = json.loads(done.stdout), open_run(url, cutouts=True)
    assert said["pixels"] == int(expected["cutouts"].values.sum(dtype=int))
    assert said["labels"] == expected["label_rb"].values.tolist()
    assert said["kinds"] == expected["kind"].values.tolist()
    assert said["scores"] == pytest.approx(float(expected["scores"].astype(float).sum()))
    assert said["model"] == MODELS
    assert said["ours"] == []


def test_codecs_are_those_that_zarr_knows(url):
    """A name beside the specification's would need a plug-in."""
    known = {"bytes", "zstd", "blosc", "crc32c", "sharding_indexed", "vlen-utf8"}
    for file in Path(url).rglob("zarr.json"):
        said = json.loads(file.read_text())
        for codec in said.get("codecs", ()):
            inner = codec.get("configuration", {}).get("codecs", ())
            assert {codec["name"], *(one["name"] for one in inner)} <= known, file


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(
        st.lists(st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0, np.nan]), min_size=4, max_size=4),
        min_size=1,
        max_size=12,
    ),
    block=st.integers(1, 5),
    decided=st.booleans(),
    limit=st.sampled_from([0.3, 0.5, 0.6]),
)
def test_a_decision_keeps_dask_arrays_and_is_the_same(scores, block, decided, limit):
    values = np.array(scores, np.float32)
    models = ["rb_a", "rb_b", "sl_a", "kd_a"]
    rejected = np.isnan(values).all(axis=1)
    attrs = encode_attributes({"decided": dict.fromkeys(models, limit) if decided else None})
    eager = xr.Dataset(
        {"scores": (("cutout", "model"), values), "rejected": ("cutout", rejected)},
        {"model": models},
        attrs,
    )
    decision = Decision({"rb": limit, "sl": limit, "kd": limit})
    expected = decision.apply(eager)
    for chunks in ({"cutout": block}, {"cutout": block, "model": 2}):
        found = decision.apply(eager.chunk(chunks))
        for name in ("family_pass", "plausible", "undecided"):
            assert isinstance(found[name].data, da.Array)
        xr.testing.assert_identical(found.compute(), expected)
    passes = values >= np.float32(limit)
    plausible = passes[:, :2].any(axis=1) & passes[:, 2] & passes[:, 3]
    assert (expected["plausible"].values == plausible).all()
