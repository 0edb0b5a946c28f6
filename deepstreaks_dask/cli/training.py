"""Commands that train networks."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepstreaks_dask.cli.app import app
from deepstreaks_dask.cli.completion import (
    choose,
    complete_architectures,
    complete_family,
    complete_start,
)
from deepstreaks_dask.cli.options import (
    ArchiveArg,
    DatabaseOption,
    JsonOption,
    NetworkOptions,
    RecipeOptions,
    SeededRecipeOptions,
    StartOptions,
    TrainingOptions,
    WorkerOptions,
    parse_names,
)
from deepstreaks_dask.cli.output import print_frame, print_json, say
from deepstreaks_dask.cli.verdicts import open_review
from deepstreaks_dask.errors import DeepStreaksError

if TYPE_CHECKING:
    from deepstreaks_dask.models.zoo.card import Card

ArchitectureOption = Annotated[
    str,
    typer.Option(help="vgg6, resnet50 or densenet121.", autocompletion=choose("architecture")),
]


@app.command()
def train(
    archive: ArchiveArg,
    family: Annotated[
        list[str],
        typer.Option(
            help="rb, sl, kd or os. Repeated: trained together, saved apart.",
            metavar="NAME",
            autocompletion=complete_family,
        ),
    ],
    network: NetworkOptions,
    training: TrainingOptions,
    begin: StartOptions,
    architecture: ArchitectureOption = "vgg6",
    as_json: JsonOption = False,
) -> None:
    """Train a member of a family, or of several at once. Killed? Run it again: it goes on.

    Whole nights are held out for early stopping and for the test.

    Example: deepstreaks train week.zarr --family rb --recipe short --zoo my-zoo
    """
    from deepstreaks_dask.archive.dataset import open_archive
    from deepstreaks_dask.training.harness import TrainingOptions
    from deepstreaks_dask.training.members import train_member
    from deepstreaks_dask.training.records import publish
    from deepstreaks_dask.utils.progress import progress_bar

    chosen = training.read()
    folder = network.out or Path("training") / f"{'-'.join(family)}_{architecture}"
    with progress_bar(f"train {folder.name}", chosen.epochs, unit="epochs") as bar:
        record = train_member(
            folder,
            open_archive(archive, cache=True),
            family,
            architecture,
            options=TrainingOptions(chosen, version=network.version, **asdict(begin)),
            on_epoch=lambda *_: bar.advance(),
        )
    if network.zoo is not None:
        publish(folder, network.zoo)
    made = [
        {"model": f"{card['name']}@{card['version']}", "sha256": card["sha256"], **card["metrics"]}
        for card in record["cards"]
    ]
    if as_json:
        print_json(made)
        return
    for values in made:
        say(False, values)
    print(f"record: {folder}")


@dataclass(frozen=True)
class OldNetworkOptions:
    """The networks that are trained again."""

    family: Annotated[
        list[str] | None,
        typer.Option(
            help="Whose newest members to train again; may be repeated.",
            metavar="NAME",
            autocompletion=complete_family,
        ),
    ] = None
    start: Annotated[
        str | None,
        typer.Option(
            "--from", help="Or one network, like rb_vgg6@1.", autocompletion=complete_start
        ),
    ] = None
    start_zoo: Annotated[
        str | None, typer.Option("--from-zoo", help="Zoo that has it. Default: the shipped one.")
    ] = None

    def cards(self) -> list[Card]:
        """Return the cards of the networks.

        Returns
        -------
        list of Card
            Of the newest versions, or of the one that was named.

        Raises
        ------
        DeepStreaksError
            If neither or both were named, or there are no such networks.
        """
        from deepstreaks_dask.models.zoo.store import Zoo
        from deepstreaks_dask.scoring.ensemble import Ensemble

        if bool(self.family) == bool(self.start):
            raise DeepStreaksError("give --family, or one network by --from")
        if self.start:
            return [Zoo(self.start_zoo).card(self.start)]
        members = Ensemble.from_zoo(self.start_zoo, self.family or ()).members
        return [Zoo(self.start_zoo).card(member.ref) for member in members]


@dataclass(frozen=True)
class NewNetworkOptions:
    """Where networks that were trained again go."""

    zoo: Annotated[
        str | None, typer.Option("--zoo", help="Zoo that gets what is better: a path or URL.")
    ] = None
    out: Annotated[Path, typer.Option(help="Folder: a training a network.")] = Path("training")
    version: Annotated[
        str | None, typer.Option(help="Of the new networks. Default: one more than the old one's.")
    ] = None


@dataclass(frozen=True)
class RetrainingOptions(SeededRecipeOptions):
    """A recipe to train again by."""

    recipe: Annotated[
        str,
        typer.Option(
            help="duev2019 (published), short, or a .toml file of settings.",
            autocompletion=choose("recipe"),
        ),
    ] = "again"
    by: Annotated[
        str | None, typer.Option(help="Column that no two parts of the data share: night, …")
    ] = None


@app.command()
def retrain(
    archive: ArchiveArg,
    old: OldNetworkOptions,
    new: NewNetworkOptions,
    training: RetrainingOptions,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train networks again with reviewers' verdicts, compare them with the old, and keep what is better.

    What people dispute or are unsure of is left out. Old and new score nights that neither was trained on.
    Killed? Run it again: it goes on.

    Example: deepstreaks retrain week.zarr --family rb --zoo my-zoo
    """
    from deepstreaks_dask.training.records import publish
    from deepstreaks_dask.training.retraining import next_version
    from deepstreaks_dask.training.retraining import retrain as run
    from deepstreaks_dask.utils.progress import progress_bar

    cards = old.cards()
    review = open_review(archive, database)
    chosen = training.read()
    done = []
    for card in cards:
        folder = new.out / f"{card.name}@{new.version or next_version(card)}"
        with progress_bar(f"retrain {folder.name}", chosen.epochs, unit="epochs") as bar:
            record = run(
                folder,
                archive,
                review,
                card.ref,
                zoo=old.start_zoo,
                version=new.version,
                recipe=chosen,
                on_epoch=lambda *_, bar=bar: bar.advance(),
            )
        found = record["comparison"]
        if found["better"] and new.zoo is not None:
            publish(folder, new.zoo)
        done.append(
            {
                "old": card.ref,
                "new": folder.name,
                "verdicts": record["verdicts"],
                **found,
                "zoo": new.zoo if found["better"] else None,
                "record": str(folder),
            }
        )
    if as_json:
        print_json(done)
        return
    for one in done:
        _print_comparison(one)


def _print_comparison(one: dict[str, Any]) -> None:
    """Print how a network does beside the one it was made from."""
    print(
        f"{one['old']} to {one['new']}, {one['cutouts']:,} cutouts of {one['nights']} held-out nights:"
    )
    for name, words in (("auc", "area"), ("tpr", f"TPR at FPR {one['fpr'] or 0:.4f}")):
        gain = one[f"{name}_gain"]
        if gain["low"] is not None:
            before, after = (one[f"{name}_{which}"]["value"] for which in ("old", "new"))
            span = f"{gain['value']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
            print(f"  {words}: {before:.4f}, now {after:.4f}; gain {span}")
    if one["better"]:
        print(
            f"  better; {'put into ' + one['zoo'] if one['zoo'] else 'name a --zoo that gets it'}"
        )
    else:
        print(f"  not offered: {one['why_not']}")
    print(f"  record: {one['record']}")


@app.command("train-all")
def train_all(
    archive: ArchiveArg,
    training: SeededRecipeOptions,
    out: Annotated[Path, typer.Option(help="Folder: a training a member, and the page.")] = Path(
        "training"
    ),
    families: Annotated[
        str, typer.Option(help="Families, comma-separated.", autocompletion=complete_family)
    ] = "rb,sl,kd",
    architectures: Annotated[
        str,
        typer.Option(help="Architectures, comma-separated.", autocompletion=complete_architectures),
    ] = "vgg6,resnet50,densenet121",
    zoo: Annotated[
        str | None, typer.Option(help="Zoo that gets the networks, too: a path or URL.")
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the networks in the zoo.")] = "1",
    as_json: JsonOption = False,
) -> None:
    """Train every member of every family, one by one, and draw learning curves, ROC and confusion.

    Killed? Run it again: it goes on.

    Example: deepstreaks train-all week.zarr --recipe short --out week-training
    """
    from deepstreaks_dask.training.all_members import train_all_members
    from deepstreaks_dask.training.records import publish
    from deepstreaks_dask.utils.progress import progress_bar

    chosen = training.read()
    names, kinds = parse_names(families), parse_names(architectures)
    total = chosen.epochs * len(names) * len(kinds)
    with progress_bar("train all", total, unit="epochs") as bar:
        evaluation = train_all_members(
            out, archive, names, kinds, recipe=chosen, version=version, on_epoch=bar.advance
        )
    if zoo is not None:
        for member in evaluation.members["member"]:
            publish(out / member, zoo)
    result = {"page": str(out / "training.html"), **evaluation.to_dict()}
    if as_json:
        print_json(result)
        return
    print(f"learning curves, ROC and confusion: {out / 'training.html'}")


@dataclass(frozen=True)
class TrialOptions:
    """Which settings are tried."""

    search: Annotated[
        list[str],
        typer.Option(
            help="setting=1e-4:1e-2 (range) or setting=16,32,64 (choices). Repeated.",
            metavar="NAME=VALUES",
        ),
    ]
    trials: Annotated[int, typer.Option(min=1, help="Trainings in all.")] = 20
    seed: Annotated[int, typer.Option(min=0, help="Of the settings that are tried.")] = 0

    @property
    def space(self) -> dict[str, str]:
        """The values to try, by setting."""
        pairs = (item.partition("=") for item in self.search)
        return {name.strip(): values for name, _, values in pairs}


@dataclass(frozen=True)
class ShortRecipeOptions(RecipeOptions):
    """A recipe of trials."""

    recipe: Annotated[
        str,
        typer.Option(
            help="duev2019 (published), short, or a .toml file of settings.",
            autocompletion=choose("recipe"),
        ),
    ] = "short"


@app.command()
def sweep(
    archive: ArchiveArg,
    family: Annotated[
        list[str],
        typer.Option(
            help="rb, sl, kd or os. Repeated: together.",
            metavar="NAME",
            autocompletion=complete_family,
        ),
    ],
    tried: TrialOptions,
    training: ShortRecipeOptions,
    workers: WorkerOptions,
    out: Annotated[Path, typer.Option(help="Folder of the sweep; workers must reach it.")] = Path(
        "sweep"
    ),
    architecture: ArchitectureOption = "vgg6",
    as_json: JsonOption = False,
) -> None:
    """Search for better settings on Dask workers, one network a worker. Killed? Run it again.

    Needs Optuna: pip install 'deepstreaks-dask[train]'.

    Example: deepstreaks sweep week.zarr --family rb --search learning_rate=1e-4:1e-2 --trials 20
    """
    from deepstreaks_dask.archive.dataset import open_archive
    from deepstreaks_dask.training.sweeps import SearchOptions
    from deepstreaks_dask.training.sweeps import sweep as run

    chosen = training.read()
    open_archive(archive)  # before workers start for nothing
    with workers.connect() as client:
        table = run(
            out,
            archive,
            family,
            architecture,
            SearchOptions(tried.space, tried.trials, tried.seed),
            client,
            recipe=chosen,
        )
    if as_json:
        print_json(json.loads(table.to_json(orient="records")))
        return
    print_frame(table.head(10))
    print(f"best settings: {out / 'best.toml'}, for 'deepstreaks train --recipe'")
