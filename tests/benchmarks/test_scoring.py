"""The benchmarks of scoring run, at a size that says nothing about speed."""

import json
import os

import pytest


def test_throughput_measures_all_three_ways_on_equal_scores(run):
    """The benchmark itself stops if the three ways do not score alike."""
    sizes = ["--cutouts", "20", "--repeats", "1", "--batch", "8"]
    done = run("throughput", *sizes, "--architectures", "vgg6", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["architecture"] == "vgg6"
    assert row["cutouts"] == 20
    assert min(row[way] for way in "abc") > 0
    assert row["b/a"] == pytest.approx(row["b"] / row["a"])
    assert row["c/a"] == pytest.approx(row["c"] / row["a"])


def test_throughput_refuses_an_unknown_architecture(run):
    done = run("throughput", "--architectures", "vgg16")
    assert done.returncode == 2
    assert "vgg16" in done.stderr


def test_scaling_measures_workers_and_bare_processes(run_alone):
    done = run_alone("scaling", "--cutouts", "128", "--repeats", "1", "--json")
    if len(os.sched_getaffinity(0)) < 2:
        assert "two cores" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    workers, bare = result["two_workers_over_one"], result["two_bare_processes_over_one"]
    assert min(workers, bare) > 0
    assert result["workers_over_bare"] == pytest.approx(workers / bare)


def test_card_measures_its_limits_and_what_is_made_of_them(run):
    sizes = ["--cutouts", "16", "--batch", "4", "--side", "128", "--copied", "1", "--repeats", "1"]
    done = run("card", *sizes, "--architectures", "vgg6", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert min(result[key] for key in ("copy_gb_s", "matmul_tflops", "passes")) > 0
    assert result["gflop_a_cutout"] == pytest.approx(3 * 0.22)
    assert result["score_over_bare"] == pytest.approx(result["score"] / result["bare"])


def test_flips_measures_cost_and_gain(run):
    done = run("flips", "--nights", "2", "--cutouts", "24", "--batch", "24", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["cost"] > 1
    for member in ("rb_vgg6", "sl_vgg6", "kd_vgg6"):
        assert 0.5 < result[member]["auc_new"]["value"] <= 1
        assert result[member]["nights"] == 2
