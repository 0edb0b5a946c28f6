"""Cutouts that one core reads from shards, and what other codecs would do.

Simulated cutouts, or the stamps of simulated sequences, are stored as `create()` lays an archive out, and again with
each of the other codecs. For each:

- *write*, *read*: microseconds of processor time that an image takes, all threads together;
- *rate*: images a second that a core reads from shards, warm in the page cache, to an array in memory;
- *ratio*: bytes of pixels over bytes stored, the index and checksums included;
- *of a copy*: the time to read over that of copying an array of the same size, the bound.

The codecs take turns, and the best of the turns counts, since a busy machine only makes them slower.

    python benchmarks/reading.py
    python benchmarks/reading.py --cutouts 1024 --turns 1 --json
    python benchmarks/reading.py --sequences 256
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import zarr
from rich.console import Console
from rich.table import Table
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.simulation.nights import simulate_nights
from deepstreaks_dask.simulation.sequences import LAYOUT, simulate_sequences

WANTED = 20_000
CODECS: dict[str, list[Any]] = {
    "none": [],
    "zstd 1": [ZstdCodec(level=1)],
    "zstd 3": [ZstdCodec(level=3)],
    "zstd 9": [ZstdCodec(level=9)],
    "blosc zstd 1": [BloscCodec(cname="zstd", clevel=1, shuffle="noshuffle")],
    "blosc zstd 1, bits shuffled": [BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle")],
    "blosc lz4, bits shuffled": [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")],
}


def main(
    cutouts: Annotated[int, typer.Option(min=64, help="Simulated cutouts.")] = 4096,
    sequences: Annotated[int, typer.Option(help="Simulated objects, for their stamps.")] = 0,
    turns: Annotated[int, typer.Option(min=1, help="Times that each codec is measured.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Measure reading, writing and size under each codec."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "archive.zarr"
        if sequences:
            create_archive(archive, **LAYOUT)
            append_batches(archive, simulate_sequences(sequences, "crts", "taonet", seed=0))
        else:
            create_archive(archive)
            append_batches(archive, simulate_nights(1, cutouts, seed=0))
        ours = zarr.open_array(archive, path="cutouts", mode="r")
        pixels = ours[:]
        layout = {
            "shape": pixels.shape,
            "chunks": ours.chunks,
            "shards": ours.shards,
            "dtype": pixels.dtype,
        }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in CODECS}
        copies, sizes = [], {}
        for _ in range(turns):
            copies.append(_seconds(pixels.copy))
            for name, codecs in CODECS.items():
                path = Path(folder) / "other.zarr"
                shutil.rmtree(path, ignore_errors=True)
                other = zarr.create_array(path, compressors=[*codecs, Crc32cCodec()], **layout)

                def write(to: zarr.Array = other) -> None:
                    to[:] = pixels

                def read(of: zarr.Array = other) -> Any:
                    return of[:]

                seconds[name].append((_seconds(write), _seconds(read)))
                np.testing.assert_array_equal(read(), pixels)
                sizes[name] = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    chosen = next(name for name, codecs in CODECS.items() if _same(codecs, ours.compressors))
    n, results = len(pixels), []
    for name in CODECS:
        write_s, read_s = (min(column) for column in zip(*seconds[name], strict=True))
        results.append(
            {
                "codec": name,
                "chosen": name == chosen,
                "write": write_s / n * 1e6,
                "read": read_s / n * 1e6,
                "rate": n / read_s,
                "ratio": pixels.nbytes / sizes[name],
                "of a copy": read_s / min(copies),
            }
        )
    print(json.dumps(results, indent=2)) if as_json else Console().print(_table(results))


def _same(codecs: list[Any], ours: tuple[Any, ...]) -> bool:
    """Tell whether these are the archive's, whose codec knows the width of a pixel besides."""
    codec, *_ = ours
    named = replace(codec, typesize=None) if isinstance(codec, BloscCodec) else codec
    return codecs == [named]


def _seconds(way: Callable[[], object]) -> float:
    start = time.process_time()
    way()
    return time.process_time() - start


def _table(results: list[dict[str, Any]]) -> Table:
    caption = f"the archive's own codec is marked; wanted: {WANTED:,} images a second a core"
    table = Table(title="Reading shards", caption=caption)
    table.add_column("codec")
    for column in ("write µs", "read µs", "rate", "ratio", "of a copy"):
        table.add_column(column, justify="right")
    for row in results:
        table.add_row(
            row["codec"] + (" *" if row["chosen"] else ""),
            *(f"{row[key]:,.1f}" for key in ("write", "read")),
            f"{row['rate']:,.0f}",
            *(f"{row[key]:.2f}" for key in ("ratio", "of a copy")),
        )
    return table


if __name__ == "__main__":
    typer.run(main)
