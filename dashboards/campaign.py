"""``panel serve dashboards/campaign.py --args ARCHIVE [RUN]``."""

import sys

from deepstreaks_dask.apps.campaign.app import app

app(*sys.argv[1:3]).servable()
