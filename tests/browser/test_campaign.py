import numpy as np
import pytest
import zarr
from helpers import served, write_run

from deepstreaks_dask.archive import CutoutBatch, Quarantined, append, create


@pytest.fixture(scope="module")
def under_way(tmp_path_factory):
    """An archive of noise in four shards; two are scored, one failed, one input was refused."""
    url = tmp_path_factory.mktemp("campaign") / "survey.zarr"
    create(url, shard=64)
    rng = np.random.default_rng(0)
    batch = CutoutBatch(
        rng.integers(0, 256, (256, 144, 144), np.uint8),
        {"id": np.array([f"c{k}" for k in range(256)], dtype=object)},
        [Quarantined("<b>odd</b>.jpg", "unreadable", "cut short", 20260101)],
    )
    append(url, [batch])
    scores = np.full((256, 2), np.nan, np.float32)
    scores[:128] = 0.5
    write_run(url, "default", ["rb_a", "kd_a"], scores)
    group = zarr.open_group(url, path="runs/default", mode="r+")
    group.attrs["failures"] = [[128, 192, "the shard is missing"]]
    return url


@pytest.fixture(scope="module")
def address(under_way):
    with served("dashboard", under_way, "--app", "campaign", "--no-show", "--port", "0") as url:
        yield url


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (420, True)])
def test_a_campaign_is_followed_without_a_reload(visit, address, under_way, width, dark):
    page = visit(address, width=width, dark=dark)
    page.wait_for_selector("#failures td")
    assert page.locator(".tile .value").all_inner_texts()[0] in ("50.0 %", "75.0 %")
    assert page.locator("#cells i").count() == 4
    assert page.locator("#quarantine td").first.inner_text() == "<b>odd</b>.jpg"
    assert "rb_a" in page.locator("#members").inner_text()
    assert page.locator("#command").inner_text().endswith("survey.zarr --run default")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    scores = zarr.open_group(under_way, path="runs/default", mode="r+")["scores"]
    scores[192:256] = np.full((64, 2), 0.7, np.float32)
    page.wait_for_function("document.querySelector('.tile .value').textContent === '75.0 %'")
    assert page.locator("#failures td").all_inner_texts() == ["128", "191", "the shard is missing"]
    scores[192:256] = np.nan
    page.wait_for_function("document.querySelector('.tile .value').textContent === '50.0 %'")


def test_looking_again_can_be_stopped(visit, address, under_way):
    page = visit(address)
    page.wait_for_selector("#failures td")
    page.locator("#repeat").uncheck()
    page.wait_for_timeout(500)
    page.evaluate("document.querySelector('.tile .value').textContent = 'mine'")
    page.wait_for_timeout(7000)
    assert page.locator(".tile .value").first.inner_text() == "mine"
    page.locator("#repeat").check()
    page.wait_for_function("document.querySelector('.tile .value').textContent !== 'mine'")


def test_an_archive_without_a_run_says_what_to_do(visit, tmp_path):
    create(tmp_path / "new.zarr")
    url = tmp_path / "new.zarr"
    with served("dashboard", url, "--app", "campaign", "--no-show", "--port", "0") as address:
        page = visit(address)
        page.wait_for_function(
            "document.querySelector('#quarantine').textContent === 'Every input became a cutout.'"
        )
        assert "deepstreaks score" in page.locator("main pre").inner_text()
