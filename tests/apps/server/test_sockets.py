"""Websockets of Panel pages: who may send what, and until when."""

import asyncio
import re
import threading
from contextlib import ExitStack

import httpx
import pytest
import uvicorn
from bokeh.protocol import Protocol
from bokeh.util.token import generate_jwt_token, get_token_payload
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from deepstreaks_dask.apps import visitor
from deepstreaks_dask.apps.bridge import Bridge
from deepstreaks_dask.apps.campaign import messages as campaign
from deepstreaks_dask.apps.explore import messages, sequence_messages
from deepstreaks_dask.apps.messages import Message
from deepstreaks_dask.apps.review.app import create_app
from deepstreaks_dask.apps.server import sockets
from deepstreaks_dask.apps.server.auth import SESSION_COOKIE
from deepstreaks_dask.apps.server.options import SiteOptions
from deepstreaks_dask.apps.server.protocol import protocol_options
from deepstreaks_dask.apps.server.site import listen
from deepstreaks_dask.apps.server.sockets import POLICY_VIOLATION, GuardedSocket
from deepstreaks_dask.apps.visitor import Owner, SessionVisitor
from deepstreaks_dask.review.people import Person
from deepstreaks_dask.scoring.threshold_sets import saved_thresholds
from deepstreaks_dask.vocabulary import Role

PASSWORD = "correct horse battery"
# The least role for each message that changes something outside the page. The others need a viewer.
ROLES = {messages.SaveThresholds: Role.REVIEWER}
SCHEMAS = [messages.SCHEMA, sequence_messages.SCHEMA, campaign.SCHEMA]


@pytest.fixture
def database(tmp_path):
    return f"sqlite:///{tmp_path}/review.sqlite"


@pytest.fixture
def site(reviewed, people):
    made = create_app(reviewed, SiteOptions(database=people), hosts={"testserver"})
    yield made
    made.state.site.review.close()


@pytest.mark.parametrize("kind", dict.fromkeys(kind for schema in SCHEMAS for kind in schema.kinds))
def test_every_message_has_its_role(kind):
    assert kind.role is ROLES.get(kind, Role.VIEWER)


def test_a_message_without_a_role_cannot_be_declared():
    with pytest.raises(TypeError, match="role"):

        class Forgotten(Message):
            do: str


class Fixed(Owner):
    """A visitor who is as the test has it."""

    def __init__(self, role):
        self.found = Person("somebody", role) if role else None

    def person(self, *, used=False):
        return self.found


def test_a_page_handles_what_the_role_allows_and_nothing_else(monkeypatch):
    said, handled = [], []
    monkeypatch.setattr(Bridge, "_send_msg", lambda bridge, message: said.append(message))
    samples = {messages.SaveThresholds: {"do": "save", "name": "x"}}
    samples |= {messages.ResetThresholds: {"do": "reset"}}
    for role in (None, *Role):
        bridge = Bridge(messages.SCHEMA, handled.append, Fixed(role))
        for kind, data in samples.items():
            said.clear()
            handled.clear()
            bridge._handle_msg(data)
            may = role is not None and role.includes(kind.role)
            assert bool(handled) == may
            assert [one["what"] for one in said] == ([] if may else ["error"])


def test_the_owner_of_a_process_may_everything():
    assert Owner().person().may(Role.ADMINISTRATOR)


@pytest.fixture
def address(site):
    """Serve the site from a thread, as ``run_app`` does, and return its host and port."""
    server = uvicorn.Server(uvicorn.Config(site, log_level="error", **protocol_options()))
    listening, hosts = listen("127.0.0.1", 0)
    host = f"127.0.0.1:{listening.getsockname()[1]}"
    site.state.site.hosts = frozenset(hosts)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield host
    server.should_exit = server.force_exit = True
    thread.join(60)


class Page:
    """A page of explore over its websocket, without a browser."""

    def __init__(self, address, name):
        self._address, self._name, self._stack = address, name, ExitStack()

    def __enter__(self):
        client = self._stack.enter_context(
            httpx.Client(base_url=f"http://{self._address}", timeout=300)
        )
        client.post("/api/v1/login", json={"name": self._name, "password": PASSWORD})
        self.secret = client.cookies[SESSION_COOKIE]
        self.html = client.get("/explore").text
        self.token = re.search(r'"token":\s*"([^"]+)"', self.html)[1]
        self._socket = self._stack.enter_context(self.connect(self.token))
        self.until('"ACK"')
        self._write(Protocol().create("PULL-DOC-REQ"))
        found = self.until("ReactiveESM")
        self._model = re.search(r'ReactiveESM",\s*"id":\s*"(\w+)"', found)[1]
        return self

    def __exit__(self, *_):
        self._stack.close()

    def connect(self, token):
        return connect(
            f"ws://{self._address}/explore/ws",
            origin=f"http://{self._address}",
            subprotocols=["bokeh", token],
            additional_headers={"Cookie": f"{SESSION_COOKIE}={self.secret}"},
            max_size=None,
        )

    def _write(self, message):
        for part in (message.header_json, message.metadata_json, message.content_json):
            self._socket.send(part)

    def send(self, **message):
        """Send a message as the page's script does."""
        made = Protocol().create("PULL-DOC-REQ")
        made.header["msgtype"] = "PATCH-DOC"
        values = {"model": {"id": self._model}, "data": message}
        event = {"type": "event", "name": "data_event", "values": values}
        sent = {"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": event}
        made.content = {"events": [sent]}
        self._write(made)

    def until(self, words):
        """Return the first frame that holds a text; frames of two messages may be mixed."""
        for frame in self._socket:
            if isinstance(frame, str) and words in frame:
                return frame
        return None


def test_a_viewer_saves_no_thresholds_through_explore_and_a_reviewer_does(address, reviewed, site):
    for name, may in (("vera", False), ("anna", True)):
        with Page(address, name) as page:
            page.send(do="hello", dark=False)
            assert page.until('"ready"')
            page.send(do="save", name=f"by {name}")
            assert page.until(f"by {name}" if may else "this needs a reviewer")
        assert (f"by {name}" in saved_thresholds(reviewed)) == may
    said = {(one["who"], one["what"]) for one in site.state.site.review.database.audit_log()}
    assert {("vera", "refused"), ("anna", "thresholds saved")} <= said


def test_a_page_of_somebody_who_is_disabled_gets_no_frame_more(address, site):
    with Page(address, "vera") as page:
        page.send(do="hello", dark=False)
        assert page.until('"ready"')
        site.state.site.review.accounts.change_user("vera", active=False)
        with pytest.raises(ConnectionClosedError) as ended:
            page.until("nothing comes")
        assert ended.value.rcvd.code == POLICY_VIOLATION


def test_scripts_of_a_page_cannot_read_the_sessions_secret(address):
    with Page(address, "vera") as page:
        payload = get_token_payload(page.token)
    assert page.secret not in page.html
    assert (payload["cookies"], payload["headers"]) == ({}, {})


def test_a_token_that_a_browser_made_up_opens_nothing(address):
    forged = generate_jwt_token("chosen", extra_payload={"arguments": {}}, expiration=300)
    with Page(address, "vera") as page, pytest.raises(InvalidStatus), page.connect(forged):
        pass


class Store:
    """Sessions of which one can be ended from elsewhere, unseen by this process's revision."""

    def __init__(self):
        self.found, self.revision, self.uses = Person("vera", Role.VIEWER), 0, []

    def person_of(self, secret, *, used=True):
        self.uses.append(used)
        return self.found


def run_socket(store, app, incoming):
    """Run an application on a guarded socket, and return what it sent."""
    sent = []

    async def receive():
        return {"type": "websocket.receive", "text": incoming.pop(0)}

    async def send(message):
        sent.append(message)

    async def application(scope, receive, send):
        await app(receive, send)

    async def main():
        await GuardedSocket(receive, send, SessionVisitor(store, "s")).run(application, {})

    asyncio.run(main())
    return sent


@pytest.mark.parametrize("direction", ["in", "out"])
def test_nothing_passes_a_socket_after_its_session(direction):
    store = Store()

    async def app(receive, send):
        await receive()
        await send({"type": "websocket.send", "text": "one"})
        store.found, store.revision = None, 1
        if direction == "in":
            assert (await receive())["type"] == "websocket.disconnect"
        for _ in range(5):
            await send({"type": "websocket.send", "text": "two"})

    sent = run_socket(store, app, ["a", "b"])
    assert [one.get("text") for one in sent] == ["one", None]
    assert sent[-1] == {"type": "websocket.close", "code": POLICY_VIOLATION}


def test_a_socket_on_which_nothing_moves_is_closed_too(monkeypatch):
    """Another process has ended the session: the socket is looked at now and then."""
    store, closed = Store(), asyncio.Event()
    monkeypatch.setattr(sockets, "_CHECK_SECONDS", 0)
    monkeypatch.setattr(visitor, "MAX_UNCHECKED_SECONDS", 0)

    async def receive():
        store.found = None
        await closed.wait()
        return {"type": "websocket.disconnect", "code": 1006}

    async def send(message):
        assert message["type"] == "websocket.close"
        closed.set()

    async def app(scope, receive, send):
        await receive()

    asyncio.run(GuardedSocket(receive, send, SessionVisitor(store, "s")).run(app, {}))
    assert closed.is_set()


def test_a_page_that_is_only_open_does_not_keep_its_session_from_going_idle():
    store = Store()

    async def app(receive, send):
        for _ in range(3):
            await send({"type": "websocket.send", "text": "x"})

    run_socket(store, app, [])
    assert set(store.uses) == {False}

    async def asking(receive, send):
        await receive()

    run_socket(store, asking, ["a"])
    assert store.uses[-1] is True
