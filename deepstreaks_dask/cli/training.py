"""Commands that train networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from deepstreaks_dask.cli.app import app
from deepstreaks_dask.cli.options import (
    ArchiveArg,
    EpochsOption,
    JsonOption,
    PatienceOption,
    RateOption,
    RecipeOption,
    SchedulerOption,
    SeedOption,
    StartZooOption,
    WindowOption,
    WorkersOption,
    print_json,
    say,
)
from deepstreaks_dask.cli.verdicts import DatabaseOption, open_review
from deepstreaks_dask.errors import DeepStreaksError


@app.command()
def train(
    archive: ArchiveArg,
    family: Annotated[
        list[str], typer.Option(help="rb, sl, kd or os. Repeated: trained together, saved apart.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the record and networks; training/… by default.")
    ] = None,
    zoo: Annotated[
        str | None, typer.Option(help="Zoo that gets the networks, too: a path or URL.")
    ] = None,
    architecture: Annotated[str, typer.Option(help="vgg6, resnet50 or densenet121.")] = "vgg6",
    version: Annotated[str, typer.Option(help="Version of the network in the zoo.")] = "1",
    recipe: RecipeOption = "duev2019",
    epochs: EpochsOption = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Cutouts in a step.")] = None,
    rate: RateOption = None,
    patience: PatienceOption = None,
    by: Annotated[
        str | None, typer.Option(help="Column that no two parts of the data share: night, id, …")
    ] = None,
    seed: SeedOption = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, mixed_bfloat16 or mixed_float16.")
    ] = None,
    window: WindowOption = None,
    start: Annotated[
        str, typer.Option("--from", help="Network whose weights to start from, like rb_vgg6@1.")
    ] = "",
    start_zoo: StartZooOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a member of a family, or of several at once. Killed? Run it again: it goes on.

    Whole nights are held out for early stopping and for the test.

    Example: deepstreaks train week.zarr --family rb --recipe short --zoo my-zoo
    """
    from deepstreaks_dask.archive.dataset import open_archive
    from deepstreaks_dask.training.recipe import read_recipe
    from deepstreaks_dask.training.records import publish, train_member
    from deepstreaks_dask.utils.progress import progress_bar

    chosen = read_recipe(
        recipe,
        epochs=epochs,
        batch=batch,
        learning_rate=rate,
        patience=patience,
        by=by,
        seed=seed,
        precision=precision,
        window=window,
    )
    folder = out or Path("training") / f"{'-'.join(family)}_{architecture}"
    with progress_bar(f"train {folder.name}", chosen.epochs, unit="epochs") as bar:
        record = train_member(
            folder,
            open_archive(archive),
            family,
            architecture,
            recipe=chosen,
            start=start,
            start_zoo=start_zoo,
            version=version,
            on_epoch=lambda *_: bar.advance(),
        )
    if zoo is not None:
        publish(folder, zoo)
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


@app.command()
def retrain(
    archive: ArchiveArg,
    family: Annotated[
        list[str] | None, typer.Option(help="Whose newest members to train again; may be repeated.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Or one network, like rb_vgg6@1.")
    ] = None,
    start_zoo: StartZooOption = None,
    zoo: Annotated[
        str | None, typer.Option("--zoo", help="Zoo that gets what is better: a path or URL.")
    ] = None,
    database: DatabaseOption = None,
    out: Annotated[Path, typer.Option(help="Folder: a training a network.")] = Path("training"),
    version: Annotated[
        str | None, typer.Option(help="Of the new networks. Default: one more than the old one's.")
    ] = None,
    recipe: RecipeOption = "again",
    epochs: EpochsOption = None,
    by: Annotated[
        str | None, typer.Option(help="Column that no two parts of the data share: night, …")
    ] = None,
    seed: SeedOption = None,
    window: WindowOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train networks again with reviewers' verdicts, compare them with the old, and keep what is better.

    What people dispute or are unsure of is left out. Old and new score nights that neither was trained on.
    Killed? Run it again: it goes on.

    Example: deepstreaks retrain week.zarr --family rb --zoo my-zoo
    """
    from deepstreaks_dask.models.zoo.store import Zoo
    from deepstreaks_dask.scoring.ensemble import Ensemble
    from deepstreaks_dask.training.recipe import read_recipe
    from deepstreaks_dask.training.records import publish
    from deepstreaks_dask.training.retraining import next_version
    from deepstreaks_dask.training.retraining import retrain as run
    from deepstreaks_dask.utils.progress import progress_bar

    if bool(family) == bool(start):
        raise DeepStreaksError("give --family, or one network by --from")
    if start:
        cards = [Zoo(start_zoo).card(start)]
    else:
        members = Ensemble.from_zoo(start_zoo, family or ()).members
        cards = [Zoo(start_zoo).card(member.ref) for member in members]
    review = open_review(archive, database)
    chosen = read_recipe(recipe, epochs=epochs, by=by, seed=seed, window=window)
    done = []
    for card in cards:
        folder = out / f"{card.name}@{version or next_version(card)}"
        with progress_bar(f"retrain {folder.name}", chosen.epochs, unit="epochs") as bar:
            record = run(
                folder,
                archive,
                review,
                card.ref,
                zoo=start_zoo,
                version=version,
                recipe=chosen,
                on_epoch=lambda *_, bar=bar: bar.advance(),
            )
        found = record["comparison"]
        if found["better"] and zoo is not None:
            publish(folder, zoo)
        done.append(
            {
                "old": card.ref,
                "new": folder.name,
                "verdicts": record["verdicts"],
                **found,
                "zoo": zoo if found["better"] else None,
                "record": str(folder),
            }
        )
    if as_json:
        print_json(done)
        return
    for one in done:
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
            print(f"  better; {'put into ' + zoo if zoo else 'name a --zoo that gets it'}")
        else:
            print(f"  not offered: {one['why_not']}")
        print(f"  record: {one['record']}")


@app.command("train-all")
def train_all(
    archive: ArchiveArg,
    out: Annotated[Path, typer.Option(help="Folder: a training a member, and the page.")] = Path(
        "training"
    ),
    families: Annotated[str, typer.Option(help="Families, comma-separated.")] = "rb,sl,kd",
    architectures: Annotated[
        str, typer.Option(help="Architectures, comma-separated.")
    ] = "vgg6,resnet50,densenet121",
    zoo: Annotated[
        str | None, typer.Option(help="Zoo that gets the networks, too: a path or URL.")
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the networks in the zoo.")] = "1",
    recipe: RecipeOption = "duev2019",
    epochs: EpochsOption = None,
    seed: SeedOption = None,
    window: WindowOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train every member of every family, one by one, and draw learning curves, ROC and confusion.

    Killed? Run it again: it goes on.

    Example: deepstreaks train-all week.zarr --recipe short --out week-training
    """
    from deepstreaks_dask.training.all_members import train_all_members
    from deepstreaks_dask.training.recipe import read_recipe
    from deepstreaks_dask.training.records import publish
    from deepstreaks_dask.utils.progress import progress_bar

    chosen = read_recipe(recipe, epochs=epochs, seed=seed, window=window)
    names = [name.strip() for name in families.split(",")]
    kinds = [name.strip() for name in architectures.split(",")]
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


@app.command()
def sweep(
    archive: ArchiveArg,
    family: Annotated[list[str], typer.Option(help="rb, sl, kd or os. Repeated: together.")],
    search: Annotated[
        list[str],
        typer.Option(help="setting=1e-4:1e-2 (range) or setting=16,32,64 (choices). Repeated."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the sweep; workers must reach it.")] = Path(
        "sweep"
    ),
    architecture: Annotated[str, typer.Option(help="vgg6, resnet50 or densenet121.")] = "vgg6",
    trials: Annotated[int, typer.Option(min=1, help="Trainings in all.")] = 20,
    recipe: RecipeOption = "short",
    epochs: EpochsOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the settings that are tried.")] = 0,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search for better settings on Dask workers, one network a worker. Killed? Run it again.

    Needs Optuna: pip install 'deepstreaks-dask[sweep]'.

    Example: deepstreaks sweep week.zarr --family rb --search learning_rate=1e-4:1e-2 --trials 20
    """
    from deepstreaks_dask.archive.dataset import open_archive
    from deepstreaks_dask.scoring.cluster import connect
    from deepstreaks_dask.training.recipe import read_recipe
    from deepstreaks_dask.training.sweeps import sweep as run

    space = {}
    for item in search:
        name, _, spec = item.partition("=")
        space[name.strip()] = spec
    chosen = read_recipe(recipe, epochs=epochs)
    open_archive(archive)  # before workers start for nothing
    with connect(scheduler, workers=workers) as client:
        table = run(
            out,
            archive,
            family,
            architecture,
            space,
            client,
            trials=trials,
            recipe=chosen,
            seed=seed,
        )
    if as_json:
        print_json(json.loads(table.to_json(orient="records")))
        return
    print(table.head(10).to_string(index=False))
    print(f"best settings: {out / 'best.toml'}, for 'deepstreaks train --recipe'")
