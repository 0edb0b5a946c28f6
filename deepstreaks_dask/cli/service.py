"""The command of the nightly service."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from deepstreaks_dask.cli.app import app
from deepstreaks_dask.cli.options import (
    AdaptiveWorkerOptions,
    ArchiveArg,
    DecideOption,
    JsonOption,
    RunOption,
    ThresholdOption,
    ZooOption,
    parse_thresholds,
)
from deepstreaks_dask.cli.output import say
from deepstreaks_dask.errors import DeepStreaksError


@dataclass(frozen=True)
class NightOptions:
    """Which nights the service takes."""

    night: Annotated[int | None, typer.Option(help="Only this night, YYYYMMDD.")] = None
    first: Annotated[int | None, typer.Option("--from", help="First night to back-fill.")] = None
    last: Annotated[int | None, typer.Option("--to", help="Last night; tonight by default.")] = None


@dataclass(frozen=True)
class ServiceOptions:
    """How the service looks for what is new.

    Attributes
    ----------
    state, port
        Its folder; health and metrics.
    once, poll, patience
        How often it looks, and how many seconds a tarball may wait.
    credentials, timeout
        Of the depot; the timeout in seconds.
    """

    state: Annotated[Path, typer.Option(help="Folder of the service: downloads, record, log.")] = (
        Path("watch")
    )
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 60.0
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds that a tarball may wait to become whole.")
    ] = 900.0
    credentials: Annotated[
        Path | None, typer.Option(help="File like .netrc, mode 600; else from the environment.")
    ] = None
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the depot.")] = 30.0
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Health and metrics on the loopback.")
    ] = None


@dataclass(frozen=True)
class ScorerOptions:
    """How the service scores."""

    threshold: ThresholdOption = None
    only_decide: DecideOption = False
    run: RunOption = "default"
    zoo: ZooOption = None


@app.command()
def watch(
    depot: Annotated[str, typer.Argument(help="URL of a directory listing, or a folder.")],
    archive: ArchiveArg,
    nights: NightOptions,
    service: ServiceOptions,
    scoring: ScorerOptions,
    workers: AdaptiveWorkerOptions,
    as_json: JsonOption = False,
) -> None:
    """Fetch, append, score and record what is new in a depot, again and again. Ctrl+C ends it.

    User and password are taken from DEEPSTREAKS_DEPOT_USER and DEEPSTREAKS_DEPOT_PASSWORD.

    Example: deepstreaks watch https://depot.example/ztf survey.zarr --night 20260105 --once
    """
    import signal
    import threading

    from deepstreaks_dask.service.depots import open_depot
    from deepstreaks_dask.service.service import Scorer, Settings, nights_between
    from deepstreaks_dask.service.service import watch as run_service

    if nights.night is not None and (nights.first is not None or nights.last is not None):
        raise DeepStreaksError("give --night, or --from and --to, not both")
    between = nights_between(nights.night or nights.first, nights.night or nights.last)
    source = open_depot(depot, credentials=service.credentials, timeout=service.timeout)
    settings = Settings(
        archive,
        service.state,
        run=scoring.run,
        poll=service.poll,
        patience=service.patience,
        port=service.port,
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    scorer = Scorer(
        scoring.zoo,
        scoring.run,
        parse_thresholds(scoring.threshold),
        workers.connect,
        only_decide=scoring.only_decide,
    )
    with scorer:
        did = run_service(source, settings, scorer, between, once=service.once, stop=stop)
    say(as_json, did)
