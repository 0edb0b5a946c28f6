"""Check what a run says of itself: it lies in the archive, which may be a stranger's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from deepstreaks_dask.errors import CampaignError
from deepstreaks_dask.utils.validation import STRICT, ListOf, StrictModel, validate

MAX_MEMBERS = 1000
MAX_BATCH = 2**20
"""Cutouts that are scored in one call, at most."""

_MAX_TEXT = 4096  # characters of a name, path or reason
_MAX_FAILURES = 1_000_000

_Text = Annotated[str, Field(max_length=_MAX_TEXT)]
_Row = Annotated[int, Field(ge=0, le=2**53)]
_Share = Annotated[float, Field(ge=0, le=1)]


class _Member(StrictModel):
    """One network of a run; later versions may say more of it."""

    model_config = ConfigDict(**{**STRICT, "extra": "ignore"}, frozen=True)

    name: _Text
    version: _Text = ""
    sha256: _Text = ""
    family: _Text = ""
    threshold: _Share = 0.5


class _Provenance(StrictModel):
    """Attributes of a run; only the members must be there, since a killed campaign leaves others out."""

    model_config = ConfigDict(**{**STRICT, "extra": "ignore"}, frozen=True)

    members: ListOf[_Member] = Field(max_length=MAX_MEMBERS)
    models: ListOf[_Text]
    decided: dict[_Text, _Share] | None = None
    triage: dict[str, Any] | None = None
    started: _Text = ""
    updated: _Text = ""
    failures: ListOf[Annotated[tuple[_Row, _Row, _Text], Field(strict=False)]] = Field(
        default=(), max_length=_MAX_FAILURES
    )
    classes: Annotated[ListOf[_Text], Field(min_length=1, max_length=MAX_MEMBERS)] | None = None
    zoo: _Text = ""
    batch: Annotated[int, Field(ge=1, le=MAX_BATCH)] = 1
    dtype: _Text = ""
    flips: bool = False
    order: ListOf[ListOf[_Text]] = ()
    drift: dict[str, _Share] = Field(default_factory=dict)
    calibration: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check(self) -> _Provenance:
        names = tuple(member.name for member in self.members)
        if self.models != names or len(set(names)) < len(names):
            raise ValueError("models: must be the names of the members, each once")
        return self


def check_provenance(attributes: Mapping[str, Any], where: str) -> None:
    """Check the attributes of a run.

    Parameters
    ----------
    attributes : mapping
        As they are stored.
    where : str
        What to call the run in an error.

    Raises
    ------
    CampaignError
        If something is missing, or cannot be.
    """
    validate(
        _Provenance,
        dict(attributes),
        source=where,
        error=CampaignError,
        remedy="it is damaged, or was written by another program",
    )
