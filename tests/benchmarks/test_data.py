"""The benchmarks of what goes into an archive and comes out of it run, at a size that says nothing about speed."""

import json

import pytest


def test_ingest_measures_both_ways_on_equal_cutouts(run):
    """The benchmark itself stops if the archive does not hold what the bare loop makes."""
    done = run("ingest", "--cutouts", "20", "--repeats", "2", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["format"] for row in rows] == ["jpeg", "fits"]
    for row in rows:
        assert row["cutouts"] == 20
        assert min(row["a"], row["b"], row["b/a"]) > 0


def test_ingest_refuses_an_unknown_format(run):
    done = run("ingest", "--formats", "gif")
    assert done.returncode == 2
    assert "gif" in done.stderr


@pytest.mark.parametrize(
    ("of", "codec"),
    [(("--cutouts", "64"), "zstd 1"), (("--sequences", "4"), "blosc lz4, bits shuffled")],
)
def test_reading_measures_every_codec(run, of, codec):
    done = run("reading", *of, "--turns", "1", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["codec"] for row in rows if row["chosen"]] == [codec]
    assert all(min(row["read"], row["write"], row["ratio"]) > 0 for row in rows)


def test_training_measures_both_ways(run):
    sizes = ["--cutouts", "40", "--repeats", "1", "--window", "32", "--shard", "64"]
    done = run("training", *sizes, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["cutouts"] == 40
    assert min(result["memory"], result["streamed"]) > 0
    assert result["ratio"] == pytest.approx(result["streamed"] / result["memory"])
    assert 0 < result["held"] <= 40
