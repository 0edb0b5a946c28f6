"""The filter language says what it means, and nothing else gets through."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepstreaks_dask.archive.query import FilterError, complete, parse

KINDS = {
    "night": "number",
    "rb": "number",
    "kd_vgg6": "number",
    "kind": "text",
    "plausible": "truth",
}
COLUMNS = {
    "night": np.array([20251231, 20260101, 20260102, 20260102]),
    "rb": np.array([0.95, 0.9, np.nan, 0.2], np.float32),
    "kd_vgg6": np.array([0.1, 0.8, 0.9, 0.4]),
    "kind": np.array(["nea", "nea", "satellite", ""], dtype=object),
    "plausible": np.array([True, True, False, False]),
}


def passing(text):
    return np.flatnonzero(parse(text, KINDS)(COLUMNS, 4)).tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("", [0, 1, 2, 3]),
        ("night >= 20260101", [1, 2, 3]),
        ("rb >= 0.9", [0, 1]),
        ("not rb >= 0.9", [2, 3]),
        ("rb != 0.2", [0, 1]),
        ('night >= 20260101 and rb > 0.5 and not kd_vgg6 < 0.5 and kind == "nea"', [1]),
        ("0.3 < kd_vgg6 <= 0.8", [1, 3]),
        ("kind in ['nea', 'dipole']", [0, 1]),
        ("night not in (20260102, 3)", [0, 1]),
        ('"sat" in kind', [2]),
        ('"sat" not in kind', [0, 1, 3]),
        ("plausible", [0, 1]),
        ("not plausible or rb > kd_vgg6", [0, 1, 2, 3]),
        ("plausible == False", [2, 3]),
        ("True", [0, 1, 2, 3]),
        ("True and plausible", [0, 1]),
        ("rb > -1\n and\tnight > 20260101", [3]),
        ("  (rb > 0.5)  ", [0, 1]),
        ('kind == "Ätna 🌋" or rb == 0.2', [3]),
    ],
)
def test_filters_pass_what_they_say(text, rows):
    assert passing(text) == rows


@pytest.mark.parametrize(
    ("text", "at", "words"),
    [
        ("ngiht > 3", 0, "did you mean 'night'"),
        ("rb > 0.5 and kin == 'x'", 13, "did you mean 'kind'"),
        ("rb = 0.5", 3, "write =="),
        ("rb > 'a'", 5, "cannot be compared"),
        ("rb >", 4, "missing at the end"),
        ("kind == 'nea", 8, "never closed"),
        ("(rb > 0.5", 0, "parentheses"),
        ("rb", 0, "compare it"),
        ("night + 1 > 3", 0, "is expected"),
        ("__import__('os').system('x')", 0, "a comparison is expected"),
        ("rb > open('x')", 5, "no functions"),
        ("rb.real > 1", 0, "is expected"),
        ("[x for x in rb] == 1", 0, "is expected"),
        ("(lambda: 1)() == 1", 0, "no functions"),
        ("rb > 1 & plausible", 5, "is expected"),
        ("(rb > 0.5) & (rb < 0.9)", 0, "write 'and'"),
        ("rb > 9e999", 5, "is expected"),
        ("plausible > True", 12, "no order"),
        ("plausible == true", 13, "write True"),
        ("rb is 1", 0, "write =="),
        ("rb in 3", 6, "in brackets"),
        ("rb in ['a']", 7, "list of numbers"),
        ("kind == 'ü' and rbb > 1", 16, "did you mean 'rb'"),
        ("rb > 0.5 → 3", 9, "no meaning"),
        ("rb > " + "(" * 500 + "1" + ")" * 500, 204, ""),
        ("rb > 1 and " * 500 + "rb > 1", 2000, "longer"),
    ],
)
def test_errors_point_at_the_place(text, at, words):
    with pytest.raises(FilterError, match=f"(?s).*{words.replace('(', '.')}") as caught:
        parse(text, KINDS)
    if words not in ("write ==", "parentheses", ""):
        assert caught.value.start == at
    assert len(str(caught.value).splitlines()) == 1


@given(st.text(max_size=80))
def test_anything_is_a_filter_or_an_error(text):
    try:
        found = parse(text, KINDS)(COLUMNS, 4)
    except FilterError as error:
        found = None
        place = error.start
    if found is None:
        assert 0 <= place <= len(text)
    else:
        assert found.shape == (4,)


def atoms():
    numbers = st.sampled_from(["rb", "kd_vgg6", "night", "0.5", "-1", "20260101"])
    operators = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    return st.tuples(numbers, operators, numbers).map(" ".join) | st.just("plausible")


@given(
    st.recursive(
        atoms(),
        lambda inner: (
            st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(
                lambda t: f"({t[0]} {t[1]} {t[2]})"
            )
            | inner.map(lambda t: f"(not {t})")
        ),
        max_leaves=8,
    )
)
def test_agrees_with_python_row_by_row(text):
    found = parse(text, KINDS)(COLUMNS, 4)
    for row in range(4):
        values = {name: column[row] for name, column in COLUMNS.items()}
        if np.isnan(values["rb"]) and "!=" in text:
            continue  # what is not known differs from nothing, other than in Python
        assert found[row] == eval(text, {}, values)  # its own grammar made this text


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("", "night"),
        ("ni", "night"),
        ("vgg", "kd_vgg6"),
        ("rb > 0.5 and ki", "kind"),
        ("kind == ", '"nea"'),
        ("kind == 'n", '"nea"'),
        ("kind in [", '"nea"'),
        ("rb ", ">="),
        ("rb > 0.5 ", "and"),
        ("plausible ", "and"),
    ],
)
def test_completion(text, offered):
    found = complete(text, len(text), KINDS, lambda name: ["nea", "satellite"])
    assert offered in [one.text for one in found]
    one = next(one for one in found if one.text == offered)
    assert text[one.start :].strip("'").lower() in one.text.lower()
