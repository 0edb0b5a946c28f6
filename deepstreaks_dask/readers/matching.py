"""Which row of a table belongs to which file: names with ./, backslashes, other folders or absolute paths."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Names of a file: its path relative to the folder that was given, with that folder, absolute, and its id."""

    source: str
    within: str
    absolute: str
    name: str


def plain_path(text: str) -> str:
    """Return a path in POSIX's way: slashes, no ``./``, no ``file://``, no doubled or trailing slash."""
    path = re.sub(r"^file:/{2,3}(?=/|[A-Za-z]:)", "", text.strip()).replace("\\", "/")
    return posixpath.normpath(path) if path else ""


def match_files(
    files: Sequence[Place], rows: Mapping[str, int], named: Mapping[int, str]
) -> tuple[dict[str, int], list[str]]:
    """Find the row of each file.

    Parameters
    ----------
    files : sequence of Place
        The files.
    rows : mapping of str to int
        Row by file name and by id, as the table has them.
    named : mapping of int to str
        File name by row, for tables that name files.

    Returns
    -------
    dict of str to int
        Row by the file's ``source``, for those that a row belongs to.
    list of str
        File names in the table that fit several files, and so belong to none.

    Notes
    -----
    A name that is exactly the file's goes first. What is left is matched by the last parts of the two paths, where only
    one file and one row fit each other.
    """
    plain = {plain_path(key): row for key, row in reversed([*rows.items()])} | dict(rows)
    found: dict[str, int] = {}
    for file in files:
        keys = (file.source, file.within, file.absolute, file.name)
        row = next((plain[key] for key in keys if key in plain), None)
        if row is not None:
            found[file.source] = row
    ambiguous: list[str] = []
    for fold in (str, str.casefold):
        taken = set(found.values())
        left = [file for file in files if file.source not in found]
        free = {row: name for row, name in named.items() if row not in taken}
        if left and free:
            more, unclear = _by_ends(left, free, fold)
            found |= more
            ambiguous += unclear
    return found, list(dict.fromkeys(ambiguous))


def _by_ends(
    files: Sequence[Place], named: Mapping[int, str], fold: Callable[[str], str]
) -> tuple[dict[str, int], list[str]]:
    """Match files and rows of which one's path ends in the other's."""
    by_name: dict[str, list[tuple[int, list[str]]]] = defaultdict(list)
    for row, name in named.items():
        parts = fold(plain_path(name)).split("/")
        by_name[parts[-1]].append((row, parts))
    fitting: dict[str, list[int]] = {}
    for file in files:
        source, absolute = fold(file.source).split("/"), fold(file.absolute).split("/")
        fitting[file.source] = [
            row
            for row, parts in by_name.get(source[-1], ())
            if parts[-len(source) :] == source or absolute[-len(parts) :] == parts
        ]
    claims = Counter(row for rows in fitting.values() for row in rows)
    found = {
        source: rows[0]
        for source, rows in fitting.items()
        if len(rows) == 1 and claims[rows[0]] == 1
    }
    matched = set(found.values())
    unclear = [named[row] for row in claims if row not in matched]
    return found, unclear
