"""Names of runs, and the lock that keeps two campaigns from making the same run at once."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from deepstreaks_dask.errors import CampaignError
from deepstreaks_dask.utils.storage import is_local, locate

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAX_PROVENANCE_AGE = 30.0  # seconds within which anybody has changed what a run says of itself
_RETRY_PAUSE = 0.2  # seconds


@contextmanager
def alone(url: str, name: str) -> Iterator[None]:
    """Keep other campaigns from making a run, or changing what it says of itself, at the same time; scores need no lock.

    On a local disk it is a lock of the system's, which ends with its process. Elsewhere it is an object that only one
    can make; one that stays for longer than anybody needs was left by a campaign that was killed, and is taken over.

    Parameters
    ----------
    url : str
        Store of the archive.
    name : str
        Name of the run.

    Yields
    ------
    None
        While nobody else has the lock.

    Raises
    ------
    CampaignError
        If the name cannot be one, or somebody else does not come to an end.
    """
    check_name(name)
    fs, root = locate(url)
    lock = f"{root}/runs/.{name}.lock"
    if is_local(fs):
        Path(lock).parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(lock, timeout=_MAX_PROVENANCE_AGE):
                yield
        except Timeout:
            raise CampaignError(
                f"another campaign does not let go of run {name!r} of {url}: end it"
            ) from None
        return
    for _ in range(int(_MAX_PROVENANCE_AGE / _RETRY_PAUSE)):
        try:
            fs.pipe_file(lock, b"", mode="create")
            break
        except FileExistsError:
            time.sleep(_RETRY_PAUSE)
    try:
        yield
    finally:
        fs.rm_file(lock)


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a run.

    Parameters
    ----------
    name : str
        Of a run.

    Raises
    ------
    CampaignError
        Which characters may be in one.
    """
    if not is_name(name):
        raise CampaignError(f"run name {name!r}: use letters, digits, '.', '_' and '-'")


def is_name(name: str) -> bool:
    """Return whether a text can be the name of a run."""
    return _RUN_NAME.fullmatch(name) is not None
