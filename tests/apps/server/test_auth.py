"""Every route of every site, tried by nobody, by everybody, and from elsewhere."""

import numpy as np
import pytest
from fastapi.testclient import TestClient
from helpers import MADE_UP, random_batch, write_run
from starlette.routing import Mount
from starlette.websockets import WebSocketDisconnect

from deepstreaks_dask.apps.review.app import create_app
from deepstreaks_dask.apps.server.auth import CSRF_HEADER, SESSION_COOKIE
from deepstreaks_dask.apps.server.options import SiteOptions
from deepstreaks_dask.apps.server.site import make_loopback_app
from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.review.database import Review
from deepstreaks_dask.scoring.runs import Run
from deepstreaks_dask.simulation.sequences import LAYOUT, simulate_sequences
from deepstreaks_dask.simulation.tasks import get_task
from deepstreaks_dask.vocabulary import ROLES

PASSWORD = "correct horse battery"
OF = {"viewer": "vera", "reviewer": "anna", "administrator": "root"}
OPEN = "nobody"
# Who may, at the least. A route that is not here fails the tests: whoever adds one says here who may use it.
WHO = {
    ("GET", "/login"): OPEN,
    ("GET", "/favicon.ico"): OPEN,
    ("GET", "/assets/{name}"): OPEN,
    ("POST", "/api/v1/login"): OPEN,
    ("GET", "/"): "viewer",
    ("GET", "/review"): "viewer",
    ("GET", "/account"): "viewer",
    ("GET", "/explore"): "viewer",
    ("WS", "/explore/ws"): "viewer",
    ("GET", "/campaign"): "viewer",
    ("WS", "/campaign/ws"): "viewer",
    ("GET", "/static/extensions/panel"): "viewer",
    ("GET", "/static"): "viewer",
    ("GET", "/components/{path:path}"): "viewer",
    ("GET", "/api/v1/session"): "viewer",
    ("GET", "/api/v1/openapi.json"): "viewer",
    ("GET", "/api/v1/vocabulary"): "viewer",
    ("GET", "/api/v1/campaigns"): "viewer",
    ("GET", "/api/v1/streaks"): "viewer",
    ("GET", "/api/v1/streak"): "viewer",
    ("GET", "/api/v1/cutout"): "viewer",
    ("GET", "/api/v1/explanation"): "viewer",
    ("GET", "/api/v1/nights"): "viewer",
    ("GET", "/api/v1/completions"): "viewer",
    ("GET", "/api/v1/disagreements"): "viewer",
    ("GET", "/api/v1/tokens"): "viewer",
    ("POST", "/api/v1/tokens"): "viewer",
    ("DELETE", "/api/v1/tokens/{number}"): "viewer",
    ("GET", "/api/v1/sessions"): "viewer",
    ("DELETE", "/api/v1/sessions/{session}"): "viewer",
    ("GET", "/api/v1/second-factor"): "viewer",
    ("POST", "/api/v1/second-factor"): "viewer",
    ("POST", "/api/v1/second-factor/confirm"): "viewer",
    ("POST", "/api/v1/second-factor/remove"): "viewer",
    ("POST", "/api/v1/password"): "viewer",
    ("POST", "/api/v1/logout"): "viewer",
    ("POST", "/api/v1/verdicts"): "reviewer",
    ("POST", "/api/v1/undo"): "reviewer",
    ("GET", "/api/v1/export"): "reviewer",
    ("GET", "/admin"): "administrator",
    ("GET", "/api/v1/labels"): "administrator",
    ("GET", "/api/v1/users"): "administrator",
    ("POST", "/api/v1/users"): "administrator",
    ("PATCH", "/api/v1/users/{name}"): "administrator",
    ("GET", "/api/v1/audit"): "administrator",
    ("GET", "/api/v1/all-tokens"): "administrator",
    ("DELETE", "/api/v1/all-tokens/{number}"): "administrator",
    ("POST", "/api/v1/campaigns"): "administrator",
    ("POST", "/api/v1/campaigns/{run}/pause"): "administrator",
}
BODIES = {
    "/api/v1/verdicts": {"id": "nowhere", "verdict": "keep"},
    "/api/v1/users": {"name": "zoe", "password": "short"},
    "/api/v1/users/{name}": {"role": "viewer"},
    "/api/v1/tokens": {"name": "x"},
    "/api/v1/password": {"old": "wrong", "new": "another good one"},
    "/api/v1/second-factor/confirm": {"code": "000000"},
    "/api/v1/second-factor/remove": {"code": "000000"},
    "/api/v1/campaigns": {"run": "new", "workers": 1000},
}


@pytest.fixture
def database(tmp_path):
    """One is enough here: who may what is not the database's to say."""
    return f"sqlite:///{tmp_path}/review.sqlite"


@pytest.fixture
def site(reviewed, people):
    return create_app(reviewed, SiteOptions(database=people), hosts={"testserver"})


def table(routes):
    """List method and path of every route, those of mounted applications under their prefix."""
    for route in routes:
        if (router := getattr(route, "original_router", None)) is not None:
            yield from table(router.routes)
        elif isinstance(route, Mount):
            yield "GET", route.path
        elif (methods := getattr(route, "methods", None)) is not None:
            yield from ((method, route.path) for method in methods - {"HEAD"})
        else:
            yield "WS", route.path


def real(path):
    for name, value in (
        ("{name}", "ben"),
        ("{number}", "1"),
        ("{run}", "default"),
        ("{session}", "x"),
    ):
        path = path.replace(name, value)
    path = path.replace("{path:path}", "x")
    return f"{path}/x" if path.startswith("/static") else path


def enter(site, name):
    client = TestClient(site, follow_redirects=False)
    answer = client.post("/api/v1/login", json={"name": name, "password": PASSWORD})
    assert answer.status_code == 200
    client.headers[CSRF_HEADER] = answer.json()["csrf"]
    return client


def ask(client, method, path, **more):
    if method == "WS":
        try:
            with client.websocket_connect(path, **more):
                return 101
        except WebSocketDisconnect as refusal:
            return {1008: 401}.get(refusal.code, refusal.code)
        except Exception:  # Bokeh wants more than a socket to open one, but was asked
            return 400
    body = BODIES.get(path)
    arguments = (
        {"params": {"id": "nowhere", "member": "rb_vgg6"}}
        if method == "GET"
        else {"json": body or {}}
    )
    return client.request(method, real(path), **arguments, **more).status_code


def test_every_route_is_known(site):
    assert set(table(site.routes)) == set(WHO)


def test_nobody_gets_in(site):
    stranger = TestClient(site, follow_redirects=False)
    for (method, path), role in WHO.items():
        if role == OPEN:
            continue
        for headers in (
            {"Origin": "http://testserver"},
            {"Authorization": "Bearer ds_wrong"},
            {"Authorization": "Basic x"},
            {"Cookie": f"{SESSION_COOKIE}=guessed"},
        ):
            assert ask(stranger, method, path, headers=headers) == 401, (method, path, headers)
        if method == "GET" and not path.startswith("/api/"):
            page = stranger.get(real(path), headers={"Accept": "text/html"})
            assert (page.status_code, page.headers["location"]) == (303, "/login"), path
    assert stranger.get("/nowhere").status_code == 401


@pytest.mark.parametrize("role", ROLES)
def test_everybody_gets_as_far_as_the_role_goes(site, role):
    for (method, path), least in WHO.items():
        if least == OPEN or path == "/api/v1/logout":
            continue
        client = enter(site, OF[role])
        origin = {"Origin": "http://testserver"} if method == "WS" else {}
        status = ask(client, method, path, headers=origin)
        may = ROLES.index(role) >= ROLES.index(least)
        if path in ("/api/v1/password", "/api/v1/second-factor/remove"):
            assert status == 403  # that is not the password, nor the code
        else:
            assert (status != 403) == may, (role, method, path, status)
        assert status != 401, (role, method, path)
        assert status < 500, (role, method, path)


def test_no_change_without_the_second_secret(site):
    for (method, path), least in WHO.items():
        if method in ("GET", "WS") or least == OPEN:
            continue
        client = enter(site, "root")
        for secret in ("", "wrong", "0" * 64):
            client.headers[CSRF_HEADER] = secret
            assert ask(client, method, path) in (403, 422), (method, path)
            assert client.get("/api/v1/session").status_code == 200


def test_websockets_open_to_pages_of_this_site_alone(site):
    client = enter(site, "root")
    for method, path in WHO:
        if method != "WS":
            continue
        for origin in ("https://evil.example", "null", "http://testserver.evil.example"):
            assert ask(client, "WS", path, headers={"Origin": origin}) == 401, (path, origin)
        assert ask(client, "WS", path, headers={"Host": "evil.example"}) == 401


def test_one_archives_session_opens_no_other(site, tmp_path, people):
    """Neither a session, a token nor an id of one archive's site shows a cutout of another's."""
    url = str(tmp_path / "other.zarr")
    create_archive(url, shard=64)
    append_batches(url, [random_batch(64)])
    write_run(url, "default", ["rb_vgg6"], np.ones((64, 1), np.float32))
    theirs = f"sqlite:///{tmp_path}/theirs.sqlite"
    Review(theirs).accounts.add_user("root", PASSWORD, "administrator")
    other = create_app(url, SiteOptions(database=theirs), hosts={"testserver"}, dashboards={})
    here, there = enter(site, "root"), enter(other, "root")
    assert there.get("/api/v1/cutout", params={"id": "c3"}).status_code == 200
    assert here.get("/api/v1/cutout", params={"id": "c3"}).status_code == 404
    moved = TestClient(other, cookies={SESSION_COOKIE: here.cookies[SESSION_COOKIE]})
    assert moved.get("/api/v1/cutout", params={"id": "c3"}).status_code == 401
    token = site.state.site.review.accounts.add_token("root", "x")
    shown = {"Authorization": f"Bearer {token}"}
    assert TestClient(other).get("/api/v1/cutout?id=c3", headers=shown).status_code == 401
    for path in ("/explore", "/campaign", "/review"):  # no address names another archive
        page = here.get(path, params={"archive": url, "run": "../../other.zarr/runs/default"})
        assert page.status_code == 200
        assert "other.zarr" not in page.text


def test_sequences_are_behind_the_same_log_in(people, tmp_path):
    """There are no candidates of them to review: whoever is let in explores."""
    url = str(tmp_path / "objects.zarr")
    create_archive(url, **LAYOUT)
    append_batches(url, simulate_sequences(3, "hits", "rcnn"))
    member = {"name": "hits_rcnn", "version": "1", "sha256": "ab" * 32, "family": "hits"}
    classes = sorted(get_task("rcnn").classes)
    shard = open_archive(url).attrs["shard"]
    Run.create(url, "default", [member | {"threshold": 0.5}], 3, shard, classes=classes, **MADE_UP)
    site = create_app(url, SiteOptions(database=people), hosts={"testserver"})
    assert set(table(site.routes)) == set(WHO)
    stranger = TestClient(site, follow_redirects=False)
    for method, path in WHO:
        if WHO[method, path] != OPEN:
            origin = {"Origin": "http://testserver"}
            assert ask(stranger, method, path, headers=origin) == 401, (method, path)
    seen = stranger.get("/explore", headers={"Accept": "text/html"}, follow_redirects=True)
    assert seen.url.path == "/login"
    assert "objects.zarr" not in seen.text
    client = enter(site, "vera")
    page = client.get("/explore")
    assert page.status_code == 200
    assert "objects.zarr" in page.text
    assert client.get("/review").headers["location"] == "/explore"
    assert 'href="/review"' not in client.get("/account").text
    refused = client.get("/api/v1/streaks")
    assert (refused.status_code, "sequences evaluate" in refused.json()["detail"]) == (400, True)


OWN = {
    ("GET", "/enter"): OPEN,
    ("GET", "/favicon.ico"): OPEN,
    ("GET", "/api/v1/session"): "you",
    ("GET", "/api/v1/openapi.json"): "you",
    ("GET", "/api/v1/vocabulary"): "you",
    ("GET", "/api/v1/campaigns"): "you",
    ("POST", "/api/v1/campaigns"): "you",
    ("POST", "/api/v1/campaigns/{run}/pause"): "you",
}


def test_ones_make_loopback_app_opens_to_the_key_alone(reviewed):
    made = make_loopback_app(reviewed, {"/campaign": lambda: None}, hosts={"testserver"})
    panel = {key for key in WHO if key[1].startswith(("/campaign", "/static", "/components"))}
    assert set(table(made.routes)) == {*OWN, *panel}
    stranger = TestClient(made, follow_redirects=False)
    for method, path in [*OWN, *panel]:
        for headers in ({}, {"Cookie": "deepstreaks_key=guessed"}, {"Authorization": "Bearer x"}):
            status = ask(stranger, method, path, headers=headers)
            assert status == (200 if path == "/favicon.ico" else 401), (method, path)
    assert stranger.get("/enter", params={"key": "guessed"}).status_code == 401
    page = stranger.get("/campaign", headers={"Accept": "text/html"})
    assert (page.status_code, "printed" in page.text) == (401, True)
    answer = stranger.get("/enter", params={"key": made.state.site.key})
    assert (answer.status_code, answer.headers["location"]) == (303, "/campaign")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    body = {"run": "default", "workers": 1000}
    assert stranger.post("/api/v1/campaigns", json=body).status_code == 403
    csrf = stranger.get("/api/v1/session").json()["csrf"]
    refused = stranger.post("/api/v1/campaigns", json=body, headers={CSRF_HEADER: csrf})
    assert (refused.status_code, "workers" in refused.json()["detail"]) == (400, True)
    assert made.state.site.key not in repr(made.state.site)
