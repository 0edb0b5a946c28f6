"""Public functions and classes say what they take, give and raise, in NumPy's style."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "deepstreaks_dask"
TOLD_ELSEWHERE = {
    "cli.py": "each option has its help",
    "sequences/commands.py": "each option has its help",
    "apps": "routes are described by their types, at /api/v1/openapi.json; the rest belongs to the pages",
    "migrations": "Alembic calls them",
}
KERAS = {"call", "build", "compute_mask", "compute_output_shape", "get_config"}
"""Methods of layers, which Keras defines."""

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
MODULES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if not any(path.relative_to(PACKAGE).as_posix().startswith(name) for name in TOLD_ELSEWHERE)
)


def sections(node):
    """Give the text of each section of a doc-string by its heading."""
    parts = re.split(r"^(\w+)\n-{3,}\n", ast.get_docstring(node) or "", flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def named(text):
    """Give the names that a section of parameters or attributes describes."""
    heads = re.findall(r"^(\S.*)$", text, re.M)
    return {name.strip(" *") for head in heads for name in head.split(" : ")[0].split(",")}


def parameters(function):
    given = function.args
    every = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return [one.arg for one in every if one is not None and one.arg not in ("self", "cls")]


def own(function):
    """Walk through a function, but not into functions within it."""
    todo = list(function.body)
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, (*FUNCTION, ast.Lambda, ast.ClassDef)):
            todo += ast.iter_child_nodes(node)


def wrong_of_function(function, method):
    if method and function.name in KERAS:
        return
    said, takes = sections(function), parameters(function)
    nodes = list(own(function))
    raises = any(isinstance(node, ast.Raise) and node.exc is not None for node in nodes)
    if raises and "Raises" not in said:
        yield "raises, and has no section 'Raises'"
    if "property" in ast.unparse(ast.Tuple(function.decorator_list)):
        return
    if not said and len(takes) < 2:
        return  # one line tells
    if takes and (missing := sorted(set(takes) - named(said.get("Parameters", "")))):
        yield f"does not say what it takes: {', '.join(missing)}"
    gives = any(isinstance(node, ast.Return) and node.value is not None for node in nodes)
    if gives and "Returns" not in said:
        yield "has no section 'Returns'"
    if any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in nodes) and "Yields" not in said:
        yield "has no section 'Yields'"


def wrong_of_class(node):
    said = sections(node)
    for function in node.body:
        if isinstance(function, FUNCTION) and function.name == "__init__":
            takes = set(parameters(function))
            if missing := sorted(takes - named(said.get("Parameters", ""))):
                yield f"does not say what it takes: {', '.join(missing)}"
    if "dataclass" in ast.unparse(ast.Tuple(node.decorator_list)) and "Attributes" in said:
        fields = {one.target.id for one in node.body if isinstance(one, ast.AnnAssign)}
        fields = {name for name in fields if not name.startswith("_")}
        if missing := sorted(fields - named(said["Attributes"])):
            yield f"does not say what it holds: {', '.join(missing)}"


def public(node, within=""):
    for child in node.body:
        if isinstance(child, (*FUNCTION, ast.ClassDef)) and not child.name.startswith("_"):
            yield f"{within}{child.name}", child, bool(within)
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{within}{child.name}.")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_public_functions_say_what_they_take_give_and_raise(path):
    wrong = []
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for name, node, method in public(tree):
        assert ast.get_docstring(node), name
        found = (
            wrong_of_class(node)
            if isinstance(node, ast.ClassDef)
            else wrong_of_function(node, method)
        )
        wrong += [f"{name} {what}" for what in found]
    assert not wrong, "\n".join(wrong)


def test_what_is_told_elsewhere_is_there():
    assert all((PACKAGE / name).exists() for name in TOLD_ELSEWHERE)
