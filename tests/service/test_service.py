"""The nightly service against a depot that misbehaves: nothing lost, nothing double, no password told."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from dask.distributed import Client
from depot_server import PASSWORD, serving
from service.conftest import (
    CUTOUTS,
    NIGHT,
    TABLES,
    TARBALLS,
    all_plausible,
    assert_whole,
    contents,
    log,
    look,
    opened,
)
from typer.testing import CliRunner

from deepstreaks_dask.archive.attributes import provenance_of
from deepstreaks_dask.archive.store import quarantine
from deepstreaks_dask.cli.main import app
from deepstreaks_dask.errors import DeepStreaksError, DepotError, StoppedError
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.runs import open_run
from deepstreaks_dask.service import credentials as secrets
from deepstreaks_dask.service import http_depot
from deepstreaks_dask.service.credentials import read_credentials
from deepstreaks_dask.service.depots import open_depot
from deepstreaks_dask.service.nights import nights_between
from deepstreaks_dask.service.scorer import Scorer
from deepstreaks_dask.service.service import Settings, watch
from deepstreaks_dask.service.state import Ledger


def test_a_night_is_fetched_scored_and_recorded_once(server, settings, written):
    did = look(server.url, settings)
    assert (did["files"], did["appended"], did["candidates"]) == (6, CUTOUTS, CUTOUTS)
    assert_whole(settings, written)
    asked = len(server.requests)
    assert look(server.url, settings) == dict.fromkeys(did, 0)
    assert len(server.requests) == asked + 1  # the listing
    assert not list((settings.state / "spool").rglob("*.tar.gz"))
    assert {"started", "appended", "scored", "pass", "ended"} <= {
        line["event"] for line in log(settings)
    }


def test_a_folder_is_a_depot_too(night, settings, written):
    look(str(night.parent), settings)
    assert_whole(settings, written)
    assert len(list(night.iterdir())) == 6
    assert not any(look(str(night.parent), settings).values())


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
def test_a_status_ends_one_pass_and_not_the_next(server, settings, written, status):
    name = TARBALLS[1]
    server.faults[f"/{NIGHT}/{name}"] = [status] * (1 if status < 500 else 4)
    with pytest.raises(DepotError, match=rf"{name}.*{status}"):
        look(server.url, settings)
    assert len(contents(settings)[0]) == 8
    look(server.url, settings)
    assert_whole(settings, written)


@pytest.mark.parametrize("fault", [500, "half", "silent", "hang"])
def test_what_passes_is_tried_again_at_once(server, settings, written, fault):
    for path in (f"/{NIGHT}/", f"/{NIGHT}/{TARBALLS[0]}", f"/{NIGHT}/{TABLES[1]}"):
        server.faults[path] = [fault]
    look(server.url, settings, timeout=0.5)
    assert_whole(settings, written)


def test_no_night_yet_is_no_mistake(server, settings):
    nights = nights_between(20200101, 20200101)
    did = watch(opened(server.url), settings, all_plausible, nights, once=True)
    assert not any(did.values())


def test_a_wrong_password_is_told_at_once_and_once(server, settings, monkeypatch):
    monkeypatch.setenv(secrets.PASSWORD, "wrong")
    with pytest.raises(DepotError, match="refuses us \\(401\\): check the credentials"):
        look(server.url, settings)
    assert len(server.requests) == 1  # no account is locked by trying again


def test_a_download_goes_on_where_it_ended(server, settings, written):
    path = f"/{NIGHT}/{TARBALLS[0]}"
    server.faults[path] = ["half", "half"]
    look(server.url, settings)
    whole = (written / str(NIGHT) / TARBALLS[0]).stat().st_size
    first, second, third = server.asked(TARBALLS[0])
    assert "Range" not in first
    assert second["Range"] == f"bytes={whole // 2}-"
    assert second["If-Range"].startswith('"')
    assert third["Range"] == f"bytes={whole // 2 + (whole - whole // 2) // 2}-"
    assert_whole(settings, written)


def test_a_file_that_changes_in_between_is_begun_again(server, night, settings, written):
    whole = (night / TARBALLS[0]).read_bytes()
    (night / TARBALLS[0]).write_bytes(whole[:20_000])
    server.faults[f"/{NIGHT}/{TARBALLS[0]}"] = ["half", 500, 500, 500]
    with pytest.raises(DepotError):
        look(server.url, settings)
    (night / TARBALLS[0]).write_bytes(whole)
    look(server.url, settings)
    assert_whole(settings, written)


@pytest.mark.parametrize("http", [True, False])
def test_a_half_written_tarball_is_waited_for(server, night, settings, written, http):
    place = server.url if http else str(night.parent)
    whole = (night / TARBALLS[2]).read_bytes()
    (night / TARBALLS[2]).write_bytes(whole[: len(whole) * 3 // 4])
    look(place, settings, once=False, passes=3)
    assert len(contents(settings)[0]) == 8
    assert quarantine(settings.archive).empty
    assert any(line["event"] == "damaged" for line in log(settings))
    (night / TARBALLS[2]).write_bytes(whole)
    look(place, settings, once=False)
    assert_whole(settings, written)
    assert quarantine(settings.archive).empty


@pytest.mark.parametrize("http", [True, False])
def test_past_patience_what_is_whole_is_taken_and_the_rest_when_it_comes(
    server, night, settings, written, http
):
    place = server.url if http else str(night.parent)
    whole = (night / TARBALLS[2]).read_bytes()
    (night / TARBALLS[2]).write_bytes(whole[: len(whole) * 3 // 4])
    look(place, replace(settings, patience=0), once=False)
    taken = contents(settings)[0]
    assert 8 < len(taken) < CUTOUTS
    assert quarantine(settings.archive)["reason"].tolist() == ["damaged"]
    look(place, replace(settings, patience=0), once=False, passes=2)
    assert contents(settings)[0] == taken
    (night / TARBALLS[2]).write_bytes(whole)
    look(place, replace(settings, patience=0), once=False)
    assert_whole(settings, written)


def test_a_tarball_waits_for_its_table(server, night, settings, written):
    late = night / TABLES[0]
    table = late.read_text()
    late.unlink()
    look(server.url, settings, once=False, passes=2)
    assert len(contents(settings)[0]) == 8
    late.write_text(table[: len(table) // 2])
    look(server.url, settings, once=False)
    late.write_text(table)
    look(server.url, settings, once=False)
    assert_whole(settings, written)


@pytest.mark.parametrize("http", [True, False])
def test_a_table_that_stays_cut_short_is_taken_once(server, night, settings, http):
    place = server.url if http else str(night.parent)
    table = (night / TABLES[0]).read_text()
    (night / TABLES[0]).write_text(table[: len(table) // 2])
    look(place, replace(settings, patience=0), once=False, passes=4)
    assert len([line for line in log(settings) if line["event"] == "appended"]) == 1
    assert len(contents(settings)[0]) == CUTOUTS


def test_a_table_that_comes_too_late_completes_the_candidates(night, settings, written, tmp_path):
    for name in TARBALLS:  # no positions from ADES files either
        strip_ades(night / name)
    shutil.move(night / TABLES[0], tmp_path)
    look(str(night.parent), settings)
    ledger = Ledger(settings.state / "watch.sqlite")
    assert ledger.candidates()["ra"].isna().sum() == 4
    shutil.move(tmp_path / TABLES[0], night)
    look(str(night.parent), settings)
    truth = pd.read_csv(written / f"{NIGHT}.csv").sort_values("id")
    found = ledger.candidates()
    ledger.close()
    np.testing.assert_allclose(found["ra"], truth["ra"])
    assert list(found["filter"]) == list(truth["filter"])


def strip_ades(file):
    import io
    import tarfile

    made = io.BytesIO()
    with tarfile.open(file) as old, tarfile.open(fileobj=made, mode="w:gz") as new:
        for member in old:
            if not member.name.endswith(".xml"):
                new.addfile(member, old.extractfile(member))
    file.write_bytes(made.getvalue())


def test_credentials_stay_with_the_depot(server, night, settings, tmp_path, written):
    with serving(night.parent) as other:  # another host to us: another port
        server.faults[f"/{NIGHT}/{TARBALLS[0]}"] = [f"> {other.url}/{NIGHT}/{TARBALLS[0]}"]
        with pytest.raises(
            DepotError, match="401"
        ):  # which is what the other one says without them
            look(server.url, settings)
        assert len(other.requests) == 1
        assert all("Authorization" not in headers for _, headers in other.requests)
        server.faults[f"/{NIGHT}/"] = [f"> {server.url}/{NIGHT}/"]
        look(server.url, settings)
    assert_whole(settings, written)


def test_links_that_lead_elsewhere_are_no_products(server, night, settings, written):
    name = "ztf_evil_strkcutouts.tar.gz"
    (night.parent / name).write_bytes(b"x")
    server.extra = "".join(
        f'<a href="{href}">x</a>'
        for href in (
            f"../{name}",
            f"/{name}",
            f"http://127.0.0.1:9/{NIGHT}/{name}",
            f"//evil.example/{NIGHT}/{name}",
            f"..%2f{name}",
            f"%2e%2e/{name}",
            f"sub/{name}",
            f"../{NIGHT}1/{name}",
            "file:///etc/passwd_streaks.txt",
            "http://[broken",
            f".{name}",
            "a b_streaks.txt",
            "x" * 300 + "_streaks.txt",
        )
    )
    look(server.url, settings)
    assert_whole(settings, written)
    asked = {path for path, _ in server.requests}
    assert asked == {f"/{NIGHT}/", *(f"/{NIGHT}/{name}" for name in TARBALLS + TABLES)}


def test_a_full_disk_ends_a_pass_and_not_the_service(server, settings, written, monkeypatch):
    spool = settings.state / "spool"
    spool.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(spool)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        monkeypatch.setattr(http_depot, "_FREE_SPACE_RESERVE", 0)
        with pytest.raises(DepotError, match=r"full|No space"):
            look(server.url, settings)
        subprocess.run(["mount", "-o", "remount,size=64m", str(spool)], check=True)
        look(server.url, settings)
        assert_whole(settings, written)
    finally:
        subprocess.run(["umount", "-l", str(spool)], check=True)


def test_space_is_left_on_the_disk(server, settings, monkeypatch):
    monkeypatch.setattr(http_depot, "_FREE_SPACE_RESERVE", 2**60)
    with pytest.raises(DepotError, match="the disk is full"):
        look(server.url, settings)


def test_health_and_metrics(server, settings, night):
    whole = (night / TARBALLS[2]).read_bytes()
    (night / TARBALLS[2]).write_bytes(whole[:-100])
    (night / TARBALLS[0]).write_bytes(b"x" * 30_000)
    depot, nights = opened(server.url), nights_between(NIGHT, NIGHT)
    stop = threading.Event()
    running = replace(settings, port=0, poll=0.05)
    service = threading.Thread(
        target=watch, args=(depot, running, all_plausible, nights), kwargs={"stop": stop}
    )
    service.start()
    try:
        wait_for(lambda: any(line["event"] == "scored" for line in log(settings)), settings)
        (port,) = {line["port"] for line in log(settings) if line["event"] == "listening"}
        ask = partial(urllib.request.urlopen, timeout=60)
        with ask(f"http://127.0.0.1:{port}/health") as answer:
            health = json.load(answer)
        assert health["ok"]
        assert health["lag_seconds"] > 0  # two tarballs wait
        with ask(f"http://127.0.0.1:{port}/metrics") as answer:
            metrics = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines())
        assert float(metrics["deepstreaks_watch_cutouts_seen_total"]) == 4
        assert float(metrics["deepstreaks_watch_cutouts_scored_total"]) == 4
        assert float(metrics["deepstreaks_watch_quarantined_total"]) == 0
        assert float(metrics["deepstreaks_watch_lag_seconds"]) > 0
        server.faults[f"/{NIGHT}/"] = [403] * 1000
        with pytest.raises(urllib.error.HTTPError, match="503"):
            wait_for(lambda: not ask(f"http://127.0.0.1:{port}/health"), settings)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            ask(f"http://127.0.0.1:{port}/etc")
    finally:
        stop.set()
        service.join()


def test_only_one_service_works_in_a_folder(night, settings):
    started, release = threading.Event(), threading.Event()

    def slow(archive, first):
        started.set()
        release.wait()
        return all_plausible(archive, first)

    service = threading.Thread(
        target=look, args=(str(night.parent), settings), kwargs={"score": slow}
    )
    service.start()
    try:
        started.wait()
        with pytest.raises(DepotError, match="another service"):
            look(str(night.parent), settings)
    finally:
        release.set()
        service.join()


def test_scores_that_cannot_be_had_now_are_had_later(night, settings, written):
    def broken(archive, first):
        raise DeepStreaksError("no workers")

    with pytest.raises(DepotError, match="no workers"):
        look(str(night.parent), settings, score=broken)
    assert contents(settings)[1] == []
    look(str(night.parent), settings)
    assert_whole(settings, written)


def test_a_lost_cluster_is_replaced(archive, zoo):
    class Lost:
        closed = False

        def nthreads(self, *_, **__):
            raise OSError("scheduler gone")

        submit = subscribe_topic = unsubscribe_topic = nthreads

        def close(self):
            self.closed = True

    clients = [Lost(), Lost()]
    scorer = Scorer(zoo, "default", {}, partial(clients.pop, 0))
    for first in list(clients):
        with pytest.raises(StoppedError, match="scheduler gone"):
            scorer(str(archive))
        assert first.closed
    assert not clients


def test_credentials_of_a_file(tmp_path, monkeypatch):
    file = tmp_path / "netrc"
    file.write_text(f"machine depot.example login ztf password {PASSWORD}\n")
    file.chmod(0o600)
    found = read_credentials(file, "depot.example")
    assert (found.user, found.password) == ("ztf", PASSWORD)
    assert PASSWORD not in repr(found)
    with pytest.raises(DepotError, match="say nothing of other"):
        read_credentials(file, "other.example")
    for mode in (0o640, 0o604, 0o644, 0o660):
        file.chmod(mode)
        with pytest.raises(DepotError, match="chmod 600"):
            read_credentials(file, "depot.example")
    file.chmod(0o600)
    file.write_text(f"machine depot.example {PASSWORD}\n")
    with pytest.raises(DepotError, match="no such form") as raised:
        read_credentials(file, "depot.example")
    assert PASSWORD not in str(raised.value)
    with pytest.raises(DepotError, match="cannot be read"):
        read_credentials(tmp_path / "none", "depot.example")
    monkeypatch.delenv(secrets.USER)
    with pytest.raises(DepotError, match="one is missing"):
        read_credentials(None, "depot.example")


def test_mistakes_are_named(tmp_path):
    with pytest.raises(DepotError, match="holds credentials") as raised:
        open_depot(f"https://ztf:{PASSWORD}@depot.example/x")
    assert PASSWORD not in str(raised.value)
    with pytest.raises(DepotError, match="http or https"):
        open_depot("ftp://depot.example")
    with pytest.raises(DepotError, match="no folder"):
        open_depot(str(tmp_path / "none"))
    with pytest.raises(DepotError, match="YYYYMMDD"):
        nights_between(20261301, None)
    with pytest.raises(DepotError, match="exchange"):
        nights_between(20260105, 20260104)
    with pytest.raises(DepotError, match="--from too"):
        nights_between(None, 20260104)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "watch.sqlite").write_text("no database, whatever its name says" * 100)
    with pytest.raises(DepotError, match="no record"):
        look(str(tmp_path), Settings("a", tmp_path / "state"))


def test_an_archive_that_was_begun_is_made_anew(night, settings, written, tmp_path):
    (tmp_path / "a.zarr.begun" / "cutouts").mkdir(parents=True)  # as a kill would leave it
    look(str(night.parent), settings)
    assert_whole(settings, written)
    assert not list(tmp_path.glob("a.zarr.begun*"))


def test_nights_are_named_one_way(night, tmp_path):
    options = ["--night", str(NIGHT), "--from", str(NIGHT), "--state", str(tmp_path / "state")]
    told = CliRunner().invoke(app, ["watch", str(night.parent), str(tmp_path / "a.zarr"), *options])
    assert isinstance(told.exception, DeepStreaksError)
    assert not (tmp_path / "state").exists()


def test_a_range_of_nights():
    assert nights_between(20260227, 20260302)() == [20260227, 20260228, 20260301, 20260302]
    assert nights_between(20260105, 20260105)() == [20260105]
    assert len(nights_between(None, None)()) == 2
    assert len(nights_between(20260101, None)()) > 2


COMMAND = "from deepstreaks_dask.cli.main import main; main()"


def wait_for(condition, settings, process=None):
    deadline = time.monotonic() + 240
    while True:
        try:
            if condition():
                return
        except FileNotFoundError:
            pass
        assert process is None or process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, log(settings)
        time.sleep(0.02)


def test_killed_twice_it_loses_nothing_and_doubles_nothing(server, settings, written, zoo, client):
    command = [sys.executable, "-c", COMMAND, "watch", server.url, settings.archive]
    command += ["--state", str(settings.state), "--night", str(NIGHT), "--poll", "0.2"]
    command += ["--zoo", zoo, "--workers", "1", "--timeout", "60", "--allow-plaintext"]
    path = f"/{NIGHT}/{TARBALLS[1]}"
    server.faults[path] = ["hang"]
    spool = settings.state / "spool" / str(NIGHT)
    process = subprocess.Popen(command, start_new_session=True)
    try:
        wait_for(lambda: (spool / f"{TARBALLS[1]}.part").stat().st_size > 4096, settings, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # in the middle of a download
        process.wait()
    server.release.set()
    process = subprocess.Popen(command, start_new_session=True)
    try:
        wait_for(
            lambda: any(line["event"] == "appended" for line in log(settings)), settings, process
        )
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with the cutouts in the archive, and no scores yet
        process.wait()
    assert server.asked(TARBALLS[1])[1]["Range"].startswith("bytes=")
    connect = partial(Client, client.scheduler.address)
    with Scorer(zoo, "default", {}, connect) as scorer:
        look(server.url, settings, score=scorer)
        look(server.url, settings, score=scorer)
    with Scorer(zoo, "decided", {}, connect, only_decide=True) as scorer:
        cheaper = scorer(settings.archive)  # for less, the same
    decided = Decision().apply(open_run(settings.archive))
    assert not decided["undecided"].any()
    assert not np.isnan(decided["scores"]).any()
    ids, recorded = contents(settings)
    assert ids == sorted(pd.read_csv(written / f"{NIGHT}.csv")["id"])
    assert recorded == sorted(decided["id"].values[decided["plausible"].values])
    assert provenance_of(cheaper)["decided"] is not None
    np.testing.assert_array_equal(cheaper["plausible"], decided["plausible"])
