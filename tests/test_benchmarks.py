"""The benchmarks run, at a size that says nothing about speed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
THROUGHPUT, INGEST = BENCHMARKS / "throughput.py", BENCHMARKS / "ingest.py"
CASCADE, EXPLORE = BENCHMARKS / "cascade.py", BENCHMARKS / "explore.py"


def _run(benchmark, *options):
    return subprocess.run(
        [sys.executable, benchmark, *options], capture_output=True, text=True, check=False
    )


def test_throughput_measures_all_three_ways_on_equal_scores():
    """The benchmark itself stops if the three ways do not score alike."""
    sizes = ["--cutouts", "20", "--repeats", "1", "--batch", "8"]
    done = _run(THROUGHPUT, *sizes, "--architectures", "vgg6", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["architecture"] == "vgg6"
    assert row["cutouts"] == 20
    assert min(row[way] for way in "abc") > 0
    assert row["b/a"] == pytest.approx(row["b"] / row["a"])
    assert row["c/a"] == pytest.approx(row["c"] / row["a"])


def test_throughput_refuses_an_unknown_architecture():
    done = _run(THROUGHPUT, "--architectures", "vgg16")
    assert done.returncode == 2
    assert "vgg16" in done.stderr


def test_ingest_measures_both_ways_on_equal_cutouts():
    """The benchmark itself stops if the archive does not hold what the bare loop makes."""
    done = _run(INGEST, "--cutouts", "150", "--repeats", "2", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["format"] for row in rows] == ["jpeg", "fits"]
    for row in rows:
        assert row["cutouts"] == 150
        assert min(row["a"], row["b"], row["b/a"]) > 0


def test_ingest_refuses_an_unknown_format():
    done = _run(INGEST, "--formats", "gif")
    assert done.returncode == 2
    assert "gif" in done.stderr


def test_sequences_measures_every_survey():
    done = _run(BENCHMARKS / "sequences.py", "simulate", "--objects", "2", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["survey"] for row in rows} == {"hits", "hits-shifted", "ztf", "crts"}
    assert all(row["stamps_per_second"] > 0 for row in rows)


def test_sequences_are_scored_and_followed():
    """The benchmark itself stops if a step does not give what the whole sequence gives."""
    few = ["--objects", "6", "--repeats", "1", "--json"]
    done = _run(BENCHMARKS / "sequences.py", "score", "--networks", "rcnn", *few)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["b/a"] == pytest.approx(row["b"] / row["a"])
    done = _run(BENCHMARKS / "sequences.py", "follow", *few)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["again/step"] > 0


def test_cascade_looks_less_often_and_decides_the_same():
    """The benchmark itself stops if deciding finds other cutouts than all scores do."""
    sizes = ["--cutouts", "256", "--full", "128", "--shard", "64", "--left", "0.1", "--side", "72"]
    done = _run(CASCADE, *sizes, "--architectures", "vgg6", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["members"] == 3
    assert {name for family in result["order"] for name in family} == {"rb_0", "sl_0", "kd_0"}
    assert result["triage"]["looks"] < result["decide"]["looks"] < 0.6
    assert result["triage"]["left"] == pytest.approx(0.1, abs=0.01)
    assert result["triage"]["drifted"] == []
    assert min(result[way]["cost"] for way in ("decide", "triage")) > 0


def test_triage_is_calibrated_and_measured():
    sizes = ["--nights", "10", "--cutouts", "40", "--new", "1", "--sides", "36", "--epochs", "1"]
    done = _run(BENCHMARKS / "triage.py", *sizes, "--loss", "0.9", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert result["side"] == 36
    assert 0 <= result["new"]["lost"] <= result["new"]["plausible"]
    assert 0 <= result["left_here"] <= 1  # all, where the night drifted from so few
    assert result["cost_here"] > 0


def test_explore_measures_the_dashboard_as_a_browser_sees_it():
    if shutil.which("chromium") is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    sizes = ["--cutouts", "2000", "--nights", "5", "--moves", "2", "--users", "1"]
    done = _run(EXPLORE, *sizes, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert min(result[key] for key in ("paint_s", "move_ms", "compute_ms", "anew_s")) > 0
    assert result["ratio"] == pytest.approx(result["anew_s"] / result["move_ms"] * 1000)


def test_review_measures_the_gallery_as_a_browser_sees_it():
    if shutil.which("chromium") is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    sizes = ["--cutouts", "2000", "--nights", "5", "--repeats", "2", "--thumbnails", "50"]
    done = _run(BENCHMARKS / "review.py", *sizes, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert min(result[key] for key in ("start_s", "filter_ms", "bare_ms", "ratio", "frames")) > 0
    assert 0 <= result["long_frames"] <= 1


def test_reading_measures_every_codec():
    done = _run(BENCHMARKS / "reading.py", "--cutouts", "64", "--turns", "1", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["codec"] for row in rows if row["chosen"]] == ["zstd 1"]
    assert all(min(row["read"], row["write"], row["ratio"]) > 0 for row in rows)


def test_training_measures_both_ways():
    sizes = ["--cutouts", "64", "--repeats", "1", "--window", "64", "--shard", "64"]
    done = _run(BENCHMARKS / "training.py", *sizes, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["cutouts"] == 64
    assert min(result["memory"], result["streamed"]) > 0
    assert result["ratio"] == pytest.approx(result["streamed"] / result["memory"])
    assert 0 < result["held"] <= 64


def test_flips_measures_cost_and_gain():
    done = _run(BENCHMARKS / "flips.py", "--nights", "2", "--cutouts", "24", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["cost"] > 1
    for member in ("rb_vgg6", "sl_vgg6", "kd_vgg6"):
        assert 0.5 < result[member]["auc_new"]["value"] <= 1
        assert result[member]["nights"] == 2


def test_scaling_measures_workers_and_bare_processes():
    done = _run(BENCHMARKS / "scaling.py", "--cutouts", "128", "--repeats", "1", "--json")
    if len(os.sched_getaffinity(0)) < 2:
        assert "two cores" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    workers, bare = result["two_workers_over_one"], result["two_bare_processes_over_one"]
    assert min(workers, bare) > 0
    assert result["workers_over_bare"] == pytest.approx(workers / bare)


def test_card_measures_its_limits_and_what_is_made_of_them():
    sizes = ["--cutouts", "64", "--batch", "16", "--side", "128", "--repeats", "1"]
    done = _run(BENCHMARKS / "card.py", *sizes, "--architectures", "vgg6", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert min(result[key] for key in ("copy_gb_s", "matmul_tflops", "passes")) > 0
    assert result["gflop_a_cutout"] == pytest.approx(3 * 0.22)
    assert result["score_over_bare"] == pytest.approx(result["score"] / result["bare"])
