"""A depot that is not trusted: answers without an end, without a shape, too large, or that lead elsewhere."""

import contextlib
import os

import numpy as np
import pytest
from depot_server import PASSWORD, serving
from service.conftest import NIGHT, TABLES, TARBALLS, assert_whole, look, opened
from service.servers import raw_server

from deepstreaks_dask.errors import DepotError
from deepstreaks_dask.service import http_depot
from deepstreaks_dask.service import service as service_module
from deepstreaks_dask.service.credentials import Credentials
from deepstreaks_dask.service.depots import Remote, open_depot
from deepstreaks_dask.service.listing import ListingError, parse_listing

URL = f"http://depot.example/{NIGHT}/"


@contextlib.contextmanager
def answering(*parts, drips=b""):
    """A depot that sends these bytes at once, all in one, and goes on with the drips."""
    with raw_server(b"".join(parts), drips=drips) as (port, asked):
        yield f"http://127.0.0.1:{port}", asked


OK = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "status line": ((), b"H"),
    "headers": ((OK,), b"X"),
    "interim answers": ((), b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": ((OK + b"Content-Length: 100000000\r\n\r\n",), b"<"),
    "body without a length": ((OK + b"\r\n",), b"<"),
    "chunks": ((OK + b"Transfer-Encoding: chunked\r\n\r\n",), b"1\r\n<\r\n"),
    "a redirect's body": ((b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n",), b"<"),
}


@pytest.mark.parametrize("name", DRIPS)
def test_a_listing_that_drips_ends_at_its_deadline(name, monkeypatch):
    monkeypatch.setattr(http_depot.HttpDepot, "tries", 1)
    parts, drips = DRIPS[name]
    with answering(*parts, drips=drips) as (url, asked):
        with pytest.raises(DepotError, match=rf"{NIGHT}/: \S.* \(tried 1 times\)$"):
            opened(url, timeout=0.2).list(NIGHT)  # without a deadline this has no end
        assert asked


@pytest.mark.parametrize("name", ["headers", "body", "body without a length", "chunks"])
def test_a_file_that_drips_ends_too_slow_or_at_its_deadline(name, tmp_path, monkeypatch):
    monkeypatch.setattr(http_depot.HttpDepot, "tries", 1)
    parts, drips = DRIPS[name]
    with answering(*parts, drips=drips) as (url, _):
        for limits, why in (
            ({"timeout": 0.2}, r"bytes in|timed out"),
            ({"timeout": 60, "download": 0.2}, r"not complete after 0\.2 s|timed out"),
        ):
            with pytest.raises(DepotError, match=f"{TABLES[0]}: too late: .*({why})"):
                opened(url, **limits).fetch(Remote(NIGHT, TABLES[0]), tmp_path)
    assert not (tmp_path / TABLES[0]).exists()


@pytest.mark.parametrize("size", [b"Content-Length: 2000\r\n\r\n", b"\r\n"])
def test_a_file_that_is_too_large_is_refused(size, tmp_path):
    with answering(OK + size, b"x" * 2000) as (url, asked):
        with pytest.raises(DepotError, match=r"2000 bytes or more.*--largest-file"):
            opened(url, file_bytes=1000).fetch(Remote(NIGHT, TABLES[0]), tmp_path)
        assert len(asked) == 1  # it gets no smaller
    assert not [file for file in tmp_path.iterdir() if file.stat().st_size > 1000]


def test_a_listing_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(http_depot, "_MAX_LISTING_BYTES", 1000)
    with (
        answering(OK + b"\r\n", drips=b"<a href='x'>" * 10) as (url, _),
        pytest.raises(DepotError, match="more than 1000 bytes"),
    ):
        opened(url).list(NIGHT)


BROKEN_LISTINGS = {
    "unknown section": b"<html><![x>",
    "unknown declaration": b"<html><![>",
    "broken off": f'<html><a href="{TARBALLS[0]}">x</a><a href="ztf'.encode(),
    "not HTML": b'{"files": []}',
    "binary": b"<\0\0\0",
    "nothing": b"",
}


@pytest.mark.parametrize("name", BROKEN_LISTINGS)
def test_a_listing_that_cannot_be_parsed_is_tried_again(name, server):
    """html.parser raises AssertionError on what it does not know, which ended the service."""
    depot, body = opened(server.url), BROKEN_LISTINGS[name]
    server.bodies[f"/{NIGHT}/"] = [body]
    assert len(depot.list(NIGHT)) == 6
    assert len(server.requests) == 2
    server.bodies[f"/{NIGHT}/"] = [body] * 4
    with pytest.raises(DepotError, match=r"the listing .*tried 4 times"):
        depot.list(NIGHT)


@pytest.mark.parametrize("kind", ["application/json", "image/png"])
def test_what_says_that_it_is_no_html_is_no_listing(kind, monkeypatch):
    monkeypatch.setattr(http_depot.HttpDepot, "tries", 1)
    head = OK + b"Content-Type: " + kind.encode() + b"\r\nContent-Length: 3\r\n\r\n<p>"
    with answering(head) as (url, _), pytest.raises(DepotError, match=kind):
        opened(url).list(NIGHT)


@pytest.mark.parametrize("status", [200, 206])
def test_an_encoding_that_was_not_asked_for_is_refused(status, tmp_path, monkeypatch):
    """A page of a few bytes can unpack to gigabytes."""
    monkeypatch.setattr(http_depot.HttpDepot, "tries", 1)
    head = f"HTTP/1.1 {status} OK\r\nContent-Encoding: gzip\r\n\r\n".encode()
    with answering(head) as (url, _):
        with pytest.raises(DepotError, match="encoding"):
            opened(url).list(NIGHT)
        with pytest.raises(DepotError, match="encoding"):
            opened(url).fetch(Remote(NIGHT, TABLES[0]), tmp_path)


def test_links_of_hosts_and_ports_that_are_not_the_depots_are_left_out():
    names = [TARBALLS[0], TABLES[0]]
    page = "".join(f'<a href="{name}">{name}</a> 12' for name in names)
    page += f'<a href="http://depot.example:81/{NIGHT}/{TABLES[1]}">x</a>'
    page += f'<a href="https://depot.example/{NIGHT}/{TABLES[2]}">x</a>'
    assert parse_listing(page, URL) == dict.fromkeys(sorted(names), "12")


def test_a_listing_of_everything_is_refused(monkeypatch):
    monkeypatch.setattr("deepstreaks_dask.service.listing.MAX_PRODUCTS", 2)
    page = "".join(f'<a href="{name}">x</a>' for name in TARBALLS)
    with pytest.raises(ListingError, match="3 products, more than 2"):
        parse_listing(page, URL)


def test_whatever_a_depot_raises_ends_a_night_and_not_the_service(settings, written, night):
    """The kind of the fault: errors that nobody has foreseen."""
    depot = opened(str(night.parent))
    listed, faults = depot.list, [AssertionError("surprise"), RecursionError(), KeyError("x")]

    def moody(number):
        if faults:
            raise faults.pop(0)
        return listed(number)

    depot.list = moody
    nights = service_module.Nights(NIGHT, NIGHT)
    for _ in range(3):
        with pytest.raises(DepotError):
            service_module.watch(depot, settings, lambda *_: None, nights, once=True)
    look(str(night.parent), settings)
    assert_whole(settings, written)
    text = (settings.state / "watch.log").read_text()
    assert "AssertionError" in text
    assert "Traceback" in text


# Credentials


def test_credentials_are_not_sent_without_encryption_unless_told():
    with pytest.raises(DepotError, match=r"without encryption.*--allow-plaintext") as raised:
        open_depot("http://depot.example/ztf")
    assert PASSWORD not in str(raised.value)
    open_depot("http://depot.example/ztf", allow_plaintext=True)
    open_depot("https://depot.example/ztf")


def test_without_credentials_http_will_do(monkeypatch):
    monkeypatch.delenv("DEEPSTREAKS_DEPOT_USER")
    monkeypatch.delenv("DEEPSTREAKS_DEPOT_PASSWORD")
    open_depot("http://depot.example/ztf")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_credentials_are_those_of_one_scheme_host_and_port(scheme):
    import requests

    depot = http_depot.HttpDepot(f"{scheme}://depot.example/ztf", Credentials("u", "p"))
    port = {"http": 80, "https": 443}[scheme]
    for url, sent in {
        f"{scheme}://depot.example/other": True,
        f"{scheme}://DEPOT.example:{port}/x": True,
        f"{scheme}://depot.example:8443/x": False,
        f"{scheme}://sub.depot.example/x": False,
        f"{scheme}://depot.example.evil/x": False,
        f"{'https' if scheme == 'http' else 'http'}://depot.example/x": False,
    }.items():
        request = depot._session.prepare_request(requests.Request("GET", url))
        assert ("Authorization" in request.headers) is sent, url


def test_credentials_of_a_netrc_and_cookies_stay_at_home(night, tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("default login me password home-secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setattr(http_depot.HttpDepot, "tries", 1)
    with serving(night.parent) as other:
        target = f"{other.url}/{NIGHT}/".encode()
        redirect = b"HTTP/1.1 302 Found\r\nSet-Cookie: key=1; Path=/\r\nLocation: " + target
        with answering(redirect + b"\r\nContent-Length: 0\r\n\r\n") as (url, asked):
            depot = http_depot.HttpDepot(url, None)
            with pytest.raises(DepotError, match="401"):
                depot.list(NIGHT)
        assert b"Authorization" not in asked[0]
        assert all({"Authorization", "Cookie"}.isdisjoint(headers) for _, headers in other.requests)


def test_redirects_in_a_circle_end(monkeypatch):
    monkeypatch.setattr(http_depot.HttpDepot, "tries", 1)
    again = b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with answering(again) as (url, asked), pytest.raises(DepotError, match="redirects"):
        opened(url).list(NIGHT)
    assert len(asked) == 6


def test_a_depots_folder_that_is_gone_has_no_empty_nights(tmp_path):
    (tmp_path / "depot").mkdir()
    depot = opened(str(tmp_path / "depot"))
    assert depot.list(NIGHT) == []
    (tmp_path / "depot").rmdir()
    with pytest.raises(DepotError, match="is gone"):
        depot.list(NIGHT)


def test_any_page_is_a_listing_or_an_error(night):
    """Mutations of a real listing; DEEPSTREAKS_TEST_LISTINGS=10000 makes more."""
    rng = np.random.default_rng(5)
    links = "".join(f'<a href="{file.name}">{file.name}</a> 12\n' for file in night.iterdir())
    page = f"<html><!DOCTYPE html><pre>{links}</pre></html>"
    parts = [
        "<![",
        "<!",
        "<?",
        "<!--",
        "&#x",
        "<a href=",
        "'",
        '"',
        ">",
        "]]",
        "<script>",
        "\0",
        "é",
    ]
    for _ in range(int(os.environ.get("DEEPSTREAKS_TEST_LISTINGS", "200"))):
        text = page
        for _ in range(rng.integers(1, 6)):
            first, last = sorted(rng.integers(0, len(text) + 1, 2))
            last = min(last, first + 30)
            text = text[:first] + "".join(rng.choice(parts, rng.integers(0, 4))) + text[last:]
        with contextlib.suppress(ListingError):
            found = parse_listing(text, URL)
            assert all("/" not in name for name in found)
