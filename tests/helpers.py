"""Cutouts of noise, runs without networks, and dashboards served by processes of their own as users do it."""

import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import xarray as xr

from deepstreaks_dask.archive.append import CutoutBatch
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.models.registry import CLASSIFIERS
from deepstreaks_dask.models.sequence import classifier
from deepstreaks_dask.scoring.runs import Run

MADE_UP = {
    "zoo": "made up",
    "batch": 64,
    "backend": "none",
    "backend_version": "0",
    "keras": "0",
    "dtype": "float32",
    "deepstreaks_dask": "0",
    "started": "2026-01-01T00:00:00+00:00",
    "updated": "2026-01-01T01:00:00+00:00",
}


def write_run(url, run, members, scores, **provenance):
    """Store scores ``(cutout, member)`` as a campaign would have, without networks."""
    described = [
        {
            "name": name,
            "version": "1",
            "sha256": "ab" * 32,
            "family": name.split("_")[0],
            "threshold": 0.5,
        }
        for name in members
    ]
    shard = open_archive(url).attrs["shard"]
    stored = Run.create(str(url), run, described, len(scores), shard, **(MADE_UP | provenance))
    stored.scores[:] = scores


def as_shipped(url, run="default"):
    """Say of a made-up run that its members are the shipped networks, where there are such ones."""
    from deepstreaks_dask.models.zoo.store import Zoo

    stored = Run.attach(str(url), run, write=True)
    cards = {card.name: card for card in Zoo().list()}
    members = [
        member | {"version": cards[name].version, "sha256": cards[name].sha256}
        if (name := member["name"]) in cards
        else member
        for member in stored.provenance["members"]
    ]
    stored.tell(members=members)


_MAIN = "from deepstreaks_dask.cli.main import main; main()"


@contextmanager
def served(*arguments, before=""):
    """Run ``deepstreaks`` with arguments that serve, and give the address that it prints.

    ``before`` is Python that the process runs first.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", f"{before}\n{_MAIN}", *map(str, arguments)],
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
        process.wait(120)
        # a browser that leaves in the middle of a handshake is none of our failures
        ours = [line for line in lines if "/deepstreaks_dask/" in line and "File" in line]
        assert not ours, "".join(lines)


@contextmanager
def visiting(browser, *, refusals=False):
    """Give a function that opens pages, which must load nothing from elsewhere and raise no error.

    An answer of 4xx is an error unless ``refusals`` are what is tested.
    """
    contexts, wrong = [], []
    refused = "Failed to load resource: the server responded with a status of 4"
    ours = ("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:")

    def heard(message):
        if message.type == "error" and not (refusals and message.text.startswith(refused)):
            wrong.append(f"console: {message.text}")

    def requested(request):
        if not request.url.startswith(ours):
            wrong.append(f"loads {request.url}")

    def visit(url, *, width=1400, dark=False, **options):
        context = browser.new_context(
            viewport={"width": width, "height": 1000},
            color_scheme="dark" if dark else "light",
            **options,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", heard)
        page.on("request", requested)
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not wrong


def log_in(page, name, password):
    """Fill in the log-in that a page is at."""
    page.fill("#name", name)
    page.fill("#password", password)
    page.click("#login button")


def make_known(monkeypatch, name, kind):
    """Make a class an architecture of classifiers of sequences, in this process."""
    monkeypatch.setattr(classifier, kind.__name__, kind, raising=False)
    monkeypatch.setitem(CLASSIFIERS, name, f"{classifier.__name__}:{kind.__name__}")


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


RUN_MEMBERS = ["rb_a", "rb_b", "sl_a", "kd_a", "kd_b", "kd_c", "os_a"]


def random_run(n=600, *, seed=0, missing=0.02, members=RUN_MEMBERS, nights=5):
    """Made-up scores and labels as ``open_run`` gives them: members tell a little, some have not looked."""
    rng = np.random.default_rng(seed)
    truth = {f"label_{f}": rng.choice([-1, 0, 1], n, p=[0.1, 0.5, 0.4]) for f in ("rb", "sl", "kd")}
    scores = rng.beta(0.6, 0.6, (n, len(members))).astype(np.float32)
    for k, member in enumerate(members):
        label = truth.get(f"label_{member[:2]}", np.zeros(n))
        scores[:, k] = np.clip(scores[:, k] + 0.3 * label, 0, 1)
    scores[rng.random(scores.shape) < missing] = np.nan
    coordinates = {name: ("cutout", values.astype(np.int8)) for name, values in truth.items()}
    coordinates["label_os"] = "cutout", rng.choice([-1, 0, 1], n, p=[0.8, 0.1, 0.1]).astype(np.int8)
    coordinates["night"] = "cutout", (20260101 + rng.integers(0, nights, n)).astype(np.int32)
    coordinates["filter"] = "cutout", rng.choice(np.array(["g", "r", ""], object), n)
    coordinates["kind"] = "cutout", np.full(n, "", object)
    coordinates["model"] = "model", members
    return xr.Dataset(
        {"scores": (("cutout", "model"), scores)}, coordinates, attrs={"run": "default"}
    )
