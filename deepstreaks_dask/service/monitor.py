"""Health, metrics for Prometheus, and the log of the nightly service: JSON lines in a file or on standard output."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    generate_latest,
)
from sqlalchemy.exc import SQLAlchemyError

from deepstreaks_dask.errors import DeepStreaksError, DepotError
from deepstreaks_dask.service.night_calendar import STATES

_LOG_BYTES, _LOG_FILES = 5_000_000, 5
_MAX_REQUEST_SECONDS = 30.0  # for one who asks and then says nothing


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, event, and what was given with it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        return json.dumps(line, default=str)


@contextmanager
def open_log(path: Path, *, to_stdout: bool = False) -> Iterator[logging.Logger]:
    """Open a log of its own that starts a new file every 5 MB and keeps five old ones.

    Parameters
    ----------
    path : Path
        The file; nobody else may read it.
    to_stdout : bool
        Whether lines go to standard output, too.

    Yields
    ------
    logging.Logger
        Writes JSON lines.
    """
    logger = logging.Logger(f"deepstreaks_dask.service.service {path}", logging.INFO)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    handlers: list[logging.Handler] = [
        RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES)
    ]
    if to_stdout:
        handlers.append(logging.StreamHandler(sys.stdout))
    for handler in handlers:
        handler.setFormatter(JsonLines())
        logger.addHandler(handler)
    try:
        yield logger
    finally:
        for handler in handlers:
            handler.close()


@dataclass
class Monitor:
    """Counts, the log, and the result of the last pass.

    Attributes
    ----------
    log : logging.Logger
        Where it writes.
    patience : float
        Seconds without any progress after which the service is not healthy. A pass may last as long as it likes, as
        long as it moves.
    problems : list of str
        What went wrong in the last pass.
    passed : float or None
        When the last pass ended, seconds since 1970; None before the first.
    waiting_since : float or None
        When the file that has waited longest was first seen, seconds since 1970; None if none waits.
    gaps : list of int
        Nights before tonight that are neither scored nor given up.
    nights : dict of str to int
        Number of nights in each state.
    undelivered : int
        Messages that are still to be delivered.
    """

    log: logging.Logger
    patience: float
    problems: list[str] = field(default_factory=list)
    passed: float | None = None
    waiting_since: float | None = None
    gaps: list[int] = field(default_factory=list)
    nights: dict[str, int] = field(default_factory=dict)
    undelivered: int = 0

    def __post_init__(self) -> None:
        self.registry = CollectorRegistry()
        self._started = time.time()
        self._moved = time.monotonic()

        def counter(name: str, what: str) -> Counter:
            return Counter(f"deepstreaks_watch_{name}", what, registry=self.registry)

        def gauge(name: str, what: str, value: Callable[[], float]) -> None:
            made = Gauge(f"deepstreaks_watch_{name}", what, registry=self.registry)
            made.set_function(value)

        self.files = counter("files", "Files of the depot seen")
        self.seen = counter("cutouts_seen", "Cutouts added to the archive")
        self.scored = counter("cutouts_scored", "Cutouts scored")
        self.quarantined = counter("quarantined", "Inputs refused")
        self.candidates = counter("candidates", "Plausible cutouts recorded")
        self.messages = counter("messages", "Messages that were accepted")
        self.failures = counter("failures", "Things that went wrong, and were tried again")
        gauge(
            "lag_seconds",
            "Age of the file that has waited longest to be taken in, 0 if none waits",
            self.lag,
        )
        gauge("healthy", "1 if health is ok, else 0", lambda: float(self.health()["ok"]))
        gauge("quiet_seconds", "Seconds since anything has moved", self.quiet)
        gauge("gaps", "Nights before tonight neither scored nor given up", lambda: len(self.gaps))
        gauge("messages_waiting", "Messages still to be delivered", lambda: self.undelivered)
        by_state = Gauge(
            "deepstreaks_watch_nights", "Nights of the calendar", ["state"], registry=self.registry
        )
        for state in STATES:
            by_state.labels(state).set_function(partial(self._nights_in, state))

    def _nights_in(self, state: str) -> float:
        return float(self.nights.get(state, 0))

    def moved(self) -> None:
        """Note that something moved: bytes that arrived, cutouts that were scored."""
        self._moved = time.monotonic()

    def quiet(self) -> float:
        """Return the seconds since anything has moved."""
        return time.monotonic() - self._moved

    def lag(self) -> float:
        """Return how long the file that has waited longest has waited, in seconds."""
        return 0.0 if self.waiting_since is None else max(time.time() - self.waiting_since, 0.0)

    def event(self, name: str, **fields: Any) -> None:
        """Log that something happened.

        Parameters
        ----------
        name : str
            What happened.
        **fields
            Said in the log, too.
        """
        self.log.info(name, extra={"fields": fields})

    def failure(self, name: str, error: BaseException, **fields: Any) -> None:
        """Log that something went wrong, and let health show it; of what nobody has foreseen the traceback, too.

        Parameters
        ----------
        name : str
            Of the file or step.
        error : BaseException
            What went wrong.
        **fields
            Said in the log, too.
        """
        self.failures.inc()
        self.problems.append(f"{name}: {error}")
        said = {"error": str(error), "kind": type(error).__name__, **fields}
        if not isinstance(error, DeepStreaksError | OSError | SQLAlchemyError):
            said["traceback"] = traceback.format_exception(error)[-20:]
        self.log.error(name, extra={"fields": said})

    def health(self) -> dict[str, Any]:
        """Return whether the service is well, and what there is to know about it."""
        quiet = self.quiet()
        return {
            "ok": not self.problems and quiet < self.patience,
            "problems": self.problems,
            "gaps": self.gaps,
            "nights": self.nights,
            "undelivered_messages": self.undelivered,
            "lag_seconds": round(self.lag(), 1),
            "seconds_since_progress": round(quiet, 1),
            "seconds_since_last_pass": round(time.time() - (self.passed or self._started), 1),
        }


@contextmanager
def serve(monitor: Monitor, port: int, address: str = "127.0.0.1") -> Iterator[int]:
    """Answer ``/health`` (200 or 503) and ``/metrics``.

    Parameters
    ----------
    monitor : Monitor
        Whose state it is.
    port : int
        0 takes a free one.
    address : str
        Of the interface, the loopback by default. Nobody is asked for a password.

    Yields
    ------
    int
        The port.

    Raises
    ------
    DepotError
        If the port is taken, or the address is not this machine's.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = 404, "text/plain", b"ask for /health or /metrics\n"
            if self.path == "/metrics":
                status, kind, body = 200, CONTENT_TYPE_LATEST, generate_latest(monitor.registry)
            elif self.path == "/health":
                health = monitor.health()
                status = 200 if health["ok"] else 503
                kind, body = "application/json", json.dumps(health).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        timeout = _MAX_REQUEST_SECONDS

        def log_message(self, *_: Any) -> None:
            """Keep standard error free."""

    try:
        server = _Server((address, port), Handler)
    except OSError as error:
        raise DepotError(
            f"port {port} of {address} cannot be used: {error.strerror or error}; give another one"
        ) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
