"""``import deepstreaks_dask as ds``: its names, its weight, its examples, and the accessor of its datasets."""

import doctest
import inspect
import shutil
import subprocess
import sys
import urllib.request
from contextlib import nullcontext

import holoviews as hv
import numpy as np
import pandas as pd
import pytest
from dask.distributed import Client

import deepstreaks_dask as ds
from deepstreaks_dask.scoring import campaign, cluster
from deepstreaks_dask.simulation.nights import Night, write_images

PACKAGES = {"evaluation", "models", "plots", "readers", "review", "scoring", "training"}
NAMES = {
    *("Decision", "DeepStreaksError", "Ensemble", "Zoo", "calibrate", "connect", "create_archive"),
    *("evaluate", "explain", "explore", "export_candidates", "ingest", "open_archive", "open_run"),
    *("score", "search_thresholds", "simulate", "train", "verify", "write_report"),
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
    "score": {"archive": ..., "ensemble": None, "client": None, "run": "default", "mode": "all"},
    "train": {"archive": ..., "families": ..., "recipe": "duev2019", "out": ...},
    "open_run": {"url": ..., "run": "default"},
    "verify": {"url": ...},
    "Zoo": {"url": None},
}


EXAMPLE = """
import deepstreaks_dask as ds

ds.simulate("week.zarr", nights=7, per_night=300, seed=1)   # or ds.ingest("cutouts/20260101", "week.zarr")
cutouts = ds.open_archive("week.zarr")
cutouts.streaks.gallery()
scores = ds.score("week.zarr")                              # interrupted? call it again
found = ds.evaluate(scores)                                 # rates with 95 % intervals
best = ds.search_thresholds("week.zarr", fpr=0.01)
decided = best.decision.apply(scores)
decided.streaks.plot.nights()
ds.export_candidates(decided, "candidates.csv")
ds.write_report("week.zarr", "report.html", thresholds=best.decision.thresholds)
"""


def test_the_example_of_the_front_door_runs(tmp_path, monkeypatch):
    """With fewer cutouts, and a worker in place of one a core."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "count_cores", lambda: 1)
    names = {}
    exec(EXAMPLE.replace("nights=7, per_night=300", "nights=4, per_night=100"), names)
    found, decided = names["found"], names["decided"]
    assert found.cutouts == found.decided == 400
    assert found.joint.tpr.low > 0.9
    assert found.joint.fpr.high < 0.05
    assert len(pd.read_csv("candidates.csv")) == int(decided["plausible"].sum()) > 0
    assert (tmp_path / "report.html").stat().st_size > 100_000


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
    positional = [one.name for one in takes.values() if one.kind is not one.KEYWORD_ONLY]
    assert positional == list(wanted)[: len(positional)]
    for one, default in wanted.items():
        assert takes[one].default == (inspect.Parameter.empty if default is ... else default), one
    others = [one for one in takes.values() if one.name not in wanted]
    assert all(one.kind is one.KEYWORD_ONLY for one in others)


@pytest.fixture(scope="module")
def worker():
    """Client of a worker in this process, which has imported Keras and is where the test is."""
    here = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with Client(processes=False, **here) as client:
        yield client


@pytest.fixture(scope="module")
def scored(tmp_path_factory, worker):
    """What examples take for granted: a scored archive ``week.zarr``, a folder ``cutouts`` and its table."""
    folder = tmp_path_factory.mktemp("front")
    table = write_images(folder / "pictures", Night.draw(20260101, 5), 8)
    shutil.move(folder / "pictures" / "20260101", folder / "cutouts")
    text = table.read_text().replace("label_rb", "real").replace("20260101/", "cutouts/")
    (folder / "labels.csv").write_text(text)
    ds.simulate(folder / "week.zarr", nights=4, per_night=15, seed=1)
    ds.score(folder / "week.zarr", client=worker)
    return folder


@pytest.fixture
def at_hand(scored, worker, tmp_path, monkeypatch):
    """A copy of the folder to work in, and a worker that is there already."""
    monkeypatch.setattr(campaign, "connect", lambda **_: nullcontext(worker))
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


def test_the_examples_of_the_accessor_run(at_hand):
    from deepstreaks_dask.accessor import StreaksAccessor

    (test,) = doctest.DocTestFinder(recurse=False).find(StreaksAccessor, "streaks")
    runner, said = doctest.DocTestRunner(), []
    runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


@pytest.fixture(scope="module")
def scores(scored):
    return ds.open_run(scored / "week.zarr")


@pytest.fixture(scope="module")
def cutouts(scored):
    return ds.open_archive(scored / "week.zarr")


def title(picture):
    return hv.Store.lookup_options("bokeh", picture, "plot").kwargs["title"]


def test_galleries_show_the_first_the_surest_and_the_plausible(cutouts, scores):
    first = list(cutouts.streaks.gallery(n=3))
    np.testing.assert_array_equal(first[0].data, cutouts["cutouts"][0].values)
    assert len(first) == 3
    joint = scores["scores"].min("model")
    (surest,) = scores.streaks.gallery(n=1)
    assert title(surest).endswith(f": {float(joint.max()):.3f}")
    decided = scores.streaks.decide(kd=0.9)
    assert len(decided.streaks.gallery(n=1000)) == int(decided["plausible"].sum())


def test_a_gallery_of_a_part_shows_that_part(scores, cutouts):
    part = scores.isel(cutout=slice(40, 45))
    (picture,) = part.streaks.gallery(n=1)
    best = 40 + int(part["scores"].min("model").argmax("cutout"))
    np.testing.assert_array_equal(picture.data, cutouts["cutouts"][best].values)


def test_decide_takes_thresholds_by_name(scores):
    expected = ds.Decision({"kd": 0.9, "rb": 0.2}).apply(scores)
    decided = scores.streaks.decide({"rb": 0.2}, kd=0.9)
    np.testing.assert_array_equal(decided["plausible"], expected["plausible"])
    everything = scores.streaks.decide(default=0.0)
    assert everything["plausible"].all()
    with pytest.raises(ds.DeepStreaksError, match="did you mean"):
        scores.streaks.decide(rb_vg6=0.9)


def test_an_evaluation_of_a_decided_dataset_is_of_its_decision(scores):
    decision = ds.Decision({"kd": 0.99, "rb": 0.3})
    found = decision.apply(scores).streaks.evaluate()
    assert found.joint == ds.evaluate(scores, decision).joint
    assert list(found.members["threshold"]) == [decision.threshold(m) for m in found.members.member]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("scores", ("rb",)),
        ("scores", ("rb_vgg6",)),
        *((kind, ()) for kind in ("roc", "precision_recall", "confusion", "venn", "nights")),
        *(("nights", (which,)) for which in ("tpr", "fpr", "candidates")),
    ],
)
def test_every_plot_is_drawn(scores, kind, options):
    hv.render(getattr(scores.streaks.decide(kd=0.9).streaks.plot, kind)(*options))


def test_plots_say_what_they_cannot_draw(scores, cutouts):
    with pytest.raises(ds.DeepStreaksError, match="has no scores"):
        cutouts.streaks.plot.roc()
    with pytest.raises(ds.DeepStreaksError, match="no scores of 'kdd': did you mean 'kd'"):
        scores.streaks.plot.scores("kdd")
    with pytest.raises(ds.DeepStreaksError, match="choose one of tpr, fpr, candidates"):
        scores.streaks.plot.nights("rates")


def test_results_have_tables_for_notebooks_that_load_nothing(scored, scores):
    best = ds.search_thresholds(scored / "week.zarr", fpr=0.1)
    shown = {
        "Evaluation": ds.evaluate(scores),
        "ThresholdSearch": best,
        "Calibration": ds.calibrate(scores),
        "Decision": best.decision,
        "Ensemble": ds.Ensemble.from_zoo(),
        "Zoo": ds.Zoo(),
    }
    for name, one in shown.items():
        html = one._repr_html_()
        assert "<table" in html, name
        assert not any(word in html for word in ("http", "<script", "src=", "url(")), name
        assert len(repr(one)) < 400, name
    assert "[" in shown["Evaluation"]._repr_html_(), "a rate has its interval"
    assert best.rates["part"].iloc[-1] in best._repr_html_()


def test_an_attribution_map_is_a_picture(cutouts):
    found = ds.explain(cutouts.isel(cutout=0), "kd_vgg6")
    assert found.shares.shape == (144, 144, 1)
    assert 'src="data:image/png;base64,' in found._repr_html_()
    hv.render(found.plot())
    with pytest.raises(ds.DeepStreaksError, match="choose one"):
        ds.explain(cutouts, "kd_vgg6")
    with pytest.raises(ds.DeepStreaksError, match="did you mean 'kd_vgg6'"):
        ds.explain(cutouts.isel(cutout=0), "kd_vg6")


def test_the_dashboard_is_served_where_a_notebook_shows_it(scored):
    dashboard = ds.explore(scored / "week.zarr")
    try:
        html = dashboard._repr_html_()
        assert f'src="{dashboard.url}"' in html
        with urllib.request.urlopen(dashboard.url, timeout=60) as page:
            assert b"explore" in page.read()
    finally:
        dashboard.stop()
    with pytest.raises(ds.DeepStreaksError, match="has no run 'defualt': did you mean 'default'"):
        ds.explore(scored / "week.zarr", "defualt")
