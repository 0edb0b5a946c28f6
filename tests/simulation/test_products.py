"""Simulated nightly products: from the command line, and in the form that real ones have."""

import tarfile

from typer.testing import CliRunner

from deepstreaks_dask.cli.main import app
from deepstreaks_dask.readers.streak_table import STREAK_COLUMNS


def test_the_command_writes_a_depot(tmp_path):
    options = ["--depot", "--nights", "2", "--cutouts", "3", "--first", "20260131", "--seed", "4"]
    told = CliRunner().invoke(app, ["simulate", str(tmp_path), *options])
    assert told.exit_code == 0, told.output
    for night in ("20260131", "20260201"):
        (tarball,) = (tmp_path / night).glob("ztf_*_strkcutouts.tar.gz")
        with tarfile.open(tarball) as tar:
            names = tar.getnames()
        assert [name.split("_", 2)[2] for name in names] == ["scimref.jpg", "ades.xml"] * 3
        (table,) = (tmp_path / night).glob("ztf_*_streaks.txt")
        header, rule, *rows, footer = table.read_text().splitlines()
        assert tuple(name.strip() for name in header.split("|")) == STREAK_COLUMNS
        assert set(rule) == {"-", "+"}
        assert [line.count("|") for line in rows] == [len(STREAK_COLUMNS) - 1] * 3
        assert footer == "(3 rows)"
