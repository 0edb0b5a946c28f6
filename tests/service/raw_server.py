"""A server that answers each connection with some bytes, and then perhaps goes on forever."""

import contextlib
import socket
import threading


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
