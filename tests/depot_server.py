"""A depot over HTTP as real ones are: a listing, basic authentication, ranges; and all that goes wrong with them."""

import base64
import hashlib
import html
import threading
from collections import defaultdict
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USER, PASSWORD = "ztf", "s3cret-pass-word"


class DepotServer(ThreadingHTTPServer):
    """Serves a folder; ``faults[path]`` are used up one a request: a status, or a name of what goes wrong.

    "half": half the body and an end; "hang": half the body and no more; "silent": no answer at all;
    "whole": nothing goes wrong; "> URL": a redirect.
    """

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.faults = defaultdict(list)
        self.requests = []  # path, headers
        self.bodies = defaultdict(
            list
        )  # what is answered in place of listings, used up one a request
        self.extra = ""  # put into every listing
        self.hanging = threading.Event()  # set when a request hangs
        self.release = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def asked(self, name):
        return [headers for path, headers in self.requests if path.endswith(name)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits for the acknowledgement of its head

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        faults = server.faults[self.path]
        fault = faults.pop(0) if faults else "whole"
        if fault == "silent":
            server.hanging.set()
            server.release.wait()
            self.close_connection = True
            return
        if isinstance(fault, str) and fault.startswith("> "):
            self.answer(302, b"", {"Location": fault[2:]})
            return
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != wanted:
            fault = 401
        place = server.folder / self.path.strip("/")
        if isinstance(fault, int):
            self.answer(fault, b"no")
        elif not place.exists() or not place.resolve().is_relative_to(server.folder.resolve()):
            self.answer(404, b"no")
        elif place.is_dir():
            bodies = server.bodies[self.path]
            body = bodies.pop(0) if bodies else self.listing(place).encode()
            self.answer(200, body, fault=fault)
        else:
            self.send_file(place.read_bytes(), fault)

    def listing(self, place):
        lines = [
            f'<a href="{html.escape(file.name)}">{html.escape(file.name)}</a> {file.stat().st_size}'
            for file in sorted(place.iterdir())
        ]
        return f'<html><a href="../">Parent</a><pre>{"<br>".join(lines)}{self.server.extra}</pre></html>'

    def send_file(self, data, fault):
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        headers = {"ETag": tag}
        asked = self.headers.get("Range", "")
        if self.headers.get("If-None-Match") == tag:
            self.answer(304, b"", headers)
        elif asked and self.headers.get("If-Range") == tag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.answer(416, b"", headers)
                return
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.answer(206, data[start:], headers, fault)
        else:
            self.answer(200, data, headers, fault)

    def answer(self, status, body, headers=None, fault="whole"):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "whole":
            self.wfile.write(body)
            return
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        if fault == "hang":
            self.server.hanging.set()
            self.server.release.wait()
        self.close_connection = True

    def handle(self):
        try:
            super().handle()
        except OSError:  # whoever asked has gone: killed, perhaps
            self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def serving(folder):
    server = DepotServer(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
