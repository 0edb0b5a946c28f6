"""The IAU's Astrometry Data Exchange Standard (ADES), version 2022: its field rules, PSV and XML.

What may stand in an optical observation that is submitted to the Minor Planet Center is taken from the standard's
schema ``submit.xsd`` (https://github.com/IAU-ADES/ADES-Master; Chesley et al. 2017, arXiv:1704.05119 tells of its
making), the instrument modes from https://minorplanetcenter.net/iau/info/ADESFieldValues.html. The Center checks more
than this, above all its lists of catalogues and bands, which grow.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree  # to write; what is read goes through defusedxml
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from deepstreaks_dask.errors import DeepStreaksError

ADES_VERSION = "2022"
OBSERVING_MODES = ("CCD", "CMO", "VID", "PHO", "ENC", "PMT", "MIC", "MER", "TDI", "OCC", "UNK")


@dataclass(frozen=True)
class Rule:
    """What a field may hold: a pattern for the whole of it and, for numbers, a range."""

    pattern: str
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False
    choices: Sequence[str] = ()

    def problem(self, text: str) -> str:
        """Say what is wrong with a value, nothing if nothing is."""
        if not re.fullmatch(self.pattern, text) or not re.search(r"[^|\s]", text):
            return f"{text!r} is not of the form {self.pattern}"
        if self.choices and text not in self.choices:
            return f"{text!r} is none of {', '.join(self.choices)}"
        if self.low is None and self.high is None:
            return ""
        try:
            value = float(text)
        except ValueError:
            return f"{text!r} is no number"
        if self.low is not None and (value <= self.low if self.open_low else value < self.low):
            return f"{text} is below {'or at ' if self.open_low else ''}{self.low:g}"
        if self.high is not None and (value >= self.high if self.open_high else value > self.high):
            return f"{text} is above {'or at ' if self.open_high else ''}{self.high:g}"
        return ""


def _text(most: int, letters: str = r"[^|]") -> Rule:
    return Rule(f"{letters}{{1,{most}}}")


def _positive(most: int) -> Rule:
    pattern = rf"(?=[0-9.]{{1,{most}}}$)(0|[1-9][0-9]*)(\.[0-9]*)?"
    return Rule(pattern, 0, 100000, open_low=True, open_high=True)


def _decimal(most: int, low: float | None = None, high: float | None = None) -> Rule:
    return Rule(rf"[+-]?(?=[0-9.]{{1,{most}}}$)(0|[1-9][0-9]*)(\.[0-9]*)?", low, high)


_WORD_PATTERN = r"[A-Za-z0-9_]"
_CATALOGUE = _text(8, r"[.A-Za-z0-9_]")
_LOCATION = ("sys", "ctr", "pos1", "pos2", "pos3")
_PHOTOMETRY = ("mag", "rmsMag", "band", "fltr", "photCat", "photAp")

OPTICAL_RULES: dict[str, Rule] = {
    "permID": Rule(
        r"(?=.{1,25}$)(\d+([IPD](-[A-Z]{1,2})?)?"
        r"|(Mars|Jupiter|Saturn|Uranus|Neptune) \d{1,3}|\(\d+\) \d{1,3})"
    ),
    "provID": Rule(
        r"(?=.{1,25}$)(\d{4} [A-HJ-Y][A-HJ-Z]\d*|\d{4} (P-L|T-[123])|A[89]\d{2} [A-HJ-Y][A-HJ-Z]"
        r"|[ADCPX]/\d{4} [A-Z]{1,2}\d*(-[A-Z])?"
        r"|S/\d{4} ([MJSUN]|\((\d+|\d{4} [A-HJ-Y][A-HJ-Z]?\d+)\)) \d+)"
    ),
    "artSat": _text(25),
    "trkSub": _text(8, r"[-A-Za-z0-9_]"),
    "obsSubID": _text(35),
    "mode": Rule(_WORD_PATTERN + "{1,3}", choices=OBSERVING_MODES),
    "stn": Rule(_WORD_PATTERN + "{3,4}"),
    "sys": Rule(r"\w+", choices=("WGS84", "ITRF", "IAU", "ICRF_AU", "ICRF_KM")),
    "ctr": Rule(r"[0-9]+", choices=("399",)),
    **{f"pos{k}": _decimal(13) for k in (1, 2, 3)},
    **{f"vel{k}": _decimal(13) for k in (1, 2, 3)},
    **{
        f"posCov{k}": Rule(r"[+-]?(?=.{1,20}$)\d+(\.\d*)?([Ee][+-]?\d+)?")
        for k in (11, 12, 13, 22, 23, 33)
    },
    "obsTime": Rule(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?Z"),
    "rmsTime": _positive(8),
    "ra": Rule(r"([1-3][0-9]{2}|[1-9]?[0-9])?(\.[0-9]{0,9})?", 0, 360, open_high=True),
    "dec": Rule(r"[+-]?([1-9]?[0-9])?(\.[0-9]{0,9})?", -90, 90),
    "rmsRA": _positive(7),
    "rmsDec": _positive(7),
    "rmsCorr": Rule(r"[+-]?[01](\.[0-9]{0,11})?", -1, 1, open_low=True, open_high=True),
    "astCat": _CATALOGUE,
    "mag": _decimal(7, -5, 35),
    "rmsMag": _positive(6),
    "band": Rule(_WORD_PATTERN + "{1,3}"),
    "fltr": Rule(_WORD_PATTERN + "{1,3}"),
    "photCat": _CATALOGUE,
    "photAp": _positive(6),
    "logSNR": _decimal(5),
    "seeing": _positive(6),
    "exp": _positive(6),
    "rmsFit": _positive(6),
    "nStars": Rule(r"[1-9][0-9]{0,5}"),
    "disc": Rule(r"[*+]"),
    "uncTime": _positive(8),
    "notes": _text(6, _WORD_PATTERN),
    "remarks": _text(300),
}
"""Fields of an optical observation, in the order that XML asks for."""

_CONTEXT: dict[str, dict[str, Rule]] = {
    "observatory": {"mpcCode": OPTICAL_RULES["stn"], "name": _text(100)},
    "submitter": {"name": _text(100), "institution": _text(100)},
    "observers": {"name": _text(100)},
    "measurers": {"name": _text(100)},
    "telescope": {
        "name": _text(100),
        "design": _text(25),
        "aperture": _positive(6),
        "detector": _text(25),
        "fRatio": _positive(6),
        "filter": _text(25),
        "arraySize": _text(25),
        "pixelScale": _positive(6),
    },
    "software": {
        "astrometry": _text(100),
        "fitOrder": _text(25),
        "photometry": _text(100),
        "objectDetection": _text(100),
    },
    "coinvestigators": {"name": _text(100)},
    "collaborators": {"name": _text(100)},
    "comment": {"line": _text(100)},
}
_REQUIRED_CONTEXT = {
    "observatory": ("mpcCode",),
    "submitter": ("name",),
    "measurers": ("name",),
    "telescope": ("design", "aperture", "detector"),
}
_LISTS = ("observers", "measurers", "coinvestigators", "collaborators", "comment")

Context = Mapping[str, Sequence[tuple[str, str]]]
Record = Mapping[str, str]


@dataclass(frozen=True)
class Block:
    """One block of observations: who, where and with what, and the observations themselves.

    Attributes
    ----------
    context : mapping
        By group (``telescope``), its elements (``("aperture", "1.2")``) in order.
    records : list of mapping
        By field (:data:`OPTICAL_RULES`), its text; a field that is not known is left out.
    """

    context: Context
    records: list[Record] = field(default_factory=list)


def check_record(record: Record) -> list[str]:
    """Check one optical observation against the field rules.

    Parameters
    ----------
    record : mapping of str to str
        Field to text.

    Returns
    -------
    list of str
        What is wrong with it; empty if nothing is.
    """
    problems = []
    for name, text in record.items():
        if name not in OPTICAL_RULES:
            problems.append(f"{name}: no field of an optical observation that is submitted")
        elif wrong := OPTICAL_RULES[name].problem(text):
            problems.append(f"{name}: {wrong}")
    for name in ("mode", "stn", "obsTime", "ra", "dec", "astCat"):
        if name not in record:
            problems.append(f"{name}: missing")
    if not {"permID", "provID", "artSat", "trkSub"} & set(record):
        problems.append("trkSub: missing, and no other identifier there is")
    if "artSat" in record and {"permID", "provID"} & set(record):
        problems.append("artSat: an artificial satellite has neither permID nor provID")
    if set(_PHOTOMETRY) & set(record):
        problems += [
            f"{name}: missing beside photometry" for name in ("mag", "band") if name not in record
        ]
    located = [
        name
        for name in OPTICAL_RULES
        if name in record and name.startswith(("sys", "ctr", "pos", "vel"))
    ]
    if located:
        problems += [f"{n}: missing beside {located[0]}" for n in _LOCATION if n not in record]
    time = record.get("obsTime", "")
    if not OPTICAL_RULES["obsTime"].problem(time) and not _is_time(time):
        problems.append(f"obsTime: there is no {time}")
    return problems


def check_context(context: Context) -> list[str]:
    """Check what goes before the observations; what :func:`check_record` is for these."""
    problems = []
    for group, elements in context.items():
        if group not in _CONTEXT:
            problems.append(f"{group}: no such group")
            continue
        for name, text in elements:
            if name not in _CONTEXT[group]:
                problems.append(f"{group}.{name}: no such element")
            elif wrong := _CONTEXT[group][name].problem(text):
                problems.append(f"{group}.{name}: {wrong}")
        names = [name for name, _ in elements]
        if group not in _LISTS and len(set(names)) < len(names):
            problems.append(f"{group}: an element stands twice")
    for group, needed in _REQUIRED_CONTEXT.items():
        has = {name for name, _ in context.get(group, ())}
        problems += [f"{group}.{name}: missing" for name in needed if name not in has]
    return problems


def check(data: bytes) -> list[str]:
    """Check a whole PSV or XML document.

    Parameters
    ----------
    data : bytes
        The document, UTF-8.

    Returns
    -------
    list of str
        What is wrong with it, the observation counted from 1; empty if nothing is.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return [f"not UTF-8: {error}"]
    try:
        version, blocks = _parse_xml(data) if text.lstrip().startswith("<") else _parse_psv(text)
    except DeepStreaksError as error:
        return [str(error)]
    problems = [] if version == ADES_VERSION else [f"version: {version!r} is not {ADES_VERSION}"]
    for block in blocks:
        problems += check_context(block.context)
        for number, record in enumerate(block.records, 1):
            problems += [f"observation {number}: {problem}" for problem in check_record(record)]
        if not block.records:
            problems.append("no observations")
    return problems or ([] if blocks else ["no observations"])


def to_psv(block: Block) -> bytes:
    """Write a block as pipe-separated values, columns lined up."""
    lines = [f"# version={ADES_VERSION}"]
    for group, elements in block.context.items():
        lines.append(f"# {group}")
        lines += [f"! {name} {text}" for name, text in elements]
    used = [n for n in OPTICAL_RULES if any(n in r for r in block.records)]
    # older readers know the line of keywords by its first
    names = list(dict.fromkeys(["permID", "provID", "trkSub", *used]))
    rows = [names, *([record.get(name, "") for name in names] for record in block.records)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(names))]
    lines += [
        "|".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return ("\n".join(lines) + "\n").encode()


def to_xml(block: Block) -> bytes:
    """Write a block as XML."""
    root = ElementTree.Element("ades", version=ADES_VERSION)
    within = ElementTree.SubElement(root, "obsBlock")
    context = ElementTree.SubElement(within, "obsContext")
    for group, elements in block.context.items():
        parent = ElementTree.SubElement(context, group)
        for name, text in elements:
            ElementTree.SubElement(parent, name).text = text
    data = ElementTree.SubElement(within, "obsData")
    for record in block.records:
        optical = ElementTree.SubElement(data, "optical")
        for name in (name for name in OPTICAL_RULES if name in record):
            ElementTree.SubElement(optical, name).text = record[name]
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True) + b"\n"


def _is_time(text: str) -> bool:
    """Say whether there is such a time; second 60 only where a leap second may be."""
    if re.search(r"(06-30|12-31)T23:59:60", text):
        text = text.replace(":60", ":59")
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _parse_psv(text: str) -> tuple[str, list[Block]]:
    version, group = "", ""
    blocks: list[Block] = []
    names: list[str] = []
    context: dict[str, list[tuple[str, str]]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip("\r\n ")
        if not line:
            names = []
        elif line.startswith("# version="):
            version = line.removeprefix("# version=").strip()
        elif line.startswith("#"):
            if names:
                context, names = {}, []
            group = line[1:].strip()
            context.setdefault(group, [])
        elif line.startswith("!"):
            if not group:
                raise DeepStreaksError(f"line {number}: an element before any group")
            name, _, value = line[1:].strip().partition(" ")
            context[group].append((name, value.strip()))
        elif not names:
            names = [name.strip() for name in line.split("|")]
            if len(set(names)) < len(names):
                raise DeepStreaksError(f"line {number}: a keyword stands twice")
            blocks.append(Block(context))
        else:
            cells = [cell.strip() for cell in line.split("|")]
            if len(cells) > len(names):
                raise DeepStreaksError(
                    f"line {number}: {len(cells)} values for {len(names)} keywords"
                )
            pairs = zip(names, cells, strict=False)
            blocks[-1].records.append({name: cell for name, cell in pairs if cell})
    return version, blocks


def _parse_xml(data: bytes) -> tuple[str, list[Block]]:
    try:
        root = fromstring(data, forbid_dtd=True)
    except (ElementTree.ParseError, DefusedXmlException) as error:
        raise DeepStreaksError(f"not XML that can be trusted: {error}") from error
    if root.tag != "ades":
        raise DeepStreaksError(f"the document is a {root.tag!r}, not 'ades'")
    order = list(OPTICAL_RULES)
    blocks = []
    for element in root:
        context = element.find("obsContext")
        observations = element.find("obsData")
        if element.tag != "obsBlock" or context is None or observations is None:
            raise DeepStreaksError(
                "ades holds something else than obsBlock of obsContext and obsData"
            )
        block = Block({g.tag: [(e.tag, (e.text or "").strip()) for e in g] for g in context})
        for number, optical in enumerate(observations, 1):
            tags = [e.tag for e in optical]
            places = [order.index(tag) for tag in tags if tag in order]
            if optical.tag != "optical" or len(set(tags)) < len(tags) or places != sorted(places):
                raise DeepStreaksError(
                    f"observation {number}: not optical, or its fields are twice or out of order"
                )
            block.records.append({e.tag: (e.text or "").strip() for e in optical})
        blocks.append(block)
    return root.get("version", ""), blocks
