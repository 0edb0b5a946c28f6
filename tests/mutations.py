"""Damage at random what a stranger may send, and watch what is done with it."""

import copy
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from deepstreaks_dask.errors import DeepStreaksError

COUNT = int(os.environ.get("DEEPSTREAKS_TEST_FUZZ", "100"))
"""Mutations of each kind; `DEEPSTREAKS_TEST_FUZZ=10000` is what the figures in the documentation stand on."""

MAX_GROWTH = 2**31
"""Bytes by which the memory of the process may grow in all mutations of a test together."""

_STRANGE = (
    None, True, False, 0, -1, 1, 2, 3, 10**6, 10**12, 2**63, 10**30, -(2**70), 0.5, -1e300, float("nan"), float("inf"),
    "", "x", "NaN", "0", "pickle", "evil", "../../etc/passwd", "a\nb", "é" * 300, "<script>", "os.system", "builtins",
    [], [[]], [0], [10**9], {}, {"": {}}, {"name": "pickle"}, {"id": "pickle"}, {"class_name": "Lambda", "config": {}},
)  # fmt: skip


def mutate_json(rng, value, times=None):
    """Return a JSON value with one to four changes somewhere: removed, replaced, doubled, renamed or nested."""
    value = copy.deepcopy(value)
    for _ in range(times or int(rng.integers(1, 5))):
        places = list(_places(value))
        if not places:
            break
        holder, key = places[rng.integers(len(places))]
        _change(rng, holder, key, places)
    return value


def _places(value):
    """Yield (container, key) of everything in a value."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _change(rng, holder, key, places):
    kind = rng.integers(6)
    if kind == 0:
        del holder[key]
    elif kind <= 2:
        holder[key] = copy.deepcopy(_STRANGE[rng.integers(len(_STRANGE))])
    elif kind == 3:  # what stands elsewhere
        other, place = places[rng.integers(len(places))]
        if other is holder or place in range(len(other)) or place in other:
            holder[key] = copy.deepcopy(other[place]) if _has(other, place) else None
    elif kind == 4 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif isinstance(holder[key], int | float):
        holder[key] = holder[key] * int(rng.integers(-3, 10**6)) + int(rng.integers(-2, 3))
    else:
        holder[key] = [copy.deepcopy(holder[key])]


def _has(holder, key):
    return key in holder if isinstance(holder, dict) else key < len(holder)


def mutate_bytes(rng, data):
    """Return bytes with some of them changed, removed, doubled or cut off."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        at = int(rng.integers(len(data))) if data else 0
        kind, length = rng.integers(5), int(rng.integers(1, 65))
        if kind <= 1:
            data[at : at + 1] = rng.bytes(1)
        elif kind == 2:
            data[at : at + length] = rng.bytes(length)
        elif kind == 3:
            del data[at : at + length]
        else:
            data[at:at] = data[at : at + length]
    if not rng.integers(10):
        del data[int(rng.integers(len(data) + 1)) :]
    return bytes(data)


def generators(seed, count=COUNT):
    """Yield a random generator for each mutation, the same in every run."""
    for k in range(count):
        yield np.random.default_rng((seed, k))


@contextmanager
def one_line_errors():
    """Allow errors of this package, in one short line; any other is a failure."""
    try:
        yield
    except DeepStreaksError as error:
        said = str(error)
    else:
        return
    assert "\n" not in said
    assert len(said) < 2000, said


@contextmanager
def nothing_executed(folder):
    """Give the path of a canary that hostile inputs would make, and see that it is not there and memory was bounded."""
    canary = Path(folder) / "canary"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield canary
    assert not canary.exists(), "what a stranger sent was executed"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > MAX_GROWTH:
        pytest.fail(f"the process grew by {grown:,} bytes")
