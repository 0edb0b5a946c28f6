"""What the nightly service lets others see: a rotating log of JSON lines, health, and metrics for Prometheus."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
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

from deepstreaks_dask.errors import DepotError

_LOG_BYTES, _LOG_FILES = 5_000_000, 5


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, event, and what was given with it."""

    def format(self, record: logging.LogRecord) -> str:
        """Spell a record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        return json.dumps(line, default=str)


@contextmanager
def open_log(path: Path) -> Iterator[logging.Logger]:
    """Open a log of its own that starts a new file every 5 MB and keeps five old ones."""
    logger = logging.Logger(f"deepstreaks_dask.service.service {path}", logging.INFO)
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES)
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        handler.close()


@dataclass
class Monitor:
    """Counts, the log, and what the last pass came to.

    Attributes
    ----------
    log : logging.Logger
        Where it writes.
    patience : float
        Seconds without a pass after which the service is not healthy.
    problems : list of str
        What went wrong in the last pass.
    passed : float or None
        When the last pass ended, seconds since 1970; None before the first.
    waiting_since : float or None
        When the file that has waited longest was first seen, seconds since 1970; None if none waits.
    """

    log: logging.Logger
    patience: float
    problems: list[str] = field(default_factory=list)
    passed: float | None = None
    waiting_since: float | None = None

    def __post_init__(self) -> None:
        self.registry = CollectorRegistry()
        self._started = time.time()

        def counter(name: str, what: str) -> Counter:
            return Counter(f"deepstreaks_watch_{name}", what, registry=self.registry)

        self.files = counter("files", "Files of the depot seen")
        self.seen = counter("cutouts_seen", "Cutouts added to the archive")
        self.scored = counter("cutouts_scored", "Cutouts scored")
        self.quarantined = counter("quarantined", "Inputs refused")
        self.candidates = counter("candidates", "Plausible cutouts recorded")
        self.failures = counter("failures", "Things that went wrong, and were tried again")
        lag = Gauge(
            "deepstreaks_watch_lag_seconds",
            "Age of the file that has waited longest to be taken in, 0 if none waits",
            registry=self.registry,
        )
        lag.set_function(self.lag)

    def lag(self) -> float:
        """Seconds that the file that has waited longest has waited."""
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
        """Log that something went wrong, and let health show it.

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
        self.log.error(
            name, extra={"fields": {"error": str(error), "kind": type(error).__name__, **fields}}
        )

    def health(self) -> dict[str, Any]:
        """Say how the service is."""
        quiet = time.time() - (self.passed or self._started)
        return {
            "ok": not self.problems and quiet < self.patience,
            "problems": self.problems,
            "lag_seconds": round(self.lag(), 1),
            "seconds_since_last_pass": round(quiet, 1),
        }


@contextmanager
def serve(monitor: Monitor, port: int) -> Iterator[int]:
    """Answer ``/health`` (200 or 503) and ``/metrics`` on the loopback interface; give the port.

    Parameters
    ----------
    monitor : Monitor
        Whose state it is.
    port : int
        0 takes a free one.

    Yields
    ------
    int
        The port.

    Raises
    ------
    DepotError
        If the port is taken.
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

        def log_message(self, *_: Any) -> None:
            """Keep standard error free."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise DepotError(
            f"port {port} cannot be used: {error.strerror}; give another one"
        ) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
