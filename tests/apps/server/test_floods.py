"""Log-in floods, half-sent requests, proxies and JSON that no JSON should be: what a stranger may send."""

import asyncio
import json
import socket
import threading

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient

from deepstreaks_dask.apps.review.app import create_app
from deepstreaks_dask.apps.server import guard, protocol, site
from deepstreaks_dask.apps.server.addresses import (
    address_group,
    shared_machine_warning,
    trusted_networks,
)
from deepstreaks_dask.apps.server.auth import CSRF_HEADER
from deepstreaks_dask.apps.server.options import SiteOptions
from deepstreaks_dask.apps.server.password_pool import BusyError, PasswordPool
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.utils.spreadsheets import to_csv

PASSWORD = "correct horse battery"
LOGIN = {"name": "anna", "password": PASSWORD}


@pytest.fixture
def database(tmp_path):
    return f"sqlite:///{tmp_path}/review.sqlite"


@pytest.fixture
def secure(reviewed, people):
    """A browser at the site as a proxy with TLS shows it, though the proxy does not say so."""
    options = SiteOptions(database=people)
    made = create_app(reviewed, options, hosts={"testserver"}, dashboards={}, secure=True)
    yield TestClient(made, base_url="https://testserver", follow_redirects=False)
    made.state.site.review.close()


def enter(client, name="anna", **more):
    answer = client.post("/api/v1/login", json={"name": name, "password": PASSWORD, **more})
    assert answer.status_code == 200, answer.text
    client.headers[CSRF_HEADER] = answer.json()["csrf"]
    return answer


def test_a_full_line_refuses_at_once_and_others_are_served_meanwhile(app, monkeypatch):
    """All threads for passwords are held; nothing here waits for a clock."""
    held, site = threading.Event(), app.state.site
    site.passwords = PasswordPool(threads=2, waiting=1)
    real = site.review.accounts.log_in

    def log_in(*arguments, **more):
        held.wait()
        return real(*arguments, **more)

    client = TestClient(app)
    enter(client)
    monkeypatch.setattr(site.review.accounts, "log_in", log_in)

    async def main():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as many:
            tasks = {asyncio.create_task(many.post("/api/v1/login", json=LOGIN)) for _ in range(9)}
            refused = set()
            while len(refused) < 6:
                refused |= (await asyncio.wait(tasks - refused, return_when="FIRST_COMPLETED"))[0]
            seen = await many.get("/api/v1/nights", cookies=dict(client.cookies))
            held.set()
            done = await asyncio.gather(*tasks - refused)
        return [one.result() for one in refused], seen, done

    refused, seen, done = asyncio.run(main())
    assert {one.status_code for one in refused} == {503}
    assert all(int(one.headers["retry-after"]) > 0 for one in refused)
    assert seen.status_code == 200
    assert [one.status_code for one in done] == [200] * 3


def test_places_are_given_back_though_work_fails_or_nobody_waits_for_it():
    async def main():
        pool, go = PasswordPool(threads=1, waiting=0), threading.Event()
        gone = asyncio.create_task(pool.run(go.wait))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await pool.run(int)
        gone.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await gone
        for _ in range(1000):  # until the thread has ended the work that nobody waits for
            try:
                with pytest.raises(ValueError, match="invalid"):
                    await pool.run(lambda: int("x"))
                break
            except BusyError:
                await asyncio.sleep(0.01)
        while True:
            try:
                return await pool.run(lambda: 7)
            except BusyError:
                await asyncio.sleep(0)

    assert asyncio.run(main()) == 7


def test_there_are_two_to_four_threads_for_passwords(monkeypatch):
    for cores, threads in ((1, 2), (2, 2), (64, 4)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert PasswordPool().threads == threads


def test_cookies_of_a_secure_site_are_its_own_hosts_alone(secure):
    answer = enter(secure)
    cookies = answer.headers.get_list("set-cookie")
    assert len(cookies) == 2
    for cookie in cookies:
        assert cookie.startswith("__Host-")
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=strict"} <= set(cookie.split("; "))
        assert "Domain" not in cookie
    assert "max-age" in answer.headers["strict-transport-security"]
    assert secure.get("/api/v1/nights").status_code == 200
    assert secure.post("/api/v1/logout").status_code == 204
    assert secure.get("/api/v1/nights").status_code == 401


def test_cookies_are_secure_though_the_proxy_says_http(reviewed, people):
    options = SiteOptions(database=people)
    made = create_app(reviewed, options, hosts={"testserver"}, dashboards={}, secure=True)
    answer = TestClient(made).post("/api/v1/login", json=LOGIN)
    assert all("Secure" in one for one in answer.headers.get_list("set-cookie"))
    assert "strict-transport-security" in answer.headers


def test_administrators_of_a_site_that_others_reach_need_one_time_passwords(secure):
    import pyotp

    enter(secure, "root")
    refused = secure.get("/api/v1/users")
    assert (refused.status_code, "one-time passwords" in refused.json()["detail"]) == (403, True)
    assert secure.get("/admin").headers["location"] == "/account"
    token = {"name": "x", "scope": "administer"}
    assert secure.post("/api/v1/tokens", json=token).status_code == 403
    begun = secure.post("/api/v1/second-factor").json()
    totp = pyotp.parse_uri(begun["uri"])
    assert totp.secret == begun["secret"]
    codes = secure.post("/api/v1/second-factor/confirm", json={"code": totp.now()}).json()["codes"]
    assert secure.get("/api/v1/users").status_code == 200
    assert secure.post("/api/v1/tokens", json=token).status_code == 201
    needed = secure.post("/api/v1/login", json={"name": "root", "password": PASSWORD})
    assert (needed.status_code, needed.json()["code_needed"]) == (401, True)
    enter(secure, "root", code=codes[0])
    state = secure.get("/api/v1/second-factor").json()
    assert state == {"on": True, "required": True, "recovery_codes": 9}
    for code, status in (("000000", 403), (codes[1], 204)):
        removed = secure.post("/api/v1/second-factor/remove", json={"code": code})
        assert removed.status_code == status


def test_the_qr_code_is_the_address_of_the_authenticator(secure):
    segno = pytest.importorskip("segno")
    enter(secure)
    begun = secure.post("/api/v1/second-factor").json()
    wanted = segno.make(begun["uri"], micro=False, error="m")
    assert begun["modules"] == wanted.symbol_size(border=4)[0]
    dark = sum(map(sum, wanted.matrix))
    assert sum(int(part.split("v")[0]) for part in begun["path"].split("h")[1::2]) == dark


def test_a_token_makes_no_tokens_and_touches_no_account(of):
    root = of("root")
    for method, path, body in (
        ("POST", "/tokens", {"name": "x"}),
        ("DELETE", "/tokens/1", None),
        ("POST", "/password", {"old": PASSWORD, "new": "another good one"}),
        ("GET", "/sessions", None),
        ("POST", "/second-factor", None),
        ("POST", "/logout", None),
    ):
        refused = root.request(method, f"/api/v1{path}", json=body)
        assert (refused.status_code, "a token" in refused.json()["detail"]) == (403, True), path


def test_a_token_has_no_more_than_its_scope(client, app):
    enter(client)
    assert (
        client.post("/api/v1/tokens", json={"name": "x", "scope": "administer"}).status_code == 403
    )
    token = client.post("/api/v1/tokens", json={"name": "x"}).json()["token"]
    program = TestClient(app, headers={"Authorization": f"Bearer {token}"})
    assert program.get("/api/v1/nights").status_code == 200
    assert program.post("/api/v1/undo").status_code == 403
    (listed,) = program.get("/api/v1/tokens").json()
    assert (listed["scope"], listed["user"]) == ("read", "anna")


def test_refusals_and_exports_are_in_the_audit(of):
    vera, root = of("vera"), of("root")
    assert vera.post("/api/v1/undo").status_code == 403
    assert root.get("/api/v1/labels").status_code == 200
    log = [(one["who"], one["what"], one["detail"]) for one in root.get("/api/v1/audit").json()]
    assert ("vera", "refused", "POST /api/v1/undo") in log
    assert ("root", "labels exported", "0 cutouts") in log


@pytest.mark.parametrize(
    "body",
    [
        '{"id": NaN}',
        '{"id": "x", "marked": Infinity}',
        '{"id": "\\ud800", "verdict": "keep"}',
        '{"\\ud800": 1, "id": "x"}',
        '{"id": "x", "verdict": "\\udfff"}',
        "[" * 500,
        "{",
        "\xff",
    ],
)
def test_json_that_is_none_is_refused_and_nothing_fails(of, body):
    answer = of("anna").post(
        "/api/v1/verdicts",
        content=body.encode("latin-1"),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code in (400, 422)
    assert json.loads(answer.text)["detail"]


@pytest.fixture
def served(app, monkeypatch):
    """The site on a socket, with time limits of next to nothing."""
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.2)
    monkeypatch.setattr(guard, "_BODY_SECONDS", 0.2)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", **protocol.protocol_options()))
    listening, hosts = site.listen("127.0.0.1", 0)
    app.state.site.hosts = frozenset(hosts)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield listening.getsockname()
    server.should_exit = server.force_exit = True
    thread.join(60)


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET / HT", b"GET /login HTTP/1.1\r\nHost: x\r\nX: "],
)
def test_half_sent_requests_do_not_stay_open(served, begun):
    many = [socket.create_connection(served) for _ in range(30)]
    for one in many:
        one.sendall(begun)
    for one in many:
        assert one.recv(10_000) == b""  # waits until the server has closed it
        one.close()


def test_a_second_request_on_a_connection_may_not_stay_half_either(served):
    with socket.create_connection(served) as one:
        one.sendall(b"GET /favicon.ico HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\nGET /x" % served[1])
        answer = b""
        while part := one.recv(10_000):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200")


def test_a_body_that_does_not_come_is_not_awaited_for_ever(served):
    with socket.create_connection(served) as one:
        head = b"POST /api/v1/login HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 9\r\n\r\n{"
        one.sendall(head % served[1])
        assert one.recv(10_000).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_ipv6_is_counted_by_its_network(address, group):
    assert address_group(address) == group


def test_proxies_are_named_by_address_and_never_all_of_them():
    assert trusted_networks([]) == ("127.0.0.0/8", "::1/128")
    assert trusted_networks(["172.30.77.2", "fd00::/8"]) == ("172.30.77.2/32", "fd00::/8")
    for wrong in ("proxy", "0.0.0.0/0", "::/0", "10.0.0.1/8", ""):
        with pytest.raises(DeepStreaksError, match="--trusted-proxy"):
            trusted_networks([wrong])


@pytest.mark.parametrize(
    ("peer", "counted"),
    [("172.30.77.2", "203.0.113.9"), ("198.51.100.4", "198.51.100.4")],
)
def test_only_a_trusted_proxy_says_where_a_request_comes_from(app, peer, counted):
    """With uvicorn's own reading of the headers, as ``run_app`` configures it."""
    config = uvicorn.Config(
        app, proxy_headers=True, forwarded_allow_ips=",".join(trusted_networks(["172.30.77.2"]))
    )
    config.load()
    transport = httpx.ASGITransport(config.loaded_app, client=(peer, 1))
    claimed = {"X-Forwarded-For": "10.9.9.9, 203.0.113.9"}

    async def main():
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as one:
            return await one.post("/api/v1/login", json=LOGIN | {"password": "x"}, headers=claimed)

    assert asyncio.run(main()).status_code == 401
    assert app.state.site.review.database.audit_log(limit=1)[0]["address"] == counted


def test_a_key_is_in_no_command_that_opens_a_browser(monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(site.webbrowser, "open", opened.append)
    monkeypatch.setattr(site.tempfile, "tempdir", str(tmp_path))
    site.open_browser("http://127.0.0.1:5006/enter?key=SECRET&x")
    assert "SECRET" not in opened[0]
    (page,) = tmp_path.iterdir()
    assert opened == [page.as_uri()]
    assert page.stat().st_mode & 0o777 == 0o600
    assert "key=SECRET&amp;x" in page.read_text()


def test_people_who_share_a_machine_are_warned(monkeypatch):
    from collections import namedtuple

    user = namedtuple("user", "pw_name pw_uid pw_shell")
    people = [user("root", 0, "/bin/bash"), user("nobody", 65534, "/usr/sbin/nologin")]
    monkeypatch.setattr("os.getuid", lambda: 1000)
    people += [user("vera", 1000, "/bin/bash"), user("bot", 1002, "/usr/sbin/nologin")]
    monkeypatch.setattr("pwd.getpwall", lambda: people)
    assert shared_machine_warning("x") == ""
    people.append(user("anna", 1001, "/bin/zsh"))
    assert "anna" in shared_machine_warning("x")


def test_no_text_of_a_table_is_a_formula():
    import pandas as pd

    ids = ["=1+2", "+1", "-1", "@x", "\t=1", "c1", ""]
    text = to_csv(pd.DataFrame({"id": ids, "dx": [-1.5] * 7, "n": range(7)}))
    rows = [line.split(",") for line in text.splitlines()[1:]]
    assert [row[0].strip('"') for row in rows] == ["'=1+2", "'+1", "'-1", "'@x", "'\t=1", "c1", ""]
    assert {row[1] for row in rows} == {"-1.5"}
