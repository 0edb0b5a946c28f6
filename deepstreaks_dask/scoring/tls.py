"""TLS for the clusters that are started here: certificates of Dask's configuration, or temporary ones.

Whoever can open a connection to a scheduler can run any program as its user. On a machine that several people use, the
loopback interface keeps nobody out. So every cluster that is started here encrypts, and accepts only those who have its key.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from pathlib import Path

from dask.distributed import Security

from deepstreaks_dask.errors import DeepStreaksError

_HOW_TO_GO_WITHOUT = (
    "give --insecure only where nobody else can reach the scheduler's machine and its network"
)


class PlainConnectionWarning(UserWarning):
    """A scheduler is reached without encryption and without a check of who connects."""


def cluster_security(*, insecure: bool = False) -> Security:
    """Return the credentials of a cluster that is to be started.

    Parameters
    ----------
    insecure : bool
        Go without encryption, unless Dask's configuration asks for it.

    Returns
    -------
    distributed.Security
        With the certificates that Dask's configuration names; else with temporary ones, which end with the cluster.

    Raises
    ------
    DeepStreaksError
        If no certificates are configured, and the package that makes temporary ones is missing.
    """
    configured = Security()
    if insecure or (_is_complete(configured) and configured.require_encryption):
        return configured
    if _is_complete(configured):
        return Security(require_encryption=True)
    try:
        return Security.temporary()
    except ImportError as error:
        raise DeepStreaksError(
            "cannot encrypt what workers and scheduler send each other: pip install cryptography, or make certificates "
            f"with cluster/tls/certificates.sh; {_HOW_TO_GO_WITHOUT}"
        ) from error


def protocol_of(security: Security) -> str:
    """Return the protocol of a cluster with these credentials, ``tls://`` or ``tcp://``."""
    return "tls://" if security.require_encryption else "tcp://"


def check_protocol(asked: str | None, *, where: str, insecure: bool) -> None:
    """Check that a configuration file does not ask for a cluster without encryption.

    Parameters
    ----------
    asked : str or None
        Protocol that the file asks for; None if it asks for none.
    where : str
        The file's entry, for the error.
    insecure : bool
        Whether a cluster without encryption was asked for on the command line, too.

    Raises
    ------
    DeepStreaksError
        If the protocol does not encrypt, and that was not asked for.
    """
    if asked is not None and not asked.startswith("tls") and not insecure:
        raise DeepStreaksError(
            f"{where} asks for {asked}, which does not encrypt: remove the entry; {_HOW_TO_GO_WITHOUT}"
        )


def warn_of_plain_connection(address: str, *, insecure: bool = False) -> None:
    """Warn that a scheduler that was joined does not encrypt.

    Parameters
    ----------
    address : str
        Of the scheduler, like ``tcp://host:8786``.
    insecure : bool
        Whether that is known, and no warning wanted.
    """
    if address.startswith(("tls://", "inproc://")) or insecure:
        return
    warnings.warn(
        f"{address} does not encrypt: whoever can reach this scheduler can run programs as you. Start it with the "
        "certificates of cluster/tls/certificates.sh, or add --insecure if nobody else can reach it",
        PlainConnectionWarning,
        stacklevel=4,
    )


def folder_for_keys(configured: str | None) -> Path | None:
    """Make a folder that only its owner can read, for the keys of workers on other machines.

    Parameters
    ----------
    configured : str or None
        Folder that the batch system's configuration names: then nothing is made.

    Returns
    -------
    Path or None
        A new folder among the user's state, which batch systems' machines have in common; None where one is configured.
        To be removed with :func:`remove_keys`.

    Raises
    ------
    DeepStreaksError
        If the folder's path has a blank, which does not survive in a job's script.
    """
    if configured is not None:
        return None
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    parent = state / "deepstreaks" / "cluster-keys"
    if len(str(parent).split()) != 1:
        raise DeepStreaksError(
            f"the workers' keys cannot be in {parent}, since its path has a blank: name another folder that all machines "
            "see as shared-temp-directory in jobqueue.yaml"
        )
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Path(tempfile.mkdtemp(prefix="cluster-", dir=parent))  # mode 0700


def remove_keys(folder: Path | None) -> None:
    """Remove the folder of a cluster's keys."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _is_complete(security: Security) -> bool:
    """Return whether there is a certificate for each role, and an authority."""
    roles = [security.get_tls_config_for_role(role) for role in ("scheduler", "worker", "client")]
    return all(role["ca_file"] and role["cert"] for role in roles)
