"""The HTTP API of a review: query streaks, stream them as JSON lines, post verdicts; log in and out.

``/api/v1/openapi.json`` describes all of it; :mod:`~deepstreaks_dask.apps.server.auth` says who may ask.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from fastapi import APIRouter, HTTPException, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from deepstreaks_dask.apps.server.auth import (
    PROBLEM_RESPONSES,
    Administrator,
    Problem,
    Reviewer,
    Strict,
    Viewer,
)
from deepstreaks_dask.apps.server.context import Here, Site
from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.query import MAX_FILTER_LENGTH, Kind, complete, parse
from deepstreaks_dask.export.candidates import (
    Submission,
    candidate_table,
    export_candidates,
    observations,
)
from deepstreaks_dask.report.explanation_maps import explanation_map
from deepstreaks_dask.review.accounts import Person
from deepstreaks_dask.review.catalogue import Catalogue
from deepstreaks_dask.review.schema import MAX_NOTE_LENGTH
from deepstreaks_dask.review.verdicts import Verdict
from deepstreaks_dask.scoring.decision import Decision

MAX_ROWS = 10_000
"""Streaks in an answer at most."""
_REVIEW_COLUMNS: dict[str, Kind] = {
    "verdict": "text",
    "reviewed": "truth",
    "marked": "truth",
    "people": "number",
    "disputed": "truth",
}
_LISTED_COLUMNS = ("night", "jd", "filter", "ra", "dec", "length", "mag", "snr", "plausible")

Text = Annotated[str, Field(max_length=512)]
Id = Annotated[str, Query(min_length=1, max_length=512, description="Id of a cutout")]


class Judgement(Strict):
    """What to say of a cutout; what is left out stays as it was."""

    id: str = Field(min_length=1, max_length=512)
    """Of the cutout."""
    verdict: Literal["", "keep", "ditch", "unsure", "bogus"] | None = None
    """What it is; an empty one takes the verdict back."""
    length: Literal["", "long", "short"] | None = None
    """How the streak looks."""
    note: str | None = Field(None, max_length=MAX_NOTE_LENGTH)
    """Words for other people."""
    marked: bool | None = Field(None, strict=True)
    """For submission."""


class Said(Strict):
    """What a person says of a cutout."""

    cutout: str
    """Its id."""
    who: str
    """Name of the user."""
    verdict: str
    """What it is: keep, ditch, unsure, bogus, or nothing yet."""
    length: str
    """How the streak looks: long, short, or nothing said."""
    note: str
    """Words for other people."""
    marked: bool
    """For submission."""
    at: str
    """When, UTC in ISO 8601."""


api = APIRouter(prefix="/api/v1", responses=PROBLEM_RESPONSES)
_lines: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}
}
_picture: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}
_map: dict[int | str, dict[str, Any]] = {
    **_picture,
    503: {"model": Problem, "description": "Too many wait for a map"},
}
_file: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string"}}}}
}


@api.get("/streaks", responses=_lines, response_class=StreamingResponse)
def streaks(
    who: Viewer,
    site: Here,
    where: Annotated[
        str, Query(max_length=MAX_FILTER_LENGTH, description="A filter")
    ] = "plausible",
    sort: Annotated[str, Query(max_length=64, description="A column")] = "jd",
    descending: Annotated[bool, Query(description="The largest first")] = False,
    limit: Annotated[int, Query(ge=1, le=MAX_ROWS, description="Streaks at most")] = 1000,
    offset: Annotated[int, Query(ge=0, le=10**9, description="Streaks to leave out first")] = 0,
) -> StreamingResponse:
    """Stream the streaks that pass a filter as JSON lines; ``X-Total-Count`` says how many there are.

    What would teach networks most is ``not labelled and people == 0``, sorted by ``entropy`` or ``spread``, descending, or
    by ``margin``.
    """
    catalogue = site.catalogue()
    people = _People(site, who, catalogue)
    kinds = {**catalogue.kinds, **_REVIEW_COLUMNS}
    chosen = parse(where, kinds)
    own = {name: people.column(name) for name in chosen.names & set(_REVIEW_COLUMNS)}
    passing = chosen({**{n: catalogue[n] for n in chosen.names - set(own)}, **own}, catalogue.rows)
    rows = np.flatnonzero(passing)
    if sort not in kinds:
        raise HTTPException(400, f"there is no column {sort[:64]!r} to sort by")
    by = (people.column(sort) if sort in _REVIEW_COLUMNS else catalogue[sort])[rows]
    order = pd.Series(by).sort_values(ascending=not descending, kind="stable").index.to_numpy()
    shown = rows[order[offset : offset + limit]]
    return StreamingResponse(
        _stream(catalogue, people, shown, () if sort in _REVIEW_COLUMNS else (sort,)),
        media_type="application/x-ndjson",
        headers={"X-Total-Count": str(len(rows))},
    )


def _stream(
    catalogue: Catalogue, people: _People, rows: np.ndarray, more: tuple[str, ...]
) -> Iterator[str]:
    for first in range(0, len(rows), 500):
        some = rows[first : first + 500]
        columns = {name: catalogue.take(name, some) for name in ("id", *_LISTED_COLUMNS, *more)}
        frame = pd.DataFrame(columns)
        records = json.loads(frame.to_json(orient="records", double_precision=10))
        names = (*catalogue.families, *catalogue.members)
        scores = {name: catalogue.take(name, some) for name in names}
        lines = []
        for k, record in enumerate(records):
            values = {n: float(v[k]) if np.isfinite(v[k]) else None for n, v in scores.items()}
            record["scores"] = values
            record |= people.of(record["id"])
            lines.append(json.dumps(record, allow_nan=False) + "\n")
        yield "".join(lines)


class _People:
    """What people say, as the one who asks may see it: others' verdicts only beside one's own."""

    def __init__(
        self, site: Site, who: Person, catalogue: Catalogue, cutout: str | None = None
    ) -> None:
        self.who, self.catalogue = who, catalogue
        self.said: dict[str, dict[str, Verdict]] = {}
        for one in site.review.verdicts(site.key, cutout):
            self.said.setdefault(one.cutout, {})[one.who] = one
        self._disputed = lambda: set(site.review.disagreements(site.key)["cutout"])

    def of(self, cutout: str) -> dict[str, Any]:
        said = self.said.get(cutout, {})
        mine = said.get(self.who.name)
        seen = self.who.role == "administrator" or (mine is not None and mine.verdict)
        others = [v.to_dict() for v in said.values() if v.who != self.who.name]
        return {
            "mine": mine.to_dict() if mine else None,
            "people": len(said),
            "others": others if seen else [],
        }

    def column(self, name: str) -> np.ndarray:
        rows = self.catalogue.rows
        column = np.zeros(
            rows, {"text": object, "truth": bool}.get(_REVIEW_COLUMNS[name], np.int64)
        )
        if name == "verdict":
            column[:] = ""
        at = self.catalogue.index.get_indexer(pd.Index(list(self.said), dtype=object))
        disputed = self._disputed() if name == "disputed" else set()
        for (cutout, said), row in zip(self.said.items(), at, strict=True):
            mine = said.get(self.who.name)
            if row < 0:
                continue
            if name == "people":
                column[row] = len(said)
            elif name == "disputed":
                column[row] = cutout in disputed
            elif mine is not None:
                column[row] = {
                    "verdict": mine.verdict,
                    "reviewed": bool(mine.verdict),
                    "marked": mine.marked,
                }[name]
        return column


@api.get("/streak")
def streak(id: Id, who: Viewer, site: Here) -> dict[str, Any]:
    """Tell all that is known of one streak, with others along its motion and its ADES record."""
    row, catalogue = site.row(id), site.catalogue()
    record = catalogue.record(row)
    frame = _candidates(catalogue, np.array([row]))
    records, left_out = observations(frame, Submission())
    along = catalogue.along(row).drop(columns="row")
    return {
        "streak": {k: v for k, v in record.items() if k not in catalogue.members},
        "scores": {name: record[name] for name in catalogue.members},
        "families": {name: record[name] for name in catalogue.families},
        "thresholds": {
            name: (site.decision or Decision.of_run(catalogue.decided)).threshold(name)
            for name in catalogue.members
        },
        "networks": [
            f"{member['name']}@{member['version']}"
            for member in provenance_of(catalogue.decided).get("members", ())
        ],
        "ades": records[0] if records else None,
        "no_ades": next(iter(left_out), None),
        "along": along.to_dict("records"),
        **_People(site, who, catalogue, id).of(id),
    }


def _candidates(catalogue: Catalogue, rows: np.ndarray) -> pd.DataFrame:
    chosen = catalogue.decided.isel(cutout=rows)
    frame = candidate_table(chosen.assign(plausible=("cutout", np.ones(len(rows), bool))))
    return frame.assign(simulated=catalogue.simulated[rows])  # which takes a whole archive to tell


@api.get("/cutout", responses=_picture, response_class=Response)
def cutout(id: Id, who: Viewer, site: Here) -> Response:
    """Show one cutout as PNG."""
    try:
        picture = site.catalogue().picture(site.row(id))
    except OSError:
        raise HTTPException(404, "the pixels of this cutout cannot be read") from None
    caching = {"Cache-Control": "private, max-age=3600"}
    return Response(picture, media_type="image/png", headers=caching)


@api.get("/explanation", responses=_map, response_class=Response)
def explanation(
    id: Id,
    member: Annotated[str, Query(min_length=1, max_length=64, description="Of the run")],
    who: Viewer,
    site: Here,
) -> Response:
    """Show what a member's score of a cutout comes from, as PNG; ``X-Logits`` has those of the cutout and of an empty sky.

    The third number of ``X-Logits`` is what the shares of the pixels lack of the difference of the first two.
    """
    catalogue = site.catalogue()
    try:
        pixels = catalogue.pixels(site.row(id))
    except OSError:
        raise HTTPException(404, "the pixels of this cutout cannot be read") from None
    found = explanation_map(pixels, member, provenance_of(catalogue.decided)["members"], site.zoo)
    headers = {
        "Cache-Control": "private, max-age=3600",
        "X-Logits": f"{found.logit:.3f}, {found.sky:.3f}, {found.missing:.3f}",
    }
    return Response(found.png, media_type="image/png", headers=headers)


@api.get("/nights")
def nights(who: Viewer, site: Here) -> list[dict[str, int]]:
    """Count each night's candidates, and how many of them you and anybody have judged; the newest first."""
    catalogue = site.catalogue()
    people = _People(site, who, catalogue)
    frame = pd.DataFrame(
        {
            "night": catalogue["night"],
            "candidates": catalogue["plausible"],
            "mine": people.column("reviewed") & catalogue["plausible"],
            "anybody": (people.column("people") > 0) & catalogue["plausible"],
        }
    )
    counts = frame.groupby("night").sum().sort_index(ascending=False).reset_index()
    return [{str(k): int(v) for k, v in row.items()} for row in counts.to_dict("records")]


@api.get("/completions")
def completions(
    who: Viewer,
    site: Here,
    text: Annotated[str, Query(max_length=MAX_FILTER_LENGTH, description="A filter, begun")] = "",
    position: Annotated[
        int, Query(ge=0, le=MAX_FILTER_LENGTH, description="The cursor's")
    ] = MAX_FILTER_LENGTH,
) -> list[dict[str, str | int]]:
    """Say how a filter could go on."""
    catalogue = site.catalogue()

    def values(name: str) -> list[str]:
        if name == "verdict":
            return ["keep", "ditch", "unsure", "bogus", ""]
        return ["True", "False"] if name in _REVIEW_COLUMNS else catalogue.offered(name)

    found = complete(text, position, {**catalogue.kinds, **_REVIEW_COLUMNS}, values)
    return [{"text": one.text, "start": one.start, "what": one.what} for one in found]


@api.post("/verdicts")
def judge(given: Judgement, who: Reviewer, site: Here) -> Said:
    """Say what a streak is. Once this is answered, it is on the disk."""
    site.row(given.id)
    said = site.review.judge(
        site.key,
        given.id,
        who.name,
        verdict=given.verdict,
        length=given.length,
        note=given.note,
        marked=given.marked,
    )
    return Said(**said.to_dict())


@api.post("/undo")
def undo(who: Reviewer, site: Here) -> Said:
    """Take your last verdict, note or mark back."""
    return Said(**site.review.undo(site.key, who.name).to_dict())


@api.get("/disagreements")
def disagreements(who: Viewer, site: Here) -> list[dict[str, Any]]:
    """List the streaks on which people differ, among those that you have judged (an administrator: all)."""
    table = site.review.disagreements(site.key).to_dict("records")
    return [
        {str(k): v for k, v in row.items()}
        for row in table
        if who.role == "administrator" or who.name in row["says"]
    ]


@api.get("/labels", responses=_lines, response_class=StreamingResponse)
def labels(who: Administrator, site: Here) -> StreamingResponse:
    """Stream what people say as labels of the families, as JSON lines."""
    table = site.review.labels(site.key).reset_index()
    lines = (json.dumps(row) + "\n" for row in json.loads(table.to_json(orient="records")))
    return StreamingResponse(lines, media_type="application/x-ndjson")


@api.get("/export", responses=_file, response_class=Response)
def export_marked(
    who: Reviewer,
    site: Here,
    format: Annotated[
        Literal["psv", "xml", "csv", "ecsv"], Query(description="ADES, or a table")
    ] = "psv",
    submitter: Annotated[str, Query(max_length=64, description="For ADES: J. Doe")] = "",
) -> Response:
    """Give the streaks marked for submission that nobody has in dispute, as ADES or a table."""
    if re.search(r"[^\w .'-]", submitter) or (format in ("psv", "xml") and not submitter.strip()):
        raise HTTPException(400, "ADES names a submitter in letters: give one, like J. Doe")
    catalogue = site.catalogue()
    disputed = set(site.review.disagreements(site.key)["cutout"])
    marked = {v.cutout for v in site.review.verdicts(site.key) if v.marked and v.verdict != "ditch"}
    rows = catalogue.index.get_indexer(pd.Index(sorted(marked - disputed), dtype=object))
    rows = np.sort(rows[rows >= 0])
    if not len(rows):
        raise HTTPException(
            404, "no streak is marked for submission, or all that are are in dispute"
        )
    frame = _candidates(catalogue, rows)
    submission = Submission(submitter=submitter.strip()) if submitter.strip() else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"marked.{format}"
        done = export_candidates(frame, path, submission=submission)
        data = path.read_bytes()
    headers = {
        "Content-Disposition": f'attachment; filename="marked.{format}"',
        "X-Written": str(done.written),
        "X-Left-Out": str(sum(done.left_out.values())),
    }
    return Response(data, media_type="application/octet-stream", headers=headers)
