"""Messages that a page may send, what is said of others, and the names that its script uses."""

import re
from pathlib import Path
from typing import get_args

import pytest

from deepstreaks_dask.apps import messages as common
from deepstreaks_dask.apps.bridge import Bridge
from deepstreaks_dask.apps.campaign import messages as campaign
from deepstreaks_dask.apps.explore import messages, sequence_messages, updates
from deepstreaks_dask.apps.messages import MAX_REFUSAL_LENGTH, MessageError, Update
from deepstreaks_dask.evaluation.selection import Selection
from deepstreaks_dask.evaluation.threshold_search import SEARCH_LEVELS

SCRIPTS = Path(common.__file__).parent / "pages"
PAGES = {
    "explore": (messages.SCHEMA, updates),
    "sequences": (sequence_messages.SCHEMA, sequence_messages),
    "campaign": (campaign.SCHEMA, campaign),
}

MALFORMED = [
    {"do": "threshold", "name": "rb", "value": 7, "n": 1},
    {"do": "threshold", "name": "rb", "value": True, "n": 1},
    {"do": "threshold", "name": "rb", "value": "0.5", "n": 1},
    {"do": "threshold", "name": "rb", "value": float("nan"), "n": 1},
    {"do": "threshold", "name": "rb", "value": 0.5, "n": 1.5},
    {"do": "threshold", "name": ["rb"], "value": 0.5, "n": 1},
    {"do": "tab", "name": "<script>"},
    {"do": "show", "selection": {"ranges": [["rb", "a", 1]]}},
    {"do": "show", "selection": {"ranges": [["rb", 0.1]]}},
    {"do": "show", "selection": {"ranges": [["rb", 0.1, 0.2]] * 5}},
    {"do": "show", "selection": {"truth": 3}},
    {"do": "show", "selection": {"night": "2026"}},
    {"do": "search", "target": "__class__", "value": 1, "by": "family"},
    {"do": "search", "target": "fpr", "value": "much", "by": "family"},
    {"do": "search", "target": "fpr", "value": float("inf"), "by": "family"},
    {"do": "changed", "key": "__init__", "truth": 1, "words": ""},
    {"do": "explain", "member": "rb_vgg6", "place": -1},
    {"do": "axis", "pair": 2, "axis": "x", "name": "rb"},
    {"do": "hello", "dark": "yes"},
    {"do": "reset", "and": "more"},
    {"do": "reset", "x" * 1000: 1},
    {"do": "compare"},
    {"do": "nothing"},
    {"do": "\n<b>" * 500},
    {"do": {"a": 1}},
    {"name": "rb"},
    {},
    [],
    "reset",
    None,
    7,
]


@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: repr(data)[:60])
def test_other_messages_are_refused_in_one_line(data):
    with pytest.raises(MessageError) as refused:
        messages.SCHEMA.read(data)
    words = str(refused.value)
    assert words
    assert "\n" not in words
    assert len(words) <= MAX_REFUSAL_LENGTH


def test_refusals_name_the_message_the_field_and_what_is_wrong():
    with pytest.raises(MessageError, match=r"^threshold, value: .* less than or equal to 1$"):
        messages.SCHEMA.read({"do": "threshold", "name": "rb", "value": 7, "n": 1})
    with pytest.raises(MessageError, match=r"unknown message, 'nope'\. Reload the page\."):
        messages.SCHEMA.read({"do": "nope"})


@pytest.mark.parametrize("data", [{"do": "save", "name": 3}, {"do": "nope"}, None])
def test_the_page_shows_why_and_nothing_is_handled(monkeypatch, data):
    sent, handled = [], []
    monkeypatch.setattr(Bridge, "_send_msg", lambda bridge, message: sent.append(message))
    bridge = Bridge(messages.SCHEMA, handled.append)
    bridge._handle_msg(data)
    (message,) = sent
    assert message["what"] == "error"
    assert "Traceback" not in message["words"]
    assert "\n" not in message["words"]
    assert handled == []
    bridge._handle_msg({"do": "save", "name": "one"})
    assert handled == [messages.SaveThresholds(do="save", name="one")]


def test_numbers_of_json_are_taken():
    assert messages.SCHEMA.read({"do": "threshold", "name": "rb", "value": 1, "n": 3}).value == 1.0


def test_a_selection_is_that_of_the_page():
    chosen = {"ranges": [["rb", 0.25, 1]], "night": 20260101, "truth": -1, "plausible": None}
    message = messages.SCHEMA.read({"do": "show", "selection": chosen, "words": "x" * 999})
    wanted = Selection(
        night=20260101, filter="g", truth=-1, region=None, ranges=(("rb", 0.25, 1.0),)
    )
    assert message.selection.with_filter("g") == wanted
    assert len(message.words) == messages.MAX_TITLE_LENGTH


def test_choices_are_those_of_the_functions_that_take_them():
    assert get_args(messages.SearchThresholds.model_fields["by"].annotation) == SEARCH_LEVELS


def names(pattern, *scripts):
    return {
        name for one in scripts for name in re.findall(pattern, (SCRIPTS / one).read_text(), re.M)
    }


@pytest.mark.parametrize("page", PAGES)
def test_scripts_send_what_is_in_the_schema(page):
    schema, _ = PAGES[page]
    known = {get_args(kind.model_fields["do"].annotation)[0] for kind in schema.kinds}
    sent = names(r"\bdo: \"(\w+)\"", f"{page}.js", "common.js")
    if page != "explore":  # the other pages have no tabs
        sent.remove("tab")
    assert sent == known


@pytest.mark.parametrize("page", PAGES)
def test_scripts_take_every_update(page):
    _, module = PAGES[page]
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type)]
    known = {
        kind.model_fields["what"].default
        for kind in kinds
        if issubclass(kind, Update) and kind is not Update
    }
    assert known == names(r"^  on\(\"(\w+)\"", f"{page}.js")
