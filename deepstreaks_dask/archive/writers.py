"""One writer at a time at a URL, by conditional writes: what a store has acknowledged, no other writer replaces.

A writer claims an archive by replacing its commit record with one that names the writer, on condition that the record is
still the one that was read (``If-Match``). It commits on the condition that its claim still stands, and replaces a chunk
on the condition that the chunk is as it was while the claim stood. So a writer that was held up for longer than its claim
lasts, and whose place another has taken, can neither commit nor replace what the other has written. This holds where a
store knows conditional writes, as S3 does; elsewhere there is a lease, an object that only one can make where the store
allows that much.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import fsspec
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore

from deepstreaks_dask.archive.metadata import read_metadata
from deepstreaks_dask.errors import ArchiveError

WRITER = "writer"
"""Attribute of a commit record that names who has claimed the archive."""

CLAIM_SECONDS = 900.0
"""How long a claim lasts that is not renewed: a writer that was killed is waited for as long."""

_RENEWAL = 60.0  # seconds after which a claim is renewed, at the next write
_LEASE = ".writer.lease"
_PROBE = ".conditional-write"
_TAKEN_OVER = "{url} is being written to by another process, which took over: nothing was appended; run it again"
_NO_SUCH_VERSION = '"00000000000000000000000000000000"'


class ConflictError(ArchiveError):
    """Another writer has taken this one's place."""


class Claim:
    """A writer's claim of an archive at a store with conditional writes.

    Parameters
    ----------
    url : str
        The archive.
    fs : s3fs.S3FileSystem
        Its file system.
    root : str
        Its root there.

    Attributes
    ----------
    store : FsspecStore
        Through which the writer reads and writes arrays.
    """

    def __init__(self, url: str, fs: fsspec.AbstractFileSystem, root: str) -> None:
        self.url, self.root = url, root
        self._fs, self._path = fs, f"{root}/zarr.json"
        self._version = fs.info(self._path, refresh=True)["ETag"]
        record = read_metadata(fs, self._path, f"zarr.json of {url}")
        attributes = record.get("attributes") if isinstance(record, dict) else None
        if not isinstance(attributes, dict):
            raise ArchiveError(f"{url} is not a cutout archive")
        _refuse(url, attributes.pop(WRITER, None))
        self._record, self._token = record, uuid.uuid4().hex
        self._renewed = 0.0
        store = _FencedStore.from_url(url)
        assert isinstance(store, _FencedStore)
        self.store = store
        self.store.claim = self
        self._put(self._claimed())

    def _claimed(self) -> bytes:
        self._renewed = time.time()
        attributes = self._record["attributes"] | {WRITER: _describe(self._token)}
        return _encode(self._record | {"attributes": attributes})

    def _put(self, data: bytes) -> None:
        bucket, key, _ = self._fs.split_path(self._path)
        try:
            out = self._fs.call_s3(
                "put_object", Bucket=bucket, Key=key, Body=data, IfMatch=self._version
            )
            self._version = out["ETag"]
        except OSError as error:
            self._refused(error, data)
        self._fs.invalidate_cache(self._path)

    def _refused(self, error: OSError, data: bytes) -> None:
        """Raise, unless it was this very write that was sent twice, and the first one came through."""
        if not _is_conflict(error):
            raise error
        self._fs.invalidate_cache(self._path)
        version = self._fs.info(self._path, refresh=True)["ETag"]
        if self._fs.cat_file(self._path) != data:
            raise ConflictError(_TAKEN_OVER.format(url=self.url)) from error
        self._version = version

    async def renew(self, fs: Any) -> None:
        """Renew the claim if it is old, so that a long append keeps it.

        Parameters
        ----------
        fs : s3fs.S3FileSystem
            Asynchronous.

        Raises
        ------
        ConflictError
            If another writer has taken over.
        """
        if time.time() - self._renewed < _RENEWAL:
            return
        data = self._claimed()
        self._version = await put_if(fs, self._path, data, self._version, self.url)

    async def check(self, fs: Any) -> None:
        """Check that no other writer has taken over.

        Parameters
        ----------
        fs : s3fs.S3FileSystem
            Asynchronous.

        Raises
        ------
        ConflictError
            If one has.
        """
        if (await fs._info(self._path, refresh=True))["ETag"] != self._version:
            raise ConflictError(_TAKEN_OVER.format(url=self.url))

    def metadata(self, name: str) -> dict[str, Any]:
        """Return the metadata of an array as this writer has written them, or else as they are committed.

        Parameters
        ----------
        name : str
            Path of the array or group in the archive.

        Returns
        -------
        dict
            Content of its ``zarr.json``.
        """
        written = self.store.documents.get(f"{self.root}/{name}/zarr.json")
        if written is not None:
            values: dict[str, Any] = json.loads(written)
            return values
        committed = self._record.get("consolidated_metadata", {}).get("metadata", {})
        if name in committed:
            known: dict[str, Any] = committed[name]
            return known
        made: dict[str, Any] = read_metadata(self._fs, f"{self.root}/{name}/zarr.json", name)
        return made

    def restart(self) -> None:
        """Claim what this writer has put in the place of the archive."""
        self._fs.invalidate_cache(self._path)
        self._version = self._fs.info(self._path, refresh=True)["ETag"]
        self._record = read_metadata(self._fs, self._path, f"zarr.json of {self.url}")
        self.store.versions.clear()
        self.store.documents.clear()

    def commit(self, record: dict[str, Any]) -> None:
        """Replace the commit record, if this claim still stands; it stands no more then.

        Parameters
        ----------
        record : dict
            New content of the root ``zarr.json``.

        Raises
        ------
        ConflictError
            If another writer has taken over.
        """
        self._record = record
        self._put(_encode(record))
        self._renewed = float("inf")

    def release(self) -> None:
        """Take the claim back, unless it was committed or another writer has taken over."""
        if self._renewed < float("inf"):
            with suppress(ArchiveError, OSError):
                self._put(_encode(self._record))


class _FencedStore(FsspecStore):
    """Writes objects only if they are still as they were when the writer read them first."""

    claim: Claim

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.versions: dict[str, str | None] = {}
        self.documents: dict[str, bytes] = {}

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        await self._see(f"{self.path}/{key}")
        return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        path, data = f"{self.path}/{key}", value.to_bytes()
        await self.claim.renew(self.fs)
        version = await self._see(path)
        self.versions[path] = await put_if(self.fs, path, data, version, self.claim.url)
        if key.endswith("zarr.json"):
            self.documents[path] = data

    async def delete(self, key: str) -> None:
        """Delete nothing: what lies beyond the committed rows is replaced by the next append, and nobody reads it."""

    async def _see(self, path: str) -> str | None:
        if path not in self.versions:
            try:
                self.versions[path] = (await self.fs._info(path, refresh=True))["ETag"]
            except FileNotFoundError:
                self.versions[path] = None
            # what was seen while the claim stood, another writer can only have changed afterwards
            await self.claim.check(self.fs)
        return self.versions[path]


async def put_if(fs: Any, path: str, data: bytes, version: str | None, url: str) -> str:
    """Write an object if it is of a version.

    Parameters
    ----------
    fs : s3fs.S3FileSystem
        Asynchronous.
    path : str
        Of the object.
    data : bytes
        All of it.
    version : str or None
        Its ETag; None if there must be none.
    url : str
        The archive, for the error.

    Returns
    -------
    str
        The ETag that the object has now.

    Raises
    ------
    ConflictError
        If it is of another version.
    """
    bucket, key, _ = fs.split_path(path)
    condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
    try:
        out = await fs._call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
    except OSError as error:
        if not _is_conflict(error):
            raise
        found = (await fs._info(path, refresh=True))["ETag"]
        if await fs._cat_file(path) != data:
            raise ConflictError(_TAKEN_OVER.format(url=url)) from error
        return str(found)
    return str(out["ETag"])


_CURRENT: ContextVar[Claim | None] = ContextVar("_CURRENT", default=None)


def current_claim(root: str) -> Claim | None:
    """Return the claim of an archive that is held here, if any.

    Parameters
    ----------
    root : str
        Root of the archive on its file system.

    Returns
    -------
    Claim or None
        Of :func:`claimed`.
    """
    claim = _CURRENT.get()
    return claim if claim is not None and claim.root == root else None


@contextmanager
def claimed(url: str, fs: fsspec.AbstractFileSystem, root: str) -> Iterator[None]:
    """Keep other writers from an archive at a URL.

    Parameters
    ----------
    url : str
        The archive.
    fs : fsspec.AbstractFileSystem
        Its file system, not a local one.
    root : str
        Its root there.

    Yields
    ------
    None
        While the archive is claimed; :func:`current_claim` has the claim where the store knows conditional writes.

    Raises
    ------
    ArchiveError
        If another writer has claimed it.
    """
    fs.invalidate_cache()  # it may list what there was before others came
    if not fs.exists(f"{root}/zarr.json"):  # it is being created
        yield
        return
    if not is_conditional(fs, root):
        with _leased(url, fs, root):
            yield
        return
    claim = Claim(url, fs, root)
    token = _CURRENT.set(claim)
    try:
        yield
    finally:
        _CURRENT.reset(token)
        claim.release()


@contextmanager
def _leased(url: str, fs: fsspec.AbstractFileSystem, root: str) -> Iterator[None]:
    """Keep other writers away by an object, where a store knows no conditional writes, and say so."""
    path = f"{root}/{_LEASE}"
    warnings.warn(
        f"{url}: this store knows no conditional writes, so that a lease keeps other writers away for "
        f"{CLAIM_SECONDS:.0f} s: let only one program write to it",
        stacklevel=4,
    )
    fs.invalidate_cache()
    with suppress(FileNotFoundError, ValueError):
        _refuse(url, json.loads(fs.cat_file(path)))
        fs.rm_file(path)  # it has run out
    token = uuid.uuid4().hex
    try:
        fs.pipe_file(path, _encode(_describe(token)), mode="create")
    except (FileExistsError, OSError) as error:
        if isinstance(error, FileExistsError) or _is_conflict(error):
            raise ArchiveError(
                f"{url} is being written to by another process: wait for it"
            ) from None
        raise
    try:
        yield
    finally:
        with suppress(FileNotFoundError, ValueError):
            if json.loads(fs.cat_file(path)).get("token") == token:
                fs.rm_file(path)


def is_conditional(fs: fsspec.AbstractFileSystem, root: str) -> bool:
    """Return whether a store knows conditional writes, found by one that must fail.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem
        File system of the store.
    root : str
        Root of an archive on it.

    Returns
    -------
    bool
        Of S3 as it is; False where a condition is ignored.
    """
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
    return "s3" in protocols and _probe(fs, root)


def _probe(fs: fsspec.AbstractFileSystem, root: str) -> bool:
    bucket, key, _ = fs.split_path(f"{root}/{_PROBE}")
    try:
        fs.call_s3("put_object", Bucket=bucket, Key=key, Body=b"", IfMatch=_NO_SUCH_VERSION)
    except FileNotFoundError:  # S3 says so of an object that is not there
        return True
    except OSError as error:
        if _is_conflict(error):
            return True
        if _code(error) in ("NotImplemented", "501", "InvalidArgument", "InvalidRequest"):
            return False
        raise
    except TypeError:  # a botocore that knows no conditions
        return False
    fs.rm_file(f"{root}/{_PROBE}")
    return False


def _is_conflict(error: BaseException) -> bool:
    return _code(error) in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")


def _code(error: BaseException) -> str:
    """Return the code of a store's answer, which botocore's error has."""
    cause = error.__cause__
    response = getattr(cause, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _describe(token: str) -> dict[str, Any]:
    return {
        "token": token,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "until": time.time() + CLAIM_SECONDS,
    }


def _refuse(url: str, other: Any) -> None:
    """Refuse an archive that another writer has claimed, unless the claim has run out."""
    until = other.get("until") if isinstance(other, dict) else None
    if (
        not isinstance(until, int | float)
        or not time.time() < until <= time.time() + 2 * CLAIM_SECONDS
    ):
        return
    left = until - time.time()
    who = f"process {other.get('process')} on {str(other.get('host'))[:80]}"
    raise ArchiveError(
        f"{url} is being written to by another process ({who}): wait for it, or {left:.0f} s if it was killed"
    )


def _encode(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=1).encode()
