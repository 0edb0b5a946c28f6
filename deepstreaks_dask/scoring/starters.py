"""Start workers: processes on this machine, one a GPU, jobs of a batch system, pods.

What a cluster's jobs or pods are like is said where Dask looks for it, in the YAML files of its configuration.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
from dask.distributed import LocalCluster, Security
from distributed.deploy.cluster import Cluster
from distributed.utils import silence_logging_cmgr

from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.scoring.tls import (
    check_protocol,
    cluster_security,
    folder_for_keys,
    protocol_of,
    remove_keys,
)

_THREADS_PER_WORKER = 2  # of Dask's in a worker: one reads while the other computes
_LOOPBACK_DASHBOARD = "127.0.0.1:0"  # Dask's dashboard asks for no password


@dataclass(frozen=True)
class StartRequest:
    """Workers that are to be started.

    Attributes
    ----------
    workers : int or None
        How many at first; as many as suit the machine by default.
    most : int or None
        How many there may be later.
    memory_limit : str
        Of a worker on this machine.
    insecure : bool
        Whether they may go without encryption.
    cleanup : ExitStack
        What is to be done once the cluster has ended.
    """

    workers: int | None
    most: int | None
    memory_limit: str = "auto"
    insecure: bool = False
    cleanup: ExitStack = field(default_factory=ExitStack)

    @property
    def security(self) -> Security:
        """New credentials for a cluster."""
        return cluster_security(insecure=self.insecure)


def count_cards() -> int:
    """Count the NVIDIA cards that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return sum(card.strip() not in ("", "-1") for card in visible.split(","))
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def count_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _local(asked: StartRequest) -> Cluster:
    cores = count_cores()
    threads = str(max(1, cores // (asked.most or cores)))
    security = asked.security
    return LocalCluster(
        n_workers=cores if asked.workers is None else asked.workers,
        threads_per_worker=_THREADS_PER_WORKER,
        processes=True,
        memory_limit=asked.memory_limit,
        host="127.0.0.1",
        dashboard_address=_LOOPBACK_DASHBOARD,
        security=security,
        protocol=protocol_of(security),
        env={
            "TF_NUM_INTRAOP_THREADS": threads,
            # nine members have work for all threads where one alone has not: serially they take a tenth longer
            "TF_NUM_INTEROP_THREADS": threads,
            "OMP_NUM_THREADS": threads,
            "TF_CPP_MIN_LOG_LEVEL": "1",  # into the worker's log
            "CUDA_VISIBLE_DEVICES": "-1",  # several processes on one card would be in each other's way
        },
    )


def _gpu(asked: StartRequest) -> Cluster:
    cards = count_cards()
    if not cards:
        raise DeepStreaksError("this machine has no NVIDIA GPU: leave --scheduler gpu out")
    if asked.most is not None and asked.most > cards:
        raise DeepStreaksError(f"{asked.most} workers for {cards} GPUs: give one a GPU at most")
    security = asked.security
    return _one_card_each(_optional("dask_cuda", "gpu").LocalCUDACluster)(
        n_workers=cards if asked.workers is None else max(1, asked.workers),
        threads_per_worker=_THREADS_PER_WORKER,
        memory_limit=asked.memory_limit,
        host="127.0.0.1",
        dashboard_address=_LOOPBACK_DASHBOARD,
        security=security,
        protocol=protocol_of(security),
    )


def _one_card_each(cluster_class: type[Any]) -> type[Any]:
    """Return dask-cuda's cluster with workers that see their own card only.

    dask-cuda shows all cards to each worker, its own first. TensorFlow would take memory of all of them.
    """

    class OneCardEach(cluster_class):
        def new_worker_spec(self) -> dict[Any, dict[str, Any]]:
            spec: dict[Any, dict[str, Any]] = super().new_worker_spec()
            for worker in spec.values():
                show_first_card(worker["options"].get("env", {}))
            return spec

    return OneCardEach


def show_first_card(environment: Any) -> None:
    """Leave only the first of the cards in ``CUDA_VISIBLE_DEVICES``, if that names any.

    Parameters
    ----------
    environment : mutable mapping of str to str
        Environment of a process that has not yet opened a card.
    """
    if cards := environment.get("CUDA_VISIBLE_DEVICES"):
        environment["CUDA_VISIBLE_DEVICES"] = str(cards).split(",")[0].strip()


def _jobs(system: str) -> Callable[[StartRequest], Cluster]:
    def start(asked: StartRequest) -> Cluster:
        _check_number(system, asked.most)
        cluster_class = getattr(_optional("dask_jobqueue", "cluster"), f"{system.upper()}Cluster")
        command = cluster_class.job_cls.submit_command.split()[0]
        if shutil.which(command) is None:
            raise DeepStreaksError(
                f"this machine has no {command!r}: run this where jobs can be submitted"
            )
        # A refusal is raised here, and need not be logged as well.
        with silence_logging_cmgr("CRITICAL", "tornado.application"):
            cluster = cluster_class(**_job_options(system, asked))
            asked.cleanup.callback(_close_key_files, cluster)
            try:
                cluster.sync(_submit, cluster, asked.workers or 0)
            except BaseException:
                with suppress(Exception):  # what went wrong first is what is told
                    cluster.close()
                raise
        return cluster

    return start


def _job_options(system: str, asked: StartRequest) -> dict[str, Any]:
    """Return the arguments of dask-jobqueue's cluster."""
    job = dask.config.get(f"jobqueue.{system}")
    if job.get("cores") is None or job.get("memory") is None:
        raise DeepStreaksError(
            f"what is a job of {system} like? Name its cores and memory in jobqueue.yaml among Dask's "
            "configuration files, as the examples in the repository's cluster folder do"
        )
    scheduler = {"dashboard_address": _LOOPBACK_DASHBOARD, **(job.get("scheduler-options") or {})}
    check_protocol(
        scheduler.get("protocol"),
        where=f"jobqueue.{system}.scheduler-options.protocol",
        insecure=asked.insecure,
    )
    extra = list(job.get("worker-extra-args") or ())
    if not any("dashboard" in str(one) for one in extra):
        extra.append("--no-dashboard")
    options: dict[str, Any] = {"scheduler_options": scheduler, "worker_extra_args": extra}
    security = asked.security
    if not security.require_encryption:
        return options
    # Temporary keys are in memory; workers elsewhere read them from files. Those of the configuration are files already.
    if "\n" in (security.get_tls_config_for_role("worker")["key"] or ""):
        folder = folder_for_keys(job.get("shared-temp-directory"))
        asked.cleanup.callback(remove_keys, folder)
        if folder is not None:
            options["shared_temp_directory"] = str(folder)
    return {**options, "security": security, "protocol": "tls://"}


def _close_key_files(cluster: Any) -> None:
    """Close the files of keys that dask-jobqueue keeps open for as long as its cluster is in memory."""
    for name in ("ca_file", "cert", "key"):
        if (file := getattr(cluster, f"_job_{name}", None)) is not None:
            file.close()


async def _submit(cluster: Any, workers: int) -> None:
    """Submit jobs, and wait until it is done: of a refusal, `scale` itself says nothing."""
    cluster.scale(workers)
    await cluster._correct_state()


def _pods(asked: StartRequest) -> Cluster:
    _check_number("kubernetes", asked.most)
    kubernetes = _optional("dask_kubernetes.operator", "cluster")
    return kubernetes.KubeCluster(n_workers=asked.workers, quiet=True)


STARTERS: dict[str, Callable[[StartRequest], Cluster]] = {
    "local": _local,
    "gpu": _gpu,
    "slurm": _jobs("slurm"),
    "pbs": _jobs("pbs"),
    "lsf": _jobs("lsf"),
    "kubernetes": _pods,
}
"""What starts workers, by the name of ``--scheduler``."""


def _check_number(where: str, most: int | None) -> None:
    if most is None:
        raise DeepStreaksError(f"how many workers are to be started on {where}? Give --workers")


def _optional(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DeepStreaksError(
            f"{module.partition('.')[0]} is missing: pip install 'deepstreaks-dask[{extra}]' ({error})"
        ) from error
