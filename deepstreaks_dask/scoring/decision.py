"""The rule that turns scores into a decision.

A cutout is plausible if in *each* family at least *one* member scores at or above its threshold
(Duev et al. 2019, MNRAS 486, 4158, arXiv:1904.05920).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.errors import DeepStreaksError, did_you_mean

DECIDING_FAMILIES = ("rb", "sl", "kd")
"""The families that the published decision needs, in its order."""

FAMILY_DESCRIPTIONS = {
    "rb": "real streak-like object or bogus",
    "sl": "short streak or long",
    "kd": "keep or ditch (cosmic ray or another artefact)",
    "os": "plausible or not, in one shot",
}


@dataclass(frozen=True)
class Decision:
    """The decision rule with its thresholds; applied to stored scores, it never scores again.

    Attributes
    ----------
    thresholds : mapping of str to float
        By member (``rb_vgg6``) or family (``rb``); a member's wins over its family's.
    default : float
        Threshold of every member that is not named; 0.5 as published.
    deciding : tuple of str
        Families that must all pass. None of them is asked for that a run has not scored; a run that has
        scored none of them is decided by all that it has.

    Raises
    ------
    DeepStreaksError
        If a threshold is outside 0 to 1.
    """

    thresholds: Mapping[str, float] = field(default_factory=dict)
    default: float = 0.5
    deciding: tuple[str, ...] = DECIDING_FAMILIES

    def __post_init__(self) -> None:
        for name, value in {**self.thresholds, "default": self.default}.items():
            if not 0 <= value <= 1:
                raise DeepStreaksError(f"threshold {name}={value}: give a number from 0 to 1")

    @classmethod
    def of_run(cls, scores: xr.Dataset, thresholds: Mapping[str, float] | None = None) -> Decision:
        """Give the decision that a run was scored for, 0.5 everywhere if for any, with some thresholds changed.

        Parameters
        ----------
        scores : xarray.Dataset
            As :func:`~deepstreaks_dask.scoring.runs.open_run` gives it.
        thresholds : mapping of str to float, optional
            By member or family.

        Returns
        -------
        Decision
            With the run's own thresholds where none are given.
        """
        return cls({**(provenance_of(scores).get("decided") or {}), **(thresholds or {})})

    def threshold(self, member: str) -> float:
        """Give the threshold that holds for a member."""
        family = family_of(member)
        return self.thresholds.get(member, self.thresholds.get(family, self.default))

    def limits(self, members: Sequence[str]) -> np.ndarray:
        """Give the threshold of each member, float32 as the scores are.

        Parameters
        ----------
        members : sequence of str
            Names such as ``rb_vgg6``.

        Returns
        -------
        ndarray
            float32 ``(member,)``.

        Raises
        ------
        DeepStreaksError
            If a threshold names neither one of these members nor a family of theirs.
        """
        names = list(dict.fromkeys(family_of(member) for member in members))
        for name in self.thresholds:
            if name not in (*members, *names):
                known = [*names, *members]
                hint = did_you_mean(name, known)
                raise DeepStreaksError(
                    f"threshold for {name!r}: {hint}the scores have {', '.join(known)}"
                )
        return np.array([self.threshold(member) for member in members], np.float32)

    def needed(self, members: Sequence[str]) -> dict[str, list[int]]:
        """Give the families that decide, where these members have looked, with their columns."""
        columns: dict[str, list[int]] = {}
        for column, member in enumerate(members):
            columns.setdefault(family_of(member), []).append(column)
        return {name: columns[name] for name in columns if name in self.deciding} or columns

    def apply(self, scores: xr.Dataset) -> xr.Dataset:
        """Decide.

        Parameters
        ----------
        scores : xarray.Dataset
            With ``scores(cutout, model)`` float32, NaN where a member has not looked, and ``model``.
            Families other than the deciding ones get their ``family_pass``, and no say.

        Returns
        -------
        xarray.Dataset
            The same, with ``family_pass(cutout, family)`` and ``plausible(cutout)``, where NaN passes nothing,
            and ``undecided(cutout)``: True where a missing score could still change the decision. What a triage
            rejected for these very thresholds is decided.

        Raises
        ------
        DeepStreaksError
            If a threshold names neither a member nor a family of the scores, or these are of sequences.
        """
        if "class" in scores.dims:
            raise DeepStreaksError(
                f"run {scores.attrs.get('run')!r} holds probabilities of classes of sequences, about which nothing is "
                "decided: see 'deepstreaks sequences evaluate'"
            )
        members = [str(name) for name in scores["model"].values]
        names = list(dict.fromkeys(family_of(member) for member in members))
        limits = self.limits(members)
        columns = [[family_of(member) == name for member in members] for name in names]
        needed = [names.index(name) for name in self.needed(members)]

        def decide(values: np.ndarray) -> tuple[Any, ...]:
            passes, missing = values >= limits, np.isnan(values)
            family_pass = np.stack([passes[..., c].any(axis=-1) for c in columns], axis=-1)
            family_open = np.stack([missing[..., c].any(axis=-1) for c in columns], axis=-1)
            plausible = family_pass[..., needed].all(axis=-1)
            undecided = ~plausible & (family_pass | family_open)[..., needed].all(axis=-1)
            return family_pass, plausible, undecided

        family_pass, plausible, undecided = xr.apply_ufunc(
            decide,
            scores["scores"].variable,
            input_core_dims=[["model"]],
            output_core_dims=[["family"], [], []],
            dask="parallelized",
            output_dtypes=[bool, bool, bool],
            dask_gufunc_kwargs={"output_sizes": {"family": len(names)}, "allow_rechunk": True},
        )
        if "rejected" in scores and self.is_of_run(provenance_of(scores)):
            undecided = undecided & ~scores["rejected"].variable
        for variable, name in (
            (family_pass, "a member of the family passes"),
            (plausible, "plausible"),
            (undecided, "a missing score could change the decision"),
        ):
            variable.attrs = {"long_name": name}
        return scores.assign(
            family_pass=family_pass,
            plausible=plausible,
            undecided=undecided,
        ).assign_coords(family=names)

    def is_of_run(self, provenance: Mapping[str, Any]) -> bool:
        """Say whether a run decided at these very thresholds when it scored.

        Parameters
        ----------
        provenance : mapping
            As :func:`~deepstreaks_dask.archive.attributes.provenance_of` reads it; its ``decided`` are thresholds by
            member, None if it decided nothing.

        Returns
        -------
        bool
            True if so.
        """
        limits = provenance.get("decided")
        return limits is not None and all(
            np.float32(self.threshold(name)) == np.float32(limit) for name, limit in limits.items()
        )


def family_of(member: str) -> str:
    """Give the family of a member: what stands before the first underscore of its name."""
    return member.split("_")[0]
