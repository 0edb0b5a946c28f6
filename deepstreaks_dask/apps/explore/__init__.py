"""The explore dashboard: thresholds as sliders, and everything that follows from them; of sequences a player.

panel serve dashboards/explore.py --args ARCHIVE
"""

from __future__ import annotations

import os
from typing import Any

from deepstreaks_dask.archive import open_archive


def app(archive: str | os.PathLike[str], run: str = "default", *, zoo: str | None = None) -> Any:
    """Make the page for one person, of cutouts or of sequences as the archive has them.

    ``?run=NAME`` in the page's address names another run.

    Parameters
    ----------
    archive : str or path
        Path or URL of a scored archive.
    run : str
        Run that is shown first.
    zoo : str, optional
        Of the networks that are asked, before the shipped one.

    Returns
    -------
    panel.Template

    Raises
    ------
    DeepStreaksError
        If there is no such archive, or it has no scores.
    """
    if "object" in open_archive(archive).sizes:
        from deepstreaks_dask.apps.explore import sequences

        return sequences.app(archive, run, zoo=zoo)
    from deepstreaks_dask.apps.explore import page

    return page.app(archive, run, zoo=zoo)


__all__ = ["app"]
