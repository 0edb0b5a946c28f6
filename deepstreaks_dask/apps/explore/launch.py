"""Open the explore dashboard from Python: in a notebook cell, in a browser, or under ``panel serve``."""

from __future__ import annotations

import os
import socket
import time
from html import escape
from typing import Any

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.errors import DeepStreaksError, did_you_mean
from deepstreaks_dask.scoring.runs import list_runs

_LOOPBACK = "127.0.0.1"
_SERVER_TIMEOUT = 30.0  # seconds
_FRAME_STYLE = "width: 100%; height: 820px; border: 1px solid #8884"


class ExploreApp:
    """The explore dashboard of an archive; shown in a notebook where it is the last value of a cell.

    The dashboard is served on the loopback interface of the machine that runs Python. A notebook on another machine
    needs a tunnel to that port, or ``deepstreaks dashboard``.

    Parameters
    ----------
    archive : str or path
        Path or URL of a scored archive.
    run : str
        Run that is shown first.

    Attributes
    ----------
    archive, run : str
        As given.
    url : str or None
        Address of the dashboard once it is served.

    Raises
    ------
    DeepStreaksError
        If there is no such archive, or it has no such run.
    """

    def __init__(self, archive: str | os.PathLike[str], run: str = "default") -> None:
        open_archive(archive)  # a mistyped path is an error now, not in the browser
        runs = list_runs(archive)
        if run not in runs:
            has = f"it has {', '.join(runs)}" if runs else "score it first"
            raise DeepStreaksError(f"{archive} has no run {run!r}: {did_you_mean(run, runs)}{has}")
        self.archive, self.run = os.fspath(archive), run
        self.url: str | None = None
        self._server: Any = None

    def page(self) -> Any:
        """Return the page of one person, a Panel template."""
        from deepstreaks_dask.apps.explore.app import app

        return app(self.archive, self.run)

    def servable(self) -> Any:
        """Mark the page for ``panel serve``, and return it."""
        return self.page().servable()

    def show(self, port: int = 0, *, browser: bool = True) -> str:
        """Serve the dashboard on this machine, in a thread.

        Parameters
        ----------
        port : int
            Port of the loopback interface; a free one by default.
        browser : bool
            Open it in a browser.

        Returns
        -------
        str
            Address of the dashboard.

        Raises
        ------
        DeepStreaksError
            If nothing can be served on the port.
        """
        import panel as pn

        if self.url is None:
            port = port or _free_port()
            hosts = [f"{host}:{port}" for host in (_LOOPBACK, "localhost")]
            self._server = pn.serve(
                {"explore": self.page},
                address=_LOOPBACK,
                port=port,
                websocket_origin=hosts,
                threaded=True,
                show=False,
                verbose=False,
                title="DeepStreaks explore",
            )
            _await_server(port)
            self.url = f"http://{_LOOPBACK}:{port}/explore"
        if browser:
            import webbrowser

            webbrowser.open(self.url)
        return self.url

    def stop(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.stop()
        self._server = self.url = None

    def __repr__(self) -> str:
        where = f"served at {self.url}" if self.url else "not served yet: show() opens a browser"
        return f"<ExploreApp of {self.archive}, run {self.run!r}, {where}>"

    def _repr_html_(self) -> str:
        url = escape(self.show(browser=False), quote=True)
        return (
            f'<iframe src="{url}" style="{_FRAME_STYLE}" title="DeepStreaks explore"></iframe>'
            f'<p><a href="{url}" target="_blank" rel="noopener">Open in a tab</a></p>'
        )


def explore(archive: str | os.PathLike[str], run: str = "default") -> ExploreApp:
    """Open the explore dashboard of a scored archive.

    Parameters
    ----------
    archive : str or path
        Path or URL.
    run : str
        Run that is shown first.

    Returns
    -------
    ExploreApp
        Shown by a notebook as the last value of a cell; ``.show()`` opens a browser, ``.servable()`` is for
        ``panel serve``.

    Raises
    ------
    DeepStreaksError
        If there is no such archive, or it has no such run.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> dashboard = ds.explore("week.zarr")
    >>> dashboard.url is None  # until a notebook shows it, or dashboard.show() opens a browser
    True
    """
    return ExploreApp(archive, run)


def _free_port() -> int:
    with socket.create_server((_LOOPBACK, 0)) as probe:
        return int(probe.getsockname()[1])


def _await_server(port: int) -> None:
    """Return once a port of the loopback interface is listened to."""
    deadline = time.monotonic() + _SERVER_TIMEOUT
    while True:
        try:
            socket.create_connection((_LOOPBACK, port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise DeepStreaksError(
                    f"cannot serve on {_LOOPBACK}:{port} ({error.strerror or error}): give another port"
                ) from error
            time.sleep(0.05)
