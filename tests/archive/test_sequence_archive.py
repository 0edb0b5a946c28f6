"""Archives of sequences: ragged, without padding, and as safe as those of single cutouts."""

import numpy as np
import pytest
import xarray as xr

from deepstreaks_dask.archive import append, layouts
from deepstreaks_dask.archive.append import CutoutBatch, append_batches
from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive, summary
from deepstreaks_dask.archive.schema import EPOCHS
from deepstreaks_dask.archive.store import quarantine
from deepstreaks_dask.archive.verification import verify
from deepstreaks_dask.errors import ArchiveError
from deepstreaks_dask.scoring.runs import Run, open_run

COUNTS = np.array([5, 40, 1, 70, 3, 20, 64, 9])


def sequences(counts=COUNTS, *, start=0, side=7):
    rng = np.random.default_rng((3, start))
    total = int(sum(counts))
    times = np.concatenate([np.sort(rng.uniform(58000, 59000, n)) for n in counts])
    return CutoutBatch(
        rng.normal(size=(total, side, side)).astype(np.float32),
        {
            "id": np.array([f"o{start + k}" for k in range(len(counts))], object),
            "kind": np.array(["sn", "agn"] * len(counts), object)[: len(counts)],
        },
        counts=np.asarray(counts),
        epochs={"mjd": times, "band": np.full(total, "g", object)},
    )


@pytest.fixture
def url(tmp_path, monkeypatch):
    """Made with shards of pixels so small that objects lie in several."""
    monkeypatch.setattr(layouts, "EPOCHS_PER_SHARD", 64)
    create_archive(tmp_path / "s.zarr", shard=64, shape=(7, 7), dtype="float32", epochs=EPOCHS)
    return tmp_path / "s.zarr"


def test_stamps_lie_one_after_the_other_and_nothing_is_padded(url):
    batches = [sequences(), sequences([8, 2], start=50)]
    result = append_batches(url, batches)
    assert (result.appended, result.total) == (10, 10)
    append_batches(url, [sequences([11], start=90)])
    dataset = open_archive(url)
    assert dataset["cutouts"].dims == ("epoch", "y", "x")
    assert dataset["cutouts"].shape == (COUNTS.sum() + 21, 7, 7)
    assert dataset["epochs"].values.tolist() == [*COUNTS, 8, 2, 11]
    for row, (offset, count) in enumerate(zip(dataset["offset"], dataset["epochs"], strict=True)):
        assert int(offset) == dataset["epochs"].values[:row].sum()
        assert (np.diff(dataset["mjd"].values[int(offset) : int(offset + count)]) > 0).all()
    np.testing.assert_array_equal(
        dataset["cutouts"].values[: COUNTS.sum()], batches[0].cutouts, strict=True
    )
    xr.testing.assert_equal(
        xr.open_zarr(url)["epochs"].load(), dataset["epochs"].drop_vars("time").load()
    )
    assert verify(url).ok
    counted = summary(url)
    assert (counted.cutouts, counted.objects) == (COUNTS.sum() + 21, 11)
    assert counted.kinds == {"sn": 6, "agn": 5}


def test_objects_are_skipped_or_refused_whole(url):
    append_batches(url, [sequences()])
    again = sequences()
    again.cutouts[0] += 1  # same name, other stamps
    more = sequences([6, 2], start=50)
    twin = sequences([6], start=50)
    twin.cutouts[:] = more.cutouts[:6]
    twin.columns["id"][0] = "twin"  # other name, same stamps
    result = append_batches(url, [again, more, twin])
    assert (result.appended, result.already_present) == (2, 7)
    assert result.reasons == {"duplicate": 2}
    dataset = open_archive(url)
    spans = np.stack([dataset["offset"], dataset["offset"] + dataset["epochs"]], axis=1)
    assert (spans[1:, 0] == spans[:-1, 1]).all()
    assert verify(url).ok


def test_what_is_no_sequence_is_quarantined(url):
    batch = sequences([4, 0, 4, 4, 4])
    batch.epochs["mjd"][5] = np.nan
    batch.epochs["mjd"][8:12] = batch.epochs["mjd"][8:12][::-1]
    result = append_batches(url, [batch])
    assert result.reasons == {"no epochs": 1, "no time": 1, "unsorted times": 1}
    assert quarantine(url)["source"].tolist() == ["o1", "o2", "o3"]
    dataset = open_archive(url)
    assert dataset["id"].values.tolist() == ["o0", "o4"]
    assert dataset["offset"].values.tolist() == [0, 4]
    np.testing.assert_array_equal(dataset["cutouts"].values[4:], batch.cutouts[12:])


def test_an_append_that_dies_leaves_nothing_behind(url, monkeypatch):
    append_batches(url, [sequences()])
    wanted = open_archive(url).load()

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(append, "commit", die)
        with pytest.raises(KeyboardInterrupt):
            append_batches(url, [sequences([30, 90], start=50)])
    xr.testing.assert_identical(open_archive(url).load(), wanted)
    append_batches(url, [sequences([2], start=70)])
    assert open_archive(url).sizes["epoch"] == COUNTS.sum() + 2
    assert verify(url).ok


def test_damage_is_found_where_an_object_goes_over_the_edge_of_a_shard(url):
    append_batches(url, [sequences()])
    one, two = (url / f"cutouts/c/{k}/0/0" for k in (0, 2))
    two.write_bytes(one.read_bytes())  # whole by its checksums, but not what was stored
    damaged = verify(url).damaged  # an object is named with the shard that it ends in
    assert [(d.key, d.first, d.last) for d in damaged] == [
        ("cutouts/c/2/0/0", 128, 192),
        ("cutouts/c/3/0/0", 192, 212),
    ]
    assert {d.why for d in damaged} == {"1 objects differ from their digests"}
    two.unlink()
    assert [d.key for d in verify(url).damaged] == ["cutouts/c/2/0/0"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: setattr(b, "counts", b.counts[:-1]), "counts 203 epochs, but has 212 cutouts"),
        (lambda b: setattr(b, "counts", None), "holds sequences of objects"),
        (lambda b: b.epochs.update(flux=b.epochs["mjd"]), "has not: ['flux']"),
        (lambda b: b.epochs.update(band=np.array(["g"], object)), "'band' has 1 values for 212"),
        (lambda b: setattr(b, "cutouts", b.cutouts[:, :5]), "holds float32 (n, 7, 7)"),
    ],
)
def test_a_wrong_batch_is_refused(url, change, words):
    batch = sequences()
    change(batch)
    with pytest.raises(ArchiveError) as error:
        append_batches(url, [batch])
    assert words in str(error.value)
    assert open_archive(url).sizes["object"] == 0


def test_mistakes_of_creating_are_named(tmp_path):
    with pytest.raises(ArchiveError, match="'mjd' along its epochs"):
        create_archive(tmp_path / "a", epochs={})
    with pytest.raises(ArchiveError, match="no native pictures"):
        create_archive(tmp_path / "a", epochs=EPOCHS, native=(9, 9))
    with pytest.raises(ArchiveError, match="cannot be named 'mjd'"):
        create_archive(tmp_path / "a", epochs=EPOCHS, columns={"mjd": EPOCHS["mjd"]})


def test_scores_of_objects_members_and_classes_are_a_run(url):
    append_batches(url, [sequences()])
    members = [{"name": name} for name in ("a_rcnn", "a_forest", "b_rcnn")]
    run = Run.create(str(url), "forest", members, len(COUNTS), 64, classes=["sn", "agn"])
    assert list(run.missing(8, 64)) == [(0, 8)]
    run.scores[:] = np.tile([0.25, 0.75], (len(COUNTS), 3, 1))
    assert not list(run.missing(8, 64))
    append_batches(url, [sequences([3], start=50)])
    scores = open_run(url, "forest")
    assert scores["scores"].dims == ("object", "member", "class")
    assert scores["scores"].dtype == np.float32
    assert scores["member"].values.tolist() == ["a_rcnn", "a_forest", "b_rcnn"]
    assert scores["class"].values.tolist() == provenance_of(scores)["classes"] == ["sn", "agn"]
    unseen = np.isnan(scores["scores"].values).all(axis=(1, 2))
    assert unseen.tolist() == [False] * 8 + [True]
    run.grow(9)
    assert list(run.missing(9, 64)) == [(0, 9)]
