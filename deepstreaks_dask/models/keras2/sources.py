"""Find the files of networks that Keras 2 wrote, and say what each is called in a zoo."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepstreaks_dask.errors import ModelError
from deepstreaks_dask.models.keras2.hdf5 import MAX_BYTES
from deepstreaks_dask.models.zoo.card import KERAS_FILE, Card

NEEDED_PREFIXES = ("rb_", "sl_", "kd_")
"""Networks that the published decision needs."""

PROJECTS = {
    "5b96af9c0354c9000b0aea36": "rb",
    "5b99b2c6aec3c500103a14de": "sl",
    "5be0ae7958830a0018821794": "kd",
    "5c05bbdc826480000a95c0bf": "os",
}
"""Families of the projects that the published networks were trained for."""

JSON_SUFFIX, WEIGHTS_SUFFIX, WHOLE_SUFFIX = ".architecture.json", ".weights.h5", ".h5"
OTHER_SUFFIXES = (".hdf5", ".keras.h5", ".model.h5")
"""Further ends of names of whole models that are imported one by one."""

MAX_JSON_BYTES = 64 * 2**20
MAX_FILES = 1000
_BASE_NAME = re.compile(
    r"(?P<project>[0-9a-f]{24})_(?P<architecture>[A-Za-z0-9]+)_(?P<date>[0-9_]+)"
)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9.-]+")


@dataclass(frozen=True)
class Source:
    """The files of one network.

    Attributes
    ----------
    base
        Their common name.
    files
        One whole model, or an architecture and its weights.
    """

    base: str
    files: tuple[Path, ...]


def find_sources(
    path: str | os.PathLike[str],
    config: str | os.PathLike[str] | None = None,
    *,
    family: str | None = None,
) -> dict[str, Source]:
    """Find the networks of a folder, or the one of a file.

    Parameters
    ----------
    path
        Local folder, or a whole model, an architecture or its weights.
    config
        JSON file with a table (or with one in ``"models"``) of names, such as ``"rb_vgg6"``, and base names of files.
        Without it, the names come from those of the files: ``<project>_<architecture>_<date>``. A network beyond those
        of rb, sl and kd of which there is no file at all is left out: the service's table names more than were published.

    family
        What the networks answer, such as ``"rb"``, of files whose names do not say it. Their names in the zoo are the
        family and the name of the file.

    Returns
    -------
    dict
        By name in the zoo, such as ``"rb_vgg6"``.

    Raises
    ------
    ModelError
        If the folder or a file is missing, a file has no partner, or a name does not say what it is.
    """
    root = Path(path)
    if family is not None:
        _check_family(family)
    if root.is_file():
        if config is not None:
            raise ModelError(f"{root} is one file: name its --family, without --config")
        source = _source_of(root)
        return {_name(root.parent, source.base, family): source}
    if not root.is_dir():
        raise ModelError(
            f"{root} is no folder: give the one with {JSON_SUFFIX} and {WEIGHTS_SUFFIX} files, or a {WHOLE_SUFFIX} file"
        )
    if config is not None:
        table = _table(Path(config))
        return {
            name: _source(root, base)
            for name, base in table.items()
            if name.startswith(NEEDED_PREFIXES) or _is_there(root, base)
        }
    bases = sorted({base for path in root.iterdir() if (base := _base(path.name)) is not None})
    if not bases:
        raise ModelError(f"{root} holds no {JSON_SUFFIX}, {WEIGHTS_SUFFIX} or {WHOLE_SUFFIX} files")
    if len(bases) > MAX_FILES:
        raise ModelError(f"{root} holds {len(bases)} networks, more than {MAX_FILES}")
    found: dict[str, Source] = {}
    for base in bases:
        name = _name(root, base, family)
        if name in found:
            raise ModelError(
                f"{root}: {found[name].base} and {base} are both {name}: say which to take with --config"
            )
        found[name] = _source(root, base)
    return found


def is_published(base: str) -> bool:
    """Return whether files are named like those of the published networks."""
    match = _BASE_NAME.fullmatch(base)
    return match is not None and match["project"] in PROJECTS


def _check_family(family: str) -> None:
    if "_" in family:
        raise ModelError(f"family {family!r}: leave out the underscore, which ends a family's name")
    Card(family, "1", KERAS_FILE)  # refuses what is no name


def _name(root: Path, base: str, family: str | None) -> str:
    """Return the name in the zoo of files that no table names."""
    match = _BASE_NAME.fullmatch(base)
    if match is not None and (known := family or PROJECTS.get(match["project"])):
        return f"{known}_{match['architecture'].lower()}"
    if family is None:
        raise ModelError(
            f"{root / base}: its name does not begin with a published project: say what it is with --family, such as "
            'rb, or with --config, a JSON file like {"rb_vgg6": "' + base[:80] + '"}'
        )
    return f"{family}_{_NOT_IN_NAMES.sub('-', base.removeprefix(f'{family}_')).strip('-') or 'network'}"


def _source_of(file: Path) -> Source:
    """Return the files of the network that one of them belongs to."""
    suffixes = (JSON_SUFFIX, WEIGHTS_SUFFIX, *OTHER_SUFFIXES, WHOLE_SUFFIX)
    suffix = next((suffix for suffix in suffixes if file.name.endswith(suffix)), None)
    if suffix is None:
        raise ModelError(
            f"{file}: give a file of Keras 2, which ends in {WHOLE_SUFFIX}, .hdf5 or {JSON_SUFFIX}; .keras files go into "
            "a zoo by a file of families (--families-file of score)"
        )
    base = file.name.removesuffix(suffix)
    if suffix in OTHER_SUFFIXES:
        return Source(base, (file,))
    return _source(file.parent, base)


def read_file(path: Path) -> bytes:
    """Read a file.

    Parameters
    ----------
    path : Path
        JSON or HDF5.

    Returns
    -------
    bytes
        All of it.

    Raises
    ------
    ModelError
        If it is too large or cannot be read.
    """
    limit = MAX_JSON_BYTES if path.name.endswith(".json") else MAX_BYTES
    try:
        if path.stat().st_size > limit:
            raise ModelError(f"{path} is larger than the {limit:,} bytes allowed")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error


def parse_json(text: str, origin: str) -> dict[str, Any]:
    """Parse JSON, which was written twice over in some of the published files.

    Parameters
    ----------
    text : str
        The JSON.
    origin : str
        File to name in errors.

    Returns
    -------
    dict
        The table that it holds.

    Raises
    ------
    ModelError
        If it is no JSON, or holds no table.
    """
    value: Any = text
    try:
        for _ in range(3):
            if isinstance(value, str):
                value = json.loads(value, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise ModelError(f"{origin}: not JSON of a network: {reason}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{origin}: not JSON of a network: it is no table of keys and values")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _table(path: Path) -> dict[str, str]:
    values = parse_json(read_file(path).decode("utf-8", "replace"), str(path))
    if isinstance(values.get("models"), dict):
        values = values["models"]
    if not values or not all(isinstance(base, str) for base in values.values()):
        raise ModelError(f'{path}: give a table like {{"rb_vgg6": "<base name of its files>"}}')
    table = {}
    for name, base in values.items():
        Card(name, "1", KERAS_FILE)  # refuses what is no name for a model
        for suffix in (JSON_SUFFIX, WEIGHTS_SUFFIX, WHOLE_SUFFIX):
            base = base.removesuffix(suffix)
        if Path(base).name != base or base in ("", ".", ".."):
            raise ModelError(
                f"{path}: {base[:80]!r} of {name} is no base name of files in the folder"
            )
        table[name] = base
    return table


def _base(name: str) -> str | None:
    for suffix in (JSON_SUFFIX, WEIGHTS_SUFFIX, WHOLE_SUFFIX):
        if name.endswith(suffix) and not name.startswith("."):
            return name.removesuffix(suffix)
    return None


def _is_there(root: Path, base: str) -> bool:
    return any((root / f"{base}{s}").is_file() for s in (JSON_SUFFIX, WEIGHTS_SUFFIX, WHOLE_SUFFIX))


def _source(root: Path, base: str) -> Source:
    pair = tuple(root / f"{base}{suffix}" for suffix in (JSON_SUFFIX, WEIGHTS_SUFFIX))
    whole = root / f"{base}{WHOLE_SUFFIX}"
    there = [path for path in pair if path.is_file()]
    if len(there) == 2:
        return Source(base, pair)
    if pair[0] in there and whole.is_file():  # weights under the shorter name
        return Source(base, (pair[0], whole))
    if whole.is_file():
        return Source(base, (whole,))
    missing = next(path for path in pair if path not in there)
    raise ModelError(f"{missing} is missing")
