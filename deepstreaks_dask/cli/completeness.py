"""Commands that inject streaks, and measure which of them, or of known objects, are found."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import typer

from deepstreaks_dask.cli.app import app
from deepstreaks_dask.cli.options import (
    ArchiveArg,
    DecisionOptions,
    JsonOption,
    OverwriteOption,
    check_new,
    parse_numbers,
)
from deepstreaks_dask.cli.output import (
    STANDARD_OUTPUT,
    open_output,
    print_frame,
    print_json,
    print_remark,
    say,
)


@dataclass(frozen=True)
class GridOptions:
    """Which streaks are injected."""

    magnitudes: Annotated[str, typer.Option(help="Of the whole streaks, comma-separated.")] = (
        "15,16,17,18,19"
    )
    lengths: Annotated[str, typer.Option(help="Pixels, comma-separated.")] = "5,10,20,40,80"
    each: Annotated[int, typer.Option(min=1, help="Streaks a magnitude and length.")] = 50
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal streaks.")] = 0


@dataclass(frozen=True)
class ExposureOptions:
    """What an exposure makes of light.

    Attributes
    ----------
    noise : float, optional
        Electrons.
    zero_point : float, optional
        Magnitude.
    """

    noise: Annotated[
        float | None, typer.Option(help="Electrons, noise of an empty pixel of a real cutout.")
    ] = None
    zero_point: Annotated[
        float | None, typer.Option(help="Magnitude of one electron in the exposure.")
    ] = None


@app.command()
def inject(
    grid: GridOptions,
    exposure: ExposureOptions,
    archive: Annotated[
        str | None, typer.Argument(help="Archive whose cutouts get streaks. None: simulated ones.")
    ] = None,
    out: Annotated[str, typer.Option(help="Archive to make: a path or URL.")] = "injected.zarr",
    where: Annotated[
        str, typer.Option(help="Filter: which cutouts. Default: bogus ones, where labelled.")
    ] = "",
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put simulated streaks of known magnitude and length into cutouts, to see which are recovered.

    Then: deepstreaks score injected.zarr && deepstreaks completeness injected.zarr

    Example: deepstreaks inject survey.zarr --out injected.zarr --magnitudes 16,17,18 --lengths 5,20
    """
    from deepstreaks_dask.simulation.injection import NOISE_LEVEL, HostOptions, InjectionGrid
    from deepstreaks_dask.simulation.injection import inject as run
    from deepstreaks_dask.simulation.nights import ZERO_POINT

    check_new(out, overwrite)
    result = run(
        archive,
        out,
        InjectionGrid(
            parse_numbers("--magnitudes", grid.magnitudes),
            parse_numbers("--lengths", grid.lengths),
            grid.each,
        ),
        hosts=HostOptions(
            where=where,
            noise=NOISE_LEVEL if exposure.noise is None else exposure.noise,
            zero_point=ZERO_POINT if exposure.zero_point is None else exposure.zero_point,
        ),
        seed=grid.seed,
        overwrite=overwrite,
    )
    say(as_json, result.to_dict())


@app.command()
def completeness(
    archive: ArchiveArg,
    decision: DecisionOptions,
    known: Annotated[
        str | None,
        typer.Option(
            help="Table of known objects, path or URL: id, jd, ra, dec. Default: injected streaks."
        ),
    ] = None,
    radius: Annotated[float, typer.Option(min=0, help="Arcseconds.")] = 10.0,
    seconds: Annotated[float, typer.Option(min=0, help="Seconds between the times.")] = 60.0,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="A .csv, or an .html of injected streaks; - is standard output, CSV.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what share of injected streaks, or of known objects, is found plausible.

    Example: deepstreaks completeness survey.zarr --known asteroids.csv --radius 5
    """
    from deepstreaks_dask.evaluation.completeness import recovery
    from deepstreaks_dask.evaluation.known_objects import completeness as match
    from deepstreaks_dask.evaluation.known_objects import read_known
    from deepstreaks_dask.report.recovery import write_map
    from deepstreaks_dask.utils.storage import write_text

    endings = (".csv",) if known else (".csv", ".html")
    with open_output(output, ".csv", as_json=as_json, endings=endings) as path:
        scores = decision.open(archive)
        decided = decision.decision(scores).apply(scores)
        if known is not None:
            found = match(decided, read_known(known), radius=radius, seconds=seconds)
            table = found.table
            rates = {name: getattr(found, name) for name in ("cut_out", "plausible", "recovered")}
        else:
            table, rates = recovery(decided), {}
        if path.endswith(".html"):
            write_map(decided, table, path)
        elif path:
            write_text(path, table.to_csv(index=False))
    if as_json:
        figures = {name: vars(rate) if rate.total else None for name, rate in rates.items()}
        print_json({**figures, "table": json.loads(table.to_json(orient="records"))})
        return
    for name, rate in rates.items():
        counted = f"({rate.count:,} of {rate.total:,})"
        print_remark(f"{name.replace('_', ' ')}: {rate} {counted}", output=output)
    if not rates and output != STANDARD_OUTPUT:
        print_frame(table[table["which"] == "decision"].drop(columns="which"))
