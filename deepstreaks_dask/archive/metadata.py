"""Check the metadata of an archive before Zarr acts on them: an archive may be a stranger's.

Zarr makes whatever its metadata name: codecs of any registered kind, pickles of Zarr 2, arrays of any size. So every
``zarr.json`` is compared with what :func:`~deepstreaks_dask.archive.create.create_archive` and runs write, and all
that is not among it is refused in one line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

import fsspec
import numpy as np
from pydantic import ConfigDict, Field, model_validator

from deepstreaks_dask.archive.schema import (
    COLUMN_TYPES,
    GROUPS,
    MAX_CHUNK_BYTES,
    MAX_SHARD_BYTES,
    MAX_SHARD_ROWS,
    PIXEL_ARRAYS,
    PIXEL_TYPES,
    QUARANTINE_COLUMNS,
    ROW_DIMS,
    SCHEMA,
    SPANS,
)
from deepstreaks_dask.errors import ArchiveError
from deepstreaks_dask.utils.validation import STRICT, ListOf, StrictModel, validate
from deepstreaks_dask.vocabulary import LABEL_COLUMNS

MAX_METADATA_BYTES = 64 * 2**20
"""Bytes of a ``zarr.json``; the commit record of an archive has 50 kB, and 5 kB more a run."""

_MAX_NODES = 100_000
_MAX_DIMENSIONS = 4
_MAX_TEXT = 256  # characters of a name or fill value
_MAX_ROWS = 2**53
_STRING_BYTES = 8  # of a reference to a text
_NUMBERS_OF_TEXT = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}
_REMEDY = "it is damaged, or was written by another program"

_Size = Annotated[int, Field(ge=1, le=2**40)]
_Text = Annotated[str, Field(max_length=_MAX_TEXT)]
_Model = TypeVar("_Model", bound=StrictModel)


class _NoOptions(StrictModel):
    pass


class _Endian(StrictModel):
    endian: Literal["little", "big"] = "little"


class _BytesCodec(StrictModel):
    name: Literal["bytes"]
    configuration: _Endian | None = None


class _StringCodec(StrictModel):
    name: Literal["vlen-utf8"]
    configuration: _NoOptions | None = None


class _ChecksumCodec(StrictModel):
    name: Literal["crc32c"]
    configuration: _NoOptions | None = None


class _ZstdOptions(StrictModel):
    level: Annotated[int, Field(ge=-131072, le=22)] = 0
    checksum: bool = False


class _ZstdCodec(StrictModel):
    name: Literal["zstd"]
    configuration: _ZstdOptions


class _BloscOptions(StrictModel):
    typesize: Annotated[int, Field(ge=1, le=255)]
    cname: Literal["lz4", "lz4hc", "blosclz", "zstd", "zlib"]
    clevel: Annotated[int, Field(ge=0, le=9)]
    shuffle: Literal["noshuffle", "shuffle", "bitshuffle"]
    blocksize: Annotated[int, Field(ge=0, le=2**30)] = 0


class _BloscCodec(StrictModel):
    name: Literal["blosc"]
    configuration: _BloscOptions


_Codec = Annotated[
    _BytesCodec | _StringCodec | _ChecksumCodec | _ZstdCodec | _BloscCodec,
    Field(discriminator="name"),
]
_Codecs = Annotated[ListOf[_Codec], Field(min_length=1, max_length=4)]


class _ShardOptions(StrictModel):
    chunk_shape: ListOf[_Size]
    codecs: _Codecs
    index_codecs: ListOf[Annotated[_BytesCodec | _ChecksumCodec, Field(discriminator="name")]] = (
        Field(min_length=1, max_length=2)
    )
    index_location: Literal["start", "end"] = "end"


class _ShardCodec(StrictModel):
    name: Literal["sharding_indexed"]
    configuration: _ShardOptions


class _GridOptions(StrictModel):
    chunk_shape: ListOf[_Size]


class _Grid(StrictModel):
    name: Literal["regular"]
    configuration: _GridOptions


class _KeyOptions(StrictModel):
    separator: Literal["/"] = "/"


class _Keys(StrictModel):
    name: Literal["default"]
    configuration: _KeyOptions = _KeyOptions()


class _Array(StrictModel):
    """Metadata of an array of this package."""

    zarr_format: Literal[3]
    node_type: Literal["array"]
    shape: Annotated[
        ListOf[Annotated[int, Field(ge=0, le=_MAX_ROWS)]],
        Field(min_length=1, max_length=_MAX_DIMENSIONS),
    ]
    data_type: str
    chunk_grid: _Grid
    chunk_key_encoding: _Keys
    fill_value: bool | int | float | _Text
    codecs: ListOf[
        Annotated[
            _BytesCodec | _StringCodec | _ChecksumCodec | _ZstdCodec | _BloscCodec | _ShardCodec,
            Field(discriminator="name"),
        ]
    ] = Field(min_length=1, max_length=4)
    dimension_names: ListOf[_Text]
    attributes: dict[str, Any] = Field(default_factory=dict)
    storage_transformers: ListOf[Any] = Field(default=(), max_length=0)

    @model_validator(mode="after")
    def _check(self) -> _Array:
        grid, inner = self.chunk_grid.configuration.chunk_shape, list(self.shape[1:])
        if not len(grid) == len(self.shape) == len(self.dimension_names):
            raise ValueError("shape, chunks and dimensions differ in number")
        if grid[0] > MAX_SHARD_ROWS:
            raise ValueError(f"a chunk has more than {MAX_SHARD_ROWS:,} rows")
        if list(grid[1:]) != inner:
            raise ValueError("only the first axis may be cut into chunks")
        if self.data_type not in COLUMN_TYPES:
            raise ValueError(f"data of type {self.data_type[:_MAX_TEXT]!r} are none of its")
        if len(set(self.dimension_names)) < len(self.dimension_names):
            raise ValueError("two dimensions have the same name")
        self._check_fill_value()
        serializer, *rest = self.codecs
        if isinstance(serializer, _ShardCodec):
            options = serializer.configuration
            chunk, codecs = options.chunk_shape, options.codecs
            if rest or list(chunk[1:]) != inner or grid[0] % chunk[0]:
                raise ValueError("the shards do not consist of whole chunks")
            if self.item_bytes * math.prod(grid) > MAX_SHARD_BYTES:
                raise ValueError(f"a shard of {grid} has more than {MAX_SHARD_BYTES:,} bytes")
        else:
            chunk, codecs = grid, self.codecs  # type: ignore[assignment]
        if self.item_bytes * math.prod(chunk) > MAX_CHUNK_BYTES:
            raise ValueError(f"a chunk of {chunk} has more than {MAX_CHUNK_BYTES:,} bytes")
        self._check_codecs(list(codecs))
        return self

    @property
    def item_bytes(self) -> int:
        return _STRING_BYTES if self.data_type == "string" else np.dtype(self.data_type).itemsize

    def _check_codecs(self, codecs: list[Any]) -> None:
        """Check that values become bytes first, and only then are compressed or given a checksum."""
        serializer = _StringCodec if self.data_type == "string" else _BytesCodec
        if not isinstance(codecs[0], serializer):
            raise ValueError(f"the first codec of {self.data_type} cannot be {codecs[0].name}")
        if any(isinstance(codec, _BytesCodec | _StringCodec | _ShardCodec) for codec in codecs[1:]):
            raise ValueError("only the first codec may turn values into bytes")

    def _check_fill_value(self) -> None:
        value, kind = self.fill_value, self.data_type
        if kind == "string" or kind == "bool":
            fits = type(value) is (str if kind == "string" else bool)
        elif kind.startswith("float"):
            fits = type(value) in (int, float) or value in _NUMBERS_OF_TEXT
        else:
            limits = np.iinfo(kind)
            fits = type(value) is int and limits.min <= value <= limits.max
        if not fits:
            raise ValueError(f"{value!r} is no fill value of {kind}")


class _Group(StrictModel):
    zarr_format: Literal[3]
    node_type: Literal["group"]
    attributes: dict[str, Any] = Field(default_factory=dict)


class _Consolidated(StrictModel):
    kind: Literal["inline"]
    must_understand: Literal[False] = False
    metadata: dict[str, Any] = Field(max_length=_MAX_NODES)


class _Attributes(StrictModel):
    """Attributes of an archive, and any others."""

    model_config = ConfigDict(**{**STRICT, "extra": "ignore"}, frozen=True)

    created: _Text
    shard: Annotated[int, Field(ge=1, le=2**31)]
    native: Annotated[ListOf[_Size], Field(min_length=2, max_length=2)] | None


class _Root(_Group):
    consolidated_metadata: _Consolidated


def read_metadata(fs: fsspec.AbstractFileSystem, path: str, where: str) -> Any:
    """Read a ``zarr.json``, or as much of it as may be.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem
        File system of the archive.
    path : str
        Of the file.
    where : str
        What to call the file in an error.

    Returns
    -------
    Any
        Its content, not checked.

    Raises
    ------
    ArchiveError
        If the file is no JSON, or too large.
    OSError
        If it cannot be read; each protocol's library may have its own error.
    """
    data = fs.cat_file(path, start=0, end=MAX_METADATA_BYTES + 1)
    if len(data) > MAX_METADATA_BYTES:
        raise ArchiveError(f"{where} is larger than {MAX_METADATA_BYTES:,} bytes: refused")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{where} is damaged: {error}") from error


def check_array(values: Any, where: str) -> None:
    """Check the metadata of an array.

    Parameters
    ----------
    values : Any
        Content of its ``zarr.json``.
    where : str
        What to call the array in an error.

    Raises
    ------
    ArchiveError
        If it is no array of this package, or too large.
    """
    _checked(_Array, values, where)


def check_group(values: Any, where: str) -> None:
    """Check the metadata of a group that lists no members.

    Parameters
    ----------
    values : Any
        Content of its ``zarr.json``.
    where : str
        What to call the group in an error.

    Raises
    ------
    ArchiveError
        If it is no group.
    """
    _checked(_Group, without_members(values), where)


def without_members(values: Any) -> Any:
    """Return the metadata of a group without the list of its members, as :func:`zarr.consolidate_metadata` leaves one.

    Parameters
    ----------
    values : Any
        Metadata of a group within an archive, whose members the commit record lists.

    Returns
    -------
    Any
        The same without the list.
    """
    if not isinstance(values, dict):
        return values
    return {k: v for k, v in values.items() if k != "consolidated_metadata"}


def check_record(values: Any, where: str) -> None:
    """Check the commit record of an archive: every array it lists, and that these belong together.

    Parameters
    ----------
    values : Any
        Content of the root ``zarr.json``.
    where : str
        What to call the archive in an error.

    Raises
    ------
    ArchiveError
        If there is anything in the record that this package does not write, or something is missing.
    """
    root = _checked(_Root, values, where)
    attributes = _checked(_Attributes, root.attributes, where)
    arrays: dict[str, _Array] = {}
    for path, node in root.consolidated_metadata.metadata.items():
        name = f"{where}: {path[:_MAX_TEXT]!r}"
        if not all(path.split("/")) or any(part in (".", "..") for part in path.split("/")):
            raise ArchiveError(f"{name} is no path: {_REMEDY}")
        if isinstance(node, Mapping) and node.get("node_type") == "group":
            check_group(node, name)
        else:
            arrays[path] = _checked(_Array, node, name)
    for problem in _problems(arrays, attributes):
        raise ArchiveError(f"{where} {problem}: {_REMEDY}")


def _problems(arrays: Mapping[str, _Array], attributes: _Attributes) -> Iterator[str]:
    """Find what is missing in a record, or does not fit the rest."""
    pixels = arrays.get("cutouts")
    if pixels is None or pixels.data_type not in PIXEL_TYPES or len(pixels.shape) < 3:
        yield "has no pixels"
        return
    axis = pixels.dimension_names[0]
    row = "object" if axis == "epoch" else axis
    if axis not in ("cutout", "epoch"):
        yield f"has cutouts along {axis!r}"
    wanted = {name: column.dtype for name, column in SCHEMA.items() if name in _FIRST_COLUMNS}
    wanted |= {name: column.dtype for name, column in SPANS.items() if axis == "epoch"}
    for name, kind in wanted.items():
        if name not in arrays or arrays[name].data_type != kind:
            yield f"has no column {name!r} of {kind}"
        elif arrays[name].dimension_names != (row,):
            yield f"has a column {name!r} that is not along {row!r}"
    for name, array in arrays.items():
        if name in PIXEL_ARRAYS and not isinstance(array.codecs[0], _ShardCodec):
            yield f"has {name!r} without shards"
        if name.split("/")[0] not in GROUPS and array.dimension_names[0] not in (row, axis):
            yield f"has {name!r} along {array.dimension_names[0]!r}"
    for name in QUARANTINE_COLUMNS:
        if f"quarantine/{name}" not in arrays:
            yield f"has no column {name!r} of refused inputs"
    if axis == "cutout" and pixels.chunk_grid.configuration.chunk_shape[0] != attributes.shard:
        yield "says one size of its shards, and has another"
    if ("native" in arrays) != bool(attributes.native):
        yield "says that it has native pictures, or not, and that is wrong"
    yield from _unequal(arrays)


def _unequal(arrays: Mapping[str, _Array]) -> Iterator[str]:
    """Find arrays along the same dimension that differ in length."""
    lengths: dict[str, int] = {}
    for name, array in arrays.items():
        dimension, length = array.dimension_names[0], array.shape[0]
        if dimension not in (*ROW_DIMS, "epoch", "quarantined"):
            continue
        if lengths.setdefault(dimension, length) != length:
            yield f"has {length:,} rows of {name!r}, but {lengths[dimension]:,} of others"


_FIRST_COLUMNS = frozenset(
    (
        *(
            "id",
            "night",
            "jd",
            "filter",
            "ra",
            "dec",
            "ra1",
            "dec1",
            "ra2",
            "dec2",
            "length",
            "sigma",
            "flux",
            "mag",
        ),
        *("snr", "source", "kind", *LABEL_COLUMNS, "digest"),
    )
)
"""Columns of the format's version 1, which every archive has."""


def _checked(model: type[_Model], values: Any, where: str) -> _Model:
    return validate(model, values, source=where, error=ArchiveError, remedy=_REMEDY)
