"""What the project says of itself agrees with what it is."""

import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from deepstreaks_dask.models.zoo.store import Zoo

ROOT = Path(__file__).parents[1]


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA = {
    "dask[array]": "dask-core",
    "dask-cuda[cu12]": "dask-cuda",
    "light-curve": "light-curve-python",
    "prometheus-client": "prometheus_client",
    "psycopg[binary]": "psycopg",
    "tensorflow[and-cuda]": "tensorflow",
    "uvicorn[standard]": "uvicorn-standard",
}
"""Packages that have another name on conda-forge than on PyPI."""


def conda_packages(requirements):
    """Give the bounds that pyproject sets, by the packages' names on conda-forge."""
    packages = dict(requirement.split(">=") for requirement in requirements)
    return {CONDA.get(name, name): bound for name, bound in packages.items()}


@pytest.mark.parametrize(
    ("name", "also", "own"),
    [
        ("environment.yml", ["gpu"], {"cuda-version": "12,<13"}),
        ("environment-cpu.yml", [], {}),
    ],
)
def test_conda_environment_equals_pyproject(name, also, own):
    (promised,) = re.findall(r"\[(.*)\]", *EXTRAS["all"])
    wanted = {**conda_packages(PROJECT["dependencies"]), **own}
    for extra in [*promised.split(","), *also]:
        wanted |= conda_packages(EXTRAS[extra])
    environment = yaml.safe_load((ROOT / name).read_text())
    python, pip, *packages, by_pip = environment["dependencies"]
    assert (python, pip) == (f"python{PROJECT['requires-python']}", "pip")
    assert by_pip == {"pip": ["."]}
    assert len(packages) == len(wanted)
    assert dict(package.split("=cuda*")[0].split(">=") for package in packages) == wanted
    assert {"conda-forge", "nodefaults"} <= set(environment["channels"])
    assert ("tensorflow>=2.20=cuda*" in packages) == ("gpu" in also)


def test_all_has_every_extra_but_the_gpus_and_those_for_developers():
    (inside,) = re.findall(r"\[(.*)\]", *EXTRAS["all"])
    assert set(inside.split(",")) == EXTRAS.keys() - {
        "all",
        "docs",
        "gpu",
        "notebooks",
        "sweep",
        "test",
    }


def test_pythons_are_those_that_are_tested():
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    pythons = [f"3.{minor}" for minor in range(int(low), int(high))]
    start = "Programming Language :: Python :: 3."
    classified = [line[-4:] for line in PROJECT["classifiers"] if line.startswith(start)]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert pythons == classified == workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ("vendor.github-workflows", ".github/workflows/ci.yml"),
        ("vendor.readthedocs", ".readthedocs.yaml"),
        ("vendor.citation-file-format", "CITATION.cff"),
    ],
)
def test_services_understand_their_files(schema, path):
    """By the schemas that check-jsonschema brings along."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pre_commit_runs_the_versions_that_pyproject_allows():
    path = ROOT / ".pre-commit-config.yaml"
    subprocess.run([sys.executable, "-m", "pre_commit", "validate-config", path], check=True)
    hooks = yaml.safe_load(path.read_text())["repos"]
    for repository in hooks:
        for hook in repository["hooks"]:
            for requirement in hook.get("additional_dependencies", ()):
                assert requirement in EXTRAS["test"]


@pytest.mark.parametrize("name", ["run", "lowest"])
def test_scripts_of_ci_are_sound(name):
    script = ROOT / ".ci" / name
    shellcheck = Path(sys.executable).with_name("shellcheck")
    assert script.stat().st_mode & stat.S_IXUSR
    subprocess.run([shellcheck, "--enable=quote-safe-variables", script], check=True)
    assert f".ci/{name}" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_the_lowest_versions_are_tested_by_tests_that_there_are():
    paths = re.findall(r"tests/\S+", (ROOT / ".ci" / "lowest").read_text())
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_readme_has_its_two_commands_as_one_line_each():
    readme = (ROOT / "README.md").read_text()
    for name in ("main-job", "tests"):
        (block,) = re.findall(rf"<!-- {name} -->\n```bash\n(.*?)```", readme, re.S)
        assert len(block.strip().splitlines()) == 1


def test_ways_through_the_code_are_short_and_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.split("### Five ways through the code")[1].split("\n## ")[0]
    ways = [re.findall(r"`([\w/]+\.(?:py|js))`", line) for line in section.splitlines()]
    ways = [way for way in ways if way]
    assert len(ways) == 5
    for way in ways:
        assert len(way) <= 12
        assert [f for f in way if not (ROOT / "deepstreaks_dask" / f).is_file()] == []


def test_no_module_is_longer_than_650_lines():
    modules = (ROOT / "deepstreaks_dask").rglob("*.py")
    lengths = {path: len(path.read_text().splitlines()) for path in modules}
    assert {path.name: length for path, length in lengths.items() if length > 650} == {}


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
