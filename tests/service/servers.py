"""Servers that misbehave: one of any bytes, and a webhook."""

import contextlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WEBHOOK_KEY = "T000/B000/xyzzy"
"""What of a webhook's URL is secret."""


@contextlib.contextmanager
def raw_server(*parts, drips=b"", hang=False):
    """Serve on the loopback.

    Each connection is read once before each of ``parts`` is sent, and then gets ``drips`` every hundredth of a second for as
    long as anybody reads; or nothing, with ``hang``. Yields its port and what it was asked.
    """
    asked, ended = [], threading.Event()

    def answer(connection):
        with connection, contextlib.suppress(OSError):
            for part in parts or (b"",):
                asked.append(connection.recv(65536))
                connection.sendall(part)
            while hang and not ended.wait(0.05):
                pass
            while drips and not ended.wait(0.01):
                connection.sendall(drips)

    def accept():
        while not ended.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1], asked
        finally:
            ended.set()
            thread.join()


@contextlib.contextmanager
def slack(*answers):
    """A webhook that answers with statuses, the last one again and again; yields its URL, bodies and headers."""
    left, got = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((json.loads(body), dict(self.headers)))
            status = left.pop(0) if len(left) > 1 else left[0]
            if status == "break off":
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/services/{WEBHOOK_KEY}", got
    finally:
        server.shutdown()
        server.server_close()
