"""What a calibrated triage leaves, loses and costs, with the shipped networks on simulated nights.

The shipped members score simulated nights in full; a student is distilled from some of the nights, calibrated on others and
checked on the rest, as `deepstreaks triage fit` does it, for every size of its picture. Then new nights are scored in
full and with the triage, and compared. Nights are drawn from one simulation, so this says what the method does where its
assumption holds, and nothing of real nights.

A simulated night holds far more plausible cutouts than a real one. What a real archive would leave is computed twice: its
plausible ones (0.5 % in Duev et al. 2019), and of the others the share that the first look lets through, as they come; and
with cutouts weighted so that each family passes as many of them as of the published archive, by iterative
proportional fitting (Deming and Stephan 1940, Ann. Math. Stat. 11, 427) of the eight kinds that three families tell apart.
That is told of the known nights that the student did not learn from, and of the new ones that did not drift. The cost with
nine members at that share is what `benchmarks/cascade.py --left SHARE --side SIDE` measures.

    python benchmarks/triage.py
    python benchmarks/triage.py --nights 600 --new 16 --sides 144 --precision mixed_bfloat16
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
from cascade import PASS_RATES
from dask.distributed import Client

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.cluster import connect
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.plan import CampaignOptions
from deepstreaks_dask.scoring.runs import open_run
from deepstreaks_dask.scoring.triage import Checked, Triage
from deepstreaks_dask.simulation.nights import simulate_nights
from deepstreaks_dask.training.distillation import TriagePlan, fit_triage

PUBLISHED = 0.005  # share of an archive that all families accept (Duev et al. 2019)
LATER = 20300101  # the first of the new nights


def main(
    nights: Annotated[int, typer.Option(help="To learn from, calibrate on and check with.")] = 120,
    cutouts: Annotated[int, typer.Option(help="Of a night.")] = 500,
    new: Annotated[int, typer.Option(help="Nights that are scored both ways.")] = 8,
    sides: Annotated[str, typer.Option(help="Pixels on the student's side.")] = "144,72,48",
    epochs: Annotated[int, typer.Option(help="Of the student.")] = 6,
    precision: Annotated[str, typer.Option(help="The student is trained in.")] = "float32",
    loss: Annotated[float, typer.Option(help="Share that may be lost.")] = 0.001,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure what a calibrated triage leaves, loses and costs."""
    results = []
    with tempfile.TemporaryDirectory() as folder, connect(workers=1) as client:
        families, zoo = Ensemble.from_zoo(), f"{folder}/zoo"
        known, later = Path(folder) / "known.zarr", Path(folder) / "later.zarr"
        create_archive(known)
        append_batches(known, simulate_nights(nights, cutouts, seed=5))
        score(known, ensemble=families, client=client, progress=False)
        create_archive(later)
        append_batches(later, simulate_nights(new, cutouts, seed=6, first=LATER))
        _timed(later, families, client, "warm")
        whole, full = _timed(later, families, client, "full")
        decided = Decision.of_run(whole).apply(whole)
        plausible = decided["plausible"].values
        for side in map(int, sides.split(",")):
            plan = TriagePlan(side=side, epochs=epochs, precision=precision, loss=loss)
            triage = fit_triage(known, client, zoo=zoo, plan=plan, progress=False)
            options = {"mode": "triage", "options": CampaignOptions(triage=triage)}
            _timed(later, families, client, f"warm{side}", **options)
            kept, cost = _timed(later, families, client, f"triage{side}", **options)
            rejected = kept["rejected"].values
            exact = ~np.isin(
                kept["night"].values, [int(night) for night in provenance_of(kept)["drifted"]]
            )
            lost = Checked.count(
                np.unique(whole["night"].values),
                int(plausible.sum()),
                int((plausible & rejected).sum()),
            )
            looked, unlearned = _looked(known, triage)
            results.append(
                {
                    "side": side,
                    "calibrated_on": triage.plausible,
                    "allowed_and_lost": triage.lost,
                    "checked": asdict(triage.checked),
                    "new": asdict(lost),
                    "drifted_nights": len(provenance_of(kept)["drifted"]),
                    "left_of_nights_not_learned": _left(
                        looked, looked["first_look"].values >= triage.threshold, unlearned
                    ),
                    "left_of_new_nights": _left(decided, ~rejected, exact),
                    "left_here": float((~rejected).mean()),
                    "cost_here": cost / full,
                }
            )
    if as_json:
        print(json.dumps(results, indent=2))
        return
    for result in results:
        print(*(f"{key}: {value}" for key, value in result.items()), "", sep="\n")


def _looked(known: Path, triage: Triage) -> tuple[xr.Dataset, np.ndarray]:
    """Give the decided cutouts with their first scores, and which are of nights that the student did not learn from."""
    scores = open_run(known)
    decided = Decision.of_run(scores).apply(scores)
    first = Zoo(triage.zoo).card(triage.first)
    looks = open_run(known, f"first-{first.name}-{first.sha256[:12]}")["scores"].values[:, 0]
    learned = np.isin(decided["night"].values, first.training_data["nights"])
    return decided.assign(first_look=("cutout", looks)), ~learned


def _left(decided: xr.Dataset, left: np.ndarray, used: np.ndarray) -> dict[str, float]:
    """Tell what share is left of the cutouts that are used: of the implausible, and of all as an archive would have them."""
    of_implausible = float(left[used & ~decided["plausible"].values].mean())
    return {
        "of_implausible": of_implausible,
        "at_published_rate": PUBLISHED + (1 - PUBLISHED) * of_implausible,
        "at_published_rates": _at_published_rates(decided.isel(cutout=used), left[used]),
    }


def _at_published_rates(decided: xr.Dataset, left: np.ndarray) -> float:
    """Give the share that is left where families pass as many as of the published archive."""
    kinds, kind, counts = np.unique(
        decided["family_pass"].values, axis=0, return_inverse=True, return_counts=True
    )
    shares, every = counts / counts.sum(), kinds.all(axis=1)
    for _ in range(1000):
        for column, family in enumerate(decided["family"].values):
            shares = _scaled(shares, kinds[:, column], PASS_RATES[family])
        shares = _scaled(shares, every, PUBLISHED)
    return float(shares @ (np.bincount(kind.ravel(), left) / counts))


def _scaled(shares: np.ndarray, those: np.ndarray, to: float) -> np.ndarray:
    """Scale shares so that some of them sum to a number, and the others to the rest of 1."""
    sums = shares[those].sum(), shares[~those].sum()
    if not all(sums):  # too few cutouts to say
        return shares
    return np.where(those, shares * to / sums[0], shares * (1 - to) / sums[1])


def _timed(
    archive: Path, families: Ensemble, client: Client, run: str, **options: Any
) -> tuple[xr.Dataset, float]:
    """Score an archive, and give the seconds of processors that it took, which others on the machine disturb little."""
    start = processors.seconds(client)
    scores = score(archive, ensemble=families, client=client, run=run, progress=False, **options)
    return scores, processors.seconds(client) - start


if __name__ == "__main__":
    typer.run(main)
