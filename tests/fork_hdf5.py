"""Read mutated HDF5 files, each in a process of its own, within limits: run by ``test_foreign_networks.py``.

Arguments: the reader's file, a sound HDF5 file, the first mutation and the one after the last. It prints how many were
read, refused, or ended their process, and the first of these.
"""

import json
import os
import resource
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np

SECONDS = 20
BYTES = 2**31


def mutate_bytes(rng, data):
    """Change bytes; structure stands at the beginning of groups, and in runs of zeros."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        at, kind = int(rng.integers(len(data))), rng.integers(4)
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at] = (0, 1, 8, 127, 128, 255)[int(rng.integers(6))]
        elif kind == 2:
            data[at : at + 8] = int(rng.integers(2**63)).to_bytes(8, "little")
        else:
            data[at : at + 4] = data[(other := int(rng.integers(len(data)))) : other + 4]
    if not rng.integers(10):
        del data[int(rng.integers(len(data) + 1)) :]
    return bytes(data)


def outcome(reader, data):
    """Read in a child, and tell how it ended."""
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            reader._read_tree(data)
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "died"
    return "read" if os.WEXITSTATUS(status) == 0 else "refused"


if __name__ == "__main__":
    spec = spec_from_file_location("reader", sys.argv[1])
    reader = module_from_spec(spec)
    spec.loader.exec_module(reader)
    sound = Path(sys.argv[2]).read_bytes()
    counts, deaths = {"read": 0, "refused": 0, "died": 0}, []
    for k in range(int(sys.argv[3]), int(sys.argv[4])):
        found = outcome(reader, mutate_bytes(np.random.default_rng(k), sound))
        counts[found] += 1
        if found == "died":
            deaths.append(k)
    print(json.dumps({**counts, "deaths": deaths[:3]}))
