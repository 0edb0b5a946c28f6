"""What the dashboards look like and how their pages talk to Python.

A page is a template in ``pages/`` that extends ``app.html.j2``; its controls are plain HTML in the light DOM, its
pictures are Bokeh figures. One :class:`Bridge` a page carries messages: the page's script sends what the
person does, Python sends what is to be shown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import holoviews as hv
import jinja2
import panel as pn
from bokeh.core.property.vectorization import Value
from bokeh.document import Document
from bokeh.model import Model
from panel.io.state import set_curdoc

from deepstreaks_dask import plots
from deepstreaks_dask.errors import DeepStreaksError

_LIGHT_COLOURS = {dark: light for light, dark in plots.DARK.items()}

pn.extension(design="native", notifications=False, sizing_mode="stretch_width")

_log = logging.getLogger(__name__)
_workers = ThreadPoolExecutor(2, thread_name_prefix="dashboard")
_patient = ThreadPoolExecutor(1, thread_name_prefix="dashboard-long")


class Bridge(pn.custom.JSComponent):
    """Carries messages between a page's script and Python; it shows nothing.

    Parameters
    ----------
    handle : callable
        Gets each message of the page, a dict with ``do``. A :class:`~deepstreaks_dask.errors.DeepStreaksError` that
        it raises is shown to the person.
    """

    _esm = "export function render({ model }) { window.deepstreaks.connect(model) }"

    def __init__(self, handle: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(visible=False, width=0, height=0, sizing_mode="fixed")
        self._handle = handle
        self._document: Document | None = None

    def _handle_msg(self, data: Any) -> None:
        self._document = pn.state.curdoc
        if not isinstance(data, dict):
            return
        with self.shown(), self.together():
            self._handle(data)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show a mistake in the block to the person; what is ours to mend goes to the log as well."""
        try:
            yield
        except DeepStreaksError as error:
            self.send("error", words=str(error))
        except Exception:
            _log.exception("a dashboard failed")
            self.send("error", words="That failed on our side. The server's log says why.")

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let what changes in the block reach the page as one message."""
        document = self._document
        if document is None or document.callbacks.hold_value:
            yield
            return
        document.hold("combine")
        try:
            yield
        finally:
            document.unhold()

    def send(self, what: str, **message: Any) -> None:
        """Send a message to the page's script.

        Parameters
        ----------
        what : str
            What it is to do.
        **message
            With what, as JSON can hold it.
        """
        self._send_msg({"what": what, **message})

    def soon(self, then: Callable[[], None]) -> None:
        """Show something once what was sent so far is on its way to the page."""
        document = self._document
        assert document is not None, "work begins with a message of the page"

        def show() -> None:
            with set_curdoc(document), self.shown(), self.together():
                then()

        document.add_next_tick_callback(show)

    def later(
        self, work: Callable[[], Any], then: Callable[[Any], None], *, long: bool = False
    ) -> None:
        """Do slow work on another thread, then show its result here.

        Parameters
        ----------
        work : callable
            What to do.
        then : callable
            Gets what came of it, on the page's own thread.
        long : bool
            It waits for its like.
        """
        document = self._document
        assert document is not None, "work begins with a message of the page"

        def show(future: Future[Any]) -> None:
            with set_curdoc(document), self.shown(), self.together():
                then(future.result())

        def schedule(future: Future[Any]) -> None:
            if document.session_context is not None and not document.session_context.destroyed:
                document.add_next_tick_callback(lambda: show(future))

        (_patient if long else _workers).submit(work).add_done_callback(schedule)


def page(
    name: str, bridge: Bridge, panels: Mapping[str, Any] | None = None, **variables: Any
) -> pn.Template:
    """Make a page of ``pages/<name>.html.j2``.

    Parameters
    ----------
    name : str
    bridge : Bridge
    panels : mapping of str to Panel object
        To be embedded in the template as ``embed(roots.<key>)``.
    **variables
        For the template, ``app`` and ``heading`` among them; escaped there.

    Returns
    -------
    panel.Template
        The page.
    """
    template = pn.Template(_environment().get_template(f"{name}.html.j2"))
    template.add_panel("bridge", bridge)
    for key, panel in (panels or {}).items():
        template.add_panel(key, panel)
    for key, value in variables.items():
        template.add_variable(key, value)
    return template


def recolour(model: Model, dark: bool) -> None:
    """Give a Bokeh figure the colours of a dark or a light page.

    Parameters
    ----------
    model : bokeh.model.Model
        The figure, or a row of figures.
    dark : bool
        Whether the page is dark.
    """
    colours = plots.DARK if dark else _LIGHT_COLOURS
    for part in model.references():
        for name, value in part.properties_with_values(include_defaults=False).items():
            constant = value.value if isinstance(value, Value) else value
            if isinstance(constant, str) and constant in colours:
                setattr(part, name, colours[constant])


def figure(element: Any, dark: bool) -> Any:
    """Turn a picture into a Bokeh figure as wide as its place.

    Parameters
    ----------
    element : holoviews object
        As :mod:`~deepstreaks_dask.plots.scores` makes it.
    dark : bool
        Whether the page is dark.

    Returns
    -------
    bokeh.model.Model
        The figure.
    """
    drawn = hv.render(element)
    drawn.sizing_mode = "stretch_width"
    drawn.output_backend = "canvas"
    if dark:
        recolour(drawn, dark)
    return drawn


def place(height: int = 320) -> pn.Column:
    """Make a place on the page that a figure can be put in, :func:`put`; until then it says so."""
    return pn.Column(
        pn.pane.HTML("Drawing", styles={"opacity": "0.7"}),
        sizing_mode="stretch_width",
        min_height=height,
    )


def put(where: pn.Column, drawn: Any) -> None:
    """Put a Bokeh figure in a place.

    Parameters
    ----------
    where : panel.Column
        As :func:`place` makes it.
    drawn : bokeh.model.Model
        The figure.
    """
    where.objects = [pn.pane.Bokeh(drawn, sizing_mode="stretch_width")]


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deepstreaks_dask.apps", "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = lambda number: f"{number:,}"
    return environment
