"""Commands on a zoo of networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from deepstreaks_dask.cli.app import models_app
from deepstreaks_dask.cli.completion import choose, complete_family
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
    path: Annotated[
        Path,
        typer.Argument(help="A .h5 file, or a folder of .h5 and .architecture.json files."),
    ],
    zoo: Annotated[str, typer.Option(help="Zoo that gets the networks: a path or URL.")] = "zoo",
    config: Annotated[
        Path | None,
        typer.Option(help="JSON table of names, like rb_vgg6, and base names of files."),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            help="Family of networks whose names do not say it, like rb.",
            autocompletion=complete_family,
        ),
    ] = None,
    scaling: Annotated[
        str,
        typer.Option(
            help="What the networks take: bytes (8-bit pixels as 0 to 1), l2 (each plane to norm 1, as braai) or none.",
            autocompletion=choose("scaling"),
        ),
    ] = "bytes",
    version: Annotated[str, typer.Option(help="Version of the networks in the zoo.")] = "1",
    as_json: JsonOption = False,
) -> None:
    """Import networks that Keras 2 wrote into a zoo: one, or all of a folder, or nothing if any file fails.

    Example: deepstreaks models import braai.h5 --family rb --scaling l2 --zoo my-zoo
    """
    from deepstreaks_dask.models.keras2.importer import import_legacy
    from deepstreaks_dask.models.keras2.sources import find_sources
    from deepstreaks_dask.utils.progress import progress_bar

    total = len(find_sources(path, config, family=family))
    with progress_bar("import", total, unit="networks") as bar:
        cards = import_legacy(
            path,
            zoo,
            config=config,
            family=family,
            scaling=scaling,
            version=version,
            on_model=lambda _: bar.advance(),
        )
    if as_json:
        print_json([card.to_dict() for card in cards])
        return
    for card in cards:
        shape = " x ".join(map(str, card.input_shape))
        print(
            f"{card.ref}: {card.architecture}, {shape}, scaling {card.scaling}, {card.description}"
        )
    families = ",".join(dict.fromkeys(card.family for card in cards))
    print(f"score with: deepstreaks score ARCHIVE --zoo {zoo} --families {families}")


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
