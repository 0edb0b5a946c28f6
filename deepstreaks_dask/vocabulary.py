"""The words that Python, the HTTP API and the pages share: families, labels, verdicts, lengths, roles, campaign states.

Nothing else types these words again. The server gives them as JSON at ``/api/v1/vocabulary``.
"""

from __future__ import annotations

from enum import StrEnum

FAMILY_DESCRIPTIONS = {
    "rb": "real streak-like object or bogus",
    "sl": "short streak or long",
    "kd": "keep or ditch (cosmic ray or another artefact)",
    "os": "plausible or not, in one shot",
}
"""What a network of each family decides, by family."""

LABEL_VALUES = {
    "rb": ("real", "bogus"),
    "sl": ("short", "long"),
    "kd": ("keep", "ditch"),
    "os": ("plausible", "not"),
}
"""What the labels 1 and 0 of each family mean, by family."""

FAMILIES = tuple(FAMILY_DESCRIPTIONS)
"""The families that have labels."""

ONE_SHOT_FAMILY = "os"
"""The family that decides by itself what the others decide together."""

DECIDING_FAMILIES = tuple(family for family in FAMILIES if family != ONE_SHOT_FAMILY)
"""The families that the published decision needs, in its order."""

LABEL_PREFIX = "label_"
"""What the name of every column of labels begins with."""


def label_column(family: str) -> str:
    """Return the name of the column that holds a family's labels: ``label_rb`` for ``rb``."""
    return f"{LABEL_PREFIX}{family}"


LABEL_COLUMNS = tuple(label_column(family) for family in FAMILIES)
"""The columns of labels that an archive has, in the order of :data:`FAMILIES`."""


class VerdictWord(StrEnum):
    """What a cutout is, in a reviewer's judgement. The first letter is the key for it."""

    KEEP = "keep"
    DITCH = "ditch"
    UNSURE = "unsure"
    BOGUS = "bogus"


class LengthWord(StrEnum):
    """How long a streak looks to a reviewer. The first letter is the key for it."""

    SHORT = "short"
    LONG = "long"


class Role(StrEnum):
    """What a user may do, from the least to the most: a role includes those before it."""

    VIEWER = "viewer"
    REVIEWER = "reviewer"
    ADMINISTRATOR = "administrator"

    def includes(self, other: Role) -> bool:
        """Return whether this role may do what the other role may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


class Scope(StrEnum):
    """What a program may do with a token, as far as the role of the token's owner allows it."""

    READ = "read"
    JUDGE = "judge"
    ADMINISTER = "administer"

    @property
    def role(self) -> Role:
        """The role that the scope allows at most."""
        return dict(zip(Scope, Role, strict=True))[self]


class CampaignState(StrEnum):
    """What a campaign is doing."""

    STARTING = "starting"
    AT_WORK = "at work"
    STOPPING = "stopping"
    STOPPED = "stopped"
    KILLED = "killed"
    DONE = "done"

    @property
    def may_pause(self) -> bool:
        """Whether a campaign in this state can be paused."""
        return self is CampaignState.AT_WORK

    @property
    def may_resume(self) -> bool:
        """Whether a campaign in this state ended early and can be resumed."""
        return self in (CampaignState.STOPPED, CampaignState.KILLED)


VERDICTS = tuple(VerdictWord)
"""The verdicts, in the order of the review's buttons."""

LENGTHS = tuple(LengthWord)
"""The lengths, in the order of the review's buttons."""

ROLES = tuple(Role)
"""The roles, from the least to the most."""
