"""The ensemble of a campaign: families of networks (Duev et al. 2019, MNRAS 486, 4158), their zoo and weights."""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, Field, model_validator

from deepstreaks_dask.errors import CampaignError, ModelError
from deepstreaks_dask.models.zoo.card import KERAS_FILE, Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring.decision import family_of
from deepstreaks_dask.utils.html import html_table
from deepstreaks_dask.utils.validation import ListOf, StrictModel, validate
from deepstreaks_dask.vocabulary import DECIDING_FAMILIES, FAMILY_DESCRIPTIONS

_FILE_REMEDY = (
    'give zoo = "a path or URL" and a table for each family, which needs members, a list of names in the zoo or '
    ".keras files"
)


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
        return self.question or FAMILY_DESCRIPTIONS.get(self.name, self.name)


@dataclass(frozen=True, repr=False)
class Ensemble:
    """Families of networks and the zoo that their members come from.

    Attributes
    ----------
    families : tuple of Family
        Families in order, each with its members.
    zoo : str or None
        Path or URL of the zoo; None is the zoo that ships with the package.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> ensemble = ds.Ensemble.from_zoo()
    >>> [member.ref for member in ensemble.members]
    ['rb_vgg6@1', 'sl_vgg6@1', 'kd_vgg6@1']
    """

    families: tuple[Family, ...]
    zoo: str | None = None

    def __iter__(self) -> Iterator[Family]:
        return iter(self.families)

    def __repr__(self) -> str:
        members = ", ".join(member.ref for member in self.members)
        return f"<Ensemble: {members}, from {self._label()}>"

    def _repr_html_(self) -> str:
        rows = [
            (member.ref, family.name, family.description, member.sha256[:12])
            for family in self.families
            for member in family.members
        ]
        header = ("member", "family", "question", "sha256")
        return html_table(f"Members from {self._label()}", rows, header=header)

    def _label(self) -> str:
        return "the zoo of this package" if self.zoo is None else f"the zoo at {self.zoo}"

    @property
    def members(self) -> tuple[Member, ...]:
        """All members, family by family."""
        return tuple(member for family in self.families for member in family.members)

    @classmethod
    def from_zoo(cls, zoo: str | None = None, names: Sequence[str] = DECIDING_FAMILIES) -> Ensemble:
        """Take the newest version of every member that a zoo has for the families named.

        Parameters
        ----------
        zoo : str, optional
            Path or URL of a zoo; the one that ships with the package by default.
        names : sequence of str
            Families.

        Returns
        -------
        Ensemble
            Families in the order of ``names``.

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
    def from_file(cls, path: str | os.PathLike[str]) -> Ensemble:
        """Take families from a TOML file, so that anybody's own network becomes one.

        A table a family, with its ``members``: names in the zoo, or ``.keras`` files, which are taken into the zoo
        with the ``scaling`` of their pixels (:data:`~deepstreaks_dask.models.zoo.card.SCALINGS`)::

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

        Returns
        -------
        Ensemble
            Families in the order of the file.

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
        found = validate(
            _EnsembleFile, values, source=str(file), error=CampaignError, remedy=_FILE_REMEDY
        )
        zoo = found.zoo
        if "://" not in zoo:
            zoo = str(file.parent / zoo)
        tables = found.families
        return cls(tuple(_family(file, zoo, name, tables[name]) for name in tables), zoo)


class _FamilyTable(StrictModel):
    """Table of one family in a file."""

    members: ListOf[str] = Field(min_length=1)
    question: str = ""
    scaling: str | None = None
    resizes: bool = False


class _EnsembleFile(StrictModel):
    """File of an ensemble: a zoo, and a table for each family under the family's name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, _FamilyTable]

    zoo: str = Field(min_length=1)

    @property
    def families(self) -> dict[str, _FamilyTable]:
        """Tables by the family's name."""
        return self.__pydantic_extra__

    @model_validator(mode="after")
    def _check_names(self) -> _EnsembleFile:
        if not self.families:
            raise ValueError("there is no family")
        for name in self.families:
            if "_" in name:
                raise ValueError(
                    f"family {name!r}: leave out the underscore, which ends a family's name"
                )
        return self


def _family(file: Path, zoo: str, name: str, table: _FamilyTable) -> Family:
    """Return the family that a table describes; networks from files are saved in the zoo."""
    store = Zoo(zoo)
    cards = []
    for member in table.members:
        if member.endswith(".keras"):
            how = table.scaling or "bytes", table.resizes
            card = _take_in(store, file.parent / member, name, *how)
        else:
            card = store.card(member)
            if card.scaling != (table.scaling or card.scaling):
                raise CampaignError(f"{file}: {card.ref} has scaling {card.scaling!r} in the zoo")
        if family_of(card.name) != name:
            raise CampaignError(
                f"{file}: {card.ref} is no member of {name!r}: its name must begin with it"
            )
        cards.append(card)
    chosen = tuple(Member(card.name, card.version, card.sha256) for card in cards)
    return Family(name, chosen, table.question)


def _take_in(store: Zoo, path: Path, family: str, scaling: str, resizes: bool) -> Card:
    """Save a network from a file in the zoo, unless it is there: its version says what the file holds."""
    from deepstreaks_dask.models.zoo.serialization import load_keras

    model = load_keras(path)
    how = scaling + "resizes" * resizes
    given = hashlib.sha256(path.read_bytes() + how.encode()).hexdigest()[:12]
    if not isinstance(model.input_shape, tuple) or len(model.output_shape) != 2:
        raise ModelError(f"{path}: a member takes one cutout and gives one score")
    card = Card(
        f"{family}_{path.stem}",
        given,
        KERAS_FILE,
        family=family,
        input_shape=tuple(model.input_shape[1:]),
        scaling=scaling,
        resizes=resizes,
        outputs=model.output_shape[1],
        description=f"Taken from {path.name}",
    )
    have = {item.ref: item for item in store.list()}
    return have.get(card.ref) or store.save(model, card)
