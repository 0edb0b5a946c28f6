"""How smooth the review is on a large archive: its gallery as a browser sees it, beside a bare read of the same cutouts.

Makes an archive with scores and labels, and pixels for its last night, serves it as ``deepstreaks dashboard --app review``
does, logs in with headless Chromium and looks at that night:

- *start*: from starting the server to the first thumbnails of the first night, all columns being read meanwhile;
- *filter*: from pressing Enter in the filter until all thumbnails in the window are drawn, and its ratio to reading
  and encoding the same cutouts without server, browser or anything else;
- *frames*: the share of frames that took more than 50 ms while the gallery is scrolled by the wheel from top to bottom,
  and the longest one; beside it the share for a bare page of the same pictures, which it has in memory, and while
  nothing moves: these are the browser's and the machine's own doing;
- *memory* of the server.

    python benchmarks/review.py
    python benchmarks/review.py --cutouts 70000 --nights 40 --repeats 3 --json
"""

import io
import json
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import typer
import zarr
from made import MEMBERS, make
from PIL import Image
from playwright.sync_api import Page
from rich.console import Console
from rich.table import Table
from serving import looking

from deepstreaks_dask.archive.schema import CUTOUT_SIZE
from deepstreaks_dask.review.database import Review, default_url

LONG = 50.0
"""Milliseconds from which on a frame is one that people notice."""

_IN_SIGHT = """() => [...document.querySelectorAll(".thumb img")].filter(image => {
  const box = image.getBoundingClientRect();
  return box.bottom > 0 && box.top < innerHeight;
})"""
_DRAWN = f"""words => {{
  const inSight = ({_IN_SIGHT})();
  return document.querySelector("#gallery").getAttribute("aria-busy") === "false"
    && document.querySelector("#found").textContent !== words
    && inSight.length > 0 && inSight.every(image => image.complete && image.naturalWidth > 0);
}}"""
_RECORD = """() => {
  window.frames_ = [];
  let last = performance.now();
  const frame = now => { window.frames_.push(now - last); last = now; window.recording_ = requestAnimationFrame(frame); };
  window.recording_ = requestAnimationFrame(frame);
}"""

_RECORDED = (
    "() => { cancelAnimationFrame(window.recording_); return window.frames_.slice(1).map(Number) }"
)
_PICTURES = """() => Promise.all([...document.querySelectorAll(".thumb img")].map(async image => {
  const blob = await (await fetch(image.src)).blob();
  const reader = new FileReader();
  return new Promise(done => { reader.onload = () => done(reader.result); reader.readAsDataURL(blob); });
}))"""


def main(
    cutouts: Annotated[int, typer.Option(min=1000)] = 7_000_000,
    nights: Annotated[int, typer.Option(min=2)] = 400,
    repeats: Annotated[int, typer.Option(min=1, help="Filters that are timed.")] = 10,
    thumbnails: Annotated[int, typer.Option(min=50, help="To scroll through.")] = 900,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Measure the review's gallery."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        url = Path(folder) / "large.zarr"
        console.print(f"making {cutouts:,} scored cutouts of {nights} nights", highlight=False)
        make(url, cutouts, nights, pictures=True)
        console.print("serving and looking at it", highlight=False)
        result = look(url, repeats, thumbnails)
    result |= {"cutouts": cutouts, "nights": nights, "load": os.getloadavg()[0]}
    print(json.dumps(result, indent=2)) if as_json else Console().print(_table(result))


def look(url: Path, repeats: int, thumbnails: int) -> dict[str, Any]:
    """Serve an archive, look at its last night, and measure."""
    password = secrets.token_urlsafe(16)
    Review(default_url(str(url))).accounts.add_user("vera", password, "administrator")
    started = time.perf_counter()
    with looking(str(url), "--app", "review") as (browser, address, process):
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(300_000)
        page.goto(address)
        page.fill("#name", "vera")
        page.fill("#password", password)
        page.click("#login button")
        page.wait_for_selector(".thumb.chosen")
        start = time.perf_counter() - started
        night = page.eval_on_selector(
            "#night", "select => select.options[select.options.length - 1].value"
        )
        page.select_option("#night", night)
        page.wait_for_function(_DRAWN, arg="")
        asked = [_filter(page, url, limit) for limit in np.linspace(0.3, 0.9, repeats)]
        _load(page, thumbnails)
        still = _recorded(page, lambda: page.wait_for_timeout(2000))
        frames = _recorded(page, lambda: _scroll(page))
        memory = process.memory_info().rss
        shown = page.locator(".thumb").count()
        bare = browser.new_page(viewport={"width": 1400, "height": 1000})
        bare.set_content(_bare_page(page))
        bare.wait_for_timeout(1000)
        bare_frames = _recorded(bare, lambda: _scroll(bare))
    return {
        "start_s": start,
        "filter_ms": statistics.median(ours for ours, _ in asked),
        "bare_ms": statistics.median(bare for _, bare in asked),
        "ratio": statistics.median(ours / bare for ours, bare in asked),
        "thumbnails": shown,
        "frames": len(frames),
        "long_frames": _long(frames),
        "long_frames_bare": _long(bare_frames),
        "long_frames_still": _long(still),
        "longest_ms": max(frames),
        "server_gb": memory / 1e9,
    }


def _filter(page: Page, url: Path, limit: float) -> tuple[float, float]:
    """Milliseconds from a filter to its thumbnails, and for reading and encoding these alone."""
    before = page.locator("#found").inner_text()
    page.fill("#where", f"plausible and {MEMBERS[0]} >= {limit:.4f}")
    start = time.perf_counter()
    page.press("#where", "Enter")
    page.wait_for_function(_DRAWN, arg=before)
    ours = time.perf_counter() - start
    rows = page.evaluate(
        f"() => ({_IN_SIGHT})().map(image => Number(new URL(image.src).searchParams.get('id').slice(1)))"
    )
    start = time.perf_counter()
    pixels = zarr.open_group(url, mode="r")["cutouts"]
    for picture in pixels.oindex[sorted(rows)]:
        Image.fromarray(picture).save(io.BytesIO(), "PNG", compress_level=1)
    return 1000 * ours, 1000 * (time.perf_counter() - start)


def _long(frames: list[float]) -> float:
    return sum(frame > LONG for frame in frames) / len(frames)


def _load(page: Page, thumbnails: int) -> None:
    """Have so many thumbnails in the gallery, and go to its top."""
    before = page.locator("#found").inner_text()
    page.fill("#where", "")
    page.press("#where", "Enter")
    page.wait_for_function(_DRAWN, arg=before)
    while (shown := page.locator(".thumb").count()) < thumbnails and page.locator(
        "#more"
    ).is_visible():
        page.locator("#more").click()
        page.wait_for_function("n => document.querySelectorAll('.thumb').length > n", arg=shown)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(1000)


def _recorded(page: Page, do: Callable[[], None]) -> list[float]:
    """Give the milliseconds of each frame that a page draws meanwhile."""
    page.mouse.move(600, 600)
    page.evaluate(_RECORD)
    do()
    return page.evaluate(_RECORDED)


def _scroll(page: Page) -> None:
    """Turn the wheel, as fast as the browser takes it, down to the end."""
    at, ends = -1.0, 0
    while ends < 5:
        page.mouse.wheel(0, 240)
        now = page.evaluate("scrollY")
        at, ends = now, ends + 1 if now == at else 0


def _bare_page(page: Page) -> str:
    """Give a page of the same pictures in the same grid, and of nothing else."""
    pictures = page.evaluate(_PICTURES)
    images = "".join(
        f'<img src="{picture}" width="{CUTOUT_SIZE}" height="{CUTOUT_SIZE + 58}">'
        for picture in pictures
    )
    grid = "display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px"
    return f'<!DOCTYPE html><body><div style="{grid}">{images}</div>'


def _table(result: dict[str, Any]) -> Table:
    title = f"{result['cutouts']:,} cutouts, {len(MEMBERS)} members, {result['nights']} nights"
    table = Table("what", "measured", title=f"{title}; load {result['load']:.1f}")
    for words, value in (
        ("first thumbnails from starting the server", f"{result['start_s']:.1f} s"),
        ("from a filter to all thumbnails in the window", f"{result['filter_ms']:.0f} ms"),
        ("reading and encoding these alone", f"{result['bare_ms']:.0f} ms"),
        ("filter / bare", f"{result['ratio']:.1f}"),
        ("thumbnails scrolled through", f"{result['thumbnails']:,}"),
        (f"frames longer than {LONG:.0f} ms", f"{100 * result['long_frames']:.1f} %"),
        ("the same on a bare page", f"{100 * result['long_frames_bare']:.1f} %"),
        ("the same while nothing moves", f"{100 * result['long_frames_still']:.1f} %"),
        ("longest frame", f"{result['longest_ms']:.0f} ms"),
        ("memory of the server", f"{result['server_gb']:.2f} GB"),
    ):
        table.add_row(words, value)
    return table


if __name__ == "__main__":
    typer.run(main)
