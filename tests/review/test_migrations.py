"""Databases of every age are brought up to date, and lose nothing on the way."""

import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from deepstreaks_dask.review.database import Review
from deepstreaks_dask.review.migrations import SchemaError
from deepstreaks_dask.review.schema import METADATA

PEOPLE = [
    {"id": 1, "name": "root", "password": "x", "role": "administrator", "active": True},
    {"id": 2, "name": "anna", "password": "x", "role": "reviewer", "active": True},
    {"id": 3, "name": "gone", "password": "x", "role": "reviewer", "active": False},
]


def alembic(connection):
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "deepstreaks_dask.review:migrations")
    return config


def revisions():
    scripts = ScriptDirectory.from_config(alembic(None))
    return [one.revision for one in reversed(list(scripts.walk_revisions()))]


@pytest.fixture
def engine(database):
    engine = sa.create_engine(database)
    yield engine
    engine.dispose()


def fill(connection):
    """Put in what people said, as the tables were then."""
    tables = sa.MetaData()
    tables.reflect(connection)
    users, acts, tokens = (tables.tables[name] for name in ("users", "acts", "tokens"))
    connection.execute(sa.insert(users), [{**one, "created": 1.0} for one in PEOPLE])
    said = [
        {
            "archive": "a",
            "cutout": f"c{k}",
            "user": 2 + k % 2,
            "verdict": ("keep", "ditch", "bogus")[k % 3],
            "length": "",
            "note": "naïve " * (k % 2),
            "marked": k % 5 == 0,
            "at": float(k),
            "undone": k % 7 == 0,
        }
        for k in range(100)
    ]
    connection.execute(sa.insert(acts), said)
    connection.execute(
        sa.insert(tokens),
        [{"user": 2, "name": "script", "hash": "h", "created": 1.0, "revoked": False}],
    )
    return {one["cutout"]: one for one in said if not one["undone"]}


@pytest.mark.parametrize("age", ["before migrations", *revisions()[:-1]])
def test_an_old_database_is_brought_up_to_date(engine, database, age):
    with engine.begin() as connection:
        command.upgrade(alembic(connection), revisions()[0] if age == "before migrations" else age)
        if age == "before migrations":
            connection.execute(sa.text("drop table alembic_version"))
            connection.execute(sa.text("insert into meta values ('schema', '1')"))
        kept = fill(connection)
    review = Review(database)
    assert [one.name for one in review.accounts.users()] == ["anna", "gone", "root"]
    found = review.verdicts.current("a")
    assert len(found) == len(kept)
    for said in found:
        was = kept[said.cutout]
        assert (said.verdict, said.note, said.marked) == (
            was["verdict"],
            was["note"],
            was["marked"],
        )
    assert review.accounts.tokens("anna")[0]["name"] == "script"
    review.verdicts.judge("a", "c200", "anna", verdict="keep")  # numbers go on after the old ones
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert context.get_current_revision() == revisions()[-1]
        assert compare_metadata(context, METADATA) == []


def test_the_scripts_make_what_the_tables_say(engine, database):
    Review(database)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []


def test_a_developers_alembic_finds_nothing_to_add(tmp_path):
    database = f"sqlite:///{tmp_path}/review.sqlite"
    Review(database)
    wanted = [sys.executable, "-m", "alembic", "-x", f"database={database}", "check"]
    done = subprocess.run(wanted, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_newer_database_is_refused_and_left_alone(engine, database):
    Review(database)
    with engine.begin() as connection:
        connection.execute(sa.text("update alembic_version set version_num = '9999'"))
    with pytest.raises(SchemaError, match="schema 9999"):
        Review(database)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("select version_num from alembic_version")) == "9999"


def test_a_step_that_fails_changes_nothing(engine, database, monkeypatch):
    with engine.begin() as connection:
        command.upgrade(alembic(connection), "0001")
        fill(connection)

    def drop_and_fail(config, _):
        connection = config.attributes["connection"]
        connection.execute(sa.text("drop table acts"))
        raise sa.exc.OperationalError("drop", {}, Exception("no more disk"))

    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", drop_and_fail)
        with pytest.raises(Exception, match="no more disk"):
            Review(database)
    assert len(Review(database).verdicts.current("a")) == 85


def test_many_that_start_at_once_make_one_database(database):
    problems = []

    def start():
        try:
            Review(database).close()
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
