"""How to train: the named recipes, and what of an archive is trained on.

``duev2019`` is the published recipe (Duev et al. 2019, MNRAS 486, 4158, arXiv:1904.05920): 90 % of the data to train
and 10 % to test, 5 % of the former for early stopping, random flips, Adam at 1e-3, binary cross-entropy, batches of
32, class weights, at most 300 epochs, early stopping with a patience of 150. One thing differs: the paper parts
single cutouts at random, and cutouts of one night share their sky, their seeing and often their asteroid, so that some
of the test leaks into the training. Here whole *nights* are parted, or whatever a column of the archive groups, such as
objects; ``by="id"`` is the paper's way.

``short`` lets the learning rate fall along a half cosine and stops early: about the same loss in far fewer epochs. The
shipped networks were trained so. ``again`` is ``short`` at a tenth of the rate, for a network that has learned already, and
holds out more nights, since it is to be compared on them.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass as checked_dataclass

from deepstreaks_dask.errors import TrainingError, did_you_mean
from deepstreaks_dask.models.registry import PRECISIONS
from deepstreaks_dask.utils.validation import describe


def _known_precision(value: str) -> str:
    if value not in PRECISIONS:
        raise ValueError(f"no precision {value!r}: choose one of {', '.join(PRECISIONS)}")
    return value


_Fraction = Annotated[float, Field(gt=0, lt=1)]
_Precision = Annotated[str, AfterValidator(_known_precision)]


@checked_dataclass(frozen=True, config=ConfigDict(strict=True, allow_inf_nan=False))
class Recipe:
    """How to train; the published recipe by default.

    Attributes
    ----------
    name : str
        The recipe that this one is, or began as.
    epochs : int
        At most this many passes over the training part.
    batch : int
        Cutouts in a step.
    learning_rate : float
        Of Adam, at the start.
    cosine : bool
        Let the learning rate fall to zero along a half cosine; False keeps it, as published.
    flips : bool
        Flip cutouts at random, horizontally and vertically.
    patience : int
        Stop after this many epochs without a lower validation loss; the best epoch's weights are kept.
    test : float
        Fraction of the nights held out for the figures on the model's card.
    validation : float
        Fraction of the other nights held out for early stopping.
    by : str
        Column of the archive whose values are each wholly in one part: ``night``, a column of objects, or ``id`` for
        single cutouts, which leaks.
    seed : int
        Of the split, the initial weights, the order and the flips.
    precision : str
        ``float32``, or ``mixed_bfloat16`` or ``mixed_float16`` for processors that compute faster in it, the latter with the
        loss scaled (Micikevicius et al. 2018, arXiv:1710.03740). Weights are float32 in all.
    window : int
        0 holds the cutouts in memory and shuffles them all. Else they are read while training, shards in random
        order, as many at once as hold this many cutouts, which are shuffled together; at most three
        windows are in memory.
    """

    name: str = "duev2019"
    epochs: PositiveInt = 300
    batch: PositiveInt = 32
    learning_rate: PositiveFloat = 1e-3
    cosine: bool = False
    flips: bool = True
    patience: NonNegativeInt = 150
    test: _Fraction = 0.10
    validation: _Fraction = 0.05
    by: str = "night"
    seed: NonNegativeInt = 1
    precision: _Precision = "float32"
    window: NonNegativeInt = 0

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, values: Any, handler: Callable[[Any], Recipe]) -> Recipe:
        """Raise what pydantic finds as an error of this package."""
        try:
            return handler(values)
        except ValidationError as error:
            raise TrainingError(f"recipe: {describe(error)}") from error

    def changes(self) -> dict[str, Any]:
        """Return the settings in which this differs from the recipe that it is named after."""
        named = RECIPES.get(self.name)
        if named is None:
            return {}
        return {key: value for key, value in asdict(self).items() if value != getattr(named, key)}

    def to_toml(self) -> str:
        """Return the recipe as text that :func:`read_recipe` reads from a file."""
        return "".join(f"{key} = {json.dumps(value)}\n" for key, value in asdict(self).items())


RECIPES: Mapping[str, Recipe] = {
    "duev2019": Recipe(),
    "short": Recipe(name="short", epochs=12, cosine=True, patience=5),
    "again": Recipe(name="again", epochs=12, cosine=True, patience=5, learning_rate=1e-4, test=0.3),
    "sequences": Recipe(
        name="sequences", epochs=20, cosine=True, patience=20, test=0.2, validation=0.1, by="id"
    ),
    "few": Recipe(
        name="few", epochs=30, batch=16, cosine=True, patience=30, learning_rate=5e-5, by="id"
    ),
}
"""The published recipe, the one of the shipped networks, one to go on from a network's weights; and, for sequences of
images, one to train with and one to go on with a few objects."""


def read_recipe(named: str, **changes: Any) -> Recipe:
    """Return a recipe by its name, or read it from a TOML file.

    Parameters
    ----------
    named : str
        Key of :data:`RECIPES`, or path of a ``.toml`` file with any of :class:`Recipe`'s settings; the others are those
        of the recipe that its ``name`` names.
    **changes
        Settings to change; None keeps a setting.

    Returns
    -------
    Recipe
        Checked.

    Raises
    ------
    TrainingError
        If there is no such recipe, or a setting is unknown or not valid.
    """
    values: dict[str, Any] = {"name": named}
    if named.endswith(".toml"):
        try:
            values = tomllib.loads(Path(named).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise TrainingError(f"cannot read the recipe {named}: {error}") from error
    elif named not in RECIPES:
        raise TrainingError(
            f"no recipe {named!r}: choose one of {', '.join(RECIPES)}, or give a .toml file"
        )
    known = [item.name for item in fields(Recipe)]
    if unknown := sorted(set(values) - set(known)):
        raise TrainingError(
            f"recipe {named}: {unknown[0]}: {did_you_mean(unknown[0], known)}no such field is known"
        )
    base = RECIPES.get(str(values.get("name", "duev2019")), Recipe())
    chosen = {key: value for key, value in changes.items() if value is not None}
    try:
        return replace(base, **(values | chosen))
    except TrainingError as error:
        raise TrainingError(f"recipe {named}: {str(error).removeprefix('recipe: ')}") from error


@dataclass(frozen=True)
class Split:
    """Nights (``YYYYMMDD``), or other groups, to train on, to stop early by, and to measure on."""

    train: tuple[int | str, ...]
    validation: tuple[int | str, ...]
    test: tuple[int | str, ...]

    def rows(self, groups: np.ndarray, part: str) -> np.ndarray:
        """Return which of these groups are in a part, bool, as long as ``groups``.

        Parameters
        ----------
        groups : ndarray
            int or str ``(cutout,)``.
        part : str
            ``train``, ``validation`` or ``test``.

        Returns
        -------
        ndarray
            bool ``(cutout,)``.
        """
        members: np.ndarray = np.isin(groups, np.array(getattr(self, part), groups.dtype))
        return members


def split_groups(groups: np.ndarray, recipe: Recipe, seen: np.ndarray | None = None) -> Split:
    """Split groups into training, validation and test, each group wholly in one of them.

    Parameters
    ----------
    groups : array of int or str
        ``(cutout,)``: the night (YYYYMMDD), or other group, of each.
    recipe : Recipe
        Gives the fractions and the seed.
    seen : array, optional
        ``(group,)``: groups that a network to be measured was trained on, which are not tested on. The fraction to test is
        one of the others.

    Returns
    -------
    Split
        Each group is in one part.

    Raises
    ------
    TrainingError
        If there are too few of them.
    """
    known = np.unique(groups)
    unseen = known if seen is None else known[~np.isin(known, seen)]
    if len(known) and not len(unseen):
        raise TrainingError(
            f"the network was trained on every {recipe.by} that has labels: label cutouts of another {recipe.by}"
        )
    n_test = max(1, round(recipe.test * len(unseen)))
    n_validation = max(1, round(recipe.validation * (len(known) - n_test)))
    if len(known) - n_test - n_validation < 1:
        raise TrainingError(
            f"the labelled cutouts are of {len(known)} {recipe.by}(s): at least 3 are needed to hold out "
            "one for validation and one for the test, and more for larger fractions"
        )
    order = np.random.default_rng(recipe.seed).permutation(known)
    test_groups = order[np.isin(order, unseen)][:n_test]
    others = order[~np.isin(order, test_groups)]
    parts = (test_groups, *np.split(others, [n_validation]))
    test, validation, train = (tuple(np.sort(part).tolist()) for part in parts)
    return Split(train, validation, test)
