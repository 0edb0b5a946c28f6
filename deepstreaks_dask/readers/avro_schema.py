"""Check the schema that an Avro file brings, and keep what is needed to decode with it.

A file's schema may be a stranger's. One that nests in itself, or has parts that take no bytes, would let a short file
be read without end; one that nests too deep would break the decoder, which is C. What is left is types and names:
defaults that do not fit, logical types, aliases and documentation are dropped, since none of them changes how bytes are
decoded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from deepstreaks_dask.readers.fits_checks import UnreadableError
from deepstreaks_dask.utils.optional import extras_named

MAX_DEPTH = 24
"""Levels of records, lists and maps in each other."""

_SIMPLE_TYPES = {"boolean", "int", "long", "float", "double", "bytes", "string"}
_NAMED_TYPES = {"record", "error", "enum", "fixed"}
_MAX_FIXED_BYTES = 2**20


@lru_cache(256)
def parsed_schema(text: str) -> Any:
    """Parse the schema of an Avro file's records.

    Parameters
    ----------
    text : str
        JSON.

    Returns
    -------
    dict
        As fastavro parses it, for ``schemaless_reader``.

    Raises
    ------
    UnreadableError
        If it is no schema of records, or one that could be read without end.
    MissingExtraError
        If fastavro is not installed.
    """
    with extras_named():
        import fastavro
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableError("damaged", "its schema is no JSON") from error
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise UnreadableError("not an alert", "its schema is no record")
    clean = _Cleaner()
    kind, _ = clean.kind(schema, "", 0)
    try:
        return fastavro.parse_schema(kind)
    except Exception as error:  # fastavro raises many kinds for what is no schema
        raise UnreadableError("damaged", f"its schema cannot be used: {error}") from error


@dataclass
class _Cleaner:
    """Copies a schema, part by part; counts how deep it nests, references included."""

    depths: dict[str, int] = field(default_factory=dict)  # of types that are complete
    names: dict[str, str] = field(default_factory=dict)  # of all types, to the names that they get
    field_name: str = ""

    def kind(self, kind: Any, space: str, level: int) -> tuple[Any, int]:
        """Copy a type; return it, and how many levels it has."""
        if level > MAX_DEPTH:
            raise self._refused("is nested too deep")
        if isinstance(kind, list):
            return self._union(kind, space, level)
        if isinstance(kind, str):
            return (kind, 0) if kind in _SIMPLE_TYPES else self._reference(kind, space)
        if not isinstance(kind, dict):
            raise self._refused("is of no type that Avro has")
        name = kind.get("type")
        if name in ("array", "map"):
            inner, depth = self.kind(
                kind.get("items" if name == "array" else "values"), space, level + 1
            )
            return {"type": name, "items" if name == "array" else "values": inner}, self._deeper(
                depth
            )
        if isinstance(name, str) and name in _NAMED_TYPES:
            return self._named(kind, name, space, level)
        return self.kind(name, space, level + 1)  # such as {"type": "long", "logicalType": ...}

    def _union(self, kinds: list[Any], space: str, level: int) -> tuple[Any, int]:
        if not kinds:
            raise self._refused("is one of no types")
        copies, deepest = [], 0
        for inner in kinds:
            if inner == "null" or inner == {"type": "null"}:
                copies.append("null")
                continue
            if isinstance(inner, list):
                raise self._refused("is a union in a union")
            copy, depth = self.kind(inner, space, level + 1)
            copies.append(copy)
            deepest = max(deepest, depth)
        return copies, deepest

    def _reference(self, name: str, space: str) -> tuple[str, int]:
        """Resolve the name of a type that was defined before."""
        full = name if "." in name or not space else f"{space}.{name}"
        if full not in self.names:
            last = name.rpartition(".")[2]
            alike = [known for known in self.names if known.rpartition(".")[2] == last]
            full = name if name in self.names else alike[0] if len(alike) == 1 else ""
        if not full:
            raise self._refused(f"is of an unknown type {name[:80]!r}")
        if full not in self.depths:
            raise self._refused("nests in itself")
        return self.names[full], self.depths[full]

    def _named(
        self, kind: dict[str, Any], type_name: str, space: str, level: int
    ) -> tuple[Any, int]:
        name = str(kind.get("name", ""))
        if "." in name:
            space = name.rpartition(".")[0]
        elif isinstance(kind.get("namespace"), str):
            space = kind["namespace"]
        full = name if "." in name or not space else f"{space}.{name}"
        if full in self.names:
            raise self._refused(f"defines {full[:80]!r} twice")
        copy: dict[str, Any] = {"type": type_name, "name": f"type{len(self.names)}"}
        self.names[full] = copy["name"]
        depth = 0
        if type_name == "fixed":
            size = kind.get("size")
            if type(size) is not int or not 1 <= size <= _MAX_FIXED_BYTES:
                raise self._refused(f"is fixed at {str(size)[:20]} bytes")
            copy["size"] = size
        elif type_name == "enum":
            symbols = kind.get("symbols")
            if not isinstance(symbols, list) or not symbols or not all(map(_is_text, symbols)):
                raise self._refused("is one of no symbols")
            copy["symbols"] = symbols
        else:
            copy["type"] = "record"
            copy["fields"], depth = self._fields(kind.get("fields"), space, level)
        self.depths[full] = self._deeper(depth)
        return copy, self.depths[full]

    def _fields(self, fields: Any, space: str, level: int) -> tuple[list[Any], int]:
        if not isinstance(fields, list) or not fields:
            raise self._refused("has no fields, and takes no bytes")
        copies: list[Any] = []
        seen: set[str] = set()
        deepest = 0
        for one in fields:
            if not isinstance(one, dict) or not isinstance(one.get("name"), str):
                raise self._refused("has a field without a name")
            if level == 0:
                self.field_name = one["name"]
            copy, depth = self.kind(one.get("type"), space, level + 1)
            name = one["name"]
            while name in seen:  # as in WINTER's own schema; the first one is kept
                name = f"{name}_again"
            seen.add(name)
            copies.append({"name": name, "type": copy})
            deepest = max(deepest, depth)
        return copies, deepest

    def _deeper(self, depth: int) -> int:
        if depth >= MAX_DEPTH:
            raise self._refused("is nested too deep")
        return depth + 1

    def _refused(self, why: str) -> UnreadableError:
        where = f"field {self.field_name[:80]!r} of its schema" if self.field_name else "its schema"
        return UnreadableError("not an alert", f"{where} {why}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
