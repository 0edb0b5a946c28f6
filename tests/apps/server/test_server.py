"""The server as a process of its own, twenty people at once, and its sudden end; on SQLite and PostgreSQL."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.review.database import Review, archive_key

PEOPLE = [f"user{k:02d}" for k in range(20)]
EACH = 10


@pytest.fixture
def started():
    """The server is a real one here, and so would be what it begins: nothing is."""


@pytest.fixture
def tokens(people):
    review = Review(people)
    for name in PEOPLE:
        review.accounts.add_user(name, "correct horse battery")
    found = {name: review.accounts.add_token(name, "script") for name in PEOPLE}
    review.close()
    return found


@pytest.fixture
def server(reviewed, people, tokens):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = ["--app", "review", "--database", people, "--port", str(port), "--no-show"]
    process = subprocess.Popen(
        [sys.executable, "-m", "deepstreaks_dask", "dashboard", reviewed, *arguments],
        stdout=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None:
            try:
                httpx.get(f"http://127.0.0.1:{port}/login", timeout=300)
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/api/v1", process
    finally:
        process.kill()
        process.wait()


def test_twenty_at_once_lose_no_verdict_and_neither_does_a_kill(server, tokens, reviewed, people):
    address, process = server
    ids = [str(one) for one in open_archive(reviewed)["id"].values]

    def post(client, cutout, verdict, name):
        body = {"id": cutout, "verdict": verdict, "note": f"{name} {cutout}"}
        return client.post(f"{address}/verdicts", json=body)

    def judge(name):
        headers = {"Authorization": f"Bearer {tokens[name]}"}
        with httpx.Client(headers=headers, timeout=300) as client:
            seen = [post(client, cutout, "keep", name).status_code for cutout in ids[:EACH]]
            seen += [
                client.get(f"{address}/streaks").status_code,
                client.get(f"{address}/nights").status_code,
            ]
            return seen

    with ThreadPoolExecutor(len(PEOPLE)) as pool:
        answers = [status for seen in pool.map(judge, PEOPLE) for status in seen]
    assert set(answers) == {200}
    review, key = Review(people), archive_key(reviewed)
    said = review.verdicts.current(key)
    assert len(said) == len(PEOPLE) * EACH
    assert all((v.verdict, v.note) == ("keep", f"{v.who} {v.cutout}") for v in said)

    acknowledged = []

    def judge_until_the_end(name):
        headers = {"Authorization": f"Bearer {tokens[name]}"}
        with httpx.Client(headers=headers, timeout=300) as client:
            for cutout in ids[EACH:]:
                try:
                    answer = post(client, cutout, "ditch", name)
                except httpx.TransportError:
                    return
                assert answer.status_code == 200
                acknowledged.append((name, cutout))

    with ThreadPoolExecutor(len(PEOPLE)) as pool:
        jobs = [pool.submit(judge_until_the_end, name) for name in PEOPLE]
        while len(acknowledged) < 100:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        for job in jobs:
            job.result()
    assert len(acknowledged) < len(PEOPLE) * (len(ids) - EACH), "killed too late to show anything"
    after = Review(people)
    kept = {(v.who, v.cutout) for v in after.verdicts.current(key) if v.verdict == "ditch"}
    assert set(acknowledged) <= kept
    assert len(after.verdicts.current(key)) == len(PEOPLE) * EACH + len(kept)
    for one in (review, after):
        one.close()
