"""Cutouts a second that go into an archive, beside a loop that only decodes and resizes them.

For each format, on the same files, warm in the page cache, and on the same cores:

(a) the bare loop: open every file and make it 8-bit, grey and 144 x 144, with Pillow alone for JPEG, with
    astropy and the same stretch for FITS, in as many threads as there are cores;
(b) `append()` with the reader, in threads or on Dask's workers as `deepstreaks ingest` does it: the same, and hashed,
    checked for duplicates, compressed and stored. The workers have started before.

The two take turns, the order changing from turn to turn, so that a busy machine slows them alike; rates are medians,
and the ratio is the median of the ratios within a turn. Each way runs once before it is timed, and what (b) has stored
is compared with what (a) has made.

Then `deepstreaks ingest` reads a tenth of the files, and all of them, in processes of its own: the peaks of their resident
memory, and the ratio, which is near 1 where memory is bounded.

    python benchmarks/ingest.py
    python benchmarks/ingest.py --cutouts 50000 --repeats 1 --formats jpeg
    python benchmarks/ingest.py --cutouts 1024 --repeats 3 --formats jpeg --json
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from astropy.io import fits
from PIL import Image
from rich.console import Console
from rich.table import Table

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.readers.options import ReadOptions
from deepstreaks_dask.readers.registry import get_reader, wants_processes
from deepstreaks_dask.readers.stretch import develop
from deepstreaks_dask.scoring.cluster import connect
from deepstreaks_dask.simulation.nights import Night

WANTED = {"jpeg": 0.8}
SIMULATED = 128
NIGHT = 20260101
_INGEST = """
from pathlib import Path
from deepstreaks_dask.cli.main import app
app(standalone_mode=False)
# ru_maxrss would count what the process was forked from
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
READERS = {"jpeg": "images", "fits": "fits"}


def main(
    cutouts: Annotated[int, typer.Option(help="Files of each format.")] = 8192,
    repeats: Annotated[int, typer.Option(help="Turns that each way is timed.")] = 5,
    formats: Annotated[str, typer.Option(help="Separated by commas.")] = "jpeg,fits",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Measure the rate of ingest beside that of a bare decode-and-resize loop."""
    names = formats.split(",")
    if unknown := sorted(set(names) - set(READERS)):
        raise typer.BadParameter(f"no format {unknown[0]!r}: {', '.join(READERS)}")
    if min(cutouts, repeats) < 1:
        raise typer.BadParameter("numbers must be 1 or more")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        results = []
        for name in names:
            executor = None
            if wants_processes(get_reader(READERS[name]), cutouts):
                executor = stack.enter_context(connect()).get_executor()
            results.append(_measure(name, cutouts, repeats, Path(folder), executor))
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        Console().print(_table(results))


def _measure(
    name: str, n: int, repeats: int, folder: Path, executor: Executor | None
) -> dict[str, object]:
    reader = get_reader(READERS[name])
    files, archive = folder / name, folder / "archive.zarr"
    paths = _write_files(files, name, n)
    cores = len(os.sched_getaffinity(0))

    def a() -> np.ndarray:
        with ThreadPoolExecutor(cores) as threads:
            return np.stack(list(threads.map(_BARE[name], paths)))

    def b() -> None:
        shutil.rmtree(archive, ignore_errors=True)
        create_archive(archive)
        append_batches(archive, reader.read(files, ReadOptions(executor=executor)))

    expected = a()
    b()
    np.testing.assert_array_equal(open_archive(archive)["cutouts"].values, expected)
    seconds = []
    for turn in range(repeats):
        ways = (a, b) if turn % 2 == 0 else (b, a)
        seconds.append({way.__name__: _seconds(way) for way in ways})
    rates = {way: n / statistics.median(turn[way] for turn in seconds) for way in "ab"}
    ratio = statistics.median(turn["a"] / turn["b"] for turn in seconds)
    memory = {part: _peak(files / part, READERS[name], archive) for part in ("tenth", "")}
    return {
        "format": name,
        "cutouts": n,
        "repeats": repeats,
        "cores": cores,
        **rates,
        "b/a": ratio,
        "memory": memory[""],
        "memory ratio": memory[""] / memory["tenth"],
    }


def _peak(files: Path, reader: str, archive: Path) -> float:
    """Peak of resident memory, in MB, of a process that ingests ``files``."""
    shutil.rmtree(archive, ignore_errors=True)
    command = [
        sys.executable,
        "-c",
        _INGEST,
        "ingest",
        str(files),
        str(archive),
        "--reader",
        reader,
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) / 1024


def _write_files(folder: Path, name: str, n: int) -> list[Path]:
    """Write ``n`` different files: simulated cutouts, over again but shifted."""
    (folder / "tenth").mkdir(parents=True)
    (folder / "rest").mkdir()
    night = Night.draw(NIGHT, seed=0)
    pictures = [
        np.asarray(night.cutout(number)[0].picture.convert("L"))
        for number in range(min(n, SIMULATED))
    ]
    paths = []
    for number in range(n):
        shift, which = divmod(number, len(pictures))
        picture = np.roll(pictures[which], divmod(shift, 64), axis=(0, 1))
        part = "tenth" if number < n / 10 else "rest"
        paths.append(folder / part / f"strkid{number:08d}_pid{NIGHT}_scimref.{name}")
        if name == "jpeg":
            Image.fromarray(picture).save(paths[-1], quality=92)
        else:
            fits.PrimaryHDU(255 - picture.astype(np.float32), _header(number)).writeto(paths[-1])
    return sorted(paths)


def _header(number: int) -> fits.Header:
    axes = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 78.0, "CRPIX2": 78.0}
    scale = {"CDELT1": -1.01 / 3600, "CDELT2": 1.01 / 3600}
    where = {"CRVAL1": number % 360 + 0.5, "CRVAL2": number % 90 + 0.5, "RADESYS": "ICRS"}
    when = {"DATE-OBS": "2026-01-01T10:00:00", "EXPTIME": 30.0, "FILTER": "r"}
    return fits.Header(axes | scale | where | when)


def _bare_jpeg(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L").resize((144, 144), Image.Resampling.BILINEAR))


def _bare_fits(path: Path) -> np.ndarray:
    picture = Image.fromarray(develop(fits.getdata(path)))
    return np.asarray(picture.resize((144, 144), Image.Resampling.BILINEAR))


_BARE = {"jpeg": _bare_jpeg, "fits": _bare_fits}


def _seconds(way: Callable[[], object]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def _table(results: list[dict[str, object]]) -> Table:
    table = Table(
        title="Cutouts a second",
        caption="(a) bare decode-and-resize loop; (b) append() with the reader, folder to archive",
    )
    table.add_column("format")
    for column in ("cutouts", "a", "b", "b/a", "wanted", "peak MB", "of a tenth's"):
        table.add_column(column, justify="right")
    for row in results:
        name = str(row["format"])
        table.add_row(
            name,
            f"{row['cutouts']:,}",
            f"{row['a']:,.0f}",
            f"{row['b']:,.0f}",
            f"{row['b/a']:.2f}",
            f"≥ {WANTED[name]:.2f}" if name in WANTED else "",
            f"{row['memory']:,.0f}",
            f"{row['memory ratio']:.2f}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
