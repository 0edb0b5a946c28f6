"""What an ingest reports: what was read, what of it is in the archive, and what was not understood."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from deepstreaks_dask.archive.append import AppendSummary, CutoutBatch, Remark
from deepstreaks_dask.archive.schema import SCHEMA
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.utils.html import html_facts

MAX_EXAMPLES = 3
"""Inputs that are named for each remark and each reason of refusal."""

REPORT_COLUMNS = ("time", "source", "reader", "added", "replaced", "refused", "remarks")
"""Headings of the rows that :func:`describe_reports` returns."""

_MAX_DETAIL_LENGTH = 200  # characters
_MAX_LISTED = 8  # remarks in an error's message


@dataclass(frozen=True)
class RemarkCount:
    """A remark that was made of several inputs.

    Attributes
    ----------
    what : str
        What was not understood, or looks wrong.
    count : int
        How many times.
    examples : tuple of (str, str)
        Input, and what stood there, of the first of them.
    """

    what: str
    count: int
    examples: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the remark as JSON can hold it."""
        examples = [{"source": source, "detail": detail} for source, detail in self.examples]
        return {"what": self.what, "count": self.count, "examples": examples}

    def __str__(self) -> str:
        return f"{self.what} ({self.count:,}): {self.first_example}"

    @property
    def first_example(self) -> str:
        """The first input, and what stood there."""
        source, detail = self.examples[0]
        return f"{source}: {detail}" if detail else source


class Tally:
    """Counts what readers hand over, batch by batch."""

    def __init__(self) -> None:
        self.inputs = 0
        self._columns: dict[str, None] = {}
        self._remarks = _Counted()
        self._refused = _Counted()

    def add(self, batch: CutoutBatch) -> None:
        """Count a batch."""
        self.inputs += len(batch.cutouts) + len(batch.quarantined)
        for one in batch.quarantined:
            self._refused.add(Remark(one.reason, one.source, one.detail))
        for remark in batch.remarks:
            self._remarks.add(remark)
        for name, values in batch.columns.items():
            if name not in self._columns and _is_filled(name, values):
                self._columns[name] = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of which at least one value is known."""
        return tuple(self._columns)

    @property
    def remarks(self) -> tuple[RemarkCount, ...]:
        """Remarks by what they say, the most frequent first."""
        return self._remarks.counts()

    def check(self) -> None:
        """Raise an error if an input was refused or a remark was made.

        Raises
        ------
        ReaderError
            Which names them, with the first example of each.
        """
        refused = [f"refused as {one}" for one in self._refused.counts()]
        found = [*refused, *map(str, self.remarks)]
        if found:
            more = f"; and {len(found) - _MAX_LISTED} more" if len(found) > _MAX_LISTED else ""
            raise ReaderError(f"{'; '.join(found[:_MAX_LISTED])}{more}; nothing was appended")


class _Counted:
    """Remarks by what they say, with the first examples of each."""

    def __init__(self) -> None:
        self._counts = Counter[str]()
        self._examples: dict[str, list[tuple[str, str]]] = {}

    def add(self, remark: Remark) -> None:
        self._counts[remark.what] += 1
        examples = self._examples.setdefault(remark.what, [])
        if len(examples) < MAX_EXAMPLES:
            detail = " ".join(remark.detail.split())[:_MAX_DETAIL_LENGTH]
            examples.append((_printable(remark.source), _printable(detail)))

    def counts(self) -> tuple[RemarkCount, ...]:
        return tuple(
            RemarkCount(what, count, tuple(self._examples[what]))
            for what, count in self._counts.most_common()
        )


@dataclass(frozen=True)
class IngestReport:
    """What was read, and what of it is in the archive now.

    Attributes
    ----------
    archive : str
        Path or URL.
    inputs : int
        Cutouts that were read, and files that could not be; simulated cutouts among them.
    appended, already_present, replaced : int
        Rows that were added, those that the archive had already, and those among the added ones that took the place of
        older ones.
    quarantined : int
        Inputs that were refused.
    reasons : dict of str to int
        Refused inputs by reason.
    nights : dict of int to int
        Rows added by night, YYYYMMDD; 0 for a night that is not known.
    total : int
        Rows of the archive now.
    source, reader, table : str
        What was read, in which format, and the table of metadata; empty for simulations.
    columns : tuple of str
        Columns that have values.
    remarks : tuple of RemarkCount
        What was not understood of the inputs that were read.
    time : str
        When, in UTC.
    """

    archive: str
    inputs: int
    appended: int
    already_present: int
    quarantined: int
    reasons: dict[str, int]
    nights: dict[int, int]
    total: int
    replaced: int = 0
    source: str = ""
    reader: str = ""
    table: str = ""
    columns: tuple[str, ...] = ()
    remarks: tuple[RemarkCount, ...] = ()
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @classmethod
    def from_append(
        cls,
        archive: str | os.PathLike[str],
        inputs: int,
        done: AppendSummary,
        **described: Any,
    ) -> IngestReport:
        """Return the report of an append that is done.

        Parameters
        ----------
        archive : str or path
            Path or URL.
        inputs : int
            Cutouts that were read, and files that could not be.
        done : AppendSummary
            As :func:`~deepstreaks_dask.archive.append.append_batches` gives it.
        **described
            Other attributes of the report.

        Returns
        -------
        IngestReport
            With the nights of the rows that were added.
        """
        return cls(os.fspath(archive), inputs, **asdict(done), **described)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        remarks = [remark.to_dict() for remark in self.remarks]
        return {**asdict(self), "columns": list(self.columns), "remarks": remarks}

    def facts(self) -> dict[str, Any]:
        """Return the figures of the report by what they are called, for tables."""
        facts: dict[str, Any] = {
            "inputs read": self.inputs,
            "rows added": self.appended,
            "already present": self.already_present,
        }
        if self.replaced:
            facts["rows replaced"] = self.replaced
        facts["refused"] = self.quarantined
        facts |= {f"refused: {reason}": count for reason, count in self.reasons.items()}
        if self.nights:
            facts["nights"] = _describe_nights(self.nights)
        if self.columns:
            facts["columns with values"] = ", ".join(self.columns)
        return {**facts, "rows of the archive": self.total}

    def __repr__(self) -> str:
        remarks = sum(remark.count for remark in self.remarks)
        noted = f", {remarks:,} remarks" if remarks else ""
        return (
            f"<IngestReport: {self.appended:,} rows added to {self.archive}, "
            f"{self.already_present:,} already present, {self.quarantined:,} refused{noted}, "
            f"{self.total:,} in all>"
        )

    def _repr_html_(self) -> str:
        noted = {
            remark.what: f"{remark.count:,} ({remark.first_example})" for remark in self.remarks
        }
        return html_facts(f"Ingested into {self.archive}", {**self.facts(), **noted})


def describe_reports(reports: Iterable[Mapping[str, Any]]) -> list[tuple[object, ...]]:
    """Return a row for each kept report, with the columns of :data:`REPORT_COLUMNS`.

    Parameters
    ----------
    reports : iterable of mapping
        As :func:`~deepstreaks_dask.archive.ingests.ingest_reports` returns them.

    Returns
    -------
    list of tuple
        In the same order.
    """
    names = ("time", "source", "reader", "appended", "replaced", "quarantined")
    return [
        (*(one.get(name, "") for name in names), sum(r["count"] for r in one.get("remarks", ())))
        for one in reports
    ]


def _describe_nights(nights: Mapping[int, int]) -> str:
    known = sorted(night for night in nights if night)
    spanned = f"{known[0]} to {known[-1]}" if len(known) > 1 else "".join(map(str, known))
    counted = f"{len(known):,} ({spanned})" if known else "none known"
    return (
        f"{counted}, and {nights[0]:,} rows of an unknown night"
        if 0 in nights and known
        else counted
    )


def _is_filled(name: str, values: np.ndarray) -> bool:
    """Return whether a value of a column is known."""
    missing = SCHEMA[name].missing if name in SCHEMA else None
    if values.dtype.kind == "f":
        return not bool(np.isnan(values).all())
    return bool(len(values)) and not bool((values == missing).all())


def _printable(text: str) -> str:
    """Return a text that can be stored and printed: names of files need not be valid Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()
