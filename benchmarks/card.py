"""What a card does for nine members, beside what it could: run it on a machine with a GPU, with any backend of Keras 3.

- *copy*, *matmul*: the card's own limits, gigabytes a second from host memory and teraflops of a square product in the
  precision that is used; and what the nine members need of each a cutout;
- *bare*: cutouts a second of the compiled forward pass of nine members on data that is on the card already;
- *passes*: the same from host memory, as a worker calls it;
- *score*: `score()` from an archive on disk to scores on disk, one worker a card, and its ratio to the bare one.

    KERAS_BACKEND=jax python benchmarks/card.py
    KERAS_BACKEND=torch python benchmarks/card.py --precision mixed_bfloat16 --batch 512 --json
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import typer
from cascade import PASS_RATES, save_random
from rich.console import Console
from rich.table import Table

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.models.inference import compile_forward, set_precision
from deepstreaks_dask.models.registry import ARCHITECTURES
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.cluster import connect
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.plan import CampaignOptions
from deepstreaks_dask.simulation.nights import simulate_nights

GFLOP = {"vgg6": 0.22, "resnet50": 2.73, "densenet121": 2.26}  # a cutout, as published
WANTED = {"rate": 7800.0, "ratio": 0.8}


def main(
    cutouts: Annotated[int, typer.Option(min=1, help="Cutouts of the archive.")] = 65_536,
    batch: Annotated[int, typer.Option(min=1, help="Cutouts in a forward pass.")] = 512,
    side: Annotated[int, typer.Option(min=1, help="Side of the square product.")] = 8192,
    copied: Annotated[
        int, typer.Option(min=1, help="Size of the array that is copied, in megabytes.")
    ] = 256,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    precision: Annotated[str, typer.Option(help="As of 'deepstreaks score'.")] = "float32",
    architectures: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(
        ARCHITECTURES
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Measure a card's limits, and what nine members make of them."""
    names = architectures.split(",")
    half = precision.removeprefix("mixed_")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "archive.zarr"
        create_archive(archive)
        append_batches(archive, simulate_nights(4, -(-cutouts // 4)))
        zoo = Zoo(Path(folder) / "zoo")
        save_random(zoo, [*PASS_RATES], names)
        families = Ensemble.from_zoo(zoo.url)
        # the worker first: what this process holds of a card afterwards is not missing there
        scored = _score(archive, families, batch, precision, repeats)
        models = [zoo.load(member.ref) for member in families.members]
        for model in models:
            if precision != "float32":
                set_precision(model, precision)
        pixels = np.asarray(open_archive(archive)["cutouts"][: 8 * batch].values)
        forward = compile_forward(models, batch)
        passes = len(pixels) / _seconds(lambda: forward(pixels), repeats)
        bare = len(pixels[:batch]) / _seconds(_bare(models, pixels[:batch]), repeats)
    need = len(PASS_RATES) * sum(GFLOP[name] for name in names)
    result = {
        "backend": keras.backend.backend(),
        "device": _device(),
        "precision": precision,
        "batch": batch,
        "cutouts": cutouts,
        "copy_gb_s": copied / 1e3 / _seconds(_copy(np.zeros(copied * 10**6, np.uint8)), repeats),
        "matmul_tflops": 2 * side**3 / 1e12 / _seconds(_product(side, half), repeats),
        "gflop_a_cutout": need,
        "bare": bare,
        "passes": passes,
        "score": scored,
        "score_over_bare": scored / bare,
    }
    result["bare_over_matmul"] = bare * need / 1e3 / result["matmul_tflops"]
    print(json.dumps(result, indent=2)) if as_json else Console().print(_table(result))


def _score(archive: Path, families: Ensemble, batch: int, precision: str, repeats: int) -> float:
    """Cutouts a second of a campaign whose workers have loaded and compiled."""
    options = CampaignOptions(batch=batch, precision=precision)
    seconds = []
    with connect() as client:
        for turn in range(repeats + 1):
            start = time.perf_counter()
            done = score(
                archive,
                ensemble=families,
                client=client,
                run=f"turn-{turn}",
                options=options,
                progress=False,
            )
            seconds.append(time.perf_counter() - start)
    return done.sizes["cutout"] / statistics.median(seconds[1:])


def _seconds(work: Callable[[], Any], repeats: int) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _bare(models: list[keras.Model], cutouts: np.ndarray) -> Callable[[], Any]:
    """Compile the members over one batch that is on the card, and stays there."""
    images = keras.ops.convert_to_tensor(cutouts[..., None].astype(np.float32) / 255)

    def scores(images: Any) -> Any:
        return keras.ops.concatenate([model(images, training=False) for model in models], axis=1)

    return _compiled(scores, images)


def _product(side: int, dtype: str) -> Callable[[], Any]:
    return _compiled(lambda x: keras.ops.matmul(x, x), keras.ops.ones((side, side), dtype))


def _compiled(function: Callable[[Any], Any], on_card: Any) -> Callable[[], Any]:
    """Compile for the backend, and wait for what was computed."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        run = jax.jit(function)
        return lambda: run(on_card).block_until_ready()
    if backend == "torch":
        import torch

        def wait() -> None:
            with torch.inference_mode():
                function(on_card)
            if torch.cuda.is_available():
                torch.cuda.synchronize()

        return wait
    import tensorflow as tf

    traced = tf.function(function, autograph=False)
    return lambda: tf.reduce_sum(traced(on_card)).numpy()


def _copy(host: np.ndarray) -> Callable[[], Any]:
    """Copy to the card, from memory that it reads by itself where the backend has such."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return lambda: jax.device_put(host).block_until_ready()
    if backend == "torch":
        import torch

        tensor = torch.from_numpy(host)
        if not torch.cuda.is_available():
            return tensor.clone
        pinned = tensor.pin_memory()

        def wait() -> None:
            pinned.to("cuda", non_blocking=True)
            torch.cuda.synchronize()

        return wait
    import tensorflow as tf

    return lambda: tf.reduce_sum(tf.constant(host)[:1]).numpy()


def _device() -> str:
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return str(jax.devices()[0].device_kind)
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    import tensorflow as tf

    return ", ".join(card.name for card in tf.config.list_physical_devices("GPU")) or "cpu"


def _table(result: dict[str, Any]) -> Table:
    title = (
        f"{result['device']}, {result['backend']}, {result['precision']}, batch {result['batch']}"
    )
    table = Table("what", "measured", "wanted", title=title)
    for words, value, wanted in (
        ("copy to the card", f"{result['copy_gb_s']:.1f} GB/s", ""),
        ("square product", f"{result['matmul_tflops']:.1f} TFLOP/s", ""),
        ("bare forward pass, data on the card", f"{result['bare']:,.0f} cutouts/s", ""),
        ("its share of the product's rate", f"{result['bare_over_matmul']:.2f}", ""),
        ("forward pass from host memory", f"{result['passes']:,.0f} cutouts/s", ""),
        ("score(), disk to disk", f"{result['score']:,.0f} cutouts/s", f">= {WANTED['rate']:,.0f}"),
        ("score() over the bare pass", f"{result['score_over_bare']:.2f}", f">= {WANTED['ratio']}"),
    ):
        table.add_row(words, value, wanted)
    return table


if __name__ == "__main__":
    typer.run(main)
