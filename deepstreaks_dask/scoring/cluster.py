"""Get a Dask client: workers on this machine or on a cluster, or a scheduler that runs already.

This is the one place that knows how workers are started; a campaign takes whatever client it is given. What a
cluster's jobs or pods are like is said where Dask looks for it, in the YAML files of its configuration.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask
from dask.distributed import Client, LocalCluster, Security
from distributed.deploy.cluster import Cluster
from distributed.utils import silence_logging_cmgr

from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.scoring.worker_logs import WorkerLogs
from deepstreaks_dask.utils.processes import check_main_guard

_THREADS_PER_WORKER = 2  # of Dask's in a worker: one reads while the other computes
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

    Returns
    -------
    dask.distributed.Client
        Use it in a ``with`` block: workers that were started here end with it. On this machine Dask's dashboard is on a
        free port of the loopback interface, and each worker logs to a file, which is kept if the worker dies.

    Raises
    ------
    DeepStreaksError
        If the scheduler does not answer, a package or command that starts the workers is missing or fails, there
        cannot be so many, or a script starts processes outside of a main guard.

    Notes
    -----
    TLS is set up where Dask looks for it too, under ``distributed.comm`` of its configuration; ``cluster/tls`` in the
    repository makes certificates with such a file. Where it says ``require-encryption``, workers that are started here
    speak TLS as well. See https://distributed.dask.org/en/stable/tls.html.

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
    if where not in _CLUSTER_STARTERS:
        if workers is not None or adapt is not None:
            raise DeepStreaksError(
                f"the workers of {where} are started there: leave their number out"
            )
        return _attach(where)
    if jobs is not None and where == "local" and workers is None:
        workers = min(jobs, _cores())
    first, most = adapt or (workers, workers)
    method = dask.config.get("distributed.worker.multiprocessing-method", "spawn")
    if where in _CLUSTERS_OF_PROCESSES and method == "spawn":
        check_main_guard()
    try:
        cluster = _CLUSTER_STARTERS[where](first, most, memory_limit)
    except DeepStreaksError:
        raise
    except Exception as error:  # each package has its own
        raise DeepStreaksError(f"cannot start workers ({where}): {_in_a_line(error)}") from error
    try:
        client = _OwningClient(cluster)
        if where in _CLUSTERS_OF_PROCESSES:
            client.log_workers()
        if adapt:
            cluster.adapt(minimum=adapt[0], maximum=adapt[1])
        return client
    except BaseException:
        cluster.close()
        raise


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


class _OwningClient(Client):
    """A client whose cluster ends with it."""

    logs: WorkerLogs | None = None
    _left = False

    def log_workers(self) -> None:
        """Have the workers log to files, those too that are started later."""
        self.logs = WorkerLogs()
        self.register_plugin(self.logs.plugin)

    def close(self, *args: Any, **kwargs: Any) -> None:
        cluster = self.cluster
        logs, self.logs = self.logs, None
        kept = logs.of_dead_workers() if logs is not None else ()
        # What Dask warns of while workers end, such as that it has to kill one, concerns nobody any more.
        with silence_logging_cmgr("CRITICAL"):
            try:
                super().close(*args, **kwargs)
            finally:
                # Once: Dask closes again what is left when Python ends, where nothing runs any more that could answer.
                if cluster is not None and not self._left:
                    self._left = True
                    # who leaves has what was asked for: that a busy machine buries a killed worker slowly is no error
                    with suppress(TimeoutError):
                        cluster.close()
                if logs is not None:
                    logs.remove(but=kept)


def _attach(where: str) -> Client:
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
            f"no scheduler {where!r}: give {', '.join(_CLUSTER_STARTERS)}, an address like tcp://host:8786 or a file"
        )
    elif where.startswith("tls://"):
        client = Security().get_tls_config_for_role("client")
        if not client.get("ca_file") or not client.get("cert"):
            raise DeepStreaksError(
                f"{where} wants certificates: name them in Dask's configuration, as the file that "
                "cluster/tls/certificates.sh writes does (DASK_CONFIG=FOLDER)"
            )
    try:
        return Client(timeout=_SCHEDULER_TIMEOUT, **options)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise DeepStreaksError(
            f"no Dask scheduler answers at {address}: start one with 'dask scheduler', or leave "
            f"--scheduler out ({_in_a_line(error)})"
        ) from error


def _best_here() -> str:
    """Name the workers that this machine is best for."""
    if not _cards():
        return "local"
    if importlib.util.find_spec("dask_cuda"):
        return "gpu"
    warnings.warn(
        "there is a GPU, but not dask-cuda, so that CPUs compute: pip install 'deepstreaks-dask[gpu]'",
        stacklevel=3,
    )
    return "local"


def _cards() -> int:
    """Count the NVIDIA cards that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return sum(card.strip() not in ("", "-1") for card in visible.split(","))
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _local(workers: int | None, most: int | None, memory_limit: str) -> Cluster:
    cores = _cores()
    threads = str(max(1, cores // (most or cores)))
    return LocalCluster(
        n_workers=cores if workers is None else workers,
        threads_per_worker=_THREADS_PER_WORKER,
        processes=True,
        memory_limit=memory_limit,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        security=Security(),
        env={
            "TF_NUM_INTRAOP_THREADS": threads,
            # nine members have work for all threads where one alone has not: serially they take a tenth longer
            "TF_NUM_INTEROP_THREADS": threads,
            "OMP_NUM_THREADS": threads,
            "TF_CPP_MIN_LOG_LEVEL": "1",  # into the worker's log
            "CUDA_VISIBLE_DEVICES": "-1",  # several processes on one card would be in each other's way
        },
    )


def _gpu(workers: int | None, most: int | None, memory_limit: str) -> Cluster:
    cards = _cards()
    if not cards:
        raise DeepStreaksError("this machine has no NVIDIA GPU: leave --scheduler gpu out")
    if most is not None and most > cards:
        raise DeepStreaksError(f"{most} workers for {cards} GPUs: give one a GPU at most")
    cuda = _optional("dask_cuda", "gpu")
    return cuda.LocalCUDACluster(
        n_workers=cards if workers is None else max(1, workers),
        threads_per_worker=_THREADS_PER_WORKER,
        memory_limit=memory_limit,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        security=Security(),
    )


def _jobs(system: str) -> Callable[[int | None, int | None, str], Cluster]:
    def start(workers: int | None, most: int | None, memory_limit: str) -> Cluster:
        _said(system, most)
        cluster_class = getattr(_optional("dask_jobqueue", "cluster"), f"{system.upper()}Cluster")
        command = cluster_class.job_cls.submit_command.split()[0]
        if shutil.which(command) is None:
            raise DeepStreaksError(
                f"this machine has no {command!r}: run this where jobs can be submitted"
            )
        job = dask.config.get(f"jobqueue.{system}")
        if job.get("cores") is None or job.get("memory") is None:
            raise DeepStreaksError(
                f"what is a job of {system} like? Name its cores and memory in jobqueue.yaml among Dask's "
                "configuration files, as the examples in the repository's cluster folder do"
            )
        security = Security()
        cluster = cluster_class(security=security if security.require_encryption else None)
        # A refusal is raised here, and need not be logged as well.
        with silence_logging_cmgr("CRITICAL", "tornado.application"):
            try:
                cluster.sync(_submit, cluster, workers or 0)
            except BaseException:
                with suppress(Exception):  # what went wrong first is what is told
                    cluster.close()
                raise
        return cluster

    return start


async def _submit(cluster: Any, workers: int) -> None:
    """Submit jobs, and wait until it is done: of a refusal, `scale` itself says nothing."""
    cluster.scale(workers)
    await cluster._correct_state()


def _pods(workers: int | None, most: int | None, memory_limit: str) -> Cluster:
    _said("kubernetes", most)
    kubernetes = _optional("dask_kubernetes.operator", "cluster")
    return kubernetes.KubeCluster(n_workers=workers, quiet=True)


_CLUSTER_STARTERS: dict[str, Callable[[int | None, int | None, str], Cluster]] = {
    "local": _local,
    "gpu": _gpu,
    "slurm": _jobs("slurm"),
    "pbs": _jobs("pbs"),
    "lsf": _jobs("lsf"),
    "kubernetes": _pods,
}


def _said(where: str, most: int | None) -> None:
    if most is None:
        raise DeepStreaksError(f"how many workers are to be started on {where}? Give --workers")


def _optional(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DeepStreaksError(
            f"{module.partition('.')[0]} is missing: pip install 'deepstreaks-dask[{extra}]' ({error})"
        ) from error


def _in_a_line(error: BaseException) -> str:
    """Say what an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
