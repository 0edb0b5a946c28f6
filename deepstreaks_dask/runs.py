"""Runs: the scores that lie in an archive, beside the cutouts, and where they came from.

A run is ``runs/<run>/scores(cutout, model)``, or ``scores(object, class)`` of sequences, one chunk a shard of rows,
with its provenance in the attributes of ``runs/<run>``. NaN stands where a member has not looked. Reading runs needs no
network, and so none is loaded here.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from deepstreaks_dask.archive import open_archive, shard_bounds
from deepstreaks_dask.errors import CampaignError
from deepstreaks_dask.storage import locate

SHIPPED = "shipped with deepstreaks_dask"
"""What a run says of its zoo where its networks came with this package."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

COLUMNS = {"cutout": "model", "object": "class"}
"""What scores are of, beside the archive's rows: of cutouts many models', of objects one model's classes."""


@dataclass(frozen=True)
class Run:
    """One run of an archive, as it lies in the store."""

    group: zarr.Group

    @classmethod
    def open(cls, archive: str | os.PathLike[str], name: str, *, write: bool = False) -> Run:
        """Open a run.

        Parameters
        ----------
        archive : str or path
            Path or URL.
        name : str
            Name of the run.
        write : bool
            Scores and provenance are to be changed.

        Raises
        ------
        CampaignError
            If there is no such run.
        """
        if name not in (known := list_runs(archive)):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            has = (
                f"it has {', '.join(known)}" if known else "score it first with 'deepstreaks score'"
            )
            raise CampaignError(f"{archive} has no run {name!r}: {hint}{has}")
        return cls.attach(open_archive(archive).attrs["url"], name, write=write)

    @classmethod
    def attach(cls, url: str, name: str, *, write: bool = False) -> Run:
        """Open a run that is known to be there, at the store's URL."""
        path = f"runs/{name}"
        return cls(
            zarr.open_group(url, path=path, mode="r+" if write else "r", use_consolidated=False)
        )

    @classmethod
    def create(
        cls,
        url: str,
        name: str,
        members: Sequence[dict[str, Any]],
        total: int,
        shard: int,
        *,
        rows: str = "cutout",
        **provenance: Any,
    ) -> Run:
        """Make a run without scores.

        Parameters
        ----------
        url : str
            The archive's store.
        name : str
            Letters, digits, ``.``, ``_`` and ``-``.
        members : sequence of dict
            ``name``, ``version``, ``sha256``, ``family`` and ``threshold`` of each.
        total, shard : int
            Rows of the archive, and of one of its shards.
        rows : str
            Dimension of the archive's rows. With ``object`` the members are the classes of a classifier of sequences.
        **provenance
            Whatever else tells where the scores come from.

        Raises
        ------
        CampaignError
            If the name cannot be one.
        """
        check_name(name)
        models = [member["name"] for member in members]
        attributes = {
            "members": list(members),
            "models": models,
            "decided": None,
            "started": _now(),
            "updated": _now(),
            "failures": [],
            **provenance,
        }
        # A run exists once it has scores; "w" clears away what a kill before that has left.
        group = zarr.open_group(
            url, path=f"runs/{name}", mode="w", zarr_format=3, attributes=attributes
        )
        group.create_array(
            "scores",
            shape=(total, len(models)),
            chunks=(shard, len(models)),
            dtype="float32",
            fill_value=np.nan,
            compressors=[ZstdCodec(level=1), Crc32cCodec()],
            dimension_names=[rows, COLUMNS[rows]],
        )
        return cls(group)

    @cached_property
    def scores(self) -> zarr.Array:
        """float32 (cutout, model), NaN where a member has not looked."""
        array = self.group["scores"]
        assert isinstance(array, zarr.Array)
        return array

    @property
    def provenance(self) -> dict[str, Any]:
        """What the run says of itself."""
        return dict(self.group.attrs.asdict())

    def tell(self, **attributes: Any) -> None:
        """Add to the provenance."""
        self.group.attrs.update(attributes)

    def touch(self, failures: Sequence[tuple[int, int, str]]) -> None:
        """Say that the run was gone on with just now, and which shards could not be read."""
        self.tell(updated=_now(), failures=[list(failure) for failure in sorted(failures)])

    def grow(self, total: int) -> None:
        """Make room for cutouts that were appended since."""
        if self.scores.shape[0] < total:
            self.scores.resize((total, self.scores.shape[1]))

    def missing(self, total: int, shard: int) -> Iterator[tuple[int, int]]:
        """Give the shards with rows that have no scores, or whose chunk is torn, which is cleared."""
        nobody_looked = np.any if self.provenance["decided"] is None else np.all
        for first, last in shard_bounds(total, shard):
            try:
                values = np.asarray(self.scores[first:last])
                done = not nobody_looked(np.isnan(values), axis=1).any()
            except Exception:  # a torn chunk fails its checksum in its codec's own way
                done = False
                self.scores[first:last] = np.nan
            if not done:
                yield first, last


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a run.

    Raises
    ------
    CampaignError
        Which characters may be in one.
    """
    if not _NAME.fullmatch(name):
        raise CampaignError(f"run name {name!r}: use letters, digits, '.', '_' and '-'")


def list_runs(archive: str | os.PathLike[str]) -> list[str]:
    """Name the runs that an archive holds, in order."""
    fs, root = locate(open_archive(archive).attrs["url"])
    fs.invalidate_cache()
    return sorted(path.split("/")[-3] for path in fs.glob(f"{root}/runs/*/scores/zarr.json"))


def open_scores(
    archive: str | os.PathLike[str], run: str = "default", *, cutouts: bool = False
) -> xr.Dataset:
    """Open the scores of a run beside what is known of each cutout.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    run : str
        Name of the run.
    cutouts : bool
        Keep the pixels too, lazily.

    Returns
    -------
    xarray.Dataset
        ``scores(cutout, model)``, or ``scores(object, class)``, float32, NaN where not scored (cutouts appended
        since among them),
        the archive's columns, and the run's provenance in the attributes.

    Raises
    ------
    CampaignError
        If there is no such run.
    """
    stored = Run.open(archive, run)
    dataset = open_archive(archive)
    total, array = dataset["id"].size, stored.scores
    values = np.full((total, array.shape[1]), np.nan, np.float32)
    rows = min(total, array.shape[0])
    for first, last in shard_bounds(rows, array.chunks[0]):
        try:
            values[first:last] = array[first:last]
        except Exception:  # noqa: S112 - a torn chunk is not scored: the next `score` mends it
            continue
    if not cutouts:
        dataset = dataset.drop_vars([name for name in ("cutouts", "native") if name in dataset])
    (row,) = dataset["id"].dims
    column = COLUMNS[str(row)]
    scores = xr.DataArray(values, dims=(row, column), attrs={"long_name": "score"})
    provenance = stored.provenance
    dataset = dataset.assign(scores=scores).assign_coords({column: provenance["models"]})
    dataset.attrs |= {"run": run, **provenance}
    return dataset


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
