"""The recipes of docs/reverse-proxy.md, with a real nginx and a real Caddy."""

import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from helpers import random_batch, write_run
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from deepstreaks_dask.apps.server.auth import SESSION_COOKIE, cookie_name
from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.review.database import Review, default_url

PASSWORD = "correct horse battery"
RECIPES = (Path(__file__).parents[3] / "docs" / "reverse-proxy.md").read_text()
NGINX = (
    "daemon off;\npid {0}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n"
)
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def recipe(name):
    (found,) = re.findall(rf"<!-- {name} -->\n```\w+\n(.*?)```", RECIPES, re.S)
    return found


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def answers(port, process):
    deadline = time.monotonic() + 300
    while True:
        assert process.poll() is None, "it ended"
        assert time.monotonic() < deadline
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def proxied(request, tmp_path_factory, certificate):
    """The port of a proxy before a dashboard."""
    program = shutil.which(request.param) or shutil.which(request.param, path="/usr/sbin")
    if program is None:
        pytest.skip(f"there is no {request.param}: apt-get install {request.param}")
    folder = tmp_path_factory.mktemp(request.param)
    outside, inside, plain = free_port(), free_port(), free_port()
    url = folder / "week.zarr"
    create_archive(url, shard=64)
    append_batches(url, [random_batch(64)])
    write_run(url, "default", ["rb_a", "sl_a", "kd_a"], [[0.9] * 3] * 64)
    Review(default_url(url)).accounts.add_user("anna", PASSWORD)
    Review(default_url(url)).accounts.add_user("root", PASSWORD, "administrator")
    text = recipe(request.param).replace("127.0.0.1:5006", f"127.0.0.1:{inside}")
    config = folder / "config"
    if request.param == "nginx":
        for was, now in (
            ("review.example.org;", "localhost;"),
            ("listen 443", f"listen 127.0.0.1:{outside}"),
            ("listen 80", f"listen 127.0.0.1:{plain}"),
            ("/etc/ssl/review.example.org.pem", f"{certificate}/cert.pem"),
            ("/etc/ssl/review.example.org.key", f"{certificate}/key.pem"),
        ):
            assert was in text
            text = text.replace(was, now)
        paths = "".join(f"{name}_temp_path {folder}/{name};\n" for name in TEMPORARY)
        config.write_text(f"{NGINX.format(folder)}{paths}{text}}}\n")
        command = [program, "-p", str(folder), "-c", str(config)]
        subprocess.run([*command, "-t"], check=True, capture_output=True)
    else:
        assert "review.example.org {" in text
        site = f"https://localhost:{outside} {{\n tls {certificate}/cert.pem {certificate}/key.pem"
        heading = "{\n admin off\n auto_https off\n}\n"
        config.write_text(heading + text.replace("review.example.org {", site))
        command = [program, "run", "--adapter", "caddyfile", "--config", str(config)]
    dashboard = subprocess.Popen(
        [
            *(sys.executable, "-m", "deepstreaks_dask", "dashboard", str(url), "--app", "review"),
            *("--origin", f"https://localhost:{outside}", "--port", str(inside), "--no-show"),
        ],
        stdout=subprocess.DEVNULL,
    )
    environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
    proxy = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    try:
        answers(outside, proxy)
        answers(inside, dashboard)
        yield outside, plain if request.param == "nginx" else None
    finally:
        for process in (proxy, dashboard):
            process.terminate()
            process.wait(120)


@pytest.fixture
def tls(certificate):
    return ssl.create_default_context(cafile=certificate / "cert.pem")


@pytest.fixture
def client(proxied, tls):
    with httpx.Client(
        base_url=f"https://localhost:{proxied[0]}", verify=tls, timeout=300
    ) as client:
        yield client


def log_in(client, name="anna", password=PASSWORD, **headers):
    body = {"name": name, "password": password}
    return client.post("/api/v1/login", json=body, headers=headers)


def test_a_review_through_tls(client):
    assert client.get("/api/v1/nights").status_code == 401
    assert "log in" in client.get("/", follow_redirects=True).text.lower()
    answer = log_in(client, Origin=str(client.base_url).rstrip("/"))
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith("__host-")
    wanted = {"httponly", "secure", "samesite=strict", "path=/"}
    assert wanted <= {one.strip() for one in cookie.split(";")}
    assert "domain" not in cookie
    assert "max-age" in answer.headers["strict-transport-security"]
    csrf = {"X-CSRF-Token": answer.json()["csrf"]}
    first = client.get("/api/v1/streaks", params={"limit": 1}).json()["id"]
    assert client.get("/api/v1/cutout", params={"id": first}).content.startswith(b"\x89PNG")
    said = client.post("/api/v1/verdicts", json={"id": first, "verdict": "keep"}, headers=csrf)
    assert said.json()["verdict"] == "keep"
    large = client.post("/api/v1/verdicts", content=b"x" * 200_000, headers=csrf)
    assert large.status_code == 413


@pytest.mark.parametrize("page", ["explore", "campaign"])
def test_websockets_through_tls(proxied, client, tls, page):
    log_in(client)
    token = re.search(r'"token":\s*"([^"]+)"', client.get(f"/{page}").text)[1]
    address = f"wss://localhost:{proxied[0]}/{page}/ws"
    name = cookie_name(SESSION_COOKIE, secure=True)
    cookie = {"Cookie": f"{name}={client.cookies[name]}"}
    origin = f"https://localhost:{proxied[0]}"
    given = {"subprotocols": ["bokeh", token], "ssl": tls}
    with connect(address, origin=origin, additional_headers=cookie, **given) as opened:
        assert "ACK" in opened.recv(60)
    for other, headers in ((origin, {}), ("https://evil.example", cookie)):
        with (
            pytest.raises(InvalidStatus),
            connect(address, additional_headers=headers, origin=other, **given),
        ):
            pass


def test_guesses_are_counted_by_the_address_they_come_from(client):
    """A client cannot get rid of its failures by naming other addresses."""
    for k in range(20):
        log_in(client, f"nobody{k}", "wrong password", **{"X-Forwarded-For": f"10.0.0.{k}"})
    other = {"X-Forwarded-For": "10.9.9.9"}
    # each waits twice as long as the one before: a machine that stalls for seconds passes one of them, not all
    assert any(
        log_in(client, "somebody", "wrong password", **other).status_code == 429 for _ in range(4)
    )


def test_what_is_not_encrypted_is_sent_to_where_it_is(proxied):
    if proxied[1] is None:
        pytest.skip("Caddy does this by itself on port 80")
    answer = httpx.get(f"http://localhost:{proxied[1]}/review", timeout=300)
    assert answer.status_code == 301
    assert answer.headers["location"].startswith("https://")
