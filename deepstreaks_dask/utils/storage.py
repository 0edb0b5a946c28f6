"""Files on a local disk or at any fsspec URL: written in one step, copied to read them, errors in one line."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem

from deepstreaks_dask.errors import DeepStreaksError, StorageError
from deepstreaks_dask.utils.optional import missing_extra

STORE_LIBRARIES = (
    "adlfs",
    "aiobotocore",
    "aiohttp",
    "azure",
    "botocore",
    "fsspec",
    "gcsfs",
    "google",
    "s3fs",
)
"""Packages whose exceptions are about a store, not about a program."""

_MAX_REASON_LENGTH = 300  # characters of a store's own message


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
    text = os.fspath(url)
    if (
        "::" in text and not is_url(url) and "://" not in text
    ):  # which fsspec would take for a chain
        return LocalFileSystem(), str(Path(text).absolute())
    fs, root = fsspec.core.url_to_fs(text)
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

    Raises
    ------
    StorageError
        If it cannot be written there.
    """
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file to a path or URL as :func:`write_whole` does.

    Parameters
    ----------
    path : str or path
        Path or URL.
    data : bytes
        All of it.

    Raises
    ------
    StorageError
        If it cannot be written there.
    """
    with storage_errors(path, "write"):
        fs, target = locate(path)
        write_whole(fs, target, data)


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """Read a file from a path or URL.

    Parameters
    ----------
    path : str or path
        Path or URL.
    limit : int
        Bytes that the file may have.

    Returns
    -------
    bytes
        All of it.

    Raises
    ------
    StorageError
        If it cannot be read, or is larger.
    """
    with storage_errors(path, "read"):
        fs, target = locate(path)
        if (fs.size(target) or 0) > limit:
            raise StorageError(
                f"{os.fspath(path)} has more than {limit:,} bytes: name another file"
            )
        data: bytes = fs.cat_file(target)
        return data


def is_url(path: str | os.PathLike[str]) -> bool:
    """Return whether a path names something that is not on the local disk, such as ``s3://bucket/key``.

    Parameters
    ----------
    path : str or path
        Path or URL. A file that exists under that very name is no URL.

    Returns
    -------
    bool
        True for any URL but one of a local file.
    """
    text = os.fspath(path)
    if isinstance(path, Path) or not ("://" in text or "::" in text) or Path(text).exists():
        return False
    return not text.startswith(("file://", "local://"))


@contextmanager
def storage_errors(
    place: str | os.PathLike[str],
    what: Literal["read", "write"],
    kind: type[DeepStreaksError] = StorageError,
) -> Iterator[None]:
    """Wrap errors of a store or its library in one line that names the path or URL.

    Parameters
    ----------
    place : str or path
        Path or URL.
    what : {"read", "write"}
        What is done there.
    kind : type
        Error to raise.

    Yields
    ------
    None
        While the errors are wrapped.

    Raises
    ------
    DeepStreaksError
        Of this kind, in place of any other exception.
    """
    try:
        yield
    except DeepStreaksError:
        raise
    except Exception as error:  # the library of each protocol has its own
        reason = describe_storage_error(error, url=is_url(place))
        remedy = ": name another file" if isinstance(error, IsADirectoryError | ValueError) else ""
        raise kind(f"cannot {what} {os.fspath(place)}: {reason}{remedy}") from error


def describe_storage_error(error: Exception, *, url: bool = True) -> str:
    """Return in one line what was wrong with a store, and what to do.

    Parameters
    ----------
    error : Exception
        As a file system or its library raised it.
    url : bool
        False for the local disk.

    Returns
    -------
    str
        Without a full stop.
    """
    words = str(getattr(error, "strerror", None) or error) or type(error).__name__
    reason = " ".join(words.split())[:_MAX_REASON_LENGTH]
    kind = type(error).__name__
    if isinstance(error, ImportError):
        return str(missing_extra(error) or reason)
    if not url:
        return reason
    if isinstance(error, FileNotFoundError):
        return "it does not exist: check the bucket and the path"
    if isinstance(error, PermissionError):
        return f"permission denied ({reason}): check the credentials"
    if "Credential" in kind:
        return f"no credentials ({reason}): give some, as the library of the protocol expects them"
    if any(word in kind for word in ("Connect", "Endpoint", "Timeout")):
        return f"the store cannot be reached ({reason}): check the endpoint and the network"
    return reason


@contextmanager
def local_copy(url: str | os.PathLike[str]) -> Iterator[Path]:
    """Name a file or folder on the local disk with the content of a path or URL.

    Parameters
    ----------
    url : str or path
        Path, or URL of a file or folder, of which a temporary copy is made.

    Yields
    ------
    Path
        The path itself, or the copy, which has the same name and is removed afterwards. Errors that name the copy name
        the URL instead.

    Raises
    ------
    StorageError
        If the URL cannot be read.
    """
    if not is_url(url):
        with storage_errors(url, "read"):
            path = Path(locate(url)[1] if os.fspath(url).startswith(("file:", "local:")) else url)
        yield path
        return
    with TemporaryDirectory(prefix="deepstreaks-") as folder:
        with storage_errors(url, "read"):
            fs, root = locate(url)
            copy = _fetch(fs, root, Path(folder))
        try:
            yield copy
        except DeepStreaksError as error:
            named = str(error).replace(str(copy), os.fspath(url))
            raise type(error)(named) from error


def _fetch(fs: fsspec.AbstractFileSystem, root: str, folder: Path) -> Path:
    """Copy a file or folder of a store into a local folder, and return its path."""
    copy = folder / (PurePosixPath(root.split("?")[0].split("#")[0]).name or "copy")
    if fs.isfile(root):
        fs.get_file(root, str(copy))
        return copy
    found = [path for path in fs.find(root) if path.startswith(f"{root}/")]
    if not found:
        fs.info(root)  # says why: it does not exist, or may not be read
        raise FileNotFoundError(root)
    places = [PurePosixPath(path.removeprefix(f"{root}/")) for path in found]
    for place in places:
        if place.is_absolute() or ".." in place.parts:
            raise ValueError(f"the name {place} leads out of the folder: rename the object")
        (copy / place).parent.mkdir(parents=True, exist_ok=True)
    fs.get(found, [str(copy / place) for place in places])
    return copy
