"""Campaigns as people follow them, and as administrators begin, pause and resume them."""

import json
import time
import urllib.error
import urllib.request
from contextlib import suppress

import numpy as np
import psutil
import pytest
import zarr
from helpers import log_in, random_batch, served, write_run

from deepstreaks_dask.archive.append import CutoutBatch, Quarantined, append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.review.database import Review, default_url
from deepstreaks_dask.scoring.launcher import launched_campaigns
from deepstreaks_dask.scoring.runs import open_run

PASSWORD = "correct horse battery"
CAMPAIGN = ("--app", "campaign", "--no-show", "--port", "0")
REFRESH_MILLISECONDS = 1000
OFTEN = f"from deepstreaks_dask.apps.campaign import app; app.REFRESH_MILLISECONDS = {REFRESH_MILLISECONDS}"
SHARDS = 12


@pytest.fixture(scope="module", autouse=True)
def state(tmp_path_factory):
    """What is started here is written down here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module")
def under_way(tmp_path_factory):
    """An archive of noise in four shards; two are scored, one failed, one input was refused."""
    url = tmp_path_factory.mktemp("campaign") / "survey.zarr"
    create_archive(url, shard=64)
    rng = np.random.default_rng(0)
    batch = CutoutBatch(
        rng.integers(0, 256, (256, 144, 144), np.uint8),
        {"id": np.array([f"c{k}" for k in range(256)], dtype=object)},
        [Quarantined("<b>odd</b>.jpg", "unreadable", "cut short", 20260101)],
    )
    append_batches(url, [batch])
    scores = np.full((256, 2), np.nan, np.float32)
    scores[:128] = 0.5
    write_run(url, "default", ["rb_a", "kd_a"], scores)
    group = zarr.open_group(url, path="runs/default", mode="r+")
    group.attrs["failures"] = [[128, 192, "the shard is missing"]]
    return url


@pytest.fixture(scope="module")
def address(under_way):
    with served("dashboard", under_way, *CAMPAIGN, before=OFTEN) as url:
        yield url


def until(page, words):
    page.wait_for_function(f"() => {words}", timeout=300_000)


def scored(page, share):
    until(page, f"document.querySelector('.tile .value')?.textContent === {json.dumps(share)}")


def status(page, *words):
    until(page, f"{json.dumps(words)}.includes(document.getElementById('status').textContent)")


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (390, True)])
def test_a_campaign_is_followed_without_a_reload(visit, address, under_way, width, dark):
    page = visit(address, width=width, dark=dark)
    scored(page, "50.0 %")
    assert page.locator("#cells i").count() == 4
    page.wait_for_selector("#quarantine td")
    assert page.locator("#quarantine td").first.inner_text() == "<b>odd</b>.jpg"
    assert "rb_a" in page.locator("#members").inner_text()
    assert page.locator("#command").inner_text().endswith("survey.zarr --run default")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    scores = zarr.open_group(under_way, path="runs/default", mode="r+")["scores"]
    try:
        scores[192:256] = np.full((64, 2), 0.7, np.float32)
        scored(page, "75.0 %")
        cells = ["128", "191", "the shard is missing"]
        assert page.locator("#failures td").all_inner_texts() == cells
    finally:
        scores[192:256] = np.nan
    scored(page, "50.0 %")


def test_looking_again_can_be_stopped(visit, address):
    page = visit(address)
    page.wait_for_selector("#failures td")
    page.locator("#repeat").uncheck()
    page.wait_for_timeout(2 * REFRESH_MILLISECONDS)  # what is under way has come
    page.evaluate("document.querySelector('.tile .value').textContent = 'mine'")
    page.wait_for_timeout(3 * REFRESH_MILLISECONDS)
    assert page.locator(".tile .value").first.inner_text() == "mine"
    page.locator("#repeat").check()
    until(page, "document.querySelector('.tile .value').textContent !== 'mine'")


def test_a_campaign_of_another_machine_is_shown_and_not_offered_to_be_paused(
    visit, address, under_way
):
    path = under_way / "runs" / "default" / "pulse.json"
    beat = {"host": "elsewhere", "pid": 7, "workers": 3, "threads": 6, "pausing": False}
    page = visit(address)
    until(page, "!document.getElementById('begin').hidden")  # it knows what this person may do
    path.write_text(
        json.dumps({**beat, "beat": time.time(), "dashboard": "http://127.0.0.1:8787/status"})
    )
    try:
        status(page, "at work")
        assert "end process 7 on elsewhere" in page.inner_text("#words")
        assert "3 workers, 6 threads" in page.inner_text("#dask")
        assert page.get_attribute("#dask a", "href") == "http://127.0.0.1:8787/status"
        assert not page.is_visible("#pause")
        assert not page.is_visible("#resume")
    finally:
        path.unlink()


def test_nobody_without_the_key_gets_in(address):
    root = address.partition("/enter")[0]
    for path in ("/campaign", "/api/v1/campaigns", "/api/v1/session", "/enter?key=guessed"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(root + path)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """An archive of noise without a run, in so many shards that its workers can be held in the middle."""
    url = tmp_path_factory.mktemp("fresh") / "new.zarr"
    create_archive(url, shard=64)
    append_batches(url, [random_batch(64 * SHARDS)])
    Review(default_url(url)).accounts.add_user("root", PASSWORD, "administrator")
    Review(default_url(url)).accounts.add_user("vera", PASSWORD, "viewer")
    return url


def enter(visit, address, name, **options):
    page = visit(address, **options)
    log_in(page, name, PASSWORD)
    page.click("nav >> text=Campaign")
    return page


@pytest.fixture
def hold():
    """Hold the workers of a campaign once it has stored a shard; give what lets them go on."""
    held = []

    def go_on():
        for worker in held:
            with suppress(psutil.NoSuchProcess):
                worker.resume()

    def hold(process, url):
        deadline = time.monotonic() + 300
        while not list((url / "runs" / "default" / "scores" / "c").glob("*/0")):
            assert process.is_running(), "it ended before it stored anything"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        held.extend(process.children(recursive=True))
        for worker in held:
            worker.suspend()
        return go_on

    yield hold
    go_on()


def test_a_campaign_is_begun_paused_and_resumed_to_the_end(visit, fresh, hold):
    """Its dashboard ends on the way, and the campaign does not."""
    with served("dashboard", fresh, *CAMPAIGN, before=OFTEN) as address:
        page = visit(address)
        page.wait_for_selector("text=No campaign yet")
        page.wait_for_selector("#begin:not([hidden])")
        page.fill("#begin [name=workers]", "1")
        page.fill("#begin [name=families]", "rb")
        page.click("#begin button")
        page.wait_for_url("**/campaign?run=default")
        process = psutil.Process(launched_campaigns(fresh)["default"].pid)
        go_on = hold(process, fresh)
        status(page, "at work")
    assert process.is_running()  # its dashboard is gone
    assert process.cmdline()[-2:] == ["--", str(fresh)]
    with served("dashboard", fresh, "--app", "review", *CAMPAIGN[2:], before=OFTEN) as address:
        looker = enter(visit, address, "vera")
        looker.wait_for_selector("text=Only an administrator can start, pause and resume")
        page = enter(visit, address, "root")
        until(page, "/^[1-9]/.test(document.querySelectorAll('.tile .value')[1]?.textContent)")
        status(page, "at work")
        page.wait_for_selector("#dask:has-text('1 worker, 2 threads')")
        assert not looker.is_visible("#pause")
        page.click("#pause")
        status(page, "stopping")
        go_on()
        status(page, "stopped")
        done = int(np.isfinite(open_run(fresh)["scores"].values).all(axis=1).sum())
        assert 0 < done < 64 * SHARDS
        until(page, f"document.querySelector('.tile p').textContent.startsWith('{done:,} of')")
        page.wait_for_selector("#resume:not([hidden])")
        assert not looker.is_visible("#resume")
        page.click("#resume")
        status(page, "starting", "at work")
        status(page, "done")
        assert page.locator(".tile .value").first.inner_text() == "100.0 %"
        assert not page.is_visible("#control")
        page.fill("#begin [name=run]", "other")
        page.fill("#begin [name=families]", "rb, xx")
        page.click("#begin button")
        page.wait_for_url("**/campaign?run=other")
        page.wait_for_selector("#last:has-text(\"no member of family 'xx'\")", timeout=300_000)
    assert np.isfinite(open_run(fresh)["scores"].values).all()
