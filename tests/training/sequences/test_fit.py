"""Training on sequences: whole objects apart, going on after a kill, a few samples, and figures that are right."""

import json
import os
import signal

import numpy as np
import pytest
from helpers import make_known
from sklearn.metrics import f1_score, recall_score
from small_network import KINDS, KnowSmall

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import ModelError, TrainingError
from deepstreaks_dask.models.registry import CLASSIFIERS
from deepstreaks_dask.models.sequence.rcnn import Rcnn
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring.cluster import connect
from deepstreaks_dask.simulation.sequences import LAYOUT, simulate_sequences
from deepstreaks_dask.training.harness import TrainingOptions
from deepstreaks_dask.training.recipe import Recipe
from deepstreaks_dask.training.records import publish
from deepstreaks_dask.training.sequences import experiments
from deepstreaks_dask.training.sequences.batches import SequenceFeed
from deepstreaks_dask.training.sequences.experiments import finetune, train_folds
from deepstreaks_dask.training.sequences.fit import class_metrics, predict_objects, train_classifier
from deepstreaks_dask.training.sequences.folds import draw_samples, fold_splits
from deepstreaks_dask.training.sequences.labelled import LabelledObjects

QUICK = Recipe(
    name="sequences", epochs=2, batch=8, patience=5, test=0.25, validation=0.2, by="id", seed=4
)
OPTIONS = TrainingOptions(QUICK)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    url = tmp_path_factory.mktemp("training") / "s.zarr"
    create_archive(url, **(LAYOUT | {"shard": 64}))
    append_batches(url, simulate_sequences(96, "hits", "rcnn", seed=6))
    return url


@pytest.fixture(scope="module", autouse=True)
def _small_networks():
    """Know networks that compile quickly, for what is the same of every network."""
    with pytest.MonkeyPatch.context() as patch:
        for name, place in KINDS.items():
            patch.setitem(CLASSIFIERS, name, place)
        yield


@pytest.fixture(scope="module")
def trained(url, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return folder, train_classifier(
        folder, open_archive(url), "headless", family="own", options=OPTIONS
    )


def test_a_training_leaves_a_network_its_record_and_curves(url, tmp_path):
    folder = tmp_path / "t"
    record = train_classifier(folder, open_archive(url), "rcnn", family="own", options=OPTIONS)
    assert not (folder / "checkpoint.safetensors").exists()
    assert len((folder / "curves.csv").read_text().splitlines()) == 3
    assert list((folder / "tensorboard").rglob("events.out.tfevents*"))
    (card,) = record["cards"]
    assert (card["name"], card["architecture"]) == ("own_rcnn", "rcnn")
    assert card["classes"] == sorted(card["classes"])
    assert len(card["classes"]) == 7
    assert "simulated" in card["limits"]
    assert record["history"]["loss"][-1] < record["history"]["loss"][0]
    dataset = open_archive(url)
    labelled = LabelledObjects.of(dataset)
    parts = [set(record["split"][part]) for part in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 96
    # the figures are those of the network as it is stored
    network = Zoo(folder / "networks").load_classifier("own_rcnn")
    test = np.flatnonzero(np.isin(labelled.ids, list(parts[2])))
    scores = predict_objects(network, labelled, test)
    assert class_metrics(labelled.numbers(test), scores, labelled.classes) == card["metrics"]
    assert publish(folder, str(tmp_path / "zoo"))[0].to_dict() == card
    assert Zoo(tmp_path / "zoo").verify() == []


def test_a_training_that_was_killed_goes_on_to_the_last_bit(url, trained, tmp_path):
    _, whole = trained
    dataset = open_archive(url)

    class KilledError(Exception):
        pass

    def kill(epoch, losses):
        if epoch == 0:
            raise KilledError

    options = {"family": "own", "options": OPTIONS}
    with pytest.raises(KilledError):
        train_classifier(tmp_path, dataset, "headless", on_epoch=kill, **options)
    assert (tmp_path / "checkpoint.safetensors").exists()
    again = train_classifier(tmp_path, dataset, "headless", **options)
    assert again["history"] == whole["history"]
    assert again["cards"][0]["sha256"] == whole["cards"][0]["sha256"]
    # it is done, and says so without training again
    before = (tmp_path / "record.json").stat().st_mtime_ns
    train_classifier(tmp_path, dataset, "headless", **options)
    assert (tmp_path / "record.json").stat().st_mtime_ns == before
    other = TrainingOptions(Recipe(by="id"))
    with pytest.raises(TrainingError, match="another training"):
        train_classifier(tmp_path, dataset, "headless", family="own", options=other)


def test_an_epoch_has_every_object_once_in_memory_or_by_windows(url):
    dataset = open_archive(url)
    labelled = LabelledObjects.of(dataset)
    network = Rcnn(labelled.classes)
    places = np.arange(0, 96, 2)
    numbers = labelled.numbers(places)
    for window in (0, 64):
        shards = labelled.shards(places, window)
        feed = SequenceFeed(shards, numbers, np.ones(7, np.float32), network, QUICK)
        assert len(feed) == 6
        first = [feed[k] for k in range(len(feed))]
        seen = np.concatenate([labels[:, 0] for _, labels, _ in first])
        np.testing.assert_array_equal(np.bincount(seen), np.bincount(numbers))
        for given, labels, weights in first:
            there = given["features"].any(axis=2) | given["stamps"].any(axis=(2, 3))
            assert not weights[~there].any()
            # an object weighs one, however many epochs it has
            np.testing.assert_allclose(weights.sum(axis=1) / labels.shape[1], 1, rtol=1e-5)
        again = SequenceFeed(labelled.shards(places, window), numbers, np.ones(7), network, QUICK)
        np.testing.assert_array_equal(again[2][0]["stamps"], first[2][0]["stamps"])
        again.on_epoch_end()
        assert not np.array_equal(again[2][0]["stamps"], first[2][0]["stamps"])


def test_folds_part_objects_alike_for_every_architecture():
    kinds = np.array(["a"] * 31 + ["b"] * 11, object)
    ids = np.array([f"o{k}" for k in range(42)])
    splits = fold_splits(ids, kinds, 5, QUICK)
    tested = [name for split in splits for name in split.test]
    assert sorted(tested) == sorted(ids)
    for split in splits:
        parts = [set(part) for part in (split.train, split.validation, split.test)]
        assert len(set.union(*parts)) == sum(map(len, parts)) == 42
        rare = sum(int(name[1:]) >= 31 for name in split.test)
        assert rare in (2, 3)
    assert fold_splits(ids, kinds, 5, QUICK) == splits
    with pytest.raises(TrainingError, match="12 folds"):
        fold_splits(ids, kinds, 12, QUICK)


def test_folds_are_summed_up(tmp_path):
    url = tmp_path / "s.zarr"
    create_archive(url, **LAYOUT)
    append_batches(url, simulate_sequences(40, "crts", "taonet", seed=2))
    recipe = Recipe(**{**vars(QUICK), "epochs": 1})
    options = {"family": "own", "options": TrainingOptions(recipe)}
    found = train_folds(tmp_path / "t", open_archive(url), "forest", 2, **options)
    assert [one["test_objects"] for one in found["each"]] == [20, 20]
    averages = [np.mean(list(one["f1_by_class"].values())) for one in found["each"]]
    assert found["f1"] == pytest.approx(np.mean(averages), abs=1e-3)
    assert found["f1_spread"] == pytest.approx(np.std(averages, ddof=1), abs=1e-3)
    assert json.loads((tmp_path / "t" / "folds.json").read_text()) == found


class DieOnce(KnowSmall):
    """Kill the first worker when the first epoch of its training is stored."""

    def __init__(self, path):
        self.path = path

    def setup(self, worker):
        super().setup(worker)
        if self.path.exists():
            return
        self.path.write_text(str(os.getpid()))
        measure = experiments.TrainingJob.metrics

        def die(epoch, losses):
            os.kill(os.getpid(), signal.SIGKILL)

        experiments.TrainingJob.metrics = lambda job, archive, _: measure(job, archive, die)


def test_folds_on_workers_are_those_of_one_process_though_a_worker_is_killed(url, tmp_path):
    options = {"family": "own", "options": OPTIONS}
    told = []
    with connect("local", workers=1) as client:
        client.register_plugin(DieOnce(tmp_path / "pid"))
        (pid,) = client.run(os.getpid).values()
        assert pid == int((tmp_path / "pid").read_text())
        found = train_folds(
            tmp_path / "w",
            open_archive(url),
            "headless",
            2,
            client=client,
            on_epoch=lambda *_: told.append(1),
            **options,
        )
        assert pid not in client.run(os.getpid).values()
    assert len(told) >= 4  # what was done before the kill may be told of again
    assert found == train_folds(tmp_path / "h", open_archive(url), "headless", 2, **options)


def test_fine_tuning_tests_on_the_same_objects_each_time(url, trained, tmp_path):
    folder, _ = trained
    recipe = Recipe(**{**vars(QUICK), "epochs": 1})
    zoo = str(folder / "networks")
    options = TrainingOptions(recipe, start="own_headless@1", start_zoo=zoo)
    found = finetune(tmp_path, open_archive(url), [1, 2], options, repeats=1)
    assert [row["samples"] for row in found["after"]] == [1, 2]
    assert found["before"]["test_objects"] == 48
    tests = set()
    for number in (1, 2):
        record = json.loads((tmp_path / f"samples-{number}-1" / "record.json").read_text())
        tests.add(tuple(record["split"]["test"]))
        drawn = set(record["split"]["train"])
        assert not drawn & set(record["split"]["test"])
        assert len(drawn) == 7 * number
    assert len(tests) == 1
    row = found["after"][1]
    assert row["recall"] == pytest.approx(np.mean([r["recall"] for r in row["repeats"]]), abs=1e-4)


def test_figures_are_those_of_the_textbook():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 4, 200)
    scores = rng.random((200, 4)) + 0.5 * np.eye(4)[truth]
    found = class_metrics(truth, scores, "abcd")
    guessed = scores.argmax(axis=1)
    assert found["recall"] == pytest.approx(recall_score(truth, guessed, average="macro"), abs=1e-4)
    assert found["f1"] == pytest.approx(f1_score(truth, guessed, average="macro"), abs=1e-4)
    assert found["recall_95"][0] < found["recall"] < found["recall_95"][1]
    width = found["recall_95"][1] - found["recall_95"][0]
    assert 0.08 < width < 0.2
    # a class of which there is none has no recall
    assert (
        class_metrics(np.zeros(5, int), np.eye(3)[[0] * 5], "abc")["recall_by_class"]["b"] is None
    )


def test_what_is_no_network_is_trained_by_its_own_fit(url, tmp_path, monkeypatch):
    class Commonest:
        def __init__(self, classes, number):
            self.classes, self.number = tuple(classes), number

        @classmethod
        def fit(cls, sequences, numbers, classes, *, seed):
            assert len(sequences) == len(numbers)
            return cls(classes, int(np.bincount(numbers).argmax()))

        def predict(self, sequences):
            return np.eye(len(self.classes), dtype=np.float32)[[self.number] * len(sequences)]

        def to_arrays(self):
            return {"number": np.array([self.number])}

        @classmethod
        def from_arrays(cls, classes, arrays):
            return cls(classes, int(arrays["number"][0]))

    make_known(monkeypatch, "commonest", Commonest)
    record = train_classifier(
        tmp_path, open_archive(url), "commonest", family="own", options=OPTIONS
    )
    (card,) = record["cards"]
    assert card["metrics"]["recall"] == pytest.approx(1 / 7, abs=0.03)
    assert "keras" not in card["recipe"]
    assert Card.from_dict(card).classes


def test_mistakes_are_named(url, tmp_path):
    dataset = open_archive(url)
    with pytest.raises(ModelError, match="no architecture 'lstm'"):
        train_classifier(tmp_path, dataset, "lstm", family="own")
    single = tmp_path / "single.zarr"
    create_archive(single)
    with pytest.raises(TrainingError, match="holds single cutouts"):
        LabelledObjects.of(open_archive(single))
    with pytest.raises(TrainingError, match="none of a, b"):
        LabelledObjects.of(dataset, ("a", "b"))
    with pytest.raises(TrainingError, match="0 classes"):
        LabelledObjects.of(dataset.assign_coords(kind=("object", np.full(96, "", object))))
    kinds = np.array(["a", "a", "b"], object)
    with pytest.raises(TrainingError, match="1 objects of class 'b'"):
        draw_samples(kinds, ("a", "b"), 2, np.random.default_rng(0))
    half = Recipe(**{**vars(QUICK), "precision": "mixed_bfloat16"})
    options = TrainingOptions(half)
    with pytest.raises(TrainingError, match="float32, not in mixed_bfloat16"):
        train_classifier(tmp_path / "half", dataset, "rcnn", family="own", options=options)
    damaged = tmp_path / "damaged.zarr"
    create_archive(damaged, **LAYOUT)
    append_batches(damaged, simulate_sequences(20, "hits", "rcnn", seed=1))
    (damaged / "cutouts" / "c" / "0" / "0" / "0").write_bytes(b"")
    with pytest.raises(TrainingError, match="cannot be used"):
        train_classifier(
            tmp_path / "t", open_archive(damaged), "rcnn", family="own", options=OPTIONS
        )
