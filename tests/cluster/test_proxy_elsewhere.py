"""The dashboards of compose.yaml behind its proxy, which has another address: each a host of its own."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import yaml
from cluster.conftest import DEPLOYMENTS
from helpers import random_batch, write_run

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.review.database import Review, default_url

PASSWORD = "correct horse battery"
DOCKER = DEPLOYMENTS / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
PROXY = COMPOSE["services"]["proxy"]["networks"]["site"]["ipv4_address"]
DASHBOARDS = PROXY.rpartition(".")[0] + ".3"
STRANGER, PERSON, OUTSIDE = "192.0.2.9", "192.0.2.10", "192.0.2.1"
# 24 wrong guesses of a stranger who claims other addresses, then a person who knows the password.
CLIENT = """
import httpx, json, ssl, sys
verify = ssl.create_default_context(cafile=sys.argv[1])
def log_in(address, password, name="anna", headers={}):
    transport = httpx.HTTPTransport(verify=verify, local_address=address)
    with httpx.Client(transport=transport, base_url="https://streaks.example.org:8443", timeout=300) as client:
        answer = client.post("/api/v1/login", json={"name": name, "password": password}, headers=headers)
        return [answer.status_code, answer.headers.get_list("set-cookie")]
wrong = [log_in("192.0.2.9", f"wrong {k}", headers={"X-Forwarded-For": f"10.0.0.{k}"}) for k in range(24)]
print(json.dumps({"wrong": [status for status, _ in wrong], "right": log_in("192.0.2.10", sys.argv[2])}))
"""


def _ip(*arguments):
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def _plug(first, address, second, other):
    """Join two hosts by a cable."""
    name = f"c{address.replace('.', '')[-9:]}"
    _ip("-n", first, "link", "add", name, "type", "veth", "peer", "name", name, "netns", second)
    for host, own in ((first, address), (second, other)):
        _ip("-n", host, "addr", "add", f"{own}/24", "dev", name)
        _ip("-n", host, "link", "set", name, "up")
    return name


@pytest.fixture
def hosts():
    """Names of three hosts: the dashboards', the proxy's, and that of the people outside."""
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("network namespaces want root and the command 'ip' (Debian's iproute2)")
    names = [f"dp{os.getpid()}-{k}" for k in range(3)]
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        dashboards, proxy, people = names
        _plug(dashboards, DASHBOARDS, proxy, PROXY)
        cable = _plug(people, STRANGER, proxy, OUTSIDE)
        _ip("-n", people, "addr", "add", f"{PERSON}/24", "dev", cable)
        yield names
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here: {error.stderr}")
    finally:
        for name in names:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)


def _arguments(archive):
    """Return the command of compose.yaml for an archive here, with SQLite beside it."""
    command = [str(part) for part in COMPOSE["services"]["dashboards"]["command"]]
    at = command.index("--database")
    del command[at : at + 2]
    text = [part.replace("/data/survey.zarr", str(archive)) for part in command[1:]]
    return [part.replace("${SITE:?name of the site}", "streaks.example.org:8443") for part in text]


def _serves(host, address, port, process):
    """Wait until somebody listens at a port of another host."""
    probe = f"import socket; socket.create_connection(({address!r}, {port}), 5)"
    for _ in range(600):
        assert process.poll() is None, "it ended"
        asked = ["ip", "netns", "exec", host, sys.executable, "-c", probe]
        if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
    pytest.fail("it does not listen")


def test_a_stranger_is_counted_by_the_own_address_though_all_come_by_one_proxy(hosts, tmp_path):
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    archive = tmp_path / "week.zarr"
    create_archive(archive, shard=64)
    append_batches(archive, [random_batch(64)])
    write_run(archive, "default", ["rb_a", "sl_a", "kd_a"], [[0.9] * 3] * 64)
    review = Review(default_url(archive))
    review.accounts.add_user("anna", PASSWORD)
    review.accounts.add_user("root", PASSWORD, "administrator")
    secrets = tmp_path / "secrets"
    subprocess.run(
        [DOCKER / "secrets.sh", "streaks.example.org"],
        env={**os.environ, "DEEPSTREAKS_SECRETS": str(secrets)},
        check=True,
        capture_output=True,
    )
    text = (DOCKER / "nginx.conf").read_text()
    for there, here in (
        (" /tmp/", f" {tmp_path}/"),
        ("http://dashboards:5006", f"http://{DASHBOARDS}:5006"),
        ("/run/secrets/", f"{secrets}/"),
    ):
        assert there in text
        text = text.replace(there, here)
    (tmp_path / "nginx.conf").write_text(f"user root;\n{text}")
    dashboards, proxy, people = hosts
    inside = ["ip", "netns", "exec"]
    commands = [
        [*inside, dashboards, sys.executable, "-m", "deepstreaks_dask", *_arguments(archive)],
        [*inside, proxy, nginx, "-c", str(tmp_path / "nginx.conf"), "-g", "daemon off;"],
    ]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    try:
        _serves(proxy, DASHBOARDS, 5006, running[0])
        _serves(people, OUTSIDE, 8443, running[1])
        names = tmp_path / "hosts"  # in place of the name server, for this host alone
        names.write_text(f"{OUTSIDE} streaks.example.org\n")
        client = [sys.executable, "-c", CLIENT, str(secrets / "site_certificate"), PASSWORD]
        script = 'mount --bind "$0" /etc/hosts && exec "$@"'
        done = subprocess.run(
            [*inside, people, "sh", "-c", script, str(names), *client],
            check=True,
            capture_output=True,
            text=True,
        )
    finally:
        for process in running:
            process.terminate()
            process.wait(60)
    said = json.loads(done.stdout)
    assert said["wrong"][:5] == [401] * 5
    assert 429 in said["wrong"]
    status, cookies = said["right"]
    assert status == 200, "a stranger has locked a person out"
    assert all(one.startswith("__Host-") and "Secure" in one for one in cookies)
    log = review.database.audit_log(limit=1000)
    assert {one["address"] for one in log if one["what"] == "log-in refused"} == {STRANGER}
    assert [one["address"] for one in log if one["what"] == "logged in"] == [PERSON]
    review.close()
