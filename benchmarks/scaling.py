"""What a second worker brings: `score()` with two workers of one core over one worker of one core.

The bound is what a second core brings at all on this machine: two independent processes that run the bare compiled forward
pass on arrays in memory, over one of them. All processes are bound to their cores, client and scheduler to those of the
workers. Ways take turns, so that a busy machine slows them alike; ratios are medians of the ratios within a turn.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --architecture resnet50 --cutouts 512 --repeats 3 --json
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.models.inference import compile_forward
from deepstreaks_dask.models.registry import ARCHITECTURES, build
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.cluster import connect
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.plan import CampaignOptions
from deepstreaks_dask.simulation.nights import simulate_nights

BATCH = 64
SHARD = 128
WANTED = 1.9


def main(
    cutouts: Annotated[int, typer.Option(min=SHARD, help="Cutouts of the archive.")] = 4096,
    architecture: Annotated[str, typer.Option(help=f"One of {', '.join(ARCHITECTURES)}.")] = "vgg6",
    repeats: Annotated[int, typer.Option(min=1, help="Turns that each way is timed.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Measure what a second worker brings, and a second process."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise typer.BadParameter("this wants a machine with two cores")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        archive, zoo = f"{folder}/archive.zarr", f"{folder}/zoo"
        create_archive(archive, shard=SHARD)
        append_batches(archive, simulate_nights(4, -(-cutouts // 4)))
        keras.utils.set_random_seed(0)
        Zoo(zoo).save(build(architecture), Card(f"rb_{architecture}", "1", architecture))

        def started(way: Callable[..., None], *on: int) -> Connection:
            return stack.enter_context(_process(way, set(on), archive, zoo))

        clusters = [started(_campaign, *cores[:n]) for n in (1, 2)]
        processes = [started(_bare, core) for core in cores]
        for connection in (*clusters, *processes):
            connection.recv()  # it is warm
        turns = []
        for _ in range(repeats):
            one, two = (_seconds([cluster]) for cluster in clusters)
            alone, together = (_seconds(processes[:n]) for n in (1, 2))
            # two processes do the work of one twice
            turns.append({"workers": one / two, "bare": 2 * alone / together})
    ratios = {what: statistics.median(turn[what] for turn in turns) for what in turns[0]}
    over = statistics.median(turn["workers"] / turn["bare"] for turn in turns)
    result = {
        "architecture": architecture,
        "cutouts": cutouts,
        "repeats": repeats,
        "two_workers_over_one": ratios["workers"],
        "two_bare_processes_over_one": ratios["bare"],
        "workers_over_bare": over,
        "load": os.getloadavg()[0],
    }
    if as_json:
        print(json.dumps(result, indent=2))
        return
    title = f"{architecture}, {cutouts:,} cutouts; load {result['load']:.1f}"
    table = Table("what", "measured", "wanted", title=title)
    wanted = f">= {WANTED}, or that of two bare processes"
    table.add_row("score(), two workers over one", f"{ratios['workers']:.2f}", wanted)
    table.add_row("bare forward pass, two processes over one", f"{ratios['bare']:.2f}", "")
    table.add_row("the first over the second", f"{over:.2f}", "")
    Console().print(table)


@contextmanager
def _process(way: Callable[..., None], cores: set[int], *arguments: str) -> Iterator[Connection]:
    """Keep a process on some cores; it tells when it is warm, works whenever it is told to, and tells when it is done."""
    ours, theirs = get_context("spawn").Pipe()
    environment = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    process = get_context("spawn").Process(target=_work, args=(way, cores, theirs, *arguments))
    process.start()
    theirs.close()  # what dies is heard of
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    try:
        yield ours
    finally:
        with suppress(BrokenPipeError):
            ours.send(False)
        process.join()


def _work(way: Any, cores: set[int], connection: Connection, archive: str, zoo: str) -> None:
    os.sched_setaffinity(0, cores)
    with way(Path(archive), zoo, len(cores)) as do:
        do()
        connection.send(True)
        while connection.recv():
            do()
            connection.send(True)


@contextmanager
def _campaign(archive: Path, zoo: str, workers: int) -> Iterator[Callable[[], None]]:
    runs = iter(range(1_000_000))
    with connect("local", workers=workers) as client:

        def do() -> None:
            score(
                archive,
                ensemble=Ensemble.from_zoo(zoo, ["rb"]),
                client=client,
                run=f"{workers}-{next(runs)}",
                progress=False,
                options=CampaignOptions(batch=BATCH),
            )

        yield do


@contextmanager
def _bare(archive: Path, zoo: str, _: int) -> Iterator[Callable[[], None]]:
    cutouts = np.asarray(open_archive(archive)["cutouts"].values)
    model = Zoo(zoo).load(Zoo(zoo).list()[0].ref)
    forward = compile_forward([model], BATCH, ["bytes"])

    def do() -> None:
        for k in range(0, len(cutouts), BATCH):
            forward(cutouts[k : k + BATCH])

    yield do


def _seconds(connections: list[Connection]) -> float:
    start = time.perf_counter()
    for connection in connections:
        connection.send(True)
    for connection in connections:
        connection.recv()
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
