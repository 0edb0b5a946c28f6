import json
from itertools import product

import numpy as np
import pytest
from helpers import random_run, write_run
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.decision_metrics import evaluate
from deepstreaks_dask.evaluation.interactive import Exploration, open_exploration
from deepstreaks_dask.evaluation.threshold_search import search_thresholds
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.threshold_sets import read_thresholds
from deepstreaks_dask.simulation.nights import simulate_nights


def of_nights(scores, nights):
    return scores.isel(cutout=np.isin(scores["night"].values, nights))


@settings(max_examples=15)
@given(
    seed=st.integers(0, 4),
    target=st.sampled_from([{"fpr": 0.02}, {"fpr": 0.3}, {"budget": 3}, {"budget": 30.5}]),
    by=st.sampled_from(["family", "member"]),
)
def test_a_target_is_kept_and_the_rates_are_evaluations(seed, target, by):
    scores = random_run(800, seed=seed, nights=8)
    found = search_thresholds(Exploration(scores), **target, by=by, rounds=0)
    rates = found.rates.set_index("part")
    unused = np.setdiff1d(scores["night"].values, found.nights)
    for part, nights in (("searched", found.nights), ("not used", unused)):
        measured = evaluate(of_nights(scores, nights), found.decision)
        row = rates.loc[part]
        assert row["nights"] == len(nights)
        assert row["tpr"] == pytest.approx(measured.joint.tpr.value)
        assert row["fpr"] == pytest.approx(measured.joint.fpr.value)
        assert row["candidates"] == pytest.approx(measured.plausible / len(nights))
        over = (
            measured.nights["fpr"] > target["fpr"]
            if "fpr" in target
            else measured.nights["plausible"] > target["budget"]
        )
        assert row["over"] == over.sum()
    name, most = ("fpr", target["fpr"]) if "fpr" in target else ("candidates", target["budget"])
    assert rates.loc["searched", name] <= most


@pytest.mark.parametrize("target", [{"fpr": 0.1}, {"budget": 40}])
def test_nothing_on_a_grid_of_family_thresholds_is_better(target):
    scores = random_run(3000, seed=5, missing=0, nights=9)
    found = search_thresholds(Exploration(scores), **target, rounds=0)
    ours = found.rates.set_index("part").loc["searched"]
    part = of_nights(scores, found.nights)
    values = np.stack(
        [
            part["scores"].values[:, [str(m).startswith(f) for m in part["model"].values]].max(1)
            for f in ("rb", "sl", "kd")
        ]
    )
    decided = evaluate(part, Decision()).joint
    truth = Exploration(part)
    label = truth.strata["truth"].to_numpy()[truth.cell % len(truth.strata)]
    values = values[:, truth.rows]
    best, allowed = 0, target.get("fpr", 0) * (decided.fp + decided.tn)
    for limits in product(np.linspace(0.05, 0.99, 14), repeat=3):
        passed = (values >= np.float32(limits)[:, None]).all(0)
        price = passed.sum() if "budget" in target else (passed & (label == 0)).sum()
        if price <= (target["budget"] * len(found.nights) if "budget" in target else allowed):
            best = max(best, (passed & (label == 1)).sum())
    assert ours["tpr"] * (decided.tp + decided.fn) >= best


def test_thresholds_by_member_find_no_less_than_by_family():
    exploration = Exploration(random_run(3000, seed=2, nights=9))
    by_family, by_member = (
        search_thresholds(exploration, fpr=0.05, by=by, rounds=0).rates["tpr"][0]
        for by in ("family", "member")
    )
    assert by_member >= by_family


def test_what_is_found_does_not_depend_on_nights_not_used():
    scores = random_run(1500, seed=3, nights=9)
    found = search_thresholds(Exploration(scores), fpr=0.1, rounds=20)
    unused = ~np.isin(scores["night"].values, found.nights)
    assert len(np.unique(scores["night"].values[unused])) == 3
    changed = scores.copy(deep=True)
    changed["scores"].values[unused] = np.random.default_rng(0).random((unused.sum(), 7))
    again = search_thresholds(Exploration(changed), fpr=0.1, rounds=20)
    assert again.decision == found.decision
    assert again.thresholds.equals(found.thresholds)
    assert again.rates["fpr"][1] != found.rates["fpr"][1]


def test_intervals_grow_with_what_nights_differ_by():
    """On even nights nothing but chance differs; on the others half of the nights rate far higher."""
    even = random_run(4000, seed=1, missing=0, nights=16)
    odd = even.copy(deep=True)
    good = odd["night"].values % 2 == 0
    odd["scores"].values[good] = np.clip(odd["scores"].values[good] * 0.4, 0, 1)
    widths = []
    for scores in (even, odd):
        calls = []
        exploration = Exploration(scores)
        found = search_thresholds(
            exploration, fpr=0.1, rounds=30, advance=lambda calls=calls: calls.append(1)
        )
        assert len(calls) == 30
        table, rates = found.thresholds, found.rates
        assert (table["low"] <= table["threshold"]).all()
        assert (table["high"] >= table["threshold"]).all()
        assert (table["high"] > table["low"]).any()
        for name in ("tpr", "fpr", "candidates"):
            assert (rates[f"{name}_low"] <= rates[name]).all()
            assert (rates[name] <= rates[f"{name}_high"]).all()
        widths.append(rates["fpr_high"][0] - rates["fpr_low"][0])
    assert widths[1] > 2 * widths[0]


def test_one_family_alone_is_searched():
    scores = random_run(1000, members=["os_a"], missing=0)
    found = search_thresholds(Exploration(scores), fpr=0.2, rounds=5)
    assert set(found.decision.thresholds) == {"os"}
    assert found.rates["fpr"][0] <= 0.2
    measured = [of(scores, found, limit) for limit in np.linspace(0, 1, 100)]
    best = max(e.joint.tpr.value for e in measured if e.joint.fpr.value <= 0.2)
    assert found.rates["tpr"][0] >= best


def of(scores, found, threshold):
    return evaluate(of_nights(scores, found.nights), Decision({"os": threshold}))


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, {}, "one target"),
        ({}, {"fpr": 0.1, "budget": 3}, "one target"),
        ({}, {"fpr": 0}, "between 0 and 1"),
        ({}, {"fpr": float("nan")}, "between 0 and 1"),
        ({}, {"budget": -1}, "more than 0"),
        ({}, {"budget": float("inf")}, "more than 0"),
        ({}, {"fpr": 0.1, "by": "night"}, "family or member"),
        ({"decided": {"rb": 0.5}}, {"fpr": 0.1}, "scored only what its decision needed"),
        ({"nights": 1}, {"fpr": 0.1}, "one night only"),
        ({"labels": -1}, {"fpr": 0.1}, "labelled plausible"),
        ({"labels": 1}, {"fpr": 0.1}, "labelled other"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_words(change, options, words):
    scores = random_run(200, nights=change.get("nights", 5))
    for family in ("rb", "sl", "kd", "os"):
        if "labels" in change:
            scores[f"label_{family}"].values[:] = change["labels"]
    scores.attrs["decided"] = change.get("decided")
    with pytest.raises(DeepStreaksError, match=words):
        search_thresholds(Exploration(scores), **options)


@pytest.fixture
def scored(tmp_path):
    """An archive of simulated nights whose scores tell the labels well."""
    url = str(tmp_path / "week.zarr")
    create_archive(url, shard=64)
    append_batches(url, simulate_nights(6, 40, seed=2))
    dataset, rng = open_archive(url), np.random.default_rng(0)
    scores = [
        dataset[f"label_{family}"].values * 0.5 + rng.random(240) * 0.6
        for family in ("rb", "sl", "kd")
    ]
    members = ["rb_vgg6", "sl_vgg6", "kd_vgg6"]
    write_run(url, "default", members, np.clip(np.stack(scores, 1), 0, 1).astype(np.float32))
    return url


def command(*arguments):
    return CliRunner().invoke(app, ["thresholds", *map(str, arguments)], catch_exceptions=False)


def test_the_command_line_finds_saves_and_lists(scored, tmp_path):
    file = tmp_path / "mine.toml"
    options = ["--fpr", "0.05", "--by", "member", "--save", "five per cent", "-o", file]
    result = json.loads(command("search", scored, *options, "--json").stdout)
    found = search_thresholds(open_exploration(scored), fpr=0.05, by="member")
    assert result["nights"] == found.nights
    for row, (_, ours) in zip(result["rates"], found.rates.iterrows(), strict=True):
        assert row == pytest.approx(ours.to_dict())
    assert read_thresholds(file) == found.decision
    assert [read_thresholds(path) for path in result["written"]] == [found.decision] * 2
    (line,) = command("list", scored).stdout.splitlines()
    assert line.startswith("five per cent: rb_vgg6 0.")
    assert json.loads(command("list", scored, "--json").stdout) == {
        "five per cent": dict(found.decision.thresholds)
    }
    said = command("search", scored, "--budget", 5).stdout
    assert "4 searched" in said
    assert "2 not used" in said
