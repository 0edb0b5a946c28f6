"""Avro files of any number of alerts: each block and each alert by itself, bounded, and nothing lost without a word.

``DEEPSTREAKS_FUZZ=10000`` makes so many mutated files; a few are enough to notice a reader that was broken.
"""

import gzip
import io
import json
import os
import zlib

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepstreaks_dask.readers.alerts import Alert, decode_packets
from deepstreaks_dask.readers.avro import Block, count_records, read_blocks
from deepstreaks_dask.readers.avro_schema import parsed_schema
from deepstreaks_dask.readers.fits_checks import UnreadableError
from deepstreaks_dask.readers.folder import Refused

EXAMPLES = int(os.environ.get("DEEPSTREAKS_FUZZ", "60"))
SCHEMA = {
    "type": "record",
    "name": "alert",
    "fields": [
        {"name": "objectId", "type": "string"},
        {"name": "candid", "type": "long"},
        {
            "name": "candidate",
            "type": {
                "type": "record",
                "name": "candidate",
                "fields": [
                    *({"name": name, "type": "double"} for name in ("jd", "ra", "dec")),
                    {"name": "fid", "type": "int"},
                    {"name": "magpsf", "type": "float"},
                ],
            },
        },
        *({"name": f"cutout{n}", "type": "bytes"} for n in ("Science", "Template", "Difference")),
    ],
}


def stamp(seed, side=8):
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).normal(100, 10, (side, side)).astype(np.float32)
    fits.PrimaryHDU(pixels).writeto(out)
    return gzip.compress(out.getvalue(), mtime=0)


def alert(candid, **changes):
    return {
        "objectId": f"ZTF26a{candid}",
        "candid": candid,
        "candidate": {"jd": 2461042.75, "ra": 10.5, "dec": -2.0, "fid": 1, "magpsf": 18.0},
        **{
            f"cutout{n}": stamp(3 * candid + k)
            for k, n in enumerate(("Science", "Template", "Difference"))
        },
    } | changes


def avro(alerts, schema=SCHEMA, codec="null", together=False):
    """One alert a block, or all of them together."""
    out = io.BytesIO()
    interval = 2**30 if together else 1
    fastavro.writer(out, schema, alerts, codec=codec, sync_interval=interval)
    return out.getvalue()


def recoded(data, codec, pack):
    """The same file with blocks of a codec that fastavro needs other packages for."""
    blocks = list(read_blocks(io.BytesIO(data)))
    old = b"\x14avro.codec\x08null"
    assert old in data
    name = codec.encode()
    mark = data[-16:]
    header = data[: data.index(mark) + 16]
    out = header.replace(old, b"\x14avro.codec" + bytes([2 * len(name)]) + name)
    for block in blocks:
        packed = pack(block.data)
        out += _varint(block.count) + _varint(len(packed)) + packed + mark
    return out


def _varint(number):
    number, out = number << 1, b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def snappy(data):
    return pa.Codec("snappy").compress(data, asbytes=True) + zlib.crc32(data).to_bytes(4, "big")


def zstd(data):
    return pa.Codec("zstd").compress(data, asbytes=True)


def ids(found):
    return [one.columns["id"] if isinstance(one, Alert) else one.reason for one in found]


ALERTS = [alert(candid) for candid in range(1, 32)]
FILE = avro(ALERTS)
ALL = [str(candid) for candid in range(1, 32)]


@pytest.mark.parametrize("together", [False, True], ids=["a block each", "one block"])
@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
def test_any_number_of_alerts_in_any_codec(codec, together):
    data = avro(ALERTS[:4], codec=codec, together=together)
    assert ids(decode_packets(data)) == ALL[:4]
    assert count_records(io.BytesIO(data)) == 4


@pytest.mark.parametrize(("codec", "pack"), [("snappy", snappy), ("zstandard", zstd)])
def test_codecs_of_lsst_and_kafka(codec, pack):
    """LSST's samples are packed with Snappy."""
    data = recoded(avro(ALERTS[:4], together=True), codec, pack)
    found = decode_packets(data)
    assert ids(found) == ALL[:4]
    np.testing.assert_array_equal(found[2].triplet, decode_packets(FILE)[2].triplet)
    broken = bytearray(data)
    broken[-30] ^= 255
    assert set(ids(decode_packets(bytes(broken)))) == {"damaged"}


def test_gzipped_files(monkeypatch):
    assert ids(decode_packets(gzip.compress(FILE))) == ALL
    assert ids(decode_packets(gzip.compress(FILE)[:-2000])) == ["damaged"]
    monkeypatch.setattr("deepstreaks_dask.readers.alert_files._MAX_UNZIPPED_BYTES", len(FILE) - 1)
    assert ids(decode_packets(gzip.compress(FILE))) == ["too large"]


def test_alerts_are_bounded_and_files_are_not(monkeypatch):
    size = len(FILE) // 30
    monkeypatch.setattr("deepstreaks_dask.readers.avro._WINDOWS", (64, size))
    monkeypatch.setattr("deepstreaks_dask.readers.avro.MAX_RECORD_BYTES", size)
    some = [*ALERTS[:2], alert(77, objectId="x" * size), *ALERTS[3:5]]
    assert ids(decode_packets(avro(some))) == ["1", "2", "too large", "4", "5"]
    assert ids(decode_packets(avro(ALERTS, together=True))) == ALL


@pytest.mark.parametrize("together", [False, True], ids=["a block each", "one block"])
def test_one_damaged_alert_of_31(together):
    """A cutout that cannot be decompressed takes no other alert with it, whatever the blocks are."""
    data = bytearray(avro(ALERTS, together=together))
    at = bytes(data).index(ALERTS[11]["cutoutTemplate"]) + 40
    data[at] ^= 255
    assert ids(decode_packets(bytes(data))) == [*ALL[:11], "damaged", *ALL[12:]]


def test_a_damaged_block_takes_no_other_with_it():
    blocks = list(read_blocks(io.BytesIO(FILE)))
    start = FILE.index(blocks[7].data)
    for change, lost in ((-3, 1), (-1, 1), (-2, 1), (len(blocks[7].data) + 2, 0)):
        data = bytearray(FILE)
        data[start + change] ^= 0x85
        found = ids(decode_packets(bytes(data)))
        assert "damaged" in found
        assert [name for name in ALL if name not in found] in ([], ["8"]), change
        assert len(found) >= 31 + (not lost)


def test_structural_damage_names_every_alert_that_is_lost():
    """Lengths are wrong from the fifth alert on: nobody knows where the sixth begins."""
    data = bytearray(avro(ALERTS, together=True))
    at = bytes(data).index(ALERTS[4]["cutoutScience"])
    data[at - 1] = data[at - 2] = 0xFF
    assert ids(decode_packets(bytes(data))) == [*ALL[:4], *["damaged"] * 27]


@pytest.mark.parametrize("cut", [1, 15, 17, 100, 5000])
def test_a_file_that_is_cut_short_says_so(cut):
    found = ids(decode_packets(FILE[:-cut]))
    assert found[:30] == ALL[:30] or cut > len(FILE) // 31
    assert "damaged" in found


def test_a_block_that_claims_too_few_or_too_many_alerts():
    data = avro(ALERTS[:4], together=True)
    start = data.index(next(read_blocks(io.BytesIO(data))).data)
    at = data.rindex(_varint(4), 0, start - 1)
    for claimed, lost in ((3, ["damaged"]), (5, ["damaged"]), (2**40, ["damaged"] * 1001)):
        changed = data[:at] + _varint(claimed) + data[at + 1 :]
        assert ids(decode_packets(changed)) == [*ALL[: min(claimed, 4)], *lost]


def test_alerts_without_their_schema_are_refused_with_what_to_do():
    (found,) = decode_packets(b"\0\0\0\x04\x4d" + FILE[3000:])
    assert "fastavro.writer" in found.detail
    assert ids(decode_packets(b"<html>")) == ["not an alert"]


# Schemas


def with_field(kind, **options):
    return SCHEMA | {"fields": [*SCHEMA["fields"], {"name": "more", "type": kind, **options}]}


def record(name, kind):
    return {"type": "record", "name": name, "fields": [{"name": "x", "type": kind}]}


READABLE = {
    "logical times": ({"type": "long", "logicalType": "timestamp-micros"}, 10**18),
    "logical decimals": ({"type": "bytes", "logicalType": "decimal", "precision": 4}, b"\x01"),
    "unknown logical type": ({"type": "string", "logicalType": "mine"}, "x"),
    "enum": ({"type": "enum", "name": "band", "symbols": ["g", "r"]}, "r"),
    "fixed": ({"type": "fixed", "name": "four", "size": 4}, b"1234"),
    "list of lists": ({"type": "array", "items": {"type": "array", "items": "int"}}, [[1], []]),
    "map of records": ({"type": "map", "values": ["null", record("r", "int")]}, {"a": {"x": 1}}),
    "record in record": (
        record("a", record("b", ["null", record("c", "int")])),
        {"x": {"x": None}},
    ),
    "union of kinds": (["null", "long", "string", {"type": "array", "items": "float"}], [1.5]),
    "by its name": ("candidate", ALERTS[0]["candidate"]),
}


@pytest.mark.parametrize("name", READABLE)
def test_a_files_own_schema_leads(name):
    kind, value = READABLE[name]
    data = io.BytesIO()
    # fastavro turns values of logical types into its own: they are written without
    plain = kind["type"] if isinstance(kind, dict) and "logicalType" in kind else kind
    fastavro.writer(data, with_field(plain), [alert(1, more=value), alert(2, more=value)])
    content = data.getvalue()
    if plain is not kind:
        content = reheaded(content, with_field(kind))
    assert ids(decode_packets(content)) == ["1", "2"]


def reheaded(data, schema):
    """The same file with another schema, as its survey writes it."""
    header = fastavro.reader(io.BytesIO(data)).metadata["avro.schema"].encode()
    old, new = _varint(len(header)) + header, json.dumps(schema).encode()
    assert old in data
    return data.replace(old, _varint(len(new)) + new)


@pytest.mark.parametrize(
    ("kind", "default"),
    [("bytes", None), (["string", "null"], None), ("int", "three"), (["null", "float"], 1.5)],
)
def test_defaults_that_do_not_fit(kind, default):
    """As ``"default": null`` of the bytes in TURBO's own schema."""
    value = {"bytes": b"x", "int": 3}.get(kind if isinstance(kind, str) else "")
    data = io.BytesIO()
    fastavro.writer(data, with_field(kind), [alert(1, more=value)])
    assert ids(decode_packets(reheaded(data.getvalue(), with_field(kind, default=default)))) == [
        "1"
    ]


def test_a_field_that_a_schema_has_twice():
    """As WINTER's own schema had ``sgmag1``."""
    data = io.BytesIO()
    fastavro.writer(data, with_field("float"), [alert(1, more=2.5)])
    twice = json.loads(json.dumps(with_field("float")).replace('"more"', '"candid"'))
    (found,) = decode_packets(reheaded(data.getvalue(), twice))
    assert found.columns["id"] == "1"


ENDLESS = {
    "a list of nothing": {"type": "array", "items": "null"},
    "a list of empty records": {
        "type": "array",
        "items": {"type": "record", "name": "e", "fields": []},
    },
    "fixed of no bytes": {"type": "fixed", "name": "f", "size": 0},
    "itself": "alert",
    "itself, or nothing": ["null", "alert"],
    "a record with itself": record("loop", ["null", "loop"]),
    "no type": {"type": "nothing"},
    "a union in a union": ["null", ["null", "int"]],
    "no union": [],
    "a number": 5,
    "deep": json.loads('{"type":"array","items":' * 60 + '"int"' + "}" * 60),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_schemas_that_could_be_read_without_end_are_not_read(name):
    """Sixteen bytes could ask for 10^18 items, or nest deeper than the stack of the decoder, which is C."""
    claim = b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" * 2  # as many as a long can say
    found = decode_packets(reheaded(FILE, with_field(ENDLESS[name])) + claim + bytes(100))
    assert ids(found) == ["not an alert"]
    assert "'more'" in found[0].detail


def test_a_chain_of_records_deeper_than_the_stack_is_refused():
    links = [record(f"r{k}", f"r{k - 1}" if k else "int") for k in range(2000)]
    schema = {
        "type": "record",
        "name": "top",
        "fields": [{"name": f"f{k}", "type": r} for k, r in enumerate(links)],
    }
    with pytest.raises(UnreadableError, match="nested too deep"):
        parsed_schema(json.dumps(schema))
    with pytest.raises(UnreadableError, match="JSON"):
        parsed_schema("[" * 100_000)


@pytest.mark.parametrize(
    "kind",
    [
        {"type": "array", "items": {"type": "array", "items": "int"}},
        {"type": "map", "values": "int"},
    ],
)
def test_lists_that_claim_more_than_there_is(kind):
    claim = b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" * 2
    blocks = list(read_blocks(io.BytesIO(FILE)))
    schema = json.dumps(with_field(kind))
    parts = Block(schema, "null", 1, blocks[0].data + claim + bytes(100))
    from deepstreaks_dask.readers.avro import decode_block

    ((_, found),) = decode_block(parts)
    assert found.reason == "damaged"


# Mutated at random

SMALL = [alert(candid) for candid in range(1, 6)]
FILES = [avro(SMALL), avro(SMALL, together=True), avro(SMALL, codec="deflate")]
NUMBERS = {"jd", "ra", "dec", "mag", "filter", "id", "objectId"}


@st.composite
def mutated(draw):
    """A file with bytes changed, put in, taken out or cut off; half of the time in its header."""
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        last = len(data) - 1
        at = draw(
            st.integers(0, min(900, last))
            | st.integers(0, last)
            | st.integers(max(0, last - 40), last)
        )
        match draw(st.sampled_from(["change", "change", "insert", "remove", "cut"])):
            case "change":
                data[at] = draw(st.integers(0, 255))
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=9))
            case "remove":
                del data[at : at + draw(st.integers(1, 40))]
            case "cut":
                del data[max(at, 1) :]
    return bytes(data)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_no_mutated_file_loses_an_alert_without_a_word(data):
    found = decode_packets(data)
    assert found
    refused = [one for one in found if isinstance(one, Refused)]
    assert all(one.reason and one.detail for one in refused)
    whole = [one for one in found if isinstance(one, Alert)]
    for one in whole:
        assert one.triplet.shape == (63, 63, 3)
        assert np.isfinite(one.triplet).any(axis=(0, 1)).all()
        assert 0 <= one.columns["ra"] <= 360
        if not one.columns["filter"]:
            assert any("filter" in what for what, _ in one.remarks)
        if not np.isfinite(one.columns["mag"]):
            assert any("mag" in what for what, _ in one.remarks) or "magpsf" not in str(data)
    if len(whole) < len(SMALL) and not _cut_between_blocks(data):
        assert refused


def _cut_between_blocks(data):
    """A file that ends with a whole block is a whole file, of fewer alerts."""
    whole = {file[: len(data)] for file in FILES if len(data) < len(file)}
    return data in whole and data.endswith(tuple(file[-16:] for file in FILES))
