import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import RUN_MEMBERS, random_run
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.errors import CampaignError, DeepStreaksError
from deepstreaks_dask.evaluation.cut_comparison import compare_cuts
from deepstreaks_dask.evaluation.decision_metrics import evaluate, rates_by_night
from deepstreaks_dask.evaluation.interactive import Cut, Exploration
from deepstreaks_dask.evaluation.labels import plausibility_labels
from deepstreaks_dask.evaluation.metrics import auc, operating_curve
from deepstreaks_dask.evaluation.selection import Selection
from deepstreaks_dask.scoring.decision import Decision


def assert_counts_are_evaluations(cut, scores, decision):
    decided = decision.apply(scores)
    measured = evaluate(scores, decision)
    counts = cut.counts()
    assert counts.joint == measured.joint
    assert counts.venn == measured.venn
    assert list(counts.venn) == list(measured.venn)
    assert (counts.cutouts, counts.decided, counts.plausible) == (
        measured.cutouts,
        measured.decided,
        measured.plausible,
    )
    pd.testing.assert_frame_equal(counts.nights, rates_by_night(decided), check_dtype=False)
    families = measured.families.set_index("family")[["n_pos", "n_neg", "tpr", "fpr"]]
    ours = counts.families.set_index("name")[["n_pos", "n_neg", "tpr", "fpr"]]
    pd.testing.assert_frame_equal(ours, families, check_names=False, check_dtype=False)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 3),
    moves=st.lists(
        st.tuples(st.sampled_from([*RUN_MEMBERS, "rb", "kd"]), st.floats(0, 1)), max_size=5
    ),
)
def test_moves_lead_where_evaluating_anew_leads(seed, moves):
    scores, thresholds = random_run(seed=seed), {}
    cut = Cut(Exploration(scores))
    for name, value in moves:
        thresholds[name] = value
        cut.decide(Decision(dict(thresholds)))
    assert_counts_are_evaluations(cut, scores, Decision(thresholds))
    plausible = Decision(thresholds).apply(scores)["plausible"].values
    np.testing.assert_array_equal(plausible[cut.exploration.rows], cut.plausible_at())


@pytest.mark.parametrize("decision", [Decision({"rb": 0.6}), Decision()])
def test_what_a_triage_rejected_is_decided_at_its_thresholds(decision):
    scores = random_run(seed=1)
    rejected = np.random.default_rng(1).random(scores.sizes["cutout"]) < 0.4
    scores["scores"][rejected] = np.nan
    scores["rejected"] = "cutout", rejected
    decided = {member: 0.6 if member.startswith("rb") else 0.5 for member in RUN_MEMBERS}
    scores.attrs = {**scores.attrs, "decided": decided}
    cut = Cut(Exploration(scores), decision)
    assert_counts_are_evaluations(cut, scores, decision)
    settled = ~decision.apply(scores)["undecided"].values
    assert settled[rejected].all() == decision.is_of_run(provenance_of(scores))


def test_a_copy_is_a_person_of_its_own():
    scores = random_run()
    first = Cut(Exploration(scores))
    second = first.copy()
    second.decide(Decision({"rb": 0.9}))
    assert_counts_are_evaluations(first, scores, Decision())
    assert_counts_are_evaluations(second, scores, Decision({"rb": 0.9}))


def test_one_filter_counts_as_if_there_were_no_other():
    scores, decision = random_run(), Decision({"rb": 0.7})
    cut = Cut(Exploration(scores), decision)
    part = scores.isel(cutout=(scores["filter"] == "r").values)
    assert cut.counts(filter="r").joint == evaluate(part, decision).joint
    assert cut.counts(filter="r").venn == evaluate(part, decision).venn
    assert cut.counts(filter="r").cutouts == part.sizes["cutout"]


def test_members_count_what_passes_and_how_well():
    scores = random_run(missing=0)
    measured = evaluate(scores).members.set_index("member")
    ours = Cut(Exploration(scores)).counts().members.set_index("name")
    for name in ("n_pos", "n_neg", "tpr", "fpr"):
        np.testing.assert_allclose(ours[name], measured[name])
    np.testing.assert_array_equal(ours["passed"], (scores["scores"].values >= 0.5).sum(0))


@pytest.mark.parametrize("members", [("kd_b",), ("kd_a", "kd_c")])
def test_trace_is_what_the_decision_would_do(members):
    scores, thresholds = random_run(missing=0), {"rb": 0.6, "kd_b": 0.3}
    cut = Cut(Exploration(scores), Decision(thresholds))
    trace = cut.trace(*members).set_index("threshold")
    for limit in (0.0, 0.25, 0.5, 0.75):
        moved = dict.fromkeys(members, limit)
        measured = evaluate(scores, Decision({**thresholds, **moved}))
        assert trace.loc[limit, "plausible"] == measured.plausible
        assert trace.loc[limit, "tpr"] == pytest.approx(measured.joint.tpr.value)
        assert trace.loc[limit, "fpr"] == pytest.approx(measured.joint.fpr.value)


@pytest.mark.parametrize("name", ["rb_b", "kd", "decision"])
def test_curve_is_exact_where_it_is_drawn(name):
    scores = random_run(3000, missing=0)
    exploration = Exploration(scores)
    curve = exploration.curve(name)
    label = exploration.labels(name)[exploration.cell % len(exploration.strata)]
    values = exploration.column(name)
    whole = operating_curve(label, values).set_index("threshold")
    assert 100 < len(curve) < 700
    inner = curve.iloc[1:]
    np.testing.assert_allclose(inner["tpr"], whole.loc[inner["threshold"], "tpr"])
    np.testing.assert_allclose(inner["fpr"], whole.loc[inner["threshold"], "fpr"])
    area = np.trapezoid(curve["tpr"], curve["fpr"])
    assert area == pytest.approx(auc(label, values).value, abs=1e-3)


def test_histograms_split_by_label_night_and_filter():
    scores = random_run()
    exploration = Exploration(scores)
    values = scores["scores"].sel(model="sl_a").values
    looked = ~np.isnan(values)
    groups = exploration.groups("sl_a", "label")
    for label, words in ((1, "label 1"), (0, "label 0"), (-1, "no label")):
        mask = looked & (scores["label_sl"].values == label)
        np.testing.assert_array_equal(groups[words], np.histogram(values[mask], 100, (0, 1))[0])
    groups = exploration.groups("sl_a", "night", night=20260103)
    here = (scores["night"].values == 20260103) & looked
    assert groups["20260103"].sum() == here.sum()
    assert groups["other nights"].sum() == (looked & ~here).sum()
    groups = exploration.groups("sl_a", "filter", filter="r")
    assert set(groups) == {"r"}
    assert set(exploration.groups("sl_a", "filter")) == {"g", "r", "filter not known"}


def test_drift_flags_the_night_that_drifts_and_no_other():
    scores = random_run(6000, missing=0.01, nights=8)
    values = scores["scores"].values
    odd = scores["night"].values == 20260104
    values[odd, 0] **= 3
    exploration = Exploration(scores)
    drift = exploration.drift("rb_a").set_index("night")
    assert drift.index[drift["flagged"]].tolist() == [20260104]
    known = ~np.isnan(values[:, 0])
    exact = ks_2samp(values[odd & known, 0], values[~odd & known, 0])
    assert drift.loc[20260104, "ks"] == pytest.approx(exact.statistic, abs=1 / 60)
    assert drift.loc[20260104, "ks"] <= exact.statistic + 1e-12
    assert not exploration.drift("rb_b")["flagged"].any()


def test_selections_find_just_these():
    scores, decision = random_run(), Decision({"sl": 0.4})
    cut = Cut(Exploration(scores), decision)
    decided = decision.apply(scores)
    truth = plausibility_labels(decided)
    plausible, settled = decided["plausible"].values, ~decided["undecided"].values

    def chosen(**selection):
        return sorted(cut.exploration.rows[cut.select(Selection(**selection))].tolist())

    assert chosen() == list(range(600))
    for wanted in (True, False):
        mask = (truth == 1) & settled & (plausible == wanted)
        assert chosen(truth=1, plausible=wanted) == np.flatnonzero(mask).tolist()
    night = scores["night"].values == 20260102
    assert chosen(night=20260102) == np.flatnonzero(night).tolist()
    passed = decided["family_pass"].to_pandas()
    region = passed["rb"] & ~passed["sl"] & passed["kd"] & ~passed["os"]
    assert chosen(region="rb&kd") == np.flatnonzero(region).tolist()
    values = scores["scores"].values
    box = (values[:, 0] >= 0.2) & (values[:, 0] <= 0.6) & night
    assert chosen(ranges=(("rb_a", 0.2, 0.6),), night=20260102) == np.flatnonzero(box).tolist()
    assert chosen(filter="") == np.flatnonzero(scores["filter"].values == "").tolist()
    with pytest.raises(DeepStreaksError, match="no cutouts of night 20270101"):
        cut.select(Selection(night=20270101))
    with pytest.raises(DeepStreaksError, match="no region 'rb&xx'"):
        cut.select(Selection(region="rb&xx"))


def test_compare_finds_what_changed_sides():
    old = random_run(missing=0)
    new = old.copy(deep=True)
    new["scores"].values[:40, 2] = 1 - new["scores"].values[:40, 2]
    grown = xr.concat([new, random_run(50, seed=9, missing=0)], "cutout")
    change = compare_cuts(Cut(Exploration(grown)), Cut(Exploration(old)))
    now = Decision().apply(new)["plausible"].values
    before = Decision().apply(old)["plausible"].values
    rows = Exploration(grown).rows
    assert sorted(rows[change.gained]) == np.flatnonzero(now & ~before).tolist()
    assert sorted(rows[change.lost]) == np.flatnonzero(before & ~now).tolist()
    table = change.table.set_index("truth")
    assert table["gained"].sum() == (now & ~before).sum() > 0
    assert table[["both", "gained", "lost", "neither"]].to_numpy().sum() == 600
    members = change.members.set_index("member")
    crossed = (new["scores"] >= 0.5) != (old["scores"] >= 0.5)
    assert members.loc["sl_a", "crossed"] == int(crossed.values[:, 2].sum())
    assert members.loc["rb_a", "largest"] == 0


def test_nothing_to_explore_is_no_error():
    exploration = Exploration(random_run().isel(cutout=slice(0)))
    counts = Cut(exploration).counts()
    assert (counts.cutouts, counts.plausible, len(counts.nights)) == (0, 0, 0)
    assert exploration.groups("rb_a", "label") == {}
    assert len(exploration.curve("rb_a")) == 0
    assert len(exploration.drift("rb_a")) == 0


def test_unknown_names_and_too_many_members_are_refused():
    exploration = Exploration(random_run(20))
    with pytest.raises(DeepStreaksError, match="no scores 'rb_z'"):
        exploration.column("rb_z")
    with pytest.raises(DeepStreaksError, match="rb_z"):
        Cut(exploration, Decision({"rb_z": 0.5}))
    with pytest.raises(CampaignError, match="at most 16"):
        Exploration(random_run(20, members=[f"rb_{k}" for k in range(17)]))
