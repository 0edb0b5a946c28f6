"""The explore dashboard: thresholds as sliders, and everything that follows from them; of sequences a player.

panel serve dashboards/explore.py --args ARCHIVE
"""

from __future__ import annotations

import os
from typing import Any

from deepstreaks_dask.archive.dataset import open_archive


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
    import panel as pn

    asked = [value.decode(errors="replace") for value in pn.state.session_args.get("run", [])]
    what = os.fspath(archive), (asked or [run])[0], zoo
    if "object" in open_archive(archive).sizes:
        from deepstreaks_dask.apps.explore.sequence_page import SequenceExplorer

        return SequenceExplorer(*what).page()
    from deepstreaks_dask.apps.explore.page import Explorer

    return Explorer(*what).page()


__all__ = ["app"]
