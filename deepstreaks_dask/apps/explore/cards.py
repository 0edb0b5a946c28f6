"""The cutouts of the gallery with their scores, as the page shows them."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
import xarray as xr
from PIL import Image

from deepstreaks_dask import plots
from deepstreaks_dask.apps.explore.session import Session
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.opening import open_array
from deepstreaks_dask.scoring.decision import family_of
from deepstreaks_dask.vocabulary import FAMILIES

FACT_COLUMNS = ("jd", "ra", "dec", "length", "mag", "snr", "source")
"""Columns of the archive that are listed beside a cutout."""


def read_cards(session: Session, places: np.ndarray) -> list[dict[str, Any]]:
    """Read cutouts with their scores, labels and columns.

    Parameters
    ----------
    session : Session
        The archive, the run, and the thresholds.
    places : ndarray
        int ``(cutout,)``, in the exploration.

    Returns
    -------
    list of dict
        One per cutout: ``id``, ``place``, ``where``, ``families``, ``members``, ``facts``, and ``png`` in base64.
    """
    exploration = session.exploration
    rows = exploration.stored_rows[places]
    dataset = open_archive(session.source.archive, cache=True, retracted=True)
    pixels = open_array(dataset.attrs["url"], "cutouts")
    names = ("id", "night", "filter", "kind", *FACT_COLUMNS)
    chosen = {
        name: dataset[name].isel(cutout=xr.DataArray(rows, dims="n")).values for name in names
    }
    cards = []
    for k, (row, place) in enumerate(zip(rows, places, strict=True)):
        columns = {name: values[k] for name, values in chosen.items()}
        members, families = _scores(session, int(place))
        where = (plots.night_name(int(columns["night"])), columns["filter"], columns["kind"])
        cards.append(
            {
                "id": str(columns["id"]),
                "place": int(place),
                "where": ", ".join(str(part) for part in where if part),
                "families": families,
                "members": members,
                "facts": _facts(session, int(place), columns),
                "png": _png(pixels, int(row)),
            }
        )
    return cards


def _scores(session: Session, place: int) -> tuple[list[list[Any]], list[list[Any]]]:
    """Return each member with score, whether it passes, and threshold; each family with the first two."""
    exploration, decision = session.exploration, session.cut.decision
    members: list[list[Any]] = []
    for column, name in enumerate(exploration.members):
        score, limit = _score(exploration.scores[column, place]), decision.threshold(name)
        # thresholds are compared with scores in the precision that scores are stored in
        passes = score is not None and bool(np.float32(score) >= np.float32(limit))
        members.append([name, score, passes, limit])
    families = [
        [
            family,
            _score(exploration.column(family, place)),
            any(passes for name, _, passes, _ in members if family_of(name) == family),
        ]
        for family in exploration.families
    ]
    return members, families


def _facts(session: Session, place: int, columns: dict[str, Any]) -> list[list[str]]:
    """Return the names and values of a cutout's labels and of its columns that are known."""
    exploration = session.exploration
    stratum = exploration.strata.iloc[exploration.cell[place] % len(exploration.strata)]
    labels = [f"{f} {stratum[f]}" for f in FAMILIES if stratum[f] >= 0]
    facts = [["labels", ", ".join(labels) or "none"]]
    facts += [[name, _fact(columns[name])] for name in FACT_COLUMNS]
    return [[name, value] for name, value in facts if value]


def _png(pixels: Any, row: int) -> str:
    try:
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(pixels[row])).save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode()
    except Exception:  # a damaged shard fails in its codec's own way; the rest stands
        return ""


def _score(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


def _fact(value: Any) -> str:
    if not isinstance(value, float | np.floating):
        return str(value)
    number = float(value)
    return "" if math.isnan(number) else f"{number:.6g}" if abs(number) < 1e6 else f"{number:.5f}"
