"""Examine a machine: what it computes with, what it can reach and write, what is missing, and what to do about that.

:func:`examine` runs on a worker as well as here, and raises nothing: whatever fails is a finding.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import psutil
from dask.distributed import Client, wait

import deepstreaks_dask
from deepstreaks_dask.scoring.machine import cards_of_driver, describe_worker
from deepstreaks_dask.scoring.starters import count_cards, count_cores
from deepstreaks_dask.utils.optional import EXTRAS
from deepstreaks_dask.utils.storage import is_local, locate, write_whole

MIN_FREE_DISK = 2e9
"""Bytes of a temporary folder below which workers may fail."""

ANSWER_TIMEOUT = 120.0
"""Seconds that workers have to answer; those that compute answer between two tasks."""

MIN_MEMORY = 4e9
"""Bytes of memory below which a worker with nine networks may fail."""

_CARD_REMEDIES = {
    "tensorflow": "pip install 'deepstreaks-dask[gpu]', which brings TensorFlow's CUDA libraries",
    "jax": "pip install 'jax[cuda12]'",
    "torch": "install PyTorch for CUDA as https://pytorch.org/get-started/locally says",
}
_VERSIONS = ("keras", "dask", "distributed", "zarr", "numpy")


@dataclass(frozen=True)
class Finding:
    """Something that is wrong or missing.

    Attributes
    ----------
    level : {"error", "note"}
        Whether work fails, or is slower or smaller than it could be.
    what : str
    remedy : str
        What to do about it.
    """

    level: Literal["error", "note"]
    what: str
    remedy: str


@dataclass(frozen=True)
class Examination:
    """A machine as it was found.

    Attributes
    ----------
    worker : str
        Name of the worker; empty for the machine itself.
    host, system, python : str
    versions : dict of str to str
        Of this package and those that matter.
    cores : int
        That this process may use.
    memory, free_disk : int
        Bytes; of the temporary folder.
    computes : dict of str to str
        As :func:`~deepstreaks_dask.scoring.machine.describe_worker` returns it; empty if no network can be computed.
    cards : list of dict
        As NVIDIA's driver lists them.
    reaches : dict of str to str
        ``"yes"`` or the reason why not, by what was tried.
    extras : dict of str to list of str
        Packages that are missing of each extra.
    findings : list of Finding
    """

    worker: str
    host: str
    system: str
    python: str
    versions: dict[str, str]
    cores: int
    memory: int
    free_disk: int
    computes: dict[str, str]
    cards: list[dict[str, str]]
    reaches: dict[str, str]
    extras: dict[str, list[str]]
    findings: list[Finding]

    def to_dict(self) -> dict[str, Any]:
        """Return all values by name."""
        return asdict(self)


def examine(archive: str | None = None, zoo: str | None = None, *, worker: str = "") -> Examination:
    """Examine the machine that this runs on.

    Parameters
    ----------
    archive : str, optional
        Path or URL of an archive that is to be read and written.
    zoo : str, optional
        Path or URL of a zoo that is to be read; the shipped one by default.
    worker : str
        Name of the worker.

    Returns
    -------
    Examination
        What fails is among its findings.
    """
    findings: list[Finding] = []
    computes = _computes(findings)
    cards = cards_of_driver()
    _check_card(computes, cards, findings)
    reaches = _reaches(archive, zoo, findings)
    memory, free = psutil.virtual_memory().total, shutil.disk_usage(tempfile.gettempdir()).free
    if memory < MIN_MEMORY:
        findings.append(
            Finding("note", f"{memory / 1e9:.1f} GB of memory", "start few workers: --workers 1")
        )
    if free < MIN_FREE_DISK:
        folder = tempfile.gettempdir()
        what = f"{free / 1e9:.1f} GB are free in {folder}"
        findings.append(Finding("note", what, "make room, or set TMPDIR to another folder"))
    extras = missing_packages()
    findings += [
        Finding(
            "note",
            f"the extra {extra} is not complete: no {', '.join(packages)}",
            f"pip install 'deepstreaks-dask[{extra}]', if you need it",
        )
        for extra, packages in extras.items()
        if packages and (extra != "gpu" or cards or count_cards())
    ]
    return Examination(
        worker=worker,
        host=platform.node(),
        system=platform.platform(),
        python=platform.python_version(),
        versions=_versions(),
        cores=count_cores(),
        memory=memory,
        free_disk=free,
        computes=computes,
        cards=cards,
        reaches=reaches,
        extras=extras,
        findings=findings,
    )


def examine_workers(
    client: Client, archive: str | None = None, zoo: str | None = None
) -> tuple[list[Examination], list[Finding]]:
    """Examine the machines of all workers, at the same time.

    Parameters
    ----------
    client : dask.distributed.Client
    archive, zoo : str, optional
        As for :func:`examine`; a local path is made absolute.

    Returns
    -------
    list of Examination, list of Finding
        The workers in the order of their names, and findings of those that do not answer.
    """
    if archive is not None and is_local(locate(archive)[0]):
        archive = locate(archive)[
            1
        ]  # as a campaign names it to workers, which are in other folders
    workers = client.scheduler_info(n_workers=-1)["workers"]
    asked = {
        str(worker["name"]): client.submit(
            examine, archive, zoo, worker=str(worker["name"]), workers=address, pure=False
        )
        for address, worker in workers.items()
    }
    with suppress(TimeoutError):
        wait(list(asked.values()), ANSWER_TIMEOUT)
    found, silent = [], []
    for name, future in sorted(asked.items()):
        if future.status == "finished":
            found.append(future.result())
            continue
        why = "it does not answer"
        if future.status == "error":
            why = _in_a_line(future.exception())
        remedy = "look at its log; Python and this package have to be the same on all machines"
        silent.append(Finding("error", f"worker {name} cannot be examined: {why}", remedy))
    if not asked:
        what = "the scheduler has no workers"
        silent.append(Finding("error", what, "start some, like 'dask worker tls://host:8786'"))
    return found, silent


def missing_packages() -> dict[str, list[str]]:
    """Return the packages that are missing of each extra, by their import names."""
    missing: dict[str, list[str]] = {}
    for package, extras in EXTRAS.items():
        for extra in extras:
            found = missing.setdefault(extra, [])
            if importlib.util.find_spec(package) is None:
                found.append(package)
    return dict(sorted(missing.items()))


def compare(examinations: Sequence[Examination]) -> list[Finding]:
    """Compare workers with each other.

    Parameters
    ----------
    examinations : sequence of Examination
        The first may be the client's own machine.

    Returns
    -------
    list of Finding
        Packages whose versions differ, and backends: scores differ in their last bits then.
    """
    findings = []
    for name in ("deepstreaks_dask", *_VERSIONS):
        found = sorted({one.versions.get(name, "none") for one in examinations})
        if len(found) > 1:
            findings.append(
                Finding(
                    "error" if name == "deepstreaks_dask" else "note",
                    f"versions of {name} differ: {', '.join(found)}",
                    "install the same version on all machines",
                )
            )
    backends = sorted({one.computes["backend"] for one in examinations if one.computes})
    if len(backends) > 1:
        what = f"backends of Keras differ: {', '.join(backends)}"
        findings.append(Finding("error", what, "set KERAS_BACKEND to the same on all machines"))
    kinds = {one.computes["kind"] for one in examinations if one.computes}
    if len(kinds) > 1:
        what = "some workers compute with GPUs, others with processors"
        findings.append(
            Finding("note", what, "end the workers without a GPU: scores differ in their last bits")
        )
    return findings


def _computes(findings: list[Finding]) -> dict[str, str]:
    try:
        return dict(describe_worker())
    except Exception as error:  # a backend fails to load in its own way
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        findings.append(
            Finding(
                "error",
                f"no network can be computed: {_in_a_line(error)}",
                f"install the backend {backend}, or set KERAS_BACKEND to another one",
            )
        )
        return {}


def _check_card(
    computes: dict[str, str], cards: list[dict[str, str]], findings: list[Finding]
) -> None:
    """Add a finding if there is a card that is not computed with."""
    if not computes or computes["kind"] == "gpu" or not (cards or count_cards()):
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not count_cards():
        what = f"a GPU is there, but CUDA_VISIBLE_DEVICES={visible} hides it"
        findings.append(Finding("note", what, "unset the variable, if that is not on purpose"))
        return
    backend = computes["backend"]
    findings.append(
        Finding(
            "error",
            f"a GPU is there, but {backend} computes with the processor",
            f"{_CARD_REMEDIES.get(backend, 'install the backend with CUDA')}; look at what 'nvidia-smi' says; "
            "CUDA_VISIBLE_DEVICES=-1 if the processor is to compute",
        )
    )


def _reaches(archive: str | None, zoo: str | None, findings: list[Finding]) -> dict[str, str]:
    """Try what a campaign reads and writes."""
    tried = {"networks": lambda: _read_zoo(zoo), "temporary folder": _write_temporary}
    if archive is not None:
        tried |= {
            "archive, to read": lambda: _read_archive(archive),
            "archive, to write": lambda: _write_archive(archive),
        }
    remedies = {
        "networks": "name a zoo that all machines see: --zoo",
        "temporary folder": "set TMPDIR to a folder that can be written",
        "archive, to read": "give a path or URL that all machines see, and credentials for it",
        "archive, to write": "give write access: a campaign stores scores in the archive",
    }
    reaches = {}
    for name, attempt in tried.items():
        try:
            attempt()
            reaches[name] = "yes"
        except Exception as error:  # each store has its own
            reaches[name] = _in_a_line(error)
            findings.append(Finding("error", f"{name}: {reaches[name]}", remedies[name]))
    return reaches


def _read_zoo(zoo: str | None) -> None:
    from deepstreaks_dask.scoring.ensemble import Ensemble

    Ensemble.from_zoo(zoo)


def _write_temporary() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"deepstreaks")


def _read_archive(archive: str) -> None:
    from deepstreaks_dask.archive.dataset import open_archive

    open_archive(archive)["id"][:1].compute()


def _write_archive(archive: str) -> None:
    from deepstreaks_dask.archive.store import read_commit_record

    read_commit_record(archive)  # nothing is written where there is none
    fs, root = locate(archive)
    path = f"{root}/.doctor-{uuid.uuid4().hex}"
    write_whole(fs, path, b"")
    fs.rm_file(path)


def _versions() -> dict[str, str]:
    found = {"deepstreaks_dask": deepstreaks_dask.__version__}
    for package in _VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def page(examination: Examination) -> str:
    """Return an examination as a page of text.

    Parameters
    ----------
    examination : Examination

    Returns
    -------
    str
        Lines, without the findings of which an extra is the matter.
    """
    one = examination
    name = f"worker {one.worker} on {one.host}" if one.worker else one.host
    computes, gigabyte = one.computes, 1e9
    lines = [
        name,
        f"  system      {one.system}, Python {one.python}",
        f"  versions    {', '.join(f'{key} {value}' for key, value in one.versions.items())}",
        f"  machine     {one.cores} cores, {one.memory / gigabyte:.0f} GB memory, "
        f"{one.free_disk / gigabyte:.0f} GB free in {Path(tempfile.gettempdir())}",
    ]
    if computes:
        with_driver = f", driver {computes['driver']}" if computes["driver"] else ""
        lines.append(
            f"  computes    with a {'GPU' if computes['kind'] == 'gpu' else 'processor'}: {computes['device']}"
            f"{with_driver}; {computes['backend']} {computes['backend_version']}"
        )
    lines += [f"  card        {card['name']}, {card['memory']}" for card in one.cards]
    lines += [f"  reaches     {what}: {answer}" for what, answer in one.reaches.items()]
    whole = [extra for extra, packages in one.extras.items() if not packages]
    lines.append(f"  extras      {', '.join(whole) or 'none'}")
    return "\n".join(lines)
