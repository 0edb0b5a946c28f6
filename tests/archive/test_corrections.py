"""Nights are withdrawn and restored, cutouts replaced and labels set, and everything that reads an archive follows."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import random_batch, write_run

from deepstreaks_dask.archive.append import CutoutBatch, Quarantined, append_batches
from deepstreaks_dask.archive.corrections import restore, retract, set_labels
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive, summary
from deepstreaks_dask.archive.retraction import stored_rows
from deepstreaks_dask.archive.store import quarantine
from deepstreaks_dask.archive.verification import verify
from deepstreaks_dask.errors import ArchiveError
from deepstreaks_dask.evaluation.decision_metrics import evaluate
from deepstreaks_dask.evaluation.interactive import Exploration
from deepstreaks_dask.export.candidates import candidate_table
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import Run, open_run
from deepstreaks_dask.scoring.status import run_status

FIRST, SECOND, THIRD = 20260101, 20260102, 20260103
MEMBERS = ["rb_vgg6", "sl_vgg6", "kd_vgg6"]


def batch(night, n, seed, *, start=0):
    """Return cutouts of one night, half of them labelled as streaks."""
    rng = np.random.default_rng(seed)
    names = np.array([f"{night}_{start + k}" for k in range(n)], object)
    label = (np.arange(n) % 2).astype(np.int8)
    columns = {"id": names, "night": np.full(n, night, np.int32), "source": names + ".jpg"}
    columns |= {f"label_{family}": label for family in ("rb", "sl", "kd")}
    return CutoutBatch(rng.integers(0, 256, (n, 144, 144), np.uint8), columns)


@pytest.fixture
def nights(tmp_path):
    """Three nights of 40, 64 and 30 cutouts in shards of 64, with a run whose scores are the numbers of the rows."""
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    append_batches(url, [batch(FIRST, 40, 1), batch(SECOND, 64, 2), batch(THIRD, 30, 3)])
    scores = np.repeat(np.arange(134, dtype=np.float32)[:, None] / 200, 3, axis=1)
    write_run(url, "default", MEMBERS, scores, flips=False)
    return url


def test_a_night_is_withdrawn_everywhere_and_comes_back(nights):
    before = open_archive(nights).load()
    done = retract(nights, SECOND)
    assert (done.rows, done.total, done.runs) == (64, 70, ())
    kept = np.r_[0:40, 104:134]
    for cache in (False, True):
        rows = open_archive(nights, cache=cache)
        assert rows["id"].values.tolist() == before["id"].values[kept].tolist()
        np.testing.assert_array_equal(rows["cutouts"].values, before["cutouts"].values[kept])
        assert stored_rows(rows).tolist() == kept.tolist()
        run = open_run(nights, cache=cache)
        np.testing.assert_array_equal(run["scores"].values[:, 0], (kept / 200).astype("f4"))
    assert summary(nights).retracted == 64
    assert set(summary(nights).nights) == {FIRST, THIRD}
    assert verify(nights).ok
    assert retract(nights, SECOND).rows == 0
    assert restore(nights, SECOND).rows == 64
    xr.testing.assert_identical(open_archive(nights).load().drop_attrs(), before.drop_attrs())


def test_evaluation_candidates_and_exploration_leave_a_withdrawn_night_out(nights):
    decision = Decision({}, 0.3)
    assert evaluate(open_run(nights), decision).cutouts == 134
    retract(nights, THIRD)
    measured = evaluate(open_run(nights), decision)
    assert (measured.cutouts, measured.decided, measured.plausible) == (104, 104, 44)
    assert sum(vars(measured.joint).values()) == 104
    scores = open_run(nights, cache=True)
    table = candidate_table(decision.apply(scores))
    assert set(table["night"]) == {SECOND}
    assert len(table) == (np.arange(104) / 200 >= 0.3).sum()
    retract(nights, FIRST)
    left = Exploration(open_run(nights, cache=True))
    assert left.stored_rows.tolist() == list(range(40, 104))


def test_a_campaign_has_nothing_left_to_do_for_withdrawn_rows(nights):
    append_batches(nights, [batch(20260104, 64, 4), batch(20260105, 20, 5)])
    stored = Run.open(nights, "default")
    assert stored.missing(218, 64).shards == ((128, 192), (192, 218))
    assert run_status(nights).done == 128
    retract(nights, 20260104)
    assert stored.missing(218, 64).shards == ((192, 218),)
    retract(nights, 20260105)
    assert stored.missing(218, 64).shards == ()
    done = run_status(nights)
    assert done.cutouts == 134


def test_scores_are_kept_as_history_or_removed(nights):
    retract(nights, SECOND)
    assert not np.isnan(Run.open(nights, "default").scores[40:104]).any()
    assert retract(nights, SECOND, remove_scores=True).runs == ("default",)
    left = Run.open(nights, "default").scores[:]
    assert np.isnan(left[40:104]).all()
    assert not np.isnan(left[np.r_[0:40, 104:134]]).any()
    assert retract(nights, SECOND, remove_scores=True).runs == ()


def test_a_withdrawn_night_may_come_again_with_other_pixels_only(nights):
    retract(nights, SECOND)
    same = append_batches(nights, [batch(SECOND, 64, 2)])
    assert (same.appended, same.reasons) == (0, {"withdrawn": 64})
    other = append_batches(nights, [batch(SECOND, 64, 22)])
    assert (other.appended, other.total) == (64, 134)
    assert open_run(nights)["scores"].isnull().all("model").values[70:].all()
    back = restore(nights, SECOND)
    assert (back.rows, back.kept_back, back.total) == (0, 64, 134)
    retract(nights, SECOND)
    assert append_batches(nights, [batch(SECOND, 64, 2)]).reasons == {"withdrawn": 64}
    assert restore(nights, SECOND).rows == 64
    ids = open_archive(nights)["id"].values
    assert len(ids) == len(set(ids)) == 134


def test_revised_pixels_replace_a_cutout_and_the_old_ones_are_kept(nights):
    old = open_archive(nights)["cutouts"][10].values
    revised = batch(FIRST, 1, 99, start=10)
    assert append_batches(nights, [revised]).reasons == {"duplicate": 1}
    done = append_batches(nights, [revised, batch(THIRD, 30, 3)], replace=True)
    assert (done.appended, done.replaced, done.already_present, done.total) == (1, 1, 30, 134)
    rows = open_archive(nights)
    (place,) = np.flatnonzero(rows["id"].values == f"{FIRST}_10")
    np.testing.assert_array_equal(rows["cutouts"][place].values, revised.cutouts[0])
    assert np.isnan(open_run(nights)["scores"].values[place]).all()
    listed = quarantine(nights).iloc[-1]
    assert listed["reason"] == "replaced"
    assert "row 10," in listed["detail"]
    stored = open_archive(nights, retracted=True)["cutouts"][10].values
    np.testing.assert_array_equal(stored, old)
    assert append_batches(nights, [revised], replace=True).already_present == 1
    back = batch(FIRST, 40, 1)
    undone = append_batches(nights, [back], replace=True)
    assert (undone.replaced, undone.already_present) == (1, 39)
    np.testing.assert_array_equal(open_archive(nights)["cutouts"][-1].values, old)
    assert verify(nights).ok


def test_labels_are_set_by_id(nights):
    names = open_archive(nights)["id"].values
    table = pd.DataFrame({"label_kd": [1, np.nan, 0], "label_rb": [1, 0, 0]})
    table.index = [names[0], names[1], "nobody"]
    done = set_labels(nights, table)
    assert (done.given, done.matched, done.unmatched) == (3, 2, ("nobody",))
    assert done.changed == {"label_kd": 1, "label_rb": 2}
    rows = open_archive(nights)
    assert rows["label_kd"].values[:4].tolist() == [1, 1, 0, 1]
    assert rows["label_rb"].values[:4].tolist() == [1, 0, 0, 1]
    assert set_labels(nights, table).changed == {"label_kd": 0, "label_rb": 0}
    assert verify(nights).ok


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"label_xx": {"a": 1}}, "labels of label_xx"),
        ({"label_rb": {f"{FIRST}_0": 2}}, "give 1, 0, or -1"),
        ({"label_rb": {"nobody": 1}}, "match no row"),
        ({}, "labels of no column"),
    ],
)
def test_labels_that_cannot_be_are_refused(nights, labels, words):
    with pytest.raises(ArchiveError, match=words):
        set_labels(nights, labels)


def test_labels_of_withdrawn_rows_are_not_set(nights):
    retract(nights, FIRST)
    with pytest.raises(ArchiveError, match="match no row"):
        set_labels(nights, {"label_rb": {f"{FIRST}_0": 1}})


def test_nights_that_are_not_there_are_named(nights):
    with pytest.raises(ArchiveError, match="has no night 20250101: it has 3, 20260101 to 20260103"):
        retract(nights, 20250101)
    with pytest.raises(ArchiveError, match="was not withdrawn"):
        restore(nights, FIRST)
    with pytest.raises(ArchiveError, match="give YYYYMMDD"):
        retract(nights, 0)


@pytest.mark.parametrize(
    "damaged", [[{"rows": [[5, 1]]}], [{"rows": [["a", 2]]}], ["x"], {"rows": 1}, 5]
)
def test_a_damaged_list_of_withdrawn_rows_is_an_error(nights, damaged):
    path = nights / "zarr.json"
    record = json.loads(path.read_text())
    record["attributes"]["retracted"] = damaged
    path.write_text(json.dumps(record))
    with pytest.raises(ArchiveError, match="withdrawn rows cannot be read"):
        open_archive(nights)


class Killed(BaseException):
    """Stands for a kill at one write."""


@pytest.fixture
def killed_at(monkeypatch):
    """Let the n-th write to a store, or replacement of a commit record, end its process."""
    from zarr.storage import LocalStore

    from deepstreaks_dask.archive import ingests, store

    def arm(n):
        count = [0]

        def dying(write):
            def wrapped(*arguments, **options):
                count[0] += 1
                if count[0] > n:
                    raise Killed
                return write(*arguments, **options)

            return wrapped

        monkeypatch.undo()
        monkeypatch.setattr(LocalStore, "set", dying(LocalStore.set))
        monkeypatch.setattr(store, "write_whole", dying(store.write_whole))
        monkeypatch.setattr(ingests, "write_whole", dying(ingests.write_whole))
        return count

    yield arm
    monkeypatch.undo()


@pytest.mark.parametrize("what", ["retract", "replace", "label", "remove scores"])
def test_corrections_are_whole_or_not_there_wherever_they_are_killed(
    nights, killed_at, monkeypatch, what
):
    names = open_archive(nights)["id"].values
    labels = {f"label_{family}": dict.fromkeys(names, 1) for family in ("rb", "kd")}
    act = {
        "retract": lambda: retract(nights, SECOND),
        "remove scores": lambda: retract(nights, SECOND, remove_scores=True),
        "replace": lambda: append_batches(nights, [batch(FIRST, 3, 9)], replace=True),
        "label": lambda: set_labels(nights, labels),
    }[what]
    before = open_archive(nights)["id"].values.tolist()
    for n in [0, 1, 2, *range(3, 200, 7)]:
        killed_at(n)
        try:
            act()
        except Killed:
            monkeypatch.undo()
            assert open_archive(nights)["id"].values.tolist() in (
                before,
                [*before[:40], *before[104:]],
            )
        else:
            monkeypatch.undo()
            break
    assert n > 0
    assert verify(nights).ok
    act()
    rows = open_archive(nights)
    if what == "label":
        assert (rows["label_kd"].values == 1).all()
    elif what == "replace":
        assert summary(nights).retracted == 3
        assert quarantine(nights)["reason"].tolist() == ["replaced"] * 3
    else:
        assert rows.sizes["cutout"] == 70


def test_an_append_to_a_new_archive_leaves_nothing_unless_it_is_committed(tmp_path):
    url = tmp_path / "new.zarr"

    def interrupted():
        yield random_batch(10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        append_batches(url, interrupted(), create={"shard": 64})
    assert not url.exists()
    assert append_batches(url, [], create={}).total == 0
    empty = CutoutBatch(np.empty((0, 144, 144), np.uint8), {})
    append_batches(url, [empty], create={})
    assert not url.exists()
    empty.quarantined.append(Quarantined("x.jpg", "empty"))
    assert append_batches(url, [empty], create={}).quarantined == 1
    assert append_batches(url, [random_batch(10)], create={}).appended == 10
    assert verify(url).ok


def test_a_new_archive_does_not_exist_before_its_commit_wherever_it_is_killed(
    tmp_path, killed_at, monkeypatch
):
    url = tmp_path / "new.zarr"
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.rm", lambda *a, **k: None)
    keep = monkeypatch
    made = [batch(FIRST, 3, 1)]
    deaths = 0
    for n in range(0, 200, 17):
        killed_at(n)
        keep.setattr("fsspec.implementations.local.LocalFileSystem.rm", lambda *a, **k: None)
        try:
            append_batches(url, made, create={"shard": 64})
        except Killed:
            deaths += 1
            monkeypatch.undo()
            with pytest.raises(ArchiveError):
                open_archive(url)
        else:
            break
    monkeypatch.undo()
    assert deaths > 3
    assert open_archive(url).sizes["cutout"] == 3
    assert verify(url).ok
