"""Cutouts a second of a training from memory, and of one that reads the archive while it trains.

Both train the same network on the same cutouts with the same recipe; only the order in which these come differs. They
take turns in changing order, an epoch each, so that a busy machine slows them alike; the ratio is the median of the
ratios within a turn, by the clock and by the processors' time, which what else runs on a machine disturbs less. The first
epoch of each, which compiles, is not timed. Waited is the share of an epoch in which a batch was not there yet. Peak memory
is that of cutouts held.

    python benchmarks/training.py
    python benchmarks/training.py --cutouts 2048 --repeats 5 --architecture resnet50 --json
"""

import json
import os
import statistics
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from deepstreaks_dask.archive.append import CutoutBatch, append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.models.registry import ARCHITECTURES, build
from deepstreaks_dask.simulation.nights import simulate_nights
from deepstreaks_dask.training.batches import CutoutFeed, InMemory, Streamed
from deepstreaks_dask.training.recipe import Recipe

WANTED = 0.9
SIMULATED = 256  # cutouts that are simulated; the others are these, turned and shifted


def main(
    cutouts: Annotated[int, typer.Option(min=1)] = 4096,
    repeats: Annotated[int, typer.Option(min=1, help="Turns.")] = 5,
    window: Annotated[int, typer.Option(min=1, help="Cutouts shuffled together.")] = 1024,
    shard: Annotated[int, typer.Option(help="Cutouts a shard.")] = 512,
    architecture: Annotated[str, typer.Option(help="vgg6, resnet50 or densenet121.")] = "vgg6",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Measure trainings from memory and from the archive."""
    if architecture not in ARCHITECTURES:
        raise typer.BadParameter(f"no architecture {architecture!r}: {', '.join(ARCHITECTURES)}")
    with tempfile.TemporaryDirectory() as folder:
        archive = _archive(Path(folder) / "a.zarr", cutouts, shard)
        result = _measure(archive, repeats, window, architecture)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    table = Table(
        title=f"{architecture}: cutouts a second, trained from memory and from the archive"
    )
    columns = (
        *("memory", "streamed", "streamed/memory", "of processors", "waited"),
        *("wanted", "most held"),
    )
    for column in ("cutouts", *columns):
        table.add_column(column, justify="right")
    rates = [f"{result[way]:,.0f}" for way in ("memory", "streamed")]
    ratios = [f"{result[name]:.2f}" for name in ("ratio", "processors")]
    ratios.append(f"{result['waited']:.2%}")
    table.add_row(f"{cutouts:,}", *rates, *ratios, f"≥ {WANTED}", f"{result['held']:,}")
    Console().print(table)


def _archive(url: Path, cutouts: int, shard: int):
    """As many different cutouts as are asked for, made of a few."""
    (some,) = simulate_nights(1, min(SIMULATED, cutouts))
    create_archive(url, shard=shard)

    def blocks():
        for first in range(0, cutouts, len(some.cutouts)):
            n = min(len(some.cutouts), cutouts - first)
            turn = first // len(some.cutouts)
            pixels = np.roll(np.rot90(some.cutouts[:n], turn % 4, (1, 2)), turn // 4, 1)
            ids = np.array([f"c{first + k}" for k in range(n)], dtype=object)
            label = some.columns["label_rb"][:n]
            yield CutoutBatch(np.ascontiguousarray(pixels), {"id": ids, "label_rb": label})

    append_batches(url, blocks())
    return open_archive(url)


class _Timed(Streamed):
    """Streamed cutouts, and the seconds that it took to get at them."""

    waited = 0.0

    def take(self, places: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        taken = super().take(places)
        self.waited += time.perf_counter() - start
        return taken


def _measure(archive, repeats: int, window: int, architecture: str) -> dict[str, Any]:
    recipe = Recipe(window=window)
    n = archive.sizes["cutout"]
    labels = archive["label_rb"].values[:, None].astype(np.float32)
    weights = (labels >= 0).astype(np.float32)
    streamed = _Timed(archive, np.arange(n), window)
    pixels = {"memory": InMemory(archive["cutouts"].values), "streamed": streamed}
    batches = {way: CutoutFeed(part, labels, weights, recipe) for way, part in pixels.items()}
    most = 0

    def look(batch: int, logs: object = None) -> None:
        nonlocal most
        most = max(most, streamed.held)

    keras.utils.set_random_seed(1)
    network = keras.Sequential([build(architecture), keras.layers.Reshape((1, 1))])
    network.compile("adam", "binary_crossentropy", jit_compile=False)
    watched = [keras.callbacks.LambdaCallback(on_train_batch_end=look)]

    def epoch(way: str) -> np.ndarray:
        """Seconds by the clock, and of all processors."""
        clocks = time.perf_counter, time.process_time
        start = [clock() for clock in clocks]
        network.fit(batches[way], epochs=1, shuffle=False, verbose=0, callbacks=watched)
        return np.subtract([clock() for clock in clocks], start)

    for way in batches:
        epoch(way)
    turns = []
    streamed.waited = 0.0
    for turn in range(repeats):
        order = deque(batches)
        order.rotate(turn)
        turns.append({way: epoch(way) for way in order})
    rates = {way: n / statistics.median(turn[way][0] for turn in turns) for way in batches}
    ratios = np.array([turn["memory"] / turn["streamed"] for turn in turns])
    clock, processors = np.median(ratios, axis=0)
    waited = streamed.waited / sum(turn["streamed"][0] for turn in turns)
    return {
        "architecture": architecture,
        "cutouts": n,
        **rates,
        "ratio": clock,
        "turns": ratios[:, 0].round(3).tolist(),
        "processors": processors,
        "waited": waited,
        "held": most,
    }


if __name__ == "__main__":
    typer.run(main)
