"""Alerts of LSST, Fink and the surveys of Kowalski's kind, in schemas like theirs.

Names and types of the fields are those of ``lsst/alert_packet`` (v11.1 and v3.0), ``winter-telescope/mirar``, the TURBO
schema of ``skyportal/kowalski`` and Fink's data transfer; LSST's cutouts are what astropy's CCDData writes, as in LSST's
pipelines.
"""

import copy
import gzip
import io
import os

import fastavro
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, VarianceUncertainty
from astropy.time import Time
from astropy.wcs import WCS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.store import quarantine
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.readers.alert_files import parts_of
from deepstreaks_dask.readers.alerts import Alert, decode_alert, decode_packets
from deepstreaks_dask.readers.folder import Refused
from deepstreaks_dask.readers.registry import get_reader, sniff

EXAMPLES = int(os.environ.get("DEEPSTREAKS_FUZZ", "60"))
ROLES = "Science", "Template", "Difference"


def pixels(seed, shape=(30, 30)):
    return np.random.default_rng(seed).normal(100, 10, shape).astype(np.float32)


def ccd(image):
    """As LSST's ``packageAlerts`` streams a cutout: image, mask, variance, all plain FITS."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    made = CCDData(
        image, unit="nJy", wcs=wcs, mask=image > 120, uncertainty=VarianceUncertainty(image * 0 + 4)
    )
    out = io.BytesIO()
    made.write(out, format="fits")
    return out.getvalue()


def gz(image):
    out = io.BytesIO()
    fits.PrimaryHDU(image).writeto(out)
    return gzip.compress(out.getvalue(), mtime=0)


def optional(*kinds):
    return ["null", *kinds]


def fields(**kinds):
    return [{"name": name, "type": kind} for name, kind in kinds.items()]


def record(name, namespace=None, **kinds):
    made = {"type": "record", "name": name, "fields": fields(**kinds)}
    return made | ({"namespace": namespace} if namespace else {})


DIA_SOURCE = record(
    "diaSource",
    "lsst.v11_1",
    diaSourceId="long",
    visit="long",
    detector="int",
    diaObjectId=optional("long"),
    ssObjectId=optional("long"),
    midpointMjdTai="double",
    exposureTime=optional("float"),
    ra="double",
    raErr=optional("float"),
    dec="double",
    isNegative=optional("boolean"),
    snr=optional("float"),
    psfFlux=optional("float"),
    psfFluxErr=optional("float"),
    psfNdata="int",
    reliability=optional("float"),
    reliabilityVersion=optional("string"),
    band=optional("string"),
)
LSST = record(
    "alert",
    "lsst.v11_1",
    diaSourceId="long",
    observation_reason=optional("string"),
    diaSource=DIA_SOURCE,
    prvDiaSources=optional({"type": "array", "items": "lsst.v11_1.diaSource"}),
    diaObject=optional(
        record(
            "diaObject",
            "lsst.v11_1",
            diaObjectId="long",
            ra="double",
            dec="double",
            nDiaSources="int",
        )
    ),
    ssSource=optional(
        record(
            "ssSource",
            "lsst.v11_1",
            diaSourceId="long",
            ssObjectId="long",
            designation=optional("string"),
        )
    ),
    cutoutDifference=optional("bytes"),
    cutoutScience=optional("bytes"),
    cutoutTemplate=optional("bytes"),
)


def lsst(number=169813005919846484, shape=(30, 30), **source):
    dia_source = {
        "diaSourceId": number,
        "visit": 2025050100367,
        "detector": 3,
        "diaObjectId": 5000 + number,
        "ssObjectId": None,
        "midpointMjdTai": 60796.34125,
        "exposureTime": 30.0,
        "ra": 53.125,
        "raErr": None,
        "dec": -27.75,
        "isNegative": True,
        "snr": 12.5,
        "psfFlux": -1000.0,
        "psfFluxErr": 100.0,
        "psfNdata": 41,
        "reliability": 0.875,
        "reliabilityVersion": "3.0",
        "band": "z",
    } | source
    return {
        "diaSourceId": number,
        "observation_reason": None,
        "diaSource": dia_source,
        "prvDiaSources": [dia_source | {"ra": 1.0}],
        "diaObject": {"diaObjectId": 5000 + number, "ra": 53.0, "dec": -27.0, "nDiaSources": 7},
        "ssSource": None,
        **{f"cutout{role}": ccd(pixels(k, shape)) for k, role in enumerate(ROLES)},
    }


def avro(schema, *alerts, **options):
    out = io.BytesIO()
    fastavro.writer(out, copy.deepcopy(schema), alerts, **options)
    return out.getvalue()


def one(schema, alert):
    (found,) = decode_packets(avro(schema, alert))
    assert isinstance(found, Alert), found
    return found


def test_an_alert_of_lsst():
    found = one(LSST, lsst())
    assert (found.survey, found.remarks) == ("LSST", ())
    for k in range(3):  # in the middle, the source where the networks expect it
        np.testing.assert_array_equal(found.triplet[16:46, 16:46, k], pixels(k))
    assert np.isnan(found.triplet).sum() == 3 * (63**2 - 30**2)
    columns = found.columns
    known = {
        "id": "169813005919846484",
        "objectId": "169813005919851484",
        "ra": 53.125,
        "dec": -27.75,
        "filter": "z",
        "isdiffpos": "f",
        "drb": 0.875,
        "drbversion": "3.0",
        "snr": 12.5,
        "flux": -1000.0,
        "exptime": 30.0,
        "ndethist": 7,
        "night": 20250501,
    }
    assert {name: columns[name] for name in known} == known
    assert columns["jd"] == pytest.approx(
        Time(60796.34125, format="mjd", scale="tai").utc.jd, abs=1e-9
    )
    assert columns["mag"] == pytest.approx(31.4 - 7.5)  # AB of 1000 nJy
    assert columns["sigmapsf"] == pytest.approx(0.10857, abs=1e-5)
    assert found.zero_point == 31.4


def test_a_known_object_of_lsst():
    alert = lsst(diaObjectId=None, ssObjectId=77)
    alert |= {
        "diaObject": None,
        "ssSource": {"diaSourceId": 1, "ssObjectId": 77, "designation": "2010 XM2"},
    }
    columns = one(LSST, alert).columns
    assert (columns["objectId"], columns["ssnamenr"]) == ("77", "2010 XM2")


def test_larger_cutouts_give_their_middle_and_say_so():
    found = one(LSST, lsst(shape=(81, 65)))
    np.testing.assert_array_equal(found.triplet[..., 2], pixels(2, (81, 65))[9:72, 1:64])
    assert [detail for _, detail in found.remarks] == ["65 x 81 px"] * 3


def test_lsst_before_it_had_science_cutouts():
    """Schema 3.0: ``decl``, ``midPointTai``, ``psFlux``, ``filterName``, and no science cutout."""
    source = record(
        "diaSource", "lsst.v3_0", diaSourceId="long", midPointTai="double", ra="double", decl="double",
        psFlux="float", filterName="string",
    )  # fmt: skip
    schema = record(
        "alert", "lsst.v3_0", alertId="long", diaSource=source,
        cutoutDifference=optional("bytes"), cutoutTemplate=optional("bytes"),
    )  # fmt: skip
    alert = {
        "alertId": 7,
        "diaSource": {
            "diaSourceId": 7,
            "midPointTai": 59000.5,
            "ra": 1.0,
            "decl": 2.0,
            "psFlux": 1e3,
            "filterName": "g",
        },
        "cutoutDifference": ccd(pixels(1)),
        "cutoutTemplate": ccd(pixels(2)),
    }
    (found,) = decode_packets(avro(schema, alert))
    assert (found.reason, found.detail) == ("missing cutout", "no science cutout")
    columns = decode_alert(alert | {"cutoutScience": ccd(pixels(3))}).columns
    assert (columns["dec"], columns["filter"], columns["mag"]) == (2.0, "g", pytest.approx(23.9))


CANDIDATE = record(
    "candidate",
    "winter.alert",
    candid="long",
    jd="double",
    fid="int",
    exptime="float",
    isdiffpos="boolean",
    fieldid="int",
    ra="double",
    dec="double",
    magpsf="float",
    sigmapsf="float",
    rb=["float", "null"],
    scorr=["double", "null"],
)


def winter(snake, **changes):
    names = ("objectid", "cutout_{}") if snake else ("objectId", "cutout{}")
    roles = [names[1].format(role.lower() if snake else role) for role in ROLES]
    schema = record(
        "alert", "winter", schemavsn="string", publisher="string", **{names[0]: "string"}, candid="long",
        candidate=CANDIDATE, **dict.fromkeys(roles, "bytes"),
    )  # fmt: skip
    candidate = {
        "candid": 42, "jd": 2460000.75, "fid": 2, "exptime": 120.0, "isdiffpos": True, "fieldid": 9,
        "ra": 10.0, "dec": 20.0, "magpsf": 16.5, "sigmapsf": 0.1, "rb": 0.5, "scorr": 9.0,
    } | changes  # fmt: skip
    alert = {
        "schemavsn": "0.1", "publisher": "WINTER-mirar", names[0]: "WNTR23abc", "candid": 42,
        "candidate": candidate, **{role: gz(pixels(k, (81, 81))) for k, role in enumerate(roles)},
    }  # fmt: skip
    return schema, alert


@pytest.mark.parametrize("snake", [False, True], ids=["cutoutScience", "cutout_science"])
def test_an_alert_of_winter(snake):
    found = one(*winter(snake))
    np.testing.assert_array_equal(found.triplet[..., 0], pixels(0, (81, 81))[9:72, 9:72])
    columns = found.columns
    assert (columns["objectId"], columns["filter"], columns["isdiffpos"]) == ("WNTR23abc", "J", "t")
    assert (columns["field"], columns["mag"]) == (9, 16.5)
    assert columns["jd"] == pytest.approx(2460000.75 + 60 / 86400)


def test_numbers_of_filters_are_those_of_the_survey():
    schema, alert = winter(False, fid=1)
    for object_id, band, count in (
        ("WNTR1", "Y", 3),
        ("PGIR20a", "J", 3),
        ("ZTF1", "", 0),
        ("TRB1", "", 4),
    ):
        alert["objectId"] = object_id
        (found,) = decode_packets(avro(schema, alert))
        if object_id == "ZTF1":  # whose cutouts are never larger
            assert found.reason == "wrong shape"
            continue
        assert (found.columns["filter"], len(found.remarks)) == (band, count)


def test_alerts_without_cutouts_are_refused_saying_that():
    schema, alert = winter(False)
    schema["fields"] = schema["fields"][:-3]
    (found,) = decode_packets(avro(schema, {k: v for k, v in alert.items() if "cutout" not in k}))
    assert found.reason == "missing cutout"
    assert "carry no cutouts" in found.detail


def test_what_is_not_understood_is_said():
    schema, alert = winter(False, fid=9, magpsf=float("inf"), scorr=1e300, rb=-999.0)
    found = one(schema, alert)
    assert {what for what, _ in found.remarks} >= {
        "filter not understood",
        "mag not understood",
        "scorr not understood",
    }
    assert not any(
        "rb" in what for what, _ in found.remarks
    )  # ZTF's way to say that it is not known
    assert dict(found.remarks)["filter not understood"] == "9"


# Fink's data transfer


def fink(candid, **changes):
    return {
        "candid": candid,
        "objectId": f"ZTF26a{candid}",
        "candidate": {
            "jd": 2461042.75,
            "fid": 1,
            "candid": candid,
            "ra": 1.5,
            "dec": 2.5,
            "magpsf": 18.0,
            "rb": None,
        },
        **{
            f"cutout{role}": {
                "fileName": "x.fits.gz",
                "stampData": gz(pixels(3 * candid + k, (12, 12))),
            }
            for k, role in enumerate(ROLES)
        },
        "prv_candidates": [{"jd": 2461000.5, "fid": 2}],
        "cdsxmatch": "Unknown",
        "lc_features_g": {"amplitude": 0.5},
        "timestamp": pd.Timestamp("2026-01-02", tz="UTC"),
    } | changes


def parquet(alerts, **options):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(alerts), out, **options)
    return out.getvalue()


def read(path, **options):
    batches = list(get_reader("alerts").read(path, **options))
    names = [name for batch in batches for name in batch.columns["id"]]
    return names, [refused for batch in batches for refused in batch.quarantined], batches


def test_a_transfer_of_31_alerts(tmp_path):
    """A folder as Fink's client writes it: files of 31 alerts each, by class."""
    for k, part in enumerate(("finkclass=SN", "finkclass=Solar")):
        (tmp_path / "in" / part).mkdir(parents=True)
        alerts = [fink(100 * k + candid) for candid in range(1, 32)]
        alerts[3]["cutoutTemplate"]["stampData"] = b"\x1f\x8bbroken"
        (tmp_path / "in" / part / f"part-{k}.parquet").write_bytes(
            parquet(alerts, row_group_size=20)
        )
    (tmp_path / "in" / "labels.parquet").write_bytes(parquet([{"id": "1", "rb": 1}]))
    assert sniff(tmp_path / "in").name == "alerts"
    assert get_reader("alerts").count(tmp_path / "in") == 62
    names, refused, batches = read(tmp_path / "in")
    assert len(names) == 60
    assert [(one.source, one.reason) for one in refused] == [
        ("finkclass=SN/part-0.parquet[3]", "damaged"),
        ("finkclass=Solar/part-1.parquet[3]", "damaged"),
    ]
    (batch,) = batches
    assert batch.columns["source"][4] == "finkclass=SN/part-0.parquet[5]"
    assert set(batch.columns["filter"]) == {"g"}
    np.testing.assert_array_equal(batch.cutouts[0, :12, :12, 1], pixels(4, (12, 12)))


def test_a_transfer_becomes_an_archive(tmp_path):
    file = tmp_path / "part-0.parquet"
    file.write_bytes(parquet([fink(candid) for candid in range(1, 32)]))
    (tmp_path / "labels.csv").write_text("id,label_rb\n5,1\n6,0\n")
    done = CliRunner().invoke(
        app,
        [
            "ingest",
            str(file),
            str(tmp_path / "a.zarr"),
            "--table",
            str(tmp_path / "labels.csv"),
            "--shard",
            "64",
        ],
    )
    assert done.exit_code == 0, done.output
    dataset = open_archive(tmp_path / "a.zarr").load()
    assert dataset.sizes["cutout"] == 31
    assert list(dataset["label_rb"].values[3:7]) == [-1, 1, 0, -1]
    assert len(quarantine(tmp_path / "a.zarr")["source"]) == 0


def test_the_same_alerts_as_avro_and_as_table():
    """Fink distributes the same packets by both ways."""
    kinds = {"candid": "long", "objectId": "string", "cdsxmatch": "string"}
    candidate = {
        "jd": "double",
        "fid": "int",
        "candid": "long",
        "ra": "double",
        "dec": "double",
        "magpsf": "float",
    }
    cutout = record("cutout", "fink", fileName="string", stampData="bytes")
    schema = record(
        "topLevelRecord", **kinds, candidate=record("candidate", "topLevelRecord", **candidate, rb=optional("float")),
        timestamp={"type": "long", "logicalType": "timestamp-micros"}, cutoutScience=cutout,
        cutoutTemplate="fink.cutout", cutoutDifference="fink.cutout",
    )  # fmt: skip
    found = one(schema, fink(3))
    row = decode_alert(pa.Table.from_pylist([fink(3)]).to_pylist()[0])
    np.testing.assert_array_equal(found.triplet, row.triplet)
    assert repr(found.columns) == repr(row.columns)
    assert found.columns["filter"] == "g"


def test_flat_tables_with_prefixed_names():
    """As Fink's portal names its columns."""
    flat = {
        "i:candid": 3,
        "i:objectId": "ZTF26a",
        "i:jd": 2461042.75,
        "i:ra": 1.5,
        "i:dec": 2.5,
        "i:fid": 2,
    }
    flat |= {f"b:cutout{role}_stampData": gz(pixels(k)) for k, role in enumerate(ROLES)}
    found = decode_alert(flat)
    assert (found.columns["id"], found.columns["filter"]) == ("3", "r")


def test_tables_without_cutouts_are_no_alerts(tmp_path):
    light = [{k: v for k, v in fink(1).items() if "cutout" not in k}]
    (tmp_path / "light.parquet").write_bytes(parquet(light))
    names, refused, _ = read(tmp_path / "light.parquet")
    assert (names, [one.reason for one in refused]) == ([], ["missing cutout"])
    (tmp_path / "none.parquet").write_bytes(parquet([fink(1)])[:-100])
    names, refused, _ = read(tmp_path / "none.parquet")
    assert (names, [one.reason for one in refused]) == ([], ["damaged"])


def test_histories_of_lsst(tmp_path):
    """The same files: an object's alerts become a sequence, calibrated in nJy."""
    alerts = [lsst(number, diaObjectId=9, midpointMjdTai=60796.0 + number) for number in (3, 1, 2)]
    for alert in alerts:
        alert["diaObject"] = None
    (tmp_path / "all.avro").write_bytes(
        avro(LSST, *alerts, lsst(3, diaObjectId=9), codec="deflate")
    )
    (batch,) = get_reader("histories").read(tmp_path)
    assert list(batch.counts) == [3]
    assert np.diff(batch.epochs["mjd"]) == pytest.approx([1, 1])
    assert list(batch.epochs["zero_point"]) == pytest.approx([31.4] * 3)
    assert np.isnan(batch.epochs["gain"]).all()
    np.testing.assert_array_equal(batch.cutouts[0], pixels(0)[5:26, 5:26])
    assert [one.reason for one in batch.quarantined] == ["duplicate"]


# Mutated at random

TABLES = [
    parquet([fink(candid) for candid in range(1, 6)], compression=packed)
    for packed in ("snappy", "none", "zstd")
]
PACKETS = [avro(LSST, lsst(1), lsst(2)), avro(*winter(True))]


@st.composite
def mutated(draw, files):
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        last = len(data) - 1
        at = draw(st.integers(0, last) | st.integers(max(0, last - 4000), last))
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


fuzzed = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@fuzzed
@given(mutated(TABLES))
def test_no_mutated_table_loses_an_alert_without_a_word(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "mutated.parquet"
    file.write_bytes(data)
    names, refused, _ = read(file)
    assert all(one.reason and one.detail for one in refused)
    assert len(names) == 5 or refused


@fuzzed
@given(mutated(PACKETS))
def test_no_mutated_packet_loses_an_alert_without_a_word(data):
    for found in decode_packets(data):
        if isinstance(found, Refused):
            assert found.reason
            assert found.detail
        else:
            assert found.triplet.shape == (63, 63, 3)
            assert found.columns["filter"] or any("filter" in what for what, _ in found.remarks)
    assert decode_packets(data)
    assert list(parts_of("x", data))
