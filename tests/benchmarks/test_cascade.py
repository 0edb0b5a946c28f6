"""The benchmarks of the cascade and of triage run, at a size that says nothing about speed."""

import json

import pytest


def test_cascade_looks_less_often_and_decides_the_same(run):
    """The benchmark itself stops if deciding finds other cutouts than all scores do."""
    sizes = ["--cutouts", "64", "--full", "64", "--shard", "64", "--left", "0.1", "--side", "48"]
    done = run("cascade", *sizes, "--architectures", "vgg6", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["members"] == 3
    assert {name for family in result["order"] for name in family} == {"rb_0", "sl_0", "kd_0"}
    assert result["triage"]["looks"] < result["decide"]["looks"] < 0.6
    assert result["triage"]["left"] == pytest.approx(0.1, abs=0.01)
    assert result["triage"]["drifted"] == []
    assert min(result[way]["cost"] for way in ("decide", "triage")) > 0


def test_triage_is_calibrated_and_measured(run):
    sizes = ["--nights", "10", "--cutouts", "16", "--new", "1", "--sides", "36", "--epochs", "1"]
    done = run("triage", *sizes, "--loss", "0.9", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert result["side"] == 36
    assert 0 <= result["new"]["lost"] <= result["new"]["plausible"]
    assert 0 <= result["left_here"] <= 1  # all, where the night drifted from so few
    assert result["cost_here"] > 0
    assert all(0 <= share <= 1 for share in result["left_of_nights_not_learned"].values())
