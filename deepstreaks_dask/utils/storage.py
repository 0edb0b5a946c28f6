"""Single files on a local disk or at any fsspec URL, replaced in one step."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem


def locate(url: str | os.PathLike[str]) -> tuple[fsspec.AbstractFileSystem, str]:
    """Give the file system of a path or URL, and the path in it.

    Parameters
    ----------
    url : str or path
        Path or URL.

    Returns
    -------
    fsspec.AbstractFileSystem, str
        To be used together.

    Raises
    ------
    ImportError, ValueError
        If the protocol is unknown or its package is not installed.
    """
    fs, root = fsspec.core.url_to_fs(os.fspath(url))
    return fs, root.rstrip("/")


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    """Say whether a file system is this machine's disk."""
    return isinstance(fs, LocalFileSystem)


def write_whole(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    """Write one file so that a reader finds the old one, the new one, and nothing between.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem
        Of the file.
    path : str
        In it.
    data : bytes
        All of it.
    """
    if not is_local(fs):
        fs.pipe_file(path, data)  # object stores show an object once it is whole
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text in UTF-8 to a path or URL as :func:`write_whole` does.

    Parameters
    ----------
    path : str or path
        Path or URL.
    text : str
        All of it.
    """
    fs, target = locate(path)
    write_whole(fs, target, text.encode())
