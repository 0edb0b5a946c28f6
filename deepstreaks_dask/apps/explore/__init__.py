"""The explore dashboard: thresholds as sliders, and everything that follows from them.

panel serve dashboards/explore.py --args ARCHIVE
"""

from deepstreaks_dask.apps.explore.page import app

__all__ = ["app"]
