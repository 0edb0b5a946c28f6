"""The report of a run: one self-contained page with rates, plots, and the best and worst cutouts.

Whatever the size of the archive, the page holds histograms, thinned curves and a few dozen cutouts, never
the scores themselves. Its content security policy forbids it to load anything.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from PIL import Image

from deepstreaks_dask import archive as archives
from deepstreaks_dask import plots
from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.provenance import simulated
from deepstreaks_dask.evaluation.calibration import calibrated, reliability, stored
from deepstreaks_dask.evaluation.decision_metrics import Evaluation, evaluate, family_scores
from deepstreaks_dask.evaluation.labels import plausibility_labels, with_labels
from deepstreaks_dask.evaluation.metrics import Estimate, rate
from deepstreaks_dask.report.html import chart_item, write_page
from deepstreaks_dask.scoring.decision import Decision, family_of
from deepstreaks_dask.scoring.runs import open_run
from deepstreaks_dask.scoring.triage import Triage
from deepstreaks_dask.utils.storage import locate

GALLERY_SIZE = 12
"""Cutouts in each gallery."""

MAX_QUARANTINE_ROWS = 50
"""Refused inputs in the table, the first ones."""

MAX_KINDS = 40
"""Kinds of cutouts in the table, the most frequent ones."""

# Counts printed by Duev et al. 2019: the test set of rb, sl and kd, and known near-Earth asteroids
_PUBLISHED_TEST_TPR = rate(267, 269)
_PUBLISHED_TEST_FPR = rate(4, 248)
_PUBLISHED_KNOWN = rate(202, 210)


def write_report(
    archive: str | os.PathLike[str],
    path: str | os.PathLike[str] = "report.html",
    *,
    run: str = "default",
    thresholds: Mapping[str, float] | None = None,
    probabilities: bool = False,
    verdicts: pd.DataFrame | None = None,
) -> Evaluation:
    """Write the report of a run as one HTML file that loads nothing from elsewhere.

    Parameters
    ----------
    archive : str or path
        Path or URL of a scored archive.
    path : str or path
        The file to write, as a path or as any fsspec URL, such as ``memory://report.html``. It replaces an
        existing file in one step.
    run : str
        Name of the run.
    thresholds : mapping of str to float, optional
        By member or family; by default the thresholds that the run was scored for, or 0.5.
    probabilities : bool
        Use the probabilities of the run's calibration in place of its scores.
    verdicts : pandas.DataFrame, optional
        Reviewers' verdicts, which take precedence over the archive's labels, as returned by
        :meth:`~deepstreaks_dask.review.verdicts.Verdicts.labels`.

    Returns
    -------
    Evaluation
        The figures in the report.

    Raises
    ------
    DeepStreaksError
        If there is no such archive or run, or the file cannot be written.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> shown = ds.write_report("week.zarr", "report.html", thresholds={"kd": 0.9})
    >>> shown.cutouts
    60
    """
    raw = open_run(archive, run, cache=True)
    if verdicts is not None:
        raw = with_labels(raw, verdicts)
    scores = calibrated(raw) if probabilities else raw
    decision = Decision.of_run(scores, thresholds)
    evaluation = evaluate(scores, decision)
    decided = decision.apply(scores)
    charts = [*_charts(scores, decision, evaluation), *_reliability(raw)]
    quarantine = archives.quarantine(archive)
    write_page(
        "report.html.j2",
        path,
        name=locate(archive)[1].rsplit("/", 1)[-1],
        run=scores.attrs["run"],
        updated=str(scores.attrs["updated"]).replace("T", " ")[:16],
        evaluation=evaluation,
        simulated=int(simulated(scores["kind"].values, scores["source"].values).sum()),
        failures=provenance_of(scores)["failures"],
        triage=_triage(scores),
        judged=0 if verdicts is None else len(verdicts),
        tiles=_tiles(evaluation),
        published=_published(evaluation),
        charts=[(title, [chart_item(chart) for chart in shown]) for title, shown in charts],
        classifiers=_classifiers(evaluation),
        kinds=_kinds(evaluation.kinds).to_dict("records"),
        nights=_nights(evaluation.nights),
        galleries=_galleries(archive, decided, evaluation.labelled),
        quarantine=quarantine.head(MAX_QUARANTINE_ROWS).to_dict("records"),
        reasons=quarantine["reason"].value_counts().to_dict(),
        quarantined=len(quarantine),
        facts=_facts(scores, decision),
    )
    return evaluation


def _charts(
    scores: xr.Dataset, decision: Decision, evaluation: Evaluation
) -> list[tuple[str, list[Any]]]:
    """Return the plots of each section; empty sections are left out."""
    members = [str(name) for name in scores["model"].values]
    decided = [plots.venn(evaluation.venn)]
    if evaluation.labelled:
        joint = plots.confusion(evaluation.joint)
        nights = [plots.night_rates(evaluation.nights, which) for which in ("tpr", "fpr")]
        decided = [joint, *decided, *nights]
    curves = []
    if evaluation.curves:
        at = (evaluation.joint.fpr.value, evaluation.joint.tpr.value)
        curves = [
            plots.roc(evaluation.curves, at=at),
            plots.precision_recall(evaluation.curves),
        ]
    distributions = [
        plots.score_histogram(scores, member, threshold=decision.threshold(member))
        for member in members
    ]
    sections = [("Decision", decided), ("Curves", curves), ("Scores", distributions)]
    return [(title, shown) for title, shown in sections if shown]


def _reliability(scores: xr.Dataset) -> list[tuple[str, list[Any]]]:
    """Return plots of each member's reliability; of a calibrated run on nights that its curves were not fitted on."""
    kept, shown = stored(scores), []
    apart = np.ones(scores.sizes["cutout"], bool)
    if kept is not None:
        apart = np.isin(scores["night"].values, kept.measured)
    for column, member in enumerate(str(name) for name in scores["model"].values):
        name = f"label_{family_of(member)}"
        if name not in scores or not (scores[name].values[apart] >= 0).any():
            continue
        labels, values = scores[name].values[apart], scores["scores"].values[apart, column]
        tables = {"as scored": reliability(labels, values)}
        if kept is not None:
            tables["calibrated"] = reliability(labels, kept.curves[member](values))
        shown.append(plots.reliability(tables, title=f"Reliability of {member}"))
    return [("Calibration", shown)] if shown else []


def _tiles(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return headline figures, each rate with its interval on a scale in per cent of the scale's width."""
    tiles: list[dict[str, Any]] = [
        {
            "title": "Plausible candidates",
            "value": f"{evaluation.plausible:,}",
            "note": f"of {evaluation.decided:,} decided cutouts",
        }
    ]
    if not evaluation.labelled:
        return tiles
    joint = evaluation.joint
    tpr, fpr = joint.tpr, joint.fpr
    return [
        *tiles,
        _rate_tile("True-positive rate", tpr, plots.PUBLISHED_TPR, "0.96 to 0.98", down=True),
        _rate_tile("False-positive rate", fpr, (0, plots.PUBLISHED_FPR), "below 0.01"),
        _rate_tile("Precision", joint.precision, None, "varies with the mix of kinds"),
    ]


def _rate_tile(
    title: str,
    estimate: Estimate,
    published: tuple[float, float] | None,
    words: str,
    *,
    down: bool = False,
) -> dict[str, Any]:
    if not estimate.total:
        return {"title": title, "value": "none", "note": "no cutout to measure it on"}
    tile: dict[str, Any] = {
        "title": title,
        "value": f"{estimate.value:.4f}",
        "note": f"95 %: {estimate.low:.4f} to {estimate.high:.4f}",
        "counts": f"{estimate.count:,} of {estimate.total:,}",
        "words": words if published is None else f"Duev et al. 2019: {words}",
    }
    # rates near 1 are shown on a scale down from 1, those near 0 on one up from 0
    ends = [estimate.low, estimate.high, *(published or ())]
    first, last = (min(0.9, min(ends) - 0.01), 1.0) if down else (0.0, max(0.02, 1.1 * max(ends)))
    if published is None:
        first, last = 0.0, 1.0
    spans = {"interval": (estimate.low, estimate.high), "band": published or (0.0, 0.0)}
    for name, (low, high) in spans.items():
        left, right = (100 * (end - first) / (last - first) for end in (low, high))
        tile[name] = {"left": f"{left:.2f}", "width": f"{max(right - left, 0):.2f}"}
    tile["dot"] = f"{100 * (estimate.value - first) / (last - first):.2f}"
    tile["ends"] = (f"{first:.2f}", f"{last:.2f}")
    return tile


def _published(evaluation: Evaluation) -> list[tuple[str, str, str, str]]:
    """Return the rates of Duev et al. (2019) beside this run's: name, ours, theirs, and their data."""
    joint, nights = evaluation.joint, evaluation.nights
    ours_tpr, ours_fpr = (_counted(estimate) for estimate in (joint.tpr, joint.fpr))
    test, known = "their test set, rb, sl and kd", "known near-Earth asteroids, 2018-10 to 2019-01"
    return [
        ("True-positive rate", ours_tpr, "0.96 to 0.98", "real ZTF nights"),
        ("… night by night", _span(nights["tpr"]), "0.96 to 0.98", "real ZTF nights"),
        ("… on a test set", "", _counted(_PUBLISHED_TEST_TPR), test),
        ("… on known asteroids", "", _counted(_PUBLISHED_KNOWN), known),
        ("False-positive rate", ours_fpr, "below 0.01", "real ZTF nights"),
        ("… night by night", _span(nights["fpr"]), "below 0.01", "real ZTF nights"),
        ("… on a test set", "", _counted(_PUBLISHED_TEST_FPR), test),
        ("Area under the ROC curve", str(evaluation.joint_auc), "not given", ""),
    ]


def _counted(estimate: Estimate) -> str:
    return (
        f"{estimate}, {estimate.count:,} of {estimate.total:,}"
        if estimate.total
        else "not measured"
    )


def _span(rates: pd.Series) -> str:
    known = rates.dropna()
    return f"{known.min():.4f} to {known.max():.4f}" if len(known) else "not measured"


def _interval(row: pd.Series, name: str) -> str:
    if not np.isfinite(row[name]):
        return "not measured"
    return f"{row[name]:.4f} [{row[f'{name}_low']:.4f}, {row[f'{name}_high']:.4f}]"


def _classifiers(evaluation: Evaluation) -> list[list[str]]:
    """Return table rows of all members, then of the families that have several."""
    rows = [
        [row["member"], f"{row['threshold']:g}", *_classifier_cells(row)]
        for _, row in evaluation.members.iterrows()
    ]
    several = evaluation.members["family"].value_counts() > 1
    rows += [
        [f"{row['family']}, any member", "", *_classifier_cells(row)]
        for _, row in evaluation.families.iterrows()
        if several[row["family"]]
    ]
    return rows


def _classifier_cells(row: pd.Series) -> list[str]:
    counts = [f"{row[name]:,}" for name in ("n_pos", "n_neg")]
    return counts + [_interval(row, name) for name in ("auc", "tpr", "fpr")]


def _kinds(kinds: pd.DataFrame) -> pd.DataFrame:
    return kinds.loc[kinds["cutouts"].nlargest(MAX_KINDS).index.sort_values()]


def _nights(nights: pd.DataFrame) -> list[list[str]]:
    return [
        [
            plots.night_name(int(row["night"])),
            f"{row['cutouts']:,}",
            f"{row['plausible']:,}",
            f"{row['n_pos']:,}",
            _interval(row, "tpr"),
            f"{row['n_neg']:,}",
            _interval(row, "fpr"),
        ]
        for _, row in nights.iterrows()
    ]


def _galleries(
    archive: str | os.PathLike[str], decided: xr.Dataset, labelled: bool
) -> list[dict[str, Any]]:
    """Return galleries of cutouts, sorted by the score of the weakest family, on which the decision depends."""
    best, plausible = family_scores(decided), decided["plausible"].values
    weakest = np.fmin.reduce(best, axis=1)
    order = np.argsort(-np.nan_to_num(weakest, nan=-1.0), kind="stable")
    settled = ~decided["undecided"].values & ~np.isnan(weakest)
    chosen = [
        (
            "Best candidates",
            "Plausible, the surest first: by the score of the weakest family.",
            order[plausible[order]],
        )
    ]
    if labelled:
        labels = plausibility_labels(decided)
        missed = (labels == 1) & ~plausible & settled
        false = (labels == 0) & plausible
        chosen += [
            (
                "Missed",
                "Labelled plausible but rejected, the furthest off first.",
                order[::-1][missed[order[::-1]]],
            ),
            (
                "False positives",
                "Plausible but labelled otherwise, the surest first.",
                order[false[order]],
            ),
        ]
    else:
        rejected = ~plausible & settled
        chosen += [
            (
                "Barely plausible",
                "Plausible, the least sure first.",
                order[::-1][plausible[order[::-1]]],
            ),
            ("Barely rejected", "Rejected, the nearest first.", order[rejected[order]]),
        ]
    pixels = archives.open_archive(archive)["cutouts"]
    return [
        {
            "title": title,
            "words": words,
            "total": len(rows),
            "cutouts": [_cutout(pixels, decided, best, int(row)) for row in rows[:GALLERY_SIZE]],
        }
        for title, words, rows in chosen
    ]


def _cutout(
    pixels: xr.DataArray, decided: xr.Dataset, best: np.ndarray, row: int
) -> dict[str, Any]:
    try:
        buffer = io.BytesIO()
        Image.fromarray(pixels[row].values).save(buffer, "PNG")
        png = base64.b64encode(buffer.getvalue()).decode()
    except Exception:  # a damaged shard fails in its codec's own way; the rest of the page stands
        png = ""
    return {
        "id": str(decided["id"].values[row]),
        "night": int(decided["night"].values[row]),
        "kind": str(decided["kind"].values[row]),
        "png": png,
        "scores": [
            (str(name), "none" if np.isnan(score) else f"{score:.3f}", bool(passed))
            for name, score, passed in zip(
                decided["family"].values,
                best[row],
                decided["family_pass"].values[row],
                strict=True,
            )
        ],
    }


def _triage(scores: xr.Dataset) -> list[str]:
    """Describe a triage: its guarantee, its test, and the nights that it was not used on."""
    provenance = provenance_of(scores)
    if provenance["triage"] is None:
        return []
    triage, drifted = Triage.from_dict(provenance["triage"]), provenance["drifted"]
    rejected, total = int(scores["rejected"].sum()), scores.sizes["cutout"]
    nights = ", ".join(map(plots.night_name, drifted))
    return [
        f"A first look by {triage.first} rejected {rejected:,} of {total:,} cutouts.",
        triage.guarantee,
        triage.seen,
        f"Nights unlike the calibration nights, decided exactly: {nights or 'none'} "
        f"(Kolmogorov-Smirnov distance by ranks, each night at a level of {triage.level:.2f}).",
    ]


def _facts(scores: xr.Dataset, decision: Decision) -> list[tuple[str, str]]:
    attrs = provenance_of(scores)
    facts = [("archive", attrs["url"]), ("run", attrs["run"]), ("zoo", attrs["zoo"])]
    for member in attrs["members"]:
        limit = decision.threshold(member["name"])
        words = f"threshold {limit:g}, weights sha256 {member['sha256']}"
        facts.append((f"{member['name']}@{member['version']}", words))
    if attrs["decided"] is not None:
        words = "only while the decision was open: rates of single members are of the cutouts that they scored"
        facts.append(("scored", words))
    keys = ("deepstreaks_dask", "keras", "backend", "dtype", "batch", "started", "updated")
    return facts + [(key, str(attrs[key])) for key in keys]
