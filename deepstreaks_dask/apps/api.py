"""The HTTP API of a review: query streaks, stream them as JSON lines, post verdicts; log in and out.

``/api/v1/openapi.json`` describes all of it; :mod:`~deepstreaks_dask.apps.access` says who may ask.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi import Path as Place
from fastapi.responses import StreamingResponse
from pydantic import Field

from deepstreaks_dask.apps.access import (
    COOKIE,
    PROBLEMS,
    Administrator,
    Problem,
    Reviewer,
    Session,
    Strict,
    Viewer,
    csrf_of,
)
from deepstreaks_dask.archive import open_archive
from deepstreaks_dask.catalogue import Catalogue, newest_commit
from deepstreaks_dask.decision import Decision
from deepstreaks_dask.explanations import explain
from deepstreaks_dask.export import Submission, candidates, export, observations
from deepstreaks_dask.filters import LONGEST, Kind, complete, parse
from deepstreaks_dask.review import (
    NOTE,
    Person,
    RefusedError,
    Review,
    ReviewError,
    Role,
    Verdict,
    WaitError,
)
from deepstreaks_dask.runs import open_scores

MOST = 10_000
"""Streaks in an answer at most."""

_FRESH = 5.0  # seconds for which an archive is taken not to have changed
_THEIRS: dict[str, Kind] = {
    "verdict": "text",
    "reviewed": "truth",
    "marked": "truth",
    "people": "number",
    "disputed": "truth",
}
_LISTED = ("night", "jd", "filter", "ra", "dec", "length", "mag", "snr", "plausible")

Text = Annotated[str, Field(max_length=512)]


@dataclass
class Site:
    """One archive's run and the database of what people say of it.

    Attributes
    ----------
    archive, run : str
        Path or URL, and the run's name.
    key : str
        What the database calls the archive (:func:`~deepstreaks_dask.review.archive_key`).
    review : Review
        The database.
    decision : Decision, optional
        In place of the run's own.
    hosts : frozenset of str
        ``name:port`` that browsers may name this site by.
    zoo : str, optional
        Where the run's networks are; the shipped one by default.
    cookie : str
        Name of the session's.
    """

    archive: str
    run: str
    key: str
    review: Review
    decision: Decision | None = None
    hosts: frozenset[str] = frozenset()
    zoo: str | None = None
    cookie: str = COOKIE
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _catalogue: Catalogue | None = None
    _commit: str = ""
    _looked: float = float("-inf")

    @property
    def door(self) -> Review:
        """Who is let in."""
        return self.review

    @cached_property
    def sequences(self) -> bool:
        """Whether the archive has objects with their sequences, of which there are no candidates."""
        return "object" in open_archive(self.archive).sizes

    def catalogue(self) -> Catalogue:
        """Give the run as it is now."""
        with self._lock:
            if time.monotonic() - self._looked > _FRESH:
                commit = newest_commit(self.archive, self.run)
                if self._catalogue is None or commit != self._commit:
                    scores = open_scores(self.archive, self.run)
                    decision = self.decision or Decision.of_run(scores)
                    self._catalogue = Catalogue(decision.apply(scores), decision)
                    self._commit = commit
                self._looked = time.monotonic()
            assert self._catalogue is not None
            return self._catalogue

    def row(self, cutout: str) -> int:
        """Give the row of an id.

        Parameters
        ----------
        cutout : str
            The id.

        Returns
        -------
        int
            Of the archive.

        Raises
        ------
        HTTPException
            404, if this archive has none such.
        """
        row = self.catalogue().find(cutout)
        if row < 0:
            raise HTTPException(404, "this archive has no such cutout")
        return row


def site_of(request: Request) -> Site:
    """Give the site that a request is for."""
    site: Site = request.app.state.site
    return site


Here = Annotated[Site, Depends(site_of)]
Id = Annotated[str, Query(min_length=1, max_length=512, description="Id of a cutout")]


class Login(Strict):
    """Name and password."""

    name: str = Field(max_length=64)
    """Of the user."""
    password: str = Field(max_length=256)
    """That of the user."""


class Judgement(Strict):
    """What to say of a cutout; what is left out stays as it was."""

    id: str = Field(min_length=1, max_length=512)
    """Of the cutout."""
    verdict: Literal["", "keep", "ditch", "unsure", "bogus"] | None = None
    """What it is; an empty one takes the verdict back."""
    length: Literal["", "long", "short"] | None = None
    """How the streak looks."""
    note: str | None = Field(None, max_length=NOTE)
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


class NewUser(Strict):
    """A user to add."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._@-]{0,63}$")
    """To log in with."""
    password: str = Field(min_length=12, max_length=256)
    """The first one, which the user can change."""
    role: Role = "reviewer"
    """What the user may do."""


class UserChange(Strict):
    """What to change of a user."""

    role: Role | None = None
    """What the user may do from now on."""
    active: bool | None = Field(None, strict=True)
    """Whether the user may log in."""
    password: str | None = Field(None, min_length=12, max_length=256)
    """A new one."""


class User(Strict):
    """A user."""

    name: str
    """To log in with."""
    role: Role
    """What the user may do."""
    active: bool
    """Whether the user may log in."""
    created: str
    """When, UTC in ISO 8601."""


class Passwords(Strict):
    """One's own password, and the new one."""

    old: str = Field(max_length=256)
    """That which is to be changed."""
    new: str = Field(min_length=12, max_length=256)
    """To log in with from now on."""


class TokenName(Strict):
    """What to call a token."""

    name: str = Field(min_length=1, max_length=64)
    """For one's own list."""


api = APIRouter(prefix="/api/v1", responses=PROBLEMS)
_slowed: dict[int | str, dict[str, Any]] = {
    429: {"model": Problem, "description": "Too many failed attempts"}
}
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


@api.post("/login", responses=_slowed)
def login(given: Login, request: Request, response: Response, site: Here) -> Session:
    """Open a session."""
    origin = request.headers.get("origin")
    other = request.headers.get("sec-fetch-site") not in (None, "same-origin", "none")
    if other or (origin is not None and urlsplit(origin).netloc != request.headers.get("host")):
        raise HTTPException(403, "log in on a page of this site")
    address = request.client.host if request.client else ""
    try:
        secret = site.review.log_in(given.name, given.password, address=address)
    except WaitError:
        raise
    except RefusedError as error:
        raise HTTPException(401, str(error), {"WWW-Authenticate": "Bearer"}) from None
    who = site.review.person_of(secret)
    assert who is not None
    secure = request.url.scheme == "https"
    response.set_cookie(
        COOKIE, secret, httponly=True, secure=secure, samesite="strict", max_age=12 * 3600
    )
    return Session(name=who.name, role=who.role, csrf=csrf_of(secret))


@api.post("/logout", status_code=204)
def logout(request: Request, response: Response, who: Viewer, site: Here) -> None:
    """End this session."""
    site.review.log_out(request.cookies.get(COOKIE, ""))
    response.delete_cookie(COOKIE)


@api.post("/password", status_code=204, responses=_slowed)
def password(given: Passwords, request: Request, who: Viewer, site: Here) -> None:
    """Change one's own password; ends one's sessions."""
    address = request.client.host if request.client else ""
    try:
        site.review.log_out(site.review.log_in(who.name, given.old, address=address))
    except WaitError:
        raise
    except RefusedError:
        raise HTTPException(403, "that is not your password") from None
    site.review.change_user(who.name, password=given.new, by=who.name)


@api.get("/streaks", responses=_lines, response_class=StreamingResponse)
def streaks(
    who: Viewer,
    site: Here,
    where: Annotated[str, Query(max_length=LONGEST, description="A filter")] = "plausible",
    sort: Annotated[str, Query(max_length=64, description="A column")] = "jd",
    descending: Annotated[bool, Query(description="The largest first")] = False,
    limit: Annotated[int, Query(ge=1, le=MOST, description="Streaks at most")] = 1000,
    offset: Annotated[int, Query(ge=0, le=10**9, description="Streaks to leave out first")] = 0,
) -> StreamingResponse:
    """Stream the streaks that pass a filter as JSON lines; ``X-Total-Count`` says how many there are.

    What would teach networks most is ``not labelled and people == 0``, sorted by ``entropy`` or ``spread``, descending, or
    by ``margin``.
    """
    catalogue = site.catalogue()
    people = _People(site, who, catalogue)
    kinds = {**catalogue.kinds, **_THEIRS}
    chosen = parse(where, kinds)
    own = {name: people.column(name) for name in chosen.names & set(_THEIRS)}
    passing = chosen({**{n: catalogue[n] for n in chosen.names - set(own)}, **own}, catalogue.rows)
    rows = np.flatnonzero(passing)
    if sort not in kinds:
        raise HTTPException(400, f"there is no column {sort[:64]!r} to sort by")
    by = (people.column(sort) if sort in _THEIRS else catalogue[sort])[rows]
    order = pd.Series(by).sort_values(ascending=not descending, kind="stable").index.to_numpy()
    shown = rows[order[offset : offset + limit]]
    return StreamingResponse(
        _stream(catalogue, people, shown, () if sort in _THEIRS else (sort,)),
        media_type="application/x-ndjson",
        headers={"X-Total-Count": str(len(rows))},
    )


def _stream(
    catalogue: Catalogue, people: _People, rows: np.ndarray, more: tuple[str, ...]
) -> Iterator[str]:
    for first in range(0, len(rows), 500):
        some = rows[first : first + 500]
        columns = {name: catalogue.take(name, some) for name in ("id", *_LISTED, *more)}
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
        column = np.zeros(rows, {"text": object, "truth": bool}.get(_THEIRS[name], np.int64))
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
            for member in catalogue.decided.attrs.get("members", ())
        ],
        "ades": records[0] if records else None,
        "no_ades": next(iter(left_out), None),
        "along": along.to_dict("records"),
        **_People(site, who, catalogue, id).of(id),
    }


def _candidates(catalogue: Catalogue, rows: np.ndarray) -> pd.DataFrame:
    chosen = catalogue.decided.isel(cutout=rows)
    frame = candidates(chosen.assign(plausible=("cutout", np.ones(len(rows), bool))))
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
    found = explain(pixels, member, catalogue.decided.attrs["members"], site.zoo)
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
    text: Annotated[str, Query(max_length=LONGEST, description="A filter, begun")] = "",
    position: Annotated[int, Query(ge=0, le=LONGEST, description="The cursor's")] = LONGEST,
) -> list[dict[str, str | int]]:
    """Say how a filter could go on."""
    catalogue = site.catalogue()

    def values(name: str) -> list[str]:
        if name == "verdict":
            return ["keep", "ditch", "unsure", "bogus", ""]
        return ["True", "False"] if name in _THEIRS else catalogue.offered(name)

    found = complete(text, position, {**catalogue.kinds, **_THEIRS}, values)
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
        done = export(frame, path, submission=submission)
        data = path.read_bytes()
    headers = {
        "Content-Disposition": f'attachment; filename="marked.{format}"',
        "X-Written": str(done.written),
        "X-Left-Out": str(sum(done.left_out.values())),
    }
    return Response(data, media_type="application/octet-stream", headers=headers)


@api.get("/tokens")
def tokens(who: Viewer, site: Here) -> list[dict[str, Any]]:
    """List your tokens."""
    return site.review.tokens(who.name)


@api.post("/tokens", status_code=201)
def add_token(given: TokenName, who: Viewer, site: Here) -> dict[str, str]:
    """Make a token for your programs; it is shown this once."""
    return {"token": site.review.add_token(who.name, given.name)}


@api.delete("/tokens/{number}", status_code=204)
def revoke_token(
    number: Annotated[int, Place(description="As the list of tokens has it")],
    who: Viewer,
    site: Here,
) -> None:
    """Revoke a token of yours."""
    try:
        site.review.revoke_token(who.name, number)
    except ReviewError as error:
        raise HTTPException(404, str(error)) from None


@api.get("/users")
def users(who: Administrator, site: Here) -> list[User]:
    """List the users."""
    return [User(**vars(one)) for one in site.review.users()]


@api.post("/users", status_code=201)
def add_user(given: NewUser, who: Administrator, site: Here) -> User:
    """Add a user."""
    made = site.review.add_user(given.name, given.password, given.role, by=who.name)
    return User(**vars(made))


@api.patch("/users/{name}")
def change_user(
    name: Annotated[str, Place(description="Of the user")],
    given: UserChange,
    who: Administrator,
    site: Here,
) -> User:
    """Give a user another role or password, disable or enable one; that user's sessions end."""
    if name not in {one.name for one in site.review.users()}:
        raise HTTPException(404, "there is no such user")
    changed = site.review.change_user(name, **given.model_dump(), by=who.name)
    return User(**vars(changed))


@api.get("/audit")
def audit(
    who: Administrator,
    site: Here,
    limit: Annotated[int, Query(ge=1, le=1000, description="Entries at most")] = 200,
    offset: Annotated[int, Query(ge=0, le=10**9, description="Entries to leave out first")] = 0,
) -> list[dict[str, Any]]:
    """List who did what to users, sessions and tokens, the newest first."""
    return site.review.log(limit=limit, offset=offset)
