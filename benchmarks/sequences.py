"""How many stamps of 21 x 21 pixels a second one core simulates, by survey and task.

In seconds of this process's own CPU time, so that what else runs on the machine does not count.

    python benchmarks/sequences.py
    python benchmarks/sequences.py --objects 40 --json
"""

import json
import os
import time
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import typer
from rich.console import Console
from rich.table import Table

from deepstreaks_dask.simulate.sequences import simulate_sequences

CASES = (
    ("hits", "rcnn"),
    ("hits-shifted", "rcnn"),
    ("ztf", "rcnn"),
    ("crts", "taonet"),
    ("crts", "taonet6"),
)


def main(
    objects: Annotated[int, typer.Option(min=1)] = 400,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Print stamps a second of CPU time."""
    rows = []
    for survey, task in CASES:
        list(simulate_sequences(2, survey, task, seed=1))  # imports, and the first call's tables
        start = time.process_time()
        stamps = sum(len(b.cutouts) for b in simulate_sequences(objects, survey, task, seed=2))
        rate = stamps / (time.process_time() - start)
        rows.append({"survey": survey, "task": task, "stamps": stamps, "stamps_per_second": rate})
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("survey", "task", "stamps", "stamps a second a core")
    for row in rows:
        table.add_row(
            row["survey"], row["task"], f"{row['stamps']:,}", f"{row['stamps_per_second']:,.0f}"
        )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
