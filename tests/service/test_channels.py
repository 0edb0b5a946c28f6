"""Messages over webhooks and e-mail, to servers that misbehave; at least once, under one key."""

import contextlib
import socket
import ssl
import threading
import time
from email import message_from_bytes

import pytest
from service.servers import WEBHOOK_KEY, raw_server, slack

from deepstreaks_dask.errors import DepotError
from deepstreaks_dask.service.channels import (
    ChannelError,
    Mail,
    Webhook,
    deliver_all,
    read_webhook,
)
from deepstreaks_dask.service.credentials import WEBHOOK, Credentials
from deepstreaks_dask.service.messages import MAX_LISTED, Writer
from deepstreaks_dask.service.outbox import Message
from deepstreaks_dask.service.state import Ledger

MESSAGE = Message("key1", "3 new <candidates> & more", "one\ntwo — ε")
SECRET = WEBHOOK_KEY


def webhook(url, timeout=5.0):
    return Webhook(url, timeout=timeout, allow_plaintext=True)


def test_a_webhook_gets_what_slack_takes():
    with slack(200) as (url, got):
        webhook(url).deliver(MESSAGE)
    ((body, headers),) = got
    assert body == {"text": "*3 new &lt;candidates&gt; &amp; more*\none\ntwo — ε"}
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == "key1"


def test_a_long_message_is_cut_to_what_slack_takes():
    with slack(200) as (url, got):
        webhook(url).deliver(Message("k", "s", "&" * 100_000))
    assert len(got[0][0]["text"]) <= 200_000
    assert len(got[0][0]["text"].replace("&amp;", "&")) < 40_000


@pytest.mark.parametrize("status", [301, 302, 400, 404, 410, 429, 500, 503, "break off"])
def test_what_a_webhook_does_not_accept_is_an_error_without_its_secret(status):
    with slack(status) as (url, _), pytest.raises(ChannelError) as raised:
        webhook(url).deliver(MESSAGE)
    assert "xyzzy" not in str(raised.value)


def test_a_webhook_that_refuses_hangs_or_drips_ends_at_its_deadline():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    urls = [f"http://127.0.0.1:{port}/{SECRET}"]
    with (
        raw_server(b"", hang=True) as (hanging, _),
        raw_server(b"HTTP/1.1 200 OK\r\n", drips=b"X") as (dripping, _),
        raw_server(b"HTTP/1.1 200 OK\r\n\r\n", drips=b"X") as (babbling, _),
    ):
        urls += [f"http://127.0.0.1:{port}/{SECRET}" for port in (hanging, dripping, babbling)]
        for url in urls:
            with pytest.raises(ChannelError) as raised:
                webhook(url, timeout=0.2).deliver(MESSAGE)
            assert "xyzzy" not in str(raised.value)


def test_a_webhooks_url_is_a_secret(tmp_path, monkeypatch):
    monkeypatch.delenv(WEBHOOK, raising=False)
    with pytest.raises(DepotError, match=r"hooks\.example.*--allow-plaintext") as raised:
        Webhook(f"http://hooks.example/{SECRET}")
    assert "xyzzy" not in str(raised.value)
    for wrong in ("hooks.example/x", "https://", "ftp://hooks.example", "https://[broken"):
        with pytest.raises(DepotError, match="no URL"):
            Webhook(wrong)
    assert "xyzzy" not in Webhook(f"https://hooks.example/{SECRET}").name
    file = tmp_path / "webhook"
    file.write_text("https://hooks.example/x\n")
    file.chmod(0o640)
    with pytest.raises(DepotError, match="chmod 600"):
        read_webhook(file)
    file.chmod(0o600)
    assert read_webhook(file) == "https://hooks.example/x"
    assert read_webhook(None) is None
    monkeypatch.setenv(WEBHOOK, "https://hooks.example/y")
    assert read_webhook(None) == "https://hooks.example/y"


# E-mail


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A server's context and a client's that trusts it."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server, client = (
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
        ssl.create_default_context(),
    )
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    return server, client


@contextlib.contextmanager
def mail_server(answer="250 OK", **options):
    """A real SMTP server; yields its port and the messages that it took, with who logged in."""
    controller = pytest.importorskip("aiosmtpd.controller")
    smtp = pytest.importorskip("aiosmtpd.smtp")
    took, users = [], []

    class Handler:
        async def handle_DATA(self, server, session, envelope):  # noqa: N802
            took.append(envelope)
            return answer

    def log_in(server, session, envelope, mechanism, data):
        users.append((data.login, data.password))
        right = data.password == b"right"
        return smtp.AuthResult(success=right, handled=right)

    class Controller(controller.Controller):
        def factory(self):
            return smtp.SMTP(Handler(), authenticator=log_in, **options)

    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    running = Controller(Handler(), hostname="127.0.0.1", port=port)
    running.start()
    try:
        yield port, took, users
    finally:
        running.stop()


def mail(port, scheme="smtp", timeout=5.0, **options):
    return Mail(
        f"{scheme}://127.0.0.1:{port}", "ds@a.example", "vera@b.example", timeout=timeout, **options
    )


def test_a_mail_arrives_with_the_key_as_its_id():
    with mail_server() as (port, took, _):
        mail(port).deliver(MESSAGE)
    (envelope,) = took
    assert (envelope.mail_from, envelope.rcpt_tos) == ("ds@a.example", ["vera@b.example"])
    got = message_from_bytes(envelope.content)
    assert got["Subject"] == "DeepStreaks: 3 new <candidates> & more"
    assert got["Message-ID"] == "<key1@a.example>"
    assert got.get_payload(decode=True).decode().split() == ["one", "two", "—", "ε"]


def test_a_password_goes_over_tls_only(certificate):
    server, client = certificate
    right = Credentials("ds", "right")
    with mail_server(auth_require_tls=False) as (port, took, users):
        with pytest.raises(ChannelError, match="offers no TLS"):
            mail(port, credentials=right).deliver(MESSAGE)
        assert not took
        assert not users
        mail(port, credentials=right, allow_plaintext=True).deliver(MESSAGE)
        assert len(took) == 1
    with mail_server(tls_context=server) as (port, took, users):
        with pytest.raises(ChannelError, match="SSLCertVerificationError"):
            mail(port, credentials=right).deliver(MESSAGE)
        assert not users
        mail(port, credentials=right, context=client).deliver(MESSAGE)
        assert users == [(b"ds", b"right")]
        with pytest.raises(ChannelError, match="SMTPAuthenticationError 535") as raised:
            mail(port, credentials=Credentials("ds", "wrong"), context=client).deliver(MESSAGE)
        assert "wrong" not in str(raised.value)
    assert len(took) == 1


@pytest.mark.parametrize("answer", ["451 later", "554 no"])
def test_a_mail_that_is_not_accepted_is_an_error(answer):
    with mail_server(answer) as (port, _, _), pytest.raises(ChannelError, match=answer[:3]):
        mail(port).deliver(MESSAGE)


def test_a_mail_server_that_refuses_breaks_off_hangs_or_drips_ends_at_its_deadline():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(ChannelError, match="ConnectionRefused"):
        mail(port).deliver(MESSAGE)
    for drips in (b"2", b"220-hi\r\n"):
        with greeting(drips=drips) as port, pytest.raises(ChannelError):
            mail(port, timeout=0.2).deliver(MESSAGE)
    with greeting(b"220 hi\r\n", hang=True) as port, pytest.raises(ChannelError):
        mail(port, timeout=0.2).deliver(MESSAGE)
    with greeting(b"220 hi\r\n") as port, pytest.raises(ChannelError):
        mail(port).deliver(MESSAGE)
    with greeting(drips=b"2") as port, pytest.raises(ChannelError):
        mail(port, "smtps", timeout=0.2).deliver(MESSAGE)


@contextlib.contextmanager
def greeting(text=b"", **options):
    """A mail server that speaks first, as they do."""
    ended = threading.Event()

    def serve():
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(text)
            while options.get("hang") and not ended.wait(0.02):
                pass
            while options.get("drips") and not ended.wait(0.01):
                connection.sendall(options["drips"])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            ended.set()
            thread.join()


@pytest.mark.parametrize(
    ("server", "sender", "recipient"),
    [
        ("mail.example", "a@b.example", "c@d.example"),
        ("smtp://u:p@mail.example", "a@b.example", "c@d.example"),
        ("smtp://mail.example", "nobody", "c@d.example"),
        ("smtp://mail.example", "a@b.example", "c@d.example\r\nBcc: e@f.example"),
        ("smtp://mail.example", "a@b.example", "c@d.example, e@f.example"),
    ],
)
def test_what_is_no_server_or_address_is_refused(server, sender, recipient):
    with pytest.raises(DepotError):
        Mail(server, sender, recipient)


# The outbox


class Flaky:
    """Fails as often as it is told to; remembers the keys of what it took."""

    def __init__(self, name, failures=0, error=ChannelError):
        self.name, self.failures, self.keys, self.error = name, failures, [], error

    def deliver(self, message):
        if self.failures:
            self.failures -= 1
            raise self.error("no")
        self.keys.append(message.key)


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(tmp_path / "watch.sqlite", ["one", "two"])
    yield made
    made.close()


def queue(ledger, *keys):
    with ledger._engine.begin() as connection:
        for key in keys:
            ledger.outbox.queue(connection, Message(key, "s", "t"))


@pytest.mark.parametrize("error", [ChannelError, ValueError])
def test_each_channel_gets_each_message_and_one_that_fails_keeps_none_from_another(
    error, ledger, at
):
    queue(ledger, "a", "b")
    queue(ledger, "a")
    one, two, errors = Flaky("one"), Flaky("two", 1, error), []
    assert deliver_all(ledger.outbox, [two, one], errors.append) == 2
    assert (one.keys, two.keys, len(errors)) == (["a", "b"], [], 1)
    assert ledger.outbox.waiting() == 2
    assert deliver_all(ledger.outbox, [two, one], errors.append) == 1  # "a" rests
    at.shift(61)
    assert deliver_all(ledger.outbox, [two, one], errors.append) == 1
    assert sorted(two.keys) == ["a", "b"]
    assert one.keys == ["a", "b"]
    assert ledger.outbox.waiting() == 0


def test_pauses_grow_to_an_hour_and_end_never(ledger, at):
    queue(ledger, "a")
    channel, pauses = Flaky("one", failures=100), []
    for _ in range(12):
        before = time.time()
        while not ledger.outbox.due("one"):
            at.shift(30)
        pauses.append(round(time.time() - before, -1))
        deliver_all(ledger.outbox, [channel], lambda _: None)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(3600, abs=60)


def test_a_message_that_was_accepted_but_not_noted_comes_again_under_its_key(ledger):
    """What at least once means: a kill between the other side's acceptance and our note of it."""
    queue(ledger, "a")
    channel = Flaky("one")

    class KilledError(BaseException):
        pass

    def killed(*_):
        raise KilledError

    noted, ledger.outbox.delivered = ledger.outbox.delivered, killed
    with pytest.raises(KilledError):
        deliver_all(ledger.outbox, [channel], lambda _: None)
    ledger.outbox.delivered = noted
    deliver_all(ledger.outbox, [channel], lambda _: None)
    deliver_all(ledger.outbox, [channel], lambda _: None)
    assert channel.keys == ["a", "a"]


# What is written


def candidate(number, night=20260105, score=0.9, **more):
    return {"id": f"strkid{number}_pid1", "night": night, "scores": {"rb_vgg6": score}, **more}


def test_candidates_are_written_with_numbers_and_links_the_surest_first():
    writer = Writer("survey.zarr", "https://streaks.example")
    found = [
        candidate(1, score=0.6),
        candidate(2, score=0.99, ra=10.5, dec=-3.25, mag=18.26, filter="r"),
    ]
    message = writer.candidates(found, "v2")
    assert message.subject == "2 new candidates of 2026-01-05"
    first, best, second, link = message.text.splitlines()
    assert first.startswith("2 new candidates of 2026-01-05 in survey.zarr")
    assert "run v2" in first
    assert best == (
        "- strkid2_pid1, RA 10.50000 Dec -3.25000, mag 18.3, filter r, rb_vgg6 0.99, "
        "https://streaks.example/api/v1/streak?id=strkid2_pid1"
    )
    assert second.startswith("- strkid1_pid1, rb_vgg6 0.60")
    assert link == "https://streaks.example/review"
    assert writer.candidates(found[::-1], "v2").key == message.key
    assert writer.candidates(found[:1], "v2").key != message.key


def test_a_flood_of_candidates_is_one_message_that_says_how_many():
    text = Writer("a").candidates([candidate(k, night=20260105 + k % 2) for k in range(5000)], "v1")
    assert text.subject == "5000 new candidates of 2 nights"
    assert len(text.text.splitlines()) == MAX_LISTED + 2
    assert text.text.endswith(f"and {5000 - MAX_LISTED} more")


def test_a_nights_numbers_are_told_again_only_if_they_change():
    writer = Writer("survey.zarr")
    numbers = {"files": 6, "cutouts": 12, "candidates": 3, "quarantined": 1, "waiting": 0}
    message = writer.scored(20260105, numbers, "v1")
    assert message.subject == "2026-01-05: 12 cutouts, 3 candidates"
    assert "6 files, 12 cutouts, 3 candidates, 1 quarantined" in message.text
    assert writer.scored(20260105, numbers, "v1").key == message.key
    assert writer.scored(20260105, {**numbers, "cutouts": 13}, "v1").key != message.key
