import re
import sys
import tomllib
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import _registry

from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.utils.optional import (
    EXTRAS,
    MissingExtraError,
    extras_named,
    missing_extra,
)

GROUPS = {"all", "docs", "notebooks", "sweep", "test"}
"""Extras that no line names: they are made of others, or for developers."""

OTHERWISE = {"argon2_cffi": {"argon2"}, "fastapi": {"fastapi", "starlette"}, "tensorflow": set()}
"""What is imported of a package that has another name, brings a second one, or is in the core already."""
OTHERWISE["requests"] = {"requests", "urllib3"}


def test_map_equals_pyproject():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    wanted = {}
    for extra in sorted(extras.keys() - GROUPS):
        for requirement in extras[extra]:
            name = re.match(r"[A-Za-z0-9-]+", requirement)[0].replace("-", "_")
            for module in OTHERWISE.get(name, {name}):
                wanted[module] = (*wanted.get(module, ()), extra)
    assert wanted == EXTRAS


@pytest.mark.parametrize(
    ("name", "extras"), [("photutils", "sequences"), ("sqlalchemy", "review,watch")]
)
def test_missing_package_becomes_one_line(monkeypatch, name, extras):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DeepStreaksError) as caught, extras_named():
        __import__(name)
    assert str(caught.value) == (
        f"this needs {name}, which is not installed: pip install 'deepstreaks-dask[{extras}]'"
    )
    assert caught.value.name == name
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_fsspec_says_it_in_its_own_words_first(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(MissingExtraError, match=r"needs s3fs.*\[cluster\]"), extras_named():
        fsspec.filesystem("s3")


@extras_named()
def fetch(name):
    return __import__(name)


def test_decorated_function_gives_what_it_found():
    assert fetch("json").loads("1") == 1


@pytest.mark.parametrize("name", ["no_such_package", "sqlalchemy.no_such_module"])
def test_other_missing_modules_stay_what_they_are(name):
    with pytest.raises(ModuleNotFoundError) as caught:
        fetch(name)
    assert not isinstance(caught.value, DeepStreaksError)


def test_line_is_made_once():
    with pytest.raises(MissingExtraError) as caught, extras_named(), extras_named():
        raise ModuleNotFoundError("No module named 'fastavro'", name="fastavro")
    assert missing_extra(caught.value) is caught.value


@pytest.mark.parametrize("error", [None, ValueError("photutils"), ImportError("photutils")])
def test_nothing_else_names_an_extra(error):
    assert missing_extra(error) is None
