import json
import tomllib

import numpy as np
import pytest
from helpers import random_batch, write_run
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.verification import verify
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.scoring import threshold_sets as thresholds
from deepstreaks_dask.scoring.decision import Decision

names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(st.dictionaries(names, st.floats(0, 1), max_size=5), st.floats(0, 1), names)
def test_thresholds_come_back_as_they_went(given_thresholds, default, name):
    decision = Decision(given_thresholds, default)
    text = thresholds.to_toml(decision, name, run=name, archive=name)
    assert thresholds.from_toml(text) == decision
    assert tomllib.loads(text)["name"] == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[thresholds", "is not TOML"),
        ("rb = 0.5", "holds no thresholds"),
        ('format = "deepstreaks-thresholds"\nversion = 2', "version 2"),
        (
            'format = "deepstreaks-thresholds"\nversion = 1\nthresholds = 3',
            r"beneath \[thresholds\]",
        ),
        (
            'format = "deepstreaks-thresholds"\nversion = 1\n[thresholds]\nrb = "x"',
            r"thresholds\.rb: must be a number, not 'x'",
        ),
        (
            'format = "deepstreaks-thresholds"\nversion = 1\n[thresholds]\nrb = true',
            "must be a number",
        ),
        ('format = "deepstreaks-thresholds"\nversion = 1\n[thresholds]\nrb = nan', "from 0 to 1"),
        ('format = "deepstreaks-thresholds"\nversion = 1\n[thresholds]\nrb = 1.5', "from 0 to 1"),
    ],
)
def test_bad_files_are_refused_in_words(text, words):
    with pytest.raises(DeepStreaksError, match=words):
        thresholds.from_toml(text, "mine.toml")


def test_sets_are_saved_with_the_archive_and_do_not_disturb_it(archive):
    assert thresholds.saved_thresholds(archive) == {}
    path = thresholds.save_thresholds(archive, "one per cent", Decision({"rb": 0.7}))
    thresholds.save_thresholds(archive, "one per cent", Decision({"rb": 0.8}), run="default")
    assert thresholds.saved_thresholds(archive) == {"one per cent": path}
    assert thresholds.read_thresholds(path) == Decision({"rb": 0.8})
    append_batches(archive, [random_batch(10, start=150)])
    assert verify(archive).ok
    assert open_archive(archive).sizes["cutout"] == 160
    assert thresholds.read_thresholds(path) == Decision({"rb": 0.8})


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 65, "a\nb"])
def test_names_that_are_no_files_are_refused(archive, name):
    with pytest.raises(DeepStreaksError, match="no name for thresholds"):
        thresholds.save_thresholds(archive, name, Decision())
    assert thresholds.saved_thresholds(archive) == {}


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(DeepStreaksError, match="cannot read"):
        thresholds.read_thresholds(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(DeepStreaksError, match="cannot read"):
        thresholds.read_thresholds(tmp_path / "bytes.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(DeepStreaksError, match="too large"):
        thresholds.read_thresholds(tmp_path / "large.toml")


def test_decide_takes_a_file_and_single_thresholds_over_it(archive):
    scores = np.linspace(0, 1, 150, dtype=np.float32)[:, None].repeat(2, axis=1)
    write_run(archive, "default", ["rb_a", "kd_a"], scores)
    path = thresholds.save_thresholds(archive, "high", Decision({"rb": 0.8, "kd": 0.6}))

    def plausible(*options):
        arguments = ["decide", str(archive), "--thresholds", str(path), "--json", *options]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        return json.loads(result.stdout)["plausible"]

    assert plausible() == (scores[:, 0] >= np.float32(0.8)).sum()
    assert plausible("-t", "rb=0.1") == (scores[:, 0] >= np.float32(0.6)).sum()
