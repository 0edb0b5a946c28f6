"""Train members of families on the labels of an archive, and write down how it was done.

The named recipe ``duev2019`` is that of DeepStreaks (Duev et al. 2019, MNRAS 486, 4158, arXiv:1904.05920):
:mod:`.recipe` says where this differs. :mod:`.fit` trains, :mod:`.checkpoints` lets it go on after a kill,
:mod:`.batches` reads what is larger than memory, :mod:`.records` keeps the record, :mod:`.sweeps` searches
for better settings, and :mod:`.everyone` trains all members and draws their curves.
"""

from deepstreaks_dask.training.batches import Batches, InMemory, Streamed
from deepstreaks_dask.training.fit import Training, train
from deepstreaks_dask.training.recipe import RECIPES, Recipe, Split, read_recipe, split_groups
from deepstreaks_dask.training.records import publish, save_member, train_in

__all__ = [
    "RECIPES",
    "Batches",
    "InMemory",
    "Recipe",
    "Split",
    "Streamed",
    "Training",
    "publish",
    "read_recipe",
    "save_member",
    "split_groups",
    "train",
    "train_in",
]
