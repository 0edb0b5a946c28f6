"""All members on one split, and the page of their curves."""

import json

import pandas as pd
from typer.testing import CliRunner

from deepstreaks_dask.cli.main import app
from deepstreaks_dask.models.zoo.store import Zoo


def test_train_all_draws_the_curves_of_all_members(tiny, tmp_path):
    options = ["--families", "rb,kd", "--architectures", "vgg6", "--recipe", "r.toml"]
    recipe = tmp_path / "r.toml"
    recipe.write_text("epochs = 4\nbatch = 16\ntest = 0.25\nvalidation = 0.2\n")
    options[-1] = str(recipe)
    arguments = ["train-all", str(tiny), *options, "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert {row["member"] for row in result["members"]} == {"rb_vgg6", "kd_vgg6"}
    records = {
        name: json.loads((tmp_path / "out" / name / "record.json").read_text())
        for name in ("rb_vgg6", "kd_vgg6")
    }
    assert records["rb_vgg6"]["split"] == records["kd_vgg6"]["split"]
    scores = pd.read_csv(tmp_path / "out" / "test_scores.csv")
    assert set(scores["night"]) == set(records["rb_vgg6"]["split"]["test"])
    assert len(scores) == 80
    page = (tmp_path / "out" / "training.html").read_text()
    for words in ("rb_vgg6, validation", "kd_vgg6, training", "simulated", "ROC", "Confusion"):
        assert words in page
    assert "epochs 4" in page

    again = CliRunner().invoke(app, [*arguments, "--zoo", str(tmp_path / "zoo")])
    assert json.loads(again.stdout) == result
    assert {card.ref for card in Zoo(tmp_path / "zoo").list()} == {"rb_vgg6@1", "kd_vgg6@1"}
