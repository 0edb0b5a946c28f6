"""Recipes are what they are named after; nights never leak."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.training.recipe import RECIPES, Recipe, read_recipe, split_groups


def test_the_published_recipe_is_the_default():
    recipe = read_recipe("duev2019")
    assert recipe == Recipe() == RECIPES["duev2019"]
    assert (recipe.learning_rate, recipe.batch, recipe.patience) == (1e-3, 32, 150)
    assert (recipe.test, recipe.validation) == (0.10, 0.05)
    assert 200 <= recipe.epochs <= 300
    assert recipe.flips
    assert not recipe.cosine
    assert recipe.changes() == {}
    assert read_recipe("duev2019", epochs=7, seed=None).changes() == {"epochs": 7}


def test_a_recipe_comes_back_from_its_file(tmp_path):
    recipe = read_recipe("short", epochs=3, learning_rate=3e-4, by="id")
    (tmp_path / "r.toml").write_text(recipe.to_toml())
    assert read_recipe(str(tmp_path / "r.toml")) == recipe
    (tmp_path / "some.toml").write_text('name = "short"\nepochs = 2\nlearning_rate = 1\n')
    some = read_recipe(str(tmp_path / "some.toml"), batch=8)
    assert (some.epochs, some.learning_rate, some.batch, some.cosine) == (2, 1.0, 8, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch = 3", r"r\.toml: epoch: did you mean 'epochs'\? no such field"),
        ("epochs = true", "epochs: must be a whole number, not True"),
        ("epochs = 2.5", "epochs: must be a whole number, not 2.5"),
        ("learning_rate = nan", "learning_rate: input should be .*, not nan"),
        ("precision = 'float8'", "no precision 'float8'"),
        ("test = 1.0", "test: input should be less than 1, not 1.0"),
        ("window = -1", "window: input should be greater than or equal to 0, not -1"),
        ("epochs = ", "cannot read the recipe"),
    ],
)
def test_what_is_no_recipe_is_named(tmp_path, text, words):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(TrainingError, match=words):
        read_recipe(str(tmp_path / "r.toml"))


def test_an_unknown_recipe_is_named():
    with pytest.raises(TrainingError, match="no recipe 'duev'"):
        read_recipe("duev")


@given(st.sets(st.integers(20180101, 20181231), min_size=3, max_size=60), st.integers(0, 9))
def test_every_night_is_in_one_part(nights, seed):
    groups = np.repeat(sorted(nights), 3)
    split = split_groups(groups, Recipe(seed=seed))
    parts = (split.train, split.validation, split.test)
    assert all(parts)
    assert sorted(night for part in parts for night in part) == sorted(nights)
    inside = [split.rows(groups, part) for part in ("train", "validation", "test")]
    np.testing.assert_array_equal(np.sum(inside, axis=0), 1)


def test_the_fractions_are_the_published_ones():
    split = split_groups(np.arange(1000), Recipe())
    assert len(split.test) == 100
    assert len(split.validation) == 45


def test_the_split_of_the_shipped_networks_stays():
    """Its nights are on the shipped cards."""
    from deepstreaks_dask.models.zoo.store import Zoo
    from deepstreaks_dask.simulation.nights import calendar

    split = split_groups(np.array(calendar(20180301, 90)), read_recipe("short", epochs=18))
    has = Zoo().card("rb_vgg6@1").training_data["nights"]
    assert [list(split.test), list(split.validation)] == [has["test"], has["validation"]]


def test_names_are_groups_too():
    groups = np.array(["a", "a", "bb", "c", "dd"])
    split = split_groups(groups, Recipe(by="object", test=0.25, validation=0.25))
    rows = [split.rows(groups, part) for part in ("train", "validation", "test")]
    np.testing.assert_array_equal(np.sum(rows, axis=0), 1)
    assert rows[0][0] == rows[0][1]


def test_too_few_nights_are_refused():
    with pytest.raises(TrainingError, match="at least 3"):
        split_groups(np.array([1, 2]), Recipe())
    with pytest.raises(TrainingError, match="at least 3"):
        split_groups(np.arange(4), Recipe(test=0.9))
