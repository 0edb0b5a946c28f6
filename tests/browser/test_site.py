"""The documentation's site, as ``docs/build.py`` has made it: all pages are there, and what should turn turns.

That executes every notebook from top to bottom and takes a warning for an error. It takes minutes, and is a step of its
own: ``DEEPSTREAKS_TEST_SITE`` names the folder that it wrote.
"""

import os
import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import expect

expect.set_options(timeout=60_000)
ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def site():
    """The folder of the site, and an address."""
    if not os.environ.get("DEEPSTREAKS_TEST_SITE"):
        pytest.skip("DEEPSTREAKS_TEST_SITE names no site: python docs/build.py makes one")
    folder = Path(os.environ["DEEPSTREAKS_TEST_SITE"]).resolve()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_site_has_every_notebook_with_outputs_and_every_module(site):
    folder, _ = site
    for path in NOTEBOOKS:
        page = (folder / "tutorials" / f"{path.stem}.html").read_text()
        assert "cell_output" in page
        assert "Traceback" not in page
    modules = subprocess.run(
        [sys.executable, "-c", "import build; print(*build.public_modules())"],
        capture_output=True,
        text=True,
        cwd=ROOT / "docs",
        check=True,
    ).stdout.split()
    assert "deepstreaks_dask.evaluation.decision_metrics" in modules
    for name in modules:
        page = (folder / "reference" / f"{name}.html").read_text()
        assert f'id="module-{name}"' in page
    pages = " ".join(path.read_text() for path in folder.rglob("*.html"))
    assert not re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="(https?://[^"]*)"', pages)


def test_formulas_are_drawn_by_the_browser(site, visit):
    _, address = site
    page = visit(f"{address}/explanation/statistics.html")
    root = page.locator("math msqrt").first
    assert root.bounding_box()["height"] > root.locator("mi").first.bounding_box()["height"]
    assert not page.locator("merror").count()


def test_a_tutorial_draws_and_its_knobs_turn(site, visit):
    _, address = site
    page = visit(f"{address}/tutorials/03_thresholds.html")
    expect(page.locator(".bk-Figure").first).to_be_visible()
    said = page.locator("strong", has_text=re.compile(r"^[\d,]+ candidates$"))
    before = said.inner_text()
    for _ in range(2):  # from 0.5 to 0.99, with no Python behind the page
        page.locator(".noUi-handle").first.press("ArrowRight")
    expect(page.get_by_text("threshold of kd: 0.99")).to_be_visible()
    expect(said).not_to_have_text(before)
