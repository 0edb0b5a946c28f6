"""Pictures show the numbers that they were given, in colours that can be read on any page."""

import json
import re
import subprocess
import sys

import holoviews as hv
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from bokeh.embed import json_item

from deepstreaks_dask import plots
from deepstreaks_dask.evaluation.decision_metrics import evaluate
from deepstreaks_dask.evaluation.metrics import Confusion


@pytest.fixture(scope="module")
def scores():
    """Two nights of 200 cutouts: labels, some of them unknown, and a few missing scores."""
    rng = np.random.default_rng(5)
    label = rng.integers(0, 2, 400).astype(np.int8)
    noise = rng.normal(0, 2, (400, 1)) + rng.normal(0, 1, (400, 4))
    values = 1 / (1 + np.exp(-(2 * (2 * label[:, None] - 1) + noise)))
    values[:3] = np.nan
    known = np.where(np.arange(400) < 50, -1, label).astype(np.int8)
    return xr.Dataset(
        {"scores": (("cutout", "model"), values.astype(np.float32))},
        {
            "model": ["rb_vgg6", "rb_resnet50", "sl_vgg6", "kd_vgg6"],
            "night": ("cutout", np.repeat([0, 20260102], 200)),
            "kind": ("cutout", np.where(label == 1, "nea", "dipole").astype(object)),
            **{f"label_{family}": ("cutout", known) for family in ("rb", "sl", "kd", "os")},
        },
    )


@pytest.fixture(scope="module")
def measured(scores):
    return evaluate(scores)


def parts(overlay, kind):
    return [element for element in overlay if isinstance(element, kind)]


def test_histogram_counts_every_score_once(scores):
    drawn = parts(plots.score_histogram(scores, "sl_vgg6", threshold=0.7), hv.Curve)
    assert {curve.label for curve in drawn} == {"label 1", "label 0", "no label"}
    heights = [curve.dimension_values(1)[:-1] for curve in drawn]
    assert sum(h[h >= 1].sum() for h in heights) == 397
    assert min(h.min() for h in heights) == 0.5  # empty bins, since a logarithmic axis has no zero


ALONE = """
import importlib, os, sys, holoviews
for module in sys.argv[1:]:
    child = os.fork()
    if not child:
        importlib.import_module(f"deepstreaks_dask.plots.{module}")
        holoviews.VLine(0).opts(color="red")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, f"{module} does not draw alone"
"""


def test_each_module_draws_without_the_others():
    """Each is imported by a process of its own, all of which share what importing HoloViews costs."""
    modules = ("nights", "scores", "sequences", "training")
    subprocess.run([sys.executable, "-c", ALONE, *modules], check=True)


def binned(scores, member):
    """Counts of a member's scores in 400 bins, by label."""
    chosen = scores["scores"].sel(model=member).values
    labels = scores[f"label_{member[:2]}"].values
    names = {1: "label 1", 0: "label 0", -1: "no label"}
    return {
        name: np.histogram(chosen[labels == label], 400, (0, 1))[0] for label, name in names.items()
    }


def test_threshold_is_drawn_where_it_is(scores):
    for drawn in (
        plots.score_histogram(scores, "sl_vgg6", threshold=0.7),
        plots.ecdf(binned(scores, "sl_vgg6"), "Scores", threshold=0.7),
    ):
        (line,) = parts(drawn, hv.VLine)
        assert line.data == 0.7


def test_ecdf_is_the_share_at_or_below(scores):
    drawn = parts(plots.ecdf(binned(scores, "kd_vgg6"), "Scores"), hv.Curve)
    (curve,) = [curve for curve in drawn if curve.label == "label 1"]
    chosen = scores["scores"].values[(scores["label_kd"] == 1).values, 3]
    chosen = chosen[~np.isnan(chosen)]
    score, share = curve.dimension_values(0), curve.dimension_values(1)
    assert (np.diff(share) >= 0).all()
    for limit in (0.2, 0.5, 0.99):
        expected = (chosen <= limit).mean()
        assert share[score <= limit].max() == pytest.approx(expected, abs=1 / 400)


def test_roc_passes_through_the_decision(measured):
    joint = measured.joint
    drawn = plots.roc(measured.curves, at=(joint.fpr.value, joint.tpr.value))
    curve = next(c for c in parts(drawn, hv.Curve) if c.label == "decision")
    (point,) = parts(drawn, hv.Scatter)
    x, y = point.dimension_values(0)[0], point.dimension_values(1)[0]
    assert x == pytest.approx(joint.fpr.value)
    # all thresholds are equal, so the decision is a point of its own curve
    table = measured.curves["decision"]
    assert ((table["fpr"] == joint.fpr.value) & (table["tpr"] == joint.tpr.value)).any()
    assert (curve.dimension_values(0) > 0).all()
    assert y <= curve.dimension_values(1).max()


def test_curves_of_a_perfect_network_are_drawn():
    perfect = pd.DataFrame({"fpr": [0, 0, 1], "tpr": [0, 1, 1], "precision": [np.nan, 1, 0.5]})
    curve = plots.roc({"rb_vgg6": perfect}).get(0)
    assert curve.dimension_values(1).tolist() == [1, 1]
    drawn = parts(plots.precision_recall({"rb_vgg6": perfect}), hv.Curve)
    assert drawn[0].dimension_values(1).tolist() == [1, 0.5]


def test_confusion_says_counts_and_shares():
    words = [text.data[2] for text in parts(plots.confusion(Confusion(9, 1, 0, 1200)), hv.Text)]
    assert words[:4] == ["9", "90.00 % of 10", "1", "10.00 % of 10"]
    assert words[-2:] == ["1,200", "100.00 % of 1,200"]
    words = [text.data[2] for text in parts(plots.confusion(Confusion(9, 1, 0, 0)), hv.Text)]
    assert words[-1] == "none labelled so"


@pytest.mark.parametrize("which", ["tpr", "fpr"])
def test_night_rates_show_wilson_intervals(measured, which):
    drawn = plots.night_rates(measured.nights, which)
    (bars,) = parts(drawn, hv.Segments)
    assert bars.dimension_values(1) == pytest.approx(measured.nights[f"{which}_low"])
    assert bars.dimension_values(3) == pytest.approx(measured.nights[f"{which}_high"])
    (dots,) = parts(drawn, hv.Scatter)
    assert dots.dimension_values(1) == pytest.approx(measured.nights[which])
    assert dots.dimension_values("night").tolist() == ["not known", "2026-01-02"]
    figure = hv.render(drawn)
    assert figure.y_range.start <= bars.dimension_values(1).min()
    assert figure.y_range.end >= bars.dimension_values(3).max()


def test_published_figures_are_marked(measured):
    (band,) = parts(plots.night_rates(measured.nights, "tpr"), hv.HSpan)
    (line,) = parts(plots.night_rates(measured.nights, "fpr"), hv.HLine)
    assert (band.data, line.data) == ([0.96, 0.98], 0.01)
    assert "Duev" in hv.render(plots.night_rates(measured.nights, "tpr")).below[0].axis_label


def test_a_thousand_nights_keep_their_axis_legible():
    many = pd.DataFrame(
        {"night": 20260101, "n_pos": 9, "tp": 9, "tpr": 1.0, "tpr_low": 0.7, "tpr_high": 1.0},
        index=range(1000),
    )
    axis = hv.render(plots.night_rates(many, "tpr")).below[0]
    assert len(axis.ticker.ticks) <= 12


def test_venn_bars_are_as_long_as_their_counts(measured):
    drawn = plots.venn(measured.venn)
    (bars,) = parts(drawn, hv.Rectangles)
    assert sorted(bars.dimension_values(2)) == sorted(measured.venn.values())
    labels = hv.render(drawn).left[0].major_label_overrides
    longest = int(np.argmax(bars.dimension_values(2)))
    region = max(measured.venn, key=measured.venn.get)
    expected = [f"{'●' if n in region.split('&') else '○'} {n}" for n in ("rb", "sl", "kd")]
    assert labels[longest] == "  ".join(expected)


def test_gallery_is_the_right_way_up():
    cutout = np.zeros((144, 144), np.uint8)
    cutout[0] = 255
    layout = plots.gallery(np.stack([cutout, cutout]), ["one", "two"], columns=2)
    image = layout.traverse(lambda element: element, [hv.Image])[0]
    assert image.dimension_values(2, flat=False)[-1].min() == 255  # the greatest y is on top
    assert len(layout) == 2
    assert isinstance(plots.gallery(np.empty((0, 144, 144), np.uint8), []), hv.Text)


def test_nothing_to_show_is_said_in_words(scores):
    bare = scores.drop_vars([f"label_{family}" for family in ("rb", "sl", "kd", "os")])
    empty = bare.isel(cutout=slice(0, 3))  # none of these is scored
    result = evaluate(bare)
    said = [
        plots.score_histogram(empty, "rb_vgg6"),
        plots.ecdf({}, "Scores"),
        plots.roc(result.curves),
        plots.precision_recall(result.curves),
        plots.confusion(result.joint),
        plots.night_rates(result.nights, "tpr"),
        plots.night_rates(result.nights, "fpr"),
        plots.venn({"rb": 0, "none": 0}),
    ]
    for element in said:
        assert isinstance(element, hv.Text)
        assert element.data[2].lower().startswith(("no ", "rb_vgg6: no "))
        hv.render(element)
    # scores without labels still have a distribution
    assert [c.label for c in plots.score_histogram(bare, "rb_vgg6")] == ["no label"]


@pytest.fixture(scope="module")
def everything(scores, measured):
    return [
        plots.score_histogram(scores, "sl_vgg6", threshold=0.5),
        plots.ecdf(binned(scores, "sl_vgg6"), "Scores", threshold=0.5),
        plots.roc(measured.curves, at=(0.1, 0.9)),
        plots.precision_recall(measured.curves),
        plots.confusion(measured.joint),
        plots.night_rates(measured.nights, "tpr"),
        plots.night_rates(measured.nights, "fpr"),
        plots.venn(measured.venn),
        plots.nothing("nothing"),
    ]


def test_every_colour_has_one_for_dark_pages(everything):
    for element in everything:
        text = json.dumps(json_item(hv.render(element))["doc"]["roots"])
        used = set(re.findall(r'"(#[0-9a-fA-F]{3,8})"', text))
        assert used
        assert used <= set(plots.DARK)


def luminance(colour):
    channels = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, two):
    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", ["light", "dark"])
def test_contrast_meets_wcag(page):
    colour = (lambda name: name) if page == "light" else plots.DARK.get
    ground = colour(plots.CARD)
    for text in (plots.INK, plots.SOFT):
        assert contrast(colour(text), ground) >= 4.5
    for line in (plots.BLUE, plots.ORANGE, plots.GREEN, plots.PURPLE):
        assert contrast(colour(line), ground) >= 3


def test_axes_are_named(everything):
    for element in everything[:-1]:
        figure = hv.render(element)
        assert figure.below[0].axis_label
        assert figure.title.text


def _glyphs(drawn):
    """Those of a figure's renderers that draw data, without its lines and bands."""
    return [renderer for renderer in drawn.renderers if hasattr(renderer, "data_source")]


def test_nights_follow_without_being_drawn_anew():
    nights = pd.DataFrame(
        {
            "night": [20260101, 20260102, 20260103],
            "tp": [9, 0, 5],
            "n_pos": [10, 0, 10],
            "tpr": [0.9, np.nan, 0.5],
            "tpr_low": [0.6, np.nan, 0.2],
            "tpr_high": [0.98, np.nan, 0.8],
            "plausible": [12, 3, 0],
            "cutouts": [50, 40, 30],
        }
    )
    columns = plots.night_columns(nights, "tpr")
    assert columns.names == ["2026-01-01", "2026-01-03"]
    assert columns.dots["counts"] == ["9 of 10", "5 of 10"]
    drawn = hv.render(plots.night_rates(nights, "tpr"))
    for part in (columns.dots, columns.intervals):
        sources = [
            r.data_source.data for r in _glyphs(drawn) if set(part) <= set(r.data_source.data)
        ]
        assert len(sources) == 1
        for name, values in part.items():
            assert list(sources[0][name]) == list(values)
    drawn = hv.render(plots.night_candidates(nights))
    assert list(_glyphs(drawn)[0].data_source.data["plausible"]) == [12, 3, 0]
    assert drawn.y_range.end >= 12


def test_histograms_of_counts_are_those_of_scores():
    counts = {"label 1": np.array([0, 2, 5]), "other nights": np.array([1, 0, 0])}
    drawn = hv.render(plots.histogram(counts, "Scores", threshold=0.3, log=False))
    heights = [list(r.data_source.data["cutouts"]) for r in _glyphs(drawn)]
    # each bin's step has two ends
    assert heights[0][:6] == [0, 0, 2, 2, 5, 5]
    assert heights[1][:6] == [1, 1, 0, 0, 0, 0]
    shares = _glyphs(hv.render(plots.ecdf(counts, "Scores")))[0].data_source.data
    np.testing.assert_allclose(np.unique(shares["share at or below"]), [0, 2 / 7, 1])
    assert isinstance(plots.histogram({}, "Scores"), hv.Text)


def test_drift_marks_flagged_nights():
    table = pd.DataFrame(
        {
            "night": [20260101, 20260102, 20260103],
            "cutouts": [10, 10, 10],
            "psi": [0.01, 0.9, 0.02],
            "ks": [0.1, 0.6, 0.1],
            "p": [0.9, 1e-9, 0.9],
            "flagged": [False, True, False],
        }
    )
    drawn = hv.render(plots.drift(table, "rb_vgg6"))
    psi = [list(r.data_source.data["psi"]) for r in _glyphs(drawn) if "psi" in r.data_source.data]
    assert psi == [[0.01, 0.02], [0.9]]
    assert isinstance(plots.drift(table.iloc[:1], "rb_vgg6"), hv.Text)


def test_campaigns_are_drawn_over_time():
    written = pd.DataFrame({"time": [1e9, 1e9 + 60], "cutouts": [100, 250]})
    drawn = hv.render(plots.campaign_history(written, 1000))
    assert list(_glyphs(drawn)[0].data_source.data["cutouts"])[-1] == 250
    assert drawn.y_range.end >= 1000
    assert isinstance(plots.campaign_history(written.iloc[:0], 10), hv.Text)


def test_a_light_curve_has_a_colour_a_filter_and_leaves_out_what_was_not_measured():
    days, flux = np.arange(4.0), np.array([1.0, np.nan, 3.0, 4.0])
    drawn = hv.render(plots.light_curve(days, flux, np.full(4, 0.5), np.array(list("gggr"))))
    sources = [r.data_source.data for r in _glyphs(drawn)]
    assert [list(s["flux"]) for s in sources if "flux" in s] == [[1, 3], [4]]
    assert [list(s["y0"]) for s in sources if "y0" in s] == [[0.5, 2.5], [3.5]]
    assert isinstance(plots.light_curve(days, flux * np.nan, flux, np.array(list("gggr"))), hv.Text)
