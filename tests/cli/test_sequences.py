"""``deepstreaks sequences`` as a person and as a machine meet it."""

import json

import numpy as np
from typer.testing import CliRunner

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import DeepStreaksError


def run(*arguments):
    return CliRunner().invoke(app, ["sequences", *map(str, arguments)])


def test_simulate_makes_an_archive_and_adds_to_it(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(
        "mjd,filter,seeing,sky,airmass,exposure\n"
        + "".join(f"{57070 + k},g,1.2,22,1.1,87\n" for k in range(5))
    )
    archive = tmp_path / "s.zarr"
    options = ["--survey", "hits", "--task", "rcnn", "--seed", 3, "--log", log, "--json"]
    done = run("simulate", archive, "--objects", 3, *options)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["appended"] == 3
    more = json.loads(run("simulate", archive, "--objects", 4, *options).stdout)
    assert (more["appended"], more["already_present"]) == (1, 3)  # equal seeds, equal objects
    dataset = open_archive(archive)
    assert dataset["epochs"].values.tolist() == [5] * 4
    np.testing.assert_allclose(dataset["fwhm"].values, 1.2 / 0.27, rtol=1e-6)


def test_mistakes_make_no_archive(tmp_path):
    for arguments, words in (
        (["--survey", "lsst"], "no survey 'lsst'"),
        (["--task", "all"], "no task 'all'"),
        (["--log", tmp_path / "none.csv"], "does not exist"),
    ):
        done = run("simulate", tmp_path / "s.zarr", *arguments)
        assert isinstance(done.exception, DeepStreaksError)
        assert words in str(done.exception)
        assert not (tmp_path / "s.zarr").exists()


def test_help_has_an_example():
    assert "Example: deepstreaks sequences" in run("simulate", "--help").stdout
