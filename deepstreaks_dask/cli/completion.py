"""Values that complete in the shell: names that the package has, and what an archive or zoo on this machine holds.

Completion must be quick and must not fail: names of the package are kept here, not imported with what they name; archives
and zoos at URLs are not read; an archive that is not there completes to nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path

import typer

from deepstreaks_dask.vocabulary import ROLES

CHOICES: dict[str, tuple[str, ...]] = {
    "app": ("explore", "campaign", "review"),
    "architecture": ("vgg6", "resnet50", "densenet121"),
    "classifier": ("rcnn", "taonet", "forest"),
    "method": ("temperature", "isotonic"),
    "order": ("entropy", "spread", "margin"),
    "precision": ("float32", "mixed_bfloat16", "mixed_float16"),
    "reader": (
        *("alerts", "crts", "depot", "fits", "histories", "images", "positions", "zwickyverse"),
    ),
    "scaling": ("bytes", "l2", "none"),
    "recipe": ("duev2019", "short", "again", "sequences", "few"),
    "role": ROLES,
    "scheduler": ("local", "gpu", "slurm", "pbs", "lsf", "kubernetes"),
    "survey": ("hits", "ztf", "crts"),
    "task": ("rcnn", "taonet", "taonet6"),
    "search": ("family", "member"),
}
"""Names that options take, by what they name; tests compare them with the package's."""

Completion = Callable[[typer.Context, str], list[str]]


def choose(kind: str) -> Completion:
    """Return the completion of an option that takes one of the package's names.

    Parameters
    ----------
    kind : str
        Key of `CHOICES`.

    Returns
    -------
    callable
        For ``autocompletion``.
    """

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return _matching(CHOICES[kind], incomplete)

    return complete


def _never_failing(function: Completion) -> Completion:
    """Complete to nothing where a completion fails: a shell must not show tracebacks."""

    @wraps(function)
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            return function(ctx, incomplete)
        except Exception:
            return []

    return complete


@_never_failing
def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a run of the archive that the command names."""
    archive = _archive(ctx)
    found = archive.glob("runs/*/scores/zarr.json")
    return _matching(sorted(path.parts[-3] for path in found), incomplete)


@_never_failing
def complete_threshold(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete a family or member of the run, with the ``=`` that goes before its threshold."""
    run = str(ctx.params.get("run") or "default")
    path = _archive(ctx) / "runs" / run / "zarr.json"
    members = json.loads(path.read_text(encoding="utf-8"))["attributes"]["members"]
    names = [*dict.fromkeys(one["family"] for one in members), *(one["name"] for one in members)]
    return _matching([f"{name}=" for name in names], incomplete)


@_never_failing
def complete_threshold_set(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the path of a set of thresholds that is saved with the archive."""
    found = _archive(ctx).glob("thresholds/*.toml")
    return _matching(sorted(map(str, found)), incomplete)


@_never_failing
def complete_family(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete a family of the zoo, or the last of several that are separated by commas."""
    return _matching_last(_families(ctx.params.get("zoo")), incomplete)


@_never_failing
def complete_architectures(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the last of several architectures that are separated by commas."""
    return _matching_last(CHOICES["architecture"], incomplete)


@_never_failing
def complete_member(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete a network of the zoo, as ``name@version``."""
    return _matching(_members(ctx.params.get("zoo")), incomplete)


@_never_failing
def complete_start(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete a network, as ``name@version``, of the zoo that ``--from-zoo`` names."""
    return _matching(_members(ctx.params.get("start_zoo")), incomplete)


def _archive(ctx: typer.Context) -> Path:
    """Return the archive that the command names, if it is on this machine.

    Arguments are not parsed where the last word is an option without its value: then they are among what is left over.
    """
    given = ctx.params.get("archive")
    if given is None:
        arguments = [one.name for one in ctx.command.params if one.param_type_name == "argument"]
        given = ctx.args[arguments.index("archive")]
    return _local(given)


def _local(place: object) -> Path:
    """Return the path of an archive or zoo on this machine."""
    if not place or "://" in str(place):
        raise ValueError(f"{place} is not on this machine")
    return Path(str(place))


def _members(zoo: object) -> list[str]:
    from deepstreaks_dask.models.zoo.store import Zoo

    return [card.ref for card in Zoo(str(_local(zoo)) if zoo else None).list()]


def _families(zoo: object) -> list[str]:
    return sorted({ref.partition("_")[0] for ref in _members(zoo)})


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _matching_last(names: Sequence[str], incomplete: str) -> list[str]:
    """Match the last of several names separated by commas; those before it are not given again."""
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return [f"{before}{comma}{name}" for name in _matching(names, last) if name not in taken]
