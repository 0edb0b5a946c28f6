"""A dashboard in a process of its own, and headless Chromium to look at it."""

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
_MAIN = "from deepstreaks_dask.cli.main import main; main()"


@contextmanager
def looking(*arguments: str) -> Iterator[tuple[Browser, str, psutil.Process]]:
    """Run ``deepstreaks dashboard``; give a browser, the address ``http://host:port``, and the server's process."""
    command = [sys.executable, "-c", _MAIN, "dashboard", *arguments, "--no-show", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = next(
            found[0] for line in server.stdout if (found := re.search(r"http://[^\s:]+:\d+", line))
        )
        threading.Thread(target=server.stdout.read, daemon=True).start()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            yield browser, address, psutil.Process(server.pid)
            browser.close()
    finally:
        server.terminate()
        server.wait(60)
