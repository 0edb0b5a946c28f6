"""Mutated tarballs, tables, XML and JSON: no crash, nothing written, and a reason for whatever is not taken.

``DEEPSTREAKS_FUZZ=10000`` makes so many inputs of each kind; a few are enough to notice a reader that was broken.
"""

import gzip
import io
import json
import os
import signal
import tarfile
import warnings
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from defusedxml.ElementTree import fromstring
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.ades_files import read_ades
from deepstreaks_dask.readers.bands import band_name
from deepstreaks_dask.readers.dialects import read_columns
from deepstreaks_dask.readers.fits_headers import observed, readable_cards
from deepstreaks_dask.readers.folder import Refused
from deepstreaks_dask.readers.images import decode_image
from deepstreaks_dask.readers.options import ReadOptions
from deepstreaks_dask.readers.registry import get_reader
from deepstreaks_dask.readers.streak_table import STREAK_COLUMNS, read_streaks
from deepstreaks_dask.readers.tables import read_table

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


def ends_with_a_member(tar):
    """Whether an archive ends where a member does: some programs write no more, so nothing is damaged."""
    at = 0
    while at < len(tar):
        size = tar[at + 124 : at + 136].strip(b" \0")
        if not size:
            return False
        at += 512 + -(-int(size, 8) // 512) * 512
    return at == len(tar)


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
    assert refused or renamed or not lost or ends_with_a_member(mutate(tar, inside))


@fuzzed
@given(CHANGES)
def test_tables(place, changes):
    """Each value of a row that is taken is kept, or it is said why not."""
    file = place / "t_streaks.txt"
    file.write_bytes(mutate(TABLE, changes))
    with no_hang():
        read = read_streaks(file)
    frame = read.frame
    assert frame.index.is_unique
    assert all(why.reason and why.detail for _, why in read.refused)
    known = frame.select_dtypes("number").to_numpy(float, na_value=np.nan)
    assert not np.isinf(known).any()
    for name, low, high in (("ra", 0, 360), ("dec", -90, 90), ("jd", 2396759, 2506332)):
        values = frame[name].dropna()
        assert values.between(low, high).all()
    said = {remark.what.split(" ")[0] for remark in read.remarks}
    lines = file.read_text("utf-8", "replace").splitlines()
    if not lines or lines[0] != "|".join(STREAK_COLUMNS):
        return
    ends = {"ra1", "dec1", "ra2", "dec2"}
    for fields in ([part.strip() for part in line.split("|")] for line in lines[2:]):
        if len(fields) != len(STREAK_COLUMNS) or fields[7] not in map(str, frame.index):
            continue
        for name, text in zip(STREAK_COLUMNS, fields, strict=True):
            there = text.lower() not in ("", "nan", "null", "none", "-", "--", "na", "n/a", "\\n")
            if there and (name not in frame or pd.isna(frame.loc[int(fields[7]), name])):
                assert name in said or (name in ends and said & ends) or read.refused


@fuzzed
@given(CHANGES)
def test_xml(changes):
    """Each text of an observation's ends is understood, or it is said that it is not."""
    notes = []
    data = mutate(ADES, changes)
    with no_hang():
        said = read_ades(data, notes)
    if isinstance(said, Refused):
        assert said.reason
        assert said.detail
        return
    assert all(value == value for value in said.values())
    wanted = {"jd": "obsTime", "ra": "ra", "dec": "dec", "filter": "band"}
    lost = [tag for name, tag in wanted.items() if name not in said]
    told = " ".join(what for what, _ in notes)
    first = fromstring(data).find(".//optical")
    for tag in lost:
        there = tag != "band" or bool((first.findtext("band") or "").strip())
        assert not there or tag in told or {"ra", "dec"} & {*lost} & {*told.split()}


CSV = b"file,label_rb,ra,jd,night,filter,note\n" + b"".join(
    f"p{k}.png,{k % 2},{10 * k + 5.5},{2458489.5 + k},2019010{k},r,n{k}\n".encode()
    for k in (1, 2, 3)
)
DIALECTS = [
    CSV,
    CSV.replace(b",", b";"),
    CSV.replace(b",", b", "),
    CSV.replace(b",", b"\t"),
    CSV.decode().encode("utf-16"),
    b"".join(b'"' + line.replace(b",", b'","') + b'"\n' for line in CSV.splitlines()),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for k in (1, 2, 3):
        (folder / f"p{k}.png").write_bytes(png(np.uint8, k))
    return folder


@fuzzed
@given(st.sampled_from(DIALECTS), CHANGES, st.booleans())
def test_csv(place, pictures, text, changes, keep):
    """Every cell of a table ends in a column, or it is said why not; rows that are as they were are taken."""
    table = place / "t.csv"
    table.write_bytes(mutate(text, changes))
    options = ReadOptions(table, keep_columns=keep)
    with no_hang():
        try:
            raw, _ = read_columns(table)
            read = read_table(table, options)
            batches = list(get_reader("images").read(pictures, options))
        except ReaderError:  # which names the table, and what is wrong with it
            return
    said = [*read.remarks, *(r for batch in batches for r in batch.remarks)]
    assert all(r.what and r.source for r in said)
    for name in raw.columns:
        column = name.strip().casefold()
        if column in read.frame:
            lost = int(raw[name].notna().sum() - read.frame[column].notna().sum())
            told = sum(r.what.startswith(f"{column} ") for r in read.remarks)
            assert lost <= told, name
        elif name not in read.frame and raw[name].notna().any():
            assert any(name in r.source or name in r.detail for r in said) or name in (
                "mjd",
                "source",
            )
    unmatched = sum(r.what == "row of the table matches no cutout" for r in said)
    assert len(read.frame) <= unmatched + 3 + read.frame.duplicated().sum()


def png(kind, seed=0, form="PNG"):
    rng = np.random.default_rng(seed)
    grey = rng.normal(200, 20, (24, 24)).clip(0, 255)
    grey[11:13, 4:20] = 20
    made = io.BytesIO()
    if kind == "RGBA":
        alpha = np.where(np.arange(24)[:, None] < 6, 0, 255) * np.ones((24, 24))
        picture = Image.fromarray(np.dstack([grey, grey, grey, alpha]).astype(np.uint8))
    else:
        top = {np.uint8: 1, np.uint16: 257, np.int32: 40, np.float32: 1 / 255}[kind]
        picture = Image.fromarray((grey * top).astype(kind))
    picture.save(made, form)
    return made.getvalue()


PICTURES = [
    png(np.uint8),
    png(np.uint16),
    png("RGBA"),
    *(png(kind, 0, "TIFF") for kind in (np.uint8, np.uint16, np.int32, np.float32)),
]


@fuzzed
@given(st.sampled_from(PICTURES), CHANGES, st.sampled_from(["auto", "dark", "bright"]))
def test_pictures(data, changes, polarity):
    """A picture is refused with a reason, or is not flat unless what it holds is."""
    data = mutate(data, changes)
    with no_hang():
        found = decode_image(data, polarity)
    if isinstance(found, Refused):
        assert found.reason
        assert found.detail
        return
    assert found.cutout.shape == (144, 144)
    native = np.asarray(found.native)
    with Image.open(io.BytesIO(data)) as opened:
        deep = opened.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
        values = np.asarray(opened, float)
    assert not deep or any("bits" in what for what, _ in found.remarks)
    if deep and np.isfinite(values).all() and np.ptp(np.percentile(values, (5, 95))) > 0:
        assert np.ptp(native) > 0


HEADER = "".join(
    f"{card:80}"
    for card in (
        "DATE-OBS= '2019-01-05'",
        "UT      = '12:33:01.5'",
        "EXPTIME = '30.0    '",
        "FILTER  = 'SDSS r  '",
        "TIMESYS = 'UTC     '",
        "END",
    )
)


@fuzzed
@given(
    st.sampled_from([HEADER, HEADER.replace("'2019-01-05'          ", "'2019-01-05T12:33:01'")]),
    CHANGES,
)
def test_headers(text, changes):
    """Cards of time, exposure and filter are understood, or it is said that they are not."""
    changed = mutate(text.encode(), changes).decode("ascii", "replace").replace("\ufffd", "?")
    notes = []
    with no_hang(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cards = readable_cards(fits.Header.fromstring(changed))
        except Exception:  # no header: the file is refused before
            return
        said = observed(cards, notes)
    told = " ".join(what for what, _ in notes)
    if {"DATE-OBS", "MJD-OBS", "JD"} & {*cards} and "jd" not in said:
        assert "time" in told
    if str(cards.get("FILTER", "")).strip():
        assert "filter" in said
        assert band_name(str(cards["FILTER"]))[1] or "filter" in told
    if "EXPTIME" in cards and "exptime" not in said:
        assert "exposure" in told


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
