"""ADES documents, good and bad: our rules against the standard's own schema for submissions."""

import xml.etree.ElementTree as ElementTree

import pytest
from export.official_ades import errors_of_xml, psv_to_xml

from deepstreaks_dask.export import ades

RECORD = {
    "trkSub": "d1a2b3c",
    "mode": "CCD",
    "stn": "I41",
    "obsTime": "2024-03-01T10:00:15.000Z",
    "ra": "150.000123",
    "dec": "-20.500000",
    "astCat": "Gaia1",
}
PHOTOMETRY = {"mag": "19.25", "rmsMag": "0.1", "band": "r"}
CONTEXT = {
    "observatory": [("mpcCode", "I41")],
    "submitter": [("name", "J. Doe")],
    "measurers": [("name", "J. Doe"), ("name", "A. N. Other")],
    "telescope": [("design", "Schmidt"), ("aperture", "1.2"), ("detector", "CCD")],
}


def _document(records, context=CONTEXT):
    """Write XML without any of our checks; fields in the standard's order, unknown ones last."""
    order = list(ades.OPTICAL_RULES)
    root = ElementTree.Element("ades", version="2022")
    block = ElementTree.SubElement(root, "obsBlock")
    head = ElementTree.SubElement(block, "obsContext")
    for group, elements in context.items():
        parent = ElementTree.SubElement(head, group)
        for name, text in elements:
            ElementTree.SubElement(parent, name).text = text
    data = ElementTree.SubElement(block, "obsData")
    for record in records:
        optical = ElementTree.SubElement(data, "optical")
        for name in sorted(record, key=lambda n: order.index(n) if n in order else len(order)):
            ElementTree.SubElement(optical, name).text = record[name]
    return ElementTree.tostring(root)


@pytest.mark.parametrize(
    "extra",
    [
        {},
        PHOTOMETRY,
        {"permID": "433"},
        {"permID": "1P"},
        {"permID": "Jupiter 12"},
        {"provID": "2024 AB123"},
        {"provID": "C/2024 A1"},
        {"provID": "4835 T-1"},
        {"rmsRA": "0.15", "rmsDec": "0.15", "rmsCorr": "0.0"},
        {"obsSubID": "strkid1234567890_pid12345678901", "logSNR": "1.25", "notes": "K"},
        {
            "stn": "247",
            "sys": "WGS84",
            "ctr": "399",
            "pos1": "250.1",
            "pos2": "-30.2",
            "pos3": "10",
        },
        {"ra": "0", "dec": "-90"},
        {"ra": ".5", "dec": "+.5"},
    ],
)
def test_good_records(extra):
    assert ades.check_record(RECORD | extra) == []
    assert errors_of_xml(_document([RECORD | extra])) == []


@pytest.mark.parametrize(
    ("extra", "names"),
    [
        ({"mode": None}, ["mode"]),
        ({"trkSub": None}, ["trkSub"]),
        ({"astCat": None, "stn": None}, ["stn", "astCat"]),
        ({"trkSub": "strkid12345"}, ["trkSub"]),
        ({"trkSub": "a b"}, ["trkSub"]),
        ({"permID": "Ceres"}, ["permID"]),
        ({"provID": "2024AB"}, ["provID"]),
        ({"provID": "2024 IB"}, ["provID"]),
        ({"artSat": "NORAD 1", "permID": "433"}, ["artSat"]),
        ({"mode": "ABC"}, ["mode"]),
        ({"stn": "I4"}, ["stn"]),
        ({"obsTime": "2024-03-01T10:00:15"}, ["obsTime"]),
        ({"obsTime": "2024-03-01 10:00:15Z"}, ["obsTime"]),
        ({"obsTime": "2024-03-01T10:00:15.1234567Z"}, ["obsTime"]),
        ({"obsTime": "2024-02-30T10:00:15Z"}, ["obsTime"]),
        ({"obsTime": "2024-03-01T10:00:60Z"}, ["obsTime"]),
        ({"ra": "360.0"}, ["ra"]),
        ({"ra": "-0.1"}, ["ra"]),
        ({"ra": "005.5"}, ["ra"]),
        ({"ra": "10:00:00"}, ["ra"]),
        ({"ra": "1e2"}, ["ra"]),
        ({"ra": "nan"}, ["ra"]),
        ({"ra": "1.1234567890"}, ["ra"]),
        ({"ra": ""}, ["ra"]),
        ({"dec": "90.000001"}, ["dec"]),
        ({"dec": "-91"}, ["dec"]),
        ({"rmsRA": "0"}, ["rmsRA"]),
        ({"rmsDec": "-0.1"}, ["rmsDec"]),
        ({"rmsCorr": "1.0"}, ["rmsCorr"]),
        ({"mag": "19.2"}, ["band"]),
        ({"band": "r"}, ["mag"]),
        ({"mag": "36", "band": "r"}, ["mag"]),
        ({"mag": "19.2", "band": "ZTF_r"}, ["band"]),
        ({"astCat": "GAIA DR2"}, ["astCat"]),
        ({"astCat": "GaiaDataRelease1"}, ["astCat"]),
        ({"pos1": "1.0"}, ["sys", "ctr", "pos2", "pos3"]),
        ({"notes": "K-"}, ["notes"]),
        ({"remarks": "a|b"}, ["remarks"]),
        ({"remarks": "x" * 301}, ["remarks"]),
        ({"nStars": "0"}, ["nStars"]),
        ({"obsID": "abc"}, ["obsID"]),
        ({"magnitude": "19"}, ["magnitude"]),
    ],
)
def test_bad_records(extra, names):
    record = {name: text for name, text in (RECORD | extra).items() if text is not None}
    assert [problem.split(":")[0] for problem in ades.check_record(record)] == names
    if extra != {
        "mode": "ABC"
    }:  # the modes are a list of the Center's, which the schema does not have
        assert errors_of_xml(_document([record]))


@pytest.mark.parametrize(
    ("group", "elements", "words"),
    [
        ("observatory", [], "observatory.mpcCode: missing"),
        ("submitter", [], "submitter.name: missing"),
        ("measurers", [], "measurers.name: missing"),
        ("telescope", [("design", "Schmidt"), ("aperture", "1.2")], "telescope.detector: missing"),
        (
            "telescope",
            [*CONTEXT["telescope"], ("aperture", "2")],
            "telescope: an element stands twice",
        ),
        (
            "telescope",
            [("design", "S"), ("aperture", "0.0"), ("detector", "CCD")],
            "telescope.aperture",
        ),
        ("comment", [("line", "x" * 101)], "comment.line"),
        ("comment", [("words", "x")], "comment.words: no such element"),
        ("weather", [("sky", "clear")], "weather: no such group"),
    ],
)
def test_bad_contexts(group, elements, words):
    assert ades.check_context(CONTEXT) == []
    (problem,) = ades.check_context(CONTEXT | {group: elements})
    assert problem.startswith(words)
    assert errors_of_xml(_document([RECORD], CONTEXT | {group: elements}))


def test_what_is_written_is_valid_for_the_minor_planet_center():
    records = [
        RECORD | PHOTOMETRY,
        RECORD | {"trkSub": "d2", "remarks": "a < b & c > d, été"},
        {**RECORD, "permID": "433"},
    ]
    block = ades.Block(CONTEXT, records)
    documents = ades.to_xml(block), psv_to_xml(ades.to_psv(block))
    for document in documents:
        assert errors_of_xml(document) == []
        read = [
            {field.tag: field.text.strip() for field in optical}
            for optical in ElementTree.fromstring(document).iter("optical")
        ]
        assert read == records
