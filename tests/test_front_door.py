"""``import deepstreaks_dask as ds``: its names, its weight, its examples, and the accessor of its datasets."""

import doctest
import inspect
import shutil
import subprocess
import sys

import pytest

import deepstreaks_dask as ds
from deepstreaks_dask.simulation.nights import Night, write_images

PACKAGES = {"evaluation", "models", "plots", "readers", "review", "scoring", "training"}
NAMES = {
    *("Decision", "DeepStreaksError", "Zoo", "calibrate", "connect", "create_archive"),
    *("evaluate", "explain", "explore", "export_candidates", "ingest", "open_archive"),
    *("score", "search_thresholds", "simulate", "verify", "write_report"),
}
HEAVY = (
    *("bokeh", "dask", "distributed", "holoviews", "keras", "numpy", "pandas", "panel"),
    *("sklearn", "tensorflow", "xarray", "zarr"),
)
SIGNATURES = {
    "simulate": {"url": ..., "nights": 7, "per_night": 300, "seed": 0, "overwrite": False},
    "ingest": {
        **{"source": ..., "archive": ..., "reader": None, "table": None, "night": None},
        **{"columns": None, "labels": None, "client": None, "strict": False},
    },
    "search_thresholds": {"archive": ..., "run": "default", "fpr": None, "budget": None}
    | {"by": "family"},
    "calibrate": {"scores": ..., "method": "temperature"},
    "evaluate": {"scores": ..., "decision": None},
    "explain": {"cutout": ..., "member": ...},
    "explore": {"archive": ..., "run": "default"},
    "connect": {"scheduler": None, "workers": None, "adapt": None},
    "open_archive": {"url": ...},
    "verify": {"url": ...},
    "Zoo": {"url": None},
}


def test_all_and_dir_have_the_names_of_the_front_door():
    assert set(ds.__all__) == NAMES | PACKAGES
    assert set(ds.__all__) <= set(dir(ds))
    assert ds.__version__


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, deepstreaks_dask as ds; ds.DeepStreaksError\n"
        f"print(sorted(name for name in {HEAVY} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_opening_an_archive_loads_no_network_and_no_page(tmp_path):
    ds.simulate(tmp_path / "a.zarr", nights=1, per_night=2)
    code = (
        f"import sys, deepstreaks_dask as ds; ds.open_archive({str(tmp_path / 'a.zarr')!r}).streaks\n"
        "heavy = ('keras', 'tensorflow', 'panel', 'holoviews', 'bokeh', 'sklearn', 'distributed')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", SIGNATURES)
def test_names_take_what_the_front_door_says(name):
    takes = inspect.signature(getattr(ds, name)).parameters
    wanted = SIGNATURES[name]
    assert [one for one in takes if one in wanted] == list(wanted)
    for one, default in wanted.items():
        assert takes[one].default == (inspect.Parameter.empty if default is ... else default), one
    others = [one for one in takes.values() if one.name not in wanted]
    assert all(one.kind is one.KEYWORD_ONLY for one in others)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """What examples take for granted: a scored archive ``week.zarr``, a folder ``cutouts`` and its table."""
    folder = tmp_path_factory.mktemp("front")
    table = write_images(folder / "pictures", Night.draw(20260101, 5), 8)
    shutil.move(folder / "pictures" / "20260101", folder / "cutouts")
    text = table.read_text().replace("label_rb", "real").replace("20260101/", "cutouts/")
    (folder / "labels.csv").write_text(text)
    ds.simulate(folder / "week.zarr", nights=4, per_night=15, seed=1)
    with ds.connect("local", workers=1) as client:
        ds.score(folder / "week.zarr", ds.scoring.Families.from_zoo(), client)
    return folder


@pytest.fixture
def at_hand(scored, tmp_path, monkeypatch):
    """A copy of the folder to work in."""
    shutil.copytree(scored, tmp_path / "front")
    monkeypatch.chdir(tmp_path / "front")


def examples(name):
    finder = doctest.DocTestFinder(recurse=inspect.isclass(getattr(ds, name)), exclude_empty=True)
    return [test for test in finder.find(getattr(ds, name), f"ds.{name}") if test.examples]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_examples_of_a_name_run(name, at_hand):
    found = examples(name)
    assert found, f"ds.{name} has no section 'Examples'"
    assert "Examples\n" in inspect.getdoc(getattr(ds, name)) or inspect.isclass(getattr(ds, name))
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said = []
    for test in found:
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
