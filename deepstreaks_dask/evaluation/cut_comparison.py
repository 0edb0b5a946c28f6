"""Compare two decisions over the same archive: which cutouts changed sides, and whose scores moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepstreaks_dask.evaluation.interactive import Cut


@dataclass(frozen=True)
class Change:
    """What changed sides between two runs.

    Attributes
    ----------
    table : pandas.DataFrame
        A row for each ``truth`` (1, 0, -1): cutouts ``both, gained, lost, neither`` plausible.
    gained, lost : ndarray
        Places in the new run's exploration, int ``(place,)``.
    members : pandas.DataFrame
        A row a member that both have: ``member, cutouts``, the mean and the largest distance of their scores
        (``mean``, ``largest``) and how many ``crossed`` its threshold.
    """

    table: pd.DataFrame
    gained: np.ndarray
    lost: np.ndarray
    members: pd.DataFrame


def compare_cuts(new: Cut, old: Cut) -> Change:
    """Find what changed sides between two runs over the same archive.

    Parameters
    ----------
    new, old : Cut
        With thresholds for each. Cutouts that only one of the runs has are left out.

    Returns
    -------
    Change
        Of the cutouts that both runs have.
    """
    ours, theirs = new.exploration, old.exploration
    place = np.full(max(ours.rows.max(initial=-1), theirs.rows.max(initial=-1)) + 1, -1)
    place[theirs.rows] = np.arange(len(theirs))
    there = place[ours.rows]
    here = np.flatnonzero(there >= 0)
    there = there[here]
    now, before = new.plausible_at(here), old.plausible_at(there)
    truth = ours.strata["truth"].to_numpy()[ours.cell[here] % len(ours.strata)]
    rows = []
    for label in (1, 0, -1):
        mine = truth == label
        pairs = np.bincount((now[mine] * 2 + before[mine]).astype(np.int64), minlength=4)
        names = ("neither", "lost", "gained", "both")
        rows.append({"truth": label, **dict(zip(names, map(int, pairs), strict=True))})
    members = []
    for k, member in enumerate(ours.members):
        if member not in theirs.members:
            continue
        a, b = ours.scores[k, here], theirs.scores[theirs.members.index(member), there]
        distance = np.abs(a - b)
        distance = distance[~np.isnan(distance)]
        limits = (np.float32(cut.decision.threshold(member)) for cut in (new, old))
        crossed = np.not_equal(*(s >= limit for s, limit in zip((a, b), limits, strict=True)))
        members.append(
            {
                "member": member,
                "cutouts": len(distance),
                "mean": float(distance.mean()) if len(distance) else np.nan,
                "largest": float(distance.max()) if len(distance) else np.nan,
                "crossed": int(crossed.sum()),
            }
        )
    return Change(
        pd.DataFrame(rows), here[now & ~before], here[before & ~now], pd.DataFrame(members)
    )
