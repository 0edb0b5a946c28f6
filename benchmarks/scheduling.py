"""What planning and scheduling a whole archive costs: `score()` on tasks that do nothing.

An archive of millions of cutouts is laid out without pixels, and `score()` runs over all of its shards on local worker
processes, with a task that stores scores of a constant in place of one that computes them. For each size:

- *plan*: seconds from the call to the first task's submission;
- *a task*: seconds of wall time a shard took, nothing having been computed;
- *client*, *scheduler*: peak resident memory, each in a process of its own;
- *overhead*: a task's time over what the nine networks take to compute a shard at ``--rate`` cutouts a second, which
  `benchmarks/throughput.py` measures.

Then a scheduler is given as many workers as ``--workers`` says, in one process, and as many tasks for each number of
workers: *a task among n workers* over that among the fewest tells whether the cost grows with the cluster.

    python benchmarks/scheduling.py
    python benchmarks/scheduling.py --cutouts 64000 --workers 1,10 --json
"""

import asyncio
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import dask
import numpy as np
import typer
from dask.distributed import Client, Scheduler, Worker
from made import lay_out
from rich.console import Console
from rich.table import Table

from deepstreaks_dask.scoring import campaign
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.runs import Run
from deepstreaks_dask.scoring.worker import Outcome, Unit

SHARD = 640
MOST_MB, MOST_OVERHEAD = 1024, 0.02


def main(
    cutouts: Annotated[
        str, typer.Option(help="Sizes of the archive, separated by commas.")
    ] = "700000,7000000",
    rate: Annotated[
        float, typer.Option(help="Cutouts a second that a worker's nine networks score.")
    ] = 12.0,
    workers: Annotated[
        str, typer.Option(help="Numbers of simulated workers, separated by commas.")
    ] = "10,100,1000",
    tasks: Annotated[int, typer.Option(help="Tasks for each number of workers.")] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not tables.")] = False,
) -> None:
    """Measure the cost of planning and scheduling."""
    console = Console(stderr=True)
    sizes, clusters = ([int(part) for part in text.split(",")] for text in (cutouts, workers))
    campaigns = []
    for size in sizes:
        console.print(f"scheduling {size:,} cutouts", highlight=False)
        campaigns.append(_in_a_process("campaign", size) | {"cutouts": size})
        campaigns[-1]["overhead"] = campaigns[-1]["task_s"] * rate / SHARD
    among = []
    for number in clusters:
        console.print(f"{tasks:,} tasks among {number:,} workers", highlight=False)
        among.append(_in_a_process("cluster", number, tasks) | {"workers": number})
    result = {"rate": rate, "shard": SHARD, "campaigns": campaigns, "clusters": among}
    if as_json:
        print(json.dumps(result, indent=2))
        return
    for table in _tables(result):
        Console().print(table)


def _in_a_process(what: str, *numbers: int) -> dict[str, Any]:
    command = [sys.executable, __file__, what, *map(str, numbers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _nothing(unit: Unit) -> Outcome:
    """Store scores as a task does, without reading cutouts or computing."""
    stored = Run.attach(unit.url, unit.run, write=True).scores
    for first, last in unit.shards:
        stored[first:last] = np.float32(0.5)
    return Outcome(sum(last - first for first, last in unit.shards))


def _warm(_: int) -> str:
    return Unit.__name__  # what tasks import has been imported then


def _campaign(size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        url = Path(folder) / "large.zarr"
        lay_out(url, size, SHARD)
        met = f"{folder}/scheduler.json"
        scheduler = _dask("scheduler", met, "--host", "127.0.0.1", "--port", "0")
        worker = _dask("worker", met, "--nworkers", "2", "--nthreads", "2")
        try:
            with Client(scheduler_file=met) as client:
                client.wait_for_workers(2)
                return _timed(client, url, size) | {"scheduler_mb": _peak(scheduler.pid)}
        finally:
            for process in (worker, scheduler):
                process.terminate()
                process.wait()


def _dask(what: str, met: str, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dask", what, *options, "--no-dashboard"]
    return subprocess.Popen([*command, "--scheduler-file", met], stderr=subprocess.DEVNULL)


def _timed(client: Client, url: Path, size: int) -> dict[str, float]:
    began: list[float] = []

    def submit(client: Client, unit: Unit) -> Any:
        began.append(time.perf_counter())
        return client.submit(_nothing, unit, pure=False, retries=2)

    campaign.submit_unit = submit
    client.gather(client.map(_warm, range(4), pure=False))
    start = time.perf_counter()
    scores = campaign.score(url, ensemble=Ensemble.from_zoo(), client=client, progress=False)
    end = time.perf_counter()
    assert (scores["scores"].values == 0.5).all()
    return {
        "plan_s": began[0] - start,
        "tasks": len(began),
        "task_s": (end - began[0]) / len(began),
        "client_mb": _peak(os.getpid()),
    }


def _cluster(workers: int, tasks: int) -> dict[str, float]:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    return asyncio.run(_among(workers, tasks))


async def _among(workers: int, tasks: int) -> dict[str, float]:
    logging.getLogger("distributed").setLevel(logging.ERROR)
    # in one process they share one loop: each looking every 20 ms whether it is late would be most of what it does
    watching = {"admin.tick.interval": "1h", "admin.system-monitor.interval": "1h"}
    quiet = {**watching, "worker.profile.enabled": False}
    dask.config.set({f"distributed.{name}": value for name, value in quiet.items()})
    async with Scheduler(protocol="inproc", dashboard=False) as scheduler:
        started = await asyncio.gather(
            *(
                Worker(scheduler.address, nthreads=1, memory_limit=0, dashboard=False, name=k)
                for k in range(workers)
            )
        )
        async with Client(scheduler.address, asynchronous=True) as client:
            seconds = []
            for turn in range(3):
                start = time.process_time()
                futures = [client.submit(int, k, key=f"t{turn}-{k}") for k in range(tasks)]
                await client.gather(futures)
                seconds.append((time.process_time() - start) / tasks)
                del futures
        await asyncio.gather(*(worker.close() for worker in started))
    return {"task_s": statistics.median(seconds), "process_mb": _peak(os.getpid())}


def _peak(pid: int) -> float:
    """Peak of a process's resident memory, MB."""
    # not ru_maxrss, which counts what the process was forked from
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _tables(result: dict[str, Any]) -> list[Table]:
    caption = (
        f"wanted: below {MOST_MB:,} MB each, overhead below {MOST_OVERHEAD:.0%} at {result['rate']:g} "
        "cutouts a second a worker"
    )
    sizes = Table(title="A campaign of tasks that do nothing", caption=caption)
    for column in (
        "cutouts",
        "tasks",
        "plan s",
        "a task ms",
        "overhead",
        "client MB",
        "scheduler MB",
    ):
        sizes.add_column(column, justify="right")
    for row in result["campaigns"]:
        sizes.add_row(
            f"{row['cutouts']:,}",
            f"{row['tasks']:,}",
            f"{row['plan_s']:.2f}",
            f"{row['task_s'] * 1e3:.2f}",
            f"{row['overhead']:.3%}",
            *(f"{row[key]:,.0f}" for key in ("client_mb", "scheduler_mb")),
        )
    clusters = Table(
        title="A scheduler and its workers", caption="processor time of all, in one process"
    )
    for column in ("workers", "a task ms", "of the fewest workers'", "MB"):
        clusters.add_column(column, justify="right")
    for row in result["clusters"]:
        clusters.add_row(
            f"{row['workers']:,}",
            f"{row['task_s'] * 1e3:.2f}",
            f"{row['task_s'] / result['clusters'][0]['task_s']:.2f}",
            f"{row['process_mb']:,.0f}",
        )
    return [sizes, clusters]


_PARTS = {"campaign": _campaign, "cluster": _cluster}

if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in _PARTS:
        print(json.dumps(_PARTS[sys.argv[1]](*map(int, sys.argv[2:]))))
    else:
        typer.run(main)
