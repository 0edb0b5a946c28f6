from .all_members import train_all_members
from .batches import CutoutFeed, InMemory, Streamed
from .checkpoints import CHECKPOINT_FILE, Checkpoints, OnEpoch, TrainingState
from .distillation import TriagePlan, certainty, fit_triage
from .feeds import Feed
from .fit import FittedMembers, fit_members, groups_of
from .harness import (
    EpochLoop,
    Objective,
    Trainable,
    TrainedNetworks,
    TrainingOptions,
    adam,
    hash_weights,
    train_in_folder,
)
from .members import FamilyMembers, predict_cutouts, save_member, train, train_member
from .recipe import RECIPES, Recipe, Split, read_recipe, split_groups
from .records import (
    TrainingRecord,
    find_record,
    lock_folder,
    publish,
    read_record,
    recording_curves,
    write_record,
)
from .retraining import VERDICTS_FILE, next_version, retrain
from .seeds import seeded
from .sweeps import SearchOptions, sweep
from .workers import on_workers

__all__ = [
    "CHECKPOINT_FILE",
    "Checkpoints",
    "CutoutFeed",
    "EpochLoop",
    "FamilyMembers",
    "Feed",
    "FittedMembers",
    "InMemory",
    "Objective",
    "OnEpoch",
    "RECIPES",
    "Recipe",
    "SearchOptions",
    "Split",
    "Streamed",
    "Trainable",
    "TrainedNetworks",
    "TrainingOptions",
    "TrainingRecord",
    "TrainingState",
    "TriagePlan",
    "VERDICTS_FILE",
    "adam",
    "certainty",
    "find_record",
    "fit_members",
    "fit_triage",
    "groups_of",
    "hash_weights",
    "lock_folder",
    "next_version",
    "on_workers",
    "predict_cutouts",
    "publish",
    "read_recipe",
    "read_record",
    "recording_curves",
    "retrain",
    "save_member",
    "seeded",
    "split_groups",
    "sweep",
    "train_all_members",
    "train",
    "train_in_folder",
    "train_member",
    "write_record",
]
