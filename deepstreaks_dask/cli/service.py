"""The commands of the nightly service."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from deepstreaks_dask.cli.output import print_table, say
from deepstreaks_dask.errors import DeepStreaksError

if TYPE_CHECKING:
    from deepstreaks_dask.service.channels import Channel
    from deepstreaks_dask.service.depots import Depot


@dataclass(frozen=True)
class NightOptions:
    """Which nights the service takes."""

    night: Annotated[int | None, typer.Option(help="Only this night, YYYYMMDD.")] = None
    first: Annotated[int | None, typer.Option("--from", help="First night to back-fill.")] = None
    last: Annotated[
        int | None, typer.Option("--to", help="Last night, and no more; tonight by default.")
    ] = None


StateOption = Annotated[Path, typer.Option(help="Folder of the service: downloads, state, log.")]


@dataclass(frozen=True)
class ServiceOptions:
    """How the service looks for what is new.

    Attributes
    ----------
    state, port, address, log_stdout
        Its folder; health and metrics; its log.
    once, poll, patience, late_days
        How often it looks, how many seconds a tarball may wait, and how many days a night.
    """

    state: StateOption = Path("watch")
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 60.0
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds that a tarball may wait to become whole.")
    ] = 900.0
    late_days: Annotated[
        int, typer.Option(min=1, help="Days for which files of a night may come late.")
    ] = 14
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of health and metrics.")
    ] = None
    address: Annotated[
        str, typer.Option(help="Address for --port; 0.0.0.0 lets other machines ask.")
    ] = "127.0.0.1"
    log_stdout: Annotated[
        bool,
        typer.Option("--log-stdout", help="Write the log's JSON lines to standard output, too."),
    ] = False


@dataclass(frozen=True)
class DepotOptions:
    """How the depot is asked.

    Attributes
    ----------
    credentials, allow_plaintext
        Of the depot, and whether they may be sent without encryption.
    timeout, download_timeout : float
        Seconds for a listing, and for an attempt at a file.
    largest_file : float
        In GB.
    """

    credentials: Annotated[
        Path | None, typer.Option(help="File like .netrc, mode 600; else from the environment.")
    ] = None
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for a listing, and for each part of a file.")
    ] = 30.0
    download_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds for an attempt at a file; the next one resumes.")
    ] = 3600.0
    largest_file: Annotated[float, typer.Option(min=0.001, help="Largest file, in GB.")] = 4.0
    allow_plaintext: Annotated[
        bool,
        typer.Option(
            "--allow-plaintext",
            help="Send passwords and call webhooks without encryption, where nobody else is on the way.",
        ),
    ] = False

    def open(self, place: str) -> Depot:
        """Open the depot at a URL or in a folder."""
        from deepstreaks_dask.service.depots import Limits, open_depot

        limits = Limits(
            timeout=self.timeout,
            download=self.download_timeout,
            file_bytes=int(self.largest_file * 1e9),
        )
        return open_depot(
            place,
            credentials=self.credentials,
            limits=limits,
            allow_plaintext=self.allow_plaintext,
        )


@dataclass(frozen=True)
class MessageOptions:
    """Who is told, and how."""

    webhook: Annotated[
        Path | None,
        typer.Option(help="File with the URL of a webhook, mode 600; else DEEPSTREAKS_WEBHOOK."),
    ] = None
    smtp: Annotated[str | None, typer.Option(help="Mail server: smtps://HOST or smtp://HOST.")] = (
        None
    )
    mail_to: Annotated[
        list[str] | None,
        typer.Option(help="Recipient of e-mail; may be repeated.", metavar="ADDRESS"),
    ] = None
    mail_from: Annotated[str | None, typer.Option(help="Sender of e-mail.")] = None
    mail_credentials: Annotated[
        Path | None,
        typer.Option(help="File like .netrc, mode 600; else DEEPSTREAKS_SMTP_USER and _PASSWORD."),
    ] = None
    site: Annotated[str, typer.Option(help="Address of the review, for links in messages.")] = ""

    def channels(self, allow_plaintext: bool) -> tuple[Channel, ...]:
        """Return the channels that are configured.

        Parameters
        ----------
        allow_plaintext : bool
            Whether secrets may be sent without encryption.

        Returns
        -------
        tuple of Channel
            None is asked anything yet.

        Raises
        ------
        DeepStreaksError
            If something is missing or cannot be used.
        """
        from urllib.parse import urlsplit

        from deepstreaks_dask.service.channels import Mail, Webhook, read_webhook
        from deepstreaks_dask.service.credentials import (
            SMTP_PASSWORD,
            SMTP_USER,
            read_credentials,
        )

        found: list[Channel] = []
        if url := read_webhook(self.webhook):
            found.append(Webhook(url, allow_plaintext=allow_plaintext))
        if self.smtp is None and not self.mail_to:
            return tuple(found)
        if self.smtp is None or not self.mail_to or self.mail_from is None:
            raise DeepStreaksError("for e-mail give --smtp, --mail-from and --mail-to")
        host = urlsplit(self.smtp).hostname or ""
        credentials = read_credentials(
            self.mail_credentials, host, variables=(SMTP_USER, SMTP_PASSWORD)
        )
        for recipient in self.mail_to:
            mail = Mail(
                self.smtp,
                self.mail_from,
                recipient,
                credentials=credentials,
                allow_plaintext=allow_plaintext,
            )
            found.append(mail)
        return tuple(found)


@dataclass(frozen=True)
class ScorerOptions:
    """How the service scores."""

    threshold: ThresholdOption = None
    only_decide: DecideOption = False
    run: RunOption = "default"
    zoo: ZooOption = None
    rescore_from: Annotated[
        int | None,
        typer.Option(help="Let --run score the past, too, from this night on, YYYYMMDD."),
    ] = None


@app.command()
def watch(
    depot: Annotated[str, typer.Argument(help="URL of a directory listing, or a folder.")],
    archive: ArchiveArg,
    nights: NightOptions,
    service: ServiceOptions,
    access: DepotOptions,
    messages: MessageOptions,
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

    from deepstreaks_dask.service.nights import nights_between, to_date
    from deepstreaks_dask.service.scorer import Scorer
    from deepstreaks_dask.service.service import Settings
    from deepstreaks_dask.service.service import watch as run_service

    if nights.night is not None and (nights.first is not None or nights.last is not None):
        raise DeepStreaksError("give --night, or --from and --to, not both")
    if scoring.rescore_from is not None:
        to_date(scoring.rescore_from)
    between = nights_between(
        nights.night or nights.first, nights.night if nights.night is not None else nights.last
    )
    source = access.open(depot)
    settings = Settings(
        archive,
        service.state,
        run=scoring.run,
        rescore_from=scoring.rescore_from,
        poll=service.poll,
        patience=service.patience,
        late_days=service.late_days,
        port=service.port,
        address=service.address,
        log_to_stdout=service.log_stdout,
        channels=messages.channels(access.allow_plaintext),
        site=messages.site,
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
        stop=stop,
    )
    with scorer:
        did = run_service(source, settings, scorer, between, once=service.once, stop=stop)
    say(as_json, did)


@app.command()
def nights(
    state: StateOption = Path("watch"),
    as_json: JsonOption = False,
) -> None:
    """Show the calendar of 'deepstreaks watch': what became of each night, and where gaps are.

    Example: deepstreaks nights --state watch
    """
    import json

    from deepstreaks_dask.service.state import Ledger

    file = state / "watch.sqlite"
    if not file.is_file():
        raise DeepStreaksError(f"{state} is no folder of 'deepstreaks watch': give its --state")
    ledger = Ledger(file)
    try:
        gaps = set(ledger.calendar.gaps())
        rows = [
            {
                "night": row["night"],
                "state": row["state"],
                "gap": row["night"] in gaps,
                **ledger.numbers(row["night"]),
                "detail": row["detail"],
            }
            for row in ledger.calendar.rows()
        ]
    finally:
        ledger.close()
    if as_json:
        print(json.dumps(rows))
        return
    columns = ("night", "state", "files", "waiting", "cutouts", "candidates", "detail")
    print_table(columns, [[row[name] for name in columns] for row in rows])
    print(f"Gaps: {', '.join(map(str, sorted(gaps))) or 'none'}.")
