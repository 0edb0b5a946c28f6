"""What is public says what it takes, gives and raises, in which shapes and units, and whose method it is."""

import ast
import re
from pathlib import Path

import pytest
import typer
from fastapi import FastAPI

from deepstreaks_dask.apps.server.auth import access_routes
from deepstreaks_dask.apps.server.campaign_api import campaign_routes
from deepstreaks_dask.apps.server.session_api import session_routes
from deepstreaks_dask.apps.server.streak_api import streak_routes
from deepstreaks_dask.apps.server.verdict_api import verdict_routes
from deepstreaks_dask.apps.server.vocabulary_api import vocabulary_routes
from deepstreaks_dask.cli.main import app

PACKAGE = Path(__file__).parents[1] / "deepstreaks_dask"
MODULES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if not path.is_relative_to(PACKAGE / "review/migrations/versions")
)
"""All but the scripts that Alembic runs."""

COMMANDS = {path.relative_to(PACKAGE).as_posix() for path in (PACKAGE / "cli").glob("*.py")} - {
    "cli/quickstart.py"
}
"""Where functions are sub-commands: their options are looked at as the command line has them."""

KERAS = {"call", "build", "compute_mask", "compute_output_shape", "get_config"}
"""Methods of layers, which Keras defines."""

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
ROUTE = re.compile(r"\w+\.(get|post|put|patch|delete)\(")

ARRAY = re.compile(r"\b(ndarray|DataArray|Dataset|DataFrame|Series)\b")
SHAPE = re.compile(
    r"\([\w +]+,\)|\(\w+(?:, (?:\w+|…))+\)|[\w>]\(\w+\)|\b[Rr]ows?\b|\bany (?:one )?shape\b|\bscalar\b"
)
COLUMNS = re.compile(r"``\w+(?:, \w+)+``")
"""What a table holds."""

ELSEWHERE = re.compile(r":(func|meth|class|data|attr|mod):|\bAs for\b")
"""A reference to what tells it, which is looked at itself."""

SIZED = re.compile(r"\b(int|float|ndarray)\b")
UNITS = {
    r"mag|magnitudes?|brightest|faintest|zero_points?|extinction|cloud": r"mag|electron|no unit",
    r"flux|flux_error|sky|light|counts_error|noise|read_noise|saturation": r"electron|count|grey|mag|no unit",
    r"gain": r"electron",
    r"fwhm|seeing|sigma|lengths?|aperture|misalignment|x[01]?|y[01]?|side|trail": r"pixel|arcsec|epochs|no unit",
    r"pixel_scale|pixelScale|radius|rmsRA|rmsDec": r"arcsec|pixel",
    r"ra|dec|angle": r"degree|radian",
    r"jd|mjd|days|period": r"\bdays?\b|Julian",
    r"seconds|seconds_left|timeout|poll|pause|beat|exposure|waiting_since|born": r"\bseconds?\b",
    r"bytes|size": r"byte|pixel|how many",
    r"confidence|share|fpr|tpr": r"0\b.*1|fraction|share|rate",
}
"""What a number is called, and the unit that its description must name."""

PUBLISHED = {
    "export/ades.py",
    "evaluation/active_learning.py",
    "evaluation/calibration.py",
    "scoring/cascade.py",
    "evaluation/model_comparison.py",
    "evaluation/known_objects.py",
    "scoring/decision.py",
    "training/distillation.py",
    "evaluation/decision_metrics.py",
    "evaluation/metrics.py",
    "evaluation/interactive.py",
    "evaluation/drift.py",
    "scoring/ensemble.py",
    "simulation/injection.py",
    "models/architectures/densenet121.py",
    "models/attribution.py",
    "models/sequence/layers.py",
    "models/sequence/rcnn.py",
    "models/sequence/recurrent.py",
    "models/architectures/resnet50.py",
    "models/sequence/taonet.py",
    "models/architectures/vgg6.py",
    "plots/nights.py",
    "readers/alerts.py",
    "readers/crts.py",
    "readers/depot.py",
    "readers/fits.py",
    "readers/images.py",
    "readers/zwickyverse.py",
    "evaluation/threshold_search.py",
    "evaluation/sequence_metrics.py",
    "photometry/features.py",
    "models/sequence/forest.py",
    "photometry/core.py",
    "training/sequences/experiments.py",
    "simulation/camera.py",
    "simulation/sequences.py",
    "simulation/stamps.py",
    "simulation/streaks.py",
    "simulation/surveys.py",
    "simulation/variables.py",
    "training/all_members.py",
    "training/fit.py",
    "training/recipe.py",
    "training/sweeps.py",
    "scoring/triage.py",
}
"""Modules that do what somebody has published, or read what somebody has defined."""

SOURCE = re.compile(
    r"arXiv:\d{4}\.\d{4,5}|(?:et al\.|[A-Z][\w-]+(?: and [A-Z][\w-]+)?),? \(?(?:18|19|20)\d\d\b"
)


def sections(node):
    """Give the text of each section of a doc-string by its heading; what comes before them is ''."""
    first, *parts = re.split(r"^(\w+)\n-{3,}\n", ast.get_docstring(node) or "", flags=re.M)
    return {"": first, **dict(zip(parts[::2], parts[1::2], strict=True))}


def entries(text):
    """Give what a section of parameters or attributes says of each name."""
    found = {}
    for head, body in re.findall(r"^(\S.*)\n((?:[ \t]+.*\n?|\n)*)", f"{text}\n", re.M):
        names, _, kind = head.partition(" : ")
        found |= {name.strip(" *"): f"{kind}\n{body}" for name in names.split(",")}
    return found


def takes(function):
    """Give the annotation of each parameter."""
    given = function.args
    every = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    named = [one for one in every if one is not None and one.arg not in ("self", "cls")]
    return {
        one.arg: ast.unparse(one.annotation) if one.annotation else ""
        for one in named
        if not one.arg.startswith("_")
    }


def own(function):
    """Walk through a function, but not into functions within it."""
    todo = list(function.body)
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, (*FUNCTION, ast.Lambda, ast.ClassDef)):
            todo += ast.iter_child_nodes(node)


def errors():
    """Give the errors of the package with those that they are kinds of."""
    kinds = {"DeepStreaksError": set()}
    classes = [
        node
        for path in MODULES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    ]
    for _ in range(4):  # as deep as they go
        for node in classes:
            bases = {ast.unparse(base) for base in node.bases} & set(kinds)
            if bases:
                kinds[node.name] = bases.union(*(kinds[base] for base in bases))
    return kinds


ERRORS = errors()


def raised(function):
    """Give the names of the package's errors that a function raises itself."""
    for node in own(function):
        if isinstance(node, ast.Raise) and node.exc is not None:
            name = re.match(r"\w+", ast.unparse(node.exc))
            if name and name[0] in ERRORS:
                yield name[0]


def shaped(kind, text):
    """Say whether a text tells the shape of an array or the columns of a table."""
    return SHAPE.search(text) or ("DataFrame" in kind and COLUMNS.search(text))


def wrong_of_values(values, said, without):
    """Look for shapes of arrays, and units of numbers, in what is said of each name or without naming it."""
    for name, kind in values.items():
        text = said.get(name) or without
        if ELSEWHERE.search(text):
            continue
        if ARRAY.search(kind) and not shaped(kind, text):
            yield f"does not say what shape {name} has"
        for names, units in UNITS.items():
            physical = re.fullmatch(names, name) and SIZED.search(kind)
            if physical and not re.search(units, text, re.I):
                yield f"does not say what unit {name} has"


def wrong_of_function(function, method):
    if method and function.name in KERAS:
        return
    said, values = sections(function), takes(function)
    whole = ast.get_docstring(function)
    nodes = list(own(function))
    raises = any(isinstance(node, ast.Raise) and node.exc is not None for node in nodes)
    if raises and "Raises" not in said:
        yield "raises, and has no section 'Raises'"
    for name in set(raised(function)):
        if not any(one in said.get("Raises", "") for one in {name} | ERRORS[name]):
            yield f"does not say that it raises {name}"
    gives = ast.unparse(function.returns) if function.returns else ""
    if ARRAY.search(gives):
        text = said.get("Returns") or said.get("Yields") or said[""]
        if not (shaped(gives, text) or ELSEWHERE.search(text)):
            yield "does not say what shape it gives"
    if "property" in ast.unparse(ast.Tuple(function.decorator_list)):
        return
    described = entries(said.get("Parameters", ""))
    yield from wrong_of_values(values, described, whole)
    if set(said) == {""} and len(values) < 2:
        return  # one line tells
    if missing := sorted(set(values) - set(described)):
        yield f"does not say what it takes: {', '.join(missing)}"
    if (
        any(isinstance(n, ast.Return) and n.value is not None for n in nodes)
        and "Returns" not in said
    ):
        yield "has no section 'Returns'"
    if any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in nodes) and "Yields" not in said:
        yield "has no section 'Yields'"


def wrong_of_class(node):
    said = sections(node)
    whole = ast.get_docstring(node)
    for function in node.body:
        if isinstance(function, FUNCTION) and function.name == "__init__":
            values, described = takes(function), entries(said.get("Parameters", ""))
            if missing := sorted(set(values) - set(described)):
                yield f"does not say what it takes: {', '.join(missing)}"
            yield from wrong_of_values(values, described, whole)
    fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
    values = {one.target.id: ast.unparse(one.annotation) for one in fields}
    values = {name: kind for name, kind in values.items() if not name.startswith("_")}
    described = entries(said.get("Attributes", ""))
    after = zip(node.body, node.body[1:], strict=False)  # a string below a field describes it, too
    described |= {
        one.target.id: text.value.value
        for one, text in after
        if isinstance(one, ast.AnnAssign)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }
    dataclass = "dataclass" in ast.unparse(ast.Tuple(node.decorator_list))
    if dataclass and described and (missing := sorted(set(values) - set(described))):
        yield f"does not say what it holds: {', '.join(missing)}"
    yield from wrong_of_values(values, described, whole)


def public(node, within=""):
    for child in node.body:
        if isinstance(child, (*FUNCTION, ast.ClassDef)) and not child.name.startswith("_"):
            yield f"{within}{child.name}", child, bool(within)
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{within}{child.name}.")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_what_is_public_says_what_it_takes_gives_and_raises(path):
    wrong = []
    tree = ast.parse(path.read_text())
    name = path.relative_to(PACKAGE).as_posix()
    assert ast.get_docstring(tree) or name == "__main__.py"
    for called, node, method in public(tree):
        assert ast.get_docstring(node), called
        if isinstance(node, ast.ClassDef):
            found = wrong_of_class(node)
        elif name in COMMANDS or any(ROUTE.match(ast.unparse(d)) for d in node.decorator_list):
            continue  # see the tests below
        else:
            found = wrong_of_function(node, method)
        wrong += [f"{called} {what}" for what in found]
    if name in PUBLISHED:
        texts = [
            ast.get_docstring(n)
            for n in ast.walk(tree)
            if isinstance(n, (ast.Module, ast.ClassDef, *FUNCTION))
        ]
        if not SOURCE.search(" ".join(" ".join(texts_ for texts_ in texts if texts_).split())):
            wrong.append("no doc-string says whose method it is")
    assert not wrong, "\n".join(wrong)


def options(command, called="deepstreaks"):
    """Give each option and argument of the command line with its command."""
    for name, below in getattr(command, "commands", {}).items():
        yield from options(below, f"{called} {name}")
    if not hasattr(command, "commands"):
        yield from ((called, command, one) for one in command.params if one.name != "help")


def test_every_sub_command_and_option_says_what_it_is_for():
    wrong = []
    for called, command, option in options(typer.main.get_command(app)):
        said = getattr(option, "help", "") or ""
        found = [] if said else ["is not described"]
        found += wrong_of_values({option.name: type(option.default).__name__}, {}, said)
        wrong += [f"{called} {option.name} {what}" for what in found]
        if "Example: deepstreaks" not in (command.help or ""):
            wrong.append(f"{called} has no example")
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_every_route_says_what_it_takes_and_gives():
    site = FastAPI()
    for routes in (
        *(session_routes, streak_routes, verdict_routes),
        *(access_routes, vocabulary_routes, campaign_routes),
    ):
        site.include_router(routes)
    told = site.openapi()
    wrong = []
    for path, methods in told["paths"].items():
        for method, route in methods.items():
            takes = {one["name"]: one for one in route.get("parameters", ())}
            wrong += [f"{path} {name}" for name, one in takes.items() if "description" not in one]
            assert route["description"], path
            assert {"400", "401", "403", "404", "422"} <= set(route["responses"]), (path, method)
    for name, model in told["components"]["schemas"].items():
        if name in ("HTTPValidationError", "ValidationError"):
            continue  # FastAPI's own
        wrong += [
            f"{name}.{k}"
            for k, one in model.get("properties", {"": model}).items()  # a set of words has none
            if "description" not in one
        ]
    assert not wrong, "\n".join(wrong)
