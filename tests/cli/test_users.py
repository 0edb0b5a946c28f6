"""Users from the command line."""

import json
import sys

import pytest
from typer.testing import CliRunner

from deepstreaks_dask.cli import main as cli
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.review.database import Review, default_url

PASSWORD = "correct horse battery"


@pytest.fixture
def users(archive, cheap_passwords):
    """Run ``deepstreaks users`` on an archive's database; a mistake is raised as it is."""

    def run(*arguments, typed="", where=("--archive", str(archive))):
        done = CliRunner().invoke(cli.app, ["users", *arguments, *where], input=typed)
        if isinstance(done.exception, DeepStreaksError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    return run


def test_users_are_added_listed_disabled_and_given_passwords(users, archive):
    said = users("add", "vera", "--role", "administrator", typed=f"{PASSWORD}\n")
    assert said == "vera was added: administrator\n"
    assert users("add", "anna", typed=PASSWORD) == "anna was added: reviewer\n"
    listed = json.loads(users("list", "--json"))
    assert [(one["name"], one["role"], one["active"]) for one in listed] == [
        ("anna", "reviewer", True),
        ("vera", "administrator", True),
    ]
    assert "vera" in users("list")
    review = Review(default_url(archive))
    secret = review.accounts.log_in("anna", PASSWORD)
    assert users("disable", "anna") == "anna is disabled\n"
    assert review.accounts.person_of(secret) is None
    assert users("disable", "anna", "--undo") == "anna is enabled\n"
    users("password", "anna", typed="another good one\n")
    assert review.accounts.log_in("anna", "another good one")
    assert [line["who"] for line in review.database.audit_log()].count("cli") == 5
    for words in (said, users("list"), users("list", "--json")):
        assert PASSWORD not in words
        assert "argon2" not in words


@pytest.mark.parametrize(
    ("arguments", "typed", "words"),
    [
        (["add", "vera"], "short\n", "12 to 256"),
        (["add", "vera"], "", "12 to 256"),
        (["add", "Vera V"], PASSWORD, "small letters"),
        (["add", "vera", "--role", "king"], PASSWORD, "choose one of viewer, reviewer"),
        (["add", "root"], PASSWORD, "already"),
        (["disable", "rot"], "", "did you mean 'root'"),
        (["disable", "root"], "", "last administrator"),
        (["password", "nobody"], PASSWORD, "no user 'nobody'"),
    ],
)
def test_mistakes_are_named(users, arguments, typed, words):
    users("add", "root", "--role", "administrator", typed=PASSWORD)
    with pytest.raises(DeepStreaksError, match=words):
        users(*arguments, typed=typed)


def test_a_mistyped_archive_makes_no_database(users, tmp_path):
    wrong = tmp_path / "wrong.zarr"
    with pytest.raises(DeepStreaksError, match="no archive"):
        users("list", where=("--archive", str(wrong)))
    assert not list(tmp_path.glob("wrong*"))
    with pytest.raises(DeepStreaksError, match="whose users"):
        users("list", where=())


def test_a_database_by_its_url(users, database):
    where = ("--database", database)
    users("add", "vera", "--role", "administrator", typed=PASSWORD, where=where)
    assert [one["name"] for one in json.loads(users("list", "--json", where=where))] == ["vera"]


def test_a_mistake_is_one_line(archive, monkeypatch, capfd):
    arguments = ["deepstreaks", "users", "disable", "nobody", "--archive", str(archive)]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setenv("DEEPSTREAKS_DEBUG", "1")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capfd.readouterr().err == "deepstreaks: no user 'nobody'\n"
