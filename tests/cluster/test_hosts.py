"""Several hosts over a network of their own, with TLS; one is cut off in the middle of a campaign and brought back.

The hosts are network namespaces of this machine: the scheduler in one, which has the switch, and the workers in two
others, started by cluster/ssh with SSH where its server is installed.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from cluster.conftest import DEPLOYMENTS, SHARDS

from deepstreaks_dask.scoring.runs import open_run

SCRIPT = DEPLOYMENTS / "ssh" / "campaign.sh"


def _ip(*arguments):
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


class Hosts:
    """Three namespaces: 10.213.7.1 with the switch, 10.213.7.2 and 10.213.7.3 on it."""

    def __init__(self):
        self.hub, *self.workers = (f"ds{os.getpid()}-{k}" for k in range(3))
        self.addresses = [f"10.213.7.{k}" for k in (1, 2, 3)]

    def __enter__(self):
        _ip("netns", "add", self.hub)
        _ip("-n", self.hub, "link", "set", "lo", "up")
        _ip("-n", self.hub, "link", "add", "switch", "type", "bridge")
        _ip("-n", self.hub, "addr", "add", f"{self.addresses[0]}/24", "dev", "switch")
        _ip("-n", self.hub, "link", "set", "switch", "up")
        for k, (name, address) in enumerate(zip(self.workers, self.addresses[1:], strict=True)):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            plug = ["link", "add", f"plug{k}", "type", "veth", "peer", "name", "eth0"]
            _ip("-n", self.hub, *plug, "netns", name)
            _ip("-n", self.hub, "link", "set", f"plug{k}", "master", "switch", "up")
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
        return self

    def __exit__(self, *_):
        for name in (self.hub, *self.workers):
            with suppress(subprocess.CalledProcessError):
                self.signal(name, signal.SIGKILL)
                _ip("netns", "del", name)

    def plug(self, k, state):
        """Pull or put in the cable of a worker."""
        _ip("-n", self.hub, "link", "set", f"plug{k}", state)

    def signal(self, name, number):
        for pid in _ip("netns", "pids", name).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), number)

    def start(self, name, command, **options):
        return subprocess.Popen(["ip", "netns", "exec", name, *command], **options)


@pytest.fixture
def hosts():
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("network namespaces want root and the command 'ip' (Debian's iproute2)")
    made = Hosts()
    try:
        made.__enter__()
    except subprocess.CalledProcessError as error:
        made.__exit__()
        pytest.skip(f"network namespaces cannot be made here: {error.stderr}")
    yield made
    made.__exit__()


@pytest.fixture
def reach(hosts, tmp_path):
    """Command that reaches the hosts: SSH to servers of their own, or a stand-in that goes there."""
    server = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    if server is None:
        names = dict(zip(hosts.addresses[1:], hosts.workers, strict=True))
        cases = "\n".join(
            f'{a}) shift; ip netns exec {n} bash -c "$*" ;;' for a, n in names.items()
        )
        stand_in = tmp_path / "ssh"
        stand_in.write_text(f'#!/bin/bash\ncase "$1" in\n{cases}\nesac\n')
        stand_in.chmod(0o755)
        yield str(stand_in)
        return
    for name in ("host", "user"):
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name]
        subprocess.run(key, check=True)
    Path("/run/sshd").mkdir(exist_ok=True)  # where it parts with its privileges
    # Its own files only: neither configuration nor keys of this machine.
    options = [
        *("-D", "-e", "-f", "/dev/null", "-h", tmp_path / "host"),
        *("-o", f"AuthorizedKeysFile={tmp_path}/user.pub", "-o", "StrictModes=no"),
        *("-o", "PasswordAuthentication=no", "-o", "PermitRootLogin=prohibit-password"),
        *("-o", "PidFile=none", "-o", "UsePAM=no"),
    ]
    with (tmp_path / "sshd.log").open("wb") as log:
        servers = [hosts.start(name, [server, *options], stderr=log) for name in hosts.workers]
    known = tmp_path / "known_hosts"
    public = " ".join((tmp_path / "host.pub").read_text().split()[:2])
    known.write_text("".join(f"{address} {public}\n" for address in hosts.addresses[1:]))
    yield (
        f"ssh -F /dev/null -o BatchMode=yes -i {tmp_path}/user -o UserKnownHostsFile={known} "
        "-o StrictHostKeyChecking=yes"
    )
    for one in servers:
        one.kill()
        one.wait()


def test_a_host_that_is_cut_off_and_comes_back_changes_nothing(
    hosts, reach, tmp_path, environment, commands, campaign, tiny
):
    url, expected = campaign
    (tmp_path / "hosts.txt").write_text("# two machines\n" + "\n".join(hosts.addresses[1:]) + "\n")
    settings = {
        "DEEPSTREAKS_HOST": hosts.addresses[0],
        "DEEPSTREAKS_SSH": reach,
        "DEEPSTREAKS_BIN": str(commands),
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",  # until the loss is noticed
    }
    command = [SCRIPT, tmp_path / "hosts.txt", url, "--run", "hosts", "--zoo", tiny, "--json"]
    log = tmp_path / "campaign.log"
    with log.open("wb") as file:
        running = hosts.start(
            hosts.hub, command, stdout=file, stderr=file, env={**os.environ, **settings}
        )
    try:
        _wait(log, running, lambda said: len(_lines("Register", hosts.addresses[2], said)) == 1)
        _wait(log, running, lambda _: 4 <= _chunks(url) < SHARDS - 8)
        hosts.signal(hosts.workers[0], signal.SIGSTOP)  # keeps work for the one that comes back
        hosts.plug(1, "down")
        _wait(log, running, lambda said: _lines("Remove", hosts.addresses[2], said))
        left = SHARDS - _chunks(url)
        hosts.plug(1, "up")
        _wait(log, running, lambda said: len(_lines("Register", hosts.addresses[2], said)) == 2)
        hosts.signal(hosts.workers[0], signal.SIGCONT)
        assert running.wait(300) == 0, log.read_text()
    finally:
        hosts.signal(hosts.workers[0], signal.SIGCONT)
        running.terminate()
        running.wait(60)
    assert left > 0
    said = log.read_text()
    assert f'"scored": {len(expected)}' in said
    assert "tcp://" not in said
    np.testing.assert_array_equal(open_run(url, "hosts")["scores"].values, expected)


def _lines(what, address, said):
    return re.findall(rf"{what} worker addr: tls://{re.escape(address)}:\d+", said)


def _chunks(url):
    return len(list((url / "runs" / "hosts" / "scores" / "c").glob("*/0")))


def _wait(log, running, done):
    for _ in range(8000):
        if done(log.read_text(errors="replace")):
            return
        if running.poll() is not None:
            break
        time.sleep(0.05)
    pytest.fail(f"the campaign did not come so far:\n{log.read_text(errors='replace')}")
