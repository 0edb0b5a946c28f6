"""A simulated fortnight of the service, in seconds: an outage, a late night, new weights, two kills."""

import json
import re
import shutil
import threading
import urllib.request
from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from depot_server import serving
from service.conftest import all_plausible, log, opened
from service.servers import slack

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.service.channels import Webhook
from deepstreaks_dask.service.night_calendar import EXPECTED, SCORED, SEEN
from deepstreaks_dask.service.nights import nights_between, tonight_utc
from deepstreaks_dask.service.outbox import Outbox
from deepstreaks_dask.service.service import Settings, watch
from deepstreaks_dask.service.state import Ledger
from deepstreaks_dask.simulation.nights import Night
from deepstreaks_dask.simulation.products import write_depot

NIGHTS = list(range(20260110, 20260124))
OUTAGE = range(20260113, 20260116)  # nothing is answered while it is one of these days
LATE, LATE_UNTIL = 20260111, 20260118  # a night that the depot has a week later
SWITCH = 20260119  # the first day with new weights
CUTOUTS = 3


class KilledError(BaseException):
    """Ends the service where it is: nothing catches it."""


class World(threading.Event):
    """The depot and the days, which pass while the service sleeps; set when the service is to be stopped."""

    def __init__(self, clock, written, server, settings, stop_before):
        super().__init__()
        self.clock, self.written, self.server = clock, written, server
        self.settings, self.stop_before = settings, stop_before
        self.gaps = []  # as health names them
        self.publish()

    def publish(self):
        """Let the depot have what it has by now."""
        for night in NIGHTS:
            there = self.server.folder / str(night)
            there_from = LATE_UNTIL if night == LATE else night
            if there_from <= tonight_utc() and not there.exists():
                shutil.copytree(self.written / str(night), there)
        down = tonight_utc() in OUTAGE
        for night in NIGHTS:
            self.server.faults[f"/{night}/"] = [503] * 1000 if down else []

    def wait(self, timeout=None):
        port = [line["port"] for line in log(self.settings) if line["event"] == "listening"][-1]
        try:
            answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            self.gaps.append((tonight_utc(), json.load(answer)["gaps"]))
        self.clock.shift(24 * 3600)
        self.publish()
        return tonight_utc() >= self.stop_before


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fortnight")
    for night in NIGHTS:
        write_depot(folder, Night.draw(night, 7), CUTOUTS)
    return folder


def every_other(archive, first=0):
    """Stands in for the networks: a verdict for each cutout, whatever came with it."""
    decided = all_plausible(archive, first)
    chosen = [is_chosen(name) for name in decided["id"].values]
    return decided.assign(plausible=("cutout", np.array(chosen, bool)))


def is_chosen(name):
    return int(re.sub(r"\D", "", name)) % 3 > 0


def killed(*_, **__):
    raise KilledError


def test_a_fortnight_loses_nothing_doubles_nothing_and_tells_each_candidate_once(
    written, tmp_path, at, monkeypatch
):
    at.move_to(datetime(2026, 1, 10, 14, tzinfo=UTC))
    (tmp_path / "depot").mkdir()
    with serving(tmp_path / "depot") as server, slack(200) as (url, got):

        def run(name, stop_before):
            settings = Settings(
                str(tmp_path / "a.zarr"),
                tmp_path / "state",
                run=name,
                shard=64,
                port=0,
                channels=(Webhook(url, allow_plaintext=True),),
            )
            world = World(at, written, server, settings, stop_before)
            depot = opened(server.url)
            watch(depot, settings, every_other, nights_between(None, None), stop=world)
            return settings, world

        _, before = run("v1", 20260117)
        with (
            monkeypatch.context() as patch
        ):  # the cutouts are in the archive, and their files not noted as taken
            patch.setattr(Ledger, "settle", killed)
            with pytest.raises(KilledError):
                run("v1", 20260119)
        run("v1", SWITCH)
        with monkeypatch.context() as patch:  # the message is accepted, and not noted as such
            patch.setattr(Outbox, "delivered", killed)
            with pytest.raises(KilledError):
                run("v2", 20260123)
        settings, _ = run("v2", 20260124)

    truth = {night: list(pd.read_csv(written / f"{night}.csv")["id"]) for night in NIGHTS}
    everything = sorted(name for names in truth.values() for name in names)
    dataset = open_archive(settings.archive)
    assert sorted(dataset["id"].values) == everything  # nothing is lost, nothing double
    nights = dict(zip(dataset["id"].values, dataset["night"].values, strict=True))
    assert all(nights[name] == night for night, names in truth.items() for name in names)

    ledger = Ledger(settings.state / "watch.sqlite", [Webhook(url, allow_plaintext=True).name])
    recorded = ledger.candidates()
    assert list(recorded["id"]) == sorted(filter(is_chosen, everything))
    by_run = recorded.groupby("run")["night"]
    assert by_run.max()["v1"] == SWITCH - 1
    assert by_run.min()["v2"] == SWITCH
    states = {row["night"]: row["state"] for row in ledger.calendar.rows()}
    missed, tonight = 20260109, 20260123  # the night before the first, which the depot never had
    assert {n: s for n, s in states.items() if s != SCORED} == {missed: EXPECTED, tonight: SEEN}
    assert ledger.calendar.gaps() == [missed, tonight]  # which is over now
    numbers = {night: ledger.numbers(night)["cutouts"] for night in NIGHTS}
    assert numbers == dict.fromkeys(NIGHTS, CUTOUTS)
    assert ledger.outbox.waiting() == 0
    ledger.close()

    messages = {headers["Idempotency-Key"]: body["text"] for body, headers in got}
    assert len(got) == len(messages) + 1  # the one that was accepted and not noted
    told = Counter(re.findall(r"strkid\d+_pid\d+", "".join(messages.values())))
    assert told == Counter(filter(is_chosen, everything))  # each once
    summaries = [re.search(r"Night (\S+) is scored", text) for text in messages.values()]
    days = Counter(int(match[1].replace("-", "")) for match in summaries if match)
    assert days == Counter(NIGHTS[:-1])

    gaps = dict(before.gaps)
    assert gaps[20260112] == [missed, LATE]
    assert gaps[20260115] == [missed, LATE, 20260112, 20260113, 20260114]  # in the outage
    assert gaps[20260116] == [missed, LATE]  # filled at once
