"""How quickly the explore dashboard answers on a large archive, beside computing everything anew.

Makes an archive with scores and labels but without pixels, serves it as ``deepstreaks dashboard`` does, and looks at it
with headless Chromium:

- *paint*: from opening the page to the first counts on it, the server having read the scores; and from starting
  the server;
- *move*: from a threshold leaving the slider until all that follows is drawn, as the browser sees it, and the part of
  it that is computing;
- *memory* of the server, and what each further user adds;
- *anew*: one naive recomputation of what a move shows (``Decision.apply`` and ``evaluate``'s counts), and its ratio.

    python benchmarks/explore.py
    python benchmarks/explore.py --cutouts 70000 --nights 40 --moves 5 --json
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import typer
from made import MEMBERS, make
from playwright.sync_api import Browser, Page
from rich.console import Console
from rich.table import Table
from serving import looking

from deepstreaks_dask.evaluation.decision_metrics import rates_by_night, venn
from deepstreaks_dask.evaluation.interactive import Cut, Exploration
from deepstreaks_dask.evaluation.labels import plausibility_labels
from deepstreaks_dask.evaluation.metrics import confusion
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import open_run

_MOVED = """async value => {
  const range = document.getElementById("range-rb_vgg6");
  const before = Number(document.documentElement.dataset.state ?? 0);
  const start = performance.now();
  range.value = value;
  range.dispatchEvent(new Event("input"));
  while (Number(document.documentElement.dataset.state ?? 0) === before)
    await new Promise(requestAnimationFrame);
  // pictures are drawn in the frame after their data have come; the next one shows them
  await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return performance.now() - start;
}"""


def main(
    cutouts: Annotated[int, typer.Option(min=1000)] = 7_000_000,
    nights: Annotated[int, typer.Option(min=1)] = 400,
    moves: Annotated[int, typer.Option(min=1, help="Threshold moves that are timed.")] = 30,
    users: Annotated[int, typer.Option(min=1, help="Further users.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Measure the explore dashboard."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        url = Path(folder) / "large.zarr"
        console.print(f"making {cutouts:,} scored cutouts of {nights} nights", highlight=False)
        make(url, cutouts, nights)
        console.print("serving and looking at it", highlight=False)
        result = _look(url, moves, users)
        console.print("computing it anew", highlight=False)
        result |= _compute(url, moves)
    result["ratio"] = result["anew_s"] / (result["move_ms"] / 1000)
    result["ratio_of_computing"] = result["anew_s"] / (result["compute_ms"] / 1000)
    result |= {"cutouts": cutouts, "nights": nights, "load": os.getloadavg()[0]}
    print(json.dumps(result, indent=2)) if as_json else Console().print(_table(result))


def _look(url: Path, moves: int, users: int) -> dict[str, Any]:
    started = time.perf_counter()
    with looking(str(url)) as (browser, site, process):
        address = f"{site}/explore"
        first, _ = _open(browser, address)
        cold = time.perf_counter() - started
        _wait_for_curves(first)
        alone = process.memory_info().rss
        visits = [_open(browser, address) for _ in range(users)]
        for page, _ in visits:
            _wait_for_curves(page)
        together = process.memory_info().rss
        for page, _ in visits:
            page.close()
        values = np.random.default_rng(2).uniform(0.05, 0.95, moves + 3)
        times = [float(first.evaluate(_MOVED, float(v))) for v in values][3:]
        steps = 0.5 + 0.005 * np.arange(moves + 3)
        small = [float(first.evaluate(_MOVED, float(v))) for v in steps][3:]
    return {
        "paint_s": statistics.median(seconds for _, seconds in visits),
        "start_s": cold,
        "move_ms": statistics.median(times),
        "move_worst_ms": max(times),
        "step_ms": statistics.median(small),
        "server_gb": together / 1e9,
        "user_mb": max(0.0, (together - alone) / users / 1e6),
    }


def _open(browser: Browser, address: str) -> tuple[Page, float]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(300_000)
    start = time.perf_counter()
    page.goto(address)
    page.wait_for_selector("#confusion button")
    return page, time.perf_counter() - start


def _wait_for_curves(page: Page) -> None:
    page.wait_for_function("document.querySelector('#path-words').textContent.includes('Purple')")
    page.wait_for_timeout(1000)


def _compute(url: Path, moves: int) -> dict[str, Any]:
    scores = open_run(url)
    cut = Cut(Exploration(scores))
    cut.trace("rb_vgg6")
    times = []
    for value in np.random.default_rng(2).uniform(0.05, 0.95, moves):
        start = time.perf_counter()
        cut.decide(Decision({"rb_vgg6": float(value)}))
        cut.counts()
        cut.trace("rb_vgg6")
        times.append(1000 * (time.perf_counter() - start))
    anew = []
    for value in (0.3, 0.6, 0.8):
        start = time.perf_counter()
        decided = Decision({"rb_vgg6": value}).apply(scores)
        confusion(plausibility_labels(decided), decided["plausible"].values)
        rates_by_night(decided)
        venn(decided)
        anew.append(time.perf_counter() - start)
    return {"compute_ms": statistics.median(times), "anew_s": statistics.median(anew)}


def _table(result: dict[str, Any]) -> Table:
    title = f"{result['cutouts']:,} cutouts, {len(MEMBERS)} members, {result['nights']} nights"
    table = Table("what", "measured", "wanted", title=f"{title}; load {result['load']:.1f}")
    for words, value, wanted in (
        ("first useful paint, scores read", f"{result['paint_s']:.2f} s", "<= 3 s"),
        ("first useful paint from starting the server", f"{result['start_s']:.1f} s", ""),
        ("threshold move anywhere, drawn", f"{result['move_ms']:.0f} ms", "<= 150 ms"),
        ("the slowest of them", f"{result['move_worst_ms']:.0f} ms", ""),
        ("threshold step of 0.005, drawn", f"{result['step_ms']:.0f} ms", "<= 150 ms"),
        ("computing of a move", f"{result['compute_ms']:.0f} ms", ""),
        ("all counts computed anew", f"{result['anew_s']:.2f} s", ""),
        ("anew / move, drawn", f"{result['ratio']:.1f}", ""),
        ("anew / computing of a move", f"{result['ratio_of_computing']:.0f}", ""),
        ("memory of the server", f"{result['server_gb']:.2f} GB", "<= 3 GB"),
        ("memory of each further user", f"{result['user_mb']:.0f} MB", "<= 300 MB"),
    ):
        table.add_row(words, value, wanted)
    return table


if __name__ == "__main__":
    typer.run(main)
