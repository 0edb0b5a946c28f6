"""``panel serve dashboards/explore.py --args ARCHIVE [RUN]``."""

import sys

from deepstreaks_dask.apps.explore.app import app

app(*sys.argv[1:3]).servable()
