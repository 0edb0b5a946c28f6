from .all_members import train_all_members
from .batches import Batches, InMemory, Streamed
from .checkpoints import CHECKPOINT_FILE, Checkpoints, OnEpoch
from .distillation import Plan, certainty, fit_triage
from .fit import adam, groups_of, hash_weights, train
from .recipe import RECIPES, Recipe, Split, read_recipe, split_groups
from .records import (
    alone_in,
    drawing_curves,
    find_record,
    publish,
    save_member,
    train_member,
    write_record,
)
from .retraining import VERDICTS_FILE, next_version, retrain
from .seeds import seeded
from .sweeps import sweep
from .workers import on_workers

__all__ = [
    "Batches",
    "CHECKPOINT_FILE",
    "Checkpoints",
    "InMemory",
    "OnEpoch",
    "Plan",
    "RECIPES",
    "Recipe",
    "Split",
    "Streamed",
    "VERDICTS_FILE",
    "adam",
    "alone_in",
    "certainty",
    "drawing_curves",
    "find_record",
    "fit_triage",
    "groups_of",
    "hash_weights",
    "next_version",
    "on_workers",
    "publish",
    "read_recipe",
    "retrain",
    "save_member",
    "seeded",
    "split_groups",
    "sweep",
    "train",
    "train_all_members",
    "train_member",
    "write_record",
]
