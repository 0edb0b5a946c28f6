"""Sweeps: killed and gone on with, nothing tried twice, one network a worker."""

import json
import os
import signal
import time
from dataclasses import replace

import pandas as pd
import pytest
from dask.distributed import Client
from faulty import search, start

from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.training.recipe import Recipe, read_recipe
from deepstreaks_dask.training.sweeps import SearchOptions, sweep

RECIPE = Recipe(epochs=3, batch=16, test=0.25, validation=0.2)
SEARCH = SearchOptions({"learning_rate": "1e-4:1e-2", "batch": "16,32"}, trials=3)


def test_a_killed_sweep_goes_on(tiny, tmp_path):
    folder = tmp_path / "sweep"
    asked = (str(tiny), ["rb"], "vgg6", SEARCH)
    process = start(search, folder, *asked, recipe=RECIPE, hold="trial-0001")
    held = folder / "trial-0001" / "checkpoint.safetensors"
    end = time.monotonic() + 500
    while not held.exists():
        assert process.is_alive()
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)  # the worker is a thread of it
    process.join()
    first = (folder / "trial-0000" / "outcome.json").read_bytes()
    assert not (folder / "trials.csv").exists()
    with (folder / "study.journal").open("ab") as journal:
        journal.write(b'{"op_code": 5, "wor')  # a kill in the middle of a line

    here = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with Client(processes=False, protocol="tcp", **here) as client:
        table = sweep(folder, *asked, client, recipe=RECIPE, progress=False)
        assert (folder / "trial-0000" / "outcome.json").read_bytes() == first
        assert sorted(table["number"]) == [0, 1, 2]
        assert set(table["state"]) == {"COMPLETE"}
        assert table["val_loss"].is_monotonic_increasing
        assert table["learning_rate"].between(1e-4, 1e-2).all()
        assert table["learning_rate"].nunique() == 3
        assert (table["epochs_run"] == 3).all()
        best = read_recipe(str(folder / "best.toml"))
        assert best.learning_rate == table["learning_rate"].iloc[0]
        assert best.epochs == 3
        pd.testing.assert_frame_equal(pd.read_csv(folder / "trials.csv"), table, check_dtype=False)
        history = json.loads((folder / "trial-0001" / "outcome.json").read_text())["history"]
        assert len(history["val_loss"]) == 3
        other = SearchOptions({"learning_rate": "1e-4:1e-3"}, trials=3)
        with pytest.raises(TrainingError, match="another sweep"):
            sweep(folder, str(tiny), ["rb"], "vgg6", other, client, recipe=RECIPE)
        with pytest.raises(TrainingError, match=r"all trials failed.*no labels of family 'xx'"):
            sweep(tmp_path / "x", str(tiny), ["xx"], "vgg6", replace(SEARCH, trials=1), client)


@pytest.mark.parametrize(
    ("name", "spec", "words"),
    [
        ("seed", "1,2", "cannot be searched"),
        ("learning_rate", "1e-2:1e-4", "give a range"),
        ("batch", "many", "give a range"),
        ("batch", "0,16", "batch: input should be greater than 0, not 0"),
        ("cosine", "false:true", "give a range"),
        ("precision", "float8", "no precision"),
    ],
)
def test_what_cannot_be_searched_is_named(tmp_path, name, spec, words):
    with pytest.raises(TrainingError, match=words):
        sweep(tmp_path, "a.zarr", ["rb"], "vgg6", SearchOptions({name: spec}), None)
