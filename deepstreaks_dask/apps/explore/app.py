"""The explore dashboard: thresholds as sliders for cutouts, a player for sequences.

panel serve dashboards/explore.py --args ARCHIVE
"""

from __future__ import annotations

import os
from typing import Any

from deepstreaks_dask.apps.visitor import Visitor
from deepstreaks_dask.archive.dataset import open_archive


def app(
    archive: str | os.PathLike[str],
    run: str = "default",
    *,
    zoo: str | None = None,
    visitor: Visitor | None = None,
) -> Any:
    """Return the page for one person, of cutouts or of sequences as the archive has them.

    ``?run=NAME`` in the page's address names another run.

    Parameters
    ----------
    archive : str or path
        Path or URL of a scored archive.
    run : str
        The run that is shown first.
    zoo : str, optional
        Zoo of the networks that are loaded for maps, before the shipped one.
    visitor : Visitor, optional
        The person at the page; by default the user who started this process.

    Returns
    -------
    panel.Template
        The page.

    Raises
    ------
    DeepStreaksError
        If there is no such archive, or it has no scores.
    """
    import panel as pn

    asked = [value.decode(errors="replace") for value in pn.state.session_args.get("run", [])]
    visit = os.fspath(archive), (asked or [run])[0], zoo, visitor
    if "object" in open_archive(archive).sizes:
        from deepstreaks_dask.apps.explore.sequence_page import SequencePage

        return SequencePage(*visit).layout()
    from deepstreaks_dask.apps.explore.page import CutoutPage

    return CutoutPage(*visit).layout()


__all__ = ["app"]
