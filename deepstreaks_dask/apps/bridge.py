"""The connection between a page's script and Python: messages both ways, and work on other threads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import panel as pn
from bokeh.document import Document
from panel.io.state import set_curdoc

from deepstreaks_dask.apps.messages import Error, MessageSchema, Update
from deepstreaks_dask.apps.visitor import Owner, SessionEndedError, Visitor
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.review.people import RefusedError

pn.extension(design="native", notifications=False, sizing_mode="stretch_width")

_log = logging.getLogger(__name__)
_short_work = ThreadPoolExecutor(2, thread_name_prefix="dashboard")
_long_work = ThreadPoolExecutor(1, thread_name_prefix="dashboard-long")


class Bridge(pn.custom.JSComponent):
    """Carries messages between a page's script and Python; it shows nothing itself.

    Parameters
    ----------
    schema : MessageSchema
        The messages that the page may send; others are refused with one line on the page.
    handle : callable
        Takes each message. A :class:`~deepstreaks_dask.errors.DeepStreaksError` that it raises is shown on the page.
    visitor : Visitor, optional
        The person at the page, whose role must allow each message; by default the user who started this process.
    """

    _esm = "export function render({ model }) { window.deepstreaks.connect(model) }"

    def __init__(
        self,
        schema: MessageSchema,
        handle: Callable[[Any], None],
        visitor: Visitor | None = None,
    ) -> None:
        super().__init__(visible=False, width=0, height=0, sizing_mode="fixed")
        self._schema, self._handle, self._visitor = schema, handle, visitor or Owner()
        self._document: Document | None = None

    def _handle_msg(self, data: Any) -> None:
        self._document = pn.state.curdoc
        with self.shown(), self.together():
            message = self._schema.read(data)
            person = self._visitor.person(used=True)
            if person is None:
                raise SessionEndedError
            try:
                person.need(message.role)
            except RefusedError:
                self._visitor.record("refused", type(message).__name__)
                raise
            self._handle(message)

    def record(self, what: str, detail: str) -> None:
        """Write an entry of the audit log about what the person at the page has done.

        Parameters
        ----------
        what, detail : str
            The action and its object.
        """
        self._visitor.record(what, detail)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the errors of a block on the page; unexpected ones are also logged."""
        try:
            yield
        except DeepStreaksError as error:
            self.send(Error(words=str(error)))
        except Exception:
            _log.exception("a dashboard failed")
            self.send(Error(words="That failed on our side. The server's log says why."))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Send all changes of a block to the page as one message."""
        document = self._document
        if document is None or document.callbacks.hold_value:
            yield
            return
        document.hold("combine")
        try:
            yield
        finally:
            document.unhold()

    def send(self, update: Update) -> None:
        """Send an update to the page's script.

        Parameters
        ----------
        update : Update
            Its ``what`` names the script's handler.
        """
        self._send_msg(update.model_dump())

    def soon(self, then: Callable[[], None]) -> None:
        """Call a function once everything sent so far is on its way to the page."""
        document = self._document
        assert document is not None, "work begins with a message of the page"

        def show() -> None:
            with set_curdoc(document), self.shown(), self.together():
                then()

        document.add_next_tick_callback(show)

    def later(
        self, work: Callable[[], Any], then: Callable[[Any], None], *, long: bool = False
    ) -> None:
        """Do slow work on another thread, then show its result on the page's own thread.

        Parameters
        ----------
        work : callable
            The work.
        then : callable
            Takes the work's result, on the page's own thread.
        long : bool
            Queue the work behind other long work, so that short work is not delayed.
        """
        document = self._document
        assert document is not None, "work begins with a message of the page"

        def show(future: Future[Any]) -> None:
            with set_curdoc(document), self.shown(), self.together():
                then(future.result())

        def schedule(future: Future[Any]) -> None:
            if document.session_context is not None and not document.session_context.destroyed:
                document.add_next_tick_callback(lambda: show(future))

        (_long_work if long else _short_work).submit(work).add_done_callback(schedule)
