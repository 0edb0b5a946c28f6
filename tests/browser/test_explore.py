import functools
import re
import time
import tomllib

import numpy as np
import pytest
from helpers import served, visiting, write_run

from deepstreaks_dask.evaluation.decision_metrics import evaluate
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import open_run


@pytest.fixture(scope="module")
def address(explored):
    with served("dashboard", explored, "--no-show", "--port", "0") as url:
        yield url


@pytest.fixture(scope="module")
def opened(browser, address):
    options = {"permissions": ["clipboard-read", "clipboard-write"], "accept_downloads": True}
    with visiting(browser) as visit:
        page = visit(address, **options)
        page.wait_for_function(
            "document.querySelector('#path-words').textContent.includes('Purple')"
        )
        yield page


@pytest.fixture
def page(opened, explored):
    """One page for all tests, put back to where it began: opening one takes seconds."""
    opened.evaluate(
        """() => {
          document.querySelector("#large").close()
          document.querySelector("#filter").value = "*"
          document.querySelector("#filter").dispatchEvent(new Event("change"))
          document.querySelector("#reset").click()
          document.querySelector("#tab-decision").click()
          document.querySelector("#cell-words").textContent = ""
        }"""
    )
    assert_shows(opened, explored, {})
    return opened


def numbers(page, selector):
    return [int(text.replace(",", "")) for text in page.locator(selector).all_inner_texts()]


@functools.cache
def evaluated(explored, thresholds, run):
    return evaluate(open_run(explored, run), Decision(dict(thresholds)))


def assert_shows(page, explored, thresholds, run="default"):
    """Wait until the page says what evaluating anew at these thresholds says."""
    evaluation = evaluated(explored, tuple(sorted(thresholds.items())), run)
    joint = evaluation.joint
    wanted = {
        "tiles": [f"{evaluation.plausible:,}", f"{joint.tpr.value:.4f}", f"{joint.fpr.value:.4f}"],
        "confusion": [f"{n:,}" for n in (joint.tp, joint.fn, joint.fp, joint.tn)],
        "venn": [[region, f"{count:,}"] for region, count in evaluation.venn.items()],
    }
    page.wait_for_function(
        """wanted => {
          const texts = selector => [...document.querySelectorAll(selector)].map(e => e.textContent)
          const shown = {
            tiles: texts(".tile .value").slice(0, 3),
            confusion: texts("#confusion button b"),
            venn: [...document.querySelectorAll("#venn button")].map(
              b => [b.dataset.region, b.querySelector(".n").textContent]),
          }
          return JSON.stringify(shown) === JSON.stringify(wanted)
        }""",
        arg=wanted,
    )


def test_sliders_move_everything(page, explored):
    assert_shows(page, explored, {})
    page.locator("#range-rb").fill("0.8")
    assert_shows(page, explored, {"rb": 0.8})
    page.locator("#number-kd_vgg6").fill("0.33")
    page.locator("#number-kd_vgg6").press("Tab")
    assert_shows(page, explored, {"rb": 0.8, "kd_vgg6": 0.33})
    page.locator("#range-sl_vgg6").focus()
    page.keyboard.press("ArrowRight")  # 0.5 and a step of 0.005
    assert_shows(page, explored, {"rb": 0.8, "kd_vgg6": 0.33, "sl_vgg6": 0.505})
    page.get_by_role("button", name="follow kd").first.click()
    assert_shows(page, explored, {"rb": 0.8, "sl_vgg6": 0.505})
    page.get_by_role("button", name="All to 0.5").click()
    assert_shows(page, explored, {})
    assert page.locator("#range-rb").input_value() == "0.5"


def test_a_filter_counts_its_cutouts_only(page, explored):
    scores = open_run(explored)
    chosen = page.locator("#filter option").all_inner_texts()[1]
    page.select_option("#filter", label=chosen)
    part = scores.isel(cutout=(scores["filter"] == chosen).values)
    wanted = f"{evaluate(part).plausible:,}"
    page.wait_for_function(
        "wanted => document.querySelector('.tile .value').textContent === wanted", arg=wanted
    )


def gallery(page, title, total):
    page.wait_for_function(
        "([title, words]) => document.querySelector('#gallery-title').textContent === title"
        " && document.querySelector('#gallery-words').textContent.endsWith(words)",
        arg=[title, f"{total:,} cutouts." if total else "No cutouts."],
    )
    return page.locator("#gallery button")


def test_fields_regions_and_nights_show_their_cutouts(page, explored):
    scores = open_run(explored)
    evaluation = evaluate(scores)
    page.locator("[data-cell=tp]").click()
    cards = gallery(page, "True positives", evaluation.joint.tp)
    assert cards.count() == min(24, evaluation.joint.tp)
    loaded = (
        "() => [...document.querySelectorAll('#gallery img')].every(i => i.naturalWidth === 144)"
    )
    page.locator("#more").scroll_into_view_if_needed()
    page.evaluate("document.querySelectorAll('#gallery img').forEach(i => { i.loading = 'eager' })")
    page.wait_for_function(loaded)
    page.locator("#more").click()
    page.wait_for_function(
        f"document.querySelectorAll('#gallery button').length === {min(48, evaluation.joint.tp)}"
    )
    region = max(evaluation.venn, key=evaluation.venn.get)
    page.locator(f"[data-region='{region}']").click()
    words = (
        "Passing no family" if region == "none" else f"Passing just {region.replace('&', ' and ')}"
    )
    gallery(page, words, evaluation.venn[region])
    night = int(np.unique(scores["night"].values)[1])
    page.locator("#view-decision select.night").select_option(str(night))
    page.locator("#night-all").click()
    cards = gallery(page, f"Night {str(night)[:4]}-{str(night)[4:6]}-{str(night)[6:]}", 60)
    page.select_option("#order", "time")
    first = str(scores["id"].values[scores["night"].values == night][0])
    page.wait_for_function(
        "first => document.querySelector('#gallery b').textContent === first", arg=first
    )
    cards.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    assert dialog.locator("img").is_visible()
    assert page.locator("#large-title").inner_text() != first
    page.keyboard.press("ArrowLeft")
    assert page.locator("#large-title").inner_text() == first
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_a_member_shows_what_it_reacted_to(page, explored):
    page.locator("[data-cell=tp]").click()
    cards = gallery(page, "True positives", evaluate(open_run(explored)).joint.tp)
    cards.first.click()
    image = page.locator("#large-body img")
    plain = image.get_attribute("src")
    page.select_option("#explain", "rb_vgg6")
    page.wait_for_selector("#explained:has-text('Red speaks for a high score')")
    assert image.get_attribute("src") != plain
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 144
    page.select_option("#explain", "rb_resnet50")  # this run has made it up
    page.wait_for_selector("#explained:has-text('name the --zoo that has them')")
    assert image.get_attribute("src") == plain
    page.select_option("#explain", "rb_vgg6")
    page.wait_for_selector("#explained:has-text('Red speaks for a high score')")
    page.locator("#next").click()
    assert page.input_value("#explain") == ""
    assert page.inner_text("#explained") == ""


def test_a_point_of_a_night_shows_its_cutouts(page):
    """Click where the picture of candidates has its first night, again while it moves."""
    spot = """() => {
          const views = [...Bokeh.index.roots].flatMap(r => [...(r.child_views ?? [])]).flatMap(function all(v) {
            return [v, ...(v.child_views ?? []).flatMap(all)] })
          const figure = views.find(v => v.model?.title?.text === "Candidates by night")
          if (!figure) return null
          const dots = figure.model.renderers.find(r => r.data_source?.data.plausible).data_source.data
          const frame = figure.frame
          figure.el.scrollIntoView({ block: "center" })
          const now = figure.el.getBoundingClientRect()
          return [now.x + frame.x_scale.compute(dots.place[0]), now.y + frame.y_scale.compute(dots.plausible[0])]
        }"""

    def shown():
        page.mouse.click(*page.wait_for_function(spot).json_value())
        page.wait_for_timeout(500)
        return page.inner_text("#gallery-title").startswith("Candidates, night")

    until(page, shown)


def test_galleries_follow_the_thresholds(page, explored):
    page.locator("[data-cell=fp]").click()
    gallery(page, "False positives", evaluate(open_run(explored)).joint.fp)
    page.locator("#range-rb").fill("0.95")
    total = evaluate(open_run(explored), Decision({"rb": 0.95})).joint.fp
    gallery(page, "False positives", total)


def test_scores_by_bin_night_and_filter(page, explored):
    page.get_by_role("tab", name="Scores").click()
    page.select_option("#scores-name", "rb_vgg6")
    page.select_option("#scores-by", "night")
    assert page.locator("#scores-night").is_visible()
    page.locator("#bin-low").fill("0.2")
    page.locator("#bin-high").fill("0.7")
    page.locator("#bin-show").click()
    values = open_run(explored)["scores"].sel(model="rb_vgg6").values
    inside = (values >= np.float32(0.2)) & (values <= np.float32(0.7))
    gallery(page, "rb_vgg6 from 0.2 to 0.7", int(inside.sum()))


def drag(page):
    """Drag a box in the first joint view, and wait until it is marked and shown."""
    drawn(page, "rb and sl")
    page.evaluate("document.querySelector('#gallery-title').textContent = ''")
    figure = page.locator("#view-joint .card .bk-Figure").first
    figure.hover(position={"x": 90, "y": 60})  # which waits until it stays in its place
    place = figure.bounding_box()
    page.mouse.down()
    page.mouse.move(place["x"] + 330, place["y"] + 250, steps=5)
    page.mouse.up()
    page.wait_for_function(
        "document.querySelector('#gallery-title').textContent.startsWith('rb 0.')"
    )
    page.wait_for_function(
        "document.querySelector('#joint-words').textContent.includes('selected (purple)')"
    )


def test_a_box_in_a_joint_view_is_marked_and_shown(page):
    page.get_by_role("tab", name="Joint views").click()
    drag(page)
    page.locator("#joint-clear").click()
    page.wait_for_function(
        "document.querySelector('#joint-words').textContent === 'Nothing is selected.'"
    )


def test_drift_flags_the_odd_night(page, explored):
    page.get_by_role("tab", name="Drift").click()
    page.select_option("#drift-name", "rb_vgg6")
    page.wait_for_selector("#drift-table td")
    night = np.unique(open_run(explored)["night"].values)[2]
    assert page.locator("#drift-table tr").count() == 2
    assert page.locator("#drift-table td").first.inner_text().replace("-", "") == str(night)
    page.get_by_role("button", name="its scores").click()
    assert page.locator("#scores-night").input_value() == str(night)


def test_runs_are_compared_with_cutouts(page, explored):
    page.get_by_role("tab", name="Compare runs").click()
    page.select_option("#compare-run", "other")
    page.wait_for_selector("[data-change]")
    now, before = (
        Decision().apply(open_run(explored, run))["plausible"].values
        for run in ("default", "other")
    )
    changed = numbers(page, "[data-change]")
    assert sum(changed) == (now != before).sum()
    page.locator("[data-change]").first.click()
    page.wait_for_function(
        "document.querySelector('#gallery-title').textContent.includes('only, label')"
    )
    gallery(page, page.locator("#gallery-title").inner_text(), changed[0])


def test_thresholds_are_saved_loaded_and_exported(page, explored):
    page.locator("#range-rb").fill("0.7")
    page.locator("#range-kd_vgg6").fill("0.25")
    assert_shows(page, explored, {"rb": 0.7, "kd_vgg6": 0.25})
    page.locator("#set-name").fill("one per cent")
    page.get_by_role("button", name="Save").click()
    page.wait_for_function("document.querySelector('#saved').options.length === 2")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export TOML").click()
    table = tomllib.loads(download.value.path().read_text())
    assert download.value.suggested_filename == "one per cent.toml"
    assert table["thresholds"] == {"rb": 0.7, "kd_vgg6": 0.25}
    page.get_by_role("button", name="All to 0.5").click()
    assert_shows(page, explored, {})
    page.select_option("#saved", "one per cent")
    assert_shows(page, explored, {"rb": 0.7, "kd_vgg6": 0.25})


def copied(page):
    """Run the notebook cell that the page copies; give its names and what it displays."""
    page.evaluate("document.querySelector('#cell-words').textContent = ''")
    page.get_by_role("button", name="Copy a notebook cell").click()
    page.wait_for_function("document.querySelector('#cell-words').textContent.startsWith('Copied')")
    code = page.evaluate("navigator.clipboard.readText()")
    assert code == page.locator("#code").text_content()
    displayed, names = [], {}
    exec(code, {"display": displayed.append}, names)  # our own page's text, in a test
    assert names["view"] is not None
    return names, displayed


def drawn(page, title):
    """Wait for a figure of this title, and give the columns of what is drawn in it."""
    return page.wait_for_function(
        """title => {
          const all = views => views.flatMap(v => [v, ...all([...(v.child_views ?? [])])])
          const figure = all([...Bokeh.index.roots]).find(v => v.model?.title?.text === title)
          if (!figure) return null
          const sources = figure.model.renderers.map(r => r.data_source?.data).filter(Boolean)
          const plain = v => Array.isArray(v) || ArrayBuffer.isView(v) ? Array.from(v) : v
          return sources.map(data => Object.fromEntries(Object.entries(data).map(([k, v]) => [k, plain(v)])))
        }""",
        arg=title,
    ).json_value()


def until(page, done):
    deadline = time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline, "it never came to that"
        page.wait_for_timeout(100)


def test_the_notebook_cell_has_the_numbers_of_the_decision(page, explored):
    page.locator("#range-rb").fill("0.6")
    assert_shows(page, explored, {"rb": 0.6})
    page.locator("[data-cell=fn]").click()
    joint = evaluate(open_run(explored), Decision({"rb": 0.6})).joint
    gallery(page, "False negatives", joint.fn)
    names, displayed = copied(page)
    assert names["decision"] == Decision({"rb": 0.6})
    assert names["evaluation"].joint == joint
    assert numbers(page, "#confusion button b") == [joint.tp, joint.fn, joint.fp, joint.tn]
    assert numbers(page, "#venn .n") == list(names["evaluation"].venn.values())
    assert (
        page.locator("#gallery-words").inner_text().endswith(f"{len(names['places']):,} cutouts.")
    )
    shown = page.locator("#gallery b").all_inner_texts()
    assert {str(name) for name in names["pictures"]["id"].values} <= {
        str(open_run(explored)["id"].values[row])
        for row in names["exploration"].rows[names["places"]]
    }
    assert len(shown) == min(24, joint.fn)
    assert len(displayed) == 1
    page.select_option("#filter", "r")
    scores = open_run(explored)
    part = evaluate(scores.isel(cutout=(scores["filter"] == "r").values), Decision({"rb": 0.6}))
    assert 0 < part.joint.fn < joint.fn
    gallery(page, "False negatives", part.joint.fn)
    names, _ = copied(page)
    assert names["evaluation"].joint == part.joint
    assert len(names["places"]) == part.joint.fn


def test_the_notebook_cell_has_the_numbers_of_the_scores(page, explored):
    page.get_by_role("tab", name="Scores").click()
    page.select_option("#scores-name", "kd_vgg6")
    page.select_option("#scores-by", "label")
    page.locator("#scores-log").uncheck()
    names, _ = copied(page)
    scores, wanted = open_run(explored), []
    for words, groups in names["groups"].items():
        label = {"label 1": 1, "label 0": 0, "no label": -1}[words]
        chosen = scores["scores"].sel(model="kd_vgg6").values[scores["label_kd"].values == label]
        wanted.append(np.histogram(chosen, 100, (0, 1))[0].tolist())
        assert groups.tolist() == wanted[-1]

    def heights():  # each step has two corners
        bars = drawn(page, "Scores of kd_vgg6")
        return [bar["cutouts"][:-1:2] for bar in bars if "cutouts" in bar]

    until(page, lambda: heights() == wanted)
    assert len(names["groups"]) > 1

    def lines():
        shares = drawn(page, "Cumulative scores of kd_vgg6")
        return sum("share at or below" in line for line in shares)

    until(page, lambda: lines() == len(names["groups"]))
    for by in ("night", "filter"):
        page.select_option("#scores-by", by)
        names, _ = copied(page)
        assert sum(counts.sum() for counts in names["groups"].values()) == 300


@pytest.mark.parametrize("box", [False, True])
def test_the_notebook_cell_has_the_joint_views(page, box):
    page.get_by_role("tab", name="Joint views").click()
    page.select_option(".axis[data-pair='1'][data-axis='y']", "rb_vgg6")
    if box:
        drag(page)
    names, _ = copied(page)
    assert len(names["view"]) == 2
    if box:
        assert page.locator("#joint-words").inner_text().startswith(f"{len(names['places']):,} cut")


def test_the_notebook_cell_has_the_numbers_of_the_drift(page):
    page.get_by_role("tab", name="Drift").click()
    page.select_option("#drift-name", "rb_vgg6")
    page.wait_for_selector("#drift-table td")
    dots = [d for d in drawn(page, "Drift of the scores of rb_vgg6") if "psi" in d]
    names, _ = copied(page)
    table = names["exploration"].drift("rb_vgg6")
    assert sorted(v for d in dots for v in d["psi"]) == pytest.approx(sorted(table["psi"]))


def test_the_notebook_cell_has_the_numbers_of_the_comparison(page):
    page.get_by_role("tab", name="Compare runs").click()
    page.select_option("#compare-run", "other")
    page.wait_for_selector("[data-change]")
    names, _ = copied(page)
    changed = names["change"].table[["gained", "lost"]].to_numpy().ravel()
    assert numbers(page, "[data-change]") == changed[changed > 0].tolist()


def test_thresholds_are_found_and_taken_over(page, explored):
    page.get_by_role("tab", name="Find thresholds").click()
    page.locator("#search-value").fill("0.05")
    page.select_option("#search-by", "member")
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_selector("#use")
    names, displayed = copied(page)
    found = names["found"]
    assert found.rates["fpr"][0] <= 0.05
    rows = page.locator("#found table").first.locator("tr").all()[1:]
    for row, (_, rate) in zip(rows, found.rates.iterrows(), strict=True):
        cells = row.locator("td").all_inner_texts()
        assert cells[0] == f"{rate['nights']} {rate['part']}"
        assert cells[1] == f"{rate['tpr']:.4f}"
        assert cells[7] == str(rate["over"])
    assert displayed[0] is found.thresholds
    page.locator("#use").click()
    assert_shows(page, explored, found.decision.thresholds)
    page.locator("#search-value").fill("2")
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_text("give a number between 0 and 1").wait_for()
    assert page.get_by_role("button", name="Search", exact=True).is_enabled()


def test_the_other_run_has_its_own_page(visit, address, explored):
    page = visit(f"{address}/explore?run=other")
    page.wait_for_selector("#confusion button")
    assert page.locator("#run").input_value() == "other"
    assert_shows(page, explored, {}, "other")
    page.select_option("#run", "default")
    page.wait_for_url("**run=default")
    page.wait_for_selector("#confusion button")
    assert_shows(page, explored, {})


@pytest.mark.parametrize(("width", "dark"), [(420, False), (1400, True)])
def test_pages_fit_light_and_dark_and_any_width(visit, address, width, dark):
    page = visit(address, width=width, dark=dark)
    page.wait_for_selector("#confusion button")
    for now in (dark, not dark):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", background)[:3])) < 60) == now
        page.locator("#theme").click()


def test_families_of_one_member_go_by_its_name(visit, address, explored):
    """What the pictures show and what the controls beside them say must be the same."""
    names = ["rb_vgg6", "sl_vgg6", "kd_vgg6"]
    write_run(explored, "single", names, np.random.default_rng(0).random((300, 3), np.float32))
    page = visit(f"{address}/explore?run=single")
    page.get_by_role("tab", name="Joint views").click()  # which may be before the scores are loaded
    drawn(page, "rb_vgg6 and sl_vgg6")
    drawn(page, "sl_vgg6 and kd_vgg6")
    axes = page.eval_on_selector_all("select.axis", "all => all.map(axis => axis.value)")
    assert axes == ["rb_vgg6", "sl_vgg6", "sl_vgg6", "kd_vgg6"]
    assert page.locator("#curves").is_hidden()


def test_tabs_answer_to_arrow_keys(page):
    page.get_by_role("tab", name="Decision").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#view-scores").is_visible()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#view-search").is_visible()


def test_hostile_messages_are_refused_in_words(page, explored):
    for message in (
        {"do": "threshold", "name": "rb", "value": 7, "n": 1},
        {"do": "threshold", "name": "../x", "value": 0.5, "n": 1},
        {"do": "load", "name": "../../etc/passwd"},
        {"do": "save", "name": "../up"},
        {"do": "show", "selection": {"region": "rb&xx"}},
        {"do": "show", "selection": {"ranges": [["rb", "a", 1]]}},
        {"do": "compare", "run": "../default"},
        {"do": "drift", "name": "<script>"},
        {"do": "search", "target": "fpr", "value": "much", "by": "family"},
        {"do": "explain", "member": "../zoo", "place": 0},
        {"do": "explain", "member": "rb_vgg6", "place": 1_000_000_000},
        {"do": "search", "target": "__class__", "value": 1, "by": "family"},
    ):
        page.evaluate("message => window.deepstreaks.send(message)", message)
        page.wait_for_selector("#problem:not([hidden])")
        page.locator("#problem").click()
        page.wait_for_selector("#problem", state="hidden")
    assert_shows(page, explored, {})
