"""Users, verdicts and labels, on SQLite and PostgreSQL."""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import sqlalchemy as sa

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.labels import with_labels
from deepstreaks_dask.review import accounts, schema, transactions, verdicts
from deepstreaks_dask.review.database import Review, archive_key, default_url
from deepstreaks_dask.review.people import RefusedError, ReviewError, WaitError

PASSWORD = "correct horse battery"


@pytest.fixture
def review(database, cheap_passwords):
    """A database with four people."""
    made = Review(database)
    made.accounts.add_user("root", PASSWORD, "administrator")
    for name in ("anna", "ben"):
        made.accounts.add_user(name, PASSWORD)
    made.accounts.add_user("vera", PASSWORD, "viewer")
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is moved: ``clock[0] += 5``."""
    now = [time.time()]
    for module in (accounts, transactions, verdicts):
        monkeypatch.setattr(module, "current_time", lambda: now[0])
    return now


def test_what_people_say_is_kept_apart_and_undone(review):
    review.verdicts.judge("a", "c1", "anna", verdict="keep")
    review.verdicts.judge("a", "c1", "anna", length="short", note="faint")
    review.verdicts.judge("a", "c1", "ben", verdict="ditch")
    review.verdicts.judge("other", "c1", "ben", verdict="bogus")
    said = {v.who: v for v in review.verdicts.current("a", "c1")}
    assert (said["anna"].verdict, said["anna"].length, said["anna"].note) == (
        "keep",
        "short",
        "faint",
    )
    assert said["ben"].verdict == "ditch"
    assert review.verdicts.undo("a", "anna").length == ""
    assert review.verdicts.undo("a", "anna").verdict == ""
    assert [v.who for v in review.verdicts.current("a")] == ["ben"]
    with pytest.raises(ReviewError, match="nothing to undo"):
        review.verdicts.undo("a", "anna")
    assert review.verdicts.current("other", "c1")[0].verdict == "bogus"


def test_disagreements_get_no_label(review):
    for who, verdict in (("anna", "keep"), ("ben", "bogus")):
        review.verdicts.judge("a", "c1", who, verdict=verdict)
    review.verdicts.judge("a", "c2", "anna", verdict="keep", length="short")
    review.verdicts.judge("a", "c2", "ben", verdict="keep")
    review.verdicts.judge("a", "c3", "anna", verdict="unsure")
    review.verdicts.judge("a", "c4", "anna", verdict="keep", length="long")
    labels = review.verdicts.labels("a")
    columns = ["label_rb", "label_sl", "label_kd", "label_os", "people", "disputed"]
    assert labels.loc["c1", columns].tolist() == [-1, -1, -1, -1, 2, 3]
    assert labels.loc["c2", columns].tolist() == [1, 1, 1, 1, 2, 0]
    assert labels.loc["c4", columns].tolist() == [1, 0, 1, 0, 1, 0]
    assert "c3" not in labels.index
    found = review.verdicts.disagreements("a")
    assert found["family"].tolist() == ["kd", "os", "rb"]
    assert found["says"][0] == {"anna": "keep", "ben": "bogus"}
    review.verdicts.judge("a", "c1", "ben", verdict="keep")
    assert review.verdicts.disagreements("a").empty
    assert review.verdicts.labels("a").loc["c1", "label_kd"] == 1


def test_no_verdicts_are_no_labels(review):
    assert review.verdicts.labels("a").empty
    assert review.verdicts.disagreements("a").empty


def test_labels_lie_over_the_archives(review, archive):
    key = archive_key(archive)
    review.verdicts.judge(key, "c3", "anna", verdict="keep")
    review.verdicts.judge(key, "c5", "anna", verdict="bogus")
    review.verdicts.judge(key, "gone", "anna", verdict="bogus")
    labelled = with_labels(open_archive(archive), review.verdicts.labels(key))
    values = labelled["label_rb"].values
    assert (values[3], values[5]) == (1, 0)
    assert (np.delete(values, [3, 5]) == -1).all()
    assert labelled["label_kd"].values[3] == 1


def test_roles(review):
    with pytest.raises(RefusedError, match="viewer"):
        review.verdicts.judge("a", "c1", "vera", verdict="keep")
    with pytest.raises(RefusedError):
        review.verdicts.undo("a", "vera")
    review.accounts.change_user("vera", role="reviewer")
    review.verdicts.judge("a", "c1", "vera", verdict="keep")


@pytest.mark.parametrize(
    "wrong", [{"verdict": "maybe"}, {"length": "wide"}, {"note": "x" * 2001}, {"note": "a\0b"}]
)
def test_what_is_no_verdict_is_refused(review, wrong):
    with pytest.raises(ReviewError):
        review.verdicts.judge("a", "c1", "anna", **wrong)
    assert review.verdicts.current("a") == []


@pytest.mark.parametrize(
    ("name", "password", "role", "words"),
    [
        ("anna", PASSWORD, "viewer", "already"),
        ("Bad Name", PASSWORD, "viewer", "small letters"),
        ("carl", "short", "viewer", "12 to 256"),
        ("carl", "aaaaaaaaaaaaaa", "viewer", "easy to guess"),
        ("carl", PASSWORD, "king", "choose one of"),
    ],
)
def test_users_that_cannot_be(review, name, password, role, words):
    with pytest.raises(ReviewError, match=words):
        review.accounts.add_user(name, password, role)


def test_sessions_open_end_and_expire(review, clock):
    secret = review.accounts.log_in("Anna ", PASSWORD)
    assert review.accounts.person_of(secret).name == "anna"
    assert review.accounts.person_of("nobody's") is None
    review.accounts.log_out(secret)
    assert review.accounts.person_of(secret) is None
    secret = review.accounts.log_in("anna", PASSWORD)
    for _ in range(11):
        clock[0] += 3600
        assert review.accounts.person_of(secret) is not None
    clock[0] += 3601
    assert review.accounts.person_of(secret) is None  # twelve hours
    secret = review.accounts.log_in("anna", PASSWORD)
    clock[0] += 7201
    assert review.accounts.person_of(secret) is None  # two hours idle


@pytest.mark.parametrize(
    "change", [{"active": False}, {"password": "another good one"}, {"role": "viewer"}]
)
def test_changes_end_open_sessions(review, change):
    secret, token = (
        review.accounts.log_in("anna", PASSWORD),
        review.accounts.add_token("anna", "script"),
    )
    review.accounts.change_user("anna", **change)
    assert review.accounts.person_of(secret) is None
    assert (review.accounts.person_of_token(token) is None) == (change == {"active": False})


def test_disabled_users_cannot_log_in(review):
    review.accounts.change_user("anna", active=False)
    with pytest.raises(RefusedError, match="do not belong together"):
        review.accounts.log_in("anna", PASSWORD)


def test_the_last_administrator_stays(review):
    for change in ({"active": False}, {"role": "viewer"}):
        with pytest.raises(ReviewError, match="last administrator"):
            review.accounts.change_user("root", **change)
    review.accounts.change_user("anna", role="administrator")
    review.accounts.change_user("root", active=False)


def test_guessing_is_slowed_for_a_name_known_or_not(review, clock):
    for name in ("anna", "nobody"):
        for _ in range(5):
            with pytest.raises(RefusedError, match="do not belong together"):
                review.accounts.log_in(name, "wrong password", address=name)
        with pytest.raises(WaitError):
            review.accounts.log_in(name, PASSWORD, address=f"elsewhere {name}")
    clock[0] += 3
    review.accounts.log_in("anna", PASSWORD, address="elsewhere")
    for _ in range(5):  # a success forgets the failures
        with pytest.raises(RefusedError, match="do not belong together"):
            review.accounts.log_in("anna", "wrong password", address="x")


def test_guessing_is_slowed_for_an_address(review, clock):
    for k in range(20):
        with pytest.raises(RefusedError, match="do not belong together"):
            review.accounts.log_in(f"user{k}", "wrong password", address="10.0.0.1")
    with pytest.raises(WaitError):
        review.accounts.log_in("anna", PASSWORD, address="10.0.0.1")
    review.accounts.log_in("anna", PASSWORD, address="10.0.0.2")
    clock[0] += 3
    review.accounts.log_in("anna", PASSWORD, address="10.0.0.1")


def test_unknown_users_cost_a_password_check_too(review, monkeypatch):
    checked = []
    verify = accounts.verify_password
    monkeypatch.setattr(
        accounts, "verify_password", lambda *a: checked.append(a[0][:9]) or verify(*a)
    )
    for name in ("anna", "nobody", "a\0b"):
        with pytest.raises(RefusedError):
            review.accounts.log_in(name, "wrong password")
    assert checked == ["$argon2id"] * 3


def test_secrets_are_not_in_the_database(review):
    secrets = [
        review.accounts.log_in("anna", PASSWORD),
        review.accounts.add_token("anna", "script"),
        PASSWORD,
    ]
    with review.database.engine.connect() as connection:
        stored = "".join(
            str(row)
            for table in schema.METADATA.sorted_tables
            for row in connection.execute(sa.select(table))
        )
    assert "anna" in stored
    assert not any(secret in stored for secret in secrets)


def test_tokens(review):
    token = review.accounts.add_token("anna", "script")
    assert review.accounts.person_of_token(token).name == "anna"
    ((one),) = review.accounts.tokens("anna")
    with pytest.raises(ReviewError):
        review.accounts.revoke_token("ben", one["id"])
    review.accounts.revoke_token("anna", one["id"])
    assert review.accounts.person_of_token(token) is None
    assert review.accounts.tokens("anna") == []


def test_the_log_says_who_did_what(review):
    review.accounts.change_user("ben", active=False, by="root")
    with pytest.raises(RefusedError):
        review.accounts.log_in("ben", PASSWORD, address="10.0.0.9")
    newest, before = review.database.audit_log(limit=2)
    assert (newest["who"], newest["what"], newest["address"]) == (
        "ben",
        "log-in refused",
        "10.0.0.9",
    )
    assert (before["who"], before["what"], before["detail"]) == ("root", "user disabled", "ben")


def test_twenty_at_once_lose_nothing(review):
    names = [f"user{k}" for k in range(20)]
    for name in names:
        review.accounts.add_user(name, PASSWORD)

    def work(name):
        for k in range(10):
            review.verdicts.judge("a", f"c{k}", name, verdict="keep", note=name)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(work, names))
    said = review.verdicts.current("a")
    assert len(said) == 200
    assert all(v.note == v.who for v in said)


def _at_once(*work):
    """Call functions in as many threads that begin together; give what each returned or raised."""
    start = threading.Barrier(len(work))

    def one(call):
        start.wait()
        try:
            return call()
        except DeepStreaksError as error:
            return error

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(one, work))


def test_what_one_says_in_one_breath_is_all_kept(review):
    parts = [{"verdict": "keep"}, {"length": "short"}, {"note": "faint"}, {"marked": True}]
    for k in range(10):
        _at_once(*(partial(review.verdicts.judge, "a", f"c{k}", "anna", **part) for part in parts))
    for said in review.verdicts.current("a"):
        assert (said.verdict, said.length, said.note, said.marked) == (
            "keep",
            "short",
            "faint",
            True,
        )


def test_guessing_at_once_gains_nothing(review, clock):
    guesses = [
        partial(review.accounts.log_in, "anna", f"wrong {k}", address=f"10.0.0.{k}")
        for k in range(12)
    ]
    answers = _at_once(*guesses)
    assert sum(isinstance(answer, WaitError) for answer in answers) == 7


def test_two_administrators_cannot_disable_each_other(review):
    review.accounts.add_user("boss", PASSWORD, "administrator")
    for _ in range(5):
        answers = _at_once(
            partial(review.accounts.change_user, "root", active=False),
            partial(review.accounts.change_user, "boss", active=False),
        )
        assert sum(isinstance(answer, ReviewError) for answer in answers) == 1
        for name in ("root", "boss"):
            review.accounts.change_user(name, active=True)


def _judge_until_killed(database, pipe):
    review = Review(database)
    for k in range(10_000):
        review.verdicts.judge("a", f"c{k}", "anna", verdict="keep")
        pipe.send(k)


def test_a_kill_loses_no_verdict_that_was_acknowledged(review, database):
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_judge_until_killed, args=(database, there)
    )
    process.start()
    while here.recv() < 30:
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    there.close()
    last = 30
    while here.poll():
        try:
            last = here.recv()
        except EOFError:
            break
    kept = {v.cutout for v in Review(database).verdicts.current("a")}
    assert kept >= {f"c{k}" for k in range(last + 1)}


def test_errors_name_no_password():
    with pytest.raises(ReviewError) as caught:
        Review("postgresql://me:hunter2@127.0.0.1:1/none")
    assert "hunter2" not in str(caught.value)


def test_default_database(tmp_path):
    assert default_url(tmp_path / "a.zarr") == f"sqlite:///{tmp_path}/a.zarr.review.sqlite"
    with pytest.raises(ReviewError, match="--database"):
        default_url("memory://a.zarr")
