"""The web server: log-in, roles, the HTTP API and the site that joins the dashboards.

`auth` decides what each user may do; every route is in the table of its test.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
