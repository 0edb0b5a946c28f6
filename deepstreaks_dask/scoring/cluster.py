"""Get a Dask client: workers on this machine or on a cluster, or a scheduler that runs already.

This is the one place that knows how workers are started; a campaign takes whatever client it is given. What a
cluster's jobs or pods are like is said where Dask looks for it, in the YAML files of its configuration.
"""

from __future__ import annotations

import importlib.util
import warnings
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import dask
from dask.distributed import Client, Security
from distributed.utils import silence_logging_cmgr

from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.scoring.machine import describe_worker
from deepstreaks_dask.scoring.starters import STARTERS, StartRequest, count_cards, count_cores
from deepstreaks_dask.scoring.tls import warn_of_plain_connection
from deepstreaks_dask.scoring.worker_logs import WorkerLogs
from deepstreaks_dask.utils.processes import check_main_guard

_SCHEDULER_TIMEOUT = "10s"  # for a running scheduler to answer

# Dask has workers give memory back to the system at once. A network asks for as much with its next batch, and to get it
# anew took a tenth of the time of sequences. Who sets the variable, or Dask's configuration, has it as it is set.
dask.config.update_defaults(
    {"distributed": {"nanny": {"pre-spawn-environ": {"MALLOC_TRIM_THRESHOLD_": None}}}}
)

_CLUSTERS_OF_PROCESSES = ("local", "gpu")
"""Clusters whose workers are processes that this one spawns; those of others have the logs of their systems."""


def connect(
    scheduler: str | None = None,
    *,
    workers: int | None = None,
    adapt: tuple[int, int] | None = None,
    jobs: int | None = None,
    memory_limit: str = "auto",
    insecure: bool = False,
) -> Client:
    """Connect to a scheduler, or start workers.

    Parameters
    ----------
    scheduler : str, optional
        Where the workers are:

        - ``"local"``: processes on this machine, one a core by default. The cores are shared out among their
          networks, so that TensorFlow's threads and Dask's do not fight.
        - ``"gpu"``: one worker a GPU of this machine, by dask-cuda.
        - ``"slurm"``, ``"pbs"``, ``"lsf"``: jobs of a batch system, by dask-jobqueue, as ``jobqueue.yaml`` among Dask's
          configuration files describes them.
        - ``"kubernetes"``: pods, by the operator of dask-kubernetes, as ``kubernetes.yaml`` describes them.
        - an address, ``tcp://host:8786`` or ``tls://host:8786``, or the scheduler file (``.json``) of a scheduler that
          runs already.

        ``"gpu"`` where there are GPUs and else ``"local"`` by default.
    workers : int, optional
        How many to start; for jobs and pods it has to be said.
    adapt : (int, int), optional
        In its place: start and stop workers as there is work for them, no fewer and no more than these.
    jobs : int, optional
        How many long tasks there will be: no more processes than these are started on this machine by default, and they
        share all of its cores.
    memory_limit : str
        Of a worker on this machine; past it Dask restarts the worker.
    insecure : bool
        Start workers and scheduler without encryption, and do not warn of a scheduler that has none.

    Returns
    -------
    dask.distributed.Client
        Use it in a ``with`` block: workers that were started here end with it. On this machine Dask's dashboard is on a
        free port of the loopback interface, and each worker logs to a file, which is kept if the worker dies.

    Raises
    ------
    DeepStreaksError
        If the scheduler does not answer, a package or command that starts the workers is missing or fails, there
        cannot be so many, a script starts processes outside of a main guard, the workers of ``"gpu"`` compute with their
        processors, or a batch system's configuration asks for no encryption.

    Warns
    -----
    PlainConnectionWarning
        If a scheduler that is joined by its address does not encrypt.

    Notes
    -----
    Scheduler and workers that are started here encrypt with TLS and admit only those who have the cluster's key, since
    whoever can reach a scheduler can run programs as its user. The certificates are those of Dask's configuration under
    ``distributed.comm``, which ``cluster/tls`` in the repository makes, and else temporary ones. Jobs of a batch system read
    their key from a file of mode 0600 in ``~/.local/state/deepstreaks``, or in the ``shared-temp-directory`` of
    ``jobqueue.yaml``. Pods are the exception: the operator of dask-kubernetes speaks no TLS to its scheduler. See
    https://distributed.dask.org/en/stable/tls.html.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> with ds.connect("local", workers=1) as client:
    ...     len(client.scheduler_info()["workers"])
    1
    """
    if workers is not None and workers < 1:
        raise DeepStreaksError(f"{workers} workers: give 1 or more")
    if adapt is not None and (workers is not None or not 0 <= adapt[0] <= adapt[1] or not adapt[1]):
        raise DeepStreaksError(
            f"{adapt[0]} to {adapt[1]} workers: give two numbers that rise, and no other number of workers"
        )
    where = scheduler or _best_here()
    if scheduler is None and where == "gpu":
        try:
            return connect(
                "gpu", workers=workers, adapt=adapt, memory_limit=memory_limit, insecure=insecure
            )
        except _NoUsableCardError as error:
            warnings.warn(f"{error}. Processors compute in its place", stacklevel=2)
            where = "local"
    if where not in STARTERS:
        if workers is not None or adapt is not None:
            raise DeepStreaksError(
                f"the workers of {where} are started there: leave their number out"
            )
        return _attach(where, insecure=insecure)
    if jobs is not None and where == "local" and workers is None:
        workers = min(jobs, count_cores())
    first, most = adapt or (workers, workers)
    method = dask.config.get("distributed.worker.multiprocessing-method", "spawn")
    if where in _CLUSTERS_OF_PROCESSES and method == "spawn":
        check_main_guard()
    with ExitStack() as cleanup:
        try:
            cluster = STARTERS[where](StartRequest(first, most, memory_limit, insecure, cleanup))
        except DeepStreaksError:
            raise
        except Exception as error:  # each package has its own
            raise DeepStreaksError(
                f"cannot start workers ({where}): {_in_a_line(error)}"
            ) from error
        cleanup.callback(lambda: cluster.close())
        client = _OwningClient(cluster)
        if where in _CLUSTERS_OF_PROCESSES:
            client.log_workers()
        if adapt:
            cluster.adapt(minimum=adapt[0], maximum=adapt[1])
        if where == "gpu":
            _check_cards(client)
        client.wanted = most or len(getattr(cluster, "worker_spec", ()))
        client.fixed = adapt is None
        client.cleanup = cleanup.pop_all()
        return client


def last_words(client: Client) -> str:
    """Return what the last worker that died has printed, and which file holds it, in one line.

    Parameters
    ----------
    client : dask.distributed.Client
        Any client.

    Returns
    -------
    str
        Empty if no worker died, or :func:`connect` did not start the workers on this machine.
    """
    logs = client.logs if isinstance(client, _OwningClient) else None
    return logs.last_words() if logs is not None else ""


def wanted_workers(client: Client) -> int | None:
    """Return how many workers :func:`connect` was asked for, at most; None if it started none."""
    return client.wanted if isinstance(client, _OwningClient) else None


def start_again(client: Client) -> None:
    """Start the workers again that :func:`connect` started and that have left, as jobs do when their time is over.

    Parameters
    ----------
    client : dask.distributed.Client
        Any client; nothing is done where the workers are started elsewhere, or come and go with the work.
    """
    if isinstance(client, _OwningClient) and client.fixed and client.cluster is not None:
        client.cluster.scale(client.wanted)


class _OwningClient(Client):
    """A client whose cluster ends with it."""

    logs: WorkerLogs | None = None
    wanted = 0
    """Number of workers that were asked for."""
    fixed = False
    """Whether there are to be so many all the time."""
    cleanup = ExitStack()
    """What is to be done when the client leaves: end the cluster, remove its keys."""

    def log_workers(self) -> None:
        """Have the workers log to files, those too that are started later."""
        self.logs = WorkerLogs()
        self.register_plugin(self.logs.plugin)

    def close(self, *args: Any, **kwargs: Any) -> None:
        logs, self.logs = self.logs, None
        kept = logs.of_dead_workers() if logs is not None else ()
        # What Dask warns of while workers end, such as that it has to kill one, concerns nobody any more.
        with silence_logging_cmgr("CRITICAL"):
            try:
                super().close(*args, **kwargs)
            finally:
                # Once: Dask closes again what is left when Python ends, where nothing runs any more that could answer.
                # Who leaves has what was asked for: that a busy machine buries a killed worker slowly is no error.
                with suppress(TimeoutError):
                    self.cleanup.pop_all().close()
                if logs is not None:
                    logs.remove(but=kept)


def _attach(where: str, *, insecure: bool) -> Client:
    """Connect to a scheduler that runs."""
    address = where
    options: dict[str, Any] = {"address": where}
    if where.endswith(".json"):
        if not Path(where).is_file():  # Dask would wait for it for ever
            raise DeepStreaksError(
                f"there is no scheduler file {where}: start 'dask scheduler --scheduler-file {where}'"
            )
        options = {"scheduler_file": where}
    elif "://" not in where:
        raise DeepStreaksError(
            f"no scheduler {where!r}: give {', '.join(STARTERS)}, an address like tcp://host:8786 or a file"
        )
    elif where.startswith("tls://"):
        client = Security().get_tls_config_for_role("client")
        if not client.get("ca_file") or not client.get("cert"):
            raise DeepStreaksError(
                f"{where} wants certificates: name them in Dask's configuration, as the file that "
                "cluster/tls/certificates.sh writes does (DASK_CONFIG=FOLDER)"
            )
    try:
        client = Client(timeout=_SCHEDULER_TIMEOUT, **options)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise DeepStreaksError(
            f"no Dask scheduler answers at {address}: start one with 'dask scheduler', or leave "
            f"--scheduler out ({_in_a_line(error)})"
        ) from error
    warn_of_plain_connection(client.scheduler.address, insecure=insecure)
    return client


class _NoUsableCardError(DeepStreaksError):
    """Workers that were to compute with GPUs compute with their processors."""


def _check_cards(client: Client) -> None:
    """Check that each worker computes with its card; a cluster without workers yet is checked as they compute."""
    asked = [
        client.submit(describe_worker, pure=False, workers=worker) for worker in client.nthreads()
    ]
    for machine in client.gather(asked):
        if machine["kind"] != "gpu":
            raise _NoUsableCardError(
                f"{machine['backend']} on {machine['host']} cannot compute with the GPU, only with the processor: "
                "'deepstreaks doctor' says what is missing (pip install 'deepstreaks-dask[gpu]' brings TensorFlow's CUDA "
                "libraries), or give --scheduler local"
            )


def _best_here() -> str:
    """Name the workers that this machine is best for."""
    if not count_cards():
        return "local"
    if importlib.util.find_spec("dask_cuda"):
        return "gpu"
    warnings.warn(
        "there is a GPU, but not dask-cuda, so that CPUs compute: pip install 'deepstreaks-dask[gpu]'",
        stacklevel=3,
    )
    return "local"


def _in_a_line(error: BaseException) -> str:
    """Say what an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
