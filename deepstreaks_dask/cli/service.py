"""The command of the nightly service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepstreaks_dask.cli.app import app
from deepstreaks_dask.cli.options import (
    AdaptOption,
    ArchiveArg,
    DecideOption,
    JsonOption,
    RunOption,
    SchedulerOption,
    ThresholdOption,
    WorkersOption,
    ZooOption,
    parse_thresholds,
    say,
)
from deepstreaks_dask.errors import DeepStreaksError


@app.command()
def watch(
    depot: Annotated[str, typer.Argument(help="URL of a directory listing, or a folder.")],
    archive: ArchiveArg,
    state: Annotated[
        Path, typer.Option(help="Folder of the service: downloads, record, log.")
    ] = Path("watch"),
    night: Annotated[int | None, typer.Option(help="Only this night, YYYYMMDD.")] = None,
    first: Annotated[int | None, typer.Option("--from", help="First night to back-fill.")] = None,
    last: Annotated[
        int | None, typer.Option("--to", help="Last night; tonight by default.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 60.0,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds that a tarball may wait to become whole.")
    ] = 900.0,
    credentials: Annotated[
        Path | None, typer.Option(help="File like .netrc, mode 600; else from the environment.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the depot.")] = 30.0,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Health and metrics on the loopback.")
    ] = None,
    threshold: ThresholdOption = None,
    only_decide: DecideOption = False,
    run: RunOption = "default",
    zoo: ZooOption = None,
    workers: WorkersOption = None,
    adapt: AdaptOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch, append, score and record what is new in a depot, again and again. Ctrl+C ends it.

    User and password are taken from DEEPSTREAKS_DEPOT_USER and DEEPSTREAKS_DEPOT_PASSWORD.

    Example: deepstreaks watch https://depot.example/ztf survey.zarr --night 20260105 --once
    """
    import signal
    import threading
    from functools import partial

    from deepstreaks_dask.scoring.cluster import connect
    from deepstreaks_dask.service.depots import open_depot
    from deepstreaks_dask.service.service import Scorer, Settings, nights_between
    from deepstreaks_dask.service.service import watch as run_service

    if night is not None and (first is not None or last is not None):
        raise DeepStreaksError("give --night, or --from and --to, not both")
    nights = nights_between(night or first, night or last)
    source = open_depot(depot, credentials=credentials, timeout=timeout)
    settings = Settings(archive, state, run=run, poll=poll, patience=patience, port=port)
    connect_workers = partial(connect, scheduler, workers=workers, adapt=adapt)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    scorer = Scorer(zoo, run, parse_thresholds(threshold), connect_workers, only_decide=only_decide)
    with scorer:
        did = run_service(source, settings, scorer, nights, once=once, stop=stop)
    say(as_json, did)
