"""Campaigns as processes of their own: start one, pause it, go on.

A campaign that a dashboard starts is ``deepstreaks score`` in a session of its own, and lives on when the dashboard
ends. What was started is written down in the user's own folder of state, never in the archive: nobody who can write to an
archive may say which processes are to be stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from deepstreaks_dask.archive.store import read_commit_record
from deepstreaks_dask.errors import CampaignError, DeepStreaksError
from deepstreaks_dask.scoring.heartbeat import read_pulse
from deepstreaks_dask.scoring.run_lock import check_name
from deepstreaks_dask.scoring.runs import SHIPPED_ZOO, Run, list_runs
from deepstreaks_dask.utils.storage import is_local, locate, write_whole
from deepstreaks_dask.utils.validation import STRICT, validate_json

SCHEDULER_VARIABLE = "DEEPSTREAKS_SCHEDULER"
"""Environment variable that names the scheduler of all campaigns that are started here, as ``--scheduler`` does."""

_FAMILY_NAME = re.compile(r"[A-Za-z0-9]{1,16}")
_LOG_TAIL_LENGTH = 2000  # characters at the end of a log that are looked at


@dataclass(frozen=True)
class LaunchedCampaign:
    """A campaign that was started here.

    Attributes
    ----------
    run : str
    pid : int
    born : float
        When the process began, in seconds since 1970 as the system tells it: another process may get the same ``pid`` later.
    command : tuple of str
    log : str
        Path of what it printed.
    started : str
    by : str
        Who started it.
    """

    __pydantic_config__ = STRICT

    run: str
    pid: int
    born: float
    command: tuple[str, ...]
    log: str
    started: str
    by: str

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process() is not None

    def _process(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.born) < 0.1
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def last_words(self) -> str:
        """Give the last line that it printed which is not a progress bar's; empty if there is none."""
        try:
            with Path(self.log).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL_LENGTH))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        lines = [line.rpartition("\r")[2].strip() for line in text.splitlines()]
        said = [line for line in lines if line.startswith("deepstreaks: ")]
        return (said or [line for line in lines if line] or [""])[-1].removeprefix("deepstreaks: ")


def start_campaign(
    archive: str | os.PathLike[str],
    run: str = "default",
    *,
    families: Sequence[str] = (),
    zoo: str | None = None,
    workers: int | None = None,
    by: str = "",
) -> LaunchedCampaign:
    """Begin a run, or go on with it, in a process of its own.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    run : str
    families : sequence of str
        Of a new run; rb, sl and kd by default. One that exists goes on with what it began with.
    zoo : str, optional
        The shipped one by default. A run goes on with the zoo that it began with only.
    workers : int, optional
        Worker processes; one a core by default. Not where ``DEEPSTREAKS_SCHEDULER`` names a scheduler that has workers.
    by : str
        Who asks for it.

    Returns
    -------
    Campaign
        It has begun, or its process has ended with an error that it tells.

    Raises
    ------
    CampaignError
        If the run is at work already, cannot have this name, or began with other families or another zoo.
    """
    check_name(run)
    cutouts, url = read_commit_record(archive).total, os.fspath(archive)
    fs, root = locate(url)
    if not cutouts:
        raise CampaignError(f"{os.fspath(archive)} holds no cutouts: ingest some first")
    if wrong := [name for name in families if not _FAMILY_NAME.fullmatch(name)]:
        raise CampaignError(f"no family {wrong[0]!r}: name them in letters and digits, like rb")
    most, there = os.cpu_count() or 1, os.environ.get(SCHEDULER_VARIABLE, "")
    if workers is not None and there and there not in ("local", "gpu"):
        raise CampaignError(f"the workers are those of {there}: leave their number out")
    if workers is not None and not 1 <= workers <= most:
        raise CampaignError(f"{workers} workers: this machine takes 1 to {most}")
    folder = _folder(url)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(folder / f"{run}.lock"):
        pulse, earlier = read_pulse(url, run), _read(folder, run)
        if (earlier is not None and earlier.alive) or (pulse is not None and pulse.fresh):
            raise CampaignError(f"the campaign {run!r} is at work already")
        arguments = [f"--run={run}"]
        if run in list_runs(url):
            arguments += _as_it_was(Run.attach(url, run).provenance, families, zoo)
        else:
            arguments += [f"--families={','.join(families)}"] if families else []
            arguments += [f"--zoo={zoo}"] if zoo else []
        arguments += [f"--workers={workers}"] if workers is not None else []
        command = (
            *(sys.executable, "-P", "-m", "deepstreaks_dask", "score"),
            *arguments,
            *("--", root if is_local(fs) else url),
        )
        log = folder / f"{run}.log"
        with open(log, "wb", opener=_private) as output:
            process = subprocess.Popen(  # noqa: S603 - a list, of what was checked above
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        born = psutil.Process(process.pid).create_time()  # before it can be gone
        threading.Thread(target=process.wait, daemon=True).start()
        campaign = LaunchedCampaign(
            run,
            process.pid,
            born,
            command,
            str(log),
            datetime.now(UTC).isoformat(timespec="seconds"),
            by,
        )
        write_whole(*_record(folder, run), json.dumps(asdict(campaign)).encode())
    return campaign


def pause_campaign(archive: str | os.PathLike[str], run: str = "default") -> LaunchedCampaign:
    """Ask a campaign that was started here to stop once the shards under way are stored.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    run : str
        Name of the run.

    Returns
    -------
    Campaign
        As it is now; it may take a while to stop.

    Raises
    ------
    CampaignError
        If it is not at work, or was started elsewhere.
    """
    check_name(run)
    read_commit_record(archive)  # an error if there is no archive
    url = os.fspath(archive)
    campaign = _read(_folder(url), run)
    process = campaign._process() if campaign is not None else None
    if campaign is None or process is None:
        pulse = read_pulse(url, run)
        if pulse is not None and pulse.fresh:
            raise CampaignError(
                f"the campaign {run!r} was not started from here: end process {pulse.pid} on {pulse.host} "
                "with 'kill', and it stops once the shards under way are stored"
            )
        raise CampaignError(f"the campaign {run!r} is not at work")
    process.send_signal(signal.SIGTERM)
    return campaign


def launched_campaigns(archive: str | os.PathLike[str]) -> dict[str, LaunchedCampaign]:
    """Give the campaigns that were last started here, by run, whether they are at work or not."""
    read_commit_record(archive)  # an error if there is no archive
    folder = _folder(os.fspath(archive))
    found = (_read(folder, path.stem) for path in sorted(folder.glob("*.json")))
    return {campaign.run: campaign for campaign in found if campaign is not None}


def _as_it_was(provenance: dict[str, Any], families: Sequence[str], zoo: str | None) -> list[str]:
    """Give the arguments that a run began with; an archive does not choose the zoo that is read."""
    members = provenance["members"]
    began = list(dict.fromkeys(str(member["family"]) for member in members))
    if families and sorted(families) != sorted(began):
        raise CampaignError(
            f"this run is of the families {', '.join(began)}: give another name to a run of others"
        )
    if provenance["zoo"] != (zoo or SHIPPED_ZOO):
        raise CampaignError(
            f"the networks of this run are those of {provenance['zoo']}, and this dashboard takes "
            f"{zoo or 'those that are ' + SHIPPED_ZOO}: start it with that --zoo"
        )
    arguments = [f"--families={','.join(began)}"]
    arguments += [f"--zoo={zoo}"] if zoo else []
    if provenance["dtype"] != "float32":
        arguments.append(f"--precision={provenance['dtype']}")
    if provenance["triage"] is not None:
        raise CampaignError("go on with this run by 'deepstreaks score --triage' and its file")
    if provenance["decided"] is not None:
        limits = [f"--threshold={name}={limit!r}" for name, limit in provenance["decided"].items()]
        arguments += ["--decide", *limits]
    return arguments


def _private(path: str, flags: int) -> int:
    """Open a file that nobody else can read."""
    return os.open(path, flags, 0o600)


def _folder(url: str) -> Path:
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    fs, root = locate(url)
    name = hashlib.sha256(str(fs.unstrip_protocol(root)).encode()).hexdigest()[:24]
    return state / "deepstreaks" / "campaigns" / name


def _record(folder: Path, run: str) -> tuple[Any, str]:
    return locate(folder / f"{run}.json")


def _read(folder: Path, run: str) -> LaunchedCampaign | None:
    try:
        data = (folder / f"{run}.json").read_bytes()
        return validate_json(LaunchedCampaign, data, source=run)
    except (OSError, DeepStreaksError):
        return None
