"""Alert packets become triplets; whatever is wrong with one is named, and stops none of the others."""

import copy
import gzip
import io
import os
import tarfile
from pathlib import Path

import fastavro
import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.store import quarantine
from deepstreaks_dask.archive.verification import verify
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.alert_fields import ALERT_COLUMNS, OWN_COLUMNS
from deepstreaks_dask.readers.alerts import Alert, decode_packets
from deepstreaks_dask.readers.folder import Refused
from deepstreaks_dask.readers.options import ReadOptions
from deepstreaks_dask.readers.registry import get_reader, layout_of, sniff

FUZZ = int(os.environ.get("DEEPSTREAKS_FUZZ", "0"))
REAL = Path(__file__).parents[3] / "shared" / "ztf_alert"


def optional(*kinds):
    return [*kinds, "null"]


CUTOUT = {
    "type": "record",
    "name": "ztf.alert.cutout",
    "fields": [{"name": "fileName", "type": "string"}, {"name": "stampData", "type": "bytes"}],
}
CANDIDATE = {
    "type": "record",
    "name": "ztf.alert.candidate",
    "fields": [
        {"name": "jd", "type": "double"},
        {"name": "fid", "type": "int"},
        {"name": "pid", "type": "long"},
        {"name": "candid", "type": "long"},
        {"name": "isdiffpos", "type": "string"},
        {"name": "ra", "type": "double"},
        {"name": "dec", "type": "double"},
        {"name": "magpsf", "type": "float"},
        {"name": "sigmapsf", "type": "float"},
        {"name": "rb", "type": optional("float")},
        {"name": "drb", "type": optional("float")},
        {"name": "ndethist", "type": "long"},
        {"name": "ssdistnr", "type": optional("float")},
        {"name": "ssnamenr", "type": optional("string")},
        {"name": "exptime", "type": optional("float")},
    ],
}
PREVIOUS = {
    "type": "record",
    "name": "ztf.alert.prv_candidate",
    "fields": [{"name": "jd", "type": "double"}, {"name": "rb", "type": optional("float")}],
}
SCHEMA = {
    "type": "record",
    "name": "ztf.alert",
    "fields": [
        {"name": "objectId", "type": "string"},
        {"name": "candid", "type": "long"},
        {"name": "candidate", "type": CANDIDATE},
        {"name": "prv_candidates", "type": optional({"type": "array", "items": PREVIOUS})},
        {"name": "cutoutScience", "type": optional(CUTOUT)},
        {"name": "cutoutTemplate", "type": optional("ztf.alert.cutout")},
        {"name": "cutoutDifference", "type": optional("ztf.alert.cutout")},
    ],
}


def decode_one(data):
    (found,) = decode_packets(data)
    return found


def stamp(pixels):
    out = io.BytesIO()
    fits.PrimaryHDU(pixels).writeto(out)
    return {"fileName": "x.fits.gz", "stampData": gzip.compress(out.getvalue(), mtime=0)}


def pixels_of(candid, shape=(63, 63)):
    rng = np.random.default_rng(candid)
    return [rng.normal(100, 10, shape).astype(np.float32) for _ in range(3)]


def packet(candid=1, planes=None, **candidate):
    science, template, difference = pixels_of(candid) if planes is None else planes
    return {
        "objectId": f"ZTF26a{candid}",
        "candid": candid,
        "candidate": {
            "jd": 2461042.75,
            "fid": 2,
            "pid": 7 * 10**11,
            "candid": candid,
            "isdiffpos": "t",
            "ra": 10.5,
            "dec": -20.25,
            "magpsf": 18.5,
            "sigmapsf": 0.1,
            "rb": 0.75,
            "drb": None,
            "ndethist": 3,
            "ssdistnr": -999.0,
            "ssnamenr": "null",
            "exptime": 30.0,
        }
        | candidate,
        "prv_candidates": [{"jd": 2461040.5, "rb": None}],
        "cutoutScience": science if science is None else stamp(science),
        "cutoutTemplate": template if template is None else stamp(template),
        "cutoutDifference": difference if difference is None else stamp(difference),
    }


def avro(*packets, schema=SCHEMA, codec="null"):
    out = io.BytesIO()
    fastavro.writer(out, copy.deepcopy(schema), packets, codec=codec)
    return out.getvalue()


def night(path, contents):
    """Write a night's archive as the University of Washington's are."""
    with tarfile.open(path, "w:gz") as archive:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def ingest(source, url, **options):
    reader = sniff(source)
    create_archive(url, shard=64, **layout_of(reader))
    return append_batches(url, reader.read(source, ReadOptions(**options)))


def test_a_packet_becomes_a_triplet_and_its_fields_columns():
    alert = decode_one(avro(packet(15)))
    assert alert.triplet.dtype == np.float32
    np.testing.assert_array_equal(alert.triplet, np.stack(pixels_of(15), axis=-1))
    assert set(alert.columns) == {*OWN_COLUMNS, *ALERT_COLUMNS}
    known = {
        "id": "15",
        "night": 20260102,
        "filter": "r",
        "ra": 10.5,
        "dec": -20.25,
        "mag": 18.5,
        "rb": 0.75,
        "pid": 7 * 10**11,
        "ndethist": 3,
        "isdiffpos": "t",
        "objectId": "ZTF26a15",
        "ssnamenr": "",  # ZTF writes "null"
        "field": 0,  # not in this schema
    }
    assert {name: alert.columns[name] for name in known} == known
    assert np.isnan([alert.columns["drb"], alert.columns["ssdistnr"]]).all()
    assert alert.columns["jd"] == pytest.approx(2461042.75 + 15 / 86400, abs=1e-9)
    older = decode_one(avro(packet(15, exptime=None)))
    assert older.columns["jd"] == alert.columns["jd"]


def test_small_cutouts_are_filled_up_and_masked_pixels_are_nan():
    small = np.arange(60 * 50, dtype=np.float32).reshape(60, 50)
    masked = pixels_of(1)[0]
    masked[:2], masked[5, 5] = np.nan, np.inf
    integers = np.ones((63, 63), np.int16)
    triplet = decode_one(avro(packet(1, [small, masked, integers]))).triplet
    np.testing.assert_array_equal(triplet[:60, :50, 0], small)
    assert np.isnan(triplet[60:, :, 0]).all()
    assert np.isnan(triplet[:, 50:, 0]).all()
    assert np.isnan(triplet[..., 1]).sum() == 2 * 63 + 1
    assert np.isnan(triplet[5, 5, 1])
    assert (triplet[..., 2] == 1).all()


SCIENCE, TEMPLATE, DIFFERENCE = pixels_of(1)
WRONG = {
    "empty": (b"", "empty"),
    "page": (b"<html>404</html>", "not an alert"),
    "cut": (avro(packet())[:-5000], "damaged"),
    "header only": (avro(packet())[:500], "damaged"),
    "no alert": (avro(), "not an alert"),
    "odd codec": (
        avro(packet()).replace(b"\x08null", b"\x08null".replace(b"ll", b"lm")),
        "not an alert",
    ),
    "large": (avro(packet() | {"objectId": "x" * 2**23}), "too large"),
    "from Kafka": (bytes(5) + avro(packet())[3000:], "not an alert"),
    "another": (
        avro(
            {"x": 1},
            schema={"type": "record", "name": "a", "fields": [{"name": "x", "type": "int"}]},
        ),
        "not an alert",
    ),
    "number": (avro(5, schema={"type": "int"}), "not an alert"),
    "no science": (avro(packet(1, [None, TEMPLATE, DIFFERENCE])), "missing cutout"),
    "no template": (avro(packet(1, [SCIENCE, None, DIFFERENCE])), "missing cutout"),
    "too wide": (avro(packet(1, [SCIENCE, np.ones((63, 64)), DIFFERENCE])), "wrong shape"),
    "a cube": (avro(packet(1, [SCIENCE, np.ones((2, 63, 63)), DIFFERENCE])), "wrong shape"),
    "blank": (avro(packet(1, [SCIENCE, TEMPLATE, np.full((63, 63), np.nan)])), "blank"),
    "no time": (avro(packet(jd=float("nan"))), "damaged"),
    "no place": (avro(packet(ra=361.0)), "damaged"),
    "no candid": (avro(packet(0)), "not an alert"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name):
    data, reason = WRONG[name]
    found = decode_one(data)
    assert isinstance(found, Refused)
    assert (found.reason, bool(found.detail)) == (reason, True)


@pytest.mark.parametrize(
    ("stamp_data", "reason"),
    [
        (b"", "missing cutout"),
        (b"not gzip", "damaged"),
        (stamp(SCIENCE)["stampData"][:-100], "damaged"),
        (gzip.compress(bytes(2**24), mtime=0), "damaged"),  # a bomb
        (gzip.compress(b"SIMPLE  =                    T" + b" " * 50, mtime=0), "damaged"),
        (
            gzip.compress(
                b"".join(
                    card.ljust(80)
                    for card in (
                        b"SIMPLE  =                    T",
                        b"BITPIX  =                  -64",
                        b"NAXIS   =                    2",
                        b"NAXIS1  =           2000000000",
                        b"NAXIS2  =           2000000000",
                        b"END",
                    )
                ).ljust(2880),
                mtime=0,
            ),
            "wrong shape",
        ),
    ],
    ids=["empty", "not gzip", "cut short", "bomb", "header without end", "shape of a bomb"],
)
def test_damaged_cutouts_are_named(stamp_data, reason):
    broken = packet()
    broken["cutoutTemplate"]["stampData"] = stamp_data
    found = decode_one(avro(broken))
    assert (found.reason, "template" in found.detail or reason == "damaged") == (reason, True)


def test_a_night_goes_into_an_archive(tmp_path):
    contents = {f"{k}.avro": avro(packet(k)) for k in range(1, 80)}
    contents["bad.avro"] = contents["5.avro"][:3000]
    contents["../../out.avro"] = avro(packet(500))
    contents["again.avro"] = avro(packet(7))
    source = tmp_path / "in"
    source.mkdir()
    night(source / "ztf_public_20260102.tar.gz", contents)
    (source / "single.avro").write_bytes(avro(packet(900, fid=1)))
    (source / "notes.txt").write_text("hello")
    outside = tmp_path / "outside.avro"
    outside.write_bytes(avro(packet(901)))
    (source / "link.avro").symlink_to(outside)
    url = tmp_path / "alerts.zarr"
    reader = get_reader("alerts")
    assert sniff(source).name == sniff(source / "single.avro").name == "alerts"
    assert sniff(source / "ztf_public_20260102.tar.gz").name == "alerts"
    assert reader.count(source) == 82 + 3
    result = ingest(source, url)
    assert (result.appended, result.quarantined) == (80, 5)
    dataset = open_archive(url).load()
    assert dataset["cutouts"].dims == ("cutout", "y", "x", "plane")
    by_id = dataset.set_index(cutout="id")
    np.testing.assert_array_equal(
        by_id["cutouts"].sel(cutout="42").values, np.stack(pixels_of(42), axis=-1)
    )
    assert by_id["filter"].sel(cutout="900").item() == "g"
    assert by_id["source"].sel(cutout="3").item() == "ztf_public_20260102.tar.gz/3.avro"
    assert float(by_id["rb"].sel(cutout="3")) == 0.75
    listed = quarantine(url)
    assert dict(zip(listed["source"], listed["reason"], strict=True)) == {
        "link.avro": "not an alert",
        "notes.txt": "not an alert",
        "ztf_public_20260102.tar.gz/bad.avro": "damaged",
        "ztf_public_20260102.tar.gz/../../out.avro": "unsafe name",
        "ztf_public_20260102.tar.gz/again.avro": "duplicate",
    }
    assert verify(url).ok
    again = append_batches(url, reader.read(source))
    assert (again.appended, again.already_present, again.total) == (0, 81, 80)


def test_alerts_with_other_candids_are_different_though_their_pixels_are_the_same(tmp_path):
    planes = pixels_of(1)
    (tmp_path / "two.avro").write_bytes(avro(packet(1, planes), packet(2, planes)))
    result = ingest(tmp_path / "two.avro", tmp_path / "a.zarr")
    assert (result.appended, result.quarantined) == (2, 0)
    assert list(open_archive(tmp_path / "a.zarr")["source"].values) == [
        "two.avro[0]",
        "two.avro[1]",
    ]
    again = append_batches(tmp_path / "a.zarr", get_reader("alerts").read(tmp_path / "two.avro"))
    assert (again.appended, again.already_present) == (0, 2)


def test_the_command_line_makes_the_archive_that_alerts_need(tmp_path):
    source = night(tmp_path / "night.tar.gz", {f"{k}.avro": avro(packet(k)) for k in (1, 2, 3)})
    url = tmp_path / "a.zarr"
    done = CliRunner().invoke(app, ["ingest", str(source), str(url), "--shard", "64", "--json"])
    assert done.exit_code == 0, done.output
    assert open_archive(url)["cutouts"].shape == (3, 63, 63, 3)
    usual = tmp_path / "usual.zarr"
    create_archive(usual)
    done = CliRunner().invoke(app, ["ingest", str(source), str(usual)])
    assert "choose an archive made for them" in str(done.exception)
    assert open_archive(usual).sizes["cutout"] == 0


def test_a_table_labels_alerts(tmp_path):
    source = night(tmp_path / "night.tar.gz", {f"{k}.avro": avro(packet(k)) for k in (1, 2, 3)})
    table = tmp_path / "labels.csv"
    pd.DataFrame({"id": ["1", "3"], "rb": [1, 0], "kind": ["nea", None]}).to_csv(table, index=False)
    url = tmp_path / "a.zarr"
    ingest(source, url, table=table, night=20260105)
    dataset = open_archive(url)
    assert list(dataset["label_rb"].values) == [1, -1, 0]
    assert list(dataset["kind"].values) == ["nea", "", ""]
    assert set(dataset["night"].values) == {20260105}
    table.write_text("id,rb\n77,1\n")
    with pytest.raises(ReaderError, match="speaks of none"):
        list(get_reader("alerts").read(source, ReadOptions(table)))


def test_hostile_numbers_are_missing_rather_than_fatal():
    alert = decode_one(
        avro(packet(fid=2**31 - 1, ndethist=2**62, magpsf=float("inf"), rb=float("nan")))
    )
    assert alert.columns["filter"] == ""
    assert alert.columns["ndethist"] == -1
    assert np.isnan([alert.columns["mag"], alert.columns["rb"]]).all()


def check(data):
    found = decode_packets(data)
    assert found
    for one in found:
        if isinstance(one, Refused):
            assert one.reason
            assert one.detail
        else:
            assert isinstance(one, Alert)
            assert one.triplet.shape == (63, 63, 3)
            assert np.isfinite(one.triplet).any(axis=(0, 1)).all()
            assert int(one.columns["id"]) > 0


VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=200),
)
KINDS = {int: "long", float: "double", str: "string", bytes: "bytes"}


@settings(max_examples=max(60, FUZZ), suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_fields_of_other_kinds_stop_no_night(data):
    """Well-formed Avro whose fields are missing, or of a type that ZTF's never have."""
    schema, values = copy.deepcopy(SCHEMA), packet(planes=pixels_of(1, (8, 8)))
    for part, contents in ((schema, values), (schema["fields"][2]["type"], values["candidate"])):
        for field in data.draw(
            st.lists(st.sampled_from(part["fields"]), max_size=2, unique_by=str)
        ):
            if field["name"] == "cutoutScience":  # defines the type of the others
                continue
            if data.draw(st.booleans()):
                part["fields"].remove(field)
                del contents[field["name"]]
            else:
                value = data.draw(VALUES)
                field["type"] = ["null", *KINDS.values()]
                if value is not None:
                    field["type"] = KINDS[type(value)]
                contents[field["name"]] = value
    check(avro(values, schema=schema))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real packet is not here")
def test_the_real_packet(tmp_path):
    (file,) = REAL.glob("*.avro")
    url = tmp_path / "real.zarr"
    result = ingest(file, url)
    assert (result.appended, result.quarantined) == (1, 0)
    dataset = open_archive(url).load()
    assert dataset["id"].item() == "739260766315010006"
    assert dataset["objectId"].item() == "ZTF17aaacxxf"
    assert dataset["night"].item() == 20190110
    assert dataset["filter"].item() == "r"
    assert float(dataset["mag"].item()) == pytest.approx(15.3711, abs=1e-4)
    with file.open("rb") as opened:
        (values,) = fastavro.reader(opened)
    for k, name in enumerate(("Science", "Template", "Difference")):
        data = gzip.decompress(values[f"cutout{name}"]["stampData"])
        expected = np.frombuffer(data[2880 : 2880 + 63 * 63 * 4], ">f4").reshape(63, 63)
        np.testing.assert_array_equal(dataset["cutouts"].values[0, ..., k], expected)
