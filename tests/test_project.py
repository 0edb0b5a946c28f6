"""What the project says of itself agrees with what it is."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from deepstreaks_dask.models.zoo.store import Zoo

ROOT = Path(__file__).parents[1]


def test_environment_equals_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert pip["pip"] == project["dependencies"]
    assert conda == [f"python{project['requires-python']}", "pip"]


def test_readme_has_its_two_commands_as_one_line_each():
    readme = (ROOT / "README.md").read_text()
    for name in ("main-job", "tests"):
        (block,) = re.findall(rf"<!-- {name} -->\n```bash\n(.*?)```", readme, re.S)
        assert len(block.strip().splitlines()) == 1


def test_shipped_weights_are_whole_small_and_described():
    zoo = Zoo()
    assert zoo.verify() == []
    cards = zoo.list()
    assert {card.family for card in cards} >= {"rb", "sl", "kd"}
    folder = ROOT / "deepstreaks_dask" / "models" / "weights"
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 20e6
    described = (folder / "README.md").read_text()
    for card in cards:
        assert card.training_data["simulation"]
        assert {"seed", "epochs", "learning_rate"} <= set(card.recipe)
        figure = card.metrics["recall" if card.classes else "auc"]
        assert f"{figure:.4f}" in described, f"the model card misstates {card.ref}"


def test_shipped_networks_of_sequences_are_smaller_than_10_mb():
    cards = [card for card in Zoo().list() if card.classes]
    assert {card.architecture for card in cards} == {"rcnn", "taonet"}
    folder = ROOT / "deepstreaks_dask" / "models" / "weights"
    files = [folder / card.name / card.version / card.file for card in cards]
    assert sum(file.stat().st_size for file in files) < 10e6


@pytest.mark.parametrize("path", ["LICENSE", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff"])
def test_a_project_has_these(path):
    assert (ROOT / path).stat().st_size > 200


def test_who_sends_work_or_reads_cards_waits_for_no_keras():
    """It takes seconds to import, and half a gigabyte."""
    names = "scoring.campaign", "models.zoo.store", "cli.quickstart", "service.service"
    code = "".join(f"import deepstreaks_dask.{name}\n" for name in names)
    code += "import sys\nassert 'keras' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
