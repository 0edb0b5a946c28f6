"""What deciding costs beside full scoring, at the pass rates of a real archive.

Nine members with random weights (three families of three architectures) score simulated cutouts: first all of them,
then, on another run, only while the decision is open. Thresholds are put where each family passes as many cutouts as in
seven million of ZTF (Duev et al. 2019: rb 8 %, sl 91 %, kd 2.5 %). Random networks agree less than trained ones, so
fewer pass all three than the published 0.5 %. The time in which the order is learned is part of the cost. The
plausible sets are compared and must be the same.

    python benchmarks/cascade.py
    python benchmarks/cascade.py --cutouts 1024 --json
"""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import typer
from scipy.optimize import brentq

from deepstreaks_dask.archive import append, create
from deepstreaks_dask.campaign import score
from deepstreaks_dask.cluster import connect
from deepstreaks_dask.decision import Decision
from deepstreaks_dask.families import Families
from deepstreaks_dask.models import ARCHITECTURES, build
from deepstreaks_dask.models.zoo import Card, Zoo
from deepstreaks_dask.simulate.nights import simulate_nights

PASS_RATES = {"rb": 0.08, "sl": 0.91, "kd": 0.025}
WANTED = 0.36


def main(
    cutouts: Annotated[int, typer.Option(help="Cutouts to score.")] = 4096,
    shard: Annotated[int, typer.Option(help="Cutouts in a shard.")] = 512,
    architectures: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(
        ARCHITECTURES
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the cost of deciding over that of full scoring."""
    names = architectures.split(",")
    with tempfile.TemporaryDirectory() as folder, connect(workers=1) as client:
        archive = Path(folder) / "archive.zarr"
        create(archive, shard=shard)
        append(archive, simulate_nights(1, cutouts))
        zoo = Zoo(Path(folder) / "zoo")
        for family in PASS_RATES:
            for name in names:
                keras.utils.set_random_seed(len(zoo.list()))
                zoo.save(build(name), Card(f"{family}_{name}", "1", name))
        families = Families.from_zoo(zoo.url)
        start = time.perf_counter()
        whole = score(archive, families, client, run="all")
        full = time.perf_counter() - start
        decision = Decision(_thresholds(whole["scores"].values, families))
        start = time.perf_counter()
        partial = score(archive, families, client, run="decide", mode="decide", decision=decision)
        cheap = time.perf_counter() - start
    expected, decided = decision.apply(whole), decision.apply(partial)
    np.testing.assert_array_equal(decided["plausible"], expected["plausible"])
    rates = expected["family_pass"].mean("cutout").values.tolist()
    result = {
        "cutouts": len(expected["plausible"]),
        "members": len(names) * len(PASS_RATES),
        "pass_rates": dict(zip(expected["family"].values.tolist(), rates, strict=True)),
        "plausible": int(expected["plausible"].sum()),
        "order": partial.attrs["order"],
        "looks": float(partial["scores"].notnull().mean()),
        "cost": cheap / full,
        "wanted": WANTED,
    }
    if as_json:
        print(json.dumps(result, indent=2))
        return
    for key, value in result.items():
        print(f"{key}: {value:.3f}" if isinstance(value, float) else f"{key}: {value}")


def _thresholds(scores: np.ndarray, families: Families) -> dict[str, float]:
    """Put each family's members at one quantile of their scores, such that the family passes its share."""
    thresholds, column = {}, 0
    for family in families:
        mine = scores[:, column : column + len(family.members)]
        column += len(family.members)

        def excess(
            quantile: float, mine: np.ndarray = mine, share: float = PASS_RATES[family.name]
        ) -> float:
            return float((mine >= np.quantile(mine, quantile, axis=0)).any(axis=1).mean() - share)

        quantile = brentq(excess, 0.0, 1.0, xtol=1e-5)
        limits = np.quantile(mine, quantile, axis=0)
        thresholds |= {m.name: float(v) for m, v in zip(family.members, limits, strict=True)}
    return thresholds


if __name__ == "__main__":
    typer.run(main)
