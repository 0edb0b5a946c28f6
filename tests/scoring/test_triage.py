"""The guarantee of a triage holds in as many calibrations as it says, and a run keeps to it."""

import html
import json

import numpy as np
import pytest
from helpers import write_run
from hypothesis import given
from hypothesis import strategies as st
from mutations import generators, mutate_json, nothing_executed, one_line_errors
from scipy.stats import beta, binom, norm

from deepstreaks_dask.errors import TriageError
from deepstreaks_dask.report.run_report import write_report
from deepstreaks_dask.scoring import triage as triages
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import Run, open_run
from deepstreaks_dask.scoring.triage import (
    Triage,
    calibrate_triage,
    choose_threshold,
    cutouts_needed,
    design_effect,
    losses_allowed,
)

KNOWN = {
    "first": "first_vgg6@1",
    "sha256": "ab" * 32,
    "zoo": None,
    "members": {"rb_a@1": "cd" * 32},
    "limits": {"rb_a": 0.5},
    "order": (("rb_a",),),
    "dtype": "float32",
}


def made_up(nights=20, cutouts=400, seed=0, **options):
    """Calibrate on nights of scores that spread about 0.3, and plausible ones about 0.8."""
    rng = np.random.default_rng(seed)
    night = np.repeat(20260101 + np.arange(nights), cutouts)
    plausible = rng.random(len(night)) < 0.5
    looked = np.where(
        plausible, rng.normal(0.8, 0.05, len(night)), rng.normal(0.3, 0.1, len(night))
    )
    looked = np.clip(looked, 0, 1).astype(np.float32)
    return calibrate_triage(looked, plausible, night, night[:1], **{**KNOWN, **options})


def test_the_fewest_cutouts_are_those_of_the_exact_bound():
    assert cutouts_needed() == 2995
    assert (losses_allowed(2994), losses_allowed(2995)) == (-1, 0)
    assert losses_allowed(4741) == 0  # rule of three, then 4.74 and 6.3 thousand
    assert losses_allowed(4742) == 1
    assert losses_allowed(6294) == 2
    assert cutouts_needed(0.01) == 299
    assert losses_allowed(2995, effect=1.5) == -1
    assert losses_allowed(4493, effect=1.5) == 0


@given(
    st.integers(1, 30_000),
    st.sampled_from([0.001, 0.01, 0.2]),
    st.sampled_from([0.5, 0.95, 0.99]),
)
def test_no_more_and_no_fewer_losses_are_allowed(plausible, loss, confidence):
    allowed = losses_allowed(plausible, loss, confidence)
    # the chance to see so few losses if the true loss were too large
    if allowed >= 0:
        assert binom.cdf(allowed, plausible, loss) <= 1 - confidence + 1e-9
    assert binom.cdf(allowed + 1, plausible, loss) > 1 - confidence - 1e-9


@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 8, 10_000]))
def test_the_threshold_is_the_highest_that_is_allowed(seed, values):
    """Also where many scores are equal."""
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, values, 700) / values).astype(np.float32)
    threshold, effect = choose_threshold(scores, np.arange(700), 0.01, 0.95)
    allowed = losses_allowed(700, 0.01, 0.95, effect)
    assert (scores < np.float32(threshold)).sum() <= allowed
    higher = np.nextafter(np.float32(threshold), np.float32(2))
    assert (scores < higher).sum() > allowed


def test_the_guarantee_holds_in_as_many_calibrations_as_it_says():
    """500 calibrations, each on its own cutouts: the true loss is too large in at most one of twenty."""
    rng = np.random.default_rng(7)
    draws, a, b = 500, 8.0, 1.5
    wrong, losses = 0, []
    for _ in range(draws):
        scores = rng.beta(a, b, 4800).astype(np.float32)
        threshold, effect = choose_threshold(scores, np.arange(len(scores)))  # none are alike
        assert effect == 1
        true = beta.cdf(threshold, a, b)
        losses.append(true)
        wrong += true > triages.MAX_LOSS
    assert wrong <= binom.ppf(0.999, draws, 0.05)
    assert wrong >= draws * 0.005, "so careful that nothing is rejected"
    assert 0.0001 < np.mean(losses) < 0.001


def test_the_guarantee_holds_where_cutouts_of_a_night_are_alike():
    """Nights of their own weather: the design effect keeps what independent cutouts would not."""
    rng = np.random.default_rng(3)
    draws, loss, spread = 300, 0.01, 0.4
    wrong = careless = 0
    for _ in range(draws):
        nights = np.repeat(np.arange(100), 60)
        weather = rng.normal(0, spread, 100)[nights]
        scores = norm.cdf((rng.normal(1.5, 1, len(nights)) + weather) / 3)
        threshold, effect = choose_threshold(scores, nights, loss, 0.95)
        plain = np.sort(scores)[losses_allowed(len(scores), loss, 0.95)]
        true = norm.cdf((3 * norm.ppf([threshold, plain]) - 1.5) / np.hypot(1, spread))
        wrong += true[0] > loss
        careless += true[1] > loss
        assert effect >= 1
    assert careless > wrong
    assert careless > binom.ppf(0.999, draws, 0.05), "too little alike to show anything"
    assert wrong <= binom.ppf(0.999, draws, 0.05)


def test_independent_cutouts_have_no_design_effect():
    rng = np.random.default_rng(0)
    nights = np.repeat(np.arange(200), 50)
    assert design_effect(rng.random(10_000), nights) < 1.3
    assert design_effect(np.repeat(rng.random(200), 50), nights) > 20


def test_too_few_cutouts_are_refused_and_counted():
    scores = np.linspace(0, 1, 1000, dtype=np.float32)
    with pytest.raises(TriageError, match=r"1,000 plausible .* takes 2,995, 1,995 more"):
        choose_threshold(scores, np.arange(1000))
    with pytest.raises(TriageError, match="at least 5 are needed"):
        made_up(nights=4)


def test_a_calibration_says_what_it_found():
    found = made_up()
    assert found.plausible > 3000
    assert found.lost <= losses_allowed(found.plausible, effect=found.design_effect)
    assert found.rejected / found.cutouts > 0.4
    assert found.checked.nights == (20260101,)
    assert found.checked.plausible > 150
    assert (
        0 <= found.checked.low <= found.checked.lost / found.checked.plausible <= found.checked.high
    )
    assert "95% confidence fewer than 0.1%" in found.guarantee
    assert "provided that" in found.guarantee
    assert "nights that were not used" in found.seen


def night_of(seed, size=300, weather=0.0):
    scores = np.random.default_rng(seed).normal(0.5 + weather, 0.1, size)
    return np.clip(scores, 0, 1).astype(np.float32)


def test_nights_drawn_alike_seldom_drift_and_others_do():
    rng = np.random.default_rng(5)
    alarms, tested = 0, 0
    for _ in range(20):
        weather = rng.normal(0, 0.05, 60)
        nights = [night_of(rng, weather=w) for w in weather]
        looked, night = np.concatenate(nights[:31]), np.repeat(np.arange(31), 300)
        found = calibrate_triage(
            looked, rng.random(len(night)) < 0.5, night, [30], loss=0.01, **KNOWN
        )
        assert found.level == 0.05
        alarms += sum(found.drift(scores) <= found.level for scores in nights[31:])
        tested += len(nights[31:])
        assert found.drift(night_of(rng, weather=0.3)) <= found.level
    assert 0 < alarms / tested < 0.1


def test_a_triage_is_read_as_it_was_written(tmp_path):
    found = made_up()
    triages.write_triage(found, tmp_path / "triage.json")
    assert triages.read_triage(tmp_path / "triage.json") == found
    assert Triage.from_dict(found.to_dict()) == found


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "other"}, "holds no triage"),
        ({"version": 2}, "version 2"),
        ({"threshold": 1.5}, "damaged"),
        ({"threshold": "high"}, "damaged"),
        ({"lost": 4000}, "damaged"),
        ({"histograms": [[1]]}, "damaged"),
        ({"edges": [0.5, 0.1]}, "damaged"),
        ({"nights": []}, "damaged"),
        ({"limits": None}, "damaged"),
        ({"order": [["rb_b"]]}, "damaged"),
        ({"checked": {}}, "damaged"),
        ({"more": 1}, "damaged"),
        ({"design_effect": 0.1}, "damaged"),
    ],
)
def test_a_damaged_triage_is_refused(tmp_path, change, says):
    path = tmp_path / "triage.json"
    triages.write_triage(made_up(), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(TriageError, match=says):
        triages.read_triage(path)


def test_what_is_no_file_of_a_triage_is_refused(tmp_path):
    (tmp_path / "no.json").write_text("[" * 100_000)
    with pytest.raises(TriageError, match="cannot read"):
        triages.read_triage(tmp_path / "no.json")
    with pytest.raises(TriageError, match="cannot read"):
        triages.read_triage(tmp_path / "missing.json")


@pytest.mark.parametrize("plausible", [10**12, 2**53])
def test_as_many_cutouts_as_a_file_claims_take_no_memory(plausible):
    allowed = losses_allowed(plausible, 0.5)
    assert 0.49 * plausible < allowed < 0.5 * plausible


def test_mutated_triages_are_read_or_refused(tmp_path):
    path = tmp_path / "triage.json"
    triages.write_triage(made_up(), path)
    values = json.loads(path.read_text())
    with nothing_executed(tmp_path):
        for rng in generators(40):
            path.write_text(json.dumps(mutate_json(rng, values)))
            with one_line_errors():
                triages.read_triage(path).drift(np.linspace(0, 1, 50, dtype=np.float32))


@pytest.fixture
def triaged(archive):
    """A run without networks: its first 50 of 150 cutouts are rejected, the others are scored at 0.7."""
    found = made_up()
    scores = np.full((150, 1), np.nan, np.float32)
    scores[50:] = 0.7
    write_run(
        archive,
        "made",
        ["rb_a"],
        scores,
        decided={"rb_a": 0.5},
        triage=found.to_dict(),
        drift={},
        drifted=[20260101],
    )
    run = Run.open(archive, "made", write=True)
    run.first_look[:] = np.float32(0.5)
    run.rejected[:50] = True
    return archive, found


def test_what_was_rejected_is_decided(triaged):
    archive, _ = triaged
    scores = open_run(archive, "made")
    decided = Decision.of_run(scores).apply(scores)
    assert int(decided["plausible"].sum()) == 100
    assert not decided["undecided"].any()
    assert Decision({"rb_a": 0.4}).apply(scores)["undecided"].sum() == 50
    assert Run.open(archive, "made").missing(150, 64).shards == ()


def test_the_report_says_what_is_promised_and_what_was_seen(triaged, tmp_path):
    archive, found = triaged
    write_report(archive, tmp_path / "report.html", run="made")
    page = html.unescape((tmp_path / "report.html").read_text())
    assert found.guarantee in page
    assert found.seen in page
    assert "rejected 50 of 150 cutouts" in page
    assert "decided exactly: 2026-01-01" in page
