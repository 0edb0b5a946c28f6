"""What a calibrated triage leaves, loses and costs, with the shipped networks on simulated nights.

The shipped members score simulated nights in full; a student is distilled from some of the nights, calibrated on others and
checked on the rest, as `deepstreaks triage fit` does it, for every size of its picture. Then new nights are scored in
full and with the triage, and compared. Nights are drawn from one simulation, so this says what the method does where its
assumption holds, and nothing of real nights.

A simulated night holds far more plausible cutouts than a real one. What a real archive would leave is computed: its
plausible ones (0.5 % in Duev et al. 2019), and of the others the share that the first look lets through here. The cost
with nine members at that share is what `benchmarks/cascade.py --left SHARE --side SIDE` measures.

    python benchmarks/triage.py
    python benchmarks/triage.py --nights 40 --cutouts 250 --loss 0.01 --sides 72 --json
"""

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import processors
import typer
import xarray as xr
from dask.distributed import Client

from deepstreaks_dask.archive import append, create
from deepstreaks_dask.campaign import score
from deepstreaks_dask.cluster import connect
from deepstreaks_dask.decision import Decision
from deepstreaks_dask.distillation import Plan, fit
from deepstreaks_dask.families import Families
from deepstreaks_dask.simulate.nights import simulate_nights
from deepstreaks_dask.triage import Checked

PUBLISHED = 0.005  # share of an archive that all families accept (Duev et al. 2019)
LATER = 20270101  # the first of the new nights


def main(
    nights: Annotated[int, typer.Option(help="To learn from, calibrate on and check with.")] = 120,
    cutouts: Annotated[int, typer.Option(help="Of a night.")] = 500,
    new: Annotated[int, typer.Option(help="Nights that are scored both ways.")] = 8,
    sides: Annotated[str, typer.Option(help="Pixels on the student's side.")] = "144,72,48",
    epochs: Annotated[int, typer.Option(help="Of the student.")] = 6,
    loss: Annotated[float, typer.Option(help="Share that may be lost.")] = 0.001,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure what a calibrated triage leaves, loses and costs."""
    results = []
    with tempfile.TemporaryDirectory() as folder, connect(workers=1) as client:
        families, zoo = Families.from_zoo(), f"{folder}/zoo"
        known, later = Path(folder) / "known.zarr", Path(folder) / "later.zarr"
        create(known)
        append(known, simulate_nights(nights, cutouts, seed=5))
        score(known, families, client, progress=False)
        create(later)
        append(later, simulate_nights(new, cutouts, seed=6, first=LATER))
        _timed(later, families, client, "warm")
        whole, full = _timed(later, families, client, "full")
        plausible = Decision.of_run(whole).apply(whole)["plausible"].values
        for side in map(int, sides.split(",")):
            plan = Plan(side=side, epochs=epochs, loss=loss)
            triage = fit(known, client, zoo=zoo, plan=plan, progress=False)
            options = {"mode": "triage", "triage": triage}
            _timed(later, families, client, f"warm{side}", **options)
            kept, cost = _timed(later, families, client, f"triage{side}", **options)
            rejected = kept["rejected"].values
            exact = ~np.isin(kept["night"].values, [int(night) for night in kept.attrs["drifted"]])
            lost = Checked.count(
                np.unique(whole["night"].values),
                int(plausible.sum()),
                int((plausible & rejected).sum()),
            )
            through = float((~rejected)[exact & ~plausible].mean())
            results.append(
                {
                    "side": side,
                    "calibrated_on": triage.plausible,
                    "allowed_and_lost": triage.lost,
                    "checked": asdict(triage.checked),
                    "new": asdict(lost),
                    "drifted_nights": len(kept.attrs["drifted"]),
                    "left_of_implausible": through,
                    "left_at_published_rate": PUBLISHED + (1 - PUBLISHED) * through,
                    "left_here": float((~rejected).mean()),
                    "cost_here": cost / full,
                }
            )
    if as_json:
        print(json.dumps(results, indent=2))
        return
    for result in results:
        print(*(f"{key}: {value}" for key, value in result.items()), "", sep="\n")


def _timed(
    archive: Path, families: Families, client: Client, run: str, **options: Any
) -> tuple[xr.Dataset, float]:
    """Score an archive, and give the seconds of processors that it took, which others on the machine disturb little."""
    start = processors.seconds(client)
    scores = score(archive, families, client, run=run, progress=False, **options)
    return scores, processors.seconds(client) - start


if __name__ == "__main__":
    typer.run(main)
