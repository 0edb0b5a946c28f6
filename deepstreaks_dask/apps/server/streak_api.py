"""The HTTP API of streaks: query them, stream them as JSON lines, and get each one's record, pixels and attribution map."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pandas as pd
from fastapi import APIRouter, HTTPException, Query, Response
from fastapi.responses import StreamingResponse

from deepstreaks_dask.apps.server.auth import PROBLEM_RESPONSES, Problem, Viewer
from deepstreaks_dask.apps.server.candidates import candidate_rows
from deepstreaks_dask.apps.server.context import SiteDependency
from deepstreaks_dask.apps.server.visible_verdicts import REVIEW_COLUMNS, VisibleVerdicts
from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.query import MAX_FILTER_LENGTH, complete, parse
from deepstreaks_dask.export.candidates import Submission, observations
from deepstreaks_dask.report.explanation_maps import explanation_map
from deepstreaks_dask.review.catalogue import Catalogue
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.vocabulary import VERDICTS

MAX_ROWS = 10_000
"""Streaks of a response at most."""

_STREAMED_ROWS = 500  # rows that are written together
_LISTED_COLUMNS = ("night", "jd", "filter", "ra", "dec", "length", "mag", "snr", "plausible")
_CACHE_HEADERS = {"Cache-Control": "private, max-age=3600"}

CutoutId = Annotated[str, Query(min_length=1, max_length=512, description="Id of a cutout")]
streak_routes = APIRouter(prefix="/api/v1", responses=PROBLEM_RESPONSES)
_json_lines: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}
}
_picture: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}
_map: dict[int | str, dict[str, Any]] = {
    **_picture,
    503: {"model": Problem, "description": "Too many requests for a map"},
}


@streak_routes.get("/streaks", responses=_json_lines, response_class=StreamingResponse)
def streaks(
    who: Viewer,
    site: SiteDependency,
    where: Annotated[
        str, Query(max_length=MAX_FILTER_LENGTH, description="A filter")
    ] = "plausible",
    sort: Annotated[str, Query(max_length=64, description="A column")] = "jd",
    descending: Annotated[bool, Query(description="The largest first")] = False,
    limit: Annotated[int, Query(ge=1, le=MAX_ROWS, description="Streaks at most")] = 1000,
    offset: Annotated[int, Query(ge=0, le=10**9, description="Streaks to leave out first")] = 0,
) -> StreamingResponse:
    """Stream the streaks that pass a filter as JSON lines; ``X-Total-Count`` is their number.

    The most informative streaks to label are ``not labelled and people == 0``, sorted by ``entropy`` or ``spread``,
    descending, or by ``margin``.
    """
    catalogue = site.catalogue()
    verdicts = VisibleVerdicts(site, who, catalogue)
    kinds = {**catalogue.kinds, **REVIEW_COLUMNS}
    chosen = parse(where, kinds)
    own = {name: verdicts.column(name) for name in chosen.names & set(REVIEW_COLUMNS)}
    passing = chosen({**{n: catalogue[n] for n in chosen.names - set(own)}, **own}, catalogue.rows)
    rows = np.flatnonzero(passing)
    if sort not in kinds:
        raise HTTPException(400, f"there is no column {sort[:64]!r} to sort by")
    by = (verdicts.column(sort) if sort in REVIEW_COLUMNS else catalogue[sort])[rows]
    order = pd.Series(by).sort_values(ascending=not descending, kind="stable").index.to_numpy()
    shown = rows[order[offset : offset + limit]]
    return StreamingResponse(
        _stream(catalogue, verdicts, shown, () if sort in REVIEW_COLUMNS else (sort,)),
        media_type="application/x-ndjson",
        headers={"X-Total-Count": str(len(rows))},
    )


def _stream(
    catalogue: Catalogue, verdicts: VisibleVerdicts, rows: np.ndarray, more: tuple[str, ...]
) -> Iterator[str]:
    for first in range(0, len(rows), _STREAMED_ROWS):
        some = rows[first : first + _STREAMED_ROWS]
        columns = {name: catalogue.take(name, some) for name in ("id", *_LISTED_COLUMNS, *more)}
        frame = pd.DataFrame(columns)
        records = json.loads(frame.to_json(orient="records", double_precision=10))
        names = (*catalogue.families, *catalogue.members)
        scores = {name: catalogue.take(name, some) for name in names}
        lines = []
        for k, record in enumerate(records):
            values = {n: float(v[k]) if np.isfinite(v[k]) else None for n, v in scores.items()}
            record["scores"] = values
            record |= verdicts.of(record["id"])
            lines.append(json.dumps(record, allow_nan=False) + "\n")
        yield "".join(lines)


@streak_routes.get("/streak")
def streak(id: CutoutId, who: Viewer, site: SiteDependency) -> dict[str, Any]:
    """Return the record of one streak, with its scores, verdicts, other detections along its motion and its ADES record."""
    row, catalogue = site.row(id), site.catalogue()
    record = catalogue.record(row)
    frame = candidate_rows(catalogue, np.array([row]))
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
        **VisibleVerdicts(site, who, catalogue, id).of(id),
    }


@streak_routes.get("/cutout", responses=_picture, response_class=Response)
def cutout(id: CutoutId, who: Viewer, site: SiteDependency) -> Response:
    """Return the pixels of one cutout as PNG."""
    try:
        picture = site.catalogue().picture(site.row(id))
    except OSError:
        raise HTTPException(404, "the pixels of this cutout cannot be read") from None
    return Response(picture, media_type="image/png", headers=_CACHE_HEADERS)


@streak_routes.get("/explanation", responses=_map, response_class=Response)
def explanation(
    id: CutoutId,
    member: Annotated[str, Query(min_length=1, max_length=64, description="Of the run")],
    who: Viewer,
    site: SiteDependency,
) -> Response:
    """Return the attribution map of a member's score as PNG; ``X-Logits`` has the logits of the cutout and of an empty sky.

    The third number of ``X-Logits`` is how much the pixels' shares lack of the difference of the first two.
    """
    catalogue = site.catalogue()
    try:
        pixels = catalogue.pixels(site.row(id))
    except OSError:
        raise HTTPException(404, "the pixels of this cutout cannot be read") from None
    found = explanation_map(pixels, member, provenance_of(catalogue.decided)["members"], site.zoo)
    headers = {
        **_CACHE_HEADERS,
        "X-Logits": f"{found.logit:.3f}, {found.sky:.3f}, {found.missing:.3f}",
    }
    return Response(found.png, media_type="image/png", headers=headers)


@streak_routes.get("/nights")
def nights(who: Viewer, site: SiteDependency) -> list[dict[str, int]]:
    """Count the candidates of each night, those you have judged and those anybody has, the newest night first."""
    catalogue = site.catalogue()
    verdicts = VisibleVerdicts(site, who, catalogue)
    frame = pd.DataFrame(
        {
            "night": catalogue["night"],
            "candidates": catalogue["plausible"],
            "mine": verdicts.column("reviewed") & catalogue["plausible"],
            "anybody": (verdicts.column("people") > 0) & catalogue["plausible"],
        }
    )
    counts = frame.groupby("night").sum().sort_index(ascending=False).reset_index()
    return [{str(k): int(v) for k, v in row.items()} for row in counts.to_dict("records")]


@streak_routes.get("/completions")
def completions(
    who: Viewer,
    site: SiteDependency,
    text: Annotated[str, Query(max_length=MAX_FILTER_LENGTH, description="A filter, begun")] = "",
    position: Annotated[
        int, Query(ge=0, le=MAX_FILTER_LENGTH, description="The cursor's")
    ] = MAX_FILTER_LENGTH,
) -> list[dict[str, str | int]]:
    """List completions of a filter."""
    catalogue = site.catalogue()

    def values(name: str) -> list[str]:
        if name == "verdict":
            return [*VERDICTS, ""]
        return ["True", "False"] if name in REVIEW_COLUMNS else catalogue.offered(name)

    found = complete(text, position, {**catalogue.kinds, **REVIEW_COLUMNS}, values)
    return [{"text": one.text, "start": one.start, "what": one.what} for one in found]
