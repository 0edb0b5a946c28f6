"""Families of classifiers, and the rule that turns their scores into a decision.

A cutout is plausible if in *each* family at least *one* member scores at or above its threshold
(Duev et al. 2019, MNRAS 486, 4158, arXiv:1904.05920).
"""

from __future__ import annotations

import difflib
import hashlib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from deepstreaks_dask.errors import CampaignError, DeepStreaksError, ModelError
from deepstreaks_dask.models.zoo import KERAS_FILE, Card, Zoo, load_keras

DECIDING = ("rb", "sl", "kd")
"""The families that the published decision needs, in its order."""

DESCRIPTIONS = {
    "rb": "real streak-like object or bogus",
    "sl": "short streak or long",
    "kd": "keep or ditch (cosmic ray or another artefact)",
    "os": "plausible or not, in one shot",
}


@dataclass(frozen=True)
class Member:
    """One network of a family: its name in the zoo, its version and the hash of its weights."""

    name: str
    version: str
    sha256: str
    threshold: float = 0.5

    @property
    def ref(self) -> str:
        """``name@version``, as the zoo takes it."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Family:
    """Members that answer the same question."""

    name: str
    members: tuple[Member, ...]
    question: str = ""

    @property
    def description(self) -> str:
        """The question that this family answers."""
        return self.question or DESCRIPTIONS.get(self.name, self.name)


@dataclass(frozen=True)
class Families:
    """The families of a campaign and the zoo that their members come from."""

    families: tuple[Family, ...]
    zoo: str | None = None

    def __iter__(self) -> Iterator[Family]:
        return iter(self.families)

    @property
    def members(self) -> tuple[Member, ...]:
        """All members, family by family."""
        return tuple(member for family in self.families for member in family.members)

    @classmethod
    def from_zoo(cls, zoo: str | None = None, names: Sequence[str] = DECIDING) -> Families:
        """Take the newest version of every member that a zoo has for the families named.

        Parameters
        ----------
        zoo : str, optional
            Path or URL of a zoo; the one that ships with the package by default.
        names : sequence of str
            Families.

        Raises
        ------
        CampaignError
            If a family has no member there.
        """
        newest = {card.name: card for card in Zoo(zoo).list()}  # oldest version first
        families = []
        for name in names:
            cards = [card for card in newest.values() if card.family == name]
            if not cards:
                has = ", ".join(sorted({card.family for card in newest.values()})) or "none"
                raise CampaignError(
                    f"the zoo {zoo or 'of this package'} has no member of family {name!r} "
                    f"(it has: {has}): train one with 'deepstreaks train', or name other families"
                )
            members = tuple(Member(card.name, card.version, card.sha256) for card in cards)
            families.append(Family(name, members))
        return cls(tuple(families), zoo)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Families:
        """Take families from a TOML file, so that anybody's own network becomes one.

        A table a family, with its ``members``: names in the zoo, or ``.keras`` files, which are taken into the zoo
        with the ``scaling`` of their pixels (:data:`~deepstreaks_dask.models.forward.SCALINGS`)::

            zoo = "zoo"

            [braai]
            question = "real or bogus"
            scaling = "l2"
            members = ["braai.keras"]

        Paths are relative to the file.

        Parameters
        ----------
        path : str or path
            Local file.

        Raises
        ------
        CampaignError
            If the file cannot be read or says what is not known.
        ModelError
            If a network is not there, or not safe.
        """
        file = Path(path)
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CampaignError(f"cannot read families from {file}: {error}") from error
        zoo = values.pop("zoo", None)
        if not isinstance(zoo, str) or not zoo or not values:
            raise CampaignError(f'{file}: give zoo = "a path or URL" and a table for each family')
        if "://" not in zoo:
            zoo = str(file.parent / zoo)
        return cls(tuple(_family(file, zoo, name, table) for name, table in values.items()), zoo)


@dataclass(frozen=True)
class Decision:
    """The decision rule with its thresholds; applied to stored scores, it never scores again.

    Attributes
    ----------
    thresholds : mapping of str to float
        By member (``rb_vgg6``) or family (``rb``); a member's wins over its family's.
    default : float
        Threshold of every member that is not named; 0.5 as published.
    deciding : tuple of str
        Families that must all pass. None of them is asked for that a run has not scored; a run that has
        scored none of them is decided by all that it has.

    Raises
    ------
    DeepStreaksError
        If a threshold is outside 0 to 1.
    """

    thresholds: Mapping[str, float] = field(default_factory=dict)
    default: float = 0.5
    deciding: tuple[str, ...] = DECIDING

    def __post_init__(self) -> None:
        for name, value in {**self.thresholds, "default": self.default}.items():
            if not 0 <= value <= 1:
                raise DeepStreaksError(f"threshold {name}={value}: give a number from 0 to 1")

    @classmethod
    def of_run(cls, scores: xr.Dataset, thresholds: Mapping[str, float] | None = None) -> Decision:
        """Give the decision that a run was scored for, 0.5 everywhere if for any, with some thresholds changed.

        Parameters
        ----------
        scores : xarray.Dataset
            As :func:`~deepstreaks_dask.campaign.open_scores` gives it.
        thresholds : mapping of str to float, optional
            By member or family.
        """
        return cls({**(scores.attrs.get("decided") or {}), **(thresholds or {})})

    def threshold(self, member: str) -> float:
        """Give the threshold that holds for a member."""
        family = family_of(member)
        return self.thresholds.get(member, self.thresholds.get(family, self.default))

    def limits(self, members: Sequence[str]) -> np.ndarray:
        """Give the threshold of each member, float32 as the scores are.

        Raises
        ------
        DeepStreaksError
            If a threshold names neither one of these members nor a family of theirs.
        """
        names = list(dict.fromkeys(family_of(member) for member in members))
        for name in self.thresholds:
            if name not in (*members, *names):
                near = difflib.get_close_matches(name, [*members, *names], n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise DeepStreaksError(
                    f"threshold for {name!r}: {hint}the scores have {', '.join([*names, *members])}"
                )
        return np.array([self.threshold(member) for member in members], np.float32)

    def needed(self, members: Sequence[str]) -> dict[str, list[int]]:
        """Give the families that decide, where these members have looked, with their columns."""
        columns: dict[str, list[int]] = {}
        for column, member in enumerate(members):
            columns.setdefault(family_of(member), []).append(column)
        return {name: columns[name] for name in columns if name in self.deciding} or columns

    def apply(self, scores: xr.Dataset) -> xr.Dataset:
        """Decide.

        Parameters
        ----------
        scores : xarray.Dataset
            With ``scores(cutout, model)`` float32, NaN where a member has not looked, and ``model``.
            Families other than the deciding ones get their ``family_pass``, and no say.

        Returns
        -------
        xarray.Dataset
            The same, with ``family_pass(cutout, family)`` and ``plausible(cutout)``, where NaN passes nothing,
            and ``undecided(cutout)``: True where a missing score could still change the decision.

        Raises
        ------
        DeepStreaksError
            If a threshold names neither a member nor a family of the scores.
        """
        members = [str(name) for name in scores["model"].values]
        names = list(dict.fromkeys(family_of(member) for member in members))
        values = scores["scores"].values
        passes = values >= self.limits(members)
        missing = np.isnan(values)
        columns = [[family_of(member) == name for member in members] for name in names]
        family_pass = np.stack([passes[:, c].any(axis=1) for c in columns], axis=1)
        family_open = np.stack([missing[:, c].any(axis=1) for c in columns], axis=1)
        needed = [names.index(name) for name in self.needed(members)]
        plausible = family_pass[:, needed].all(axis=1)
        undecided = ~plausible & (family_pass | family_open)[:, needed].all(axis=1)
        return scores.assign(
            family_pass=(("cutout", "family"), family_pass),
            plausible=("cutout", plausible),
            undecided=("cutout", undecided),
        ).assign_coords(family=names)


def _family(file: Path, zoo: str, name: str, table: Any) -> Family:
    members = table.get("members") if isinstance(table, dict) else None
    if (
        not isinstance(members, list)
        or not members
        or not all(
            isinstance(value, str)
            for key in ("question", "scaling")
            for value in [table.get(key, "")]
        )
        or not all(isinstance(member, str) for member in members)
    ):
        raise CampaignError(
            f"{file}: family {name!r} needs members, a list of names in the zoo or .keras files"
        )
    if unknown := sorted(set(table) - {"members", "question", "scaling"}):
        raise CampaignError(f"{file}: family {name!r} has {', '.join(unknown)}, which is not known")
    if "_" in name:
        raise CampaignError(
            f"{file}: family {name!r}: leave out the underscore, which ends a family's name"
        )
    store = Zoo(zoo)
    cards = []
    for member in members:
        if member.endswith(".keras"):
            card = _take_in(store, file.parent / member, name, table.get("scaling", "bytes"))
        else:
            card = store.card(member)
            if card.scaling != table.get("scaling", card.scaling):
                raise CampaignError(f"{file}: {card.ref} has scaling {card.scaling!r} in the zoo")
        if family_of(card.name) != name:
            raise CampaignError(
                f"{file}: {card.ref} is no member of {name!r}: its name must begin with it"
            )
        cards.append(card)
    chosen = tuple(Member(card.name, card.version, card.sha256) for card in cards)
    return Family(name, chosen, table.get("question", ""))


def _take_in(store: Zoo, path: Path, family: str, scaling: str) -> Card:
    """Save a network from a file in the zoo, unless it is there: its version says what the file holds."""
    model = load_keras(path)
    given = hashlib.sha256(path.read_bytes() + scaling.encode()).hexdigest()[:12]
    if not isinstance(model.input_shape, tuple) or len(model.output_shape) != 2:
        raise ModelError(f"{path}: a member takes one cutout and gives one score")
    card = Card(
        f"{family}_{path.stem}",
        given,
        KERAS_FILE,
        family=family,
        input_shape=tuple(model.input_shape[1:]),
        scaling=scaling,
        outputs=model.output_shape[1],
        description=f"Taken from {path.name}",
    )
    have = {item.ref: item for item in store.list()}
    return have.get(card.ref) or store.save(model, card)


def family_of(member: str) -> str:
    """Give the family of a member: what stands before the first underscore of its name."""
    return member.split("_")[0]
