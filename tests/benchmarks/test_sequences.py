"""The benchmarks of sequences run, at a size that says nothing about speed."""

import json

import pytest


def test_sequences_measures_every_survey(run):
    done = run("sequences", "simulate", "--objects", "2", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["survey"] for row in rows} == {"hits", "hits-shifted", "ztf", "crts"}
    assert all(row["stamps_per_second"] > 0 for row in rows)


def test_sequences_are_scored_and_followed(run):
    """The benchmark itself stops if a step does not give what the whole sequence gives."""
    few = ["--objects", "6", "--repeats", "1", "--json"]
    done = run("sequences", "score", "--networks", "rcnn", *few)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["b/a"] == pytest.approx(row["b"] / row["a"])
    done = run("sequences", "follow", *few)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["again/step"] > 0
