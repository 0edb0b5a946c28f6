"""What test-time flips cost and gain: the mean score of a cutout and its three flips, against one look.

Both look at the same simulated nights, which the networks have not seen, batch by batch in changing order, so that a busy
machine slows them alike; the cost is the median of the ratios within a batch. What is gained is measured pair by pair,
with 95 % intervals of nights drawn with replacement.

    python benchmarks/flips.py
    python benchmarks/flips.py --nights 8 --cutouts 64 --json
"""

import json
import os
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.evaluation.model_comparison import compare_models
from deepstreaks_dask.models.inference import compile_forward
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring.decision import family_of
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.simulation.nights import simulate_nights


def main(
    nights: Annotated[int, typer.Option(min=2)] = 20,
    cutouts: Annotated[int, typer.Option(min=2, help="Cutouts a night.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Of nights that were not trained on.")] = 777,
    first: Annotated[int, typer.Option(help="First night, YYYYMMDD.")] = 20190601,
    batch: Annotated[int, typer.Option(min=1)] = 64,
    zoo: Annotated[str | None, typer.Option(help="Default: the shipped one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Score simulated nights once and with flips."""
    members = Ensemble.from_zoo(zoo).members
    models = [Zoo(zoo).load(member.ref) for member in members]
    with tempfile.TemporaryDirectory() as folder:
        url = Path(folder) / "nights.zarr"
        create_archive(url)
        append_batches(url, simulate_nights(nights, cutouts, seed=seed, first=first))
        dataset = open_archive(url).load()
    cost, scores = _score(models, dataset["cutouts"].values, batch)
    gains = {}
    for column, member in enumerate(members):
        labels = dataset[f"label_{family_of(member.name)}"].values
        mine = (scores[way][:, column] for way in ("once", "flips"))
        gains[member.name] = compare_models(labels, *mine, dataset["night"].values)
    if as_json:
        print(json.dumps({"cost": cost, **{k: v.to_dict() for k, v in gains.items()}}, indent=2))
        return
    table = Table(title=f"flips: {cost:.2f} times the work; gain on {nights} simulated nights")
    for column in ("member", "area", "gain", "FPR", "TPR", "gain", "righted", "wronged"):
        table.add_column(column, justify="right")
    for name, found in gains.items():
        figures = asdict(found)
        table.add_row(
            name,
            f"{found.auc_old.value:.5f}",
            _span(found.auc_gain),
            f"{found.fpr:.4f}",
            f"{found.tpr_old.value:.4f}",
            _span(found.tpr_gain),
            str(figures["righted"]),
            str(figures["wronged"]),
        )
    Console(width=140).print(table)


def _span(gain) -> str:
    return f"{gain.value:+.5f} {gain.low:+.5f} to {gain.high:+.5f}"


def _score(models, pixels: np.ndarray, batch: int) -> tuple[float, dict[str, np.ndarray]]:
    ways = {
        "once": compile_forward(models, batch),
        "flips": compile_forward(models, batch, flips=True),
    }
    parts: dict[str, list[np.ndarray]] = {way: [] for way in ways}
    ratios = []
    for forward in ways.values():
        forward(pixels[:batch])
    for k in range(0, len(pixels), batch):
        seconds = {}
        for way in sorted(ways, reverse=k // batch % 2 == 1):
            start = time.perf_counter()
            parts[way].append(ways[way](pixels[k : k + batch]))
            seconds[way] = time.perf_counter() - start
        ratios.append(seconds["flips"] / seconds["once"])
    return statistics.median(ratios), {way: np.concatenate(part) for way, part in parts.items()}


if __name__ == "__main__":
    typer.run(main)
