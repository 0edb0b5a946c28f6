"""Readers: one module per input format, each with a ``READER`` that follows one protocol.

Adding a format is adding a file here; the archive knows none of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from deepstreaks_dask.archive.append import CutoutBatch
from deepstreaks_dask.errors import ReaderError, did_you_mean
from deepstreaks_dask.readers.options import DEFAULTS, ReadOptions

_PROCESS_POOL_INPUTS = 2000


class Reader(Protocol):
    """What a format's module gives as ``READER``.

    One whose cutouts are others than the usual also has a ``layout``: see :func:`layout_of`. One that decodes in
    Python more than in libraries has ``processes = True``: see :func:`wants_processes`.
    """

    name: str

    def sniff(self, path: Path) -> bool:
        """Say whether ``path`` looks like this format."""
        ...

    def read(self, path: Path, options: ReadOptions = DEFAULTS) -> Iterator[CutoutBatch]:
        """Read ``path`` batch by batch; refused inputs travel in the batches, never as an exception.

        Parameters
        ----------
        path : Path
            File or folder.
        options : ReadOptions, optional
            What else is known of the cutouts, and where to decode.

        Yields
        ------
        CutoutBatch
            In the order of the inputs.
        """
        ...

    def count(self, path: Path) -> int:
        """Give the number of inputs, for a progress bar."""
        ...


@cache
def readers() -> dict[str, Reader]:
    """Find every reader of this package, by name."""
    package = resources.files("deepstreaks_dask.readers")
    names = sorted(file.name[:-3] for file in package.iterdir() if file.name.endswith(".py"))
    modules = (
        importlib.import_module(f"deepstreaks_dask.readers.{name}")
        for name in names
        if name != "__init__"
    )
    return {module.READER.name: module.READER for module in modules if hasattr(module, "READER")}


def get_reader(name: str) -> Reader:
    """Give a reader by name.

    Parameters
    ----------
    name : str
        Such as ``images``.

    Returns
    -------
    Reader
        The one of that name.

    Raises
    ------
    ReaderError
        If there is none; names those there are.
    """
    known = readers()
    if name not in known:
        hint = did_you_mean(name, known)
        raise ReaderError(f"no reader {name!r}: {hint}choose one of {', '.join(sorted(known))}")
    return known[name]


def layout_of(reader: Reader) -> Mapping[str, Any]:
    """Give what an archive for a reader's cutouts is created with: ``shape``, ``dtype``, ``columns``."""
    return getattr(reader, "layout", {})


def wants_processes(reader: Reader, inputs: int) -> bool:
    """Say whether so many inputs are read faster by processes, which take seconds to start, than by threads.

    Parameters
    ----------
    reader : Reader
        Of the format.
    inputs : int
        How many there are.

    Returns
    -------
    bool
        True for processes.
    """
    return getattr(reader, "processes", False) and inputs >= _PROCESS_POOL_INPUTS


def sniff(path: Path) -> Reader:
    """Find the reader that knows what ``path`` is.

    Parameters
    ----------
    path : Path
        File or folder.

    Returns
    -------
    Reader
        The first that knows it.

    Raises
    ------
    ReaderError
        If ``path`` does not exist or no reader knows it.
    """
    if not path.exists():
        raise ReaderError(f"{path} does not exist: check the path")
    # a folder of pictures may be more than that, so this is asked last
    for reader in sorted(readers().values(), key=lambda reader: reader.name == "images"):
        if reader.sniff(path):
            return reader
    raise ReaderError(
        f"{path} looks like none of the known formats ({', '.join(sorted(readers()))}): "
        "name one with --reader"
    )
