"""Images a second of a bare network, of a campaign, and of the way the original service works.

For each architecture, and for nine members (three families of the three architectures, random weights), on the same
simulated cutouts and with the same weights:

(a) a bare compiled forward pass over a float32 array in memory;
(b) `score()` with one local worker, from an archive on disk to scores on disk;
(c) the original service's way: for each model open and resize every JPEG, `predict` in batches of
    32, one upsert a cutout into SQLite;
(d) for the nine, `score(mode="decide")` with thresholds at the pass rates of a real archive (see `cascade.py`).

They take turns in changing order, so that a busy machine slows them alike; rates are
medians, and ratios are medians of the ratios within a turn. Each way runs once before it is timed.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --large 512 --repeats 3 --architectures nine
    python benchmarks/throughput.py --cutouts 1024 --repeats 3 --architectures vgg6 --json
"""

import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
import typer
from cascade import PASS_RATES, save_random, thresholds_at_published_rates
from dask.distributed import Client
from PIL import Image
from rich.console import Console
from rich.table import Table

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.models.registry import ARCHITECTURES, build
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.readers.registry import get_reader
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.cluster import connect
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.ensemble import Ensemble, Family, Member
from deepstreaks_dask.scoring.plan import CampaignOptions
from deepstreaks_dask.simulation.nights import Night, write_images

NIGHT = 20260101
NINE = "nine"
FEWEST = 256
WANTED = {"vgg6": 0.90, "resnet50": 0.95, "densenet121": 0.95, NINE: 0.95}


def main(
    cutouts: Annotated[int, typer.Option(help="Cutouts for VGG6.")] = 8192,
    large: Annotated[int, typer.Option(help="Cutouts for the larger networks.")] = 1024,
    repeats: Annotated[int, typer.Option(help="Turns that each way is timed.")] = 5,
    batch: Annotated[int, typer.Option(help="Cutouts in a forward pass of (a) and (b).")] = 64,
    architectures: Annotated[
        str, typer.Option(help="Separated by commas; 'nine' for three families of three.")
    ] = "vgg6,resnet50,densenet121,nine",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Measure images a second of networks, campaigns and the original way."""
    names = architectures.split(",")
    if unknown := sorted(set(names) - set(WANTED)):
        raise typer.BadParameter(f"no architecture {unknown[0]!r}: {', '.join(WANTED)}")
    if min(cutouts, large, repeats, batch) < 1:
        raise typer.BadParameter("numbers must be 1 or more")
    if NINE in names and large < FEWEST:
        raise typer.BadParameter(f"a pass rate of 2.5 % wants --large {FEWEST} or more")
    console = Console(stderr=True)
    results = []
    with tempfile.TemporaryDirectory() as folder, connect(workers=1) as client:
        for name in names:
            console.print(f"{name}: simulating and measuring …", highlight=False)
            n = cutouts if name == "vgg6" else large
            results.append(_measure(name, n, repeats, batch, Path(folder), client))
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        Console().print(_table(results))


def _measure(
    name: str, n: int, repeats: int, batch: int, folder: Path, client: Client
) -> dict[str, object]:
    images, archive = folder / f"images-{n}", folder / f"archive-{n}.zarr"
    if not archive.exists():
        write_images(images, Night.draw(NIGHT, seed=0), n)
        create_archive(archive)
        append_batches(archive, get_reader("images").read(images))
    dataset = open_archive(archive)
    n = dataset.sizes["cutout"]  # equal pictures, rare as they are, are stored once
    families = _nine(folder / "nine") if name == NINE else _member(name, folder / "zoo")
    zoo = Zoo(families.zoo)
    models = [zoo.load(member.ref) for member in families.members]
    paths = [images / str(source) for source in dataset["source"].values]
    pixels = dataset["cutouts"].values[..., None].astype(np.float32) / 255

    bare = tf.function(
        lambda x: tf.concat([model(x, training=False) for model in models], axis=1), autograph=False
    )
    padding = [(0, -n % batch), (0, 0), (0, 0), (0, 0)]
    batches = np.pad(pixels, padding).reshape(-1, batch, *pixels.shape[1:])
    runs = iter(range(2 * repeats + 2))
    database = sqlite3.connect(folder / f"{name}.sqlite", isolation_level=None)
    # As forgiving as the service's database was: an upsert does not wait for the disk.
    database.executescript(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
        "CREATE TABLE streaks (name TEXT, model INTEGER, score REAL, PRIMARY KEY (name, model))"
    )

    def a() -> np.ndarray:
        return np.concatenate([bare(tf.constant(x)).numpy() for x in batches])[:n]

    def b(**mode: Any) -> np.ndarray:
        run = f"{name}-{next(runs)}"
        scored = score(
            archive,
            ensemble=families,
            client=client,
            run=run,
            progress=False,
            options=CampaignOptions(batch=batch),
            **mode,
        )
        return scored["scores"].values

    def c() -> np.ndarray:
        return np.stack(
            [_original_way(k, m, paths, database) for k, m in enumerate(models)], axis=1
        )

    def d() -> np.ndarray:
        return b(mode="decide", decision=decision)

    expected = a()
    ways: deque[Callable[[], np.ndarray]] = deque((a, b, c))
    if name == NINE:
        decision = Decision(thresholds_at_published_rates(expected, families))
        ways.append(d)
    for way in list(ways)[1:]:  # compare like with like, and leave loading and tracing behind
        scores = way()
        looked = ~np.isnan(scores)
        assert looked.all() or way is d
        np.testing.assert_allclose(scores[looked], expected[looked], atol=1e-4)
    seconds = []
    for turn in range(repeats):  # who goes first changes: a processor slows as it warms
        ways.rotate(turn)
        seconds.append({way.__name__: _seconds(way) for way in ways})
    database.close()
    timed = sorted(seconds[0])
    rates = {way: n / statistics.median(turn[way] for turn in seconds) for way in timed}
    ratios = {
        f"{way}/{bound}": statistics.median(turn[bound] / turn[way] for turn in seconds)
        for way, bound in ("ba", "ca", "bc", "dc")
        if way in timed
    }
    return {"architecture": name, "cutouts": n, "repeats": repeats, "batch": batch} | rates | ratios


def _member(name: str, folder: Path) -> Ensemble:
    """Take a shipped member of this architecture, or make one with random weights."""
    zoo = Zoo()
    cards = [card for card in zoo.list() if card.architecture == name]
    if not cards:
        zoo = Zoo(folder)
        keras.utils.set_random_seed(0)
        cards = [zoo.save(build(name), Card(f"rb_{name}", "1", name))]
    card = cards[-1]
    member = Member(card.name, card.version, card.sha256)
    return Ensemble((Family(card.family, (member,)),), zoo.url)


def _nine(folder: Path) -> Ensemble:
    """Make three families of each architecture, with random weights."""
    save_random(Zoo(folder), [*PASS_RATES], list(ARCHITECTURES))
    return Ensemble.from_zoo(str(folder))


def _original_way(
    number: int, model: keras.Model, paths: list[Path], database: sqlite3.Connection
) -> np.ndarray:
    pixels = np.empty((len(paths), 144, 144, 1), np.float32)
    for row, path in enumerate(paths):
        with Image.open(path) as image:
            small = image.convert("L").resize((144, 144), Image.Resampling.BILINEAR)
            pixels[row, :, :, 0] = np.asarray(small, np.float32) / 255
    scores = model.predict(pixels, batch_size=32, verbose=0)[:, 0]
    for path, value in zip(paths, scores, strict=True):
        database.execute(
            "INSERT INTO streaks VALUES (?, ?, ?) "
            "ON CONFLICT (name, model) DO UPDATE SET score = excluded.score",
            (path.name, number, float(value)),
        )
    return scores


def _seconds(way: Callable[[], np.ndarray]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def _table(results: list[dict[str, object]]) -> Table:
    table = Table(
        title="Images a second",
        caption="(a) bare forward pass, array in memory; (b) score(), archive on disk, one local "
        "worker; (c) the original service's way; (d) score(mode='decide')",
    )
    table.add_column("architecture")
    for column in ("cutouts", "a", "b", "c", "d", "b/a", "wanted", "c/a", "b/c", "d/c"):
        table.add_column(column, justify="right")
    for row in results:
        table.add_row(
            str(row["architecture"]),
            f"{row['cutouts']:,}",
            *(f"{row[way]:,.0f}" if way in row else "" for way in "abcd"),
            f"{row['b/a']:.2f}",
            f"≥ {WANTED[str(row['architecture'])]:.2f}",
            *(f"{row[ratio]:.2f}" if ratio in row else "" for ratio in ("c/a", "b/c", "d/c")),
        )
    return table


if __name__ == "__main__":
    typer.run(main)
