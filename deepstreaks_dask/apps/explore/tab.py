"""What every part of the page of cutouts has in common."""

from __future__ import annotations

from deepstreaks_dask.apps.explore.gallery import GalleryPanel
from deepstreaks_dask.apps.explore.session import Session
from deepstreaks_dask.apps.messages import Handlers


class Tab:
    """A part of the page that follows the session; what a subclass does not define does nothing.

    Parameters
    ----------
    session : Session
        The state of the page.
    gallery : GalleryPanel
        Where selected cutouts are shown.

    Attributes
    ----------
    handlers : mapping
        The function for each kind of message that the tab handles.
    """

    def __init__(self, session: Session, gallery: GalleryPanel) -> None:
        self.session, self.gallery = session, gallery
        self.handlers: Handlers = {}

    def begin(self) -> None:
        """Begin, once the scores are loaded."""

    def open(self) -> None:
        """Draw what is drawn each time the tab is opened, before :meth:`follow`."""

    def follow(self) -> None:
        """Follow the thresholds and the filter while the tab is open."""

    def settle(self) -> None:
        """Update what is too slow to follow every step of a slider, while the tab is open."""
