"""Figures of members against counts by hand, and against trainings' records."""

import json

import numpy as np
import pytest
import xarray as xr

from deepstreaks_dask.evaluation.sequence_metrics import (
    EvaluationError,
    accuracy_by_epochs,
    beside_published,
    evaluate_sequences,
    held_out,
    measure_member,
)

CLASSES = ("a", "b", "c")


def run(truth, guesses, *, classes=CLASSES, members=("m1", "m2"), sources=None):
    """Scores of members that are sure of their guesses, int (object, member), -1 for none."""
    scores = np.full((len(truth), len(members), len(classes)), np.nan, np.float32)
    for row, guessed in enumerate(guesses):
        for column, guess in enumerate(guessed):
            if guess >= 0:
                scores[row, column] = 0.1
                scores[row, column, guess] = 0.8
    named = np.array([(*classes, "")[k] for k in truth], object)
    sources = np.full(len(truth), "simulation x, seed 0", object) if sources is None else sources
    return xr.Dataset(
        {"scores": (("object", "member", "class"), scores)},
        {
            "member": list(members),
            "class": list(classes),
            "kind": ("object", named),
            "source": ("object", sources),
            "id": ("object", np.array([f"o{k}" for k in range(len(truth))], object)),
        },
    )


def folds(architecture, each, *, seed=0):
    """What trainings fold by fold leave behind."""
    figures = dict.fromkeys(("f1", "f1_spread", "f1_classes", "recall", "recall_spread"), 0.5)
    return figures | {
        "architecture": architecture,
        "folds": len(each),
        "seed": seed,
        "f1_by_class": {"a": [0.5, 0.1]},
        "each": [{"f1": value} for value in each],
    }


def test_figures_are_those_of_counts_by_hand():
    truth = np.array([0, 0, 0, 0, 1, 1, 2, -1])
    guessed = np.array([0, 0, 0, 1, 1, 2, 2, 0])
    found = measure_member("m", truth, np.eye(3)[guessed], CLASSES)
    assert found.matrix.tolist() == [[3, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert found.table["recall"].tolist() == [0.75, 0.5, 1.0]
    assert found.table["precision"].tolist() == [1.0, 0.5, 0.5]
    assert found.table["f1"].tolist() == pytest.approx([6 / 7, 0.5, 2 / 3])
    assert found.recall.value == pytest.approx(0.75)
    assert found.f1.value == pytest.approx((6 / 7 + 0.5 + 2 / 3) / 3)
    assert (found.accuracy.count, found.accuracy.total) == (5, 7)
    assert found.recall.low < 0.75 < found.recall.high
    assert (found.table["f1_low"] <= found.table["f1"]).all()
    assert (found.table["f1"] <= found.table["f1_high"]).all()


def test_intervals_of_the_averages_hold_what_they_promise():
    rng = np.random.default_rng(3)
    right, inside = 0.7, 0
    for _ in range(120):
        truth = np.repeat([0, 1, 2], [40, 25, 60])
        hit = rng.random(len(truth)) < right
        guessed = np.where(hit, truth, (truth + rng.integers(1, 3, len(truth))) % 3)
        found = measure_member("m", truth, np.eye(3)[guessed], CLASSES)
        inside += found.recall.low <= right <= found.recall.high
    assert inside >= 105  # 114 are expected of 95 %; less than 105 happens once in a thousand times


def test_a_class_without_objects_and_objects_without_scores_are_left_out():
    found = measure_member("m", np.array([0, 0, 1]), np.eye(3)[[0, 2, 1]], CLASSES)
    assert np.isnan(found.table["recall"].iloc[2])
    assert found.recall.value == pytest.approx(0.75)
    assert found.recall.count == 2
    evaluation = evaluate_sequences(run([0, 1, 2, -1], [(0, 0), (1, -1), (2, 0), (1, 1)]))
    assert [one.accuracy.total for one in evaluation.members] == [3, 2]
    assert (evaluation.objects, evaluation.unlabelled, evaluation.simulated) == (3, 1, 3)
    assert "m2 has not scored 1 objects" in evaluation.notes[0]
    said = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert said["members"]["m1"]["recall"]["value"] == 1.0
    assert said["members"]["m2"]["confusion"] == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_accuracy_grows_with_epochs_as_it_does():
    counts = np.array([3, 1, 2])
    truth = np.array([0, 1, -1])
    scores = np.eye(3)[[1, 0, 0, 1, 2, 2]]
    table = accuracy_by_epochs(scores, counts, truth, CLASSES)
    assert table["epochs"].tolist() == [1, 2, 3]
    assert table["objects"].tolist() == [2, 1, 1]
    assert table["value"].tolist() == [0.5, 1.0, 1.0]
    assert table["recall"].tolist() == [0.5, 1.0, 1.0]
    assert (
        len(accuracy_by_epochs(np.eye(3)[[0] * 500], np.array([500]), np.array([0]), CLASSES)) == 60
    )


def test_what_no_training_saw_and_what_trainings_reached(tmp_path):
    scores = run([0, 1, 2, 0], [(0, 1)] * 4)
    (tmp_path / "record.json").write_text(json.dumps({"split": {"test": ["o1", "o3", "gone"]}}))
    chosen = held_out(scores, tmp_path)
    assert chosen.tolist() == [False, True, False, True]
    (tmp_path / "folds.json").write_text(json.dumps(folds("forest", [0.4, 0.6])))
    after = [{"samples": n, "recall": 0.8 + n / 100, "recall_range": [0.7, 0.9]} for n in (10, 1)]
    record = {
        "start": "hits_rcnn@1",
        "before": {"recall": 0.7, "recall_95": [0.6, 0.8]},
        "after": after,
    }
    (tmp_path / "finetuning.json").write_text(json.dumps(record))
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "folds.json").write_text(json.dumps(folds("taonet", [0.5, 0.9])))
    found = evaluate_sequences(
        scores, only=chosen, folds=[tmp_path, tmp_path / "t"], finetuned=[tmp_path]
    )
    assert found.objects == 2
    assert found.folds["forest"]["f1"] == 0.5
    assert found.samples["hits_rcnn@1"]["samples"].tolist() == [0, 1, 10]
    beside = beside_published(found).set_index("figure")["here"].to_dict()
    assert list(beside.values()) == [
        "not measured",
        "0.9000, draws 0.7000 to 0.9000",
        "0.7000 ± 0.2828, 2 folds",
        "0.5000 ± 0.1414, 2 folds",
        "0.2000 ± 0.1414, 2 folds",
    ]
    (tmp_path / "t" / "folds.json").write_text(json.dumps(folds("taonet", [0.5, 0.9], seed=1)))
    other = evaluate_sequences(scores, folds=[tmp_path, tmp_path / "t"])
    assert beside_published(other)["here"].tolist()[-1] == "not measured"  # folds of other objects
    (tmp_path / "t" / "folds.json").write_text(json.dumps(folds("taonet", ["x", 0.9])))
    with pytest.raises(EvaluationError, match="record of folds"):
        evaluate_sequences(scores, folds=[tmp_path / "t"])
    assert found.samples["hits_rcnn@1"]["value"].tolist() == pytest.approx([0.7, 0.81, 0.9])


def test_what_cannot_be_measured_is_said(tmp_path):
    with pytest.raises(EvaluationError, match="no object has a class"):
        evaluate_sequences(run([-1], [(0, 0)]))
    cutouts = xr.Dataset({"scores": (("cutout", "model"), np.zeros((1, 1)))})
    with pytest.raises(EvaluationError, match="single cutouts"):
        evaluate_sequences(cutouts)
    scores = run([0, 1], [(0, 0)] * 2)
    with pytest.raises(EvaluationError, match="cannot be read"):
        held_out(scores, tmp_path)
    for text, why in (
        ('{"split": {}}', "names no test"),
        ('{"split": {"test": ["x"]}}', "none of"),
    ):
        (tmp_path / "record.json").write_text(text)
        with pytest.raises(EvaluationError, match=why):
            held_out(scores, tmp_path)
    for name, option in (("folds.json", "folds"), ("finetuning.json", "finetuned")):
        (tmp_path / name).write_text("[" * 20 if option == "folds" else "{}")
        with pytest.raises(EvaluationError):
            evaluate_sequences(scores, **{option: [tmp_path]})
