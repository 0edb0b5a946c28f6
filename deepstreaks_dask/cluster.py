"""Get a Dask client: process workers on this machine, or a scheduler that runs already.

This is the one place that knows how workers are started; a campaign takes whatever client it is given.
"""

from __future__ import annotations

import os

from dask.distributed import Client

from deepstreaks_dask.errors import DeepStreaksError


def connect(
    address: str | None = None,
    *,
    workers: int | None = None,
    memory_limit: str = "auto",
) -> Client:
    """Connect to a scheduler, or start process workers on this machine.

    Parameters
    ----------
    address : str, optional
        Of a running scheduler, ``tcp://host:8786``. None starts local workers.
    workers : int, optional
        Local worker processes, one a core by default. The cores are shared out among their networks,
        so that TensorFlow's threads and Dask's do not fight. Each has two Dask threads: one
        reads while the other computes. Dask's dashboard is on a free port of the loopback interface.
    memory_limit : str
        Of a local worker; past it Dask restarts the worker.

    Returns
    -------
    dask.distributed.Client
        Use it in a ``with`` block: workers that were started here end with it.

    Raises
    ------
    DeepStreaksError
        If the scheduler does not answer, or ``workers`` is below 1.
    """
    if address is not None:
        try:
            return Client(address, timeout="10s")
        except (OSError, ValueError) as error:
            raise DeepStreaksError(
                f"no Dask scheduler answers at {address}: start one with 'dask scheduler', or leave "
                f"--scheduler out ({error})"
            ) from error
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    workers = cores if workers is None else workers
    if workers < 1:
        raise DeepStreaksError(f"{workers} workers: give 1 or more")
    threads = str(max(1, cores // workers))
    return Client(
        n_workers=workers,
        threads_per_worker=2,
        processes=True,
        memory_limit=memory_limit,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        env={
            "TF_NUM_INTRAOP_THREADS": threads,
            "TF_NUM_INTEROP_THREADS": "1",
            "OMP_NUM_THREADS": threads,
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
    )
