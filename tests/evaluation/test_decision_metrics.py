"""Figures against hand-worked examples and the libraries that know them."""

import json

import numpy as np
import pytest
import xarray as xr
from scipy.stats import binomtest, norm
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.evaluation.decision_metrics import (
    evaluate,
    joint_scores,
    rates_by_kind,
    rates_by_night,
    venn,
)
from deepstreaks_dask.evaluation.labels import plausibility_labels
from deepstreaks_dask.evaluation.metrics import (
    auc,
    confusion,
    operating_curve,
    precision_recall,
    rate,
    roc,
    wilson,
)
from deepstreaks_dask.scoring.decision import Decision


@pytest.fixture
def scores():
    """Six cutouts of two nights, small enough to count by hand."""
    return xr.Dataset(
        {
            "scores": (
                ("cutout", "model"),
                np.array(
                    [
                        [0.9, 0.9, 0.9],
                        [0.9, 0.2, 0.9],
                        [0.9, 0.8, 0.1],
                        [0.1, 0.9, 0.9],
                        [0.6, 0.6, 0.6],
                        [np.nan, 0.9, 0.9],
                    ],
                    np.float32,
                ),
            )
        },
        {
            "model": ["rb_a", "sl_a", "kd_a"],
            "night": ("cutout", [1, 1, 1, 2, 2, 2]),
            "kind": ("cutout", np.array(["nea", "nea", "x", "x", "x", ""], dtype=object)),
            "label_rb": ("cutout", np.array([1, 1, 1, 0, 1, -1], np.int8)),
            "label_sl": ("cutout", np.array([1, 1, 1, -1, 1, -1], np.int8)),
            "label_kd": ("cutout", np.array([1, 1, 0, 0, 0, -1], np.int8)),
            "label_os": ("cutout", np.array([-1, 1, 0, -1, -1, -1], np.int8)),
        },
    )


@pytest.mark.parametrize(("count", "total"), [(0, 10), (10, 10), (3, 17), (499, 500)])
def test_wilson_is_scipys(count, total):
    expected = binomtest(count, total).proportion_ci(method="wilson")
    got = rate(count, total)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high))


def test_wilson_covers():
    """The 95 % interval holds the true share in about 95 % of 4,000 experiments."""
    rng = np.random.default_rng(4)
    for share in (0.5, 0.9, 0.97):
        low, high = wilson(rng.binomial(60, share, 4000), np.full(4000, 60))
        assert 0.92 < ((low <= share) & (share <= high)).mean() < 0.98


def test_nothing_counted_is_not_a_rate():
    nothing = rate(0, 0)
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()
    assert str(nothing) == "not measured"


def test_auc_is_sklearns():
    rng = np.random.default_rng(2)
    labels = rng.integers(-1, 2, 500)
    values = np.round(labels + rng.normal(0, 1, 500), 1).astype(np.float32)  # with ties
    values[:20] = np.nan
    keep = (labels >= 0) & ~np.isnan(values)
    got = auc(labels, values)
    assert got.value == pytest.approx(roc_auc_score(labels[keep], values[keep]))
    assert got.low < got.value < got.high
    assert (got.count, got.total) == ((labels[keep] == 1).sum(), keep.sum())


@pytest.mark.parametrize(
    ("positives", "negatives", "area"),
    [(30, 30, 0.8), (200, 200, 0.76), (20, 400, 0.95), (400, 20, 0.95), (1000, 30, 0.99)],
)
def test_auc_interval_covers(positives, negatives, area):
    """It holds the true area in at least 93 % of 300 experiments, also where one class is rare."""
    rng = np.random.default_rng(6)
    labels = np.repeat([1, 0], [positives, negatives])
    shift = norm.ppf(area) * np.sqrt(2)
    found = [auc(labels, rng.normal(labels * shift, 1)) for _ in range(300)]
    assert np.mean([one.low <= area <= one.high for one in found]) >= 0.93
    # and does not get there by claiming next to nothing
    assert np.mean([one.high - one.low for one in found]) < 0.3


def test_auc_interval_solves_newcombes_equation():
    """At its ends the measured area is 1.96 of his standard errors from the supposed true one."""
    labels = np.repeat([1, 0], [7, 5])
    got = auc(labels, np.array([9, 8, 7, 6, 5, 3, 1, 7.5, 4, 2, 0, 0.5]))
    assert got.value == pytest.approx(27 / 35)  # 5 + 5 + 4 + 4 + 4 + 3 + 2
    for end in (got.low, got.high):
        terms = 1 + 5 * (1 - end) / (2 - end) + 5 * end / (1 + end)
        error = np.sqrt(end * (1 - end) * terms / 35)
        assert abs(end - got.value) / error == pytest.approx(1.959964, abs=1e-5)


def test_a_perfect_auc_is_still_uncertain():
    labels = np.repeat([1, 0], [40, 60])
    best, worst = auc(labels, labels), auc(labels, -labels)
    assert best.value == best.high == 1
    assert 0.9 < best.low < 0.99
    assert worst.value == worst.low == 0
    assert worst.high == pytest.approx(1 - best.low)
    more = auc(np.tile(labels, 100), np.tile(labels, 100))
    assert best.low < more.low < 1


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0], [-1, -1, -1], []])
def test_one_class_has_no_curve(labels):
    labels, values = np.array(labels, np.int8), np.linspace(0, 1, len(labels))
    assert auc(labels, values).total == 0
    assert np.isnan(auc(labels, values).value)
    assert len(roc(labels, values)) == len(precision_recall(labels, values)) == 0


def test_curves_are_sklearns():
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 2, 300)
    values = np.round(labels + rng.normal(0, 1, 300), 1)
    fpr, tpr, threshold = roc_curve(labels, values, drop_intermediate=False)
    curve = roc(labels, values)
    assert curve["fpr"].to_numpy() == pytest.approx(fpr)
    assert curve["tpr"].to_numpy() == pytest.approx(tpr)
    assert curve["threshold"].to_numpy() == pytest.approx(threshold)
    precision, recall, threshold = precision_recall_curve(labels, values)
    curve = precision_recall(labels, values)
    assert curve["precision"].to_numpy()[::-1] == pytest.approx(precision[:-1])
    assert curve["recall"].to_numpy()[::-1] == pytest.approx(recall[:-1])
    assert curve["threshold"].to_numpy()[::-1] == pytest.approx(threshold)


def test_operating_curve_by_hand():
    table = operating_curve(np.array([1, 0, 1, -1, 0]), np.array([0.9, 0.8, 0.8, 0.7, 0.1]))
    assert table["threshold"].tolist() == [np.inf, 0.9, 0.8, 0.1]
    assert table["tp"].tolist() == [0, 1, 2, 2]
    assert table["fp"].tolist() == [0, 0, 1, 2]
    assert table["precision"].tolist()[1:] == pytest.approx([1, 2 / 3, 0.5])
    assert np.isnan(table["precision"][0])


def test_labels_of_the_decision(scores):
    assert list(plausibility_labels(scores)) == [1, 1, 0, 0, 0, -1]


def test_counts_by_hand(scores):
    decided = Decision().apply(scores)
    assert list(decided["plausible"].values) == [True, False, False, False, True, False]
    counts = confusion(plausibility_labels(decided), decided["plausible"].values)
    assert (counts.tp, counts.fn, counts.fp, counts.tn) == (1, 1, 1, 2)
    nights = rates_by_night(decided).set_index("night")
    assert nights.loc[1, ["n_pos", "tp", "n_neg", "fp"]].tolist() == [2, 1, 1, 0]
    assert nights.loc[1, "tpr"] == 0.5
    assert np.isnan(nights.loc[2, "tpr"])
    assert nights.loc[2, "fpr"] == 0.5
    assert venn(decided) == {
        "rb&sl&kd": 2,
        "rb&sl": 1,
        "rb&kd": 1,
        "rb": 0,
        "sl&kd": 2,
        "sl": 0,
        "kd": 0,
        "none": 0,
    }
    kinds = rates_by_kind(decided).set_index("kind")
    assert kinds.loc["nea", ["cutouts", "plausible"]].tolist() == [2, 1]
    assert "" not in kinds.index


def test_evaluate_fits_in_json(scores):
    result = evaluate(scores, Decision({"kd": 0.95}))
    assert result.plausible == 0
    assert result.decided == 6  # the sixth fails kd whatever rb says
    assert result.labelled
    text = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert text["joint"]["tpr"]["value"] == 0
    assert text["nights"][1]["tpr"] is None


def test_without_labels_nothing_is_claimed(scores):
    bare = scores.drop_vars([f"label_{f}" for f in ("rb", "sl", "kd", "os")])
    result = evaluate(bare)
    assert not result.labelled
    assert str(result.joint.tpr) == "not measured"
    assert result.to_dict()["members"][0]["auc"] is None


@pytest.mark.parametrize("points", [2, 3, 100, 400])
def test_curves_are_thinned_and_keep_their_ends(points):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 20_000)
    values = labels + rng.normal(0, 1, 20_000)
    curve = roc(labels, values, points=points)
    assert len(curve) <= points
    assert tuple(curve.iloc[[0, -1]]["fpr"]) == (0, 1)
    assert len(precision_recall(labels, values, points=points)) <= points


def test_thinned_curves_stay_close_where_it_matters():
    """Within 1 % in the true-positive rate at false-positive rates of 0.001 as of 0.5."""
    rng = np.random.default_rng(8)
    labels = (rng.random(200_000) < 0.1).astype(int)
    values = 3 * labels + rng.normal(0, 1, 200_000)
    whole, thin = operating_curve(labels, values), roc(labels, values)
    for place in (0.001, 0.01, 0.1, 0.5):
        expected = np.interp(place, whole["fpr"], whole["tpr"])
        assert np.interp(place, thin["fpr"], thin["tpr"]) == pytest.approx(expected, rel=0.01)


@pytest.fixture
def several():
    """Two members in rb, one in sl and kd; what is missing is said in each row."""
    nan = np.nan
    values = [
        [0.1, 0.9, 0.9, 0.9],  # passes by its second member
        [0.1, nan, 0.9, 0.9],  # rb is open: undecided
        [0.9, nan, 0.9, 0.9],  # rb passed, whatever is missing
        [nan, nan, 0.1, 0.9],  # sl has rejected it
        [nan, nan, nan, nan],  # nothing known
        [0.2, 0.1, 0.9, 0.9],
    ]
    one = np.array([1, 1, 1, 0, 1, 0], np.int8)
    return xr.Dataset(
        {"scores": (("cutout", "model"), np.array(values, np.float32))},
        {
            "model": ["rb_a", "rb_b", "sl_a", "kd_a"],
            "night": ("cutout", [0, 20260101, 20260101, 20260101, 20260102, 20260101]),
            "kind": ("cutout", np.array(["nea"] * 3 + [""] * 3, dtype=object)),
            "label_rb": ("cutout", one),
            "label_sl": ("cutout", one),
            "label_kd": ("cutout", one),
        },
    )


def test_missing_scores_are_no_rejections(several):
    result = evaluate(several)
    assert (result.cutouts, result.decided, result.plausible) == (6, 4, 2)
    counts = result.joint
    assert (counts.tp, counts.fn, counts.fp, counts.tn) == (2, 0, 0, 2)
    nights = result.nights.set_index("night")
    assert nights["cutouts"].to_dict() == {0: 1, 20260101: 3, 20260102: 0}
    assert nights["n_pos"].to_dict() == {0: 1, 20260101: 1, 20260102: 0}
    assert np.isnan(nights.loc[20260102, ["tpr", "tpr_low", "fpr_high"]].astype(float)).all()
    kinds = result.kinds.set_index("kind")
    assert kinds.loc["nea", ["truth", "cutouts", "plausible", "share"]].tolist() == [
        "plausible",
        2,
        2,
        1.0,
    ]
    assert json.dumps(result.to_dict(), allow_nan=False)


def test_members_and_families_by_hand(several):
    result = evaluate(several)
    members = result.members.set_index("member")
    assert members.loc["rb_a", ["n_pos", "n_neg", "tpr", "fpr"]].tolist() == [3, 1, 1 / 3, 0]
    assert members.loc["rb_b", ["n_pos", "n_neg", "tpr", "fpr"]].tolist() == [1, 1, 1, 0]
    families = result.families.set_index("family")
    # rows 0, 2 pass, row 5 does not, row 1 is open; the areas use the best member that looked
    assert families.loc["rb", ["n_pos", "n_neg", "tpr", "fpr"]].tolist() == [2, 1, 1, 0]
    assert families.loc["rb", "auc"] == 1
    sl = members.loc["sl_a"].drop(["family", "threshold"])
    assert families.loc["sl"].to_dict() == sl.to_dict()
    assert set(result.curves) == {"rb_a", "rb_b", "rb", "sl_a", "kd_a", "decision"}


def test_joint_score_is_the_weakest_familys(several):
    decided = Decision().apply(several)
    expected = np.array([0.9, 0.1, 0.9, np.nan, np.nan, 0.2], np.float32)
    assert np.array_equal(joint_scores(decided), expected, equal_nan=True)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_joint_score_decides_as_equal_thresholds_do(threshold):
    values = np.random.default_rng(9).random((500, 6)).astype(np.float32)
    models = ["rb_a", "rb_b", "sl_a", "sl_b", "kd_a", "kd_b"]
    scores = xr.Dataset({"scores": (("cutout", "model"), values)}, {"model": models})
    decided = Decision(default=threshold).apply(scores)
    above = joint_scores(decided) >= np.float32(threshold)
    assert np.array_equal(decided["plausible"].values, above)


def test_kinds_say_what_they_are(scores):
    kinds = rates_by_kind(Decision().apply(scores)).set_index("kind")
    assert kinds["truth"].to_dict() == {"nea": "plausible", "x": "other"}
    bare = scores.drop_vars([f"label_{f}" for f in ("rb", "sl", "kd", "os")])
    assert set(rates_by_kind(Decision().apply(bare))["truth"]) == {"unknown"}
    mixed = scores.assign_coords(kind=("cutout", np.array(["x"] * 6, dtype=object)))
    assert rates_by_kind(Decision().apply(mixed))["truth"].tolist() == ["mixed"]


def test_an_archive_of_nothing(scores):
    result = evaluate(scores.isel(cutout=slice(0, 0)))
    assert (result.cutouts, result.decided, result.plausible) == (0, 0, 0)
    assert not result.labelled
    assert len(result.nights) == len(result.kinds) == len(result.curves) == 0
    assert json.dumps(result.to_dict(), allow_nan=False)


def test_an_archives_own_columns_serve(simulated):
    """Labels, nights and kinds as an archive gives them, with their own string type."""
    dataset = open_archive(simulated)
    truth = np.stack([dataset[f"label_{f}"].values for f in ("rb", "sl", "kd")], axis=1)
    scores = dataset.drop_vars("cutouts").assign(
        scores=(("cutout", "model"), np.where(truth == 0, 0.1, 0.9).astype(np.float32))
    )
    result = evaluate(scores.assign_coords(model=["rb_a", "sl_a", "kd_a"]))
    kinds = result.kinds.set_index("kind")
    assert kinds["cutouts"].sum() == result.cutouts == 240
    assert kinds.loc["nea", "share"] == 1
    assert kinds.loc[kinds.index != "nea", "share"].max() == 0
    assert result.joint.fn == result.joint.fp == 0
    assert len(result.nights) == 4
