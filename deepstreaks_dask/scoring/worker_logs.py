"""Log files of worker processes: one file a worker, with all that it and its libraries print.

What a library prints from native code, such as CUDA when a card's memory is full, is often the only trace of why a
worker died. So standard output and standard error of each worker go to a file of a temporary folder. The file of a worker
that ends normally is removed; that of a worker that died is kept, and the error that ends the campaign names it.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask
import psutil
from distributed import WorkerPlugin

_TAIL_BYTES = 4000  # bytes at the end of a log that are read
_TAIL_LINES = 3  # lines of it that an error shows
_TAIL_LENGTH = 400  # characters of these
_LOG_NAME = re.compile(r"worker-(?P<name>.*)-(?P<pid>\d+)\.log")
_NOISE = re.compile(r"WARNING: All log messages before absl|[IW]0000 |To enable the following")
"""Begin lines of TensorFlow's that do not tell why a worker died."""


class WorkerLogs:
    """Log files of the workers of one cluster on this machine.

    Attributes
    ----------
    folder : Path
        Temporary folder, in Dask's ``temporary-directory`` if it is configured.
    """

    def __init__(self) -> None:
        where = dask.config.get("temporary-directory", None)
        self.folder = Path(tempfile.mkdtemp(prefix="deepstreaks-workers-", dir=where))

    @property
    def plugin(self) -> WorkerPlugin:
        """The plugin that has workers log here."""
        return _Logging(self.folder)

    def of_dead_workers(self) -> list[Path]:
        """Return the logs of workers that did not end normally, the last to die last."""
        logs = []
        for path in self.folder.glob("worker-*.log"):
            found = _LOG_NAME.fullmatch(path.name)
            if found is not None and not _is_alive(int(found["pid"])):
                logs.append(path)
        return sorted(logs, key=_changed)

    def last_words(self) -> str:
        """Return which log the last worker that died has left, and its last lines, in one line; empty if none has."""
        logs = self.of_dead_workers()
        if not logs:
            return ""
        lines = _last_lines(logs[-1])
        ends = f", which ends with: {' / '.join(lines)}" if lines else ""
        return f"the log of the last worker that died is {logs[-1]}{ends}"

    def remove(self, *, but: Collection[Path] = ()) -> None:
        """Remove the logs, and the folder if nothing is left in it.

        Parameters
        ----------
        but : collection of Path
            Logs that are kept.
        """
        for path in self.folder.glob("*"):
            if path not in but:
                path.unlink(missing_ok=True)
        with suppress(OSError):  # it is not empty
            self.folder.rmdir()


class _Logging(WorkerPlugin):
    """Have a worker process log to a file, and leave Ctrl-C to the client that the worker works for."""

    name = "deepstreaks-worker-logs"

    def __init__(self, folder: Path) -> None:
        self.folder, self.client_pid = str(folder), os.getpid()
        self.path: str | None = None

    def setup(self, worker: Any) -> None:
        if os.getpid() == self.client_pid or not Path(self.folder).is_dir():
            return
        name = re.sub(r"[^A-Za-z0-9.-]", "_", str(worker.name))
        self.path = str(Path(self.folder) / f"worker-{name}-{os.getpid()}.log")
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            with suppress(AttributeError, ValueError, OSError):
                stream.flush()
                stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
            os.dup2(file, descriptor)
        os.close(file)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all of a group

    def teardown(self, worker: Any) -> None:
        if self.path is not None:
            Path(self.path).unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if not _NOISE.match(line)][-_TAIL_LINES:]
    return [line[:_TAIL_LENGTH] for line in telling]
