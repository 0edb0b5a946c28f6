"""The HTTP API's vocabulary: the words of :mod:`deepstreaks_dask.vocabulary` as JSON."""

from __future__ import annotations

from fastapi import APIRouter

from deepstreaks_dask.apps.server.auth import PROBLEM_RESPONSES, StrictModel, Viewer
from deepstreaks_dask.vocabulary import (
    DECIDING_FAMILIES,
    FAMILY_DESCRIPTIONS,
    LABEL_PREFIX,
    LENGTHS,
    ROLES,
    VERDICTS,
    CampaignState,
    LengthWord,
    Role,
    Scope,
    VerdictWord,
    label_column,
)

vocabulary_routes = APIRouter(prefix="/api/v1", responses=PROBLEM_RESPONSES)


class FamilyOut(StrictModel):
    """A family of networks."""

    name: str
    """The family's name, with which the names of its members begin."""
    description: str
    """What its networks decide."""
    label_column: str
    """The archive's column of its labels."""
    deciding: bool
    """Whether the published decision needs it."""


class RoleOut(StrictModel):
    """A role of users."""

    name: Role
    """The role."""
    may_judge: bool
    """Whether users of this role may give verdicts."""
    may_administer: bool
    """Whether users of this role may manage users and campaigns."""


class ScopeOut(StrictModel):
    """What a program may do with a token."""

    name: Scope
    """The scope."""
    role: Role
    """The role that a user needs to make such a token."""


class CampaignStateOut(StrictModel):
    """A state of campaigns."""

    name: CampaignState
    """The state."""
    may_pause: bool
    """Whether a campaign in this state can be paused."""
    may_resume: bool
    """Whether a campaign in this state can be resumed."""


class VocabularyOut(StrictModel):
    """The words of this API."""

    verdicts: list[VerdictWord]
    """What a cutout can be, in a reviewer's judgement."""
    lengths: list[LengthWord]
    """How long a streak can look."""
    label_prefix: str
    """What the names of all columns of labels begin with."""
    families: list[FamilyOut]
    """Families of networks that have labels."""
    roles: list[RoleOut]
    """Roles of users; each may do what those before it may."""
    scopes: list[ScopeOut]
    """Scopes of tokens; each allows what those before it allow."""
    campaign_states: list[CampaignStateOut]
    """What a campaign can be doing."""


def vocabulary() -> VocabularyOut:
    """Return the words that the pages and the HTTP API share."""
    return VocabularyOut(
        verdicts=list(VERDICTS),
        lengths=list(LENGTHS),
        label_prefix=LABEL_PREFIX,
        families=[
            FamilyOut(
                name=name,
                description=description,
                label_column=label_column(name),
                deciding=name in DECIDING_FAMILIES,
            )
            for name, description in FAMILY_DESCRIPTIONS.items()
        ],
        roles=[
            RoleOut(
                name=role,
                may_judge=role.includes(Role.REVIEWER),
                may_administer=role.includes(Role.ADMINISTRATOR),
            )
            for role in ROLES
        ],
        scopes=[ScopeOut(name=scope, role=scope.role) for scope in Scope],
        campaign_states=[
            CampaignStateOut(name=state, may_pause=state.may_pause, may_resume=state.may_resume)
            for state in CampaignState
        ],
    )


@vocabulary_routes.get("/vocabulary")
def words(who: Viewer) -> VocabularyOut:
    """Return the words of this API: verdicts, lengths, families, roles and states of campaigns."""
    return vocabulary()
