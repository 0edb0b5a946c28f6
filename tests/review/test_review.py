"""Users, verdicts and labels, on SQLite and PostgreSQL."""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyotp
import pytest
import sqlalchemy as sa

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.labels import with_labels
from deepstreaks_dask.review import (
    accounts,
    attempts,
    schema,
    second_factor,
    tokens,
    transactions,
    verdicts,
)
from deepstreaks_dask.review.database import Review, archive_key, default_url
from deepstreaks_dask.review.people import RefusedError, ReviewError, WaitError
from deepstreaks_dask.vocabulary import Scope

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
    for module in (accounts, second_factor, tokens, transactions, verdicts):
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
    ended = review.accounts.person_of_token(token) is None
    assert ended == (change.keys() <= {"active", "password"})  # a token follows its owner's role


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


def fail(review, name="anna", **given):
    with pytest.raises(RefusedError, match="do not belong together"):
        review.accounts.log_in(name, "wrong password", **given)


def test_guessing_is_slowed_for_a_name_known_or_not(review, clock):
    for name in ("anna", "nobody"):
        for _ in range(5):
            fail(review, name, address="10.0.0.1")
        with pytest.raises(WaitError):
            review.accounts.log_in(name, PASSWORD, address="10.0.0.1")
    clock[0] += 3
    review.accounts.log_in("anna", PASSWORD, address="10.0.0.1")
    for _ in range(5):  # a success forgets the failures
        fail(review, address="10.0.0.1")


def test_a_stranger_cannot_lock_a_person_out(review, clock):
    for k in range(24):
        with pytest.raises(RefusedError):
            review.accounts.log_in("anna", f"wrong {k}", address="203.0.113.7")
    review.accounts.log_in("anna", PASSWORD, address="192.0.2.1")


def test_guesses_from_many_addresses_are_slowed_in_the_end_but_not_where_one_is_known(
    review, clock, monkeypatch
):
    monkeypatch.setitem(attempts.FREE_ATTEMPTS, "user", 12)
    device = review.accounts.remember_device("anna")
    others = review.accounts.remember_device("ben")
    for k in range(12):
        fail(review, address=f"10.0.{k}.1")
    for wrong in ("", others, "guessed", device[:-1], f"{device}x", "é.é"):
        with pytest.raises(WaitError):
            review.accounts.log_in("anna", PASSWORD, address="192.0.2.1", device=wrong)
    review.accounts.log_in("anna", PASSWORD, address="192.0.2.1", device=device)
    for _ in range(5):  # a stolen device is no way around it
        fail(review, address="192.0.2.2", device=device)
    with pytest.raises(WaitError):
        review.accounts.log_in("anna", PASSWORD, device=device)
    assert review.accounts.remember_device("anna", device) == device
    review.accounts.change_user("anna", password="another good one")
    assert review.accounts.remember_device("anna", device) != device


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
        partial(review.accounts.log_in, "anna", f"wrong {k}", address="10.0.0.1") for k in range(12)
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


def test_tokens_expire_and_do_no_more_than_their_scope(review, clock):
    read = review.accounts.add_token("root", "read", scope=Scope.READ, days=1)
    judge = review.accounts.add_token("root", "judge", scope=Scope.JUDGE)
    beyond = review.accounts.add_token("vera", "beyond", scope=Scope.ADMINISTER)
    roles = [review.accounts.person_of_token(one).role for one in (read, judge, beyond)]
    assert roles == ["viewer", "reviewer", "viewer"]
    clock[0] += 86_401
    assert review.accounts.person_of_token(read) is None
    assert [one["name"] for one in review.accounts.tokens("root")] == ["judge"]
    clock[0] += 90 * 86_400
    assert review.accounts.person_of_token(judge) is None
    assert review.accounts.tokens() == []
    for days in (0, -1, 367, float("nan")):
        with pytest.raises(ReviewError, match="give 1 to 366"):
            review.accounts.add_token("root", "x", days=days)


def test_an_administrator_sees_and_revokes_everybodys_tokens(review):
    for name in ("anna", "ben"):
        review.accounts.add_token(name, f"of {name}")
    found = {one["user"]: one for one in review.accounts.tokens()}
    assert {name: one["name"] for name, one in found.items()} == {
        "anna": "of anna",
        "ben": "of ben",
    }
    review.accounts.revoke_token(None, found["anna"]["id"], by="root")
    assert review.accounts.tokens("anna") == []
    newest = review.database.audit_log(limit=1)[0]
    assert (newest["who"], newest["detail"]) == ("root", "of anna of anna")


def test_people_see_and_end_their_own_sessions(review):
    first = review.accounts.log_in("anna", PASSWORD, address="192.0.2.1", agent="Firefox\n")
    second = review.accounts.log_in("anna", PASSWORD)
    review.accounts.log_in("ben", PASSWORD)
    listed = {one["address"]: one for one in review.accounts.sessions("anna", second)}
    assert {address: one["this"] for address, one in listed.items()} == {
        "192.0.2.1": False,
        "": True,
    }
    assert listed["192.0.2.1"]["agent"] == "Firefox"
    for secret in (first, second):
        assert secret not in str(listed)
    revision = review.accounts.revision
    with pytest.raises(ReviewError, match="no such session"):
        review.accounts.end_session("ben", listed["192.0.2.1"]["id"])
    review.accounts.end_session("anna", listed["192.0.2.1"]["id"])
    assert review.accounts.revision != revision
    assert review.accounts.person_of(first) is None
    assert review.accounts.person_of(second) is not None


def test_one_time_passwords(review, clock):
    """Codes are those that pyotp makes of the secret, which is what an authenticator does."""
    secret = review.accounts.begin_factor("anna").secret
    totp = pyotp.TOTP(secret)
    review.accounts.log_in("anna", PASSWORD)  # nothing is confirmed yet
    with pytest.raises(ReviewError, match="not the code"):
        review.accounts.confirm_factor("anna", totp.at(clock[0] + 3600))
    codes = review.accounts.confirm_factor("anna", totp.at(clock[0]))
    assert len(set(codes)) == 10
    with pytest.raises(second_factor.CodeNeededError):
        review.accounts.log_in("anna", PASSWORD)
    for wrong in ("000000", totp.at(clock[0] + 300), "é", codes[0][:-1]):
        with pytest.raises(RefusedError, match="not the code"):
            review.accounts.log_in("anna", PASSWORD, code=wrong, address=f"at {wrong!r}"[:9])
    with pytest.raises(RefusedError, match="not the code"):  # it was used to confirm
        review.accounts.log_in("anna", PASSWORD, code=totp.at(clock[0]), address="x")
    clock[0] += 30
    code = totp.at(clock[0])
    opened = review.accounts.log_in("anna", PASSWORD, code=f"{code[:3]} {code[3:]}")
    assert review.accounts.person_of(opened).second_factor
    with pytest.raises(RefusedError, match="not the code"):
        review.accounts.log_in("anna", PASSWORD, code=code, address="y")
    review.accounts.log_in("anna", PASSWORD, code=codes[0].upper())
    with pytest.raises(RefusedError, match="not the code"):
        review.accounts.log_in("anna", PASSWORD, code=codes[0], address="z")
    assert review.accounts.recovery_codes_left("anna") == 9
    fail(review, code=totp.at(clock[0] + 30))  # a right code helps no wrong password
    review.accounts.change_user("anna", second_factor=False, by="root")
    review.accounts.log_in("anna", PASSWORD)


def test_codes_cannot_be_guessed_for_long(review, clock):
    secret = review.accounts.begin_factor("anna").secret
    review.accounts.confirm_factor("anna", pyotp.TOTP(secret).at(clock[0]))
    for k in range(5):
        with pytest.raises(RefusedError, match="not the code"):
            review.accounts.log_in("anna", PASSWORD, code=f"{k:06}")
    with pytest.raises(WaitError):
        review.accounts.log_in("anna", PASSWORD, code="999999")


@pytest.mark.parametrize(
    "password",
    [
        "password1234",
        "qwertyuiop12",
        "iloveyou1234",
        "123456789012",
        "annaannaanna",
        "deepstreaks12",
    ],
)
def test_stolen_and_trivial_passwords_are_refused(review, password):
    with pytest.raises(ReviewError, match="easy to guess"):
        review.accounts.change_user("anna", password=password)


def test_long_passwords_take_no_long_to_judge(review):
    review.accounts.change_user("anna", password=f"{PASSWORD} and " * 9)


def test_the_audit_is_bounded_and_refusals_push_out_nothing_else(review, monkeypatch):
    monkeypatch.setattr(transactions, "MAX_REFUSAL_ENTRIES", 20)
    monkeypatch.setattr(transactions, "MAX_OTHER_ENTRIES", 30)
    monkeypatch.setattr(transactions, "_PRUNE_EVERY", 1)
    review.accounts.change_user("ben", active=False, by="root")
    with review.database.write() as session:
        for k in range(50):
            transactions.log(session, f"stranger{k}", "log-in refused")
    kept = review.database.audit_log(limit=1000)
    assert [one["what"] for one in kept].count("log-in refused") == 20
    assert kept[0]["who"] == "stranger49"
    assert "user disabled" in [one["what"] for one in kept]
    with review.database.write() as session:
        for _ in range(50):
            transactions.log(session, "root", "exported")
    assert [one["what"] for one in review.database.audit_log(limit=1000)].count("exported") == 30


def test_the_audit_knows_verdicts_and_who_acted_at_the_command_line(review, monkeypatch):
    monkeypatch.setattr(transactions.getpass, "getuser", lambda: "vera")
    review.accounts.change_user("ben", role="viewer")
    review.verdicts.judge("a", "c1", "anna", verdict="keep", length="short")
    review.verdicts.undo("a", "anna")
    undone, judged, changed = review.database.audit_log(limit=3)
    assert (undone["who"], undone["what"], undone["detail"]) == ("anna", "verdict undone", "c1")
    assert (judged["what"], judged["detail"]) == ("verdict", "c1: keep, short")
    assert (changed["who"], changed["address"][:7]) == ("cli", "vera on")


CHARACTERS = [
    "q?x=1",
    "q?x=2",
    "a#b",
    "a%20b",
    "a b",
    "a%3Fb",
    "ä'\";--",
    "a&b=c",
    "a+b",
    "a@b:c",
    "日本",
]


def test_archives_whose_paths_differ_have_databases_that_differ(tmp_path, cheap_passwords):
    for k, name in enumerate(CHARACTERS):
        made = Review(default_url(tmp_path / f"{name}.zarr"))
        made.accounts.add_user(f"user{k}", PASSWORD)
        assert [one.name for one in made.accounts.users()] == [f"user{k}"]
        assert (tmp_path / f"{name}.zarr.review.sqlite").exists()
        made.close()
    assert len(list(tmp_path.glob("*.sqlite"))) == len(CHARACTERS)


def test_nobody_else_can_read_a_database(tmp_path, cheap_passwords):
    path = tmp_path / "a.zarr.review.sqlite"
    before = os.umask(0)
    try:
        path.touch(0o666)  # as an older version left it
        made = Review(default_url(tmp_path / "a.zarr"))
        made.accounts.add_user("anna", PASSWORD)
        modes = {one.name: one.stat().st_mode & 0o777 for one in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert len(modes) == 3
    assert set(modes.values()) == {0o600}
    made.close()
