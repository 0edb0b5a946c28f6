"""ADES documents, good and bad, against the rules of the standard's own schema for submissions."""

import pytest

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

PSV = b"""# version=2022
# observatory
! mpcCode I41
! name Palomar Mountain--ZTF
# submitter
! name J. Doe
# measurers
! name J. Doe
# telescope
! aperture 1.2
! design Schmidt
! detector CCD
# comment
! line Written by hand.
permID |provID     |trkSub |mode|stn |obsTime                 |ra        |dec       |astCat|mag  |band|notes
       |           |dabc123|CCD |I41 |2019-01-10T08:12:33.500Z|123.456789|-12.345678|Gaia2 |18.91|r   |
433    |           |       |CCD |I41 |2019-01-10T08:12:33Z    |  0.000001|+89.9     |Gaia2 |     |    |K
       |2019 AB    |x-1_2  |CMO |G96 |2016-12-31T23:59:60.25Z |359.999999|0         |Gaia2 |-1.5 |Vj  |
"""  # fmt: skip

XML = b"""<?xml version="1.0" encoding="UTF-8"?>
<ades version="2022">
  <obsBlock>
    <obsContext>
      <observatory><mpcCode>I41</mpcCode></observatory>
      <submitter><name>J. Doe</name></submitter>
      <measurers><name>J. Doe</name></measurers>
      <telescope><aperture>1.2</aperture><design>Schmidt</design><detector>CCD</detector></telescope>
    </obsContext>
    <obsData>
      <optical>
        <provID>2019 AB1</provID><mode>CCD</mode><stn>I41</stn>
        <obsTime>2019-01-10T08:12:33.5Z</obsTime><ra>1.5</ra><dec>-1.5</dec>
        <rmsRA>0.2</rmsRA><rmsDec>0.3</rmsDec><rmsCorr>-0.5</rmsCorr>
        <astCat>Gaia2</astCat><mag>18.9</mag><band>r</band><remarks>a &amp; b</remarks>
      </optical>
    </obsData>
  </obsBlock>
</ades>
"""


@pytest.mark.parametrize("document", [PSV, XML])
def test_documents_written_by_hand_are_valid(document):
    assert ades.check(document) == []


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


@pytest.mark.parametrize("write", [ades.to_psv, ades.to_xml])
def test_what_is_written_is_valid_and_says_the_same(write):
    records = [
        RECORD | PHOTOMETRY,
        RECORD | {"trkSub": "d2", "remarks": "a < b & c > d, été"},
        {**RECORD, "permID": "433"},
    ]
    written = write(ades.Block(CONTEXT, records))
    assert ades.check(written) == []
    parse = ades._parse_xml if write is ades.to_xml else lambda data: ades._parse_psv(data.decode())
    version, (block,) = parse(written)
    assert version == "2022"
    assert block.records == records
    assert block.context == CONTEXT


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (b"version=2022", b"version=2017", "2022"),
        (b"! detector CCD\n", b"", "detector: missing"),
        (b"|ra        |", b"|dec       |", "twice"),
        (b"123.456789", b"523.456789", "observation 1: ra"),
        (b"|r   |\n", b"|r   ||x\n", "13 values"),
        (b"# observatory\n", b"", "before any group"),
        (b"Mountain", b"\xff", "UTF-8"),
    ],
)
def test_bad_psv(before, after, words):
    assert before in PSV
    assert any(words in problem for problem in ades.check(PSV.replace(before, after, 1)))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (b'version="2022"', b"", "version"),
        (b"<mode>CCD</mode><stn>I41</stn>", b"<stn>I41</stn><mode>CCD</mode>", "out of order"),
        (b"<stn>I41</stn>", b"<stn>I41</stn><stn>I41</stn>", "twice"),
        (b"<ra>1.5</ra>", b"<ra/>", "ra"),
        (b"optical>", b"radar>", "not optical"),
        (b"obsBlock>", b"block>", "something else"),
        (b"ades", b"html", "'html'"),
        (b"</ades>", b"", "not XML"),
        (b"a &amp; b", b"&b;", "not XML"),
        (b"<ades ", b'<!DOCTYPE a [<!ENTITY b "c">]><ades ', "not XML"),
        (b"<ades ", b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><ades ', "not XML"),
    ],
)
def test_bad_xml(before, after, words):
    assert before in XML
    assert any(words in problem for problem in ades.check(XML.replace(before, after)))


@pytest.mark.parametrize("document", [b"", b"# version=2022\n", b'<ades version="2022"/>'])
def test_no_observations_is_a_problem(document):
    assert ades.check(document)
