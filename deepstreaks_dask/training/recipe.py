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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.models.registry import PRECISIONS


@dataclass(frozen=True)
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
    epochs: int = 300
    batch: int = 32
    learning_rate: float = 1e-3
    cosine: bool = False
    flips: bool = True
    patience: int = 150
    test: float = 0.10
    validation: float = 0.05
    by: str = "night"
    seed: int = 1
    precision: str = "float32"
    window: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            kind = type(item.default)
            value = getattr(self, item.name)
            if kind is float and type(value) is int:
                value = float(value)
                object.__setattr__(self, item.name, value)
            if type(value) is not kind:
                raise TrainingError(
                    f"recipe: {item.name} is {value!r}: give one of type {kind.__name__}"
                )
        if self.epochs < 1 or self.batch < 1 or not 0 < self.learning_rate < np.inf:
            raise TrainingError(
                "epochs and batch must be 1 or more, and the learning rate positive"
            )
        if self.patience < 0 or self.window < 0 or self.seed < 0:
            raise TrainingError("patience, window and seed must be 0 or more")
        if not (0 < self.validation < 1 and 0 < self.test < 1):
            raise TrainingError("validation and test are fractions that leave nights to train on")
        if self.precision not in PRECISIONS:
            raise TrainingError(
                f"no precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}"
            )

    def changes(self) -> dict[str, Any]:
        """Give the settings in which this differs from the recipe that it is named after."""
        named = RECIPES.get(self.name)
        if named is None:
            return {}
        return {key: value for key, value in asdict(self).items() if value != getattr(named, key)}

    def to_toml(self) -> str:
        """Write the recipe as :func:`read_recipe` reads it."""
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
    """Give a recipe by its name or from a TOML file.

    Parameters
    ----------
    named : str
        A key of :data:`RECIPES`, or the path of a file that ends in ``.toml`` with any of :class:`Recipe`'s settings; what
        it does not say is as in the recipe that its ``name`` names.
    **changes
        Settings to change; None keeps one.

    Returns
    -------
    Recipe
        Checked.

    Raises
    ------
    TrainingError
        If there is no such recipe, or it cannot be one.
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
    if unknown := sorted(set(values) - {item.name for item in fields(Recipe)}):
        raise TrainingError(f"recipe {named}: it has {', '.join(unknown)}, which is not known")
    begun = RECIPES.get(str(values.get("name", "duev2019")), Recipe())
    chosen = {key: value for key, value in changes.items() if value is not None}
    return replace(begun, **(values | chosen))


@dataclass(frozen=True)
class Split:
    """Nights (``YYYYMMDD``), or other groups, to train on, to stop early by, and to measure on."""

    train: tuple[int | str, ...]
    validation: tuple[int | str, ...]
    test: tuple[int | str, ...]

    def rows(self, groups: np.ndarray, part: str) -> np.ndarray:
        """Say which of these groups are in a part: bool, as long as ``groups``.

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
    """Part groups into training, validation and test, each group wholly in one of them.

    Parameters
    ----------
    groups : array of int or str
        ``(cutout,)``: the night (YYYYMMDD), or other group, of each.
    recipe : Recipe
        Gives the fractions and the seed.
    seen : array, optional
        ``(group,)``: those that are not to be tested on, since a network that is to be measured was trained on them. The
        fraction to test is one of the others.

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
