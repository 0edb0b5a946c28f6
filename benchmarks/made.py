"""Large archives with made-up scores and labels, for benchmarks that need many rows and no network."""

import json
from pathlib import Path

import numpy as np
import zarr

from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.schema import SCHEMA
from deepstreaks_dask.scoring.runs import Run

MEMBERS = [f"{f}_{a}" for f in ("rb", "sl", "kd") for a in ("vgg6", "resnet50", "densenet121")]


def make(url: Path, n: int, nights: int, *, pictures: bool = False) -> None:
    """Write columns and scores straight into the store.

    Parameters
    ----------
    url : Path
        Of the archive, which is not there yet.
    n, nights : int
        Cutouts, and the nights that they are spread over at random.
    pictures : bool
        Write noise for the pixels of the last night; all other pixels are left out, and read as nothing.
    """
    rng = np.random.default_rng(1)
    real, short, keep = (rng.random(n) < share for share in (0.5, 0.6, 0.4))
    labelled = rng.random(n) < 0.3
    days = np.datetime64("2019-01-01") + np.arange(nights)
    night = np.array([int(str(day).replace("-", "")) for day in days], np.int32)
    columns: dict[str, np.ndarray] = {
        "id": np.char.add("c", np.arange(n).astype(str)).astype(object),
        "night": np.sort(night[rng.integers(0, nights, n)]),
        "filter": np.array(["g", "r", "i"], object)[rng.integers(0, 3, n)],
    }
    truths = {"rb": real, "sl": short, "kd": keep}
    for family, truth in truths.items():
        columns[f"label_{family}"] = np.where(labelled, truth, -1).astype(np.int8)
    create_archive(url)
    group = _rows(url, n, columns)
    pixels, shard = group["cutouts"], open_archive(url).attrs["shard"]
    if pictures:
        begin = int(np.searchsorted(columns["night"], night[-1]))
        for first in range(begin - begin % shard, n, shard):
            size = min(shard, n - first)
            pixels[first : first + size] = rng.integers(0, 256, (size, 144, 144), np.uint8)
    described = [
        {"name": m, "version": "1", "sha256": "", "family": m[:2], "threshold": 0.5}
        for m in MEMBERS
    ]
    run = Run.create(str(url), "default", described, n, shard)
    block = 1 << 19
    for first in range(0, n, block):
        part = slice(first, min(first + block, n))
        size = part.stop - part.start
        values = np.empty((size, len(MEMBERS)), np.float32)
        for k, member in enumerate(MEMBERS):
            logit = np.where(truths[member[:2]][part], 4.0, -4.0) + rng.normal(0, 2.5, size)
            values[:, k] = 1 / (1 + np.exp(-logit))
        run.scores[part] = values
    _commit(url)


def lay_out(url: Path, n: int, shard: int) -> None:
    """Write an archive of ``n`` cutouts of which nothing is known, not even pixels."""
    create_archive(url, shard=shard)
    _rows(url, n, {})
    _commit(url)


def _rows(url: Path, n: int, columns: dict[str, np.ndarray]) -> zarr.Group:
    group = zarr.open_group(url, mode="r+", use_consolidated=False)
    for name in SCHEMA:
        array = group[name]
        array.resize((n,))
        if name in columns:
            array[:] = columns[name]
    group["cutouts"].resize((n, 144, 144))
    return group


def _commit(url: Path) -> None:
    zarr.consolidate_metadata(url)
    record = json.loads((url / "zarr.json").read_text())
    listed = record["consolidated_metadata"]["metadata"]
    for name in [name for name in listed if name.startswith("runs")]:
        del listed[name]
    (url / "zarr.json").write_text(json.dumps(record))
