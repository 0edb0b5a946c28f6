"""The benchmarks of dashboards run in a browser, at a size that says nothing about speed."""

import json
import shutil

import pytest


def test_explore_measures_the_dashboard_as_a_browser_sees_it(run_alone):
    if shutil.which("chromium") is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    sizes = ["--cutouts", "2000", "--nights", "5", "--moves", "2", "--users", "1"]
    done = run_alone("explore", *sizes, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert min(result[key] for key in ("paint_s", "move_ms", "compute_ms", "anew_s")) > 0
    assert result["ratio"] == pytest.approx(result["anew_s"] / result["move_ms"] * 1000)


def test_review_measures_the_gallery_as_a_browser_sees_it(run_alone):
    if shutil.which("chromium") is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    sizes = ["--cutouts", "2000", "--nights", "5", "--repeats", "2", "--thumbnails", "50"]
    done = run_alone("review", *sizes, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert min(result[key] for key in ("start_s", "filter_ms", "bare_ms", "ratio", "frames")) > 0
    assert 0 <= result["long_frames"] <= 1
