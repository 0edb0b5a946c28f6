"""``panel serve dashboards/review.py --args ARCHIVE [PORT]``: sends the browser to the review, which has its own log-in."""

import sys

from deepstreaks_dask.apps.review.app import login_link

login_link(*sys.argv[1:3]).servable()
