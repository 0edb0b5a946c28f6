"""A notebook cell that opens the run at the page's thresholds and draws what the page shows."""

from __future__ import annotations

from dataclasses import replace

from deepstreaks_dask.apps.explore.session import Session
from deepstreaks_dask.evaluation.interactive import DECISION_NAME


def notebook_cell(session: Session) -> str:
    """Return Python that opens the run at the session's thresholds and draws what the open tab shows.

    Parameters
    ----------
    session : Session
        The state of the page.

    Returns
    -------
    str
        The lines of the cell; the last one is the plot.
    """
    lines = [*_opened(session), *_view(session)]
    if session.selection is not None and session.selected:
        lines += _gallery(session)
    return "\n".join([*lines, "view"]) + "\n"


def _opened(session: Session) -> list[str]:
    decision = session.cut.decision
    return [
        "from deepstreaks_dask import plots",
        "from deepstreaks_dask.scoring.runs import open_run",
        "from deepstreaks_dask.evaluation.decision_metrics import evaluate",
        "from deepstreaks_dask.evaluation.interactive import Cut, Exploration",
        "from deepstreaks_dask.evaluation.selection import Selection",
        "from deepstreaks_dask.scoring.decision import Decision",
        "",
        f"archive = {session.source.archive!r}",
        f"scores = open_run(archive, {session.source.run!r})",
        *_filtered("scores", session),
        f"decision = Decision({dict(decision.thresholds)!r}, default={decision.default!r})",
        "exploration = Exploration(scores)",
    ]


def _filtered(name: str, session: Session) -> list[str]:
    if session.filter is None:
        return []
    return [f'{name} = {name}.isel(cutout=({name}["filter"] == {session.filter!r}).values)']


def _view(session: Session) -> list[str]:
    """Return the lines that draw what the open tab shows; the decision, where that tab shows nothing yet."""
    if session.tab == "scores":
        return _distribution(session)
    if session.tab == "joint":
        return _joint(session)
    if session.tab == "drift":
        name = session.drift_name or DECISION_NAME
        return [f"view = plots.drift(exploration.drift({name!r}), {name!r})"]
    if session.tab == "compare" and session.other is not None:
        return _comparison(session)
    if session.tab == "search" and session.found is not None:
        return _search(session)
    return _decision()


def _decision() -> list[str]:
    return [
        "evaluation = evaluate(scores, decision)",
        "at = (evaluation.joint.fpr.value, evaluation.joint.tpr.value)",
        "view = plots.confusion(evaluation.joint) + plots.venn(evaluation.venn)",
        "view += plots.roc(evaluation.curves, at=at) + plots.precision_recall(evaluation.curves)",
        'view += plots.night_rates(evaluation.nights, "tpr")',
        'view += plots.night_rates(evaluation.nights, "fpr")',
        "view = view.cols(2)",
    ]


def _distribution(session: Session) -> list[str]:
    shown = session.distribution
    name = shown.name
    night = f", night={shown.night}" if shown.by == "night" else ""
    return [
        f"groups = exploration.groups({name!r}, {shown.by!r}{night})",
        f"histogram = plots.histogram(groups, {f'Scores of {name}'!r}, "
        f"threshold={session.limit(name)!r}, log={shown.log!r})",
        f"view = histogram + plots.ecdf(groups, {f'Cumulative scores of {name}'!r})",
    ]


def _joint(session: Session) -> list[str]:
    # dimensions of one name are an error in HoloViews
    drawn = [
        f"datashade(hv.Points((exploration.column({x!r}), exploration.column({y!r})), "
        f"[{x!r}, {y if x != y else y + ' '!r}]), dynamic=False)"
        for x, y in session.pairs
    ]
    return [
        "import holoviews as hv",
        "from holoviews.operation.datashader import datashade",
        "",
        f"view = {' + '.join(drawn)}",
    ]


def _comparison(session: Session) -> list[str]:
    other = session.other
    assert other is not None, "a run is compared with"
    return [
        "from deepstreaks_dask.evaluation.cut_comparison import compare_cuts",
        "",
        f"other = Exploration(open_run(archive, {other.exploration.attrs['run']!r}))",
        f"other_decision = Decision({dict(other.decision.thresholds)!r})",
        "change = compare_cuts(Cut(exploration, decision), Cut(other, other_decision))",
        "view = change.table",
    ]


def _search(session: Session) -> list[str]:
    options = ", ".join(f"{key}={value!r}" for key, value in session.search_options.items())
    return [
        "from deepstreaks_dask.evaluation.threshold_search import search_thresholds",
        "",
        f"searched = Exploration(open_run(archive, {session.source.run!r}))",
        f"found = search_thresholds(searched, {options})",
        "display(found.thresholds)",
        "view = found.rates",
    ]


def _gallery(session: Session) -> list[str]:
    assert session.selection is not None, "something is selected"
    selection = replace(session.selection, filter=None)
    return [
        "",
        f"places = Cut(exploration, decision).select({selection!r})",
        "rows = exploration.rows[places[:12]]",
        f"pictures = open_run(archive, {session.source.run!r}, cutouts=True)",
        *_filtered("pictures", session),
        "pictures = pictures.isel(cutout=rows)",
        'gallery = plots.gallery(pictures["cutouts"].values, list(map(str, pictures["id"].values)))',
        "display(gallery)",
    ]
