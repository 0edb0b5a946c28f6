"""The page of an archive of sequences in a real browser."""

import numpy as np
import pytest
from helpers import log_in, served, visiting

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.evaluation.sequence_metrics import evaluate_sequences
from deepstreaks_dask.models.sequence.rcnn import Rcnn
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.review.database import Review, default_url
from deepstreaks_dask.scoring.runs import Run, open_run
from deepstreaks_dask.simulation.sequences import LAYOUT, simulate_sequences
from deepstreaks_dask.simulation.tasks import get_task

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """An archive with a run of a member that looks epoch by epoch, and people who may log in."""
    folder = tmp_path_factory.mktemp("sequences")
    archive, zoo = str(folder / "objects.zarr"), str(folder / "zoo")
    create_archive(archive, **LAYOUT)
    append_batches(archive, simulate_sequences(60, "hits", "rcnn", seed=4))
    classes, dataset = tuple(sorted(get_task("rcnn").classes)), open_archive(archive)
    card = Zoo(zoo).save(
        Rcnn(classes),
        Card("hits_rcnn", "1", "rcnn", input_shape=(21, 21, 1), classes=classes, scaling="none"),
    )
    common = {"version": "1", "sha256": card.sha256, "family": "hits", "threshold": 0.5}
    members = [{"name": "hits_rcnn", **common}]
    stored = Run.create(
        archive, "default", members, 60, dataset.attrs["shard"], classes=classes, zoo=zoo
    )
    rng = np.random.default_rng(1)
    kinds = dataset["kind"].values.astype(object).astype(str)
    truth = np.eye(len(classes))[[classes.index(kind) for kind in kinds]]
    scores = rng.dirichlet(np.full(len(classes), 0.6), 60) + 0.3 * truth
    review = Review(default_url(archive))
    for name, role in (("root", "administrator"), ("vera", "viewer")):
        review.accounts.add_user(name, PASSWORD, role)
    stored.scores[:, 0] = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    return archive, zoo


def test_confusion_recall_and_a_player_of_single_objects_behind_the_log_in(
    browser, sequences, tmp_path
):
    sequences, zoo = sequences
    figures = evaluate_sequences(open_run(sequences)).members[0]
    dataset = open_archive(sequences)
    with (
        served(
            *("dashboard", sequences, "--app", "review", "--zoo", zoo, "--no-show", "--port", "0")
        ) as address,
        visiting(browser) as visit,
    ):
        page = visit(f"{address}/explore")
        assert page.url.endswith("/login")
        assert page.locator(".tile, #strip").count() == 0
        log_in(page, "vera", PASSWORD)
        page.wait_for_selector(".tile .value")
        tiles = page.locator(".tile .value").all_inner_texts()
        wanted = (figures.recall, figures.f1, figures.accuracy)
        assert tiles == [f"{one.value:.4f}" for one in wanted]
        rows = page.locator("#classes tr").all_inner_texts()[1:]
        assert [row.split()[0] for row in rows] == figures.table["name"].tolist()
        assert "simulated" in page.locator(".note:not(.problem)").inner_text()
        # a cell of the confusion matrix as a list of objects
        page.select_option("#truth", "supernova")
        supernovae = int((dataset["kind"].values.astype(object) == "supernova").sum())
        assert 0 < supernovae < 60
        page.wait_for_function(
            f"document.querySelector('#list-words').textContent.startsWith('{supernovae} ')"
        )
        assert page.locator("#list button").count() == supernovae
        button = page.locator("#list button").first
        row = int(button.get_attribute("data-row"))
        button.click()
        page.wait_for_selector("#strip button")
        epochs = int(dataset["epochs"].values[row])
        assert page.locator("#strip button").count() == epochs
        assert str(dataset["id"].values[row]) in page.locator("#player-title").inner_text()
        # the member is asked on the server, and looks epoch by epoch
        page.wait_for_function(
            "document.querySelector('#bars').textContent.includes('after epoch')"
        )
        assert f"after epoch {epochs}" in page.locator("#bars").inner_text()
        page.locator("#epoch").fill("0")
        assert "Epoch 1 of" in page.locator("#said").inner_text()
        assert "after epoch 1" in page.locator("#bars").inner_text()
        first = page.locator("#bars .number").all_inner_texts()
        assert sum(map(float, first)) == pytest.approx(1, abs=0.05)
        page.click("#play")
        page.wait_for_function(
            "Number(document.querySelector('#said').textContent.match(/^Epoch (\\d+) of/)[1]) > 2"
        )
        page.click("#play")
        page.click("#follow")
        page.wait_for_function("!document.querySelector('#follow').disabled")
        page.click("#theme")
        page.screenshot(path=str(tmp_path / "dark.png"), full_page=True)
        page.click("#theme")
        page.screenshot(path=str(tmp_path / "light.png"), full_page=True)
        assert page.locator("#problem").is_hidden()
