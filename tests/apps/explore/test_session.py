"""The state of the page of cutouts, and its tabs without a browser."""

import numpy as np
import pytest

from deepstreaks_dask.apps.bridge import Bridge
from deepstreaks_dask.apps.explore.notebook_cell import notebook_cell
from deepstreaks_dask.apps.explore.session import ScoredArchive
from deepstreaks_dask.apps.explore.updates import (
    Cell,
    Comparison,
    Drift,
    GalleryCards,
    SearchResult,
    State,
)
from deepstreaks_dask.apps.messages import Error
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.decision_metrics import evaluate
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import open_run

KINDS = (Comparison, Drift, GalleryCards)


def test_an_archive_without_scores_names_the_command(tmp_path):
    create_archive(tmp_path / "empty.zarr", shard=64)
    with pytest.raises(DeepStreaksError, match=r"deepstreaks score .*empty\.zarr"):
        ScoredArchive.open(tmp_path / "empty.zarr", "default", None, dimension="cutout")


def test_an_unknown_run_is_the_first_one(scored):
    source = ScoredArchive.open(scored, "../x", None, dimension="cutout")
    assert (source.run, source.size, source.simulated) == ("default", 80, True)


def test_thresholds_move_and_are_released_and_listeners_are_told(session, scored):
    told = []
    session.subscribe(lambda number: told.append((number, session.counts.plausible)))
    session.move("rb", 0.9, 4)
    assert session.limit("rb") == 0.9
    assert session.moving == ("rb_vgg6", "rb_resnet50")
    session.move("rb_vgg6", 0.2, 5)
    assert session.limit("rb") is None
    assert session.limit("decision") is None
    session.move("rb", 0.8, 6)
    assert session.moving == ("rb_resnet50",)
    session.release("rb_vgg6")
    assert session.limit("rb_vgg6") == session.limit("rb") == 0.8
    wanted = [({"rb": 0.9}, 4), ({"rb": 0.9, "rb_vgg6": 0.2}, 5)]
    wanted += [({"rb": 0.8, "rb_vgg6": 0.2}, 6), ({"rb": 0.8}, 0)]
    scores = open_run(scored)
    assert told == [(n, evaluate(scores, Decision(limits)).plausible) for limits, n in wanted]


@pytest.mark.parametrize("change", ["move", "release", "choose_filter", "score_name"])
def test_unknown_names_change_nothing(session, change):
    before = session.cut.decision
    arguments = (0.1, 1) if change == "move" else ()
    with pytest.raises(DeepStreaksError, match="is not one of") as refused:
        getattr(session, change)("<b>" * 999, *arguments)
    assert len(str(refused.value)) < 300
    assert (session.cut.decision, session.filter) == (before, None)


def test_a_filter_counts_its_cutouts(session, scored):
    scores = open_run(scored)
    chosen = session.exploration.filters[0]
    session.choose_filter(chosen)
    assert session.counts.cutouts == int((scores["filter"] == chosen).sum())
    session.choose_filter(None)
    assert session.counts.cutouts == 80


def test_the_page_sends_the_state_of_every_move(page, sent):
    page(do="threshold", name="rb", value=0.7, n=3)
    state = [update for update in sent if isinstance(update, State)][-1]
    assert (state.n, state.thresholds) == (3, {"rb": 0.7})
    page(do="follow", name="rb")
    state = [update for update in sent if isinstance(update, State)][-1]
    assert (state.n, state.thresholds) == (0, {})
    assert not [update for update in sent if isinstance(update, Error)]


def test_messages_before_the_scores_are_loaded_do_nothing(scored, sent):
    from deepstreaks_dask.apps.explore.page import CutoutPage

    CutoutPage(scored, "default").bridge._handle_msg({"do": "reset"})
    assert sent == []


def run(code):
    shown, names = [], {}
    exec(code, {"display": shown.append}, names)  # our own page's text, in a test
    return names, shown


OPENED = {
    "decision": [],
    "scores": [{"do": "scores", "name": "rb", "by": "night", "night": 0, "log": False}],
    "joint": [{"do": "axis", "pair": 1, "axis": "x", "name": "kd_vgg6"}],
    "drift": [{"do": "drift", "name": "rb_vgg6"}],
    "compare": [{"do": "compare", "run": "other"}],
    "search": [{"do": "search", "target": "fpr", "value": 0.2, "by": "family"}],
}


@pytest.mark.parametrize("tab", OPENED)
def test_the_notebook_cell_of_every_tab_runs(page, sent, tab):
    page(do="tab", name=tab)
    for message in OPENED[tab]:
        page(**message)
    page(do="show", selection={"region": "none"}, words="None")
    page(do="cell")
    assert not [update for update in sent if isinstance(update, Error)]
    code = sent[-1].code
    assert isinstance(sent[-1], Cell)
    assert code == notebook_cell(page.page.session)
    names, shown = run(code)
    cards = next(update for update in reversed(sent) if isinstance(update, GalleryCards))
    assert cards.words.startswith(f"{min(24, len(names['places']))} of {len(names['places'])} ")
    assert shown[-1] is names["gallery"]
    if tab == "compare":
        rows = [update for update in sent if isinstance(update, Comparison)][-1].table
        assert [row["gained"] for row in rows] == names["change"].table["gained"].tolist()
    if tab == "drift":
        assert [update for update in sent if isinstance(update, Drift)][-1].of == 2
    if tab == "search":
        found = [update for update in sent if isinstance(update, SearchResult)][-1]
        limits = [row["threshold"] for row in found.thresholds]
        assert limits == names["found"].thresholds["threshold"].tolist()


def test_the_gallery_has_the_cutouts_and_scores_of_the_archive(page, sent, scored):
    page(do="order", value="time")
    page(do="show", selection={"ranges": [["sl_vgg6", 0.5, 1]]}, words="High")
    page(do="order", value="time")
    cards = sent[-1].cards
    scores = open_run(scored)
    values = scores["scores"].sel(model="sl_vgg6").values
    chosen = np.flatnonzero(values >= 0.5)
    assert [card["id"] for card in cards] == scores["id"].values[chosen][:24].tolist()
    member = {name: (score, passes) for name, score, passes, _ in cards[0]["members"]}
    assert member["sl_vgg6"] == (pytest.approx(values[chosen[0]]), True)
    page(do="more")
    assert sent[-1].append
    assert len(sent[-1].cards) == min(24, len(chosen) - 24)


def test_what_was_chosen_last_is_shown_whatever_is_done_last(page, sent, monkeypatch):
    """Work on other threads ends in any order: here the first to begin is the last to end."""
    working = []
    later = lambda bridge, work, then, long=False: working.append((work, then))  # noqa: E731
    monkeypatch.setattr(Bridge, "later", later)

    def done():
        while working:
            for work, then in [working.pop() for _ in range(len(working))]:
                then(work())
        shown = {kind: [one for one in sent if isinstance(one, kind)] for kind in KINDS}
        sent.clear()
        return shown

    sent.clear()
    for run in ("other", "default", "other"):
        page(do="compare", run=run)
    assert [one.other for one in done()[Comparison]] == ["other"]
    page(do="tab", name="compare")
    page(do="compare", run="other")  # what is shown meanwhile is what a notebook cell has
    assert "compare_cuts" in notebook_cell(page.page.session)
    assert [one.other for one in done()[Comparison]] == ["other"]
    page(do="compare", run="default")
    page(do="compare", run="")
    assert done()[Comparison] == []
    page(do="tab", name="drift")
    for name in ("rb_vgg6", "kd_vgg6"):
        page(do="drift", name=name)
    assert [one.name for one in done()[Drift]] == ["kd_vgg6"]
    page(do="show", selection={}, words="All")
    assert [len(one.cards) for one in done()[GalleryCards]] == [24]
    page(do="more")
    page(do="more")  # twice, before the first is answered
    assert [(len(one.cards), one.append) for one in done()[GalleryCards]] == [(24, True)]
    for order in ("time", "doubtful"):
        page(do="order", value=order)
    (cards,) = done()[GalleryCards]
    assert page.page.gallery.shown.order == "doubtful"
    assert (len(cards.cards), cards.append) == (24, False)
    for of in ("rb", "families"):
        page(do="curves", of=of)
    done()
    legend = page.page.figures.drawn["roc"].legend[0].items
    assert "rb_vgg6" not in [item.label.value for item in legend]


def test_a_hostile_place_is_refused(page, sent):
    page(do="explain", member="rb_vgg6", place=10**9)
    assert isinstance(sent[-1], Error)
    page(do="explain", member="../zoo", place=0)
    assert isinstance(sent[-1], Error)
