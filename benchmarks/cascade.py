"""What deciding, and triage, cost beside full scoring, at the pass rates of a real archive.

Members with random weights, a network of each architecture in each of three families, score simulated cutouts. Their
thresholds are put where each family passes as many cutouts as in seven million of ZTF (Duev et al. 2019: rb 8 %, sl 91 %,
kd 2.5 %). Random networks agree less than trained ones, so fewer pass all three than the published 0.5 %. Full scoring is
measured on a part of the cutouts. Each way scores an archive of its own, so that none learns from another, once the
networks are compiled; learning the order is a part of deciding's cost. Costs are ratios of seconds a cutout, by the
clock and, which others on the machine disturb less, of the processors (of worker, scheduler and client).

The first look of the triage is a VGG6 with random weights whose threshold leaves a given share of the cutouts: this
measures what that costs; `benchmarks/triage.py` measures what a first look that was calibrated leaves. What it leaves is
decided as all scores do, which is checked.

    python benchmarks/cascade.py
    python benchmarks/cascade.py --architectures vgg6,vgg6,vgg6 --cutouts 8192 --full 1024 --json
"""

import json
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import processors
import typer
import xarray as xr
from dask.distributed import Client
from scipy.optimize import brentq

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.models.registry import ARCHITECTURES, build
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.cluster import connect
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.ensemble import Ensemble, Family, Member
from deepstreaks_dask.scoring.plan import CampaignOptions
from deepstreaks_dask.scoring.triage import Triage, calibrate_triage
from deepstreaks_dask.simulation.nights import simulate_nights

PASS_RATES = {"rb": 0.08, "sl": 0.91, "kd": 0.025}
WANTED = {"decide": 0.36, "triage": 0.1}
NIGHTS = 8


def main(
    cutouts: Annotated[int, typer.Option(help="Cutouts to decide on.")] = 4096,
    full: Annotated[int, typer.Option(help="Cutouts that are scored in full.")] = 512,
    shard: Annotated[int, typer.Option(help="Cutouts in a shard.")] = 512,
    left: Annotated[float, typer.Option(help="Share that the first look leaves.")] = 0.05,
    side: Annotated[int, typer.Option(help="Pixels on a side of what the first look sees.")] = 144,
    architectures: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(
        ARCHITECTURES
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the cost of deciding, and of triage, over that of full scoring."""
    names = architectures.split(",")
    with tempfile.TemporaryDirectory() as folder, connect(workers=1) as client:
        archives = _archives(Path(folder), cutouts, full, shard)
        zoo = Zoo(Path(folder) / "zoo")
        save_random(zoo, [*PASS_RATES], names)
        save_random(zoo, ["first"], ["vgg6"], side)
        families = Ensemble.from_zoo(zoo.url)
        first = _look(archives["decide"], zoo, client)
        # compiles all members together; then each alone, by way of a sample
        score(archives["warm"], ensemble=families, client=client, progress=False)
        score(
            archives["warm"],
            ensemble=families,
            client=client,
            run="decide",
            mode="decide",
            progress=False,
        )
        whole, full_s = _timed(archives["full"], families, client)
        decision = Decision(thresholds_at_published_rates(whole["scores"].values, families))
        options: dict[str, Any] = {"mode": "decide", "decision": decision}
        partial, decide_s = _timed(archives["decide"], families, client, **options)
        triage = _triage(first, left, zoo, whole, decision, provenance_of(partial)["order"])
        kept, triage_s = _timed(
            archives["triage"],
            families,
            client,
            mode="triage",
            options=CampaignOptions(triage=triage),
        )
    _check(decision, whole, partial, kept)
    expected, decided = decision.apply(whole), decision.apply(partial)
    rates = expected["family_pass"].mean("cutout").values.tolist()
    result = {
        "cutouts": cutouts,
        "scored_in_full": full,
        "members": len(names) * len(PASS_RATES),
        "pass_rates": dict(zip(expected["family"].values.tolist(), rates, strict=True)),
        "plausible": float(decided["plausible"].mean()),
        "order": provenance_of(partial)["order"],
        "decide": {
            "looks": float(partial["scores"].notnull().mean()),
            **_costs(decide_s / full_s),
            "wanted": WANTED["decide"],
        },
        "triage": {
            "left": float((~kept["rejected"]).mean()),
            "drifted": provenance_of(kept)["drifted"],
            "looks": float(kept["scores"].notnull().mean()),
            **_costs(triage_s / full_s),
            "wanted": WANTED["triage"],
        },
    }
    if as_json:
        print(json.dumps(result, indent=2))
        return
    for key, value in result.items():
        print(f"{key}: {value}")


def save_random(zoo: Zoo, families: list[str], architectures: list[str], side: int = 144) -> None:
    """Save a member of each architecture for each family, with random weights."""
    shape = side, side, 1
    for family in families:
        for number, name in enumerate(architectures):
            keras.utils.set_random_seed(len(zoo.list()))
            card = Card(f"{family}_{number}", "1", name, input_shape=shape, resizes=side != 144)
            zoo.save(build(name, shape), card)


def _archives(folder: Path, cutouts: int, full: int, shard: int) -> dict[str, Path]:
    """Simulate once; an archive for each way, so that none finds what another has left."""
    made = {name: folder / f"{name}.zarr" for name in ("warm", "full", "decide", "triage")}
    create_archive(made["decide"], shard=shard)
    append_batches(made["decide"], simulate_nights(NIGHTS, -(-cutouts // NIGHTS)))
    shutil.copytree(made["decide"], made["triage"])
    for name, number, seed in (("full", full, 0), ("warm", 64, 1)):
        create_archive(made[name], shard=shard)
        append_batches(made[name], simulate_nights(NIGHTS, -(-number // NIGHTS), seed=seed))
    return made


def _timed(
    archive: Path, families: Ensemble, client: Client, **options: Any
) -> tuple[xr.Dataset, np.ndarray]:
    """Score an archive, and give the seconds that one cutout took, by the clock and of the processors."""

    def now() -> np.ndarray:
        return np.array([time.perf_counter(), processors.seconds(client)])

    start = now()
    scores = score(
        archive, ensemble=families, client=client, run="timed", progress=False, **options
    )
    costs = (now() - start) / scores.sizes["cutout"]
    return scores.load(), costs  # before the archive is gone


def _costs(ratios: np.ndarray) -> dict[str, float]:
    return dict(zip(("cost", "cost_of_processors"), map(float, ratios), strict=True))


def _look(archive: Path, zoo: Zoo, client: Client) -> xr.Dataset:
    card = zoo.card("first_0")
    family = Family("first", (Member(card.name, card.version, card.sha256),))
    return score(
        archive, ensemble=Ensemble((family,), zoo.url), client=client, run="first", progress=False
    )


def _triage(
    first: xr.Dataset,
    left: float,
    zoo: Zoo,
    whole: xr.Dataset,
    decision: Decision,
    order: list[list[str]],
) -> Triage:
    """Put the threshold where the share is left: the reference of the drift is real, the guarantee is void."""
    looked = first["scores"].values[:, 0]
    members = [str(name) for name in whole["model"].values]
    limits = zip(members, decision.limits(members), strict=True)
    found = calibrate_triage(
        looked,
        np.ones(len(looked), bool),
        first["night"].values,
        [],
        loss=0.9,
        confidence=0.5,
        first="first_0@1",
        sha256=zoo.card("first_0").sha256,
        zoo=zoo.url,
        members={
            f"{m['name']}@{m['version']}": m["sha256"] for m in provenance_of(whole)["members"]
        },
        limits={name: float(limit) for name, limit in limits},
        order=tuple(map(tuple, order)),
        dtype=whole.attrs["dtype"],
    )
    return replace(found, threshold=float(np.quantile(looked, 1 - left)), lost=0)


def _check(decision: Decision, whole: xr.Dataset, partial: xr.Dataset, kept: xr.Dataset) -> None:
    """Stop if two ways decide on one cutout differently."""
    expected, decided, last = (decision.apply(scores) for scores in (whole, partial, kept))
    # the part that was scored in full is the beginning of each night
    sizes = [run.sizes["cutout"] // NIGHTS for run in (whole, partial)]
    rows = (np.arange(NIGHTS)[:, None] * sizes[1] + np.arange(sizes[0])).ravel()
    np.testing.assert_array_equal(decided["digest"][rows], expected["digest"])
    np.testing.assert_array_equal(decided["plausible"][rows], expected["plausible"])
    looked = ~kept["rejected"].values
    np.testing.assert_array_equal(last["plausible"][looked], decided["plausible"][looked])


def thresholds_at_published_rates(scores: np.ndarray, families: Ensemble) -> dict[str, float]:
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
