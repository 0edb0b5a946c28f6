"""Maps are made once, kept within bounds, and of the weights that the run was made with."""

import json
from collections import OrderedDict

import numpy as np
import pytest
from helpers import as_shipped, random_batch, write_run
from PIL import Image
from typer.testing import CliRunner

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.models.attribution import Explainer
from deepstreaks_dask.models.registry import build
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.report import explanation_maps as explanations
from deepstreaks_dask.report.explanation_maps import ExplanationError, explanation_map


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Begin with nothing kept."""
    for name in ("_maps", "_networks"):
        monkeypatch.setattr(explanations, name, OrderedDict())


@pytest.fixture
def member(tmp_path):
    """A zoo with a small network, and it as a run's provenance has it."""
    zoo = Zoo(tmp_path / "zoo")
    card = zoo.save(
        build("vgg6", (24, 24, 1)), Card("rb_vgg6", "7", "vgg6", input_shape=(24, 24, 1))
    )
    return zoo.url, [{"name": "rb_vgg6", "version": "7", "sha256": card.sha256}]


def test_a_map_is_made_once_and_few_are_kept(member, monkeypatch):
    zoo, members = member
    monkeypatch.setattr(explanations, "_MAX_CACHED_MAPS", 2)
    asked = []
    monkeypatch.setattr(Explainer, "__call__", _counting(Explainer.__call__, asked))
    pixels = random_batch(3).cutouts[:, :24, :24]
    first = explanation_map(pixels[0], "rb_vgg6", members, zoo)
    assert explanation_map(pixels[0].copy(), "rb_vgg6", members, zoo) is first
    assert len(asked) == 1
    for one in pixels:
        explanation_map(one, "rb_vgg6", members, zoo)
    assert len(asked) == 3
    assert (len(explanations._maps), len(explanations._networks)) == (2, 1)
    again = explanation_map(pixels[0], "rb_vgg6", members, zoo)
    assert (len(asked), again.png) == (4, first.png)


def _counting(real, asked):
    def counted(self, cutout):
        asked.append(cutout)
        return real(self, cutout)

    return counted


def test_only_the_weights_of_the_run_explain_it(member):
    zoo, members = member
    pixels = np.zeros((24, 24), np.uint8)
    with pytest.raises(ExplanationError, match="no member 'kd_vgg6'"):
        explanation_map(pixels, "kd_vgg6", members, zoo)
    for wrong, where in (
        ([members[0] | {"sha256": "0" * 64}], zoo),
        ([members[0] | {"version": "8"}], zoo),
        (members, None),
    ):
        with pytest.raises(ExplanationError, match="name the --zoo that has them"):
            explanation_map(pixels, "rb_vgg6", wrong, where)


def test_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    create_archive("a.zarr", shard=64)
    append_batches("a.zarr", [random_batch(3)])
    write_run("a.zarr", "default", ["rb_vgg6", "kd_vgg6"], np.full((3, 2), 0.25, np.float32))
    as_shipped("a.zarr")

    def run(*options, code=0):
        done = CliRunner().invoke(app, ["explain", "a.zarr", *options])
        assert done.exit_code == code, done.output
        return done.exception if code else done.stdout

    said = json.loads(run("c1", "-o", "map.png", "--json"))
    assert [one["member"] for one in said] == ["rb_vgg6", "kd_vgg6"]
    assert said[0]["score"] == 0.25
    assert Image.open("map.png").size == (3 * 144, 144)
    assert "of an empty sky" in run("c1")
    for options, words in ((["c9"], "no cutout 'c9'"), (["c1", "-o", "map.gif"], "ends in .png")):
        error = run(*options, code=1)
        assert isinstance(error, DeepStreaksError)
        assert words in str(error)
