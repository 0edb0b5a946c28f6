"""Sequences of stamps: how fast they are simulated, scored, and followed from epoch to epoch.

``simulate``: stamps of 21 x 21 pixels a second of one core, by survey and task, in seconds of this process's own CPU
time, so that what else runs on the machine does not count.

``score``: stamps a second (a) of a bare compiled forward pass over batches that are padded beforehand and lie in memory,
(b) of `score()` with the workers that `connect()` gives here, a process a core, or with one that has all cores
(`--workers 1`), from an archive on disk to probabilities on disk. Both ways have all cores. They take turns in changing
order, so that a busy machine slows them alike; the ratio is the median of the ratios within a turn. The other ratio is of
the processors' time that both took, workers, scheduler and client together, which what else runs on the machine changes
less.

``follow``: seconds to look at one new epoch of many objects (a) from the states that the epochs before have left, (b) by
looking at all of their epochs again, in turns as above.

Objects beyond the first are the simulated ones again, their stamps turned over.

    python benchmarks/sequences.py
    python benchmarks/sequences.py simulate --objects 40 --json
    python benchmarks/sequences.py score --objects 4096 --repeats 5
    python benchmarks/sequences.py follow --objects 10000
"""

import json
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import processors
import typer
from rich.console import Console
from rich.table import Table

from deepstreaks_dask.archive.append import CutoutBatch, append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.sequences import Sequences
from deepstreaks_dask.simulation.sequences import LAYOUT, simulate_sequences

CASES = (
    ("hits", "rcnn"),
    ("hits-shifted", "rcnn"),
    ("ztf", "rcnn"),
    ("crts", "taonet"),
    ("crts", "taonet6"),
)
NETWORKS = {"rcnn": ("hits", "rcnn"), "taonet": ("crts", "taonet")}  # survey and task of each
WANTED = 0.9
SIMULATED = 128

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")]
RepeatsOption = Annotated[int, typer.Option(min=1, help="Turns.")]
app = typer.Typer()


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    """Measure the simulator, where nothing else is said."""
    if context.invoked_subcommand is None:
        simulate()


@app.command()
def simulate(
    objects: Annotated[int, typer.Option(min=1)] = 400, as_json: JsonOption = False
) -> None:
    """Print stamps a second of CPU time."""
    rows = []
    for survey, task in CASES:
        list(simulate_sequences(2, survey, task, seed=1))  # imports, and the first call's tables
        start = time.process_time()
        stamps = sum(len(b.cutouts) for b in simulate_sequences(objects, survey, task, seed=2))
        rate = stamps / (time.process_time() - start)
        rows.append({"survey": survey, "task": task, "stamps": stamps, "stamps_per_second": rate})
    _print(rows, "stamps simulated a second of a core's time", as_json)


@app.command()
def score(
    objects: Annotated[int, typer.Option(min=1)] = 4096,
    repeats: RepeatsOption = 5,
    networks: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(NETWORKS),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; one a core by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare `score()` with a bare forward pass."""
    import tensorflow as tf

    from deepstreaks_dask.models.registry import classifier_class
    from deepstreaks_dask.models.sequence.preprocessing import batched, padding, prepare
    from deepstreaks_dask.models.zoo.card import Card
    from deepstreaks_dask.models.zoo.store import Zoo
    from deepstreaks_dask.scoring.campaign import score as run_campaign
    from deepstreaks_dask.scoring.cluster import connect
    from deepstreaks_dask.scoring.ensemble import Ensemble

    rows = []
    with tempfile.TemporaryDirectory() as folder, connect(workers=workers) as client:
        for name in networks.split(","):
            many = _many(objects, *NETWORKS[name])
            url = Path(folder) / f"{name}.zarr"
            create_archive(url, **LAYOUT)
            append_batches(url, [many])
            zoo = Zoo(Path(folder) / name)
            classes = sorted(set(many.columns["kind"]))
            network = classifier_class(name)(classes)
            zoo.save(
                network, Card(f"own_{name}", "1", name, input_shape=(21, 21, 1), classes=classes)
            )
            model = zoo.load_classifier(f"own_{name}").model
            sequences = Sequences(many.cutouts, many.counts, many.epochs)
            batches = list(batched(prepare(sequences)))
            signature = [tf.TensorSpec(x.shape, x.dtype) for x in model.inputs]
            bare = tf.function(
                lambda *x, model=model: model(list(x), training=False), input_signature=signature
            )
            given = [[getattr(batch, x.name) for x in model.inputs] for batch in batches]
            families, runs = Ensemble.from_zoo(zoo.url, ["own"]), iter(range(repeats + 1))

            def a(given=given, bare=bare) -> None:
                for arrays in given:
                    bare(*map(tf.constant, arrays)).numpy()

            def b(url=url, families=families, runs=runs) -> None:
                run_campaign(
                    url, ensemble=families, client=client, run=f"r{next(runs)}", progress=False
                )

            turns = _turns([a, b], repeats, partial(processors.seconds, client))
            stamps = len(many.cutouts)
            rows.append(
                {
                    "network": name,
                    "objects": objects,
                    "stamps": stamps,
                    "padding": padding(many.counts),
                    **{way: stamps / statistics.median(t[way] for t in turns) for way in "ab"},
                    "b/a": statistics.median(turn["a"] / turn["b"] for turn in turns),
                    "cpu b/a": statistics.median(turn["cpu a"] / turn["cpu b"] for turn in turns),
                    "wanted": WANTED,
                }
            )
    _print(rows, "stamps a second: (a) bare forward pass, (b) score()", as_json)


@app.command()
def follow(
    objects: Annotated[int, typer.Option(min=1)] = 10_000,
    repeats: RepeatsOption = 5,
    as_json: JsonOption = False,
) -> None:
    """Compare a step of the recurrent network with looking at everything again."""
    from deepstreaks_dask.models.sequence.rcnn import Rcnn

    many = _many(objects, *NETWORKS["rcnn"])
    network = Rcnn(sorted(set(many.columns["kind"])))
    sequences = Sequences(many.cutouts, many.counts, many.epochs)
    last = sequences.only(sequences.ends - 1, np.ones(objects, int))
    going, state = np.arange(objects), None
    # states after all epochs but the last, whenever that is
    states: dict[int, Any] = {}
    for k in range(int(many.counts.max()) - 1):
        still = many.counts[going] > k + 1
        going = going[still]
        state = None if state is None else state.take(np.flatnonzero(still))
        _, state = network.step(
            sequences.only(sequences.starts[going] + k, np.ones(len(going), int)), state
        )
        for place, row in enumerate(going):
            if many.counts[row] == k + 2:
                states[int(row)] = (state, place)
    known = [states[row][0].take(np.array([states[row][1]])) for row in range(objects)]
    before = type(known[0]).join(known)

    def a() -> np.ndarray:
        return network.step(last, before)[0]

    def b() -> np.ndarray:
        return network.predict(sequences)

    np.testing.assert_allclose(a(), b(), atol=1e-4)
    turns = _turns([a, b], repeats)
    row = {
        "objects": objects,
        "epochs": float(many.counts.mean()),
        "step": statistics.median(turn["a"] for turn in turns),
        "again": statistics.median(turn["b"] for turn in turns),
        "again/step": statistics.median(turn["b"] / turn["a"] for turn in turns),
    }
    _print([row], "seconds for one new epoch of all objects", as_json)


def _many(objects: int, survey: str, task: str) -> CutoutBatch:
    """Give as many objects as wanted: a few that are simulated, and these again, turned over."""
    parts = list(simulate_sequences(min(SIMULATED, objects), survey, task, seed=7))
    counts = np.concatenate([part.counts for part in parts])
    once = Sequences(
        np.concatenate([part.cutouts for part in parts]),
        counts,
        {name: np.concatenate([p.epochs[name] for p in parts]) for name in parts[0].epochs},
    )
    kinds = np.concatenate([part.columns["kind"] for part in parts])
    rows = np.arange(objects) % len(counts)
    all_of_them = once.take(rows)
    copies = np.repeat(np.arange(objects) // len(counts), all_of_them.counts)
    stamps = all_of_them.stamps
    for copy in range(1, int(copies.max()) + 1):  # no two objects may be the same
        mine = copies == copy
        stamps[mine] = np.rot90(stamps[mine], copy % 4, axes=(1, 2)) + np.float32(copy // 4)
    ids = np.array([f"o{k}" for k in range(objects)], object)
    return CutoutBatch(
        stamps,
        {"id": ids, "kind": kinds[rows]},
        counts=all_of_them.counts,
        epochs=dict(all_of_them.epochs),
    )


def _turns(
    ways: list[Callable[[], Any]], repeats: int, cpu: Callable[[], float] = time.process_time
) -> list[dict[str, float]]:
    """Time ways against each other, in seconds that pass and in those of processors; each runs once before."""
    order = deque(ways)
    for way in order:
        way()
    turns = []
    for turn in range(repeats):  # who goes first changes: a processor slows as it warms
        order.rotate(turn)
        took = {}
        for way in order:
            before, start = cpu(), time.perf_counter()
            way()
            took[way.__name__] = time.perf_counter() - start
            took[f"cpu {way.__name__}"] = cpu() - before
        turns.append(took)
    return turns


def _print(rows: list[dict[str, Any]], title: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows))
        return
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    Console().print(table)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    app()
