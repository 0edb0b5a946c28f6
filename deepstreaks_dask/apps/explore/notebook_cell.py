"""A notebook cell that opens the run at the page's thresholds and draws what it shows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from deepstreaks_dask.evaluation.interactive import DECISION_NAME

if TYPE_CHECKING:
    from deepstreaks_dask.apps.explore.page import Explorer


def notebook_cell(explorer: Explorer) -> str:
    """Write Python that opens the run at these thresholds and draws what the tab shows."""
    scores, cut = explorer.scores, explorer.cut
    lines = [
        "from deepstreaks_dask import plots",
        "from deepstreaks_dask.scoring.runs import open_run",
        "from deepstreaks_dask.evaluation.decision_metrics import evaluate",
        "from deepstreaks_dask.evaluation.interactive import Cut, Exploration, Selection",
        "from deepstreaks_dask.scoring.decision import Decision",
        "",
        f"archive = {explorer.archive!r}",
        f"scores = open_run(archive, {explorer.run!r})",
    ]
    if explorer.filter is not None:
        lines.append(
            f'scores = scores.isel(cutout=(scores["filter"] == {explorer.filter!r}).values)'
        )
    values = f"{dict(cut.decision.thresholds)!r}, default={cut.decision.default!r}"
    lines += [f"decision = Decision({values})", "exploration = Exploration(scores)"]
    if explorer.tab == "scores":
        name = scores.name
        night = f", night={scores.night}" if scores.by == "night" else ""
        lines += [
            f"groups = exploration.groups({name!r}, {scores.by!r}{night})",
            f"histogram = plots.histogram(groups, {f'Scores of {name}'!r}, "
            f"threshold={explorer.limit(name)!r}, log={scores.log!r})",
            f"view = histogram + plots.ecdf(groups, {f'Cumulative scores of {name}'!r})",
        ]
    elif explorer.tab == "joint":
        lines += [
            "import holoviews as hv",
            "from holoviews.operation.datashader import datashade",
            "",
        ]
        drawn = []
        for joint in explorer.joint.views:
            x, y = joint.names
            drawn.append(
                f"datashade(hv.Points((exploration.column({x!r}), exploration.column({y!r})), "
                f"[{x!r}, {y if x != y else y + ' '!r}]), dynamic=False)"
            )
        lines.append(f"view = {' + '.join(drawn)}")
    elif explorer.tab == "drift":
        name = explorer.drift.name or DECISION_NAME
        lines.append(f"view = plots.drift(exploration.drift({name!r}), {name!r})")
    elif explorer.tab == "compare" and explorer.compare.other is not None:
        other = explorer.compare.other
        lines += [
            "from deepstreaks_dask.evaluation.interactive import compare",
            "",
            f"other = Exploration(open_run(archive, {other.exploration.attrs['run']!r}))",
            f"change = compare(Cut(exploration, decision), Cut(other, Decision({dict(other.decision.thresholds)!r})))",
            "view = change.table",
        ]
    elif explorer.tab == "search" and explorer.search.found is not None:
        options = ", ".join(f"{key}={value!r}" for key, value in explorer.search.options.items())
        lines += [
            "from deepstreaks_dask.evaluation.threshold_search import search",
            "",
            f"found = search(Exploration(open_run(archive, {explorer.run!r})), {options})",
            "display(found.thresholds)",
            "view = found.rates",
        ]
    else:
        lines += [
            "evaluation = evaluate(scores, decision)",
            "at = (evaluation.joint.fpr.value, evaluation.joint.tpr.value)",
            "view = plots.confusion(evaluation.joint) + plots.venn(evaluation.venn)",
            "view += plots.roc(evaluation.curves, at=at) + plots.precision_recall(evaluation.curves)",
            'view += plots.night_rates(evaluation.nights, "tpr")',
            'view += plots.night_rates(evaluation.nights, "fpr")',
            "view = view.cols(2)",
        ]
    gallery = explorer.galleries.shown
    if gallery is not None and gallery.chosen is not None and len(gallery.places):
        lines += [
            "",
            f"places = Cut(exploration, decision).select({replace(gallery.chosen, filter=None)!r})",
            "rows = exploration.rows[places[:12]]",
            f"pictures = open_run(archive, {explorer.run!r}, cutouts=True)",
        ]
        if explorer.filter is not None:
            lines.append(
                f'pictures = pictures.isel(cutout=(pictures["filter"] == {explorer.filter!r}).values)'
            )
        lines += [
            "pictures = pictures.isel(cutout=rows)",
            'gallery = plots.gallery(pictures["cutouts"].values, list(map(str, pictures["id"].values)))',
            "display(gallery)",
        ]
    return "\n".join([*lines, "view"]) + "\n"
