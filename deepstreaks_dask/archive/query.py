"""The filter language: ``night >= 20260101 and rb > 0.9 and not kd_vgg6 < 0.5 and kind == "nea"``.

The same in the review dashboard, the HTTP API and on the command line. It has names of columns, numbers, texts in
quotes, ``== != < <= > >=`` (chained too: ``0.5 < rb < 0.9``), ``in`` a list or, for texts, a column
(``"sat" in kind``), ``and or not`` and parentheses. Python's own parser reads it and a white list of its nodes
is let through: nothing is ever called or looked up but a column. A value that is not known (NaN) meets no comparison.
"""

from __future__ import annotations

import ast
import keyword
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from deepstreaks_dask.errors import DeepStreaksError, did_you_mean

Kind = Literal["number", "text", "truth"]

MAX_FILTER_LENGTH = 2000
"""Characters of a filter at most."""

_MAX_NODES = 200
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}
_KEYWORDS = ("and", "or", "not", "in", "True", "False")
_UNFINISHED_MESSAGE = "something is missing at the end"
_OPERATORS = ("==", "!=", ">=", "<=", ">", "<", "in")


class FilterError(DeepStreaksError):
    """A filter that cannot be understood.

    Parameters
    ----------
    words : str
        What is wrong.
    text : str
        The filter.
    start, end : int
        Which characters of it are at fault; ``end`` may be left out.

    Attributes
    ----------
    start, end : int
        Which characters of the filter are at fault, counted from 0.
    """

    def __init__(self, words: str, text: str, start: int, end: int | None = None) -> None:
        self.start = min(max(start, 0), len(text))
        self.end = max(self.start + 1, end or 0)
        self.words = words
        near = text[self.start : self.start + 20]
        place = f"at character {self.start + 1}" + (f", {near!r}" if near.strip() else "")
        super().__init__(f"filter, {place}: {words}")


@dataclass(frozen=True)
class Filter:
    """A filter that was understood: call it with columns.

    Attributes
    ----------
    text : str
        As it was written.
    names : frozenset of str
        The columns that it needs.
    """

    text: str
    names: frozenset[str]
    _tree: ast.expr | None
    _kinds: Mapping[str, Kind]

    def __call__(self, columns: Mapping[str, Any], rows: int) -> np.ndarray:
        """Say of each row whether it passes.

        Parameters
        ----------
        columns : mapping of str to array-like
            Those in ``names`` at least, each of length ``rows``.
        rows : int
            How many there are.

        Returns
        -------
        ndarray
            bool ``(rows,)``
        """
        if self._tree is None:
            return np.ones(rows, bool)
        return np.broadcast_to(self._passes(self._tree, columns), rows)

    def _passes(self, node: ast.expr, columns: Mapping[str, Any]) -> np.ndarray:
        if isinstance(node, ast.BoolOp):
            parts = [self._passes(value, columns) for value in node.values]
            join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            return join.reduce(parts) if len({p.shape for p in parts}) == 1 else _join(join, parts)
        if isinstance(node, ast.UnaryOp):
            return ~self._passes(node.operand, columns)
        if isinstance(node, ast.Compare):
            values = [node.left, *node.comparators]
            steps = zip(values, node.ops, values[1:], strict=False)
            return _join(np.logical_and, [self._compare(a, op, b, columns) for a, op, b in steps])
        return np.asarray(self._value(node, columns), bool)

    def _compare(
        self, left: ast.expr, op: ast.cmpop, right: ast.expr, columns: Mapping[str, Any]
    ) -> np.ndarray:
        if isinstance(op, ast.In | ast.NotIn):
            if isinstance(right, ast.Name):  # a text in a column of texts
                series = pd.Series(np.asarray(columns[right.id], dtype=object))
                found = series.str.contains(str(self._value(left, columns)), regex=False).to_numpy(
                    bool
                )
            else:
                assert isinstance(right, ast.List | ast.Tuple)
                wanted = [self._value(item, columns) for item in right.elts]
                found = pd.Series(np.atleast_1d(self._value(left, columns))).isin(wanted).to_numpy()
            return ~found if isinstance(op, ast.NotIn) else found
        a, b = self._value(left, columns), self._value(right, columns)
        with np.errstate(invalid="ignore"):
            found = np.asarray(_COMPARISONS[type(op)](a, b), bool)
        if isinstance(op, ast.NotEq):  # what is not known differs from nothing
            for value in (a, b):
                if np.asarray(value).dtype.kind == "f":
                    found = found & ~np.isnan(value)
        return found

    def _value(self, node: ast.expr, columns: Mapping[str, Any]) -> Any:
        if isinstance(node, ast.Name):
            kind = self._kinds[node.id]
            if kind == "number":
                # scores are float32: 0.9 must mean to them what it means to a threshold
                return np.asarray(columns[node.id])
            return np.asarray(columns[node.id], dtype=bool if kind == "truth" else object)
        if isinstance(node, ast.UnaryOp):  # a negative number
            return -self._value(node.operand, columns)
        assert isinstance(node, ast.Constant)
        return node.value


def parse(text: str, kinds: Mapping[str, Kind]) -> Filter:
    """Understand a filter, or say where it is wrong.

    Parameters
    ----------
    text : str
        The filter; an empty one lets everything pass.
    kinds : mapping of str to str
        Columns there are, and whether each holds numbers, texts or truths.

    Returns
    -------
    Filter
        To be called with columns.

    Raises
    ------
    FilterError
        Which names the place.
    """
    if len(text) > MAX_FILTER_LENGTH:
        raise FilterError(
            f"longer than {MAX_FILTER_LENGTH} characters: shorten it", text, MAX_FILTER_LENGTH
        )
    if not text.strip():
        return Filter(text, frozenset(), None, kinds)
    flat = re.sub(r"\s", " ", text)  # lines mean nothing here
    if (odd := re.search(r"[^\x20-\x7e]", re.sub(r"'[^']*'|\"[^\"]*\"", _blank, flat))) is not None:
        raise FilterError(f"{odd.group()!r} has no meaning outside quotes", text, odd.start())
    lead = len(flat) - len(flat.lstrip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # "1and" and the like are deprecated: refuse them
            tree = ast.parse(flat.strip(), mode="eval").body
    except (SyntaxError, SyntaxWarning, DeprecationWarning, ValueError) as error:
        at = (getattr(error, "offset", 0) or 1) - 1
        before = flat.strip().encode()[:at].decode(errors="ignore")  # offsets may count bytes
        words = _plainly(flat, str(getattr(error, "msg", error)))
        place = len(flat.rstrip()) if words == _UNFINISHED_MESSAGE else lead + len(before)
        raise FilterError(words, text, place) from None
    except (RecursionError, MemoryError):
        raise FilterError("nested too deeply: make it simpler", text, 0) from None
    if sum(1 for _ in ast.walk(tree)) > _MAX_NODES * 4:
        raise FilterError("too long: make it simpler", text, 0)
    names: set[str] = set()
    _Check(text, flat.strip(), lead, kinds, names).truth(tree)
    return Filter(text, frozenset(names), tree, dict(kinds))


@dataclass(frozen=True)
class Completion:
    """One way to go on: put ``text`` in the place of characters ``start`` to the cursor."""

    text: str
    start: int
    what: str


def complete(
    text: str,
    position: int,
    kinds: Mapping[str, Kind],
    values: Callable[[str], list[str]] = lambda name: [],
) -> list[Completion]:
    """Say how a filter could go on.

    Parameters
    ----------
    text : str
        As far as it is written.
    position : int
        Of the cursor.
    kinds : mapping of str to str
        As :func:`parse` takes it.
    values : callable
        Gives the values of a column that are worth offering.

    Returns
    -------
    list of Completion
        At most 30: names where a name may stand, values after ``==``, operators after a name.
    """
    before = text[: max(0, min(position, len(text)))]
    match = re.search(r"""(["']?[\w.-]*)$""", before)
    word = match.group(1) if match else ""
    start = len(before) - len(word)
    head = before[:start].rstrip()
    compared = re.search(r"([A-Za-z_]\w*)\s*(?:==|!=|<=|>=|<|>|\bin\s*[\[(][^\])]*)$", head)
    if compared and compared.group(1) in kinds:
        name = compared.group(1)
        stem = word.strip("\"'").lower()
        shown = [f'"{v}"' if kinds[name] == "text" else v for v in values(name)]
        offered = [(v, f"value of {name}") for v in shown if v.strip('"').lower().startswith(stem)]
    elif head and (re.search(r"[A-Za-z_]\w*$", head) or head[-1:] in "\"')]0123456789"):
        last = re.search(r"(\w+)$", head)
        if last and last.group(1) in ("and", "or", "not"):
            offered = _names(word, kinds)
        elif last and last.group(1) in kinds and not re.search(r"[<>=!]\s*\w+$", head):
            words = ("and", "or") if kinds[last.group(1)] == "truth" else _OPERATORS
            offered = [(w, "") for w in words if w.startswith(word)]
        else:
            offered = [(w, "") for w in ("and", "or") if w.startswith(word)]
    else:
        offered = _names(word, kinds)
    return [Completion(text, start, what) for text, what in offered[:30] if text != word]


def _names(word: str, kinds: Mapping[str, Kind]) -> list[tuple[str, str]]:
    found = [(name, kind) for name, kind in kinds.items() if name.startswith(word)]
    found += [(name, kind) for name, kind in kinds.items() if word and word in name[1:]]
    return [*dict.fromkeys(found), *([("not", "")] if "not".startswith(word) else [])]


class _Check:
    """Walks a tree: lets the language through, and nothing else."""

    def __init__(
        self, text: str, flat: str, lead: int, kinds: Mapping[str, Kind], names: set[str]
    ) -> None:
        self.text, self.flat, self.lead = text, flat.encode(), lead
        self.kinds, self.names = kinds, names

    def fail(self, words: str, node: ast.expr) -> FilterError:
        start, end = (
            self.lead + len(self.flat[:at].decode())
            for at in (node.col_offset, node.end_col_offset or node.col_offset + 1)
        )
        return FilterError(words, self.text, start, end)

    def truth(self, node: ast.expr) -> None:
        if isinstance(node, ast.BoolOp):
            for value in node.values:
                self.truth(value)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            self.truth(node.operand)
        elif isinstance(node, ast.Compare):
            values = [node.left, *node.comparators]
            for left, op, right in zip(values, node.ops, values[1:], strict=False):
                self.compare(left, op, right)
        elif isinstance(node, ast.Name | ast.Constant) and self.kind(node) == "truth":
            pass
        elif isinstance(node, ast.Name):
            raise self.fail(
                f"{node.id!r} holds {self.kind(node)}s: compare it with something", node
            )
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
            raise self.fail("write 'and' and 'or', not '&' and '|'", node)
        else:
            raise self.fail("a comparison is expected, like rb > 0.9", node)

    def compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> None:
        kind = self.kind(left)
        if isinstance(op, ast.In | ast.NotIn):
            if isinstance(right, ast.Name) and self.kind(right) == "text":
                if not isinstance(left, ast.Constant) or kind != "text":
                    raise self.fail('write a text in quotes here, like "sat" in kind', left)
            elif isinstance(right, ast.List | ast.Tuple):
                if isinstance(left, ast.Constant):
                    raise self.fail("name a column here", left)
                for item in right.elts:
                    if isinstance(item, ast.Name) or self.kind(item) != kind:
                        raise self.fail(f"a list of {kind}s is expected", item)
            else:
                raise self.fail('write a list in brackets after "in", like ["g", "r"]', right)
            return
        if type(op) not in _COMPARISONS:
            raise self.fail("'is' has no meaning here: write ==", left)
        if (other := self.kind(right)) != kind:
            raise self.fail(f"a {kind} cannot be compared with a {other}", right)
        if kind == "truth" and not isinstance(op, ast.Eq | ast.NotEq):
            raise self.fail("what is true or false has no order", right)

    def kind(self, node: ast.expr) -> Kind:
        if isinstance(node, ast.Name):
            if node.id not in self.kinds:
                hint = did_you_mean(node.id, self.kinds) or f"there are {_some(self.kinds)}"
                if node.id.lower() in ("true", "false"):
                    hint = f"write {node.id.capitalize()}"
                raise self.fail(f"no column {node.id!r}: {hint.rstrip()}", node)
            self.names.add(node.id)
            return self.kinds[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            if isinstance(node.operand, ast.Constant) and self.kind(node.operand) == "number":
                return "number"
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, bool):
                return "truth"
            if isinstance(node.value, int | float) and abs(node.value) < 1e300:
                return "number"
            if isinstance(node.value, str):
                return "text"
        elif isinstance(node, ast.Call):
            raise self.fail("there are no functions", node)
        raise self.fail("a column, a number or a text in quotes is expected", node)


def _join(join: Any, parts: list[np.ndarray]) -> np.ndarray:
    result = parts[0]
    for part in parts[1:]:
        result = join(result, part)
    return np.asarray(result)


def _blank(match: re.Match[str]) -> str:
    return " " * len(match.group())


def _some(kinds: Mapping[str, Kind]) -> str:
    names = list(kinds)
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "")


def _plainly(text: str, said: str) -> str:
    """Say in this language's words what Python's parser says in its own."""
    if re.search(r"(?<![=!<>])=(?!=)", re.sub(r"'[^']*'|\"[^\"]*\"", _blank, text)):
        return "write == to compare"
    if "unterminated string" in said:
        return "the quote is never closed"
    if "was never closed" in said or "unmatched" in said or "does not match" in said:
        return "parentheses do not match"
    last = text.split()[-1] if text.split() else ""
    if keyword.iskeyword(last) or (last and last[-1] in "<>=!"):
        return _UNFINISHED_MESSAGE
    return "this is no filter: write comparisons like rb > 0.9, joined by and, or, not"
