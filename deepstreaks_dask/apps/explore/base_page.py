"""What the pages of cutouts and of sequences have in common."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import panel as pn

from deepstreaks_dask.apps.bridge import Bridge
from deepstreaks_dask.apps.explore.session import ScoredArchive
from deepstreaks_dask.apps.figures import Figures
from deepstreaks_dask.apps.messages import Handlers, Hello, Message, MessageSchema, Theme
from deepstreaks_dask.apps.template import archive_name, page_template
from deepstreaks_dask.apps.visitor import Visitor


class ExplorePage(ABC):
    """One person's page of a run. It opens at once, and loads the scores on another thread.

    Parameters
    ----------
    archive : str or path
        Path or URL of a scored archive.
    run : str
        The run to explore; the first one if there is no such run.
    zoo : str, optional
        Zoo of the networks that are loaded for maps, before the shipped one.
    visitor : Visitor, optional
        The person at the page; by default the user who started this process.

    Attributes
    ----------
    template_name : str
        Of the template and script in ``pages/``.
    dimension : str
        ``"cutout"`` or ``"object"``.
    heights : mapping of str to int
        The figures, with the least height of each in pixels.
    schema : MessageSchema
        The messages that the page may send.
    handlers : mapping
        The function for each kind of message, :class:`~deepstreaks_dask.apps.messages.Hello` and
        :class:`~deepstreaks_dask.apps.messages.Theme` excepted.
    """

    template_name: ClassVar[str]
    dimension: ClassVar[str]
    heights: ClassVar[Mapping[str, int]]
    schema: ClassVar[MessageSchema]
    handlers: Handlers

    def __init__(
        self,
        archive: str | os.PathLike[str],
        run: str,
        zoo: str | None = None,
        visitor: Visitor | None = None,
    ) -> None:
        self.source = ScoredArchive.open(archive, run, zoo, dimension=self.dimension)
        self.figures = Figures(self.heights)
        self.bridge = Bridge(self.schema, self._receive, visitor)
        self._loaded = False

    @abstractmethod
    def load(self) -> Any:
        """Read the scores; called on another thread."""

    @abstractmethod
    def begin(self, loaded: Any) -> None:
        """Show what :meth:`load` has read."""

    @abstractmethod
    def variables(self) -> dict[str, Any]:
        """Return the template's variables that the other page does not have."""

    def layout(self) -> pn.Template:
        """Return the page; the scores are loaded once it is open."""
        source = self.source
        common = {
            "app": "explore",
            "heading": archive_name(source.archive),
            "runs": source.runs,
            "run": source.run,
            "simulated": source.simulated,
        }
        return page_template(
            self.template_name, self.bridge, self.figures.places, **common | self.variables()
        )

    def handle(self, message: Message) -> None:
        """Handle a message of the page, once the scores are loaded."""
        self.handlers[type(message)](message)

    def recolour(self, dark: bool) -> None:
        """Change the figures to the colours of a dark or a light page."""
        self.figures.recolour(dark)

    def _receive(self, message: Message) -> None:
        if isinstance(message, Hello):
            self.figures.dark = message.dark
            self.bridge.later(self.load, self._begin)
        elif isinstance(message, Theme):
            self.recolour(message.dark)
        elif self._loaded:
            self.handle(message)

    def _begin(self, loaded: Any) -> None:
        self.begin(loaded)
        self._loaded = True
