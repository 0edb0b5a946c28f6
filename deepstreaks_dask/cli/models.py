"""Commands on a zoo of networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from deepstreaks_dask.cli.app import models_app
from deepstreaks_dask.cli.options import JsonOption, ZooOption
from deepstreaks_dask.cli.output import print_json, print_table
from deepstreaks_dask.errors import DeepStreaksError


@models_app.command("list")
def models_list(zoo: ZooOption = None, as_json: JsonOption = False) -> None:
    """List the networks of a zoo.

    Example: deepstreaks models list
    """
    from deepstreaks_dask.models.zoo.store import Zoo

    cards = Zoo(zoo).list()
    if as_json:
        print_json([card.to_dict() for card in cards])
        return
    if not cards:
        print(f"no networks in {zoo}")
        return
    rows = []
    for card in cards:
        auc = card.metrics.get("auc")
        figure = f"{auc:.4f}" if auc else ""
        rows.append((card.ref, card.architecture, card.created, figure, card.sha256))
    columns = "model", "architecture", "created", "test AUC", "sha256"
    print_table(columns, rows, importance=("model", "architecture", "test AUC"))


@models_app.command("import")
def models_import(
    folder: Annotated[Path, typer.Argument(help="Folder of .architecture.json and .h5 files.")],
    zoo: Annotated[str, typer.Option(help="Zoo that gets the networks: a path or URL.")],
    config: Annotated[
        Path | None,
        typer.Option(help="JSON table of names, like rb_vgg6, and base names of files."),
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the networks in the zoo.")] = "1",
    as_json: JsonOption = False,
) -> None:
    """Take networks that Keras 2 wrote, such as the published ones, into a zoo: all of a folder, or none.

    Example: deepstreaks models import published --config config.json --zoo my-zoo
    """
    from deepstreaks_dask.models.keras2.importer import find_sources, import_legacy
    from deepstreaks_dask.utils.progress import progress_bar

    total = len(find_sources(folder, config))
    with progress_bar("import", total, unit="networks") as bar:
        cards = import_legacy(
            folder, zoo, config=config, version=version, on_model=lambda _: bar.advance()
        )
    if as_json:
        print_json([card.to_dict() for card in cards])
        return
    for card in cards:
        print(f"{card.ref}: {card.architecture}, {card.description}")


@models_app.command("verify")
def models_verify(zoo: ZooOption = None) -> None:
    """Load every network of a zoo and check its hash.

    Example: deepstreaks models verify --zoo my-zoo
    """
    from deepstreaks_dask.models.zoo.store import Zoo

    store = Zoo(zoo)
    if not store.list():
        raise DeepStreaksError(f"no networks in {zoo}: check the path")
    problems = store.verify()
    for problem in problems:
        print(problem, file=sys.stderr)
    print("all networks are whole" if not problems else f"{len(problems)} problem(s)")
    raise typer.Exit(1 if problems else 0)
