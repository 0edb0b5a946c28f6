"""The HTTP API of verdicts: judge, undo, disagreements, labels, and the export of what is marked for submission."""

from __future__ import annotations

import json
import re
import tempfile
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
    Reviewer,
    StrictModel,
    Viewer,
)
from deepstreaks_dask.apps.server.candidates import candidate_rows
from deepstreaks_dask.apps.server.context import SiteDependency
from deepstreaks_dask.export.candidates import Submission, export_candidates
from deepstreaks_dask.review.schema import MAX_NOTE_LENGTH
from deepstreaks_dask.vocabulary import LengthWord, Role, VerdictWord

verdict_routes = APIRouter(prefix="/api/v1", responses=PROBLEM_RESPONSES)
_json_lines: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}
}
_file: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string"}}}}
}


class VerdictIn(StrictModel):
    """A verdict to give; a field that is left out stays as it was."""

    id: str = Field(min_length=1, max_length=512)
    """Id of the cutout."""
    verdict: VerdictWord | Literal[""] | None = None
    """What the cutout is; an empty one takes the verdict back."""
    length: LengthWord | Literal[""] | None = None
    """How long the streak looks."""
    note: str | None = Field(None, max_length=MAX_NOTE_LENGTH)
    """Free text for other people."""
    marked: bool | None = Field(None, strict=True)
    """Whether the cutout is marked for submission."""


class VerdictOut(StrictModel):
    """What a person says of a cutout."""

    cutout: str
    """Id of the cutout."""
    who: str
    """User name."""
    verdict: VerdictWord | Literal[""]
    """What the cutout is; empty if nothing is said."""
    length: LengthWord | Literal[""]
    """How long the streak looks; empty if nothing is said."""
    note: str
    """Free text for other people."""
    marked: bool
    """Whether the cutout is marked for submission."""
    at: str
    """Time of the last change, UTC in ISO 8601."""


@verdict_routes.post("/verdicts")
def judge(given: VerdictIn, who: Reviewer, site: SiteDependency) -> VerdictOut:
    """Give a verdict on a streak. The verdict is on the disk before the response is sent."""
    site.row(given.id)
    verdict = site.review.verdicts.judge(
        site.key,
        given.id,
        who.name,
        verdict=given.verdict,
        length=given.length,
        note=given.note,
        marked=given.marked,
    )
    return VerdictOut(**verdict.to_dict())


@verdict_routes.post("/undo")
def undo(who: Reviewer, site: SiteDependency) -> VerdictOut:
    """Undo your last verdict, note or mark."""
    return VerdictOut(**site.review.verdicts.undo(site.key, who.name).to_dict())


@verdict_routes.get("/disagreements")
def disagreements(who: Viewer, site: SiteDependency) -> list[dict[str, Any]]:
    """List the streaks on which people disagree, among those that you have judged (an administrator: all)."""
    rows = site.review.verdicts.disagreements(site.key).to_dict("records")
    return [
        {str(k): v for k, v in row.items()}
        for row in rows
        if who.may(Role.ADMINISTRATOR) or who.name in row["says"]
    ]


@verdict_routes.get("/labels", responses=_json_lines, response_class=StreamingResponse)
def labels(who: Administrator, site: SiteDependency) -> StreamingResponse:
    """Stream the labels of the families that follow from the verdicts, as JSON lines."""
    table = site.review.verdicts.labels(site.key).reset_index()
    site.authenticator.record(who.name, "labels exported", f"{len(table)} cutouts")
    lines = (json.dumps(row) + "\n" for row in json.loads(table.to_json(orient="records")))
    return StreamingResponse(lines, media_type="application/x-ndjson")


@verdict_routes.get("/export", responses=_file, response_class=Response)
def export_marked(
    who: Reviewer,
    site: SiteDependency,
    format: Annotated[
        Literal["psv", "xml", "csv", "ecsv"], Query(description="ADES, or a table")
    ] = "psv",
    submitter: Annotated[str, Query(max_length=64, description="For ADES: J. Doe")] = "",
) -> Response:
    """Return the streaks that are marked for submission and not in dispute, as ADES or a table."""
    if re.search(r"[^\w .'-]", submitter) or (format in ("psv", "xml") and not submitter.strip()):
        raise HTTPException(400, "ADES names a submitter in letters: give one, like J. Doe")
    catalogue = site.catalogue()
    marked = sorted(site.review.verdicts.marked(site.key))
    rows = catalogue.index.get_indexer(pd.Index(marked, dtype=object))
    rows = np.sort(rows[rows >= 0])
    if not len(rows):
        raise HTTPException(
            404, "no streak is marked for submission, or all that are are in dispute"
        )
    frame = candidate_rows(catalogue, rows)
    submission = Submission(submitter=submitter.strip()) if submitter.strip() else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"marked.{format}"
        done = export_candidates(frame, path, submission=submission)
        data = path.read_bytes()
    site.authenticator.record(who.name, "exported", f"{done.written} marked, {format}")
    headers = {
        "Content-Disposition": f'attachment; filename="marked.{format}"',
        "X-Written": str(done.written),
        "X-Left-Out": str(sum(done.left_out.values())),
    }
    return Response(data, media_type="application/octet-stream", headers=headers)
