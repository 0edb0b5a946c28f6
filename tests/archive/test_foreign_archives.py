"""An archive of a stranger's runs no code, takes no more memory than it has data, and is refused in one line."""

import json
import pickle
import shutil
from functools import partial

import numcodecs
import numpy as np
import pytest
import zarr.registry
from helpers import random_batch, write_run
from mutations import generators, mutate_json, nothing_executed, one_line_errors
from zarr.codecs import ZstdCodec

from deepstreaks_dask.archive import store
from deepstreaks_dask.archive.append import CutoutBatch, append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive, summary
from deepstreaks_dask.archive.opening import open_array
from deepstreaks_dask.archive.schema import COLUMN_TYPES, EPOCHS, Column
from deepstreaks_dask.archive.sequences import read_objects
from deepstreaks_dask.archive.store import quarantine, read_commit_record, record_runs
from deepstreaks_dask.archive.verification import verify
from deepstreaks_dask.errors import ArchiveError, DeepStreaksError
from deepstreaks_dask.evaluation import calibration
from deepstreaks_dask.scoring.runs import list_runs, open_run
from deepstreaks_dask.scoring.status import run_status
from deepstreaks_dask.scoring.worker import Unit, sample, score_unit

CANARY = []


class _Evil(numcodecs.abc.Codec):
    """A codec of Zarr 2 that shows that it was made."""

    codec_id = "evil"

    def __init__(self, **_):
        CANARY[0].write_text("made")

    def encode(self, buffer):
        return buffer

    def decode(self, buffer, out=None):
        return buffer


class _EvilV3(ZstdCodec):
    """The same of Zarr 3."""

    @classmethod
    def from_dict(cls, data):
        CANARY[0].write_text("made")
        return cls()


numcodecs.register_codec(_Evil)
zarr.registry.register_codec("evil", _EvilV3)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A small archive with a run."""
    url = tmp_path_factory.mktemp("sound") / "a.zarr"
    create_archive(url, shard=64, shape=(8, 8))
    columns = {"id": np.array([f"c{k}" for k in range(70)], object)}
    pixels = np.random.default_rng(1).integers(0, 256, (70, 8, 8), dtype=np.uint8)
    append_batches(url, [CutoutBatch(pixels, columns)])
    write_run(url, "default", ["rb_a", "sl_a"], np.full((70, 2), 0.5, np.float32))
    record_runs(url)
    return url


@pytest.fixture
def url(sound, tmp_path):
    """A copy of it, to be damaged."""
    shutil.copytree(sound, tmp_path / "a.zarr")
    CANARY[:] = [tmp_path / "canary"]
    with nothing_executed(tmp_path):
        yield tmp_path / "a.zarr"


def change(file, *changes):
    """Set values of a JSON file, each by its path; ``...`` removes one."""
    values = json.loads(file.read_text())
    for path, value in changes:
        here = values
        for part in path[:-1]:
            here = here[part]
        if value is ...:
            del here[path[-1]]
        else:
            here[path[-1]] = value
    file.write_text(json.dumps(values))


ARRAYS = "consolidated_metadata", "metadata"

EVIL_V2 = {
    "zarr_format": 2,
    "shape": [70],
    "chunks": [70],
    "dtype": "|O",
    "fill_value": None,
    "order": "C",
    "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}],
    "compressor": {"id": "evil"},
    "attributes": {"_ARRAY_DIMENSIONS": ["cutout"]},
}

SHARDED = ("cutouts", "codecs", 0, "configuration")

HOSTILE = {
    "an array of Zarr 2": ([(("id",), EVIL_V2)], "zarr_format"),
    "a group of Zarr 2": ([(("x",), {"zarr_format": 2, "node_type": "group"})], "zarr_format"),
    "an unknown codec": ([(("id", "codecs", 1), {"name": "evil"})], "codecs"),
    "a codec of numcodecs": ([(("id", "codecs", 1), {"name": "numcodecs.pickle", "configuration": {}})], "codecs"),
    "an unknown codec in a shard": ([((*SHARDED, "codecs", 1), {"name": "evil"})], "codecs"),
    "a codec of a shard's index": ([((*SHARDED, "index_codecs", 1), {"name": "evil"})], "codecs"),
    "shards in shards": ([((*SHARDED, "codecs", 0, "name"), "sharding_indexed")], "codecs"),
    "objects": ([(("id", "data_type"), "object")], "object"),
    "raw bytes": ([(("kind", "data_type"), "r2048")], "r2048"),
    "a data type with options": ([(("id", "data_type"), {"name": "struct", "configuration": {}})], "data_type"),
    "numbers as text": ([(("night", "codecs", 0, "name"), "vlen-utf8")], "codecs"),
    "no codec of values": ([(("night", "codecs", 0), ...)], "first codec"),
    "another grid": ([(("id", "chunk_grid", "name"), "rectilinear")], "chunk_grid"),
    "huge chunks": ([(("night", "chunk_grid", "configuration", "chunk_shape"), [10**12])], "more than"),
    "chunks of nothing": ([(("night", "chunk_grid", "configuration", "chunk_shape"), [0])], "chunk_shape"),
    "huge shards": ([
        (("cutouts", "shape"), [70, 10**6, 10**6]),
        (("cutouts", "chunk_grid", "configuration", "chunk_shape"), [64, 10**6, 10**6]),
        ((*SHARDED, "chunk_shape"), [64, 10**6, 10**6]),
    ], "more than"),
    "another order of keys": ([(("id", "chunk_key_encoding", "name"), "v2")], "chunk_key_encoding"),
    "a fill value of megabytes": ([(("id", "fill_value"), "x" * 10**6)], "fill_value"),
    "a fill value of another type": ([(("night", "fill_value"), "0x12")], "fill value"),
    "a fill value beyond its type": ([(("label_rb", "fill_value"), 1000)], "fill value"),
    "transformers": ([(("id", "storage_transformers"), [{"name": "evil"}])], "storage_transformers"),
    "a negative length": ([(("id", "shape"), [-1])], "shape"),
    "no length": ([(("id", "shape"), [])], "shape"),
    "one column longer than others": ([(("jd", "shape"), [71])], "rows"),
    "columns of another type": ([(("jd", "data_type"), "float32")], "jd"),
    "an array elsewhere": ([(("../b", ), EVIL_V2)], "no path"),
    "no ids": ([(("id",), ...)], "id"),
    "no pixels": ([(("cutouts",), ...)], "no pixels"),
    "no table of refused inputs": ([(("quarantine/reason",), ...)], "refused inputs"),
    "pixels along something else": ([(("cutouts", "dimension_names", 0), "z")], "along 'z'"),
    "an unknown field": ([(("id", "hook"), "os.system")], "hook"),
    "a run of Zarr 2": ([(("runs/default/scores",), EVIL_V2)], "zarr_format"),
}  # fmt: skip
"""What is set in the metadata of the commit record's arrays, and a word of the error."""


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_record_is_refused_before_anything_is_made_of_it(url, case):
    changes, word = HOSTILE[case]
    change(url / "zarr.json", *[((*ARRAYS, *path), value) for path, value in changes])
    for read in (open_archive, verify, summary, quarantine, list_runs, open_run, run_status):
        with pytest.raises(DeepStreaksError, match=word) as refused:
            read(url)
        assert "\n" not in str(refused.value)
    with pytest.raises(ArchiveError, match=word):
        append_batches(url, [random_batch(1)])
    assert read_objects(str(url), 0, 1).failures[0][2]
    with pytest.raises(ArchiveError, match=word):
        record_runs(url)


def test_a_pickle_is_not_loaded(url):
    """As a Zarr 2 array of objects would, with numcodecs before 0.16.6."""

    class Payload:
        def __reduce__(self):
            return (CANARY[0].write_text, ("loaded",))

    (url / "id" / "0").write_bytes(pickle.dumps([np.array([Payload()] * 70, object)]))
    change(url / "zarr.json", ((*ARRAYS, "id"), EVIL_V2 | {"compressor": None}))
    with pytest.raises(ArchiveError, match="zarr_format"):
        open_archive(url)["id"].load()


OWN = {
    "a codec": (("codecs", 0, "configuration", "codecs", 1), {"name": "evil"}),
    "huge chunks": (("chunk_grid", "configuration", "chunk_shape"), [10**12, 8, 8]),
    "another type": (("data_type",), "r2048"),
    "Zarr 2": (("zarr_format",), 2),
    "no array": (("node_type",), "group"),
}


@pytest.mark.parametrize("case", OWN)
def test_an_array_opened_by_itself_is_checked_too(url, case):
    """Workers, dashboards and appends do not open arrays by the commit record."""
    change(url / "cutouts" / "zarr.json", OWN[case])
    unit = Unit(str(url), "default", ((0, 64),), None, (), 64)
    for read in (
        partial(open_array, url, "cutouts"),
        partial(score_unit, unit),
        partial(sample, unit),
    ):
        with pytest.raises(ArchiveError, match="cutouts of"):
            read()
    with pytest.raises(ArchiveError, match="cutouts"):
        append_batches(url, [one_cutout()])
    assert open_archive(url)["cutouts"].shape == (70, 8, 8)  # by the record, which is sound


def one_cutout():
    return CutoutBatch(np.ones((1, 8, 8), np.uint8), {"id": np.array(["n"], object)})


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("jd", ("data_type",), "float32"),
        ("jd", ("dimension_names",), ["object"]),
        ("jd", ("chunk_grid", "configuration", "chunk_shape"), [64]),
        ("cutouts", ("fill_value",), 7),
    ],
)
def test_nothing_is_appended_to_an_array_that_is_not_the_committed_one(url, name, path, value):
    change(url / name / "zarr.json", (path, value))
    with pytest.raises(ArchiveError, match="not what its commit record says"):
        append_batches(url, [one_cutout()])


def test_rows_that_an_array_only_claims_are_not_cleared_away_one_by_one(url):
    for name in ("id", "cutouts", "quarantine/reason"):
        file = url / name / "zarr.json"
        change(file, (("shape", 0), 10**12))
    assert append_batches(url, [one_cutout()]).total == 71
    assert verify(url).ok
    assert open_array(url, "id").shape == (71,)


@pytest.mark.parametrize("rows", [2**20 + 1, 10**12, 2**53])
def test_rows_beyond_what_is_stored_are_refused(url, rows):
    metadata = json.loads((url / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    along = [k for k, v in metadata.items() if v.get("dimension_names", [""])[0] == "cutout"]
    change(url / "zarr.json", *[((*ARRAYS, name, "shape", 0), rows) for name in along])
    for read in (open_archive, verify, summary, open_run):
        with pytest.raises(ArchiveError, match=f"{rows:,} rows of 'id', but stores far fewer"):
            read(url)


def test_a_long_archive_with_lost_chunks_is_still_opened(url, monkeypatch):
    monkeypatch.setattr(store, "_ROWS_TAKEN_AS_SAID", 0)
    assert open_archive(url).sizes["cutout"] == 70
    shutil.rmtree(url / "cutouts" / "c" / "1")
    assert [one.key for one in verify(url).damaged] == ["cutouts/c/1/0/0"]


@pytest.mark.parametrize(
    ("attributes", "word"),
    [
        ({"members": "rb"}, "members"),
        ({"models": ["rb_a"]}, "models"),
        ({"members": ...}, "members"),
        ({"decided": {"rb_a": 7}}, "decided"),
        ({"triage": 5}, "triage"),
        ({"failures": [[0, "x", ""]]}, "failures"),
        ({"batch": 10**12}, "batch"),
        ({"classes": ["a"]}, "does not fit"),
        ({"flips": "yes"}, "flips"),
        ({"updated": ["x"]}, "updated"),
    ],
)
def test_a_hostile_run_is_refused(url, attributes, word):
    change(
        url / "runs" / "default" / "zarr.json",
        *[(("attributes", name), value) for name, value in attributes.items()],
    )
    with pytest.raises(DeepStreaksError, match=word) as refused:
        open_run(url)["scores"].load()
    assert "\n" not in str(refused.value)
    with pytest.raises(DeepStreaksError, match=word):
        run_status(url)


@pytest.mark.parametrize("case", ["a codec", "huge chunks", "another type", "Zarr 2"])
def test_scores_are_checked(url, case):
    value = {"huge chunks": [10**12, 2], "a codec": {"name": "evil"}}.get(case, OWN[case][1])
    path = ("codecs", 1) if case == "a codec" else OWN[case][0]
    change(url / "runs" / "default" / "scores" / "zarr.json", (path, value))
    with pytest.raises(ArchiveError, match="scores"):
        open_run(url)
    record_runs(url)  # a commit does not take it into the record, which could not be opened then
    assert "runs/default/scores" not in read_commit_record(url).metadata


def test_a_strange_name_is_no_run(url):
    shutil.copytree(url / "runs" / "default", url / "runs" / "a <b>")
    assert list_runs(url) == ["default"]


@pytest.mark.parametrize(
    "layout",
    [
        {"columns": {"extra": Column("datetime64[ns]", 0, "", "")}},
        {"columns": {"extra": Column("S5", b"", "", "")}},
        {"shape": (4000, 4000), "dtype": "float32"},
        {"native": (5000, 5000)},
        {"shard": 2**21, "shape": (8, 8)},
        {"shard": 2**20, "shape": (144, 144)},
    ],
)
def test_no_archive_is_made_that_could_not_be_opened(tmp_path, layout):
    with pytest.raises(ArchiveError, match=r"choose|give"):
        create_archive(tmp_path / "a.zarr", **layout)
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("kind", COLUMN_TYPES)
def test_columns_of_all_types_are_opened(tmp_path, kind):
    missing = {"string": "?", "bool": True}.get(kind, 1)
    create_archive(
        tmp_path / "a.zarr", shape=(8, 8), columns={"extra": Column(kind, missing, "", "")}
    )
    append_batches(tmp_path / "a.zarr", [one_cutout()])
    assert open_archive(tmp_path / "a.zarr")["extra"].values.tolist() == [missing]


def test_archives_of_sequences_are_opened(tmp_path):
    create_archive(tmp_path / "s.zarr", shape=(21, 21), dtype="float32", epochs=EPOCHS)
    assert open_archive(tmp_path / "s.zarr").sizes["object"] == 0


def test_mutated_records_are_read_or_refused(url):
    text = json.loads((url / "zarr.json").read_text())
    hostile = [EVIL_V2, {"name": "evil"}, {"name": "numcodecs.pickle"}, {"id": "pickle"}]
    for rng in generators(20):
        values = mutate_json(rng, text)
        if not rng.integers(3):
            consolidated = values.get("consolidated_metadata")
            metadata = consolidated.get("metadata") if isinstance(consolidated, dict) else None
            if isinstance(metadata, dict) and metadata:
                name = sorted(metadata)[rng.integers(len(metadata))]
                metadata[name] = hostile[rng.integers(len(hostile))]
        (url / "zarr.json").write_text(json.dumps(values))
        with one_line_errors():
            dataset = open_archive(url)
            dataset["id"].values, dataset["time"].values, dataset["cutouts"][:1].values
            open_run(url)["scores"].values  # noqa: B018


def test_mutated_runs_are_read_or_refused(url):
    files = [url / "runs" / "default" / name for name in ("zarr.json", "scores/zarr.json")]
    texts = [json.loads(file.read_text()) for file in files]
    for rng in generators(21):
        which = int(rng.integers(2))
        for k, (file, text) in enumerate(zip(files, texts, strict=True)):
            file.write_text(json.dumps(mutate_json(rng, text) if k == which else text))
        with one_line_errors():
            scores = open_run(url)
            scores["scores"].values  # noqa: B018
            assert calibration.stored(scores) is None
            run_status(url)
