"""Sets of thresholds as TOML files, for a decision to be named, kept and handed on.

.. code-block:: toml

    format = "deepstreaks-thresholds"
    version = 1
    name = "one per cent"
    default = 0.5

    [thresholds]
    rb = 0.7
    kd_vgg6 = 0.35

Those that are saved with an archive lie in its folder ``thresholds/``.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from datetime import UTC, datetime
from typing import Any

from pydantic import ConfigDict, Field

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.utils.storage import is_local, locate, storage_errors, write_whole
from deepstreaks_dask.utils.validation import StrictModel, validate

FORMAT = "deepstreaks-thresholds"
VERSION = 1

_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
_MAX_FILE_BYTES = 1_000_000


class _ThresholdFile(StrictModel):
    """What of a file of thresholds matters; what else stands there is for people."""

    model_config = ConfigDict(extra="ignore")

    default: float = 0.5
    thresholds: dict[str, float] = Field(default_factory=dict)


def to_toml(decision: Decision, name: str, *, run: str = "", archive: str = "") -> str:
    """Write a decision's thresholds as TOML.

    Parameters
    ----------
    decision : Decision
    name : str
        What people call the set.
    run, archive : str
        Where it was chosen; kept as a comment is, for people.

    Returns
    -------
    str
        As :func:`from_toml` reads it.
    """
    made = datetime.now(UTC).isoformat(timespec="seconds")
    heading: dict[str, Any] = {"format": FORMAT, "version": VERSION, "name": name, "made": made}
    heading |= {key: value for key, value in (("archive", archive), ("run", run)) if value}
    heading["default"] = float(decision.default)
    lines = [f"{key} = {_toml(value)}" for key, value in heading.items()]
    lines += ["", "[thresholds]"]
    lines += [f"{_toml(key)} = {float(value)!r}" for key, value in decision.thresholds.items()]
    return "\n".join(lines) + "\n"


def from_toml(text: str, source: str = "thresholds") -> Decision:
    """Read thresholds.

    Parameters
    ----------
    text : str
    source : str
        What to call it in an error.

    Returns
    -------
    Decision
        Checked.

    Raises
    ------
    DeepStreaksError
        If it is no such TOML, or a threshold is no number from 0 to 1.
    """
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DeepStreaksError(f"{source} is not TOML: {error}") from None
    if table.get("format") != FORMAT:
        raise DeepStreaksError(f'{source} holds no thresholds: it must say format = "{FORMAT}"')
    if table.get("version") != VERSION:
        raise DeepStreaksError(
            f"{source} is of version {table.get('version')}: this reads {VERSION}"
        )
    found = validate(
        _ThresholdFile,
        table,
        source=source,
        remedy="write the thresholds beneath [thresholds], each a number from 0 to 1",
    )
    return Decision(dict(found.thresholds), found.default)


def read_thresholds(path: str | os.PathLike[str]) -> Decision:
    """Read a file of thresholds; see :func:`from_toml`.

    Parameters
    ----------
    path : str or path
        Path or URL.

    Returns
    -------
    Decision
        Checked.

    Raises
    ------
    DeepStreaksError
        If it cannot be read, or is no file of thresholds.
    """
    with storage_errors(path, "read"):
        fs, root = locate(path)
        if fs.size(root) > _MAX_FILE_BYTES:
            raise DeepStreaksError(f"{path} is too large for a file of thresholds")
        text = fs.cat_file(root).decode()
    return from_toml(text, os.fspath(path))


def save_thresholds(
    archive: str | os.PathLike[str], name: str, decision: Decision, *, run: str = ""
) -> str:
    """Save thresholds with an archive, in place of those of the same name.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    name : str
        To find them by.
    decision : Decision
        With the thresholds.
    run : str
        That they were chosen on.

    Returns
    -------
    str
        Where they lie.

    Raises
    ------
    DeepStreaksError
        If the name could not be a file's, or the archive cannot be written to.
    """
    if not _SET_NAME.fullmatch(name):
        raise DeepStreaksError(
            f"{name!r} is no name for thresholds: use up to 64 letters, digits, spaces, '.', '_' and '-'"
        )
    url = open_archive(archive).attrs["url"]
    fs, root = locate(url)
    path = f"{root}/thresholds/{name}.toml"
    with storage_errors(path if is_local(fs) else f"{url}/thresholds/{name}.toml", "write"):
        write_whole(fs, path, to_toml(decision, name, run=run, archive=url).encode())
    return path


def saved_thresholds(archive: str | os.PathLike[str]) -> dict[str, str]:
    """Name the sets that are saved with an archive, and say where they lie."""
    fs, root = locate(open_archive(archive).attrs["url"])
    fs.invalidate_cache()
    paths = fs.glob(f"{root}/thresholds/*.toml")
    return {path.rsplit("/", 1)[-1].removesuffix(".toml"): path for path in sorted(paths)}


def _toml(value: str | int | float) -> str:
    # JSON's strings are TOML's, but for DEL
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
