"""The words that Python, the HTTP API and the pages share are in one module and typed nowhere else."""

import ast
import re
from pathlib import Path

import pytest

from deepstreaks_dask import vocabulary as words
from deepstreaks_dask.archive.schema import SCHEMA

PACKAGE = Path(words.__file__).parent
PYTHON = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if path != Path(words.__file__) and not path.is_relative_to(PACKAGE / "review/migrations")
)
PAGES = sorted(path for path in (PACKAGE / "apps/pages").iterdir() if path.suffix in (".js", ".j2"))
GROUPS = {
    "families": set(words.FAMILIES),
    "label columns": set(words.LABEL_COLUMNS),
    "verdicts": set(words.VERDICTS),
    "lengths": set(words.LENGTHS),
    "roles": set(words.ROLES),
    "campaign states": set(words.CampaignState),
}
OF_THE_REVIEW_ALONE = {*words.VERDICTS, *words.ROLES}
"""Words that mean nothing else anywhere in the package."""


def name(path):
    return path.relative_to(PACKAGE).as_posix()


def texts(nodes):
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def lists(tree):
    """Give the words of every literal tuple, list and set, and of every Literal type."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            yield node.lineno, texts(node.elts)


def keys(tree):
    """Give the keys of dictionaries: what a label or a colour is may be said by word."""
    return {
        id(key) for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys if key
    }


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_python_types_no_word_again(path):
    tree = ast.parse(path.read_text())
    for line, found in lists(tree):
        for group, known in GROUPS.items():
            assert len(found & known) < 2, f"line {line} lists {group}: {found & known}"
    of_dictionaries = keys(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in of_dictionaries:
            assert node.value not in OF_THE_REVIEW_ALONE, f"line {node.lineno}: {node.value!r}"


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_pages_type_no_word_again(path):
    text = path.read_text()
    for group, known in GROUPS.items():
        if group == "campaign states" and path.suffix != ".js":
            continue  # classes of shards have some of their names
        for word in known:
            assert not re.search(rf"""(["'`]){re.escape(word)}\1""", text), (group, word)
    for word in OF_THE_REVIEW_ALONE if path.suffix == ".js" else ():
        assert not re.search(rf"\b{word}\s*:", text), word


def test_every_word_has_a_key_of_its_own():
    taken = [word[0] for word in (*words.VERDICTS, *words.LENGTHS)]
    assert len({*taken, "m", "n", "z"}) == len(taken) + 3


def test_roles_include_those_before_them():
    for k, role in enumerate(words.ROLES):
        assert [role.includes(other) for other in words.ROLES] == [
            j <= k for j in range(len(words.ROLES))
        ]


def test_archives_have_the_columns_of_labels():
    assert tuple(n for n in SCHEMA if n.startswith(words.LABEL_PREFIX)) == words.LABEL_COLUMNS
    assert set(words.LABEL_VALUES) == set(words.FAMILIES)
