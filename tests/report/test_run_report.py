"""The page holds what it should, loads nothing, and lets no user data become markup."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import fsspec
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import random_batch, write_run
from PIL import Image

from deepstreaks_dask.archive.append import Quarantined, append_batches
from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.exposure_check import ExposureComparison
from deepstreaks_dask.evaluation.sequence_metrics import SequenceEvaluation
from deepstreaks_dask.plots.style import DARK
from deepstreaks_dask.report import run_report as report
from deepstreaks_dask.report.recovery import write_map
from deepstreaks_dask.report.run_report import write_report
from deepstreaks_dask.report.sequence_report import write_comparison, write_evaluation
from deepstreaks_dask.scoring.runs import open_run

MODELS = ["rb_vgg6", "sl_vgg6", "kd_vgg6"]
FAMILIES = ("rb", "sl", "kd", "os")
HOSTILE = "</script><img src=https://evil.example/x onerror=alert(1)>\"'&"


VOID = {"meta", "img", "br", "link", "path", "circle"}


class Page(HTMLParser):
    """A page as a browser takes it apart."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words, self.styles, self.items = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop()[0] == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        tag, attributes = self.open[-1] if self.open else ("", {})
        if tag == "style":
            self.styles.append(data)
        elif attributes.get("class") == "bokeh-item":
            self.items.append((attributes["data-target"], json.loads(data)))
        elif tag != "script":
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def labelled_batch(**columns):
    """60 cutouts of two nights: a third asteroids, a third cosmic rays, a third dipoles."""
    kind = np.tile(np.array(["nea", "cosmic_ray", "dipole"], dtype=object), 20)
    labels = {
        "label_rb": np.where(kind == "dipole", 0, 1),
        "label_sl": np.where(kind == "dipole", -1, 1),
        "label_kd": np.where(kind == "nea", 1, 0),
        "label_os": np.where(kind == "nea", 1, 0),
    }
    known = {name: values.astype(np.int8) for name, values in labels.items()}
    nights = np.repeat([20260101, 20260102], 30).astype(np.int32)
    return random_batch(60, **{"kind": kind, **known, **columns, "night": nights})


def labelled_scores(batch):
    """Scores that rise with the row number; row 0 is missed and row 58 a false positive."""
    rise = np.linspace(0, 0.01, 60)[:, None]
    truth = np.stack([batch.columns[f"label_{family}"] for family in ("rb", "sl", "kd")], axis=1)
    values = np.where(truth == 0, 0.02, 0.95) + rise
    values[0, 1], values[58, 2] = 0.1, 0.9
    return values


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A scored, labelled archive; not to be changed."""
    url = tmp_path_factory.mktemp("report") / "labelled.zarr"
    create_archive(url, shard=64)
    batch = labelled_batch()
    append_batches(url, [batch])
    write_run(url, "default", MODELS, labelled_scores(batch))
    return url


@pytest.fixture(scope="module")
def reported(labelled, tmp_path_factory):
    """The evaluation of that archive, the path of its report in a new folder, and the page."""
    path = tmp_path_factory.mktemp("reported") / "new folder" / "page.html"
    evaluation = write_report(labelled, path)
    return evaluation, path, Page(path.read_text("utf-8"))


@pytest.fixture(scope="module")
def page(reported):
    return reported[2]


@pytest.fixture
def undrawn(monkeypatch):
    """Make the plots, but do not draw them: that is most of the time, and these tests read the words."""
    monkeypatch.setattr(report, "chart_item", lambda chart: {"made of": type(chart).__name__})


def written(url, tmp_path, **options):
    path = tmp_path / "page.html"
    write_report(url, path, **options)
    return Page(path.read_text("utf-8"))


def test_page_shows_what_was_measured(reported):
    evaluation, _, page = reported
    joint = evaluation.joint
    # row 58 is a cosmic ray with rb, sl and kd all high
    assert (joint.tp, joint.fn, joint.fp, joint.tn) == (19, 1, 1, 39)
    assert "True-positive rate 0.9500 95 %: 0.7639 to 0.9911 19 of 20" in page.text
    assert "False-positive rate 0.0250 95 %: 0.0044 to 0.1288 1 of 40" in page.text
    assert "60 cutouts of 2 nights" in page.text
    assert "0.9500 [0.7639, 0.9911]" in page.text  # nea, in the table of kinds
    assert "267 of 269" in page.text
    assert "202 of 210" in page.text
    assert "ab" * 32 in page.text
    assert "Every input became a cutout" in page.text
    assert not page.open


@pytest.mark.usefixtures("undrawn")
def test_thresholds_are_those_of_the_decision(labelled, tmp_path):
    page = written(labelled, tmp_path, thresholds={"sl": 0.05})
    assert "20 of 20" in page.text
    assert "threshold 0.05" in page.text


def test_page_loads_nothing(page):
    for name in ("src", "srcset", "data", "poster", "action", "background"):
        assert all(value.startswith("data:image/png;base64,") for value in page.attributes(name))
    assert page.attributes("src")
    assert page.attributes("href")
    ids = page.attributes("id")
    assert all(link[0] == "#" and link[1:] in ids for link in page.attributes("href"))
    assert "link" not in [tag for tag, _ in page.tags]
    assert not re.search(r"@import|url\(", "".join(page.styles))
    policies = [a["content"] for _, a in page.tags if a.get("http-equiv")]
    assert policies
    assert policies[0].startswith("default-src 'none'")
    assert "http" not in policies[0]


def test_every_chart_has_its_place(page):
    targets = [target for target, _ in page.items]
    assert len(targets) == len(set(targets)) == 12
    assert set(targets) <= set(page.attributes("id"))
    titles = json.dumps([item for _, item in page.items])
    for words in (
        "ROC",
        "Precision and recall",
        "Reliability of",
        "False-positive rate by night",
        *MODELS,
    ):
        assert words in titles


def test_galleries_show_the_right_cutouts(labelled, page):
    pictures = {a["alt"]: a["src"] for tag, a in page.tags if tag == "img"}
    order = [a["alt"] for tag, a in page.tags if tag == "img"]
    assert order[0] == "cutout c57"  # the highest row of an asteroid
    assert order[-2:] == ["cutout c0", "cutout c58"]  # missed, and false positive
    picture = base64.b64decode(pictures["cutout c0"].split(",")[1])
    expected = open_archive(labelled)["cutouts"][0].values
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture))), expected)
    assert "Best candidates (12 of 20)" in page.text


def test_user_data_never_becomes_markup(tmp_path):
    def page(text):
        url = tmp_path / f"<blink>{len(text)}.zarr"
        create_archive(url, shard=64)
        batch = labelled_batch(
            id=np.array([f"{text}{k}" for k in range(60)], dtype=object),
            kind=np.array([text] * 60, dtype=object),
            source=np.array([text] * 60, dtype=object),
        )
        batch.quarantined = [Quarantined(text, text, text)]
        append_batches(url, [batch])
        models = ["rb_vgg6", f"os_{text}"]
        scores = np.column_stack([labelled_scores(batch)[:, 0], np.ones(60)])
        write_run(url, "default", models, scores, failures=[[0, 64, text]])
        return written(url, tmp_path)

    tame, hostile = page("tame"), page(HOSTILE)
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in tame.tags]
    names = [set(attributes) for _, attributes in hostile.tags]
    assert names == [set(attributes) for _, attributes in tame.tags]
    assert "onerror" not in set.union(*names)
    assert "blink" not in [tag for tag, _ in hostile.tags]
    assert hostile.text.count(HOSTILE) >= 5
    assert len(hostile.items) == len(tame.items)


@pytest.mark.usefixtures("undrawn")
def test_without_labels_it_says_so(archive, tmp_path):
    values = np.random.default_rng(0).random((150, 3))
    write_run(archive, "default", MODELS, values)
    page = written(archive, tmp_path)
    assert "No labels to measure the decision against" in page.text
    assert "Barely plausible" in page.text
    assert "Barely rejected" in page.text
    assert "Missed" not in page.text
    assert "simulated" not in page.text
    plausible = int((values.min(axis=1) >= 0.5).sum())
    assert f"Plausible candidates {plausible} of 150 decided cutouts" in page.text
    assert "Curves" not in page.text
    assert len(page.items) == 4  # the Venn bars and three distributions


@pytest.mark.parametrize("score", [0.0, np.nan])
def test_no_candidates(archive, tmp_path, score):
    write_run(archive, "default", MODELS, np.full((150, 3), score))
    page = written(archive, tmp_path)
    assert f"Plausible candidates 0 of {0 if np.isnan(score) else 150} decided" in page.text
    assert "None." in page.text


def test_labels_of_one_class_only(tmp_path):
    url = tmp_path / "bogus.zarr"
    create_archive(url, shard=64)
    bogus = {f"label_{family}": np.zeros(30, np.int8) for family in FAMILIES}
    append_batches(url, [random_batch(30, **bogus)])
    write_run(url, "default", MODELS, np.full((30, 3), 0.7))
    page = written(url, tmp_path)
    assert "True-positive rate none" in page.text
    assert "False-positive rate 1.0000 95 %: 0.8865 to 1.0000 30 of 30" in page.text


@pytest.mark.usefixtures("undrawn")
def test_missing_scores_and_failures_are_said(archive, tmp_path):
    values = np.full((150, 3), 0.9)
    values[64:128] = np.nan
    write_run(archive, "default", MODELS, values, failures=[[64, 128, "checksum differs"]])
    page = written(archive, tmp_path)
    assert "64 cutouts are not decided" in page.text
    assert "rows 64 to 127 (checksum differs)" in page.text
    assert "Plausible candidates 86 of 86 decided cutouts" in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_shard_damaged_since_leaves_the_rest(labelled, tmp_path):
    url = shutil.copytree(labelled, tmp_path / "damaged.zarr")
    for shard in (url / "cutouts" / "c").rglob("*"):
        if shard.is_file():
            data = bytearray(shard.read_bytes())
            data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
            shard.write_bytes(data)
    page = written(url, tmp_path)
    assert "pixels cannot be read" in page.text
    assert "19 of 20" in page.text


@pytest.mark.usefixtures("undrawn")
def test_quarantine_is_counted_and_cut(tmp_path):
    url = tmp_path / "refused.zarr"
    create_archive(url, shard=64)
    batch = random_batch(5)
    batch.quarantined = [Quarantined(f"{k}.jpg", "empty", "", 20260101) for k in range(70)]
    batch.quarantined += [Quarantined("x.jpg", "damaged", "cut short")]
    append_batches(url, [batch])
    write_run(url, "default", MODELS, np.full((5, 3), 0.7))
    page = written(url, tmp_path)
    assert "71 inputs could not become a cutout: 70 empty, 1 damaged. The first 50:" in page.text
    assert page.text.count(".jpg") == report.MAX_QUARANTINE_ROWS


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("kinds", "source", "simulated"),
    [
        (["nea", "dipole", "noise"], "a.jpg", True),
        (["nea", "dipole", "plane"], "a.jpg", False),
        (["nea", ""], "a.jpg", False),
        ([""], "simulation, seed 1", True),
    ],
)
def test_simulated_cutouts_are_called_so(tmp_path, kinds, source, simulated):
    url = tmp_path / "kinds.zarr"
    create_archive(url, shard=64)
    kind = np.array([kinds[k % len(kinds)] for k in range(12)], dtype=object)
    append_batches(url, [random_batch(12, kind=kind, source=np.array([source] * 12, dtype=object))])
    write_run(url, "default", MODELS, np.full((12, 3), 0.7))
    page = written(url, tmp_path)
    assert ("All of these cutouts are simulated" in page.text) == simulated


def test_a_hundred_thousand_scores_fit_a_small_page(labelled, tmp_path, monkeypatch):
    many, rng = 100_000, np.random.default_rng(1)
    label = rng.integers(0, 2, many).astype(np.int8)
    values = rng.normal(np.where(label, 2, -2)[:, None], 2, (many, 9)).astype(np.float32)
    few = report.open_run(labelled)
    models = [f"{family}_{k}" for family in ("rb", "sl", "kd") for k in range(3)]
    scores = xr.Dataset(
        {"scores": (("cutout", "model"), 1 / (1 + np.exp(-values)))},
        {
            "model": models,
            "id": ("cutout", np.array([f"strkid{k:020d}_pid{k:020d}" for k in range(many)])),
            "night": ("cutout", np.int32(20250000) + rng.integers(101, 400, many)),
            "kind": ("cutout", np.array([f"kind {k}" for k in rng.integers(0, 500, many)])),
            "source": ("cutout", np.full(many, "a.jpg")),
            **{f"label_{family}": ("cutout", label) for family in FAMILIES},
        },
        few.attrs
        | {"members": [provenance_of(few)["members"][0] | {"name": name} for name in models]},
    )
    noise = np.broadcast_to(rng.integers(0, 256, (144, 144), np.uint8), (many, 144, 144))
    pixels = xr.Dataset({"cutouts": (("cutout", "y", "x"), noise)})
    monkeypatch.setattr(report, "open_run", lambda *_, **__: scores)
    monkeypatch.setattr(report.archives, "open_archive", lambda *_, **__: pixels)
    path = tmp_path / "page.html"
    write_report(labelled, path)
    assert path.stat().st_size < 8e6
    page = Page(path.read_text("utf-8"))
    assert "The 40 commonest of 500 kinds" in page.text
    assert "rb, any member" in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 3 * report.GALLERY_SIZE


@pytest.mark.usefixtures("undrawn")
def test_a_place_that_cannot_be_written_is_named(labelled, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DeepStreaksError, match=r"page\.html"):
        write_report(labelled, tmp_path / "file" / "page.html")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(DeepStreaksError, match="name another file"):
        write_report(labelled, folder)


WRITERS = ("run", "recovery", "sequences", "exposures")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("writer", WRITERS)
def test_every_page_goes_to_a_url(labelled, tmp_path, monkeypatch, writer):
    """In memory, as at any fsspec URL, and never in a folder named ``memory:`` on the disk."""
    monkeypatch.chdir(tmp_path)
    url = f"memory://pages/{writer}.html"
    if writer == "run":
        write_report(labelled, url, thresholds={"kd": 0.9})
    elif writer == "recovery":
        columns = ["which", "mag", "length", "total", "recovered", "share", "low", "high"]
        write_map(open_run(labelled), pd.DataFrame(columns=columns), url)
    elif writer == "sequences":
        scores = xr.Dataset(attrs={"url": "s.zarr", "run": "default", "members": []})
        write_evaluation(SequenceEvaluation((), (), 0, 0, 0), scores, url)
    else:
        write_comparison(ExposureComparison((), pd.DataFrame()), url)
    with fsspec.open(url, "rb") as file:
        text = file.read().decode()
    assert text.lower().startswith("<!doctype html>")
    assert text.rstrip().endswith("</html>")
    assert not list(tmp_path.glob("memory*"))


@pytest.mark.usefixtures("undrawn")
def test_a_protocol_that_is_not_there_is_named(labelled):
    with pytest.raises(DeepStreaksError, match=r"page\.html.*nowhere.*name another file"):
        write_report(labelled, "nowhere://page.html")


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_every_chart(reported, tmp_path, scheme):
    _, path, _ = reported
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *(
                "--disable-sync",
                f"--user-data-dir={tmp_path / 'profile'}",
                "--enable-logging=stderr",
            ),
            f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
            *("--virtual-time-budget=20000", "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    drawn = re.findall(r'id="chart-[\d-]+"[^>]*><div class="bk-Figure"', done.stdout)
    assert len(drawn) == 12
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not [line for line in console if re.search("refused|violates|error:", line, re.I)]


def test_colours_of_the_page_are_those_of_the_charts(page):
    style = "".join(page.styles)
    for light, dark in DARK.items():
        if light in style:
            assert dark in style
