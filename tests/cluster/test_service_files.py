"""The files of cluster/service are what systemd, Prometheus and Grafana take, and name metrics that there are."""

import json
import logging
import re
import shlex
import shutil
import subprocess

import pytest
import typer
import yaml
from cluster.conftest import DEPLOYMENTS
from prometheus_client import generate_latest

from deepstreaks_dask.cli.main import app
from deepstreaks_dask.service.monitor import Monitor

FOLDER = DEPLOYMENTS / "service"
UNIT = FOLDER / "deepstreaks-watch.service"


def tool(name):
    return shutil.which(name) or pytest.skip(f"{name} is not installed")


def said_by(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    return done.returncode, done.stdout + done.stderr


def test_systemd_takes_the_unit(tmp_path):
    """With a program that there is in place of the one that an installation brings."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/deepstreaks/bin/deepstreaks", "/bin/true"))
    status, said = said_by(tool("systemd-analyze"), "verify", "--man=no", str(unit))
    assert (status, said) == (0, "")


def test_the_command_of_the_unit_is_understood():
    text = UNIT.read_text().replace("\\\n", " ")
    line = re.search(r"^ExecStart=\S+/deepstreaks (.*)$", text, re.M)[1]
    settings = dict(
        line.split("=", 1)
        for line in (FOLDER / "watch.conf").read_text().splitlines()
        if line and not line.startswith("#")
    )
    line = line.replace("%d", "/run/credentials")
    for name, value in settings.items():
        line = line.replace(f"${{{name}}}", value).replace(f"${name}", value)
    assert "$" not in line
    name, *arguments = shlex.split(line)
    command = typer.main.get_command(app).commands[name]
    context = command.make_context("deepstreaks watch", arguments)
    assert context.params["webhook"].name == "webhook"
    assert context.params["depot"].startswith("https://")
    secrets = re.findall(r"^LoadCredential=(\w+):", text, re.M)
    assert sorted(secrets) == sorted(re.findall(r"%d/(\w+)", text))


def test_prometheus_takes_the_rules_and_they_do_what_they_say():
    promtool = tool("promtool")
    status, said = said_by(promtool, "check", "rules", str(FOLDER / "alerts.yaml"))
    assert status == 0, said
    status, said = said_by(promtool, "test", "rules", "alerts_test.yaml", cwd=FOLDER)
    assert status == 0, said


def test_every_rule_is_tested_to_be_silent_in_a_quiet_night():
    rules = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
    quiet, *_ = yaml.safe_load((FOLDER / "alerts_test.yaml").read_text())["tests"]
    assert [one["alert"] for one in rules] == [one["alertname"] for one in quiet["alert_rule_test"]]


def test_grafana_takes_the_dashboard():
    """Each of its keys is one that Grafana's model of dashboards has: what it does not know would be gone."""
    model = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder")
    written = json.loads((FOLDER / "dashboard.json").read_text())
    text = encoder.JSONEncoder().encode(model.Dashboard.from_json(written))
    assert not list(lost(written, json.loads(text)))


def lost(written, kept, where=""):
    """What of a JSON is not in another one."""
    if isinstance(written, dict) and isinstance(kept, dict):
        for key, value in written.items():
            if key in kept:
                yield from lost(value, kept[key], f"{where}.{key}")
            elif value not in (None, [], {}):
                yield f"{where}.{key}"
    elif isinstance(written, list) and isinstance(kept, list):
        for k, value in enumerate(written):
            yield from lost(value, kept[k], f"{where}[{k}]")
    elif written != kept:
        yield where


def test_every_metric_that_is_named_is_served():
    served = generate_latest(Monitor(logging.getLogger("x"), 1.0).registry).decode()
    there = set(re.findall(r"^(deepstreaks_\w+)", served, re.M))
    for name in ("alerts.yaml", "alerts_test.yaml", "dashboard.json"):
        named = set(re.findall(r"deepstreaks_watch_\w+", (FOLDER / name).read_text()))
        assert named
        assert named <= there, name
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
