"""Cutouts of noise, runs without networks, and dashboards served by processes of their own as users do it."""

import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import zarr

from deepstreaks_dask.archive import CutoutBatch


def write_run(url, run, members, scores):
    """Store scores ``(cutout, member)`` as a campaign would have, without networks."""
    described = [
        {
            "name": name,
            "version": "1",
            "sha256": "0" * 64,
            "family": name.split("_")[0],
            "threshold": 0.5,
        }
        for name in members
    ]
    group = zarr.open_group(
        url,
        path=f"runs/{run}",
        mode="w",
        zarr_format=3,
        attributes={
            "members": described,
            "models": list(members),
            "decided": None,
            "zoo": "made up",
            "batch": 64,
            "backend": "none",
            "backend_version": "0",
            "keras": "0",
            "dtype": "float32",
            "deepstreaks_dask": "0",
            "started": "2026-01-01T00:00:00+00:00",
            "updated": "2026-01-01T01:00:00+00:00",
            "failures": [],
        },
    )
    array = group.create_array(
        "scores",
        shape=scores.shape,
        chunks=(64, len(members)),
        dtype="float32",
        fill_value=np.nan,
        dimension_names=["cutout", "model"],
    )
    array[:] = scores


_MAIN = "from deepstreaks_dask.cli import main; main()"


@contextmanager
def served(*arguments):
    """Run ``deepstreaks`` with arguments that serve, and give the address that it prints."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", _MAIN, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"http://[^\s:]+:(\d+)(/\S*)?", line):
                break
        else:
            pytest.fail("the server did not start:\n" + "".join(lines))
        drain = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
        drain.start()
        yield f"http://127.0.0.1:{found[1]}{found[2] or ''}".rstrip("/")
    finally:
        process.terminate()
        process.wait(30)
        # a browser that leaves in the middle of a handshake is none of our failures
        ours = [line for line in lines if "/deepstreaks_dask/" in line and "File" in line]
        assert not ours, "".join(lines)


def random_batch(n, *, start=0, night=20260101, seed=0, **columns):
    """Noise named ``c<start>`` onwards: the same again for the same ``n``, ``start`` and ``seed``."""
    rng = np.random.default_rng((seed, start))
    return CutoutBatch(
        rng.integers(0, 256, (n, 144, 144), np.uint8),
        {
            "id": np.array([f"c{k}" for k in range(start, start + n)], dtype=object),
            "night": np.full(n, night, np.int32),
            **columns,
        },
    )
