"""The HTTP API and the log-in before it, as programs and browsers meet them."""

import io
import json
import re
import threading
import time
from collections import OrderedDict

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from starlette.websockets import WebSocketDisconnect

from deepstreaks_dask import vocabulary
from deepstreaks_dask.apps.review.app import serve
from deepstreaks_dask.apps.server.auth import CSRF_HEADER, SESSION_COOKIE
from deepstreaks_dask.apps.server.options import Listener, SiteOptions
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.report import explanation_maps as explanations
from deepstreaks_dask.review import accounts
from deepstreaks_dask.review.database import default_url

PASSWORD = "correct horse battery"
MEMBERS = ["rb_vgg6", "sl_vgg6", "kd_vgg6"]


def log_in(client, name="anna"):
    answer = client.post("/api/v1/login", json={"name": name, "password": PASSWORD})
    assert answer.status_code == 200
    return {CSRF_HEADER: answer.json()["csrf"]}


def lines(answer):
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def streaks(client, **parameters):
    return lines(client.get("/api/v1/streaks", params=parameters))


def test_log_in_and_out(client):
    assert "password" in client.get("/login").text
    assert client.get("/api/v1/nights").status_code == 401
    csrf = log_in(client)
    assert client.get("/api/v1/nights").status_code == 200
    for page in ("review", "account"):
        assert "anna, reviewer" in client.get(f"/{page}").text
    assert client.get("/admin").status_code == 403
    assert client.post("/api/v1/logout").status_code == 403  # no page of ours asked
    assert client.post("/api/v1/logout", headers=csrf).status_code == 204
    assert client.get("/api/v1/nights").status_code == 401


def test_wrong_passwords_are_refused_and_slowed(client, monkeypatch):
    now = time.time()
    monkeypatch.setattr(accounts, "current_time", lambda: now)
    answers = [
        client.post("/api/v1/login", json={"name": "anna", "password": f"wrong {k}"})
        for k in range(7)
    ]
    assert [a.status_code for a in answers] == [401] * 5 + [429] * 2
    assert int(answers[-1].headers["retry-after"]) >= 1
    right = client.post("/api/v1/login", json={"name": "anna", "password": PASSWORD})
    assert right.status_code == 429


def test_cookies_and_headers(client):
    answer = client.post("/api/v1/login", json={"name": "anna", "password": PASSWORD})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie
    secure = TestClient(client.app, base_url="https://testserver")
    answer = secure.post("/api/v1/login", json={"name": "anna", "password": PASSWORD})
    assert "secure" in answer.headers["set-cookie"].lower()
    assert "max-age" in answer.headers["strict-transport-security"]
    for path in ("/login", "/review", "/assets/site.js", "/api/v1/nights", "/nowhere"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in client.get("/review").headers["content-security-policy"]


def test_other_sites_cannot_act_for_a_browser(client):
    csrf = log_in(client)
    body = {"id": streaks(client)[0]["id"], "verdict": "keep"}
    for headers in ({}, {CSRF_HEADER: "wrong"}, {CSRF_HEADER: "\xff"}):
        raw = [(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
        assert client.post("/api/v1/verdicts", json=body, headers=raw).status_code == 403
    assert client.post("/api/v1/verdicts", json=body, headers=csrf).status_code == 200
    login = {"name": "anna", "password": PASSWORD}
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert client.post("/api/v1/login", json=login, headers=headers).status_code == 403
    assert client.get("/login", headers={"Host": "evil.example"}).status_code == 421
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/explore/ws", headers={"Origin": "https://evil.example"}),
    ):
        pass


def test_streaks_are_filtered_sorted_and_paged(of, reviewed):
    anna, dataset = of("anna"), open_archive(reviewed)
    everything = streaks(anna, where="")
    assert len(everything) == 180
    found = streaks(anna)
    truth = dataset["label_os"].values == 1
    assert {row["id"] for row in found} == set(dataset["id"].values[truth])
    night = int(dataset["night"].values[0])
    some = streaks(anna, where=f'night == {night} and rb > 0.5 and not "x" in kind')
    assert some
    assert all(row["night"] == night and row["scores"]["rb"] > 0.5 for row in some)
    page = anna.get(
        "/api/v1/streaks",
        params={"where": "", "sort": "mag", "descending": True, "limit": 10, "offset": 5},
    )
    assert page.headers["x-total-count"] == "180"
    assert page.headers["content-type"].startswith("application/x-ndjson")
    mags = np.sort(dataset["mag"].values[np.isfinite(dataset["mag"].values)])[::-1]
    assert [row["mag"] for row in lines(page)] == pytest.approx(mags[5:15])
    assert streaks(anna, where="rb > 2") == []


@pytest.mark.parametrize(
    ("parameters", "status", "start"),
    [
        ({"where": "rbb > 1"}, 400, 0),
        ({"where": "rb > 1 and x"}, 400, 11),
        ({"sort": "nowhere"}, 400, None),
        ({"limit": 10_001}, 422, None),
        ({"where": "x" * 2001}, 422, None),
    ],
)
def test_wrong_questions_are_explained(of, parameters, status, start):
    answer = of("anna").get("/api/v1/streaks", params=parameters)
    assert answer.status_code == status
    assert answer.json().get("start") == start


def test_verdicts_are_kept_apart_and_shown_beside_ones_own(of):
    anna, ben, root = of("anna"), of("ben"), of("root")
    one = streaks(anna)[0]["id"]
    said = anna.post("/api/v1/verdicts", json={"id": one, "verdict": "keep", "note": "faint"})
    assert said.json()["verdict"] == "keep"
    seen = ben.get("/api/v1/streak", params={"id": one}).json()
    assert (seen["people"], seen["others"], seen["mine"]) == (1, [], None)
    assert ben.get("/api/v1/disagreements").json() == []
    ben.post("/api/v1/verdicts", json={"id": one, "verdict": "bogus"})
    seen = ben.get("/api/v1/streak", params={"id": one}).json()
    assert [(v["who"], v["verdict"]) for v in seen["others"]] == [("anna", "keep")]
    for someone in (anna, ben, root):
        assert {row["cutout"] for row in someone.get("/api/v1/disagreements").json()} == {one}
    assert [row["id"] for row in streaks(anna, where='verdict == "keep"')] == [one]
    assert [row["id"] for row in streaks(root, where="disputed and people == 2")] == [one]
    assert ben.post("/api/v1/undo").json()["verdict"] == ""
    assert ben.post("/api/v1/undo").status_code == 400
    (label,) = lines(root.get("/api/v1/labels"))
    assert (label["id"], label["label_kd"], label["label_sl"]) == (one, 1, -1)


def test_progress_counts_a_nights_candidates(of):
    anna = of("anna")
    first = streaks(anna)[0]
    anna.post("/api/v1/verdicts", json={"id": first["id"], "verdict": "keep"})
    nights = {row["night"]: row for row in anna.get("/api/v1/nights").json()}
    assert len(nights) == 3
    assert nights[first["night"]]["mine"] == 1
    assert sum(row["mine"] for row in nights.values()) == 1
    assert sum(row["candidates"] for row in nights.values()) == len(streaks(anna))
    assert sum(row["mine"] for row in of("ben").get("/api/v1/nights").json()) == 0
    assert sum(row["anybody"] for row in of("ben").get("/api/v1/nights").json()) == 1


def test_pictures_are_the_archives_pixels(of, reviewed):
    import io

    from PIL import Image

    anna, dataset = of("anna"), open_archive(reviewed)
    answer = anna.get("/api/v1/cutout", params={"id": str(dataset["id"].values[77])})
    assert answer.headers["content-type"] == "image/png"
    shown = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert (shown == dataset["cutouts"][77].values).all()
    for wrong in ("nowhere", "../../etc/passwd", "a\0b"):
        assert anna.get("/api/v1/cutout", params={"id": wrong}).status_code == 404


def test_details(of):
    anna = of("anna")
    one = streaks(anna)[0]["id"]
    seen = anna.get("/api/v1/streak", params={"id": one}).json()
    assert set(seen["scores"]) == set(MEMBERS)
    assert seen["streak"]["id"] == one
    assert seen["ades"]["obsSubID"] == one
    assert isinstance(seen["along"], list)


def test_marked_streaks_become_ades(of):
    anna, ben = of("anna"), of("ben")
    first, second = (row["id"] for row in streaks(anna)[:2])
    assert anna.get("/api/v1/export", params={"submitter": "J. Doe"}).status_code == 404
    for one in (first, second):
        anna.post("/api/v1/verdicts", json={"id": one, "verdict": "keep", "marked": True})
    ben.post("/api/v1/verdicts", json={"id": second, "verdict": "ditch"})
    assert anna.get("/api/v1/export").status_code == 400
    answer = anna.get("/api/v1/export", params={"submitter": "J. Doe"})
    assert answer.status_code == 200, answer.text
    assert first in answer.text
    assert second not in answer.text
    assert answer.headers["x-written"] == "1"
    wrong = anna.get("/api/v1/export", params={"submitter": "J. Doe\n# evil"})
    assert wrong.status_code == 400


def test_an_administrator_ends_a_session(client, app, of):
    csrf = log_in(client)
    root = of("root")
    assert root.patch("/api/v1/users/anna", json={"active": False}).json()["active"] is False
    assert client.get("/api/v1/nights").status_code == 401
    again = client.post("/api/v1/login", json={"name": "anna", "password": PASSWORD})
    assert again.status_code == 401
    assert client.post("/api/v1/undo", headers=csrf).status_code == 401
    assert root.patch("/api/v1/users/nobody", json={"active": False}).status_code == 404
    assert root.patch("/api/v1/users/root", json={"active": False}).status_code == 400
    log = root.get("/api/v1/audit").json()
    assert ("root", "user disabled", "anna") in [(r["who"], r["what"], r["detail"]) for r in log]


def test_passwords_are_changed_by_who_knows_them(client):
    csrf = log_in(client)
    new = "staple battery horse"
    for old, status in (("wrong", 403), (PASSWORD, 204)):
        body = {"old": old, "new": new}
        assert client.post("/api/v1/password", json=body, headers=csrf).status_code == status
    assert client.get("/api/v1/nights").status_code == 401
    answer = client.post("/api/v1/login", json={"name": "anna", "password": new})
    assert answer.status_code == 200


def test_tokens_are_made_and_revoked(client):
    csrf = log_in(client)
    token = client.post("/api/v1/tokens", json={"name": "script"}, headers=csrf).json()["token"]
    program = TestClient(client.app, headers={"Authorization": f"Bearer {token}"})
    (listed,) = program.get("/api/v1/tokens").json()
    assert listed["name"] == "script"
    assert client.delete(f"/api/v1/tokens/{listed['id']}", headers=csrf).status_code == 204
    assert program.get("/api/v1/tokens").status_code == 401
    assert client.delete(f"/api/v1/tokens/{listed['id']}", headers=csrf).status_code == 404


def test_too_much_at_once_is_refused(client, of):
    anna = of("anna")
    assert anna.post("/api/v1/verdicts", content=b"x" * 70_000).status_code == 413
    assert (
        anna.post("/api/v1/verdicts", content=(b"x" * 1000 for _ in range(70))).status_code == 413
    )
    long = {"id": "x", "note": "x" * 2001}
    assert anna.post("/api/v1/verdicts", json=long).status_code == 422


def test_another_archives_cutouts_are_not_to_be_had(of, app):
    other = {"id": "20991231_0", "verdict": "keep"}
    assert of("anna").post("/api/v1/verdicts", json=other).status_code == 404
    site = app.state.site
    site.review.verdicts.judge("file:///another.zarr", "x", "anna", verdict="keep")
    assert of("anna").get("/api/v1/streak", params={"id": "x"}).status_code == 404
    assert lines(of("root").get("/api/v1/labels")) == []


def test_programs_and_pages_get_the_same_words(client, of):
    served = of("vera").get("/api/v1/vocabulary").json()
    assert served["verdicts"] == list(vocabulary.VERDICTS)
    assert served["lengths"] == list(vocabulary.LENGTHS)
    assert [one["name"] for one in served["roles"]] == list(vocabulary.ROLES)
    assert [one["name"] for one in served["roles"] if one["may_judge"]] == [
        *("reviewer", "administrator")
    ]
    assert [one["label_column"] for one in served["families"]] == list(vocabulary.LABEL_COLUMNS)
    resumable = [one["name"] for one in served["campaign_states"] if one["may_resume"]]
    assert resumable == ["stopped", "killed"]
    page = client.get("/login").text
    embedded = re.search(r'<script type="application/json" id="vocabulary">(.*?)</script>', page)
    assert json.loads(embedded[1]) == served


def test_completions(of):
    anna = of("anna")
    found = anna.get("/api/v1/completions", params={"text": "verdict == ", "position": 11})
    assert '"keep"' in [one["text"] for one in found.json()]


def test_serving_needs_an_administrator_and_encryption(archive, reviewed, tmp_path):
    options = SiteOptions(database=f"sqlite:///{tmp_path}/empty.sqlite")
    with pytest.raises(DeepStreaksError, match="users add"):
        serve(reviewed, options=options)
    with pytest.raises(DeepStreaksError, match="unencrypted"):
        serve(reviewed, options=options, listener=Listener(address="0.0.0.0"))
    with pytest.raises(DeepStreaksError, match="write it like"):
        serve(reviewed, options=options, listener=Listener(origin="http://review.example.org"))
    assert default_url(reviewed).endswith("week.zarr.review.sqlite")


def test_campaigns_are_begun_and_paused_by_administrators(of, started, reviewed):
    anna, root = of("anna"), of("root")
    (done,) = root.get("/api/v1/campaigns").json()
    assert (done["run"], done["state"], done["done"], done["cutouts"]) == (
        *("default", "done"),
        *(180, 180),
    )
    body = {"run": "new", "families": ["rb", "kd"], "workers": 1}
    assert anna.post("/api/v1/campaigns", json=body).status_code == 403
    assert started == []
    begun = root.post("/api/v1/campaigns", json=body)
    assert (begun.status_code, begun.json()["by"]) == (201, "root")
    ((*_, run, families, workers, _, url),) = started
    assert (run, families, workers, url) == (
        *("--run=new", "--families=rb,kd"),
        *("--workers=1", reviewed),
    )
    assert {one["run"] for one in anna.get("/api/v1/campaigns").json()} == {"default", "new"}
    assert anna.post("/api/v1/campaigns/new/pause").status_code == 403
    assert root.post("/api/v1/campaigns/default/pause").status_code == 400  # nothing is at work
    assert root.post("/api/v1/campaigns/nowhere/pause").status_code == 404
    for wrong in ({"run": "../x"}, {"run": "-x"}, {"zoo": "/etc"}, {"families": ["$(id)"]}):
        assert root.post("/api/v1/campaigns", json=wrong).status_code == 422


def test_schemathesis_finds_nothing(app, of):
    schemathesis = pytest.importorskip("schemathesis")
    pytest.importorskip("schemathesis.specs.openapi.checks")  # which not every version loads itself
    import hypothesis

    schema = schemathesis.openapi.from_asgi(
        "/api/v1/openapi.json", app, headers=dict(of("root").headers)
    )
    # A filter, an id and a note are free text to the schema, and most texts are none of them.
    checks = [
        schemathesis.checks.not_a_server_error,
        schemathesis.specs.openapi.checks.status_code_conformance,
        schemathesis.specs.openapi.checks.content_type_conformance,
        schemathesis.specs.openapi.checks.response_schema_conformance,
        schemathesis.specs.openapi.checks.negative_data_rejection,
    ]
    headers = dict(of("root").headers)
    tried = []
    for operation in schema.get_all_operations():
        operation = operation.ok()
        if operation.path in ("/api/v1/logout",):
            continue

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=5,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def hold(case):
            case.call_and_validate(headers=headers, checks=checks)
            tried.append(case)

        hold()
    assert len(tried) > 100
    assert SESSION_COOKIE not in headers


def test_scores_are_explained(of, client, monkeypatch):
    vera = of("vera")
    one = streaks(vera)[0]["id"]

    def ask(member, id=one):
        return vera.get("/api/v1/explanation", params={"id": id, "member": member})

    answer = ask("rb_vgg6")
    assert answer.status_code == 200, answer.text
    picture = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert picture.shape == (144, 144, 3)
    assert (picture[..., 0] > picture[..., 2] + 50.0).any()  # something speaks for it
    logit, sky, missing = map(float, answer.headers["x-logits"].split(", "))
    assert abs(missing) < 0.2 * abs(logit - sky)
    assert ask("rb_vgg6").content == answer.content
    assert ask("rb_vgg6", "nowhere").status_code == 404
    assert (ask("os_vgg6").status_code, "no member" in ask("os_vgg6").text) == (400, True)
    assert client.get(f"/api/v1/explanation?id={one}&member=rb_vgg6").status_code == 401
    monkeypatch.setattr(explanations, "_waiting", threading.BoundedSemaphore(1))
    monkeypatch.setattr(explanations, "_maps", OrderedDict())
    with explanations._waiting:
        busy = ask("rb_vgg6")
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "5")
    assert ask("rb_vgg6").status_code == 200
