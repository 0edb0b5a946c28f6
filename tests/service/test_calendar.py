"""The calendar of nights: none is lost, gaps are named, old states are carried over."""

import json
import shutil
import sqlite3
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import write_run
from service.conftest import (
    CUTOUTS,
    NIGHT,
    TARBALLS,
    Passes,
    all_plausible,
    assert_whole,
    log,
    opened,
)
from service.test_channels import Flaky
from typer.testing import CliRunner

from deepstreaks_dask.archive.corrections import retract
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import DeepStreaksError, DepotError
from deepstreaks_dask.scoring.runs import Remaining, Run, open_run
from deepstreaks_dask.service import credentials as secrets
from deepstreaks_dask.service import monitor as monitor_module
from deepstreaks_dask.service.depots import Remote
from deepstreaks_dask.service.monitor import Monitor
from deepstreaks_dask.service.night_calendar import (
    COMPLETE,
    EXPECTED,
    GIVEN_UP,
    SCORED,
    SEEN,
    Calendar,
)
from deepstreaks_dask.service.nights import nights_between
from deepstreaks_dask.service.scorer import Scorer
from deepstreaks_dask.service.service import watch
from deepstreaks_dask.service.state import DONE, Ledger, Turn
from deepstreaks_dask.simulation.nights import Night
from deepstreaks_dask.simulation.products import write_depot

ALWAYS = nights_between(None, None)


class EmptyDepot:
    """Has no files; remembers the nights that it was asked for, and fails for some."""

    def __init__(self, *fails):
        self.fails, self.asked = fails, []

    def list(self, night):
        self.asked.append(night)
        if night in self.fails:
            raise DepotError("no")
        return []


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(tmp_path / "watch.sqlite")
    yield made
    made.close()


def states(settings):
    ledger = Ledger(settings.state / "watch.sqlite")
    found = {row["night"]: row["state"] for row in ledger.calendar.rows()}
    ledger.close()
    return found


def look_always(depot, settings, passes=1, score=all_plausible):
    return watch(depot, settings, score, ALWAYS, stop=Passes(passes))


def test_after_a_weeks_outage_every_night_is_looked_at_tonight_first(settings, at):
    depot = EmptyDepot()
    look_always(depot, settings)
    assert depot.asked == [20260120, 20260119]
    at.move_to(datetime(2026, 1, 28, 3, tzinfo=UTC))
    depot.asked.clear()
    look_always(depot, settings)
    assert depot.asked == list(range(20260128, 20260118, -1))
    assert states(settings) == dict.fromkeys(range(20260119, 20260129), EXPECTED)


def test_the_beginning_moves_back_and_never_forward(ledger):
    assert ledger.calendar.begin(20260110) == 20260110
    assert ledger.calendar.begin(20260105) == 20260105
    assert ledger.calendar.begin(20260120) == 20260105


def test_older_nights_are_looked_at_more_rarely_and_none_is_forgotten(settings, at):
    depot = EmptyDepot()
    watch(depot, settings, all_plausible, nights_between(20260110, None), stop=Passes(1))
    asked = {}
    for _ in range(24):
        at.shift(3600)
        ledger = Ledger(settings.state / "watch.sqlite")
        ledger.calendar.expect_until_tonight(20260120)
        for night in ledger.calendar.due():
            asked[night] = asked.get(night, 0) + 1
            ledger.calendar.note(night, files=0, waiting=0, all_in=True)
        ledger.close()
    assert asked[20260120] == asked[20260119] == 24
    assert asked[20260118] > asked[20260114] > asked[20260110] >= 4


def test_a_night_without_files_is_given_up_with_a_reason_and_people_are_told(settings, at):
    depot = EmptyDepot()
    channel = Flaky("one")
    told = replace(settings, channels=(channel,), late_days=3)
    look_always(depot, told)
    assert not channel.keys
    at.shift(5 * 86400)
    look_always(depot, told)
    assert states(settings)[20260120] == GIVEN_UP
    assert states(settings)[20260122] == EXPECTED
    assert len(channel.keys) == 3  # 19, 20 and 21
    (given_up,) = (x for x in log(told) if x["event"] == "given up" and x["night"] == 20260120)
    assert given_up["why"] == "the depot has no files of it, 3 days later"
    depot.asked.clear()
    look_always(depot, told)
    assert 20260120 not in depot.asked
    assert len(channel.keys) == 3
    watch(depot, told, all_plausible, nights_between(20260120, 20260120), once=True)  # by name
    assert depot.asked[-1] == 20260120


def test_no_night_is_given_up_while_the_depot_does_not_answer(settings, at):
    depot = EmptyDepot(*range(20260101, 20260201))
    few = replace(settings, late_days=3)
    look_always(depot, few)
    at.shift(10 * 86400)
    look_always(depot, few)
    assert set(states(settings).values()) == {EXPECTED}
    depot.fails = ()
    look_always(depot, few)
    assert states(settings)[20260120] == GIVEN_UP


def test_a_night_that_fails_keeps_none_from_its_turn(settings, at):
    depot = EmptyDepot(20260120)
    watch(depot, settings, all_plausible, nights_between(20260117, None), stop=Passes(1))
    assert depot.asked == [20260120, 20260119, 20260118, 20260117]


def test_files_that_are_never_whole_are_given_up_by_name(night, settings, at):
    whole = (night / TARBALLS[0]).read_bytes()
    for file in night.iterdir():
        if file.name != TARBALLS[0]:
            file.unlink()
    at.move_to(datetime(2026, 1, 5, 12, tzinfo=UTC))
    never = replace(settings, late_days=2, patience=1e9)
    (night / TARBALLS[0]).write_bytes(whole[: len(whole) // 2])
    depot = opened(str(night.parent))
    look_always(depot, never)
    assert states(settings)[NIGHT] == SEEN
    at.shift(4 * 86400)
    look_always(depot, never)
    assert states(settings)[NIGHT] == GIVEN_UP
    (line,) = (x for x in log(never) if x["event"] == "given up" and x["night"] == NIGHT)
    assert TARBALLS[0] in line["why"]


def test_a_night_goes_through_its_states_and_late_files_open_it_again(
    night, settings, at, tmp_path
):
    at.move_to(datetime(2026, 1, 5, 12, tzinfo=UTC))
    shutil.move(night / TARBALLS[0], tmp_path / "late")
    depot, channel = opened(str(night.parent)), Flaky("one")
    told = replace(settings, channels=(channel,))
    look_always(depot, told)
    assert states(settings)[NIGHT] == SEEN  # it is not over
    at.shift(86400)
    look_always(depot, told)
    assert states(settings)[NIGHT] == SCORED
    assert len(channel.keys) == 2  # candidates, the night
    look_always(depot, told, passes=3)
    assert len(channel.keys) == 2
    shutil.move(tmp_path / "late", night / TARBALLS[0])
    broken = iter([DeepStreaksError("no workers")])

    def score(archive, first):
        for error in broken:
            raise error
        return all_plausible(archive, first)

    look_always(depot, told, score=score)
    assert states(settings)[NIGHT] == COMPLETE  # and not scored while some cutouts are not
    look_always(depot, told, score=score)
    assert states(settings)[NIGHT] == SCORED
    assert len(set(channel.keys)) == len(channel.keys) == 4  # new candidates, new numbers


def test_a_back_fill_is_scored_night_by_night(tmp_path, settings):
    for k in range(3):
        write_depot(tmp_path / "depot", Night.draw(NIGHT + k, 7), 2)
    calls = []

    def score(archive, first):
        calls.append((first, open_archive(archive).sizes["cutout"]))
        return all_plausible(archive, first)

    depot = opened(str(tmp_path / "depot"))
    watch(depot, settings, score, nights_between(NIGHT, NIGHT + 2), once=True)
    assert calls == [(0, 2), (2, 4), (4, 6)]
    nights = open_archive(settings.archive)["night"].values.tolist()
    assert nights == [NIGHT + 2] * 2 + [NIGHT + 1] * 2 + [NIGHT] * 2
    assert states(settings) == dict.fromkeys(range(NIGHT, NIGHT + 3), SCORED)


# Runs


def test_a_run_goes_on_where_the_one_before_ended_and_the_past_is_scored_when_asked(ledger):
    record = partial(ledger.record, [], cutouts={NIGHT: 5})
    assert ledger.switch("v1") == Turn("v1")
    record("v1", 100)
    assert ledger.switch("v1") == Turn("v1")
    assert ledger.switch("v2") == Turn("v2", 100)
    assert ledger.mark("v2") == 100
    record("v2", 120)
    assert ledger.switch("v1") == Turn("v1", 120)  # back again: what v2 scored is not scored twice
    assert ledger.mark("v1") == 120
    assert ledger.switch("v2", since=NIGHT, first_row=40) == Turn("v2", 120, NIGHT)
    assert ledger.mark("v2") == 40
    assert ledger.numbers(NIGHT)["cutouts"] == 0  # to be counted again
    record("v2", 130)
    assert ledger.switch("v2", since=NIGHT, first_row=40) == Turn("v2", 120, NIGHT)
    assert ledger.mark("v2") == 130  # a restart with the same command begins nothing again


def test_candidates_are_kept_by_id_and_run_and_told_once(tmp_path, night, settings):
    depot, channel = opened(str(night.parent)), Flaky("one")
    look = partial(watch, depot, nights=nights_between(NIGHT, NIGHT), once=True)
    v1 = replace(settings, run="v1", channels=(channel,))
    look(settings=v1, score=all_plausible)
    v2 = replace(v1, run="v2")
    assert look(settings=v2, score=all_plausible)["candidates"] == 0  # the past only when asked
    asked = look(settings=replace(v2, rescore_from=NIGHT), score=all_plausible)
    assert (asked["scored"], asked["candidates"]) == (CUTOUTS, CUTOUTS)
    assert look(settings=replace(v2, rescore_from=NIGHT), score=all_plausible)["scored"] == 0
    ledger = Ledger(settings.state / "watch.sqlite")
    assert ledger.candidates().groupby("run").size().to_dict() == {"v1": CUTOUTS, "v2": CUTOUTS}
    assert len(ledger.candidates(run="v1")) == CUTOUTS
    assert ledger.numbers(NIGHT)["cutouts"] == CUTOUTS
    ledger.close()
    assert len(channel.keys) == 2  # candidates and the night, once
    events = [line for line in log(settings) if line["event"] == "switched"]
    assert [(x["from"], x["to"], x["since"]) for x in events] == [
        ("v1", "v2", None),
        ("v2", "v2", NIGHT),
    ]


def test_rows_that_were_withdrawn_keep_their_numbers(tmp_path, settings):
    for k in range(2):
        write_depot(tmp_path / "depot", Night.draw(NIGHT + k, 7), 2)
    depot = opened(str(tmp_path / "depot"))
    look = partial(watch, depot, score=all_plausible, once=True)
    look(settings=settings, nights=nights_between(NIGHT, NIGHT))
    retract(settings.archive, NIGHT)
    did = look(settings=settings, nights=nights_between(NIGHT + 1, NIGHT + 1))
    assert (did["scored"], did["candidates"]) == (2, 2)
    ledger = Ledger(settings.state / "watch.sqlite")
    assert ledger.mark("default") == 4
    assert len(ledger.candidates(NIGHT + 1)) == 2
    ledger.close()


def test_rescoring_the_past_leaves_the_nights_before_alone(tmp_path, settings):
    for k in range(3):
        write_depot(tmp_path / "depot", Night.draw(NIGHT + k, 7), 2)
    depot = opened(str(tmp_path / "depot"))
    for k in (1, 2, 0):  # the first night comes last
        watch(depot, settings, all_plausible, nights_between(NIGHT + k, NIGHT + k), once=True)
    assert set(states(settings).values()) == {SCORED}
    v2 = replace(settings, run="v2", rescore_from=NIGHT + 2)
    did = watch(depot, v2, all_plausible, nights_between(NIGHT + 2, NIGHT + 2), once=True)
    assert did["candidates"] == did["scored"] == 2
    ledger = Ledger(settings.state / "watch.sqlite")
    assert set(ledger.candidates(run="v2")["night"]) == {NIGHT + 2}
    ledger.close()


def test_new_weights_leave_the_shards_before_alone(archive, zoo, monkeypatch):
    """What is handed to the campaign: portions of the shards from a row on; torn chunks are cleared once."""
    members, plans = ("rb_vgg6", "sl_vgg6", "kd_vgg6"), []
    write_run(archive, "v2", members, np.full((150, 3), np.nan, np.float32))

    def execute(plan, client, **_):
        plans.append((plan.run, plan.todo))
        for first, last in plan.todo.shards:
            Run.open(archive, "v2", write=True).scores[first:last] = 0.9

    def planned(*args, **options):
        shards = ((0, 64), (64, 128), (128, 150))
        return Plan("v2", Remaining(shards, ((0, 64), (128, 150))))

    monkeypatch.setattr("deepstreaks_dask.scoring.campaign.execute", execute)
    monkeypatch.setattr("deepstreaks_dask.scoring.plan.plan_campaign", planned)
    monkeypatch.setattr("deepstreaks_dask.service.scorer._PORTION", 1)
    moved = []
    scorer = Scorer(zoo, "v2", {}, lambda: SimpleNamespace(nthreads=lambda: {"a": 1}))
    scorer.moved = lambda: moved.append(1)
    decided = scorer(str(archive), 100)
    assert decided["plausible"].values.tolist() == [False] * 64 + [True] * 86
    assert plans == [
        ("v2", Remaining(((64, 128),), ((128, 150),))),
        ("v2", Remaining(((128, 150),), ())),
    ]
    assert len(moved) == 2
    assert np.isnan(open_run(archive, "v2")["scores"].values[:64]).all()


@dataclass(frozen=True)
class Plan:
    """As much of a plan as a scorer handles."""

    run: str
    todo: Remaining


# Health


def test_a_pass_that_is_long_but_moves_is_healthy(monkeypatch, tmp_path):
    now = SimpleNamespace(monotonic=lambda: clock[0], time=lambda: clock[0])
    clock = [0.0]
    monkeypatch.setattr(monitor_module, "time", now)
    monitor = Monitor(SimpleNamespace(info=None), patience=600)
    for _ in range(100):  # a pass of half a day
        clock[0] += 500
        monitor.moved()
        assert monitor.health()["ok"]
    clock[0] += 601
    assert not monitor.health()["ok"]
    assert monitor.health()["seconds_since_progress"] == 601


def test_a_download_a_night_and_a_portion_of_scores_are_movement(server, settings, monkeypatch):
    moved = []
    monkeypatch.setattr(Monitor, "moved", lambda self: moved.append(threading.get_ident()))
    depot = opened(server.url)
    watch(depot, settings, all_plausible, nights_between(NIGHT, NIGHT), once=True)
    bytes_fetched = sum(file.stat().st_size for file in (server.folder / str(NIGHT)).iterdir())
    assert len(moved) > bytes_fetched / 2**13


def test_the_log_goes_to_standard_output_and_health_to_an_address(settings, capfd):
    there = replace(settings, port=0, address="127.0.0.2", log_to_stdout=True)
    look_always(EmptyDepot(), there)
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["listening", "started", "ended"]
    assert lines[0]["address"] == "127.0.0.2"
    with pytest.raises(DepotError, match=r"of 192\.0\.2\.1 cannot be used"):  # another machine's
        look_always(EmptyDepot(), replace(there, address="192.0.2.1"))


def test_a_state_that_fails_ends_a_pass_and_not_the_service(settings, monkeypatch):
    failures = [sqlite3.OperationalError("disk I/O error")]
    expect = Calendar.expect

    def failing(self, wanted):
        for error in failures:
            failures.clear()
            raise error
        expect(self, wanted)

    monkeypatch.setattr(Calendar, "expect", failing)
    depot = EmptyDepot()
    look_always(depot, settings, passes=2)
    assert len(depot.asked) == 2
    assert any(line["event"] == "calendar failed" for line in log(settings))


def test_messages_of_the_command_are_checked_and_no_secret_is_an_option(tmp_path, monkeypatch):
    def watched(*options):
        place = ["watch", str(tmp_path), str(tmp_path / "a.zarr"), "--state", str(tmp_path / "s")]
        return CliRunner().invoke(app, [*place, *options])

    for options, said in {
        ("--smtp", "smtps://mail.example"): "--mail-to",
        ("--mail-to", "a@b.example"): "--smtp",
        ("--smtp", "x", "--mail-to", "a@b.example", "--mail-from", "c@d.example"): "smtps://HOST",
        ("--webhook", str(tmp_path / "none")): "cannot be read",
        ("--rescore-from", "20261301"): "YYYYMMDD",
    }.items():
        told = watched(*options)
        assert isinstance(told.exception, DeepStreaksError)
        assert said in str(told.exception)
    monkeypatch.setenv(secrets.WEBHOOK, "http://hooks.example/xyzzy")
    assert "--allow-plaintext" in str(watched().exception)
    assert not (tmp_path / "s").exists()


def test_credentials_of_systemd_may_have_an_access_list(tmp_path, monkeypatch):
    """The mask of the list looks like rights of the group."""
    file = tmp_path / "depot"
    file.write_text("machine depot.example login ztf password right\n")
    file.chmod(0o440)
    with pytest.raises(DepotError, match="chmod 600"):
        secrets.read_credentials(file, "depot.example")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert secrets.read_credentials(file, "depot.example").user == "ztf"
    file.chmod(0o444)
    with pytest.raises(DepotError, match="chmod 600"):
        secrets.read_credentials(file, "depot.example")


# The state


OLD_TABLES = """
CREATE TABLE files (night INTEGER NOT NULL, name VARCHAR NOT NULL, stamp VARCHAR NOT NULL, state VARCHAR NOT NULL,
  seen FLOAT NOT NULL, changed FLOAT NOT NULL, detail VARCHAR NOT NULL, PRIMARY KEY (night, name));
CREATE TABLE candidates (id VARCHAR NOT NULL, night INTEGER NOT NULL, jd FLOAT, filter VARCHAR, ra FLOAT, dec FLOAT,
  length FLOAT, mag FLOAT, scores JSON NOT NULL, run VARCHAR NOT NULL, recorded VARCHAR NOT NULL, PRIMARY KEY (id));
CREATE INDEX ix_candidates_night ON candidates (night);
CREATE TABLE marks (run VARCHAR NOT NULL, rows INTEGER NOT NULL, PRIMARY KEY (run));
INSERT INTO files VALUES (20260118, 'a', '', 'done', 1, 1, ''), (20260119, 'b', '', 'waiting', 2, 2, '');
INSERT INTO candidates VALUES ('x', 20260118, 1, 'r', 2, 3, 4, 5, '{"rb_vgg6": 0.5}', 'default', 'then');
INSERT INTO marks VALUES ('default', 7);
"""


def test_the_state_of_an_older_version_is_carried_over(tmp_path, at):
    path = tmp_path / "watch.sqlite"
    with sqlite3.connect(path) as old:
        old.executescript(OLD_TABLES)
    old.close()
    for _ in range(2):
        ledger = Ledger(path, ["one"])
        assert ledger.candidates()[["id", "run", "ra"]].values.tolist() == [["x", "default", 2.0]]
        assert ledger.switch("default") == Turn("default")
        assert ledger.mark("default") == 7
        ledger.calendar.expect_until_tonight(20260119)
        found = {row["night"]: row["state"] for row in ledger.calendar.rows()}
        assert found == {20260118: SCORED, 20260119: SEEN, 20260120: EXPECTED}
        with ledger._engine.begin() as connection:
            assert ledger.outbox.untold(connection, ["x"]) == set()  # it was found long ago
        ledger.close()


def test_the_state_of_a_newer_version_is_refused(tmp_path):
    path = tmp_path / "watch.sqlite"
    Ledger(path).close()
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version=99")
    newer.close()
    with pytest.raises(DepotError, match=r"newer version \(99"):
        Ledger(path)


def test_nobody_else_reads_the_state(night, settings):
    watch(
        opened(str(night.parent)), settings, all_plausible, nights_between(NIGHT, NIGHT), once=True
    )
    for name in ("watch.sqlite", "watch.log"):
        assert (settings.state / name).stat().st_mode & 0o077 == 0


def test_the_command_shows_the_calendar(tmp_path, ledger, at):
    ledger.calendar.expect_until_tonight(20260118)
    ledger.see([Remote(20260118, "a")])
    ledger.settle(20260118, "a", DONE)
    ledger.calendar.note(20260118, files=1, waiting=0, all_in=True)
    told = CliRunner().invoke(app, ["nights", "--state", str(tmp_path)])
    assert told.exit_code == 0, told.output
    assert "Gaps: 20260118, 20260119." in told.output
    told = CliRunner().invoke(app, ["nights", "--state", str(tmp_path), "--json"])
    first, second, third = json.loads(told.output)
    assert (first["night"], first["state"], first["files"]) == (20260118, COMPLETE, 1)
    assert [row["gap"] for row in (first, second, third)] == [True, True, False]
    told = CliRunner().invoke(app, ["nights", "--state", str(tmp_path / "none")])
    assert isinstance(told.exception, DeepStreaksError)


def test_a_night_that_came_whole_stays_whole(night, settings, written, at):
    at.move_to(datetime(2026, 1, 6, 12, tzinfo=UTC))
    look_always(opened(str(night.parent)), settings)
    assert_whole(settings, written)
    assert states(settings)[NIGHT] == SCORED


@pytest.mark.parametrize("name", ["q?x=1", "q#x", "q%3F", "q x"])
def test_a_state_is_where_its_path_says(tmp_path, name):
    Ledger(tmp_path / f"{name}.sqlite").close()
    assert {file.name for file in tmp_path.iterdir()} == {f"{name}.sqlite"}
