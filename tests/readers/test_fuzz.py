"""Mutated tarballs, tables, XML and JSON: no crash, nothing written, and a reason for whatever is not taken.

``DEEPSTREAKS_FUZZ=10000`` makes so many inputs of each kind; a few are enough to notice a reader that was broken.
"""

import gzip
import io
import json
import os
import signal
import tarfile
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.depot import STREAK_COLUMNS, read_ades, read_table
from deepstreaks_dask.readers.folder import Refused
from deepstreaks_dask.readers.registry import get_reader

EXAMPLES = int(os.environ.get("DEEPSTREAKS_FUZZ", "30"))
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
STREAKS = (1, 2, 3)


def jpeg(seed):
    made = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24), np.uint8)
    Image.fromarray(pixels).save(made, "JPEG", quality=50)
    return made.getvalue()


ADES = b"""<?xml version="1.0" encoding="UTF-8"?>
<ades version="2017"><obsBlock><obsData>
<optical><obsTime>2026-01-05T03:00:00Z</obsTime><ra>10.5</ra><dec>-3.25</dec><mag>17.5</mag><band>r</band></optical>
<optical><obsTime>2026-01-05T03:00:30Z</obsTime><ra>10.6</ra><dec>-3.20</dec><band>r</band></optical>
</obsData></obsBlock></ades>"""
ROW = {
    "jd": 2461045.6,
    "fid": 2,
    "pid": 9,
    "ra1": 1,
    "dec1": 2,
    "ra2": 1.1,
    "dec2": 2.1,
    "length": 7,
}
TABLE = "\n".join(
    [
        "|".join(STREAK_COLUMNS),
        "+".join("---" for _ in STREAK_COLUMNS),
        *(
            "|".join(str({**ROW, "streakid": s}.get(c, "")) for c in STREAK_COLUMNS)
            for s in STREAKS
        ),
        "(3 rows)\n",
    ]
).encode()


def pack(form):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as tar:
        for streak in STREAKS:
            files = ("scimref.jpg", jpeg(streak)), ("ades.xml", ADES)
            for end, data in files:
                member = tarfile.TarInfo(f"night/strkid{streak}_pid9_{end}")
                member.size, member.mtime = len(data), 1.5
                tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


TARS = [pack(form) for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
PIECES = st.one_of(
    st.binary(max_size=24),
    st.sampled_from(
        [
            b"",
            b"\0" * 512,
            b"\0" * 1024,
            b"\xff" * 64,
            b"../../",
            b"/etc/passwd",
            b"77777777777\0",
            b"\x80" + b"\xff" * 11,
            b"x",
            b"L",
            b"2",
            b"5",
            b"S",
            b"|",
            b"||||",
            b"\n",
            b"1e999",
            b"nan",
            b"-1",
            b"9" * 40,
            b"<!DOCTYPE a [<!ENTITY b 'c'>]>",
            b"&b;",
            b"<optical>",
            b"</ades>",
            b"[[[[",
            b'{"a":',
            b'"../x.jpg"',
            b"\xed\xa0\x80",
            b"\\ud800",
        ]
    ),
)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["put", "insert", "cut", "end", "copy"]),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1, exclude_max=True),
        PIECES,
    ),
    max_size=5,
)


def mutate(data, changes):
    """Overwrite, insert, cut out, cut off, or copy to elsewhere."""
    data = bytearray(data)
    for kind, one, two, piece in changes:
        at, other = int(one * len(data)), int(two * len(data))
        if kind == "put":
            data[at : at + len(piece)] = piece
        elif kind == "insert":
            data[at:at] = piece
        elif kind == "cut":
            del data[at : at + int(two * 600)]
        elif kind == "end":
            del data[at:]
        else:
            data[at:at] = data[other : other + 512]
    return bytes(data)


class HangError(Exception):
    pass


@contextmanager
def no_hang():
    """A reader that does not come back is a failure; the limit is generous, for a busy machine."""

    def alarm(*_):
        raise HangError("the reader hangs")

    before = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, 30)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def tree(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def read(reader, path, root):
    """Read everything; whatever was refused has a reason, and nothing was written anywhere in ``root``."""
    before = tree(root)
    ids, refused = [], []
    with no_hang():
        try:
            for batch in get_reader(reader).read(path):
                for name, values in batch.columns.items():
                    assert len(values) == len(batch.cutouts), name
                assert len(batch.native) == len(batch.cutouts)
                assert batch.cutouts.shape[1:] == (144, 144)
                ids += list(batch.columns["id"]) if len(batch.cutouts) else []
                refused += batch.quarantined
        except ReaderError as error:
            ids, refused = None, [error]
    assert tree(root) == before
    for item in refused:
        assert str(item) if ids is None else item.source and item.reason
    return ids, refused


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    (root / "night").mkdir()
    (root / "labels" / "a").mkdir(parents=True)
    for streak in STREAKS:
        (root / "labels" / "a" / f"strkid{streak}_pid9_scimref.jpg").write_bytes(jpeg(streak))
    return root


@fuzzed
@given(st.sampled_from(TARS), CHANGES, CHANGES, st.sampled_from([0, 1, 6]))
def test_tarballs(place, tar, inside, outside, level):
    """Changes go into the archive, or into what gzip made of it, or both."""
    file = place / "night" / "ztf_1_strkcutouts.tar.gz"
    content = mutate(gzip.compress(mutate(tar, inside), level, mtime=0), outside)
    file.write_bytes(content)
    ids, refused = read("depot", file, place)
    lost = {f"strkid{streak}_pid9" for streak in STREAKS} - set(ids)
    renamed = set(ids) - {f"strkid{streak}_pid9" for streak in STREAKS}
    assert refused or renamed or not lost


@fuzzed
@given(CHANGES)
def test_tables(place, changes):
    file = place / "t_streaks.txt"
    file.write_bytes(mutate(TABLE, changes))
    with no_hang():
        frame, refused = read_table(file)
    assert frame.index.is_unique
    assert all(why.reason and why.detail for _, why in refused)
    known = frame.drop(columns="filter").to_numpy(float)
    assert not np.isinf(known).any()
    for name, low, high in (("ra", 0, 360), ("dec", -90, 90), ("jd", 2396759, 2506332)):
        values = frame[name].dropna()
        assert values.between(low, high).all()


@fuzzed
@given(CHANGES)
def test_xml(changes):
    with no_hang():
        said = read_ades(mutate(ADES, changes))
    if isinstance(said, Refused):
        assert said.reason
        assert said.detail
    else:
        assert all(value == value for value in said.values())


PROJECT = json.dumps({"classes": ["bogus", "streak"], "datasets": ["a"]}).encode()
LABELS = json.dumps(
    {f"strkid{s}_pid9_scimref.jpg": ["streak"] if s > 1 else ["bogus"] for s in STREAKS}
).encode()


@fuzzed
@given(CHANGES, CHANGES, st.sampled_from([0, 1, 30_000]))
def test_json(place, project, labels, depth):
    folder = place / "labels"
    (folder / "rb.json").write_bytes(mutate(PROJECT, project))
    (folder / "a" / "a.1.json").write_bytes(b"[" * depth * (depth > 1) + mutate(LABELS, labels))
    ids, refused = read("zwickyverse", folder, place)
    told = set(ids or ()) | {q.source for q in refused if hasattr(q, "source")}
    if ids is not None and not project and not refused:
        assert told <= {f"strkid{s}_pid9" for s in STREAKS}
    assert ids or refused


def test_an_archive_takes_whatever_the_readers_give(place, tmp_path):
    """Names that are no Unicode, and reasons that hold what was read, can be stored."""
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    folder = place / "night"
    for seed in range(min(EXAMPLES, 40)):
        rng = np.random.default_rng(seed)
        tar = bytearray(TARS[seed % 3])
        at = int(rng.integers(len(tar) - 600))
        tar[at : at + 9] = rng.bytes(9)
        (folder / "ztf_1_strkcutouts.tar.gz").write_bytes(gzip.compress(bytes(tar), 1))
        append_batches(url, get_reader("depot").read(folder))
