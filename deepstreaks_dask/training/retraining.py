"""Train a network again with reviewers' verdicts, and offer it only if it is better than before.

A person's verdict is a label (:meth:`~deepstreaks_dask.review.verdicts.Verdicts.labels`) and takes the place
of the archive's own. What
people dispute, and what nobody who looked was sure of, has no label here, whatever the archive says. Training goes on
from the old weights. Then both networks score nights that neither was trained on, and
:mod:`~deepstreaks_dask.evaluation.model_comparison` says which is better.

People judge what they are shown: candidates, or a queue. Held-out nights without labels of the archive's own thus tell how
the networks differ on such cutouts, and not on all that a survey takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import TrainingError
from deepstreaks_dask.evaluation.calibration import trained_on
from deepstreaks_dask.evaluation.labels import with_labels
from deepstreaks_dask.evaluation.model_comparison import compare_models
from deepstreaks_dask.models.registry import ARCHITECTURES
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.review.database import Review, archive_key
from deepstreaks_dask.training.fit import groups_of
from deepstreaks_dask.training.harness import TrainingOptions
from deepstreaks_dask.training.members import predict_cutouts, train_member
from deepstreaks_dask.training.recipe import RECIPES, Recipe, Split, split_groups
from deepstreaks_dask.training.records import (
    TrainingRecord,
    lock_folder,
    read_record,
    write_record,
)
from deepstreaks_dask.utils.storage import write_text
from deepstreaks_dask.vocabulary import FAMILIES, LABEL_COLUMNS, VerdictWord

VERDICTS_FILE = "verdicts.csv"
"""What reviewers had said when a retraining began, in its folder."""


def retrain(
    folder: Path,
    archive: str,
    review: Review,
    ref: str,
    *,
    zoo: str | None = None,
    version: str | None = None,
    recipe: Recipe | None = None,
    on_epoch: Callable[[int, Mapping[str, float]], None] | None = None,
) -> TrainingRecord:
    """Train a network again from its weights with reviewers' verdicts, and compare the two.

    Killed, it goes on with the verdicts that it began with.

    Parameters
    ----------
    folder : Path
        As :func:`~deepstreaks_dask.training.members.train_member` leaves it, with ``verdicts.csv``.
    archive : str
        Path or URL of the archive that was reviewed.
    review : Review
        What was said of it.
    ref : str
        ``name@version`` of the network, or its name for the newest.
    zoo : str, optional
        The zoo that it is in; the shipped one by default.
    version : str, optional
        Of the new network; :func:`next_version` by default.
    recipe : Recipe, optional
        How to train; the recipe ``again`` by default.
    on_epoch : callable, optional
        As for :func:`~deepstreaks_dask.training.fit.fit_members`.

    Returns
    -------
    TrainingRecord
        Record of the training, with ``verdicts`` (how many had a say, are disputed, or unsure) and
        ``comparison`` (:meth:`~deepstreaks_dask.evaluation.model_comparison.ModelComparison.to_dict`), which
        the card has, too.

    Raises
    ------
    TrainingError
        If no verdict says anything of the network's family, every night with labels was trained on, the folder holds another
        training or one with other verdicts, and as :func:`~deepstreaks_dask.training.fit.fit_members` does.
    ModelError
        If there is no such network.
    """
    recipe = recipe or RECIPES["again"]
    old = Zoo(zoo).card(ref)
    if old.architecture not in ARCHITECTURES or old.scaling != "bytes":
        raise TrainingError(
            f"{old.ref} is a {old.architecture} network of {old.scaling}: only {', '.join(ARCHITECTURES)} of bytes "
            "can be trained"
        )
    version = version or next_version(old)
    dataset = open_archive(archive, cache=True)
    verdicts = _verdicts(folder, review, archive_key(archive))
    labelled, counts = _labelled(dataset, verdicts, old.family)
    seen = trained_on(old.training_data, dataset, old.ref)
    split = _split(labelled, old.family, seen, recipe)
    record = train_member(
        folder,
        labelled,
        [old.family],
        old.architecture,
        options=TrainingOptions(recipe, split, old.ref, zoo, version),
        on_epoch=on_epoch,
    )
    if "comparison" in record:
        return record
    with lock_folder(folder):
        networks, name = record.networks, f"{old.family}_{old.architecture}@{version}"
        rows = np.flatnonzero(
            split.rows(groups_of(labelled, recipe.by), "test")
            & (labelled[f"label_{old.family}"].values >= 0)
        )
        models = [Zoo(zoo).load(old.ref), networks.load(name)]
        scores = predict_cutouts(labelled, models, rows)
        groups = groups_of(labelled, recipe.by)[rows]
        labels = labelled[f"label_{old.family}"].values[rows]
        found = compare_models(labels, scores[:, 0], scores[:, 1], groups).to_dict()
        found = {"with": f"{old.ref}, {old.sha256}", **found}
        card = networks.card(name)
        card = replace(
            card,
            metrics={**card.metrics, "comparison": found},
            training_data={**card.training_data, "verdicts": counts},
        )
        networks.save(models[1], card, dtype=card.dtype, overwrite=True)
        added = {"verdicts": counts, "comparison": found, "cards": [networks.card(name).to_dict()]}
        return write_record(folder, {**record, **added})


def next_version(card: Card) -> str:
    """Return the version after a network's own.

    Parameters
    ----------
    card : Card
        Of the network.

    Returns
    -------
    str
        A whole number.

    Raises
    ------
    TrainingError
        If its version is no whole number.
    """
    if not card.version.isascii() or not card.version.isdigit():
        raise TrainingError(f"{card.ref} has no version to count on from: name the new --version")
    return str(int(card.version) + 1)


def _verdicts(folder: Path, review: Review, key: str) -> pd.DataFrame:
    """Return labels by id, of now or of when the unfinished training in the folder began; 2 is disputed, 3 unsure."""
    path = folder / VERDICTS_FILE
    if path.exists() and read_record(folder) is None:
        return pd.read_csv(path, dtype={"id": str}, keep_default_na=False).set_index("id")
    table = review.verdicts.labels(key)[[*LABEL_COLUMNS]].astype(int)
    unsure = {
        one.cutout for one in review.verdicts.current(key) if one.verdict == VerdictWord.UNSURE
    }
    table = table.reindex([*table.index, *sorted(unsure - set(table.index))], fill_value=-1)
    for family in FAMILIES:
        nobody = table[f"label_{family}"].eq(-1) & table.index.isin(list(unsure))
        table.loc[nobody, f"label_{family}"] = _UNSURE
    for _, one in review.verdicts.disagreements(key).iterrows():
        table.loc[one["cutout"], f"label_{one['family']}"] = _DISPUTED
    table.index.name = "id"
    if read_record(folder) is None:
        with lock_folder(folder):
            write_text(path, table.to_csv())
    return table


_DISPUTED, _UNSURE = 2, 3


def _labelled(
    dataset: xr.Dataset, verdicts: pd.DataFrame, family: str
) -> tuple[xr.Dataset, dict[str, int]]:
    """Replace an archive's labels of a family by verdicts, and count them."""
    name = f"label_{family}"
    if family not in FAMILIES:
        raise TrainingError(
            f"verdicts say nothing of family {family!r}, only of {', '.join(FAMILIES)}"
        )
    ids = pd.Index(dataset["id"].values.astype(object))
    there = verdicts[verdicts.index.isin(ids)]
    said = there[there[name].isin([0, 1])]
    counts = {
        "labels_0": int((said[name] == 0).sum()),
        "labels_1": int((said[name] == 1).sum()),
        "disputed": int((there[name] == _DISPUTED).sum()),
        VerdictWord.UNSURE.value: int((there[name] == _UNSURE).sum()),
        "not_in_archive": len(verdicts) - len(there),
    }
    if not len(said):
        raise TrainingError(
            f"no verdict on this archive says anything of family {family!r}: review some cutouts first"
        )
    labelled = with_labels(dataset, there.where(there.isin([0, 1]), -1).astype(np.int8))
    values = labelled[name].values.copy()
    left_out = there.index[there[name].isin([_DISPUTED, _UNSURE])]
    values[ids.isin(left_out)] = -1
    counts["of_the_archive"] = int((values >= 0).sum()) - len(said)
    return labelled.assign_coords({name: labelled[name].copy(data=values)}), counts


def _split(dataset: xr.Dataset, family: str, seen: np.ndarray, recipe: Recipe) -> Split:
    """Split the nights with labels; no night that the old network was trained on is tested on, now or later."""
    groups = groups_of(dataset, recipe.by)
    earlier = np.unique(groups[seen])
    split = split_groups(groups[dataset[f"label_{family}"].values >= 0], recipe, earlier)
    missing = [one for one in earlier.tolist() if one not in {*split.train, *split.validation}]
    return Split(tuple(sorted([*split.train, *missing])), split.validation, split.test)
