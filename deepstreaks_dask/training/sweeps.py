"""Search for better settings of a recipe: many trainings on Dask workers, one network a worker.

Optuna proposes the settings, by its tree-structured Parzen estimator (Bergstra et al. 2011, NeurIPS 24), and keeps its
study in a journal, a file that is only appended to. Only the process that leads the sweep writes there; workers
train in folders of their own, with checkpoints. A sweep that was killed resumes: finished trials are kept, unfinished ones
resume from their last epoch.

Settings are judged by the lowest validation loss. The test part of the data is never looked at: train with what the
sweep found, ``deepstreaks train --recipe best.toml``, to measure it. The validation loss of the best of many trials is
too good, since it was chosen for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from dask.distributed import Client

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import DeepStreaksError, TrainingError
from deepstreaks_dask.training.checkpoints import CHECKPOINT_FILE
from deepstreaks_dask.training.fit import fit_members
from deepstreaks_dask.training.recipe import Recipe
from deepstreaks_dask.training.records import lock_folder
from deepstreaks_dask.training.workers import on_workers
from deepstreaks_dask.utils.optional import extras_named
from deepstreaks_dask.utils.progress import progress_bar
from deepstreaks_dask.utils.storage import write_text

if TYPE_CHECKING:
    import optuna

SEARCHABLE_SETTINGS = (
    "epochs",
    "batch",
    "learning_rate",
    "cosine",
    "flips",
    "patience",
    "precision",
    "window",
)
"""Settings that may be searched; the others say what is held out, which must be the same for all."""


@dataclass(frozen=True)
class SearchOptions:
    """What a sweep searches, and for how long.

    Attributes
    ----------
    settings : mapping of str to str
        Settings of :data:`SEARCHABLE_SETTINGS`: a range ``1e-4:1e-2`` (uniform in the logarithm where it spans a
        factor of 10) or choices ``16,32,64``.
    trials : int
        Trainings in all, with those of earlier calls.
    seed : int
        Seed of the proposals. With several workers they depend on the order in which trials finish, too.
    """

    settings: Mapping[str, str]
    trials: int = 20
    seed: int = 0


@dataclass(frozen=True)
class Trial:
    """One training of a sweep, to be sent to a worker."""

    number: int
    archive: str
    families: tuple[str, ...]
    architecture: str
    recipe: Recipe
    folder: str


def sweep(
    folder: Path,
    archive: str,
    families: Sequence[str],
    architecture: str,
    search: SearchOptions,
    client: Client,
    *,
    recipe: Recipe | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Search for the settings with the lowest validation loss.

    Parameters
    ----------
    folder : Path
        Gets ``study.journal``, ``trials.csv``, ``best.toml`` and a folder per trial; the workers must reach it too. A sweep
        that the folder holds resumes.
    archive : str
        Path or URL of an archive with labels; the workers must reach it too.
    families, architecture
        What to train, as for :func:`~deepstreaks_dask.training.fit.fit_members`.
    search : SearchOptions
        Settings to search, number of trials, and seed.
    client : dask.distributed.Client
        Where to train.
    recipe : Recipe, optional
        The settings that are not searched.
    progress : bool
        Show count, rate and time left.

    Returns
    -------
    pandas.DataFrame
        One row per trial: ``number, state, val_loss, epochs_run`` and its settings, the best first.

    Raises
    ------
    TrainingError
        If a setting cannot be searched so, the folder holds another sweep, or all trials fail.
    """
    recipe = recipe or Recipe()
    with extras_named():
        import optuna
    space = {name: _distribution(name, spec) for name, spec in search.settings.items()}
    if not space:
        raise TrainingError("say what to search, like learning_rate=1e-4:1e-2")
    asked = {
        "archive": archive,
        "families": list(families),
        "architecture": architecture,
        "search": dict(search.settings),
        "recipe": asdict(recipe),
        "seed": search.seed,
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with lock_folder(folder):
        study = _open_study(folder, search.seed)
        if study.user_attrs.setdefault("asked", asked) != asked:
            raise TrainingError(f"{folder} holds another sweep: choose another folder")
        study.set_user_attr("asked", asked)
        states = optuna.trial.TrialState
        finished = study.get_trials(deepcopy=False, states=(states.COMPLETE, states.FAIL))

        def proposed() -> Iterator[Trial]:
            """Yield the trials that were under way, then new ones, one by one."""
            begun = study.get_trials(deepcopy=False, states=(states.RUNNING,))
            for frozen in begun:
                if set(frozen.params) == set(space):
                    yield job(frozen.number, frozen.params)
                else:  # killed while it was asked for
                    study.tell(frozen.number, state=states.FAIL)
            for _ in range(search.trials - len(finished) - len(begun)):
                trial = study.ask(space)
                yield job(trial.number, trial.params)

        def job(number: int, params: Mapping[str, Any]) -> Trial:
            where = folder.absolute() / f"trial-{number:04d}"
            chosen = replace(recipe, **params)
            return Trial(number, archive, tuple(families), architecture, chosen, str(where))

        todo = max(search.trials - len(finished), 0)
        with progress_bar("sweep", todo, unit="trials", show=progress) as bar:
            for trial, outcome in on_workers(client, run_trial, proposed()):
                if "error" in outcome:
                    study.tell(trial.number, state=states.FAIL)
                else:
                    study.tell(trial.number, outcome["val_loss"])
                bar.advance()
        table = _table(folder, study)
        write_text(folder / "trials.csv", table.to_csv(index=False))
        if not (table["state"] == "COMPLETE").any():
            raise TrainingError(
                f"all trials failed; the last one said: {_outcome(folder, len(table) - 1).get('error')}"
            )
        write_text(folder / "best.toml", replace(recipe, **study.best_params).to_toml())
        return table


def run_trial(trial: Trial) -> dict[str, Any]:
    """Train one trial, or resume it, on a worker, and return its losses or its error."""
    folder = Path(trial.folder)
    if done := _read_outcome(folder):
        return done
    try:
        fitted = fit_members(
            open_archive(trial.archive, cache=True),
            trial.families,
            trial.architecture,
            recipe=trial.recipe,
            folder=folder,
        )
        losses = fitted.history["val_loss"]
        outcome: dict[str, Any] = {
            "val_loss": min(losses),
            "epochs_run": len(losses),
            "history": fitted.history,
            "data": fitted.data,
        }
    except DeepStreaksError as error:
        outcome = {"error": str(error)}
    write_text(folder / "outcome.json", json.dumps(outcome, allow_nan=False))
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    return outcome


def _open_study(folder: Path, seed: int) -> optuna.Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    journal = folder / "study.journal"
    _mend(journal)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(
        storage=storage, study_name="sweep", direction="minimize", load_if_exists=True
    )
    # gone on with, it must not propose again what it began with
    entropy = np.random.SeedSequence((seed, len(study.get_trials(deepcopy=False))))
    study.sampler = optuna.samplers.TPESampler(
        seed=int(entropy.generate_state(1)[0]), n_startup_trials=5, constant_liar=True
    )
    return study


def _mend(journal: Path) -> None:
    """Remove what a kill leaves: a stale lock, and an incomplete last line."""
    Path(f"{journal}.lock").unlink(missing_ok=True)
    if journal.exists():
        with journal.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _distribution(name: str, spec: str) -> Any:
    """Return the distribution of a range or of choices."""
    import optuna

    if name not in SEARCHABLE_SETTINGS:
        raise TrainingError(
            f"{name!r} cannot be searched: choose of {', '.join(SEARCHABLE_SETTINGS)}"
        )
    kind = type(getattr(Recipe(), name))

    def value(text: str) -> Any:
        if kind is bool:
            return {"true": True, "false": False}[text.strip().lower()]
        return kind(text.strip())

    try:
        if ":" in spec:
            low, high = (value(part) for part in spec.split(":"))
            if kind not in (int, float) or not low < high:
                raise ValueError
            for end in (low, high):
                Recipe(**{name: end})
            wide = low > 0 and high / low >= 10
            if kind is int:
                return optuna.distributions.IntDistribution(low, high, log=wide)
            return optuna.distributions.FloatDistribution(low, high, log=wide)
        choices = [value(part) for part in spec.split(",")]
    except (KeyError, ValueError):
        raise TrainingError(
            f"cannot search {name}={spec}: give a range like 1e-4:1e-2 or choices like 16,32"
        ) from None
    for choice in choices:
        Recipe(**{name: choice})
    return optuna.distributions.CategoricalDistribution(choices)


def _table(folder: Path, study: optuna.Study) -> pd.DataFrame:
    rows = [
        {
            "number": trial.number,
            "state": trial.state.name,
            "val_loss": trial.value,
            "epochs_run": _outcome(folder, trial.number).get("epochs_run"),
            **trial.params,
        }
        for trial in study.get_trials(deepcopy=False)
    ]
    return pd.DataFrame(rows).sort_values("val_loss", kind="stable", ignore_index=True)


def _outcome(folder: Path, number: int) -> dict[str, Any]:
    return _read_outcome(folder / f"trial-{number:04d}") or {}


def _read_outcome(folder: Path) -> dict[str, Any] | None:
    path = folder / "outcome.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
