"""Commands that find thresholds, and list those that are saved with an archive."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepstreaks_dask.cli.app import thresholds_app
from deepstreaks_dask.cli.completion import choose
from deepstreaks_dask.cli.options import ArchiveArg, JsonOption, RunOption
from deepstreaks_dask.cli.output import STANDARD_OUTPUT, open_output, print_json, print_table

if TYPE_CHECKING:
    from deepstreaks_dask.evaluation.threshold_search import Found

RESAMPLINGS = 100
"""How often the nights are resampled for the intervals."""


@dataclass(frozen=True)
class SearchOptions:
    """What thresholds are searched for.

    Attributes
    ----------
    fpr : float, optional
        Rate, 0 to 1.
    budget : float, optional
        Candidates a night.
    by, seed
        What has a threshold of its own; the nights that are held out.
    """

    fpr: Annotated[float | None, typer.Option(help="False-positive rate allowed.")] = None
    budget: Annotated[
        float | None, typer.Option(help="Or candidates a night allowed, in the mean.")
    ] = None
    by: Annotated[
        str,
        typer.Option(
            help="A threshold for each family or member.", autocompletion=choose("search")
        ),
    ] = "family"
    seed: Annotated[int, typer.Option(min=0, help="Of the nights kept out of the search.")] = 0


@thresholds_app.command("search")
def thresholds_search(
    archive: ArchiveArg,
    search: SearchOptions,
    run: RunOption = "default",
    save: Annotated[
        str | None, typer.Option(help="Name to keep them by, with the archive.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="TOML file to write them to; - is standard output."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the thresholds with the highest true-positive rate at a price; labels are needed.

    A third of the nights is kept out of the search, and says what they are worth.

    Example: deepstreaks thresholds search week.zarr --fpr 0.01 --by member --save "one per cent"
    """
    from dataclasses import asdict

    from deepstreaks_dask.evaluation.interactive import open_exploration
    from deepstreaks_dask.evaluation.threshold_search import search_thresholds
    from deepstreaks_dask.scoring.threshold_sets import save_thresholds, to_toml
    from deepstreaks_dask.utils.progress import progress_bar
    from deepstreaks_dask.utils.storage import write_text

    with open_output(output, ".toml", as_json=as_json) as path:
        with progress_bar("search thresholds", RESAMPLINGS, unit="resamplings") as bar:
            exploration = open_exploration(archive, run)
            found = search_thresholds(
                exploration, rounds=RESAMPLINGS, advance=bar.advance, **asdict(search)
            )
        written = [save_thresholds(archive, save, found.decision, run=run)] if save else []
        if path:
            name = save or Path(path).stem
            write_text(path, to_toml(found.decision, name, run=run, archive=archive))
    if output == STANDARD_OUTPUT:
        return
    written += [output] if output else []
    if as_json:
        tables = {
            name: json.loads(table.to_json(orient="records", double_precision=15))
            for name, table in (("thresholds", found.thresholds), ("rates", found.rates))
        }
        print_json({**tables, "nights": found.nights, "written": written})
        return
    _print_search(found, search)
    for place in written:
        print(f"deepstreaks decide {shlex.join([archive, '--thresholds', place])}")


def _print_search(found: Found, search: SearchOptions) -> None:
    print_table(
        ("threshold of", "value", "95 %, nights resampled"),
        [
            (row["name"], f"{row['threshold']:.6g}", f"{row['low']:.4g} to {row['high']:.4g}")
            for _, row in found.thresholds.iterrows()
        ],
        kept=2,
    )
    over = f"nights over {search.fpr if search.budget is None else search.budget:g}"
    rows = []
    for _, row in found.rates.iterrows():
        cells = [
            f"{row[k]:.{n}f} [{row[k + '_low']:.{n}f}, {row[k + '_high']:.{n}f}]"
            for k, n in (("tpr", 4), ("fpr", 4), ("candidates", 1))
        ]
        rows.append((f"{row['nights']} {row['part']}", *cells, str(row["over"])))
    print_table(("nights", "TPR", "FPR", "candidates a night", over), rows)
    print("What to expect is the last row: the others were used to choose. Brackets: 95 %.")


@thresholds_app.command("list")
def thresholds_list(archive: ArchiveArg, as_json: JsonOption = False) -> None:
    """List the sets of thresholds that are kept with an archive.

    Example: deepstreaks thresholds list week.zarr
    """
    from deepstreaks_dask.scoring.threshold_sets import read_thresholds, saved_thresholds

    sets = {name: read_thresholds(path) for name, path in saved_thresholds(archive).items()}
    if as_json:
        print_json({name: {**found.thresholds} for name, found in sets.items()})
        return
    for name, found in sets.items():
        values = ", ".join(f"{key} {value:g}" for key, value in found.thresholds.items())
        print(f"{name}: {values or 'none of its own'}; else {found.default:g}")
    if not sets:
        print("none yet: 'deepstreaks thresholds search' or the explore dashboard saves them")
